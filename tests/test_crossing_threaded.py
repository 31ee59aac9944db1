"""Portals with a thread of their own: how it starts, what cannot end it, and how it ends; on each event loop."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
from crossing_tools import PATIENCE_SECONDS, Running, soon

from bridges.crossing import portal as portal_module
from bridges.crossing import threaded
from bridges.crossing.threaded import THREAD_NAME, AsyncioPortal, ThreadedPortal, TrioPortal
from bridges.errors import CrossingError

Make = Callable[..., ThreadedPortal]


def portal_threads() -> list[threading.Thread]:
    """Give the threads of portals."""
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


@pytest.fixture
def opened() -> Iterator[Callable[[ThreadedPortal], ThreadedPortal]]:
    """Open portals that are ended after the test, which leaves no thread of any."""
    portals: list[ThreadedPortal] = []

    def open_it(portal: ThreadedPortal) -> ThreadedPortal:
        portals.append(portal)
        portal.open()
        return portal

    yield open_it
    for portal in portals:
        if portal.is_open and not portal._over:
            portal.end()
    for thread in portal_threads():
        thread.join(PATIENCE_SECONDS)
    assert portal_threads() == []


def uvloop_portal() -> ThreadedPortal:
    """Make a portal on uvloop."""
    import uvloop

    return AsyncioPortal(uvloop.new_event_loop)


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # 3.12
    return loop


ASYNCIO_KINDS = [pytest.param(lambda: AsyncioPortal(None), id="asyncio")]
if sys.version_info >= (3, 12):
    ASYNCIO_KINDS.append(pytest.param(lambda: AsyncioPortal(_eager_loop), id="asyncio+eager"))
if importlib.util.find_spec("uvloop"):
    ASYNCIO_KINDS.append(pytest.param(uvloop_portal, id="uvloop"))
KINDS = [*ASYNCIO_KINDS, pytest.param(TrioPortal, id="trio")]

each_asyncio = pytest.mark.parametrize("make", ASYNCIO_KINDS)
each = pytest.mark.parametrize("make", KINDS)


def goes_on(portal: ThreadedPortal) -> bool:
    """Whether the portal's loop still serves calls."""
    portal.call(anyio.lowlevel.checkpoint, 2)
    return portal.is_open and not portal.closed


def until(loop_has: Callable[[], object]) -> Callable[[], Any]:
    """Give work that waits until something has happened on its loop."""

    async def wait() -> None:
        while not loop_has():
            await anyio.sleep(0.001)

    return wait


class Error(Exception):
    """What an application raises."""


# The start.


@each
def test_nothing_starts_before_open(make):
    """A portal that is only made has no thread."""
    portal = make()
    assert (portal.is_open, portal.closed, portal_threads()) == (False, False, [])


@each
def test_open_starts_one_thread(make, opened):
    """The first open starts the thread, in which the loop runs; further ones find it open."""
    portal = opened(make())
    portal.open()
    assert portal.is_open
    seen: list[threading.Thread] = []

    async def work() -> None:
        seen.append(threading.current_thread())

    portal.call(work)
    assert portal_threads() == seen


@pytest.mark.spec("FR 74")
@pytest.mark.skipif(not importlib.util.find_spec("uvloop"), reason="needs uvloop")
def test_loop_factory(opened):
    """What ``loop_factory`` makes is what runs."""
    import uvloop

    portal = opened(uvloop_portal())
    seen: list[Any] = []

    async def work() -> None:
        seen.append(asyncio.get_running_loop())

    portal.call(work)
    assert isinstance(seen[0], uvloop.Loop)


@each
def test_open_by_many_at_once(make, opened):
    """Of many that open a portal at once one starts the thread, and all return when the loop runs."""
    portal = make()
    start = threading.Barrier(8)

    def open_it() -> bool:
        start.wait(PATIENCE_SECONDS)
        opened(portal)
        return portal.is_open

    assert [thread.result() for thread in [Running(open_it) for _ in range(8)]] == [True] * 8
    assert len(portal_threads()) == 1


