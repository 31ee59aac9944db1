"""Websockets of WSGI applications in the server, on a clock that the test turns: what is not as with ASGI."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from server_driver import CLOCKED, PATIENCE_SECONDS, Client, Driver, ask, driving
from websocket_driver import AppSocket
from websocket_tools import BINARY, CLOSE, PING, PONG, TEXT, close, frame, frames

from bridges.typing import Environ, StartResponse

PING_SECONDS = PONG_SECONDS = 20.0
CLOSE_SECONDS = 10.0
WRITE_SECONDS = 60.0
GRACE_SECONDS = 3.0
SLACK = 1.5


@pytest.fixture
def anyio_backend() -> Any:
    """Run on a loop whose clock the test turns."""
    return CLOCKED


class App:
    """An application that calls, in its thread, one function after another, as the test gives them.

    Attributes:
        opens: whether it opens its websocket at once.
        results: what those functions gave or raised.
        ended: set when the call is over.
    """

    ws: AppSocket

    def __init__(self, *, opens: bool = True) -> None:
        self.opens = opens
        self.steps: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self.results: list[Any] = []
        self.ended = threading.Event()
        self.failure: BaseException | None = None
        self.environ: Environ = {}
        self.start_response: StartResponse
        self.answer: list[bytes] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.environ, self.start_response = environ, start_response
        try:
            if self.opens:
                self.open()
            while (step := self.steps.get(timeout=PATIENCE_SECONDS)) is not None:
                try:
                    self.results.append(step())
                except (OSError, AssertionError) as error:
                    self.results.append(type(error))
            if self.failure is not None:
                raise self.failure
            return self.answer
        finally:
            self.ended.set()

    def open(self) -> None:
        """Open the websocket."""
        self.ws = AppSocket(self.environ)


class Open:
    """A websocket that the application has accepted, or is about to."""

    def __init__(self, driver: Driver, client: Client, app: App) -> None:
        self.driver = driver
        self.client = client
        self.app = app

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """Opcode and payload of what the client has read."""
        data = self.client.received.partition(b"\r\n\r\n")[2]
        return [(first & 0xF, payload) for first, payload in frames(data)]

    @property
    def codes(self) -> list[int]:
        """Those of its close frames."""
        return [int.from_bytes(data[:2], "big") for kind, data in self.frames if kind == CLOSE]

    async def calls(self, *steps: Callable[[], Any]) -> list[Any]:
        """Have the application call functions, and wait for them; gives their results."""
        before = len(self.app.results)
        for step in steps:
            self.app.steps.put(step)
        await self.driver.until(lambda: len(self.app.results) == before + len(steps))
        return self.app.results[before:]

    async def ends(self, failure: BaseException | None = None) -> None:
        """Let the application return or fail, and wait for that."""
        self.app.failure = failure
        self.app.steps.put(None)
        await self.driver.until(lambda: self.is_over)

    @property
    def is_over(self) -> bool:
        """Whether neither thread nor task is left."""
        return (
            self.app.ended.is_set()
            and not self.driver.service._tasks
            and not self.driver.service.websocket_pool.snapshot().busy
        )


@asynccontextmanager
async def opened(app: App | None = None, **options: Any) -> AsyncIterator[Open]:
    """Have a websocket; the application ends at the end."""
    app = app or App()
    async with driving(app, **options) as driver:
        client = driver.connect()
        await client.send(ask())
        socket = Open(driver, client, app)
        if app.opens:
            await driver.until(lambda: client.received.startswith(b"HTTP/1.1 101 "))
            await driver.until(lambda: hasattr(app, "ws"))  # its thread goes on at its own pace
        yield socket
        if not app.ended.is_set():
            await client.leave()
            await socket.ends()


# Pings.


@pytest.mark.spec("RFC 6455", "section 5.5.2")
async def test_pings_are_between_server_and_client() -> None:
    """The application sees neither those of the server nor the client's, and may be as slow as it likes."""
    async with opened() as socket:
        await socket.client.send(frame(PING, b"p"))
        assert socket.frames == [(PONG, b"p")]
        await socket.driver.advance(PING_SECONDS + SLACK)
        assert socket.frames[1:] == [(PING, b"")]
        await socket.client.send(frame(PONG), frame(TEXT, b"x"))
        assert await socket.calls(socket.app.ws.receive) == [(TEXT, b"x")]


@pytest.mark.spec("RFC 6455", "section 5.5.2")
async def test_a_ping_of_the_application_is_answered_within_the_process() -> None:
    """The client is asked by the server."""
    async with opened() as socket:
        ws = socket.app.ws
        assert await socket.calls(lambda: ws.frame(PING, b"p"), ws.receive) == [None, (PONG, b"p")]
        assert socket.frames == []


