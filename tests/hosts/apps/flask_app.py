"""A Flask application as they were written in 2012, unchanged; other apps mount it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import flask
from flask import Flask, flash, redirect, request, session, stream_with_context, url_for

from bridges import WSGIToASGI

legacy = Flask("legacy")
legacy.secret_key = "tests only"


@legacy.route("/")
def home() -> str:
    return "home"


@legacy.route("/hello/<name>")
def hello(name: str) -> dict[str, Any]:
    return {"name": name, "self": url_for("hello", name=name), "root": request.root_url}


@legacy.route("/absolute")
def absolute() -> str:
    return url_for("hello", name="x", _external=True)


@legacy.route("/go")
def go() -> Any:
    return redirect(url_for("hello", name="there"))


@legacy.route("/folder/")
def folder() -> str:
    return "folder"


@legacy.route("/count")
def count() -> dict[str, int]:
    session["count"] = session.get("count", 0) + 1
    return {"count": session["count"]}


@legacy.route("/note", methods=["POST"])
def note() -> Any:
    flash(request.form["text"])
    return redirect(url_for("notes"), code=303)


@legacy.route("/notes")
def notes() -> list[str]:
    return flask.get_flashed_messages()


@legacy.route("/upload", methods=["POST"])
def upload() -> dict[str, Any]:
    file = request.files["file"]
    content = file.stream.read()
    sha = hashlib.sha256(content).hexdigest()
    return {"name": file.filename, "size": len(content), "sha256": sha, **request.form}


@legacy.route("/raw", methods=["POST"])
def raw() -> bytes:
    return request.get_data()


@legacy.route("/rows")
def rows() -> flask.Response:
    lines = (f"{number},{number * number}\n" for number in range(2000))
    return flask.Response(lines, mimetype="text/csv")


@legacy.route("/in-context")
def in_context() -> flask.Response:
    @stream_with_context
    def pieces() -> Iterator[str]:
        for name in ("a", "b"):
            yield f"{request.args[name]}:{url_for('hello', name=name)};"

    return flask.Response(pieces())


@legacy.route("/file")
def file() -> flask.Response:
    return flask.send_file(__file__, mimetype="text/x-python", conditional=True)


@legacy.route("/json", methods=["POST"])
def echo_json() -> Any:
    return flask.jsonify(request.get_json())


@legacy.route("/crash")
def crash() -> str:
    raise RuntimeError("meant: Flask makes its own error page")


@legacy.route("/abort")
def refuse() -> str:
    flask.abort(403)


bridge = WSGIToASGI(legacy)
app = bridge
