"""Websockets of WSGI applications by ``environ["wsgi.websocket"]``, as gevent-websocket has it, on an ASGI server."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import anyio.to_thread
import pytest
from driver import EVENT_SECONDS, lifespan, request, until
from websocket_driver import AppSocket, FakeWebSocket, adapter_of, records_of, running

from bridges.crossing.gates import current_gate
from bridges.errors import ApplicationProtocolError, CrossingError, WebSocketError
from bridges.typing import Environ, StartResponse
from bridges.wsgi.websocket_object import ObjectLine

GEVENT_WEBSOCKET = "gevent-websocket 0.10.1"


class App:
    """An application that hands its object to a function, and returns as those for gevent-websocket do.

    Attributes:
        began: set when it is called.
        ended: set when the call is over.
        seen: what the function put there.
    """

    def __init__(self, act: Callable[[Any, App], Any]) -> None:
        self._act = act
        self.began = threading.Event()
        self.ended = threading.Event()
        self.seen: list[Any] = []
        self.environ: Environ = {}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        self.environ = dict(environ)
        self.began.set()
        try:
            return self._act(environ["wsgi.websocket"], self)
        finally:
            self.ended.set()


def echo(ws: Any, app: App) -> None:
    """Send back what comes, until None."""
    while (message := ws.receive()) is not None:
        app.seen.append(type(message))
        ws.send(message)


def listen(ws: Any, app: App) -> None:
    """Note what comes."""
    app.seen.extend(iter(ws.receive, None))


def kinds(ws: FakeWebSocket) -> list[str]:
    return [each["type"].removeprefix("websocket.") for each in ws.sent]


# The request.


@pytest.mark.spec("FR 102")
async def test_what_the_object_tells_of_the_request() -> None:
    """Path, origin, offered subprotocols and version are there, and nothing is sent for them."""

    def act(ws: Any, app: App) -> list[bytes]:
        app.seen += [ws.path, ws.origin, ws.protocol, ws.version]
        app.seen += [ws.environ["PATH_INFO"], ws.environ["wsgi.websocket_version"], repr(ws)]
        raise ValueError("nothing was opened")

    app = App(act)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket(
            path="/chat/1",
            root_path="/chat",
            subprotocols=["v1", "v2"],
            headers=[(b"origin", b"https://here")],
        )
        with pytest.raises(ValueError, match="nothing was opened"):
            await ws.serve(adapter)
    assert app.seen == ["/1", "https://here", "v1, v2", "13", "/1", "13", "<WebSocket /1>"]
    assert ws.sent == []


@pytest.mark.spec("FR 102")
async def test_a_request_without_websocket_has_no_object() -> None:
    """Applications ask the environ for it to tell one from the other."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [repr(environ.get("wsgi.websocket")).encode()]

    with adapter_of(app) as adapter:
        assert (await request(adapter)).body == b"None"


@pytest.mark.spec(GEVENT_WEBSOCKET, "WebSocketHandler.upgrade_connection")
@pytest.mark.parametrize(
    ("chosen", "accepted"), [("v2", "v2"), ("v", None), ("", None), (None, None)]
)
async def test_the_application_chooses_a_subprotocol(chosen: Any, accepted: Any) -> None:
    """By its method app_protocol, which is asked for the path; only what was offered is taken."""
    app = App(echo)
    asked: list[str] = []
    app.app_protocol = lambda path: asked.append(path) or chosen  # type: ignore[attr-defined]
    with adapter_of(app) as adapter:
        ws = FakeWebSocket(path="/chat", subprotocols=["v1", "v2"])
        async with running(ws, adapter) as failures:
            await ws.until(lambda ws: ws.accept)
            ws.leaves(1000)
        assert failures == []
    assert ws.accept == {"type": "websocket.accept", "subprotocol": accepted}
    assert asked == ["/chat"]


@pytest.mark.spec(GEVENT_WEBSOCKET, "WebSocketHandler.upgrade_connection")
async def test_without_app_protocol_no_subprotocol_is_chosen() -> None:
    """The application has no other way to choose."""
    with adapter_of(App(lambda ws, app: ws.close())) as adapter:
        ws = await FakeWebSocket(subprotocols=["v1"]).serve(adapter)
    assert ws.accept == {"type": "websocket.accept", "subprotocol": None}


