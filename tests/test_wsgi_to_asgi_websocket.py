"""Websockets of WSGI applications on an ASGI server: a socket for the one, messages for the other."""

from __future__ import annotations

import errno
import gc
import os
import socket
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from driver import EVENT_SECONDS, lifespan, request, until
from websocket_driver import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    AppSocket,
    FakeWebSocket,
    Recording,
    adapter_of,
    echo,
    records_of,
    running,
)
from websocket_tools import frame

from bridges import ThreadPool, WSGIToASGI
from bridges.errors import ApplicationProtocolError, CrossingError
from bridges.typing import Environ, StartResponse

# The request.


@pytest.mark.spec("FR 102")
async def test_the_environ_is_of_a_request_for_a_websocket() -> None:
    """Of HTTP/1.1 whatever the server speaks, with the fields of a handshake, and a blocking socket of its own."""
    app = Recording(lambda ws, app: None, subprotocol="v2")
    with adapter_of(app) as adapter:
        ws = FakeWebSocket(
            path="/chat/1",
            http_version="2",
            scheme="wss",
            root_path="/chat",
            subprotocols=["v1", "v2"],
        )
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(0.001)
        try:
            await ws.serve(adapter)
        finally:
            socket.setdefaulttimeout(before)
    environ = app.environ
    expected = {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SCRIPT_NAME": "/chat",
        "PATH_INFO": "/1",
        "wsgi.url_scheme": "https",
        "HTTP_HOST": "testserver",
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_SEC_WEBSOCKET_PROTOCOL": "v1, v2",
    }
    assert {key: environ[key] for key in expected} == expected
    assert "HTTP_SEC_WEBSOCKET_EXTENSIONS" not in environ
    assert environ["werkzeug.socket"] is environ["gunicorn.socket"]
    assert environ["werkzeug.socket"].gettimeout() is None
    assert environ["wsgi.input"].read() == b""
    assert environ["asgi.scope"]["type"] == "websocket"
    assert ws.accept == {"type": "websocket.accept", "subprotocol": "v2"}


@pytest.mark.spec("FR 102")
async def test_a_server_without_host_field() -> None:
    """Libraries that read the request as a server would need one: it is made of the address."""
    app = Recording(lambda ws, app: None)
    with adapter_of(app) as adapter:
        await FakeWebSocket(headers=[]).serve(adapter)
    assert app.environ["HTTP_HOST"] == "127.0.0.1:8000"


