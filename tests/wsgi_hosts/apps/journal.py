"""What an application tells its test, and waits for, past the server: a file and a socket in HOSTS_STATE.

Not a request: a server with one thread could not take it while it serves another.
"""

from __future__ import annotations

import _socket  # under gevent the loop's thread needs sockets that are not patched
import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STATE = Path(os.environ["HOSTS_STATE"])
# Longer than any test waits: what is never released shows itself in the test, not here.
WAIT_SECONDS = 30


def note(key: str, entry: Any) -> None:
    """Append an entry; one write, so that processes and threads do not mix theirs."""
    line = json.dumps([key, entry]) + "\n"
    descriptor = os.open(STATE / "journal.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _bound(kind: Any, key: str) -> Iterator[Any]:
    channel = kind(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = STATE / f"{key}.s"
    try:
        channel.bind(str(path))
        note(f"{key}-waits", time.monotonic())
        yield channel
    finally:
        channel.close()
        path.unlink(missing_ok=True)


async def released(key: str) -> None:
    """Wait on the event loop until the test releases ``key``."""
    with _bound(_socket.socket, key) as channel:
        channel.setblocking(False)
        await asyncio.wait_for(asyncio.get_running_loop().sock_recv(channel, 1), WAIT_SECONDS)


def released_here(key: str) -> None:
    """Wait in this thread (under gevent: in this greenlet) until the test releases ``key``."""
    with _bound(socket.socket, key) as channel:
        channel.settimeout(WAIT_SECONDS)
        channel.recv(1)