@pytest.mark.spec("FR 102")
@pytest.mark.parametrize(
    "use",
    [
        lambda ws: ws.send("x"),
        lambda ws: ws.close(),
        lambda ws: ws.closed,
        lambda ws: ws.receive(),
    ],
    ids=["send", "close", "closed", "receive"],
)
async def test_the_first_use_opens_the_websocket(use: Callable[[Any], Any]) -> None:
    """Whichever it is; what the client sends waits for it."""
    app = App(lambda ws, app: app.seen.append(use(ws)))
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        ws.says("early")
        await ws.serve(adapter)
    assert kinds(ws)[0] == "accept"
    assert kinds(ws)[-1] == "close"
    assert app.seen in (["early"], [None], [False])


# Messages.


@pytest.mark.spec(GEVENT_WEBSOCKET, "WebSocket.receive, WebSocket.send")
async def test_messages_come_back() -> None:
    """Texts are str and binary messages bytearrays; empty, short, and larger than what may be under way."""
    messages = ["hi", "", b"\0", b"", "ä" * 70_000, b"x" * 3_000_000]
    app = App(echo)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        ws.says(*messages)
        async with running(ws, adapter) as failures:
            assert await ws.sees(len(messages)) == messages
            ws.leaves(1000, "done")
        assert failures == []
        assert ws.close is None
    assert app.seen == [str, str, bytearray, bytearray, str, bytearray]


@pytest.mark.spec(GEVENT_WEBSOCKET, "WebSocket.send")
async def test_what_may_be_sent() -> None:
    """The type decides, or the second argument; whatever is no message is refused in the application."""

    def act(ws: Any, app: App) -> None:
        ws.send("ä")
        ws.send("ä", True)
        ws.send("ä", binary=False)
        ws.send(b"b")
        ws.send(bytearray(b"b"), binary=True)
        ws.send(memoryview(b"\xc3\xa4"), binary=False)
        for wrong, error in [
            (5, TypeError),
            (None, TypeError),
            (["x"], TypeError),
            ("\ud800", UnicodeError),
        ]:
            with pytest.raises(error):
                ws.send(wrong)
        with pytest.raises(UnicodeError):
            ws.send(b"\xff", binary=False)

    with adapter_of(App(act)) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert ws.messages == ["ä", "ä".encode(), "ä", b"b", b"b", "ä"]
    assert ws.close == (1000, "")


@pytest.mark.spec(GEVENT_WEBSOCKET, "WebSocket.send")
async def test_a_buffer_may_be_used_again() -> None:
    """What is sent is what it held at that moment."""
    buffer = bytearray(b"one")
    go = anyio.Event()

    async def hold(message: Any) -> None:
        if message["type"] == "websocket.send":
            await go.wait()

    def act(ws: Any, app: App) -> None:
        ws.send(buffer)
        buffer[:] = b"two"
        ws.send(buffer)
        buffer[:] = b"ten"

    app = App(act)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket(on_send=hold)
        async with running(ws, adapter):
            await until(app.ended)
            go.set()
    assert ws.messages == [b"one", b"two"]


@pytest.mark.spec("FR 102")
async def test_threads_send_while_one_receives() -> None:
    """As those of a broadcast do: every message arrives whole, those of one thread in order."""
    senders, count = 4, 50

    def act(ws: Any, app: App) -> None:
        def shout(number: int) -> None:
            for turn in range(count):
                ws.send(f"{number} {turn}")

        threads = [threading.Thread(target=shout, args=(number,)) for number in range(senders)]
        for thread in threads:
            thread.start()
        listen(ws, app)
        for thread in threads:
            thread.join()

    app = App(act)
    with adapter_of(app, buffer_bytes=1000) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            messages = [str(each).split() for each in await ws.sees(senders * count)]
            ws.says("enough")
            ws.leaves(1000)
        assert failures == []
    for number in range(senders):
        turns = [turn for who, turn in messages if who == str(number)]
        assert turns == [str(turn) for turn in range(count)]
    assert app.seen == ["enough"]


