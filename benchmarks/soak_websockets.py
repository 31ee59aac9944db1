"""The soak's clients of websockets, good and bad, each one visit long; see `soak_clients`."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

from benchmarks import frames
from benchmarks.soak_clients import (
    STALL_SECONDS,
    Line,
    Misbehaved,
    Visit,
    connected,
    expect,
    leave,
    may_be_cut,
)
from benchmarks.soak_terms import BLOCK, WEBSOCKET_MESSAGES

NORMAL = (1000).to_bytes(2, "big")


@contextlib.asynccontextmanager
async def websocket(port: int, path: str = "/websocket") -> AsyncIterator[Line]:
    """Open a websocket; its connection ends with the block."""
    async with connected(port) as line:
        await line.send(frames.handshake(path))
        status, _ = await line.head()
        expect(101, status, "websocket")
        yield line


async def next_frame(line: Line) -> tuple[int, bytes]:
    """Read a frame, its kind and its payload; pings before it are answered."""
    while True:
        first, size = await line.reader.readexactly(2)
        if size >= 126:
            size = int.from_bytes(await line.reader.readexactly(2 if size == 126 else 8), "big")
        payload = await line.reader.readexactly(size)
        if first & 0xF != frames.PING:
            return first & 0xF, payload
        await line.send(frames.from_client(payload, frames.PONG))


# --- good clients ------------------------------------------------------------------------------


async def websocket_talk(port: int, chance: random.Random) -> None:
    """Send messages and take them back, then close, or have the app close."""
    messages = chance.randint(1, WEBSOCKET_MESSAGES)
    async with websocket(port) as line:
        for _ in range(messages):
            message = chance.randbytes(chance.choice([0, 5, 200, 100_000]))
            sending = line.send(frames.from_client(message))
            _, came = await asyncio.gather(sending, next_frame(line))
            expect((frames.BINARY, message), came, "websocket message")
        if messages < WEBSOCKET_MESSAGES:
            await line.send(frames.from_client(NORMAL, frames.CLOSE))
        expect((frames.CLOSE, NORMAL), await next_frame(line), "websocket close")
        if messages == WEBSOCKET_MESSAGES:
            await line.send(frames.from_client(NORMAL, frames.CLOSE))
        expect(b"", await line.reader.read(), "end of the websocket")


# --- clients that leave or stall ---------------------------------------------------------------


@may_be_cut
async def leaves_handshake(port: int, chance: random.Random) -> None:
    """Ask for a websocket, in part or as a whole, and go without the answer."""
    head = frames.handshake("/websocket")
    async with connected(port) as line:
        await line.send(head[: chance.choice([chance.randrange(len(head)), len(head)])])
        leave(line, chance)


@may_be_cut
async def leaves_websocket(port: int, chance: random.Random) -> None:
    """Go from an open websocket: silent, within a frame, a message or the close, or before an echo is read."""
    payload = chance.randbytes(chance.choice([5, 200, 100_000]))
    frame = frames.from_client(payload)
    fragment = bytes([frame[0] & 0x7F]) + frame[1:]
    farewell = frames.from_client(NORMAL, frames.CLOSE)
    part = frame[: chance.randrange(len(frame))]
    async with websocket(port) as line:
        await line.send(chance.choice([b"", part, fragment, frame, farewell[:-1], farewell]))
        await asyncio.sleep(chance.random() * 0.2)
        leave(line, chance)


@may_be_cut
async def stalls_websocket(port: int, chance: random.Random) -> None:
    """Be sent messages without end, take none for a while, then some or none, and go."""
    async with websocket(port, "/flood") as line:
        await asyncio.sleep(chance.random() * STALL_SECONDS)
        for _ in range(chance.choice([0, 50])):
            expect((frames.BINARY, BLOCK), await next_frame(line), "flood")
        leave(line, chance)


async def silent_websocket(port: int, chance: random.Random) -> None:
    """Answer no ping, perhaps within a frame, until the server ends the connection."""
    async with websocket(port) as line:
        await line.send(chance.choice([b"", frames.from_client(b"x" * 100)[:50]]))
        # Some close with a code before they cut.
        with contextlib.suppress(ConnectionError):
            await line.reader.read(-1)


# --- clients that break the rules --------------------------------------------------------------

BAD_FRAMES = (
    (frames.from_server(b"not masked"), 1002),
    (frames.from_client(b"", 0x3), 1002),
    (frames.from_client(b"", 0x0), 1002),
    (frames.from_client(b"x" * 126, frames.PING), 1002),
    (frames.from_client(b"\xff", frames.TEXT), 1007),
    (frames.from_client(b"\x03\xed", frames.CLOSE), 1002),
)


async def bad_frame(port: int, chance: random.Random) -> None:
    """Send what is no good frame, and be told so by the code of the close."""
    bad, code = chance.choice(BAD_FRAMES)
    async with websocket(port) as line:
        await line.send(bad)
        kind, payload = await next_frame(line)
        expect((frames.CLOSE, code), (kind, int.from_bytes(payload[:2], "big")), "bad frame")


WEBSOCKET_VISITS: dict[Visit, int] = {
    websocket_talk: 8,
    leaves_handshake: 3,
    leaves_websocket: 6,
    stalls_websocket: 3,
    silent_websocket: 1,
    bad_frame: 3,
}
"""For servers with websockets, beside the others; shares of the same measure."""


async def meet_websockets(port: int, count: int) -> bool:
    """Have so many websockets open at one time; true when every one was."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            for _ in range(count):
                await stack.enter_async_context(websocket(port))
        except (Misbehaved, OSError, EOFError):
            return False
        return True