@pytest.mark.spec("RFC 6455", "section 5.5.2")
async def test_a_client_that_does_not_answer_frees_the_thread() -> None:
    """The application that reads sees the end of its socket."""
    async with opened() as socket:
        socket.app.steps.put(socket.app.ws.receive)
        await socket.driver.advance(PING_SECONDS + PONG_SECONDS + 2 * SLACK)
        assert socket.client.transport.aborted
        await socket.driver.until(lambda: socket.app.results == [None])
        await socket.ends()


# Slow ends.


async def test_a_slow_application_makes_the_client_wait() -> None:
    """Its socket is full, then the server reads no more; nothing is lost, and nobody is cut off."""
    async with opened() as socket:
        sent = [bytes([number % 256]) * 20_000 for number in range(100)]
        unsent = list(sent)
        while unsent and socket.client.is_read:
            await socket.client.send(frame(BINARY, unsent.pop(0)))
            for _ in range(3):
                await socket.driver.settle()
        assert unsent, "everything was read"
        await socket.driver.advance(200)
        assert not socket.client.transport.aborted
        assert socket.frames == []
        for data in unsent:
            await socket.client.send(frame(BINARY, data))
        results = await socket.calls(*[socket.app.ws.receive] * len(sent))
        assert results == [(BINARY, data) for data in sent]


@pytest.mark.parametrize("reads", [True, False])
async def test_a_slow_client_makes_the_application_wait(reads: bool) -> None:
    """In its write, until the client reads, or is cut off by the limit for writing."""
    async with opened() as socket:
        ws = socket.app.ws
        await socket.client.hold()

        def write() -> int:
            for _ in range(50):
                ws.send(b"x" * 100_000)
            return 50

        socket.app.steps.put(write)
        await socket.driver.until(lambda: socket.client.connection.write_paused)
        if reads:
            await socket.client.read_on()
            await socket.driver.until(lambda: len(socket.frames) == 50)
            await socket.driver.until(lambda: socket.app.results == [50])
        else:
            await socket.driver.advance(WRITE_SECONDS - SLACK)
            assert not socket.client.transport.aborted
            await socket.driver.advance(2 * SLACK)
            assert socket.client.transport.aborted
            await socket.driver.until(lambda: socket.app.results == [BrokenPipeError])
            await socket.ends()


async def test_messages_and_close_in_one_piece() -> None:
    """The application reads the messages and then the close, however late."""
    async with opened() as socket:
        await socket.client.send(frame(TEXT, b"a") + frame(TEXT, b"") + close(4000, b"over"))
        await socket.driver.until(lambda: socket.codes)
        assert socket.codes == [4000]
        assert socket.client.is_closed
        got = await socket.calls(*[socket.app.ws.receive] * 4)
        assert got == [(TEXT, b"a"), (TEXT, b""), (CLOSE, b"\x0f\xa0over"), None]
        await socket.ends()


async def test_frames_right_behind_the_handshake() -> None:
    """They wait until the application has written its response."""
    app = App(opens=False)
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(ask() + frame(TEXT, b"early"))
        socket = Open(driver, client, app)
        assert client.received == b""
        await socket.calls(app.open)
        assert await socket.calls(app.ws.receive) == [(TEXT, b"early")]
        await client.leave()
        await socket.ends()


# The end.


@pytest.mark.spec("RFC 6455", "section 7.1.1")
@pytest.mark.parametrize("answers", [True, False])
async def test_the_application_closes(answers: bool) -> None:
    """The client has its time to answer, which the thread does not wait for."""
    async with opened() as socket:
        await socket.calls(lambda: socket.app.ws.close(4001, "bye"))
        await socket.ends()
        assert socket.codes == [4001]
        assert not socket.client.is_closed
        if answers:
            await socket.client.send(close(4001))
            assert socket.client.is_closed
        else:
            await socket.driver.advance(CLOSE_SECONDS - SLACK)
            assert not socket.client.transport.aborted
            await socket.driver.advance(2 * SLACK)
        assert socket.client.transport.aborted is not answers
        (entry,) = socket.driver.logged
        assert entry.status == 101


async def test_an_application_that_goes_on_after_its_client_left() -> None:
    """Its thread cannot be cancelled: it ends by itself, and until then counts as one of the most."""
    async with opened(max_websockets=1) as socket:
        await socket.client.leave()
        await socket.driver.advance(GRACE_SECONDS + SLACK)
        assert not socket.driver.tasks
        other = socket.driver.connect()
        await other.send(ask())
        assert other.response().status == 503
        (line,) = socket.driver.complaints.take()
        assert "raise max_websockets" in line
        assert await socket.calls(lambda: socket.app.ws.send("x")) == [BrokenPipeError]
        await socket.calls(lambda: bool(socket.app.start_response("200 OK", [])))
        await socket.ends()
        await other.send(ask())
        socket.app.ended.clear()
        await socket.driver.until(lambda: b"HTTP/1.1 101 " in other.received)
        await other.leave()
        await socket.ends()


