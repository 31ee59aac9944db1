"""The server's connections without sockets and without waiting: a fake transport, a clock that the test turns.

``driving`` makes a service with one application; ``Driver.connect`` gives a client of it. Whatever a client does is
over when the call returns: everything that could go on by itself, in the loop or in a thread, has come to rest.
``serve_bytes`` does all of that for one connection, for tests that are not async. ``serving`` runs the real server.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from http1_corpus import Response, responses

from bridges.crossing.pipes import LoopToThread, ThreadToLoop
from bridges.crossing.pool import Job, ThreadPool, Ticket
from bridges.kinds import name_of
from bridges.loading import as_asgi3, kind_of
from bridges.server.asgi import ASGIExchange
from bridges.server.config import Config
from bridges.server.exchange import Exchange
from bridges.server.http1 import Connection
from bridges.server.run import Server, make_config
from bridges.server.service import Service
from bridges.server.websocket import WebSocketExchange
from bridges.server.wsgi import WSGIExchange
from bridges.server.wsgi_websocket import WSGIWebSocketExchange, may_have_websocket
from bridges.typing import Environ, Receive, Scope, Send, StartResponse

Result = TypeVar("Result")

# The service looks at its clock that often.
TICK_SECONDS = 0.5
# What transports of asyncio take before they call it too much, and what they call little again.
HIGH_WATER_BYTES = 65_536
LOW_WATER_BYTES = 16_384

# What does not come within this time never will.
PATIENCE_SECONDS = 15.0

CLIENT = ("192.0.2.1", 50_000)
SERVER = ("192.0.2.80", 8_000)


# The clock.


class ClockLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes when the test says so; timers of applications run by it too.

    Attributes:
        now: its time in seconds.
        timers: how many were set.
        outside: how many functions run in threads for it.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers = 0
        self.outside = 0
        super().__init__()

    def time(self) -> float:
        return self.now

    def call_at(self, *arguments: Any, **details: Any) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(*arguments, **details)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        self.outside += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._come_in)
        return future

    def _come_in(self, future: object) -> None:
        self.outside -= 1

    def has_work(self) -> bool:
        """Whether something is about to run."""
        return bool(self.outside or self._ready)  # type: ignore[attr-defined]


CLOCKED = ("asyncio", {"debug": True, "loop_factory": ClockLoop})
"""The ``anyio_backend`` of tests that use ``driving``."""


def _real_loops() -> list[Any]:
    loops = [pytest.param(("asyncio", {"debug": True}), id="asyncio")]
    if importlib.util.find_spec("uvloop"):
        loops.append(pytest.param(("asyncio", {"debug": True, "use_uvloop": True}), id="uvloop"))
    return loops


on_real_loops = pytest.mark.parametrize("anyio_backend", _real_loops())
"""Marks an async test that needs sockets: it runs on each loop that the server knows."""


# Threads.


class _WatchedJob:
    def __init__(self, job: Job, pool: WatchedPool) -> None:
        self._job = job
        self._pool = pool
        self.thread: int | None = None

    def run(self) -> None:
        self.thread = threading.get_ident()
        self._job.run()

    def finish(self) -> None:
        try:
            self._job.finish()
        finally:
            self._pool.jobs.discard(self)

    def abandon(self) -> None:
        self._pool.jobs.discard(self)
        self._job.abandon()


class WatchedPool(ThreadPool):
    """A pool that knows whether its threads have come to rest.

    Attributes:
        jobs: those whose end has not been told.
    """

    def _begin(self) -> None:
        super()._begin()
        self.jobs: set[_WatchedJob] = set()

    def submit(self, job: Job) -> tuple[Ticket, bool]:
        watched = _WatchedJob(job, self)
        self.jobs.add(watched)
        try:
            return super().submit(watched)
        except BaseException:
            self.jobs.discard(watched)
            raise

    def withdraw(self, ticket: Ticket) -> bool:
        withdrawn = super().withdraw(ticket)
        if withdrawn:
            self.jobs.discard(ticket.job)  # type: ignore[arg-type]
        return withdrawn

    @property
    def is_busy(self) -> bool:
        """Whether a thread goes on by itself: it waits neither for the loop nor for an event of the test."""
        jobs = list(self.jobs)
        running = [job.thread for job in jobs if job.thread is not None]
        if len(running) < min(len(jobs), self.max_threads):
            return True
        return not all(map(_waits, running))


def _waits(thread: int) -> bool:
    frame = sys._current_frames().get(thread)
    if frame is None or frame.f_back is None:
        return False
    if frame.f_code is ThreadToLoop._wait.__code__:
        waiter = frame.f_locals.get("waiter")
        return waiter is not None and frame.f_locals["self"]._waiter is waiter
    caller = frame.f_back
    if frame.f_code is not threading.Condition.wait.__code__:
        return False
    if caller.f_code is LoopToThread.take.__code__:
        pipe = caller.f_locals["self"]
        return not pipe._chunks and not pipe._ended
    return caller.f_code is threading.Event.wait.__code__ and not caller.f_locals["self"].is_set()


# The transport.


class FakeTransport(asyncio.Transport):
    """A connection's transport, and the network behind it.

    It does what asyncio's does, and is stricter in one thing: what is written after ``close`` is kept as a mistake.

    Attributes:
        received: bytes that the client has taken.
        is_held: True while the client takes nothing by itself.
        late: what was written when it was too late.
        aborted: True if the connection was cut.
        ended: True once the client sees the end of what the server sends.
        pauses: how often reading was paused.
        writes: how often something was written.
        incoming: what was sent and not yet read; None is the end.
    """

    def __init__(self, loop: ClockLoop, extra: Mapping[str, Any]) -> None:
        super().__init__(dict(extra))
        self._loop = loop
        self._protocol: asyncio.Protocol | None = None
        self._tls = extra.get("ssl_object") is not None
        self.received = bytearray()
        self._buffer = bytearray()
        self.incoming: deque[bytes | None] = deque()
        self._high, self._low = HIGH_WATER_BYTES, LOW_WATER_BYTES
        self._writing_paused = False
        self._reading = True
        # asyncio's transports call back in the context in which they began to read or to wait for room.
        self._reader_context = contextvars.copy_context()
        self._writer_context = contextvars.copy_context()
        self._closing = False
        self._eof_written = False
        self._lost = False
        self.is_held = False
        self.late = bytearray()
        self.aborted = False
        self.ended = False
        self.pauses = 0
        self.writes = 0

    def open(self, protocol: asyncio.Protocol) -> None:
        """Tell the protocol that there is a connection."""
        self._protocol = protocol
        protocol.connection_made(self)

    # What the client does; in callbacks of the loop.

    def arrive(self, data: bytes | None) -> None:
        """Let bytes arrive, or the end of them."""
        self.incoming.append(data)
        self._reader_context.run(self._deliver)

    def _deliver(self) -> None:
        protocol = self._protocol
        assert protocol is not None
        while self.incoming and self._reading and not (self._closing or self._lost):
            data = self.incoming.popleft()
            if data is not None:
                protocol.data_received(data)
            elif not protocol.eof_received():
                self.close()

    def take(self, size: int) -> None:
        """Let the client take some of what was written."""
        self.received += self._buffer[:size]
        del self._buffer[:size]
        self._resume_protocol()
        if not self._buffer:
            self.ended = self.ended or self._eof_written
            if self._closing:
                self._loop.call_soon(self.lose, None)

    def lose(self, error: Exception | None) -> None:
        """Let the connection end."""
        if self._lost:
            return
        self._lost = self._closing = self.ended = True
        self._reading = False
        self._buffer.clear()
        assert self._protocol is not None
        self._protocol.connection_lost(error)

    @property
    def is_lost(self) -> bool:
        """True once the protocol was told that the connection is over."""
        return self._lost

    # What the server does.

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._reading = False
            if not self._buffer:
                self._loop.call_soon(self.lose, None)

    def abort(self) -> None:
        self.aborted = self._closing = True
        self._reading = False
        self._buffer.clear()
        self._loop.call_soon(self.lose, None)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert isinstance(data, bytes | bytearray | memoryview), type(data)
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._closing:
            self.late += data
            return
        self.writes += 1
        if not self._buffer:
            self._writer_context = contextvars.copy_context()
        self._buffer += data
        if not self.is_held:
            self.received += self._buffer
            self._buffer.clear()
        self._pause_protocol()

    def can_write_eof(self) -> bool:
        return not self._tls

    def write_eof(self) -> None:
        assert not self._tls
        if not self._closing:
            self._eof_written = True
            self.ended = not self._buffer

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_WATER_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low
        self._pause_protocol()

    def _pause_protocol(self) -> None:
        if len(self._buffer) > self._high and not self._writing_paused:
            self._writing_paused = True
            assert self._protocol is not None
            self._protocol.pause_writing()

    def _resume_protocol(self) -> None:
        if self._writing_paused and len(self._buffer) <= self._low:
            self._writing_paused = False
            assert self._protocol is not None
            self._writer_context.run(self._protocol.resume_writing)

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self.pauses += self.is_reading()
        self._reading = False

    def resume_reading(self) -> None:
        if not self._closing and not self._reading:
            self._reading = True
            self._reader_context = contextvars.copy_context()
            self._loop.call_soon(self._reader_context.run, self._deliver)


# The client, and the service it talks to.


class Client:
    """One client on one connection.

    Attributes:
        connection: the server's side of it.
        transport: what is between them.
        has_left: True once it went away by itself.
    """

    def __init__(self, driver: Driver, connection: Connection, transport: FakeTransport) -> None:
        self._driver = driver
        self.connection = connection
        self.transport = transport
        self.has_left = False

    async def send(self, *pieces: bytes) -> bytes:
        """Send bytes, each piece by itself; gives what the server wrote for them."""
        before = len(self.transport.received)
        for piece in pieces:
            await self._do(self.transport.arrive, piece)
        return bytes(self.transport.received[before:])

    async def send_and_end(self, data: bytes) -> None:
        """Send bytes and the end of them, both of which arrive before anything else happens."""

        def arrive() -> None:
            self.transport.arrive(data)
            self.transport.arrive(None)

        await self._do(arrive)

    async def half_close(self) -> None:
        """End what is sent, and go on reading."""
        await self._do(self.transport.arrive, None)

    async def leave(self, error: Exception | None = None) -> None:
        """Go away, as a process does that is killed."""
        self.has_left = True
        await self._do(self.transport.lose, error or ConnectionResetError())

    async def hold(self) -> None:
        """Read nothing from now on."""
        self.transport.is_held = True

    async def take(self, size: int = sys.maxsize) -> bytes:
        """Read some of what was written; gives it."""
        before = len(self.transport.received)
        await self._do(self.transport.take, size)
        return bytes(self.transport.received[before:])

    async def read_on(self) -> bytes:
        """Read everything from now on; gives what is there."""
        self.transport.is_held = False
        return await self.take()

    async def _do(self, action: Callable[..., object], *args: object) -> None:
        self._driver.loop.call_soon(action, *args)
        await self._driver.settle()

    @property
    def received(self) -> bytes:
        """All that was read."""
        return bytes(self.transport.received)

    @property
    def is_closed(self) -> bool:
        """Whether this client has seen the end of what the server sends."""
        return self.transport.ended

    @property
    def is_read(self) -> bool:
        """Whether the server reads what is sent."""
        return self.transport.is_reading()

    def responses(self, *methods: str) -> list[Response]:
        """Read the final responses to requests with these methods, in order; GET for any others."""
        return self._read(methods)[0]

    def interim(self, *methods: str) -> list[int]:
        """Read the statuses of the interim responses."""
        return self._read(methods)[1]

    def _read(self, methods: Sequence[str]) -> tuple[list[Response], list[int]]:
        # Of a response that was broken off, what there is counts.
        broken = self.has_left or self.transport.aborted
        return responses(self.received, methods, closed=self.is_closed and not broken)

    def response(self, method: str = "GET") -> Response:
        """Read the only response."""
        (response,) = self.responses(method)
        return response


class Complaints(logging.Handler):
    """Keeps warnings and errors of the server and of asyncio: a test has to take those that it expects.

    Attributes:
        records: not taken yet.
    """

    _names = ("bridges.server", "bridges.adapters", "asyncio")

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def __enter__(self) -> Complaints:
        for name in self._names:
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, *details: object) -> None:
        for name in self._names:
            logging.getLogger(name).removeHandler(self)

    def take(self) -> list[str]:
        """Give each as one line, with the type of its exception, and forget them."""
        taken, self.records = self.records, []
        return [_line(record) for record in taken]


def _line(record: logging.LogRecord) -> str:
    kind = record.exc_info[0] if record.exc_info else None
    return f"{record.getMessage()} ({kind.__name__})" if kind else record.getMessage()


class Driver:
    """An application in the server, on a loop whose clock the test turns.

    Attributes:
        service: of all connections.
        loop: that it runs on.
        logged: the exchanges that the access log was told of.
        complaints: what was logged at warning and above.
        clients: all that have connected.
    """

    def __init__(
        self, app: Any, config: Config, complaints: Complaints, state: dict[str, Any] | None = None
    ) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ClockLoop), "set anyio_backend to CLOCKED"
        self.loop = loop
        self.complaints = complaints
        self.logged: list[Exchange] = []
        self.clients: list[Client] = []
        self._tasks_before = asyncio.all_tasks()
        kind = kind_of(app, config.interface)
        is_wsgi = kind == "wsgi"
        self.service = service = Service(
            as_asgi3(app, kind) if kind == "asgi2" else app,
            name_of(app),
            config,
            WSGIExchange if is_wsgi else ASGIExchange,
            WSGIWebSocketExchange if is_wsgi else WebSocketExchange,
            self.logged.append,
        )
        if is_wsgi:
            service.may_have_websocket = may_have_websocket
        service.state = state
        service.pool = self._pool = WatchedPool(
            config.threads, max_queue=config.max_queue, queue_seconds=config.queue_seconds
        )

    def connect(self, **extra: Any) -> Client:
        """Connect a client.

        Args:
            **extra: what the transport tells about itself: ``peername``, ``sockname``, ``ssl_object``.
        """
        facts = {"peername": CLIENT, "sockname": SERVER, **extra}
        transport = FakeTransport(self.loop, facts)
        connection = Connection(self.service)
        client = Client(self, connection, transport)
        self.clients.append(client)
        transport.open(connection)
        return client

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """Those that run on behalf of requests."""
        return asyncio.all_tasks() - self._tasks_before

    async def settle(self) -> None:
        """Let everything run that does not wait for time, for a client, or for an event of the test."""
        calls = self.service.gate._calls
        never = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < never:
            await asyncio.sleep(0)
            # In this order: a thread that has come to rest rings no more.
            if not (self._pool.is_busy or calls or self.loop.has_work()):
                return
        raise AssertionError("the server does not come to rest")

    async def until(self, condition: Callable[[], object]) -> None:
        """Let everything run until something is true that a thread with a websocket has a part in."""
        never = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < never, "what should have happened did not"
            await self.settle()

    async def advance(self, seconds: float) -> None:
        """Let time pass."""
        end = self.loop.now + seconds
        while self.loop.now < end:
            self.loop.now = min(end, self.loop.now + TICK_SECONDS)
            await self.settle()

    async def close(self) -> None:
        """End everything, and look at what is left."""
        for client in self.clients:
            if not client.transport.is_lost:
                await client.leave()
        await self.settle()
        if self.service.config.disconnect_grace_seconds < math.inf:
            await self.advance(self.service.config.disconnect_grace_seconds + 1)
        await self.until(lambda: not self.service.websocket_pool.snapshot().busy)
        self.service.websocket_pool.shutdown()
        self._pool.shutdown()
        self.service.close()

    def check_nothing_left(self) -> None:
        """Fail if something was not ended, was written too late, or was complained of without being expected."""
        assert not self.service.connections
        assert not self._pool.jobs
        assert not self.tasks
        for client in self.clients:
            assert not client.transport.late, "written after the end of the connection"
        assert self.complaints.take() == []


@asynccontextmanager
async def driving(
    app: Any, *, state: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Driver]:
    """Serve an application to clients that ``Driver.connect`` makes; no task or thread may be left at the end.

    Args:
        app: of either kind.
        state: of its lifespan.
        **options: of ``Config``.
    """
    with Complaints() as complaints:
        driver = Driver(app, make_config(options), complaints, state)
        try:
            yield driver
        finally:
            await driver.close()
        driver.check_nothing_left()


def serve_bytes(
    pieces: Iterable[bytes], app: Any, config: Config | None = None, *, eof: bool = False
) -> tuple[bytes, bool]:
    """Serve one connection, without sockets, on a loop of its own; not for async tests.

    Args:
        pieces: what the client sends; each arrives by itself, when nothing more happens for those before it.
        app: of either kind.
        config: of the server; None for the defaults.
        eof: whether the client then ends its side, and goes on reading.

    Returns:
        What the client got when all had come to rest, no time having passed, and whether it saw the server close.

    Raises:
        Exception: what came out of a callback of the loop, such as ``data_received``.
    """
    return on_clock(_serve_bytes(pieces, app, config or Config(), eof))


def on_clock(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on a new ``ClockLoop``; for tests that are not async.

    Raises:
        Exception: what came out of a callback of the loop.
    """
    loop = ClockLoop()
    raised: list[BaseException] = []

    def note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        raised.append(context.get("exception") or RuntimeError(context["message"]))

    loop.set_exception_handler(note)
    try:
        outcome = loop.run_until_complete(work)
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    if raised:
        raise raised[0]
    return outcome


