"""Portals: what all kinds of them promise to a thread that calls into the loop, and how a loop is wound up."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib.util
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import anyio
import pytest
import trio
from crossing_tools import PATIENCE_SECONDS, Running, soon

from bridges.crossing import portal as portal_module
from bridges.crossing.inline import InlinePortal
from bridges.crossing.portal import Portal, is_cancellation, start_task, wind_up
from bridges.crossing.threaded import THREAD_NAME, AsyncioPortal, TrioPortal
from bridges.errors import CrossingError


def _uvloop_portal() -> Portal:
    import uvloop

    return AsyncioPortal(uvloop.new_event_loop)


def _debug_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    return loop


KINDS = [
    pytest.param(lambda: AsyncioPortal(_debug_loop), id="asyncio"),
    pytest.param(TrioPortal, id="trio"),
    pytest.param(lambda: InlinePortal(_debug_loop), id="inline"),
]
if importlib.util.find_spec("uvloop"):
    KINDS.append(pytest.param(_uvloop_portal, id="uvloop"))


def end(portal: Portal) -> None:
    """End a portal; its thread is gone afterwards."""
    threads = [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
    portal.end()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


@pytest.fixture(params=KINDS)
def portal(request) -> Iterator[Portal]:
    """Open a portal of each kind, and end it after the test."""
    opened: Portal = request.param()
    opened.open()
    yield opened
    if not opened.closed:
        end(opened)


class Error(Exception):
    """What an application raises."""


# call.


def test_call_runs_the_work_on_the_loop_and_waits(portal):
    """The work is done, on the portal's loop, when the call returns."""
    seen: list[Any] = []

    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(portal.gate.runs_here())

    portal.call(work)
    assert seen == [True]
    assert not portal.gate.runs_here()


@pytest.mark.parametrize(
    "error", [Error, SystemExit, KeyboardInterrupt, GeneratorExit, RuntimeError, BaseException]
)
@pytest.mark.parametrize("late", [False, True])
def test_call_raises_what_the_work_raised(portal, error, late):
    """An exception of any kind is raised in the caller, the same object, and the loop goes on."""
    raised = error("from the loop")

    async def work() -> None:
        if late:
            await anyio.lowlevel.checkpoint()
        raise raised

    with pytest.raises(error) as caught:
        portal.call(work)
    assert caught.value is raised
    portal.call(anyio.lowlevel.checkpoint)


def test_work_that_cannot_be_begun(portal):
    """A work that fails before it is a coroutine raises in the caller."""

    def work() -> Any:
        raise Error

    with pytest.raises(Error):
        portal.call(work)


_who = contextvars.ContextVar("_who", default="nobody")


@pytest.mark.spec("FR 98")
def test_call_in_the_context_of_the_caller(portal):
    """The work sees the caller's variables; what it sets stays its own."""
    seen: list[str] = []

    async def work() -> None:
        seen.append(_who.get())
        _who.set("work")

    token = _who.set("caller")
    try:
        portal.call(work)
        assert (seen, _who.get()) == (["caller"], "caller")
    finally:
        _who.reset(token)


def test_calls_of_many_threads(portal):
    """Calls that are under way together are all answered, each with its own outcome."""
    count = 8
    arrived: list[int] = []

    def call(number: int) -> None:
        async def work() -> None:
            arrived.append(number)
            while len(arrived) < count:
                await anyio.lowlevel.checkpoint()
            if number % 2:
                raise Error(number)

        portal.call(work)

    threads = [Running(lambda number=number: call(number)) for number in range(count)]
    for number, thread in enumerate(threads):
        if number % 2:
            with pytest.raises(Error, match=str(number)):
                thread.result()
        else:
            thread.result()


def test_call_within_a_time(portal):
    """A caller that waits for a loop with other things to do is told after its time; the portal goes on."""
    released: list[anyio.Event] = []

    async def work() -> None:
        released.append(anyio.Event())
        await released[0].wait()

    async def release() -> None:
        while not released:
            await anyio.lowlevel.checkpoint()
        released[0].set()

    with pytest.raises(CrossingError, match=r"did not answer within 0\.01 seconds"):
        portal.call(work, 0.01)
    portal.call(release)


