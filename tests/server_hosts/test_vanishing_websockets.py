"""Websocket clients that vanish, a thousand on each host, and those that are there and do not answer.

What they leave is counted from outside, in /proc: threads, descriptors and memory of the process that serves.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import os
import re
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cli_process import Program
from websocket_tools import BINARY, close, frame

import bridges

Start = Callable[..., Program]
TESTS = Path(__file__).parent.parent
FOLDERS = (Path(__file__).parent / "apps", TESTS / "wsgi_hosts" / "apps")
SECONDS = 15.0

# For websockets on every host; those of a wave and the questions in between need fewer. Where the questions have
# threads of their own, they have one.
THREADS = 64
WAVES = 20
GROWTH_BYTES = 8_000_000

GUNICORN = "gunicorn --no-control-socket -b 127.0.0.1:{port}"
HOSTS = {
    "gthread": f"{GUNICORN} -k gthread --threads {THREADS} vanishing_apps:asgi_for_wsgi",
    "werkzeug": "serve werkzeug vanishing_apps:asgi_for_wsgi {port}",
    "uvicorn": "uvicorn --host 127.0.0.1 --port {port} vanishing_apps:wsgi_for_asgi",
    "bridges-asgi": "bridges --port {port} --lifespan off vanishing_apps:asgi",
    "bridges-wsgi": f"bridges --port {{port}} --threads 1 --max-websockets {THREADS} vanishing_apps:wsgi",
    "BridgeWorker": f"{GUNICORN} -k bridges.gunicorn.BridgeWorker vanishing_apps:asgi",
}
FLASK_SOCK = ("uvicorn", "bridges-wsgi")

# glibc keeps what was freed, in an arena for each thread: with one, and big buffers given back, what grows is kept.
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "16384",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
# Limits in time for those who wait to see what comes of them.
QUICK = {
    f"BRIDGES_{name}_SECONDS": "0.3"
    for name in ("WEBSOCKET_PING", "WEBSOCKET_PONG", "WEBSOCKET_CLOSE", "WRITE")
}
QUICK_UVICORN = ("--ws-ping-interval", "0.3", "--ws-ping-timeout", "0.3")
# uvicorn 0.54 waits for ever for a client to take what is unwritten, and ten seconds for its close frame.
UNFINISHED = ("flood", "farewell")


class Host:
    """A server that is up."""

    def __init__(self, name: str, program: Program, port: int) -> None:
        self.name = name
        self.program = program
        self.port = port
        self.clients: list[Client] = []

    def account(self, query: str = "") -> dict[str, Any]:
        """Ask the application what became of its websockets."""
        # A connection for each question: none is left open when descriptors are counted.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", f"/account{query}", headers={"Connection": "close"})
            found: dict[str, Any] = json.load(connection.getresponse())
        return found

    def code_told(self, name: str) -> str:
        """Give the code that the application is told of clients that vanish at a point."""
        if self.name not in FLASK_SOCK:
            return POINTS[name].told or "1006"
        # Its library tells no code to who has closed, and 1005 of every end without a close frame.
        return "4001" if name == "farewell" else POINTS[name].told or "1005"

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds.

        Raises:
            AssertionError: it does not in time; says what.
        """
        assert self.program.until(holds, SECONDS), f"{what}: {self.account()}\n{self.program.err}"

    def are_over(self) -> bool:
        """Whether every call of the application has ended."""
        account = self.account()
        ended = {path: sum(codes.values()) for path, codes in account["ended"].items()}
        return bool(ended == account["begun"])


Begin = Callable[..., Host]


@pytest.fixture
def begin(start: Start) -> Iterator[Begin]:
    """Give a function that starts a host, and waits until it serves."""
    hosts: list[Host] = []

    def begun(name: str, *options: str, **environment: str) -> Host:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command, app = HOSTS[name].format(port=port).rsplit(" ", 1)
        path = [*map(str, FOLDERS), str(Path(bridges.__file__).resolve().parent.parent)]
        program = start(
            *command.split(),
            *options,
            app,
            environment={**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path), **environment},
            command=[sys.executable, "-m"],
        )
        hosts.append(host := Host(name, program, port))

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return bool(host.account())
            return False

        assert program.until(answers), program.err
        return host

    yield begun
    for host in hosts:
        for client in host.clients:
            client.socket.close()


