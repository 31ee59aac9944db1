"""Send server-sent events, and stop when the client has left. Needs uvicorn and httpx.

What it shows: each event leaves at once; `environ["bridges.client_disconnected"]` tells an
application that has nothing to send that nobody listens any more; `close()` always runs.

Command: python examples/server_sent_events.py

Expected output:

    client: data: tick 1
    client: data: tick 2
    client: data: tick 3
    client: leaves
    application: the client has left
    application: closed
"""

import threading
import time

import httpx
from local_server import serving

from bridges import WSGIToASGI

closed = threading.Event()


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return ticks(environ["bridges.client_disconnected"])


def ticks(client_disconnected):
    try:
        for number in (1, 2, 3):
            yield f"data: tick {number}\n\n".encode()
        # Nothing more to tell, so no write would fail: ask instead.
        while not client_disconnected():
            time.sleep(0.05)
        print("application: the client has left")
    finally:
        print("application: closed")
        closed.set()


if __name__ == "__main__":
    with serving(WSGIToASGI(application)) as url, httpx.stream("GET", url) as response:
        lines = (line for line in response.iter_lines() if line)
        for _ in range(3):
            print(f"client: {next(lines)}")
        print("client: leaves", flush=True)
        response.close()
        closed.wait(10)
