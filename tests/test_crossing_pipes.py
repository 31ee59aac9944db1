"""Pipes: bytes and messages between one thread and one task, against models and under forced interleavings."""

from __future__ import annotations

import random
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from crossing_tools import HandGate, Running, Stepped, WatchedGate, dead_gate
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridges.crossing.gates import adopt, current_gate
from bridges.crossing.pipes import LoopToThread, ThreadToLoop
from bridges.errors import CrossingError

LIMIT = 10


class Gone(Exception):
    """What a side that is gone leaves behind."""


def outward(limit: int = LIMIT) -> tuple[WatchedGate, ThreadToLoop[Any]]:
    """Make a pipe from a thread to the running loop."""
    gate = WatchedGate(current_gate())
    return gate, ThreadToLoop(gate, limit)  # type: ignore[arg-type]  # stands for one


def inward(limit: int = LIMIT, begun: tuple[bytes, ...] = ()) -> tuple[WatchedGate, LoopToThread]:
    """Make a pipe from the running loop to a thread."""
    gate = WatchedGate(current_gate())
    return gate, LoopToThread(gate, limit, begun)  # type: ignore[arg-type]  # stands for one


async def take_all(pipe: ThreadToLoop[Any]) -> list[Any]:
    """Take until the end."""
    everything: list[Any] = []
    ended = False
    while not ended:
        items, ended = await pipe.take()
        everything += items
    return everything


# ThreadToLoop: once, in order, all at once.


async def test_take_gives_all_that_is_there():
    """The consumer gets what has piled up in one go, in order, and then the end."""
    _, pipe = outward()
    Running(lambda: [pipe.put(number) for number in range(5)]).result()
    assert await pipe.take() == (list(range(5)), False)
    Running(lambda: pipe.end([5, 6])).result()
    assert await pipe.take() == ([5, 6], True)
    assert await pipe.take() == ([], True)
    assert pipe.failure is None


async def test_item_wakes_a_waiting_take():
    """A take that waits gets the item that comes."""
    gate, pipe = outward()
    taken: list[Any] = []

    async def take() -> None:
        taken.append(await pipe.take())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await gate.until_task_waits()
        assert taken == []
        await Running(lambda: pipe.put("item")).wait()
    assert taken == [(["item"], False)]


async def test_end_wakes_a_waiting_take():
    """A take that waits gets the end, and what it failed with."""
    gate, pipe = outward()
    failure = Gone()
    taken: list[Any] = []

    async def take() -> None:
        taken.append(await pipe.take())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await gate.until_task_waits()
        await Running(lambda: pipe.end(failure=failure)).wait()
    assert taken == [([], True)]
    assert pipe.failure is failure


async def test_failure_comes_after_all_items():
    """Items put before a failure are delivered before it."""
    _, pipe = outward()
    failure = Gone()

    def produce() -> None:
        pipe.put("first")
        pipe.end(["last"], failure)

    Running(produce).result()
    assert not pipe.closed
    assert pipe.ended
    assert await pipe.take() == (["first", "last"], True)
    assert pipe.failure is failure


async def test_many_pipes_of_one_loop():
    """Eight threads at once: everything arrives once and in order, and no batch is larger than the limit."""
    limit, rounds = 4096, 300
    gate = current_gate()

    def produce(pipe: ThreadToLoop[bytes], rng: random.Random) -> bytes:
        sent = []
        for _ in range(rounds):
            chunk = rng.randbytes(rng.choice((1, 10, 1000, 3000, 6000)))
            pipe.put(chunk, len(chunk))
            sent.append(chunk)
        pipe.end([b"end"])
        return b"".join(sent) + b"end"

    async def consume(pipe: ThreadToLoop[bytes], received: list[bytes]) -> None:
        ended = False
        while not ended:
            items, ended = await pipe.take()
            weight = sum(map(len, items)) - 3 * ended
            assert weight <= limit or len(items) - ended == 1
            received += items

    pipes: list[ThreadToLoop[bytes]] = [ThreadToLoop(gate, limit) for _ in range(8)]
    bins: list[list[bytes]] = [[] for _ in pipes]
    producers = [
        Running(lambda pipe=pipe, seed=seed: produce(pipe, random.Random(seed)))
        for seed, pipe in enumerate(pipes)
    ]
    async with anyio.create_task_group() as tasks:
        for pipe, received in zip(pipes, bins, strict=True):
            tasks.start_soon(consume, pipe, received)
    for producer, received in zip(producers, bins, strict=True):
        assert b"".join(received) == await producer.wait()


