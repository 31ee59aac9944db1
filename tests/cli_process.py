"""A process of the command line, as a test sees it."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

START_SECONDS = 30.0
STOP_SECONDS = 15.0
LOOK_SECONDS = 0.01


class Program:
    """A process of the command line, with what it wrote."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder

    @property
    def out(self) -> str:
        return (self.folder / "out.txt").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err.txt").read_text()

    def until(self, holds: Callable[[], object], seconds: float = START_SECONDS) -> bool:
        """Wait until something holds, or the process has ended, or the time is over; give whether it holds."""
        for _ in range(int(seconds / LOOK_SECONDS)):
            if holds():
                return True
            # Waiting for the exit that must not come is the pause between two looks.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(LOOK_SECONDS)
                break
        return bool(holds())

    def says(self, words: str, times: int = 1) -> bool:
        """Wait until the words stand in what it wrote to standard error."""
        return self.until(lambda: self.err.count(words) >= times)

    def address(self) -> str:
        """Wait for the start line; give the first address in it."""
        assert self.says("bridges: serving "), self.err
        found = re.search(r"^bridges: serving \S+ \(.*\) on (\S+) ", self.err, re.MULTILINE)
        assert found is not None, self.err
        return found[1]

    def tell(self, number: int) -> None:
        self.process.send_signal(number)

    def status(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for the end; give the exit status."""
        return self.process.wait(seconds)


def refuses(address: str) -> bool:
    """Whether nobody listens at an address any more."""
    host, _, port = address.partition("//")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), STOP_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False
