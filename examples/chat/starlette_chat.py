"""The chat with Starlette: one task reads from a window, another writes to it.

``app`` is for ASGI servers and for ``BridgeWorker``, ``application`` for gunicorn's threads.
"""

import asyncio
import contextlib
import threading
from pathlib import Path

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from bridges import ASGIToWSGI

from . import rooms as wire
from .rooms import MOST_WAITING, Rooms

STATIC = Path(__file__).parent / "static"


class Member:
    """One window: what is to be sent to it waits here for a task of its own, so that nobody waits for it."""

    def __init__(self, websocket: WebSocket, scope: anyio.CancelScope) -> None:
        self.websocket = websocket
        self.scope = scope
        self.inbox: asyncio.Queue[str] = asyncio.Queue(MOST_WAITING)

    def tell(self, text: str) -> None:
        try:
            self.inbox.put_nowait(text)
        except asyncio.QueueFull:
            self.scope.cancel()

    async def write(self) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await self.websocket.send_text(await self.inbox.get())


rooms: Rooms[Member] = Rooms()


def tell(room: str, text: str) -> None:
    for member in rooms.members(room):
        member.tell(text)


async def talk(websocket: WebSocket) -> None:
    """Serve one window, until it leaves or has not read for too long."""
    await websocket.accept()
    room, wish = wire.place(websocket.query_params)
    async with anyio.create_task_group() as tasks:
        member = Member(websocket, tasks.cancel_scope)
        tasks.start_soon(member.write)
        name = rooms.enter(room, wish, member)
        member.tell(wire.welcome(name, "Starlette", threading.current_thread().name))
        tell(room, wire.presence(rooms.names(room), name, "joined"))
        try:
            while (event := await websocket.receive())["type"] == "websocket.receive":
                if text := wire.said(event.get("text") or event.get("bytes") or ""):
                    tell(room, wire.message(name, text))
        finally:
            rooms.leave(room, member)
            tell(room, wire.presence(rooms.names(room), name, "left"))
        tasks.cancel_scope.cancel()


async def page(request: Request) -> FileResponse:
    return FileResponse(STATIC / "chat.html")


app = Starlette(
    routes=[
        Route("/", page),
        WebSocketRoute("/talk", talk),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
)
application = ASGIToWSGI(app)
