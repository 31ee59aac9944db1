"""An application of either kind whose websockets do what their path says, and that keeps account of how each ends.

``/flood`` sends for as long as it can, ``/farewell`` closes at once, any other path echoes. ``/account`` gives it as
JSON, with a query after a collection of garbage.
"""

from __future__ import annotations

import collections
import gc
import json
import os
import threading
from typing import Any

import simple_websocket
from flask import Flask, request
from flask_sock import Sock

from bridges import ASGIToWSGI, WSGIToASGI

MESSAGE = b"x" * 16_384
FAREWELL = 4001
THREADS = 64


class Account:
    """Websockets by path: those that began, and those that ended, by the code that the application was told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: collections.Counter[str] = collections.Counter()
        self._ended: dict[str, collections.Counter[str]] = {}
        self._sent = 0

    def begin(self, path: str) -> None:
        with self._lock:
            self._begun[path] += 1

    def end(self, path: str, code: object) -> None:
        with self._lock:
            self._ended.setdefault(path, collections.Counter())[str(code)] += 1

    def sent_one(self) -> None:
        with self._lock:
            self._sent += 1

    def text(self) -> str:
        with self._lock:
            found = {"begun": self._begun, "ended": self._ended, "sent": self._sent}
            return json.dumps({**found, "process": os.getpid()})


account = Account()


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": account.text().encode()})
        return
    path = scope["path"][1:]
    account.begin(path)
    code: object = "no end"
    try:
        code = await _talk(path, receive, send)
    finally:
        account.end(path, code)


async def _talk(path: str, receive: Any, send: Any) -> Any:
    assert (await receive())["type"] == "websocket.connect"
    message: Any = {"type": "websocket.receive"}
    try:
        await send({"type": "websocket.accept"})
        if path == "farewell":
            await send({"type": "websocket.close", "code": FAREWELL})
        while path == "flood":
            await send({"type": "websocket.send", "bytes": MESSAGE})
            account.sent_one()
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
    except OSError:
        while message["type"] == "websocket.receive":
            message = await receive()
    return message["code"]


wsgi = Flask(__name__)
sock = Sock(wsgi)


@wsgi.route("/account")
def tell() -> str:
    if request.query_string:
        gc.collect()
    return account.text()


@sock.route("/<point>")
def talk(ws: simple_websocket.Server, point: str) -> None:
    account.begin(point)
    code: object = "no end"
    try:
        if point == "farewell":
            ws.close(FAREWELL)
            code = FAREWELL
            return
        while point == "flood":
            ws.send(MESSAGE)
            account.sent_one()
        while True:
            ws.send(ws.receive())
    except simple_websocket.ConnectionClosed as closed:
        code = int(closed.reason)
        raise
    except OSError:
        code = _last_word(ws)
    finally:
        account.end(point, code)


def _last_word(ws: simple_websocket.Server) -> object:
    """Receive what is left, to its end; gives the code."""
    try:
        while True:
            ws.receive()
    except simple_websocket.ConnectionClosed as closed:
        return int(closed.reason)


def _seconds(name: str, default: float) -> float:
    return float(os.environ.get(f"BRIDGES_WEBSOCKET_{name}_SECONDS", default))


asgi_for_wsgi = ASGIToWSGI(
    asgi,
    lifespan="off",
    websocket_ping_seconds=_seconds("PING", 20.0),
    websocket_pong_seconds=_seconds("PONG", 20.0),
    websocket_close_seconds=_seconds("CLOSE", 10.0),
)
wsgi_for_asgi = WSGIToASGI(wsgi, max_threads=1, websocket=True, max_websockets=THREADS)
