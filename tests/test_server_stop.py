"""The start and the stop of the server: what ends by itself, who is told, what is cut off, and in which order."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from server_driver import (
    CLOCKED,
    Driver,
    connected,
    driving,
    echo_asgi,
    either_echo,
    fetch,
    get,
    on_real_loops,
    post,
    read_to_end,
    serving,
)

from bridges.errors import ClientDisconnected, ConfigError, LifespanFailed
from bridges.server.run import Server
from bridges.server.signals import serve_until_told
from bridges.typing import Environ, Message, Receive, Scope, Send, StartResponse

START = {"type": "http.response.start", "status": 200, "headers": []}
EVENTS = {**START, "headers": [(b"content-type", b"text/event-stream; charset=utf-8")]}
SLACK = 1.5


@pytest.fixture
def anyio_backend() -> Any:
    """Run on a loop whose clock the test turns."""
    return CLOCKED


def part(body: bytes) -> Message:
    """Give a message with a piece of a body that goes on."""
    return {"type": "http.response.body", "body": body, "more_body": True}


def last(body: bytes = b"") -> Message:
    """Give the message with the last piece."""
    return {"type": "http.response.body", "body": body}


class Stopping:
    """A service that is told to stop.

    Attributes:
        task: that waits for the end.
    """

    def __init__(self, driver: Driver, seconds: float = 30) -> None:
        self.driver = driver
        driver.complaints.take()
        self.task = asyncio.ensure_future(driver.service.drain(seconds))

    @property
    def is_over(self) -> bool:
        """Whether the stop is complete."""
        return self.task.done()

    async def after(self, seconds: float) -> None:
        """Check that it is over so much later, and not before."""
        if seconds:
            await self.driver.advance(seconds - 0.5)
            assert not self.is_over, "too early"
            await self.driver.advance(SLACK)
        else:
            await self.driver.settle()
        assert self.is_over, "too late"
        await self.task


# The stop, as connections see it.


@either_echo
async def test_idle_connections_end_at_once(echo: Any) -> None:
    """Nobody waits for their next request."""
    async with driving(echo) as driver:
        client = driver.connect()
        await client.send(get())
        stopping = Stopping(driver)
        await stopping.after(0)
        assert client.is_closed
        assert not client.transport.aborted


async def test_nothing_to_wait_for() -> None:
    """Without connections it takes no time."""
    async with driving(echo_asgi) as driver:
        await Stopping(driver).after(0)


@pytest.mark.spec("issue 4", "4. SIGTERM: finish requests")
async def test_a_request_under_way_is_finished() -> None:
    """Its response says that the connection ends, and those pipelined behind it are not begun."""
    gate = asyncio.Event()
    paths: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        await gate.wait()
        await echo_asgi(scope, receive, send)

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/a") + get("/b"))
        stopping = Stopping(driver)
        await driver.advance(10)
        assert not stopping.is_over
        gate.set()
        await driver.settle()
        assert client.response().body == b"GET /a "
        assert client.response().value(b"connection") == b"close"
        assert client.is_closed
        await client.half_close()
        await stopping.after(0)
        assert paths == ["/a"]


@pytest.mark.spec("issue 4", "6. a rolling restart loses no request")
@either_echo
async def test_a_request_that_has_begun_to_arrive_is_served(echo: Any) -> None:
    """Whether a part of its head is there or a part of its body; the connection ends behind it."""
    async with driving(echo) as driver:
        head, body, used = (driver.connect() for _ in range(3))
        await head.send(get("/head")[:-1])
        await body.send(post(b"body")[:-1])
        await used.send(get(), b"GET")
        stopping = Stopping(driver)
        await driver.advance(5)
        await head.send(b"\n")
        await body.send(b"y")
        await used.send(get("/used")[3:])
        assert head.response().body == b"GET /head "
        assert body.response().body == b"POST / body"
        assert used.responses()[1].body == b"GET /used "
        for client in (head, body, used):
            assert client.responses()[-1].value(b"connection") == b"close"
            assert client.is_closed
        await stopping.after(0)


async def test_a_connection_that_was_accepted_late_is_served() -> None:
    """Its client may have sent its request already."""
    async with driving(echo_asgi) as driver:
        busy = driver.connect()
        await busy.send(b"GET")
        stopping = Stopping(driver)
        client = driver.connect()
        await client.send(get("/late"))
        assert client.response().body == b"GET /late "
        assert client.is_closed
        await busy.send(get()[3:])
        await stopping.after(0)


async def test_a_client_that_sends_nothing_does_not_hold_up_the_stop() -> None:
    """Browsers connect ahead of requests; a few seconds are enough for one that is on its way."""
    async with driving(echo_asgi) as driver:
        client = driver.connect()
        stopping = Stopping(driver)
        await driver.advance(5)
        assert stopping.is_over
        assert client.is_closed


@pytest.mark.spec("field-reports", "FR 114")
async def test_a_stream_of_events_is_told_at_once() -> None:
    """Its application is told that nobody listens any more, ends the response in order, and the stop is over."""
    told: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(EVENTS)
        await send(part(b"data: 1\n\n"))
        told.append((await receive())["type"])
        await send(last(b"data: bye\n\n"))

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        assert told == []
        stopping = Stopping(driver)
        await stopping.after(0)
        assert told == ["http.disconnect"]
        assert client.response().body == b"data: 1\n\ndata: bye\n\n"
        assert client.response().complete
        assert client.is_closed
        assert not client.transport.aborted


@pytest.mark.spec("field-reports", "FR 114")
async def test_a_stream_of_events_may_just_return() -> None:
    """Most frameworks cancel what sends and end: the server ends the response for them."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(EVENTS)
        await send(part(b"data: 1\n\n"))
        await receive()

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        stopping = Stopping(driver)
        await stopping.after(0)
        assert client.response().body == b"data: 1\n\n"
        assert client.response().complete


