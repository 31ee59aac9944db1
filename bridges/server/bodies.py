"""Request bodies as they come in: where they end, and what is in them. No I/O.

Source: RFC 9112 sections 6 and 7.
"""

from __future__ import annotations

from typing import Final

import httptools

from ..errors import PeerProtocolError

# A size of eight digits and two ends of line.
_SIZE_LINE_BYTES: Final = 12
_BLANK: Final = b"\r\n\r\n"
_PREAMBLE: Final = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


class SizedBody:
    """A body whose length is known.

    Attributes:
        complete: True once its end has come.
        remaining: bytes that are still to come.
    """

    def __init__(self, length: int) -> None:
        self.complete = False
        self.remaining: int | None = length

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Take some more; gives what is in the body, and what came behind its end."""
        remaining = self.remaining or 0
        rest = b""
        if len(data) >= remaining:
            data, rest = data[:remaining], data[remaining:]
            self.complete = True
        self.remaining = remaining - len(data)
        return [data], rest


class ChunkedBody:
    """A body in chunks, decoded by httptools.

    Attributes:
        complete: True once its end has come.
        remaining: None, for nobody knows.
    """

    remaining = None

    def __init__(self, max_overhead_bytes: int) -> None:
        """Begin.

        Args:
            max_overhead_bytes: most that may come in chunk extensions and trailers, which nobody gets to see.
        """
        self.complete = False
        self._pieces: list[bytes] = []
        self._overhead = -max_overhead_bytes
        # The end of the last piece, as far as it may be the beginning of a blank line.
        self._seam = b""
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_PREAMBLE)

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Decode some more.

        The end of a body in chunks is a blank line: httptools, which would go on with the next request, is given no
        more than up to each blank line, and asked whether the body is complete.

        Returns:
            What is in it, and what came behind its end.

        Raises:
            PeerProtocolError: it is malformed, so that its end cannot be known.
        """
        begin = 0
        while not self.complete:
            end = self._next_blank(data, begin)
            part = data[begin:end]
            if not part:
                break
            self._decode(part)
            begin = end
            self._seam = (self._seam + part[-3:])[-3:]
        pieces, self._pieces = self._pieces, []
        return pieces, data[begin:]

    def _next_blank(self, data: bytes, begin: int) -> int:
        if begin == 0 and self._seam:
            seam = self._seam + data[:3]
            found = seam.find(_BLANK)
            if found >= 0:
                return found + 4 - len(self._seam)
        found = data.find(_BLANK, max(0, begin - 3))
        return len(data) if found < 0 else found + 4

    def _decode(self, part: bytes) -> None:
        self._overhead += len(part)
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserError as error:
            raise PeerProtocolError(f"malformed chunk: {error}", "RFC 9112 section 7.1") from None
        if self._overhead > 0:
            raise PeerProtocolError(
                "too long chunk extensions or trailers", "RFC 9112 section 7.1.1"
            )

    def on_body(self, piece: bytes) -> None:
        """Take a piece from httptools."""
        self._overhead -= len(piece)
        self._pieces.append(piece)

    def on_chunk_header(self) -> None:
        """Learn from httptools that another chunk begins."""
        self._overhead -= _SIZE_LINE_BYTES

    def on_message_complete(self) -> None:
        """Learn the end from httptools."""
        self.complete = True
