"""What ``WSGIToASGI`` refuses: at construction, with a status, or with an error into the server."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from apps.plain import hello
from driver import (
    EVENT_SECONDS,
    FakeServer,
    assert_all_threads_free,
    content_length,
    end_pool,
    request,
    server_for,
    until,
)

from bridges import ThreadPool, WSGIToASGI, errors
from bridges.typing import Environ, Message, StartResponse


async def asgi_function(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("never called")


class ASGIObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("never called")


async def async_hook() -> None:
    raise AssertionError("never called")


@pytest.mark.spec("issue 2", "7. Bad input")
@pytest.mark.parametrize("app", [None, "module:app", 5, b"app", object()])
def test_what_cannot_be_called_is_no_application(app: Any) -> None:
    """A TypeError at construction says what is needed and quotes what came."""
    with pytest.raises(TypeError, match=r"WSGI application.*environ, start_response") as caught:
        WSGIToASGI(app)
    assert repr(app)[:20] in str(caught.value)


@pytest.mark.spec("issue 2", "7. Bad input")
@pytest.mark.parametrize("app", [asgi_function, ASGIObject(), functools.partial(asgi_function)])
def test_an_asgi_application_is_refused_with_the_remedy(app: Any) -> None:
    """An async function or object needs no adapter, and the error says so."""
    with pytest.raises(TypeError, match=r"ASGI application already.*without WSGIToASGI"):
        WSGIToASGI(app)


@pytest.mark.spec("issue 2", "7. Bad input")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_threads": 0}, "max_threads must be at least 1, got 0"),
        ({"max_threads": -3}, "max_threads must be at least 1, got -3"),
        ({"buffer_bytes": 0}, "buffer_bytes must be at least 1, got 0"),
        ({"max_body_bytes": -1}, "max_body_bytes must be None or at least 0, got -1"),
        ({"spool_body_bytes": -1}, "spool_body_bytes must be None or at least 0, got -1"),
        ({"header_policy": "ignore"}, "header_policy must be one of .*drop.*got 'ignore'"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], sentence: str) -> None:
    """A ValueError says which option, what it may be, and what came."""
    with pytest.raises(ValueError, match=sentence):
        WSGIToASGI(hello, **options)


@pytest.mark.spec("issue 2", "7. Bad input")
@pytest.mark.parametrize("hook", ["startup", "shutdown"])
@pytest.mark.parametrize("value", [async_hook, 5, functools.partial(async_hook)])
def test_hooks_must_be_plain_functions(hook: str, value: Any) -> None:
    """A hook that cannot run in a thread is refused at construction."""
    options: dict[str, Any] = {hook: value}
    with pytest.raises(TypeError, match=f"{hook} must be a plain function"):
        WSGIToASGI(hello, **options)


@pytest.mark.spec("behaviours.md", "WSGIToASGI: constructor")
def test_construction_starts_nothing() -> None:
    """No thread, no pool and no loop before the first request; a partial and a class are applications too."""
    before = set(threading.enumerate())
    adapters = [WSGIToASGI(hello), WSGIToASGI(functools.partial(hello))]
    assert set(threading.enumerate()) <= before
    assert [adapter.pool for adapter in adapters] == [None, None]
    assert "hello" in repr(adapters[0])


async def refused(adapter: WSGIToASGI, server: FakeServer, status: int) -> None:
    """Serve a request that must be refused, in one plain sentence, without a call of the application."""
    await server.serve(adapter)
    assert server.status == status
    assert server.header(b"content-type") == b"text/plain; charset=utf-8"
    assert server.header(b"content-length") == b"%d" % len(server.body)
    assert server.body.count(b"\n") == 1
    assert b"Traceback" not in server.body


def must_not_run(environ: Environ, start_response: StartResponse) -> list[bytes]:
    raise AssertionError("the application must not see this request")


@pytest.mark.spec("FR 42")
@pytest.mark.parametrize(
    ("policy", "expected"),
    [("drop", b"good"), ("keep", b"evil,good")],
)
async def test_header_names_with_an_underscore(policy: Any, expected: bytes) -> None:
    """They are dropped, or kept on request, so that a proxy's header cannot be forged by accident."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["HTTP_X_FORWARDED_FOR"].encode()]

    headers = [(b"x_forwarded_for", b"evil"), (b"x-forwarded-for", b"good")]
    server = await request(WSGIToASGI(app, header_policy=policy), headers=headers)
    assert server.body == expected


