"""Clients that leave, tasks that are cancelled, servers that fail and clients that are slow, under ``WSGIToASGI``."""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.from_thread
import pytest
from driver import (
    EVENT_SECONDS,
    GRACE_SECONDS,
    LOOPS,
    assert_all_threads_free,
    content_length,
    end_pool,
    request,
    run_on,
    server_for,
    until,
)

import bridges.wsgi.body as body_module
from bridges import ThreadPool, WSGIToASGI, errors
from bridges.typing import Environ, Message, Receive, Scope, Send, StartResponse


class Stream:
    """An endless response that notes who closed it, and how."""

    def __init__(self, chunk: bytes = b"x" * 1000) -> None:
        self.chunk = chunk
        self.produced = 0
        self.call_thread = 0
        self.closes: list[int] = []
        self.closed = threading.Event()
        self.before_next: Callable[[], None] | None = None

    def app(self, environ: Environ, start_response: StartResponse) -> Stream:
        self.call_thread = threading.get_ident()
        self.environ = environ
        start_response("200 OK", [])
        return self

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> bytes:
        if self.before_next is not None:
            self.before_next()
        self.produced += 1
        return self.chunk

    def close(self) -> None:
        self.closes.append(threading.get_ident())
        self.closed.set()

    async def assert_closed_and_freed(self, adapter: WSGIToASGI) -> None:
        """Show that ``close()`` ran once, in the thread of the call, and that the thread is free."""
        await until(self.closed)
        await assert_all_threads_free(adapter)
        assert self.closes == [self.call_thread]
        end_pool(adapter)


@pytest.mark.spec("FR 31")
async def test_a_slow_client_slows_the_application() -> None:
    """Produced and not yet sent is never more than the buffer and one chunk, however slow the client."""
    chunk, buffer_bytes = 10_000, 50_000
    stream = Stream(b"x" * chunk)
    ahead: list[int] = []
    full, overrun, go_on = threading.Event(), threading.Event(), threading.Event()

    def watch() -> None:
        ahead.append(stream.produced * chunk - server.body_bytes)
        if ahead[-1] >= buffer_bytes:
            full.set()
        if ahead[-1] > buffer_bytes + chunk:
            overrun.set()
        if stream.produced == 100:
            raise StopIteration

    async def on_send(number: int, message: Message) -> None:
        if number == 1:
            await until(full)
            with anyio.move_on_after(GRACE_SECONDS):
                await anyio.to_thread.run_sync(overrun.wait, GRACE_SECONDS, abandon_on_cancel=True)
            go_on.set()

    stream.before_next = watch
    server = server_for(on_send=on_send)
    adapter = WSGIToASGI(stream.app, buffer_bytes=buffer_bytes, max_threads=1)
    await server.serve(adapter)
    assert go_on.is_set()
    assert not overrun.is_set()
    assert server.body_bytes == 100 * chunk
    assert max(ahead) <= buffer_bytes + chunk
    await stream.assert_closed_and_freed(adapter)


@pytest.mark.spec("FR 31")
async def test_a_chunk_larger_than_the_buffer_passes() -> None:
    """One chunk beyond the limit is sent alone instead of waiting for ever."""
    stream = Stream(b"x" * 100_000)

    def end() -> None:
        if stream.produced == 3:
            raise StopIteration

    stream.before_next = end
    server = await request(WSGIToASGI(stream.app, buffer_bytes=10))
    assert server.body_bytes == 300_000


@pytest.mark.spec("FR 32")
@pytest.mark.spec("FR 127")
async def test_an_event_is_on_the_wire_before_the_next_one_is_made() -> None:
    """A lone chunk leaves at once: the application may wait for its arrival."""
    events = 10
    arrived = [threading.Event() for _ in range(events)]

    async def on_send(number: int, message: Message) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            arrived[int(message["body"])].set()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        for number in range(events):
            yield b"%d" % number
            assert arrived[number].wait(EVENT_SECONDS)

    server = await request(WSGIToASGI(app), on_send=on_send)
    assert server.body == b"0123456789"


