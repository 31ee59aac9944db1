"""An ASGI application's websockets work on every WSGI server that gives its socket away."""

from __future__ import annotations

from hostkit.websockets import *  # noqa: F403 -- its checks are this module's

APPS = ("websocket",)
