"""P11's method: many connections that want next to nothing of a server, and what that does to its other clients.

The crowd stands in this process, on the load's core. It costs nothing while it stands; what drips
costs two system calls a millisecond.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.apps import sizes
from benchmarks.contenders import Contender
from benchmarks.measuring import (
    MEGABYTE,
    BenchmarkError,
    Meter,
    Sample,
    Server,
    Settings,
    await_rest,
    core_busy,
    expect_body,
    forget_peak,
    number,
    run_tool,
    running,
    session_memory,
)

ANSWER_SECONDS = 10.0
DRIP_SECONDS = 1.0
# Descriptors of a server, and of this process, besides those of the crowd.
SPARE_DESCRIPTORS = 500
# So that the system takes little of an answer that its client does not read: a small receive buffer, and segments
# of an Ethernet, as those of the loopback have it give the server a send buffer of 4 MB to begin with.
STALLED_BUFFER_BYTES = 4_096
STALLED_SEGMENT_BYTES = 1_460
PACE_CONNECTIONS = 8
ESTABLISHED = 1  # of tcpi_state, the first byte of TCP_INFO (tcp(7))

HELLO = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
LIST = b"GET /list HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
MEETING = b"GET /meeting?%d HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
# Half of those that drip do so in the head, the others in a short body, which the app reads.
DRIPS = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Drip: ",
    b"POST /upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000\r\n\r\n",
)

_meetings = itertools.count(1)


@dataclass(frozen=True)
class Crowd:
    """wrk on few connections, first alone, then in a crowd: how much slower the slowest of its answers become.

    Attributes:
        idle: connections that had one answer and keep the connection.
        stalled: connections that asked for the big list and do not read it.
        dripping: connections that send one byte a second of a request.
    """

    idle: int = 0
    stalled: int = 0
    dripping: int = 0
    rounds_factor: int = 1

    @contextlib.contextmanager
    def opened(self, contender: Contender, settings: Settings) -> Iterator[Server]:
        """Start the server, check its answer, warm it up for a second, and let it rest: that is idle."""
        allow_descriptors(self.idle + self.stalled + self.dripping + SPARE_DESCRIPTORS)
        with running(contender, settings.cores) as server:
            expect_body(server.url(), sizes.HELLO)
            slowest_of(server, 1)
            await_rest(server.session)
            server.idle_bytes = session_memory(server.session, "VmRSS")
            yield server

    def measure(self, server: Server, settings: Settings) -> Sample:
        """Return how long 99 of 100 answers take at most, alone and in the crowd, and what the crowd holds and costs.

        ``held`` are the threads for requests that did not come when as many as there are were made to meet,
        ``lost`` are connections of the crowd that the server closed or, of those that stall, never answered.
        """
        forget_peak(server.session)
        cores = settings.cores
        alone = slowest_of(server, settings.seconds)
        with standing(server, self) as crowd:
            meter, load_meter = Meter(server, cores), LoadMeter(cores.load)
            crowded = slowest_of(server, settings.seconds)
            others = max(meter.read()[1], load_meter.read())
            held = threads_of(server) - meet(server)
            lost = crowd.lost()
        peak = session_memory(server.session, "VmHWM") - server.idle_bytes
        await_rest(server.session)
        figures = {"p99_alone_ms": alone, "p99_ms": crowded, "slower": crowded / alone}
        figures |= {"held": float(held), "rss_mb": peak / MEGABYTE, "others": others}
        return figures if self.dripping else {**figures, "lost": float(lost)}


class LoadMeter:
    """Counts, from its making on, what others took of the load's core, on which a late wrk finds its answers late."""

    def __init__(self, core: int) -> None:
        self.core = core
        self.begun = time.monotonic()
        self.busy = core_busy(core) - spent_here()

    def read(self) -> float:
        """Return the per cent of the core that others used."""
        others = core_busy(self.core) - spent_here() - self.busy
        return max(0.0, others / (time.monotonic() - self.begun) * 100)


def spent_here() -> float:
    """Return the seconds of CPU that this process used, and the programs that it ran to their end."""
    return sum(os.times()[:4])


