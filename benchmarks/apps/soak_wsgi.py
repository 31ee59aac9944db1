"""The probe app of the soak: each way an app can answer, and two doors that look into the pool.

``SOAK_ADAPTER`` names the adapter, or says ``none``, and ``SOAK_THREADS`` the number of threads for requests.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import simple_websocket

from benchmarks.soak_terms import (
    BLOCK,
    EVENT_COUNT,
    EVENT_SECONDS,
    HELLO,
    LIST_PARTS,
    MEETING_SECONDS,
    STREAM_PARTS,
    WEBSOCKET_MESSAGES,
    WEBSOCKETS,
)

THREADS = int(os.environ["SOAK_THREADS"])
MEETING = threading.Barrier(THREADS)

Environ = dict[str, Any]
Handler = Callable[[Environ, Any], Iterable[bytes]]


class Account:
    """Requests that are in here, for a server that does not let its pool be seen."""

    lock = threading.Lock()
    busy = 0


@contextlib.contextmanager
def under_way() -> Iterator[None]:
    """Count a request, in its call and, where it is a generator, up to its close."""
    with Account.lock:
        Account.busy += 1
    try:
        yield
    finally:
        with Account.lock:
            Account.busy -= 1


def hello(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Answer a few bytes."""
    return answer(start_response, HELLO)


def stream(environ: Environ, start_response: Any) -> Iterator[bytes]:
    """Yield blocks of undeclared total length."""
    with under_way():
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        for _ in range(STREAM_PARTS):
            yield BLOCK


def events(environ: Environ, start_response: Any) -> Iterator[bytes]:
    """Yield server-sent events with a pause before each."""
    with under_way():
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        for number in range(EVENT_COUNT):
            time.sleep(EVENT_SECONDS)
            yield b"data: %d\n\n" % number


def upload(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Read the body in pieces and answer its length and checksum."""
    read = environ["wsgi.input"].read
    length = checksum = 0
    while piece := read(16_384):
        length += len(piece)
        checksum = zlib.crc32(piece, checksum)
    return answer(start_response, b"%d %d" % (length, checksum))


def big_list(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Answer a list of 1 MB in all."""
    start_response("200 OK", [("Content-Length", str(LIST_PARTS * len(BLOCK)))])
    return [BLOCK] * LIST_PARTS


def error(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Fail before the answer starts."""
    raise RuntimeError("the probe app fails as it was asked to")


def late_error(environ: Environ, start_response: Any) -> Iterator[bytes]:
    """Fail in the middle of the answer."""
    with under_way():
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        yield BLOCK
        raise RuntimeError("the probe app fails late as it was asked to")


def websocket(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Send messages back until the client leaves, or end it by itself after a few."""
    with contextlib.suppress(simple_websocket.ConnectionClosed, OSError):
        socket = simple_websocket.Server.accept(environ)
        for _ in range(WEBSOCKET_MESSAGES):
            socket.send(socket.receive())
        socket.close()
    return []


def flood(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Send messages until the client leaves."""
    with contextlib.suppress(simple_websocket.ConnectionClosed, OSError):
        socket = simple_websocket.Server.accept(environ)
        while True:
            socket.send(BLOCK)
    return []


def meeting(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Answer once every thread of the pool is in here: none is lost, none is stuck."""
    try:
        MEETING.wait(MEETING_SECONDS)
    except threading.BrokenBarrierError:
        MEETING.reset()
        return answer(start_response, b"broken", "503 Service Unavailable")
    return answer(start_response, b"met")


def account(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Answer what the pool says of itself, or what is counted here where it is not to be seen."""
    pools = [getattr(app, name, None) for name in ("pool", "websocket_pool")]
    states = [pool.snapshot() for pool in pools if hasattr(pool, "snapshot")]
    found = {"busy": Account.busy, "queued": 0}
    if states:
        names = ("busy", "queued", "threads", "idle", "stuck", "served")
        found = {name: sum(getattr(state, name) for state in states) for name in names}
    return answer(start_response, json.dumps(found).encode("ascii"))


def answer(start_response: Any, body: bytes, status: str = "200 OK") -> Iterable[bytes]:
    """Start a response of known length and return its body."""
    start_response(status, [("Content-Length", str(len(body)))])
    return [body]


HANDLERS: dict[str, Handler] = {
    "/hello": hello,
    "/stream": stream,
    "/events": events,
    "/upload": upload,
    "/list": big_list,
    "/error": error,
    "/late-error": late_error,
    "/websocket": websocket,
    "/flood": flood,
    "/meeting": meeting,
    "/account": account,
}


def probe(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Pass the request to the handler of its path."""
    handler = HANDLERS.get(environ["PATH_INFO"])
    if handler is None:
        return answer(start_response, b"no such path", "404 Not Found")
    with under_way():
        return handler(environ, start_response)


def alone() -> Any:
    """Leave the probe as it is, for a server that takes it so."""
    return probe


def with_bridges() -> Any:
    """Wrap the probe in `bridges.WSGIToASGI`."""
    from bridges import WSGIToASGI

    return WSGIToASGI(probe, max_threads=THREADS, websocket=True, max_websockets=WEBSOCKETS)


def with_a2wsgi() -> Any:
    """Wrap the probe in a2wsgi's middleware, to see what the soak says of a peer."""
    from a2wsgi import WSGIMiddleware

    return WSGIMiddleware(probe, workers=THREADS)


ADAPTERS = {"bridges": with_bridges, "a2wsgi": with_a2wsgi, "none": alone}
app = ADAPTERS[os.environ["SOAK_ADAPTER"]]()
