"""The test run: ``python3 tests/tools/run.py [lint] [docs] [lowest] [fast] [hosts]``.

Uses the standard library only, so that any Python 3.10 to 3.13 with venv can start it. Every step runs also
when an earlier one failed. The summary says for each test that failed which it was and what it said; the last
line counts the tests of all runs, and each failed check as one failure.

- lint: ruff format, ruff, flake8 (layers), mypy on the package; mypy and pyright on ``tests/typing``.
- docs: the site, with warnings as errors.
- lowest: a request, with the oldest dependencies that are allowed.
- fast: the fast part on every Python of the machine, two at a time; on this one with branch coverage of the package.
- hosts: real servers, proxies and a browser, side by side.

Tests run against the built wheel, each Python in an environment of its own under ``.venvs/``. An environment
is made anew when its Python or the dependencies in ``pyproject.toml`` changed.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pythons import Python, find_pythons, probe

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".venvs"
RESULTS = ROOT / ".test-results"
# No single command of a healthy run comes near this; a hung one must not hold the machine for ever.
COMMAND_SECONDS = 900
# Of each test that failed, at the end of the run; the whole stands far above, or is cut off by what keeps the log.
DETAIL_LINES = 25
MOST_DETAILS = 8
FAST = ("-q", "-m", "not hosts")
FAST_ON_OTHERS = ("-q", "-m", "not hosts and not one_python")


class Tally:
    """What passed and failed so far, over all steps."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.lines: list[str] = []
        self.details: list[str] = []
        self._lock = threading.Lock()

    def check(self, label: str, ok: bool, seconds: float) -> None:
        """Note a check that is not a test run; only its failure enters the count."""
        self.failed += not ok
        self.lines.append(f"{'ok' if ok else 'FAILED':>8}  {label} ({seconds:.0f} s)")

    def tests(self, label: str, report: Path, status: int, seconds: float) -> None:
        """Add a test run from its JUnit report; without a report the run itself failed."""
        if not report.exists():
            self.check(label, False, seconds)
            return
        suite = next(ET.parse(report).getroot().iter("testsuite"))
        count = {
            key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")
        }
        failed = count["failures"] + count["errors"]
        passed = count["tests"] - failed - count["skipped"]
        # pytest's status knows of what the report does not: coverage below the floor, no test found.
        if status and not failed:
            failed = 1
        word = "FAILED" if failed else "ok"
        failures = dict(told for case in suite.iter("testcase") for told in faults(case))
        with self._lock:
            self.passed += passed
            self.failed += failed
            self.details += [f"\n== {label}: {name}\n{end}" for name, end in failures.items()]
            self.lines.append(
                f"{word:>8}  {label}: {passed} passed, {failed} failed, {count['skipped']} skipped "
                f"({seconds:.0f} s)"
            )
            self.lines += [f"{'':>8}  - {name}" for name in failures]


def faults(case: ET.Element) -> Iterator[tuple[str, str]]:
    """Give the name of a test in a JUnit report and the end of what pytest shows of it, if it failed."""
    for fault in [*case.iter("failure"), *case.iter("error")]:
        shown = (fault.text or fault.get("message") or "").strip().splitlines()
        yield f"{case.get('classname')}::{case.get('name')}", "\n".join(shown[-DETAIL_LINES:])


def call(command: Sequence[str | Path], whole: bool = False, **environment: str) -> int:
    """Print a command, run it in the repository's root, and return its status.

    Args:
        command: its words.
        whole: print what it says when it has ended, not among what others say at the same time.
        **environment: variables besides those of this process.
    """
    words = [str(word) for word in command]
    shown = " ".join(word.replace(f"{ROOT}{os.sep}", "") for word in words)
    if not whole:
        print(f"\n== {shown}", flush=True)
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment}
    # A path from outside could lend the tests a package that the wheel does not bring.
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTEST_ADDOPTS"):
        env.pop(name, None)
    with tempfile.TemporaryFile() as output:
        try:
            status = subprocess.run(
                words,
                cwd=ROOT,
                env=env,
                check=False,
                timeout=COMMAND_SECONDS,
                stdout=output if whole else None,
            ).returncode
        except subprocess.TimeoutExpired:
            print(f"stopped after {COMMAND_SECONDS} s", flush=True)
            status = 124
        if whole:
            output.seek(0)
            print(f"\n== {shown}\n{output.read().decode(errors='replace')}", flush=True)
    return status


