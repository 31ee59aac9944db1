"""Applications whose websockets echo, by several frameworks; ``/`` answers a plain request."""

from __future__ import annotations

import os
from typing import Any

from adapter import adapt
from journal import note


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """Echo, and note how each websocket ends."""
    assert scope["type"] != "lifespan", "this application has none"
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
        return
    await receive()
    if scope["path"] == "/none":
        await send({"type": "websocket.close"})
        return
    chosen = "chat" if "chat" in scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "bye"})
        elif message.get("text") == "fail":
            raise ValueError("on purpose")
        elif message.get("text") == "count":
            for number in range(3):
                await send({"type": "websocket.send", "text": str(number)})
        else:
            await send({**message, "type": "websocket.send"})
    note("end", message["code"])


def fastapi_app() -> Any:
    from fastapi import FastAPI, WebSocket

    app = FastAPI()

    @app.get("/")
    async def index() -> str:
        return "hello"

    async def ws(websocket: Any) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    ws.__annotations__["websocket"] = WebSocket  # which FastAPI could not find by its name in here
    app.websocket("/ws")(ws)
    return app


def starlette_app() -> Any:
    from starlette.applications import Starlette
    from starlette.endpoints import WebSocketEndpoint
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route, WebSocketRoute

    class Echo(WebSocketEndpoint):
        encoding = "text"

        async def on_receive(self, websocket: Any, data: str) -> None:
            await websocket.send_text(data)

    index = PlainTextResponse("hello")
    return Starlette(routes=[Route("/", lambda request: index), WebSocketRoute("/ws", Echo)])


def quart_app() -> Any:
    from quart import Quart, websocket

    app = Quart(__name__)

    @app.get("/")
    async def index() -> str:
        return "hello"

    @app.websocket("/ws")
    async def ws() -> None:
        while True:
            await websocket.send(await websocket.receive())

    return app


def litestar_app() -> Any:
    from litestar import Litestar, get, websocket_listener

    @get("/")
    async def index() -> str:
        return "hello"

    @websocket_listener("/ws")
    async def ws(data: str) -> str:
        return data

    return Litestar([index, ws])


def channels_app() -> Any:
    import django
    from channels.db import database_sync_to_async
    from channels.generic.websocket import AsyncWebsocketConsumer
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse
    from django.urls import path

    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        ROOT_URLCONF=type(
            "urls", (), {"urlpatterns": [path("", lambda request: HttpResponse(b"hello"))]}
        ),
        SECRET_KEY="secret",
    )
    django.setup()

    def ask() -> int:
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return int(cursor.fetchone()[0])

    class Echo(AsyncWebsocketConsumer):
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            assert await database_sync_to_async(ask)() == 1
            await self.send(text_data=text_data)

    return ProtocolTypeRouter(
        {
            "http": get_asgi_application(),
            "websocket": URLRouter([path("ws", Echo.as_asgi())]),
        }
    )


def socketio_app() -> Any:
    import socketio

    server = socketio.AsyncServer(async_mode="asgi")

    @server.event
    async def echo(sid: str, data: Any) -> Any:
        return data

    return socketio.ASGIApp(server, other_asgi_app=plain)


MAKERS = {
    "FastAPI": fastapi_app,
    "Starlette": starlette_app,
    "Quart": quart_app,
    "Litestar": litestar_app,
    "Channels": channels_app,
    "Socket.IO": socketio_app,
}

application = adapt(
    MAKERS.get(os.environ.get("WEBSOCKET_APP", ""), lambda: plain)(),
    websocket_max_bytes=2_000_000,
)
