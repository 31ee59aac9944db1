"""Request heads: the bytes up to the empty line in, what the server has to know of them out. No I/O.

httptools parses the fields, as strictly as llhttp is; what it lets through or cannot see is refused here.

Source: RFC 9110 and 9112.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn
from urllib.parse import unquote_to_bytes

import httptools

from ..errors import PeerProtocolError
from ..typing import Environ

_REQUEST_LINE: Final = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n"
).match
# Tells a version that we do not speak from a line that is none.
_OTHER_VERSION: Final = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [!-~]+ HTTP/[0-9](?:\.[0-9])?\r\n"
).match
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE).fullmatch
# RFC 9110 section 7.2 and RFC 3986 section 3.2.2, without the userinfo; a comma would be the mark of joined fields.
_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?"
).fullmatch

_FORWARDED: Final = frozenset(
    {
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
    }
)
_TO_LOOK_AT: Final = _FORWARDED | {
    b"connection",
    b"content-length",
    b"expect",
    b"host",
    b"transfer-encoding",
    b"upgrade",
}
_MAX_LENGTH_DIGITS: Final = 18
# Of a field section that is worth remembering: an idle connection keeps it.
_MAX_REMEMBERED: Final = 2048
_CACHE_LIMIT: Final = 1024
# Of a domain name; longer ones are not worth remembering.
_MAX_NAME: Final = 255


class FieldMemory:
    """The fields of a connection's last plain request: clients send the same again and again.

    Plain is a request of HTTP/1.1 for a path, without a body, that asks for no other protocol and keeps the connection.
    What the same method's same fields say of another path is then the same.

    Attributes:
        method: of the request, as sent.
        section: the bytes behind the request line.
        headers: as ``RequestHead`` has them.
        forwarded: likewise.
        environ: the part that connection and fields make up of an environ; made by who needs it.
    """

    __slots__ = ("environ", "forwarded", "headers", "method", "section")

    def __init__(self) -> None:
        self.method = self.section = b""
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.forwarded = False
        self.environ: Environ | None = None

    def remember(self, method: bytes, section: bytes, head: RequestHead) -> None:
        """Take a request's fields, in place of those before."""
        self.method, self.section = method, section
        self.headers, self.forwarded = tuple(head.headers), head.forwarded
        self.environ = None


class RequestHead:
    """The head of one request.

    Attributes:
        method: in upper case.
        target: as it was sent.
        raw_path: the path of it, still percent-encoded; ``*`` where a server as a whole is meant.
        path: decoded.
        query: what follows the question mark.
        version: ``"1.0"`` or ``"1.1"``.
        headers: names in lower case, values without surrounding blanks, in order.
        length: of the body in bytes, 0 without one, None where it comes in chunks.
        keep_alive: whether the client wants to go on after this request.
        expects_continue: whether it waits for ``100 Continue`` before it sends the body.
        forwarded: whether there is a field that proxies write.
        upgrade: whether it asks for the websocket protocol in a way that may be granted.
        same_fields: the connection's memory, where the fields are those that it holds.
    """

    # What most requests never change stands here: setting it for each of them would cost.
    length: int | None = 0
    expects_continue = False
    forwarded = False
    upgrade = False
    same_fields: FieldMemory | None = None

    def __init__(self, method: str, target: bytes, version: str) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.keep_alive = version == "1.1"
        self.headers: list[tuple[bytes, bytes]] = []
        self.raw_path, _, self.query = target.partition(b"?")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field from httptools."""
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    @property
    def path(self) -> str:
        """The path, decoded; bytes that are no UTF-8 are replaced, and still there in ``raw_path``."""
        raw_path = self.raw_path
        if b"%" in raw_path:
            return unquote_to_bytes(raw_path).decode("utf-8", "replace")
        return raw_path.decode("ascii")


class HeadParser:
    """Parses heads, under limits."""

    def __init__(self, max_target_bytes: int, max_fields: int) -> None:
        self._max_target_bytes = max_target_bytes
        self._max_fields = max_fields
        self._good_hosts: set[bytes] = set()

    def parse(self, data: bytes, memory: FieldMemory) -> RequestHead:
        """Parse a head.

        Args:
            data: from the request line to the empty line, both included.
            memory: of the connection.

        Raises:
            PeerProtocolError: it must be refused, with ``status_hint``, and the connection closed.
        """
        line = _REQUEST_LINE(data)
        if line is None:
            _refuse_line(data)
        method, target, major, minor = line.groups()
        if major != b"1" or minor > b"1":
            _refuse_version()
        if len(target) > self._max_target_bytes:
            raise PeerProtocolError(
                f"the request target is longer than {self._max_target_bytes} bytes",
                "RFC 9110 section 15.5.15",
                status_hint=414,
            )
        head = RequestHead(method.decode("ascii"), target, "1.1" if minor == b"1" else "1.0")
        section = data[line.end() :]
        may_be_same = head.version == "1.1" and target.startswith(b"/") and b"#" not in target
        if may_be_same and section == memory.section and method == memory.method:
            head.headers.extend(memory.headers)
            head.forwarded = memory.forwarded
            head.same_fields = memory
            return head
        self._parse_fields(head, data)
        self._read_fields(head, [field for field in head.headers if field[0] in _TO_LOOK_AT])
        if may_be_same and _is_plain(head) and len(section) <= _MAX_REMEMBERED:
            memory.remember(method, section, head)
        return head

    def _parse_fields(self, head: RequestHead, data: bytes) -> None:
        try:
            httptools.HttpRequestParser(head).feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # said of every head that asks for it; whether it is granted is not llhttp's to say
        except httptools.HttpParserError as error:
            # Also of methods of other protocols that llhttp knows, for which it has no class.
            if "method" in str(error).lower():
                raise PeerProtocolError(
                    "the method is not known here", "RFC 9110 section 9.1", status_hint=501
                ) from None
            raise PeerProtocolError(f"malformed request head: {error}", "RFC 9112") from None
        if len(head.headers) > self._max_fields:
            raise PeerProtocolError(
                f"more than {self._max_fields} header fields", "RFC 6585 section 5", status_hint=431
            )

    def _read_fields(self, head: RequestHead, fields: list[tuple[bytes, bytes]]) -> None:
        if len(fields) == 1 and fields[0][0] == b"host":
            host: bytes | None = fields[0][1]
        else:
            host = _read_framing(head, fields)
        if host is None and head.version == "1.1":
            raise PeerProtocolError("the Host field is missing", "RFC 9112 section 3.2")
        if head.raw_path[:1] != b"/" or head.method == "CONNECT":
            host = _read_other_form(head)
        elif b"#" in head.target:
            raise PeerProtocolError("a request target holds no fragment", "RFC 9112 section 3.2")
        if host is not None and host not in self._good_hosts:
            self._check_host(host)

    def _check_host(self, host: bytes) -> None:
        parts = _HOST(host)
        if parts is None or int(parts[1] or b"0") > 65_535:
            raise PeerProtocolError(f"invalid host: {host!r:.80}", "RFC 9110 section 7.2")
        if len(self._good_hosts) < _CACHE_LIMIT and len(host) <= _MAX_NAME:
            self._good_hosts.add(host)


def _is_plain(head: RequestHead) -> bool:
    return head.length == 0 and head.keep_alive and not head.upgrade


def _read_framing(head: RequestHead, fields: list[tuple[bytes, bytes]]) -> bytes | None:
    """Read the fields that say how the message and the connection go on; gives the host."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    hosts = values.get(b"host", [])
    if len(hosts) > 1:
        raise PeerProtocolError("more than one Host field", "RFC 9112 section 3.2")
    if b"transfer-encoding" in values:
        _read_transfer_encoding(head, values)
    elif b"content-length" in values:
        head.length = _length(values[b"content-length"])
    head.forwarded = not _FORWARDED.isdisjoint(values)
    tokens = _tokens(values.get(b"connection", ()))
    if b"close" in tokens:
        head.keep_alive = False
    elif b"keep-alive" in tokens:
        head.keep_alive = True
    if b"expect" in values:
        _read_expect(head, values[b"expect"])
    head.upgrade = (
        head.method == "GET"
        and head.version == "1.1"
        and head.length == 0
        and b"upgrade" in tokens
        and b"websocket" in _tokens(values.get(b"upgrade", ()))
    )
    return hosts[0] if hosts else None


