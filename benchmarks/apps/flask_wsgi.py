"""The smallest Flask app, for what a framework's own work leaves visible of the adapter."""

from __future__ import annotations

from flask import Flask

from benchmarks.apps import sizes

app = Flask(__name__)


@app.get("/")
def hello() -> str:
    """Answer the same bytes as the bare apps."""
    return sizes.HELLO.decode("ascii")
