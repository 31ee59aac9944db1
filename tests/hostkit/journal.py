"""The other end of tests/wsgi_hosts/apps/journal.py: read what an application noted, release what it waits for."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from typing import Any

from .process import Server
from .raw import CLIENT_SECONDS

LOOK_SECONDS = 0.01


def entries(server: Server, key: str) -> list[Any]:
    """Give the entries under ``key`` so far."""
    path = server.state / "journal.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [entry for name, entry in map(json.loads, lines) if name == key]


def noted(server: Server, key: str, count: int = 1, seconds: float = CLIENT_SECONDS) -> list[Any]:
    """Wait until there are ``count`` entries under ``key``; give what is there then or at last."""
    assert server.process
    for _ in range(int(seconds / LOOK_SECONDS)):
        seen = entries(server, key)
        if len(seen) >= count:
            return seen
        # Waiting for the exit that must not come is the pause between two looks.
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(LOOK_SECONDS)
    return entries(server, key)


def release(server: Server, key: str, seconds: float = CLIENT_SECONDS) -> None:
    """Wait until the application waits for ``key``, and let it go on."""
    assert noted(server, f"{key}-waits", seconds=seconds), "the application does not wait"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(b"x", str(server.state / f"{key}.s"))
