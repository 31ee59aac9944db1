"""The request body as the host gives it: ``wsgi.input``, read only by the host's thread and only when asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ..errors import ClientDisconnected
from ..typing import Environ

_BLOCK_BYTES: Final = 65_536
# Each read is a crossing there and back: of a long body it is worth taking more at a time.
_LONG_BLOCK_BYTES: Final = 262_144
_LONG_BYTES: Final = 1_048_576


class RequestBody:
    """Reads ``wsgi.input`` piece by piece, up to the end of the body and never past it."""

    def __init__(self, environ: Environ, length: int | None) -> None:
        """Prepare to read.

        Args:
            environ: whose ``wsgi.input`` is read; one that lacks it has no body.
            length: of the body in bytes; None where ``wsgi.input`` ends by itself (``wsgi.input_terminated``).
        """
        source: Any = environ.get("wsgi.input")
        self._left = length
        long = length is not None and length >= _LONG_BYTES
        self._block = _LONG_BLOCK_BYTES if long else _BLOCK_BYTES
        # read(n) waits for all n bytes; read1 gives what has come, so that a slow upload is seen as it comes.
        self._read: Callable[[int], bytes] | None = (
            getattr(source, "read1", None) or source.read if source is not None else None
        )

    def read(self) -> tuple[bytes, bool]:
        """Give the next piece and whether more follow; waits for the client.

        Raises:
            ClientDisconnected: the body ended before its announced length.
            BaseException: what ``wsgi.input`` raised.
        """
        if self._read is None or self._left == 0:
            return b"", False
        if self._left is None:
            chunk = self._read(self._block)
            return chunk, bool(chunk)
        chunk = self._read(min(self._left, self._block))
        if not chunk:
            raise ClientDisconnected("the client left before its request body was complete")
        self._left -= len(chunk)
        return chunk, self._left > 0
