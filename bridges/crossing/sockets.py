"""The loop's end of a socket pair whose other end a thread reads and writes as it likes.

Guarantees:

- ``read`` gives what the other end wrote, in order, then ``b""`` at its end, however that came about. The other end is
  not to be closed with something unread, though: uvloop does not tell of an end that is an error.
- ``write`` returns when everything is in the system's hands, and so waits while the other end does not read.
- Nothing is read while nobody waits in ``read``: a full pair makes the other end wait.
"""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from ..errors import CrossingError
from .gates import AsyncioGate, Gate

# A websocket's message of 64 KiB and its header are one read.
_READ_BYTES: Final = 131_072


class SocketEnd(ABC):
    """One end of a socket pair; everything but ``peek`` by one task at a time for each direction."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a socket; on the loop."""
        sock.setblocking(False)
        self._socket = sock
        self._unwritten = bytearray()
        self._has_read = False

    @abstractmethod
    async def read(self) -> bytes:
        """Wait for what the other end wrote; ``b""`` is its end."""

    @abstractmethod
    async def _writable(self) -> None:
        """Wait until the other end has read something."""

    async def write(self, data: bytes) -> None:
        """Write everything, waiting while the other end does not read.

        Raises:
            OSError: the other end is closed, or this one is shut.
        """
        self.write_now(data)
        unwritten = self._unwritten
        while unwritten:
            await self._writable()
            del unwritten[: self._send(unwritten)]

    def write_now(self, data: bytes) -> None:
        """Write without waiting: what finds no room is written by the ``write`` under way or by the next one.

        Raises:
            OSError: the other end is closed, or this one is shut.
        """
        if self._unwritten:
            self._unwritten += data
        else:
            sent = self._send(data)
            if sent < len(data):
                self._unwritten += memoryview(data)[sent:]

    @property
    def is_stuck(self) -> bool:
        """Whether something was written that the other end has no room for."""
        return bool(self._unwritten)

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    def has_received(self) -> bool:
        """Tell whether the other end has written anything yet, looked at or not."""
        try:
            return self._has_read or bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def end_writing(self) -> None:
        """Let the other end see the end behind what was written."""
        self._shut(socket.SHUT_WR)

    def shut(self) -> None:
        """End both directions: the other end may read what was written, and its writes fail."""
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        try:
            self._socket.shutdown(how)
        except OSError:
            pass  # the other end is closed: there is nothing left to end

    def close(self) -> None:
        """Close it, when no task uses it any more, and forget what was not written; on the loop."""
        self._socket.close()
        self._unwritten = bytearray()


class _AsyncioEnd(SocketEnd):
    """An end on an asyncio loop, uvloop's among them.

    The loop's own callback reads, and the descriptor stays registered: ``loop.sock_recv`` tries in vain, registers and
    unregisters it each time, which costs two system calls and two passes of the loop more.
    """

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(sock)
        self._loop = loop
        self._watching = False
        self._reader: asyncio.Future[bytes] | None = None
        self._ahead = b""

    async def read(self) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        reader: asyncio.Future[bytes] = self._loop.create_future()
        self._reader = reader
        if not self._watching:
            self._loop.add_reader(self._socket.fileno(), self._on_readable)
            self._watching = True
        try:
            return await reader
        except asyncio.CancelledError:
            if reader.done() and not reader.cancelled():  # it came at the same time
                self._ahead = reader.result()
            raise
        finally:
            self._reader = None

    def _on_readable(self) -> None:
        reader = self._reader
        if reader is None or reader.done():
            self._stop_watching()
            return
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # the other end closed without reading everything
        self._has_read = self._has_read or bool(data)
        reader.set_result(data)

    def _stop_watching(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._socket.fileno())

    async def _writable(self) -> None:
        writer = self._loop.create_future()
        descriptor = self._socket.fileno()
        self._loop.add_writer(descriptor, _set, writer)
        try:
            await writer
        finally:
            self._loop.remove_writer(descriptor)

    def close(self) -> None:
        if not self._loop.is_closed():
            self._stop_watching()
        super().close()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _TrioEnd(SocketEnd):
    """An end in a trio run."""

    def __init__(self, sock: socket.socket) -> None:
        import trio

        super().__init__(sock)
        self._wait_readable: Callable[..., object] = trio.lowlevel.wait_readable
        self._wait_writable: Callable[..., object] = trio.lowlevel.wait_writable

    async def read(self) -> bytes:
        while True:
            await self._wait_readable(self._socket)  # type: ignore[misc]
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return b""
            self._has_read = self._has_read or bool(data)
            return data

    async def _writable(self) -> None:
        await self._wait_writable(self._socket)  # type: ignore[misc]


def socket_pair(gate: Gate) -> tuple[SocketEnd, socket.socket]:
    """Make a socket pair; on the loop.

    Args:
        gate: of the loop.

    Returns:
        The loop's end, and the other one, which blocks: a thread may do with it what it likes.

    Raises:
        CrossingError: the loop cannot watch sockets, or the system has no descriptors left.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise CrossingError(f"no socket pair is to be had: {error}") from error
    theirs.settimeout(None)  # whatever socket.setdefaulttimeout() says
    if isinstance(gate, AsyncioGate):
        return _AsyncioEnd(ours, gate.loop), theirs
    return _TrioEnd(ours), theirs
