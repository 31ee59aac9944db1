"""Gates: waking a loop from threads, on every event loop."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
import trio
from asgiref.sync import async_to_sync
from crossing_tools import PATIENCE_SECONDS, Running, WatchedSignal, dead_gate, run_on, soon

from bridges.crossing.gates import (
    AsyncioGate,
    Gate,
    TrioGate,
    adopt,
    copy_context_for_thread,
    current_gate,
)
from bridges.errors import CrossingError


class Doorbell:
    """Stands before a loop or a trio token and counts the wake-ups; ``on_wake`` runs before each of them."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.wake_ups = 0
        self.on_wake: Callable[[], object] | None = None

    def _wake(self) -> None:
        self.wake_ups += 1
        if self.on_wake is not None:
            self.on_wake()

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> Any:
        self._wake()
        return self._inner.call_soon_threadsafe(callback)

    def run_sync_soon(self, callback: Callable[[], object]) -> None:
        self._wake()
        self._inner.run_sync_soon(callback)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def gate_with_doorbell() -> tuple[Gate, Doorbell]:
    """Make a gate into the running loop that shows its wake-ups."""
    gate = current_gate()
    if isinstance(gate, TrioGate):
        watched = TrioGate()
        bell = Doorbell(watched.token)
        watched.token = bell  # type: ignore[assignment]  # stands for one
        return watched, bell
    assert isinstance(gate, AsyncioGate)
    bell = Doorbell(gate.loop)
    return AsyncioGate(bell), bell  # type: ignore[arg-type]  # stands for one


async def answered(gate: Gate) -> None:
    """Let the loop answer all rings so far."""
    done = anyio.Event()
    gate.ring(done.set)
    await done.wait()


# Guarantee: from any thread, never blocks, once, on the loop, in the order of the thread.


async def test_ring_calls_back_once_on_the_loop():
    """A callback rung from a thread runs once, in the thread of the loop."""
    gate = current_gate()
    calls: list[int] = []
    await Running(lambda: gate.ring(lambda: calls.append(threading.get_ident()))).wait()
    await answered(gate)
    assert calls == [threading.get_ident()]


async def test_ring_from_the_loop_itself():
    """The loop's own thread may ring too; the callback runs later, not inside the ring."""
    gate = current_gate()
    calls: list[str] = []
    gate.ring(lambda: calls.append("called"))
    assert calls == []
    await answered(gate)
    assert calls == ["called"]


async def test_ring_never_waits_for_the_loop():
    """A thread rings a thousand times while the loop does not turn at all."""
    gate = current_gate()
    calls: list[int] = []

    def ring_often() -> None:
        for number in range(1000):
            gate.ring(lambda number=number: calls.append(number))

    Running(ring_often).result()  # the loop stands still meanwhile
    assert calls == []
    await answered(gate)
    assert calls == list(range(1000))


async def test_rings_keep_the_order_of_each_thread():
    """Callbacks of many threads at once run once each, and in order for each thread."""
    gate = current_gate()
    threads, rounds = 6, 300
    start = threading.Barrier(threads)
    calls: list[tuple[int, int]] = []

    def ring_as(name: int) -> None:
        start.wait(PATIENCE_SECONDS)
        for number in range(rounds):
            gate.ring(lambda number=number: calls.append((name, number)))

    ringers = [Running(lambda name=name: ring_as(name)) for name in range(threads)]
    for ringer in ringers:
        await ringer.wait()
    await answered(gate)
    assert len(calls) == threads * rounds
    for name in range(threads):
        assert [n for who, n in calls if who == name] == list(range(rounds))


# Guarantee: coalesced.


async def test_rings_before_the_answer_cost_one_wake_up():
    """While the loop has not answered, further rings wake nobody; after the answer the next one does."""
    gate, bell = gate_with_doorbell()
    calls: list[int] = []

    def ring_often() -> None:
        for number in range(50):
            gate.ring(lambda number=number: calls.append(number))

    Running(ring_often).result()
    assert bell.wake_ups == 1
    await answered(gate)
    assert calls == list(range(50))
    assert bell.wake_ups == 1  # the ring of `answered` came before the answer as well
    await answered(gate)
    assert bell.wake_ups == 2


async def test_ring_between_another_threads_ring_and_its_wake_up():
    """A ring that relies on a wake-up which another thread has yet to make is answered by it."""
    gate, bell = gate_with_doorbell()
    about_to_wake, may_wake = threading.Event(), threading.Event()
    calls: list[str] = []
    both = anyio.Event()

    def pause() -> None:
        about_to_wake.set()
        soon(may_wake)

    def second_call() -> None:
        calls.append("second")
        both.set()

    bell.on_wake = pause
    first = Running(lambda: gate.ring(lambda: calls.append("first")))
    soon(about_to_wake)
    Running(lambda: gate.ring(second_call)).result()
    assert bell.wake_ups == 1
    may_wake.set()
    await both.wait()
    await first.wait()
    assert calls == ["first", "second"]