@pytest.mark.spec("FR 101")
async def test_without_the_option_a_websocket_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As before: 403, and the application is not called; whoever forgot the option reads its name, once."""
    adapter = WSGIToASGI(echo)
    for _ in range(2):
        ws = await FakeWebSocket().serve(adapter)
        assert ws.sent[0]["status"] == 403
    (record,) = records_of(caplog)
    assert record.levelname == "WARNING"
    assert "websocket=True" in record.getMessage()


@pytest.mark.spec("ASGI WebSocket 2.5", "Disconnect")
async def test_a_client_that_has_left_already() -> None:
    """The application is not called."""
    with adapter_of(echo) as adapter:
        ws = FakeWebSocket()
        ws._coming.clear()
        ws.leaves()
        await ws.serve(adapter)
        assert ws.sent == []


@pytest.mark.spec("ASGI WebSocket 2.5", "Accept")
async def test_headers_of_the_response_reach_the_client() -> None:
    """Those of the application; the handshake's own are the server's."""
    app = Recording(lambda ws, app: None, fields="Set-Cookie: a=1\r\nX-More: b\r\n")
    with adapter_of(app) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert ws.accept is not None
    assert ws.accept["headers"] == [(b"set-cookie", b"a=1"), (b"x-more", b"b")]


# Messages.


@pytest.mark.spec("RFC 6455", "section 5.6")
async def test_messages_come_back() -> None:
    """Text and binary, empty, short and longer than what the pair holds; those that come before are not lost."""
    messages = ["hi", "", b"\0", "ä" * 70_000, b"x" * 3_000_000]
    with adapter_of(echo) as adapter:
        ws = FakeWebSocket()
        ws.says(*messages)
        async with running(ws, adapter) as failures:
            assert await ws.sees(len(messages)) == messages
            ws.leaves(1000, "done")
        assert failures == []
        assert ws.close is None


@pytest.mark.spec("RFC 6455", "section 5.5.2")
async def test_a_ping_of_the_application_is_answered() -> None:
    """With its payload; a pong of its own accord is ignored."""

    def act(ws: AppSocket, app: Recording) -> None:
        ws.frame(PONG, b"unasked")
        ws.frame(PING, b"now")
        app.seen.append(ws.receive())

    app = Recording(act)
    with adapter_of(app) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert app.seen == [(PONG, b"now")]
    assert ws.messages == []


@pytest.mark.spec("RFC 6455", "section 5.4")
async def test_fragments_of_the_application_are_joined() -> None:
    """ASGI has whole messages."""

    def act(ws: AppSocket, app: Recording) -> None:
        ws.sock.sendall(b"\x01\x02He\x89\x00\x80\x03llo")

    with adapter_of(Recording(act)) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert ws.messages == ["Hello"]


@pytest.mark.spec("issue 5", "2. backpressure")
async def test_an_application_that_does_not_read_makes_the_client_wait() -> None:
    """receive() is not called again while its socket is full; what came is all there when it reads on."""
    go = threading.Event()
    size, count = 100_000, 50

    def act(ws: AppSocket, app: Recording) -> None:
        assert go.wait(EVENT_SECONDS)
        app.seen += [len(data) for opcode, data in ws.all() if opcode == BINARY]

    app = Recording(act)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await ws.until(lambda ws: ws.accept)
            ws.says(*[b"x" * size] * count)
            await anyio.wait_all_tasks_blocked()
            waiting = ws.receives
            assert waiting < count
            await anyio.wait_all_tasks_blocked()
            assert ws.receives == waiting
            go.set()
            ws.leaves(1000)
        assert failures == []
    assert app.seen == [size] * count


@pytest.mark.spec("issue 5", "2. backpressure")
async def test_a_client_that_does_not_read_makes_the_application_wait() -> None:
    """Its socket fills up: it cannot send on while send() of the server waits."""
    go = anyio.Event()
    sent: list[int] = []

    async def hold(message: Any) -> None:
        if message["type"] == "websocket.send":
            await go.wait()

    def act(ws: AppSocket, app: Recording) -> None:
        for number in range(40):
            ws.send(b"x" * 100_000)
            sent.append(number)

    app = Recording(act)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket(on_send=hold)
        async with running(ws, adapter) as failures:
            await until(app.began)
            await anyio.wait_all_tasks_blocked()
            assert len(sent) < 40
            assert not app.ended.is_set()
            go.set()
        assert failures == []
        assert len(ws.messages) == len(sent) == 40


@pytest.mark.spec("RFC 6455", "section 4.2.2")
async def test_a_large_message_right_behind_the_opening() -> None:
    """The limit is one of the head, whatever is read together with it."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        written: list[bytes] = []
        sock = environ["werkzeug.socket"]
        AppSocket({**environ, "werkzeug.socket": SimpleNamespace(sendall=written.append)})
        (head,) = written
        sock.sendall(head[:40])
        sock.sendall(head[40:] + frame(BINARY, b"x" * 150_000, key=None))
        return []

    with adapter_of(app) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert (ws.messages, ws.close) == ([b"x" * 150_000], (1000, ""))


# The end.


@pytest.mark.spec("RFC 6455", "section 7.1.5")
async def test_the_application_closes() -> None:
    """Code and reason reach the client; the application gets an answer and the end, and its thread is free."""

    def act(ws: AppSocket, app: Recording) -> None:
        ws.send("last")
        ws.close(4001, "bye")
        app.seen += ws.all()

    app = Recording(act)
    with adapter_of(app) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert (ws.messages, ws.close) == (["last"], (4001, "bye"))
    assert app.seen == [(CLOSE, b"\x0f\xa1bye")]


@pytest.mark.spec("RFC 6455", "section 7.1.5")
async def test_a_close_frame_without_code() -> None:
    """Is a normal close to the server, which knows no other."""
    with adapter_of(Recording(lambda ws, app: ws.frame(CLOSE))) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert ws.close == (1000, "")


