"""Websockets of ASGI applications in the server, on a clock that the test turns: limits, slow ends, stop, mistakes."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from server_driver import CLIENT, CLOCKED, SERVER, Client, Driver, ask, driving
from websocket_tools import CLOSE, COMPRESSED, PING, PONG, TEXT, close, frame, frames

from bridges.errors import ApplicationProtocolError, ClientDisconnected
from bridges.typing import Message, Receive, Scope, Send

# The defaults.
PING_SECONDS = PONG_SECONDS = 20.0
CLOSE_SECONDS = 10.0
WRITE_SECONDS = 60.0
GRACE_SECONDS = 3.0
# What a service adds to a limit at most, and a little.
SLACK = 1.5

ACCEPT = {"type": "websocket.accept"}
BYE = {"type": "websocket.close", "code": 4001, "reason": "bye"}
DENIAL = {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-a", b"b")]}
BODY = "websocket.http.response.body"
STOPPED = {"type": "websocket.disconnect", "code": 1001, "reason": "the server is stopping"}
GONE = {"type": "websocket.disconnect", "code": 1006, "reason": ""}
RETURN = "return"


@pytest.fixture
def anyio_backend() -> Any:
    """Run on a loop whose clock the test turns."""
    return CLOCKED


def text(data: str) -> Message:
    return {"type": "websocket.send", "text": data}


class App:
    """An application that takes one step after another, as the test gives them.

    Attributes:
        scope: of the latest call.
        got: messages that it received.
        sent: how many of its sends have returned.
        raised: what its sends raised instead.
        ended: how it ended: ``"returned"``, or the name of what was raised into it or by it.
    """

    def __init__(self, *steps: Any) -> None:
        self._steps: asyncio.Queue[Any] = asyncio.Queue()
        self.then(*steps)
        self.scope: Scope = {}
        self.got: list[Message] = []
        self.sent = 0
        self.raised: list[BaseException] = []
        self.ended = ""

    def then(self, *steps: Any) -> None:
        """Take these steps after those before: "receive", a message to send, an exception to raise, ``RETURN``."""
        for step in steps:
            self._steps.put_nowait(step)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        try:
            while (step := await self._steps.get()) != RETURN:
                await self._take(step, receive, send)
            self.ended = "returned"
        except BaseException as error:
            self.ended = type(error).__name__
            raise

    async def _take(self, step: Any, receive: Receive, send: Send) -> None:
        if step == "receive":
            self.got.append(await receive())
        elif isinstance(step, BaseException):
            raise step
        else:
            try:
                await send(dict(step))
                self.sent += 1
            except (OSError, ApplicationProtocolError) as error:
                self.raised.append(error)

    @property
    def texts(self) -> list[str]:
        """Text messages that it received."""
        return [each["text"] for each in self.got if each["type"] == "websocket.receive"]


class Open:
    """A websocket that the application has accepted."""

    def __init__(self, driver: Driver, client: Client, app: App) -> None:
        self.driver = driver
        self.client = client
        self.app = app

    @property
    def head(self) -> str:
        """The head of the 101 response."""
        return self.client.received.partition(b"\r\n\r\n")[0].decode()

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """Opcode and payload of what the client has read."""
        data = self.client.received.partition(b"\r\n\r\n")[2]
        return [(first & 0xF, payload) for first, payload in frames(data)]

    @property
    def code(self) -> int:
        """That of the close frame, which is the last one and the only one."""
        (payload,) = [payload for opcode, payload in self.frames if opcode == CLOSE]
        assert self.frames[-1][0] == CLOSE
        return int.from_bytes(payload[:2], "big")

    async def does(self, *steps: Any) -> None:
        """Let the application take steps, as far as it gets."""
        self.app.then(*steps)
        await self.driver.settle()

    async def at(self, seconds: float, happened: Callable[[], object]) -> None:
        """Check that something happens so many seconds from now, and not before."""
        await self.driver.advance(seconds - 0.5)
        assert not happened(), "too early"
        await self.driver.advance(SLACK)
        assert happened(), "too late"

    @property
    def cut(self) -> bool:
        """Whether the server cut the connection off."""
        return self.client.transport.aborted


@asynccontextmanager
async def opened(*fields: str, behind: bytes = b"", **options: Any) -> AsyncIterator[Open]:
    """Open a websocket; what stands ``behind`` the handshake comes in one piece with it."""
    app = App("receive", ACCEPT)
    async with driving(app, **options) as driver:
        client = driver.connect()
        await client.send(ask(*fields) + behind)
        yield Open(driver, client, app)
    assert app.ended, "the application goes on"


# The handshake.


@pytest.mark.spec("ASGI WebSocket 2.5", "WebSocket Connection Scope")
async def test_the_scope_is_complete() -> None:
    """Every key has its type and its value."""
    app = App("receive", ACCEPT)
    async with driving(app) as driver:
        await driver.connect().send(ask("Sec-WebSocket-Protocol: a, b", path="/caf%C3%A9?x=%20"))
    scope = app.scope
    assert dict(scope.pop("headers"))[b"upgrade"] == b"websocket"
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/café",
        "raw_path": b"/caf%C3%A9",
        "query_string": b"x=%20",
        "root_path": "",
        "client": CLIENT,
        "server": SERVER,
        "subprotocols": ["a", "b"],
        "extensions": {"websocket.http.response": {}},
    }
    assert app.got == [{"type": "websocket.connect"}]


@pytest.mark.spec("ASGI TLS extension")
@pytest.mark.spec("issue 4", "4. forwarded headers only from --forwarded-allow-ips")
@pytest.mark.parametrize("how", ["tls", "proxy"])
async def test_a_secure_websocket_is_wss(how: str) -> None:
    """Whether TLS ends here, which has its extension, or at a trusted proxy."""
    app = App("receive", ACCEPT)
    trusted = "192.0.2.1" if how == "proxy" else ""
    async with driving(app, forwarded_allow_ips=trusted) as driver:
        driver.service.tls = lambda ssl_object: {"tls_version": 0x0304}
        client = driver.connect(**({"ssl_object": object()} if how == "tls" else {}))
        await client.send(ask("X-Forwarded-Proto: https", "X-Forwarded-For: 203.0.113.9"))
    assert app.scope["scheme"] == "wss"
    tls = {"tls": {"tls_version": 0x0304}} if how == "tls" else {}
    assert app.scope["extensions"] == {"websocket.http.response": {}, **tls}
    assert app.scope["client"] == (CLIENT if how == "tls" else ("203.0.113.9", 0))


@pytest.mark.spec("ASGI lifespan 2.0", "Lifespan State")
async def test_state_is_copied_for_each_websocket() -> None:
    """What one puts into it is its own; what lifespan put there is shared."""
    shared: list[int] = []
    app = App()
    async with driving(app, state={"shared": shared}) as driver:
        for _ in range(2):
            await driver.connect().send(ask())
            assert app.scope["state"] == {"shared": []}
            assert app.scope["state"]["shared"] is shared
            app.scope["state"]["own"] = 1
            app.then(RETURN)
            await driver.settle()
            assert len(driver.complaints.take()) == 1


@pytest.mark.spec("RFC 6455", "section 4.2.2")
@pytest.mark.parametrize("pieces", [1, 2])
async def test_frames_behind_the_handshake(pieces: int) -> None:
    """Messages and the close that come in one piece with it, or before the application accepts, are not lost."""
    app = App("receive")
    early = frame(TEXT, b"a") + frame(PING, b"p") + frame(TEXT, b"b") + close(4000, b"over")
    async with driving(app) as driver:
        client = driver.connect()
        if pieces == 1:
            await client.send(ask() + early)
        else:
            await client.send(ask(), early)
        assert client.received == b""
        socket = Open(driver, client, app)
        await socket.does(ACCEPT, "receive", "receive", "receive", RETURN)
        assert app.texts == ["a", "b"]
        assert app.got[-1] == {"type": "websocket.disconnect", "code": 4000, "reason": "over"}
        assert [opcode for opcode, _ in socket.frames] == [PONG, CLOSE]
        assert socket.code == 4000
        assert client.is_closed
        assert not socket.cut


async def test_a_client_in_a_hurry_waits_for_the_application() -> None:
    """What comes before the application has accepted is not read without a limit; it is all there afterwards."""
    app = App("receive")
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(ask(), frame(TEXT, b"x" * 70_000), frame(TEXT, b"y"))
        assert not client.is_read
        await Open(driver, client, app).does(ACCEPT, "receive", "receive")
        assert app.texts == ["x" * 70_000, "y"]
        assert client.is_read


# Pings and pongs.


@pytest.mark.spec("RFC 6455", "section 5.5.2")
async def test_a_silent_client_is_asked_for_a_sign_of_life() -> None:
    """Again and again, as long as it answers; the application learns nothing of it."""
    async with opened() as socket:
        socket.app.then("receive")
        for asked in (1, 2, 3):
            await socket.at(PING_SECONDS, lambda: len(socket.frames) == asked)  # noqa: B023
            await socket.client.send(frame(PONG))
        assert socket.frames == [(PING, b"")] * 3
        assert len(socket.app.got) == 1


@pytest.mark.spec("RFC 6455", "section 5.5.2")
async def test_a_client_that_does_not_answer_is_cut_off() -> None:
    """Its application learns 1006 at once."""
    async with opened(websocket_ping_seconds=5, websocket_pong_seconds=30) as socket:
        socket.app.then("receive", RETURN)
        await socket.at(5, lambda: socket.frames)
        await socket.at(30 - SLACK + 0.5, lambda: socket.cut)
        assert socket.app.got[1:] == [GONE]
        assert socket.app.ended == "returned"


async def test_a_client_that_talks_is_not_asked() -> None:
    """Any byte puts off the ping; so many seconds of silence bring it."""
    async with opened() as socket:
        for _ in range(10):
            await socket.driver.advance(PING_SECONDS - SLACK)
            await socket.client.send(frame(PONG))
        assert socket.frames == []


async def test_no_pings_where_none_are_wanted() -> None:
    """An idle websocket then stays open without a limit."""
    async with opened(websocket_ping_seconds=None) as socket:
        await socket.driver.advance(500)
        assert socket.frames == []
        assert not socket.client.is_closed


@pytest.mark.parametrize("size", [100, 60_000])
async def test_a_client_that_takes_nothing_is_cut_off(size: int) -> None:
    """Even where so little is unwritten that nobody waits for it: the pong behind it does not come."""
    async with opened() as socket:
        await socket.client.hold()
        await socket.does(text("x" * size), "receive")
        assert socket.app.sent == 2
        await socket.at(PING_SECONDS + PONG_SECONDS, lambda: socket.cut)
        assert socket.app.got[-1] == GONE


async def test_a_client_that_takes_little_by_little_has_its_time() -> None:
    """A pong is not expected before the ping could be read."""
    async with opened() as socket:
        await socket.client.hold()
        await socket.does(text("x" * 60_000))
        for _ in range(20):
            await socket.driver.advance(PONG_SECONDS - SLACK)
            await socket.client.take(100)
        assert not socket.cut
        await socket.client.read_on()
        assert [opcode for opcode, _ in socket.frames] == [TEXT, PING]
        await socket.client.send(frame(PONG))
        await socket.driver.advance(PING_SECONDS - SLACK)
        assert not socket.cut


# Slow ends.


async def test_send_waits_for_a_slow_client() -> None:
    """Nothing more is taken from the application until most has gone."""
    async with opened() as socket:
        await socket.client.hold()
        await socket.does(text("x" * 100_000), text("y"))
        assert socket.app.sent == 1
        await socket.client.take(50_000)
        assert socket.app.sent == 1
        await socket.client.take(40_000)
        assert socket.app.sent == 3
        await socket.client.read_on()
        assert [(opcode, len(data)) for opcode, data in socket.frames] == [
            (TEXT, 100_000),
            (TEXT, 1),
        ]


@pytest.mark.parametrize("sends", [False, True])
async def test_a_client_that_reads_nothing_is_cut_off_in_time(sends: bool) -> None:
    """By the limit for writing, whether it goes on sending or not; the application that waits is told."""
    async with opened() as socket:
        await socket.client.hold()
        await socket.does(text("x" * 100_000), text("y"), "receive", "receive", RETURN)
        if sends:
            await socket.client.send(frame(TEXT, b"z"))
        await socket.at(WRITE_SECONDS, lambda: socket.cut)
        assert [type(error) for error in socket.app.raised] == [ClientDisconnected]
        assert socket.app.got[1] == GONE


async def test_a_slow_application_makes_the_client_wait() -> None:
    """What it has not taken stays with the client, whose silence is then nobody's fault; nothing is lost."""
    async with opened() as socket:
        sent = [str(number) for number in range(200)]
        for word in sent:
            await socket.client.send(frame(TEXT, word.encode()))
        assert not socket.client.is_read
        await socket.driver.advance(300)
        assert socket.frames == []
        assert not socket.cut
        await socket.does(*["receive"] * 200)
        assert socket.app.texts == sent
        assert socket.client.is_read
        await socket.at(PING_SECONDS, lambda: socket.frames == [(PING, b"")])