def _tokens(values: list[bytes] | tuple[()]) -> list[bytes]:
    return [token.strip(b" \t").lower() for value in values for token in value.split(b",")]


def _length(values: list[bytes]) -> int:
    if len(values) > 1 or not values[0].isdigit() or len(values[0]) > _MAX_LENGTH_DIGITS:
        raise PeerProtocolError("Content-Length is not one number of bytes", "RFC 9112 section 6.3")
    return int(values[0])


def _read_transfer_encoding(head: RequestHead, values: dict[bytes, list[bytes]]) -> None:
    if head.version == "1.0" or b"content-length" in values:
        raise PeerProtocolError(
            "Transfer-Encoding in HTTP/1.0, or beside Content-Length", "RFC 9112 section 6.1"
        )
    codings = _tokens(values[b"transfer-encoding"])
    if codings.count(b"chunked") != 1 or codings[-1] != b"chunked" or b"" in codings:
        raise PeerProtocolError("the body does not end in chunks", "RFC 9112 section 6.3")
    if len(codings) > 1:
        raise PeerProtocolError(
            "only the chunked transfer coding is understood",
            "RFC 9112 section 6.1",
            status_hint=501,
        )
    head.length = None


def _read_expect(head: RequestHead, values: list[bytes]) -> None:
    if _tokens(values) != [b"100-continue"]:
        raise PeerProtocolError(
            "only 100-continue can be expected", "RFC 9110 section 10.1.1", status_hint=417
        )
    head.expects_continue = head.version == "1.1" and head.length != 0


def _read_other_form(head: RequestHead) -> bytes | None:
    """Read a target that is no path: gives the host that counts."""
    if head.method == "CONNECT":
        raise PeerProtocolError(
            "this server is no proxy", "RFC 9110 section 9.3.6", status_hint=501
        )
    if head.target == b"*":
        if head.method != "OPTIONS":
            raise PeerProtocolError("* is a target for OPTIONS only", "RFC 9112 section 3.2.4")
        return next((value for name, value in head.headers if name == b"host"), None)
    parts = _ABSOLUTE(head.target)
    if parts is None or not parts[1] or b"#" in head.target:
        raise PeerProtocolError("malformed request target", "RFC 9112 section 3.2")
    host, rest = parts.groups()
    path, _, head.query = rest.partition(b"?")
    head.raw_path = path or b"/"
    # RFC 9112 section 3.2.2: the host of the target counts, and the Host field is to be ignored.
    head.headers = [
        (b"host", host),
        *(field for field in head.headers if field[0] != b"host"),
    ]
    return host


def _refuse_line(data: bytes) -> NoReturn:
    if _OTHER_VERSION(data):
        _refuse_version()
    raise PeerProtocolError("malformed request line", "RFC 9112 section 3")


def _refuse_version() -> NoReturn:
    raise PeerProtocolError(
        "only HTTP/1.0 and HTTP/1.1 are spoken here", "RFC 9110 section 15.6.6", status_hint=505
    )