class OuterFailure(Exception):
    pass


@pytest.mark.spec("FR 33")
@pytest.mark.parametrize("kind", [OSError, ValueError, OuterFailure])
@pytest.mark.parametrize("number", [0, 1, 2, 3, 7])
async def test_an_error_of_send_ends_the_request(number: int, kind: type[Exception]) -> None:
    """What ``send()`` raises comes out of the adapter; the iterable is closed, the thread freed."""
    failure = kind("from outside")

    async def on_send(count: int, message: Message) -> None:
        if count == number:
            raise failure

    stream = Stream()
    adapter = WSGIToASGI(stream.app, max_threads=1, buffer_bytes=2000)
    with pytest.raises(kind) as caught:
        await server_for(on_send=on_send).serve(adapter)
    assert caught.value is failure
    await stream.assert_closed_and_freed(adapter)


@pytest.mark.spec("FR 33")
@pytest.mark.parametrize("number", [0, 1])
async def test_an_error_of_send_under_a_whole_response(number: int) -> None:
    """A list loses its client without losing the error or the thread."""

    async def on_send(count: int, message: Message) -> None:
        if count == number:
            raise OuterFailure

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [b"hello"]

    adapter = WSGIToASGI(app, max_threads=1)
    with pytest.raises(OuterFailure):
        await server_for(on_send=on_send).serve(adapter)
    await assert_all_threads_free(adapter)


@pytest.mark.spec("FR 33")
async def test_an_application_that_catches_the_clients_leaving_in_write() -> None:
    """``write()`` raises ``ClientDisconnected``, an ``OSError``, once the client is known to have left."""
    caught: list[type] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", [])
        try:
            while True:
                write(b"x" * 1000)
        except OSError as error:
            caught.append(type(error))
        return []

    async def on_send(number: int, message: Message) -> None:
        if number == 3:
            server.leave()

    server = server_for(on_send=on_send)
    adapter = WSGIToASGI(app, max_threads=1)
    await server.serve(adapter)
    assert caught == [errors.ClientDisconnected]
    await assert_all_threads_free(adapter)


@pytest.mark.spec("FR 33")
@pytest.mark.parametrize("number", [0, 1, 2, 5])
@pytest.mark.parametrize("upload", [False, True])
async def test_a_client_that_leaves_ends_the_stream(number: int, upload: bool) -> None:
    """The iteration stops soon after ``http.disconnect``; nothing is raised into the server."""

    async def on_send(count: int, message: Message) -> None:
        if count == number:
            server.leave()

    stream = Stream()
    server = server_for("POST", body=[b"a", b"b"] if upload else None, on_send=on_send)
    adapter = WSGIToASGI(stream.app, max_threads=1)
    await server.serve(adapter)
    assert not server.complete
    await stream.assert_closed_and_freed(adapter)


@pytest.mark.spec("FR 33")
async def test_a_client_that_leaves_a_blocked_writer() -> None:
    """An application that waits for room in a full buffer learns of the leaving there, while ``send()`` hangs."""
    stream = Stream()

    async def on_send(number: int, message: Message) -> None:
        if number == 10:  # a stream by now, whose client is listened for
            server.leave()
            await until(stream.closed)

    server = server_for(on_send=on_send)
    adapter = WSGIToASGI(stream.app, max_threads=1, buffer_bytes=2000)
    await server.serve(adapter)
    await stream.assert_closed_and_freed(adapter)


@pytest.mark.spec("FR 33")
@pytest.mark.parametrize("number", [1, 2, 10])
async def test_a_send_that_hangs_when_the_client_has_left(number: int) -> None:
    """Some servers let such a ``send()`` wait for ever: the request ends all the same."""
    stream = Stream()

    async def on_send(count: int, message: Message) -> None:
        if count == number:
            server.leave()
            await anyio.sleep_forever()

    server = server_for(on_send=on_send)
    adapter = WSGIToASGI(stream.app, max_threads=1, buffer_bytes=2000)
    await server.serve(adapter)
    await stream.assert_closed_and_freed(adapter)


