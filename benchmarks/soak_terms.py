"""What the soak's app and its clients agree on; importing it costs a server nothing."""

from __future__ import annotations

HELLO = b"hello from the probe"
BLOCK = bytes(range(256)) * 64
"""16 KiB whose bytes differ, so that a shifted or repeated piece would be seen."""

STREAM_PARTS = 24
LIST_PARTS = 64
"""64 blocks of 16 KiB: a 1 MB list."""

EVENT_COUNT = 20
EVENT_SECONDS = 0.01

TICK_SECONDS = 0.05
"""Between events that end with their client."""

WEBSOCKET_MESSAGES = 8
"""After so many the app ends a websocket."""

WEBSOCKETS = 64
"""Most at one time of a WSGI app, each in a thread: as many as there are clients."""

PING_SECONDS = 2.0
"""Of silence until a client of a websocket is asked for a sign of life, and for that."""

MEETING_SECONDS = 30.0
