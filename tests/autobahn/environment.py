"""The environment of the Autobahn TestSuite: Python 2.7, which its last release needs, under ``.venvs/autobahn``.

Made once and kept. What is needed of the machine: a Python 2.7 with its headers (a pyenv's will do) and gcc; pip
fetches the rest.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".venvs" / "autobahn"
SUITE = "autobahntestsuite==0.8.2"

# The last releases that make environments of Python 2.7.
_VIRTUALENV = "virtualenv<20.22"


class CannotTest(Exception):
    """The suite cannot be run; the sentence says why."""


def wstest() -> Path:
    """Give the suite's program, after installing it where it is not yet.

    Raises:
        CannotTest: there is no Python 2.7, or pip failed.
    """
    program = HOME / "bin" / "wstest"
    if _runs(program, "--help"):
        return program
    base = _python27()
    shutil.rmtree(HOME, ignore_errors=True)
    # A virtualenv of its own, in an environment of this Python: the one of the machine may be too new.
    maker = HOME.with_name("autobahn-maker")
    _call(sys.executable, "-m", "venv", "--clear", maker)
    _call(maker / "bin" / "python", "-m", "pip", "install", "--quiet", _VIRTUALENV)
    _call(maker / "bin" / "python", "-m", "virtualenv", "--quiet", "--python", base, HOME)
    shutil.rmtree(maker)
    _call(HOME / "bin" / "python", "-m", "pip", "install", "--quiet", SUITE)
    if not _runs(program, "--help"):
        raise CannotTest(f"{program} does not run")
    return program


def _python27() -> str:
    for candidate in _candidates():
        # pyenv's shims stand on PATH also for versions that are switched off.
        if _runs(candidate, "-c", "import sys; assert sys.version_info[:2] == (2, 7)"):
            return candidate
    raise CannotTest(
        "there is no Python 2.7, which the Autobahn TestSuite needs (pyenv install 2.7.18)"
    )


def _candidates() -> Iterator[str]:
    if on_path := shutil.which("python2.7"):
        yield on_path
    if pyenv := shutil.which("pyenv"):
        asked = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            yield from map(str, Path(asked.stdout.strip(), "versions").glob("2.7.*/bin/python"))


def _runs(*command: str | Path) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _call(*command: str | Path) -> None:
    print("==", *command, flush=True)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise CannotTest(f"{command[0]} ended with status {done.returncode}:\n{done.stdout}")
