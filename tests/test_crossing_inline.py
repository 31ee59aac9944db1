"""The portal without a thread: who drives the loop, for how long, and who takes over."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import types
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import anyio
import anyio.to_thread
import pytest
from crossing_tools import PATIENCE_SECONDS, Running, soon

from bridges.crossing import inline
from bridges.crossing import portal as portal_module
from bridges.crossing.bells import ThreadBell
from bridges.crossing.inline import InlineBell, InlinePortal
from bridges.errors import CrossingError


@pytest.fixture
def make() -> Iterator[Callable[..., InlinePortal]]:
    """Make open portals, which are ended after the test; no thread and no helm is left."""
    threads = set(threading.enumerate())
    portals: list[InlinePortal] = []

    def make_it(loop_factory: Any = None) -> InlinePortal:
        portal = InlinePortal(loop_factory)
        portal.open()
        portals.append(portal)
        return portal

    yield make_it
    for portal in portals:
        if not portal.closed:
            portal.end()
        assert not portal.helm.locked()
        assert portal.waiting == []
        assert portal.gate.loop.is_closed()
    for thread in set(threading.enumerate()) - threads:
        thread.join(PATIENCE_SECONDS)
    assert set(threading.enumerate()) <= threads


@pytest.fixture
def portal(make) -> InlinePortal:
    """Make one portal."""
    made: InlinePortal = make()
    return made


class Held:
    """Work that begins, tells so, and ends when told, from any thread."""

    def __init__(self, portal: InlinePortal) -> None:
        self._portal = portal
        self.begun = threading.Event()
        self.thread: threading.Thread | None = None
        self._events: list[asyncio.Event] = []

    async def __call__(self) -> None:
        self._events.append(asyncio.Event())
        self.begun.set()
        await self._events[0].wait()
        self.thread = threading.current_thread()

    def release(self) -> None:
        """Let it end; the loop needs somebody who drives it."""
        self._portal.gate.ring(self._events[0].set)


def until_nudge_is_awaited(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Give a semaphore that is released whenever a thread is about to wait for one that drives."""
    awaited = threading.Semaphore(0)

    class Nudge(ThreadBell):
        def wait(self, seconds: float | None = None) -> bool:
            awaited.release()
            return super().wait(seconds)

    monkeypatch.setattr(inline, "ThreadBell", Nudge)
    return awaited


def acquired(semaphore: threading.Semaphore) -> bool:
    """Wait for a semaphore that is bound to be released."""
    return semaphore.acquire(timeout=PATIENCE_SECONDS)


class Error(Exception):
    """What an application raises."""


# No thread.


@pytest.mark.spec("FR 77")
def test_the_loop_runs_in_the_thread_that_waits(portal):
    """Work runs in the thread that calls, and no thread is started."""
    before = set(threading.enumerate())
    seen: list[threading.Thread] = []

    async def work() -> None:
        await asyncio.sleep(0.001)
        seen.append(threading.current_thread())

    portal.call(work)
    assert seen == [threading.current_thread()]
    assert set(threading.enumerate()) <= before
    caller = Running(lambda: portal.call(work))
    caller.result()
    assert seen[1] is caller.thread


@pytest.mark.spec("FR 77")
def test_the_loop_stands_still_while_nobody_waits(portal):
    """What is left on the loop goes on with the next call, in whichever thread that is."""
    steps: list[threading.Thread] = []

    async def left_behind() -> None:
        for _ in range(2):
            await asyncio.sleep(0)
            steps.append(threading.current_thread())

    async def begin() -> None:
        portal.spawn(left_behind, copy_context())

    async def wait() -> None:
        while len(steps) < 2:
            await asyncio.sleep(0)

    portal.call(begin)
    before = len(steps)
    assert before < 2
    caller = Running(lambda: portal.call(wait))
    caller.result()
    assert set(steps[before:]) == {caller.thread}


def test_context_of_spawn(portal):
    """A task runs in the context given to it, not in that of the thread that happens to drive."""
    variable = contextvars.ContextVar("variable", default="nobody's")
    context = contextvars.Context()
    context.run(variable.set, "given")
    seen: list[str] = []

    async def work() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            seen.append(variable.get())

    async def begin() -> None:
        portal.spawn(work, context)

    async def wait() -> None:
        while len(seen) < 3:
            await asyncio.sleep(0)

    token = variable.set("the caller's")
    try:
        portal.call(begin)
        portal.call(wait)
    finally:
        variable.reset(token)
    assert seen == ["given"] * 3


