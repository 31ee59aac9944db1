"""``bridges.asgi.lifespan`` by itself: its state, its messages, and what interleavings make of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from bridges import errors
from bridges.asgi.lifespan import Lifespan
from bridges.typing import Receive, Scope, Send

Live = Callable[[Scope, Receive, Send], Awaitable[None]]


def _lifespan(live: Live, mode: Any = "auto", startup_seconds: float = 1000) -> Lifespan:
    return Lifespan(live, "the app", mode, startup_seconds)


async def _whole(scope: Scope, receive: Receive, send: Send) -> None:
    assert await receive() == {"type": "lifespan.startup"}
    scope["state"]["key"] = "value"
    await send({"type": "lifespan.startup.complete"})
    assert await receive() == {"type": "lifespan.shutdown"}
    await send({"type": "lifespan.shutdown.complete"})


async def test_a_whole_lifespan() -> None:
    """It is ready once started, has the application's state, and has ended once stopped."""
    lifespan = _lifespan(_whole)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lifespan.run)
        assert not lifespan.ready
        await lifespan.started()
        assert lifespan.ready
        assert lifespan.state == {"key": "value"}
        assert not lifespan.ended
        await lifespan.stop(1000)
        assert lifespan.ended
        await lifespan.stop(1000)


async def test_the_scope() -> None:
    """The scope is as the specification has it, and its state is the lifespan's own."""
    scopes: list[Scope] = []

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    lifespan = _lifespan(live)
    await lifespan.run()
    (scope,) = scopes
    assert scope["type"] == "lifespan"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
    assert scope["state"] is lifespan.state


async def test_off() -> None:
    """Without a lifespan there is nothing to wait for, neither at the start nor at the end."""
    lifespan = _lifespan(_whole, "off")
    assert lifespan.ready
    await lifespan.started()
    await lifespan.stop(1000)


async def test_all_waiters_hear_of_a_failure() -> None:
    """Whoever waits for the startup, before or after its failure, gets an error of his own."""
    go_on = anyio.Event()
    caught: list[errors.LifespanFailed] = []

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await go_on.wait()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async def wait() -> None:
        with pytest.raises(
            errors.LifespanFailed, match="the app did not start: no database"
        ) as info:
            await lifespan.started()
        caught.append(info.value)

    lifespan = _lifespan(live)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lifespan.run)
        for _ in range(3):
            tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    await wait()
    assert len({id(error) for error in caught}) == 4


@pytest.mark.parametrize("message", ["", " ", "\n\n", None])
async def test_a_failure_without_words(message: str | None) -> None:
    """A reason of nothing but white space fails the startup as any other."""

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": message})

    lifespan = _lifespan(live)
    await lifespan.run()
    with pytest.raises(errors.LifespanFailed):
        await lifespan.started()


async def test_a_stop_during_the_startup() -> None:
    """An application that is still starting gets the shutdown right behind its startup."""
    go_on = anyio.Event()

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await go_on.wait()
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"

    lifespan = _lifespan(live)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lifespan.run)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(lifespan.stop, 1000)
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    assert lifespan.ended


async def test_a_stop_during_the_startup_keeps_its_limit() -> None:
    """A startup that completes while it is stopped does not lift the limit of the shutdown."""
    go_on = anyio.Event()

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await go_on.wait()
        await send({"type": "lifespan.startup.complete"})
        await anyio.sleep_forever()

    lifespan = _lifespan(live)
    ended = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lifespan.run)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(lifespan.stop, 0.1)
        await anyio.wait_all_tasks_blocked()
        go_on.set()
        with anyio.move_on_after(1):
            await lifespan._over.wait()
            ended = True
        tasks.cancel_scope.cancel()
    assert ended


async def test_a_shutdown_without_an_end_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """``stop`` returns in time, and says so in the log."""
    cleaned: list[int] = []

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
            await anyio.sleep_forever()
        finally:
            cleaned.append(1)

    lifespan = _lifespan(live)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lifespan.run)
        await lifespan.started()
        await lifespan.stop(0)
    assert cleaned == [1]
    assert "in time" in caplog.text


@pytest.mark.parametrize("mode", ["auto", "on"])
async def test_a_lifespan_that_is_cancelled_from_outside(mode: str) -> None:
    """The end of the loop calls it off: it has ended then, and nobody waits for ever."""

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await anyio.sleep_forever()

    lifespan = _lifespan(live, mode)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lifespan.run)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert lifespan.ended
    await lifespan.stop(1000)


async def test_a_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """However many wait, the log has one record, with the traceback."""

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise LookupError("why")

    lifespan = _lifespan(live, "on")
    await lifespan.run()
    for _ in range(3):
        with pytest.raises(errors.LifespanFailed, match="why"):
            await lifespan.started()
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.exc_info