async def test_a_client_that_floods_with_pings_and_does_not_read() -> None:
    """Its pongs do not pile up: its pings are left to wait."""
    async with opened() as socket:
        await socket.client.hold()
        for _ in range(100):
            await socket.client.send(frame(PING, b"p" * 125) * 100)
        assert not socket.client.is_read
        assert socket.client.transport.get_write_buffer_size() < 80_000
        await socket.client.read_on()
        assert len(socket.frames) == 10_000


# The close.


@pytest.mark.spec("RFC 6455", "section 7.1.1")
async def test_the_server_closes_the_connection_after_the_handshake() -> None:
    """Whoever began it; the access log hears of it once."""
    for first in ("client", "application"):
        async with opened() as socket:
            if first == "application":
                await socket.does(text("hé"), BYE)
                assert not socket.client.is_closed
                assert socket.driver.logged == []
            await socket.client.send(close(4000))
            await socket.does("receive", RETURN)
            assert socket.client.is_closed
            assert not socket.cut
            assert socket.app.got[-1]["code"] == 4000
            assert socket.code == (4001 if first == "application" else 4000)
            (entry,) = socket.driver.logged
            assert (entry.status, entry.head.target) == (101, b"/")
            assert entry.sent == (5 if first == "application" else 0)


@pytest.mark.spec("RFC 6455", "section 7.1.1")
@pytest.mark.parametrize("step", [BYE, RETURN])
async def test_a_client_that_does_not_close_is_cut_off(step: Any) -> None:
    """After its time, whatever else it sends."""
    async with opened() as socket:
        await socket.does(step)
        assert socket.code == (4001 if step is BYE else 1000)
        await socket.driver.advance(CLOSE_SECONDS - SLACK)
        await socket.client.send(frame(TEXT, b"x"), frame(PING))
        await socket.at(SLACK, lambda: socket.cut)
        await socket.does("receive", RETURN)
        assert len(socket.frames) == 1


