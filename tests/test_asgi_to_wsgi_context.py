"""Threads and context variables under ``ASGIToWSGI``: where sync code runs, what it sees, what it leaves."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading

import anyio
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from wsgi_driver import (
    EVENT_SECONDS,
    Adapt,
    FakeHost,
    InThread,
    answer,
    app_of,
    body,
    serve,
    start,
    until,
    wait,
)

from bridges.typing import Environ, Receive, Scope, Send, StartResponse, WSGIApplication

pytest_plugins = ["wsgi_driver"]

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(params=["asyncio", "uvloop", "inline"])
def backend(request: pytest.FixtureRequest) -> str:
    """Run a test on each loop that asgiref knows."""
    return str(request.param)


@pytest.mark.spec("FR 98")
def test_the_context_of_the_host_is_seen(adapt: Adapt) -> None:
    """A variable that WSGI middleware set is seen by the application, by its tasks and by its sync code."""
    seen: list[str] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def note() -> None:
            seen.append(variable.get())

        seen.append(variable.get())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(note)
        seen.append(await sync_to_async(variable.get)())
        seen.append(await sync_to_async(variable.get, thread_sensitive=False)())
        await answer(send)

    def middleware(inner: WSGIApplication) -> WSGIApplication:
        def outer(environ: Environ, start_response: StartResponse) -> object:
            variable.set(environ["PATH_INFO"])
            return inner(environ, start_response)

        return outer  # type: ignore[return-value]

    wrapped = middleware(adapt(app))
    for path in ("/a", "/b"):
        contextvars.copy_context().run(serve, wrapped, "GET", path)
    assert seen == ["/a"] * 4 + ["/b"] * 4


@pytest.mark.spec("FR 98")
def test_changes_do_not_leak(adapt: Adapt) -> None:
    """What an application sets is seen neither by the host nor by the next request."""
    seen: list[str] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(variable.get())
        variable.set("inside")
        await sync_to_async(variable.set)("in sync code")
        await answer(send)

    def run() -> None:
        variable.set("host")
        adapter = adapt(app)
        serve(adapter)
        seen.append(variable.get())
        serve(adapter)

    contextvars.copy_context().run(run)
    assert seen == ["host", "host", "host"]


@pytest.mark.spec("FR 98")
def test_a_thread_without_a_context(adapt: Adapt) -> None:
    """A fresh thread starts empty, whatever the thread that started the loop had."""
    seen: list[str] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(variable.get())
        await answer(send)

    adapter = adapt(app)

    def first() -> None:
        variable.set("first")
        serve(adapter)

    contextvars.copy_context().run(first)
    InThread(lambda: serve(adapter)).result()
    assert seen == ["first", "unset"]


@pytest.fixture
def desks(backend: str) -> None:
    if backend == "inline":
        pytest.skip("the request's thread drives the loop, which sync code may call back")


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: sync code")
@pytest.mark.parametrize("backend", ["inline"])
def test_thread_sensitive_code_under_inline(adapt: Adapt, backend: str) -> None:
    """Where the request's thread drives the loop, all requests share one other thread for sync code."""
    threads: list[int] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        threads.append(await sync_to_async(threading.get_ident)())
        await answer(send)

    adapter = adapt(app)
    InThread(lambda: serve(adapter)).result()
    serve(adapter)
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: sync code")
def test_thread_sensitive_code_runs_in_the_requests_thread(adapt: Adapt, desks: None) -> None:
    """Before the head, between chunks and in child tasks, sync code has the host's own thread."""
    threads: list[int] = []

    async def note() -> None:
        threads.append(await sync_to_async(threading.get_ident)())

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await note()
        await send(start())
        await send(body(b"x", more=True))
        await note()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(note)
        await send(body(b"y"))

    adapter = adapt(app)

    def request() -> int:
        serve(adapter)
        return threading.get_ident()

    ident = InThread(request).result()
    assert threads == [ident] * 3


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: sync code")
def test_requests_do_not_serialise(adapt: Adapt, desks: None) -> None:
    """Two requests are in their sync code at the same time, each in its own thread."""
    meeting = threading.Barrier(2)

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await sync_to_async(meeting.wait)(EVENT_SECONDS)
        await answer(send, b"met")

    adapter = adapt(app)
    threads = [InThread(lambda: serve(adapter)) for _ in range(2)]
    assert [thread.result().body for thread in threads] == [b"met"] * 2


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: sync code")
def test_a_job_that_blocks_holds_up_no_other_request(adapt: Adapt) -> None:
    """The loop goes on while a request's thread is busy."""
    busy, go_on = threading.Event(), threading.Event()

    def block() -> None:
        busy.set()
        wait(go_on)

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/block":
            await sync_to_async(block)()
        await answer(send, b"done")

    adapter = adapt(app)
    blocked = InThread(lambda: serve(adapter, path="/block"))
    wait(busy)
    assert serve(adapter).body == b"done"
    go_on.set()
    assert blocked.result().body == b"done"


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: sync code")
@pytest.mark.parametrize("streams", [False, True])
def test_code_after_the_response_still_has_the_thread(
    adapt: Adapt, desks: None, streams: bool
) -> None:
    """Django closes its response, and its connections, after the last message: still in the same thread."""
    threads: list[int] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        threads.append(await sync_to_async(threading.get_ident)())
        await send(start())
        if streams:
            await send(body(b"x", more=True))
        await send(body(b"y"))
        for _ in range(3):
            threads.append(await sync_to_async(threading.get_ident)())

    serve(adapt(app))
    assert threads == [threading.get_ident()] * 4


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: sync code")
def test_code_after_the_thread_has_left(adapt: Adapt, backend: str) -> None:
    """Work that comes later runs in another thread, tasks that outlive the call included."""
    threads: list[int] = []
    left, over = threading.Event(), threading.Event()
    tasks: set[object] = set()

    async def later() -> None:
        await until(left)
        threads.append(await sync_to_async(threading.get_ident)())
        over.set()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            tasks.add(asyncio.ensure_future(later()))
        else:
            await until(over)
        await answer(send)

    adapter = adapt(app)
    serve(adapter)
    left.set()
    serve(adapter, path="/wait")
    assert threads != [threading.get_ident()]
    assert len(threads) == 1


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: sync code")
def test_what_sync_code_raises(adapt: Adapt) -> None:
    """Its exception is raised where it was awaited, even one that would end a thread."""
    caught: list[type[BaseException]] = []

    def fail(kind: type[BaseException]) -> None:
        raise kind

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for kind in (LookupError, SystemExit):
            try:
                await sync_to_async(fail)(kind)
            except BaseException as error:
                caught.append(type(error))
        await answer(send)

    serve(adapt(app))
    assert caught == [LookupError, SystemExit]


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: sync code")
def test_sync_code_while_the_host_rests(adapt: Adapt, desks: None) -> None:
    """It waits for the host to come back for the next chunk; closing early runs it in that thread, too."""
    threads: list[int] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", more=True))
        threads.append(await sync_to_async(threading.get_ident)())
        await send(body(b"y", more=True))
        threads.append(await sync_to_async(threading.get_ident)())
        await send(body())

    adapter = adapt(app)
    host = FakeHost().call(adapter)
    assert host.next() == b"x"
    assert host.next() == b"y"
    host.close()
    adapter.close()
    assert threads == [threading.get_ident()] * 2


