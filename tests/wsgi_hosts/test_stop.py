"""What a WSGI server that is asked to stop leaves time for."""

from __future__ import annotations

import signal
import socket

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
    assert server.stop() != -signal.SIGKILL
    lifespan = entries(server, "lifespan")
    started = sorted(process for what, process in lifespan if what == "startup")
    assert sorted(process for what, process in lifespan if what == "shutdown") == started != []
    assert [sign for sign in SIGNS if sign in server.log] == []


def _whole_answer(port: int) -> bytes:
    """Ask, and read until the server has closed: uWSGI calls no exit functions in a worker that is still busy."""
    request = b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))
