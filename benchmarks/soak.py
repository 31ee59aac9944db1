"""``python -m benchmarks.soak``: full load with clients that leave, stall and send garbage.

After the first minute and at the end the load stops, all threads of the pool are made to meet,
and once the server is quiet its threads, descriptors and RSS are read from /proc. The run passes
when threads and descriptors are the same, RSS has grown by no more than the tolerance, every
thread of the pool came to both meetings, and no client was answered wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import secrets
import shlex
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from benchmarks import measuring, running
from benchmarks.contenders import Contender
from benchmarks.measuring import MEGABYTE, BenchmarkError, Server
from benchmarks.soak_clients import VISITS, Misbehaved, Visit, connected, pay_visit
from benchmarks.soak_terms import MEETING_SECONDS

SAMPLE_SECONDS = 5.0
QUIET_SECONDS = 60.0
# Quiet is this many looks in a row, a second apart, that see the same and next to no CPU used.
QUIET_LOOKS = 4
QUIET_CPU = 0.05

UVICORN = (
    "-m",
    "uvicorn",
    "--loop={loop}",
    "--http={http}",
    "--no-access-log",
    "--log-level=critical",
    "--timeout-keep-alive=2",
)


# glibc keeps what was freed, in an arena for each thread, so that RSS creeps up to the worst moment so far (by 27 MB in
# ten minutes, while the memory that Python had in use stayed at 17 MB). With one arena, and buffers from 16 KiB on
# given back when they are freed, what grows is what is kept.
PLAIN_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "16384",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


@dataclass(frozen=True)
class State:
    """The server's threads, descriptors, RSS (bytes) and CPU (seconds) at one moment."""

    threads: int
    descriptors: int
    rss: int
    cpu: float


@dataclass
class Tally:
    """What the clients met: visits by kind, and the sentences of those that went wrong."""

    visits: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: collections.Counter[str] = field(default_factory=collections.Counter)


def state_of(server: Server) -> State:
    """Read the state of the server's process; its session holds no other."""
    if server.process.poll() is not None:
        raise BenchmarkError(f"the server ended with code {server.process.returncode}")
    pid = server.process.pid
    return State(
        threads=measuring.status_number(pid, "Threads"),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        rss=measuring.status_number(pid, "VmRSS") * 1024,
        cpu=measuring.session_cpu(server.session),
    )


# --- load --------------------------------------------------------------------------------------


async def client(server: Server, chance: random.Random, stop: asyncio.Event, tally: Tally) -> None:
    """Pay visits, one after the other, until told to stop."""
    kinds: list[Visit] = list(VISITS)
    shares = list(VISITS.values())
    while not stop.is_set():
        visit = chance.choices(kinds, shares)[0]
        name = visit.__name__
        try:
            await pay_visit(visit, server.port, chance)
        except Misbehaved as error:
            tally.wrong[f"{name}: {error}"] += 1
        tally.visits[name] += 1


@contextlib.asynccontextmanager
async def load(server: Server, seeds: Sequence[str], tally: Tally) -> AsyncIterator[None]:
    """Keep clients visiting for the length of the block; at its end each finishes its visit."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for seed in seeds:
            group.create_task(client(server, random.Random(seed), stop, tally))
        try:
            yield
        finally:
            stop.set()


async def watch(server: Server, seconds: float, begun: float, tally: Tally) -> None:
    """Print a line of the server's state each five seconds for a while."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(SAMPLE_SECONDS, left))
        print_line("load", state_of(server), begun, tally)


def print_line(phase: str, state: State, begun: float, tally: Tally) -> None:
    """Print one row of the table."""
    print(
        f"{time.monotonic() - begun:8.1f} {phase:<8} {state.threads:8} {state.descriptors:12}"
        f" {state.rss / MEGABYTE:9.1f} {state.cpu:8.1f} {tally.visits.total():9}"
        f" {tally.wrong.total():6}",
        flush=True,
    )


# --- quiet -------------------------------------------------------------------------------------


async def meet(server: Server, threads: int) -> bool:
    """Ask for all threads of the pool at once; true when every one came."""

    async def one() -> bool:
        async with connected(server.port) as line:
            await line.ask("/meeting")
            return await line.answer() == (200, b"met")

    try:
        async with asyncio.timeout(MEETING_SECONDS * 2):
            return all(await asyncio.gather(*(one() for _ in range(threads))))
    except (TimeoutError, OSError, EOFError):
        return False