@pytest.mark.spec("field-reports", "FR 114")
async def test_a_stream_that_does_not_listen_loses_its_client_after_half_the_time() -> None:
    """Its next send() raises; the client can tell that the response is not complete."""
    raised: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(EVENTS)
        try:
            while True:
                await send(part(b"data: 1\n\n"))
                await asyncio.sleep(1)
        except OSError as error:
            raised.append(error)

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        stopping = Stopping(driver, 30)
        await stopping.after(15)
        assert [type(error) for error in raised] == [ClientDisconnected]
        assert not client.response().complete


@pytest.mark.spec("field-reports", "FR 114")
async def test_a_wsgi_stream_loses_its_client_after_half_the_time() -> None:
    """The generator is closed, and its thread is free."""
    gate = threading.Event()
    closed: list[bool] = []

    def stream() -> Iterator[bytes]:
        try:
            yield b"data: 1\n\n"
            gate.wait()
            while True:
                yield b"data: 2\n\n"
        finally:
            closed.append(True)

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return stream()

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        stopping = Stopping(driver, 30)
        await driver.advance(15 + SLACK)
        assert client.transport.aborted
        gate.set()
        await stopping.after(0)
        assert closed == [True]


@pytest.mark.spec("issue 4", "1. graceful time")
async def test_a_download_has_the_whole_time() -> None:
    """A response whose end is known is cut off when the time is over, which is logged."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({**START, "headers": [(b"content-length", b"1000")]})
        for _ in range(1000):
            await send(part(b"x"))
            await asyncio.sleep(1)

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        stopping = Stopping(driver, 30)
        await driver.advance(29.5)
        assert not client.is_closed
        await driver.advance(SLACK)
        assert client.transport.aborted
        await driver.advance(5)
        assert stopping.is_over
        (complaint,) = driver.complaints.take()
        assert complaint.startswith("1 connection")


@pytest.mark.spec("issue 4", "1. graceful time")
@pytest.mark.parametrize("seconds", [0, 5])
async def test_what_does_not_end_is_cancelled(seconds: int) -> None:
    """When the stop is over no application runs any more, whatever it does about its client's leaving."""
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)
            ended.append(scope["path"])

    async with driving(app, disconnect_grace_seconds=3) as driver:
        for number in range(3):
            await driver.connect().send(get(f"/{number}"))
        stopping = Stopping(driver, seconds)
        await driver.advance(seconds + 3 + 2 * SLACK)
        assert stopping.is_over
        assert sorted(ended) == ["/0", "/1", "/2"]
        assert driver.tasks == set()
        driver.complaints.take()


