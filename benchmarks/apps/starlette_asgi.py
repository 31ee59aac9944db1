"""The smallest Starlette app, for what a framework's own work leaves visible of the server."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks.apps import sizes


async def hello(request: Request) -> PlainTextResponse:
    """Answer the same bytes as the bare apps."""
    return PlainTextResponse(sizes.HELLO)


app = Starlette(routes=[Route("/", hello)])
