"""What a reviewer found in ``ASGIToWSGI``: each a request that hung, lost data, or ended as if it were complete."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import anyio
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from asgiref.wsgi import WsgiToAsgi
from wsgi_driver import Adapt, FakeHost, InThread, answer, app_of, body, serve, start, until, wait

from bridges import ASGIToWSGI, errors
from bridges.asgi_to_wsgi import dismiss_in
from bridges.crossing.portal import is_cancellation
from bridges.typing import Receive, Scope, Send

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

pytest_plugins = ["wsgi_driver"]


@pytest.mark.spec("FR 97")
def test_a_job_that_sends_more_than_the_buffer(adapt_asyncio: Adapt) -> None:
    """Sync code in the request's thread that waits for ``send`` is not waited for in turn."""

    def legacy(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * 400_000] * 3

    assert len(serve(adapt_asyncio(WsgiToAsgi(legacy))).body) == 1_200_000


@pytest.mark.spec("FR 97")
def test_a_job_that_receives(adapt_asyncio: Adapt) -> None:
    """Sync code in the request's thread may ask for the body, which that thread reads."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await sync_to_async(async_to_sync(receive))()
        await answer(send, message["body"])

    assert serve(adapt_asyncio(app), "POST", body=b"asked for").body == b"asked for"


@pytest.mark.spec("FR 64")
def test_concurrent_sends_keep_their_order_to_the_end(adapt: Adapt) -> None:
    """The last message waits behind those that wait for room."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        async with anyio.create_task_group() as tasks:
            for piece in (b"a", b"b", b"c"):
                tasks.start_soon(send, body(piece * 300_000, more=True))
                await anyio.lowlevel.checkpoint()
            tasks.start_soon(send, body(b"LAST"))

    received = serve(adapt(app)).body
    assert (len(received), received[-4:]) == (900_004, b"LAST")


@pytest.mark.spec("FR 66")
@pytest.mark.parametrize("error", [ConnectionResetError, BrokenPipeError, TimeoutError])
def test_an_os_error_of_the_application_is_not_the_clients(
    adapt: Adapt, error: type[OSError]
) -> None:
    """Hosts take an OSError for their client's leaving, and would neither answer 500 nor log it."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error("from the application's own database")

    with pytest.raises(errors.ApplicationError) as raised:
        serve(adapt(app))
    assert isinstance(raised.value.__cause__, error)
    assert not isinstance(raised.value, OSError)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ten"
    path.write_bytes(b"0123456789")
    return path


def _zerocopysend(path: Path, length: int) -> Any:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(headers=[(b"content-length", b"%d" % length)]))
        with open(path, "rb") as opened:
            await send(
                {"type": "http.response.zerocopysend", "file": opened.fileno(), "count": length}
            )

    return app


def _pathsend(path: Path, length: int) -> Any:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(headers=[(b"content-length", b"%d" % length)]))
        await send({"type": "http.response.pathsend", "path": str(path)})

    return app


@pytest.mark.spec("FR 106")
@pytest.mark.parametrize("make", [_zerocopysend, _pathsend])
def test_a_file_that_is_too_short(adapt: Adapt, file: Path, make: Any) -> None:
    """A client that was promised more never sees a clean end, which would swallow the next response."""
    with pytest.raises(errors.ApplicationProtocolError, match="90 bytes shorter"):
        serve(adapt(make(file, 100)), wsgi__file_wrapper=FileWrapper)


@pytest.mark.spec("FR 106")
def test_a_file_that_has_grown(adapt: Adapt, file: Path) -> None:
    """No more is sent than was promised."""
    assert serve(adapt(_pathsend(file, 5)), wsgi__file_wrapper=FileWrapper).body == b"01234"


@pytest.mark.spec("FR 109")
def test_a_piece_that_was_given_up(adapt_asyncio: Adapt) -> None:
    """A message that was called off while it waited for room is missed at the end."""
    given_up = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(headers=[(b"content-length", b"300")]))
        await send(body(b"a" * 100, more=True))
        with anyio.CancelScope() as scope_of_send:
            scope_of_send.cancel()
            await send(body(b"b" * 100, more=True))
        given_up.set()
        await send(body(b"c" * 100))

    host = FakeHost().call(adapt_asyncio(app, buffer_bytes=100))
    wait(given_up)
    with pytest.raises(errors.ApplicationProtocolError):
        host.rest()
    host.close()


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: errors")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_loop_that_fails_tells_its_requests(caplog: pytest.LogCaptureFixture) -> None:
    """A request under way ends with an error when the loop itself breaks."""
    begun = threading.Event()
    loops: list[Any] = []

    def make() -> asyncio.AbstractEventLoop:
        loops.append(asyncio.new_event_loop())
        return loops[-1]

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await anyio.sleep_forever()

    adapter = ASGIToWSGI(app, loop_factory=make, lifespan="off")
    request = InThread(lambda: serve(adapter))
    wait(begun)

    def fail(*arguments: object) -> None:
        raise OSError("the selector has failed")

    loops[0]._selector.select = fail
    loops[0].call_soon_threadsafe(int)  # it waits in the old one
    with pytest.raises(errors.BridgesError):
        request.result()
    assert "the event loop of the ASGI applications has failed" in caplog.text


@pytest.mark.spec("FR 65")
def test_a_response_that_is_dropped_without_close(adapt: Adapt) -> None:
    """Middleware that forgets ``close`` leaves no task behind."""
    over = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            await until(over)
            return await answer(send)
        try:
            await send(start())
            while True:
                await send(body(b"x", more=True))
                await anyio.lowlevel.checkpoint()
        finally:
            over.set()

    adapter = adapt(app, buffer_bytes=10)
    host = FakeHost().call(adapter)
    assert host.next()
    del host.result, host._iterator
    gc.collect()
    assert serve(adapter, path="/wait").status == 200


@pytest.mark.spec("FR 106")
def test_parts_of_files_wait_for_room(adapt: Adapt, file: Path) -> None:
    """Descriptors that are under way are bounded as bytes are, and closed with the response."""
    gc.collect()
    counts: list[int] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        with open(file, "rb") as opened:
            for _ in range(100):
                await send(
                    {
                        "type": "http.response.zerocopysend",
                        "file": opened.fileno(),
                        "offset": 0,
                        "count": 10,
                        "more_body": True,
                    }
                )
                counts.append(len(os.listdir("/dev/fd")))
        await send(body())

    adapter = adapt(app)
    serve(adapter, path="/warm", wsgi__file_wrapper=FileWrapper)
    counts.clear()
    before = len(os.listdir("/dev/fd"))
    received = serve(adapter, wsgi__file_wrapper=FileWrapper).body
    assert received == b"0123456789" * 100
    assert max(counts) <= before + 8
    assert len(os.listdir("/dev/fd")) <= before


def test_a_group_of_cancellations_is_one() -> None:
    """trio's nurseries raise what calls them off as a group."""
    assert is_cancellation(BaseExceptionGroup("g", [asyncio.CancelledError()]))
    assert not is_cancellation(BaseExceptionGroup("g", [asyncio.CancelledError(), ValueError()]))