async def _serve_bytes(
    pieces: Iterable[bytes], app: Any, config: Config, eof: bool
) -> tuple[bytes, bool]:
    with Complaints() as complaints:
        driver = Driver(app, config, complaints)
        try:
            client = driver.connect()
            await client.send(*pieces)
            if eof:
                await client.half_close()
            return client.received, client.is_closed
        finally:
            await driver.close()


# The real server.


@asynccontextmanager
async def serving(app: Any, *, complaints: int = 0, **options: Any) -> AsyncIterator[Server]:
    """Run the server on a free port of the loopback, on the running loop; no task may be left at the end.

    Args:
        app: of either kind.
        complaints: how often something is logged at warning or above.
        **options: of ``Server``.
    """
    before = asyncio.all_tasks()
    # A test that fails does not wait for what it left.
    options = {"port": 0, "access_log": "off", "graceful_seconds": 5, **options}
    with Complaints() as logged:
        async with Server(app, **options) as server:
            yield server
        lines = logged.take()
        assert len(lines) == complaints, lines
    assert asyncio.all_tasks() == before, "tasks are left"


@asynccontextmanager
async def connected(
    server: Server,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to it; the connection is closed at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass  # the server was quicker


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """Read until the server ends the connection."""
    return await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)


async def fetch(server: Server, request: bytes, methods: Sequence[str] = ()) -> list[Response]:
    """Send bytes on a connection of their own, and read all responses until the server ends it."""
    async with connected(server) as (reader, writer):
        writer.write(request)
        return responses(await read_to_end(reader), methods, closed=True)[0]


# Applications and requests.


async def echo_asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with method, path and body, all of which is read first."""
    assert scope["type"] == "http", "this application has no lifespan"
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    head = f"{scope['method']} {scope['path']} ".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": head + body})


def echo_wsgi(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Do the same."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} ".encode() + body]


either_echo = pytest.mark.parametrize("echo", [echo_asgi, echo_wsgi], ids=["asgi", "wsgi"])
"""Marks a test that runs with an application of each kind, as ``echo``."""


def get(path: str = "/", *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    """Give the head of a request."""
    lines = [f"{method} {path} HTTP/{version}", "Host: a.example", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def ask(*fields: str, path: str = "/") -> bytes:
    """Give a request for a websocket."""
    return get(
        path,
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *fields,
    )


def post(body: bytes, *fields: str, path: str = "/", method: str = "POST") -> bytes:
    """Give a request with a body whose length is told."""
    return get(path, f"Content-Length: {len(body)}", *fields, method=method) + body


def chunked(*chunks: bytes, last: bool = True) -> bytes:
    """Give a body in chunks."""
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return framed + (b"0\r\n\r\n" if last else b"")
