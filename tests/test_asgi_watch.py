"""``bridges.asgi.watch``: seeing a client leave by what the host puts into the environ."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from bridges.asgi.watch import watch_client

Pair = tuple[socket.socket, socket.socket]

linux_only = pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="needs POLLRDHUP")


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Give a host's socket and its client's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with ours, theirs:
        yield ours, theirs


def test_a_host_without_means() -> None:
    """Most hosts give nothing to look at."""
    assert watch_client({}) is None


def test_waitress() -> None:
    """Its function is taken as it is."""

    def disconnected() -> bool:
        return True

    assert watch_client({"waitress.client_disconnected": disconnected}) is disconnected


@linux_only
@pytest.mark.spec("behaviours.md", "ASGIToWSGI: client gone")
@pytest.mark.parametrize("key", ["gunicorn.socket", "werkzeug.socket"])
def test_a_client_that_stays_and_leaves(pair: Pair, key: str) -> None:
    """A client is there until its end of the socket is closed, what it has sent notwithstanding."""
    ours, theirs = pair
    watch = watch_client({key: ours})
    assert watch is not None
    assert not watch()
    theirs.sendall(b"GET /pipelined HTTP/1.1\r\n\r\n")
    assert not watch()
    theirs.close()
    # The kernel may take a moment to pass the end on.
    poll = select.poll()
    poll.register(ours, select.POLLRDHUP)
    assert poll.poll(15_000)
    assert watch()
    assert ours.recv(100).startswith(b"GET /pipelined"), "the watch must not read"


@linux_only
def test_a_socket_that_the_host_has_closed(pair: Pair) -> None:
    """Nobody can be written to through it."""
    ours, _ = pair
    watch = watch_client({"gunicorn.socket": ours})
    assert watch is not None
    ours.close()
    assert watch()


@linux_only
def test_a_reset(pair: Pair) -> None:
    """A client that aborts its connection has left as well."""
    ours, theirs = pair
    watch = watch_client({"gunicorn.socket": ours})
    assert watch is not None
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    poll = select.poll()
    poll.register(ours, select.POLLRDHUP)
    assert poll.poll(15_000)
    assert watch()
