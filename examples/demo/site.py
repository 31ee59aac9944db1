"""The new application: asynchronous Starlette, with the legacy one mounted under ``/legacy``, and two chats."""

import asyncio
import collections
import contextlib
import dataclasses
import os
import platform
import threading
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path

import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridges import ThreadPool, WSGIToASGI
from examples.chat import flask_chat, starlette_chat
from examples.demo import legacy

HERE = Path(__file__).parent
MAX_THREADS = 8
STARTED = time.monotonic()

pool = ThreadPool(max_threads=MAX_THREADS)
# Where the modern application is; set by the program that starts both.
modern_url: str | None = None


@dataclasses.dataclass
class Entry:
    """One request in the log; `thread` is mended by the legacy application, from its thread."""

    number: int
    method: str
    path: str
    thread: str
    begun: float
    status: int | None = None
    seconds: float | None = None


class RequestLog:
    """Keep the last requests, and tell each response's thread in an ``x-ran-in`` header."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/api/status":
            await self.app(scope, receive, send)
            return
        thread = threading.current_thread().name
        number = entries[-1].number + 1 if entries else 1
        entry = Entry(number, scope["method"], scope["path"], thread, time.monotonic())
        entries.append(entry)

        async def send_noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
                ran_in = (b"x-ran-in", entry.thread.encode("latin-1"))
                message = {**message, "headers": [*message.get("headers", ()), ran_in]}
            await send(message)

        try:
            await self.app({**scope, "demo.entry": entry}, receive, send_noting)
        finally:
            entry.seconds = time.monotonic() - entry.begun


entries: collections.deque[Entry] = collections.deque(maxlen=14)


async def home(request: Request) -> Response:
    return FileResponse(HERE / "static" / "home.html")


async def hello(request: Request) -> Response:
    name = request.query_params.get("name", "world")
    return JSONResponse({"hello": name, "thread": threading.current_thread().name})


async def status(request: Request) -> Response:
    """Say what runs where: figures of the process, the pool and the last requests."""
    loop = type(asyncio.get_running_loop())
    names = sorted(thread.name for thread in threading.enumerate())
    return JSONResponse(
        {
            "process": os.getpid(),
            "uptime": round(time.monotonic() - STARTED, 1),
            "python": platform.python_version(),
            "versions": {
                name: version(name) for name in ("wsgi-asgi-bridges", "starlette", "flask")
            },
            "loop": f"{loop.__module__}.{loop.__qualname__}",
            "loop_thread": threading.current_thread().name,
            "threads": names,
            "max_threads": MAX_THREADS,
            "modern": modern_url,
            "pool": dataclasses.asdict(pool.snapshot()),
            "requests": [dataclasses.asdict(entry) for entry in entries],
        }
    )


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Drain the pool when the server stops: Starlette tells mounted applications nothing of it."""
    yield
    await anyio.to_thread.run_sync(pool.shutdown, 5.0)


app = Starlette(
    routes=[
        Route("/", home),
        Route("/api/hello", hello),
        Route("/api/status", status),
        Mount("/static", StaticFiles(directory=HERE / "static")),
        Mount("/legacy", WSGIToASGI(legacy.app, pool=pool)),
        Mount("/chat/starlette", starlette_chat.app),
        Mount("/chat/flask", WSGIToASGI(flask_chat.app, pool=pool, websocket=True)),
    ],
    middleware=[Middleware(RequestLog)],
    lifespan=lifespan,
)