# ThreadToLoop: coalesced wake-ups, none lost.


async def test_items_before_the_consumer_comes_back_ring_once():
    """Only the first item that a consumer has yet to see wakes it."""
    gate, pipe = outward()
    Running(lambda: [pipe.put(number) for number in range(100)]).result()
    assert gate.rings == 1
    assert await pipe.take() == (list(range(100)), False)
    # It has not been seen to want more: it may be busy sending these.
    Running(lambda: pipe.put("more")).result()
    assert gate.rings == 1
    assert await pipe.take() == (["more"], False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pipe.take)
        await gate.until_task_waits()
        await Running(lambda: pipe.put("wakes")).wait()
    assert gate.rings == 2


async def test_wake_up_that_comes_after_the_item_was_taken():
    """A wake-up that is late, as its item was taken without it, neither is an item nor hides the next one."""
    gate, pipe = outward()
    Running(lambda: pipe.put("early")).result()  # rings, and the loop has not turned
    assert await pipe.take() == (["early"], False)
    taken: list[Any] = []

    async def take() -> None:
        taken.append(await pipe.take())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await gate.until_task_waits()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert taken == []
        await Running(lambda: pipe.put("late")).wait()
    assert taken == [(["late"], False)]


async def test_item_put_while_a_take_is_cancelled():
    """An item that arrives as the take that waits for it is cancelled is there for the next take."""
    gate, pipe = outward()
    taken: list[Any] = []
    scope = anyio.CancelScope()

    async def take() -> None:
        with scope:
            taken.extend((await pipe.take())[0])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await gate.until_task_waits()
        Running(lambda: pipe.put("item")).result()  # the loop has not turned since
        scope.cancel()
    if not taken:
        taken.extend((await pipe.take())[0])
    assert taken == ["item"]


# ThreadToLoop: the limit.


async def test_put_waits_for_room_until_the_consumer_comes_back():
    """Bytes count until the consumer asks for more: taking them alone makes no room."""
    gate, pipe = outward()
    order: list[str] = []

    def produce() -> None:
        pipe.put("full", LIMIT)
        pipe.put("one more", 1)
        order.append("put")

    producer = Running(produce)
    await gate.until_thread_waits()
    waiter = pipe._waiter
    assert await pipe.take() == (["full"], False)
    # Woken now it would find no room: two switches of threads for nothing.
    assert pipe._waiter is waiter is not None
    assert order == []
    order.append("back")
    assert await pipe.take() == (["one more"], False)
    await producer.wait()
    assert order == ["back", "put"]


async def test_item_that_fits_exactly_does_not_wait():
    """The limit itself is allowed."""
    _, pipe = outward()

    def produce() -> None:
        pipe.put("a", LIMIT - 1)
        pipe.put("b", 1)

    Running(produce).result()
    assert await pipe.take() == (["a", "b"], False)


async def test_item_larger_than_the_limit_travels_alone():
    """An item that can never fit goes when the pipe is empty, and not before."""
    gate, pipe = outward()

    def produce() -> None:
        pipe.put("small", 1)
        pipe.put("huge", 100 * LIMIT)

    producer = Running(produce)
    await gate.until_thread_waits()
    assert await pipe.take() == (["small"], False)
    assert await pipe.take() == (["huge"], False)
    await producer.wait()
    huge_first = Running(lambda: pipe.put("next", 1))
    assert await pipe.take() == (["next"], False)
    await huge_first.wait()


async def test_item_without_weight_never_waits():
    """Messages and notes pass a pipe that is full of bytes."""
    _, pipe = outward()

    def produce() -> None:
        pipe.put("full", LIMIT)
        pipe.put("note")

    Running(produce).result()
    assert await pipe.take() == (["full", "note"], False)


async def test_end_never_waits():
    """The last items need no room."""
    _, pipe = outward()

    def produce() -> None:
        pipe.put("full", LIMIT)
        pipe.end(["x" * LIMIT, "y" * LIMIT])

    Running(produce).result()
    assert await pipe.take() == (["full", "x" * LIMIT, "y" * LIMIT], True)


