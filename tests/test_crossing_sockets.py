"""Socket pairs between a loop and a thread, on every event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import os
import select
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from crossing_tools import PATIENCE_SECONDS, Running, run_on

from bridges.crossing.gates import current_gate
from bridges.crossing.sockets import SocketEnd, _AsyncioEnd, socket_pair
from bridges.errors import CrossingError

ASYNCIO = [pytest.param(("asyncio", {"debug": True}), id="asyncio")]
if importlib.util.find_spec("uvloop"):
    ASYNCIO.append(pytest.param(("asyncio", {"debug": True, "use_uvloop": True}), id="uvloop"))

# More than a pair of sockets holds.
MUCH = bytes(range(256)) * 8_000


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[SocketEnd, socket.socket]]:
    """Make a pair; both ends are closed."""
    end, theirs = socket_pair(current_gate())
    with theirs, contextlib.closing(end), anyio.fail_after(PATIENCE_SECONDS):
        yield end, theirs


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read in the calling thread; less where the end comes first."""
    data = bytearray()
    while len(data) < size and (piece := sock.recv(size - len(data))):
        data += piece
    return bytes(data)


class Reading:
    """A task that reads to the end."""

    def __init__(self, end: SocketEnd) -> None:
        self._end = end
        self.data = bytearray()

    async def __call__(self) -> None:
        while piece := await self._end.read():
            self.data += piece


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something is true."""
    while not condition():
        await anyio.lowlevel.checkpoint()


def has_room(sock: socket.socket) -> bool:
    return bool(select.select([], [sock], [], 0)[1])


def has_data(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def fill(sock: socket.socket) -> int:
    """Write until nothing more goes."""
    size = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            size += sock.send(b"x" * 65_536, socket.MSG_DONTWAIT)
    return size


# Reading.


async def test_read_gives_what_was_written_in_order_and_then_the_end():
    """However much, and in however many pieces; the end comes again for who asks again."""
    async with pair() as (end, theirs):

        def write() -> None:
            for at in range(0, len(MUCH), 100_001):
                theirs.sendall(MUCH[at : at + 100_001])
            theirs.close()

        writer = Running(write)
        reading = Reading(end)
        await reading()
        await writer.wait()
        assert reading.data == MUCH
        assert await end.read() == b""


async def test_read_waits():
    """It gives what comes later, and each piece once."""
    async with pair() as (end, theirs):
        for word in (b"a", b"b", b"c"):
            got: list[bytes] = []

            async def read(got: list[bytes] = got) -> None:
                got.append(await end.read())

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                for _ in range(3):
                    await anyio.lowlevel.checkpoint()
                assert got == []
                theirs.send(word)
            assert got == [word]


async def test_nothing_is_read_while_nobody_waits():
    """A full pair makes the other end wait; what it wrote is all there afterwards."""
    async with pair() as (end, theirs):
        theirs.send(b"first")
        assert await end.read() == b"first"
        size = fill(theirs)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        size += fill(theirs)  # of one read at most, which had been asked for
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert not has_room(theirs)
        theirs.shutdown(socket.SHUT_WR)
        reading = Reading(end)
        await reading()
        assert len(reading.data) == size


@pytest.mark.parametrize("how", ["before it waits", "while it waits", "with something unread"])
async def test_the_end_however_it_comes(how: str):
    """A close of the other end is an end, and no error, if it was emptied as ``bridges.wsgi.websocket`` does."""
    async with pair() as (end, theirs):
        theirs.send(b"last")
        if how == "with something unread":
            await end.write(b"unread")
            theirs.shutdown(socket.SHUT_RDWR)
            assert theirs.recv(100) == b"unread"
        if how != "while it waits":
            theirs.close()
        reading = Reading(end)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reading)
            await until(lambda: reading.data)
            theirs.close()
        assert reading.data == b"last"


async def test_an_end_that_is_an_error_is_an_end():
    """The other end was closed with something unread, and wrote nothing."""
    async with pair() as (end, theirs):
        await end.write(b"unread")
        theirs.close()
        assert await end.read() == b""


@pytest.mark.parametrize("anyio_backend", ASYNCIO)
async def test_a_read_that_is_cancelled_when_the_loop_has_read():
    """What it would have given is given to the next one."""
    async with pair() as (end, theirs):
        assert isinstance(end, _AsyncioEnd)
        reading = asyncio.ensure_future(end.read())
        await anyio.lowlevel.checkpoint()
        theirs.send(b"early")
        end._on_readable()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        theirs.send(b"late")
        assert await end.read() == b"early"
        assert await end.read() == b"late"


@pytest.mark.parametrize("anyio_backend", ASYNCIO)
async def test_the_loop_is_not_kept_busy_by_what_nobody_reads():
    """It looks at the socket once more, and then not until somebody waits."""
    async with pair() as (end, theirs):
        theirs.send(b"a")
        assert await end.read() == b"a"
        theirs.send(b"b")
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert not asyncio.get_running_loop().remove_reader(end._socket.fileno())
        assert await end.read() == b"b"


@pytest.mark.parametrize("word", [b"", b"word"])
async def test_a_cancelled_read_loses_nothing(word: bytes):
    """What came at the same time is given to the next one; so is the end."""
    async with pair() as (end, theirs):
        for _ in range(20):
            async with anyio.create_task_group() as tasks:
                got: list[bytes] = []

                async def read(got: list[bytes] = got) -> None:
                    got.append(await end.read())

                tasks.start_soon(read)
                await anyio.lowlevel.checkpoint()
                if word:
                    theirs.send(word)
                else:
                    theirs.shutdown(socket.SHUT_WR)
                await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            if not got:
                assert await end.read() == word


async def test_what_a_cancelled_read_had_comes_before_what_came_later():
    """The loop had read it already when the task was called off."""
    async with pair() as (end, theirs):
        got: list[bytes] = []
        scope = anyio.CancelScope()

        async def read() -> None:
            with scope:
                got.append(await end.read())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.lowlevel.checkpoint()
            theirs.send(b"early")
            await until(lambda: not has_data(end._socket) or got)
            scope.cancel()
        theirs.send(b"late")
        theirs.shutdown(socket.SHUT_WR)
        reading = Reading(end)
        await reading()
        assert b"".join(got) + reading.data == b"earlylate"


# Writing.


async def test_write_waits_while_the_other_end_does_not_read():
    """It returns when everything is in the system's hands, in order."""
    async with pair() as (end, theirs):
        written: list[bytes] = []

        async def write() -> None:
            for data in (MUCH, b"end"):
                await end.write(data)
                written.append(data)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await until(lambda: end.is_stuck)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            assert written == []
            reader = Running(lambda: read_exactly(theirs, len(MUCH) + 3))
        assert await reader.wait() == MUCH + b"end"
        assert written == [MUCH, b"end"]
        assert not end.is_stuck


