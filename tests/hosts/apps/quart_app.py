"""A Quart application beside the Flask application, under hypercorn's dispatcher."""

from __future__ import annotations

from flask_app import bridge
from hypercorn.middleware.dispatcher import AsyncioDispatcherMiddleware
from quart import Quart

new = Quart("new")


@new.route("/")
async def home() -> str:
    return "new"


app = AsyncioDispatcherMiddleware({"/outer/legacy": bridge, "": new})
