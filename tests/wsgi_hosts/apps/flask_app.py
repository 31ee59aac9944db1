"""The FastAPI application under /api of a Flask application."""

from __future__ import annotations

from fastapi_app import app as api
from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware

flask = Flask(__name__)


@flask.get("/")
def home() -> str:
    return "old"


flask.wsgi_app = DispatcherMiddleware(flask.wsgi_app, {"/api": api})  # type: ignore[method-assign]  # Flask's own way
app = flask
