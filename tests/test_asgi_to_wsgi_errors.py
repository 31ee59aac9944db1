"""What goes wrong in an application under ``ASGIToWSGI``, and who hears of it."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from wsgi_driver import (
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

from bridges import errors
from bridges.typing import Message, Receive, Scope, Send

pytest_plugins = ["wsgi_driver"]


class Boom(Exception):
    pass


ENDING = [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit]


def _errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


async def _nothing(send: Send) -> None:
    pass


async def _started(send: Send) -> None:
    await send(start())


async def _one_chunk(send: Send) -> None:
    await send(start())
    await send(body(b"x", more=True))


async def _complete(send: Send) -> None:
    await answer(send, b"x")


async def _complete_stream(send: Send) -> None:
    await _one_chunk(send)
    await send(body(b"y"))


Phase = Callable[[Send], Awaitable[None]]


@pytest.mark.spec("FR 66")
@pytest.mark.spec("FR 67")
@pytest.mark.parametrize("phase", [_nothing, _started])
def test_a_failure_before_the_first_chunk_is_raised_in_the_call(
    adapt: Adapt, caplog: pytest.LogCaptureFixture, phase: Phase
) -> None:
    """The application's own exception reaches the host, which answers 500 and logs it; nothing was started."""
    failure = Boom("why")

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await phase(send)
        raise failure

    host = FakeHost()
    with pytest.raises(Boom) as caught:
        host.call(adapt(app))
    assert caught.value is failure
    assert not host.started
    assert any(entry.name == "app" for entry in caught.traceback)
    assert _errors(caplog) == []


@pytest.mark.spec("FR 67")
def test_a_failure_after_a_chunk_is_raised_in_the_iteration(
    adapt: Adapt, caplog: pytest.LogCaptureFixture
) -> None:
    """The host hears of it behind the bytes before it, and cuts the connection."""
    failure = Boom("why")

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await _one_chunk(send)
        raise failure

    host = FakeHost().call(adapt(app))
    with pytest.raises(Boom) as caught:
        host.rest()
    host.close()
    assert caught.value is failure
    assert host.body == b"x"
    assert not host.complete
    assert _errors(caplog) == []


