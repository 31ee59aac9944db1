"""Files of responses: by the system's sendfile where the connection is plain, else by reading and writing."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from ..errors import ApplicationProtocolError, ClientDisconnected
from .response import Transfer

if TYPE_CHECKING:
    from .exchange import Exchange

_BLOCK_BYTES: Final = 262_144
_NO_CLIENT: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF})


def open_file(path: str) -> int:
    """Open the file that is to be a response, and give its descriptor; blocks, so not on the loop.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
    except OSError:
        os.close(file)
        raise
    return file


async def send_descriptor(
    exchange: Exchange, file: int, offset: int | None, count: int | None
) -> None:
    """Send a part of an open file as a piece of the body.

    Args:
        exchange: whose response it belongs to.
        file: descriptor, open for reading.
        offset: where the part begins, in bytes; None for the current position.
        count: length of the part in bytes; None for all up to the end.

    Raises:
        OSError: the file cannot be read, or the client has left.
        ApplicationProtocolError: it is shorter than ``count``.
    """
    sent = 0
    plain = exchange.framing.transfer in (Transfer.SIZED, Transfer.UNTIL_CLOSE)
    if plain and exchange.connection.scheme == "http" and hasattr(os, "sendfile"):
        sent = await _by_system(exchange, file, offset, count)
    else:
        sent = await _by_blocks(exchange, file, offset, count)
    if count is not None and sent < count:
        raise ApplicationProtocolError(
            f"a file of the response is {count - sent} bytes shorter than the application said",
            "RFC 9110 section 8.6",
        )


async def _by_blocks(exchange: Exchange, file: int, offset: int | None, count: int | None) -> int:
    sent = 0
    while count is None or sent < count:
        size = _BLOCK_BYTES if count is None else min(_BLOCK_BYTES, count - sent)
        if offset is None:
            block = await asyncio.to_thread(os.read, file, size)
        else:
            block = await asyncio.to_thread(os.pread, file, size, offset + sent)
        if not block:
            break
        exchange.check_client()
        sent += len(block)
        exchange.go_on(block, False)
        await exchange.drained()
    return sent


async def _by_system(exchange: Exchange, file: int, offset: int | None, count: int | None) -> int:
    """Send past the transport, once it has written everything."""
    await exchange.flushed()
    begin = os.lseek(file, 0, os.SEEK_CUR) if offset is None else offset
    sent = 0
    # The loop watches the transport's descriptor for the transport; this one is ours to watch.
    own = os.dup(exchange.connection.transport.get_extra_info("socket").fileno())
    try:
        while count is None or sent < count:
            size = _BLOCK_BYTES if count is None else min(_BLOCK_BYTES, count - sent)
            exchange.check_client()
            done = await _send_some(exchange, own, file, begin + sent, size)
            if done == 0:
                break
            sent += max(done, 0)
    finally:
        os.close(own)
    if offset is None:
        os.lseek(file, begin + sent, os.SEEK_SET)
    return sent


async def _send_some(exchange: Exchange, out: int, file: int, offset: int, size: int) -> int:
    """Send what the socket takes; -1 where it took nothing and has room by now, 0 at the end of the file."""
    try:
        done = os.sendfile(out, file, offset, size)
    except BlockingIOError:
        await _writable(exchange, out)
        return -1
    except OSError as error:
        if error.errno in _NO_CLIENT:
            exchange.connection.cut("the client left")
            raise ClientDisconnected("the client left") from error
        raise
    exchange.sent += done
    await asyncio.sleep(0)  # others want to be served between two blocks
    return done


async def _writable(exchange: Exchange, descriptor: int) -> None:
    loop = exchange.connection.service.loop
    exchange.connection.watch_writing()
    loop.add_writer(descriptor, exchange.wake)
    try:
        await exchange.change()
    finally:
        loop.remove_writer(descriptor)
        exchange.connection.unwatch_writing()
