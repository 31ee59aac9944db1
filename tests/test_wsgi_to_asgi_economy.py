"""What a request costs under ``WSGIToASGI``: wake-ups, tasks, messages and ``receive()``, counted."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from apps.plain import echo, hello
from driver import (
    EVENT_SECONDS,
    LOOPS,
    content_length,
    end_pool,
    request,
    run_on,
    server_for,
    until,
)

from bridges import ThreadPool, WSGIToASGI
from bridges.crossing.gates import Gate
from bridges.typing import Environ, Message, StartResponse


@pytest.fixture
def rings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every wake-up of a loop by a thread, as it is asked for."""
    rung: list[object] = []
    ring = Gate.ring

    def counting(self: Gate, callback: Any) -> None:
        rung.append(callback)
        ring(self, callback)

    monkeypatch.setattr(Gate, "ring", counting)
    return rung


@pytest.fixture
def submits(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every hand-over to a thread."""
    submitted: list[object] = []
    submit = ThreadPool.submit

    def counting(self: ThreadPool, job: Any) -> Any:
        submitted.append(job)
        return submit(self, job)

    monkeypatch.setattr(ThreadPool, "submit", counting)
    return submitted


@asynccontextmanager
async def counted_tasks() -> AsyncIterator[list[str]]:
    """Collect the names of the tasks that are created meanwhile, on whichever loop runs."""
    created: list[str] = []
    import sniffio

    if sniffio.current_async_library() == "trio":
        import trio

        class Watch(trio.abc.Instrument):
            def task_spawned(self, task: trio.lowlevel.Task) -> None:
                created.append(task.name)

        watch = Watch()
        trio.lowlevel.add_instrument(watch)
        try:
            yield created
        finally:
            trio.lowlevel.remove_instrument(watch)
        return
    import asyncio

    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        created.append(repr(coroutine))
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)
    try:
        yield created
    finally:
        loop.set_task_factory(before)


@pytest.mark.spec("FR 126")
async def test_a_hello_costs_one_crossing_each_way(
    rings: list[object], submits: list[object]
) -> None:
    """One hand-over to a thread and at most one wake-up of the loop, for head, body and end together."""
    adapter = WSGIToASGI(hello)
    for count in range(1, 4):
        await request(adapter)
        assert len(submits) == count
        assert len(rings) <= count


@pytest.mark.spec("FR 126")
async def test_a_hello_creates_no_task() -> None:
    """The request is served by the server's own task."""
    adapter = WSGIToASGI(hello)
    await request(adapter)
    async with counted_tasks() as created:
        await request(adapter)
        assert created == []


@pytest.mark.spec("FR 126")
async def test_the_counting_of_tasks_counts() -> None:
    """The test above would see a task."""

    async def nothing() -> None:
        await anyio.sleep(0)

    async with counted_tasks() as created, anyio.create_task_group() as tasks:
        tasks.start_soon(nothing)
    assert len(created) == 1


@pytest.mark.spec("FR 126")
async def test_a_hello_is_two_messages() -> None:
    """A head and a body that is complete."""
    server = await request(WSGIToASGI(hello))
    assert [message["type"] for message in server.sent] == [
        "http.response.start",
        "http.response.body",
    ]
    assert server.sends == 2


@pytest.mark.spec("behaviours.md", "WSGIToASGI: body")
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("headers", [[], [content_length(0)]])
async def test_a_request_without_a_body_costs_no_receive(method: str, headers: Any) -> None:
    """Where there can be no body, nobody asks for it, though the application reads."""
    server = server_for(method, headers=headers)
    await server.serve(WSGIToASGI(echo))
    assert (server.receive_calls, server.body) == (0, b"")


@pytest.mark.spec("FR 126")
async def test_a_small_upload_costs_one_crossing_each_way(
    rings: list[object], submits: list[object]
) -> None:
    """A body that is collected beforehand adds no wake-up, one ``receive()``, and no task."""
    adapter = WSGIToASGI(echo)
    await request(adapter)
    rings.clear()
    server = server_for("POST", body=[b"x" * 1000], headers=[content_length(1000)])
    async with counted_tasks() as created:
        await server.serve(adapter)
        assert created == []
    assert server.body == b"x" * 1000
    assert server.receive_calls == 1
    assert len(rings) <= 1


@pytest.mark.spec("FR 127")
async def test_piled_up_chunks_leave_joined(rings: list[object]) -> None:
    """10,000 small chunks that are made while the client is busy are few messages and few wake-ups."""
    made = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(10_000):
            yield b"x" * 100
        made.set()

    async def on_send(number: int, message: Message) -> None:
        if number == 0:
            await until(made)

    server = server_for(on_send=on_send)
    await server.serve(WSGIToASGI(app, buffer_bytes=2_000_000))
    assert server.body_bytes == 1_000_000
    assert server.sends <= 20
    assert len(rings) <= 5


@pytest.mark.slow
@pytest.mark.spec("FR 127")
@pytest.mark.parametrize("loop", LOOPS)
def test_small_chunks_under_load_are_joined(loop: str) -> None:
    """Without any help, a fast application's small chunks take fewer messages than chunks."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(10_000):
            yield b"x" * 100

    adapter = WSGIToASGI(app)

    async def serve() -> None:
        server = await request(adapter)
        assert server.body_bytes == 1_000_000
        assert server.sends < 2000

    run_on(loop, serve)
    end_pool(adapter)


@pytest.mark.spec("FR 127")
async def test_a_lone_chunk_leaves_at_once() -> None:
    """Nothing waits for company: the application learns that its only chunk arrived before it goes on."""
    arrived = threading.Event()

    async def on_send(number: int, message: Message) -> None:
        if message.get("body") == b"alone":
            arrived.set()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"alone"
        assert arrived.wait(EVENT_SECONDS)

    await request(WSGIToASGI(app), on_send=on_send)
    assert arrived.is_set()


@pytest.mark.spec("FR 126")
async def test_a_streamed_upload_costs_few_wake_ups(rings: list[object]) -> None:
    """A reader that keeps up with its client wakes the loop less often than once for each message."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        size = len(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [b"%d" % size]

    server = server_for("POST", body=[b"x" * 100] * 1000)
    await server.serve(WSGIToASGI(app))
    assert server.body == b"100000"
    assert len(rings) <= 5
