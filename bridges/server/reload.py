"""Serving in a child process that is replaced when a source file changes.

The parent opens the sockets and keeps them, so that clients wait in the backlog, and are not refused, while no child
accepts. It imports nothing of the application. A child that cannot start is waited for until the next change.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any, Final

from ..errors import ConfigError
from .command import say
from .signals import STOP_SIGNALS

# Tells a child of its descriptors: the leash, then the sockets.
_VARIABLE: Final = "_BRIDGES_CHILD"

# How long requests of a child that is replaced may go on; then it is told once more, and then killed.
_PATIENCE_SECONDS: Final = (3.0, 5.0)


# In the child


def inherited(
    environment: MutableMapping[str, str] = os.environ,
) -> tuple[int, list[socket.socket]] | None:
    """Give what a parent passed to this process: its leash, which ends when the parent does, and listening sockets.

    Returns:
        None for a process that is no child of a reloading one. The variable is removed from ``environment``.
    """
    passed = environment.pop(_VARIABLE, None)
    if passed is None:
        return None
    leash, *sockets = map(int, passed.split(","))
    os.set_inheritable(leash, False)
    return leash, [_socket_of(number) for number in sockets]


def _socket_of(number: int) -> socket.socket:
    sock = socket.socket(fileno=number)
    sock.set_inheritable(False)
    return sock


# In the parent


def serve_with_reload(
    sockets: Sequence[socket.socket], folders: Sequence[str], patterns: Sequence[str]
) -> int:
    """Run this program once more, as a child that serves, and again at each change; until SIGINT or SIGTERM.

    Each signal is passed on to the child as SIGTERM, so that the second one forces. In the main thread.

    Args:
        sockets: listening ones that the child gets.
        folders: which are watched, with all that is in them.
        patterns: of the names of files that matter, as ``*.py``; hidden folders, virtual environments and the like
            never do.

    Returns:
        The exit status: that of the last child.

    Raises:
        ConfigError: watchfiles is missing, or the folders cannot be watched.
    """
    told = threading.Event()
    changes = _changes(folders, patterns, told)
    with _Child(sockets) as child, _handled(child, told):
        child.start()
        for changed in changes:
            say(f"{changed} changed: starting anew")
            child.stop()
            if told.is_set():
                break
            child.start()
    return child.status


def _changes(
    folders: Sequence[str], patterns: Sequence[str], told: threading.Event
) -> Iterator[str]:
    """Give the name of a changed file, again and again, until ``told`` is set."""
    try:
        import watchfiles
    except ImportError:
        raise ConfigError(
            "--reload needs watchfiles, which is not installed: pip install 'wsgi-asgi-bridges[reload]'"
        ) from None
    for folder in folders:
        if not os.path.isdir(folder):
            raise ConfigError(f"--reload-dir: there is no directory {folder}")
    return _watch(watchfiles, folders, patterns, told)


def _watch(
    watchfiles: Any, folders: Sequence[str], patterns: Sequence[str], told: threading.Event
) -> Iterator[str]:
    is_source = watchfiles.DefaultFilter()

    def matters(change: object, path: str) -> bool:
        name = os.path.basename(path)
        return is_source(change, path) and any(fnmatch.fnmatch(name, each) for each in patterns)

    try:
        for changes in watchfiles.watch(
            *folders, watch_filter=matters, stop_event=told, raise_interrupt=False
        ):
            yield os.path.relpath(min(path for _, path in changes))
    except OSError as error:
        raise ConfigError(f"{', '.join(folders)} cannot be watched ({error})") from error


@contextlib.contextmanager
def _handled(child: _Child, told: threading.Event) -> Iterator[None]:
    """Handle signals: those that stop, and that of a child's end."""

    def stop(number: int, frame: object) -> None:
        told.set()
        child.tell()

    def look(number: int, frame: object) -> None:
        if child.has_ended_by_itself and not told.is_set():
            say("waiting for a change")

    before = [(number, signal.signal(number, stop)) for number in STOP_SIGNALS]
    before.append((signal.SIGCHLD, signal.signal(signal.SIGCHLD, look)))
    try:
        yield
    finally:
        child.end()
        for number, handler in before:
            signal.signal(number, handler)


class _Child:
    """The process that serves, and those that take its place one after another."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = sockets
        self._process: subprocess.Popen[bytes] | None = None
        self._times_told = 0
        self._leash = os.pipe()

    def __enter__(self) -> _Child:  # noqa: PYI034  # Self is not in typing before 3.11
        return self

    def __exit__(self, *error: object) -> None:
        for each in self._leash:
            os.close(each)

    @property
    def status(self) -> int:
        """As an exit status, of the last process that has ended."""
        status = self._process.returncode if self._process is not None else 0
        if status == -signal.SIGTERM and self._times_told == 1:
            return 0  # told before it had a handler
        return 1 if status < 0 else status

    @property
    def has_ended_by_itself(self) -> bool:
        process = self._process
        return not self._times_told and process is not None and process.poll() is not None

    def start(self) -> None:
        self._times_told = 0
        passed = [self._leash[0], *(each.fileno() for each in self._sockets)]
        self._process = subprocess.Popen(
            # As this program was started: by the console script, by -m, with the interpreter's own options.
            [sys.executable, *sys.orig_argv[1:]],
            env={**os.environ, _VARIABLE: ",".join(map(str, passed))},
            pass_fds=passed,
        )

    def tell(self) -> None:
        """Tell the process to stop; again, to force it."""
        self._times_told += 1
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Stop the process, within limits."""
        for seconds in _PATIENCE_SECONDS:
            self.tell()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.end(seconds)
                return
        if self._process is not None:
            self._process.kill()
        self.end()

    def end(self, seconds: float | None = None) -> None:
        """Wait for the process, which was told unless something failed here."""
        if not self._times_told:
            self.tell()
        if self._process is not None:
            self._process.wait(seconds)
