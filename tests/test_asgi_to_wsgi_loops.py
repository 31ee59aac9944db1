"""Who may call ``ASGIToWSGI`` from where: threads with loops of their own, the loop's thread, many threads at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from wsgi_driver import Adapt, InThread, answer, app_of, hello, serve

from bridges import ASGIToWSGI, errors
from bridges.typing import Receive, Scope, Send

pytest_plugins = ["wsgi_driver"]


@pytest.mark.spec("FR 80")
def test_a_call_on_the_loop_is_refused(adapt: Adapt) -> None:
    """The loop would wait for itself: a ``RuntimeError`` says so, and nothing hangs."""
    raised: list[BaseException] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for other in (adapter, second):
            try:
                serve(other, path="/inner")
            except RuntimeError as error:
                raised.append(error)
        await answer(send, b"outer")

    adapter, second = adapt(app), adapt(hello)
    assert serve(adapter).body == b"outer"
    assert [type(error) for error in raised] == [errors.CrossingError] * 2
    assert "wait for itself" in str(raised[0])


@pytest.mark.spec("FR 80")
def test_a_call_from_a_thread_with_another_loop(adapt: Adapt, backend: str) -> None:
    """A blocking call inside a foreign loop is bad manners, but works; the inline loop, which cannot, says so."""
    adapter = adapt(hello)

    async def main() -> bytes:
        return serve(adapter).body

    if backend == "inline":
        with pytest.raises(errors.CrossingError, match="another"):
            asyncio.run(main())
    else:
        assert asyncio.run(main()) == b"hello"
        assert anyio.run(main, backend="trio") == b"hello"


@pytest.mark.spec("FR 80")
def test_back_ends_do_not_disturb_one_another(adapt_asyncio: Adapt) -> None:
    """That an inline loop exists somewhere changes nothing for adapters with a thread."""
    inline = ASGIToWSGI(hello, backend="inline")
    serve(inline)
    adapter = adapt_asyncio(hello)

    async def main() -> bytes:
        return serve(adapter).body

    assert asyncio.run(main()) == b"hello"
    inline.close()


@pytest.mark.spec("FR 80")
def test_a_call_from_a_worker_thread_of_the_loop(adapt: Adapt) -> None:
    """An application may call an adapter, also its own, from a thread that it waits for."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            inner = await anyio.to_thread.run_sync(lambda: serve(adapter, path="/inner"))
            await answer(send, inner.body + b" and outer")
        else:
            await answer(send, b"inner")

    adapter = adapt(app)
    assert serve(adapter).body == b"inner and outer"


@pytest.mark.spec("FR 75")
def test_many_threads_at_once(adapt: Adapt) -> None:
    """Requests of many threads, the first ones included, are each answered with their own."""
    begin = threading.Barrier(8)

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.lowlevel.checkpoint()
        await answer(send, scope["path"].encode())

    adapter = adapt(app)

    def run(name: str) -> Callable[[], list[bytes]]:
        def work() -> list[bytes]:
            begin.wait()
            return [serve(adapter, path=f"/{name}/{number}").body for number in range(20)]

        return work

    threads = {name: InThread(run(name)) for name in "abcdefgh"}
    for name, thread in threads.items():
        assert thread.result() == [b"/%s/%d" % (name.encode(), number) for number in range(20)]


@pytest.mark.spec("FR 75")
def test_two_requests_meet_on_the_loop(adapt: Adapt) -> None:
    """Requests overlap: one waits there for what the other does."""
    meeting: list[Any] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if not meeting:
            meeting.append(anyio.Event())
            await meeting[0].wait()
        else:
            meeting[0].set()
        await answer(send, b"met")

    adapter = adapt(app)
    threads = [InThread(lambda: serve(adapter)) for _ in range(2)]
    assert [thread.result().body for thread in threads] == [b"met"] * 2


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: constructor")
def test_back_ends_side_by_side() -> None:
    """Each back end and each loop factory has a loop of its own, and they share nothing."""
    from wsgi_driver import BACKENDS

    adapters = [ASGIToWSGI(hello, **options()) for options in BACKENDS.values()]
    try:
        for _ in range(2):
            assert [serve(adapter).body for adapter in adapters] == [b"hello"] * len(adapters)
    finally:
        for adapter in adapters:
            adapter.close()


@pytest.mark.spec("FR 79")
def test_closing_while_requests_come(adapt: Adapt) -> None:
    """A close between requests of other threads costs none of them its answer, or says what it cost."""
    adapter = adapt(hello)
    stop = threading.Event()

    def work() -> int:
        served = 0
        while not stop.is_set():
            try:
                assert serve(adapter).body == b"hello"
                served += 1
            except errors.BridgesError:
                pass
        return served

    serve(adapter)
    threads = [InThread(work) for _ in range(3)]
    for _ in range(20):
        adapter.close()
    stop.set()
    for thread in threads:
        thread.result()
    assert serve(adapter).body == b"hello"
