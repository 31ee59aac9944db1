"""What every websocket does, whatever serves it; both matrices check it in their column ``websocket``.

The applications behind it speak one language at ``/ws``: they send back what comes, except that ``count`` is
answered by three messages, ``close`` by a close frame with 4001, and ``fail`` by an exception; ``/none`` refuses.
They choose the subprotocol ``chat``, and note the code of each end under ``end``.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket

from .journal import entries, noted
from .process import Server
from .raw import CLIENT_SECONDS

BIG = 1_000_000

__all__ = [
    "test_a_big_message",
    "test_a_ping_is_answered",
    "test_a_refusal",
    "test_a_request_after_a_websocket",
    "test_an_empty_message",
    "test_fragments",
    "test_messages_come_back",
    "test_messages_without_being_asked",
    "test_subprotocol",
    "test_the_application_closes",
    "test_the_application_fails",
    "test_the_client_closes",
    "test_the_client_vanishes",
    "test_two_at_once",
]


class Refused(Exception):
    """A response instead of a websocket: its status, and what it says."""


def connect(server: Server, path: str = "/ws", **options: Any) -> ClientConnection:
    """Open a websocket, over TLS where the host has it; its client asks for HTTP/1.1.

    Raises:
        Refused: it was answered with another response.
    """
    context = (
        ssl.create_default_context(cafile=server.certificate[0]) if server.certificate else None
    )
    scheme = "wss" if context else "ws"
    url = f"{scheme}://127.0.0.1:{server.port}{path}"
    try:
        return open_websocket(
            url, ssl=context, proxy=None, max_size=None, open_timeout=CLIENT_SECONDS, **options
        )
    except InvalidStatus as refused:
        response = refused.response
        raise Refused(response.status_code, response.body.decode("utf-8", "replace")) from None


def _closed(ws: ClientConnection) -> tuple[int | None, str | None]:
    with pytest.raises(ConnectionClosed):
        ws.recv(CLIENT_SECONDS)
    return ws.close_code, ws.close_reason


@pytest.mark.spec("RFC 6455", "section 5.6")
@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_come_back(server: Server, compression: str | None) -> None:
    """Texts and bytes, compressed or not."""
    with connect(server, compression=compression) as ws:
        for message in ("hi", b"\0\xff", "ä" * 1000):
            ws.send(message)
            assert ws.recv(CLIENT_SECONDS) == message


@pytest.mark.spec("RFC 6455", "section 5.6")
@pytest.mark.parametrize("message", ["", b""], ids=["text", "bytes"])
def test_an_empty_message(server: Server, message: str | bytes, patience: float) -> None:
    """It is one all the same."""
    with connect(server) as ws:
        ws.send(message)
        assert ws.recv(patience) == message


@pytest.mark.spec("RFC 6455", "section 5.2")
def test_a_big_message(server: Server) -> None:
    """A megabyte goes there and back, as bytes and as text."""
    with connect(server, compression=None) as ws:
        for message in (os.urandom(BIG), "ä" * (BIG // 2)):
            ws.send(message)
            assert ws.recv(CLIENT_SECONDS) == message


@pytest.mark.spec("RFC 6455", "section 5.4")
def test_fragments(server: Server) -> None:
    """A message in several frames is one message."""
    with connect(server) as ws:
        ws.send(["one", "two", "three"])
        assert ws.recv(CLIENT_SECONDS) == "onetwothree"


@pytest.mark.spec("RFC 6455", "section 1.9")
def test_subprotocol(server: Server) -> None:
    """The application's choice among those offered reaches the client."""
    with connect(server, subprotocols=["other", "chat"]) as ws:
        assert ws.subprotocol == "chat"


@pytest.mark.spec("RFC 6455", "section 5.5.2")
def test_a_ping_is_answered(server: Server) -> None:
    """Also while the application waits for a message."""
    with connect(server) as ws:
        assert ws.ping().wait(CLIENT_SECONDS), "no pong"


def test_messages_without_being_asked(server: Server) -> None:
    """Several messages for one."""
    with connect(server) as ws:
        ws.send("count")
        assert [ws.recv(CLIENT_SECONDS) for _ in range(3)] == ["0", "1", "2"]


@pytest.mark.spec("RFC 6455", "section 7.1.5")
def test_the_application_closes(server: Server) -> None:
    """Its code and its reason reach the client."""
    with connect(server) as ws:
        ws.send("close")
        assert _closed(ws) == (4001, "bye")


@pytest.mark.spec("RFC 6455", "section 7.4.1")
def test_the_application_fails(server: Server) -> None:
    """The client gets 1011."""
    with connect(server) as ws:
        ws.send("fail")
        assert _closed(ws)[0] == 1011


@pytest.mark.spec("RFC 6455", "section 7.1.5")
def test_the_client_closes(server: Server) -> None:
    """Its code reaches the application."""
    before = len(entries(server, "end"))
    with connect(server) as ws:
        ws.close(4000, "over")
    assert noted(server, "end", before + 1)[before:] == [4000]


@pytest.mark.spec("RFC 6455", "section 7.1.5")
def test_the_client_vanishes(server: Server) -> None:
    """The application is told, without a code from the client, while it waits for a message."""
    before = len(entries(server, "end"))
    with connect(server) as ws:
        ws.send("here")
        assert ws.recv(CLIENT_SECONDS) == "here"
        ws.socket.shutdown(socket.SHUT_RDWR)
    # simple-websocket has 1005 for whatever is no close frame.
    (code,) = noted(server, "end", before + 1)[before:]
    assert code in (1005, 1006)


def test_a_refusal(server: Server) -> None:
    """The client gets a response, and the next one a websocket."""
    with pytest.raises(Refused) as refused:
        connect(server, "/none")
    assert refused.value.args[0] in (403, 404), refused.value
    with connect(server) as ws:
        ws.send("hi")
        assert ws.recv(CLIENT_SECONDS) == "hi"


def test_a_request_after_a_websocket(server: Server) -> None:
    """The same application answers it as ever."""
    with connect(server) as ws:
        ws.send("hi")
        assert ws.recv(CLIENT_SECONDS) == "hi"
    assert server.client
    assert server.client.get("/").text == "hello"


def test_two_at_once(server: Server) -> None:
    """One does not wait for the other's end."""
    if server.host.threads == 1:
        pytest.skip("one connection at a time")
    with connect(server) as one, connect(server) as other:
        for ws in (other, one):
            ws.send("hi")
            assert ws.recv(CLIENT_SECONDS) == "hi"
