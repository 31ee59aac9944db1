"""The method of websocket echoes: messages that come back, one under way on each connection.

The client is made of what is the same in every round trip: it sends one frame that was made
beforehand, and compares what comes back with the one frame that is right.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import uvloop

from benchmarks import frames
from benchmarks.contenders import Contender
from benchmarks.measuring import (
    BenchmarkError,
    Meter,
    Sample,
    Server,
    Settings,
    running,
)

# Some servers ping after 20 s; a run ends before.
MOST_SECONDS = 15
SETTLE_SECONDS = 10.0


@dataclass(frozen=True)
class Echo:
    """Binary messages to an app that sends them back.

    Attributes:
        connections: how many at one time.
        size: of a message, in bytes.
    """

    connections: int
    size: int
    rounds_factor: int = 1

    @contextlib.contextmanager
    def opened(self, contender: Contender, settings: Settings) -> Iterator[Server]:
        """Start the server and warm it up for a second."""
        with running(contender, settings.cores) as server:
            self.talk(server, 1)
            yield server

    def measure(self, server: Server, settings: Settings) -> Sample:
        """Return round trips per second and CPU microseconds per round trip."""
        seconds = min(settings.seconds, MOST_SECONDS)
        meter = Meter(server, settings.cores)
        trips = self.talk(server, seconds)
        spent, others = meter.read()
        if spent == 0.0:
            raise BenchmarkError("the server got no CPU: something else holds its core")
        return {"trips": trips / seconds, "trip_us": spent / trips * 1e6, "others": others}

    def talk(self, server: Server, seconds: int) -> int:
        """Send messages to and fro for a while; return how many came back."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self.converse(server.port, seconds))

    async def converse(self, port: int, seconds: int) -> int:
        """Open the connections, let each of them go on as fast as it gets answers, and close them."""
        loop = asyncio.get_running_loop()
        message = secrets.token_bytes(self.size)
        sent, expected = frames.from_client(message), frames.from_server(message)
        speakers = []
        for _ in range(self.connections):
            _, speaker = await loop.create_connection(
                lambda: Speaker(sent, expected), "127.0.0.1", port
            )
            speakers.append(speaker)
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await asyncio.gather(*(speaker.opened for speaker in speakers))
            for speaker in speakers:
                speaker.begin()
            await asyncio.sleep(seconds)
        except TimeoutError as error:
            raise BenchmarkError("a websocket was not accepted in time") from error
        finally:
            for speaker in speakers:
                speaker.leave()
        if faults := [speaker.fault for speaker in speakers if speaker.fault]:
            raise BenchmarkError(faults[0])
        trips = sum(speaker.trips for speaker in speakers)
        if not trips:
            raise BenchmarkError(f"no message came back within {seconds} s")
        return trips


class Speaker(asyncio.Protocol):
    """One connection: a message, then the same one again whenever it has come back.

    Attributes:
        opened: done once the handshake is.
        trips: messages that came back.
        fault: what was wrong, if anything was.
    """

    transport: asyncio.Transport

    def __init__(self, sent: bytes, expected: bytes) -> None:
        self.sent = sent
        self.expected = expected
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pieces: list[bytes] = []
        self.missing = len(expected)
        self.trips = 0
        self.fault = ""
        self.left = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.write(frames.handshake("/"))

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            self.shake_hands(data)
            return
        self.missing -= len(data)
        self.pieces.append(data)
        if self.missing > 0:
            return
        if b"".join(self.pieces) != self.expected:
            self.give_up(f"another message came back: {b''.join(self.pieces)[:20]!r}")
            return
        self.trips += 1
        self.begin()

    def shake_hands(self, data: bytes) -> None:
        """Read the answer to the handshake, in one piece or several."""
        self.pieces.append(data)
        answer = b"".join(self.pieces)
        if not answer.startswith(b"HTTP/1.1 101 ") and len(answer) > 13:
            self.give_up(f"the websocket was refused: {answer[:80]!r}")
        elif answer.endswith(b"\r\n\r\n"):
            self.opened.set_result(None)

    def begin(self) -> None:
        """Send the message, unless the server has gone."""
        if self.fault:
            return
        self.pieces.clear()
        self.missing = len(self.expected)
        self.transport.write(self.sent)

    def give_up(self, sentence: str) -> None:
        """Say what was wrong, and stop."""
        self.fault = self.fault or sentence
        self.transport.abort()
        if not self.opened.done():
            self.opened.set_exception(BenchmarkError(sentence))

    def leave(self) -> None:
        """Go without a word: closing handshakes are no part of the measurement."""
        self.left = True
        self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.left:
            self.give_up(f"the server ended the connection: {error}")
