"""Flask-Sock, simple-websocket and Flask-SocketIO as their documentation has them, and as an ASGI application."""

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


@socketio.on("shout")
def shout(data):
    emit("heard", data.upper(), broadcast=True)


asgi = WSGIToASGI(app, websocket=True)