@pytest.mark.spec("RFC 6455", "section 7.1.5")
@pytest.mark.parametrize(
    ("code", "frames"),
    [
        (1000, [(CLOSE, b"\x03\xe8over")]),
        (1001, [(CLOSE, b"\x03\xe9over")]),
        (1012, [(CLOSE, b"\x03\xf4over")]),
        (4999, [(CLOSE, b"\x13\x87over")]),
        (1005, [(CLOSE, b"")]),
        (1006, []),
        (999, []),
    ],
)
async def test_the_client_closes(code: int, frames: list[tuple[int, bytes]]) -> None:
    """The application reads what came before, a close frame if there was one, and the end."""
    app = Recording(lambda ws, app: app.seen.extend(ws.all()))
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await ws.until(lambda ws: ws.accept)
            ws.says("before")
            ws.leaves(code, "over")
        assert failures == []
    assert app.seen == [(TEXT, b"before"), *frames]
    assert ws.close is None


@pytest.mark.spec("issue 5", "2. a client that vanishes frees the thread")
@pytest.mark.parametrize("code", [1000, 1006])
async def test_an_application_that_only_sends_learns_that_its_client_has_left(code: int) -> None:
    """Its send fails, which is no error, and its thread is free."""

    def act(ws: AppSocket, app: Recording) -> None:
        while True:
            ws.send(b"x" * 1000)

    app = Recording(act)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await ws.sees(3)
            ws.leaves(code)
        assert failures == []
    assert app.ended.is_set()


@pytest.mark.spec("issue 5", "2. a client that vanishes frees the thread")
async def test_a_send_that_waits_for_a_client_that_has_left() -> None:
    """Some servers let it wait for ever: it is called off."""
    sending = anyio.Event()

    async def hold(message: Any) -> None:
        if message["type"] == "websocket.send":
            sending.set()
            await anyio.sleep_forever()

    app = Recording(lambda ws, app: (ws.send("x"), app.seen.extend(ws.all()))[:0])
    with adapter_of(app) as adapter:
        ws = FakeWebSocket(on_send=hold)
        async with running(ws, adapter) as failures:
            await sending.wait()
            ws.leaves(1001)
        assert failures == []
    assert app.seen == [(CLOSE, b"\x03\xe9")]


@pytest.mark.spec("ASGI WebSocket 2.5", "Send")
async def test_a_send_that_fails_is_a_client_that_has_left() -> None:
    """An OSError of the server's send() is all that some tell; it is no error of the application."""

    async def fail(message: Any) -> None:
        if message["type"] == "websocket.send":
            raise BrokenPipeError

    app = Recording(lambda ws, app: (ws.send("x"), app.seen.extend(ws.all()))[:0])
    with adapter_of(app) as adapter:
        async with running(FakeWebSocket(on_send=fail), adapter) as failures:
            pass
        assert failures == []
    assert app.ended.is_set()
    assert app.seen == []


@pytest.mark.spec("ASGI WebSocket 2.5", "Send")
@pytest.mark.parametrize("closes", [True, False])
async def test_a_close_that_fails_is_a_client_that_has_left(closes: bool) -> None:
    """It is no error of the application, which gets the answer to its close frame and the end all the same."""

    async def fail(message: Any) -> None:
        if message["type"] == "websocket.close":
            raise BrokenPipeError

    def act(ws: AppSocket, app: Recording) -> None:
        if closes:
            ws.close(4001)
            app.seen += ws.all()

    app = Recording(act)
    with adapter_of(app) as adapter:
        async with running(FakeWebSocket(on_send=fail), adapter) as failures:
            pass
        assert failures == []
    assert app.seen == ([(CLOSE, b"\x0f\xa1")] if closes else [])


