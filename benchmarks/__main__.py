"""The command line: ``python -m benchmarks [p1 p2 ...]``."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import shlex
import sys
import time
from collections.abc import Sequence

from benchmarks import report, running
from benchmarks.measuring import BenchmarkError, Settings, claim_cores, require_tools
from benchmarks.works import WORKS, Work

PEERS = (
    "a2wsgi",
    "asgiref",
    "flask",
    "flask_sock",
    "gevent",
    "granian",
    "gunicorn",
    "httptools",
    "hypercorn",
    "simple_websocket",
    "starlette",
    "uvicorn",
    "uvloop",
    "waitress",
    "websockets",
    "wsproto",
)


def parser() -> argparse.ArgumentParser:
    """Describe the options."""
    plans = dict.fromkeys(work.plan for work in WORKS)
    options = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure bridges beside its peers; a whole run takes about 35 minutes.",
    )
    options.add_argument("works", nargs="*", metavar="WORK", help=f"any of {', '.join(plans)}")
    options.add_argument("--rounds", type=positive, default=5, help="default: 5")
    options.add_argument(
        "--seconds", type=positive, default=4, help="length of each run of wrk (default: 4)"
    )
    options.add_argument(
        "--python-version",
        metavar="X.Y",
        help="refuse to measure on another Python, so that runs stay comparable",
    )
    options.add_argument(
        "--name",
        help="name of the files under benchmarks/results/ (default: latest for a whole run,"
        " partial for a selection)",
    )
    options.add_argument(
        "--report-only",
        action="store_true",
        help="write page and chart anew from the JSON, without measuring",
    )
    options.add_argument(
        "--strict", action="store_true", help="end with code 1 when a target is missed"
    )
    return options


def positive(text: str) -> int:
    """Read a whole number of at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def select(names: Sequence[str]) -> list[Work]:
    """Return the works named, by plan number or by own name; all when none is."""
    known = {work.plan for work in WORKS} | {work.name for work in WORKS}
    unknown = [name for name in names if name.lower() not in known]
    if unknown:
        raise BenchmarkError(f"no such work: {', '.join(unknown)}; there are {sorted(known)}")
    wanted = {name.lower() for name in names}
    return [work for work in WORKS if not wanted or wanted & {work.plan, work.name}]


def require_peers(version: str | None) -> None:
    """Refuse to start on another Python than asked for, or without the peers."""
    running_on = platform.python_version()
    if version is not None and not f"{running_on}.".startswith(f"{version}."):
        raise BenchmarkError(f"this is Python {running_on}, asked for was {version}")
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    if missing:
        raise BenchmarkError(
            f"missing packages: {', '.join(missing)}; `make bench` installs them,"
            " as does the dependency group bench"
        )


def say(line: str) -> None:
    """Print progress, apart from the tables."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words)
    try:
        works = select(options.works)
        name = options.name or ("partial" if options.works else "latest")
        if options.report_only:
            record = report.rewrite(name)
        else:
            require_tools()
            require_peers(options.python_version)
            settings = Settings(claim_cores(), options.seconds, options.rounds)
            begun = time.monotonic()
            command = shlex.join(["python", "-m", "benchmarks", *words])
            record = running.measure_all(works, settings, command, say)
            report.write(record, name)
            say(f"took {time.monotonic() - begun:.0f} s")
    except (BenchmarkError, FileNotFoundError) as error:
        say(f"benchmarks: {error}")
        return 2
    print(report.as_text(record))
    print(f"\nwritten: benchmarks/results/{name}.json, .md and .svg")
    missed = [target for work in record["works"] for target in work["targets"]]
    missed = [target for target in missed if not target["reached"]]
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    raise SystemExit(main())
