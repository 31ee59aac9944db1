r"""Read an upload while it arrives. Needs uvicorn and httpx.

What it shows: `wsgi.input` is a file object over the live request: the application reads the
first part while the client still holds back the rest, and a large body is never held as a whole.

Command: python examples/upload_streaming.py

Expected output:

    application: read the first line: b'first\n'
    client: the application has it, sending the rest
    application: 33,554,432 more bytes
    client: 200, the same SHA-256
"""

import hashlib
import threading

import httpx
from local_server import serving

from bridges import WSGIToASGI

BLOCK = bytes(1_048_576)
first_line_read = threading.Event()


def application(environ, start_response):
    body = environ["wsgi.input"]
    first = body.readline()
    print(f"application: read the first line: {first!r}")
    first_line_read.set()
    digest, size = hashlib.sha256(first), 0
    while block := body.read(65_536):
        digest.update(block)
        size += len(block)
    print(f"application: {size:,} more bytes")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [digest.hexdigest().encode()]


def parts():
    yield b"first\n"
    first_line_read.wait(10)
    print("client: the application has it, sending the rest")
    for _ in range(32):
        yield BLOCK


if __name__ == "__main__":
    with serving(WSGIToASGI(application)) as url:
        response = httpx.post(url, content=parts(), timeout=30)
    same = response.text == hashlib.sha256(b"first\n" + BLOCK * 32).hexdigest()
    print(f"client: {response.status_code}, {'the same' if same else 'another'} SHA-256")
