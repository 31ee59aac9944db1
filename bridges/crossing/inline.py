"""A portal without a thread of its own: whoever waits for the loop drives it meanwhile.

For hosts where threads do not run (uWSGI without ``enable-threads``) or may not be started (sub-interpreters). Work
goes on only while some request waits for something; what a response leaves behind waits for the next request.

Guarantees:

- One waiter at a time drives the loop, for all of them; when it has what it waited for, another one takes over.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import time
from collections.abc import Callable

from ..errors import CrossingError
from .bells import Bell, ThreadBell
from .gates import current_gate
from .portal import LoopFactory, OnAsyncio, new_loop

_log = logging.getLogger("bridges.adapters")


class InlinePortal(OnAsyncio):
    """A portal on an asyncio loop that runs while callers wait."""

    def __init__(self, loop_factory: LoopFactory | None) -> None:
        super().__init__()
        self._loop_factory = loop_factory or asyncio.new_event_loop
        self._opening = _thread.allocate_lock()
        self.helm = _thread.allocate_lock()
        self.waiting: list[InlineBell] = []

    def open(self) -> None:
        """Make the loop, unless it is made."""
        with self._opening:
            if self.is_open:
                return
            _check_no_loop_here()
            self._loop = new_loop(self._loop_factory)
            self._loop.run_until_complete(self._greet())
            self.is_open = True

    async def _greet(self) -> None:
        self.gate = current_gate()

    def bell(self) -> Bell:
        """Make a bell for the calling thread, by which it drives the loop."""
        return InlineBell(self)

    def check_caller(self) -> None:
        """Refuse a caller that the loop would have to wait for, or whose thread runs another one."""
        super().check_caller()
        _check_no_loop_here()

    def end(self) -> None:
        """Cancel what is left and close the loop; in the caller's thread."""
        self.closed = True
        try:
            self.call(self._wind_up)
        except CrossingError:
            return  # somebody else ends it
        with self.helm:
            self._loop.close()
        self.gate.answer_rest()
        self._end_for_all()

    def drive(self, until: Callable[[], bool], seconds: float | None) -> None:
        """Run the loop until a condition holds, ``seconds`` at most; by whoever holds the helm."""
        over: list[bool] = []

        def time_out() -> None:
            over.append(True)
            self._loop.stop()

        timer = None if seconds is None else self._loop.call_later(seconds, time_out)
        while not until() and not over:
            try:
                self._loop.run_forever()
            except SystemExit as error:
                _log.error("a task of the application raised %r", error, exc_info=error)
        if timer is not None:
            timer.cancel()

    def is_over(self) -> bool:
        """Whether there is nothing to drive any more: whoever ended the loop answers those who wait."""
        return self._loop.is_closed()

    def stop_driving(self) -> None:
        """Have the one who drives look at its condition; from any thread."""
        if self.gate.runs_here():
            self._loop.stop()
        else:
            try:
                self.gate.ring(self._loop.stop)
            except CrossingError:
                pass  # it is being closed, not driven


class InlineBell:
    """A bell for a thread that drives the loop while it waits, or waits for another one that does."""

    __slots__ = ("_nudge", "_portal", "_rung")

    def __init__(self, portal: InlinePortal) -> None:
        self._portal = portal
        self._nudge = ThreadBell()
        self._rung = False

    def ring(self) -> None:
        """End the wait, or let the next one pass."""
        self._rung = True
        self._nudge.ring()
        if self._portal.helm.locked():
            self._portal.stop_driving()

    def nudge(self) -> None:
        """Have the waiter see whether nobody drives any more."""
        self._nudge.ring()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a ring, running the loop meanwhile unless another thread does."""
        portal = self._portal
        ends = None if seconds is None else time.monotonic() + seconds
        portal.waiting.append(self)  # before the try at the helm, so that whoever leaves it sees us
        try:
            while not self._rung:
                left = None if ends is None else max(0.0, ends - time.monotonic())
                if not portal.is_over() and portal.helm.acquire(blocking=False):
                    try:
                        portal.drive(lambda: self._rung, left)
                    finally:
                        portal.helm.release()
                    break
                if not self._nudge.wait(left):
                    break
        finally:
            portal.waiting.remove(self)
            for bell in tuple(portal.waiting):
                bell.nudge()
        rung, self._rung = self._rung, False
        return rung


def _check_no_loop_here() -> None:
    if asyncio._get_running_loop() is not None:
        raise CrossingError(
            "the inline back end runs its event loop in the calling thread, which is running one already: call from"
            " another thread (asyncio.to_thread), or use backend='asyncio'"
        )
