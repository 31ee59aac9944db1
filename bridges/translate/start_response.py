"""The ``start_response`` state machine: calls and chunks in, what may be sent out.

One object follows one response. It decides, and never sends: the caller forwards what it is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..errors import ApplicationProtocolError
from ..typing import ExcInfo, Message, RawHeaders
from .headers import response_headers_from_wsgi
from .status import code_from_status

_CLAUSE: Final = 'PEP 3333 "The start_response() Callable"'
_LENGTH_CLAUSE: Final = 'PEP 3333 "Handling the Content-Length Header"'
_BODILESS_STATUSES: Final = frozenset({204, 304})


class ResponseState:
    """What is known of one response: its head, how much of its body went by, and whether that may be sent.

    Attributes:
        status: the code, or 0 before ``start``.
        headers: as ASGI headers.
        head_taken: True once ``take_head`` gave the head away; from then on it cannot be replaced.
        dropped_headers: names of hop-by-hop fields that were taken out.
        surplus: True once a chunk went past the Content-Length.
    """

    __slots__ = (
        "_app_name",
        "_body_allowed",
        "_head_request",
        "_remaining",
        "dropped_headers",
        "head_taken",
        "headers",
        "status",
        "surplus",
    )

    def __init__(self, head_request: bool, app_name: str) -> None:
        """Begin.

        Args:
            head_request: the method is HEAD, so that no body may follow the head.
            app_name: what errors call the application.
        """
        self._head_request = head_request
        self._app_name = app_name
        self._body_allowed = True
        self._remaining: int | None = None
        self.status = 0
        self.headers: RawHeaders = []
        self.head_taken = False
        self.dropped_headers: list[str] = []
        self.surplus = False

    def start(
        self, status: str, headers: Iterable[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> None:
        """Take a call of ``start_response``.

        Raises:
            ApplicationProtocolError: a second call without ``exc_info``, or a malformed status or header.
            BaseException: the one in ``exc_info``, when the head is already on its way.
        """
        try:
            if exc_info is not None and exc_info[1] is not None:
                if self.head_taken:
                    raise exc_info[1].with_traceback(exc_info[2])
            elif self.status:
                raise self.error("called start_response() twice without exc_info", _CLAUSE)
        finally:
            exc_info = None  # PEP 3333: or the traceback and this frame would hold each other
        try:
            code = code_from_status(status)
            raw, length, self.dropped_headers = response_headers_from_wsgi(headers)
        except ApplicationProtocolError as error:
            raise self.error(
                f"gave start_response() a bad argument: {error.args[0]}", error.clause
            ) from error
        if code == 204:
            raw = [field for field in raw if field[0] != b"content-length"]  # RFC 9110 section 8.6
        self.status, self.headers, self._remaining = code, raw, length
        self._body_allowed = not self._head_request and code not in _BODILESS_STATUSES

    def feed(self, chunk: object) -> bytes:
        """Take a chunk of the body and give what of it may be sent: nothing, a part, or all.

        Raises:
            ApplicationProtocolError: the chunk is not ``bytes``, or the response was not started.
        """
        if not isinstance(chunk, bytes):
            if not isinstance(chunk, bytearray | memoryview):
                raise self.error(
                    f"produced a {type(chunk).__name__} as part of the body, which must be bytes",
                    'PEP 3333 "A Note On String Types"',
                )
            chunk = bytes(chunk)
        if not self.status:
            raise self.error("produced a body without calling start_response()", _CLAUSE)
        if not self._body_allowed:
            return b""
        if self._remaining is not None:
            if len(chunk) > self._remaining:
                self.surplus = True
                chunk = chunk[: self._remaining]
            self._remaining -= len(chunk)
        return chunk

    @property
    def plain(self) -> bool:
        """True when ``feed`` would pass every ``bytes`` chunk on unchanged."""
        return self._remaining is None and self._body_allowed

    @property
    def body_allowed(self) -> bool:
        """False for HEAD, 204 and 304 (RFC 9110 section 6.4.1)."""
        return self._body_allowed

    @property
    def remaining(self) -> int | None:
        """Bytes that the Content-Length still promises, or None without one."""
        return self._remaining if self._body_allowed else None

    def take_head(self, whole_length: int | None = None, *, trailers: bool = False) -> Message:
        """Give the head as an ASGI message; it is final from now on.

        Args:
            whole_length: length of the whole body in bytes where it is known; becomes the Content-Length if
                the application named none.
            trailers: whether trailers will follow the body.

        Raises:
            ApplicationProtocolError: there is no head yet.
        """
        if not self.status:
            raise self.error("returned without calling start_response()", _CLAUSE)
        self.head_taken = True
        if whole_length is not None and self._remaining is None and self._body_allowed:
            self.headers.append((b"content-length", b"%d" % whole_length))
            self._remaining = whole_length
        message: Message = {
            "type": "http.response.start",
            "status": self.status,
            "headers": self.headers,
        }
        if trailers:
            message["trailers"] = True
        return message

    def finish(self) -> None:
        """Take the end of the body.

        Raises:
            ApplicationProtocolError: fewer bytes came than the Content-Length promised.
        """
        if self._remaining and self._body_allowed:
            raise self.error(
                f"ended the body {self._remaining} bytes short of its Content-Length",
                _LENGTH_CLAUSE,
            )

    def error(self, mistake: str, clause: str) -> ApplicationProtocolError:
        """Word a mistake of the application, by its name."""
        return ApplicationProtocolError(f"{self._app_name} {mistake}", clause)