@pytest.mark.spec("issue 5", "2. a client that vanishes frees the thread")
async def test_a_send_that_fails_when_the_client_has_closed() -> None:
    """The application that goes on writing and never reads is not left with a socket that nobody empties."""
    go = anyio.Event()

    async def fail(message: Any) -> None:
        if message["type"] == "websocket.send":
            with anyio.CancelScope(shield=True):
                await go.wait()
            raise BrokenPipeError

    def act(ws: AppSocket, app: Recording) -> None:
        while True:
            ws.send(b"x" * 100_000)

    app = Recording(act)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket(on_send=fail)
        async with running(ws, adapter) as failures:
            await until(app.began)
            await anyio.wait_all_tasks_blocked()
            ws.leaves(1000)
            await anyio.wait_all_tasks_blocked()
            go.set()
        assert failures == []
    assert app.ended.is_set()


@pytest.mark.spec("issue 5", "2. bad server")
async def test_what_receive_and_send_raise_is_raised() -> None:
    """The server is told of its own failure, and the thread is free."""

    async def fail(message: Any) -> None:
        if message["type"] == "websocket.send":
            raise LookupError("of the server")

    app = Recording(lambda ws, app: (ws.send("x"), app.seen.extend(ws.all()))[:0])
    with adapter_of(app) as adapter:
        with pytest.raises(LookupError, match="of the server"):
            await FakeWebSocket(on_send=fail).serve(adapter)
        ws, calls = FakeWebSocket(), []

        async def receive() -> Any:
            calls.append(None)
            if len(calls) > 1:
                raise LookupError("of receive")
            return {"type": "websocket.connect"}

        with pytest.raises(LookupError, match="of receive"):
            await adapter(ws.scope, receive, ws._send)
    assert app.ended.is_set()


