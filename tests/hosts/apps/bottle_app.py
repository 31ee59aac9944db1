"""A small Bottle application."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import bottle
from bottle import Bottle, request, response

from bridges import WSGIToASGI

legacy = Bottle()


@legacy.get("/")
def home() -> str:
    return "home"


@legacy.get("/hello/<name>", name="hello")
def hello(name: str) -> dict[str, Any]:
    # Bottle gives the native string of the path: bytes in latin-1, to be read as UTF-8.
    return {"name": name, "self": legacy.get_url("hello", name=name)}


@legacy.get("/go")
def go() -> None:
    bottle.redirect("/hello/there", 303)


@legacy.post("/form")
def form() -> dict[str, Any]:
    return {"text": request.forms.getunicode("text")}


@legacy.post("/upload")
def upload() -> dict[str, Any]:
    file = request.files.get("file")
    content = file.file.read()
    sha = hashlib.sha256(content).hexdigest()
    return {"name": file.raw_filename, "size": len(content), "sha256": sha}


@legacy.post("/json")
def echo_json() -> Any:
    return request.json


@legacy.get("/rows")
def rows() -> Iterator[bytes]:
    response.content_type = "text/plain"
    for number in range(2000):
        yield b"%d\n" % number


@legacy.get("/count")
def count() -> dict[str, int]:
    seen = int(request.get_cookie("count", secret="tests only") or 0) + 1
    response.set_cookie("count", str(seen), secret="tests only")
    return {"count": seen}


@legacy.get("/crash")
def crash() -> None:
    raise RuntimeError("meant: Bottle makes its own error page")


@legacy.get("/refuse")
def refuse() -> None:
    bottle.abort(403)


app = WSGIToASGI(legacy)
