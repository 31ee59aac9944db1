"""The soak's clients, good and bad, each one visit long, over raw sockets.

A visit takes the address and a random source and returns normally when the server behaved: the
answer was right, or the visit was one that deserves none. Otherwise it raises `Misbehaved`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from benchmarks.soak_terms import BLOCK, EVENT_COUNT, HELLO, LIST_PARTS, STREAM_PARTS

VISIT_SECONDS = 60.0
STALL_SECONDS = 1.0


Visit = Callable[[int, random.Random], Awaitable[None]]

MAY_BE_CUT: set[Visit] = set()


def may_be_cut(visit: Visit) -> Visit:
    """Mark a visit whose connection the server may rightly end first: it answers 400 or nothing and closes."""
    MAY_BE_CUT.add(visit)
    return visit


class Misbehaved(Exception):
    """Raised when the server answered wrongly, or not at all in time."""


@dataclass
class Line:
    """One connection: what was sent comes back as heads and bodies."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Write and wait until the system takes more."""
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, path: str, method: str = "GET", headers: str = "") -> None:
        """Send a request head."""
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n"
        await self.send(head.encode("ascii"))

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read a response head: status and headers, names in lower case."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *rest = raw.decode("latin-1").rstrip().split("\r\n")
        pairs = (line.split(":", 1) for line in rest)
        return int(first.split(" ")[1]), {name.lower(): value.strip() for name, value in pairs}

    async def body(self, headers: dict[str, str]) -> bytes:
        """Read a whole body, by its length or chunk by chunk."""
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        pieces = []
        async for piece in self.chunks():
            pieces.append(piece)
        return b"".join(pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the pieces of a chunked body as they were sent."""
        while True:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            piece = await self.reader.readexactly(size + 2)
            if size == 0:
                return
            yield piece[:-2]

    async def answer(self) -> tuple[int, bytes]:
        """Read a whole response."""
        status, headers = await self.head()
        return status, await self.body(headers)

    def cut(self) -> None:
        """Reset the connection, so that the server learns at once, with an error."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Line]:
    """Open a connection and close it at the end of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**18)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def expect(expected: object, actual: object, what: str) -> None:
    """Compare and raise with both sides cut to a readable length."""
    if expected != actual:
        raise Misbehaved(f"{what}: expected {str(expected)[:60]!r}, got {str(actual)[:60]!r}")


def leave(line: Line, chance: random.Random) -> None:
    """Go away, by a reset half of the times; otherwise the block's end closes in good order."""
    if chance.random() < 0.5:
        line.cut()


# --- good clients ------------------------------------------------------------------------------


async def several_hellos(port: int, chance: random.Random) -> None:
    """Ask small answers on one connection, for as long as the server keeps it."""
    async with connected(port) as line:
        for _ in range(chance.randint(1, 20)):
            await line.ask("/hello")
            status, headers = await line.head()
            expect((200, HELLO), (status, await line.body(headers)), "hello")
            if headers.get("connection") == "close":
                break


async def whole_stream(port: int, chance: random.Random) -> None:
    """Take a stream to its end."""
    async with connected(port) as line:
        await line.ask("/stream")
        expect((200, BLOCK * STREAM_PARTS), await line.answer(), "stream")


async def whole_events(port: int, chance: random.Random) -> None:
    """Take all events."""
    async with connected(port) as line:
        await line.ask("/events")
        status, body = await line.answer()
        expect((200, EVENT_COUNT), (status, body.count(b"\n\n")), "events")


async def whole_upload(port: int, chance: random.Random) -> None:
    """Send a body, in one of the two framings, in pieces with or without pauses."""
    body = chance.randbytes(chance.randint(0, 300_000))
    chunked = chance.random() < 0.5
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    async with connected(port) as line:
        await line.ask("/upload", "POST", f"{framing}\r\n")
        place = 0
        while place < len(body):
            piece = body[place : place + chance.randint(1, 100_000)]
            place += len(piece)
            await line.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if chance.random() < 0.1:
                await asyncio.sleep(chance.random() * 0.05)
        if chunked:
            await line.send(b"0\r\n\r\n")
        receipt = b"%d %d" % (len(body), zlib.crc32(body))
        expect((200, receipt), await line.answer(), "upload")


async def whole_list(port: int, chance: random.Random) -> None:
    """Take the 1 MB list."""
    async with connected(port) as line:
        await line.ask("/list")
        expect((200, BLOCK * LIST_PARTS), await line.answer(), "list")


async def failing_app(port: int, chance: random.Random) -> None:
    """Meet an error of the app, early (500) or late (a cut connection, never a whole answer)."""
    async with connected(port) as line:
        if chance.random() < 0.5:
            await line.ask("/error")
            status, _ = await line.head()
            expect(500, status, "error")
            return
        await line.ask("/late-error")
        try:
            await line.answer()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        raise Misbehaved("late error: half an answer looked whole")


async def background_work(port: int, chance: random.Random) -> None:
    """Take an answer whose app works on, with or without waiting for it."""
    async with connected(port) as line:
        await line.ask("/background")
        expect((200, HELLO), await line.answer(), "background")
        leave(line, chance)


async def sensitive_code(port: int, chance: random.Random) -> None:
    """Have thread-sensitive code run."""
    async with connected(port) as line:
        await line.ask("/sensitive")
        expect((200, HELLO), await line.answer(), "thread-sensitive code")


async def echoed_upload(port: int, chance: random.Random) -> None:
    """Send a body and take it back at the same time."""
    body = chance.randbytes(chance.randint(0, 300_000))
    async with connected(port) as line:
        await line.ask("/echo", "POST", f"Content-Length: {len(body)}\r\n")
        _, answer = await asyncio.gather(line.send(body), line.answer())
        expect((200, body), answer, "echo")


# --- clients that leave ------------------------------------------------------------------------


@may_be_cut
async def leaves_response(port: int, chance: random.Random) -> None:
    """Read a random part of an answer and go."""
    async with connected(port) as line:
        await line.ask(chance.choice(["/stream", "/events", "/list", "/hello", "/late-error"]))
        wanted = chance.choice([0, 1, chance.randint(1, 400_000)])
        while wanted > 0:
            piece = await line.reader.read(min(wanted, 65_536))
            if not piece:
                break
            wanted -= len(piece)
        leave(line, chance)


@may_be_cut
async def leaves_upload(port: int, chance: random.Random) -> None:
    """Promise a body, send a random part of it and go."""
    promised = chance.randint(1, 500_000)
    async with connected(port) as line:
        await line.ask("/upload", "POST", f"Content-Length: {promised}\r\n")
        await line.send(bytes(chance.randrange(promised)))
        leave(line, chance)


@may_be_cut
async def leaves_endless(port: int, chance: random.Random) -> None:
    """Take some of what has no end, silent or not, wait a moment and go."""
    async with connected(port) as line:
        await line.ask(chance.choice(["/ticks", "/deaf"]))
        if chance.random() < 0.9:
            status, _ = await line.head()
            expect(200, status, "endless")
        await asyncio.sleep(chance.random() * 0.2)
        leave(line, chance)


@may_be_cut
async def leaves_echo(port: int, chance: random.Random) -> None:
    """Send part of a body, with what is no framing at its end perhaps, take some of it back and go."""
    async with connected(port) as line:
        await line.ask("/echo", "POST", "Transfer-Encoding: chunked\r\n")
        piece = chance.randbytes(chance.randint(1, 100_000))
        await line.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        if chance.random() < 0.5:
            await line.send(b"no framing\r\n")
        # A host may wait for more than this piece before its app sees any.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(chance.random() * 0.2):
                await line.reader.read(1_000)
        leave(line, chance)


@may_be_cut
async def leaves_head(port: int, chance: random.Random) -> None:
    """Send part of a request head, perhaps nothing, and go."""
    head = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    async with connected(port) as line:
        await line.send(head[: chance.randrange(len(head))])
        leave(line, chance)


# --- clients that stall ------------------------------------------------------------------------


async def stalls_reading(port: int, chance: random.Random) -> None:
    """Take part of the list, stop taking, then take the rest or go."""
    async with connected(port) as line:
        await line.ask(chance.choice(["/list", "/stream"]))
        _, headers = await line.head()
        await asyncio.sleep(chance.random() * STALL_SECONDS)
        if chance.random() < 0.5:
            leave(line, chance)
            return
        body = await line.body(headers)
        expect(0, len(body) % len(BLOCK), "stalled answer")


async def stalls_sending(port: int, chance: random.Random) -> None:
    """Send half a body, stop sending, then send the rest or go."""
    body = chance.randbytes(chance.randint(2, 100_000))
    async with connected(port) as line:
        await line.ask("/upload", "POST", f"Content-Length: {len(body)}\r\n")
        await line.send(body[: len(body) // 2])
        await asyncio.sleep(chance.random() * STALL_SECONDS)
        if chance.random() < 0.5:
            leave(line, chance)
            return
        await line.send(body[len(body) // 2 :])
        receipt = b"%d %d" % (len(body), zlib.crc32(body))
        expect((200, receipt), await line.answer(), "stalled upload")


# --- clients that send garbage -----------------------------------------------------------------

GARBAGE = (
    b"GARBAGE\r\n\r\n",
    b"GET /hello HTTP/1.1\r\nHost 127.0.0.1\r\n\r\n",
    b"GET /hello HTTP/9.9\r\n\r\n",
    b"GET /hello HTTP/1.1\r\nContent-Length: minus one\r\n\r\n",
    b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnothing\r\n",
    b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
    b"GET /%ff%00%zz?%%% HTTP/1.1\r\nHost: a\r\nX_Odd: 1\r\nX-Odd: 2\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x00" * 4096,
)


@may_be_cut
async def sends_garbage(port: int, chance: random.Random) -> None:
    """Send what is no HTTP, wait a moment for whatever comes, and go."""
    async with connected(port) as line:
        noise = chance.randbytes(chance.randint(1, 5_000))
        await line.send(chance.choice([*GARBAGE, noise]))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(chance.random() * STALL_SECONDS):
                await line.reader.read(65_536)
        leave(line, chance)


VISITS: dict[Visit, int] = {
    several_hellos: 30,
    whole_stream: 8,
    whole_events: 4,
    whole_upload: 8,
    whole_list: 6,
    failing_app: 4,
    leaves_response: 14,
    leaves_upload: 8,
    leaves_head: 4,
    stalls_reading: 4,
    stalls_sending: 4,
    sends_garbage: 6,
}
"""Each kind of visit and its share among a hundred."""

ASGI_VISITS: dict[Visit, int] = {
    **VISITS,
    background_work: 8,
    sensitive_code: 8,
    echoed_upload: 6,
    leaves_endless: 6,
    leaves_echo: 4,
}
"""Those that the ASGI probe has more answers for."""


async def pay_visit(visit: Visit, port: int, chance: random.Random) -> None:
    """Make one visit in bounded time.

    Raises:
        Misbehaved: the visit took too long, or the server cut a connection it had to serve.
    """
    try:
        async with asyncio.timeout(VISIT_SECONDS):
            await visit(port, chance)
    except TimeoutError as error:
        raise Misbehaved(f"no end within {VISIT_SECONDS:.0f} s") from error
    except (OSError, EOFError) as error:
        if visit not in MAY_BE_CUT:
            raise Misbehaved(f"cut: {error!r}") from error