async def test_the_stop_waits_for_those_that_are_being_cancelled() -> None:
    """It is not over while one still rolls back."""
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await asyncio.sleep(2)
        ended.append("rolled back")

    async with driving(app, disconnect_grace_seconds=3) as driver:
        await driver.connect().send(get())
        stopping = Stopping(driver, 0)
        await driver.advance(1)
        assert not stopping.is_over
        await driver.advance(2)
        assert ended == ["rolled back"]
        assert stopping.is_over
        driver.complaints.take()


@pytest.mark.spec("ASGI HTTP 2.5", "Response Body: background work")
async def test_the_stop_waits_for_work_after_a_response() -> None:
    """Background tasks of frameworks run when the response is complete and its connection may be gone."""
    done: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await echo_asgi(scope, receive, send)
        await asyncio.sleep(10)
        done.append(scope["path"])

    async with driving(app) as driver:
        kept, gone = driver.connect(), driver.connect()
        await kept.send(get("/kept"))
        await gone.send(get("/gone"))
        await gone.leave()
        stopping = Stopping(driver, 30)
        await driver.advance(5)
        assert not stopping.is_over
        await driver.advance(5 + SLACK)
        assert stopping.is_over
        assert sorted(done) == ["/gone", "/kept"]


@pytest.mark.spec("issue 4", "1. graceful time")
async def test_work_after_a_response_has_no_more_time_than_others() -> None:
    """It is cancelled when the time is over, too."""
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await echo_asgi(scope, receive, send)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with driving(app, disconnect_grace_seconds=3) as driver:
        await driver.connect().send(get())
        stopping = Stopping(driver, 10)
        await driver.advance(10 + 3 + 2 * SLACK)
        assert stopping.is_over
        assert ended == ["cancelled"]
        driver.complaints.take()


async def test_clients_that_do_not_read_do_not_hold_up_the_stop() -> None:
    """They lose what the transport holds for them when the time is over."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(last(b"x" * 1_000_000))

    async with driving(app) as driver:
        slow, slower = driver.connect(), driver.connect()
        for client in (slow, slower):
            await client.hold()
            await client.send(get())
        stopping = Stopping(driver, 30)
        await driver.advance(20)
        await slow.read_on()
        assert slow.response().complete
        await driver.advance(10 + SLACK)
        assert stopping.is_over
        assert slower.transport.is_lost
        driver.complaints.take()


# The server as a whole, on real sockets.


class Living:
    """An application with a lifespan.

    Attributes:
        events: what happened, in order.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.gate = asyncio.Event()
        self.began = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        self.events.append(f"begin {scope['path']} {scope['state']['name']}")
        self.began.set()
        try:
            await self.gate.wait()
            await echo_asgi(scope, receive, send)
        finally:
            self.events.append(f"end {scope['path']}")

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        self.events.append("startup")
        scope["state"]["name"] = "state"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.events.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})


@pytest.mark.spec("field-reports", "FR 114")
@pytest.mark.spec("ASGI lifespan 2.0")
@on_real_loops
async def test_shutdown_runs_behind_the_last_request() -> None:
    """Startup, requests with its state, the end of the last request, shutdown; new clients are refused meanwhile."""
    app = Living()
    server = Server(app, port=0, access_log="off")
    await server.start()
    assert app.events == ["startup"]
    async with connected(server) as (reader, writer):
        writer.write(get("/a"))
        await app.began.wait()
        port = server.port
        stop = asyncio.ensure_future(server.stop())
        await asyncio.sleep(0)
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not stop.done()
        app.gate.set()
        assert (await read_to_end(reader)).endswith(b"GET /a ")
        await stop
    assert app.events == ["startup", "begin /a state", "end /a", "shutdown"]


@pytest.mark.spec("field-reports", "FR 114")
@on_real_loops
async def test_force_cuts_off_what_stop_waits_for() -> None:
    """Shutdown runs all the same, behind the requests that were cut off."""
    app = Living()
    server = Server(app, port=0, access_log="off", disconnect_grace_seconds=0)
    await server.start()
    async with connected(server) as (reader, writer):
        writer.write(get("/a"))
        await app.began.wait()
        stop = asyncio.ensure_future(server.stop())
        await asyncio.sleep(0)
        server.force()
        assert await read_to_end(reader) == b""
        await stop
    assert app.events == ["startup", "begin /a state", "end /a", "shutdown"]


