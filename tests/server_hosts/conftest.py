"""The command line as real processes: on free ports of 127.0.0.1, in a directory of their own, ended with the test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from cli_process import Program

FOLDER = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the folder alone in the fast part."""
    ours = FOLDER in collection_path.parents
    return True if ours and "not hosts" in config.option.markexpr else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker("hosts")
            item.add_marker(pytest.mark.timeout(60))


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Give a function that starts the command line in ``tmp_path``, in a process group of its own."""
    from hostkit.process import child_environment

    begun: list[Program] = []

    def begin(
        *words: str,
        environment: dict[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-m", "bridges"),
        pass_fds: Sequence[int] = (),
    ) -> Program:
        folder = tmp_path / f"process{len(begun)}"
        folder.mkdir()
        inherited = {
            name: value
            for name, value in child_environment(tmp_path, tmp_path).items()
            if not name.startswith(("BRIDGES_", "LISTEN_")) and name != "WEB_CONCURRENCY"
        }
        with (folder / "out.txt").open("wb") as out, (folder / "err.txt").open("wb") as err:
            process = subprocess.Popen(
                [*command, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=tmp_path,
                env={**inherited, **(environment or {})},
                pass_fds=pass_fds,
                start_new_session=True,
            )
        begun.append(Program(process, folder))
        return begun[-1]

    yield begin
    for program in begun:
        # The group that this fixture made: children of a parent that was killed are in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.process.pid, signal.SIGKILL)
        program.process.wait()
