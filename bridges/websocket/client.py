"""The client's side of one websocket to an application in this process: its opening, and its frames.

The other end is a WSGI application that was given one end of a socket pair. Between the two there is no network, so
nothing is compressed, and the masking key is zero: a mask keeps what a client sends from looking like something else to
intermediaries that know nothing of websockets (RFC 6455 section 10.3), and there are none here.

Nothing here waits, writes or reads a clock, and nothing is locked: one thread or loop at a time drives it.

Source: RFC 6455 sections 4.1, 4.2.2 and 5 to 7.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha1
from struct import Struct
from typing import Final, NamedTuple

from ..errors import ApplicationProtocolError
from .frames import (
    BINARY,
    CLOSE,
    MAX_CONTROL,
    NO_STATUS,
    NOT_UTF8,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    Close,
    Event,
    Failure,
    Ping,
    Pong,
    close_payload,
    may_stand_in_a_frame,
)

MAX_HEAD_BYTES: Final = 65_536
"""Of the response that opens a websocket."""

KEY: Final = b"YnJpZGdlcyBpbnNpZGUhIQ=="
"""A Sec-WebSocket-Key, 16 bytes in base64: it shows that the other end understood the request, and is no secret."""

# What a client of a server may add to prove that it read the key (RFC 6455 section 1.3).
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# Fields of the request that speak of one hop: ours are others.
_OF_THE_HOP: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Fields of the response that the server makes by itself.
_OF_THE_OPENING: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"transfer-encoding",
        b"upgrade",
    }
)

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] 101(?: .*)?").fullmatch
# Not every server looks at what it is to send: a CR of its own would be another field to some clients.
_FIELD: Final = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*"
).fullmatch

_OPENING_CLAUSE: Final = "RFC 6455 section 4.2.2"

_NO_MASK: Final = b"\0\0\0\0"
_pack_16: Final = Struct("!BBH4x").pack
_pack_64: Final = Struct("!BBQ4x").pack

_FIN: Final = 0x80
_OPCODE: Final = 0x0F
_CONTINUATION: Final = 0x00
_TEXT_OPCODE: Final = 0x01
_BINARY_OPCODE: Final = 0x02


# The opening.


def request_fields(
    headers: Iterable[tuple[bytes, bytes]], subprotocols: Sequence[str]
) -> list[tuple[bytes, bytes]]:
    """Give the fields of the request for a websocket, in place of those of another hop.

    Args:
        headers: of the client's request, whatever its server has left of it.
        subprotocols: that the client offers, in its order.
    """
    fields = [(name, value) for name, value in headers if name.lower() not in _OF_THE_HOP]
    fields += [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-key", KEY),
        (b"sec-websocket-version", b"13"),
    ]
    if subprotocols:
        fields.append((b"sec-websocket-protocol", ", ".join(subprotocols).encode("latin-1")))
    return fields


class Opening(NamedTuple):
    """What an application answered that opened a websocket.

    Attributes:
        subprotocol: that it chose, or None.
        headers: fields of its own, names in lower case.
    """

    subprotocol: str | None
    headers: list[tuple[bytes, bytes]]


def read_opening(head: bytes, key: bytes, subprotocols: Sequence[str], app_name: str) -> Opening:
    """Read the response that opens a websocket.

    Args:
        head: all of it, with the empty line.
        key: of the request.
        subprotocols: that the request offered.
        app_name: what errors call the application.

    Raises:
        ApplicationProtocolError: it does not open one, or not as a client may take it.

    Source:
        RFC 6455 section 4.1, from "Once the client's opening handshake has been sent" on.
    """

    def mistake(what: str) -> ApplicationProtocolError:
        return ApplicationProtocolError(f"{app_name} {what}", _OPENING_CLAUSE)

    first, *lines = head[:-4].split(b"\r\n")
    if not _STATUS_LINE(first):
        raise mistake(f"wrote something else than a 101 response to its socket: {first!r:.80}")
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        match = _FIELD(line)
        if match is None:
            raise mistake(f"sent a malformed header field in its 101 response: {line!r:.80}")
        fields.setdefault(match[1].lower(), []).append(match[2])
    if fields.get(b"sec-websocket-accept") != [_accept_of(key)]:
        raise mistake("sent a 101 response without the Sec-WebSocket-Accept of its request")
    if b"sec-websocket-extensions" in fields:
        raise mistake("chose an extension, while none was offered")
    chosen = [value.decode("latin-1") for value in fields.get(b"sec-websocket-protocol", ())]
    if chosen and (len(chosen) > 1 or chosen[0] not in subprotocols):
        raise mistake(f"chose a subprotocol that was not offered: {', '.join(chosen)!r:.80}")
    return Opening(
        chosen[0] if chosen else None,
        [
            (name, value)
            for name, values in fields.items()
            if name not in _OF_THE_OPENING
            for value in values
        ],
    )


def _accept_of(key: bytes) -> bytes:
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


# The frames.


class ClientFraming:
    """One websocket after its opening, client's side: bytes of the application in, events out; messages in, bytes out.

    An application in the same process may send messages of any size: what it holds, it has in memory already.

    Attributes:
        deaf: True once the last event was given; what the application writes is not looked at any more.
        close_sent: True once ``close`` gave the close frame.
    """

    __slots__ = ("_buffer", "_message", "_opcode", "close_sent", "deaf")

    def __init__(self) -> None:
        self._buffer = bytearray()
        # The message that is under way: its opcode and what came of it.
        self._opcode = 0
        self._message = bytearray()
        self.deaf = False
        self.close_sent = False

    def receive_data(self, data: bytes) -> None:
        """Take what the application wrote."""
        if not self.deaf:
            self._buffer += data

    def next_event(self) -> Event | None:
        """Give the next event, or None until more data came: messages are whole, joined from their fragments."""
        try:
            while len(self._buffer) >= 2:
                frame = self._take_frame()
                if frame is None:
                    return None
                event = self._event_of(*frame)
                if event is not None:
                    return event
        except _Mistake as mistake:
            self._stop_listening()
            return Failure(mistake.code, str(mistake))
        return None

    def message(self, data: str | bytes) -> bytes:
        """Give the frame of a message for the application."""
        if isinstance(data, str):
            return masked_frame(TEXT, data.encode("utf-8", "replace"))
        return masked_frame(BINARY, data)

    def close(self, code: int, reason: str = "") -> bytes:
        """Give the close frame, the first time; nothing after that.

        A code that may not stand in a frame, as 1006 may not, gives nothing.
        """
        if self.close_sent or (code != NO_STATUS and not may_stand_in_a_frame(code)):
            return b""
        self.close_sent = True
        return masked_frame(CLOSE, close_payload(code, reason))

    def _take_frame(self) -> tuple[int, bytes] | None:
        """Take a frame off the buffer if all of it is there: its first byte, and its payload."""
        buffer = self._buffer
        first, size, start = buffer[0], buffer[1], 2
        if size >= 126:
            if size > 127:
                raise _Mistake("a frame of a server is masked")
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return None
            size = int.from_bytes(buffer[2:start], "big")
        end = start + size
        if len(buffer) < end:
            return None
        with memoryview(buffer) as whole:  # a slice of the buffer would be one more copy
            payload = whole[start:end].tobytes()
        del buffer[:end]
        return first, payload

    def _event_of(self, first: int, payload: bytes) -> Event | None:
        if not self._opcode:
            # Nearly every frame is one of these two.
            if first == TEXT:
                return _text(payload)
            if first == BINARY:
                return payload
        if first & 0x08:
            return self._control(first, payload)
        return self._fragment(first, payload)

    def _control(self, first: int, payload: bytes) -> Event:
        if len(payload) > MAX_CONTROL:
            raise _Mistake(f"a control frame has more than {MAX_CONTROL} bytes")
        if first == PING:
            return Ping(masked_frame(PONG, payload))
        if first == PONG:
            return Pong(payload)
        if first == CLOSE:
            event = _close_event(payload)
            self._stop_listening()
            return event
        raise _Mistake(f"a frame begins with {first:#04x}")

    def _fragment(self, first: int, payload: bytes) -> str | bytes | None:
        opcode = first & _OPCODE
        if first & ~(_FIN | _OPCODE) or opcode > _BINARY_OPCODE:
            raise _Mistake(f"a frame begins with {first:#04x}")
        if (opcode == _CONTINUATION) != bool(self._opcode):
            raise _Mistake("a message begins within another one, or goes on without one")
        self._opcode = self._opcode or opcode
        self._message += payload
        if not first & _FIN:
            return None
        whole, opcode = bytes(self._message), self._opcode
        self._message, self._opcode = bytearray(), 0
        return _text(whole) if opcode == _TEXT_OPCODE else whole

    def _stop_listening(self) -> None:
        self.deaf = True
        self._buffer.clear()
        self._message = bytearray()


class _Mistake(Exception):
    def __init__(self, sentence: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(sentence)
        self.code = code


def masked_frame(first: int, payload: bytes) -> bytes:
    """Give a frame of a client, under a mask that changes nothing."""
    size = len(payload)
    if size < 126:
        return bytes((first, 0x80 | size)) + _NO_MASK + payload
    if size < 0x10000:
        return _pack_16(first, 0x80 | 126, size) + payload
    return _pack_64(first, 0x80 | 127, size) + payload


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise _Mistake("a text is not encoded as UTF-8", NOT_UTF8) from None


def _close_event(payload: bytes) -> Close:
    if not payload:
        return Close(NO_STATUS, "")
    code = int.from_bytes(payload[:2], "big")
    if not may_stand_in_a_frame(code):  # half a code is none of them
        raise _Mistake("a close frame has no valid code")
    return Close(code, _text(payload[2:]))
