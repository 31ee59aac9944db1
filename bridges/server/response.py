"""Responses as bytes: the head, how the body is framed, and what that means for the connection. No I/O.

Source: RFC 9112 sections 6 and 7.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from ..typing import RawHeaders

_PHRASES: Final = {int(status): status.phrase for status in HTTPStatus}
_BODILESS_STATUSES: Final = frozenset({204, 304})
LAST_CHUNK: Final = b"0\r\n\r\n"


class Transfer(enum.Enum):
    """How a body is told from what follows it."""

    NONE = enum.auto()
    SIZED = enum.auto()
    CHUNKED = enum.auto()
    UNTIL_CLOSE = enum.auto()


class Framing:
    """The framing of one response.

    Attributes:
        transfer: of the body.
        keep_alive: whether another request may follow on the connection.
    """

    __slots__ = ("_head_request", "_http11", "keep_alive", "transfer")

    def __init__(self, head_request: bool, http11: bool, keep_alive: bool) -> None:
        """Begin.

        Args:
            head_request: the method is HEAD.
            http11: the client speaks HTTP/1.1, chunks among it.
            keep_alive: whether the client wants the connection kept.
        """
        self._head_request = head_request
        self._http11 = http11
        self.keep_alive = keep_alive
        self.transfer = Transfer.SIZED

    def head(self, status: int, headers: RawHeaders, date: bytes) -> bytes:
        """Encode the head, and settle the framing by it.

        Args:
            status: the code.
            headers: checked: names in lower case, no hop-by-hop fields, at most one Content-Length.
            date: the field, with its end of line, for a response that has none.
        """
        parts = [_status_line(status)]
        sized = False
        for name, value in headers:
            parts.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                sized = True
            elif name == b"date":
                date = b""
        parts.append(date)
        self._choose(status, sized)
        if self.transfer is Transfer.CHUNKED:
            parts.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        elif not self._http11:
            parts.append(b"connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def _choose(self, status: int, sized: bool) -> None:
        if self._head_request or status in _BODILESS_STATUSES:
            self.transfer = Transfer.NONE
        elif sized:
            self.transfer = Transfer.SIZED
        elif self._http11:
            self.transfer = Transfer.CHUNKED
        else:
            self.transfer = Transfer.UNTIL_CLOSE
            self.keep_alive = False

    def frame(self, body: bytes, last: bool) -> bytes:
        """Encode a piece of the body, and the end of it behind the last one, unless trailers are to come."""
        if self.transfer is not Transfer.CHUNKED:
            return b"" if self.transfer is Transfer.NONE else body
        if not body:
            return LAST_CHUNK if last else b""
        if last:
            return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        return b"%x\r\n%b\r\n" % (len(body), body)

    def trailers(self, fields: Iterable[tuple[str, str]]) -> bytes:
        """Encode the end of a body in chunks, with the fields that follow it (RFC 9112 section 7.1.2)."""
        if self.transfer is not Transfer.CHUNKED:
            return b""
        return b"0\r\n" + encode_fields(fields) + b"\r\n"


def early_hints(fields: Iterable[tuple[str, str]]) -> bytes:
    """Encode a 103 response (RFC 8297)."""
    return _status_line(103) + encode_fields(fields) + b"\r\n"


def encode_fields(fields: Iterable[tuple[str, str]]) -> bytes:
    """Encode fields that were checked."""
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("latin-1")


def simple_response(
    status: int,
    sentence: str,
    *,
    head_request: bool,
    http11: bool,
    keep_alive: bool,
    date: bytes,
    more_headers: Iterable[tuple[bytes, bytes]] = (),
) -> tuple[bytes, bool]:
    """Encode a response that the server gives by itself: a sentence in plain text.

    Returns:
        The bytes, and whether the connection is kept.
    """
    body = sentence.encode("utf-8", "replace") + b"\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        *more_headers,
    ]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    framing = Framing(head_request, http11, keep_alive)
    return framing.head(status, headers, date) + framing.frame(body, True), framing.keep_alive


@lru_cache(maxsize=1024)
def _status_line(status: int) -> bytes:
    # A reason may be empty, but the space before it may not go (RFC 9112 section 4).
    return f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode("ascii")