async def test_drain_waits_until_the_consumer_comes_back():
    """A drain ends when everything was taken and the consumer has asked for more, not before."""
    gate, pipe = outward()
    order: list[str] = []

    def produce() -> None:
        pipe.put("file")
        pipe.drain()
        order.append("drained")
        pipe.end()

    producer = Running(produce)
    await gate.until_thread_waits()
    assert await pipe.take() == (["file"], False)
    assert order == []
    order.append("sent")
    assert await pipe.take() == ([], True)
    await producer.wait()
    assert order == ["sent", "drained"]


async def test_drain_of_an_empty_pipe():
    """Nothing to wait for, no wait."""
    _, pipe = outward()
    Running(pipe.drain).result()


# ThreadToLoop: close.


@pytest.mark.spec("FR 33")
async def test_close_reaches_a_put_that_waits():
    """A producer that waits for room is let go with the reason, and its item is dropped."""
    gate, pipe = outward()
    reason = Gone("the client left")

    def produce() -> None:
        pipe.put("full", LIMIT)
        pipe.put("too much", 1)

    producer = Running(produce)
    await gate.until_thread_waits()
    pipe.close(reason)
    with pytest.raises(Gone) as raised:
        await producer.wait()
    assert raised.value is reason
    assert pipe.closed is reason


@pytest.mark.spec("FR 33")
async def test_close_reaches_a_drain_that_waits():
    """A producer that waits for the consumer to be done is let go with the reason."""
    gate, pipe = outward()
    reason = Gone()

    def produce() -> None:
        pipe.put("file")
        pipe.drain()

    producer = Running(produce)
    await gate.until_thread_waits()
    pipe.close(reason)
    with pytest.raises(Gone):
        await producer.wait()


@pytest.mark.spec("FR 33")
async def test_close_reaches_the_next_put_and_drain():
    """Every put after the close raises, with and without weight, and so does a drain."""
    _, pipe = outward()
    pipe.close(Gone())

    def produce() -> None:
        for call in (lambda: pipe.put("a"), lambda: pipe.put("b", 1), pipe.drain):
            with pytest.raises(Gone):
                call()

    Running(produce).result()


async def test_first_reason_to_close_stays():
    """A second close changes nothing."""
    _, pipe = outward()
    first = Gone()
    pipe.close(first)
    pipe.close(LookupError())
    assert pipe.closed is first


async def test_close_drops_items_and_the_end_still_comes():
    """After a close nothing is delivered but the end and its failure."""
    _, pipe = outward()
    failure = LookupError()
    Running(lambda: pipe.put("dropped")).result()
    pipe.close(Gone())
    Running(lambda: pipe.end(["dropped too"], failure)).result()
    assert await pipe.take() == ([], True)
    assert pipe.failure is failure


async def test_close_from_a_thread():
    """Any thread may close a pipe."""
    gate, pipe = outward()
    producer = Running(lambda: [pipe.put("full", LIMIT), pipe.put("more", 1)])
    await gate.until_thread_waits()
    Running(lambda: pipe.close(Gone())).result()
    with pytest.raises(Gone):
        await producer.wait()


# ThreadToLoop: nobody waits for itself or for who is gone.


async def test_put_on_the_loop_itself():
    """On the loop, a put that has room is welcome and one that would wait raises, leaving the pipe as it was."""
    _, pipe = outward()
    pipe.put("fits", LIMIT)
    with pytest.raises(CrossingError, match="wait for itself"):
        pipe.put("would wait", 1)
    assert await pipe.take() == (["fits"], False)
    pipe.put("drained?")
    with pytest.raises(CrossingError, match="wait for itself"):
        pipe.drain()
    assert await pipe.take() == (["drained?"], False)


@pytest.mark.spec("FR 97")
async def test_put_from_async_code_that_a_thread_called():
    """An application whose async code writes the response is told so, instead of hanging with the server."""
    gate, pipe = outward()

    async def write() -> None:
        pipe.put("would wait", 1)

    def application() -> None:
        adopt(current)
        pipe.put("fits", LIMIT)
        anyio.from_thread.run(write)

    current = current_gate()
    with pytest.raises(CrossingError, match="wait for itself"):
        await Running(application).wait()
    assert await pipe.take() == (["fits"], False)
    assert gate.rings == 1