@pytest.mark.spec("FR 42")
async def test_header_names_with_an_underscore_refused() -> None:
    """``header_policy="refuse"`` answers 400."""
    adapter = WSGIToASGI(must_not_run, header_policy="refuse")
    await refused(adapter, server_for(headers=[(b"x_forwarded_for", b"evil")]), 400)


@pytest.mark.spec("FR 43")
@pytest.mark.spec("FR 44")
@pytest.mark.parametrize(
    "headers",
    [
        [content_length(3), content_length(4)],
        [(b"host", b"a"), (b"host", b"b")],
        [(b"content-type", b"a/b"), (b"content-type", b"c/d")],
        [(b"content-length", b"abc")],
        [(b"content-length", b"-1")],
        [(b"content-length", b"+1")],
        [(b"content-length", b"1_0")],
        [(b"content-length", b"9" * 5000)],
        [(b"x-many", b"1")] * 101,
        [(b"x-many", b"1")] * 20_000,
    ],
)
async def test_conflicting_and_endless_headers_are_refused(headers: Any) -> None:
    """400, before the application runs and without a ``receive()``."""
    server = server_for(headers=headers)
    await refused(WSGIToASGI(must_not_run), server, 400)
    assert server.receive_calls == 0


@pytest.mark.spec("FR 44")
async def test_equal_repetitions_are_folded() -> None:
    """Two equal Content-Length are one."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["CONTENT_LENGTH"].encode() + environ["wsgi.input"].read()]

    server = await request(
        WSGIToASGI(app), "POST", body=[b"abc"], headers=[content_length(3), content_length(3)]
    )
    assert server.body == b"3abc"


@pytest.mark.spec("FR 8")
async def test_the_largest_body_is_named_in_the_refusal() -> None:
    """413 says how much would have been accepted."""
    adapter = WSGIToASGI(must_not_run, max_body_bytes=1000)
    server = server_for("POST", body=[bytes(2000)], headers=[content_length(2000)])
    await refused(adapter, server, 413)
    assert b"1000" in server.body


class Occupied:
    """An adapter with one thread, which a first request occupies until it is let go."""

    def __init__(self, **pool_options: Any) -> None:
        self.pool = ThreadPool(1, **pool_options)
        self.adapter = WSGIToASGI(self.app, pool=self.pool)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.paths: list[str] = []

    def app(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        self.paths.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/first":
            self.begun.set()
            assert self.go_on.wait(EVENT_SECONDS)
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    async def during(self, function: Callable[[], Any]) -> None:
        """Run ``function`` while the thread is occupied."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request, self.adapter, "GET", "/first")
            await until(self.begun)
            try:
                await function()
            finally:
                self.go_on.set()
        await assert_all_threads_free(self.adapter)
        assert self.pool.shutdown(EVENT_SECONDS)

    async def queue(self, server: FakeServer, tasks: Any) -> None:
        """Begin a request that has to wait, and wait until it does."""
        waiting = self.pool.snapshot().queued
        tasks.start_soon(server.serve, self.adapter)
        while self.pool.snapshot().queued == waiting:
            await anyio.sleep(0)


@pytest.mark.spec("FR 95")
async def test_a_full_queue_is_answered_with_503() -> None:
    """Beyond ``max_queue`` a request is told at once to come back; those in the queue are served."""
    occupied = Occupied(max_queue=1)
    queued, surplus = server_for(path="/queued"), server_for(path="/surplus")

    async def overflow() -> None:
        async with anyio.create_task_group() as tasks:
            await occupied.queue(queued, tasks)
            await refused(occupied.adapter, surplus, 503)
            occupied.go_on.set()

    await occupied.during(overflow)
    retry_after = surplus.header(b"retry-after")
    assert retry_after is not None
    assert int(retry_after) >= 1
    assert queued.body == b"/queued"
    assert occupied.paths == ["/first", "/queued"]


