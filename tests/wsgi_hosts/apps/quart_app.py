"""A small Quart application."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

from adapter import adapt
from journal import note, released
from quart import Quart, Response, abort, current_app, jsonify, redirect, request, url_for

quart = Quart(__name__)


@quart.before_serving
async def begin() -> None:
    quart.config["POOL"] = "opened"


@quart.after_serving
async def end() -> None:
    note("lifespan", "shutdown")


@quart.get("/")
async def home() -> str:
    return "home"


@quart.get("/hello/<name>")
async def hello(name: str) -> dict[str, str]:
    return {"name": name, "self": url_for("hello", name=name)}


@quart.get("/go")
async def go() -> Any:
    return redirect(url_for("hello", name="there"))


@quart.post("/form")
async def form() -> dict[str, str]:
    return {"text": (await request.form)["text"]}


@quart.post("/upload")
async def upload() -> dict[str, Any]:
    file = (await request.files)["file"]
    data = file.read()
    sha = hashlib.sha256(data).hexdigest()
    return {"name": file.filename, "size": len(data), "sha256": sha}


@quart.post("/json")
async def json() -> Any:
    return jsonify(await request.get_json())


@quart.get("/rows")
async def rows() -> Response:
    async def lines() -> AsyncIterator[bytes]:
        for number in range(2000):
            yield b"%d\n" % number

    return Response(lines(), mimetype="text/plain")


@quart.get("/count")
async def count() -> Response:
    number = int(request.cookies.get("count", "0")) + 1
    response = jsonify({"count": number})
    response.set_cookie("count", str(number))
    return response


@quart.get("/state")
async def state() -> Any:
    return jsonify(current_app.config["POOL"])


@quart.get("/events")
async def events() -> Response:
    key = request.args["key"]

    async def stream() -> AsyncIterator[bytes]:
        yield b"data: one\n\n"
        await released(key)
        yield b"data: two\n\n"

    response = Response(stream(), mimetype="text/event-stream")
    response.timeout = None
    return response


@quart.get("/background")
async def background() -> str:
    async def work(key: str) -> None:
        await released(key)
        note(key, "done")

    quart.add_background_task(work, request.args["key"])
    return "accepted"


@quart.get("/refuse")
async def refuse() -> None:
    abort(403)


@quart.get("/crash")
async def crash() -> None:
    raise RuntimeError("meant: an error in an endpoint")


app = adapt(quart)
