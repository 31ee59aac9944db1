"""A Flask application with a websocket by Flask-Sock, as under any WSGI server; served through the bridge."""

from __future__ import annotations

import json
import os
from pathlib import Path

import simple_websocket
from flask import Flask
from flask_sock import Sock

from bridges import WSGIToASGI

flask_app = Flask(__name__)
flask_app.config["SOCK_SERVER_OPTIONS"] = {"subprotocols": ["chat"]}
sock = Sock(flask_app)


@flask_app.get("/")
def index() -> str:
    return "hello"


@sock.route("/ws")
def talk(ws: simple_websocket.Server) -> None:
    try:
        for message in iter(ws.receive, None):
            if message == "close":
                ws.close(4001, "bye")
                return
            if message == "fail":
                raise ValueError("on purpose")
            for answer in ("0", "1", "2") if message == "count" else (message,):
                ws.send(answer)
    except simple_websocket.ConnectionClosed as closed:
        with (Path(os.environ["HOSTS_STATE"]) / "journal.jsonl").open("a") as journal:
            journal.write(json.dumps(["end", int(closed.reason)]) + "\n")
        raise


app = WSGIToASGI(flask_app, websocket=True)
