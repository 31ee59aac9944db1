"""Websockets of WSGI applications in the server, with a real client: the socket, refusals, limits, the stop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from server_driver import fetch, serving
from websocket_driver import CLOSE, AppSocket, Recording
from websocket_driver import echo as echo_socket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bridges import Server
from bridges.typing import Environ, StartResponse

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Do what the path says."""
    path = environ["PATH_INFO"]
    if path == "/fail":
        raise ValueError("before it accepts")
    if path == "/plain" or "werkzeug.socket" not in environ:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ.get("HTTP_UPGRADE", "").encode(), b" ", environ["REQUEST_METHOD"].encode()]
    if path == "/close":
        AppSocket(environ).close(4001, "bye")
        return []
    if path == "/fail-later":
        AppSocket(environ)
        raise ValueError("after it accepted")
    return echo_socket(environ, start_response)


def url(server: Server, path: str = "/") -> str:
    return f"ws://127.0.0.1:{server.port}{path}"


@pytest.mark.spec("FR 102")
async def test_messages_come_back(anyio_backend: Any) -> None:
    """Short and long, text and bytes, compressed for the client or not, with its pings between."""
    async with serving(app) as server:
        for compression in ("deflate", None):
            async with connect(url(server), compression=compression) as ws:  # type: ignore[arg-type]
                for message in ("hi", "", b"\0", b"x" * 300_000, "ä" * 70_000):
                    await ws.send(message)
                    assert await ws.recv() == message
                await (await ws.ping())


@pytest.mark.spec("FR 102", "gevent-websocket")
async def test_the_object_is_there_too(anyio_backend: Any) -> None:
    """Messages come back, and the application's close reaches the client."""

    def app(environ: Environ, start_response: StartResponse) -> None:
        ws = environ["wsgi.websocket"]
        while (message := ws.receive()) != "enough":
            ws.send(message)
        ws.close(4001, "bye")

    async with serving(app) as server, connect(url(server)) as ws:
        for message in ("hi", "", b"\0", b"x" * 300_000, "ä" * 70_000):
            await ws.send(message)
            assert await ws.recv() == message
        await (await ws.ping())
        await ws.send("enough")
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert (ws.close_code, ws.close_reason) == (4001, "bye")


@pytest.mark.spec("RFC 6455", "section 7")
async def test_either_end_closes(anyio_backend: Any) -> None:
    """Codes and reasons reach the other end, and the threads are free."""
    seen = Recording(lambda ws, app: app.seen.extend(ws.all()))
    async with serving(seen) as server, connect(url(server)) as ws:
        await ws.close(4000, "over")
    assert seen.seen == [(CLOSE, b"\x0f\xa0over")]
    async with serving(app, complaints=1) as server:
        for path, code, reason in (("/close", 4001, "bye"), ("/fail-later", 1011, "")):
            async with connect(url(server, path)) as ws:
                with pytest.raises(ConnectionClosed):
                    await ws.recv()
                assert (ws.close_code, ws.close_reason) == (code, reason)


@pytest.mark.spec("issue 5", "2. an app that does not know sockets")
@pytest.mark.parametrize("websockets", [100, 0])
async def test_an_application_that_knows_no_sockets_answers_as_ever(
    anyio_backend: Any, websockets: int
) -> None:
    """An Upgrade field alone changes nothing, whether the handshake would be good or not; the connection goes on."""
    good = (
        b"GET /plain HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    bad = good.replace(b"Version: 13", b"Version: 8")
    last = good.replace(b"Connection: Upgrade", b"Connection: Upgrade, close")
    async with serving(app, max_websockets=websockets) as server:
        answers = await fetch(server, good + bad + last)
        assert [(each.status, each.body) for each in answers] == [(200, b"websocket GET")] * 3


@pytest.mark.spec("issue 5", "2. an app that raises")
async def test_refusals_are_responses(anyio_backend: Any) -> None:
    """By the application, by its mistake, or because there are too many; requests are served beside them."""
    async with serving(app, complaints=2, max_websockets=1, threads=1) as server:
        for path, status in (("/plain", 200), ("/fail", 500)):
            with pytest.raises(InvalidStatus) as refused:
                await connect(url(server, path))
            assert refused.value.response.status_code == status
        async with connect(url(server)):
            with pytest.raises(InvalidStatus) as refused:
                await connect(url(server))
            assert refused.value.response.status_code == 503
            answer = await fetch(server, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert answer[0].status == 200


@pytest.mark.spec("RFC 6455", "section 7.4.1")
async def test_limits_are_kept_for_the_application(anyio_backend: Any) -> None:
    """A message too large closes with 1009, which the application is told."""
    seen = Recording(lambda ws, app: app.seen.extend(ws.all()))
    async with serving(seen, websocket_max_bytes=1000) as server, connect(url(server)) as ws:
        with pytest.raises(ConnectionClosed):
            await ws.send("x" * 2000)
            await ws.recv()
        assert ws.close_code == 1009
    assert [opcode for opcode, _ in seen.seen] == [CLOSE]
    assert seen.seen[0][1][:2] == b"\x03\xf1"


@pytest.mark.spec("FR 114")
async def test_a_stop_tells_client_and_application(anyio_backend: Any) -> None:
    """Both learn 1001, and the stop does not wait."""
    seen = Recording(lambda ws, app: app.seen.extend(ws.all()))
    async with serving(seen) as server:
        ws = await connect(url(server))
    await ws.wait_closed()
    assert ws.close_code == 1001
    assert [data[:2] for _, data in seen.seen] == [b"\x03\xe9"]


@pytest.mark.spec("issue 5", "2. a client that vanishes frees the thread")
async def test_a_client_that_vanishes_frees_the_thread(anyio_backend: Any) -> None:
    """The application sees the end of its socket, without a complaint."""
    seen = Recording(lambda ws, app: app.seen.extend(ws.all()))
    async with serving(seen) as server:
        ws = await connect(url(server))
        ws.transport.abort()
        assert await asyncio.to_thread(seen.ended.wait, 15)
    assert seen.seen == []


@pytest.mark.spec("FR 102")
async def test_the_environ_is_that_of_the_request(anyio_backend: Any) -> None:
    """What a trusted proxy says counts; compression is a matter of the connection."""
    seen = Recording(lambda ws, app: None)
    async with serving(seen, forwarded_allow_ips="127.0.0.1") as server:
        headers = {"X-Forwarded-For": "192.0.2.9", "X-Forwarded-Proto": "https"}
        async with connect(url(server, "/a%20b?c=d"), additional_headers=headers):
            pass
    environ = seen.environ
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/a b", "c=d")
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("192.0.2.9", "https")
    assert environ["HTTP_UPGRADE"] == "websocket"
    assert "HTTP_SEC_WEBSOCKET_EXTENSIONS" not in environ