# Opening.


def test_open_by_many_at_once():
    """Of many that open it at once one makes the loop."""
    made: list[Any] = []

    def factory() -> asyncio.AbstractEventLoop:
        made.append(asyncio.new_event_loop())
        return made[-1]

    portal = InlinePortal(factory)
    start = threading.Barrier(4)

    def open_it() -> bool:
        start.wait(PATIENCE_SECONDS)
        portal.open()
        return portal.is_open

    assert [opener.result() for opener in [Running(open_it) for _ in range(4)]] == [True] * 4
    portal.end()
    assert len(made) == 1


def test_factory_that_fails():
    """What making the loop raises is raised; the next open tries again."""
    outcomes: list[Any] = [Error("no loop today"), asyncio.new_event_loop]

    def factory() -> asyncio.AbstractEventLoop:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Error):
            raise outcome
        loop: asyncio.AbstractEventLoop = outcome()
        return loop

    portal = InlinePortal(factory)
    with pytest.raises(Error, match="no loop today"):
        portal.open()
    assert not portal.is_open
    portal.open()
    assert portal.is_open
    portal.end()


@pytest.mark.parametrize("made", [None, "loop", object()])
def test_factory_that_gives_something_else(made):
    """A factory that gives no loop is an error of whoever opens, and leaves the portal free for the next one."""
    portal = InlinePortal(lambda: made)
    for _ in range(2):
        with pytest.raises(Exception):  # noqa: B017  # what it is depends on what came
            portal.open()
        assert not portal.is_open


# A thread that runs a loop already.


@pytest.mark.spec("FR 80")
@pytest.mark.parametrize("error", [CrossingError, RuntimeError])
def test_thread_that_runs_another_loop(portal, error):
    """A thread that is running a loop cannot drive another one: it is told so, and what to do."""

    async def main() -> None:
        with pytest.raises(error, match=r"asyncio\.to_thread"):
            portal.check_caller()
        with pytest.raises(error, match="running one already"):
            portal.call(anyio.lowlevel.checkpoint)
        with pytest.raises(error, match="running one already"):
            InlinePortal(None).open()
        await asyncio.to_thread(portal.call, anyio.lowlevel.checkpoint)

    asyncio.run(main())


@pytest.mark.spec("FR 80")
def test_nested_call_in_the_same_thread(portal):
    """A call from a task of the loop is refused, and the outer call goes on."""
    seen: list[str] = []

    async def work() -> None:
        with pytest.raises(CrossingError, match="would wait for itself"):
            portal.call(anyio.lowlevel.checkpoint)
        seen.append("refused")

    portal.call(work)
    assert seen == ["refused"]


@pytest.mark.spec("FR 80")
def test_nested_call_by_a_worker_thread(portal):
    """A call from a thread that a task awaits is served by the thread that drives already."""
    seen: list[Any] = []

    async def inner() -> None:
        seen.append(threading.current_thread())

    async def outer() -> None:
        await asyncio.to_thread(portal.call, inner)
        seen.append(threading.current_thread())

    portal.call(outer)
    assert seen == [threading.current_thread()] * 2


# One drives for all.


def test_one_waiter_drives_for_all(portal):
    """While one thread drives, others wait for their work, which it does for them."""
    first = Held(portal)
    driver = Running(lambda: portal.call(first))
    soon(first.begun)
    seen: list[threading.Thread] = []

    async def work() -> None:
        seen.append(threading.current_thread())

    others = [Running(lambda: portal.call(work)) for _ in range(3)]
    for other in others:
        other.result()
    assert seen == [driver.thread] * 3
    first.release()
    driver.result()


def test_another_waiter_takes_over(portal, monkeypatch):
    """When the thread that drives has what it waited for, one of those that wait drives on."""
    awaited = until_nudge_is_awaited(monkeypatch)
    works = [Held(portal), Held(portal)]
    first = Running(lambda: portal.call(works[0]))
    soon(works[0].begun)
    second = Running(lambda: portal.call(works[1]))
    soon(works[1].begun)
    assert acquired(awaited)
    works[0].release()
    first.result()
    works[1].release()
    second.result()
    assert [work.thread for work in works] == [first.thread, second.thread]