def test_call_with_time_to_spare(portal):
    """A time limit that is not reached changes nothing."""
    portal.call(anyio.lowlevel.checkpoint, PATIENCE_SECONDS)
    with pytest.raises(Error):
        portal.call(_fail, PATIENCE_SECONDS)


async def _fail() -> None:
    raise Error


# A caller that the loop would have to wait for.


@pytest.mark.spec("FR 80")
@pytest.mark.parametrize("error", [CrossingError, RuntimeError])
def test_call_from_the_loop_itself(portal, error):
    """A call from the loop's own thread is an error that says what to do, not a deadlock."""
    caught: list[BaseException] = []

    async def work() -> None:
        with pytest.raises(error, match="to_thread") as info:
            portal.call(anyio.lowlevel.checkpoint)
        caught.append(info.value)

    portal.call(work)
    assert len(caught) == 1


@pytest.mark.spec("FR 80")
def test_check_caller(portal):
    """The loop's own thread is refused, and no other one."""
    refused: list[bool] = []

    async def work() -> None:
        try:
            portal.check_caller()
        except CrossingError:
            refused.append(True)

    portal.call(work)
    portal.check_caller()
    Running(portal.check_caller).result()
    assert refused == [True]


@pytest.mark.spec("FR 80")
def test_call_from_a_worker_thread_of_the_loop(portal):
    """A thread that the loop's task awaits may call into the loop."""
    seen: list[str] = []

    async def inner() -> None:
        seen.append("inner")

    async def outer() -> None:
        await anyio.to_thread.run_sync(portal.call, inner)
        seen.append("outer")

    portal.call(outer)
    assert seen == ["inner", "outer"]


# A loop that ends.


def test_call_after_the_end(portal):
    """A portal that has ended refuses calls."""
    end(portal)
    with pytest.raises(CrossingError):
        portal.call(anyio.lowlevel.checkpoint)
    assert portal.closed


def test_end_cancels_work_that_a_caller_waits_for(portal):
    """A caller whose work is under way at the end is told so, and not by the loop's cancellation, as it is no task."""
    begun = threading.Event()
    finished: list[bool] = []

    async def work() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            finished.append(True)

    caller = Running(lambda: portal.call(work))
    soon(begun)
    end(portal)
    with pytest.raises(CrossingError, match="cancelled this"):
        caller.result()
    assert finished == [True]


class _ActsBeforeClosing(asyncio.SelectorEventLoop):
    """A loop that lets a test act when it has made its last turn and is not closed yet."""

    before_closing: Callable[[], object] = staticmethod(lambda: None)

    def close(self) -> None:
        if not self.is_closed():
            self.before_closing()
        super().close()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("kind", [AsyncioPortal, InlinePortal])
def test_call_that_comes_too_late_for_the_loop(kind):
    """A call that rings after the loop's last turn, before it is closed, is told that the loop has ended."""
    portal = kind(_ActsBeforeClosing)
    portal.open()
    rung = threading.Event()
    ring = portal.gate.ring
    callers: list[Running[None]] = []

    def ring_and_tell(callback: Callable[[], object]) -> None:
        try:
            ring(callback)
        finally:
            rung.set()

    def call_late() -> None:
        portal.gate.ring = ring_and_tell
        # Without a time limit it would hang here.
        callers.append(Running(lambda: portal.call(anyio.lowlevel.checkpoint, 0.5)))
        soon(rung)

    portal.gate.loop.before_closing = call_late
    end(portal)
    with pytest.raises(CrossingError) as caught:
        callers[0].result()
    gc.collect()
    assert "did not answer" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", [AsyncioPortal, InlinePortal])
def test_call_while_the_loop_is_wound_up(kind):
    """A call that rings while the last tasks are awaited is answered: served, called off, or refused."""
    portal = kind(None)
    portal.open()
    winding_up = threading.Event()
    arrived: list[asyncio.Event] = []

    async def last_task() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            arrived.append(asyncio.Event())
            winding_up.set()
            await arrived[0].wait()

    async def work() -> None:
        arrived[0].set()
        await anyio.sleep_forever()

    def call_late() -> str:
        soon(winding_up)
        try:
            portal.call(work, 0.5)
        except CrossingError as error:
            if not isinstance(error.__cause__, asyncio.CancelledError):  # else it was begun
                portal.gate.ring(lambda: arrived[0].set())
            return str(error)
        return "served"

    begin(portal, last_task)
    caller = Running(call_late)
    end(portal)
    assert "did not answer" not in caller.result()