def require(command: Sequence[str | Path]) -> None:
    """Run a command that later ones need; end the run when it fails."""
    if status := call(command):
        raise SystemExit(f"{command[0]} ended with status {status}; the run cannot go on")


def environment(name: str, base: Python, groups: Sequence[str], *packages: str) -> Path:
    """Make a virtual environment with dependency groups, or find it made; return its Python."""
    home = ENVIRONMENTS / name
    stamp = home / "bridges.stamp"
    # The tables of tools stand last in pyproject.toml and install nothing.
    installs = (ROOT / "pyproject.toml").read_text().partition("\n[tool.")[0]
    wanted = hashlib.sha256(repr((base, groups, packages, installs)).encode()).hexdigest()
    python = home / "bin" / "python"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(home, ignore_errors=True)
    require([base.path, "-m", "venv", home])
    # pip learned --group in 25.1; the one that comes with Python is often older.
    require([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1"])
    wanted_groups = [word for group in groups for word in ("--group", group)]
    if wanted_groups or packages:
        require([python, "-m", "pip", "install", "--quiet", *packages, *wanted_groups])
    stamp.write_text(wanted)
    return python


def this_python() -> Python:
    """The interpreter that runs this program."""
    python = probe(sys.executable)
    if python is None or python.missing:
        lacks = ", ".join(python.missing) if python else "a version from 3.10 to 3.13"
        raise SystemExit(f"{sys.executable} lacks {lacks}")
    return python


def tools() -> Path:
    """The environment of everything that is not a test: linters, type checkers, Sphinx, build."""
    return environment("tools", this_python(), ("lint", "docs", "package"))


@functools.cache
def wheel() -> Path:
    """Build sdist and wheel, the wheel from the sdist; return the wheel."""
    target = ROOT / "dist"
    # A leftover build/lib would put deleted modules into the wheel.
    for leftover in (target, ROOT / "build"):
        shutil.rmtree(leftover, ignore_errors=True)
    require([tools(), "-m", "build", "--quiet", "--outdir", target])
    (built,) = target.glob("*.whl")
    return built


def install_wheel(python: Path) -> None:
    """Put the wheel into an environment, in place of an earlier build of the same version."""
    pip = [python, "-m", "pip", "install", "--quiet"]
    # Twice: the first brings what the wheel requires, the second replaces a wheel of the same version.
    require([*pip, wheel()])
    require([*pip, "--force-reinstall", "--no-deps", wheel()])


def lint(tally: Tally) -> None:
    """Check format, habits, layers and types."""
    python = tools()
    install_wheel(python)
    checks: list[tuple[str, list[str | Path]]] = [
        ("format", ["ruff", "format", "--check", "."]),
        ("lint", ["ruff", "check", "."]),
        ("layers", ["flake8", "bridges"]),
        ("types of the package", ["mypy", "--strict", "bridges"]),
        # With the wheel's py.typed, as a user's checker sees it.
        (
            "types for users, mypy",
            # 3.11 is the first with wsgiref.types.
            ["mypy", "--strict", "--python-version", "3.11", "tests/typing"],
        ),
        ("types for users, pyright", ["basedpyright", "--pythonpath", python]),
    ]
    for label, (command, *arguments) in checks:
        started = time.monotonic()
        status = call([python.parent / command, *arguments])
        tally.check(label, status == 0, time.monotonic() - started)


def docs(tally: Tally) -> None:
    """Build the site; every warning is an error."""
    started = time.monotonic()
    output = ROOT / "docs" / "_build" / "html"
    status = call([tools(), "-m", "sphinx", "-W", "--keep-going", "-E", "-q", "docs", output])
    tally.check("docs", status == 0, time.monotonic() - started)


def run_tests(
    tally: Tally, label: str, python: Path, arguments: Sequence[str | Path], whole: bool = False
) -> None:
    """Run pytest of an environment against its installed wheel; see ``call`` for ``whole``."""
    RESULTS.mkdir(exist_ok=True)
    report = RESULTS / f"{re.sub('[^a-z0-9.]+', '-', label.lower())}.xml"
    report.unlink(missing_ok=True)
    started = time.monotonic()
    # The script, not `-m pytest`: that would put the source tree on sys.path before the wheel.
    status = call(
        [python.parent / "pytest", f"--junitxml={report}", *arguments],
        whole,
        BRIDGES_WHEEL=str(wheel()),
    )
    tally.tests(label, report, status, time.monotonic() - started)


def side_by_side(tally: Tally, runs: Sequence[Run], most: int) -> None:
    """Run pytest several times at once, at most so many; each prints what it has to say when it has ended."""
    wheel()  # before two want to build it
    with ThreadPoolExecutor(most) as pool:
        started = [
            pool.submit(run_tests, tally, label, python, arguments, whole=True)
            for label, python, arguments in runs
        ]
    for each in started:
        each.result()


Run = tuple[str, Path, Sequence[str | Path]]
"""Label, Python and arguments of a run of pytest."""


def fast(tally: Tally) -> None:
    """Run the fast part on every Python of the machine, two at a time; on this one with coverage of the package."""
    # The longest first.
    runs: list[Run] = [
        (
            f"fast part on Python {this_python().minor}",
            suite_python(),
            [*FAST, "--cov", "--cov-report=term"],
        )
    ]
    for python in find_pythons():
        if python.minor == this_python().minor:
            continue
        if python.missing:
            line = (
                f" skipped  Python {python.minor}: {python.path} lacks {', '.join(python.missing)}"
            )
            print(line, flush=True)
            tally.lines.append(line)
            continue
        executable = environment(python.minor, python, ("test",))
        install_wheel(executable)
        runs.append((f"fast part on Python {python.minor}", executable, FAST_ON_OTHERS))
    side_by_side(tally, runs, 2)


def lowest(tally: Tally) -> None:
    """Serve a request where only the wheel and the oldest dependencies it allows are installed."""
    started = time.monotonic()
    text = (ROOT / "pyproject.toml").read_text()
    declared = re.search(r"^dependencies = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    if declared is None:
        raise SystemExit("pyproject.toml has no dependencies")
    oldest = [word.replace(">=", "==") for word in re.findall(r'"([^"]+)"', declared[1])]
    python = environment("lowest", this_python(), (), *oldest)
    install_wheel(python)
    status = call([python, "-I", "tests/tools/smoke.py"])
    tally.check(f"smoke with {' '.join(oldest)}", status == 0, time.monotonic() - started)


def native_groups() -> tuple[str, ...]:
    """The servers that have to be compiled, where that can be done; the suite skips them elsewhere."""
    header = Path(sysconfig.get_path("include"), "Python.h")
    lacks = [tool for tool in ("gcc", "apxs") if not shutil.which(tool)]
    lacks += [] if header.exists() else [str(header)]
    if lacks:
        print(f"uWSGI and mod_wsgi are left out without {', '.join(lacks)}", flush=True)
        return ()
    return ("native-hosts",)


def need_chromium() -> None:
    """Install Debian's Chromium where that can be done; the browser tests are skipped where there is none."""
    if any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid():
        print(
            "The browser tests are left out without Chromium: apt-get install chromium", flush=True
        )
        return
    call([apt, "update", "-q"])
    words = ["install", "-q", "-y", "--no-install-recommends", "chromium"]
    call([apt, *words], DEBIAN_FRONTEND="noninteractive")


@functools.cache
def suite_python() -> Path:
    """The environment of the whole suite: the wheel on this Python, and every server and framework."""
    groups = ("test", "hosts", *native_groups(), "coverage")
    python = environment("suite", this_python(), groups)
    install_wheel(python)
    return python


def hosts(tally: Tally) -> None:
    """Run the tests with real servers and a browser, side by side: they wait for most of their time."""
    need_chromium()
    folders = {
        "ASGI servers": "tests/hosts",
        "WSGI servers": "tests/wsgi_hosts",
        "the server as a process": "tests/server_hosts",
        "a browser": "tests/browser",
    }
    runs: list[Run] = [(label, suite_python(), ("-q", folder)) for label, folder in folders.items()]
    side_by_side(tally, runs, len(runs))


STEPS: dict[str, Callable[[Tally], None]] = {
    "lint": lint,
    "docs": docs,
    "lowest": lowest,
    "fast": fast,
    "hosts": hosts,
}


def main() -> int:
    """Run the named steps, or all; return 1 when anything failed."""
    names = sys.argv[1:] or list(STEPS)
    if unknown := set(names) - set(STEPS):
        raise SystemExit(f"unknown step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    started = time.monotonic()
    tally = Tally()
    for name in names:
        STEPS[name](tally)
    # Of many, the first will do: the summary has their names.
    print("\n".join(tally.details[:MOST_DETAILS]))
    print(f"\n== summary ({time.monotonic() - started:.0f} s)")
    print("\n".join(tally.lines))
    print(f"{tally.passed} passed, {tally.failed} failed", flush=True)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