@pytest.mark.spec("FR 95")
async def test_no_queue_at_all() -> None:
    """``max_queue=0`` refuses whatever finds no free thread."""
    occupied = Occupied(max_queue=0)
    surplus = server_for(path="/surplus")

    async def overflow() -> None:
        await refused(occupied.adapter, surplus, 503)

    await occupied.during(overflow)
    assert surplus.header(b"retry-after") is not None


@pytest.mark.slow
@pytest.mark.spec("FR 95")
async def test_a_request_that_waits_too_long_is_answered_with_503() -> None:
    """``queue_seconds`` ends the wait, and the request never runs."""
    occupied = Occupied(queue_seconds=0.06)
    late = server_for(path="/late")

    async def wait() -> None:
        await refused(occupied.adapter, late, 503)

    await occupied.during(wait)
    assert late.header(b"retry-after") is not None
    assert occupied.paths == ["/first"]


@pytest.mark.spec("FR 95")
async def test_a_request_that_finds_a_thread_in_time_is_served() -> None:
    """``queue_seconds`` touches nobody who is served before."""
    occupied = Occupied(queue_seconds=60)
    patient = server_for(path="/patient")

    async def wait() -> None:
        async with anyio.create_task_group() as tasks:
            await occupied.queue(patient, tasks)
            occupied.go_on.set()

    await occupied.during(wait)
    assert patient.body == b"/patient"


@pytest.mark.spec("behaviours.md", "WSGIToASGI: threads")
async def test_a_queued_request_whose_client_leaves_never_runs() -> None:
    """It is withdrawn when the client leaves, and makes room for the next."""
    occupied = Occupied(max_queue=1)
    leaver, next_one = server_for(path="/leaver"), server_for(path="/next")

    async def leave() -> None:
        async with anyio.create_task_group() as tasks:
            await occupied.queue(leaver, tasks)
            leaver.leave()
            while occupied.pool.snapshot().queued:
                await anyio.sleep(0.001)
            await occupied.queue(next_one, tasks)
            occupied.go_on.set()

    await occupied.during(leave)
    assert occupied.paths == ["/first", "/next"]
    assert (leaver.sends, next_one.body) == (0, b"/next")


@pytest.mark.spec("behaviours.md", "WSGIToASGI: threads")
async def test_a_queued_request_that_is_cancelled_never_runs() -> None:
    """A cancellation withdraws it."""
    occupied = Occupied()
    server = server_for(path="/cancelled")

    async def cancel() -> None:
        async with anyio.create_task_group() as tasks:
            await occupied.queue(server, tasks)
            tasks.cancel_scope.cancel()
        assert occupied.pool.snapshot().queued == 0

    await occupied.during(cancel)
    assert occupied.paths == ["/first"]


@pytest.mark.spec("behaviours.md", "WSGIToASGI: threads")
async def test_a_closed_pool_is_answered_with_503() -> None:
    """A shared pool that was shut down serves nobody, and says so."""
    pool = ThreadPool(1)
    pool.shutdown()
    server = server_for()
    await refused(WSGIToASGI(must_not_run, pool=pool), server, 503)
    assert server.header(b"retry-after") is not None


@pytest.mark.spec("behaviours.md", "WSGIToASGI: threads")
async def test_a_queued_request_is_answered_when_the_pool_is_shut_down() -> None:
    """Requests that will never run get 503 instead of waiting for ever."""
    occupied = Occupied()
    server = server_for(path="/queued")

    async def shut_down() -> None:
        async with anyio.create_task_group() as tasks:
            await occupied.queue(server, tasks)
            occupied.pool.shutdown(0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request, occupied.adapter, "GET", "/first")
        await until(occupied.begun)
        await shut_down()
        occupied.go_on.set()
    assert server.status == 503
    assert occupied.paths == ["/first"]
    assert occupied.pool.shutdown(EVENT_SECONDS)


