"""Run the Autobahn TestSuite's fuzzing client: ``python tests/autobahn/run.py [--cases PATTERN] TARGET…``.

A target is a ``ws://`` address on loopback where an echo application answers, or the name of a server, which is
started with one: see ``SERVERS``. Prints what came of each run and every case that is not plainly OK. Exit status:
0 when no case failed, 1 when one did, 2 when a run could not be made. Reports stay in ``.test-results/autobahn``.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from environment import ROOT, CannotTest, wstest

RESULTS = ROOT / ".test-results" / "autobahn"
HERE = Path(__file__).resolve().parent

START_SECONDS = 20.0
# A whole run takes some minutes on an idle machine; 12 and 13, which compress, take most of them.
RUN_SECONDS = 3600.0

SERVERS = {
    "bridges": "{python} -c 'from echo import app; from bridges.server.run import serve;"
    ' serve(app, port={port}, access_log="off", log_level="warning")\'',
    "asgi-to-wsgi": "{python} -m gunicorn -k gthread --threads 20 --no-control-socket --log-level warning"
    " -b 127.0.0.1:{port} echo:application",
    "uvicorn": "{python} -m uvicorn --ws wsproto --ws-max-size 67108864 --log-level warning --port {port} echo:app",
}
"""The command that serves ``echo.py`` on a port, for each name."""

# What the suite says of a case, from good to bad. It judges the messages and the closing apart; both count.
BEHAVIOURS = ("OK", "INFORMATIONAL", "NON-STRICT", "UNIMPLEMENTED", "FAILED")


def verdict(case: dict[str, Any]) -> str:
    """Give what is worse of the two judgements; whatever is not known to be good is a failure."""
    ranks = [
        BEHAVIOURS.index(said) if said in BEHAVIOURS else len(BEHAVIOURS) - 1
        for said in (case["behavior"], case["behaviorClose"])
    ]
    return BEHAVIOURS[max(ranks)]


def order(case: str) -> tuple[int, ...]:
    """Sort ``2.10`` after ``2.9``."""
    return tuple(map(int, case.split(".")))


def tell(agent: str, cases: dict[str, Any]) -> bool:
    """Print what came of a run; True if nothing failed."""
    by_verdict: dict[str, list[str]] = collections.defaultdict(list)
    for name in sorted(cases, key=order):
        by_verdict[verdict(cases[name])].append(name)
    counts = ", ".join(f"{len(by_verdict[word])} {word}" for word in BEHAVIOURS)
    print(f"== {agent}: {len(cases)} cases: {counts}")
    for word in BEHAVIOURS[2:]:
        for name in by_verdict[word]:
            case = cases[name]
            print(
                f"{word:>14}  {name}: messages {case['behavior']}, closing {case['behaviorClose']}"
                f" (code {case['remoteCloseCode']}), {case['reportfile']}"
            )
    sys.stdout.flush()
    return not by_verdict["FAILED"]


def fuzz(agent: str, url: str, cases: list[str], exclude: list[str]) -> dict[str, Any]:
    """Run the fuzzing client against an address, and give its report of each case.

    Raises:
        CannotTest: it did not come to its end.
    """
    program = wstest()
    home = RESULTS / agent
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    spec = {
        "outdir": str(home),
        "servers": [{"agent": agent, "url": url, "options": {"version": 18}}],
        "cases": cases,
        "exclude-cases": exclude,
        "exclude-agent-cases": {},
    }
    (home / "spec.json").write_text(json.dumps(spec, indent=2))
    log = home / "wstest.log"
    with log.open("wb") as output:
        try:
            subprocess.run(
                [program, "-m", "fuzzingclient", "-s", home / "spec.json"],
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=RUN_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CannotTest(f"no end after {RUN_SECONDS:.0f} seconds, see {log}") from None
    try:
        found: dict[str, Any] = json.loads((home / "index.json").read_text())[agent]
    except (OSError, KeyError):
        raise CannotTest(f"{url} gave no report, see {log}") from None
    return found


@contextlib.contextmanager
def serving(name: str) -> Iterator[str]:
    """Start a server with the echo application, give its address, and stop it.

    Raises:
        CannotTest: it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = shlex.split(SERVERS[name].format(python=sys.executable, port=port))
    process = subprocess.Popen(words, cwd=HERE, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_until_ready(name, port, process)
        yield f"ws://127.0.0.1:{port}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(START_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(name: str, port: int, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < give_up:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        # Waiting for the exit that must not come is the pause between two attempts.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    raise CannotTest(f"{name} does not start")


def test(target: str, cases: list[str], exclude: list[str]) -> bool:
    """Run the suite against a target; True if nothing failed."""
    if target.startswith("ws://"):
        agent = target.removeprefix("ws://").strip("/").replace(":", "-").replace("/", "-")
        return tell(agent, fuzz(agent, target, cases, exclude))
    with serving(target) as url:
        return tell(target, fuzz(target, url, cases, exclude))


def main() -> int:
    """Run all targets; see the module."""
    parser = argparse.ArgumentParser(
        description="Run the Autobahn TestSuite's fuzzing client against echo servers.",
        epilog=f"Servers: {', '.join(SERVERS)}.",
    )
    parser.add_argument("targets", nargs="+", metavar="TARGET", help="name or ws:// address")
    parser.add_argument(
        "--cases",
        action="append",
        metavar="PATTERN",
        help="only these, such as 6.*; may be repeated",
    )
    parser.add_argument(
        "--exclude", action="append", metavar="PATTERN", help="not these; may be repeated"
    )
    options = parser.parse_args()
    for target in options.targets:
        if target not in SERVERS and not target.startswith("ws://127.0.0.1:"):
            parser.error(
                f"{target} is neither a server ({', '.join(SERVERS)}) nor on ws://127.0.0.1:"
            )
    try:
        passed = [
            test(target, options.cases or ["*"], options.exclude or [])
            for target in options.targets
        ]
    except CannotTest as error:
        print(f"Cannot test: {error}.", file=sys.stderr)
        return 2
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