async def pool_faults(server: Server) -> list[str]:
    """Ask the pool's own account and return what in it is wrong for an idle server."""
    try:
        async with asyncio.timeout(MEETING_SECONDS), connected(server.port) as line:
            await line.ask("/pool")
            _, body = await line.answer()
    except (TimeoutError, OSError, EOFError) as error:
        return [f"no answer from the idle server: {error!r}"]
    account = json.loads(body)
    # The thread that answers is busy itself. An adapter without such a door answers nulls.
    idle = account["threads"] is None or (account["busy"], account["queued"]) == (1, 0)
    return [] if idle else [f"the pool is not idle: {account}"]


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
        still = (now.threads, now.descriptors) == (before.threads, before.descriptors)
        same = same + 1 if still and now.cpu - before.cpu < QUIET_CPU else 0
        before = now
        if same >= QUIET_LOOKS:
            return now, []
    return before, [f"the server was not quiet {QUIET_SECONDS:.0f} s after the load: {before}"]


async def settle(
    server: Server, threads: int, begun: float, tally: Tally
) -> tuple[State, list[str]]:
    """Let all threads meet, wait for quiet, and return the state and what was wrong with it."""
    faults = []
    if not await meet(server, threads):
        faults.append(f"not all of {threads} threads of the pool came to the meeting")
    await quiet_state(server)
    faults += await pool_faults(server)
    state, more = await quiet_state(server)
    faults += more
    print_line("quiet", state, begun, tally)
    return state, faults


def compare(first: State, last: State, tolerance: float) -> list[str]:
    """Return what differs between two quiet states, in sentences."""
    faults = []
    if last.threads != first.threads:
        faults.append(f"threads: {first.threads} after a minute, {last.threads} now")
    if last.descriptors != first.descriptors:
        faults.append(f"descriptors: {first.descriptors} after a minute, {last.descriptors} now")
    grown = (last.rss - first.rss) / MEGABYTE
    if grown > tolerance:
        faults.append(f"RSS has grown by {grown:.1f} MB, more than the {tolerance:g} allowed")
    return faults


# --- the run -----------------------------------------------------------------------------------


async def soak(server: Server, options: argparse.Namespace) -> list[str]:
    """Load, look, load, look; return what was wrong."""
    tally = Tally()
    begun = time.monotonic()
    total = options.minutes * 60
    first_part = min(60.0, total / 2)
    print("seconds phase     threads  descriptors    RSS MB    CPU s    visits  wrong")
    print_line("idle", state_of(server), begun, tally)

    async def part(name: str, seconds: float) -> tuple[State, list[str]]:
        seeds = [f"{options.seed} {name} {number}" for number in range(options.clients)]
        async with load(server, seeds, tally):
            await watch(server, seconds, begun, tally)
        return await settle(server, options.threads, begun, tally)

    first, faults = await part("first", first_part)
    last, more = await part("rest", total - first_part)
    faults += [*more, *compare(first, last, options.tolerance)]
    faults += [f"{count} × {sentence}" for sentence, count in tally.wrong.most_common(20)]
    print("visits: " + ", ".join(f"{name} {count}" for name, count in tally.visits.most_common()))
    return faults


def parser() -> argparse.ArgumentParser:
    """Describe the options."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    options.add_argument("--minutes", type=float, default=10.0, help="of load (default: 10)")
    options.add_argument("--seed", default="", help="of the clients' choices; printed by each run")
    options.add_argument("--clients", type=int, default=64, help="at a time (default: 64)")
    options.add_argument("--threads", type=int, default=40, help="of the pool (default: 40)")
    options.add_argument(
        "--tolerance", type=float, default=10.0, help="MB that RSS may grow (default: 10)"
    )
    options.add_argument("--adapter", default="bridges", choices=["bridges", "a2wsgi"])
    options.add_argument("--loop", default="uvloop", choices=["uvloop", "asyncio"])
    options.add_argument("--http", default="httptools", choices=["httptools", "h11"])
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; return 0 when the server is as it was, 1 when not, 2 when it could not run."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words)
    options.seed = options.seed or secrets.token_hex(4)
    if options.minutes <= 0:
        parser().error("--minutes must be more than 0")
    command = [word.format(loop=options.loop, http=options.http) for word in UVICORN]
    contender = Contender(
        name="soak",
        command=(*command, "--port={port}", "{app}"),
        app="benchmarks.apps.soak_wsgi:app",
        environment={
            "SOAK_ADAPTER": options.adapter,
            "SOAK_THREADS": str(options.threads),
            **PLAIN_ALLOCATOR,
        },
    )
    versions = ", ".join(f"{name} {number}" for name, number in running.versions().items())
    print(shlex.join(["python", "-m", "benchmarks.soak", *words]))
    print(f"seed {options.seed}; {' '.join(running.machine().values())}; {versions}")
    try:
        with measuring.running(contender, measuring.claim_cores()) as server:
            faults = asyncio.run(soak(server, options))
    except BenchmarkError as error:
        print(f"soak: {error}")
        return 2
    for fault in faults:
        print(f"WRONG: {fault}")
    print("soak: as after its first minute" if not faults else f"soak: failed, seed {options.seed}")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