@pytest.mark.spec("issue 5", "2. backpressure")
@pytest.mark.parametrize("message", [b"x" * 100_000, b""], ids=["large", "empty"])
async def test_an_application_that_does_not_receive_makes_the_client_wait(message: bytes) -> None:
    """receive() is not called again while enough is under way; all of it is there when the application goes on."""
    go = threading.Event()
    count = 50 if message else 1000

    def act(ws: Any, app: App) -> None:
        assert not ws.closed
        assert go.wait(EVENT_SECONDS)
        listen(ws, app)

    app = App(act)
    with adapter_of(app, buffer_bytes=10_000) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await ws.until(lambda ws: ws.accept)
            ws.says(*[message] * count)
            await anyio.wait_all_tasks_blocked()
            waiting = ws.receives
            assert waiting < count
            await anyio.wait_all_tasks_blocked()
            assert ws.receives == waiting
            go.set()
            ws.leaves(1000)
        assert failures == []
    assert app.seen == [message] * count


@pytest.mark.spec("issue 5", "2. backpressure")
@pytest.mark.parametrize("message", [b"x" * 100_000, b""], ids=["large", "empty"])
async def test_a_client_that_does_not_read_makes_the_application_wait(message: bytes) -> None:
    """It cannot send on while send() of the server waits and enough is under way."""
    go = anyio.Event()
    sent: list[int] = []
    count = 40 if message else 1000

    async def hold(message: Any) -> None:
        if message["type"] == "websocket.send":
            await go.wait()

    def act(ws: Any, app: App) -> None:
        for number in range(count):
            ws.send(message)
            sent.append(number)

    app = App(act)
    with adapter_of(app, buffer_bytes=10_000) as adapter:
        ws = FakeWebSocket(on_send=hold)
        async with running(ws, adapter) as failures:
            await until(app.began)
            await anyio.wait_all_tasks_blocked()
            assert len(sent) < count
            assert not app.ended.is_set()
            go.set()
        assert failures == []
        assert len(ws.messages) == len(sent) == count


# The end.


@pytest.mark.spec("RFC 6455", "section 7.1.5")
@pytest.mark.parametrize(
    ("arguments", "close"),
    [
        ((), (1000, "")),
        ((4001, "bye"), (4001, "bye")),
        ((4001, "gr\xfc\xdfe".encode()), (4001, "gr\xfc\xdfe")),
        ((1008, None), (1008, "")),
    ],
)
async def test_the_application_closes(arguments: Any, close: Any) -> None:
    """Code and reason reach the client behind what was sent; then it is closed, and closing it again is nothing."""

    def act(ws: Any, app: App) -> None:
        assert not ws.closed
        ws.send("last")
        ws.close(*arguments)
        assert ws.closed
        ws.close(4002, "again")
        for use in (ws.receive, lambda: ws.send("more")):
            with pytest.raises(WebSocketError):
                use()

    with adapter_of(App(act)) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert (ws.messages, ws.close) == (["last"], close)


@pytest.mark.spec("RFC 6455", "section 7.4.1")
@pytest.mark.parametrize("code", [0, 999, 1005, 1006, 1015, 2000, 5000])
async def test_a_code_that_no_close_frame_may_have(code: int) -> None:
    """Is refused where it is given, and the websocket stays open."""

    def act(ws: Any, app: App) -> None:
        with pytest.raises(ValueError, match="close code"):
            ws.close(code)
        ws.close(1000)

    with adapter_of(App(act)) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert ws.close == (1000, "")


@pytest.mark.spec("FR 102")
async def test_a_thread_that_receives_while_another_one_closes() -> None:
    """Gets None, without an answer of the client."""
    inner: list[Any] = []

    def act(ws: Any, app: App) -> None:
        assert not ws.closed
        thread = threading.Thread(target=lambda: inner.append(ws.receive()))
        thread.start()
        ws.close()
        thread.join(EVENT_SECONDS)
        assert not thread.is_alive()

    with adapter_of(App(act)) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert ws.close == (1000, "")
    assert inner in ([None], [])  # or it came too late, which raises in its thread


