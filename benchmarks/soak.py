"""``python -m benchmarks.soak``: full load with clients that leave, stall and send garbage.

Each host is soaked in turn. After the first minute and at the end the load stops, as many requests
as the host can have under way are made to meet inside the app, websockets likewise where they have
threads of their own, and once the server is quiet its threads, descriptors and RSS are read from
/proc, its asyncio tasks from the app where that is asynchronous. The run passes when processes,
threads, descriptors and tasks are the same, RSS has grown by no more than the tolerance, all came
to both meetings, nothing was left under way, no client was answered wrongly, and the server
stopped when told, with no complaint in its log.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import re
import secrets
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks import measuring, running
from benchmarks.measuring import MEGABYTE, BenchmarkError, Cores, Server
from benchmarks.soak_clients import Misbehaved, Visit, connected, pay_visit
from benchmarks.soak_hosts import HOSTS, Host
from benchmarks.soak_terms import MEETING_SECONDS
from benchmarks.soak_websockets import meet_websockets

SAMPLE_SECONDS = 5.0
QUIET_SECONDS = 60.0
# Quiet is this many looks in a row, a second apart, that see the same and next to no CPU used.
QUIET_LOOKS = 4
QUIET_CPU = 0.05
# How long what clients left behind may take to end: the adapter's grace time, and the host's timeouts.
LEFTOVER_SECONDS = 15.0

# What Python, asyncio, gevent or gunicorn say when something was mislaid or broke where nobody could catch it.
COMPLAINTS = re.compile(
    rb"Task was destroyed|never retrieved|was never awaited|Exception ignored|WORKER TIMEOUT"
    rb"|> failed with \w+|greenlet\.error"
)


@dataclass(frozen=True)
class State:
    """A server's processes at one moment, with their threads, descriptors, RSS (bytes) and CPU (seconds) in all."""

    processes: tuple[int, ...]
    threads: int
    descriptors: int
    rss: int
    cpu: float

    def still_as(self, earlier: State) -> bool:
        """Whether nothing but memory and CPU differs."""
        mine = (self.processes, self.threads, self.descriptors)
        return mine == (earlier.processes, earlier.threads, earlier.descriptors)


@dataclass
class Tally:
    """What the clients met: visits by kind, and the sentences of those that went wrong."""

    visits: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: collections.Counter[str] = field(default_factory=collections.Counter)


def state_of(server: Server) -> State:
    """Read the state of the server's processes; its session holds no others."""
    if server.process.poll() is not None:
        raise BenchmarkError(f"the server ended with code {server.process.returncode}")
    processes = sorted(measuring.session_members(server.session))
    return State(
        processes=tuple(processes),
        threads=sum(measuring.status_number(pid, "Threads") for pid in processes),
        descriptors=sum(descriptors_of(pid) for pid in processes),
        rss=measuring.session_memory(server.session, "VmRSS"),
        cpu=measuring.session_cpu(server.session),
    )


def descriptors_of(pid: int) -> int:
    """Count the open descriptors of a process; 0 when it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except FileNotFoundError:
        return 0


# --- load --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crowd:
    """The clients: what they do and how often, and the seed of each one's choices."""

    visits: Mapping[Visit, int]
    seeds: Sequence[str]


async def client(
    server: Server,
    visits: Mapping[Visit, int],
    chance: random.Random,
    stop: asyncio.Event,
    tally: Tally,
) -> None:
    """Pay visits, one after the other, until told to stop."""
    kinds = list(visits)
    shares = list(visits.values())
    while not stop.is_set():
        visit = chance.choices(kinds, shares)[0]
        name = visit.__name__
        try:
            await pay_visit(visit, server.port, chance)
        except Misbehaved as error:
            tally.wrong[f"{name}: {error}"] += 1
        tally.visits[name] += 1


@contextlib.asynccontextmanager
async def load(server: Server, crowd: Crowd, tally: Tally) -> AsyncIterator[None]:
    """Keep clients visiting for the length of the block; at its end each finishes its visit."""
    stop = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            for seed in crowd.seeds:
                group.create_task(client(server, crowd.visits, random.Random(seed), stop, tally))
            try:
                yield
            finally:
                stop.set()
    except ExceptionGroup as errors:  # noqa: F821  # of Python 3.11, as TaskGroup is
        raise errors.exceptions[0] from None  # a server that has ended is one error, not many


