"""gevent: waiting without stopping the hub, and threads that are real although ``threading`` was patched.

Guarantees:

- A greenlet that waits at a ``GreenletBell`` lets the others of its thread run.
- ``ring`` comes from any thread, touches no patched lock, and wakes the hub once for all rings that it has not
  answered yet.
- A greenlet that is killed while it waits leaves nothing behind but a ring that nobody hears; one that dies of an
  error takes nobody's ring with it.
- A hub's bells end with it: a ring that comes later is nothing.
- Each greenlet of the loop's thread has a running loop of its own, or none, as threads have.
- A loop that is closed has let the threads of its executor end, within a limit: the exit would wait for them.
- The child of a fork waits anew, whatever its parent's threads were doing at that moment.
- A hub that only waits for rings is not taken for a deadlock; one that nobody waits at may end.

A loop in a real thread waits by gevent's selector, where that was patched in: the thread's own hub runs meanwhile, so
that the patched threads of the application (``asyncio.to_thread``, ``anyio.to_thread``, executors) run there too.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

LAST_THREADS_SECONDS: Final = 2.0
"""How long a closed loop's executor may take to end where its threads are greenlets beside the loop."""


def hub_here() -> Any | None:
    """Give the gevent hub that the calling greenlet must yield to while it waits; None where there is none."""
    gevent: Any = sys.modules.get("gevent._hub_local")
    if gevent is None:
        return None
    if is_patched():
        return gevent.get_hub()
    return gevent.get_hub_if_exists()  # gevent.pywsgi without patching


def start_real_thread(function: Callable[[], object], name: str) -> None:
    """Start a thread of the operating system, which the interpreter's exit does not wait for.

    Under gevent ``threading`` knows it as a dummy of this name, and it has no ``join``: whoever wants to wait for its
    end has ``function`` ring a bell.

    Raises:
        RuntimeError: no thread can be started here.
    """
    if is_patched():
        monkey: Any = sys.modules["gevent.monkey"]
        monkey.get_original("_thread", "start_new_thread")(_run_named, (function, name))
        return
    try:
        threading.Thread(target=function, name=name, daemon=True).start()
    except RuntimeError:
        # Sub-interpreters may forbid daemons only; whoever starts a portal ends it before the exit waits.
        threading.Thread(target=function, name=name, daemon=False).start()


def _run_named(function: Callable[[], object], name: str) -> None:
    threading.current_thread().name = name
    function()


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make an asyncio loop for the calling thread, which lets the greenlets of its thread run while it waits."""
    if not is_patched():
        return asyncio.new_event_loop()

    class HubLoop(asyncio.SelectorEventLoop):
        """Lets its executor's threads end at its close: they run in this thread alone, and not after it."""

        def close(self) -> None:
            executor: Any = getattr(self, "_default_executor", None)
            super().close()
            ends = time.monotonic() + LAST_THREADS_SECONDS
            for thread in tuple(getattr(executor, "_threads", ())):
                thread.join(max(0.0, ends - time.monotonic()))

    _keep_running_loops_apart()
    return HubLoop(selectors.DefaultSelector())  # gevent has put its own there


def _keep_running_loops_apart() -> None:
    """Give each greenlet of the calling thread a running loop of its own, as threads have.

    Not only while the loop waits: starting a patched thread switches to it from inside a callback of the loop.
    """
    greenlet: Any = sys.modules["greenlet"]
    before = greenlet.gettrace()
    if getattr(before, "__name__", "") == "_exchange_running_loops":
        return

    def _exchange_running_loops(event: str, switch: tuple[Any, Any]) -> None:
        origin, target = switch
        origin._bridges_loop = asyncio._get_running_loop()
        asyncio._set_running_loop(getattr(target, "_bridges_loop", None))
        if before is not None:
            before(event, switch)

    greenlet.settrace(_exchange_running_loops)


def is_patched() -> bool:
    """Whether gevent has put greenlets in the place of threads."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


class GreenletBell:
    """A bell for a greenlet, rung from threads and from greenlets."""

    __slots__ = ("_hub_bell", "_rung", "_waiting")

    def __init__(self, hub: Any) -> None:
        self._hub_bell = _hub_bell(hub)
        self._rung = False
        self._waiting: Any = None

    def ring(self) -> None:
        """End the wait, or let the next one pass."""
        if not self._rung:
            self._rung = True
            self._hub_bell.ring(self)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a ring, while other greenlets run."""
        if not self._rung:
            self._yield(seconds)
        if not self._rung:
            return False
        self._rung = False
        return True

    def _yield(self, seconds: float | None) -> None:
        from gevent import getcurrent

        bell = self._hub_bell
        over: list[None] = []
        timer = None
        self._waiting = getcurrent()
        bell.enter()
        try:
            if seconds is not None:
                timer = bell.hub.loop.timer(max(0.0, seconds))
                timer.start(self._time_out, over)
            # Somebody else's switch, meant for what this greenlet did before, is no reason to go on.
            while not self._rung and not over:
                bell.hub.switch()
        finally:
            self._waiting = None
            bell.leave()
            if timer is not None:
                timer.stop()
                timer.close()

    def _time_out(self, over: list[None]) -> None:
        over.append(None)
        self.wake()

    def wake(self) -> None:
        """Let the greenlet go on, if it still waits; in the hub."""
        if self._waiting is not None:
            self._waiting.switch()


class _HubBell:
    """What wakes one hub for all bells of its greenlets.

    Attributes:
        hub: of one thread; it holds this in turn, so that they go together.
        family: of the process that made it.
    """

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self.family = _family
        self._rung: deque[GreenletBell] = deque()
        self._sent = False
        self._waiters = 0
        self._watcher = hub.loop.async_(ref=False)
        self._watcher.start(self._answer)

    def ring(self, bell: GreenletBell) -> None:
        """Have the hub wake the greenlet of ``bell``; from any thread."""
        self._rung.append(bell)
        if not self._sent:
            self._sent = True
            try:
                self._watcher.send()
            except ValueError:
                pass  # the hub's loop is destroyed, and its greenlets with it

    def enter(self) -> None:
        """Count a greenlet that waits; its hub is not without work then."""
        self._waiters += 1
        if self._waiters == 1:
            self._watcher.ref = True

    def leave(self) -> None:
        """Count a greenlet that waits no more."""
        self._waiters -= 1
        if not self._waiters:
            self._watcher.ref = False

    def _answer(self) -> None:
        self._sent = False
        rung = self._rung
        try:
            while rung:
                rung.popleft().wake()
        finally:
            if rung:  # a greenlet without gevent's own handling of errors has died: the others were rung for too
                self._sent = True
                self._watcher.send()


# Replaced in the child of a fork: a thread may have stood between `_sent` and its `send`, which never comes there.
_family = object()


def _hub_bell(hub: Any) -> _HubBell:
    bell: _HubBell | None = getattr(hub, "_bridges_bell", None)
    if bell is None or bell.family is not _family:
        bell = hub._bridges_bell = _HubBell(hub)
    return bell


def _begin_family() -> None:
    global _family
    _family = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_family)