@pytest.mark.spec("issue 5", "2. an app that ends without closing")
async def test_an_application_that_returns_closes_normally() -> None:
    """Whatever it returns or sends as a response is dropped; what it sent on its socket is not."""

    def respond(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        AppSocket(environ).send("last")
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"x" * 1_000_000
        yield b"y" * 1_000_000

    for app in (Recording(lambda ws, app: ws.send("last")), respond):
        with adapter_of(app) as adapter:
            ws = await FakeWebSocket().serve(adapter)
        assert [each["type"] for each in ws.sent] == [
            "websocket.accept",
            "websocket.send",
            "websocket.close",
        ]
        assert ws.close == (1000, "")


def raises(error: BaseException) -> Any:
    def act(ws: AppSocket, app: Recording) -> None:
        ws.send("last")
        raise error

    return Recording(act)


@pytest.mark.spec("FR 102", "Flask-Sock under gunicorn, python-engineio under werkzeug")
@pytest.mark.parametrize("error", [StopIteration(), ConnectionError()])
async def test_exceptions_by_which_libraries_end_are_none(error: BaseException) -> None:
    """A bare StopIteration or ConnectionError says that the socket was taken over."""
    with adapter_of(raises(error)) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert (ws.messages, ws.close) == (["last"], (1000, ""))


@pytest.mark.spec("issue 5", "2. an app that raises")
@pytest.mark.parametrize("error", [ValueError("mine"), ConnectionRefusedError("of its database")])
async def test_an_application_that_raises_is_1011_and_raised(error: Exception) -> None:
    """The client is told, and the server logs the exception, as of a request."""
    with adapter_of(raises(error)) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            pass
    assert failures == [error]
    assert (ws.messages, ws.close) == (["last"], (1011, ""))


@pytest.mark.spec("issue 5", "2. an app that raises")
async def test_a_framework_that_answers_an_exception_by_itself() -> None:
    """A response of 500 on an open websocket says what the exception would have."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        AppSocket(environ)
        start_response("500 Internal Server Error", [])
        return [b"oops"]

    with adapter_of(app) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert ws.close == (1011, "")


@pytest.mark.spec("issue 5", "2. an app that raises")
async def test_an_application_that_raises_behind_its_close() -> None:
    """The websocket is closed already; the exception is raised all the same."""

    def act(ws: AppSocket, app: Recording) -> None:
        ws.close(4001)
        raise ValueError("mine")

    with adapter_of(Recording(act)) as adapter:
        ws = FakeWebSocket()
        with pytest.raises(ValueError, match="mine"):
            await ws.serve(adapter)
    assert ws.close == (4001, "")


@pytest.mark.spec("issue 5", "2. the descriptor pair")
async def test_an_application_that_closes_its_socket_unread() -> None:
    """What it sent before arrives; what it did not read is lost, and nobody waits for it."""
    go = threading.Event()

    def act(ws: AppSocket, app: Recording) -> None:
        assert go.wait(EVENT_SECONDS)
        ws.send("last")
        ws.sock.close()

    app = Recording(act)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await ws.until(lambda ws: ws.accept)
            ws.says("unread", b"x" * 3_000_000)
            await anyio.wait_all_tasks_blocked()
            go.set()
        assert failures == []
    assert (ws.messages, ws.close) == (["last"], (1000, ""))


@pytest.mark.spec("issue 5", "2. the descriptor pair")
async def test_a_copy_of_the_socket_that_is_left_open() -> None:
    """Nobody waits for it: the end of the call is the end."""
    copies = []

    def act(ws: AppSocket, app: Recording) -> None:
        copies.append(ws.sock.dup())
        ws.send(b"x" * 100_000)
        ws.sock.close()

    with adapter_of(Recording(act)) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            pass
        assert failures == []
    assert ([len(each) for each in ws.messages], ws.close) == ([100_000], (1000, ""))
    copies[0].close()


@pytest.mark.spec("issue 5", "2. bad frames")
async def test_bad_frames_of_the_application() -> None:
    """Are its mistake: 1011 for the client, an error for the server."""

    def act(ws: AppSocket, app: Recording) -> None:
        ws.send("good")
        ws.frame(3, b"bad")
        app.seen += ws.all()

    app = Recording(act)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        with pytest.raises(ApplicationProtocolError, match="bad frames"):
            await ws.serve(adapter)
    assert (ws.messages, ws.close) == (["good"], (1011, ""))
    assert app.seen == []


@pytest.mark.spec("RFC 6455", "section 4.2.2")
@pytest.mark.parametrize(
    "written", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"garbage", b"x" * 100_000]
)
async def test_something_else_than_a_101(written: bytes) -> None:
    """Is the application's mistake, which the server answers with 500; nothing was accepted."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["werkzeug.socket"].sendall(written)
        return []

    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        with pytest.raises(ApplicationProtocolError, match="101 response"):
            await ws.serve(adapter)
    assert ws.sent == []


# A response instead.


def deny(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as to any request."""
    start_response("401 Unauthorized", [("X-Why", "because")])
    return [b"no, ", b"not you"]


@pytest.mark.spec("ASGI extensions", "Websocket Denial Response")
async def test_a_response_denies_the_websocket() -> None:
    """With its status, headers and body where the server can."""
    with adapter_of(deny) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    start, *bodies = ws.sent
    assert start["status"] == 401
    assert (b"x-why", b"because") in start["headers"]
    assert b"".join(each["body"] for each in bodies) == b"no, not you"
    assert [each["more_body"] for each in bodies][-1] is False


@pytest.mark.spec("ASGI WebSocket 2.5", "Close")
async def test_a_server_without_denial_responses() -> None:
    """Answers 403: that is what a close before accept says."""
    with adapter_of(deny) as adapter:
        ws = await FakeWebSocket(extensions={}).serve(adapter)
    assert [each["type"] for each in ws.sent] == ["websocket.close"]


@pytest.mark.spec("issue 5", "2. an app that raises")
async def test_an_application_that_raises_before_it_accepts() -> None:
    """The exception is the server's, which answers 500."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        raise ValueError("mine")

    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        with pytest.raises(ValueError, match="mine"):
            await ws.serve(adapter)
    assert ws.sent == []


@pytest.mark.spec("issue 2", "7. Bad input")
async def test_headers_that_must_be_refused() -> None:
    """As in a request: 400 for a field that could pass for another one, and the application is not called."""
    with adapter_of(echo, header_policy="refuse") as adapter:
        ws = await FakeWebSocket(headers=[(b"x_y", b"z")]).serve(adapter)
    assert ws.sent[0]["status"] == 400


@pytest.mark.spec("issue 5", "2. a client that vanishes frees the thread")
async def test_a_client_that_leaves_before_it_is_accepted() -> None:
    """The application's own response to its socket fails, which is no error."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        began.set()
        assert environ["werkzeug.socket"].recv(1) == b""
        return echo(environ, start_response)

    began = threading.Event()
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await until(began)
            ws.leaves()
        assert failures == []
    assert ws.sent == []


# Threads, the stop.


@pytest.mark.spec("issue 5", "2. saturated pool")
@pytest.mark.parametrize("extensions", [{"websocket.http.response": {}}, {}])
async def test_one_websocket_too_many_is_refused(extensions: dict[str, Any]) -> None:
    """With 503, or by a close where there is no response; requests have threads of their own."""
    with adapter_of(echo, max_websockets=1, max_threads=1) as adapter:
        first = FakeWebSocket()
        async with running(first, adapter) as failures:
            await first.until(lambda ws: ws.accept)
            second = await FakeWebSocket(extensions=extensions).serve(adapter)
            assert adapter.websocket_pool is not None
            assert adapter.websocket_pool.snapshot().busy == 1
            first.leaves()
        assert failures == []
    if extensions:
        assert second.sent[0]["status"] == 503
        assert (b"retry-after", b"1") in second.sent[0]["headers"]
    else:
        assert second.close == (1013, "too many websockets")


@pytest.mark.spec("issue 5", "2. threads")
async def test_open_websockets_keep_no_request_waiting() -> None:
    """Their threads come on top of those of requests."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if "werkzeug.socket" in environ:
            return echo(environ, start_response)
        start_response("200 OK", [])
        return [b"served"]

    with adapter_of(app, max_threads=1) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter):
            await ws.until(lambda ws: ws.accept)
            assert (await request(adapter)).body == b"served"
            ws.leaves()


@pytest.mark.spec("issue 5", "2. threads")
async def test_threads_of_websockets_end_as_the_others_do() -> None:
    """on_thread_exit of a shared pool is called in them too."""
    ended: list[str] = []
    pool = ThreadPool(1, on_thread_exit=lambda: ended.append(threading.current_thread().name))
    with adapter_of(echo, pool=pool) as adapter:
        ws = FakeWebSocket()
        ws.leaves()
        await ws.serve(adapter)
        assert adapter.websocket_pool is not None
        assert adapter.websocket_pool.shutdown(EVENT_SECONDS)
        assert ended == ["bridges-websocket-1"]


@pytest.mark.spec("issue 5", "2. the pool's shutdown and lifespan end")
async def test_the_end_of_the_lifespan_ends_websockets() -> None:
    """Client and application are told 1001, a late one is served by new threads."""
    app = Recording(lambda ws, app: app.seen.extend(ws.all()))
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await ws.until(lambda ws: ws.accept)
            async with lifespan(adapter) as server:
                await server.tell("startup")
                await server.tell("shutdown")
            assert adapter.websocket_pool is not None
            assert adapter.websocket_pool.closed
            assert adapter.websocket_pool.snapshot().threads == 0
        assert failures == []
        assert ws.close == (1001, "the server is stopping")
        assert app.seen == [(CLOSE, b"\x03\xe9the server is stopping")]
        late = FakeWebSocket()
        async with running(late, adapter) as failures:
            await late.until(lambda ws: ws.accept)
            late.leaves()
        assert failures == []


@pytest.mark.spec("issue 5", "2. the pool's shutdown and lifespan end")
async def test_a_stop_while_the_application_has_not_accepted() -> None:
    """Its socket is at its end, so that nothing waits for it."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        began.set()
        assert environ["werkzeug.socket"].recv(1) == b""
        start_response("200 OK", [])
        return []

    began = threading.Event()
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await until(began)
            async with lifespan(adapter) as server:
                await server.tell("startup")
                await server.tell("shutdown")
        assert failures == []


@pytest.mark.spec("issue 5", "2. server-initiated close")
async def test_a_server_that_cancels_the_websocket() -> None:
    """The application sees the end of its socket, and its thread is free."""
    app = Recording(lambda ws, app: app.seen.extend(ws.all()))
    with adapter_of(app) as adapter:
        await cancel_when_accepted(adapter)
        await until(app.ended)
    assert app.seen == []


async def cancel_when_accepted(adapter: WSGIToASGI) -> None:
    ws = FakeWebSocket()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ws.serve, adapter)
        await ws.until(lambda ws: ws.accept)
        tasks.cancel_scope.cancel()


@pytest.mark.spec("issue 5", "2. server-initiated close")
@pytest.mark.parametrize(
    ("error", "reported"),
    [(None, False), (ConnectionError(), False), (StopIteration(), False), (KeyError("x"), True)],
    ids=["return", "ConnectionError", "StopIteration", "KeyError"],
)
async def test_how_an_application_ends_that_was_cancelled(
    caplog: pytest.LogCaptureFixture, error: Exception | None, reported: bool
) -> None:
    """The ways to leave a socket are no failures then either, such as an empty list without `start_response`."""

    def act(ws: AppSocket, app: Recording) -> None:
        ws.all()
        if error is not None:
            raise error

    with adapter_of(Recording(act)) as adapter:
        await cancel_when_accepted(adapter)
    assert [record.levelname for record in records_of(caplog)] == ["ERROR"] * reported


@pytest.mark.spec("issue 5", "Done when: clients that vanish leave memory flat")
async def test_who_keeps_the_environ_keeps_no_connection() -> None:
    """Flask-Sock keeps it until the garbage collector runs; the server's half of a message must not wait with it."""
    app = Recording(lambda ws, app: ws.all())
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        freed = threading.Event()
        watched = weakref.ref(ws, lambda _: freed.set())
        async with running(ws, adapter):
            await ws.until(lambda ws: ws.accept)
            ws.leaves()
        gc.disable()
        try:
            del ws
            await until(freed)
        finally:
            gc.enable()
    assert watched() is None
    assert app.environ["werkzeug.socket"].fileno() == -1


DESCRIPTORS = Path("/proc/self/fd")


@pytest.mark.spec("issue 5", "2. the descriptor pair")
@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="descriptors are counted in /proc")
async def test_descriptors_are_closed_once() -> None:
    """However a websocket ends, none is left, and none of anybody else is closed in its place."""

    def close_it(ws: AppSocket, app: Recording) -> None:
        ws.sock.close()
        app.seen.append(os.open("/dev/null", os.O_RDONLY))  # takes the number that became free

    closes = Recording(close_it)
    apps = [echo, deny, closes, Recording(lambda ws, app: ws.close(1000)), raises(ValueError())]
    with adapter_of(echo) as warm:
        ws = FakeWebSocket()
        ws.leaves()
        await ws.serve(warm)
    gc.collect()
    before = len(list(DESCRIPTORS.iterdir()))
    for app in apps:
        with adapter_of(app) as adapter:
            for code in (1000, 1006):
                ws = FakeWebSocket()
                ws.leaves(code)
                async with running(ws, adapter):
                    pass
    assert len(list(DESCRIPTORS.iterdir())) <= before + len(closes.seen)
    for descriptor in closes.seen:
        os.close(descriptor)  # raises where somebody else has closed it


@pytest.mark.spec("issue 5", "2. the descriptor pair")
@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="descriptors are counted in /proc")
async def test_without_a_descriptor_for_its_copy_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pair took the last ones: both are closed again, and the server is told."""

    def fail(self: socket.socket) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with adapter_of(echo) as adapter:
        before = len(list(DESCRIPTORS.iterdir()))
        monkeypatch.setattr(socket.socket, "dup", fail)
        with pytest.raises(CrossingError, match="Too many open files"):
            await FakeWebSocket().serve(adapter)
        assert len(list(DESCRIPTORS.iterdir())) <= before


@pytest.mark.spec("issue 5", "2. the pool's shutdown and lifespan end")
async def test_a_stop_before_the_websocket_has_begun(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing fails, though its server gives the connect only afterwards."""
    with adapter_of(echo) as adapter:
        ws = FakeWebSocket()
        connect = ws._coming.popleft()
        async with running(ws, adapter) as failures:
            await anyio.wait_all_tasks_blocked()
            async with lifespan(adapter) as server:
                await server.tell("startup")
                await server.tell("shutdown")
            await anyio.wait_all_tasks_blocked()
            ws._come(connect)
            ws.leaves()
        assert failures == []
    assert records_of(caplog) == []
