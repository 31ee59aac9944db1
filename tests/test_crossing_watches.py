"""Watches of sockets, on every event loop: those of asyncio's loops, and those by tasks for any."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import sniffio
from crossing_tools import PATIENCE_SECONDS, run_on

from bridges.crossing.watches import LoopWatch, TaskWatch, Watch


class Watched:
    """A socket, its other end, and what was called for it.

    Attributes:
        ours: the socket that is watched.
        theirs: its other end.
        calls: ``"r"`` and ``"w"``, in order.
        on_readable: called with each ``"r"``.
        on_writable: called with each ``"w"``.
    """

    watch: Watch

    def __init__(self, pair: tuple[socket.socket, socket.socket] | None = None) -> None:
        self.ours, self.theirs = pair or socket.socketpair()
        self.ours.setblocking(False)
        self.calls = ""
        self.on_readable: Callable[[], object] = self.take
        self.on_writable: Callable[[], object] = self.no_more
        self._within = False

    def take(self) -> None:
        """Read one byte."""
        self.ours.recv(1)

    def no_more(self) -> None:
        """Watch for writing no more."""
        self.watch.write(False)

    def readable(self) -> None:
        self._called("r", self.on_readable)

    def writable(self) -> None:
        self._called("w", self.on_writable)

    def _called(self, what: str, act: Callable[[], object]) -> None:
        assert sniffio.current_async_library() in ("asyncio", "trio")  # this is the loop's thread
        assert not self._within, "two callbacks at one time"
        self._within = True
        self.calls += what
        try:
            act()
        finally:
            self._within = False

    async def until(self, calls: str) -> None:
        """Let the loop run until these calls were made, and no others."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while len(self.calls) < len(calls):
                await anyio.lowlevel.checkpoint()
        assert self.calls == calls

    async def rest(self) -> None:
        """Let the loop look at its descriptors some times."""
        for _ in range(10):
            await anyio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def watched(
    kind: str, pair: tuple[socket.socket, socket.socket] | None = None
) -> AsyncIterator[Watched]:
    """Watch a socket; nothing is left at the end."""
    if kind == "loop" and sniffio.current_async_library() != "asyncio":
        pytest.skip("trio has no callbacks")
    this = Watched(pair)
    number = this.ours.fileno()
    async with anyio.create_task_group() as tasks:
        if kind == "loop":
            loop = asyncio.get_running_loop()
            this.watch = LoopWatch(loop, number, this.readable, this.writable)
        else:

            def spawn(work: Any, context: Any) -> anyio.CancelScope:
                scope = anyio.CancelScope()

                async def run() -> None:
                    with scope:
                        await work()

                tasks.start_soon(run)
                return scope

            this.watch = TaskWatch(spawn, number, this.readable, this.writable)
        try:
            yield this
        finally:
            this.watch.close()
    # The tasks have ended by themselves.
    this.ours.close()
    this.theirs.close()


both = pytest.mark.parametrize("kind", ["loop", "task"])


@both
async def test_nothing_is_called_that_was_not_asked_for(kind: str):
    """Not before ``read`` and ``write``, whatever the socket is ready for."""
    async with watched(kind) as this:
        this.theirs.send(b"x")
        await this.rest()
        assert this.calls == ""


@both
async def test_reading_is_called_each_time_something_is_there(kind: str):
    """Again and again until it is read, and not while nothing is there."""
    async with watched(kind) as this:
        this.watch.read(True)
        await this.rest()
        assert this.calls == ""
        this.theirs.send(b"ab")
        await this.until("rr")
        await this.rest()
        assert this.calls == "rr"
        this.theirs.send(b"c")
        await this.until("rrr")


@both
async def test_the_end_is_something_to_read(kind: str):
    """The callback sees it by reading."""
    async with watched(kind) as this:
        got: list[bytes] = []

        def take() -> None:
            got.append(this.ours.recv(10))
            this.watch.read(False)

        this.on_readable = take
        this.watch.read(True)
        this.theirs.close()
        await this.until("r")
        assert got == [b""]


@both
async def test_writing_is_called_while_there_is_room(kind: str):
    """And not while there is none."""
    async with watched(kind) as this:
        size = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                size += this.ours.send(b"x" * 65_536)
        this.watch.write(True)
        await this.rest()
        assert this.calls == ""
        while size:
            size -= len(this.theirs.recv(65_536))
        await this.until("w")


@both
async def test_a_wish_that_is_taken_back_and_repeated(kind: str):
    """Between the two nothing is called, and afterwards as before; saying it twice changes nothing."""
    async with watched(kind) as this:
        for round_ in range(1, 4):
            this.watch.read(True)
            this.watch.read(True)
            await this.rest()
            this.watch.read(False)
            this.theirs.send(b"x")
            await this.rest()
            assert len(this.calls) == round_ - 1
            this.watch.read(True)
            await this.until("r" * round_)
            this.watch.read(False)
            this.watch.read(False)