@pytest.mark.spec("FR 97")
def test_async_to_sync_inside_sync_code(adapt: Adapt, backend: str) -> None:
    """Sync code calls back into the loop, and from there sync code again, without a deadlock."""
    steps: list[object] = []

    async def inner() -> None:
        steps.append(asyncio.get_running_loop())
        steps.append(await sync_to_async(threading.get_ident)())

    def sync() -> None:
        async_to_sync(inner)()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        steps.append(asyncio.get_running_loop())
        await sync_to_async(sync)()
        await answer(send)

    serve(adapt(app))
    assert steps[0] is steps[1]
    assert (steps[2] == threading.get_ident()) == (backend != "inline")


@pytest.mark.spec("FR 97")
def test_other_loops_in_sync_code(adapt_asyncio: Adapt) -> None:
    """``asyncio.run`` in the request's thread works: no loop is running there."""

    async def compute() -> int:
        await asyncio.sleep(0)
        return 42

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        number = await sync_to_async(lambda: asyncio.run(compute()))()
        await answer(send, b"%d" % number)

    assert serve(adapt_asyncio(app)).body == b"42"


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: sync code")
def test_a_cancelled_job_does_not_run(adapt_asyncio: Adapt) -> None:
    """A job whose caller gave up before the thread came to it is not run."""
    ran: list[int] = []
    given_up = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await sync_to_async(ran.append)(1)
        await send(start())
        await send(body(b"x", more=True))
        job = asyncio.ensure_future(sync_to_async(ran.append)(2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        job.cancel()
        await asyncio.wait([job])
        given_up.set()
        await send(body())

    host = FakeHost().call(adapt_asyncio(app))
    host.next()
    wait(given_up)
    host.rest().close()
    assert ran == [1]


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: sync code")
def test_a_request_that_lingers_has_a_limit(
    adapt_asyncio: Adapt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that ran sync code stays for more of it, but not for a background task without an end."""
    import bridges.asgi.pump as pump_module

    monkeypatch.setattr(pump_module, "_LINGER_SECONDS", 0.01)
    go_on = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await sync_to_async(int)()
        await answer(send)
        await until(go_on)

    adapter = adapt_asyncio(app)
    assert serve(adapter).complete
    go_on.set()
    adapter.close()


_DJANGO = """
import sys, threading, types
from django.conf import settings

settings.configure(ROOT_URLCONF="urls", ALLOWED_HOSTS=["*"], MIDDLEWARE=[], SECRET_KEY="x")

import django
from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_finished
from django.http import HttpResponse
from django.urls import path
from bridges import ASGIToWSGI

threads = []

def view(request):
    threads.append(threading.get_ident())
    return HttpResponse("from django", content_type="text/plain")

def finished(**arguments):
    threads.append(threading.get_ident())

sys.modules["urls"] = types.ModuleType("urls")
sys.modules["urls"].urlpatterns = [path("page", view)]
django.setup()
request_finished.connect(finished)
environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/page", "SERVER_NAME": "x", "SERVER_PORT": "80",
           "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http"}
response = ASGIToWSGI(ASGIHandler())(environ, lambda *arguments: None)
print(b"".join(response).decode())
response.close()
print(threads == [threading.get_ident()] * 2)
"""


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: sync code")
@pytest.mark.slow
def test_django_keeps_to_one_thread() -> None:
    """A sync view and the closing of its response run in the request's thread."""
    pytest.importorskip("django")
    run = subprocess.run(
        [sys.executable, "-c", _DJANGO], capture_output=True, text=True, check=False
    )
    assert (run.stdout.splitlines(), run.stderr) == (["from django", "True"], "")
