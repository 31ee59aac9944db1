"""A FastAPI application with what such applications do all day."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from urllib.parse import quote

import anyio
from adapter import adapt
from fastapi import BackgroundTasks, Depends, FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from journal import note, released
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import Response


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    note("lifespan", "startup")
    # What a task group of the lifespan starts lives as long as the app, in one task.
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        yield {"pool": "opened", "loop": id(asyncio.get_running_loop())}
        group.cancel_scope.cancel()
    note("lifespan", "shutdown")


application = FastAPI(lifespan=lifespan)


class Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-stamp"] = quote(request.url.path)
        return response


application.add_middleware(Stamp)


class Item(BaseModel):
    name: str
    price: float = 1.0


async def session(key: str = "none") -> AsyncIterator[str]:
    try:
        yield "session"
    finally:
        note(f"{key}-session", "closed")


@application.get("/", response_class=PlainTextResponse)
async def home() -> str:
    return "home"


@application.get("/hello/{name}", name="hello")
async def hello(name: str, request: Request) -> dict[str, str]:
    return {"name": name, "self": str(request.url_for("hello", name=name))}


@application.get("/folder/", response_class=PlainTextResponse)
async def folder() -> str:
    return "folder"


@application.get("/def")
def plain() -> dict[str, bool]:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return {"loop": False, "main": threading.current_thread() is threading.main_thread()}
    return {"loop": True}


@application.get("/state")
async def state(request: Request) -> dict[str, Any]:
    same = request.state.loop == id(asyncio.get_running_loop())
    return {"pool": request.state.pool, "same_loop": same}


@application.get("/session")
async def with_session(opened: Annotated[str, Depends(session)]) -> str:
    return opened


@application.get("/session-rows")
async def session_rows(key: str, opened: Annotated[str, Depends(session)]) -> StreamingResponse:
    async def rows() -> AsyncIterator[str]:
        for number in range(2000):
            yield f"{number},{opened}\n"

    return StreamingResponse(rows(), media_type="text/csv")


@application.post("/item")
async def item(item: Item) -> Item:
    return item


@application.post("/upload")
async def upload(file: UploadFile, text: Annotated[str, Form()]) -> dict[str, Any]:
    data = await file.read()
    sha = hashlib.sha256(data).hexdigest()
    return {"name": file.filename, "size": len(data), "sha256": sha, "text": text}


@application.post("/raw")
async def raw(request: Request) -> Response:
    return Response(b"".join([piece async for piece in request.stream()]))


@application.get("/background")
async def background(key: str, tasks: BackgroundTasks) -> str:
    async def work() -> None:
        await released(key)
        note(key, "done")

    tasks.add_task(work)
    return "accepted"


@application.get("/events")
async def events(key: str) -> StreamingResponse:
    async def stream() -> AsyncIterator[str]:
        yield "data: one\n\n"
        await released(key)
        yield "data: two\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


@application.get("/ticks")
async def ticks(key: str, opened: Annotated[str, Depends(session)]) -> StreamingResponse:
    async def stream() -> AsyncIterator[bytes]:
        while True:
            yield b"tick" * 4096

    return StreamingResponse(stream(), media_type="text/event-stream")


@application.get("/file")
async def file() -> FileResponse:
    return FileResponse(__file__)


@application.get("/refuse")
async def refuse() -> None:
    raise HTTPException(403, "no")


@application.get("/crash")
async def crash() -> None:
    raise RuntimeError("meant: an error in an endpoint")


app = adapt(application)
