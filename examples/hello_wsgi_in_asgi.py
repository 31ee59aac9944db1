"""Serve a WSGI application from an ASGI server. Needs uvicorn and httpx.

What it shows: `WSGIToASGI` around any WSGI callable is an ASGI application; the callable runs in
a thread of the bridge's pool.

Command (asks itself and ends):   python examples/hello_wsgi_in_asgi.py
Command (serves until Ctrl-C):    uvicorn --app-dir examples hello_wsgi_in_asgi:app

Expected output:

    GET /       200  Hello, world, from a thread called bridges-worker
    GET /Ada    200  Hello, Ada, from a thread called bridges-worker
"""

import threading

import httpx
from local_server import serving

from bridges import WSGIToASGI


def hello(environ, start_response):
    """Answer as PEP 3333 says."""
    name = environ["PATH_INFO"].strip("/") or "world"
    thread = threading.current_thread().name.rpartition("-")[0]
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"Hello, {name}, from a thread called {thread}".encode()]


app = WSGIToASGI(hello)


if __name__ == "__main__":
    with serving(app) as url:
        for path in ("/", "/Ada"):
            response = httpx.get(url + path)
            print(f"GET {path:<7} {response.status_code}  {response.text}")