def test_put_after_the_loop_has_ended(anyio_backend):
    """A producer that goes on after its loop has ended is told at each put; it never waits for that loop."""
    pipe: ThreadToLoop[str] = _pipe_of_dead_loop(anyio_backend)

    def produce() -> None:
        for _ in range(4):
            with pytest.raises(CrossingError):
                pipe.put("nobody takes this", LIMIT)
        with pytest.raises(CrossingError):
            pipe.drain()

    Running(produce).result()


def test_end_after_the_loop_has_ended(anyio_backend):
    """The end raises too, where nobody has closed the pipe."""
    pipe: ThreadToLoop[str] = _pipe_of_dead_loop(anyio_backend)
    with pytest.raises(CrossingError):
        pipe.end(["nobody takes this"])


def _pipe_of_dead_loop(anyio_backend: Any) -> ThreadToLoop[str]:
    class NoWaiting(WatchedGate):
        def runs_here(self) -> bool:
            raise AssertionError("a thread would wait for a loop that has ended")

    return ThreadToLoop(NoWaiting(dead_gate(anyio_backend)), LIMIT)  # type: ignore[arg-type]  # stands for one


# LoopToThread.


async def test_take_gives_chunks_in_order_and_the_end_again_and_again():
    """Chunks come as they were put, and after them b"" as often as asked."""
    _, pipe = inward(100, (b"begun", b"before"))
    for chunk in (b"a", b"bc", b"def"):
        await pipe.put(chunk)
    pipe.end()

    def consume() -> list[bytes]:
        return [pipe.take() for _ in range(7)]

    chunks = await Running(consume).wait()
    assert chunks == [b"begun", b"before", b"a", b"bc", b"def", b"", b""]


async def test_put_wakes_a_waiting_take():
    """A thread that waits for bytes gets those that come."""
    gate, pipe = inward()
    consumer = Running(pipe.take)
    await gate.until_thread_waits()
    await pipe.put(b"bytes")
    assert await consumer.wait() == b"bytes"


async def test_end_wakes_a_waiting_take_of_a_thread():
    """A thread that waits for bytes learns that there are none."""
    gate, pipe = inward()
    consumer = Running(pipe.take)
    await gate.until_thread_waits()
    pipe.end()
    assert await consumer.wait() == b""


@pytest.mark.spec("FR 33")
async def test_fail_wakes_a_waiting_take():
    """A thread that waits for bytes learns that they will not come."""
    gate, pipe = inward()
    failure = Gone()
    consumer = Running(pipe.take)
    await gate.until_thread_waits()
    pipe.fail(failure)
    with pytest.raises(Gone) as raised:
        await consumer.wait()
    assert raised.value is failure


async def test_failure_comes_after_the_bytes_at_each_take():
    """What arrived before a failure is read first; then every take raises it."""
    _, pipe = inward()
    await pipe.put(b"early")
    pipe.fail(Gone())
    assert pipe.take() == b"early"
    for _ in range(2):
        with pytest.raises(Gone):
            pipe.take()


async def test_fail_after_the_end_changes_nothing():
    """A client that leaves after its whole body has arrived does not spoil it."""
    _, pipe = inward()
    await pipe.put(b"whole")
    pipe.end()
    pipe.fail(Gone())
    assert [pipe.take(), pipe.take()] == [b"whole", b""]


async def test_put_waits_while_the_pipe_is_full():
    """A chunk without room goes in when the thread has taken bytes, and its task wakes up once for that."""
    gate, pipe = inward()
    await pipe.put(b"x" * LIMIT)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pipe.put, b"y")
        await gate.until_task_waits()
        assert gate.rings == 0
        assert await Running(pipe.take).wait() == b"x" * LIMIT
    assert gate.rings == 1
    assert pipe.take() == b"y"


async def test_chunk_that_fits_exactly_does_not_wait():
    """The limit itself is allowed."""
    _, pipe = inward()
    await pipe.put(b"x" * (LIMIT - 1))
    await pipe.put(b"y")
    assert [pipe.take(), pipe.take()] == [b"x" * (LIMIT - 1), b"y"]


async def test_chunk_larger_than_the_limit_travels_alone():
    """A chunk that can never fit goes in when the pipe is empty, and not before."""
    gate, pipe = inward()
    await pipe.put(b"x")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pipe.put, b"y" * LIMIT * 2)
        await gate.until_task_waits()
        assert pipe.take() == b"x"
    assert pipe.take() == b"y" * LIMIT * 2