def begin(portal: Portal, work: Callable[[], Any]) -> None:
    """Have a task run on the portal, and return once it has begun."""

    async def begin_it() -> None:
        portal.spawn(work, copy_context())
        for _ in range(3):
            await anyio.lowlevel.checkpoint()

    portal.call(begin_it)


# is_cancellation.


def test_what_is_a_cancellation():
    """The cancellations of asyncio and of trio are ones, nothing else is."""
    cancelled: list[BaseException] = []

    async def be_cancelled() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except BaseException as error:
                cancelled.append(error)
                raise

    trio.run(be_cancelled)
    assert is_cancellation(cancelled[0])
    assert is_cancellation(asyncio.CancelledError())
    for error in (Error(), SystemExit(), KeyboardInterrupt(), GeneratorExit(), BaseException()):
        assert not is_cancellation(error)


def test_what_is_a_cancellation_without_trio(monkeypatch):
    """Where trio was never imported, asyncio's cancellation is the only one."""
    monkeypatch.delitem(sys.modules, "trio")
    assert is_cancellation(asyncio.CancelledError())
    assert not is_cancellation(Error())


# start_task.


def in_loop(main: Callable[[], Any], loop: asyncio.AbstractEventLoop | None = None) -> Any:
    """Run one task on a loop that is closed afterwards, without the winding up of ``asyncio.run``."""
    loop = loop or asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def test_start_task_in_a_context():
    """The context given is the task's own: it sees what is in there, and sets its variables there."""
    context = contextvars.Context()
    context.run(_who.set, "given")
    seen: list[str] = []

    async def work() -> None:
        seen.append(_who.get())
        await asyncio.sleep(0)
        seen.append(_who.get())
        _who.set("set by the task")

    async def main() -> None:
        await start_task(asyncio.get_running_loop(), work, context)

    in_loop(main)
    assert seen == ["given", "given"]
    assert _who.get() == "nobody"
    if sys.version_info >= (3, 11):
        assert context[_who] == "set by the task"


def test_start_task_takes_the_first_step():
    """From Python 3.12 on a task has taken its first step when it is given; before, it takes it in the next turn."""
    steps: list[str] = []

    async def work() -> None:
        steps.append("first")
        await asyncio.sleep(0)

    async def main() -> None:
        task = start_task(asyncio.get_running_loop(), work, copy_context())
        assert steps == (["first"] if sys.version_info >= (3, 12) else [])
        await task

    in_loop(main)
    assert steps == ["first"]


# wind_up.


def test_wind_up_with_nothing_to_do():
    """A loop on which nothing is left is wound up at once."""
    in_loop(wind_up)


def test_wind_up_cancels_and_awaits():
    """Tasks that are left are cancelled, and have ended with all that their end takes."""
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.sleep(PATIENCE_SECONDS)
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async def main() -> None:
        tasks = [asyncio.create_task(work(name)) for name in ("one", "two")]
        await asyncio.sleep(0)
        await wind_up()
        assert all(task.cancelled() for task in tasks)

    in_loop(main)
    assert sorted(ended) == ["one", "two"]


def test_wind_up_of_tasks_that_fail():
    """A task that answers its cancellation with an exception keeps no other one from ending."""
    ended: list[str] = []

    async def fail() -> None:
        try:
            await asyncio.sleep(PATIENCE_SECONDS)
        except asyncio.CancelledError:
            raise Error from None

    async def work() -> None:
        try:
            await asyncio.sleep(PATIENCE_SECONDS)
        finally:
            ended.append("work")

    async def main() -> None:
        tasks = [asyncio.create_task(job()) for job in (fail, work)]
        await asyncio.sleep(0)
        await wind_up()
        assert isinstance(tasks[0].exception(), Error)

    in_loop(main)
    assert ended == ["work"]


