"""The tables host x app: what the run saw, as the sections of docs/compatibility.md."""

from __future__ import annotations

import platform
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version

from .hosts import Limit, Matrix

VERSIONS_MARK = "Versions of the run that wrote this table: "

INTRODUCTION = """\
# Compatibility

Written by the test run (`pytest tests/hosts tests/wsgi_hosts --write-compatibility`), compared with it by every other
full run.
"yes (n)" means that n checks passed; a number in brackets leads to what the server itself cannot do,
whatever runs on it.
"""


@dataclass
class Seen:
    """What happened in the cells of a matrix so far."""

    passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    limits: dict[tuple[str, str], list[Limit]] = field(default_factory=lambda: defaultdict(list))
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    # True when something was left out on the command line: the table would be a part only.
    narrowed: bool = False

    def full(self, matrix: Matrix) -> bool:
        """Say whether every check of every cell ran."""
        cells = {(host.name, app) for host in matrix.hosts for app in matrix.apps}
        seen = {*self.passed, *self.limits, *self.failed}
        return not self.narrowed and seen == cells


def section(matrix: Matrix, seen: Seen) -> str:
    """Give the section of a matrix for a full run without failures."""
    notes: list[str] = []
    rows = []
    for host in matrix.hosts:
        cells = [_cell(seen, (host.name, app), notes) for app in matrix.apps]
        rows.append(f"| {host.name} | {' | '.join(cells)} |")
    lines = [f"## {matrix.title}", "", matrix.introduction]
    lines += [f"| host | {' | '.join(matrix.apps)} |", f"|---|{'---|' * len(matrix.apps)}", *rows]
    lines += ["", matrix.columns, "### What a server cannot do", ""]
    lines += [f"{number}. {reason}" for number, reason in enumerate(notes, 1)]
    lines += ["" if notes else "Nothing was found.\n"]
    lines += [
        "Each of these is checked: when a server learns it, the run fails until the line is gone."
    ]
    distributions = sorted({host.distribution for host in matrix.hosts}) + [*matrix.distributions]
    named = ", ".join(f"{name} {_version(name)}" for name in distributions)
    lines += ["", f"{VERSIONS_MARK}{named}.", ""]
    return "\n".join(lines)


def replaced(page: str, matrix: Matrix, text: str) -> str:
    """Put a section into a page, in place of the one of the same title or as the last."""
    sections = _sections(page)
    sections[f"## {matrix.title}"] = text
    return "\n".join([INTRODUCTION, *sections.values()])


def compared(page: str, matrix: Matrix) -> str:
    """Cut a page to the part that must agree between runs on different machines."""
    text = _sections(page).get(f"## {matrix.title}", "")
    return re.sub(f"(?m)^{re.escape(VERSIONS_MARK)}.*$", "", text).rstrip()


def _sections(page: str) -> dict[str, str]:
    parts = re.split(r"(?m)^(?=## )", page)[1:]
    return {part.partition("\n")[0]: part.rstrip() + "\n" for part in parts}


def _version(name: str) -> str:
    return platform.python_version() if name == "python" else version(name)


def _cell(seen: Seen, cell: tuple[str, str], notes: list[str]) -> str:
    marks = []
    for limit in seen.limits.get(cell, ()):
        if limit.reason not in notes:
            notes.append(limit.reason)
        marks.append(notes.index(limit.reason) + 1)
    text = f"yes ({seen.passed[cell]})" if seen.passed[cell] else "no"
    return text + "".join(f" [{mark}]" for mark in sorted(set(marks)))
