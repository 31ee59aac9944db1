"""Clients that leave, and hosts that close a response early, under ``ASGIToWSGI``."""

from __future__ import annotations

import errno
import gc
import logging
import os
import random
import socket
import threading
import weakref
from typing import Any

import anyio
import pytest
from wsgi_driver import (
    EVENT_SECONDS,
    Adapt,
    FakeHost,
    answer,
    app_of,
    body,
    read_all,
    serve,
    start,
    until,
    wait,
)

import bridges.asgi.pump as pump_module
from bridges import ASGIToWSGI, errors
from bridges.typing import Receive, Scope, Send

pytest_plugins = ["wsgi_driver"]


def _settle(adapter: ASGIToWSGI, backend: str, event: threading.Event) -> None:
    """Wait for what the loop does; where the loop runs only during requests, make some."""
    rounds = 0
    while backend == "inline" and not event.is_set() and rounds < 1000:
        rounds += 1
        serve(adapter, path="/idle")
    wait(event)


async def _idle(send: Send) -> None:
    await anyio.sleep(0.001)
    await answer(send, b"idle")


def _loud(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.spec("FR 65")
@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_a_host_that_closes_early_is_a_client_that_left(
    adapt: Adapt, backend: str, chunks: int
) -> None:
    """``receive()`` gives ``http.disconnect``, ``send()`` raises an ``OSError`` of EPIPE."""
    told: list[Any] = []
    over = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/idle":
            return await _idle(send)
        await send(start())
        await send(body(b"x", more=True))

        async def listen() -> None:
            assert (await receive())["type"] == "http.request"
            told.append((await receive())["type"])

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen)
                await _produce(send, told)
        finally:
            over.set()
        return None

    async def _produce(send: Send, told: list[Any]) -> None:
        try:
            while True:
                await send(body(b"x" * 100, more=True))
                await anyio.lowlevel.checkpoint()
        except OSError as error:
            told.append((type(error), error.errno))

    adapter = adapt(app, buffer_bytes=1000)
    host = FakeHost().call(adapter)
    for _ in range(chunks):
        host.next()
    host.close()
    _settle(adapter, backend, over)
    assert sorted(told, key=str) == [
        (errors.ClientDisconnected, errno.EPIPE),
        "http.disconnect",
    ]


