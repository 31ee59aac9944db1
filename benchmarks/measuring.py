"""How a contender is run and measured; nothing here knows who competes or what is hoped for.

The server is pinned to one core and the load to another. CPU is user plus system time of every
process in the server's session, ended children included, read from /proc before and after.
Each method offers ``opened``, which yields a subject ready to be measured, ``measure``, which
returns one round's figures by metric name, and ``rounds_factor``, which multiplies the rounds.
Those for crowds and for websockets stand in `crowds` and `echoes`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from benchmarks.apps import sizes
from benchmarks.contenders import Contender

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
MEGABYTE = 1_000_000
START_SECONDS = 30.0
STOP_SECONDS = 10.0
REST_SECONDS = 0.5
STREAM_SECONDS = 120

Sample = dict[str, float]


class BenchmarkError(Exception):
    """Raised when a figure cannot be had honestly; the sentence names the remedy.

    Attributes:
        about: name of the contender that was measured, once that is known.
    """

    about = ""


@dataclass(frozen=True)
class Cores:
    """The two cores of a run: one for the server alone, one for everything that loads it."""

    server: int
    load: int


def claim_cores() -> Cores:
    """Choose two of the cores this process may use and move this process to the load's core."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise BenchmarkError(
            f"two cores are needed, one for the server and one for the load; only {allowed} here"
        )
    cores = Cores(server=allowed[0], load=allowed[1])
    os.sched_setaffinity(0, {cores.load})
    return cores


def require_tools() -> None:
    """Refuse to start without the programs that measure, saying where each comes from."""
    packages = {"wrk": "wrk", "curl": "curl", "taskset": "util-linux"}
    missing = [package for tool, package in packages.items() if shutil.which(tool) is None]
    if missing:
        raise BenchmarkError(f"missing programs; on Debian: apt-get install {' '.join(missing)}")


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


# --- /proc -------------------------------------------------------------------------------------