@pytest.mark.parametrize("size", [1000, 60_000])
async def test_a_close_behind_much_output(size: int) -> None:
    """A client has its time while it takes something, and no more."""
    async with opened() as socket:
        await socket.client.hold()
        await socket.does(text("x" * size), BYE, "receive")
        for _ in range(5):
            await socket.client.take(10)
            await socket.driver.advance(CLOSE_SECONDS - SLACK)
        assert not socket.cut
        await socket.driver.advance(2 * CLOSE_SECONDS)
        assert socket.cut


@pytest.mark.spec("RFC 6455", "section 5.5.1")
async def test_an_application_that_does_not_ask_hears_late_of_the_close() -> None:
    """Messages before it hold the answer back, for the time of the handshake; then the client has it."""
    async with opened() as socket:
        await socket.client.send(frame(TEXT, b"a") + close(4000))
        await socket.at(CLOSE_SECONDS, lambda: socket.client.is_closed)
        assert socket.code == 4000
        await socket.does("receive", "receive", RETURN)
        assert socket.app.texts == ["a"]
        assert socket.app.got[-1]["code"] == 4000


@pytest.mark.spec("RFC 6455", "section 7.4.1")
@pytest.mark.parametrize(
    ("sent", "code"),
    [(frame(3), 1002), (frame(TEXT, b"\xff"), 1007), (frame(TEXT, b"x" * 1001), 1009)],
)
async def test_a_client_that_breaks_the_rules(sent: bytes, code: int) -> None:
    """It is told so, may still be sending for a while, and its connection ends; nothing is logged as an error."""
    async with opened(websocket_max_bytes=1000) as socket:
        await socket.client.send(sent)
        await socket.does("receive", RETURN)
        assert socket.code == code
        assert socket.app.got[-1]["code"] == code
        assert socket.client.is_closed
        assert not socket.client.transport.is_lost, "it may be in the middle of its message"
        await socket.client.send(b"x" * 10_000)
        await socket.client.half_close()
        assert socket.client.transport.is_lost
        assert not socket.cut