async def test_an_exception_is_1011_and_logged() -> None:
    """While the websocket is open; after the client's close it is logged alone."""
    async with opened() as socket:
        await socket.ends(ValueError("oh"))
        assert socket.codes == [1011]
        (line,) = socket.driver.complaints.take()
        assert line.endswith(" failed in a websocket at / (ValueError)")
    async with opened() as socket:
        await socket.client.send(close(4000))
        await socket.driver.until(lambda: socket.codes)
        await socket.ends(ValueError("oh"))
        assert socket.codes == [4000]
        (line,) = socket.driver.complaints.take()
        assert line.endswith(" failed in a websocket at / (ValueError)")


async def test_bad_frames_of_the_application_are_its_mistake() -> None:
    """The client is told 1011, and the log what was wrong."""
    async with opened() as socket:
        await socket.calls(lambda: socket.app.ws.frame(3))
        await socket.driver.until(lambda: socket.codes)
        assert socket.codes == [1011]
        await socket.ends()
        (line,) = socket.driver.complaints.take()
        assert line.endswith(" failed in a websocket at / (ApplicationProtocolError)")


@pytest.mark.parametrize("parts", [[b"no"], [b"n", b"o"]])
async def test_a_response_instead(parts: list[bytes]) -> None:
    """In one part or several, as to any request; the connection serves the next one."""
    app = App(opens=False)
    app.answer = parts
    async with driving(app) as driver:
        client = driver.connect()
        for count in (1, 2):
            await client.send(ask())
            socket = Open(driver, client, app)
            await socket.calls(lambda: app.start_response("401 No", [("X-A", "b")]))
            await socket.ends()
            responses = client.responses()
            assert [each.status for each in responses] == [401] * count
            assert responses[-1].body == b"".join(parts)
            assert responses[-1].value(b"x-a") == b"b"
            app.ended.clear()
        assert [(entry.status, entry.sent) for entry in driver.logged] == [
            (401, len(b"".join(parts)))
        ] * 2


async def test_an_exception_before_the_socket_is_used_is_500() -> None:
    """As in any request."""
    app = App(opens=False)
    async with opened(app) as socket:
        await socket.ends(ValueError("oh"))
        assert socket.client.response().status == 500
        (line,) = socket.driver.complaints.take()
        assert line.endswith(" failed at GET / (ValueError)")


# The stop.


@pytest.mark.spec("FR 114")
async def test_a_stop_while_open() -> None:
    """The application reads the close frame, and its thread is not waited for longer than it takes."""
    async with opened() as socket:
        stopping = asyncio.ensure_future(socket.driver.service.drain(30))
        await socket.driver.settle()
        assert socket.codes == [1001]
        (got, end) = await socket.calls(socket.app.ws.receive, socket.app.ws.receive)
        assert (got[0], got[1][:2], end) == (CLOSE, b"\x03\xe9", None)
        await socket.ends()
        assert not stopping.done()
        await socket.client.send(close(1001))
        await socket.driver.until(stopping.done)
        assert not socket.client.transport.aborted


@pytest.mark.spec("FR 114")
async def test_a_stop_before_the_application_opens_it() -> None:
    """It may open it still, and is told then."""
    app = App(opens=False)
    async with opened(app) as socket:
        stopping = asyncio.ensure_future(socket.driver.service.drain(30))
        await socket.driver.settle()
        await socket.calls(app.open)
        await socket.driver.until(lambda: socket.codes)
        assert socket.codes == [1001]
        (got,) = await socket.calls(app.ws.receive)
        assert (got[0], got[1][:2]) == (CLOSE, b"\x03\xe9")
        await socket.client.send(close(1001))
        await socket.ends()
        await socket.driver.until(stopping.done)


# Compression, and what the environ says of it.


@pytest.mark.spec("RFC 7692", "section 5.1")
async def test_compression_is_the_connections() -> None:
    """The client's messages are compressed, those within the process are not."""
    app = App()
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(ask("Sec-WebSocket-Extensions: permessage-deflate"))
        await driver.until(lambda: client.received)
        assert b"Sec-WebSocket-Extensions: permessage-deflate" in client.received
        socket = Open(driver, client, app)
        await socket.calls(lambda: app.ws.send("y" * 10_000))
        await driver.until(lambda: socket.frames)
        assert len(client.received) < 1000
        assert "HTTP_SEC_WEBSOCKET_EXTENSIONS" not in app.environ
        await client.leave()
        await socket.ends()
