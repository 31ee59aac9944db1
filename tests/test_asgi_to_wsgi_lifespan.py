"""The application's lifespan under ``ASGIToWSGI``: before the first request, after the last, in all outcomes."""

from __future__ import annotations

import contextvars
import gc
import logging
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from wsgi_driver import (
    Adapt,
    FakeHost,
    InThread,
    answer,
    body,
    serve,
    start,
    until,
    wait,
)

from bridges import ASGIToWSGI, errors
from bridges.typing import Receive, Scope, Send

pytest_plugins = ["wsgi_driver"]

Step = Callable[[Scope, Receive, Send], Awaitable[None]]


class Living:
    """An application with a lifespan, which notes what happens."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.tasks: set[int] = set()
        self.before_startup: Callable[[], Awaitable[Any]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        self.notes.append("request")
        await answer(send, repr(sorted(scope["state"].items())).encode())
        scope["state"]["mine"] = True

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group():
            assert (await receive())["type"] == "lifespan.startup"
            self.tasks.add(anyio.get_current_task().id)
            if self.before_startup is not None:
                await self.before_startup()
            scope["state"]["pool"] = 1
            self.notes.append("startup")
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            self.tasks.add(anyio.get_current_task().id)
            self.notes.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})


def _loud(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def _app(live: Step) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(scope, receive, send)
        else:
            await answer(send, b"served")

    return app


@pytest.mark.spec("FR 83")
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_startup_comes_first_and_shutdown_last(
    adapt: Adapt, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The first request waits for the startup, ``close()`` for the shutdown; nothing is logged about it."""
    living = Living()
    adapter = adapt(living, lifespan=mode)
    serve(adapter)
    serve(adapter)
    adapter.close()
    assert living.notes == ["startup", "request", "request", "shutdown"]
    assert _loud(caplog) == []


@pytest.mark.spec("FR 84")
def test_startup_and_shutdown_are_one_task(adapt: Adapt) -> None:
    """A task group around the lifespan works, as both ends of it run in the same task."""
    living = Living()
    adapter = adapt(living)
    adapter.start()
    adapter.close()
    assert len(living.tasks) == 1


@pytest.mark.spec("FR 84")
def test_each_request_has_a_copy_of_the_state(adapt: Adapt) -> None:
    """What the startup put there is seen by each request, what a request puts there by no other."""
    adapter = adapt(Living())
    assert [serve(adapter).body for _ in range(3)] == [b"[('pool', 1)]"] * 3


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: constructor")
def test_off_does_not_ask(adapt: Adapt) -> None:
    """``lifespan="off"`` sends no lifespan scope; there is a state all the same."""
    living = Living()
    adapter = adapt(living, lifespan="off")
    assert serve(adapter).body == b"[]"
    adapter.close()
    assert living.notes == ["request"]


async def _raise_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("no lifespan here")


async def _return_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def _raise_in_startup(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise ValueError("in startup")


async def _return_in_startup(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


async def _say_failed(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "Traceback...\nno database"})


async def _say_failed_and_raise(scope: Scope, receive: Receive, send: Send) -> None:
    await _say_failed(scope, receive, send)
    raise ValueError("no database")


async def _say_failed_blankly(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "\n"})


