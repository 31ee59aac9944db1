"""Waking an event loop from threads: what differs between asyncio (uvloop included) and trio, kept in one place.

Guarantees:

- ``Gate.ring`` may be called from any thread, never blocks, and makes its callback run once on the loop, after
  the callbacks rung before it by the same thread.
- Rings are coalesced: while the loop has not answered one, further ones cost an append and no wake-up.
- A loop that is closed is an error at the ring (``CrossingError``), never a hang.
- A ``Signal`` that was set before anybody waits is not lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final

import anyio.lowlevel
from anyio._core._eventloop import threadlocals as anyio_thread
from asgiref.sync import SyncToAsync

from ..errors import CrossingError

if TYPE_CHECKING:
    import trio

_log = logging.getLogger("bridges.adapters")

_CLOSED: Final = "the event loop of this request has been closed"


class Gate(ABC):
    """The door into one running event loop."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._rung = False
        self._token = anyio.lowlevel.current_token()

    def ring(self, callback: Callable[[], object]) -> None:
        """Have the loop call ``callback`` soon; from any thread, without waiting.

        Raises:
            CrossingError: the loop has ended.
        """
        # Without a lock: a ring that reads True came before `_answer` set it False, so that `_answer` has yet to
        # drain the deque and will find the callback; one ring too many is harmless.
        self._calls.append(callback)
        if not self._rung or self._has_ended():
            self._rung = True
            try:
                self._wake(self._answer)
            except CrossingError:
                self._rung = False
                raise

    def _answer(self) -> None:
        self._rung = False
        calls = self._calls
        try:
            while calls:
                try:
                    calls.popleft()()
                except Exception:  # it would end a trio run
                    _log.exception("a callback on the event loop failed")
        finally:
            if calls:  # one has failed: the others were rung for too
                self._rung = True
                self._wake(self._answer)

    def close(self) -> None:  # noqa: B027  # most have nothing to let go of
        """Let go of the loop, before it ends; on it."""

    def answer_rest(self) -> None:
        """Run what was rung too late for the loop, which has been closed; in its thread."""
        while self._calls:
            callback = self._calls.popleft()
            try:
                callback()
            except Exception as error:
                _log.debug(
                    "came too late for an event loop that has ended: %r: %s", callback, error
                )

    @abstractmethod
    def _wake(self, callback: Callable[[], object]) -> None:
        """Run ``callback`` on the loop; from any thread."""

    def _has_ended(self) -> bool:
        """Whether the loop may have ended without answering; a trio run answers everything before it ends."""
        return False

    @abstractmethod
    def signal(self) -> Signal:
        """Make a signal for a task of this loop; on the loop."""

    @abstractmethod
    def runs_here(self) -> bool:
        """Whether the calling thread is running this loop."""

    def adopt_thread(self) -> None:
        """Make this loop the one that ``async_to_sync`` and ``anyio.from_thread.run`` find in this thread.

        Neither library has a public way to say so for threads that it did not start.
        """
        anyio_thread.current_token = self._token


class Signal(ABC):
    """A wake-up for one waiting task: set on the loop, reset by the wait that it ends."""

    @abstractmethod
    def set(self) -> None:
        """Wake the task that waits, or let the next wait pass; on the loop."""

    @abstractmethod
    async def wait(self) -> None:
        """Wait until set."""


class AsyncioGate(Gate):
    """The door into an asyncio loop, uvloop's among them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop

    def _wake(self, callback: Callable[[], object]) -> None:
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError as error:
            raise CrossingError(_CLOSED) from error

    def _has_ended(self) -> bool:
        return self.loop.is_closed()

    def signal(self) -> Signal:
        return _AsyncioSignal(self.loop)

    def runs_here(self) -> bool:
        return asyncio._get_running_loop() is self.loop

    def adopt_thread(self) -> None:
        super().adopt_thread()
        SyncToAsync.threadlocal.main_event_loop = self.loop
        SyncToAsync.threadlocal.main_event_loop_pid = os.getpid()


class EventfdGate(AsyncioGate):
    """The door into an asyncio loop that is ours to keep: woken by one write and one read.

    ``call_soon_threadsafe`` costs a handle, a socket's send, and two receives of which one fails.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make it; on the loop, which has to call ``close`` before it ends."""
        super().__init__(loop)
        # Left open until nobody can ring any more: the number may be another file's after that.
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        weakref.finalize(self, os.close, self._descriptor)
        loop.add_reader(self._descriptor, self._answer_write)

    def close(self) -> None:
        self.loop.remove_reader(self._descriptor)

    def _wake(self, callback: Callable[[], object]) -> None:
        if self.loop.is_closed():
            raise CrossingError(_CLOSED)
        os.eventfd_write(self._descriptor, 1)

    def _answer_write(self) -> None:
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            pass  # a task's SystemExit made the loop look at its descriptors twice
        self._answer()


