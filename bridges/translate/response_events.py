"""The order of ASGI response messages: messages in, what may be sent out.

One object follows one response, the mirror of ``start_response.ResponseState``. It decides, and never sends: the
caller forwards what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, Final, NamedTuple

from ..errors import ApplicationProtocolError
from ..typing import Message
from .headers import checked_response_headers, response_headers_from_asgi
from .status import status_from_code

_START_CLAUSE: Final = 'ASGI HTTP 2.5 "Response Start"'
_BODY_CLAUSE: Final = 'ASGI HTTP 2.5 "Response Body"'
_EXTENSIONS_CLAUSE: Final = "ASGI Extensions"
_LENGTH_CLAUSE: Final = "RFC 9110 section 8.6"
_BODILESS_STATUSES: Final = frozenset({204, 304})


class EarlyHint(NamedTuple):
    """A 103 response to send before the head; ``headers`` are its Link fields."""

    headers: list[tuple[str, str]]


class SendPath(NamedTuple):
    """The file at ``path`` is the whole body.

    Attributes:
        path: of the file.
        length: in bytes, as the Content-Length promises; None without one.
    """

    path: str
    length: int | None


class SendFile(NamedTuple):
    """A part of an open file is the next piece of the body.

    Attributes:
        file: the descriptor, which stays the application's.
        offset: where the part begins, in bytes; None for the current position.
        count: its length in bytes; None for all up to the end.
        more_body: whether more of the body follows.
    """

    file: int
    offset: int | None
    count: int | None  # type: ignore[assignment]  # the message's word; tuple.count is nobody's need
    more_body: bool


class Trailers(NamedTuple):
    """Fields that follow the body, and whether more of them do."""

    headers: list[tuple[str, str]]
    more_trailers: bool


class ResponseEvents:
    """What is known of one response: its head, how much of its body went by, and what may come next.

    Attributes:
        status: the status line, or "" before ``start``.
        code: the number in it.
        headers: of the head, as ``start_response`` takes them.
        head_taken: True once ``take_head`` gave the head away.
        body_allowed: False for HEAD, 204 and 304 (RFC 9110 section 6.4.1): no file may be sent either.
        body_ended: True once the last piece of the body came.
        complete: True once nothing may follow: the body has ended, and the trailers if any were announced.
        wants_trailers: True if the application announced trailers and the host can send them.
        dropped_headers: names of hop-by-hop fields that were taken out.
        remaining: bytes that the Content-Length still promises; None without one, or where it cannot be told.
    """

    # What most responses never change stands here: setting it for each of them would cost.
    _body_begun = False
    status = ""
    code = 0
    headers: list[Any]
    head_taken = False
    body_allowed = True
    body_ended = False
    complete = False
    wants_trailers = False
    dropped_headers: Sequence[str] = ()
    remaining: int | None = None

    _length_name: Any = "content-length"
    _translate: Callable[[Any], tuple[list[Any], int | None, list[str]]] = staticmethod(
        response_headers_from_asgi
    )

    def __init__(self, head_request: bool, app_name: str, extensions: Container[str]) -> None:
        """Begin.

        Args:
            head_request: the method is HEAD, so that no body may follow the head.
            app_name: what errors call the application.
            extensions: names of those that the scope offered.
        """
        self._head_request = head_request
        self._app_name = app_name
        self._extensions = extensions

    @property
    def started(self) -> bool:
        """True once the application has given the head."""
        return self.status != ""

    def start(self, message: Message) -> None:
        """Take ``http.response.start``.

        Trailers announced to a host that cannot send them are not waited for.

        Raises:
            ApplicationProtocolError: a second one, or a malformed status or header; the state stays as it was.
        """
        if self.status:
            raise self.error("sent http.response.start twice", _START_CLAUSE)
        try:
            code: Any = message.get("status")
            status = status_from_code(code)
            headers, length, dropped = self._translate(message.get("headers") or ())
        except ApplicationProtocolError as error:
            raise self.error(
                f"sent a malformed http.response.start: {error.args[0]}", error.clause
            ) from error
        if code in _BODILESS_STATUSES:
            self.body_allowed = False
            if code == 204:  # RFC 9110 section 8.6
                headers = [field for field in headers if field[0] != self._length_name]
        elif self._head_request:
            self.body_allowed = False
        else:
            self.remaining = length
        self.status, self.code, self.headers = status, int(code), headers
        if dropped:
            self.dropped_headers = dropped
        if message.get("trailers"):
            self.wants_trailers = "http.response.trailers" in self._extensions

    def body(self, message: Message) -> bytes:
        """Take ``http.response.body`` and give what of it may be sent: nothing, or all.

        Raises:
            ApplicationProtocolError: before the head, after the end, not ``bytes``, or in conflict with the
                Content-Length; the state stays as it was.
        """
        if not self.status or self.body_ended:
            raise self._out_of_order("http.response.body")
        chunk = message.get("body", b"")
        if not isinstance(chunk, bytes):
            chunk = self._bytes(chunk)
        more_body = message.get("more_body", False)
        if self.remaining is not None:
            self._count(len(chunk), more_body)
        self._body_begun = True
        if not more_body:
            self.body_ended = True
            self.complete = not self.wants_trailers
        return chunk if self.body_allowed else b""

    def extension(self, message: Message) -> EarlyHint | SendPath | SendFile | Trailers:
        """Take a message of another type: of an extension that the scope offered.

        A file is named even where ``body_allowed`` is False; it must not be sent then.

        Raises:
            ApplicationProtocolError: the type is unknown or was not offered, or the message is malformed or out of
                order; the state stays as it was.
        """
        kind = message.get("type")
        try:
            translate = _TRANSLATORS[kind] if kind in self._extensions else None
        except (KeyError, TypeError):
            translate = None
        if translate is None:
            raise self.error(
                f"sent a message of type {kind!r:.80}, which is not one of HTTP responses nor of an extension in its"
                " scope",
                _EXTENSIONS_CLAUSE,
            )
        event: EarlyHint | SendPath | SendFile | Trailers = translate(self, message)
        return event

    def take_head(self, whole_length: int | None = None) -> tuple[str, list[Any]]:
        """Give status line and headers; they are final from now on.

        Args:
            whole_length: length of the whole body in bytes where it is known; becomes the Content-Length if the
                application named none and a body may be sent.

        Raises:
            ApplicationProtocolError: there is no head yet.
        """
        if not self.status:
            raise self.error("sent no http.response.start", _START_CLAUSE)
        self.head_taken = True
        if (
            self.remaining is None
            and whole_length is not None
            and self.body_allowed
            and not self._has_length()
        ):
            self.headers.append(self._length_field(whole_length))
        return self.status, self.headers

    def give_back(self, size: int) -> None:
        """Take it that bytes which ``body`` let pass were not sent after all."""
        if self.remaining is not None:
            self.remaining += size

    def finish(self) -> None:
        """Take the end of the application.

        Raises:
            ApplicationProtocolError: it returned before its response was complete.
        """
        if self.complete:
            return
        if not self.status:
            raise self.error("returned without a response", _START_CLAUSE)
        if not self.body_ended:
            raise self.error(
                "returned without ending its response: the last body message has more_body=False",
                _BODY_CLAUSE,
            )
        raise self.error(
            "returned without the trailers that it announced",
            f'{_EXTENSIONS_CLAUSE} "HTTP Trailers"',
        )

    def error(self, mistake: str, clause: str) -> ApplicationProtocolError:
        """Word a mistake of the application, by its name."""
        return ApplicationProtocolError(f"{self._app_name} {mistake}", clause)

    def _length_field(self, length: int) -> Any:
        return self._length_name, str(length)

    def _has_length(self) -> bool:
        return any(name == self._length_name for name, _ in self.headers)

    def _bytes(self, chunk: object) -> bytes:
        if isinstance(chunk, bytearray | memoryview):
            return bytes(chunk)
        raise self.error(
            f"sent a {type(chunk).__name__} as part of the body, which must be bytes", _BODY_CLAUSE
        )

    def _out_of_order(self, kind: str) -> ApplicationProtocolError:
        if not self.status:
            return self.error(f"sent {kind} before http.response.start", _START_CLAUSE)
        return self.error(f"sent {kind} after its response was complete", _BODY_CLAUSE)

    def _count(self, size: int, more_body: object) -> None:
        """Check a piece of the body against the Content-Length."""
        remaining = self.remaining
        if remaining is None:
            return
        if size > remaining:
            raise self.error(
                f"sent {size - remaining} bytes more than its Content-Length", _LENGTH_CLAUSE
            )
        if size < remaining and not more_body:
            raise self.error(
                f"ended the body {remaining - size} bytes short of its Content-Length",
                _LENGTH_CLAUSE,
            )
        self.remaining = remaining - size

    def _end_body(self) -> None:
        self.body_ended = True
        self.complete = not self.wants_trailers

    # Extensions.

    def _early_hint(self, message: Message) -> EarlyHint:
        """Take links; the head may be given already, but must not have been taken: a 103 after it is none."""
        clause = f'{_EXTENSIONS_CLAUSE} "Early Hints"'
        if self.head_taken:
            raise self.error("sent an early hint after the head of its response had left", clause)
        links = message.get("links")
        if links is None or isinstance(links, bytes | str):
            raise self.error(
                f"sent an early hint whose links are no iterable of bytes: {links!r:.80}", clause
            )
        return EarlyHint(self._fields([(b"link", link) for link in links], "early hint"))

    def _send_path(self, message: Message) -> SendPath:
        clause = f'{_EXTENSIONS_CLAUSE} "Path Send"'
        if not self.status or self.body_ended:
            raise self._out_of_order("http.response.pathsend")
        if self._body_begun:
            raise self.error("sent http.response.pathsend after a part of the body", clause)
        path = message.get("path")
        if not isinstance(path, str) or not path or "\0" in path:
            raise self.error(
                f"sent http.response.pathsend whose path is no path: {path!r:.80}", clause
            )
        length, self.remaining = self.remaining, None  # the host will read the file
        self._end_body()
        return SendPath(path, length)

    def _send_file(self, message: Message) -> SendFile:
        if not self.status or self.body_ended:
            raise self._out_of_order("http.response.zerocopysend")
        file = self._descriptor(message.get("file"))
        offset = self._size(message, "offset")
        count = self._size(message, "count")
        more_body = bool(message.get("more_body", False))
        if count is None and self.remaining is not None:
            count = self._rest_of_body(more_body)
        if count is not None:
            self._count(count, more_body)
        self._body_begun = True
        if not more_body:
            self._end_body()
        return SendFile(file, offset, count, more_body)

    def _rest_of_body(self, more_body: bool) -> int | None:
        """Give the length that a file without one must have."""
        if more_body:
            raise self.error(
                "sent http.response.zerocopysend without count within a body of known length",
                _LENGTH_CLAUSE,
            )
        return self.remaining

    def _trailers(self, message: Message) -> Trailers:
        clause = f'{_EXTENSIONS_CLAUSE} "HTTP Trailers"'
        if not self.wants_trailers:
            raise self.error("sent trailers that http.response.start did not announce", clause)
        if not self.body_ended or self.complete:
            when = "before the end of the body" if not self.complete else "twice"
            raise self.error(f"sent trailers {when}", clause)
        fields = self._fields(message.get("headers") or (), "trailers")
        if any(name == "content-length" for name, _ in fields):
            raise self.error("sent a Content-Length in the trailers", "RFC 9110 section 6.5.1")
        more_trailers = bool(message.get("more_trailers", False))
        self.complete = not more_trailers
        return Trailers(fields, more_trailers)

    def _fields(self, headers: Any, what: str) -> list[tuple[str, str]]:
        try:
            return response_headers_from_asgi(headers).native
        except ApplicationProtocolError as error:
            raise self.error(f"sent malformed {what}: {error.args[0]}", error.clause) from error

    def _descriptor(self, file: Any) -> int:
        """Give the descriptor of a file, or of an open file object."""
        try:
            descriptor = file if isinstance(file, int) else file.fileno()
            if descriptor >= 0:
                return int(descriptor)
        except (AttributeError, OSError, TypeError, ValueError):
            pass
        raise self.error(
            f"sent http.response.zerocopysend whose file is no open file: {file!r:.80}",
            f'{_EXTENSIONS_CLAUSE} "Zero Copy Send"',
        )

    def _size(self, message: Message, key: str) -> int | None:
        size = message.get(key)
        if size is None or (isinstance(size, int) and size >= 0):
            return size
        raise self.error(
            f"sent http.response.zerocopysend whose {key} is no number of bytes: {size!r:.80}",
            f'{_EXTENSIONS_CLAUSE} "Zero Copy Send"',
        )


class RawResponseEvents(ResponseEvents):
    """The same, with the headers of the head as ASGI has them: pairs of ``bytes``."""

    _length_name = b"content-length"
    _translate = staticmethod(checked_response_headers)

    def _length_field(self, length: int) -> Any:
        return self._length_name, b"%d" % length


_TRANSLATORS: Final[dict[Any, Any]] = {
    "http.response.early_hint": ResponseEvents._early_hint,
    "http.response.pathsend": ResponseEvents._send_path,
    "http.response.zerocopysend": ResponseEvents._send_file,
    "http.response.trailers": ResponseEvents._trailers,
}
