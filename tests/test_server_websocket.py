"""Websockets of the server, with a real client: accept, echo, both ends of the close, refusals, limits, the stop."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from server_driver import connected, serving
from websocket_tools import BINARY, frame
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bridges import Server
from bridges.typing import Receive, Scope, Send

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

# The last event that each application got.
ENDS: asyncio.Queue[dict[str, Any]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Do what the path says."""
    assert scope["type"] == "websocket"
    assert (await receive())["type"] == "websocket.connect"
    path = scope["path"]
    if path == "/refuse":
        await send({"type": "websocket.close"})
    elif path == "/denial":
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"n", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"o"})
    elif path == "/fail":
        raise ValueError("before it accepts")
    elif path == "/silent":
        return
    else:
        await send(
            {"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)}
        )
        if path == "/fail-later":
            raise ValueError("after it accepted")
        await echo(receive, send)


async def echo(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "bye"})
        elif message.get("text") == "return":
            return
        else:
            data = {key: message.get(key) for key in ("text", "bytes")}
            await send({"type": "websocket.send", **data})
    ENDS.put_nowait(dict(message))


@pytest.fixture(autouse=True)
def ends() -> None:
    """Begin with none."""
    global ENDS
    ENDS = asyncio.Queue()


def url(server: Server, path: str = "/") -> str:
    return f"ws://127.0.0.1:{server.port}{path}"


@pytest.mark.spec("RFC 6455", "section 5")
async def test_messages_come_back(anyio_backend: Any) -> None:
    """Short and long, text and bytes, compressed or not, with pings between."""
    async with serving(app, lifespan="off") as server:
        for compression in ("deflate", None):
            async with connect(url(server), subprotocols=["chat"], compression=compression) as ws:  # type: ignore[list-item]
                assert ws.subprotocol == "chat"
                for message in ("hi", "", b"\0", b"x" * 300_000, "ä" * 70_000):
                    await ws.send(message)
                    assert await ws.recv() == message
                await (await ws.ping())


@pytest.mark.spec("RFC 6455", "section 7")
async def test_either_end_closes(anyio_backend: Any) -> None:
    """Codes and reasons reach the other end; a return of the application is a normal close."""
    async with serving(app, lifespan="off") as server:
        async with connect(url(server)) as ws:
            await ws.close(4000, "over")
        assert await ENDS.get() == {
            "type": "websocket.disconnect",
            "code": 4000,
            "reason": "over",
        }
        for word, code, reason in (("close", 4001, "bye"), ("return", 1000, "")):
            async with connect(url(server)) as ws:
                await ws.send(word)
                with pytest.raises(ConnectionClosed):
                    await ws.recv()
                assert (ws.close_code, ws.close_reason) == (code, reason)


@pytest.mark.spec("issue 5", "Done when: clients that vanish leave memory flat")
async def test_what_is_over_waits_for_no_garbage_collector(anyio_backend: Any) -> None:
    """With half a message there, which may have megabytes."""
    loop = asyncio.get_running_loop()
    freed = asyncio.Event()
    watched: list[weakref.ref[Any]] = []

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        # A method of what holds everything.
        watched.append(weakref.ref(receive.__self__, lambda _: loop.call_soon(freed.set)))  # type: ignore[attr-defined]
        await app(scope, receive, send)

    async with serving(watching, lifespan="off") as server:
        gc.disable()
        try:
            async with connect(url(server)) as ws:
                ws.transport.write(frame(BINARY, b"x" * 100, fin=False))
                ws.transport.abort()
            assert (await ENDS.get())["code"] == 1006
            await freed.wait()
        finally:
            gc.enable()


@pytest.mark.spec("ASGI WebSocket 2.5", "Send")
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_who_sends_without_a_pause_learns_that_the_client_left(
    anyio_backend: Any, kind: str
) -> None:
    """A transport that is lost takes everything, and the loop has to get its turn to tell so."""
    told = asyncio.Event()

    async def streams(scope: Scope, receive: Receive, send: Send) -> None:
        if kind == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            message: Any = {"type": "http.response.body", "body": b"x" * 10, "more_body": True}
        else:
            await send({"type": "websocket.accept"})
            message = {"type": "websocket.send", "bytes": b"x" * 10}
        await send(message)
        # What the loop does when a write or a read fails.
        receive.__self__.connection.transport.abort()  # type: ignore[attr-defined]
        for _ in range(1_000):
            try:
                await send(message)
            except OSError:
                told.set()
                return

    async with serving(streams, lifespan="off") as server, connected(server) as (_, writer):
        fields = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        )
        more = fields if kind == "websocket" else ""
        writer.write(f"GET / HTTP/1.1\r\nHost: a\r\n{more}\r\n".encode())
        await told.wait()


@pytest.mark.spec("ASGI WebSocket 2.5", "Close")
@pytest.mark.parametrize(
    ("path", "status", "complaints"),
    [("/refuse", 403, 0), ("/denial", 401, 0), ("/fail", 500, 1), ("/silent", 500, 1)],
)
async def test_refusals_are_responses(
    anyio_backend: Any, path: str, status: int, complaints: int
) -> None:
    """By the application, with or without a response of its own, or by its mistake."""
    async with serving(app, lifespan="off", complaints=complaints) as server:
        with pytest.raises(InvalidStatus) as refused:
            await connect(url(server, path))
        assert refused.value.response.status_code == status


@pytest.mark.spec("RFC 6455", "section 4.4")
async def test_another_version_is_answered_with_426(anyio_backend: Any) -> None:
    """The response names the version that is spoken."""
    async with serving(app, lifespan="off") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 8\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 426 ")
        assert b"sec-websocket-version: 13\r\n" in head
        writer.close()
        await writer.wait_closed()


@pytest.mark.spec("RFC 6455", "section 7.4.1")
async def test_limits_and_mistakes_of_clients_have_codes(anyio_backend: Any) -> None:
    """A message too large is 1009; an application that fails later is 1011, and logged."""
    async with serving(app, lifespan="off", complaints=1, websocket_max_bytes=1000) as server:
        async with connect(url(server)) as ws:
            with pytest.raises(ConnectionClosed):
                await ws.send(b"x" * 2000)
                await ws.recv()
            assert ws.close_code == 1009
        async with connect(url(server, "/fail-later")) as ws:
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            assert ws.close_code == 1011


@pytest.mark.spec("field-reports", "FR 114")
async def test_a_stop_tells_client_and_application(anyio_backend: Any) -> None:
    """Both learn 1001, and the stop does not wait."""
    async with serving(app, lifespan="off") as server:
        ws = await connect(url(server))
        await ws.send("hi")
        assert await ws.recv() == "hi"
    await ws.wait_closed()
    assert ws.close_code == 1001
    assert (await ENDS.get())["code"] == 1001


@pytest.mark.spec("RFC 6455", "section 5.5.2")
async def test_a_client_that_vanishes_is_told_to_the_application(anyio_backend: Any) -> None:
    """With 1006, without a complaint; messages that wait are given first."""
    async with serving(app, lifespan="off") as server:
        ws = await connect(url(server))
        await ws.send("hi")
        assert await ws.recv() == "hi"
        ws.transport.abort()
        assert (await ENDS.get())["code"] == 1006