def test_hand_over_through_many(portal, monkeypatch):
    """However many wait, each drives at last or is served: none is forgotten."""
    count = 6
    awaited = until_nudge_is_awaited(monkeypatch)
    works = [Held(portal) for _ in range(count)]
    callers = []
    for number, work in enumerate(works):
        callers.append(Running(lambda work=work: portal.call(work)))
        soon(work.begun)
        if number:
            assert acquired(awaited)
    for work, caller in zip(works, callers, strict=True):
        work.release()
        caller.result()


def test_waiter_who_is_served_leaves_the_driver_alone(portal):
    """The ring of a waiter that does not drive does not end the driving."""
    first = Held(portal)
    driver = Running(lambda: portal.call(first))
    soon(first.begun)
    Running(lambda: portal.call(anyio.lowlevel.checkpoint)).result()
    assert driver.thread.is_alive()
    assert portal.helm.locked()
    first.release()
    driver.result()


def test_driver_leaves_between_the_try_at_the_helm_and_the_wait(portal, monkeypatch):
    """A waiter that found the helm taken, and whose driver leaves before it waits, takes the helm all the same."""
    works = [Held(portal), Held(portal)]
    first = Running(lambda: portal.call(works[0]))
    soon(works[0].begun)
    before_wait, go_on = threading.Event(), threading.Event()

    class Nudge(ThreadBell):
        def wait(self, seconds: float | None = None) -> bool:
            before_wait.set()
            soon(go_on)
            return super().wait(seconds)

    monkeypatch.setattr(inline, "ThreadBell", Nudge)
    second = Running(lambda: portal.call(works[1]))
    soon(before_wait)
    works[0].release()
    first.result()
    go_on.set()
    works[1].release()
    second.result()
    assert works[1].thread is second.thread


def test_bell_is_rung_before_the_driving_begins(portal):
    """A ring from another thread that comes after the look at the bell and before the loop runs ends the driving."""
    bell = portal.bell()
    assert isinstance(bell, InlineBell)
    run_forever = portal.gate.loop.run_forever

    def ring_first() -> None:
        Running(bell.ring).result()
        run_forever()

    portal.gate.loop.run_forever = ring_first
    try:
        assert bell.wait() is True
    finally:
        del portal.gate.loop.run_forever


def test_ring_before_the_wait(portal):
    """A ring that comes before the wait lets it pass, once."""
    bell = portal.bell()
    bell.ring()
    bell.ring()
    assert bell.wait() is True
    assert bell.wait(0) is False


def test_ring_from_another_thread_ends_the_driving(portal):
    """A thread that rings the bell of the one that drives ends its wait."""
    bell = portal.bell()
    driving = threading.Event()
    portal.gate.ring(driving.set)
    driver = Running(bell.wait)
    soon(driving)
    bell.ring()
    assert driver.result() is True


def test_ring_on_the_loop_ends_the_driving(portal):
    """A ring by a task ends the wait of the thread that drives."""
    bell = portal.bell()
    portal.gate.ring(bell.ring)
    assert bell.wait() is True


# Driving for a time.


def test_drive_within_a_time(portal):
    """A wait in vain drives the loop for its time, then gives up; the next one is not cut short by the first."""
    bell = portal.bell()
    assert bell.wait(0.01) is False
    portal.gate.ring(bell.ring)
    assert bell.wait(PATIENCE_SECONDS) is True


def test_drive_within_no_time(portal):
    """A wait of no time at all returns at once."""
    assert portal.bell().wait(0) is False


def test_time_that_is_up_while_another_one_drives(portal):
    """A waiter that does not drive gives up after its time."""
    first = Held(portal)
    driver = Running(lambda: portal.call(first))
    soon(first.begun)
    assert portal.bell().wait(0.01) is False
    first.release()
    driver.result()


def test_nudge_while_waiting_for_a_time(portal):
    """A waiter with a time limit that is nudged in vain goes on waiting."""
    first = Held(portal)
    driver = Running(lambda: portal.call(first))
    soon(first.begun)
    bell = portal.bell()
    waiter = Running(lambda: bell.wait(PATIENCE_SECONDS))
    while bell not in portal.waiting:
        pass
    bell.nudge()
    bell.ring()
    assert waiter.result() is True
    first.release()
    driver.result()


def test_timer_of_the_drive_is_taken_off(portal):
    """A drive that ended before its time leaves no timer on the loop."""
    bell = portal.bell()
    portal.gate.ring(bell.ring)
    assert bell.wait(PATIENCE_SECONDS) is True
    assert [handle for handle in portal.gate.loop._scheduled if not handle.cancelled()] == []