async def test_put_into_a_pipe_begun_full():
    """Chunks that are in the pipe from the beginning count."""
    gate, pipe = inward(LIMIT, (b"x" * (LIMIT - 1),))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pipe.put, b"yy")
        await gate.until_task_waits()
        assert await Running(lambda: [pipe.take(), pipe.take()]).wait() == [b"x" * 9, b"yy"]


async def test_takes_of_a_pipe_that_is_not_full_ring_nobody():
    """A producer that waits for nothing is not woken."""
    gate, pipe = inward()
    for _ in range(5):
        await pipe.put(b"x")
    await Running(lambda: [pipe.take() for _ in range(5)]).wait()
    assert gate.rings == 0


async def test_put_goes_on_waiting_until_there_is_room():
    """A chunk taken that does not make room enough does not let the producer on."""
    gate, pipe = inward(LIMIT, (b"x", b"y" * (LIMIT - 1)))
    done: list[str] = []

    async def produce() -> None:
        await pipe.put(b"zz")
        done.append("put")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        await gate.until_task_waits()
        assert await Running(pipe.take).wait() == b"x"
        await gate.until_task_waits()
        assert done == []
        assert await Running(pipe.take).wait() == b"y" * (LIMIT - 1)
    assert done == ["put"]
    assert pipe.take() == b"zz"


async def test_take_between_a_look_for_room_and_the_wait():
    """Room made after a producer has found none and before it begins to wait is not overlooked."""

    class TakenAtOnce(WatchedGate):
        def signal(self) -> Any:
            signal = super().signal()
            inner = signal.wait

            async def wait() -> None:
                taken.append(Running(pipe.take).result())
                await inner()

            signal.wait = wait  # type: ignore[method-assign]  # that is the interleaving
            return signal

    taken: list[bytes] = []
    pipe = LoopToThread(TakenAtOnce(current_gate()), LIMIT)  # type: ignore[arg-type]  # stands for one
    await pipe.put(b"x" * LIMIT)
    await pipe.put(b"y")
    assert taken == [b"x" * LIMIT]
    assert pipe.take() == b"y"


async def test_cancelled_put_drops_its_chunk():
    """A put that is cancelled while it waits for room has put nothing, and later puts work."""
    gate, pipe = inward()
    await pipe.put(b"x" * LIMIT)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pipe.put, b"dropped")
        await gate.until_task_waits()
        tasks.cancel_scope.cancel()
    assert pipe.take() == b"x" * LIMIT
    await pipe.put(b"next")
    assert pipe.take() == b"next"
    with pytest.raises(CrossingError):
        pipe.take()


@pytest.mark.spec("FR 31")
async def test_bytes_under_way_never_exceed_the_limit():
    """The producer runs ahead by at most the limit, or by one chunk where that alone is larger."""
    gate, pipe = inward(LIMIT)
    put_bytes = 0

    async def produce() -> None:
        nonlocal put_bytes
        for size in (LIMIT - 1, LIMIT - 1, 1):
            await pipe.put(b"x" * size)
            put_bytes += size
        pipe.end()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        await gate.until_task_waits()
        ahead = 0
        # Whatever a consumer could take now without waiting is under way.
        while chunk := _take_what_is_there(pipe):
            ahead += len(chunk)
        await anyio.to_thread.run_sync(lambda: [*iter(pipe.take, b"")])
    assert ahead <= LIMIT


def _take_what_is_there(pipe: LoopToThread) -> bytes:
    """Take a chunk; on the loop, where a take that would wait raises."""
    try:
        return pipe.take()
    except CrossingError:
        return b""


@pytest.mark.parametrize("way", ["put", "begun"])
async def test_chunk_without_bytes_is_not_the_end(way):
    """A server may deliver an empty piece of a body before the rest (ASGI "Request"); it ends nothing."""
    _, pipe = inward(100, (b"",) if way == "begun" else ())
    if way == "put":
        await pipe.put(b"")
    await pipe.put(b"rest")
    pipe.end()
    assert b"".join(iter(pipe.take, b"")) == b"rest"


async def test_take_on_the_loop_itself():
    """On the loop, a take of what is there is welcome and one that would wait raises."""
    _, pipe = inward()
    await pipe.put(b"there")
    assert pipe.take() == b"there"
    with pytest.raises(CrossingError, match="wait for itself"):
        pipe.take()
    pipe.end()
    assert pipe.take() == b""


