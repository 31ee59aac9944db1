"""Two nested Starlette mounts, the inner one holding the Flask application."""

from __future__ import annotations

from flask_app import bridge
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route


async def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse("new")


inner = Starlette(routes=[Mount("/legacy", app=bridge)])
app = Starlette(routes=[Route("/", home), Mount("/outer", app=inner)])