@pytest.mark.spec(GEVENT_WEBSOCKET, "WebSocket.receive")
@pytest.mark.parametrize("code", [1000, 1001, 1006, 4002])
async def test_the_client_closes_or_vanishes(code: int) -> None:
    """The application gets what came before, None once, and then errors."""

    def act(ws: Any, app: App) -> None:
        listen(ws, app)
        assert ws.closed
        for use in (ws.receive, lambda: ws.send("more")):
            with pytest.raises(WebSocketError):
                use()

    app = App(act)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await ws.until(lambda ws: ws.accept)
            ws.says("before", b"it")
            ws.leaves(code, "over")
        assert failures == []
    assert app.seen == ["before", b"it"]
    assert ws.close is None


@pytest.mark.spec("FR 102")
async def test_what_came_before_the_client_left_is_received() -> None:
    """closed stays False until then, though its sends fail: chats that look at it first lose no last message."""
    left = threading.Event()

    def act(ws: Any, app: App) -> None:
        assert not ws.closed
        assert left.wait(EVENT_SECONDS)
        while not ws.closed:
            app.seen.append(ws.receive())

    app = App(act)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await ws.until(lambda ws: ws.accept)
            ws.says("last")
            ws.leaves(1000)
            await anyio.wait_all_tasks_blocked()
            left.set()
        assert failures == []
    assert app.seen == ["last"]


@pytest.mark.spec(GEVENT_WEBSOCKET, "WebSocket.close")
async def test_a_close_when_the_client_has_left() -> None:
    """Is nothing, though the application does not know of that yet."""
    left = threading.Event()

    def act(ws: Any, app: App) -> None:
        assert not ws.closed
        assert left.wait(EVENT_SECONDS)
        ws.close(4001)
        app.seen.append(ws.closed)

    app = App(act)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await ws.until(lambda ws: ws.accept)
            ws.says("unread")
            ws.leaves(1000)
            await anyio.wait_all_tasks_blocked()
            left.set()
        assert failures == []
    assert app.seen == [True]
    assert ws.close is None


@pytest.mark.spec("issue 5", "2. a client that vanishes frees the thread")
@pytest.mark.parametrize("code", [1000, 1006])
async def test_an_application_that_only_sends_learns_that_its_client_has_left(code: int) -> None:
    """Its send raises, which is no error of the application; closed is True, what it has not received or not."""

    def act(ws: Any, app: App) -> None:
        try:
            while True:
                ws.send(b"x" * 1000)
        except OSError:
            app.seen.append(ws.closed)
            raise

    app = App(act)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await ws.sees(3)
            ws.says("unread")
            ws.leaves(code)
        assert failures == []
    assert app.seen == [True]


@pytest.mark.spec("issue 5", "2. a client that vanishes frees the thread")
async def test_a_send_that_waits_for_a_client_that_has_left() -> None:
    """That of the server is called off, and that of the application raises."""
    sending = anyio.Event()

    async def hold(message: Any) -> None:
        if message["type"] == "websocket.send":
            sending.set()
            await anyio.sleep_forever()

    def act(ws: Any, app: App) -> None:
        with pytest.raises(WebSocketError):
            while True:
                ws.send(b"x" * 1000)
        app.seen.append(ws.receive())

    app = App(act)
    with adapter_of(app, buffer_bytes=1000) as adapter:
        ws = FakeWebSocket(on_send=hold)
        async with running(ws, adapter) as failures:
            await sending.wait()
            ws.leaves(1001)
        assert failures == []
    assert app.seen == [None]


@pytest.mark.spec("ASGI WebSocket 2.5", "Send")
async def test_a_send_that_fails_is_a_client_that_has_left() -> None:
    """An OSError of the server's send() is all that some tell."""

    async def fail(message: Any) -> None:
        if message["type"] == "websocket.send":
            raise BrokenPipeError

    app = App(lambda ws, app: (ws.send("x"), listen(ws, app))[:0])
    with adapter_of(app) as adapter:
        ws = FakeWebSocket(on_send=fail)
        async with running(ws, adapter) as failures:
            await until(app.ended)
        assert failures == []
    assert app.seen == []


