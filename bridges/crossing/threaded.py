"""Portals whose loop runs in a thread of its own: asyncio (uvloop and others by a factory) and trio."""

from __future__ import annotations

import _thread
import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ..errors import CrossingError
from .bells import Bell, bell_here
from .gates import open_gate
from .greenlets import new_event_loop, start_real_thread
from .portal import (
    LAST_TASKS_SECONDS,
    Handle,
    LoopFactory,
    OnAsyncio,
    Portal,
    Work,
    new_loop,
)

if TYPE_CHECKING:
    import trio

_log = logging.getLogger("bridges.adapters")

THREAD_NAME = "bridges-portal"


class ThreadedPortal(Portal):
    """What is the same whichever loop runs in the thread."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = False
        self._starting = _thread.allocate_lock()
        self._failure: BaseException | None = None

    def open(self) -> None:
        """Start the thread, or wait until whoever called first has."""
        with self._starting:
            begun, self._begun = self._begun, True
        if not begun:
            try:
                start_real_thread(self._main, THREAD_NAME)
            except BaseException as error:
                self._failure = error
                self.closed = self._over = True
                self._tell()
                raise
        self._wait_at(bell_here(), lambda: self.is_open or self._over)
        if self._failure is not None:
            raise self._failure

    def bell(self) -> Bell:
        """Make a bell for the calling thread."""
        return bell_here()

    def end(self) -> None:
        """End the loop, and wait for its thread unless that hangs."""
        self.closed = True
        try:
            self.gate.ring(self._stop)
        except CrossingError:
            pass  # it is over, or nearly so
        if not self._wait_at(bell_here(), lambda: self._over, 2 * LAST_TASKS_SECONDS):
            _log.error("left the thread of an event loop that does not answer: something blocks it")

    def _main(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self._failure = error
            if self.is_open:
                _log.critical("the event loop of the ASGI applications has failed", exc_info=error)
        finally:
            self.closed = True
            try:
                if self.is_open:
                    self.gate.answer_rest()
            finally:
                self._end_for_all()

    def _greet(self) -> None:
        """Let callers in; on the loop."""
        self.gate = open_gate()
        self.is_open = True
        self._tell()

    @abstractmethod
    def _run(self) -> None:
        """Run the loop from its making to its end; in the thread."""

    @abstractmethod
    def _stop(self) -> None:
        """Begin the loop's end; on the loop."""


class AsyncioPortal(ThreadedPortal, OnAsyncio):
    """A portal on asyncio, or on what ``loop_factory`` makes."""

    _stopped: asyncio.Future[None]

    def __init__(self, loop_factory: LoopFactory | None) -> None:
        super().__init__()
        self._loop_factory = loop_factory or new_event_loop

    def _run(self) -> None:
        self._loop = new_loop(self._loop_factory)
        asyncio.set_event_loop(self._loop)
        try:
            self._stopped = self._loop.create_future()
            self._run_through(self._stay())
            self._run_through(self._wind_up())
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()

    async def _stay(self) -> None:
        self._greet()
        await self._stopped

    async def _wind_up(self) -> None:
        await super()._wind_up()
        self.gate.close()

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _run_through(self, main: Coroutine[Any, Any, None]) -> None:
        """Run the loop until ``main`` is done, whatever other tasks raise.

        anyio takes a task that is run to its completion for the loop's root, and keeps its worker threads as long.
        """
        task = self._loop.create_task(main)
        while not task.done():
            try:
                self._loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:
                _log.error("a task of the application raised %r", error, exc_info=error)
            except RuntimeError as error:
                if task.done():
                    raise
                # Only the application can have stopped it.
                _log.error("the application stopped the event loop, which goes on: %s", error)


class TrioPortal(ThreadedPortal):
    """A portal on trio."""

    _nursery: trio.Nursery
    _stopped: trio.Event

    def spawn(self, work: Work, context: Context) -> Handle:
        """Start a task."""
        import trio

        scope = trio.CancelScope()

        async def scoped() -> None:
            with scope:
                try:
                    await work()
                except trio.Cancelled:
                    if scope.cancel_called or self._nursery.cancel_scope.cancel_called:
                        raise
                    _log.debug("a task raised a cancellation that nobody asked for")
                except BaseException as error:  # it would end the run, and with it all other tasks
                    _log.debug("a task let out %r", error)

        try:
            context.run(self._nursery.start_soon, scoped)
        except (RuntimeError, AttributeError) as error:  # the latter where the run itself has ended
            raise CrossingError("the trio run of the ASGI applications has ended") from error
        return scope

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Handle:
        """Have the loop call ``callback`` after some seconds."""
        import trio

        scope = trio.CancelScope()

        async def later() -> None:
            with scope:
                await trio.sleep(seconds)
                try:
                    callback()
                except Exception:  # it would end the run; asyncio logs it, too
                    _log.exception("a callback on the event loop failed")

        self._nursery.start_soon(later)
        return scope

    def _run(self) -> None:
        import trio

        trio.run(self._stay)

    async def _stay(self) -> None:
        import trio

        self._stopped = trio.Event()
        async with trio.open_nursery() as self._nursery:
            self._greet()
            await self._stopped.wait()
            self._nursery.cancel_scope.cancel()

    def _stop(self) -> None:
        self._stopped.set()
