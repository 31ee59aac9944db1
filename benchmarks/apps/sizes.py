"""What the apps send and expect, shared with the measuring side, which checks every answer."""

from __future__ import annotations

HELLO = b"Hello, world"
NAP_SECONDS = 0.1

SMALL_CHUNKS = 100_000
SMALL_CHUNK = b"x" * 71 + b"\n"
SMALL_BYTES = SMALL_CHUNKS * len(SMALL_CHUNK)

BLOCK_BYTES = 64 * 1024
BLOCK = b"d" * BLOCK_BYTES

# Whole blocks, as near to 200 MB and 300 MB as they come, so that Content-Length is exact.
DOWNLOAD_BYTES = 200_000_000 // BLOCK_BYTES * BLOCK_BYTES
UPLOAD_BYTES = 300_000_000 // BLOCK_BYTES * BLOCK_BYTES

# Pieces of 16 KiB, each with a number of eight digits in front, as a framework's pieces differ.
LIST_PARTS = 64
LIST_FILLER = b"l" * (16 * 1024 - 8)
LIST_BYTES = LIST_PARTS * 16 * 1024

MEETING_SECONDS = 5.0