@pytest.mark.spec("RFC 9110", "section 9.3.2")
def test_head_of_an_endless_stream(adapt: Adapt) -> None:
    """The head of a response without a body is complete at its first piece, and the application is called off."""
    over = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(start())
            while True:
                await send(body(b"x", more=True))
                await anyio.lowlevel.checkpoint()
        finally:
            over.set()

    adapter = adapt(app, disconnect_grace_seconds=0)
    host = serve(adapter, "HEAD")
    assert (host.status, host.body) == (200, b"")
    adapter.close()
    assert over.is_set()


def test_telling_of_a_stop_while_an_adapter_opens() -> None:
    """A signal that comes with the first request does no harm."""
    begun, go_on = threading.Event(), threading.Event()

    def make() -> asyncio.AbstractEventLoop:
        begun.set()
        wait(go_on)
        return asyncio.new_event_loop()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)

    adapter = ASGIToWSGI(app, loop_factory=make)
    request = InThread(lambda: serve(adapter))
    wait(begun)
    dismiss_in(0)
    go_on.set()
    assert request.result().status == 200
    adapter.close()


@pytest.mark.spec("FR 65")
def test_close_from_another_thread(adapt: Adapt) -> None:
    """A thread that waits for the next chunk learns that another one has closed the response."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", more=True))
        await anyio.sleep_forever()

    adapter = adapt(app, disconnect_grace_seconds=0)
    host = FakeHost().call(adapter)
    assert host.next() == b"x"
    waiting = threading.Event()
    result: Any = host.result

    def go_on() -> None:
        waiting.set()
        next(result)

    other = InThread(go_on)
    wait(waiting)
    result.close()
    with pytest.raises(errors.ClientDisconnected):
        other.result()


def test_an_adapter_lives_as_long_as_its_requests() -> None:
    """One that nobody holds any more is not ended under a response."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", more=True))
        gc.collect()
        await send(body(b"y"))

    def application(environ: Any, start_response: Any) -> Any:
        return ASGIToWSGI(app)(environ, start_response)

    assert FakeHost().serve(application).body == b"xy"
    gc.collect()


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: constructor")
def test_no_limit_to_the_end(adapt: Adapt) -> None:
    """``shutdown_seconds`` may be infinite."""
    adapter = adapt(Ending(), shutdown_seconds=float("inf"))
    assert serve(adapter).status == 200
    adapter.close()
    assert Ending.ended == 1


class Ending:
    ended = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            Ending.ended = 1
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await answer(send)
