"""The table host x app: what the run saw, as the text of docs/compatibility.md."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version

from .hosts import APPS, HOSTS, Limit

VERSIONS_MARK = "## Versions of the run that wrote this page"

INTRODUCTION = """\
# Compatibility

Written by the test run (`pytest tests/hosts --write-compatibility`), compared with it by every other full run.
Each cell is one process of that server serving that application through `WSGIToASGI`,
driven by a real client over the loopback interface.
"yes (n)" means that n checks passed; a number in brackets leads to what the server itself cannot do,
whatever runs on it.
"""

COLUMNS = """\
- **wsgiref.validate**, **werkzeug lint**: a plain WSGI application between the bridge and a validator of PEP 3333.
- **Flask**, **Django**, **Pyramid**, **Bottle**, **Falcon**: real applications, served at the root.
- **in Starlette**, **in FastAPI**, **in Litestar**, **in Quart**: the Flask application mounted at `/outer/legacy`.
- h2 is HTTP/2 over TLS; all others are HTTP/1.1 in clear text.
"""


@dataclass
class Seen:
    """What happened in the cells so far."""

    passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    limits: dict[tuple[str, str], list[Limit]] = field(default_factory=lambda: defaultdict(list))
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    # True when something was left out on the command line: the table would be a part only.
    narrowed: bool = False

    def full(self) -> bool:
        """Say whether every check of every cell ran."""
        cells = {(host.name, app) for host in HOSTS for app in APPS}
        seen = {*self.passed, *self.limits, *self.failed}
        return not self.narrowed and seen == cells


def page(seen: Seen) -> str:
    """Give the page for a full run without failures."""
    notes: list[str] = []
    rows = []
    for host in HOSTS:
        cells = [_cell(seen, (host.name, app), notes) for app in APPS]
        rows.append(f"| {host.name} | {' | '.join(cells)} |")
    lines = [INTRODUCTION, f"| host | {' | '.join(APPS)} |", f"|---|{'---|' * len(APPS)}", *rows]
    lines += ["", COLUMNS, "## What a server cannot do", ""]
    lines += [f"{number}. {reason}" for number, reason in enumerate(notes, 1)]
    lines += ["" if notes else "Nothing was found.\n"]
    lines += [
        "Each of these is checked: when a server learns it, the run fails until the line is gone."
    ]
    lines += ["", VERSIONS_MARK, ""]
    distributions = sorted({host.distribution for host in HOSTS})
    distributions += ["flask", "django", "pyramid", "bottle", "falcon"]
    distributions += ["starlette", "fastapi", "litestar", "quart", "werkzeug"]
    lines += [", ".join(f"{name} {version(name)}" for name in distributions) + ".", ""]
    return "\n".join(lines)


def compared(text: str) -> str:
    """Cut a page to the part that must agree between runs on different machines."""
    return text.partition(VERSIONS_MARK)[0]


def _cell(seen: Seen, cell: tuple[str, str], notes: list[str]) -> str:
    marks = []
    for limit in seen.limits.get(cell, ()):
        if limit.reason not in notes:
            notes.append(limit.reason)
        marks.append(notes.index(limit.reason) + 1)
    text = f"yes ({seen.passed[cell]})" if seen.passed[cell] else "no"
    return text + "".join(f" [{mark}]" for mark in sorted(set(marks)))