# The client's leaving.


@pytest.mark.parametrize("end", [b"", close(4000, b"over")])
async def test_a_half_close_is_the_end(end: bytes) -> None:
    """Nobody can answer anything: the connection ends. Messages before it are given, and the code of a close."""
    async with opened() as socket:
        await socket.client.send_and_end(frame(TEXT, b"a") + frame(TEXT, b"b") + end)
        await socket.does("receive", "receive", "receive", RETURN)
        assert socket.client.is_closed
        assert socket.app.texts == ["a", "b"]
        assert (socket.app.got[-1]["code"], socket.app.got[-1]["reason"]) == (
            (4000, "over") if end else (1006, "")
        )


async def test_a_loss_behind_the_clients_close() -> None:
    """The messages before it are given, and its code; nothing is written to who is gone."""
    async with opened() as socket:
        await socket.client.send(frame(TEXT, b"a") + close(4000, b"over"))
        await socket.client.leave()
        await socket.does("receive", "receive", RETURN)
        assert socket.app.texts == ["a"]
        assert socket.app.got[-1] == {
            "type": "websocket.disconnect",
            "code": 4000,
            "reason": "over",
        }


async def test_a_half_close_before_the_application_accepts() -> None:
    """What the client sent before counts; but it is gone, and holds nobody until it has missed a ping."""
    app = App("receive")
    async with driving(app) as driver:
        client = driver.connect()
        await client.send_and_end(ask() + frame(TEXT, b"a"))
        socket = Open(driver, client, app)
        await socket.does(ACCEPT, "receive", "receive", RETURN)
        assert client.transport.is_lost
        assert app.texts == ["a"]
        assert app.got[-1] == GONE
        assert app.ended == "returned"


