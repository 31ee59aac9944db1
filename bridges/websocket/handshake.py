"""The opening handshake of a websocket, server's side: a request is checked, and its 101 response made.

Source: RFC 6455 section 4.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from wsproto.utilities import generate_accept_token

from ..errors import ApplicationProtocolError, PeerProtocolError
from ..translate.headers import response_headers_from_asgi
from .deflate import extensions_from_fields, negotiate
from .framing import Framing

UPGRADE_REQUIRED_HEADERS: Final = (
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", b"13"),
)
"""What a response with status 426 must say, beside ``upgrade`` in its Connection field."""

_CLAUSE: Final = "RFC 6455 section 4.2.1"
_ACCEPT_CLAUSE: Final = 'ASGI WebSocket 2.5 "Accept"'

_READ: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"host",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"transfer-encoding",
        b"upgrade",
    }
)

# 16 bytes in base64.
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==").fullmatch
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch


class Handshake(NamedTuple):
    """The request of a client that may have its websocket.

    Attributes:
        subprotocols: that the client offers, in its order.
        extensions: that the client offers, in its order.
        key: of the client, which the response proves to have read.
    """

    subprotocols: list[str]
    extensions: list[str]
    key: bytes

    def accept(
        self,
        subprotocol: str | None = None,
        headers: Iterable[Iterable[bytes]] = (),
        *,
        max_bytes: int,
        deflate: bool,
    ) -> tuple[bytes, Framing]:
        """Give the head of the 101 response, to be written, and the framing of what follows it.

        Args:
            subprotocol: the one that the application chose.
            headers: of the application, as ASGI has them; hop-by-hop fields and Content-Length are left out.
            max_bytes: of one message of the client, compressed ones inflated.
            deflate: whether messages are compressed if the client offers it.

        Raises:
            ApplicationProtocolError: a subprotocol that the client did not offer; a malformed header, or one that
                belongs to the handshake.

        Source:
            RFC 6455 section 4.2.2; ASGI WebSocket 2.5 "Accept".
        """
        head = (
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"Upgrade: websocket\r\n"
            b"Connection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + generate_accept_token(self.key) + b"\r\n"
        )
        if subprotocol is not None:
            if subprotocol not in self.subprotocols:
                raise ApplicationProtocolError(
                    f"subprotocol {subprotocol!r:.80} is none that the client offered:"
                    f" {self.subprotocols!r:.80}",
                    _ACCEPT_CLAUSE,
                )
            head += b"Sec-WebSocket-Protocol: %b\r\n" % subprotocol.encode("ascii")
        agreed = negotiate(self.extensions, max_bytes) if deflate else None
        if agreed is None:
            framing = Framing(max_bytes)
        else:
            answer, extension = agreed
            head += b"Sec-WebSocket-Extensions: %b\r\n" % answer.encode("ascii")
            framing = Framing(max_bytes, extension)
        return head + _lines(headers) + b"\r\n", framing


def asks_for_websocket(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell a request for a websocket from all others, by its Upgrade and Connection fields.

    Source:
        RFC 9110 section 7.8: without the connection option ``upgrade`` the field Upgrade says nothing.
    """
    return _asks_for_websocket(_fields(headers))


def handshake(method: str, http_version: str, headers: Iterable[tuple[bytes, bytes]]) -> Handshake:
    """Check a request for a websocket.

    Args:
        method: of the request.
        http_version: such as ``"1.1"``.
        headers: of the request, names in lower case.

    Raises:
        PeerProtocolError: it cannot have one; hint 426 for another version of the protocol than 13, whose response
            has ``UPGRADE_REQUIRED_HEADERS``, else 400.

    Source:
        RFC 6455 sections 4.2.1 and 4.4. A body is refused because frames would be read from it.
    """
    fields = _fields(headers)
    if method != "GET" or http_version != "1.1":
        raise _refusal(
            f"a websocket needs GET and HTTP/1.1, got {method:.20} and {http_version:.9}"
        )
    if not _asks_for_websocket(fields):
        raise _refusal("a websocket needs 'Upgrade: websocket' and 'Connection: Upgrade'")
    if len(fields.get(b"host", ())) != 1:
        raise _refusal("a request needs one Host")
    if fields.get(b"transfer-encoding") or fields.get(b"content-length", [b"0"]) != [b"0"]:
        raise _refusal("a request for a websocket has no body")
    if fields.get(b"sec-websocket-version") != [b"13"]:
        raise PeerProtocolError(
            "the version of websockets must be 13", "RFC 6455 section 4.4", status_hint=426
        )
    keys = fields.get(b"sec-websocket-key", [])
    if len(keys) != 1 or not _KEY(keys[0]):
        raise _refusal("a websocket needs one Sec-WebSocket-Key, of 16 bytes in base64")
    return Handshake(
        subprotocols=_subprotocols(fields),
        extensions=extensions_from_fields(fields.get(b"sec-websocket-extensions", ())),
        key=keys[0],
    )


def _fields(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _READ:
            fields.setdefault(name, []).append(value.strip(b" \t"))
    return fields


def _elements(fields: dict[bytes, list[bytes]], name: bytes) -> list[bytes]:
    """Give the elements of a list, in however many fields; RFC 9110 section 5.6.1.2 lets some be empty."""
    elements = b",".join(fields.get(name, ())).split(b",")
    return [element for element in (part.strip(b" \t") for part in elements) if element]


def _asks_for_websocket(fields: dict[bytes, list[bytes]]) -> bool:
    return all(
        word in (element.lower() for element in _elements(fields, name))
        for name, word in ((b"upgrade", b"websocket"), (b"connection", b"upgrade"))
    )


def _subprotocols(fields: dict[bytes, list[bytes]]) -> list[str]:
    subprotocols = _elements(fields, b"sec-websocket-protocol")
    if not all(map(_TOKEN, subprotocols)):
        raise _refusal("a subprotocol in Sec-WebSocket-Protocol is no token")
    return [subprotocol.decode("ascii") for subprotocol in subprotocols]


def _lines(headers: Iterable[Iterable[bytes]]) -> bytes:
    lines = ""
    for name, value in response_headers_from_asgi(headers).native:
        if name.startswith("sec-websocket-"):
            raise ApplicationProtocolError(
                f"header {name!r:.80} belongs to the handshake: use the key 'subprotocol' to choose one",
                _ACCEPT_CLAUSE,
            )
        if name != "content-length":  # RFC 9110 section 8.6: not in an interim response
            lines += f"{name}: {value}\r\n"
    return lines.encode("latin-1")


def _refusal(sentence: str) -> PeerProtocolError:
    return PeerProtocolError(sentence, _CLAUSE)