def stat_fields(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on, or None when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may hold spaces and brackets: the fields start after the last bracket.
    return text[text.rindex(")") + 2 :].split()


def session_members(session: int) -> list[int]:
    """Return the ids of all processes of a session, the leader's included."""
    members = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = stat_fields(int(entry))
            if fields is not None and int(fields[3]) == session:
                members.append(int(entry))
    return members


def session_cpu(session: int) -> float:
    """Return the seconds of CPU, user and system, that a session's processes have used.

    Children that ended are in their parent's ``cutime`` and ``cstime``, so they count as well.
    """
    ticks = 0
    for pid in session_members(session):
        fields = stat_fields(pid)
        if fields is not None:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS


def core_busy(core: int) -> float:
    """Return the seconds that a core has worked for any process, or was kept by a hypervisor.

    Interrupts are left out: those of the loopback belong to neither side.
    """
    found = re.search(rf"^cpu{core} (.+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    if found is None:
        raise BenchmarkError(f"/proc/stat does not name core {core}")
    user, nice, system, _, _, _, _, steal, *_ = (int(word) for word in found.group(1).split())
    return (user + nice + system + steal) / TICKS


def session_memory(session: int, key: str) -> int:
    """Return the bytes under ``key`` (VmRSS, VmHWM) of /proc/PID/status, summed over a session."""
    total = 0
    for pid in session_members(session):
        total += status_number(pid, key) * 1024
    return total


def status_number(pid: int, key: str) -> int:
    """Return a number of /proc/PID/status (kB for memory, a count for Threads); 0 when gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(rf"^{key}:\s+(\d+)", text, re.MULTILINE)
    return int(found.group(1)) if found else 0


def forget_peak(session: int) -> None:
    """Set VmHWM of a session's processes back to their present RSS (proc(5), clear_refs 5)."""
    for pid in session_members(session):
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        except OSError as error:
            raise BenchmarkError(f"cannot reset the peak of memory: {error.strerror}") from error


# --- a server ----------------------------------------------------------------------------------


@dataclass
class Server:
    """A contender that is up: its session, its address, its output, and its memory when idle (bytes)."""

    contender: Contender
    process: subprocess.Popen[bytes]
    port: int
    log: BinaryIO
    idle_bytes: int = 0

    @property
    def session(self) -> int:
        """The session id, which is the id of the process started as its leader."""
        return self.process.pid

    def url(self, path: str = "/") -> str:
        """Return the address of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def log_text(self) -> bytes:
        """Return what it has written so far."""
        return output_of(self.log)


class Meter:
    """Counts, from its making on, a server's CPU and what others took of its core."""

    def __init__(self, server: Server, cores: Cores) -> None:
        self.server = server
        self.core = cores.server
        self.begun = time.monotonic()
        self.busy = core_busy(self.core)
        self.spent = session_cpu(server.session)

    def read(self) -> tuple[float, float]:
        """Return the server's seconds of CPU, and the per cent of its core used by others."""
        spent = session_cpu(self.server.session) - self.spent
        elapsed = time.monotonic() - self.begun
        others = core_busy(self.core) - self.busy - spent
        return spent, max(0.0, others / elapsed * 100)


@contextlib.contextmanager
def running(contender: Contender, cores: Cores) -> Iterator[Server]:
    """Start a contender on the server's core, yield it once it listens, and stop it."""
    port = free_port()
    command = ["taskset", "-c", str(cores.server), sys.executable, *contender.words(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **contender.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            await_listening(process, port)
            yield Server(contender, process, port, log)
        except BenchmarkError as error:
            if error.about not in ("", contender.name):
                raise  # all contenders of a work are up when one of them fails
            tail = output_of(log)[-2000:].decode("utf-8", "replace")
            raise BenchmarkError(f"{contender.name}: {error}\n{tail}") from error
        finally:
            stop(process)


def output_of(log: BinaryIO) -> bytes:
    """Read what a server has written so far; it shares the file's position, which stays."""
    return os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0)


def await_listening(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the port accepts a connection."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchmarkError(f"the server ended at its start with code {process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0):
                return
        except OSError:
            time.sleep(0.05)
    raise BenchmarkError(f"the server did not listen within {START_SECONDS:.0f} s")


def await_rest(session: int) -> None:
    """Wait until a server has used no CPU for a while: one that listens may still import its app."""
    deadline = time.monotonic() + START_SECONDS
    spent = -1.0
    while spent != (spent := session_cpu(session)):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the server did not rest within {START_SECONDS:.0f} s")
        time.sleep(REST_SECONDS)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and whatever it started: politely first, then by force."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    # What is left of its group, which on the polite way is nothing, ends by force.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_tool(command: list[str], seconds: float) -> str:
    """Run a measuring program to its end and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"{command[0]} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout


# --- methods -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What the command line may change: cores, length of a wrk run (seconds), number of rounds."""

    cores: Cores
    seconds: int
    rounds: int


@dataclass(frozen=True)
class Load:
    """wrk with many connections, kept where the server keeps them, against one small answer, checked beforehand."""

    path: str = "/"
    body: bytes = sizes.HELLO
    connections: int = 32
    rounds_factor: int = 1

    @contextlib.contextmanager
    def opened(self, contender: Contender, settings: Settings) -> Iterator[Server]:
        """Start the server, check its answer and warm it up for a second."""
        with running(contender, settings.cores) as server:
            expect_body(server.url(self.path), self.body)
            self.fire(server, 1)
            yield server

    def measure(self, server: Server, settings: Settings) -> Sample:
        """Return right answers per second and CPU microseconds per right answer of a wrk run."""
        meter = Meter(server, settings.cores)
        requests, rate, errors = self.fire(server, settings.seconds)
        spent, others = meter.read()
        if spent == 0.0:
            raise BenchmarkError("the server got no CPU: something else holds its core")
        figures = {"rate": rate, "cpu_us": spent / requests * 1e6}
        return {**figures, "errors": errors, "others": others}

    def fire(self, server: Server, seconds: int) -> tuple[int, float, float]:
        """Run wrk and return right answers, right answers per second, and per cent of errors."""
        command = ["wrk", "-t1", f"-c{self.connections}", f"-d{seconds}s", server.url(self.path)]
        report = run_tool(command, seconds + 30)
        answers = number(r"(\d+) requests in", report)
        errors = number(r"Non-2xx or 3xx responses: (\d+)", report)
        if errors and not server.contender.may_err:
            raise BenchmarkError(f"answers other than 200 are no measure of speed:\n{report}")
        if answers <= errors:
            raise BenchmarkError(f"wrk counted no right answer:\n{report}")
        right = answers - errors
        rate = number(r"Requests/sec:\s+([\d.]+)", report) * right / answers
        return int(right), rate, errors / answers * 100


def number(pattern: str, report: str) -> float:
    """Return the number that a pattern finds in a report; 0 when it is not there."""
    found = re.search(pattern, report)
    return float(found.group(1)) if found else 0.0


def expect_body(url: str, expected: bytes) -> None:
    """Refuse to measure a server that does not answer ``expected``."""
    try:
        with urllib.request.urlopen(url, timeout=START_SECONDS) as response:
            body = response.read()
    except (urllib.error.URLError, OSError) as error:
        raise BenchmarkError(f"no answer: {error}") from error
    if body != expected:
        raise BenchmarkError(f"expected {expected!r}, got {body[:80]!r}")


@dataclass(frozen=True)
class Stream:
    """One curl that takes or gives a big body, with the peak of memory over the idle server.

    Attributes:
        size: bytes of body that have to go across, checked each time.
        upload: whether curl sends them; otherwise it receives them.
    """

    size: int
    upload: bool = False
    rounds_factor: int = 1

    @contextlib.contextmanager
    def opened(self, contender: Contender, settings: Settings) -> Iterator[Server]:
        """Start the server and wait until it rests: that is idle."""
        with running(contender, settings.cores) as server:
            await_rest(server.session)
            server.idle_bytes = session_memory(server.session, "VmRSS")
            yield server

    def measure(self, server: Server, settings: Settings) -> Sample:
        """Return seconds, MB/s, CPU milliseconds per MB and MB of memory above idle."""
        forget_peak(server.session)
        meter = Meter(server, settings.cores)
        seconds = self.transfer(server)
        spent, others = meter.read()
        peak = session_memory(server.session, "VmHWM") - server.idle_bytes
        megabytes = self.size / MEGABYTE
        return {
            "seconds": seconds,
            "mb_s": megabytes / seconds,
            "cpu_ms_mb": spent * 1e3 / megabytes,
            "rss_mb": peak / MEGABYTE,
            "others": others,
        }

    def transfer(self, server: Server) -> float:
        """Run curl once, check that every byte crossed, and return its own count of seconds."""
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder, "answer")
            command = ["curl", "-sS", "-m", str(STREAM_SECONDS), "-H", "Expect:"]
            command += ["-w", "%{http_code} %{size_download} %{time_total}"]
            if self.upload:
                source = Path(folder, "source")
                with source.open("wb") as file:
                    file.truncate(self.size)  # Sparse: zeros that take no disk.
                command += ["-o", str(answer), "-T", str(source)]
            else:
                command += ["-o", os.devnull]
            report = run_tool([*command, server.url("/")], STREAM_SECONDS + 10)
            status, received, seconds = report.split()
            crossed = answer.read_text() if self.upload else received
        if status != "200" or crossed != str(self.size):
            raise BenchmarkError(f"expected 200 and {self.size} bytes, got {status}, {crossed}")
        return float(seconds)


@dataclass(frozen=True)
class Import:
    """A fresh interpreter that runs one statement, timed from outside and asked for its modules.

    Attributes:
        unwanted: first parts of module names that the statement must not load.
        rounds_factor: times the rounds of other works, since one interpreter start is short.
    """

    unwanted: tuple[str, ...]
    rounds_factor: int = 5

    @contextlib.contextmanager
    def opened(self, contender: Contender, settings: Settings) -> Iterator[Contender]:
        """Run the statement once unmeasured: bytecode and page cache are then warm."""
        run_tool([sys.executable, *contender.command], START_SECONDS)
        yield contender

    def measure(self, contender: Contender, settings: Settings) -> Sample:
        """Return milliseconds from start to end of the process, and counts of modules."""
        pinned = ["taskset", "-c", str(settings.cores.server)]
        begun = time.perf_counter()
        run_tool([*pinned, sys.executable, *contender.command], START_SECONDS)
        elapsed = time.perf_counter() - begun
        asking = MODULES % contender.command[-1]
        modules = json.loads(run_tool([sys.executable, "-c", asking], START_SECONDS))
        unwanted = [name for name in modules if self.is_unwanted(name)]
        return {
            "start_ms": elapsed * 1e3,
            "modules": float(len(modules)),
            "unwanted": float(len(unwanted)),
        }

    def is_unwanted(self, module: str) -> bool:
        """Tell whether a module is one of ``unwanted`` or lies inside one."""
        return any(module == name or module.startswith(f"{name}.") for name in self.unwanted)


MODULES = """
import json, sys
before = set(sys.modules)
%s
print(json.dumps(sorted(set(sys.modules) - before)))
"""