async def test_ring_while_the_loop_answers():
    """A ring that comes in the middle of an answer is answered."""
    gate, _ = gate_with_doorbell()
    done = anyio.Event()

    def ring_meanwhile() -> None:
        Running(lambda: gate.ring(done.set)).result()

    gate.ring(ring_meanwhile)
    await done.wait()


async def test_ring_after_the_last_callback_of_an_answer():
    """No ring falls between two answers: a thread that rings from each callback anew is never forgotten."""
    gate = current_gate()
    rounds = 200
    heard = threading.Semaphore(0)
    done = anyio.Event()

    def ring_on() -> None:
        for _ in range(rounds):
            gate.ring(heard.release)
            assert heard.acquire(timeout=PATIENCE_SECONDS), "a ring was lost"
        gate.ring(done.set)

    ringer = Running(ring_on)
    await done.wait()
    await ringer.wait()


# Guarantee: a closed loop is an error at the ring.


def test_ring_of_a_loop_that_has_ended(anyio_backend):
    """Each ring of a loop that has ended raises, not the first one alone."""
    gate = dead_gate(anyio_backend)
    for _ in range(3):
        with pytest.raises(CrossingError, match=r"closed|ended"):
            gate.ring(lambda: None)


def test_ring_of_a_loop_that_has_ended_from_two_threads(anyio_backend):
    """The second thread that rings a loop that has ended learns it as the first one does."""
    gate = dead_gate(anyio_backend)
    for _ in range(2):
        with pytest.raises(CrossingError):
            Running(lambda: gate.ring(lambda: None)).result()


def test_ring_after_one_that_the_loop_did_not_answer(anyio_backend):
    """A ring that was under way when the loop closed does not hide the closing from the next ring."""
    gates: list[Gate] = []

    async def ring_last() -> None:
        gates.append(current_gate())
        gates[0].ring(lambda: None)

    if anyio_backend[0] == "asyncio":
        # The runner of anyio turns the loop some more at its end, which answers.
        factory = anyio_backend[1].get("loop_factory", asyncio.new_event_loop)
        if anyio_backend[1].get("use_uvloop"):
            factory = pytest.importorskip("uvloop").new_event_loop
        loop = factory()
        gates.append(loop.run_until_complete(_gate_here()))
        gates[0].ring(lambda: None)
        loop.close()
    else:
        run_on(anyio_backend, ring_last)
    with pytest.raises(CrossingError):
        gates[0].ring(lambda: None)


async def _gate_here() -> Gate:
    return current_gate()


def test_loop_closed_while_a_thread_rings(anyio_backend):
    """A thread that rings without end is told when the loop closes, and lives on."""
    turn = threading.Semaphore(0)
    closed = threading.Event()
    heard = threading.Event()
    gates: list[Gate] = []

    def ring_on() -> str:
        assert turn.acquire(timeout=PATIENCE_SECONDS)
        rings_after_closing = 0
        while rings_after_closing < 3:
            rings_after_closing += closed.is_set()
            try:
                gates[0].ring(heard.set)
                gates[0].ring(turn.release)
            except CrossingError:
                return "told"
            # One ring at a time: the loop's memory is not under test.
            assert turn.acquire(timeout=PATIENCE_SECONDS)
        return "not told"

    async def live() -> None:
        gates.append(current_gate())
        turn.release()
        while not heard.is_set():
            await anyio.lowlevel.checkpoint()

    ringer = Running(ring_on)
    run_on(anyio_backend, live)
    closed.set()
    turn.release(4)
    assert ringer.result() == "told"


# Guarantee: a signal that was set before anybody waits is not lost.


async def test_signal_set_before_the_wait():
    """A wait that comes after the set passes at once, and uses the set up."""
    signal = WatchedSignal(current_gate().signal())
    signal.set()
    await signal.wait()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(signal.wait)
        while not signal.has_waiter:
            await anyio.lowlevel.checkpoint()
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        assert signal.has_waiter
        signal.set()


async def test_signal_set_twice_wakes_once():
    """Sets before a wait count as one."""
    signal = WatchedSignal(current_gate().signal())
    signal.set()
    signal.set()
    await signal.wait()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(signal.wait)
        while not signal.has_waiter:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert tasks.cancel_scope.cancelled_caught


async def test_signal_set_twice_while_awaited():
    """Two sets in one turn of the loop, with a task waiting, are harmless."""
    signal = WatchedSignal(current_gate().signal())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(signal.wait)
        while not signal.has_waiter:
            await anyio.lowlevel.checkpoint()
        signal.set()
        signal.set()


