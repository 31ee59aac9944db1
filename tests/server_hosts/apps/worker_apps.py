"""Applications of both kinds that say which process they are in, and do what a worker's life is tested with."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

from journal import STATE, note, released, released_here

import bridges

# Longer than any test waits.
BLOCKED_SECONDS = 30.0
# Longer than the worker may be silent in the test of it.
BUSY_SECONDS = 2.5

note("import", os.getpid())


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    note("lifespan", ["startup", os.getpid()])
    if (STATE / "startup-fails").exists():
        raise RuntimeError("meant: the startup fails")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    note("lifespan", ["shutdown", os.getpid()])
    await send({"type": "lifespan.shutdown.complete"})


async def modern(scope: Any, receive: Any, send: Any) -> None:
    """Be an ASGI application."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    if scope["path"] == "/block":
        note("blocks", os.getpid())
        time.sleep(BLOCKED_SECONDS)
    headers = [(b"x-process", str(os.getpid()).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/events":
        await send({"type": "http.response.body", "body": b"one\n\n", "more_body": True})
        await released(parse_qs(scope["query_string"].decode())["key"][0])
        await send({"type": "http.response.body", "body": b"two\n\n"})
    else:
        await send({"type": "http.response.body", "body": b"hello"})


def legacy(environ: Any, start_response: Any) -> Iterator[bytes]:
    """Be a WSGI application."""
    start_response("200 OK", [("X-Process", str(os.getpid()))])
    if environ["PATH_INFO"] == "/events":
        yield b"one\n\n"
        released_here(parse_qs(environ["QUERY_STRING"])["key"][0])
        yield b"two\n\n"
    elif environ["PATH_INFO"] == "/busy":
        time.sleep(BUSY_SECONDS)
        yield b"hello"
    else:
        yield b"hello"


class Mounted:
    """A WSGI application with an ASGI application in it."""

    def __init__(self) -> None:
        self.inner = bridges.ASGIToWSGI(modern)

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return self.inner(environ, start_response)


mounted = Mounted()


def create_app() -> Any:
    """Make an application, as ``worker_apps:create_app()`` asks for."""
    return modern


def unclear(*words: Any) -> Any:
    """Be something of no kind that could be told."""
    return words
