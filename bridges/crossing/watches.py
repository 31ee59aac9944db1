"""Watches: an event loop calls back when a socket can be read or written, for as long as that is wanted.

Guarantees:

- Callbacks come on the loop, one at a time, and only between asking for them and taking that back.
- After ``close`` none comes, and the loop has let go of the descriptor: it may be closed at once.
- A callback that fails is logged and ends nothing.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, Final, Protocol

import anyio

_log = logging.getLogger("bridges.adapters")

# anyio had them under other names before 4.7.
_wait_readable: Final[Callable[[Any], Awaitable[None]]] = (
    getattr(anyio, "wait_readable", None) or anyio.wait_socket_readable
)
_wait_writable: Final[Callable[[Any], Awaitable[None]]] = (
    getattr(anyio, "wait_writable", None) or anyio.wait_socket_writable
)


def nothing() -> None:
    """Stand in for a callback that was let go of, or who calls and who is called would hold each other."""


class _Task(Protocol):
    def cancel(self) -> object: ...


class Watch(ABC):
    """What a loop watches one socket with; all of it on the loop."""

    def __init__(self) -> None:
        self._reads = False
        self._writes = False

    def read(self, wanted: bool) -> None:
        """Say whether to be called when the socket can be read."""
        if wanted is not self._reads:
            self._reads = wanted
            self._watch_reading(wanted)

    def write(self, wanted: bool) -> None:
        """Say whether to be called when the socket can be written."""
        if wanted is not self._writes:
            self._writes = wanted
            self._watch_writing(wanted)

    def close(self) -> None:
        """Let go of the descriptor and of the callbacks; also where the loop has ended."""
        self.read(False)
        self.write(False)

    @abstractmethod
    def _watch_reading(self, wanted: bool) -> None: ...

    @abstractmethod
    def _watch_writing(self, wanted: bool) -> None: ...


class LoopWatch(Watch):
    """A watch of an asyncio loop that knows descriptors itself."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        on_readable: Callable[[], object],
        on_writable: Callable[[], object],
    ) -> None:
        super().__init__()
        self._loop = loop
        self._descriptor = descriptor
        self._on_readable = on_readable
        self._on_writable = on_writable

    def close(self) -> None:
        super().close()
        self._on_readable = self._on_writable = nothing

    def _watch_reading(self, wanted: bool) -> None:
        if wanted:
            self._loop.add_reader(self._descriptor, self._on_readable)
        elif not self._loop.is_closed():
            self._loop.remove_reader(self._descriptor)

    def _watch_writing(self, wanted: bool) -> None:
        if wanted:
            self._loop.add_writer(self._descriptor, self._on_writable)
        elif not self._loop.is_closed():
            self._loop.remove_writer(self._descriptor)


class TaskWatch(Watch):
    """A watch by tasks, for any loop that anyio knows."""

    def __init__(
        self,
        spawn: Callable[[Callable[[], Coroutine[Any, Any, None]], Context], _Task],
        descriptor: int,
        on_readable: Callable[[], object],
        on_writable: Callable[[], object],
    ) -> None:
        super().__init__()
        self._reader = _Repeat(spawn, _wait_readable, descriptor, on_readable)
        self._writer = _Repeat(spawn, _wait_writable, descriptor, on_writable)

    def close(self) -> None:
        super().close()
        self._reader.cancel()
        self._writer.cancel()

    def _watch_reading(self, wanted: bool) -> None:
        self._reader.want(wanted)

    def _watch_writing(self, wanted: bool) -> None:
        self._writer.want(wanted)


class _Repeat:
    """Waits and calls, again and again, as long as that is wanted.

    A wait that is not wanted any more goes on, and ends without a call: two at one time the loops would refuse.
    """

    def __init__(
        self,
        spawn: Callable[[Callable[[], Coroutine[Any, Any, None]], Context], _Task],
        wait: Callable[[Any], Awaitable[None]],
        descriptor: int,
        callback: Callable[[], object],
    ) -> None:
        self._spawn = spawn
        self._wait = wait
        self._descriptor = descriptor
        self._callback = callback
        self._wanted = False
        self._runs = False
        self._task: _Task | None = None

    def want(self, wanted: bool) -> None:
        self._wanted = wanted
        if wanted and not self._runs:
            self._runs = True
            self._task = self._spawn(self._run, Context())

    async def _run(self) -> None:
        try:
            # One that is cancelled before its first step must not touch a descriptor that may be another's by then.
            while self._wanted:
                await self._wait(self._descriptor)
                if self._wanted:
                    self._call()
        finally:
            self._runs = False

    def _call(self) -> None:
        try:
            self._callback()
        except Exception:
            _log.exception("a callback on the event loop failed")

    def cancel(self) -> None:
        self._wanted = False
        self._callback = nothing
        if self._runs and self._task is not None:
            self._task.cancel()