class _AsyncioSignal(Signal):
    """A future made only when somebody has to wait; ``asyncio.Event`` costs a multiple."""

    __slots__ = ("_future", "_is_set", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_set = False
        self._future: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._is_set = True
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)

    async def wait(self) -> None:
        if not self._is_set:
            self._future = self._loop.create_future()
            try:
                await self._future
            finally:
                self._future = None
        self._is_set = False


class TrioGate(Gate):
    """The door into a trio run."""

    def __init__(self) -> None:
        import trio

        super().__init__()
        self.token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self._run_finished: type[Exception] = trio.RunFinishedError
        self._make_event: type[trio.Event] = trio.Event

    def _wake(self, callback: Callable[[], object]) -> None:
        try:
            self.token.run_sync_soon(callback)
        except self._run_finished as error:
            raise CrossingError("the trio run of this request has ended") from error

    def signal(self) -> Signal:
        return _TrioSignal(self._make_event)

    def runs_here(self) -> bool:
        return _in_trio() and _trio_token() is self.token

    def adopt_thread(self) -> None:
        from trio._threads import PARENT_TASK_DATA

        super().adopt_thread()
        SyncToAsync.threadlocal.main_event_loop = None  # asgiref knows asyncio only
        PARENT_TASK_DATA.token = self.token
        # The calls run beside the request, not inside its task, which is busy with the response.
        PARENT_TASK_DATA.abandon_on_cancel = True


class _TrioSignal(Signal):
    __slots__ = ("_event", "_make_event")

    def __init__(self, make_event: type[trio.Event]) -> None:
        self._make_event = make_event
        self._event = make_event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = self._make_event()


_here = threading.local()


def current_gate() -> Gate:
    """Give the gate of the running loop; one is kept for each thread's latest loop.

    Raises:
        CrossingError: no asyncio or trio task is running here.
    """
    if _in_trio():
        trio_gate: TrioGate | None = getattr(_here, "trio_gate", None)
        if trio_gate is None or trio_gate.token is not _trio_token():
            trio_gate = _here.trio_gate = TrioGate()
        return trio_gate
    loop = asyncio._get_running_loop()
    if loop is None:
        raise CrossingError(
            "bridges runs on asyncio, uvloop and trio: no task of these is running here"
        )
    gate: AsyncioGate | None = getattr(_here, "asyncio_gate", None)
    if gate is None or gate.loop is not loop:
        gate = _here.asyncio_gate = AsyncioGate(loop)
    return gate


def open_gate() -> Gate:
    """Give the gate of the running loop to somebody who keeps the loop: the fastest that there is for it."""
    gate = current_gate()
    if isinstance(gate, AsyncioGate) and hasattr(os, "eventfd"):
        gate = _here.asyncio_gate = EventfdGate(gate.loop)
    return gate


def copy_context_for_thread() -> Context:
    """Copy the context for work in a thread, where no async library runs whatever sniffio says here."""
    context = copy_context()
    library = getattr(sys.modules.get("sniffio"), "current_async_library_cvar", None)
    if library is not None and library.get() is not None:
        context.run(library.set, None)
    return context


def adopt(gate: Gate) -> None:
    """Make ``gate`` the calling thread's, once for as long as its requests come from the same loop."""
    if getattr(_here, "adopted", None) is not gate:
        gate.adopt_thread()
        _here.adopted = gate


def _in_trio() -> bool:
    # Asked first: trio's guest mode runs inside an asyncio loop, never the other way round.
    # Another thread may be in the middle of importing trio; who runs in trio has it whole.
    in_trio_task = getattr(sys.modules.get("trio.lowlevel"), "in_trio_task", None)
    return in_trio_task is not None and in_trio_task()


def _trio_token() -> object:
    trio: Any = sys.modules["trio"]
    return trio.lowlevel.current_trio_token()
