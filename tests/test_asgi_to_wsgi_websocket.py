"""Websockets of ``ASGIToWSGI`` on a socket pair: order, both ends of the close, limits, and whose the socket is."""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import logging
import os
import re
import signal
import socket
import ssl
import struct
import sys
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trustme
import websocket_tools as tools
from asgiref.sync import sync_to_async
from wsgi_driver import Adapt, InThread, until, wait

import bridges.asgi_to_wsgi
from bridges import ASGIToWSGI, errors
from bridges.asgi.host_socket import HostSocket, UWSGISocket
from bridges.asgi.websocket import WebSocketPump
from bridges.asgi_to_wsgi import dismiss_in, stop_websockets
from bridges.typing import Message, Receive, Scope, Send

pytest_plugins = ["wsgi_driver"]

HANDSHAKE = {
    "HTTP_CONNECTION": "keep-alive, Upgrade",
    "HTTP_HOST": "testserver",
    "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_UPGRADE": "websocket",
}
ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\n"


class GunicornInput:
    """What gunicorn has as wsgi.input: its parser's buffer is beneath."""

    def __init__(self, early: bytes) -> None:
        unreader = SimpleNamespace(buf=io.BytesIO())
        unreader.buf.write(early)
        self.reader = SimpleNamespace(unreader=unreader)


class UWSGIInput:
    """What uWSGI has as wsgi.input: the number of its connection."""

    __module__ = "uwsgi"

    def __init__(self, number: int) -> None:
        self.fileno = lambda: number


class Peer:
    """A host that gives its socket, and the client at the other end.

    Attributes:
        client: the client's end.
        lent: the host's end.
        statuses: what the host's ``start_response`` was called with.
    """

    def __init__(
        self, adapter: ASGIToWSGI, path: str = "/", early: bytes = b"", **environ: Any
    ) -> None:
        self.client, self.lent = self._connected()
        self.client.settimeout(10)
        self.statuses: list[str] = []
        self.came = b""
        self._adapter = adapter
        self._environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "SERVER_NAME": "testserver",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": "http",
            "wsgi.input": GunicornInput(early),
            "gunicorn.socket": self.lent,
            **HANDSHAKE,
            **environ,
        }
        self.body = b""
        self._thread = InThread(self._serve)

    def _connected(self) -> tuple[socket.socket, socket.socket]:
        return socket.socketpair()

    def _serve(self) -> BaseException | None:
        """Do as gunicorn does; give the exception that its client's leaving is to it, if that ends the response."""
        try:
            response = self._adapter(self._environ, self._start_response)
            try:
                for chunk in response:
                    self.body += chunk
            finally:
                close = getattr(response, "close", None)
                if close is not None:
                    close()
        except OSError as error:
            return error
        return None

    def _start_response(self, status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
        self.statuses.append(status)

    # The client.

    def send(self, *frames: bytes) -> None:
        """Send frames."""
        self.client.sendall(b"".join(frames))

    def read_head(self) -> bytes:
        """Give the head of the response, which begins the websocket."""
        while b"\r\n\r\n" not in self.came:
            self._read()
        head, _, self.came = self.came.partition(b"\r\n\r\n")
        return head + b"\r\n"

    def _read(self) -> None:
        data = self.client.recv(65_536)
        if not data:
            raise EOFError
        self.came += data

    def read_frame(self) -> tuple[int, bytes]:
        """Give the first byte and the payload of the next frame."""
        while (size := _frame_size(self.came)) is None or len(self.came) < size:
            self._read()
        whole, self.came = self.came[:size], self.came[size:]
        ((first, payload),) = tools.frames(whole)
        return first & 0x8F, payload

    def read_close(self) -> tuple[int, str]:
        """Give code and reason of the close frame, which is next."""
        first, payload = self.read_frame()
        assert first == 0x88
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    def is_closed(self) -> bool:
        """Whether nothing follows but the end."""
        try:
            return not self.came and self.client.recv(1) == b""
        except ConnectionResetError:
            return True

    # The host.

    def over(self) -> None:
        """Wait for the host's thread, and check what it is left with."""
        ended = self._thread.result()
        assert isinstance(ended, BrokenPipeError), ended
        assert ended.args[0] == ended.errno == errno.EPIPE
        assert self.statuses == ["101 Switching Protocols"]
        assert self.lent.fileno() >= 0, "the host's socket object was closed"
        assert self.lent.gettimeout() is None
        assert os.get_blocking(self.lent.fileno())
        with pytest.raises(BrokenPipeError):
            self.lent.sendall(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
        self.end()

    def result(self) -> Any:
        """Wait for the host's thread, and give or raise what came of the response."""
        try:
            return self._thread.result()
        finally:
            self.end()

    def end(self) -> None:
        """Close both ends."""
        self.lent.close()
        self.client.close()


class TLSPeer(Peer):
    """The same over TLS, with a host's end that holds much."""

    def _connected(self) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
        authority = trustme.CA()
        of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(of_server)
        of_client = ssl.create_default_context()
        authority.configure_trust(of_client)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            lent, _ = listener.accept()
        lent.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
        shaken = InThread(lambda: of_server.wrap_socket(lent, server_side=True))
        return of_client.wrap_socket(client, server_hostname="localhost"), shaken.result()


def _frame_size(data: bytes) -> int | None:
    if len(data) < 2:
        return None
    size = data[1]
    extended = {126: 2, 127: 8}.get(size, 0)
    if len(data) < 2 + extended:
        return None
    return 2 + extended + (int.from_bytes(data[2 : 2 + extended], "big") if extended else size)


class Echo:
    """Sends back what comes, and does what some messages say.

    Attributes:
        scopes: that it was called with.
        ends: the last message of each websocket.
        over: set when one has ended.
    """

    def __init__(self, **accept: Any) -> None:
        self.accept = accept
        self.scopes: list[Scope] = []
        self.ends: list[Message] = []
        self.over = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        self.scopes.append(scope)
        try:
            assert await receive() == {"type": "websocket.connect"}
            await send({"type": "websocket.accept", **self.accept})
            while (message := await receive())["type"] == "websocket.receive":
                await self.answer(message, send)
            self.ends.append(message)
            assert await receive() == message  # again and again
        finally:
            self.over.set()

    async def answer(self, message: Message, send: Send) -> None:
        if message.get("text") == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "bye"})
        elif message.get("text") == "fail":
            raise ValueError("on purpose")
        else:
            await send({**message, "type": "websocket.send"})

    def end(self) -> Message:
        wait(self.over)
        (message,) = self.ends
        return message


