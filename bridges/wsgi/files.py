"""``wsgi.file_wrapper``, and which files the server may send by itself."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from ..typing import Message

_BLOCK_BYTES: Final = 65_536

PATHSEND: Final = "http.response.pathsend"
ZEROCOPYSEND: Final = "http.response.zerocopysend"


class Readable(Protocol):
    """What a file wrapper needs of a file."""

    def read(self, size: int, /) -> bytes:
        """Read up to ``size`` bytes."""


class FileWrapper:
    """A file as response iterable: the ``wsgi.file_wrapper`` of PEP 3333 "Optional Platform-Specific File Handling"."""

    def __init__(self, filelike: Readable, block_size: int = _BLOCK_BYTES) -> None:
        """Wrap a file.

        Args:
            filelike: anything with ``read``; its ``close``, if it has one, is called at the end.
            block_size: bytes to read at a time; small sizes are raised to 64 KiB, since each block crosses
                from the thread to the loop.
        """
        self.filelike = filelike
        self.block_size = max(block_size, _BLOCK_BYTES)

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the blocks."""
        return self

    def __next__(self) -> bytes:
        """Read a block."""
        block = self.filelike.read(self.block_size)
        if not block:
            raise StopIteration
        return block

    def close(self) -> None:
        """Close the file."""
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()


def file_message(
    filelike: Readable, extensions: Mapping[str, Any], length: int | None
) -> tuple[Message, int] | None:
    """Word the message by which the server sends a file itself, if it can and the file is what it seems.

    Args:
        filelike: what the application gave to ``wsgi.file_wrapper``.
        extensions: of the scope.
        length: bytes that the application announced, or None.

    Returns:
        The message and the number of bytes it sends, or None where blocks must be read: no extension, not a
        regular file of the operating system, or not the part of it that was announced.

    Source:
        ASGI extensions "Zero Copy Send" and "Path Send".
    """
    if ZEROCOPYSEND not in extensions and PATHSEND not in extensions:
        return None
    file = _system_file(filelike)
    if file is None:
        return None
    facts = os.fstat(file.fileno())
    if not stat.S_ISREG(facts.st_mode):
        return None
    offset = file.tell()
    available = facts.st_size - offset
    count = available if length is None else length
    if not 0 < count <= available:
        return None
    if ZEROCOPYSEND in extensions:
        return {
            "type": ZEROCOPYSEND,
            "file": file.fileno(),
            "offset": offset,
            "count": count,
            "more_body": False,
        }, count
    if count != facts.st_size or not isinstance(file.name, str | bytes):
        return None
    path = os.path.abspath(os.fsdecode(file.name))
    try:
        same = os.path.samestat(facts, os.stat(path))
    except OSError:
        return None  # moved or deleted since it was opened: only the open file can be read
    return ({"type": PATHSEND, "path": path}, count) if same else None


def _system_file(filelike: Readable) -> io.FileIO | io.BufferedReader | io.BufferedRandom | None:
    """Give the file if reading it gives the bytes on the disk; a GzipFile has a descriptor too and does not."""
    if isinstance(filelike, io.FileIO):
        return filelike
    if isinstance(filelike, io.BufferedReader | io.BufferedRandom) and isinstance(
        filelike.raw, io.FileIO
    ):
        return filelike
    return None
