"""The modern application: asynchronous FastAPI that knows nothing of WSGI, and its adapter for gunicorn."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

from bridges import ASGIToWSGI
from examples.chat import starlette_chat

HERE = Path(__file__).parent
TICK_SECONDS = 0.5
LETTER_SECONDS = 0.5

# Set when the server is asked to stop: streams without an end of their own end then.
stopping = threading.Event()


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Open once in a process what all requests share; gunicorn's hooks begin and end it with the worker."""
    opened = {"opened": time.time(), "by": threading.current_thread().name, "letters": []}
    yield {"shared": opened}
    print("lifespan ended", flush=True)


app = FastAPI(lifespan=lifespan)


@app.get("/", include_in_schema=False)
async def home() -> FileResponse:
    return FileResponse(HERE / "static" / "modern.html")


@app.get("/where")
async def where(request: Request) -> dict[str, Any]:
    """Say what runs where."""
    return {
        "process": os.getpid(),
        "async code": threading.current_thread().name,
        "thread-sensitive code": await sync_to_async(thread_name)(),
        "plain endpoints": await asyncio.to_thread(thread_name),
        "event loop": type(asyncio.get_running_loop()).__qualname__,
        "lifespan begun in": request.state.shared["by"],
        "versions": {name: version(name) for name in ("gunicorn", "fastapi", "starlette")},
    }


def thread_name() -> str:
    return threading.current_thread().name


@app.get("/numbers.csv")
async def numbers(rows: int = 50_000) -> StreamingResponse:
    return StreamingResponse(number_lines(min(rows, 1_000_000)), media_type="text/csv")


async def number_lines(rows: int) -> AsyncIterator[str]:
    yield "number,square\n"
    for first in range(0, rows, 1_000):
        part = range(first, min(first + 1_000, rows))
        yield "".join(f"{number},{number * number}\n" for number in part)


@app.get("/events")
async def events() -> StreamingResponse:
    return StreamingResponse(event_stream(), media_type="text/event-stream")


async def event_stream() -> AsyncIterator[str]:
    """Tell the thread's name, then a tick now and then."""
    yield event("thread", threading.current_thread().name)
    for tick in itertools.count(1):
        if stopping.is_set():
            return
        yield event("tick", tick)
        await asyncio.sleep(TICK_SECONDS)


def event(name: str, data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


@app.post("/upload")
async def upload(request: Request) -> dict[str, Any]:
    digest, size, pieces = hashlib.sha256(), 0, 0
    async for block in request.stream():
        digest.update(block)
        size += len(block)
        pieces += bool(block)
    return {"size": size, "sha256": digest.hexdigest(), "pieces": pieces}


@app.post("/letters", status_code=202)
async def write_letter(text: str, request: Request, tasks: BackgroundTasks) -> dict[str, int]:
    letters = request.state.shared["letters"]
    tasks.add_task(post_letter, letters, text[:200])
    return {"posted so far": len(letters)}


async def post_letter(letters: list[str], text: str) -> None:
    await asyncio.sleep(LETTER_SECONDS)
    letters.append(text)
    del letters[:-20]


@app.get("/letters")
async def read_letters(request: Request) -> list[str]:
    letters: list[str] = request.state.shared["letters"]
    return letters


app.mount("/chat", starlette_chat.app)
app.mount("/static", StaticFiles(directory=HERE / "static"))

application = ASGIToWSGI(app, shutdown_seconds=5)
