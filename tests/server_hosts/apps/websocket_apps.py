"""Flask-Sock, simple-websocket and Flask-SocketIO as their documentation has them, and as an ASGI application.

The routes below ``/gevent`` use ``wsgi.websocket`` as applications for gevent-websocket do.
"""

from __future__ import annotations

import threading

import simple_websocket
from flask import Flask, request
from flask_sock import Sock
from flask_socketio import SocketIO, emit

from bridges import WSGIToASGI

app = Flask(__name__)
app.config["SOCK_SERVER_OPTIONS"] = {"subprotocols": ["chat"], "ping_interval": 5}
sock = Sock(app)
socketio = SocketIO(app, async_mode="threading", cors_allowed_origins="*")
room: set[simple_websocket.Server] = set()
handlers: set[int] = set()


@app.route("/")
def home():
    return "home"


@app.route("/handlers")
def count():
    return str(len(handlers))


@sock.route("/echo")
def echo(ws):
    handlers.add(threading.get_ident())
    try:
        while True:
            ws.send(ws.receive())
    finally:
        handlers.discard(threading.get_ident())


@sock.route("/room")
def talk(ws):
    room.add(ws)
    try:
        ws.send("welcome")
        while True:
            message = ws.receive()
            for each in list(room):
                each.send(message)
    finally:
        room.discard(ws)


@sock.route("/bye")
def bye(ws):
    ws.close(4001, "bye")


@sock.route("/codes")
def codes(ws):
    try:
        ws.receive()
    except simple_websocket.ConnectionClosed as closed:
        app.config["LAST_CODE"] = f"{int(closed.reason)} {closed.message}"
        raise


@app.route("/last-code")
def last_code():
    return app.config.get("LAST_CODE", "")


@app.route("/simple", websocket=True)
def simple():
    ws = simple_websocket.Server.accept(request.environ)
    ws.send("simple " + ws.receive())
    ws.close()
    return ""


@app.route("/gevent/<what>", websocket=True)
def for_gevent_websocket(what):
    ws = request.environ.get("wsgi.websocket")
    if ws is None or what not in OBJECT_HANDLERS:
        return "no such room", 404
    handlers.add(threading.get_ident())
    try:
        OBJECT_HANDLERS[what](ws)
    finally:
        handlers.discard(threading.get_ident())
    return ""


def object_echo(ws):
    while not ws.closed:
        message = ws.receive()
        if message is None:
            break
        ws.send(message)
    app.config["LAST_CODE"] = "None"


def object_bye(ws):
    ws.close(4001, "bye")
    try:
        ws.send("more")
    except OSError as error:
        app.config["LAST_CODE"] = type(error).__name__


def object_room(ws):
    objects.add(ws)
    try:
        ws.send("welcome")
        while (message := ws.receive()) is not None:
            for each in list(objects):
                each.send(message)
    finally:
        objects.discard(ws)


def object_fail(ws):
    ws.send("soon")
    raise ValueError("of the application")


def object_clock(ws):
    """Send from a thread of its own, until its client has left, and only look at ``closed`` here."""

    def tick():
        try:
            while True:
                ws.send(b"tick" * 10_000)
        except OSError:
            stopped.set()

    stopped = threading.Event()
    threading.Thread(target=tick).start()
    stopped.wait(30)
    app.config["LAST_CODE"] = f"closed {ws.closed}"


objects = set()
OBJECT_HANDLERS = {
    "echo": object_echo,
    "bye": object_bye,
    "room": object_room,
    "fail": object_fail,
    "clock": object_clock,
}


@socketio.on("shout")
def shout(data):
    emit("heard", data.upper(), broadcast=True)


asgi = WSGIToASGI(app, websocket=True)
