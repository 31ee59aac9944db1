"""Serve an ASGI application from a WSGI server. Needs httpx.

What it shows: `ASGIToWSGI` around any ASGI callable is a WSGI application; the callable runs on
one event loop, in a thread of its own, whichever thread of the server waits for it.

Command (asks itself and ends):   python examples/hello_asgi_in_wsgi.py
Command (serves until Ctrl-C):    gunicorn --chdir examples hello_asgi_in_wsgi:application

Expected output:

    GET /       200  Hello, world, from the thread bridges-portal
    GET /Ada    200  Hello, Ada, from the thread bridges-portal
"""

import threading

import httpx
from local_wsgi_server import serving_wsgi

from bridges import ASGIToWSGI


async def hello(scope, receive, send):
    """Answer as the ASGI specification says."""
    name = scope["path"].strip("/") or "world"
    text = f"Hello, {name}, from the thread {threading.current_thread().name}"
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


application = ASGIToWSGI(hello, lifespan="off")


if __name__ == "__main__":
    with serving_wsgi(application) as url:
        for path in ("/", "/Ada"):
            response = httpx.get(url + path)
            print(f"GET {path:<7} {response.status_code}  {response.text}")
