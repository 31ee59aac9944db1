"""Context variables, and calls back into the loop, under ``WSGIToASGI``."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.from_thread
import pytest
import sniffio
from apps.plain import hello
from asgiref.sync import async_to_sync, sync_to_async
from driver import EVENT_SECONDS, end_pool, request, server_for

from bridges import WSGIToASGI
from bridges.typing import Environ, Receive, Scope, Send, StartResponse

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Noting:
    """An application that notes the variable in the call, the iteration and close, and changes it on the way."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def app(self, environ: Environ, start_response: StartResponse) -> Noting:
        self.notes.append(variable.get())
        variable.set("call")
        start_response("200 OK", [])
        return self

    def __iter__(self) -> Iterator[bytes]:
        self.notes.append(variable.get())
        variable.set("iteration")
        yield b"1"
        self.notes.append(variable.get())
        yield b"2"

    def close(self) -> None:
        self.notes.append(variable.get())


@pytest.mark.spec("FR 98")
async def test_the_context_of_the_task_covers_call_iteration_and_close() -> None:
    """A middleware's variable is seen everywhere, and the application's own changes stay for its later steps."""
    noting = Noting()
    variable.set("middleware")
    await request(WSGIToASGI(noting.app))
    assert noting.notes == ["middleware", "call", "iteration", "iteration"]


@pytest.mark.spec("FR 99")
async def test_changes_of_the_application_stay_in_its_context() -> None:
    """The outer code keeps its own values, as behaviours.md decides."""
    variable.set("outer")
    await request(WSGIToASGI(Noting().app))
    assert variable.get() == "outer"


@pytest.mark.spec("behaviours.md", "WSGIToASGI: context")
async def test_no_variable_leaks_into_the_next_request_of_the_thread() -> None:
    """Requests of one thread begin with their own task's context, whatever the one before did."""
    adapter_notes: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        adapter_notes.append(variable.get())
        variable.set(environ["PATH_INFO"])
        return hello(environ, start_response)

    adapter = WSGIToASGI(app, max_threads=1)
    for path in ("/a", "/b", "/c"):
        await request(adapter, path=path)
    assert adapter_notes == ["unset"] * 3
    end_pool(adapter)


@pytest.mark.spec("FR 98")
async def test_requests_at_the_same_time_have_contexts_of_their_own() -> None:
    """A variable set in one request is not seen by another that runs beside it."""
    meeting = threading.Barrier(4)
    seen: dict[str, str] = {}

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        variable.set(environ["PATH_INFO"])
        meeting.wait(EVENT_SECONDS)
        seen[environ["PATH_INFO"]] = variable.get()
        return hello(environ, start_response)

    adapter = WSGIToASGI(app, max_threads=4)
    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(request, adapter, "GET", f"/{number}")
    assert seen == {f"/{number}": f"/{number}" for number in range(4)}
    end_pool(adapter)


async def where_am_i() -> tuple[int, str]:
    await anyio.sleep(0)
    return threading.get_ident(), sniffio.current_async_library()


@pytest.mark.spec("FR 97")
@pytest.mark.parametrize("lazily", [False, True])
async def test_from_thread_run_reaches_the_servers_loop(lazily: bool) -> None:
    """``anyio.from_thread.run`` and ``run_sync`` in the application run on the loop that serves it."""
    seen: list[Any] = []

    def ask() -> None:
        seen.append(anyio.from_thread.run(where_am_i))
        seen.append(anyio.from_thread.run_sync(threading.get_ident))

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes] | list[bytes]:
        start_response("200 OK", [])
        if lazily:
            return iter(lambda: ask() or b"", b"")
        ask()
        return [b"asked"]

    adapter = WSGIToASGI(app, max_threads=1)
    for _ in range(2):
        await request(adapter)
    here = (threading.get_ident(), sniffio.current_async_library())
    assert seen == [here, threading.get_ident()] * 2
    end_pool(adapter)


@pytest.mark.spec("FR 97")
async def test_async_to_sync_reaches_the_servers_loop() -> None:
    """``async_to_sync`` runs on the serving loop where that is asyncio, and works in any case."""
    seen: list[Any] = []

    async def probe() -> Any:
        return await where_am_i()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(async_to_sync(probe)())
        return hello(environ, start_response)

    await request(WSGIToASGI(app))
    library = sniffio.current_async_library()
    assert seen[0][1] == "asyncio"
    assert (seen[0][0] == threading.get_ident()) == (library == "asyncio")


@pytest.mark.spec("FR 97")
async def test_sync_to_async_inside_async_to_sync_comes_back_to_the_thread() -> None:
    """Thread-sensitive code called from an async view runs in the request's own thread, without a deadlock."""
    seen: list[int] = []

    async def view() -> None:
        seen.append(await sync_to_async(threading.get_ident, thread_sensitive=True)())

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(threading.get_ident())
        async_to_sync(view)()
        return hello(environ, start_response)

    await request(WSGIToASGI(app))
    assert seen[0] == seen[1]