@pytest.mark.spec("ASGI WebSocket 2.5", "Disconnect")
@pytest.mark.parametrize("accepts", [True, False])
async def test_an_application_that_goes_on_has_a_grace_time(accepts: bool) -> None:
    """Then it is cancelled, which is no error, before it has accepted too."""
    app = App("receive", *([ACCEPT] if accepts else []))
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(ask())
        await client.leave()
        socket = Open(driver, client, app)
        await socket.does("receive", "receive", text("x") if accepts else ACCEPT)
        assert app.got[1:] == [GONE, GONE]
        assert [type(error) for error in app.raised] == [ClientDisconnected]
        await socket.at(GRACE_SECONDS, lambda: app.ended)
        assert app.ended == "CancelledError"
        (entry,) = driver.logged
        assert entry.status == (101 if accepts else 0)


@pytest.mark.parametrize("error", [ClientDisconnected("it left"), asyncio.CancelledError(), None])
async def test_an_application_that_ends_by_the_disconnect(error: BaseException | None) -> None:
    """Whether it lets the exception through, is cancelled or returns: nothing is logged, nobody is cancelled later."""
    async with opened() as socket:
        await socket.client.leave()
        await socket.does(error or RETURN)
        assert socket.app.ended
        await socket.driver.advance(2 * GRACE_SECONDS)