async def watch(server: Server, seconds: float, begun: float, tally: Tally) -> None:
    """Print a line of the server's state each five seconds for a while."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        wait = min(SAMPLE_SECONDS, left)
        _, account = await asyncio.gather(asyncio.sleep(wait), account_of(server, wait))
        print_line("load", state_of(server), account, begun, tally)


Account = dict[str, int | None]
NO_ACCOUNT: Account = {"busy": None, "queued": None, "tasks": None}


async def account_of(server: Server, seconds: float) -> Account:
    """Ask the app what it has under way; nothing is known when it does not answer in time."""
    try:
        async with asyncio.timeout(seconds), connected(server.port) as line:
            await line.ask("/account")
            _, body = await line.answer()
    except (TimeoutError, OSError, EOFError):
        return NO_ACCOUNT
    return {**NO_ACCOUNT, **json.loads(body)}


def shown(count: int | None) -> str:
    """Write a count that may not be known."""
    return "–" if count is None else str(count)


def print_line(phase: str, state: State, account: Account, begun: float, tally: Tally) -> None:
    """Print one row of the table."""
    print(
        f"{time.monotonic() - begun:8.1f} {phase:<8} {state.threads:8} {state.descriptors:12}"
        f" {shown(account['busy']):>9} {shown(account['tasks']):>6}"
        f" {state.rss / MEGABYTE:9.1f} {state.cpu:8.1f} {tally.visits.total():9}"
        f" {tally.wrong.total():6}",
        flush=True,
    )


# --- quiet -------------------------------------------------------------------------------------


async def meet(server: Server, threads: int) -> bool:
    """Have so many requests in the app at once; true when every one came."""

    async def one() -> bool:
        async with connected(server.port) as line:
            await line.ask("/meeting")
            return await line.answer() == (200, b"met")

    try:
        async with asyncio.timeout(MEETING_SECONDS * 2):
            return all(await asyncio.gather(*(one() for _ in range(threads))))
    except (TimeoutError, OSError, EOFError):
        return False


async def idle_account(server: Server) -> tuple[Account, list[str]]:
    """Wait until nothing is under way but the question, as the app counts it.

    Returns:
        That account and no fault; or, when it does not come in time, the last one and a fault.
    """
    ends = time.monotonic() + LEFTOVER_SECONDS
    while True:
        account = await account_of(server, MEETING_SECONDS)
        if account == NO_ACCOUNT:
            return account, ["the idle server gives no account of itself"]
        if (account["busy"], account["queued"]) == (1, 0):
            return account, []
        if time.monotonic() > ends:
            return account, [f"the server is not idle: {account}"]
        await asyncio.sleep(1.0)


async def quiet_state(server: Server) -> tuple[State, list[str]]:
    """Wait until threads and descriptors stand still and no CPU is used.

    Returns:
        That state and no fault; or, when it does not come in time, the last one and a fault.
    """
    before = state_of(server)
    same = 0
    for _ in range(int(QUIET_SECONDS)):
        await asyncio.sleep(1.0)
        now = state_of(server)
        same = same + 1 if now.still_as(before) and now.cpu - before.cpu < QUIET_CPU else 0
        before = now
        if same >= QUIET_LOOKS:
            return now, []
    return before, [f"the server was not quiet {QUIET_SECONDS:.0f} s after the load: {before}"]


@dataclass(frozen=True)
class Rest:
    """A server after its load: its state, its app's account, and what was wrong."""

    state: State
    account: Account
    faults: list[str]


async def settle(server: Server, host: Host, begun: float, tally: Tally) -> Rest:
    """Let all threads meet, wait for quiet, and look."""
    faults = []
    if not await meet(server, host.threads):
        faults.append(f"not all of {host.threads} requests came to the meeting")
    if not await meet_websockets(server.port, host.websockets):
        faults.append(f"not all of {host.websockets} websockets were open at one time")
    await quiet_state(server)
    account, more = await idle_account(server)
    faults += more
    state, more = await quiet_state(server)
    faults += more
    print_line("quiet", state, account, begun, tally)
    return Rest(state, account, faults)


def compare(first: Rest, last: Rest, tolerance: float) -> list[str]:
    """Return what differs between two quiet servers, in sentences."""
    faults = []
    pairs = {
        "processes": (first.state.processes, last.state.processes),
        "threads": (first.state.threads, last.state.threads),
        "descriptors": (first.state.descriptors, last.state.descriptors),
        "tasks": (first.account["tasks"], last.account["tasks"]),
    }
    for name, (before, now) in pairs.items():
        if before != now:
            faults.append(f"{name}: {before} after a minute, {now} now")
    grown = (last.state.rss - first.state.rss) / MEGABYTE
    if grown > tolerance:
        faults.append(f"RSS has grown by {grown:.1f} MB, more than the {tolerance:g} allowed")
    return faults


def stop_and_read(server: Server) -> list[str]:
    """Stop a server and return what was wrong with that, and the kinds of complaints in all of its log."""
    measuring.stop(server.process)
    faults = []
    if server.process.returncode == -signal.SIGKILL:
        faults.append(f"the idle server did not stop within {measuring.STOP_SECONDS:.0f} s")
    found = collections.Counter(COMPLAINTS.findall(server.log_text()))
    return [
        *faults,
        *(f"{count} × {words.decode()!r} in the server's log" for words, count in found.items()),
    ]