class Socket:
    """A websocket handshake, seen from the server."""

    def __init__(self, extensions: dict[str, Any] | None) -> None:
        self.scope = {"type": "websocket", "path": "/ws", "headers": []}
        if extensions is not None:
            self.scope["extensions"] = extensions
        self.sent: list[Message] = []
        self._messages = [{"type": "websocket.connect"}]

    async def receive(self) -> Message:
        return self._messages.pop(0)

    async def send(self, message: Message) -> None:
        assert not self._messages, "an answer before the connect was received"
        self.sent.append(message)


@pytest.mark.spec("FR 101")
@pytest.mark.parametrize("extensions", [None, {}])
async def test_a_websocket_is_refused(extensions: Any) -> None:
    """The handshake is closed before it is accepted, which servers answer with 403."""
    socket = Socket(extensions)
    await WSGIToASGI(must_not_run)(socket.scope, socket.receive, socket.send)
    assert [message["type"] for message in socket.sent] == ["websocket.close"]
    assert socket.sent[0]["code"] == 1008


@pytest.mark.spec("FR 101")
async def test_a_websocket_is_refused_with_a_response() -> None:
    """With the denial extension the client gets 403 and a sentence."""
    socket = Socket({"websocket.http.response": {}})
    await WSGIToASGI(must_not_run)(socket.scope, socket.receive, socket.send)
    start, body = socket.sent
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
    assert dict(start["headers"])[b"content-length"] == b"%d" % len(body["body"])
    assert (body["type"], body["more_body"]) == ("websocket.http.response.body", False)


@pytest.mark.spec("issue 2", "7. Bad input")
@pytest.mark.parametrize("kind", ["mystery", "", None])
async def test_an_unknown_scope_type_is_an_error(kind: Any) -> None:
    """The server is told what is served and what came."""
    server = server_for()
    with pytest.raises(errors.ServerProtocolError, match=f"http, lifespan.*got {kind!r}"):
        await WSGIToASGI(must_not_run)({"type": kind}, server.receive, server.send)
    assert (server.receive_calls, server.sends) == (0, 0)


@pytest.mark.spec("behaviours.md", "WSGIToASGI: threads")
async def test_saturation_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """However many requests wait, the operator reads one sentence about it."""
    occupied = Occupied()

    async def crowd() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                await occupied.queue(server_for(path="/queued"), tasks)
            occupied.go_on.set()

    await occupied.during(crowd)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "threads" in warnings[0].getMessage()
    assert "max_threads" in warnings[0].getMessage()


@pytest.mark.spec("behaviours.md", "WSGIToASGI: threads")
async def test_an_adapter_of_its_own_takes_max_threads() -> None:
    """``max_threads`` is the size of the pool that the adapter makes, and is left aside with a shared one."""
    own = WSGIToASGI(hello, max_threads=3)
    await request(own)
    assert own.pool is not None
    assert own.pool.max_threads == 3
    shared = ThreadPool(2)
    assert WSGIToASGI(hello, pool=shared, max_threads=9).pool is shared
    assert shared.max_threads == 2
    end_pool(own)


@pytest.mark.spec("FR 28")
async def test_a_refused_head_request_has_no_body() -> None:
    """What the adapter answers by itself keeps to the rule for HEAD."""
    server = await request(WSGIToASGI(hello), "HEAD", headers=[(b"content-length", b"no")])
    assert server.status == 400
    assert server.body == b""


@pytest.mark.spec("PEP 3333", "Specification Details")
async def test_an_application_that_forgets_to_return_is_named() -> None:
    """None is no iterable: the error names the application, the mistake and the clause."""

    def forgetful(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [])

    with pytest.raises(
        errors.ApplicationProtocolError, match="forgetful returned a NoneType"
    ) as caught:
        await server_for().serve(WSGIToASGI(forgetful))
    assert caught.value.clause.startswith("PEP 3333")


def test_an_attribute_named_func_does_not_make_an_application_asynchronous() -> None:
    """Only functools.partial is looked through."""

    class App:
        async def func(self) -> None: ...

        def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
            return hello(environ, start_response)

    assert WSGIToASGI(App()).app is not None
