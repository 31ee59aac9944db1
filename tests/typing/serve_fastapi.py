"""Read by type checkers only: a FastAPI app on WSGI servers, and misuse of ASGIToWSGI that is refused [FR 125]."""

import asyncio
from collections.abc import Iterable
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from fastapi import FastAPI
from flask import Flask
from starlette.types import ASGIApp, Receive, Scope, Send
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from bridges import ASGIToWSGI, WSGIToASGI
from bridges.errors import CrossingError, LifespanFailed
from bridges.gunicorn import post_worker_init, worker_exit

application = ASGIToWSGI(FastAPI(), lifespan="on", root_path="/api", shutdown_seconds=5)
as_wsgi: WSGIApplication = application

with make_server("127.0.0.1", 8000, application) as server:
    server.handle_request()


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    """Look like an app written with Starlette's types."""


on_trio = ASGIToWSGI(plain, backend="trio")
on_a_loop_of_its_own = ASGIToWSGI(plain, loop_factory=asyncio.new_event_loop)
flask_app = Flask(__name__)
dispatched = DispatcherMiddleware(flask_app, {"/api": application})
there_and_back: ASGIApp = WSGIToASGI(ASGIToWSGI(plain))


def start() -> None:
    """Start and close by hand, or by gunicorn's hooks."""
    try:
        application.start()
    except (LifespanFailed, CrossingError) as error:
        failed: Exception = error
        raise failed from None
    application.close()
    post_worker_init(object())
    worker_exit(object(), object())


def wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as PEP 3333 has it: no ASGI app."""
    return [b""]


ASGIToWSGI(wsgi)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ASGIToWSGI(plain, backend="curio")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ASGIToWSGI(plain, lifespan="perhaps")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