async def test_bytes_are_conserved_by_many_inward_pipes():
    """Six tasks feed six threads: every byte arrives once and in order."""
    rounds = 200
    gate = current_gate()

    async def produce(pipe: LoopToThread, rng: random.Random, sent: list[bytes]) -> None:
        for _ in range(rounds):
            chunk = rng.randbytes(rng.choice((1, 50, 900, 5000)))
            sent.append(chunk)
            await pipe.put(chunk)
        pipe.end()

    pipes = [LoopToThread(gate, 1024) for _ in range(6)]
    bins: list[list[bytes]] = [[] for _ in pipes]
    consumers = [Running(lambda pipe=pipe: b"".join(iter(pipe.take, b""))) for pipe in pipes]
    async with anyio.create_task_group() as tasks:
        for seed, (pipe, sent) in enumerate(zip(pipes, bins, strict=True)):
            tasks.start_soon(produce, pipe, random.Random(seed), sent)
    for consumer, sent in zip(consumers, bins, strict=True):
        assert await consumer.wait() == b"".join(sent)


async def test_both_pipes_at_once():
    """An echo through both pipes, each smaller than what goes through, neither blocks nor loses a byte."""
    gate = current_gate()
    inside, outside = LoopToThread(gate, 100), ThreadToLoop[bytes](gate, 100)
    body = random.Random(5).randbytes(60_000)

    def echo() -> None:
        while chunk := inside.take():
            outside.put(chunk, len(chunk))
        outside.end()

    async def feed() -> None:
        for start in range(0, len(body), 170):
            await inside.put(body[start : start + 170])
        inside.end()

    thread = Running(echo)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed)
        assert b"".join(await take_all(outside)) == body
    await thread.wait()


# Models: random sequences of all that can be done, one step at a time.


