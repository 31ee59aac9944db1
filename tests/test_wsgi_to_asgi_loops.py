"""One adapter and many loops: one after another, two at once, closed under its feet."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.from_thread
import pytest
from apps.plain import CASES, echo, hello
from driver import (
    EVENT_SECONDS,
    LOOPS,
    content_length,
    end_pool,
    lifespan,
    request,
    run_on,
    server_for,
    until,
)

from bridges import ThreadPool, WSGIToASGI
from bridges.typing import Environ, StartResponse


@pytest.mark.spec("FR 123")
@pytest.mark.parametrize("loop", LOOPS)
def test_every_kind_of_application_on_every_loop(loop: str) -> None:
    """asyncio, uvloop and trio serve the same applications with the same answers, on one shared pool."""
    pool = ThreadPool(2)
    answers: dict[str, tuple[int, bytes]] = {}

    async def serve() -> None:
        for name, case in CASES.items():
            body = None if case.body is None else [case.body]
            headers = [] if case.body is None else [content_length(len(case.body))]
            server = await request(
                WSGIToASGI(case.app, pool=pool), case.method, body=body, headers=headers
            )
            answers[name] = (server.status, server.body)

    run_on(loop, serve)
    assert answers == {name: (case.status, case.answer) for name, case in CASES.items()}
    assert pool.shutdown(EVENT_SECONDS)


@pytest.mark.spec("behaviours.md", "WSGIToASGI: loops")
@pytest.mark.parametrize("order", list(itertools.permutations(LOOPS, 2)))
def test_loops_one_after_another(order: tuple[str, ...]) -> None:
    """An adapter made at import time serves one loop after another, of any kind, with the same threads."""
    adapter = WSGIToASGI(echo, max_threads=1)

    async def serve() -> None:
        for _ in range(2):
            assert (await request(adapter, "POST", body=[b"a", b"b"])).body == b"ab"

    for loop in (*order, order[0]):
        run_on(loop, serve)
    assert adapter.pool is not None
    assert adapter.pool.snapshot().served == 6
    end_pool(adapter)


@pytest.mark.spec("behaviours.md", "WSGIToASGI: loops")
def test_lifespans_on_loops_one_after_another() -> None:
    """Each loop may bring its own lifespan, which ends the pool of the one before."""
    adapter = WSGIToASGI(hello)

    async def serve() -> None:
        async with lifespan(adapter) as server:
            await server.tell("startup")
            assert (await request(adapter)).body == b"hello"
            await server.tell("shutdown")

    for loop in LOOPS:
        run_on(loop, serve)


@pytest.mark.spec("behaviours.md", "WSGIToASGI: loops")
@pytest.mark.parametrize("pair", list(itertools.combinations_with_replacement(LOOPS, 2)))
def test_two_loops_at_once(pair: tuple[str, str]) -> None:
    """Requests of two loops in two threads meet in one application, and each answer goes home."""
    meeting = threading.Barrier(2)

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        meeting.wait(EVENT_SECONDS)
        yield environ["PATH_INFO"].encode()
        # Each request's calls go to its own loop, though the pool's threads serve both.
        yield b" %d" % anyio.from_thread.run_sync(threading.get_ident)

    adapter = WSGIToASGI(app, max_threads=2)
    answers: dict[int, list[bytes]] = {}
    failures: list[BaseException] = []

    def drive(number: int, loop: str) -> None:
        async def serve() -> None:
            answers[threading.get_ident()] = [
                (await request(adapter, path=f"/{number}")).body for _ in range(5)
            ]

        try:
            run_on(loop, serve)
        except BaseException as error:
            failures.append(error)
            meeting.abort()

    threads = [threading.Thread(target=drive, args=item) for item in enumerate(pair)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(EVENT_SECONDS)
    assert failures == []
    expected = {
        thread.ident: [b"/%d %d" % (number, thread.ident or 0)] * 5
        for number, thread in enumerate(threads)
    }
    assert answers == expected
    end_pool(adapter)


@pytest.mark.spec("behaviours.md", "WSGIToASGI: loops")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("streaming", [True, False])
def test_a_loop_that_ends_under_a_request_costs_no_thread(loop: str, streaming: bool) -> None:
    """A server that stops its loop with a request under way leaves a thread that serves the next loop."""
    begun, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            if environ["PATH_INFO"] == "/first":
                if streaming:
                    yield b"flow"
                begun.set()
                assert go_on.wait(EVENT_SECONDS)
            for _ in range(10):
                yield b"x" * 1000
        finally:
            closed.set()

    adapter = WSGIToASGI(app, max_threads=1, buffer_bytes=2000)

    async def abandoned() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request, adapter, "GET", "/first")
            await until(begun)
            tasks.cancel_scope.cancel()

    async def next_one() -> None:
        assert (await request(adapter)).body_bytes == 10_000

    run_on(loop, abandoned)
    go_on.set()
    assert closed.wait(EVENT_SECONDS)
    run_on(loop, next_one)
    end_pool(adapter)


@pytest.mark.spec("behaviours.md", "WSGIToASGI: loops")
def test_an_asyncio_loop_closed_without_a_farewell() -> None:
    """A loop that is closed with its tasks pending, as at a crash, does not hang or end the thread."""
    begun, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            begun.set()
            assert go_on.wait(EVENT_SECONDS)
            yield b"too late"
        finally:
            closed.set()

    adapter = WSGIToASGI(app, max_threads=1)
    loop = asyncio.new_event_loop()

    async def abandoned() -> asyncio.Task[Any]:
        task = asyncio.ensure_future(server_for().serve(adapter))
        await asyncio.to_thread(begun.wait, EVENT_SECONDS)
        return task

    task = loop.run_until_complete(abandoned())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    go_on.set()
    assert closed.wait(EVENT_SECONDS)

    async def next_one() -> None:
        assert (await request(WSGIToASGI(hello, pool=adapter.pool))).body == b"hello"

    run_on("asyncio", next_one)
    end_pool(adapter)
    assert not task.done()
    # asyncio says that the task was destroyed, which is this test's doing.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine = task.get_coro()
    assert coroutine is not None
    with pytest.raises(BaseException, match=r".*"):
        coroutine.throw(asyncio.CancelledError("over"))


@pytest.mark.spec("behaviours.md", "WSGIToASGI: loops")
def test_an_adapter_outside_any_loop() -> None:
    """Awaiting an adapter where no loop runs is told, not waited for."""
    call = WSGIToASGI(hello)(server_for_nobody(), _never, _never)
    with pytest.raises(Exception, match="asyncio, uvloop and trio"):
        call.send(None)


def server_for_nobody() -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": "/", "http_version": "1.1", "headers": []}


async def _never(*arguments: Any) -> Any:
    raise AssertionError("nothing can be received or sent")


@pytest.mark.spec("behaviours.md", "WSGIToASGI: loops")
@pytest.mark.skipif(not hasattr(sys, "getswitchinterval"), reason="needs threads that switch")
@pytest.mark.parametrize("loop", LOOPS)
def test_many_requests_under_frequent_switches(loop: str) -> None:
    """No answer is lost or mixed up when threads are switched all the time."""
    adapter = WSGIToASGI(CASES["stream"].app, max_threads=4)
    interval = sys.getswitchinterval()

    async def serve() -> None:
        async def one() -> None:
            assert (await request(adapter)).body == CASES["stream"].answer

        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(one)

    sys.setswitchinterval(1e-6)
    try:
        run_on(loop, serve)
    finally:
        sys.setswitchinterval(interval)
    end_pool(adapter)
