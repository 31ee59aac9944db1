"""The two pipes: bounded channels with one producer and one consumer, one end in a thread, the other in a loop.

Guarantees, of both:

- Items arrive once, in order.
- The consumer is woken only if it has seen everything so far (coalesced wake-ups), and a wake-up is never lost.
- The producer runs ahead by at most ``limit`` bytes, or by one item where that alone is larger.
- The end, and the failure that it may carry, reach the consumer after all items before them.

Of ``ThreadToLoop``:

- The consumer takes all that is there at once. Bytes count until it comes back for more, which says that it is
  done with those it took.
- ``close`` by the consumer reaches the producer at its next ``put``, or in the one that it is waiting in, as the
  exception that was given; items not taken are dropped. A loop that has ended closes the pipe likewise.

Of ``LoopToThread``:

- A ``take`` that waits ends with a chunk, the end, or the failure; the loop's side owes it one of them.
- A ``put`` that waits ends with room, or by being cancelled when the thread has gone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from ..errors import CrossingError
from .gates import Gate

Item = TypeVar("Item")


class ThreadToLoop(Generic[Item]):
    """A pipe whose producer is a thread and whose consumer is a task."""

    __slots__ = (
        "_closed",
        "_ended",
        "_gate",
        "_items",
        "_limit",
        "_lock",
        "_ready",
        "_signal",
        "_starving",
        "_taken_weight",
        "_waiter",
        "_weight",
        "failure",
    )

    def __init__(self, gate: Gate, limit: int, ready: Callable[[], object] | None = None) -> None:
        """Make a pipe; on the loop.

        Args:
            gate: of the loop that consumes.
            limit: bytes that may be under way.
            ready: called on the loop when there is something for a consumer that is no task and uses ``take_now``.
        """
        self._gate = gate
        if ready is None:
            self._signal = signal = gate.signal()
            ready = signal.set
        self._ready = ready
        self._limit = limit
        self._lock = threading.Lock()
        self._items: list[Item] = []
        self._weight = 0
        self._taken_weight = 0
        self._starving = True
        self._ended = False
        self._closed: BaseException | None = None
        self._waiter: threading.Lock | None = None  # held by a producer that waits for its release
        self.failure: BaseException | None = None

    # The producer's end: one thread.

    def put(self, item: Item, weight: int = 0) -> None:
        """Append an item, waiting for room if the pipe is full; see ``put_all``."""
        self.put_all((item,), weight)

    def put_all(self, items: Sequence[Item], weight: int) -> None:
        """Append items that belong together, with one wake-up, waiting for room if the pipe is full.

        Args:
            items: what the consumer gets.
            weight: their size in bytes; items without weight never wait.

        Raises:
            BaseException: the one that the consumer closed the pipe with.
        """
        with self._lock:
            while weight and self._weight and self._weight + weight > self._limit:
                if self._closed is not None:
                    raise self._closed
                self._wait()
            if self._closed is not None:
                raise self._closed
            self._items += items
            self._weight += weight
            starving, self._starving = self._starving, False
        if starving:
            self._wake_consumer()

    def drain(self) -> None:
        """Wait until the consumer has taken everything and come back for more.

        Raises:
            BaseException: the one that the consumer closed the pipe with.
        """
        with self._lock:
            while (self._items or not self._starving) and self._closed is None:
                self._wait()
            if self._closed is not None:
                raise self._closed

    def end(self, items: Iterable[Item] = (), failure: BaseException | None = None) -> None:
        """Append the last items, all at once and without waiting, and end the pipe.

        Harmless once the consumer has closed the pipe: the items are dropped.

        Args:
            items: the last ones.
            failure: what the consumer is to raise after them.
        """
        with self._lock:
            if self._closed is None:
                self._items += items
            self.failure = failure
            self._ended = True
            starving, self._starving = self._starving, False
        if starving:
            self._wake_consumer()

    def _wake_consumer(self) -> None:
        try:
            self._gate.ring(self._ready)
        except CrossingError as error:
            self.close(
                error
            )  # nobody will ever take: a producer that goes on must not wait for that
            raise

    def _wait(self) -> None:
        """Let go of the pipe until the consumer has come by; holding its lock before and after."""
        if self._gate.runs_here():
            raise CrossingError(
                "the event loop would wait for itself: write the response in a thread, not from async code"
            )
        waiter = self._waiter = threading.Lock()
        waiter.acquire()
        self._lock.release()
        try:
            waiter.acquire()
        finally:
            self._lock.acquire()

    # The consumer's end: one task.

    @property
    def ended(self) -> bool:
        """True once the producer has ended the pipe; items may be left in it."""
        return self._ended

    @property
    def closed(self) -> BaseException | None:
        """What the consumer closed the pipe with, if it did."""
        return self._closed

    async def take(self) -> tuple[list[Item], bool]:
        """Take all items, waiting for one or for the end.

        Returns:
            The items in order, and whether they are the last; then ``failure`` says how it ended. A pipe that
            was closed gives no items and is not at its end before the producer says so.
        """
        while True:
            if not self._starving:  # only the producer sets it back, and says so by the signal
                items, ended = self.take_now()
                if items or ended:
                    return items, ended
            await self._signal.wait()

    def take_now(self) -> tuple[list[Item], bool]:
        """Take what there is, as ``take`` does, without waiting; nothing means that ``ready`` will be called."""
        with self._lock:
            freed = self._taken_weight
            self._weight -= freed
            items, self._items = self._items, []
            self._taken_weight = self._weight
            ended = self._ended
            self._starving = not items and not ended
            # What is taken still counts, so that most takes leave a producer nothing to wake up for.
            if self._waiter is not None and (freed or self._starving):
                self._let_producer_on(self._waiter)
        if ended:
            self._ready = (
                _nothing  # a consumer that is called back is freed with its last reference
            )
        return items, ended

    def close(self, reason: BaseException) -> None:
        """Refuse everything from now on; from any thread."""
        with self._lock:
            if self._closed is None:
                self._closed = reason
                self._items = []
                if self._waiter is not None:
                    self._let_producer_on(self._waiter)

    def _let_producer_on(self, waiter: threading.Lock) -> None:
        self._waiter = None
        waiter.release()


class LoopToThread:
    """A byte pipe whose producer is a task and whose consumer is a thread."""

    def __init__(
        self,
        gate: Gate,
        limit: int,
        begun: Iterable[bytes] = (),
        on_room: Callable[[], object] | None = None,
    ) -> None:
        """Make a pipe; on the loop.

        Args:
            gate: of the loop that produces.
            limit: bytes that may be under way.
            begun: chunks that are in it already.
            on_room: called on the loop when there is room again, for a producer that is no task.
        """
        self._gate = gate
        self._limit = limit
        self._room = gate.signal()
        self._on_room = on_room or self._room.set
        self._condition = threading.Condition()
        self._chunks = deque(filter(None, begun))
        self._weight = sum(map(len, self._chunks))
        self._producer_waits = False
        self._ended = False
        self._failure: BaseException | None = None

    # The producer's end: one task.

    def offer(self, chunk: bytes) -> bool:
        """Append a chunk if there is room for it, or if nobody will take it any more; on the loop."""
        with self._condition:
            if self._ended or not chunk:
                return True
            if self._weight and self._weight + len(chunk) > self._limit:
                self._producer_waits = True
                return False
            self._chunks.append(chunk)
            self._weight += len(chunk)
            self._condition.notify()
            return True

    async def room(self) -> None:
        """Wait until the consumer has taken something since the last offer was refused."""
        await self._room.wait()

    async def put(self, chunk: bytes) -> None:
        """Append a chunk, waiting for room if the pipe is full."""
        while not self.offer(chunk):
            await self.room()

    def end(self) -> None:
        """Say that no more bytes come; on the loop."""
        with self._condition:
            self._ended = True
            self._condition.notify()

    def fail(self, failure: BaseException) -> None:
        """Say that the bytes end early; the consumer gets those before it, then the exception at each read."""
        with self._condition:
            if not self._ended:
                self._ended = True
                self._failure = failure
                self._condition.notify()

    # The consumer's end: one thread.

    def take(self) -> bytes:
        """Take the next chunk, waiting for one; ``b""`` at the end, again and again.

        Raises:
            BaseException: the one that the producer failed with.
        """
        with self._condition:
            while not self._chunks and not self._ended:
                if self._gate.runs_here():
                    raise CrossingError(
                        "the event loop would wait for itself: read the request body in a thread, before or"
                        " outside async code"
                    )
                self._condition.wait()
            if not self._chunks:
                if self._failure is not None:
                    raise self._failure
                return b""
            chunk = self._chunks.popleft()
            self._weight -= len(chunk)
            ring, self._producer_waits = self._producer_waits, False
        if ring:
            self._gate.ring(self._on_room)
        return chunk


def _nothing() -> None:
    """Do nothing."""