@pytest.mark.spec("FR 33")
async def test_a_departed_client_is_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Clients leave all the time: nothing is logged above DEBUG."""
    stream = Stream()

    async def on_send(number: int, message: Message) -> None:
        if number == 2:
            server.leave()

    server = server_for(on_send=on_send)
    adapter = WSGIToASGI(stream.app, max_threads=1)
    with caplog.at_level(logging.INFO):
        await server.serve(adapter)
        await stream.assert_closed_and_freed(adapter)
    assert [record for record in caplog.records if record.name.startswith("bridges")] == []


@pytest.mark.spec("FR 34")
@pytest.mark.parametrize("number", [0, 1, 3])
async def test_a_cancelled_task_ends_the_stream(number: int) -> None:
    """A cancellation from outside frees the thread and closes the iterable in it."""
    reached = anyio.Event()

    async def on_send(count: int, message: Message) -> None:
        if count == number:
            reached.set()
            await anyio.sleep_forever()

    stream = Stream()
    adapter = WSGIToASGI(stream.app, max_threads=1, buffer_bytes=2000)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server_for(on_send=on_send).serve, adapter)
        await reached.wait()
        tasks.cancel_scope.cancel()
    await stream.assert_closed_and_freed(adapter)


@pytest.mark.spec("FR 34")
async def test_a_task_cancelled_while_the_application_works() -> None:
    """The task ends at once; the thread learns of it when it next sends."""
    working, go_on = threading.Event(), threading.Event()
    stream = Stream()

    def work() -> None:
        working.set()
        assert go_on.wait(EVENT_SECONDS)

    stream.before_next = work
    adapter = WSGIToASGI(stream.app, max_threads=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server_for().serve, adapter)
        await until(working)
        tasks.cancel_scope.cancel()
    assert not stream.closed.is_set()
    go_on.set()
    await stream.assert_closed_and_freed(adapter)


@pytest.mark.spec("FR 34")
@pytest.mark.parametrize("announced", [True, False])
async def test_a_task_cancelled_while_the_application_waits_for_its_body(announced: bool) -> None:
    """A read that waits for the client raises when the server gives the request up."""
    reading, outcome = threading.Event(), []
    done = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            environ["wsgi.input"].read(1)
            reading.set()
            environ["wsgi.input"].read()
        except OSError as error:
            outcome.append(type(error))
            raise
        finally:
            done.set()
        return []

    headers = [content_length(100_000)] if announced else []
    server = server_for("POST", body=[bytes(70_000)], open_body=True, headers=headers)
    adapter = WSGIToASGI(app, max_threads=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, adapter)
        await until(reading)
        tasks.cancel_scope.cancel()
    await until(done)
    assert outcome == [errors.ClientDisconnected]
    await assert_all_threads_free(adapter)


@pytest.mark.spec("FR 34")
async def test_an_error_after_the_task_was_cancelled_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What nobody waits for any more is in the log, once, with the name of the application."""
    working, go_on = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        working.set()
        assert go_on.wait(EVENT_SECONDS)
        raise LookupError("nobody waits")

    adapter = WSGIToASGI(app, max_threads=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server_for().serve, adapter)
        await until(working)
        tasks.cancel_scope.cancel()
    go_on.set()
    await assert_all_threads_free(adapter)
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.name for record in records] == ["bridges.adapters"]
    assert "app" in records[0].getMessage()
    assert records[0].exc_info is not None
    assert records[0].exc_info[0] is LookupError


