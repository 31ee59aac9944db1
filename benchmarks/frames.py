"""Websocket frames, whole and uncompressed, for clients that know what they are to get (RFC 6455 section 5.2)."""

from __future__ import annotations

import secrets

TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA


def handshake(path: str) -> bytes:
    """Make the request that opens a websocket."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode("ascii")


def from_client(payload: bytes, kind: int = BINARY) -> bytes:
    """Make the frame of a client's message, masked."""
    mask = secrets.token_bytes(4)
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return _head(kind, size, 0x80) + mask + masked.to_bytes(size, "big")


def from_server(payload: bytes, kind: int = BINARY) -> bytes:
    """Make the frame of a server's message."""
    return _head(kind, len(payload), 0) + payload


def _head(kind: int, size: int, masked: int) -> bytes:
    if size < 126:
        return bytes([0x80 | kind, masked | size])
    if size < 65_536:
        return bytes([0x80 | kind, masked | 126]) + size.to_bytes(2, "big")
    return bytes([0x80 | kind, masked | 127]) + size.to_bytes(8, "big")