@both
async def test_a_wish_that_is_taken_back_in_the_same_breath(kind: str):
    """The loop has seen the socket ready, and still nothing comes."""
    async with watched(kind) as this:
        this.theirs.send(b"x")
        this.watch.read(True)
        this.watch.read(False)
        await this.rest()
        assert this.calls == ""
        this.watch.read(True)
        this.watch.read(False)
        this.watch.read(True)
        await this.until("r")


@both
async def test_both_directions_are_apart(kind: str):
    """Taking one back leaves the other."""
    async with watched(kind) as this:
        this.watch.read(True)
        this.watch.write(True)
        await this.until("w")  # which takes itself back
        this.theirs.send(b"x")
        await this.until("wr")
        this.watch.read(False)
        this.watch.write(True)
        this.theirs.send(b"y")
        await this.until("wrw")


@both
@pytest.mark.parametrize("what", ["close", "take back"])
async def test_one_callback_takes_back_the_other(kind: str, what: str):
    """Both were due in the same pass of the loop: one comes, and the other does not any more."""
    async with watched(kind) as this:

        def end() -> None:
            if what == "close":
                this.watch.close()
            else:
                this.watch.read(False)
                this.watch.write(False)

        this.on_readable = this.on_writable = end
        this.theirs.send(b"x")
        this.watch.read(True)
        this.watch.write(True)
        await this.rest()
        assert len(this.calls) == 1


@both
async def test_after_close_the_number_may_be_anothers(kind: str):
    """The loop has let go of the descriptor, and looks at no other in its place."""
    async with watched(kind) as this:
        number = this.ours.fileno()
        this.watch.read(True)
        this.watch.write(True)
        await this.until("w")
        this.watch.close()
        this.watch.close()
        mine, other = socket.socketpair()
        this.ours.close()
        os.dup2(mine.fileno(), number)
        mine.close()
        other.send(b"x")
        await this.rest()
        async with watched(kind, (socket.socket(fileno=number), other)) as again:
            again.watch.read(True)
            await again.until("r")
        assert this.calls == "w"


@both
async def test_close_before_the_loop_has_looked(kind: str):
    """Nothing was begun, and nothing is left."""
    async with watched(kind) as this:
        this.theirs.send(b"x")
        this.watch.read(True)
        this.watch.write(True)
        this.watch.close()
        await this.rest()
        assert this.calls == ""


async def test_a_callback_that_fails_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture):
    """The next one comes as ever."""
    async with watched("task") as this:

        def fail() -> None:
            this.take()
            raise ValueError("oh")

        this.on_readable = fail
        this.watch.read(True)
        for calls in ("r", "rr"):
            this.theirs.send(b"x")
            await this.until(calls)
    records = [each for each in caplog.records if each.name == "bridges.adapters"]
    assert [each.levelno for each in records] == [logging.ERROR] * 2


async def test_a_callback_of_a_loop_that_fails_ends_nothing(anyio_backend_name: str):
    """Asyncio's loops tell their handler of it."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no callbacks")
    failures: list[Any] = []
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    try:
        async with watched("loop") as this:

            def fail() -> None:
                this.take()
                raise ValueError("oh")

            this.on_readable = fail
            this.watch.read(True)
            for calls in ("r", "rr"):
                this.theirs.send(b"x")
                await this.until(calls)
            await this.rest()
    finally:
        loop.set_exception_handler(handler)
    assert [type(each) for each in failures] == [ValueError] * 2


def test_the_loop_is_told_of_changes_alone():
    """Each costs a system call."""
    told: list[tuple[str, bool]] = []

    class Telling(Watch):
        def _watch_reading(self, wanted: bool) -> None:
            told.append(("r", wanted))

        def _watch_writing(self, wanted: bool) -> None:
            told.append(("w", wanted))

    watch = Telling()
    for wanted in (False, True, True, False, False, True):
        watch.read(wanted)
    for wanted in (False, True, True):
        watch.write(wanted)
    watch.close()
    watch.close()
    assert told == [
        ("r", True),
        ("r", False),
        ("r", True),
        ("w", True),
        ("r", False),
        ("w", False),
    ]


def test_close_where_the_loop_has_ended(anyio_backend: Any):
    """It is no error, with something asked for still."""
    if anyio_backend[0] != "asyncio":
        pytest.skip("trio has no callbacks")
    this = Watched()

    async def begin() -> None:
        loop = asyncio.get_running_loop()
        this.watch = LoopWatch(loop, this.ours.fileno(), this.readable, this.writable)
        this.watch.read(True)
        this.watch.write(True)

    run_on(anyio_backend, begin)
    this.watch.close()
    this.ours.close()
    this.theirs.close()
