"""WSGI apps that send each websocket message back: by simple-websocket, Flask-Sock (made of it), or an object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import simple_websocket
from flask import Flask
from flask_sock import Sock


def echo(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Serve the websocket on the socket of gunicorn, which is to write no answer of its own behind it."""
    websocket = simple_websocket.Server.accept(environ)
    try:
        talk(websocket)
    except simple_websocket.ConnectionClosed:
        pass
    raise StopIteration


def talk(websocket: simple_websocket.Server) -> None:
    """Send back what comes, until the client leaves, which is an exception."""
    while True:
        websocket.send(websocket.receive())


def by_object(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Serve the websocket by the object that gevent-websocket and bridges have in the environ."""
    websocket = environ["wsgi.websocket"]
    for message in iter(websocket.receive, None):
        websocket.send(message)
    return []


app = Flask(__name__)
Sock(app).route("/")(talk)