@pytest.mark.spec("issue 5", "2. bad server")
async def test_what_send_raises_is_raised() -> None:
    """The server is told of its own failure, and the thread is free."""

    async def fail(message: Any) -> None:
        if message["type"] == "websocket.send":
            raise LookupError("of the server")

    app = App(lambda ws, app: (ws.send("x"), listen(ws, app))[:0])
    with adapter_of(app) as adapter, pytest.raises(LookupError, match="of the server"):
        await FakeWebSocket(on_send=fail).serve(adapter)
    assert app.ended.is_set()


@pytest.mark.spec(GEVENT_WEBSOCKET, "WebSocketHandler.run_websocket")
@pytest.mark.parametrize("result", [None, [], [b"ignored"], 5])
async def test_an_application_that_returns_closes_normally(result: Any) -> None:
    """Whatever it returns; what it sent before is not lost."""
    with adapter_of(App(lambda ws, app: (ws.send("last"), result)[1])) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert kinds(ws) == ["accept", "send", "close"]
    assert ws.close == (1000, "")


@pytest.mark.spec(GEVENT_WEBSOCKET, "WebSocketHandler.run_websocket")
@pytest.mark.parametrize(
    ("status", "code"), [("200 OK", 1000), ("500 Internal Server Error", 1011)]
)
async def test_a_framework_answers_behind_the_websocket(status: str, code: int) -> None:
    """Nobody takes the response; its 500 says what the exception would have."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.websocket"].send("last")
        start_response(status, [("Content-Type", "text/plain")])
        yield b"x" * 1_000_000
        yield b"y"

    with adapter_of(app) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert kinds(ws) == ["accept", "send", "close"]
    assert ws.close == (code, "")


@pytest.mark.spec("issue 5", "2. an app that raises")
async def test_an_application_that_raises_is_1011_and_raised() -> None:
    """The client is told, and the server logs the exception, as of a request."""

    def act(ws: Any, app: App) -> None:
        ws.send("last")
        raise ValueError("mine")

    with adapter_of(App(act)) as adapter:
        ws = FakeWebSocket()
        with pytest.raises(ValueError, match="mine"):
            await ws.serve(adapter)
    assert (ws.messages, ws.close) == (["last"], (1011, ""))


@pytest.mark.spec(GEVENT_WEBSOCKET, "WebSocketHandler.run_websocket")
async def test_the_object_after_the_call() -> None:
    """Is closed and says nothing of the request any more, and a thread that broadcasts on gets the usual error."""
    kept: list[Any] = []
    with adapter_of(App(lambda ws, app: (kept.append(ws), ws.send("x"))[:0])) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    (old,) = kept
    assert old.closed
    assert (old.environ, old.path, old.protocol) == (None, None, None)
    for use in (old.receive, lambda: old.send("more")):
        with pytest.raises(WebSocketError):
            await anyio.to_thread.run_sync(use)
    await anyio.to_thread.run_sync(old.close)
    assert kinds(ws) == ["accept", "send", "close"]


@pytest.mark.spec("FR 102")
async def test_an_object_that_is_first_used_after_the_call() -> None:
    """Opens nothing."""
    kept: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        kept.append(environ["wsgi.websocket"])
        start_response("403 Forbidden", [])
        return [b"no"]

    with adapter_of(app) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert kept[0].closed
    with pytest.raises(WebSocketError):
        await anyio.to_thread.run_sync(kept[0].send, "x")
    assert ws.sent[0]["type"] == "websocket.http.response.start"


# One way or the other.


@pytest.mark.spec("ASGI extensions", "Websocket Denial Response")
async def test_an_object_that_is_left_alone_denies_by_a_response() -> None:
    """With status, headers and body, whether the environ was looked at or not."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        assert environ.get("wsgi.websocket")
        start_response("401 Unauthorized", [("X-Why", "because")])
        return [b"no"]

    with adapter_of(app) as adapter:
        ws = await FakeWebSocket().serve(adapter)
    assert ws.sent[0]["status"] == 401
    assert (b"x-why", b"because") in ws.sent[0]["headers"]
    assert b"".join(each["body"] for each in ws.sent[1:]) == b"no"


