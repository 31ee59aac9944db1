"""The application that the Autobahn TestSuite talks to: it sends back each message as it came."""

from __future__ import annotations

from typing import Any

from bridges import ASGIToWSGI


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Echo on a websocket; anything else is answered with 426."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 426, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        kind = "text" if message.get("text") is not None else "bytes"
        await send({"type": "websocket.send", kind: message[kind]})


application = ASGIToWSGI(app, lifespan="off", websocket_max_bytes=67_108_864)