def begin(adapter: ASGIToWSGI, *more: Any, **environ: Any) -> Peer:
    """Open a websocket."""
    peer = Peer(adapter, *more, **environ)
    assert peer.read_head().startswith(ACCEPTED)
    return peer


def new(adapt: Adapt, app: Any, **options: Any) -> ASGIToWSGI:
    return adapt(app, lifespan="off", **options)


@pytest.mark.spec("RFC 6455", "section 5.6")
def test_messages_go_both_ways(adapt: Adapt) -> None:
    """Text and bytes, whole and in fragments, with a ping between; then the client closes."""
    app = Echo()
    peer = begin(new(adapt, app))
    peer.send(tools.frame(tools.TEXT, "hö".encode()))
    assert peer.read_frame() == (0x81, "hö".encode())
    peer.send(
        tools.frame(tools.BINARY, b"a", fin=False),
        tools.frame(tools.PING, b"?"),
        tools.frame(tools.CONTINUATION, b"b"),
    )
    assert peer.read_frame() == (0x8A, b"?")
    assert peer.read_frame() == (0x82, b"ab")
    peer.send(tools.close(4000, b"over"))
    assert peer.read_close() == (4000, "")
    assert peer.is_closed()
    peer.over()
    assert app.end() == {"type": "websocket.disconnect", "code": 4000, "reason": "over"}


@pytest.mark.spec("ASGI WebSocket 2.5", "WebSocket Connection Scope")
def test_the_scope(adapt_asyncio: Adapt) -> None:
    """It is that of the request, with what websockets have besides."""
    app = Echo(subprotocol="chat", headers=[(b"x-name", b"value")])
    adapter = adapt_asyncio(app, lifespan="off", root_path="/api")
    peer = Peer(
        adapter,
        "/ä".encode().decode("latin-1"),
        HTTP_SEC_WEBSOCKET_PROTOCOL="superchat, chat",
        QUERY_STRING="a=b",
        **{"wsgi.url_scheme": "https", "SSL_PROTOCOL": "TLSv1.3"},
    )
    head = peer.read_head()
    assert b"\r\nSec-WebSocket-Protocol: chat\r\n" in head
    assert b"\r\nx-name: value\r\n" in head
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
    peer.send(tools.close(1000))
    assert peer.read_close() == (1000, "")
    peer.over()
    wait(app.over)
    (scope,) = app.scopes
    assert scope["type"] == "websocket"
    assert (scope["scheme"], scope["path"], scope["root_path"]) == ("wss", "/api/ä", "/api")
    assert scope["subprotocols"] == ["superchat", "chat"]
    assert scope["query_string"] == b"a=b"
    assert scope["state"] == {}
    assert "method" not in scope
    assert set(scope["extensions"]) == {"websocket.http.response", "wsgi.environ", "tls"}