def test_timer_that_fires_a_moment_early(make, monkeypatch):
    """A loop whose clock runs a moment before the other does not drive on without a timer."""
    portal = make()
    loop = portal.gate.loop
    runs: list[float] = []
    run_forever, clock = loop.run_forever, [0.0]

    def watched() -> None:
        runs.append(clock[0])
        if len(runs) > 1:
            loop.call_later(0.2, loop.stop)  # or the test would hang
            loop.call_later(0.1, runs.append, "no timer")
        run_forever()
        clock[0] = 1.0

    def monotonic() -> float:
        # Until the timer has fired, the time is not quite up.
        return clock[0] if len(runs) > 1 else 0.0

    monkeypatch.setattr(inline, "time", types.SimpleNamespace(monotonic=monotonic))
    loop.run_forever = watched
    try:
        assert portal.bell().wait(0.01) is False
    finally:
        del loop.run_forever
    assert "no timer" not in runs


# Nothing that runs on the loop ends it.


@pytest.mark.parametrize("error", [SystemExit, Error])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_task_that_raises(portal, error, caplog):
    """A task of the application that raises ends neither the loop nor the wait of the thread that drives."""
    ended: list[Any] = []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise error("from a task")

    async def work() -> None:
        task = asyncio.create_task(fail())
        task.add_done_callback(lambda task: ended.append(task.exception()))
        while not ended:
            await asyncio.sleep(0)

    portal.call(work)
    assert isinstance(ended[0], error)
    if error is SystemExit:
        logged = [(record.name, record.levelno) for record in caplog.records]
        assert logged == [("bridges.adapters", logging.ERROR)]
    portal.call(anyio.lowlevel.checkpoint)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupt_reaches_the_thread_that_drives(portal):
    """Control-C is for the thread that drives, which is the host's: its wait ends; the helm is free, the loop lives."""
    tasks: list[Any] = []

    async def interrupted() -> None:
        raise KeyboardInterrupt

    async def work() -> None:
        tasks.append(asyncio.create_task(interrupted()))
        await anyio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        portal.call(work)
    assert not portal.helm.locked()
    assert portal.waiting == []
    assert isinstance(tasks[0].exception(), KeyboardInterrupt)
    portal.call(anyio.lowlevel.checkpoint)


def test_application_that_stops_the_loop(portal):
    """An application that stops the loop does not end a wait."""

    async def work() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.001)

    portal.call(work)
    portal.call(anyio.lowlevel.checkpoint)


# The end.


def test_end_cancels_what_is_left(portal):
    """Tasks that still run are cancelled and awaited, asynchronous generators ended, and the loop is closed."""
    ended: list[str] = []
    kept: list[Any] = []

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            ended.append("generator")

    async def stay() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await asyncio.sleep(0)
            ended.append("task")

    async def work() -> None:
        kept.append(numbers())
        assert await anext(kept[0]) == 1
        portal.spawn(stay, copy_context())
        await asyncio.sleep(0)

    portal.call(work)
    portal.end()
    assert ended == ["task", "generator"]
    assert portal.closed
    with pytest.raises(CrossingError):
        portal.call(anyio.lowlevel.checkpoint)


def test_end_leaves_a_task_that_ignores_it(portal, caplog, monkeypatch):
    """A task that ignores its cancellation is left after the limit, with an error."""
    monkeypatch.setattr(portal_module, "LAST_TASKS_SECONDS", 0.01)
    tasks: list[Any] = []

    async def stay_on() -> None:
        while True:
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                pass

    async def work() -> None:
        tasks.append(asyncio.create_task(stay_on()))
        await asyncio.sleep(0)

    portal.call(work)
    portal.end()
    assert "left a task that does not end" in caplog.text
    # What asyncio says of a task that is destroyed with its loop is not for this test.
    tasks[0]._log_destroy_pending = False
    tasks[0].get_coro().close()


def test_end_while_another_thread_drives(portal):
    """An end by another thread is carried out by the one that drives, whose own work is called off."""
    first = Held(portal)

    driver = Running(lambda: portal.call(first))
    soon(first.begun)
    portal.end()
    with pytest.raises(CrossingError, match="cancelled this"):
        driver.result()
    assert portal.gate.loop.is_closed()


def test_ring_while_the_loop_is_closed(make):
    """A bell that is rung while its loop is being closed does not fail the one who rings."""
    portal = make()
    bell = portal.bell()
    portal.end()
    with portal.helm:  # as ``end`` holds it
        bell.ring()