class OutwardModel(RuleBasedStateMachine):
    """ThreadToLoop against a list: what must wait raises, as the thread of the test is the loop's."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = HandGate()
        self.pipe: ThreadToLoop[int] = ThreadToLoop(self.gate, LIMIT)  # type: ignore[arg-type]
        self.there: list[tuple[int, int]] = []
        self.taken_weight = 0
        self.consumer: Stepped | None = None
        self.consumer_has_seen_all = True
        self.ended = False
        self.failure: BaseException | None = None
        self.reason: BaseException | None = None
        self.next_item = 0
        self.rings = 0

    def _weight(self) -> int:
        return self.taken_weight + sum(weight for _, weight in self.there)

    def _expect_ring(self) -> None:
        self.rings += self.consumer_has_seen_all
        self.consumer_has_seen_all = False

    @precondition(lambda self: not self.ended)
    @rule(weight=st.integers(0, LIMIT + 5))
    def put(self, weight: int) -> None:
        self.next_item += 1
        if self.reason is not None:
            with pytest.raises(Gone) as raised:
                self.pipe.put(self.next_item, weight)
            assert raised.value is self.reason
        elif weight and self._weight() and self._weight() + weight > LIMIT:
            with pytest.raises(CrossingError):
                self.pipe.put(self.next_item, weight)
        else:
            self.pipe.put(self.next_item, weight)
            self.there.append((self.next_item, weight))
            self._expect_ring()

    @precondition(lambda self: not self.ended)
    @rule(count=st.integers(0, 3), weight=st.integers(0, LIMIT + 5))
    def put_all(self, count: int, weight: int) -> None:
        items = [self.next_item + 1 + number for number in range(count)]
        self.next_item += count
        if self.reason is not None:
            with pytest.raises(Gone):
                self.pipe.put_all(items, weight)
        elif weight and self._weight() and self._weight() + weight > LIMIT:
            with pytest.raises(CrossingError):
                self.pipe.put_all(items, weight)
        elif items:
            self.pipe.put_all(items, weight)
            self.there += zip(items, [weight] + [0] * (count - 1), strict=True)
            self._expect_ring()

    @precondition(lambda self: not self.ended)
    @rule()
    def drain(self) -> None:
        if self.reason is not None:
            with pytest.raises(Gone):
                self.pipe.drain()
        elif self.there or not self.consumer_has_seen_all:
            with pytest.raises(CrossingError):
                self.pipe.drain()
        else:
            self.pipe.drain()

    @precondition(lambda self: not self.ended)
    @rule(count=st.integers(0, 3), fails=st.booleans())
    def end(self, count: int, fails: bool) -> None:
        items = [self.next_item + 1 + number for number in range(count)]
        self.failure = Gone() if fails else None
        self.pipe.end(items, self.failure)
        self.ended = True
        if self.reason is None:
            self.there += [(item, 0) for item in items]
        self._expect_ring()

    @rule()
    def close(self) -> None:
        reason = Gone()
        self.pipe.close(reason)
        self.reason = self.reason or reason
        self.there = []

    @precondition(lambda self: self.consumer is None)
    @rule()
    def take(self) -> None:
        self.consumer = Stepped(self.pipe.take())
        self._see()

    @rule()
    def let_the_loop_turn(self) -> None:
        self.gate.answer()
        if self.consumer is not None:
            self.consumer.step()
            self._see()

    def _see(self) -> None:
        consumer = self.consumer
        assert consumer is not None
        assert consumer.done == bool(self.there or self.ended), "a wake-up was lost or made up"
        if consumer.done:
            assert consumer.value == ([item for item, _ in self.there], self.ended)
            self.taken_weight = sum(weight for _, weight in self.there)
            self.there = []
            self.consumer = None
        else:
            self.taken_weight = 0
            self.consumer_has_seen_all = True

    @invariant()
    def figures(self) -> None:
        assert self.gate.rings == self.rings
        assert self.pipe.ended == self.ended
        assert self.pipe.closed is self.reason
        if self.ended:
            assert self.pipe.failure is self.failure

    def teardown(self) -> None:
        if self.consumer is not None:
            self.consumer.close()


class InwardModel(RuleBasedStateMachine):
    """LoopToThread against a list: what must wait raises, as the thread of the test is the loop's."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = HandGate()
        self.pipe = LoopToThread(self.gate, LIMIT)  # type: ignore[arg-type]  # stands for one
        self.there: list[bytes] = []
        self.producer: Stepped | None = None
        self.chunk = b""
        self.ended = False
        self.failure: BaseException | None = None
        self.put_bytes = b""
        self.taken_bytes = b""

    @precondition(lambda self: self.producer is None and not self.ended)
    @rule(chunk=st.binary(min_size=1, max_size=LIMIT + 5))
    def put(self, chunk: bytes) -> None:
        self.chunk = chunk
        self.producer = Stepped(self.pipe.put(chunk))
        self._check_producer()

    @precondition(lambda self: self.producer is None and not self.ended)
    @rule()
    def end(self) -> None:
        self.pipe.end()
        self.ended = True

    @rule()
    def fail(self) -> None:
        failure = Gone()
        self.pipe.fail(failure)
        if not self.ended:
            self.ended, self.failure = True, failure

    @rule()
    def take(self) -> None:
        if self.there:
            chunk = self.pipe.take()
            self.taken_bytes += chunk
            assert chunk == self.there.pop(0)
        elif not self.ended:
            with pytest.raises(CrossingError):
                self.pipe.take()
        elif self.failure is not None:
            with pytest.raises(Gone) as raised:
                self.pipe.take()
            assert raised.value is self.failure
        else:
            assert self.pipe.take() == b""

    @rule()
    def let_the_loop_turn(self) -> None:
        self.gate.answer()
        if self.producer is not None:
            self.producer.step()
            self._check_producer()

    def _check_producer(self) -> None:
        producer = self.producer
        assert producer is not None
        weight = sum(map(len, self.there))
        has_room = not weight or weight + len(self.chunk) <= LIMIT
        assert producer.done == has_room, "it waits without need, or does not wait"
        if producer.done:
            self.there.append(self.chunk)
            self.put_bytes += self.chunk
            self.producer = None

    @invariant()
    def bytes_are_conserved(self) -> None:
        assert self.taken_bytes + b"".join(self.there) == self.put_bytes

    def teardown(self) -> None:
        if self.producer is not None:
            self.producer.close()


TestOutwardModel = pytest.mark.slow(OutwardModel.TestCase)
TestOutwardModel.settings = settings(max_examples=60, stateful_step_count=40)
TestInwardModel = pytest.mark.slow(InwardModel.TestCase)
TestInwardModel.settings = settings(max_examples=60, stateful_step_count=40)