@pytest.mark.spec("field-reports", "FR 114")
@pytest.mark.spec("field-reports", "FR 119")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("times", [1, 2])
@on_real_loops
async def test_signals_under_load(number: int, times: int) -> None:
    """The first lets requests end, the second cuts them off; shutdown runs behind them, and others are not harmed."""
    app = Living()
    server = Server(app, port=0, access_log="off", disconnect_grace_seconds=0)
    started = asyncio.Event()
    serving = asyncio.ensure_future(serve_until_told(server, started=started.set))
    await started.wait()
    async with connected(server) as (reader, writer):
        writer.write(get("/a"))
        await app.began.wait()
        port = server.port
        os.kill(os.getpid(), number)
        while True:
            try:
                _, probe = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                break  # the signal has arrived
            probe.close()
        if times == 2:
            os.kill(os.getpid(), number)
        else:
            app.gate.set()
        received = await read_to_end(reader)
    assert received.endswith(b"GET /a ") == (times == 1)
    assert await serving == (times == 1)
    assert app.events == ["startup", "begin /a state", "end /a", "shutdown"]


@on_real_loops
async def test_force_outside_a_stop_does_nothing() -> None:
    """Before the start, while it runs, after the stop."""
    server = Server(echo_asgi, port=0, access_log="off")
    server.force()
    async with server:
        server.force()
        (response,) = await fetch(server, get("/x", "Connection: close"))
        assert response.body == b"GET /x "
    server.force()


@either_echo
@on_real_loops
async def test_nothing_is_left_behind(echo: Any) -> None:
    """No descriptor, and so no port; no thread, and no task."""

    async def cycle() -> None:
        async with serving(echo) as server, connected(server) as (reader, writer):
            await fetch(server, get("/x", "Connection: close"))
            writer.write(get("/y"))
            await reader.readuntil(b"GET /y ")

    await cycle()
    before = _what_is_open()
    await cycle()
    # What the tests before have left may end meanwhile.
    assert _what_is_open() - before == Counter()


def _what_is_open() -> Counter[str]:
    gc.collect()
    kinds = []
    for name in os.listdir("/proc/self/fd"):
        try:
            kinds.append(os.readlink(f"/proc/self/fd/{name}").partition(":")[0])
        except FileNotFoundError:
            pass  # the listing's own
    return Counter(kinds) + Counter(thread.name for thread in threading.enumerate())


@on_real_loops
async def test_stop_may_be_called_again() -> None:
    """And before the start."""
    server = Server(echo_asgi, port=0, access_log="off")
    await server.stop()
    await server.start()
    await server.stop()
    await server.stop()


@pytest.mark.spec("issue 4", "4. an async context manager Server with its bound port")
@on_real_loops
async def test_where_it_is_reached() -> None:
    """The port that port 0 became, and the address as text."""
    async with serving(echo_asgi) as server:
        assert server.port > 0
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert list(server.addresses) == [server.url]
        (response,) = await fetch(server, get("/x", "Connection: close"))
        assert response.body == b"GET /x "
    with pytest.raises(RuntimeError):
        Server(echo_asgi, port=0).port  # noqa: B018


@on_real_loops
async def test_the_callers_sockets_stay_the_callers() -> None:
    """They are listened on while the server runs, and are open and listening after it, for the next server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for _ in range(2):
            async with serving(echo_asgi, sockets=[listening]) as server:
                assert server.port == listening.getsockname()[1]
                assert len(await fetch(server, get("/x", "Connection: close"))) == 1
            assert listening.fileno() >= 0
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


@on_real_loops
async def test_an_occupied_port() -> None:
    """It is a mistake of the options, and nothing was begun."""
    app = Living()
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        server = Server(app, port=occupied.getsockname()[1])
        with pytest.raises(ConfigError):
            await server.start()
    assert app.events == []


@pytest.mark.spec("ASGI lifespan 2.0", "startup.failed")
@on_real_loops
async def test_a_startup_that_fails() -> None:
    """The start fails with the application's reason, the port is free again."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(app, port=port)
    with pytest.raises(LifespanFailed, match="no database"):
        await server.start()
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.spec("ASGI lifespan 2.0", "Scope")
@pytest.mark.parametrize("mode", ["auto", "on", "off"])
async def test_lifespan_of_an_application_that_has_none(mode: str) -> None:
    """``auto`` serves it, ``on`` refuses to start, ``off`` does not ask."""
    asked: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["type"])
        assert scope["type"] == "http", "there is nothing but http here"
        await echo_asgi(scope, receive, send)

    server = Server(app, port=0, access_log="off", lifespan=mode)
    if mode == "on":
        with pytest.raises(LifespanFailed):
            await server.start()
        assert asked == ["lifespan"]
        return
    async with server:
        await fetch(server, get("/x", "Connection: close"))
    assert asked == (["http"] if mode == "off" else ["lifespan", "http"])


