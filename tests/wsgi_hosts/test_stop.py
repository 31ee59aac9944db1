"""What a WSGI server that is asked to stop leaves time for."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostkit.journal import entries
from hostkit.process import Server

APPS = ("ASGI",)
SIGNS = (
    "Traceback",
    "was destroyed but it is pending",
    "was never retrieved",
    "Fatal Python error",
)


@pytest.mark.spec("FR 78")
@pytest.mark.spec("FR 83")
def test_shutdown_runs_at_the_end(server: Server) -> None:
    """SIGTERM ends the process by itself, quietly, and the app's lifespan before."""
    assert _whole_answer(server.port).endswith(b"hello")
    _wait_for_rest(server)
    assert server.stop() != -signal.SIGKILL
    lifespan = entries(server, "lifespan")
    started = sorted(process for what, process in lifespan if what == "startup")
    assert sorted(process for what, process in lifespan if what == "shutdown") == started != []
    assert [sign for sign in SIGNS if sign in server.log] == []


def _whole_answer(port: int) -> bytes:
    """Ask, and read until the server has closed."""
    request = b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def _wait_for_rest(server: Server) -> None:
    """Wait until nothing of the server runs: uWSGI calls no exit functions in a worker that is still busy."""
    assert server.process
    for _ in range(1000):
        if set(_states(server.process.pid)) <= {"S"}:
            return
        # Waiting for the exit that must not come is the pause between two looks.
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(0.01)
    raise AssertionError("the server does not come to rest")


def _states(session: int) -> Iterator[str]:
    """Give what each thread of a session's processes does, where the system tells: S for one that sleeps."""
    for thread in Path("/proc").glob("[0-9]*/task/*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, its_session, *_ = thread.read_text().rpartition(")")[2].split()
            if int(its_session) == session:
                yield state
