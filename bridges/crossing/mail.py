"""Mail: what an event loop has for one thread, in order; the opposite way needs no more than ``Gate.ring``.

Guarantees:

- Items arrive once, in order. The thread is woken only if it has seen everything so far.
- The loop's side never waits in ``post``; what it may have under way is told by ``has_room_for``.
- Bytes count until the thread says that it is done with them, which it does before it asks for more.
- ``when_room`` is answered, on the loop, however the thread and the loop interleave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from .bells import Bell
from .gates import Gate

Item = TypeVar("Item")

# Chunks that have piled up leave as one, up to this size; past it copying costs more than the host's write.
_JOIN_BYTES: Final = 65_536


class Mail(Generic[Item]):
    """Items and chunks of bytes from a loop to a thread.

    Without a lock: each side writes its own count, and whoever is to wait says so before it looks again.
    """

    __slots__ = ("_bell", "_done", "_gate", "_items", "_limit", "_put", "_room_at", "_when_room")

    def __init__(self, bell: Bell, gate: Gate, limit: int) -> None:
        """Make it; in the thread.

        Args:
            bell: of the thread.
            gate: of the loop.
            limit: bytes that may be under way.
        """
        self._bell = bell
        self._gate = gate
        self._limit = limit
        self._items: deque[Item | bytes] = deque()
        self._put = 0
        self._done = 0
        self._room_at = 0
        self._when_room: Callable[[], object] | None = None

    @property
    def all_done(self) -> bool:
        """Whether the thread is done with all that counts; from any thread."""
        return self._put == self._done

    # The loop's side.

    def add(self, item: Item) -> None:
        """Append an item without waking the thread; the next one that is posted does."""
        self._items.append(item)

    def post(self, item: Item) -> None:
        """Append an item."""
        self._items.append(item)
        self._bell.ring()

    def post_chunk(self, chunk: bytes) -> None:
        """Append bytes of the body."""
        self._put += len(chunk)
        self._items.append(chunk)
        self._bell.ring()

    def post_weighty(self, item: Item, weight: int) -> None:
        """Append an item that counts as so many bytes, until the thread is done with it."""
        self._put += weight
        self.post(item)

    def take_back(self, item: Item) -> bool:
        """Take an item out again, unless the thread has it already."""
        try:
            self._items.remove(item)
        except ValueError:
            return False
        return True

    def has_room_for(self, size: int) -> bool:
        """Whether so many bytes more may be under way; a chunk larger than the limit may be so alone."""
        under_way = self._put - self._done
        return not under_way or under_way + size <= self._limit

    def when_room(self, size: int, callback: Callable[[], object]) -> None:
        """Have ``callback`` called on the loop when there is room for so many bytes, and most of the limit is free.

        Not earlier: each time costs a turn of both threads.
        """
        self._room_at = max(0, min(self._limit // 4, self._limit - size))
        self._when_room = callback
        self._tell_room()  # the thread may have been done before it could see the callback

    # The thread's side.

    def take(self, seconds: float | None = None) -> Item | bytes | None:
        """Take the next item, waiting for it ``seconds`` at most; None when that was in vain."""
        items = self._items
        while True:
            if items:
                try:
                    return items.popleft()
                except IndexError:
                    continue  # `take_back` came between
            if not self._bell.wait(seconds):
                return None

    def take_rest(self) -> list[Item | bytes]:
        """Take what is there, without waiting."""
        rest: list[Item | bytes] = []
        while self._items:
            try:
                rest.append(self._items.popleft())
            except IndexError:
                break  # `take_back` came between
        return rest

    def join(self, chunk: bytes) -> bytes:
        """Join a chunk that was taken with those behind it, as far as that pays."""
        items = self._items
        chunks = [chunk]
        size = len(chunk)
        while True:
            try:
                following = items[0]
            except IndexError:
                break
            if not isinstance(following, bytes) or size + len(following) > _JOIN_BYTES:
                break
            size += len(following)
            chunks.append(following)
            items.popleft()
        return b"".join(chunks) if len(chunks) > 1 else chunk

    def done(self, size: int) -> None:
        """Say that bytes which were taken are with the host."""
        self._done += size
        if self._when_room is not None:
            self._tell_room()

    def _tell_room(self) -> None:
        if self._put - self._done <= self._room_at:
            self._gate.ring(self._answer_room)

    def _answer_room(self) -> None:
        """Call back; on the loop, which alone writes ``_when_room``. A ring too many asks once more."""
        callback, self._when_room = self._when_room, None
        if callback is not None:
            callback()