@pytest.mark.parametrize("first", ["set", "cancel"])
async def test_signal_set_in_the_turn_in_which_the_wait_is_cancelled(first):
    """A set that meets a cancelled wait is kept for the next one."""
    signal = WatchedSignal(current_gate().signal())
    passed = False
    scope = anyio.CancelScope()

    async def wait() -> None:
        nonlocal passed
        with scope:
            await signal.wait()
            passed = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        while not signal.has_waiter:
            await anyio.lowlevel.checkpoint()
        if first == "set":
            signal.set()
            scope.cancel()
        else:
            scope.cancel()
            signal.set()
    if not passed:
        with anyio.fail_after(PATIENCE_SECONDS):
            await signal.wait()


async def test_signal_set_after_a_cancelled_wait():
    """A wait that was cancelled leaves a signal that can be waited for again."""
    signal = WatchedSignal(current_gate().signal())
    with anyio.move_on_after(0) as scope:
        await signal.wait()
    assert scope.cancelled_caught
    signal.set()
    await signal.wait()


# current_gate, runs_here, adopt.


def test_no_gate_without_a_loop():
    """Where no loop runs the error names the loops that would do."""
    with pytest.raises(CrossingError, match="asyncio, uvloop and trio"):
        current_gate()


def test_asyncio_needs_no_trio(monkeypatch):
    """A process that never imported trio is served, and trio stays out of it."""
    monkeypatch.delitem(sys.modules, "trio")

    async def kind() -> type[Gate]:
        return type(current_gate())

    assert asyncio.run(kind()) is AsyncioGate
    assert "trio" not in sys.modules


async def test_gate_is_kept():
    """A loop has one gate, or rings could not be coalesced."""
    gate = current_gate()
    await anyio.lowlevel.checkpoint()
    assert current_gate() is gate


def test_loops_one_after_another_in_one_thread(anyio_backend):
    """Each loop of a thread gets a gate of its own, and the earlier ones are closed."""

    async def ring_oneself() -> Gate:
        gate = current_gate()
        await answered(gate)
        return gate

    gates = [run_on(anyio_backend, ring_oneself) for _ in range(3)]
    assert len({id(gate) for gate in gates}) == 3
    for gate in gates:
        with pytest.raises(CrossingError):
            gate.ring(lambda: None)


def test_asyncio_and_trio_in_turn_in_one_thread():
    """Loops of both kinds may follow each other in one thread."""

    async def kind() -> str:
        gate = current_gate()
        await answered(gate)
        return type(gate).__name__

    names = [anyio.run(kind, backend=name) for name in ("asyncio", "trio", "asyncio", "trio")]
    assert names == ["AsyncioGate", "TrioGate", "AsyncioGate", "TrioGate"]


def test_two_loops_in_two_threads(anyio_backend):
    """Loops that run at once have gates of their own; a ring at one wakes that one only."""
    meeting = threading.Barrier(2)
    gates: dict[int, Gate] = {}

    async def ring_the_other(me: int) -> int:
        gates[me] = current_gate()
        heard = anyio.Event()
        callers: list[int] = []

        def hear() -> None:
            callers.append(threading.get_ident())
            heard.set()

        hearers[me] = hear
        meeting.wait(PATIENCE_SECONDS)
        other = 1 - me
        assert gates[me].runs_here()
        assert not gates[other].runs_here()
        gates[other].ring(hearers[other])
        await heard.wait()
        assert callers == [threading.get_ident()]
        # Neither loop ends before the other was rung.
        await anyio.to_thread.run_sync(meeting.wait, PATIENCE_SECONDS)
        return me

    hearers: dict[int, Callable[[], None]] = {}
    loops = [Running(lambda me=me: run_on(anyio_backend, ring_the_other, me)) for me in (0, 1)]
    assert [loop.result() for loop in loops] == [0, 1]


async def test_runs_here():
    """A gate knows whether the calling thread is the one that its loop keeps busy."""
    gate = current_gate()
    assert gate.runs_here()
    assert not await Running(gate.runs_here).wait()


def test_runs_here_is_false_once_the_loop_has_ended(anyio_backend):
    """The thread of a loop that has ended may wait as any other thread."""
    assert not dead_gate(anyio_backend).runs_here()


async def _where() -> tuple[int, str]:
    await anyio.lowlevel.checkpoint()
    return threading.get_ident(), type(current_gate()).__name__


@pytest.mark.spec("FR 97")
async def test_anyio_from_thread_after_adopt():
    """``anyio.from_thread.run`` in an adopted thread runs on the adopted loop."""
    gate = current_gate()

    def call_back() -> Any:
        adopt(gate)
        adopt(gate)  # once for as long as the gate stays the same
        return anyio.from_thread.run(_where)

    assert await Running(call_back).wait() == (threading.get_ident(), type(gate).__name__)