@pytest.mark.spec("RFC 6455", "section 7.1.2")
def test_the_application_closes(adapt: Adapt) -> None:
    """Its code and reason reach the client, whose answer ends the websocket."""
    app = Echo()
    peer = begin(new(adapt, app))
    peer.send(tools.frame(tools.TEXT, b"close"))
    assert peer.read_close() == (4001, "bye")
    peer.send(tools.close(4001, b"bye"))
    assert peer.is_closed()
    peer.over()
    assert app.end()["code"] == 4001


@pytest.mark.spec("RFC 6455", "section 7.4.1")
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (tools.frame(tools.BINARY, b"x" * 2000), 1009),
        (tools.frame(tools.TEXT, b"\xff"), 1007),
        (tools.frame(tools.TEXT, b"x", key=None), 1002),
    ],
    ids=["too large", "no UTF-8", "not masked"],
)
def test_a_client_that_breaks_the_rules(adapt: Adapt, sent: bytes, code: int) -> None:
    """It learns why, although it still sends; the application learns the same."""
    app = Echo()
    peer = begin(new(adapt, app, websocket_max_bytes=1000))
    peer.send(sent, b"\0" * 300_000)
    assert peer.read_close()[0] == code
    peer.send(b"\0" * 100_000)
    assert peer.is_closed()
    assert app.end()["code"] == code
    peer.client.close()
    peer.over()


@pytest.mark.spec("ASGI WebSocket 2.5", "Disconnect")
def test_a_client_vanishes(adapt: Adapt) -> None:
    """The application gets 1006, and the host its thread back."""
    app = Echo()
    peer = begin(new(adapt, app))
    peer.client.close()
    assert app.end()["code"] == 1006
    peer.over()


