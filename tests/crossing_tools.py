"""What the tests of ``bridges.crossing`` share: threads with a result, gates that tell what is done with them, jobs.

``WatchedGate`` stands before a real gate; ``HandGate`` has no loop at all: a test turns the crank, so that it chooses
every interleaving itself.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import types
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from bridges.crossing.gates import Gate, Signal, current_gate

Result = TypeVar("Result")

# Where a wait can only end by an error, that error is better than the time limit of the whole test.
PATIENCE_SECONDS = 10.0


def soon(event: threading.Event) -> None:
    """Wait for what is bound to happen."""
    assert event.wait(PATIENCE_SECONDS), "what should have happened did not"


class Running(Generic[Result]):
    """A function in a thread of its own."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._value: Result | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        """Wait for the function; return or raise what it did."""
        self.thread.join(PATIENCE_SECONDS)
        assert not self.thread.is_alive(), "the thread waits for ever"
        if self._error is not None:
            raise self._error
        return self._value

    async def wait(self) -> Any:
        """Do the same without keeping the loop from running."""
        return await anyio.to_thread.run_sync(self.result)


def run_on(anyio_backend: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Run an async function on a loop of its own, which is closed afterwards."""
    backend, options = anyio_backend
    return anyio.run(function, *args, backend=backend, backend_options=options)


async def gate_of_this_loop() -> Gate:
    """Give the gate; as an async function, for ``run_on``."""
    return current_gate()


def dead_gate(anyio_backend: Any) -> Gate:
    """Give the gate of a loop that has ended."""
    gate = run_on(anyio_backend, gate_of_this_loop)
    assert isinstance(gate, Gate)
    return gate


class WatchedSignal:
    """A signal that knows whether a task waits for it."""

    def __init__(self, signal: Signal) -> None:
        self._signal = signal
        self.has_waiter = False

    def set(self) -> None:
        self._signal.set()

    async def wait(self) -> None:
        self.has_waiter = True
        try:
            await self._signal.wait()
        finally:
            self.has_waiter = False


class WatchedGate:
    """A gate that counts its rings and tells when a thread is about to wait.

    A pipe asks ``runs_here`` with its lock held, so that nobody gets at the pipe before the thread waits.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._signals: list[WatchedSignal] = []
        self.rings = 0
        self.thread_waits = threading.Event()

    def ring(self, callback: Callable[[], object]) -> None:
        self.rings += 1
        self._gate.ring(callback)

    def signal(self) -> WatchedSignal:
        self._signals.append(WatchedSignal(self._gate.signal()))
        return self._signals[-1]

    def runs_here(self) -> bool:
        here = self._gate.runs_here()
        self.thread_waits.set()
        return here

    async def until_task_waits(self) -> None:
        """Let the loop run until a task waits for a signal of this gate."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any(signal.has_waiter for signal in self._signals):
            assert time.monotonic() < deadline, "no task waits"
            await anyio.lowlevel.checkpoint()

    async def until_thread_waits(self) -> None:
        """Let the loop run until a thread waits in a pipe of this gate."""
        await anyio.to_thread.run_sync(soon, self.thread_waits)


@types.coroutine
def _suspend() -> Generator[None, None, None]:
    yield


class HandSignal:
    """A signal for coroutines that a test steps by hand."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True

    async def wait(self) -> None:
        while not self.is_set:
            await _suspend()
        self.is_set = False


class HandGate:
    """A gate without a loop, whose only thread is the test's: what would have to wait raises instead."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []
        self.rings = 0

    def ring(self, callback: Callable[[], object]) -> None:
        self.rings += 1
        self.calls.append(callback)

    def answer(self) -> None:
        """Be the loop for one turn."""
        calls, self.calls = self.calls, []
        for call in calls:
            call()

    def signal(self) -> HandSignal:
        return HandSignal()

    def runs_here(self) -> bool:
        return True


class Stepped:
    """A coroutine that goes on when told."""

    def __init__(self, coroutine: Any) -> None:
        self._coroutine = coroutine
        self.done = False
        self.value: Any = None
        self.step()

    def step(self) -> bool:
        """Go on to the next wait; tells whether it is through."""
        try:
            self._coroutine.send(None)
        except StopIteration as stop:
            self.done, self.value = True, stop.value
        return self.done

    def close(self) -> None:
        self._coroutine.close()


class Work:
    """A job that tells what becomes of it; a held one goes on when told."""

    def __init__(self, action: Callable[[], object] | None = None, *, held: bool = False) -> None:
        self._action = action
        self.begun = threading.Event()
        self.go = threading.Event()
        self.finished = threading.Event()
        self.abandoned = threading.Event()
        self.runs = 0
        self.thread: threading.Thread | None = None
        if not held:
            self.go.set()

    def run(self) -> None:
        self.runs += 1
        self.thread = threading.current_thread()
        self.begun.set()
        soon(self.go)
        if self._action is not None:
            self._action()

    def finish(self) -> None:
        self.finished.set()

    def abandon(self) -> None:
        self.abandoned.set()


@contextlib.contextmanager
def profiled(hook: Callable[[Any, str, Any], None]) -> Iterator[None]:
    """Have ``hook`` called for every call and return in threads that start from now on."""
    threading.setprofile(hook)
    try:
        yield
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]  # as documented


def _in_pool(frame: Any) -> bool:
    return frame.f_globals.get("__name__") == "bridges.crossing.pool"


@contextlib.contextmanager
def falling_asleep() -> Iterator[threading.Semaphore]:
    """Give a semaphore that is released whenever a thread of a pool, counted as idle, goes to sleep."""
    asleep = threading.Semaphore(0)

    def hook(frame: Any, event: str, function: Any) -> None:
        waits = event == "c_call" and function.__name__ == "acquire"
        # A lock that is made locked, in __init__, is nobody's bed.
        if waits and _in_pool(frame) and frame.f_code.co_name != "__init__":
            asleep.release()

    with profiled(hook):
        yield asleep


@contextlib.contextmanager
def held_at_birth() -> Iterator[threading.Semaphore]:
    """Keep new threads of a pool from their first step; each release of the semaphore lets one go."""
    gate = threading.Semaphore(0)

    def hook(frame: Any, event: str, function: Any) -> None:
        if _in_pool(frame):
            sys.setprofile(None)
            assert gate.acquire(timeout=PATIENCE_SECONDS)

    with profiled(hook):
        yield gate