async def test_write_now_stands_behind_the_write_under_way():
    """It does not wait, and the other write does for both."""
    async with pair() as (end, theirs):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end.write, MUCH)
            await until(lambda: end.is_stuck)
            end.write_now(b"behind")
            reader = Running(lambda: read_exactly(theirs, len(MUCH) + 6))
        assert await reader.wait() == MUCH + b"behind"


async def test_what_a_cancelled_write_left_is_written_by_the_next():
    """A frame is never torn: what has begun is finished first."""
    async with pair() as (end, theirs):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end.write, MUCH)
            await until(lambda: end.is_stuck)
            tasks.cancel_scope.cancel()
        assert end.is_stuck
        reader = Running(lambda: read_exactly(theirs, len(MUCH) + 4))
        await end.write(b"next")
        assert await reader.wait() == MUCH + b"next"


async def test_writing_to_an_end_that_is_closed_is_an_error():
    """At once, or when the write that waits is woken by it."""
    async with pair() as (end, theirs):
        theirs.close()
        with pytest.raises(OSError, match="Broken pipe"):
            await end.write(b"x")
        with pytest.raises(OSError, match="Broken pipe"):
            end.write_now(b"x")
    async with pair() as (end, theirs):
        failures: list[BaseException] = []

        async def write() -> None:
            try:
                await end.write(MUCH)
            except OSError as error:
                failures.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await until(lambda: end.is_stuck)
            theirs.close()
        assert [type(failure) for failure in failures] == [BrokenPipeError]


