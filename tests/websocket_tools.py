"""Frames as a client masks them and as a server writes them, made and read without the code under test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from bridges.websocket.framing import Event, Framing

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

KEY: Final = b"\x37\xfa\x21\x3d"

# RFC 7692 section 7: the bit of the first byte that says that a message is compressed.
COMPRESSED: Final = 0x40


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, key: bytes | None = KEY
) -> bytes:
    """Give a frame of a client, masked unless ``key`` is None (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        length, extended = size, b""
    elif size < 1 << 16:
        length, extended = 126, size.to_bytes(2, "big")
    else:
        length, extended = 127, size.to_bytes(8, "big")
    head = bytes((fin << 7 | rsv | opcode, (key is not None) << 7 | length)) + extended
    if key is None:
        return head + payload
    return head + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    """Give a close frame of a client."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


def frames(written: bytes) -> Iterator[tuple[int, bytes]]:
    """Give the first byte and the payload of each frame that a server wrote, which must not be masked."""
    at = 0
    while at < len(written):
        first, length = written[at], written[at + 1]
        at += 2
        extended = {126: 2, 127: 8}.get(length, 0)
        if extended:
            length = int.from_bytes(written[at : at + extended], "big")
            at += extended
        assert at + length <= len(written)
        yield first, written[at : at + length]
        at += length


def received(framing: Framing, pieces: Iterable[bytes]) -> list[Event]:
    """Give every event that comes of the pieces, each looked at as it arrives."""
    events: list[Event] = []
    for piece in pieces:
        framing.receive_data(piece)
        while (event := framing.next_event()) is not None:
            events.append(event)
    return events
