"""Bells: what a thread or greenlet waits at until a loop has something for it.

Guarantees, of all of them:

- ``ring`` may be called from any thread and never blocks.
- A ring before the wait is not lost; rings that come together are one. A waiter looks for its messages after every
  wait, so that one ring too many is harmless.
- ``wait`` is for the thread (or greenlet) that made the bell; one for each request, whoever rings it.
"""

from __future__ import annotations

import _thread
from typing import Protocol

from .greenlets import GreenletBell, hub_here


class Bell(Protocol):
    """What a portal gives to each request of a host."""

    def ring(self) -> None:
        """End the wait, or let the next one pass; from any thread, without waiting."""

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a ring, for ``seconds`` at most; tells whether it came."""


class ThreadBell:
    """A bell for a thread of the operating system."""

    __slots__ = ("_lock", "_rung")

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()
        self._rung = False

    def ring(self) -> None:
        """End the wait, or let the next one pass."""
        # Who reads True here has put its message before the waiter, which has yet to set it back, looks for it.
        if not self._rung:
            self._rung = True
            try:
                self._lock.release()
            except RuntimeError:
                pass  # somebody else rang at the same moment: one ring is enough

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a ring."""
        try:
            return self._lock.acquire(timeout=-1 if seconds is None else seconds)
        finally:
            # Also where a signal's exception comes out: the lock may have been taken. One ring too many is harmless.
            self._rung = False


def bell_here() -> Bell:
    """Make a bell for the calling thread, or greenlet."""
    hub = hub_here()
    return ThreadBell() if hub is None else GreenletBell(hub)
