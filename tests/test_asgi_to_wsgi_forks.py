"""Adapters made before a fork, under ``ASGIToWSGI``: they work in the parent and in all children."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable

import pytest
from wsgi_driver import (
    EVENT_SECONDS,
    Adapt,
    FakeHost,
    InThread,
    answer,
    app_of,
    body,
    hello,
    serve,
    start,
    until,
    wait,
)

from bridges import ASGIToWSGI
from bridges.typing import Receive, Scope, Send

pytest_plugins = ["wsgi_driver"]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    # Python 3.12 warns of what servers do all the time.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def _in_child(work: Callable[[], bytes]) -> bytes:
    """Fork, work in the child and give what it gave; a child that hangs is killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)
        try:
            os.write(writer, work())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        answer = file.read()
    os.waitpid(pid, 0)
    return answer


@app_of
async def who(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"%d" % os.getpid())


@pytest.mark.spec("FR 72")
@pytest.mark.parametrize("used_before", [False, True])
def test_parent_and_child_are_served(adapt: Adapt, used_before: bool) -> None:
    """An adapter made before the fork, used or not, answers in the child and still in the parent."""
    adapter = adapt(who)
    if used_before:
        serve(adapter)
    for _ in range(2):
        child = _in_child(
            lambda: b"ok" if serve(adapter).body == b"%d" % os.getpid() else b"parent"
        )
        assert child == b"ok"
        assert serve(adapter).body == b"%d" % os.getpid()


@pytest.mark.spec("FR 72")
def test_each_process_has_a_lifespan_of_its_own(adapt: Adapt) -> None:
    """The child starts the application anew, and its end is not the parent's."""
    notes: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            notes.append("startup")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            notes.append("shutdown")
            return
        await answer(send, ",".join(notes).encode())

    adapter = adapt(app)
    serve(adapter)

    def work() -> bytes:
        before = serve(adapter).body
        adapter.close()
        return before + b";" + ",".join(notes).encode()

    assert _in_child(work) == b"startup,startup;startup,startup,shutdown"
    assert serve(adapter).body == b"startup"


@pytest.mark.spec("FR 72")
def test_a_fork_while_a_request_is_under_way(adapt_asyncio: Adapt) -> None:
    """The parent's stream goes on in the parent; the child answers its own requests."""
    go_on = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            return await who(scope, receive, send)
        await send(start())
        await send(body(b"one", more=True))
        await until(go_on)
        await send(body(b"two"))
        return None

    adapter = adapt_asyncio(app)
    host = FakeHost(path="/stream").call(adapter)
    assert _in_child(lambda: serve(adapter).body).isdigit()
    go_on.set()
    assert host.rest().close().body == b"onetwo"


@pytest.mark.spec("FR 72")
def test_a_fork_while_another_thread_makes_the_first_request(adapt_asyncio: Adapt) -> None:
    """No lock that a thread of the parent held is waited for in the child."""
    starting, go_on = threading.Event(), threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            starting.set()
            if os.getpid() == parent:
                await until(go_on)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        await answer(send, b"served")

    parent = os.getpid()
    adapter = adapt_asyncio(app)
    first = InThread(lambda: serve(adapter).body)
    wait(starting)
    assert _in_child(lambda: serve(adapter).body) == b"served"
    go_on.set()
    assert first.result() == b"served"


@pytest.mark.spec("FR 72")
def test_a_fork_inside_the_making_of_the_loop() -> None:
    """A child that is forked while its parent holds the starting lock is not stuck on it."""
    import asyncio

    inside, go_on = threading.Event(), threading.Event()

    def factory() -> asyncio.AbstractEventLoop:
        if os.getpid() == parent:
            inside.set()
            wait(go_on)
        return asyncio.new_event_loop()

    parent = os.getpid()
    adapter = ASGIToWSGI(hello, loop_factory=factory)
    first = InThread(lambda: serve(adapter).body)
    wait(inside)
    assert _in_child(lambda: serve(adapter).body) == b"hello"
    go_on.set()
    assert first.result() == b"hello"
    adapter.close()


@pytest.mark.spec("FR 72")
def test_grandchildren(adapt_asyncio: Adapt) -> None:
    """A fork of a fork works as well."""
    adapter = adapt_asyncio(who)
    serve(adapter)

    def work() -> bytes:
        serve(adapter)
        return _in_child(lambda: b"ok" if serve(adapter).body == b"%d" % os.getpid() else b"wrong")

    assert _in_child(work) == b"ok"


@pytest.mark.spec("FR 72")
def test_close_in_a_child_that_made_no_request(adapt_asyncio: Adapt) -> None:
    """The parent's loop is not the child's to end."""
    adapter = adapt_asyncio(hello)
    serve(adapter)

    def work() -> bytes:
        adapter.close()
        return b"closed"

    assert _in_child(work) == b"closed"
    assert serve(adapter).body == b"hello"


def _serve_in_process(results: object) -> None:
    results.put(serve(_SHARED).body)  # type: ignore[attr-defined]


_SHARED = ASGIToWSGI(hello)


@pytest.mark.slow
@pytest.mark.spec("FR 72")
@pytest.mark.parametrize("used_before", [False, True])
def test_multiprocessing(used_before: bool) -> None:
    """A worker of ``multiprocessing`` uses an adapter of its parent's, and ends in order."""
    context = multiprocessing.get_context("fork")
    if used_before:
        serve(_SHARED)
    results = context.SimpleQueue()
    process = context.Process(target=_serve_in_process, args=(results,))
    process.start()
    assert results.get() == b"hello"
    process.join(EVENT_SECONDS)
    assert process.exitcode == 0
    _SHARED.close()
