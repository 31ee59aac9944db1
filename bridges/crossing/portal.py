"""A portal: an event loop that threads reach, and what all of its kinds have in common.

``threaded`` and ``inline`` are the kinds, ``registry`` shares one of each among all who enter.

Guarantees:

- Nothing that runs on the loop ends it: not an exception, not ``SystemExit``.
- Tenants say farewell on the loop; then what is left on it is cancelled and awaited before it is closed.
- A caller that the loop would have to wait for gets an error, not a deadlock.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Final, Protocol, TypeAlias

import anyio

from ..errors import CrossingError
from .bells import Bell
from .gates import Gate
from .watches import LoopWatch, TaskWatch, Watch

_log = logging.getLogger("bridges.adapters")

LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]
Work: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

LAST_TASKS_SECONDS: Final = 5.0
"""How long tasks that are cancelled at the loop's end may take."""


class Handle(Protocol):
    """Work that runs on a portal's loop, or will."""

    def cancel(self) -> object:
        """Call it off; on the loop."""


class Portal(ABC):
    """An event loop that threads reach.

    Attributes:
        gate: the door into its loop.
        is_open: True once its loop runs, or may be driven.
        closed: True once it has ended, or where it belongs to the process that this one was forked from.
        tenants: what each of those who entered wants done on the loop before it ends, and how many seconds that may
            take.
        said: the farewells that are being said; on the loop.
        at_end: methods to call in the loop's thread when the loop has ended, whatever ended it.
    """

    gate: Gate

    def __init__(self) -> None:
        self.is_open = False
        self.closed = False
        self.tenants: dict[Work, float] = {}
        self.said: dict[Work, anyio.Event] = {}
        self.at_end: list[weakref.WeakMethod[Callable[[], object]]] = []
        self._over = False
        self._waiting: list[Bell] = []

    @abstractmethod
    def open(self) -> None:
        """Start the loop, or wait until whoever called first has; from a thread.

        Raises:
            BaseException: what making the loop raised.
            RuntimeError: no thread can be started.
        """

    @abstractmethod
    def bell(self) -> Bell:
        """Make a bell for the calling thread."""

    @abstractmethod
    def spawn(self, work: Work, context: Context) -> Handle:
        """Start a task, at once where the loop can; on the loop. The work lets no exception out.

        Raises:
            CrossingError: the loop has ended, or does so now.
        """

    @abstractmethod
    def call_later(self, seconds: float, callback: Callable[[], object]) -> Handle:
        """Have the loop call ``callback`` after some seconds; on the loop."""

    def watch(
        self,
        descriptor: int,
        on_readable: Callable[[], object],
        on_writable: Callable[[], object],
    ) -> Watch:
        """Give what calls back when a socket can be read or written; on the loop.

        Args:
            descriptor: of the socket, open until the watch is closed.
            on_readable: called on the loop.
            on_writable: likewise.
        """
        return TaskWatch(self.spawn, descriptor, on_readable, on_writable)

    @abstractmethod
    def end(self) -> None:
        """Cancel what still runs and end the loop; from any other thread, which waits for it."""

    def check_caller(self) -> None:
        """Refuse a caller that the loop would have to wait for.

        Raises:
            CrossingError: this thread runs the loop.
        """
        if self.gate.runs_here():
            raise CrossingError(
                "the event loop would wait for itself: await the ASGI application where async code runs, or call the"
                " WSGI one from another thread (asyncio.to_thread)"
            )

    def call(self, work: Work, seconds: float | None = None) -> None:
        """Run work on the loop and wait for it; from any other thread.

        Args:
            work: what to run.
            seconds: how long to wait at most.

        Raises:
            BaseException: what the work raised.
            CrossingError: called on the loop, the loop has ended or cancelled the work, or it did not answer in time.
        """
        self.check_caller()
        bell = self.bell()
        outcome: list[BaseException | None] = []

        async def report() -> None:
            failure: BaseException | None = None
            try:
                await work()
            except BaseException as error:
                failure = error
                if is_cancellation(error):
                    raise
            finally:
                outcome.append(failure)
                bell.ring()

        context = copy_context()

        def begin() -> None:
            try:
                self.spawn(report, context)
            except BaseException as error:  # whoever waits has to learn of it
                outcome.append(error)
                bell.ring()

        self.gate.ring(begin)
        if not self._wait_at(bell, lambda: bool(outcome) or self._over, seconds):
            raise CrossingError(f"the event loop did not answer within {seconds:g} seconds")
        failure = outcome.pop() if outcome else CrossingError("the event loop has ended")
        if failure is not None and is_cancellation(failure):
            # To the caller's thread, which is no task, that would mean nothing.
            raise CrossingError("the event loop cancelled this, as it does at its end") from failure
        if failure is not None:
            raise failure

    def _wait_at(
        self, bell: Bell, condition: Callable[[], bool], seconds: float | None = None
    ) -> bool:
        """Wait until a condition holds, which is looked at when the bell is rung and when the portal is over."""
        if seconds is not None and seconds > threading.TIMEOUT_MAX:
            seconds = None
        self._waiting.append(
            bell
        )  # before the look at the condition: `_tell` comes after its change
        try:
            while not condition():
                if not bell.wait(seconds):
                    return False
            return True
        finally:
            self._waiting.remove(bell)

    def _tell(self) -> None:
        for bell in tuple(self._waiting):
            bell.ring()

    def _end_for_all(self) -> None:
        """Tell everybody who still waits that the loop has ended; in its thread."""
        self._over = True
        for lose in [method() for method in self.at_end]:
            if lose is not None:
                lose()
        self._tell()