@pytest.mark.spec("FR 102")
async def test_the_object_after_a_response() -> None:
    """The response has denied the websocket, so that it is closed to the application."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        ws = environ["wsgi.websocket"]
        start_response("403 Forbidden", [])
        yield b"no"
        assert answered.wait(EVENT_SECONDS)
        seen.append(ws.receive())
        with pytest.raises(WebSocketError):
            ws.send("x")

    answered, seen = threading.Event(), []
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await ws.until(lambda ws: len(ws.sent) > 1)
            answered.set()
        assert failures == []
    assert seen == [None]
    assert ws.sent[0]["status"] == 403


@pytest.mark.spec("FR 102")
async def test_the_object_closes_the_socket() -> None:
    """Which is at its end for whoever has a copy, and gives its descriptors back while the websocket lasts."""

    def app(environ: Environ, start_response: StartResponse) -> None:
        ws, seen = environ["wsgi.websocket"], []
        with environ["werkzeug.socket"].dup() as copy:
            ws.send("open")
            seen.append(copy.recv(1))
        seen.append(environ["werkzeug.socket"].fileno())
        ws.send(repr(seen))
        listen(ws, App(echo))

    with adapter_of(app) as adapter:
        first = FakeWebSocket()  # so that the loop has what it keeps
        first.leaves(1000)
        async with running(first, adapter):
            pass
        before = descriptors()
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            assert await ws.sees(2) == ["open", "[b'', -1]"]
            assert descriptors() <= before
            ws.leaves(1000)
        assert failures == []


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0


@pytest.mark.spec("FR 102")
async def test_the_object_after_the_socket() -> None:
    """Is the application's mistake: 1011 for the client, and an error that says what to do."""

    def app(environ: Environ, start_response: StartResponse) -> None:
        AppSocket(environ).send("by the socket")
        ws = environ["wsgi.websocket"]
        assert ws.receive() is None
        with pytest.raises(WebSocketError):
            ws.send("by the object")

    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        with pytest.raises(ApplicationProtocolError, match="use one of them"):
            await ws.serve(adapter)
    assert (ws.messages, ws.close) == (["by the socket"], (1011, ""))


# The exception of gevent-websocket.