def test_open_by_two_at_the_same_moment(monkeypatch, opened):
    """Two who both see that nobody has begun start one thread."""
    started: list[str] = []
    both = threading.Barrier(2)

    class Portal(AsyncioPortal):
        @property
        def _begun(self) -> bool:  # type: ignore[override]  # stands for an attribute
            begun: bool = self.__dict__.get("begun", False)
            if not begun:
                try:
                    both.wait(0.2)
                except threading.BrokenBarrierError:
                    pass  # the other one is kept from looking, as it should be
            return begun

        @_begun.setter
        def _begun(self, value: bool) -> None:
            self.__dict__["begun"] = value

    monkeypatch.setattr(threaded, "start_real_thread", lambda function, name: started.append(name))
    portal = Portal(None)
    portal._wait_at = lambda *args: True  # type: ignore[method-assign,assignment]  # nothing runs
    openers = [Running(portal.open) for _ in range(2)]
    for opener in openers:
        opener.result()
    assert started == [THREAD_NAME]


class HeldFactory:
    """A loop factory that goes on when told, once so many wait for its loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, make_loop: Callable[[], Any]) -> None:
        self.called = threading.Event()
        self.go = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.calls = 0
        self._make_loop = make_loop
        bell_here = threaded.bell_here

        def watched_bell_here() -> Any:
            self.waiting.release()
            return bell_here()

        monkeypatch.setattr(threaded, "bell_here", watched_bell_here)

    def __call__(self) -> Any:
        self.calls += 1
        self.called.set()
        soon(self.go)
        return self._make_loop()

    def until_waiting(self, count: int) -> None:
        for _ in range(count):
            assert self.waiting.acquire(timeout=PATIENCE_SECONDS)


def test_open_waits_for_whoever_called_first(monkeypatch, opened):
    """Who comes while the loop is being made waits for it, and makes none."""
    factory = HeldFactory(monkeypatch, asyncio.new_event_loop)
    portal = AsyncioPortal(factory)
    openers = [Running(lambda: opened(portal)) for _ in range(3)]
    factory.until_waiting(3)
    soon(factory.called)
    assert not portal.is_open
    factory.go.set()
    for opener in openers:
        assert opener.result().is_open
    assert factory.calls == 1


def test_factory_that_fails(monkeypatch):
    """What making the loop raises is raised to everybody who waits for it, and the thread ends."""

    def fail() -> Any:
        raise Error("no loop today")

    factory = HeldFactory(monkeypatch, fail)
    portal = AsyncioPortal(factory)
    openers = [Running(portal.open) for _ in range(3)]
    factory.until_waiting(3)
    factory.go.set()
    for opener in openers:
        with pytest.raises(Error, match="no loop today"):
            opener.result()
    with pytest.raises(Error):
        portal.open()
    assert (portal.is_open, portal.closed) == (False, True)
    for thread in portal_threads():
        thread.join(PATIENCE_SECONDS)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_factory_that_exits(error):
    """What would end a process is raised to the caller as well, not swallowed by the thread."""

    def fail() -> Any:
        raise error

    with pytest.raises(error):
        AsyncioPortal(fail).open()


def test_no_thread_can_be_started(monkeypatch):
    """Where no thread can be started, the one who tries and the one who waits for it are both told."""
    trying, fail = threading.Event(), threading.Event()

    def cannot_start(function: Any, name: str) -> None:
        trying.set()
        soon(fail)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threaded, "start_real_thread", cannot_start)
    portal = AsyncioPortal(None)
    first = Running(portal.open)
    soon(trying)
    waits = threading.Event()
    bell_here = threaded.bell_here

    def watched_bell_here() -> Any:
        waits.set()
        return bell_here()

    monkeypatch.setattr(threaded, "bell_here", watched_bell_here)
    second = Running(portal.open)
    soon(waits)
    fail.set()
    with pytest.raises(RuntimeError, match="can't start"):
        first.result()
    second.thread.join(0.5)
    hangs = second.thread.is_alive()
    portal._over = True  # so that the test leaves no thread
    portal._tell()
    assert not hangs
    with pytest.raises(RuntimeError, match="can't start"):
        second.result()


def _closed_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.close()
    return loop


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("make_loop", [lambda: None, lambda: "loop", object, _closed_loop])
def test_factory_that_gives_no_usable_loop(make_loop):
    """A factory that gives something else is an error of whoever opens, not a hang."""
    portal = AsyncioPortal(make_loop)
    with pytest.raises(Exception):  # noqa: B017  # what it is depends on what came
        portal.open()
    assert (portal.is_open, portal.closed) == (False, True)
    for thread in portal_threads():
        thread.join(PATIENCE_SECONDS)


def test_factory_that_gives_a_loop_which_runs_elsewhere(monkeypatch):
    """A factory that gives a loop of another thread is an error, not an endless log."""
    logged: list[str] = []
    portal: AsyncioPortal

    def error(*args: Any, **options: Any) -> None:
        logged.append(args[0])
        if len(logged) > 2:
            raise SystemError("it would go on for ever")  # ends the portal's thread

    async def elsewhere() -> None:
        nonlocal portal
        loop = asyncio.get_running_loop()
        portal = AsyncioPortal(lambda: loop)
        with pytest.raises(Exception):  # noqa: B017  # any but the one above
            await asyncio.to_thread(portal.open)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    monkeypatch.setattr(threaded._log, "error", error)
    close = asyncio.SelectorEventLoop.close
    monkeypatch.setattr(
        asyncio.SelectorEventLoop, "close", lambda loop: loop.is_running() or close(loop)
    )
    asyncio.run(elsewhere())
    for thread in portal_threads():
        thread.join(PATIENCE_SECONDS)
    assert logged == []


# Nothing that runs on the loop ends it.


@each_asyncio
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, Error])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_task_of_the_application_that_raises(make, error, opened, caplog):
    """A task that the application started itself does not end the loop; what would end a process is logged."""
    portal = opened(make())
    ended: list[Any] = []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise error("from a task")

    async def work() -> None:
        task = asyncio.create_task(fail())
        task.add_done_callback(lambda task: ended.append(task.exception()))

    portal.call(work)
    portal.call(until(lambda: ended))
    assert isinstance(ended[0], error)
    assert goes_on(portal)
    if error is not Error:
        logged = [(record.name, record.levelno) for record in caplog.records]
        assert logged == [("bridges.adapters", logging.ERROR)]
        assert f"{error.__name__}('from a task')" in caplog.text


@each_asyncio
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, Error])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_callback_of_the_application_that_raises(make, error, opened):
    """A callback of the loop that raises does not end it."""
    portal = opened(make())
    called: list[bool] = []

    def fail() -> None:
        called.append(True)
        raise error("from a callback")

    async def work() -> None:
        asyncio.get_running_loop().call_soon(fail)

    portal.call(work)
    portal.call(until(lambda: called))
    assert goes_on(portal)


@each_asyncio
def test_application_that_stops_the_loop(make, opened, caplog):
    """An application that stops the loop, which is not its own, is told of in the log; the loop goes on."""
    portal = opened(make())

    async def work() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)

    portal.call(work)
    assert goes_on(portal)
    logged = [(record.name, record.levelno) for record in caplog.records]
    assert logged == [("bridges.adapters", logging.ERROR)]
    assert "stopped the event loop" in caplog.text


@each_asyncio
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_task_that_raises_at_the_end(make, error, opened):
    """A task that answers its cancellation by exiting does not keep others from ending."""
    portal = opened(make())
    ended: list[str] = []

    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise error

    async def stay() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            ended.append("stay")

    tasks: list[Any] = []

    async def work() -> None:
        tasks.extend(asyncio.create_task(job()) for job in (fail, stay))
        await asyncio.sleep(0)

    portal.call(work)
    portal.end()
    assert ended == ["stay"]
    assert all(task.done() for task in tasks)
    assert isinstance(tasks[0].exception(), error)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("make", [*ASYNCIO_KINDS, pytest.param(TrioPortal, id="trio")])
@pytest.mark.parametrize("way", ["call_later", "ring"])
def test_callback_that_raises(make, way, opened, monkeypatch):
    """A callback given to the portal that raises does not end the loop."""
    portal = opened(make())
    called = threading.Event()

    def fail() -> None:
        called.set()
        raise Error

    async def work() -> None:
        portal.call_later(0, fail)

    if way == "ring":
        portal.gate.ring(fail)
    else:
        portal.call(work)
    soon(called)
    try:
        assert goes_on(portal)
    finally:
        monkeypatch.setattr(threaded, "LAST_TASKS_SECONDS", 0.2)
        portal.end()


@each_asyncio
def test_callback_that_raises_before_another_one(make, opened):
    """A ring that is answered together with one that raises is answered."""
    portal = opened(make())
    held, go, answered = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        soon(go)

    def fail() -> None:
        raise Error

    portal.gate.loop.call_soon_threadsafe(hold)
    soon(held)
    portal.gate.ring(fail)
    portal.gate.ring(answered.set)
    go.set()
    soon(answered)


def test_trio_run_that_crashes(opened, caplog):
    """A run that the application crashes is logged as critical; its portal is over, and says so to callers."""
    portal = opened(TrioPortal())

    async def crash() -> None:
        raise Error

    async def work() -> None:
        trio.lowlevel.spawn_system_task(crash)
        await trio.sleep_forever()

    with pytest.raises(CrossingError, match="cancelled this"):
        portal.call(work)
    for thread in portal_threads():
        thread.join(PATIENCE_SECONDS)
    assert portal.closed
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]
    assert "Error" in caplog.text
    with pytest.raises(CrossingError):
        portal.call(anyio.lowlevel.checkpoint)
    portal.end()  # returns at once


# The end.


@each
def test_end_ends_the_thread(make, opened):
    """The end waits until the loop has ended; its thread ends, too, and a second end changes nothing."""
    portal = opened(make())
    threads = portal_threads()
    portal.end()
    assert (portal.closed, len(threads)) == (True, 1)
    threads[0].join(PATIENCE_SECONDS)
    assert portal_threads() == []
    portal.end()


@each
def test_end_by_two_at_once(make, opened):
    """Two who end a portal at once both wait for its end."""
    portal = opened(make())
    start = threading.Barrier(2)

    def end_it() -> bool:
        start.wait(PATIENCE_SECONDS)
        portal.end()
        return portal._over

    assert [thread.result() for thread in [Running(end_it), Running(end_it)]] == [True, True]


@each
def test_end_cancels_what_is_left(make, opened):
    """Tasks that still run are cancelled, and have ended before the loop has."""
    portal = opened(make())
    ended: list[str] = []

    async def stay() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
            ended.append("stay")

    async def work() -> None:
        portal.spawn(stay, copy_context())
        await anyio.sleep(0)

    portal.call(work)
    portal.end()
    assert ended == ["stay"]


@each_asyncio
def test_end_leaves_a_task_that_ignores_it(make, opened, caplog, monkeypatch):
    """A task that ignores its cancellation is left after the limit, with an error; the thread ends all the same."""
    monkeypatch.setattr(portal_module, "LAST_TASKS_SECONDS", 0.01)
    portal = opened(make())
    tasks: list[Any] = []

    async def stay_on() -> None:
        while not tasks[0].over:
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                pass

    class Over:
        over = False

    tasks.append(Over)

    async def work() -> None:
        tasks.append(asyncio.create_task(stay_on()))
        await asyncio.sleep(0)

    portal.call(work)
    portal.end()
    assert "left a task that does not end" in caplog.text
    assert "stay_on" in caplog.text
    # What asyncio says of a task that is destroyed with its loop is not for this test.
    tasks[1]._log_destroy_pending = False
    Over.over = True
    caplog.clear()


@each
def test_end_does_not_wait_for_a_loop_that_is_blocked(make, opened, caplog, monkeypatch):
    """A loop that something blocks is left to it after a while, with an error."""
    monkeypatch.setattr(threaded, "LAST_TASKS_SECONDS", 0.01)
    portal = opened(make())
    blocked, go = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        soon(go)

    portal.gate.ring(block)
    soon(blocked)
    portal.end()
    assert "left the thread of an event loop" in caplog.text
    assert not portal._over
    go.set()
    for thread in portal_threads():
        thread.join(PATIENCE_SECONDS)
    assert portal._over


@each
def test_end_ends_async_generators(make, opened):
    """Asynchronous generators that nobody exhausted run their ends on the loop."""
    portal = opened(make())
    ended: list[bool] = []
    kept: list[Any] = []

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            ended.append(portal.gate.runs_here())

    async def work() -> None:
        kept.append(numbers())
        assert await anext(kept[0]) == 1

    portal.call(work)
    portal.end()
    assert ended == [True]


@each_asyncio
def test_end_closes_the_loop(make, opened):
    """The loop is closed at the end, and no loop is left to its thread."""
    portal = opened(make())
    loop = portal.gate.loop
    portal.end()
    assert loop.is_closed()


# anyio's worker threads.


@each_asyncio
def test_worker_threads_of_anyio_are_kept_for_the_next_task(make, opened):
    """A worker thread serves one task after another, and ends with the portal."""
    portal = opened(make())
    workers: list[threading.Thread] = []

    async def work() -> None:
        workers.append(await anyio.to_thread.run_sync(threading.current_thread))

    for _ in range(3):
        portal.call(work)
    assert len(set(workers)) == 1
    assert workers[0].is_alive()
    portal.end()
    workers[0].join(PATIENCE_SECONDS)
    assert not workers[0].is_alive()


@each_asyncio
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_worker_threads_of_anyio_after_the_loop_was_stopped(make, opened):
    """The same holds when the loop went on after something tried to end it."""
    portal = opened(make())
    workers: list[threading.Thread] = []

    async def stop() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)

    async def work() -> None:
        workers.append(await anyio.to_thread.run_sync(threading.current_thread))

    portal.call(work)
    portal.call(stop)
    portal.call(work)
    assert len(set(workers)) == 1
    portal.end()
    workers[0].join(PATIENCE_SECONDS)
    assert not workers[0].is_alive()


# What is rung too late for the loop.


class ActsBeforeClosing(asyncio.SelectorEventLoop):
    """A loop that lets a test act when it has made its last turn and is not closed yet."""

    before_closing: Callable[[], object] = staticmethod(lambda: None)

    def close(self) -> None:
        if not self.is_closed():
            self.before_closing()
        super().close()


def test_ring_after_the_last_turn(opened):
    """What is rung after the loop's last turn, and was no error to ring, is called, in the loop's thread."""
    portal = opened(AsyncioPortal(ActsBeforeClosing))
    seen: list[Any] = []
    threads = portal_threads()

    def ring() -> None:
        Running(lambda: portal.gate.ring(lambda: seen.append(threading.current_thread()))).result()
        assert seen == []

    portal.gate.loop.before_closing = ring
    portal.end()
    assert seen == threads
    with pytest.raises(CrossingError):
        portal.gate.ring(lambda: None)


def test_ring_after_the_last_turn_that_needs_the_loop(opened, caplog):
    """A callback that comes too late and fails for want of the loop keeps none behind it from being called."""
    portal = opened(AsyncioPortal(ActsBeforeClosing))
    loop = portal.gate.loop
    seen: list[str] = []

    def ring() -> None:
        portal.gate.ring(lambda: loop.call_soon(lambda: None))
        portal.gate.ring(lambda: seen.append("called"))

    loop.before_closing = ring
    with caplog.at_level(logging.DEBUG, "bridges.adapters"):
        portal.end()
    assert seen == ["called"]
    assert "too late" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_ring_after_the_last_turn_that_raises(opened, monkeypatch):
    """A callback that comes too late and raises does not keep the portal from being over."""
    monkeypatch.setattr(threaded, "LAST_TASKS_SECONDS", 0.2)
    portal = opened(AsyncioPortal(ActsBeforeClosing))
    portal.gate.loop.before_closing = lambda: portal.gate.ring(_fail)
    portal.end()
    over, portal._over = portal._over, True
    assert over


def _fail() -> None:
    raise Error


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_call_that_is_refused_as_the_trio_run_ends(opened, monkeypatch):
    """A caller that is refused because the run has just ended does not keep the portal from being over."""
    monkeypatch.setattr(threaded, "LAST_TASKS_SECONDS", 0.2)
    refused: list[bool] = []

    class Portal(TrioPortal):
        def _run(self) -> None:
            super()._run()
            caller = Running(lambda: self.call(anyio.lowlevel.checkpoint, 0.2))
            with pytest.raises(CrossingError):
                caller.result()
            refused.append(True)

    portal = opened(Portal())
    portal.end()
    assert refused == [True]
    over, portal._over = portal._over, True
    assert over


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@each
def test_call_from_many_threads_while_it_ends(make, opened, monkeypatch):
    """Callers that come as a portal ends are served, called off, or refused; none waits for ever."""
    monkeypatch.setattr(threaded, "LAST_TASKS_SECONDS", 0.2)
    portal = opened(make())
    start = threading.Barrier(5)

    def call_on() -> str:
        start.wait(PATIENCE_SECONDS)
        while True:
            try:
                portal.call(functools.partial(anyio.sleep, 0), 2)
            except CrossingError as error:
                return str(error)
            except BaseException:
                return "called off"

    callers = [Running(call_on) for _ in range(4)]
    start.wait(PATIENCE_SECONDS)
    portal.end()
    outcomes = [caller.result() for caller in callers]
    for thread in portal_threads():
        thread.join(PATIENCE_SECONDS)
    portal._over = True  # where its thread died, nobody need wait for it
    gc.collect()  # so that what was left behind is this test's
    assert [outcome for outcome in outcomes if "did not answer" in outcome] == []