def test_wind_up_leaves_a_task_that_ignores_it(caplog, monkeypatch):
    """A task that does not end when it is cancelled is left after a while, with an error that names it."""
    monkeypatch.setattr(portal_module, "LAST_TASKS_SECONDS", 0.01)

    async def stay_on() -> None:
        while not over:
            try:
                await asyncio.sleep(PATIENCE_SECONDS)
            except asyncio.CancelledError:
                pass

    over: list[bool] = []

    async def main() -> None:
        task = asyncio.create_task(stay_on())
        await asyncio.sleep(0)
        await wind_up()
        assert not task.done()
        over.append(True)
        task.cancel()
        await task

    in_loop(main)
    records = [(record.name, record.levelno) for record in caplog.records]
    assert records == [("bridges.adapters", logging.ERROR)]
    assert "stay_on" in caplog.text


def test_wind_up_ends_async_generators():
    """Asynchronous generators that nobody exhausted run their ends on the loop."""
    ended: list[bool] = []

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def main() -> None:
        generator = numbers()
        assert await anext(generator) == 1
        await wind_up()
        del generator

    in_loop(main)
    assert ended == [True]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_wind_up_cancels_what_the_cancelled_begin():
    """A task that a cancelled one begins on its way out is cancelled and awaited, too."""
    ended: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def second() -> None:
        try:
            await asyncio.sleep(PATIENCE_SECONDS)
        finally:
            ended.append("second")

    async def first() -> None:
        try:
            await asyncio.sleep(PATIENCE_SECONDS)
        finally:
            tasks.append(asyncio.create_task(second()))
            await asyncio.sleep(0)

    async def main() -> None:
        tasks.append(asyncio.create_task(first()))
        await asyncio.sleep(0)
        await wind_up()
        still_running = [task for task in tasks if not task.done()]
        for task in still_running:  # so that the test itself leaves none
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert still_running == []

    in_loop(main)
    assert ended == ["second"]


def test_wind_up_lets_tasks_begin():
    """A task that was created a moment before takes its first step, so that it can tell of its cancellation."""
    told: list[str] = []

    async def report() -> None:
        try:
            await asyncio.sleep(PATIENCE_SECONDS)
        finally:
            told.append("cancelled")

    async def main() -> None:
        task = asyncio.create_task(report())
        await wind_up()
        assert task.cancelled()

    in_loop(main)
    assert told == ["cancelled"]


# spawn, of all kinds.


@pytest.mark.spec("FR 98")
def test_spawn_in_a_context(portal):
    """The context given to spawn is the task's."""
    seen: list[str] = []
    context = contextvars.Context()
    context.run(_who.set, "given")

    async def work() -> None:
        seen.append(_who.get())
        await anyio.lowlevel.checkpoint()
        seen.append(_who.get())

    async def begin_it() -> None:
        portal.spawn(work, context)
        while len(seen) < 2:
            await anyio.lowlevel.checkpoint()

    portal.call(begin_it)
    assert seen == ["given", "given"]


def test_cancel_of_a_spawned_task(portal):
    """The handle of a task calls it off."""
    seen: list[str] = []

    async def work() -> None:
        seen.append("begun")
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("ended")

    async def main() -> None:
        handle = portal.spawn(work, copy_context())
        while not seen:
            await anyio.lowlevel.checkpoint()
        handle.cancel()
        while len(seen) < 2:
            await anyio.lowlevel.checkpoint()

    portal.call(main)
    assert seen == ["begun", "ended"]


def test_spawned_task_is_held(portal):
    """A task that nobody refers to, waiting for what nobody else refers to, is not garbage."""
    waiting: list[weakref.ref[Any]] = []
    ended: list[str] = []

    async def work() -> None:
        event = anyio.Event()
        waiting.append(weakref.ref(event))
        await event.wait()
        ended.append("ended")

    async def check() -> None:
        gc.collect()
        event = waiting[0]()
        assert event is not None, "the task is gone"
        event.set()
        while not ended:
            await anyio.lowlevel.checkpoint()

    begin(portal, work)
    portal.call(check)


def test_call_later(portal):
    """The loop calls back in its own thread, after the time."""
    seen: list[bool] = []

    async def main() -> None:
        portal.call_later(0.001, lambda: seen.append(portal.gate.runs_here()))
        assert seen == []
        while not seen:
            await anyio.sleep(0.001)

    portal.call(main)
    assert seen == [True]