async def test_the_grace_time_begins_with_the_clients_close() -> None:
    """Not with the end of the connection alone."""
    async with opened() as socket:
        await socket.client.send(close(1000))
        await socket.at(GRACE_SECONDS, lambda: socket.app.ended)
        assert socket.app.ended == "CancelledError"


async def test_a_send_that_waits_is_let_go_by_the_clients_leaving() -> None:
    """It returns, and the next one raises."""
    async with opened() as socket:
        await socket.client.hold()
        await socket.does(text("x" * 100_000), text("y"), RETURN)
        assert socket.app.sent == 1
        await socket.client.leave()
        assert socket.app.sent == 2
        assert socket.app.ended == "returned"
        assert [type(error) for error in socket.app.raised] == [ClientDisconnected]


# Mistakes of the application.


@pytest.mark.spec("ASGI WebSocket 2.5", "Close")
@pytest.mark.parametrize("before", ["open", "its close", "the clients close", "the loss"])
async def test_an_exception_in_a_websocket(before: str) -> None:
    """An open one is closed with 1011; what was sent before stays as it was; each is logged."""
    async with opened() as socket:
        if before == "its close":
            await socket.does(BYE)
        elif before == "the clients close":
            await socket.client.send(close(4000))
        elif before == "the loss":
            await socket.client.leave()
        await socket.does(ValueError("oh"))
        (line,) = socket.driver.complaints.take()
        assert line.endswith(" failed in a websocket at / (ValueError)")
        if before == "the loss":
            assert socket.frames == []
        else:
            codes = {"open": 1011, "its close": 4001, "the clients close": 4000}
            assert socket.code == codes[before]


@pytest.mark.spec("ASGI WebSocket 2.5", "Accept")
@pytest.mark.parametrize("step", [ValueError("oh"), RETURN, ClientDisconnected("so it says")])
async def test_an_application_that_fails_before_it_accepts(step: Any) -> None:
    """The client gets 500, and its connection serves the next request; the log says where."""
    app = App("receive", step)
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(ask(path="/x"))
        assert client.response().status == 500
        (line,) = driver.complaints.take()
        assert " failed at GET /x (" in line
        app.then(ValueError("again"))
        await client.send(ask())
        assert [each.status for each in client.responses()] == [500, 500]
        assert len(driver.complaints.take()) == 1


async def test_a_mistake_changes_nothing() -> None:
    """A message that must not be sent raises in the application, which may go on."""
    async with opened() as socket:
        await socket.does(ACCEPT, {"type": "websocket.send"}, DENIAL, text("x"))
        assert [type(error) for error in socket.app.raised] == [ApplicationProtocolError] * 3
        assert socket.frames == [(TEXT, b"x")]


# A response instead of a websocket.


@pytest.mark.spec("ASGI WebSocket 2.5", "Close")
async def test_a_refusal_is_403() -> None:
    """The connection serves the next request; an application that receives on is told that it is over."""
    app = App("receive", BYE, "receive", RETURN)
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(ask())
        assert client.response().status == 403
        assert app.got[1:] == [GONE]
        assert app.ended == "returned"
        (entry,) = driver.logged
        assert (entry.status, entry.sent) == (403, 0)
        app.then("receive", BYE, RETURN)
        await client.send(ask())
        assert [each.status for each in client.responses()] == [403, 403]


@pytest.mark.spec("ASGI WebSocket 2.5", "Disconnect")
async def test_an_application_that_waits_while_another_task_refuses() -> None:
    """Its ``receive`` does not wait for ever, for nothing will come."""
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(1)
        await send(BYE)
        got.append(await waiting)

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(ask())
        await driver.advance(1)
        assert client.response().status == 403
        assert got == [GONE]