@pytest.mark.spec(GEVENT_WEBSOCKET, "exceptions.WebSocketError")
async def test_the_exception_is_the_one_that_the_application_catches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That of gevent-websocket where that is imported; ours, and an OSError, in any case."""
    theirs = ModuleType("geventwebsocket.exceptions")
    theirs.WebSocketError = type("WebSocketError", (OSError,), {})  # type: ignore[attr-defined]

    def act(ws: Any, app: App) -> None:
        ws.close()
        for _ in range(3):
            try:
                ws.send("x")
            except OSError as error:
                app.seen.append(type(error))
            monkeypatch.setitem(sys.modules, theirs.__name__, theirs)

    app = App(act)
    with adapter_of(app) as adapter:
        await FakeWebSocket().serve(adapter)
    plain, both, again = app.seen
    assert plain is WebSocketError
    assert issubclass(both, WebSocketError)
    assert issubclass(both, theirs.WebSocketError)
    assert both is again


# Threads, the stop, the loop.


@pytest.mark.spec("issue 5", "2. saturated pool")
async def test_one_websocket_too_many_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """With 503, its object opens nothing and is let go of, and the log names the option."""
    app = App(echo)
    with adapter_of(app, max_websockets=1) as adapter:
        first = FakeWebSocket()
        async with running(first, adapter) as failures:
            await first.until(lambda ws: ws.accept)
            second = await FakeWebSocket().serve(adapter)
            first.leaves()
        assert failures == []
    assert second.sent[0]["status"] == 503
    (record,) = records_of(caplog)
    assert "raise max_websockets" in record.getMessage()


@pytest.mark.spec("issue 5", "2. the pool's shutdown and lifespan end")
async def test_the_end_of_the_lifespan_ends_websockets() -> None:
    """The client is told 1001; the application gets None."""
    app = App(listen)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await ws.until(lambda ws: ws.accept)
            async with lifespan(adapter) as server:
                await server.tell("startup")
                await server.tell("shutdown")
        assert failures == []
    assert ws.close == (1001, "the server is stopping")
    assert app.ended.is_set()


@pytest.mark.spec("issue 5", "2. the pool's shutdown and lifespan end")
async def test_a_stop_while_the_object_is_unused() -> None:
    """It is closed when the application comes to it."""
    stopped = threading.Event()

    def act(ws: Any, app: App) -> None:
        assert stopped.wait(EVENT_SECONDS)
        app.seen.append(ws.receive())

    app = App(act)
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter):
            await until(app.began)
            for bridge in adapter._websockets:
                bridge.leave()
            await anyio.wait_all_tasks_blocked()
            stopped.set()
    assert app.seen == [None]


@pytest.mark.spec("issue 5", "2. server-initiated close")
async def test_a_server_that_cancels_the_websocket(caplog: pytest.LogCaptureFixture) -> None:
    """The application gets None, a send that waits raises, both threads are free, and nothing has failed."""
    sending = threading.Event()

    async def hold(message: Any) -> None:
        if message["type"] == "websocket.send":
            sending.set()
            await anyio.sleep_forever()

    def act(ws: Any, app: App) -> None:
        def shout() -> None:
            with pytest.raises(WebSocketError):
                while True:
                    ws.send(b"x" * 1000)
            app.seen.append("raised")

        thread = threading.Thread(target=shout)
        thread.start()
        app.seen.append(ws.receive())
        thread.join()

    app = App(act)
    with adapter_of(app, buffer_bytes=1000) as adapter:
        ws = FakeWebSocket(on_send=hold)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ws.serve, adapter)
            await until(sending)
            tasks.cancel_scope.cancel()
        await until(app.ended)
    assert sorted(app.seen, key=str) == [None, "raised"]
    assert records_of(caplog) == []


@pytest.mark.spec("FR 102")
async def test_the_loop_does_not_wait_for_itself() -> None:
    """Async code that would use the object there is told so, while its threads may wait for it."""
    objects: list[Any] = []
    app = App(lambda ws, app: (objects.append(ws), listen(ws, app))[:0])
    with adapter_of(app) as adapter:
        ws = FakeWebSocket()
        async with running(ws, adapter) as failures:
            await ws.until(lambda ws: ws.accept)
            (used,) = objects
            for use in (used.receive, used.close, lambda: used.send("x")):
                with pytest.raises(CrossingError, match="wait for itself"):
                    use()
            assert not used.closed
            ws.leaves()
        assert failures == []


@pytest.mark.spec("FR 102")
def test_a_call_that_ends_after_its_loop() -> None:
    """Has nobody to tell, which is said by the call alone."""

    async def make() -> ObjectLine:
        return ObjectLine(current_gate(), 1000)

    asyncio.run(make()).end()


@pytest.mark.spec("FR 102")
async def test_nothing_is_left_to_the_garbage_collector() -> None:
    """The object and the environ hold each other, and are free at the end of the call."""

    class Marked(list):  # type: ignore[type-arg]
        pass

    references: list[Any] = []

    def act(ws: Any, app: App) -> None:
        mark = ws.environ["mark"] = Marked()
        references.extend([weakref.ref(mark), weakref.ref(ws)])
        ws.send("x")

    def app(environ: Environ, start_response: StartResponse) -> Any:
        return act(environ["wsgi.websocket"], App(act))

    with adapter_of(app) as adapter:
        gc.collect()
        gc.disable()
        try:
            await FakeWebSocket().serve(adapter)
            assert adapter.websocket_pool.shutdown(EVENT_SECONDS)  # its thread has left the call
            assert [each() for each in references] == [None, None]
        finally:
            gc.enable()