def allow_descriptors(count: int) -> None:
    """Let this process, and the servers that it starts, open so many files at one time."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise BenchmarkError(
            f"{count} open files are needed and {hard} allowed: raise the hard limit (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def slowest_of(server: Server, seconds: int) -> float:
    """Return the milliseconds in which wrk had 99 of 100 answers."""
    command = ["wrk", "-t1", f"-c{PACE_CONNECTIONS}", f"-d{seconds}s", "--latency", server.url()]
    report = run_tool(command, seconds + 30)
    if number(r"Non-2xx or 3xx responses: (\d+)", report):
        raise BenchmarkError(f"answers other than 200 are no measure of speed:\n{report}")
    if not number(r"(\d+) requests in", report):
        raise BenchmarkError(f"wrk got no answer within {seconds} s\n{report}")
    units = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    for unit, milliseconds in units.items():
        value = number(rf"\b99%\s+([\d.]+){unit}\s", report)
        if value:
            return value * milliseconds
    raise BenchmarkError(f"wrk told no latency:\n{report}")


# --- the crowd ---------------------------------------------------------------------------------


@dataclass
class Standing:
    """The connections that stand around; those that drip look after themselves."""

    idle: list[socket.socket] = field(default_factory=list)
    stalled: list[socket.socket] = field(default_factory=list)

    def lost(self) -> int:
        """Count those that the server closed, or left without the beginning of an answer."""
        closed = sum(not is_open(sock) for sock in [*self.idle, *self.stalled])
        return closed + sum(is_open(sock) and not has_come(sock) for sock in self.stalled)

    def leave(self) -> None:
        """Close all of them."""
        for sock in [*self.idle, *self.stalled]:
            sock.close()


@contextlib.contextmanager
def standing(server: Server, wanted: Crowd) -> Iterator[Standing]:
    """Bring a crowd before a server for the length of the block."""
    crowd = Standing()
    with contextlib.ExitStack() as stack:
        stack.callback(crowd.leave)
        try:
            for _ in range(wanted.idle):
                crowd.idle.append(connect(server))
                talk(crowd.idle[-1], HELLO, sizes.HELLO)
            for _ in range(wanted.stalled):
                crowd.stalled.append(connect(server, reads=False))
                crowd.stalled[-1].sendall(LIST)
            if wanted.dripping:
                stack.enter_context(dripping(server, wanted.dripping))
                time.sleep(DRIP_SECONDS)  # each was accepted by then, and has dripped once
            else:
                await_rest(server.session)
        except OSError as error:
            come = len(crowd.idle) + len(crowd.stalled)
            raise BenchmarkError(f"connection {come} of the crowd: {error}") from error
        yield crowd


def connect(server: Server, *, reads: bool = True) -> socket.socket:
    """Open a connection; one that will not be read has the system take little of what comes."""
    sock = socket.socket()
    if not reads:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_BUFFER_BYTES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, STALLED_SEGMENT_BYTES)
    sock.settimeout(ANSWER_SECONDS)
    sock.connect(("127.0.0.1", server.port))
    return sock


def talk(sock: socket.socket, request: bytes, end: bytes) -> bytes:
    """Send a request and read until the bytes that its answer ends with."""
    sock.sendall(request)
    answer = b""
    while not answer.endswith(end):
        piece = sock.recv(65_536)
        if not piece:
            raise ConnectionError("closed before the end of the answer")
        answer += piece
    return answer


def is_open(sock: socket.socket) -> bool:
    """Tell whether neither side has ended a connection."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED


def has_come(sock: socket.socket) -> bool:
    """Tell whether there is something to read."""
    sock.setblocking(False)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


@contextlib.contextmanager
def dripping(server: Server, count: int) -> Iterator[None]:
    """Have so many connections send a byte a second each, spread evenly; one that the server ends comes anew."""
    ended = threading.Event()
    failures: list[OSError] = []
    socks = [drip(server, number) for number in range(count)]

    def work() -> None:
        due = time.monotonic()
        for place in itertools.cycle(range(count)):
            due += DRIP_SECONDS / count
            if ended.wait(max(0.0, due - time.monotonic())):
                return
            try:
                if not let_fall(socks[place]):
                    socks[place].close()
                    socks[place] = drip(server, place)
            except OSError as error:
                failures.append(error)
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for sock in socks:
            sock.close()
    if failures:
        raise BenchmarkError(f"a connection that drips could not come anew: {failures[0]}")


def drip(server: Server, number: int) -> socket.socket:
    """Open a connection that begins a request."""
    sock = connect(server)
    sock.sendall(DRIPS[number % len(DRIPS)])
    sock.setblocking(False)
    return sock


def let_fall(sock: socket.socket) -> bool:
    """Send a byte; tells whether the server still waits for more of the request."""
    try:
        sock.recv(65_536)  # an answer, which is a refusal, or the end
    except BlockingIOError:
        pass
    except OSError:
        return False
    else:
        return False
    try:
        return sock.send(b"a") == 1
    except OSError:
        return False


# --- threads -----------------------------------------------------------------------------------


def threads_of(server: Server) -> int:
    """Return how many requests the app under the crowd can have at one time."""
    return int(server.contender.environment["BENCH_THREADS"])


def meet(server: Server) -> int:
    """Have as many requests in the app as it has threads; return how many were there at one time."""
    name = next(_meetings)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(server)) for _ in range(threads_of(server))]
        for sock in socks:
            sock.sendall(MEETING % name)
        ends = time.monotonic() + 2 * sizes.MEETING_SECONDS
        # Those that get in when others have waited in vain count them, too: the least is what was free.
        answers = [came_by(sock, ends) for sock in socks]
        return min((came for came in answers if came is not None), default=0)


def came_by(sock: socket.socket, ends: float) -> int | None:
    """Read from a guest's answer how many came, None when there is no answer in time."""
    answer = b""
    try:
        sock.settimeout(max(0.01, ends - time.monotonic()))
        while piece := sock.recv(65_536):
            answer += piece
    except OSError:
        return None
    return int(answer.rpartition(b"\r\n\r\n")[2])