@pytest.mark.spec('ASGI extension "Websocket Denial Response"')
@pytest.mark.parametrize("parts", [[b"no"], [b"n", b"", b"o"], [b""]])
async def test_a_denial_response(parts: list[bytes]) -> None:
    """In one part or in several, as any other response: the connection then serves the next request."""
    bodies: list[Message] = [
        {"type": BODY, "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, 1)
    ]
    app = App("receive", DENIAL, *bodies, RETURN)
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(ask())
        response = client.response()
        assert (response.status, response.value(b"x-a")) == (401, b"b")
        assert response.body == b"".join(parts)
        assert (response.value(b"content-length") is None) is (len(parts) > 1)
        (entry,) = driver.logged
        assert (entry.status, entry.sent) == (401, len(b"".join(parts)))
        app.then(DENIAL, *bodies, RETURN)
        await client.send(ask())
        assert [each.status for each in client.responses()] == [401, 401]


@pytest.mark.spec('ASGI extension "Websocket Denial Response"')
@pytest.mark.parametrize("step", [RETURN, ValueError("oh")])
async def test_a_denial_response_without_an_end(step: Any) -> None:
    """Before its head was written the client gets 500; after that it is cut off. Either is logged."""
    for begun in (False, True):
        app = App("receive", DENIAL, *([{"type": BODY, "body": b"n", "more_body": True}] * begun))
        async with driving(app) as driver:
            client = driver.connect()
            await client.send(ask())
            app.then(step)
            await driver.settle()
            assert len(driver.complaints.take()) == 1
            assert client.transport.aborted is begun
            assert client.received.startswith(b"HTTP/1.1 401 " if begun else b"HTTP/1.1 500 ")


@pytest.mark.spec('ASGI extension "Websocket Denial Response"')
async def test_a_large_denial_response_waits_for_the_client() -> None:
    """Its parts are taken as the client takes them."""
    part = {"type": BODY, "body": b"x" * 100_000, "more_body": True}
    app = App("receive", DENIAL, part, part)
    async with driving(app) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(ask())
        assert app.sent == 1
        await client.read_on()
        assert app.sent == 3
        app.then({"type": BODY}, RETURN)
        await driver.settle()
        assert len(client.response().body) == 200_000


# Compression.

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


@pytest.mark.spec("RFC 7692", "section 7")
async def test_compression() -> None:
    """Both directions, where client and server want it; short messages go as they are."""
    async with opened(OFFER) as socket:
        assert "Sec-WebSocket-Extensions: permessage-deflate" in socket.head
        await socket.does(text("y" * 10_000), text("z"))
        data = socket.client.received.partition(b"\r\n\r\n")[2]
        (first, payload), (second, short) = frames(data)
        assert (first, second) == (0x80 | COMPRESSED | TEXT, 0x80 | TEXT)
        assert zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff") == b"y" * 10_000
        assert short == b"z"
        deflated = zlib.compressobj(wbits=-15)
        small = deflated.compress(b"w" * 70_000) + deflated.flush(zlib.Z_SYNC_FLUSH)
        await socket.client.send(frame(TEXT, small[:-4], rsv=COMPRESSED))
        await socket.does("receive")
        assert socket.app.texts == ["w" * 70_000]
        assert socket.client.is_closed is False


@pytest.mark.spec("RFC 7692", "section 5.1")
@pytest.mark.parametrize("offer", [True, False])
async def test_no_compression(offer: bool) -> None:
    """Not without the client's offer, and not where the server does not want it: such a frame is then a failure."""
    fields = [OFFER] if offer else []
    async with opened(*fields, websocket_deflate=not offer) as socket:
        assert "Extensions" not in socket.head
        await socket.does(text("y" * 10_000))
        assert socket.frames == [(TEXT, b"y" * 10_000)]
        await socket.client.send(frame(TEXT, b"x", rsv=COMPRESSED))
        assert socket.code == 1002


# The stop.


def stop(driver: Driver, seconds: float = 30) -> asyncio.Task[None]:
    """Tell the server to stop."""
    return asyncio.ensure_future(driver.service.drain(seconds))


@pytest.mark.spec("FR 114")
async def test_a_stop_while_open() -> None:
    """Client and application learn 1001 at once; it is over when the client has closed and the application ended."""
    async with opened() as socket:
        stopping = stop(socket.driver)
        await socket.does("receive", RETURN)
        assert socket.code == 1001
        assert socket.app.got[-1] == STOPPED
        assert not stopping.done()
        await socket.client.send(close(1001))
        assert socket.client.is_closed
        assert stopping.done()
        assert not socket.cut


@pytest.mark.spec("FR 114")
async def test_a_stop_that_the_client_does_not_answer() -> None:
    """It is cut off after the time of the handshake, and the stop goes on."""
    async with opened() as socket:
        stopping = stop(socket.driver)
        await socket.does("receive", RETURN)
        await socket.at(CLOSE_SECONDS, lambda: socket.cut)
        assert stopping.done()
    async with opened() as socket:
        stopping = stop(socket.driver, 8)
        await socket.does("receive", RETURN)
        await socket.at(4, lambda: socket.cut)  # at half of the time for the stop, though
        assert stopping.done()


@pytest.mark.spec("FR 114")
async def test_a_stop_before_the_application_accepts() -> None:
    """It may accept still, and both learn 1001 then."""
    app = App("receive")
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(ask())
        stopping = stop(driver)
        await driver.advance(5)
        assert client.received == b""
        socket = Open(driver, client, app)
        await socket.does(ACCEPT, "receive", RETURN)
        assert socket.code == 1001
        assert app.got[-1] == STOPPED
        await client.send(close(1001))
        assert stopping.done()


@pytest.mark.spec("FR 114")
async def test_a_stop_while_the_application_refuses_or_does_nothing() -> None:
    """A refusal ends the connection; one that neither accepts nor refuses is cut off and cancelled."""
    app = App("receive")
    async with driving(app) as driver:
        first, second = driver.connect(), driver.connect()
        await first.send(ask())
        await second.send(ask())
        stopping = stop(driver, 10)
        app.then(BYE)
        app.then(RETURN)
        await driver.settle()
        (closed,) = [client for client in (first, second) if client.is_closed]
        assert closed.received.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 500 "))
        driver.complaints.take()
        await driver.advance(10 + SLACK + GRACE_SECONDS + SLACK)
        assert stopping.done()
        assert first.transport.aborted or second.transport.aborted
        driver.complaints.take()


@pytest.mark.spec("FR 114")
async def test_a_stop_while_closing() -> None:
    """Neither close is repeated; the application that waits for the client's part is told."""
    async with opened() as socket:
        await socket.does(BYE, "receive")
        stopping = stop(socket.driver)
        await socket.does(RETURN)
        assert socket.app.got[-1] == STOPPED
        assert socket.code == 4001
        await socket.client.send(close(4001))
        assert stopping.done()


@pytest.mark.spec("FR 114")
async def test_a_stop_while_the_client_is_behind() -> None:
    """It gets everything up to the close, if it takes that in time, and its answer is read."""
    async with opened() as socket:
        await socket.client.hold()
        await socket.does(text("x" * 100_000))
        stopping = stop(socket.driver)
        await socket.does("receive", RETURN)
        await socket.client.read_on()
        assert [opcode for opcode, _ in socket.frames] == [TEXT, CLOSE]
        assert socket.app.got[-1] == STOPPED
        await socket.client.send(close(1001))
        assert socket.client.is_closed
        assert stopping.done()


@pytest.mark.spec("FR 114")
async def test_an_application_that_goes_on_after_the_stop_is_cancelled() -> None:
    """After its grace time, as after any disconnect."""
    async with opened() as socket:
        stopping = stop(socket.driver)
        await socket.driver.settle()
        await socket.client.send(close(1001))
        assert not stopping.done()
        await socket.at(GRACE_SECONDS, lambda: socket.app.ended)
        assert socket.app.ended == "CancelledError"
        assert stopping.done()