@pytest.mark.spec("FR 35")
async def test_an_idle_generator_is_ended_at_its_next_step() -> None:
    """A disconnect that comes while nothing is sent ends the stream when the generator goes on."""
    ended, resume, first_sent = threading.Event(), threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield b"first"
            assert resume.wait(EVENT_SECONDS)
            while True:
                yield b"more"
        finally:
            ended.set()

    async def on_send(number: int, message: Message) -> None:
        if message.get("body") == b"first":
            first_sent.set()

    server = server_for(on_send=on_send)
    adapter = WSGIToASGI(app, max_threads=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, adapter)
        await until(first_sent)
        server.leave()
        while not server.told:
            await anyio.sleep(0)
        resume.set()
    assert ended.is_set()
    assert server.body == b"first"
    await assert_all_threads_free(adapter)


@pytest.mark.spec("FR 35")
@pytest.mark.parametrize("before", [[], [b"first"]], ids=["no head", "a head"])
async def test_an_application_that_yields_nothing_ends_with_its_client(before: list[bytes]) -> None:
    """Empty chunks, which some yield while they wait, send nothing that could fail."""
    yielding, resume = threading.Event(), threading.Event()
    steps: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield from before
            yield b""
            yielding.set()
            assert resume.wait(EVENT_SECONDS)
            yield b""
            steps.append("went on")
        finally:
            steps.append("ended")

    server = server_for()
    adapter = WSGIToASGI(app, max_threads=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, adapter)
        await until(yielding)
        while server.body != b"".join(before):
            await anyio.sleep(0)
        server.leave()
        while not server.told:
            await anyio.sleep(0)
        resume.set()
    assert steps == ["ended"]
    await assert_all_threads_free(adapter)


@pytest.mark.spec("FR 35")
async def test_the_application_can_ask_whether_the_client_left() -> None:
    """``bridges.client_disconnected`` turns true while the application polls, though it sends nothing."""
    answers: list[bool] = []
    asked = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        left = environ["bridges.client_disconnected"]
        answers.append(left())
        asked.set()
        while not left():
            anyio.from_thread.run(anyio.sleep, 0)
        answers.append(left())
        start_response("200 OK", [])
        return [b"nobody hears"]

    server = server_for()
    adapter = WSGIToASGI(app, max_threads=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, adapter)
        await until(asked)
        server.leave()
    assert answers == [False, True]
    assert server.sent == []
    await assert_all_threads_free(adapter)


# Starlette leaves its generators to the garbage collector, which trio points out.
starlettes_generators = pytest.mark.filterwarnings(
    "ignore:Async generator 'starlette:ResourceWarning"
)


def outcome_of_middleware(app: Any) -> Any:
    """Put Starlette's BaseHTTPMiddleware around an application."""
    starlette = pytest.importorskip("starlette.middleware.base")

    async def dispatch(incoming: Any, call_next: Any) -> Any:
        response = await call_next(incoming)
        response.headers["x-seen"] = "yes"
        return response

    return starlette.BaseHTTPMiddleware(app, dispatch)


@starlettes_generators
@pytest.mark.spec("FR 36")
@pytest.mark.parametrize("body", [None, [b"ab", b"cd"]])
async def test_streams_pass_through_base_http_middleware(body: list[bytes] | None) -> None:
    """Starlette's middleware, with a ``receive`` of its own, sees the whole of a streamed response."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"<" + environ["wsgi.input"].read() + b">"
        for number in range(50):
            yield b"%d," % number

    server = await request(outcome_of_middleware(WSGIToASGI(app)), "POST", body=body)
    numbers = b"".join(b"%d," % number for number in range(50))
    assert server.body == b"<" + b"".join(body or []) + b">" + numbers
    assert server.header(b"x-seen") == b"yes"


@starlettes_generators
@pytest.mark.spec("FR 36")
async def test_a_client_that_leaves_under_base_http_middleware() -> None:
    """The thread is freed and the iterable closed under Starlette's middleware too."""
    stream = Stream()

    async def on_send(number: int, message: Message) -> None:
        if number == 3:
            server.leave()

    server = server_for(on_send=on_send)
    adapter = WSGIToASGI(stream.app, max_threads=1)
    await server.serve(outcome_of_middleware(adapter))
    await stream.assert_closed_and_freed(adapter)


