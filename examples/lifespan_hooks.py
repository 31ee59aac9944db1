"""Open and close what an application needs, with the server. Needs uvicorn and httpx.

What it shows: `startup` runs before the first request, `shutdown` after the last, each in a
thread of the pool; `on_thread_exit` runs in a thread that ends, to close what is thread-local.

Command: python examples/lifespan_hooks.py

Expected output:

    startup, in a pool thread
    GET / 200 connection of this thread: open
    shutdown, in a pool thread
    connection of the thread closed
"""

import threading

import httpx
from local_server import serving

from bridges import ThreadPool, WSGIToASGI

local = threading.local()


def where():
    pooled = threading.current_thread().name.startswith("bridges-worker")
    return "in a pool thread" if pooled else "elsewhere"


def startup():
    print(f"startup, {where()}")


def shutdown():
    print(f"shutdown, {where()}")


def close_connection():
    if getattr(local, "connection", None):
        print("connection of the thread closed")


def application(environ, start_response):
    local.connection = "open"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"connection of this thread: {local.connection}".encode()]


pool = ThreadPool(max_threads=4, on_thread_exit=close_connection)
app = WSGIToASGI(application, pool=pool, startup=startup, shutdown=shutdown)


if __name__ == "__main__":
    with serving(app) as url:
        response = httpx.get(url)
        print("GET /", response.status_code, response.text)
    pool.shutdown()