# What clients do.


class Point(NamedTuple):
    """A point at which a client vanishes.

    Attributes:
        asks: how much of its handshake it sends.
        sends: after the handshake was answered; None where it does not wait for that.
        reads: bytes of what the application sends then.
        told: the code that the application is told; "" for that of a client that says nothing.
        at_once: whether it leaves before the others are at their points, and so at the same time as it is served.
    """

    asks: float = 1.0
    sends: bytes | None = b""
    reads: int = 0
    told: str = ""
    at_once: bool = False


FRAME = frame(BINARY, b"x" * 1_000)
# Kept of a few, it would be seen in the memory.
BIG = 1_000_000
POINTS = {
    "connected": Point(asks=0.0, sends=None),
    "asking": Point(asks=0.5, sends=None),
    "asked": Point(sends=None, at_once=True),
    "unheard": Point(sends=None),
    "accepted": Point(),
    "message": Point(sends=FRAME),
    "frame": Point(sends=FRAME[:500]),
    "fragment": Point(sends=frame(BINARY, b"x" * BIG, fin=False)),
    "flood": Point(reads=10),
    "closing": Point(sends=close(4000)[:-1]),
    "closed": Point(sends=close(4000), told="4000"),
    "closed-without-code": Point(sends=close(), told="1005"),
    "farewell": Point(reads=4),
}
WAYS = ("fin", "rst")
WAVE = [(point, way) for point in POINTS for way in WAYS] * 2
assert WAVES * len(WAVE) >= 1_000


