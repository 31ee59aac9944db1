"""The access log: one line for each request, in which nothing that a client sends can pass for anything else."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

AccessLogFormat: TypeAlias = Literal["common", "json"]

_logger = logging.getLogger("bridges.access")

# The names that the format has, in whatever language the machine speaks.
_MONTHS: Final = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
)

_UNSAFE: Final = re.compile(r"[^ !#-\[\]-~]")
# The client's address stands outside of quotation marks, where a space ends a field.
_UNSAFE_UNQUOTED: Final = re.compile(r"[^!#-\[\]-~]")
_json_text: Final = json.JSONEncoder().encode


class AccessLog:
    r"""Write lines to the logger ``bridges.access``, at level INFO, with the line as the whole message.

    ``common`` is the Common Log Format, ``host - - [10/Oct/2000:13:55:36 +0000] "GET /x HTTP/1.1" 200 2326``, times in
    the zone of the machine. A request whose first line could not be read has ``"-"`` there, and a body without bytes
    ``-`` at the end. Whatever is not printable ASCII stands as ``\xhh``, once for each byte, a quotation mark as
    ``\"`` and a backslash as ``\\``: nothing that a client sends ends a field or a line, or moves a terminal.

    ``json`` is one object a line, with the keys time (ISO 8601), client, method, target, protocol, status, bytes,
    seconds, user_agent and referer; null is what is not known. Each byte of a target or a header is the character of
    the same number (latin-1), so that none is lost, and whatever is not printable ASCII is escaped as JSON does.

    Any thread may use it. Handlers are what may block: they belong to whoever configures logging.

    Source:
        Apache HTTP Server, mod_log_config: "Common Log Format" and the notes on its escapes; RFC 8259.
    """

    __slots__ = ("_is_json", "_second")

    def __init__(self, line_format: AccessLogFormat) -> None:
        """Choose how lines look.

        Args:
            line_format: ``common`` or ``json``.
        """
        self._is_json = line_format == "json"
        # The second that was written last, and how; replaced as a whole, so that threads cannot mix two of them.
        self._second: tuple[int, str, str] | None = None

    @property
    def enabled(self) -> bool:
        """Whether anybody takes the lines; where nobody does, ``log`` returns at once."""
        return _logger.isEnabledFor(logging.INFO)

    def log(
        self,
        client: str | None,
        method: str,
        target: bytes,
        http_version: str,
        status: int,
        body_bytes: int,
        seconds: float,
        headers: Sequence[tuple[bytes, bytes]],
        when: float,
    ) -> None:
        """Write the line of a request that is over.

        Args:
            client: its address; None where it has none, as on a unix socket.
            method: as sent; "" where the first line of the request could not be read.
            target: as sent.
            http_version: ``"1.1"``.
            status: of the response.
            body_bytes: of the response's body that were sent, without what chunks add.
            seconds: from the arrival of the request to the end of the response.
            headers: of the request, names in lower case; looked at for ``json`` only.
            when: the request arrived, in seconds since the epoch.
        """
        if not _logger.isEnabledFor(logging.INFO):
            return
        if self._is_json:
            line = self._json_line(
                client, method, target, http_version, status, body_bytes, seconds, headers, when
            )
        else:
            line = self._common_line(client, method, target, http_version, status, body_bytes, when)
        # Not _logger.info(): finding its caller in the stack takes longer than making the line.
        _logger.handle(_logger.makeRecord(_logger.name, logging.INFO, __file__, 0, line, (), None))

    def _common_line(
        self,
        client: str | None,
        method: str,
        target: bytes,
        http_version: str,
        status: int,
        body_bytes: int,
        when: float,
    ) -> str:
        host = client or "-"
        if _UNSAFE_UNQUOTED.search(host):
            host = _UNSAFE_UNQUOTED.sub(_escape, host)
        request = f"{method} {target.decode('latin-1')} HTTP/{http_version}" if method else "-"
        if _UNSAFE.search(request):
            request = _UNSAFE.sub(_escape, request)
        moment, _ = self._moment(int(when))
        return f'{host} - - [{moment}] "{request}" {status} {body_bytes or "-"}'

    def _json_line(
        self,
        client: str | None,
        method: str,
        target: bytes,
        http_version: str,
        status: int,
        body_bytes: int,
        seconds: float,
        headers: Sequence[tuple[bytes, bytes]],
        when: float,
    ) -> str:
        user_agent = referer = None
        for name, value in headers:
            if name == b"user-agent":
                user_agent = value.decode("latin-1")
            elif name == b"referer":
                referer = value.decode("latin-1")
        second = int(when)
        moment, offset = self._moment(second)
        request = (
            f'"method":{_json_text(method)},"target":{_json_text(target.decode("latin-1"))},'
            f'"protocol":{_json_text("HTTP/" + http_version)}'
            if method
            else '"method":null,"target":null,"protocol":null'
        )
        return (
            f'{{"time":"{moment}.{int((when - second) * 1000):03d}{offset}",'
            f'"client":{_json_text(client)},{request},"status":{status},"bytes":{body_bytes},'
            f'"seconds":{seconds:.6f},"user_agent":{_json_text(user_agent)},"referer":{_json_text(referer)}}}'
        )

    def _moment(self, second: int) -> tuple[str, str]:
        """Write a second of time, once for all requests that arrive in it, and the offset of the zone from UTC."""
        known = self._second
        if known is None or known[0] != second:
            self._second = known = (second, *_written(second, self._is_json))
        return known[1], known[2]


def _written(second: int, as_json: bool) -> tuple[str, str]:
    moment = time.localtime(second)
    minutes = moment.tm_gmtoff // 60
    sign, (hours, minutes) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    clock = f"{moment.tm_hour:02d}:{moment.tm_min:02d}:{moment.tm_sec:02d}"
    if as_json:
        day = f"{moment.tm_year:04d}-{moment.tm_mon:02d}-{moment.tm_mday:02d}"
        return f"{day}T{clock}", f"{sign}{hours:02d}:{minutes:02d}"
    day = f"{moment.tm_mday:02d}/{_MONTHS[moment.tm_mon - 1]}/{moment.tm_year:04d}"
    return f"{day}:{clock} {sign}{hours:02d}{minutes:02d}", ""


def _escape(found: re.Match[str]) -> str:
    """Escape one character, which stands for a byte, or for several if no byte has its number."""
    character = found[0]
    if character in '"\\':
        return "\\" + character
    code = ord(character)
    numbers = [code] if code < 256 else character.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{number:02x}" for number in numbers)