def _hanging(moment: str) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if moment == "startup":
            await asyncio.Event().wait()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.Event().wait()

    return app


async def _in_time(work: Any, loop: Any, seconds: float) -> None:
    """Check that a coroutine takes some time on the clock of the test, and not much more."""
    task = asyncio.ensure_future(work)
    began = loop.now
    while not task.done():
        await asyncio.sleep(0)
        if not loop.has_work():
            loop.now += 0.5
    assert seconds <= loop.now - began <= seconds + 3
    await task


@pytest.mark.spec("issue 4", "2. lifespan")
async def test_startup_seconds() -> None:
    """A startup that does not end fails."""
    loop = asyncio.get_running_loop()
    server = Server(_hanging("startup"), port=0, startup_seconds=20)
    with pytest.raises(LifespanFailed):
        await _in_time(server.start(), loop, 20)


@pytest.mark.spec("issue 4", "2. lifespan")
async def test_shutdown_seconds() -> None:
    """A shutdown that does not end is given up."""
    loop = asyncio.get_running_loop()
    server = Server(_hanging("shutdown"), port=0, shutdown_seconds=20, access_log="off")
    await server.start()
    await _in_time(server.stop(), loop, 20)


async def test_a_start_that_is_given_up() -> None:
    """Cancelled in the middle of the startup, it leaves nothing."""
    before = asyncio.all_tasks()
    server = Server(_hanging("startup"), port=0, shutdown_seconds=0)
    start = asyncio.ensure_future(server.start())
    for _ in range(5):
        await asyncio.sleep(0)
    port = server.port
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await _in_time(start, asyncio.get_running_loop(), 0)
    assert asyncio.all_tasks() == before
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.spec("field-reports", "FR 110")
@on_real_loops
async def test_either_kind_is_found_by_looking() -> None:
    """ASGI 3, ASGI 2 and WSGI, functions and objects."""

    class Old:
        def __init__(self, scope: Scope) -> None:
            self.scope = scope

        async def __call__(self, receive: Receive, send: Send) -> None:
            await echo_asgi(self.scope, receive, send)

    class Bound:
        def serve(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
            start_response("200 OK", [])
            return [b"GET /x "]

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await echo_asgi(scope, receive, send)

    class Callable:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await echo_asgi(scope, receive, send)

    for app in (handle, Callable(), Old, Bound().serve):
        async with serving(app, lifespan="off") as server:
            (response,) = await fetch(server, get("/x", "Connection: close"))
            assert response.body == b"GET /x "


@pytest.mark.spec("field-reports", "FR 110")
def test_an_application_whose_kind_cannot_be_told() -> None:
    """The error names the option that settles it."""

    def app(*arguments: Any) -> None:
        raise AssertionError("not called")

    with pytest.raises(ConfigError, match="interface"):
        Server(app)


@on_real_loops
async def test_a_client_is_never_left_without_an_end() -> None:
    """Clients at every point of a request when the server stops: all see the end of their connection."""
    gate = asyncio.Event()
    began = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stuck":
            await send(START)
            await send(part(b"x"))
            began.set()
            await gate.wait()

    requests = [b"", b"GE", get()[:-2], post(b"body")[:-1], get("/stuck")]
    server = Server(app, port=0, access_log="off", graceful_seconds=0, disconnect_grace_seconds=0)
    await server.start()
    pairs = [await asyncio.open_connection("127.0.0.1", server.port) for _ in requests]
    for request, (_, writer) in zip(requests, pairs, strict=True):
        writer.write(request)
        await writer.drain()
    await began.wait()
    await server.stop()
    for reader, writer in pairs:
        await read_to_end(reader)
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass  # cut off
