"""What both roles of a websocket share: close codes, events, and how a frame is written.

Source: RFC 6455 sections 5.2, 5.5 and 7.4.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from ..errors import ApplicationProtocolError

NORMAL_CLOSURE: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
NO_STATUS: Final = 1005
ABNORMAL_CLOSURE: Final = 1006
NOT_UTF8: Final = 1007
POLICY_VIOLATION: Final = 1008
INTERNAL_ERROR: Final = 1011
TRY_AGAIN_LATER: Final = 1013

# The close codes of RFC 6455 section 7.4.1 and of IANA's registry that may stand in a frame.
_REGISTERED_CODES: Final = frozenset({*range(1000, 1004), *range(1007, 1015)})

MAX_CONTROL: Final = 125
MAX_REASON: Final = MAX_CONTROL - 2

# The first byte of a frame: the last of its message, and its opcode (RFC 6455 section 5.2).
TEXT: Final = 0x81
BINARY: Final = 0x82
CLOSE: Final = 0x88
PING: Final = 0x89
PONG: Final = 0x8A

_pack_16: Final = Struct("!BBH").pack
_pack_64: Final = Struct("!BBQ").pack


class Ping(NamedTuple):
    """The other end asks for a sign of life.

    Attributes:
        pong: the frame that gives it, to be written at once.
    """

    pong: bytes


class Pong(NamedTuple):
    """The other end's answer to a ping, or a sign of life of its own accord."""

    payload: bytes


class Close(NamedTuple):
    """The other end's close frame: the last event. What answers it is ``close(code)``.

    Attributes:
        code: 1005 where the frame had none.
        reason: "" where it had none.
    """

    code: int
    reason: str


class Failure(NamedTuple):
    """The other end broke the protocol or a limit: the last event. What tells it so is ``close(code, reason)``.

    Attributes:
        code: 1002 for a bad frame, 1007 for data that is no UTF-8 or does not inflate, 1009 for a message too large.
        reason: a sentence for the close frame.
    """

    code: int
    reason: str


Event: TypeAlias = str | bytes | Ping | Pong | Close | Failure


def make_frame(first: int, payload: bytes) -> bytes:
    """Give a frame of a server, which is not masked."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 0x10000:
        return _pack_16(first, 126, size) + payload
    return _pack_64(first, 127, size) + payload


def may_stand_in_a_frame(code: int) -> bool:
    """Tell whether a close frame may have the code; 1005 and 1006 stand for what had none."""
    return code in _REGISTERED_CODES or 3000 <= code <= 4999


def close_payload(code: int, reason: str) -> bytes:
    """Give what a close frame holds.

    Args:
        code: 1005 stands for a frame without a code, which has no reason either.
        reason: is cut at 123 bytes of UTF-8, between characters.

    Raises:
        ApplicationProtocolError: the code may not stand in a frame.
    """
    if code == NO_STATUS:
        return b""
    if not may_stand_in_a_frame(code):
        raise ApplicationProtocolError(
            f"close code must be one of 1000 to 1003, 1007 to 1014 or 3000 to 4999, got {code!r:.80}",
            "RFC 6455 section 7.4",
        )
    text = reason.encode("utf-8", "replace")[:MAX_REASON]
    return code.to_bytes(2, "big") + text.decode("utf-8", "ignore").encode()
