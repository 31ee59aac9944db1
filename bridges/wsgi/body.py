"""The request body: collected before a thread is taken, or streamed into ``wsgi.input`` while the application reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio

from ..crossing.gates import Gate
from ..crossing.pipes import LoopToThread
from ..errors import ClientDisconnected, PeerProtocolError
from ..typing import Receive

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_READER_BYTES: Final = 65_536
_UNREAD_SECONDS: Final = 30.0


class BodyReader(io.RawIOBase):
    """A raw stream over a source of chunks; handed out inside ``io.BufferedReader``, which adds the rest.

    Runs in the request's thread; a read waits for the client.
    """

    def __init__(self, take: Callable[[], bytes]) -> None:
        """Make a stream.

        Args:
            take: gives the next chunk, waiting for it, and ``b""`` at the end; may raise ``ClientDisconnected``.
        """
        super().__init__()
        self._take = take
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Say that this stream can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill ``buffer`` from one chunk; 0 means the end.

        Raises:
            ClientDisconnected: the client left before the body was complete.
        """
        if not self._rest:
            self._rest = memoryview(self._take())
        target = memoryview(buffer).cast("B")
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def readall(self) -> bytes:
        """Read to the end; the inherited one would ask for small pieces.

        Raises:
            ClientDisconnected: the client left before the body was complete.
        """
        chunks = [bytes(self._rest)]
        self._rest = memoryview(b"")
        while chunk := self._take():
            chunks.append(chunk)
        return b"".join(chunks)


class StreamedBody:
    """A body that is received while the application reads, and not before it does."""

    def __init__(
        self,
        gate: Gate,
        buffer_bytes: int,
        begun: list[bytes],
        meter: BodyMeter,
        ask: Callable[[], None],
    ) -> None:
        """Make a body; on the loop.

        Args:
            gate: of the loop that receives.
            buffer_bytes: bytes that may be received ahead of the application.
            begun: chunks that were received already.
            meter: has counted those, and counts on.
            ask: called in the thread when the application reads for the first time.
        """
        self._pipe = LoopToThread(gate, buffer_bytes, begun)
        self._wanted = gate.signal()
        self._meter = meter
        self._ask = ask
        self._asked = False

    def reader(self) -> io.BufferedReader:
        """Make ``wsgi.input`` (PEP 3333 "Input and Error Streams")."""
        return io.BufferedReader(BodyReader(self._take), _READER_BYTES)

    def want(self) -> None:
        """Let ``pump`` begin; on the loop."""
        self._wanted.set()

    def fail(self, failure: BaseException) -> None:
        """Have the reads raise once they are through with what was received; on the loop."""
        self._pipe.fail(failure)

    async def pump(self, receive: Receive, answering: Callable[[], bool]) -> None:
        """Wait until the body is wanted, then receive it into the pipe until it is complete.

        Args:
            receive: of the server.
            answering: tells whether the response has begun. From then on an application that leaves a full pipe
                unread for 30 seconds loses the rest: nobody would hear its client leave behind it.

        Raises:
            ClientDisconnected: the client left before that.
            PeerProtocolError: the body is larger than allowed (413) or shorter than announced (400).
        """
        await self._wanted.wait()
        more = True
        while more:
            chunk, more = await self._meter.receive(receive)
            while not self._pipe.offer(chunk):
                with anyio.move_on_after(_UNREAD_SECONDS) as patience:
                    await self._pipe.room()
                if patience.cancelled_caught and answering():
                    self.fail(
                        ClientDisconnected("the rest of the request body was not read in time")
                    )
                    return
        self._pipe.end()

    def _take(self) -> bytes:
        if not self._asked:
            self._asked = True
            self._ask()
        return self._pipe.take()


class BodyMeter:
    """Receives a body and holds it to its announced length and to the limit."""

    def __init__(self, length: int | None, max_bytes: int | None) -> None:
        """Begin at zero.

        Args:
            length: in bytes as announced, or None.
            max_bytes: most bytes that may come, or None.
        """
        self._length = length
        self._max_bytes = max_bytes
        self._received = 0

    def check_announced(self) -> None:
        """Hold the announced length to the limit, before any of the body is received.

        Raises:
            PeerProtocolError: it is larger than allowed; hint 413.
        """
        if self._length is not None:
            self._check_size(self._length)

    async def receive(self, receive: Receive) -> tuple[bytes, bool]:
        """Receive a piece of the body.

        Returns:
            The piece, cut at the announced length, and whether more will come.

        Raises:
            ClientDisconnected: the client left.
            PeerProtocolError: the body is larger than allowed (413) or shorter than announced (400).
        """
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected("the client left before its request body was complete")
        chunk: bytes = message.get("body") or b""
        more: bool = message.get("more_body", False)
        self._received += len(chunk)
        if self._length is not None:
            surplus = self._received - self._length
            if surplus > 0:
                return chunk[:-surplus], False
            if surplus < 0 and not more:
                raise PeerProtocolError(
                    f"the request body ended {-surplus} bytes short of its Content-Length",
                    "RFC 9112 section 6.3",
                )
        self._check_size(self._received)
        return chunk, more

    def _check_size(self, size: int) -> None:
        if self._max_bytes is not None and size > self._max_bytes:
            raise PeerProtocolError(
                f"the request body is larger than {self._max_bytes} bytes",
                "RFC 9110 section 15.5.14",
                status_hint=413,
            )


async def collect(receive: Receive, meter: BodyMeter, most_bytes: int) -> tuple[list[bytes], bool]:
    """Receive a body before a thread is taken for it.

    Args:
        receive: of the server.
        meter: counts what comes.
        most_bytes: where to stop; what comes after is left to be streamed.

    Returns:
        The chunks, and whether they are the whole body.

    Raises:
        ClientDisconnected: the client left.
        PeerProtocolError: the body is larger than allowed (413) or shorter than announced (400).
    """
    chunks: list[bytes] = []
    size, more = 0, True
    while more and size <= most_bytes:
        chunk, more = await meter.receive(receive)
        chunks.append(chunk)
        size += len(chunk)
    return chunks, not more
