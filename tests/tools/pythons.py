"""Find the Python interpreters of this machine that bridges supports.

Candidates are ``python3.X`` on PATH and, where there is a pyenv, every version it installed. A candidate
counts only when it runs: pyenv's shims stand on PATH also for versions that are switched off.

Run as a program it prints what it found; with ``--newest`` only the path of the newest one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SUPPORTED = ((3, 10), (3, 11), (3, 12), (3, 13))

# Printed as JSON: the version, the interpreter behind a shim or a symbolic link, and the modules
# without which `python -m venv` fails (Debian packs them apart) or pip cannot download.
_PROBE = """
import importlib.util, json, sys
missing = [name for name in ("venv", "ensurepip", "ssl") if importlib.util.find_spec(name) is None]
print(json.dumps([sys.version_info[:3], sys.executable, missing, sys.implementation.name]))
"""


@dataclasses.dataclass(frozen=True, order=True)
class Python:
    """One interpreter.

    Attributes:
        version: major, minor and micro.
        path: the executable, absolute.
        missing: names of the modules it lacks to make a virtual environment; empty when usable.
    """

    version: tuple[int, int, int]
    path: str
    missing: tuple[str, ...] = ()

    @property
    def minor(self) -> str:
        """The short version, such as ``3.12``."""
        return f"{self.version[0]}.{self.version[1]}"


def _candidates() -> Iterator[str]:
    for major, minor in SUPPORTED:
        if on_path := shutil.which(f"python{major}.{minor}"):
            yield on_path
    if pyenv := shutil.which("pyenv"):
        asked = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            versions = Path(asked.stdout.strip(), "versions")
            yield from sorted(map(str, versions.glob("3.1[0-3].*/bin/python")))


def probe(executable: str) -> Python | None:
    """Ask an interpreter for its version; None when it does not run or is not one we support."""
    # -I: a PYTHONPATH of this process must not lend the other interpreter our modules.
    asked = subprocess.run(
        [executable, "-I", "-c", _PROBE], capture_output=True, text=True, check=False
    )
    if asked.returncode != 0:
        return None
    version, path, missing, implementation = json.loads(asked.stdout)
    if tuple(version[:2]) not in SUPPORTED or implementation != "cpython":
        return None
    return Python(tuple(version), os.path.realpath(path), tuple(missing))


def find_pythons() -> list[Python]:
    """The usable interpreters first within each minor version, one per minor, oldest first."""
    found: dict[str, Python] = {}
    for candidate in (sys.executable, *_candidates()):
        python = probe(candidate)
        if python is None:
            continue
        known = found.get(python.minor)
        if known is None or (known.missing and not python.missing):
            found[python.minor] = python
    return sorted(found.values())


def main() -> None:
    """Print every interpreter found, or with ``--newest`` the newest that can make environments."""
    pythons = find_pythons()
    if sys.argv[1:] == ["--newest"]:
        usable = [python for python in pythons if not python.missing]
        if not usable:
            raise SystemExit("no Python 3.10 to 3.13 with venv on this machine")
        print(usable[-1].path)
        return
    for python in pythons:
        lacks = f"  (lacks {', '.join(python.missing)})" if python.missing else ""
        print(f"{python.minor}  {python.path}{lacks}")


if __name__ == "__main__":
    main()
