"""A Litestar application with the Flask application as a mounted ASGI handler."""

from __future__ import annotations

from urllib.parse import unquote

from flask_app import bridge
from litestar import Litestar, asgi, get
from litestar.enums import MediaType
from litestar.types import Receive, Scope, Send


@get("/", media_type=MediaType.TEXT)
async def home() -> str:
    return "new"


@asgi("/outer/legacy", is_mount=True, copy_scope=True)
async def legacy(scope: Scope, receive: Receive, send: Send) -> None:
    # Litestar takes the prefix off the path without naming it in root_path, and puts a slash behind
    # every path; raw_path still says what was asked for.
    path = unquote(scope["raw_path"].decode("latin-1").partition("?")[0])
    await bridge({**scope, "root_path": "/outer/legacy", "path": path}, receive, send)


app = Litestar(route_handlers=[home, legacy], openapi_config=None)
