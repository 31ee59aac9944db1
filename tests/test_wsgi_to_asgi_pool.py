"""Threads under ``WSGIToASGI``: one for each request, few for many, none lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.from_thread
import pytest
from apps.plain import hello
from driver import (
    EVENT_SECONDS,
    FakeServer,
    assert_all_threads_free,
    end_pool,
    request,
    server_for,
    until,
)

from bridges import ThreadPool, WSGIToASGI, errors
from bridges.typing import Environ, Message, StartResponse


async def together(*requests: Callable[[], Any]) -> None:
    async with anyio.create_task_group() as tasks:
        for one in requests:
            tasks.start_soon(one)


@pytest.mark.spec("FR 89")
async def test_requests_run_at_the_same_time() -> None:
    """As many requests as threads are inside the application at once: they can meet there."""
    meeting = threading.Barrier(4)

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        meeting.wait(EVENT_SECONDS)
        return hello(environ, start_response)

    adapter = WSGIToASGI(app, max_threads=4)
    await together(*[lambda: request(adapter)] * 4)
    assert adapter.pool is not None
    assert adapter.pool.snapshot().served == 4


@pytest.mark.spec("FR 90")
async def test_the_number_of_threads_is_bounded_and_they_are_named() -> None:
    """No more than ``max_threads`` run, and each bears the pool's name."""
    names: set[str] = set()
    inside = worst = 0
    lock = threading.Lock()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        nonlocal inside, worst
        with lock:
            inside += 1
            worst = max(worst, inside)
            names.add(threading.current_thread().name)
        anyio.from_thread.run(anyio.sleep, 0)
        with lock:
            inside -= 1
        return hello(environ, start_response)

    adapter = WSGIToASGI(app, pool=ThreadPool(3, name="legacy"))
    await together(*[lambda: request(adapter)] * 30)
    assert worst <= 3
    assert names <= {"legacy-1", "legacy-2", "legacy-3"}
    await assert_all_threads_free(adapter)
    end_pool(adapter)


@pytest.mark.spec("FR 90")
async def test_a_pool_is_shared_by_several_adapters() -> None:
    """Adapters given one pool use its threads together."""
    pool = ThreadPool(1)
    threads: list[int] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        threads.append(threading.get_ident())
        return hello(environ, start_response)

    for adapter in (WSGIToASGI(app, pool=pool), WSGIToASGI(app, pool=pool)):
        await request(adapter)
    assert len(set(threads)) == 1
    assert pool.snapshot().served == 2
    assert pool.shutdown(EVENT_SECONDS)


@pytest.mark.spec("FR 91")
async def test_one_thread_serves_everything_in_order() -> None:
    """``max_threads=1`` makes an application single-threaded: same thread, one at a time, first come first served."""
    threads: set[int] = set()
    paths: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        threads.add(threading.get_ident())
        paths.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        yield b"one"
        paths.append(environ["PATH_INFO"])
        yield b"two"

    adapter = WSGIToASGI(app, max_threads=1)
    assert adapter.pool is None
    blocker_begun, blocker_go_on = threading.Event(), threading.Event()

    def block(environ: Environ, start_response: StartResponse) -> list[bytes]:
        blocker_begun.set()
        assert blocker_go_on.wait(EVENT_SECONDS)
        return hello(environ, start_response)

    await request(adapter, path="/warm-up")
    paths.clear()
    pool = adapter.pool
    assert pool is not None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request, WSGIToASGI(block, pool=pool))
        await until(blocker_begun)
        for number in range(5):
            tasks.start_soon(request, adapter, "GET", f"/{number}")
            while pool.snapshot().queued <= number:
                await anyio.sleep(0)
        blocker_go_on.set()
    assert len(threads) == 1
    assert paths == [f"/{number}" for number in range(5) for _ in range(2)]
    end_pool(adapter)


@pytest.mark.spec("FR 91")
@pytest.mark.spec("PEP 3333", "environ Variables")
@pytest.mark.parametrize(("threads", "multithread"), [(1, False), (2, True)])
@pytest.mark.parametrize("shared", [True, False])
async def test_multithread_says_the_truth(threads: int, multithread: bool, shared: bool) -> None:
    """``wsgi.multithread`` is false where only one thread serves."""
    seen: list[object] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(environ["wsgi.multithread"])
        return hello(environ, start_response)

    options: dict[str, Any] = {"pool": ThreadPool(threads)} if shared else {"max_threads": threads}
    await request(WSGIToASGI(app, **options))
    assert seen == [multithread]