@pytest.mark.spec("issue 5", "Done when: clients that vanish leave memory flat")
def test_what_is_over_does_not_wait_for_the_grace_time() -> None:
    """The application has ended: there is nothing to call off, and nothing to hold."""
    over = threading.Event()
    watched: list[weakref.ref[Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # A method of what holds everything.
        watched.append(weakref.ref(receive.__self__))  # type: ignore[attr-defined]
        await send(start())
        await send(body(b"x", more=True))
        await receive()
        await receive()
        over.set()

    adapter = ASGIToWSGI(app, lifespan="off", disconnect_grace_seconds=1_000)
    FakeHost().call(adapter).close()
    wait(over)
    adapter.start()  # a turn of the loop
    gc.collect()
    assert watched[0]() is None
    adapter.close()


@pytest.mark.spec("FR 65")
def test_an_application_that_does_not_notice_is_called_off(adapt: Adapt, backend: str) -> None:
    """After the grace it is cancelled, and its ``finally`` blocks run on the loop."""
    cleaned: list[int] = []
    over = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/idle":
            return await _idle(send)
        await send(start())
        await send(body(b"x", more=True))
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            cleaned.append(threading.get_ident())
            over.set()

    adapter = adapt(app, disconnect_grace_seconds=0)
    FakeHost().call(adapter).close()
    _settle(adapter, backend, over)
    assert (cleaned == [threading.get_ident()]) == (backend == "inline")


@pytest.mark.spec("FR 65")
def test_within_the_grace_nobody_is_called_off(adapt: Adapt) -> None:
    """An application has the time it was promised to put its affairs in order."""
    left, done = threading.Event(), threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", more=True))
        await until(left)
        while (await receive())["type"] != "http.disconnect":
            pass
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        done.set()

    adapter = adapt(app, disconnect_grace_seconds=1000)
    FakeHost().call(adapter).close()
    left.set()
    adapter.close()
    assert done.is_set()


@pytest.mark.spec("FR 65")
def test_an_application_that_swallows_its_cancellation(
    adapt_asyncio: Adapt, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on until it ends by itself; nobody else is held up by it."""
    import asyncio

    swallowed, go_on = threading.Event(), threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/next":
            return await answer(send, b"next")
        await send(start())
        await send(body(b"x", more=True))
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            swallowed.set()
        await until(go_on)
        return None

    adapter = adapt_asyncio(app, disconnect_grace_seconds=0)
    FakeHost().call(adapter).close()
    wait(swallowed)
    assert serve(adapter, path="/next").body == b"next"
    go_on.set()
    adapter.close()
    assert _loud(caplog) == []


@pytest.mark.spec("FR 65")
@pytest.mark.parametrize("reaction", ["returns", "raises OSError", "is cancelled"])
def test_a_client_that_left_is_no_error_in_the_log(
    adapt_asyncio: Adapt, caplog: pytest.LogCaptureFixture, reaction: str
) -> None:
    """Clients leave all the time: an application that ends for that reason is logged at DEBUG at most."""
    over = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", more=True))
        try:
            if reaction == "returns":
                while (await receive())["type"] != "http.disconnect":
                    pass
            elif reaction == "is cancelled":
                await anyio.sleep_forever()
            else:
                while True:
                    await send(body(b"x", more=True))
                    await anyio.lowlevel.checkpoint()
        finally:
            over.set()

    adapter = adapt_asyncio(app, disconnect_grace_seconds=0, buffer_bytes=10)
    FakeHost().call(adapter).close()
    wait(over)
    adapter.close()
    assert _loud(caplog) == []


@pytest.mark.spec("FR 65")
@pytest.mark.spec("FR 66")
def test_a_failure_after_the_client_left_is_logged(
    adapt_asyncio: Adapt, caplog: pytest.LogCaptureFixture
) -> None:
    """What does not come of the leaving is a bug that somebody must hear of."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", more=True))
        while (await receive())["type"] != "http.disconnect":
            pass
        raise LookupError("while cleaning up")

    adapter = adapt_asyncio(app)
    FakeHost().call(adapter).close()
    adapter.close()
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info
    assert record.exc_info[0] is LookupError


@pytest.mark.spec("FR 66")
def test_a_failure_in_the_moment_of_leaving_is_logged(
    adapt_asyncio: Adapt, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure that the host no longer takes, and that came before the loop knew of that, is not lost."""
    closed = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", more=True))
        wait(closed)  # on the loop: it hears of the leaving after this task has ended
        raise LookupError("at the same moment")

    adapter = adapt_asyncio(app)
    FakeHost().call(adapter).close()
    closed.set()
    adapter.close()
    assert "at the same moment" in caplog.text


@pytest.mark.spec("FR 65")
@pytest.mark.parametrize("more", [True, False])
def test_leaving_while_the_application_waits_for_room(
    adapt: Adapt, backend: str, more: bool
) -> None:
    """A ``send()`` that waits for a slow client ends when that leaves; the last chunk's, too."""
    raised: list[int | None] = []
    over = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/idle":
            return await _idle(send)
        await send(start())
        await send(body(b"x" * 100, more=True))
        try:
            await send(body(b"y" * 100, more=more))
        except OSError as error:
            raised.append(error.errno)
        over.set()
        return None

    adapter = adapt(app, buffer_bytes=100, shutdown_seconds=2)
    FakeHost().call(adapter).close()
    _settle(adapter, backend, over)
    assert raised == [errno.EPIPE]


@pytest.mark.spec("FR 65")
def test_leaving_after_the_whole_body(adapt: Adapt, caplog: pytest.LogCaptureFixture) -> None:
    """A host that closes without iterating over a whole response, as for HEAD, disturbs nobody."""
    over = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"x")
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        over.set()

    adapter = adapt(app)
    FakeHost().call(adapter).close()
    adapter.close()
    assert over.is_set()
    assert _loud(caplog) == []


@pytest.mark.spec("FR 65")
@pytest.mark.parametrize("chunks", [0, 1])
def test_leaving_a_whole_body_with_thread_sensitive_code(adapt_asyncio: Adapt, chunks: int) -> None:
    """The same where the request's thread ran code for the application, and so stays till its end."""
    from asgiref.sync import sync_to_async

    threads: list[int] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        threads.append(await sync_to_async(threading.get_ident)())
        await answer(send, b"x")
        threads.append(await sync_to_async(threading.get_ident)())

    adapter = adapt_asyncio(app)
    host = FakeHost().call(adapter)
    for _ in range(chunks):
        host.next()
    host.close()
    adapter.close()
    assert threads == [threading.get_ident()] * 2


@pytest.mark.spec("PEP 3333", "Specification Details: close")
def test_closing_twice(adapt: Adapt) -> None:
    """A second ``close()``, as of a middleware and a host, does nothing."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", more=True))
        await anyio.sleep_forever()

    host = FakeHost().call(adapt(app, disconnect_grace_seconds=0))
    result: Any = host.result
    result.close()
    result.close()


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: client gone")
def test_a_host_that_tells_of_the_leaving(
    adapt: Adapt, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """waitress's function is asked while the response is idle; the host's call then ends."""
    monkeypatch.setattr(pump_module, "WATCH_SECONDS", 0.01)
    over = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/idle":
            return await _idle(send)
        while (await receive())["type"] != "http.disconnect":
            pass
        over.set()
        return None

    adapter = adapt(app)
    asked: list[int] = []

    def disconnected() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(errors.ClientDisconnected):
        serve(adapter, waitress__client_disconnected=disconnected)
    _settle(adapter, backend, over)


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: client gone")
@pytest.mark.parametrize("key", ["gunicorn__socket", "werkzeug__socket"])
@pytest.mark.parametrize("chunks", [0, 1])
def test_the_socket_of_an_idle_stream_is_watched(
    adapt_asyncio: Adapt, monkeypatch: pytest.MonkeyPatch, key: str, chunks: int
) -> None:
    """End of file on the host's socket ends a stream that has nothing to write."""
    monkeypatch.setattr(pump_module, "WATCH_SECONDS", 0.01)
    over = threading.Event()
    ours, theirs = socket.socketpair()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        if chunks:
            await send(body(b"x", more=True))
        try:
            while (await receive())["type"] != "http.disconnect":
                theirs.close()
        finally:
            over.set()

    adapter = adapt_asyncio(app)
    host = FakeHost(**{key: ours})
    with pytest.raises(errors.ClientDisconnected):
        host.call(adapter).rest()
    if chunks:
        host.close()
    wait(over)
    ours.close()


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: client gone")
def test_a_short_upload_in_the_middle_of_the_response(adapt: Adapt) -> None:
    """A body that ends too early while the response streams cuts that, unless the application completes it."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", more=True))
        await read_all(receive)

    host = FakeHost("POST", body=b"abc", length=10).call(adapt(app))
    with pytest.raises(errors.ClientDisconnected):
        host.rest()
    host.close()


@pytest.mark.slow
@pytest.mark.spec("FR 65")
def test_five_hundred_hosts_that_drop_their_responses(
    backend: str, adapt: Adapt, rng: random.Random
) -> None:
    """Whenever they close, no thread, task, descriptor or request is left behind."""
    alive = [0]

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/idle":
            return await _idle(send)
        alive[0] += 1
        try:
            if rng.random() < 0.3:
                await read_all(receive)
            await send(start())
            for _ in range(rng.randrange(10)):
                await send(body(b"x" * rng.randrange(1, 400), more=True))
                if rng.random() < 0.3:
                    await anyio.lowlevel.checkpoint()
            await send(body(b"end"))
        finally:
            alive[0] -= 1
        return None

    adapter = adapt(app, buffer_bytes=1000, disconnect_grace_seconds=0)
    serve(adapter)
    gc.collect()  # other tests' loops hold their descriptors until then
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/dev/fd"))
    for _ in range(500):
        host = FakeHost("POST", body=b"some body").call(adapter)
        for _ in range(rng.randrange(6)):
            if host.next() is None:
                break
        host.close()
    service = adapter._service
    assert service is not None
    rounds = 0
    while service._under_way and rounds < 100 * EVENT_SECONDS:
        serve(adapter, path="/idle")
        rounds += 1
    assert (alive, len(service._under_way)) == ([0], 0)
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/dev/fd")) <= descriptors
