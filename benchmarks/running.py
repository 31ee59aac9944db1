"""One run: every work's contenders in turn, round by round, to a plain record for JSON.

The record holds every round's figures, so that a reader can take other ratios than ours.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.measuring import ROOT, BenchmarkError, Sample, Settings
from benchmarks.works import METRICS, Target, Work

PACKAGES = (
    "a2wsgi",
    "anyio",
    "asgiref",
    "flask",
    "flask-sock",
    "gevent",
    "granian",
    "gunicorn",
    "httptools",
    "hypercorn",
    "simple-websocket",
    "starlette",
    "uvicorn",
    "uvloop",
    "waitress",
    "websockets",
    "werkzeug",
    "wsproto",
)

Record = dict[str, Any]


def ratio(metric: str, ours: float, theirs: float) -> float | None:
    """Return how many times better ours is; None where a zero makes that meaningless."""
    upper, lower = (theirs, ours) if METRICS[metric].less_is_better else (ours, theirs)
    return upper / lower if upper > 0 and lower > 0 else None


def measure_work(work: Work, settings: Settings, say: Callable[[str], None]) -> Record:
    """Run one work and return its record.

    All contenders are up for the whole work, an idle one costing nothing, so that each round
    compares them within the same few seconds of the machine's life.
    """
    samples: dict[str, list[Sample]] = {contender.name: [] for contender in work.contenders}
    failures: dict[str, str] = {}

    @contextlib.contextmanager
    def tolerating(contender: Contender) -> Iterator[None]:
        try:
            yield
        except BenchmarkError as error:
            error.about = contender.name
            if not contender.may_fail:
                raise
            reason = str(error).partition("\n")[0]
            failures[contender.name] = reason.removeprefix(f"{contender.name}: ")
            samples[contender.name].clear()
            say(f"{work.name}: not measured: {error}")

    with contextlib.ExitStack() as stack:
        subjects: dict[str, Any] = {}
        for contender in work.contenders:
            with tolerating(contender):
                opened = stack.enter_context(work.method.opened(contender, settings))
                subjects[contender.name] = opened
        for round_number in range(settings.rounds * work.method.rounds_factor):
            for contender in work.contenders:
                name = contender.name
                if name in failures:
                    continue
                with tolerating(contender):
                    sample = work.method.measure(subjects[name], settings)
                    samples[name].append(sample)
                    figures = ", ".join(f"{key} {value:.4g}" for key, value in sample.items())
                    say(f"{work.name} round {round_number + 1}: {name}: {figures}")
    return {
        "plan": work.plan,
        "name": work.name,
        "title": work.title,
        "chart": work.chart,
        "subject": work.subject,
        "contenders": [
            failed_record(contender, failures[contender.name])
            if contender.name in failures
            else contender_record(contender, samples, work.subject)
            for contender in work.contenders
        ],
        "targets": [target_record(target, samples) for target in work.targets],
    }


def contender_record(
    contender: Contender, samples: dict[str, list[Sample]], subject: str
) -> Record:
    """Return a contender's samples, medians, and the subject's ratios over it by round."""
    mine = samples[contender.name]
    ratios = {}
    for metric in mine[0]:
        by_round = [
            ratio(metric, ours[metric], theirs[metric])
            for ours, theirs in zip(samples[subject], mine, strict=True)
        ]
        known = [value for value in by_round if value is not None]
        ratios[metric] = {"rounds": by_round, "median": statistics.median(known) if known else None}
    return {
        "name": contender.name,
        "command": contender.spoken(),
        "samples": mine,
        "medians": {key: statistics.median(sample[key] for sample in mine) for key in mine[0]},
        "ratios": ratios,
    }


def failed_record(contender: Contender, reason: str) -> Record:
    """Return what is known of a contender that could not be measured."""
    return {
        "name": contender.name,
        "command": contender.spoken(),
        "failed": reason,
        "samples": [],
        "medians": {},
        "ratios": {},
    }


def target_record(target: Target, samples: dict[str, list[Sample]]) -> Record:
    """Return a target's sentence, the median over the rounds, and whether that reaches it."""
    mine = [sample[target.metric] for sample in samples[target.subject]]
    if target.how == "value":
        values = mine
    else:
        theirs = [sample[target.metric] for sample in samples[target.other]]
        pairs = list(zip(mine, theirs, strict=True))
        if target.how == "excess":
            values = [ours - other for ours, other in pairs]
        elif target.how == "up_to":
            values = [ours / min(target.bound, other) for ours, other in pairs]
        else:
            known = (ratio(target.metric, ours, other) for ours, other in pairs)
            values = [value for value in known if value is not None]
            if not values:
                raise BenchmarkError(f"no figures to compare for {target.sentence()}")
    median = statistics.median(values)
    return {
        "sentence": target.sentence(),
        "how": target.how,
        "bound": target.bound,
        "rounds": values,
        "median": median,
        "reached": target.reached(median),
    }


def measure_all(
    works: Sequence[Work], settings: Settings, command: str, say: Callable[[str], None]
) -> Record:
    """Run works one after another and return the record of the run."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
        "command": command,
        "seconds": settings.seconds,
        "rounds": settings.rounds,
        "machine": machine(),
        "versions": versions(),
        "works": [measure_work(work, settings, say) for work in works],
    }


def machine() -> dict[str, str]:
    """Name the machine by what bears on speed, and by nothing that would identify it."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    meminfo = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{int(meminfo.group(1)) / 2**20:.1f} GiB" if meminfo else "unknown",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, of `bridges` in the tree, and of every peer installed."""
    found = {"python": f"{platform.python_implementation()} {platform.python_version()}"}
    text = (ROOT / "bridges" / "__init__.py").read_text()
    version = re.search(r'^__version__\s*(?::[^=]+)?=\s*"([^"]+)"', text, re.MULTILINE)
    if version:
        found["bridges"] = version.group(1)
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