class FourPlaces:
    """Notes the thread of the call, the write, each step of the iteration, and close."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def app(self, environ: Environ, start_response: StartResponse) -> FourPlaces:
        self.threads.append(threading.get_ident())
        write = start_response("200 OK", [])
        write(b"written ")
        return self

    def __iter__(self) -> Iterator[bytes]:
        for number in range(3):
            self.threads.append(threading.get_ident())
            yield b"%d " % number

    def close(self) -> None:
        self.threads.append(threading.get_ident())


@pytest.mark.spec("FR 92")
async def test_one_request_one_thread() -> None:
    """Call, ``write``, iteration and ``close`` run in the same thread, though many requests run at once."""
    pool = ThreadPool(4)
    places = [FourPlaces() for _ in range(20)]
    await together(
        *[
            lambda place=place: request(WSGIToASGI(place.app, pool=pool))  # type: ignore[misc]
            for place in places
        ]
    )
    for place in places:
        assert len(place.threads) == 5
        assert len(set(place.threads)) == 1
        assert place.threads[0] != threading.get_ident()
    assert pool.shutdown(EVENT_SECONDS)


@pytest.mark.spec("FR 93")
async def test_thread_locals_are_reused_and_let_go() -> None:
    """There are no more connections than threads, and each is closed in its own thread at the end."""
    local = threading.local()
    opened: list[int] = []
    closed: list[int] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        if not hasattr(local, "connection"):
            local.connection = threading.get_ident()
            opened.append(local.connection)
        return hello(environ, start_response)

    pool = ThreadPool(3, on_thread_exit=lambda: closed.append(local.connection))
    adapter = WSGIToASGI(app, pool=pool)
    await assert_all_threads_free(adapter)
    await together(*[lambda: request(adapter)] * 50)
    assert len(opened) <= 3
    # A thread that served the meeting alone has opened no connection; its farewell fails, and is logged.
    assert pool.shutdown(EVENT_SECONDS)
    assert sorted(closed) == sorted(opened)


@pytest.mark.spec("FR 94")
async def test_streams_leave_short_requests_a_thread_or_a_refusal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With every thread in an endless stream a further request is refused by policy, and the log has a warning."""
    begun = [threading.Event(), threading.Event()]
    servers: list[FakeServer] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        begun[int(environ["PATH_INFO"][1:])].set()
        while True:
            yield b"event"
            anyio.from_thread.run(anyio.sleep, 0.001)

    adapter = WSGIToASGI(app, pool=ThreadPool(2, max_queue=0))
    async with anyio.create_task_group() as tasks:
        for number in range(2):
            servers.append(server_for(path=f"/{number}"))
            tasks.start_soon(servers[-1].serve, adapter)
        for event in begun:
            await until(event)
        health = await request(adapter, path="/health")
        assert health.status == 503
        for server in servers:
            server.leave()
    await assert_all_threads_free(adapter)
    end_pool(adapter)


@pytest.mark.spec("FR 94")
async def test_a_whole_response_frees_its_thread_while_the_client_is_slow() -> None:
    """The only thread serves the next request while the loop feeds a slow client from a list."""
    reached, go_on = anyio.Event(), anyio.Event()

    async def on_send(number: int, message: Message) -> None:
        reached.set()
        await go_on.wait()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * 1_000_000] * 3

    adapter = WSGIToASGI(app, max_threads=1)
    slow = server_for(on_send=on_send)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slow.serve, adapter)
        await reached.wait()
        assert (await request(adapter)).body_bytes == 3_000_000
        assert slow.body_bytes == 0
        go_on.set()
    assert slow.body_bytes == 3_000_000
    end_pool(adapter)


@pytest.mark.spec("FR 95")
async def test_the_snapshot_counts() -> None:
    """Busy, idle, queued and served are told at any time."""
    begun, go_on = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        begun.set()
        assert go_on.wait(EVENT_SECONDS)
        return hello(environ, start_response)

    pool = ThreadPool(1)
    adapter = WSGIToASGI(app, pool=pool)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request, adapter)
        await until(begun)
        tasks.start_soon(request, adapter)
        while not pool.snapshot().queued:
            await anyio.sleep(0)
        snapshot = pool.snapshot()
        assert (snapshot.threads, snapshot.busy, snapshot.idle) == (1, 1, 0)
        assert (snapshot.queued, snapshot.stuck, snapshot.served) == (1, 0, 0)
        go_on.set()
    snapshot = pool.snapshot()
    assert (snapshot.busy, snapshot.idle, snapshot.queued, snapshot.served) == (0, 1, 0, 2)
    assert pool.shutdown(EVENT_SECONDS)


@pytest.mark.spec("FR 96")
@pytest.mark.parametrize("how", ["leave", "cancel"])
async def test_an_endless_stream_does_not_hold_up_the_end(how: str) -> None:
    """When the server gives up its requests the pool ends, and ``close()`` was called."""
    closed = threading.Event()
    flowing = threading.Event()

    async def on_send(number: int, message: Message) -> None:
        if number > 5:
            flowing.set()
        await anyio.sleep(0)

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 5000
        finally:
            closed.set()

    adapter = WSGIToASGI(app, max_threads=1, buffer_bytes=10_000)
    server = server_for(on_send=on_send)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, adapter)
        await until(flowing)
        if how == "leave":
            server.leave()
        else:
            tasks.cancel_scope.cancel()
    await until(closed)
    end_pool(adapter)


@pytest.mark.spec("behaviours.md", "WSGIToASGI: threads")
@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, MemoryError])
async def test_no_exception_costs_a_thread(kind: type[BaseException]) -> None:
    """The thread that met an exception serves the next request."""
    threads: set[int] = set()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        threads.add(threading.get_ident())
        raise kind

    adapter = WSGIToASGI(app, max_threads=1)
    for _ in range(5):
        with pytest.raises((kind, errors.ApplicationError)):
            await server_for().serve(adapter)
    await assert_all_threads_free(adapter)
    assert len(threads) == 1
    end_pool(adapter)