# --- the run -----------------------------------------------------------------------------------


async def soak(server: Server, host: Host, options: argparse.Namespace) -> list[str]:
    """Load, look, load, look; return what was wrong."""
    tally = Tally()
    begun = time.monotonic()
    total = options.minutes * 60
    first_part = min(60.0, total / 2)
    print(
        "seconds phase     threads  descriptors under way  tasks    RSS MB    CPU s    visits  wrong"
    )
    print_line("idle", state_of(server), NO_ACCOUNT, begun, tally)

    async def part(name: str, seconds: float) -> Rest:
        seeds = [f"{options.seed} {name} {number}" for number in range(host.clients)]
        async with load(server, Crowd(host.visits, seeds), tally):
            await watch(server, seconds, begun, tally)
        return await settle(server, host, begun, tally)

    first = await part("first", first_part)
    last = await part("rest", total - first_part)
    faults = [*first.faults, *last.faults, *compare(first, last, options.tolerance)]
    faults += [f"{count} × {sentence}" for sentence, count in tally.wrong.most_common(20)]
    print("visits: " + ", ".join(f"{name} {count}" for name, count in tally.visits.most_common()))
    return faults


def soak_host(name: str, options: argparse.Namespace, cores: Cores) -> list[str]:
    """Start a host, soak it and stop it; return what was wrong."""
    host = HOSTS[name] if options.adapter == "bridges" else HOSTS[name].without_websockets()
    changes = {key: getattr(options, key) for key in ("clients", "threads")}
    host = replace(host, **{key: value for key, value in changes.items() if value is not None})
    words = {"loop": options.loop, "http": options.http}
    contender = host.contender(options.adapter, host.threads, words)
    print(f"\n{name}, {host.clients} clients: {contender.spoken()}")
    with measuring.running(contender, cores) as server:
        faults = asyncio.run(soak(server, host, options))
        faults += stop_and_read(server)
    for fault in faults:
        print(f"WRONG: {fault}")
    verdict = "as after its first minute" if not faults else f"failed, seed {options.seed}"
    print(f"soak: {name}: {verdict}", flush=True)
    return faults


def parser() -> argparse.ArgumentParser:
    """Describe the options."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    options.add_argument(
        "hosts",
        nargs="*",
        metavar="HOST",
        help=f"any of {', '.join(HOSTS)}; uvicorn soaks WSGIToASGI, gunicorn's sync, gthread and gevent"
        " soak ASGIToWSGI, the others the server (default: all in turn)",
    )
    options.add_argument("--minutes", type=float, default=10.0, help="of load each (default: 10)")
    options.add_argument("--seed", default="", help="of the clients' choices; printed by each run")
    options.add_argument("--clients", type=int, help="at a time (default: what the host can bear)")
    options.add_argument(
        "--threads",
        type=int,
        help="requests that meet: threads of uvicorn's pool, of gthread, and of the server's pool",
    )
    options.add_argument(
        "--tolerance", type=float, default=10.0, help="MB that RSS may grow (default: 10)"
    )
    options.add_argument(
        "--adapter",
        default="bridges",
        choices=["bridges", "a2wsgi"],
        help="on uvicorn and on gunicorn's own workers",
    )
    options.add_argument(
        "--loop",
        default="uvloop",
        choices=["uvloop", "asyncio"],
        help="of uvicorn and of the server",
    )
    options.add_argument(
        "--http", default="httptools", choices=["httptools", "h11"], help="uvicorn's"
    )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; return 0 when every server is as it was, 1 when not, 2 when one could not run."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words)
    options.seed = options.seed or secrets.token_hex(4)
    if options.minutes <= 0:
        parser().error("--minutes must be more than 0")
    if unknown := set(options.hosts) - set(HOSTS):
        parser().error(f"no such host: {', '.join(sorted(unknown))}; there are {', '.join(HOSTS)}")
    hosts = [name for name, host in HOSTS.items() if host.wrapped or options.adapter == "bridges"]
    if unwrapped := set(options.hosts) - set(hosts):
        parser().error(f"no adapter is soaked on {', '.join(sorted(unwrapped))}")
    versions = ", ".join(f"{name} {number}" for name, number in running.versions().items())
    print(shlex.join(["python", "-m", "benchmarks.soak", *words]))
    print(f"seed {options.seed}; {' '.join(running.machine().values())}; {versions}")
    faults = []
    try:
        cores = measuring.claim_cores()
        for name in options.hosts or hosts:
            faults += soak_host(name, options, cores)
    except BenchmarkError as error:
        print(f"soak: {error}")
        return 2
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