@pytest.mark.spec("FR 66")
@pytest.mark.parametrize("phase", [_complete, _complete_stream])
@pytest.mark.parametrize("kind", [Boom, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_failure_after_the_end_is_logged(
    adapt: Adapt, caplog: pytest.LogCaptureFixture, phase: Phase, kind: type[BaseException]
) -> None:
    """The response is whole; the log has the traceback, once."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await phase(send)
        raise kind("late")

    adapter = adapt(app)
    assert serve(adapter).complete
    adapter.close()
    (record,) = _errors(caplog)
    assert record.name == "bridges.adapters"
    assert record.exc_info is not None
    assert record.exc_info[0] is kind


@pytest.mark.spec("FR 59")
@pytest.mark.spec("behaviours.md", "ASGIToWSGI: errors")
@pytest.mark.parametrize("phase", [_nothing, _started, _one_chunk])
@pytest.mark.parametrize("kind", ENDING)
def test_what_would_end_a_server_is_an_application_error(
    adapt: Adapt, phase: Phase, kind: type[BaseException]
) -> None:
    """SystemExit and its kin are wrapped for the host; the loop lives on and serves the next request."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await phase(send)
            raise kind("end")
        await answer(send, b"alive")

    adapter = adapt(app)
    host = FakeHost()
    with pytest.raises(errors.ApplicationError) as caught:
        host.serve(adapter)
    assert host.started == (phase is _one_chunk)
    assert isinstance(caught.value.__cause__, kind) or kind is asyncio.CancelledError
    assert serve(adapter, path="/next").body == b"alive"


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: errors")
@pytest.mark.parametrize("kind", [Boom, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_child_task_that_ends_everything(
    adapt: Adapt, backend: str, kind: type[BaseException]
) -> None:
    """What a task group's child raises fails its own request; another one under way and the loop live on."""
    if backend == "inline" and kind is KeyboardInterrupt:
        pytest.skip("the loop runs in the host's thread, whose Ctrl-C it may be")
    go_on = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def child() -> None:
            await anyio.lowlevel.checkpoint()
            raise kind("child")

        if scope["path"] == "/wait":
            await send(start())
            await send(body(b"waited", more=True))
            await until(go_on)
            await send(body())
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
        await answer(send, b"survived")

    adapter = adapt(app)
    other = FakeHost(path="/wait").call(adapter)
    if kind is asyncio.CancelledError and backend != "trio":
        assert serve(adapter).body == b"survived"  # asyncio takes it for the child's own end
    else:
        with pytest.raises(BaseException) as caught:
            serve(adapter)
        assert isinstance(caught.value, Exception), "the host must survive it"
    go_on.set()
    assert other.rest().close().body == b"waited"


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: errors")
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_task_that_nobody_awaits(
    adapt_asyncio: Adapt, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    """A stray task that would end the loop is logged, and no request suffers."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def stray() -> None:
            raise kind("stray")

        task = asyncio.get_running_loop().create_task(stray())
        await asyncio.wait([task])
        task.exception()
        await answer(send, b"unharmed")

    adapter = adapt_asyncio(app)
    assert [serve(adapter).body for _ in range(2)] == [b"unharmed"] * 2
    assert len(_errors(caplog)) == 2


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: errors")
def test_an_application_that_stops_the_loop(
    adapt_asyncio: Adapt, caplog: pytest.LogCaptureFixture
) -> None:
    """``loop.stop()`` ends nothing: the loop is not the application's."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)
        await answer(send, b"goes on")

    adapter = adapt_asyncio(app)
    assert [serve(adapter).body for _ in range(2)] == [b"goes on"] * 2
    assert _errors(caplog)


@pytest.mark.spec("FR 58")
@pytest.mark.parametrize("phase", [_nothing, _started, _one_chunk])
def test_an_application_that_returns_too_early(adapt: Adapt, phase: Phase) -> None:
    """A response that is not complete is an error: in the call before the first chunk, else in the iteration."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await phase(send)

    host = FakeHost()
    with pytest.raises(errors.ApplicationProtocolError):
        host.serve(adapt(app))
    assert host.started == (phase is _one_chunk)


MISTAKES: dict[str, tuple[Phase, Message]] = {
    "body before start": (_nothing, body(b"x")),
    "two starts": (_started, start()),
    "start after a chunk": (_one_chunk, start()),
    "body after the end": (_complete, body(b"x")),
    "start after the end": (_complete, start()),
    "unknown": (_nothing, {"type": "http.response.nonsense"}),
    "unknown after the start": (_started, {"type": "http.response.nonsense"}),
    "of a websocket": (_nothing, {"type": "websocket.accept"}),
    "no status": (_nothing, {"type": "http.response.start"}),
    "status text": (_nothing, start("200")),  # type: ignore[arg-type]
    "status 99": (_nothing, start(99)),
    "status 1000": (_nothing, start(1000)),
    "header text": (_nothing, start(200, [("a", "b")])),
    "header with a line break": (_nothing, start(200, [(b"a", b"b\r\nc: d")])),
    "header name with a space": (_nothing, start(200, [(b"a b", b"c")])),
    "body text": (_started, {"type": "http.response.body", "body": "text"}),
    "push": (_nothing, {"type": "http.response.push", "path": "/", "headers": []}),
    "pathsend unoffered": (_started, {"type": "http.response.pathsend", "path": "/etc/hostname"}),
    "zerocopysend unoffered": (_started, {"type": "http.response.zerocopysend", "file": 0}),
    "trailers unoffered": (_started, {"type": "http.response.trailers", "headers": []}),
    "hint unoffered": (_nothing, {"type": "http.response.early_hint", "links": []}),
}


@pytest.mark.spec("FR 68")
@pytest.mark.spec("FR 70")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_raised_in_send(adapt: Adapt, mistake: str) -> None:
    """What breaks the protocol is raised where it was done, in the application's own ``send()``."""
    phase, message = MISTAKES[mistake]
    raised: list[BaseException] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await phase(send)
        try:
            await send(message)
        except Exception as error:
            raised.append(error)
        if phase is _nothing:
            await answer(send)
        elif phase is not _complete:
            await send(body())

    adapter = adapt(app)
    assert serve(adapter).complete
    adapter.close()
    assert [type(error) for error in raised] == [errors.ApplicationProtocolError]


@pytest.mark.spec("FR 68")
def test_a_mistake_that_is_not_caught_reaches_the_host(adapt: Adapt) -> None:
    """It comes out of the application as its failure."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(body(b"x"))

    with pytest.raises(errors.ApplicationProtocolError):
        serve(adapt(app))


@pytest.mark.spec("FR 66")
def test_an_error_page_before_the_failure(adapt: Adapt, caplog: pytest.LogCaptureFixture) -> None:
    """Starlette sends its own 500 and raises behind it: the client gets the page, the log the traceback."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            raise Boom("inside")
        except Boom:
            await answer(send, b"sorry", 500)
            raise

    adapter = adapt(app)
    host = serve(adapter)
    adapter.close()
    assert (host.status, host.body) == (500, b"sorry")
    (record,) = _errors(caplog)
    assert "Boom" in (caplog.text) and record.exc_info


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: errors")
@pytest.mark.parametrize("phase", [_nothing, _one_chunk])
def test_a_failure_costs_nobody_else_anything(adapt: Adapt, phase: Phase) -> None:
    """Requests in other threads go on while one fails."""
    begun, failed = threading.Event(), threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/other":
            begun.set()
            await until(failed)
            await answer(send, b"fine")
        else:
            await phase(send)
            raise SystemExit(3)

    adapter = adapt(app)
    other = InThread(lambda: serve(adapter, path="/other"))
    wait(begun)
    with pytest.raises(errors.ApplicationError):
        serve(adapter)
    failed.set()
    assert other.result().body == b"fine"


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: errors")
def test_an_exception_is_not_kept(adapt_asyncio: Adapt) -> None:
    """What an exception holds is freed with it, without waiting for the collector."""

    class Payload:
        pass

    payloads: list[weakref.ref[Payload]] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        payload = Payload()
        payloads.append(weakref.ref(payload))
        raise Boom(payload)

    adapter = adapt_asyncio(app)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(Boom) as caught:
            adapter(FakeHost().environ, lambda *arguments: None)
        del caught
        adapter.close()
        assert payloads[0]() is None
    finally:
        gc.enable()


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: errors")
@pytest.mark.parametrize("how", ["cancel", "fail"])
def test_a_last_send_that_is_called_off(adapt_asyncio: Adapt, how: str) -> None:
    """An application that gives up while its last chunk waits for room has not completed the response."""
    waiting = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x" * 100, more=True))
        last = asyncio.ensure_future(send(body(b"y" * 100)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        last.cancel()
        await asyncio.wait([last])
        waiting.set()
        if how == "fail":
            raise Boom

    host = FakeHost().call(adapt_asyncio(app, buffer_bytes=100))
    wait(waiting)
    with pytest.raises((Boom, errors.BridgesError)):
        host.rest()
    host.close()


def test_hello_still_works_after_all(adapt: Adapt) -> None:
    """A failed adapter is not a broken one."""
    fails: list[Any] = [True]

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if fails:
            raise fails.pop() and Boom
        await hello(scope, receive, send)

    adapter = adapt(app)
    with pytest.raises(Boom):
        serve(adapter)
    assert serve(adapter).body == b"hello"