async def _say_failed_without_a_word(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed"})


async def _say_failed_and_stay(scope: Scope, receive: Receive, send: Send) -> None:
    await _say_failed(scope, receive, send)
    await receive()


async def _exit(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise SystemExit(1)


@pytest.mark.spec("FR 85")
@pytest.mark.parametrize("live", [_raise_at_once, _return_at_once])
def test_auto_serves_who_refuses(
    adapt: Adapt, live: Step, caplog: pytest.LogCaptureFixture
) -> None:
    """An application without a lifespan, as Django, is served without a word in the log."""
    adapter = adapt(_app(live))
    assert serve(adapter).body == b"served"
    adapter.close()
    assert _loud(caplog) == []


@pytest.mark.spec("ASGI lifespan 2.0", "Scope")
@pytest.mark.parametrize("live", [_raise_in_startup, _exit])
def test_auto_serves_who_fails_with_a_traceback(
    adapt: Adapt, live: Step, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception in the startup is no refusal: the specification has it served, the log has the traceback."""
    adapter = adapt(_app(live))
    assert serve(adapter).body == b"served"
    (record,) = _loud(caplog)
    assert record.exc_info


@pytest.mark.spec("FR 83")
@pytest.mark.spec("FR 88")
@pytest.mark.parametrize(
    ("live", "mode", "reason"),
    [
        (_say_failed, "auto", "no database"),
        (_say_failed_and_raise, "auto", "no database"),
        (_say_failed_blankly, "auto", "did not start"),
        (_say_failed_without_a_word, "auto", "did not start"),
        (_say_failed_and_stay, "auto", "no database"),
        (_say_failed, "on", "no database"),
        (_raise_at_once, "on", "no lifespan here"),
        (_return_at_once, "on", "no part"),
        (_raise_in_startup, "on", "in startup"),
        (_return_in_startup, "on", "did not start"),
        (_exit, "on", "SystemExit"),
    ],
)
def test_a_failed_startup_fails_every_request(
    adapt: Adapt, live: Step, mode: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each request, and ``start()``, raises ``LifespanFailed``; the log has it once, with the traceback if any."""
    adapter = adapt(_app(live), lifespan=mode)
    for _ in range(2):
        with pytest.raises(errors.LifespanFailed, match=reason):
            serve(adapter)
    with pytest.raises(errors.LifespanFailed, match=reason):
        adapter.start()
    (record,) = _loud(caplog)
    assert record.levelno == logging.ERROR
    assert bool(record.exc_info and record.exc_info[0]) == (
        live in (_say_failed_and_raise, _raise_at_once, _raise_in_startup, _exit)
    )


@pytest.mark.spec("FR 83")
def test_a_startup_that_takes_too_long(adapt: Adapt, caplog: pytest.LogCaptureFixture) -> None:
    """After ``startup_seconds`` it is cancelled, and every request fails."""
    cancelled = threading.Event()

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    adapter = adapt(_app(live), startup_seconds=0)
    with pytest.raises(errors.LifespanFailed, match="within 0 seconds"):
        serve(adapter)
    assert cancelled.is_set()
    assert len(_loud(caplog)) == 1


@pytest.mark.spec("FR 83")
def test_requests_that_come_during_the_startup_wait(adapt_asyncio: Adapt) -> None:
    """Of several first requests none is served before the startup is complete, which runs once."""
    living = Living()
    starting, go_on = threading.Event(), threading.Event()

    async def before_startup() -> None:
        starting.set()
        await until(go_on)

    living.before_startup = before_startup
    adapter = adapt_asyncio(living)
    threads = [InThread(lambda: serve(adapter)) for _ in range(5)]
    wait(starting)
    assert living.notes == []
    go_on.set()
    assert {thread.result().status for thread in threads} == {200}
    assert living.notes == ["startup"] + ["request"] * 5


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: constructor")
def test_start_and_close_may_be_repeated(adapt: Adapt) -> None:
    """Each is done once; ``close()`` before a start does nothing."""
    living = Living()
    adapter = adapt(living)
    adapter.close()
    adapter.start()
    adapter.start()
    adapter.close()
    adapter.close()
    assert living.notes == ["startup", "shutdown"]


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: constructor")
def test_a_request_after_close_starts_anew(adapt: Adapt) -> None:
    """``close()`` is no end for ever."""
    living = Living()
    adapter = adapt(living)
    for _ in range(2):
        serve(adapter)
        adapter.close()
    assert living.notes == ["startup", "request", "shutdown"] * 2


@pytest.mark.spec("FR 73")
def test_the_collector_ends_a_forgotten_adapter() -> None:
    """An adapter that is freed ends its lifespan and, as the last one, the thread."""
    living = Living()
    adapter = ASGIToWSGI(living)
    serve(adapter)
    portals = [thread for thread in threading.enumerate() if thread.name == "bridges-portal"]
    del adapter
    gc.collect()
    for thread in portals:
        thread.join(15)
        assert not thread.is_alive()
    assert living.notes == ["startup", "request", "shutdown"]


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: constructor")
def test_closing_one_adapter_leaves_the_others(adapt: Adapt) -> None:
    """They share a loop and nothing else."""
    first, second = Living(), Living()
    one, two = adapt(first), adapt(second)
    serve(one)
    serve(two)
    one.close()
    serve(two)
    assert first.notes == ["startup", "request", "shutdown"]
    assert second.notes == ["startup", "request", "request"]


@pytest.mark.spec("FR 83")
def test_close_waits_for_requests_under_way(adapt_asyncio: Adapt) -> None:
    """A response that streams is drained before the shutdown."""
    living = Living()
    draining = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await living(scope, receive, send)
            return
        await send(start())
        await send(body(b"one", more=True))
        await until(draining)
        await send(body(b"two"))
        living.notes.append("response")

    adapter = adapt_asyncio(app)
    host = FakeHost().call(adapter)
    closing = InThread(adapter.close)
    draining.set()
    assert host.rest().close().body == b"onetwo"
    closing.result()
    assert living.notes == ["startup", "response", "shutdown"]


@pytest.mark.spec("FR 83")
def test_a_request_that_does_not_end_is_called_off(
    adapt_asyncio: Adapt, caplog: pytest.LogCaptureFixture
) -> None:
    """Past its share of the shutdown time the host gets an error instead of the rest."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send(start())
            await send(body(b"one", more=True))
            await anyio.sleep_forever()

    adapter = adapt_asyncio(app, shutdown_seconds=0.1)
    host = FakeHost().call(adapter)
    adapter.close()
    with pytest.raises(errors.ApplicationError, match="called off"):
        host.rest()
    host.close()
    assert "1 tasks" in caplog.text


@pytest.mark.spec("FR 83")
@pytest.mark.parametrize("how", ["raises", "says so", "hangs"])
def test_a_failed_shutdown_is_logged(
    adapt: Adapt, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """``close()`` returns all the same, and in time."""

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if how == "raises":
            raise LookupError("at the end")
        if how == "hangs":
            await anyio.sleep_forever()
        await send({"type": "lifespan.shutdown.failed", "message": "at the end"})

    adapter = adapt(_app(live), shutdown_seconds=0.1)
    serve(adapter)
    adapter.close()
    (record,) = _loud(caplog)
    assert "in time" in record.getMessage() if how == "hangs" else "at the end" in caplog.text


@pytest.mark.spec("FR 83")
def test_an_application_that_waits_for_more_after_its_shutdown(
    adapt: Adapt, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop over ``receive()`` that nobody leaves, as in many tutorials, costs no waiting at the end."""
    asked: list[str] = []

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            asked.append(message["type"])
            await send({"type": message["type"] + ".complete"})

    adapter = adapt(_app(live), shutdown_seconds=1)
    serve(adapter)
    adapter.close()
    assert asked == ["lifespan.startup", "lifespan.shutdown"]
    assert _loud(caplog) == []


@pytest.mark.spec("FR 83")
def test_a_lifespan_that_ends_early_is_logged(
    adapt: Adapt, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that fails after the startup has a traceback in the log; requests go on."""

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise LookupError("died in the middle")

    adapter = adapt(_app(live))
    assert [serve(adapter).body for _ in range(2)] == [b"served"] * 2
    adapter.close()
    (record,) = _loud(caplog)
    assert record.exc_info


@pytest.mark.spec("ASGI lifespan 2.0", "Startup Complete")
@pytest.mark.parametrize(
    "wrong", ["lifespan.startup.complete", "lifespan.shutdown.complete", "http.response.start"]
)
def test_messages_out_of_order_are_refused_in_send(adapt: Adapt, wrong: str) -> None:
    """A second startup, a shutdown that nobody asked for, and foreign messages are errors of the application."""
    raised: list[BaseException] = []

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await send({"type": wrong})
        except errors.ApplicationProtocolError as error:
            raised.append(error)

    adapter = adapt(_app(live))
    serve(adapter)
    adapter.close()
    assert len(raised) == 1


@pytest.mark.spec("FR 98")
def test_the_lifespan_does_not_run_in_the_context_of_a_request(adapt: Adapt) -> None:
    """Variables of the request that happens to be first are not seen by what lives longer than it."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(variable.get())
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()

    adapter = adapt(_app(live))
    variable.set("first request")
    serve(adapter)
    assert seen == ["unset"]


@pytest.mark.spec("FR 80")
def test_close_on_the_loop_is_refused_and_changes_nothing(adapt_asyncio: Adapt) -> None:
    """The loop cannot wait for its own end; a later ``close()`` from elsewhere still finds the lifespan."""
    raised: list[str] = []

    living = Living()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for method in (adapter.close, adapter.start):
                try:
                    method()
                except RuntimeError as error:
                    raised.append(type(error).__name__)
        await living(scope, receive, send)

    adapter = adapt_asyncio(app)
    serve(adapter)
    serve(adapter)
    adapter.close()
    assert raised == ["CrossingError"] * 4
    assert living.notes == ["startup", "request", "request", "shutdown"]


_AT_EXIT = """
import asyncio, sys, threading
from bridges import ASGIToWSGI

def say(word):
    sys.stdout.write(word + "\\n")  # at once, as print does not

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await asyncio.to_thread(int)  # Python 3.12 starts no thread once it exits
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(say, "shutdown")  # executors still take work
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"x"})
    await asyncio.sleep(0)
    say("background")

adapter = ASGIToWSGI(app, backend=sys.argv[1])
environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/", "SERVER_NAME": "x", "SERVER_PORT": "80",
           "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http"}
say(repr(list(adapter(environ, lambda *arguments: None))))
"""


@pytest.mark.slow
@pytest.mark.spec("FR 78")
@pytest.mark.spec("FR 83")
@pytest.mark.parametrize("name", ["asyncio", "inline"])
def test_the_interpreters_exit_ends_the_lifespan(name: str) -> None:
    """At exit background work is drained, the shutdown runs, and no word is said on standard error."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", _AT_EXIT, name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    words = run.stdout.split()
    assert sorted(words) == ["[b'x']", "background", "shutdown"]
    assert words[-1] == "shutdown"


def test_on_demand_of_a_whole_lifespan(adapt: Adapt) -> None:
    """``"on"`` serves who takes part, as ``"auto"`` does."""
    assert serve(adapt(Living(), lifespan="on")).status == 200
