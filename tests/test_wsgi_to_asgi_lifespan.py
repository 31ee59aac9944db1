"""Lifespan under ``WSGIToASGI``: hooks, the end of the pool, and life after it."""

from __future__ import annotations

import contextvars
import logging
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest
from apps.plain import hello
from driver import EVENT_SECONDS, Lifespan, end_pool, lifespan, request, server_for, until

from bridges import ThreadPool, WSGIToASGI, errors
from bridges.typing import Environ, StartResponse


@pytest.mark.spec("FR 86")
async def test_lifespan_is_answered() -> None:
    """Startup and shutdown are completed for an application that knows of neither."""
    async with lifespan(WSGIToASGI(hello)) as server:
        assert await server.tell("startup") == {"type": "lifespan.startup.complete"}
        assert await server.tell("shutdown") == {"type": "lifespan.shutdown.complete"}


@pytest.mark.spec("FR 86")
async def test_hooks_run_in_threads_of_the_pool_around_the_requests() -> None:
    """``startup`` before the first request, ``shutdown`` after the last, both off the loop."""
    notes: list[tuple[str, str]] = []

    def note(what: str) -> None:
        notes.append((what, threading.current_thread().name))

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        note("request")
        return hello(environ, start_response)

    adapter = WSGIToASGI(
        app, startup=lambda: note("startup"), shutdown=lambda: note("shutdown"), max_threads=1
    )
    async with lifespan(adapter) as server:
        await server.tell("startup")
        await request(adapter)
        await server.tell("shutdown")
    assert [what for what, _ in notes] == ["startup", "request", "shutdown"]
    assert {name for _, name in notes} == {"bridges-worker-1"}