@pytest.mark.spec("FR 97")
async def test_asyncio_run_inside_the_application() -> None:
    """An application may run a loop of its own in its thread."""
    seen: list[int] = []

    async def probe() -> int:
        return threading.get_ident()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(asyncio.run(probe()))
        seen.append(threading.get_ident())
        return hello(environ, start_response)

    await request(WSGIToASGI(app))
    assert seen[0] == seen[1] != threading.get_ident()


@pytest.mark.spec("FR 97")
async def test_an_error_of_a_call_back_arrives_in_the_application() -> None:
    """What the coroutine raises is raised by the call, and may be caught there."""
    caught: list[str] = []

    async def broken() -> None:
        raise LookupError("on the loop")

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            anyio.from_thread.run(broken)
        except LookupError as error:
            caught.append(str(error))
        return hello(environ, start_response)

    assert (await request(WSGIToASGI(app))).body == b"hello"
    assert caught == ["on the loop"]


@pytest.mark.spec("FR 97")
async def test_an_application_calls_another_application_on_the_loop() -> None:
    """A request made from inside a request, over the loop, finds its own thread."""
    inner = WSGIToASGI(hello, max_threads=1)

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        answer = anyio.from_thread.run(request, inner)
        start_response("200 OK", [])
        return [b"<" + answer.body + b">"]

    outer = WSGIToASGI(app, max_threads=1)
    assert (await request(outer)).body == b"<hello>"
    end_pool(inner)
    end_pool(outer)


@dataclass
class Span:
    name: str
    parent: Span | None
    ended: bool = False


@pytest.mark.spec("FR 100")
async def test_one_tree_of_spans() -> None:
    """A WSGI tracer inside an ASGI tracer has it as parent; its span lasts until ``close()``."""
    current: contextvars.ContextVar[Span | None] = contextvars.ContextVar("span", default=None)
    spans: list[Span] = []

    def begin(name: str) -> Span:
        span = Span(name, current.get())
        spans.append(span)
        current.set(span)
        return span

    class Traced:
        def __init__(self, span: Span) -> None:
            self.span = span
            self.during: list[bool] = []

        def __iter__(self) -> Iterator[bytes]:
            for _ in range(3):
                self.during.append(current.get() is self.span and not self.span.ended)
                yield b"x"

        def close(self) -> None:
            self.span.ended = True

    traced: list[Traced] = []

    def app(environ: Environ, start_response: StartResponse) -> Traced:
        start_response("200 OK", [])
        traced.append(Traced(begin("wsgi")))
        return traced[-1]

    adapter = WSGIToASGI(app)

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        span = begin("asgi")
        await adapter(scope, receive, send)
        span.ended = True

    await request(outer)
    assert [span.name for span in spans] == ["asgi", "wsgi"]
    assert spans[1].parent is spans[0]
    assert all(span.ended for span in spans)
    assert traced[0].during == [True] * 3


@pytest.mark.spec("FR 100")
def test_the_application_is_reachable_through_the_adapter() -> None:
    """Tracers find the wrapped application as ``app`` and ``__wrapped__``, and frameworks the ASGI signature."""
    adapter = WSGIToASGI(hello)
    assert adapter.app is hello
    assert adapter.__wrapped__ is hello
    assert list(inspect.signature(adapter).parameters) == ["scope", "receive", "send"]


class Marker:
    """Something in the environ whose end can be seen."""


@pytest.mark.spec("style.md", "10. Errors: drops its own frame reference")
@pytest.mark.parametrize("outcome", ["answer", "raise", "raise late", "leave", "refuse"])
async def test_a_request_leaves_nothing_for_the_garbage_collector(outcome: str) -> None:
    """What a request held is let go when it is over, by reference counts alone, even when it failed."""
    markers: list[weakref.ref[Marker]] = []

    def app(environ: Environ, start_response: StartResponse) -> Any:
        marker = environ["test.marker"] = Marker()
        markers.append(weakref.ref(marker))
        del marker
        if outcome == "raise":
            raise ValueError
        start_response("200 OK", [])
        return [b"fine"] if outcome in ("answer", "refuse") else stream()

    def stream() -> Iterator[bytes]:
        yield b"x"
        if outcome == "raise late":
            raise ValueError
        while True:
            yield b"x" * 1000

    async def on_send(number: int, message: Any) -> None:
        if outcome == "leave" and number == 3:
            raise OSError
        await anyio.sleep(0)

    adapter = WSGIToASGI(app, max_threads=1, buffer_bytes=2000)
    gc.collect()
    gc.disable()
    try:
        body = [b"x" * 10] if outcome == "refuse" else None
        try:
            await server_for(body=body, on_send=on_send).serve(adapter)
        except (ValueError, OSError) as error:
            assert outcome not in ("answer", "refuse")
            error.__traceback__ = None
        await request(WSGIToASGI(hello, pool=adapter.pool))  # the thread is free again
        assert [marker() for marker in markers] == [None]
    finally:
        gc.enable()
    end_pool(adapter)