@pytest.mark.spec("ASGI WebSocket 2.5", "Close")
def test_the_application_fails(adapt: Adapt, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets 1011, and one record the exception."""
    app = Echo()
    peer = begin(new(adapt, app))
    peer.send(tools.frame(tools.TEXT, b"fail"))
    assert peer.read_close() == (1011, "")
    peer.send(tools.close(1011))
    peer.over()
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.getMessage().endswith("failed in a websocket")
    assert isinstance(record.exc_info[1], ValueError)  # type: ignore[index]


@pytest.mark.spec("FR 59")
def test_the_application_cancels_itself(
    adapt_asyncio: Adapt, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody else has ended it, so that it has failed as by any exception."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        raise asyncio.CancelledError

    peer = begin(new(adapt_asyncio, app))
    assert peer.read_close() == (1011, "")
    peer.send(tools.close(1011))
    peer.over()
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.getMessage().endswith("failed in a websocket")


@pytest.mark.spec("ASGI WebSocket 2.5", "Close")
def test_the_application_returns(adapt: Adapt) -> None:
    """That is a normal close."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})

    peer = begin(new(adapt, app))
    assert peer.read_close() == (1000, "")
    peer.send(tools.close(1000))
    assert peer.is_closed()
    peer.over()


async def denying(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a response of its own."""
    await receive()
    await send(
        {
            "type": "websocket.http.response.start",
            "status": 401,
            "headers": [(b"content-type", b"text/plain")],
        }
    )
    await send({"type": "websocket.http.response.body", "body": b"n", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"o"})
    assert (await receive())["type"] == "websocket.disconnect"


async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
    """Close before it accepts."""
    await receive()
    await send({"type": "websocket.close"})


@pytest.mark.spec("ASGI extensions", "Websocket Denial Response")
@pytest.mark.parametrize(
    ("app", "status", "body"), [(denying, "401", b"no"), (refusing, "403", b"")], ids=["own", "403"]
)
def test_a_refusal_is_the_hosts_response(adapt: Adapt, app: Any, status: str, body: bytes) -> None:
    """The bridge writes nothing on the socket, and leaves it as it was."""
    peer = Peer(new(adapt, app))
    assert peer._thread.result() is None
    assert [each[:3] for each in peer.statuses] == [status]
    assert peer.body == body
    assert peer.lent.gettimeout() is None
    peer.lent.sendall(b"the host's")
    assert peer.client.recv(100) == b"the host's"
    peer.end()


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """Raise at once."""
    raise ValueError("on purpose")


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """Return without a word."""


@pytest.mark.spec("ASGI WebSocket 2.5", "Connect")
@pytest.mark.parametrize(
    ("app", "error"), [(failing, ValueError), (silent, errors.ApplicationProtocolError)]
)
def test_a_failure_before_the_accept_is_the_hosts(
    adapt: Adapt, app: Any, error: type[Exception]
) -> None:
    """It raises in the host's thread, which answers with 500."""
    peer = Peer(new(adapt, app))
    with pytest.raises(error):
        peer.result()


@pytest.mark.spec("RFC 6455", "section 4.1")
@pytest.mark.parametrize("way", ["gunicorn", "file"])
def test_frames_behind_the_handshake_are_read(adapt: Adapt, way: str) -> None:
    """A host's parser may have them already: in gunicorn's buffer, or in a buffered file."""
    app = Echo()
    adapter = new(adapt, app)
    early = tools.frame(tools.TEXT, b"one")
    if way == "gunicorn":
        peer = begin(adapter, "/", early)
    else:
        client, lent = socket.socketpair()
        client.sendall(b"line\n" + early)
        file = lent.makefile("rb")
        assert file.readline() == b"line\n"
        peer = Peer(adapter, **{"gunicorn.socket": lent, "wsgi.input": file})
        peer.end()
        peer.client, peer.lent = client, lent
        client.settimeout(10)
        assert peer.read_head().startswith(ACCEPTED)
    peer.send(tools.frame(tools.TEXT, b"two"))
    assert [peer.read_frame()[1] for _ in range(2)] == [b"one", b"two"]
    peer.send(tools.close())
    assert peer.read_frame() == (0x88, b"")
    if way == "file":
        file.close()
    peer.over()
    assert app.end()["code"] == 1005


@pytest.mark.spec("FR 103")
@pytest.mark.parametrize("place", ["option", "file"])
def test_where_the_socket_is_found(adapt_asyncio: Adapt, place: str) -> None:
    """Under the key that an option names, or beneath ``wsgi.input``, as gevent's pywsgi has it."""
    app = Echo()
    adapter = adapt_asyncio(app, lifespan="off", socket_key="other.socket")
    client, lent = socket.socketpair()
    client.settimeout(10)
    file = lent.makefile("rb")
    found: dict[str, Any] = {"wsgi.input": file} if place == "file" else {"other.socket": lent}
    peer = Peer.__new__(Peer)
    whole = Peer.__init__
    environ = {"gunicorn.socket": None, **found}
    whole(peer, _Without(adapter, "gunicorn.socket"), **environ)  # type: ignore[arg-type]
    peer.end()
    peer.client, peer.lent = client, lent
    assert peer.read_head().startswith(ACCEPTED)
    peer.send(tools.close(1000))
    assert peer.read_close() == (1000, "")
    file.close()
    peer.over()
    wait(app.over)


@pytest.mark.spec("FR 103")
@pytest.mark.parametrize("key", ["REQUEST_METHOD", "no.such.key"])
def test_a_key_that_names_no_socket(
    adapt_asyncio: Adapt, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    """The refusal and the log name it."""
    adapter = adapt_asyncio(Echo(), lifespan="off", socket_key=key)
    peer = Peer(_Without(adapter, "gunicorn.socket"), **{"gunicorn.socket": None})  # type: ignore[arg-type]
    assert peer.result() is None
    assert [each[:3] for each in peer.statuses] == ["501"]
    assert key.encode() in peer.body
    assert "socket_key" in caplog.text


class _Without:
    """An application that is called without some key of the environ."""

    def __init__(self, app: Any, key: str) -> None:
        self._app = app
        self._key = key

    def __call__(self, environ: Any, start_response: Any) -> Any:
        del environ[self._key]
        return self._app(environ, start_response)


@pytest.mark.spec("RFC 6455", "section 4.4")
@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({"HTTP_SEC_WEBSOCKET_VERSION": "8"}, "426"),
        ({"HTTP_SEC_WEBSOCKET_KEY": "short"}, "400"),
        ({"REQUEST_METHOD": "POST"}, "400"),
        ({"SERVER_PROTOCOL": "HTTP/2.0"}, "400"),
    ],
    ids=["version", "key", "method", "HTTP/2"],
)
def test_bad_handshakes_are_refused(
    adapt_asyncio: Adapt, environ: dict[str, str], status: str
) -> None:
    """In a sentence, before the application is called."""
    peer = Peer(new(adapt_asyncio, Echo()), **environ)
    assert peer.result() is None
    assert [each[:3] for each in peer.statuses] == [status]
    assert b"websocket" in peer.body.lower()


@pytest.mark.spec("RFC 9110", "section 7.8")
def test_a_request_of_http_1_0_is_no_request_for_a_websocket(adapt: Adapt) -> None:
    """Upgrade is ignored there: the application answers as to any request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"plain"})

    peer = Peer(new(adapt, app), SERVER_PROTOCOL="HTTP/1.0")
    assert peer.result() is None
    assert (peer.statuses, peer.body) == (["200 OK"], b"plain")


@pytest.mark.spec("FR 103")
def test_without_wsproto(
    adapt_asyncio: Adapt, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal and the log name the extra."""
    monkeypatch.setattr(bridges.asgi_to_wsgi, "_websockets", lambda: None)
    peer = Peer(new(adapt_asyncio, Echo()))
    assert peer.result() is None
    assert [each[:3] for each in peer.statuses] == ["501"]
    assert b"[websocket]" in peer.body
    (record,) = caplog.records
    assert "[websocket]" in record.getMessage()


@pytest.mark.spec("RFC 6455", "section 5.5.2")
def test_a_client_that_does_not_answer_pings_is_given_up(adapt: Adapt) -> None:
    """One that does is kept."""
    app = Echo()
    peer = begin(new(adapt, app, websocket_ping_seconds=0.1, websocket_pong_seconds=0.1))
    for _ in range(3):
        assert peer.read_frame() == (0x89, b"")
        peer.send(tools.frame(tools.PONG))
    assert peer.read_frame() == (0x89, b"")
    assert peer.is_closed()
    peer.over()
    assert app.end()["code"] == 1006


@pytest.mark.spec("RFC 6455", "section 7.1.1")
def test_a_client_that_does_not_close_is_given_up(adapt: Adapt) -> None:
    """After the time for its part of the close handshake."""
    app = Echo()
    peer = begin(new(adapt, app, websocket_close_seconds=0.1))
    peer.send(tools.frame(tools.TEXT, b"close"))
    assert peer.read_close() == (4001, "bye")
    assert peer.is_closed()
    peer.over()
    assert app.end()["code"] == 1006


@pytest.mark.spec("behaviours.md", "Backpressure")
def test_the_application_waits_for_a_slow_client(adapt: Adapt) -> None:
    """What is unwritten has a limit, and arrives whole."""
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await receive()
        await send({"type": "websocket.accept"})
        for number in range(200):
            await send({"type": "websocket.send", "bytes": b"%03d" % number + b"x" * 99_997})
            sent += 1

    peer = begin(new(adapt, app, buffer_bytes=100_000))
    for number in range(200):
        first, payload = peer.read_frame()
        assert (first, payload[:3], len(payload)) == (0x82, b"%03d" % number, 100_000)
        # The kernel's buffers and the limit hold much less than twenty messages.
        assert sent - number < 20
    assert peer.read_close() == (1000, "")
    peer.send(tools.close(1000))
    peer.over()


@pytest.mark.spec("issue 5", "TLS sockets too")
def test_tls_that_cannot_write_all_of_a_message_goes_on_with_it(adapt_asyncio: Adapt) -> None:
    """OpenSSL wants at least as much again as it could not write, or it breaks the connection."""
    app = Echo()
    peer = TLSPeer(
        new(adapt_asyncio, app, websocket_max_bytes=20_000_000), **{"wsgi.url_scheme": "https"}
    )
    assert peer.read_head().startswith(ACCEPTED)
    sent = os.urandom(1000) * 12_000
    peer.send(tools.frame(tools.BINARY, sent, key=b"\0" * 4))
    assert peer.read_frame() == (0x82, sent)
    peer.send(tools.close(1000))
    assert peer.read_close() == (1000, "")
    assert app.end()["code"] == 1000
    assert isinstance(peer.result(), BrokenPipeError)


@pytest.mark.spec("issue 5", "Done when: half-open peers end with the right code")
@pytest.mark.parametrize("way", ["end of TLS", "end", "reset", "silence"])
def test_a_client_over_tls_that_takes_nothing_more(
    adapt_asyncio: Adapt, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However it leaves, or if it stays: what could not be written goes, and the thread is free."""
    stuck, over = threading.Event(), threading.Event()
    ends: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                with anyio.move_on_after(0.1) as soon:
                    await send({"type": "websocket.send", "bytes": b"x" * 100_000})
                if soon.cancelled_caught:
                    stuck.set()
        except errors.ClientDisconnected:
            ends.append((await receive())["code"])
        over.set()

    limits = {"websocket_ping_seconds": 0.3, "websocket_pong_seconds": 0.3}
    adapter = new(adapt_asyncio, app, **(limits if way == "silence" else {}))
    peer = TLSPeer(adapter, **{"wsgi.url_scheme": "https"})
    assert peer.read_head().startswith(ACCEPTED)
    wait(stuck)
    if way == "end of TLS":
        # It is said, and data in the place of the answer found.
        with pytest.raises(ssl.SSLError):
            peer.client.unwrap()  # type: ignore[attr-defined]  # a client without TLS has none
    if way == "reset":
        linger = struct.pack("ii", 1, 0)
        peer.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    if way in ("end", "reset"):
        peer.client.close()
    assert isinstance(peer.result(), BrokenPipeError)
    wait(over)
    assert ends == [1006]
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.spec("behaviours.md", "Backpressure")
def test_a_client_waits_for_a_slow_application(adapt: Adapt) -> None:
    """Reading stops when enough waits, and all of it is given later, in order."""
    go = threading.Event()
    got: list[str] = []
    over = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await until(go)
        while (message := await receive())["type"] == "websocket.receive":
            got.append(message["text"][:5])
        over.set()

    peer = begin(new(adapt, app))
    peer.client.settimeout(0.5)
    count = 0
    with pytest.raises(TimeoutError):
        while count < 2000:
            peer.send(tools.frame(tools.TEXT, b"%05d" % count + b"x" * 10_000, key=b"\0" * 4))
            count += 1
    assert count < 1000
    peer.client.settimeout(10)
    go.set()
    # The last one was sent in part only.
    peer.client.shutdown(socket.SHUT_WR)
    wait(over)
    assert got == [f"{number:05d}" for number in range(len(got))]
    assert len(got) >= count
    peer.over()


@pytest.mark.spec("field-reports", "FR 114")
@pytest.mark.parametrize("way", ["close", "dismiss", "stop"])
def test_a_stop_tells_client_and_application(adapt: Adapt, way: str) -> None:
    """Both learn 1001: at ``close``, and when the host is about to end its worker."""
    app = Echo()
    adapter = new(adapt, app)
    peer = begin(adapter)
    ways = {"close": adapter.close, "dismiss": lambda: dismiss_in(60), "stop": stop_websockets}
    closing = InThread(ways[way])
    assert peer.read_close() == (1001, "the server is stopping")
    peer.send(tools.close(1001))
    peer.over()
    assert app.end()["code"] == 1001
    closing.result()


@pytest.mark.spec("field-reports", "FR 114")
def test_a_websocket_that_begins_after_a_stop_is_closed(adapt: Adapt) -> None:
    """It may be the very request that was one too many for its worker."""
    app = Echo()
    adapter = new(adapt, app)
    adapter.start()
    stop_websockets()
    peer = begin(adapter)
    assert peer.read_close() == (1001, "the server is stopping")
    peer.send(tools.close(1001))
    peer.over()
    assert app.end()["code"] == 1001


@pytest.mark.spec("field-reports", "FR 114")
def test_a_stop_ends_an_application_that_goes_on(
    adapt: Adapt, caplog: pytest.LogCaptureFixture
) -> None:
    """It is cancelled after its grace time, which is no failure, and the client that does not close is cut."""
    cancelled = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    adapter = new(adapt, app, disconnect_grace_seconds=0, websocket_close_seconds=0.1)
    peer = begin(adapter)
    adapter.close()
    wait(cancelled)
    assert peer.read_close()[0] == 1001
    assert peer.is_closed()
    peer.over()
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


class Killed(BaseException):
    """What ends a greenlet or a worker in the middle of a wait."""


@pytest.mark.spec("FR 103")
def test_a_thread_that_is_called_away_leaves_no_user_of_the_socket(
    adapt: Adapt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has let go of the socket before the host gets the exception."""
    order: list[str] = []
    accept, give_back = WebSocketPump._accept, HostSocket.give_back

    def accept_and_die(self: WebSocketPump, item: Any) -> None:
        accept(self, item)
        raise Killed

    def give_back_and_tell(self: HostSocket) -> None:
        give_back(self)
        order.append("given back")

    def serve(self: Peer) -> None:
        try:
            list(self._adapter(self._environ, self._start_response))
        except Killed:
            order.append("called away")

    monkeypatch.setattr(WebSocketPump, "_accept", accept_and_die)
    monkeypatch.setattr(HostSocket, "give_back", give_back_and_tell)
    monkeypatch.setattr(Peer, "_serve", serve)
    peer = Peer(new(adapt, Echo()))
    peer._thread.result()
    assert order == ["given back", "called away"]
    assert peer.lent.gettimeout() is None
    with pytest.raises(BrokenPipeError):
        peer.lent.sendall(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
    peer.end()


@pytest.mark.spec("FR 103")
def test_a_client_that_leaves_before_the_accept(adapt_asyncio: Adapt) -> None:
    """The application is told, and its accept raises."""
    connected = threading.Event()
    told: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        connected.set()
        told.append(await receive())
        with pytest.raises(errors.ClientDisconnected):
            await send({"type": "websocket.accept"})
        told.append("raised")

    peer = Peer(new(adapt_asyncio, app))
    wait(connected)
    peer.client.close()
    ended = peer.result()
    assert isinstance(ended, errors.ClientDisconnected)
    adapter = peer._adapter
    adapter.close()
    assert told == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}, "raised"]


@pytest.mark.spec("FR 89")
def test_thread_sensitive_code_runs_in_the_hosts_thread(adapt_asyncio: Adapt) -> None:
    """Also when the websocket is open: Channels' consumers ask the ORM there."""
    threads: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            threads.append(await sync_to_async(threading.get_ident)())
            await send({"type": "websocket.send", "text": "done"})

    peer = begin(new(adapt_asyncio, app))
    for _ in range(2):
        peer.send(tools.frame(tools.TEXT, b"x"))
        assert peer.read_frame() == (0x81, b"done")
    assert threads == [peer._thread._thread.ident] * 2
    peer.send(tools.close())
    assert peer.read_frame() == (0x88, b"")
    peer.over()


@pytest.mark.spec("FR 103")
def test_the_host_hears_that_the_loop_lives(adapt: Adapt) -> None:
    """A worker of gunicorn that is silent is killed; one whose loop hangs should be."""
    beats: list[int] = []
    beaten = threading.Event()

    def beat() -> None:
        beats.append(threading.get_ident())
        if len(beats) == 3:
            beaten.set()

    app = Echo()
    adapter = new(adapt, app)
    adapter.heartbeat = (beat, 0.01)
    peer = begin(adapter)
    wait(beaten)
    assert set(beats) == {peer._thread._thread.ident}
    peer.send(tools.close())
    peer.over()
    wait(app.over)


@pytest.mark.spec("FR 103")
def test_many_that_vanish_leave_nothing(adapt: Adapt) -> None:
    """No descriptor, and no thread, of a hundred websockets."""
    app = Echo()
    adapter = new(adapt, app)

    def visit(leave: Callable[[Peer], None]) -> None:
        peer = begin(adapter)
        leave(peer)
        peer.over()

    visit(lambda peer: peer.client.close())
    gc.collect()
    descriptors, threads = len(os.listdir("/proc/self/fd")), set(threading.enumerate())
    for _ in range(100):
        visit(lambda peer: peer.client.close())
    adapter.start()  # a turn of the loop, after the last of them
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert set(threading.enumerate()) <= threads


@pytest.mark.spec("issue 5", "Done when: clients that vanish leave memory flat")
def test_what_is_over_waits_for_no_garbage_collector() -> None:
    """With half a message there, which may have megabytes; nor for the grace time, once the application has ended."""
    freed = threading.Event()
    watched: list[weakref.ref[Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # A method of what holds everything.
        watched.append(weakref.ref(receive.__self__, lambda _: freed.set()))  # type: ignore[attr-defined]
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    adapter = ASGIToWSGI(app, lifespan="off", disconnect_grace_seconds=1_000)
    gc.disable()
    try:
        peer = begin(adapter)
        peer.send(tools.frame(tools.BINARY, b"x" * 100, fin=False))
        peer.client.close()
        peer.over()
        wait(freed)
    finally:
        gc.enable()
        adapter.close()


@pytest.mark.spec("RFC 7692", "section 7")
def test_compression_is_agreed_on(adapt_asyncio: Adapt) -> None:
    """Unless the option says no."""
    for deflate in (True, False):
        app = Echo()
        adapter = new(adapt_asyncio, app, websocket_deflate=deflate)
        peer = Peer(adapter, HTTP_SEC_WEBSOCKET_EXTENSIONS="permessage-deflate")
        assert (b"permessage-deflate" in peer.read_head()) is deflate
        peer.send(tools.close())
        assert peer.read_frame() == (0x88, b"")
        peer.over()
        wait(app.over)


@pytest.mark.spec("design.md", "ASGIToWSGI")
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("websocket_max_bytes", 0),
        ("websocket_ping_seconds", 0),
        ("websocket_pong_seconds", 0),
        ("websocket_close_seconds", -1),
    ],
)
def test_options_are_checked(option: str, value: float) -> None:
    """The error names the option and its least value."""
    with pytest.raises(ValueError, match=re.escape(option)):
        ASGIToWSGI(Echo(), **{option: value})


def as_uwsgi(monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Have the module that uWSGI gives its applications."""
    given = {name.replace("_", "-"): value for name, value in options.items()}
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt=given, has_threads=True))  # type: ignore[arg-type]


class UWSGIPeer(Peer):
    """uWSGI, which has no socket object."""

    def __init__(self, adapter: ASGIToWSGI, **environ: Any) -> None:
        self.response: Any = None
        super().__init__(adapter, **environ)

    def _serve(self) -> BaseException | None:
        number = self._environ.pop("gunicorn.socket").fileno()
        self._environ["wsgi.input"] = UWSGIInput(number)
        return super()._serve()


@pytest.mark.spec("FR 103")
def test_uwsgi_is_left_with_the_null_device(adapt: Adapt, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can write the head that it has to and close its number, and the client sees nothing of that."""
    as_uwsgi(monkeypatch, http_socket=b"127.0.0.1:0")
    app = Echo()
    peer = UWSGIPeer(new(adapt, app))
    assert peer.read_head().startswith(ACCEPTED)
    peer.send(tools.frame(tools.TEXT, b"hi"))
    assert peer.read_frame() == (0x81, b"hi")
    peer.send(tools.close(4000))
    assert peer.read_close() == (4000, "")
    assert peer._thread.result() is None  # no exception
    assert peer.statuses == ["101 Switching Protocols"]
    with open(os.devnull) as null:
        assert os.path.sameopenfile(peer.lent.fileno(), null.fileno())
    os.write(peer.lent.fileno(), b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    assert peer.is_closed()
    peer.end()
    assert app.end()["code"] == 4000


@pytest.mark.spec("FR 103")
def test_uwsgi_has_given_the_number_to_another_connection(
    adapt: Adapt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written on that; the application learns that its client left."""
    as_uwsgi(monkeypatch)
    ours, theirs = socket.socketpair()
    raised: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        os.dup2(theirs.fileno(), peer.lent.fileno())
        try:
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "secret"})
        except OSError as error:
            raised.append(error)

    begun = threading.Event()

    class Late(UWSGIPeer):
        def _serve(self) -> BaseException | None:
            wait(begun)
            return super()._serve()

    peer = Late(new(adapt, app))
    begun.set()
    assert isinstance(peer._thread.result(), errors.ClientDisconnected)
    assert [type(each) for each in raised] == [errors.ClientDisconnected]
    peer.end()
    theirs.close()
    assert ours.recv(100) == b""
    ours.close()


@pytest.mark.spec("FR 103")
@pytest.mark.parametrize(
    ("options", "environ", "reason"),
    [
        ({"http": b":80"}, {"UWSGI_ROUTER": "http"}, "http-websockets"),
        ({"https_socket": b":443,a,b"}, {}, "https-socket"),
        ({"socket": [b":1", b":2"], "fastcgi_socket": b":9"}, {}, "fastcgi-socket"),
        ({"protocol": b"scgi"}, {}, "protocol"),
        ({}, {"SERVER_SOFTWARE": "Apache/2.4.57 (Debian)"}, "http-socket"),
    ],
    ids=["router", "TLS", "fastcgi", "protocol", "Apache"],
)
def test_uwsgi_without_a_plain_connection(
    adapt_asyncio: Adapt,
    monkeypatch: pytest.MonkeyPatch,
    options: Any,
    environ: Any,
    reason: str,
) -> None:
    """The websocket is refused with what to set instead."""
    as_uwsgi(monkeypatch, **options)
    peer = UWSGIPeer(adapt_asyncio(Echo(), lifespan="off"), **environ)
    assert peer.result() is None
    assert [each[:3] for each in peer.statuses] == ["501"]
    assert reason in peer.body.decode()


@pytest.mark.spec("FR 103")
@pytest.mark.parametrize(
    "options",
    [
        {"http": b":80", "http_websockets": True},
        {"http": b":80", "http_raw_body": True, "https_socket": b":443,a,b"},
        {"socket": b":1"},
    ],
    ids=["websockets", "raw", "elsewhere"],
)
def test_uwsgi_behind_its_router(
    adapt_asyncio: Adapt, monkeypatch: pytest.MonkeyPatch, options: Any
) -> None:
    """A router that passes on everything, or whose options are another process's."""
    as_uwsgi(monkeypatch, **options)
    app = Echo()
    peer = UWSGIPeer(adapt_asyncio(app, lifespan="off"), UWSGI_ROUTER="http")
    assert peer.read_head().startswith(ACCEPTED)
    peer.client.close()
    assert app.end()["code"] == 1006
    assert peer.result() is None


@pytest.mark.skipif(not hasattr(socket, "MSG_NOSIGNAL"), reason="the system has no such flag")
def test_uwsgi_gets_no_signal() -> None:
    """Its handler of SIGPIPE would look for the request of the loop's thread."""
    came: list[int] = []
    before = signal.signal(signal.SIGPIPE, lambda number, frame: came.append(number))
    client, host = socket.socketpair()
    try:
        lent = UWSGISocket(host.fileno())
        lent.borrow()
        client.close()
        with pytest.raises(BrokenPipeError):
            lent.send(b"hi")
        lent.give_back()
    finally:
        host.close()
        signal.signal(signal.SIGPIPE, before)
    assert came == []