class Client:
    """A client of a websocket, up to one of the points."""

    def __init__(self, host: Host, name: str, way: str = "fin") -> None:
        self.point = POINTS[name]
        self.way = way
        self.socket = socket.socket()
        if self.point.reads:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self.socket.settimeout(SECONDS)
        self.socket.connect(("127.0.0.1", host.port))
        head = (
            f"GET /{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        self.socket.sendall(head[: int(len(head) * self.point.asks)])
        host.clients.append(self)
        if self.point.at_once:
            self.leave()

    def go_on(self) -> None:
        """Have the handshake answered, and go to the point."""
        if self.point.sends is None:
            return
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self.exactly(1)
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        self.socket.sendall(self.point.sends)
        self.exactly(self.point.reads)

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            assert piece, f"the server ended the connection after {data!r}"
            data += piece
        return data

    def read_to_the_end(self) -> None:
        """Read until the connection ends.

        Raises:
            TimeoutError: it does not.
        """
        with contextlib.suppress(ConnectionResetError), self.socket:
            while self.socket.recv(65_536):
                pass

    def leave(self) -> None:
        """Close the socket, or reset the connection; the system resets it, too, if something is unread."""
        if self.way == "rst" and self.socket.fileno() >= 0:
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()


def open_all(host: Host, *points: tuple[str, str]) -> list[Client]:
    """Have so many clients there at one time, each at its point, to leave in its way."""
    clients = [Client(host, name, way) for name, way in points]
    for client in clients:
        client.go_on()
    return clients


def until_stuck(host: Host) -> None:
    """Wait until nothing more is sent to those who do not read."""
    looks: collections.deque[int] = collections.deque(maxlen=3)

    def stands_still() -> bool:
        looks.append(host.account()["sent"])
        return len(looks) == looks.maxlen and len(set(looks)) == 1

    host.until(stands_still, "a client that does not read is sent more and more")


# What is left of them.


class Resources(NamedTuple):
    """What a process holds."""

    threads: int
    descriptors: int
    rss: int


def resources(process: int) -> Resources:
    status = Path(f"/proc/{process}/status").read_text()
    numbers = {name: int(number) for name, number in re.findall(r"(\w+):\s+(\d+)", status)}
    descriptors = len(os.listdir(f"/proc/{process}/fd"))
    return Resources(numbers["Threads"], descriptors, numbers["VmRSS"] * 1024)


def settled(host: Host, most: Resources | None) -> Resources:
    """Wait until all calls have ended, and no more threads and descriptors are there than were; give what is there."""
    host.until(host.are_over, "a call of the application does not end")
    # uvicorn's connections that are over wait for the garbage collector.
    process = host.account("?collect" if host.name == "uvicorn" else "")["process"]
    if most is not None:

        def are_back() -> bool:
            now = resources(process)
            return now.threads <= most.threads and now.descriptors <= most.descriptors

        if not host.program.until(are_back, SECONDS):
            raise AssertionError(f"not back at {most}: {resources(process)}\n{host.program.err}")
    return resources(process)


def warmed_up(host: Host) -> Resources:
    """Have as many threads as there may ever be; gives what is there then."""
    for client in open_all(host, *[("accepted", "fin")] * THREADS):
        client.leave()
    return settled(host, None)


@pytest.mark.spec("issue 5", "Done when: 1,000 clients that vanish leave all flat")
@pytest.mark.parametrize("name", HOSTS)
def test_a_thousand_clients_that_vanish(begin: Begin, name: str) -> None:
    """At every point, by FIN and by RST: each call ends with its code, and the process is as after the first wave."""
    host = begin(name)
    warmed_up(host)
    marks: list[Resources] = []
    for _ in range(WAVES):
        clients = open_all(host, *WAVE)
        until_stuck(host)
        for client in clients:
            client.leave()
        marks.append(settled(host, marks[0] if marks else None))
    assert marks[-1].rss - marks[1].rss < GROWTH_BYTES, [mark.rss for mark in marks]

    each = WAVES * len(WAVE) // len(POINTS)
    told = {name: {host.code_told(name): each} for name in POINTS}
    told["accepted"][host.code_told("accepted")] += THREADS
    ended = host.account()["ended"]
    # One that leaves before its handshake is answered may never be seen by the application.
    asked = ended.pop("asked", {})
    assert asked.keys() <= told.pop("asked").keys()
    assert sum(asked.values()) <= each
    assert ended == {name: codes for name, codes in told.items() if POINTS[name].asks == 1.0}
    assert_serves(host)


@pytest.mark.spec("issue 5", "Done when: half-open peers end with the right code")
@pytest.mark.parametrize("name", HOSTS)
def test_peers_that_are_silent(begin: Begin, name: str) -> None:
    """Whoever answers no ping, takes nothing or does not close is cut off; the application is told as of the others."""
    host = begin(name, *(QUICK_UVICORN if name == "uvicorn" else ()), **QUICK)
    before = warmed_up(host)
    names = ["accepted", "frame", "fragment", *(() if name == "uvicorn" else UNFINISHED)]
    clients = open_all(host, *[(name, "fin") for name in names] * 4)
    settled(host, before)
    ended = host.account()["ended"]
    ended["accepted"][host.code_told("accepted")] -= THREADS
    assert ended == {name: {host.code_told(name): 4} for name in names}
    for client in clients:
        client.read_to_the_end()
    assert_serves(host)


def assert_serves(host: Host) -> None:
    """Find everything in order: a new websocket, and nothing in the log but who was not there any more."""
    (client,) = open_all(host, ("message", "fin"))
    echo = frame(BINARY, b"x" * 1_000, key=None)
    assert client.exactly(len(echo)) == echo
    client.leave()
    host.until(host.are_over, "a call of the application does not end")
    log = host.program.err + host.program.out
    # What Flask says when its answer to a handshake finds nobody, as it would on any socket.
    assert log.count("Traceback") == log.count("\nBrokenPipeError: [Errno 32]"), log