class OnAsyncio(Portal):
    """What is the same whoever runs the asyncio loop: a thread of its own, or its callers."""

    _loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        super().__init__()
        self._tasks: set[Handle] = set()
        self._wound_up = False

    def spawn(self, work: Work, context: Context) -> Handle:
        """Start a task."""
        if self._wound_up:
            raise CrossingError("the event loop of the ASGI applications has ended")
        task = start_task(self._loop, work, context)
        if not task.done():
            self._tasks.add(task)  # the loop itself holds tasks weakly
            task.add_done_callback(self._tasks.discard)
        return task

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Handle:
        """Have the loop call ``callback`` after some seconds, in which it runs."""
        return self._loop.call_later(seconds, callback)

    def watch(
        self,
        descriptor: int,
        on_readable: Callable[[], object],
        on_writable: Callable[[], object],
    ) -> Watch:
        """Give what calls back when a socket can be read or written."""
        if _has_no_readers(self._loop):
            return super().watch(descriptor, on_readable, on_writable)
        return LoopWatch(self._loop, descriptor, on_readable, on_writable)

    async def _wind_up(self) -> None:
        await wind_up()
        self._wound_up = True


def _has_no_readers(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether it is the loop of Windows that cannot watch descriptors, for which anyio has a thread."""
    proactor: Any = getattr(asyncio, "ProactorEventLoop", None)
    return proactor is not None and isinstance(loop, proactor)


def is_cancellation(error: BaseException) -> bool:
    """Whether an exception is how asyncio or trio calls off a task, which has to let it through."""
    if isinstance(error, asyncio.CancelledError):
        return True
    members = getattr(error, "exceptions", None)  # of a group, as trio's nurseries raise it
    if isinstance(members, tuple) and members:
        return all(is_cancellation(member) for member in members)
    trio: Any = sys.modules.get("trio")
    return trio is not None and isinstance(error, trio.Cancelled)


def new_loop(factory: LoopFactory) -> asyncio.AbstractEventLoop:
    """Make a loop that nobody else runs.

    Raises:
        TypeError: the factory makes something else.
        ValueError: it gave a loop that runs elsewhere, or is closed.
    """
    loop = factory()
    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise TypeError(f"loop_factory must make an asyncio event loop, got {loop!r:.80}")
    if loop.is_running() or loop.is_closed():
        raise ValueError(f"loop_factory must make a new event loop, got {loop!r:.80}")
    return loop


def start_task(loop: asyncio.AbstractEventLoop, work: Work, context: Context) -> asyncio.Task[None]:
    """Start an asyncio task in a context; on the loop. From Python 3.12 on its first step is taken at once."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work(), loop=loop, context=context, eager_start=True)
    if sys.version_info >= (3, 11):
        return loop.create_task(work(), context=context)
    return context.run(loop.create_task, work())


async def wind_up() -> None:
    """Cancel all tasks of the running asyncio loop but this one; wait for them, and for its executor, within limits."""
    loop = asyncio.get_running_loop()
    left = {asyncio.current_task()}
    ends = loop.time() + LAST_TASKS_SECONDS
    await _cancel_all(left, ends)
    await loop.shutdown_asyncgens()
    # Not awaited itself: called off, it would wait for a thread that hangs.
    executor_ends = loop.create_task(loop.shutdown_default_executor())
    _, pending = await asyncio.wait({executor_ends}, timeout=max(0.0, ends - loop.time()))
    if pending:
        _log.error("left threads of the event loop's executor that do not end")
        executor_ends._log_destroy_pending = False  # type: ignore[attr-defined]  # it was said just now
    elif executor_ends.exception() is not None:
        # Python 3.12 starts no thread at the interpreter's exit, not even the one that would wait.
        _log.debug("did not wait for the event loop's executor: %r", executor_ends.exception())
    left |= pending
    await _cancel_all(
        left, ends
    )  # who came meanwhile; nothing comes between its last look and the return


async def _cancel_all(left: set[asyncio.Task[Any] | None], ends: float) -> None:
    """Cancel all tasks but ``left``, and those that they begin; who does not end in time joins them."""
    while tasks := asyncio.all_tasks() - left:
        await asyncio.sleep(
            0
        )  # who is cancelled before its first step never runs, and tells nobody
        for task in tasks:
            task.cancel()
        seconds = max(0.0, ends - asyncio.get_running_loop().time())
        _, pending = await asyncio.wait(tasks, timeout=seconds)
        for task in pending:
            _log.error("left a task that does not end when it is cancelled: %r", task)
        left |= pending
