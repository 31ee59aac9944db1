"""A small Pyramid application."""

from __future__ import annotations

import hashlib
from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden, HTTPSeeOther
from pyramid.request import Request
from pyramid.response import Response
from pyramid.session import SignedCookieSessionFactory

from bridges import WSGIToASGI


def hello(request: Request) -> dict[str, Any]:
    name = request.matchdict["name"]
    return {"name": name, "self": request.route_path("hello", name=name)}


def go(request: Request) -> Response:
    return HTTPSeeOther(request.route_path("hello", name="there"))


def form(request: Request) -> dict[str, Any]:
    return {"text": request.POST["text"]}


def upload(request: Request) -> dict[str, Any]:
    file = request.POST["file"]
    content = file.file.read()
    sha = hashlib.sha256(content).hexdigest()
    return {"name": file.filename, "size": len(content), "sha256": sha}


def echo_json(request: Request) -> Any:
    return request.json_body


def rows(request: Request) -> Response:
    lines = (b"%d\n" % number for number in range(2000))
    return Response(app_iter=lines, content_type="text/plain")


def count(request: Request) -> dict[str, int]:
    request.session["count"] = request.session.get("count", 0) + 1
    return {"count": request.session["count"]}


def crash(request: Request) -> Response:
    raise RuntimeError("meant: nobody in the application catches it")


def refuse(request: Request) -> Response:
    raise HTTPForbidden()


def home(request: Request) -> Response:
    return Response("home")


ROUTES = {
    "home": ("/", home, None),
    "hello": ("/hello/{name}", hello, "json"),
    "go": ("/go", go, None),
    "form": ("/form", form, "json"),
    "upload": ("/upload", upload, "json"),
    "json": ("/json", echo_json, "json"),
    "rows": ("/rows", rows, None),
    "count": ("/count", count, "json"),
    "crash": ("/crash", crash, None),
    "refuse": ("/refuse", refuse, None),
}


def make_app() -> Any:
    with Configurator(session_factory=SignedCookieSessionFactory("tests only")) as config:
        for name, (pattern, view, renderer) in ROUTES.items():
            config.add_route(name, pattern)
            config.add_view(view, route_name=name, renderer=renderer)
        return config.make_wsgi_app()


app = WSGIToASGI(make_app())