@pytest.mark.spec("FR 86")
@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
async def test_a_startup_that_raises_stops_the_server(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The server is told what went wrong, the log has the traceback, and the lifespan is over."""

    def startup() -> None:
        raise kind("no database")

    async with lifespan(WSGIToASGI(hello, startup=startup)) as server:
        answer = await server.tell("startup")
    assert answer["type"] == "lifespan.startup.failed"
    assert "no database" in answer["message"]
    assert "Traceback" in caplog.text


@pytest.mark.spec("FR 86")
async def test_a_shutdown_that_raises_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """``shutdown.failed`` carries the sentence; the pool is ended all the same."""

    def shutdown() -> None:
        raise ValueError("cannot flush")

    adapter = WSGIToASGI(hello, shutdown=shutdown)
    async with lifespan(adapter) as server:
        await server.tell("startup")
        answer = await server.tell("shutdown")
    assert answer["type"] == "lifespan.shutdown.failed"
    assert "cannot flush" in answer["message"]
    assert adapter.pool is not None
    assert adapter.pool.closed


@pytest.mark.spec("FR 86")
@pytest.mark.spec("FR 96")
async def test_shutdown_ends_the_threads() -> None:
    """After ``shutdown.complete`` the pool has no thread left, and each has said goodbye."""
    farewells: list[str] = []
    pool = ThreadPool(2, on_thread_exit=lambda: farewells.append(threading.current_thread().name))
    adapter = WSGIToASGI(hello, pool=pool)
    await request(adapter)
    assert farewells == []
    assert pool.shutdown(EVENT_SECONDS)
    assert farewells == ["bridges-worker-1"]
    assert pool.snapshot().threads == 0


@pytest.mark.spec("FR 96")
async def test_own_threads_end_with_the_lifespan() -> None:
    """The adapter's own pool is drained at shutdown: a request under way is completed first."""
    begun, go_on = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        begun.set()
        assert go_on.wait(EVENT_SECONDS)
        return hello(environ, start_response)

    adapter = WSGIToASGI(app)
    late = server_for()
    async with anyio.create_task_group() as tasks, lifespan(adapter) as server:
        await server.tell("startup")
        tasks.start_soon(late.serve, adapter)
        await until(begun)
        async with anyio.create_task_group() as ending:
            ending.start_soon(server.tell, "shutdown")
            while adapter.pool is None or not adapter.pool.closed:
                await anyio.sleep(0)
            go_on.set()
    assert late.body == b"hello"
    assert server.sent[-1] == {"type": "lifespan.shutdown.complete"}
    assert adapter.pool is not None
    assert adapter.pool.snapshot().threads == 0


@pytest.mark.spec("FR 96")
async def test_a_thread_that_does_not_end_delays_the_shutdown_within_a_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Shutdown is complete after the limit, with a warning, while the thread is still busy."""
    begun, go_on = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        begun.set()
        assert go_on.wait(EVENT_SECONDS)
        return hello(environ, start_response)

    adapter = WSGIToASGI(app)
    await request(WSGIToASGI(hello))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request, adapter)
        await until(begun)
        assert adapter.pool is not None
        adapter.pool.shutdown_seconds = 0.0
        async with lifespan(adapter) as server:
            await server.tell("startup")
            assert await server.tell("shutdown") == {"type": "lifespan.shutdown.complete"}
        go_on.set()
    assert "still busy" in caplog.text
    assert adapter.pool.shutdown(EVENT_SECONDS)


@pytest.mark.spec("behaviours.md", "WSGIToASGI: lifespan")
async def test_a_shared_pool_outlives_one_adapters_lifespan() -> None:
    """Whoever made the pool shuts it down."""
    pool = ThreadPool(1)
    adapter = WSGIToASGI(hello, pool=pool)
    async with lifespan(adapter) as server:
        await server.tell("startup")
        await server.tell("shutdown")
    assert not pool.closed
    assert (await request(adapter)).body == b"hello"
    assert pool.shutdown(EVENT_SECONDS)


@pytest.mark.spec("behaviours.md", "WSGIToASGI: loops")
async def test_an_adapter_lives_again_after_its_shutdown() -> None:
    """A second lifespan, or requests without one, get a new pool."""
    calls: list[str] = []
    adapter = WSGIToASGI(hello, startup=lambda: calls.append("startup"))
    for _ in range(2):
        async with lifespan(adapter) as server:
            assert await server.tell("startup") == {"type": "lifespan.startup.complete"}
            assert (await request(adapter)).body == b"hello"
            assert await server.tell("shutdown") == {"type": "lifespan.shutdown.complete"}
    assert (await request(adapter)).body == b"hello"
    assert calls == ["startup", "startup"]
    end_pool(adapter)


@pytest.mark.spec("behaviours.md", "WSGIToASGI: lifespan")
async def test_hooks_can_call_back_into_the_loop_and_see_its_context() -> None:
    """A hook runs in the context of the lifespan and may use ``anyio.from_thread``."""
    import anyio.from_thread

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen: list[Any] = []

    async def on_the_loop() -> int:
        return threading.get_ident()

    def startup() -> None:
        seen.append((variable.get(), anyio.from_thread.run(on_the_loop)))

    variable.set("of the lifespan")
    async with lifespan(WSGIToASGI(hello, startup=startup)) as server:
        await server.tell("startup")
        await server.tell("shutdown")
    assert seen == [("of the lifespan", threading.get_ident())]


@pytest.mark.spec("behaviours.md", "WSGIToASGI: lifespan")
async def test_lifespan_starts_no_thread_without_a_hook() -> None:
    """A server that starts and stops without a request costs no thread."""
    adapter = WSGIToASGI(hello)
    async with lifespan(adapter) as server:
        await server.tell("startup")
        assert adapter.pool is None or adapter.pool.snapshot().threads == 0
        await server.tell("shutdown")


@pytest.mark.spec("behaviours.md", "WSGIToASGI: lifespan")
async def test_a_hook_that_can_never_run_fails_the_startup() -> None:
    """A shared pool that is shut down while the hook waits for a thread is told to the server."""
    begun, go_on = threading.Event(), threading.Event()

    def occupy(environ: Environ, start_response: StartResponse) -> list[bytes]:
        begun.set()
        assert go_on.wait(EVENT_SECONDS)
        return hello(environ, start_response)

    pool = ThreadPool(1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request, WSGIToASGI(occupy, pool=pool))
        await until(begun)
        async with (
            lifespan(WSGIToASGI(hello, pool=pool, startup=lambda: None)) as server,
            anyio.create_task_group() as asking,
        ):
            asking.start_soon(server.tell, "startup")
            while not pool.snapshot().queued:
                await anyio.sleep(0)
            pool.shutdown(0)
        go_on.set()
    assert server.sent[-1]["type"] == "lifespan.startup.failed"
    assert "shut down" in server.sent[-1]["message"]
    assert pool.shutdown(EVENT_SECONDS)


@pytest.mark.spec("behaviours.md", "WSGIToASGI: lifespan")
async def test_lifespan_state_is_seen_by_requests() -> None:
    """What the server puts into the state of the scope is under ``asgi.scope``."""
    state = {"database": object()}
    seen: list[object] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(environ["asgi.scope"]["state"]["database"])
        return hello(environ, start_response)

    await request(WSGIToASGI(app), state=state)
    assert seen == [state["database"]]


@pytest.mark.spec("behaviours.md", "WSGIToASGI: lifespan")
@pytest.mark.parametrize("told", [["shutdown"], ["startup", "startup"]])
async def test_lifespan_messages_out_of_order_are_the_servers_fault(
    told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A server that breaks the order is told so."""
    server = Lifespan()
    messages = iter(told)

    async def receive() -> dict[str, Any]:
        return {"type": f"lifespan.{next(messages)}"}

    with (
        caplog.at_level(logging.CRITICAL),
        pytest.raises(errors.ServerProtocolError, match=rf"expected.*got 'lifespan\.{told[-1]}'"),
    ):
        await WSGIToASGI(hello)(server.scope(), receive, server.send)


@pytest.mark.spec("FR 96")
async def test_a_shutdown_hook_that_gets_no_thread_is_given_up() -> None:
    """The limit of the shutdown holds for the hook too, when every thread is stuck."""
    entered, go_on = threading.Event(), threading.Event()
    ran: list[str] = []

    def stuck(environ: Environ, start_response: StartResponse) -> list[bytes]:
        entered.set()
        go_on.wait(EVENT_SECONDS)
        return hello(environ, start_response)

    pool = ThreadPool(max_threads=1, shutdown_seconds=0.05)
    adapter = WSGIToASGI(stuck, pool=pool, shutdown=lambda: ran.append("shutdown"))
    async with lifespan(adapter) as server, anyio.create_task_group() as tasks:
        await server.tell("startup")
        tasks.start_soon(server_for().serve, adapter)
        await until(entered)
        answer = await server.tell("shutdown")
        go_on.set()
    assert answer["type"] == "lifespan.shutdown.failed"
    assert ran == []
    assert await anyio.to_thread.run_sync(pool.shutdown, EVENT_SECONDS)


@pytest.mark.spec("FR 86")
async def test_two_lifespans_of_one_adapter_each_run_their_hooks() -> None:
    """The second to end finds the pool of the first ended, and takes another."""
    ran: list[str] = []
    adapter = WSGIToASGI(hello, shutdown=lambda: ran.append("shutdown"))
    async with lifespan(adapter) as first, lifespan(adapter) as second:
        await first.tell("startup")
        await second.tell("startup")
        assert await first.tell("shutdown") == {"type": "lifespan.shutdown.complete"}
        assert await second.tell("shutdown") == {"type": "lifespan.shutdown.complete"}
    assert ran == ["shutdown", "shutdown"]