@pytest.mark.spec("FR 97")
async def test_async_to_sync_after_adopt():
    """``async_to_sync`` in an adopted thread runs on the adopted asyncio loop; on trio, on one of its own."""
    gate = current_gate()

    def call_back() -> Any:
        adopt(gate)
        return async_to_sync(_where)()

    ident, kind = await Running(call_back).wait()
    assert kind == "AsyncioGate"
    assert (ident == threading.get_ident()) == isinstance(gate, AsyncioGate)


async def test_trio_from_thread_after_adopt():
    """On trio, trio's own call back into the loop works too."""
    gate = current_gate()
    if not isinstance(gate, TrioGate):
        pytest.skip("trio only")

    def call_back() -> Any:
        adopt(gate)
        return trio.from_thread.run(_where)

    assert await Running(call_back).wait() == (threading.get_ident(), "TrioGate")


@pytest.mark.spec("FR 97")
async def test_exception_of_a_call_back_reaches_the_thread():
    """What async code raises is raised where the thread called it."""
    gate = current_gate()

    async def fail() -> None:
        raise LookupError("from the loop")

    def call_back() -> None:
        adopt(gate)
        anyio.from_thread.run(fail)

    with pytest.raises(LookupError, match="from the loop"):
        await Running(call_back).wait()


def test_adopting_one_loop_after_another(anyio_backend):
    """A thread that serves several loops calls back into that of its latest request, there and back again."""
    gates: dict[int, Gate] = {}
    idents: dict[int, int] = {}
    ready = threading.Barrier(3)
    ends = {0: threading.Event(), 1: threading.Event()}

    async def live(me: int) -> None:
        gates[me], idents[me] = current_gate(), threading.get_ident()
        ready.wait(PATIENCE_SECONDS)
        await anyio.to_thread.run_sync(soon, ends[me])

    loops = [Running(lambda me=me: run_on(anyio_backend, live, me)) for me in (0, 1)]
    ready.wait(PATIENCE_SECONDS)

    def call_back() -> list[int]:
        seen = []
        for me in (0, 1, 0):
            adopt(gates[me])
            seen.append(anyio.from_thread.run(_where)[0])
        return seen

    try:
        assert Running(call_back).result() == [idents[0], idents[1], idents[0]]
    finally:
        for end in ends.values():
            end.set()
        for loop in loops:
            loop.result()


def test_adopting_trio_after_asyncio():
    """A thread that served asyncio before does not call back into that loop, which goes on, for a request of trio."""
    gates: dict[str, Gate] = {}
    idents: dict[str, int] = {}
    ready = threading.Barrier(3)
    end = threading.Event()

    async def live(backend: str) -> None:
        gates[backend], idents[backend] = current_gate(), threading.get_ident()
        ready.wait(PATIENCE_SECONDS)
        await anyio.to_thread.run_sync(soon, end)

    def call_back() -> list[Any]:
        seen = []
        for backend in ("asyncio", "trio"):
            adopt(gates[backend])
            seen += [anyio.from_thread.run(_where), async_to_sync(_where)()]
        return seen

    loops = [
        Running(lambda backend=backend: anyio.run(live, backend, backend=backend))
        for backend in ("asyncio", "trio")
    ]
    ready.wait(PATIENCE_SECONDS)
    try:
        answers = Running(call_back).result()
    finally:
        end.set()
        for loop in loops:
            loop.result()
    on_asyncio, on_trio = (idents["asyncio"], "AsyncioGate"), (idents["trio"], "TrioGate")
    assert answers[:3] == [on_asyncio, on_asyncio, on_trio]
    # asgiref knows asyncio only: for trio it makes a loop of its own.
    assert answers[3][1] == "AsyncioGate"
    assert answers[3] != on_asyncio


_who = contextvars.ContextVar("_who", default="nobody")


@pytest.mark.spec("FR 98")
@pytest.mark.parametrize("library", ["trio", None, "no sniffio"])
def test_context_for_a_thread(monkeypatch, library):
    """A thread gets the variables of its request, but no word of an async library that runs elsewhere."""
    running = contextvars.ContextVar("running", default=None)
    if library == "no sniffio":
        monkeypatch.delitem(sys.modules, "sniffio", raising=False)
    else:
        sniffio = types.SimpleNamespace(current_async_library_cvar=running)
        monkeypatch.setitem(sys.modules, "sniffio", sniffio)
        running.set(library)
    token = _who.set("request")
    try:
        context = copy_context_for_thread()
        assert (context[_who], context.get(running)) == ("request", None)
        context.run(_who.set, "thread")
        assert _who.get() == "request"
        assert running.get() == (library if library != "no sniffio" else None)
    finally:
        _who.reset(token)
