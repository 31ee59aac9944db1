"""The chat with Flask-Sock: one thread reads from a window, another writes to it.

``app`` is for WSGI servers that give their socket, ``asgi`` for ASGI servers.
"""

import contextlib
import queue
import socket
import threading

from flask import Flask, request
from flask.wrappers import Response
from flask_sock import Sock
from simple_websocket import ConnectionClosed, Server

from bridges import WSGIToASGI

from . import rooms as wire
from .rooms import MOST_WAITING, Rooms

app = Flask(__name__)
# Finds clients that are gone without a word, and refuses what no window of ours sends.
app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": 25, "max_message_size": 16_384}
sock = Sock(app)


class Member:
    """One window: what is to be sent to it waits here for a thread of its own, so that nobody waits for it."""

    def __init__(self, websocket: Server) -> None:
        self.websocket = websocket
        self.inbox: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.writing = threading.Thread(target=self.write, name="chat-writer", daemon=True)
        self.writing.start()

    def tell(self, text: str) -> None:
        if self.inbox.qsize() < MOST_WAITING:
            self.inbox.put(text)
        else:
            self.send_away()

    def write(self) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            while (text := self.inbox.get()) is not None:
                self.websocket.send(text)
            self.websocket.close(wire.SERVICE_RESTART, "the server restarts")

    def send_away(self) -> None:
        """Wake both threads of a window that does not read; simple-websocket takes it for gone."""
        with contextlib.suppress(OSError):
            self.websocket.sock.shutdown(socket.SHUT_RDWR)


rooms: Rooms[Member] = Rooms()
lock = threading.Lock()


def tell(room: str, text: str) -> None:
    with lock:
        members = rooms.members(room)
    for member in members:
        member.tell(text)


def announce(room: str, name: str, what: str) -> None:
    with lock:
        names = rooms.names(room)
    tell(room, wire.presence(names, name, what))


@sock.route("/talk")  # type: ignore[untyped-decorator]  # the package is not typed
def talk(websocket: Server) -> None:
    """Serve one window, until it leaves or has not read for too long; Flask-Sock expects `ConnectionClosed`."""
    room, wish = wire.place(request.args)
    member = Member(websocket)
    with lock:
        name = rooms.enter(room, wish, member)
    member.tell(wire.welcome(name, "Flask-Sock", threading.current_thread().name))
    announce(room, name, "joined")
    try:
        while True:
            if text := wire.said(websocket.receive()):
                tell(room, wire.message(name, text))
    finally:
        with lock:
            rooms.leave(room, member)
        announce(room, name, "left")
        member.inbox.put(None)


def close_all() -> None:
    """Tell every window that the server restarts."""
    with lock:
        members = rooms.everybody()
    for member in members:
        member.inbox.put(None)


@app.get("/")
def page() -> Response:
    return app.send_static_file("chat.html")


asgi = WSGIToASGI(app, websocket=True)