@starlettes_generators
@pytest.mark.spec("FR 36")
async def test_a_send_that_fails_under_base_http_middleware() -> None:
    """An ``OSError`` of the server passes through Starlette's middleware and frees the thread."""
    stream = Stream()

    async def on_send(number: int, message: Message) -> None:
        if number == 3:
            raise OSError("connection reset")

    adapter = WSGIToASGI(stream.app, max_threads=1)
    with pytest.raises(OSError, match="connection reset"):
        await server_for(on_send=on_send).serve(outcome_of_middleware(adapter))
    await stream.assert_closed_and_freed(adapter)


@pytest.mark.spec("FR 33")
async def test_an_error_of_receive_comes_out_of_the_adapter() -> None:
    """A ``receive()`` that fails ends the request with its own error, not with a hang."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.input"].read()
        raise AssertionError("the body must not look complete")

    adapter = WSGIToASGI(app, max_threads=1)
    server = server_for("POST", body=[b"never"])

    async def broken() -> Message:
        raise OuterFailure("receive")

    with pytest.raises(OuterFailure):
        await adapter(server.scope, broken, server.send)
    assert server.sends == 0
    await assert_all_threads_free(adapter)


class Crowd:
    """Applications that count what they opened and closed, for clients that leave anywhere."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.mistakes: list[str] = []
        self._lock = threading.Lock()

    def app(self, environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        if environ["PATH_INFO"] == "/upload":
            environ["wsgi.input"].read()
        start_response("200 OK", [])
        with self._lock:
            self.opened += 1
        return CrowdBody(self)

    def note_close(self, right_thread: bool, again: bool) -> None:
        with self._lock:
            self.closed += 1
            if not right_thread or again:
                self.mistakes.append(f"right thread: {right_thread}, closed again: {again}")


class CrowdBody:
    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._thread = threading.get_ident()
        self._left = 20
        self._closed = False

    def __iter__(self) -> CrowdBody:
        return self

    def __next__(self) -> bytes:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return b"y" * 700

    def close(self) -> None:
        self._crowd.note_close(threading.get_ident() == self._thread, self._closed)
        self._closed = True


async def misbehave(adapter: WSGIToASGI, rng: random.Random) -> None:
    """Make one request whose client leaves, fails, stalls or is cancelled at a random point."""
    manner = rng.choice(["leave", "fail", "cancel", "leave in the upload", "stay"])
    at = rng.randrange(8)
    scope = anyio.CancelScope()

    async def on_send(number: int, message: Message) -> None:
        if number == at and manner == "leave":
            server.leave()
        elif number == at and manner == "fail":
            raise OuterFailure
        elif number == at and manner == "cancel":
            scope.cancel()
        await anyio.sleep(0)

    if manner == "leave in the upload":
        pieces = [bytes(rng.randrange(3000)) for _ in range(at)]
        server = server_for("POST", "/upload", body=pieces, then_leave=True, on_send=on_send)
    else:
        server = server_for(on_send=on_send)
    with scope:
        try:
            await server.serve(adapter)
        except OuterFailure:
            assert manner == "fail"
    if manner == "stay":
        assert len(server.body) == 14_000


def open_descriptors() -> int:
    """Count the open descriptors of this process, where the system tells."""
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.spec("FR 33")
@pytest.mark.spec("issue 2", "1,000 clients that leave at random points")
@pytest.mark.parametrize("loop", LOOPS)
def test_a_thousand_clients_that_leave_cost_nothing(loop: str, rng: random.Random) -> None:
    """Afterwards the pool answers as before, with the same threads and descriptors, and all is closed once."""
    crowd = Crowd()
    pool = ThreadPool(8)
    adapter = WSGIToASGI(crowd.app, pool=pool, buffer_bytes=2000)

    async def visit() -> None:
        await assert_all_threads_free(adapter)
        descriptors, threads = open_descriptors(), pool.snapshot().threads
        for _ in range(40):
            async with anyio.create_task_group() as tasks:
                for _ in range(25):
                    tasks.start_soon(misbehave, adapter, rng)
        await assert_all_threads_free(adapter)
        assert pool.snapshot().threads == threads
        assert open_descriptors() <= descriptors
        assert (await request(adapter)).body_bytes == 14_000

    run_on(loop, visit)
    assert crowd.mistakes == []
    assert crowd.opened == crowd.closed > 500
    assert pool.shutdown(EVENT_SECONDS)


@pytest.mark.spec("FR 33")
async def test_clients_that_leave_as_many_as_threads_times_ten() -> None:
    """Ten times as many departed clients as threads leave every thread usable (they once used up a peer's pool)."""
    adapter = WSGIToASGI(Stream().app, max_threads=4, buffer_bytes=2000)
    for _ in range(40):
        with pytest.raises(OSError, match="gone"):
            await server_for(on_send=_fail_at_third).serve(adapter)
    await assert_all_threads_free(adapter)
    end_pool(adapter)


async def _fail_at_third(number: int, message: Message) -> None:
    if number == 3:
        raise OSError("gone")


@pytest.mark.spec("FR 33")
async def test_a_middleware_that_stops_calling_is_not_fatal() -> None:
    """An outer application that raises between two messages of its own leaves no thread behind."""
    stream = Stream()
    adapter = WSGIToASGI(stream.app, max_threads=1)

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        count = 0

        async def counting(message: Message) -> None:
            nonlocal count
            count += 1
            if count == 4:
                raise OuterFailure("middleware")
            await send(message)

        await adapter(scope, receive, counting)

    with pytest.raises(OuterFailure, match="middleware"):
        await server_for().serve(outer)
    await stream.assert_closed_and_freed(adapter)


@pytest.mark.spec("FR 33")
@pytest.mark.spec("FR 35")
async def test_a_client_that_leaves_behind_a_body_that_nobody_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full, unread request body does not hide the client's leaving from a response that streams on."""
    monkeypatch.setattr(body_module, "_UNREAD_SECONDS", 0.01)
    stream = Stream()

    async def on_send(number: int, message: Message) -> None:
        if server.given_bytes == 10_000:  # the pipe took 2,000 of them: the rest was given up
            server.leave()

    server = server_for("POST", body=[b"x" * 1000] * 10, open_body=True, on_send=on_send)
    adapter = WSGIToASGI(stream.app, max_threads=1, buffer_bytes=2000)
    await server.serve(adapter)
    with pytest.raises(errors.ClientDisconnected):
        stream.environ["wsgi.input"].read()
    await stream.assert_closed_and_freed(adapter)


@pytest.mark.spec("FR 8")
@pytest.mark.spec("FR 33")
async def test_a_client_that_leaves_after_its_body_grew_too_large() -> None:
    """A body that is refused when the response has begun is dropped, and the leaving behind it is heard."""
    stream = Stream()

    async def on_send(number: int, message: Message) -> None:
        if server.given_bytes == 10_000:
            server.leave()

    server = server_for("POST", body=[b"x" * 1000] * 10, open_body=True, on_send=on_send)
    adapter = WSGIToASGI(stream.app, max_threads=1, max_body_bytes=1500)
    await server.serve(adapter)
    assert server.status == 200
    await stream.assert_closed_and_freed(adapter)


@pytest.mark.spec("FR 35")
async def test_asking_watches_the_client_of_an_unread_body_too() -> None:
    """A long poll by POST that never reads is told, once it asks, that its client has left."""
    asked, told = threading.Event(), threading.Event()

    def poll(environ: Environ, start_response: StartResponse) -> list[bytes]:
        gone = environ["bridges.client_disconnected"]
        while not gone():
            asked.set()
            if told.wait(0.001):
                break
        told.set()
        start_response("200 OK", [])
        return []

    server = server_for("POST", body=[b"x"])
    adapter = WSGIToASGI(poll, max_threads=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, adapter)
        await until(asked)
        server.leave()
        await until(told)
    await assert_all_threads_free(adapter)
    end_pool(adapter)
