"""A small Starlette application."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from adapter import adapt
from journal import note, released
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
    yield {"pool": "opened"}
    note("lifespan", "shutdown")


async def home(request: Request) -> Response:
    return PlainTextResponse("home")


async def hello(request: Request) -> Response:
    return JSONResponse({"name": request.path_params["name"], "self": request.url.path})


async def go(request: Request) -> Response:
    return RedirectResponse("/hello/there")


async def form(request: Request) -> Response:
    async with request.form() as sent:
        return JSONResponse({"text": sent["text"]})


async def upload(request: Request) -> Response:
    async with request.form() as sent:
        file: Any = sent["file"]
        data = await file.read()
    sha = hashlib.sha256(data).hexdigest()
    return JSONResponse({"name": file.filename, "size": len(data), "sha256": sha})


async def json(request: Request) -> Response:
    return JSONResponse(await request.json())


async def rows(request: Request) -> Response:
    async def lines() -> AsyncIterator[str]:
        for number in range(2000):
            yield f"{number}\n"

    return StreamingResponse(lines())


async def count(request: Request) -> Response:
    number = int(request.cookies.get("count", "0")) + 1
    response = JSONResponse({"count": number})
    response.set_cookie("count", str(number))
    return response


async def state(request: Request) -> Response:
    return JSONResponse(request.state.pool)


async def events(request: Request) -> Response:
    async def stream() -> AsyncIterator[str]:
        yield "data: one\n\n"
        await released(request.query_params["key"])
        yield "data: two\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


async def background(request: Request) -> Response:
    async def work(key: str) -> None:
        await released(key)
        note(key, "done")

    task = BackgroundTask(work, request.query_params["key"])
    return PlainTextResponse("accepted", background=task)


async def refuse(request: Request) -> Response:
    raise HTTPException(403)


async def crash(request: Request) -> Response:
    raise RuntimeError("meant: an error in an endpoint")


ROUTES = [
    Route("/", home),
    Route("/hello/{name}", hello),
    Route("/go", go),
    Route("/form", form, methods=["POST"]),
    Route("/upload", upload, methods=["POST"]),
    Route("/json", json, methods=["POST"]),
    Route("/rows", rows),
    Route("/count", count),
    Route("/state", state),
    Route("/events", events),
    Route("/background", background),
    Route("/refuse", refuse),
    Route("/crash", crash),
]
app = adapt(Starlette(routes=ROUTES, lifespan=lifespan))
