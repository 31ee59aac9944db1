"""A Flask-Sock application's websockets work on every ASGI server."""

from __future__ import annotations

from hostkit.websockets import *  # noqa: F403 -- its checks are this module's

APPS = ("websocket",)