async def test_both_directions_at_once():
    """A read and a write that wait do not disturb each other."""
    async with pair() as (end, theirs):
        reading = Reading(end)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reading)
            tasks.start_soon(end.write, MUCH)
            await until(lambda: end.is_stuck)
            theirs.send(b"a")
            await until(lambda: reading.data == b"a")
            reader = Running(lambda: read_exactly(theirs, len(MUCH)))
            assert await reader.wait() == MUCH
            theirs.send(b"b")
            theirs.shutdown(socket.SHUT_WR)
        assert reading.data == b"ab"


# The ends.


async def test_end_writing_lets_the_other_end_answer():
    """It sees the end behind what was written, and what it writes is read."""
    async with pair() as (end, theirs):
        end.write_now(b"last")
        end.end_writing()
        assert read_exactly(theirs, 100) == b"last"
        theirs.send(b"answer")
        assert await end.read() == b"answer"
        with pytest.raises(OSError, match="Broken pipe"):
            end.write_now(b"more")


async def test_shut_ends_both_directions():
    """The other end reads what was written, and cannot write any more; who waits to read sees the end."""
    async with pair() as (end, theirs):
        reading = Reading(end)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reading)
            await anyio.lowlevel.checkpoint()
            end.write_now(b"last")
            end.shut()
        assert reading.data == b""
        assert read_exactly(theirs, 100) == b"last"
        with pytest.raises(OSError, match="Broken pipe"):
            theirs.send(b"x")
        theirs.close()
        end.shut()  # once more is no error
        end.end_writing()


async def test_shut_wakes_the_thread_that_waits():
    """It reads the end."""
    async with pair() as (end, theirs):
        reader = Running(lambda: theirs.recv(1))
        end.shut()
        assert await reader.wait() == b""


async def test_has_received():
    """True from the other end's first byte on, looked at or not; its end alone is no byte."""
    async with pair() as (end, theirs):
        assert not end.has_received()
        theirs.send(b"x")
        assert end.has_received()
        assert await end.read() == b"x", "looking takes nothing"
        theirs.close()
        assert await end.read() == b""
        assert end.has_received()
    async with pair() as (end, theirs):
        theirs.close()
        assert not end.has_received()
        assert await end.read() == b""
        assert not end.has_received()


async def test_a_closed_end_is_not_watched_any_more():
    """Its number may be another file's at once."""
    for _ in range(3):
        end, theirs = socket_pair(current_gate())
        with theirs:
            theirs.send(b"x")
            assert await end.read() == b"x"
            number = end._socket.fileno()
            end.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)
            with contextlib.suppress(BrokenPipeError):
                theirs.send(b"y")
            for _ in range(5):
                await anyio.lowlevel.checkpoint()


# Making one.


@pytest.fixture
def impatient() -> Iterator[None]:
    """Set a default timeout for sockets."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.001)
    yield
    socket.setdefaulttimeout(before)


async def test_the_other_end_blocks(impatient: None):
    """Whatever the default for sockets is; ours does not."""
    async with pair() as (end, theirs):
        assert theirs.gettimeout() is None
        assert end._socket.gettimeout() == 0.0


async def test_no_descriptors_are_left(monkeypatch: pytest.MonkeyPatch):
    """The error says so."""

    def none_left() -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", none_left)
    with pytest.raises(CrossingError, match="Too many open files"):
        socket_pair(current_gate())


def test_an_end_outlives_its_loop(anyio_backend: Any):
    """It can be closed when the loop has ended, as a server does that was killed in the middle."""

    async def begin() -> tuple[SocketEnd, socket.socket]:
        end, theirs = socket_pair(current_gate())
        theirs.send(b"x")
        assert await end.read() == b"x"
        return end, theirs

    end, theirs = run_on(anyio_backend, begin)
    with theirs:
        end.close()
        assert theirs.recv(1) == b""
