"""An application at home on a portal: its lifespan, and the requests that are under way."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Final, Protocol

import anyio

from ..crossing.portal import Handle, LoopFactory, Portal, Work
from ..crossing.registry import Backend, enter, leave, leave_soon
from ..errors import CrossingError
from ..typing import ASGIApplication
from .desk import LateThread, come_to, open_desks
from .lifespan import Lifespan, LifespanMode

_log = logging.getLogger("bridges.adapters")

# How long the end waits for thread-sensitive code that came after its request, once everything else is over.
_LATE_SECONDS: Final = 0.5

_CLOSED: Final = "this application was closed while a request came"


class UnderWay(Protocol):
    """A request, as far as the end of its service is concerned."""

    def lose(self) -> None:
        """Tell it that the loop has ended; in the loop's thread."""

    def leave(self, reason: str) -> None:
        """Tell it that nobody takes its response any more; on the loop."""

    def stop(self) -> None:
        """Tell it that the server is stopping, if it has no end by itself, as a websocket; on the loop."""

    def call_off(self) -> None:
        """Cancel it; on the loop."""


class Service:
    """One application on one loop, from its lifespan's startup to its shutdown.

    Attributes:
        app: the application.
        app_name: what errors and the log call it.
        lifespan: made when the service is opened.
        portal: where it runs; entered when the service is opened.
        is_open: True once requests may come.
        knows_asgiref: whether asgiref, which knows asyncio only, works there.
        has_desks: whether thread-sensitive code runs in the request's thread. Where that drives the loop it cannot:
            such code may call back (``async_to_sync``), and nobody would run the loop meanwhile.
        late: the thread of what has no request's.
        buffer_bytes: how far a response may run ahead of its client.
    """

    lifespan: Lifespan
    portal: Portal

    def __init__(
        self,
        app: ASGIApplication,
        app_name: str,
        *,
        backend: Backend,
        loop_factory: LoopFactory | None,
        lifespan: LifespanMode,
        startup_seconds: float,
        shutdown_seconds: float,
        disconnect_grace_seconds: float,
        buffer_bytes: int,
    ) -> None:
        self.app = app
        self.app_name = app_name
        self.buffer_bytes = buffer_bytes
        self.knows_asgiref = backend != "trio"
        self.has_desks = backend != "inline"
        self._backend = backend
        self._loop_factory = loop_factory
        self._lifespan_mode = lifespan
        self._startup_seconds = startup_seconds
        self._shutdown_seconds = shutdown_seconds
        self._grace_seconds = disconnect_grace_seconds
        self.is_open = False
        self.late = LateThread()
        self._under_way: set[UnderWay] = set()
        self._idle: anyio.Event | None = None
        self._begun = False
        self._warned_of_dropped = False
        self._closing = False
        self._stopping = False
        self._process = os.getpid()

    # In a host's thread.

    @property
    def closed(self) -> bool:
        """True once no request may come any more, or where it belongs to the process that this one was forked from."""
        return (
            self._closing or (self.is_open and self.portal.closed) or self._process != os.getpid()
        )

    def open(self) -> bool:
        """Enter the portal and begin the lifespan, without waiting for its startup; any number of times.

        Returns:
            False where it was closed meanwhile.

        Raises:
            BaseException: what making the loop raised.
        """
        try:
            self.portal = enter(
                self._backend, self._loop_factory, self._farewell, self._shutdown_seconds
            )
            self.portal.at_end.append(weakref.WeakMethod(self._lose_all))
            self.portal.call(self._begin_lifespan)
        except BaseException:
            self._closing = True
            raise
        self.is_open = True
        if self._closing:  # by somebody who could not leave yet
            leave(self.portal, self._farewell)
        return not self._closing

    def wait_for_startup(self) -> None:
        """Wait until requests may be served.

        Raises:
            LifespanFailed: they never may.
        """
        self.portal.call(self.lifespan.started)

    def close(self) -> None:
        """End it: requests under way get half of the shutdown time, the lifespan what is left."""
        self._closing = True
        if self.is_open:
            leave(self.portal, self._farewell)

    def close_soon(self) -> None:
        """End it without waiting; from any thread, the garbage collector's calls included."""
        self._closing = True
        if self.is_open:
            leave_soon(self.portal, self._farewell)

    def dismiss_in(self, seconds: float) -> None:
        """Tell websockets that the server is stopping, and in ``seconds`` from now whatever is under way then."""

        def dismiss() -> None:
            self._stop_all()
            self.portal.call_later(seconds, self._dismiss)

        self.portal.gate.ring(dismiss)

    def stop_websockets(self) -> None:
        """Tell websockets that the server is stopping, those that are still to come included."""
        self.portal.gate.ring(self._stop_all)

    def _lose_all(self) -> None:
        """Tell the requests whose tasks the loop's end has left; in the loop's thread."""
        for request in tuple(self._under_way):
            request.lose()

    # On the loop.

    def warn_of_dropped(self, names: Sequence[str]) -> None:
        """Log that a response had headers which are the server's; of the first one only."""
        if not self._warned_of_dropped:
            self._warned_of_dropped = True
            _log.warning(
                "%s sent hop-by-hop headers, which are the server's: dropped %s",
                self.app_name,
                ", ".join(names),
            )

    def _stop_all(self) -> None:
        self._stopping = True
        for request in tuple(self._under_way):
            request.stop()

    def _dismiss(self) -> None:
        for request in tuple(self._under_way):
            request.leave("the server is stopping")

    async def _begin_lifespan(self) -> None:
        if self._begun:
            return
        self._begun = True
        if self.knows_asgiref:
            await open_desks()
        self.lifespan = Lifespan(
            self.app, self.app_name, self._lifespan_mode, self._startup_seconds
        )
        if not self.lifespan.ready:
            self.portal.spawn(self._run_lifespan, Context())

    async def _run_lifespan(self) -> None:
        if self.knows_asgiref:
            come_to(self.late)
        await self.lifespan.run()

    def begin(self, request: UnderWay, work: Work, context: Context) -> Handle:
        """Start a request's task.

        Raises:
            CrossingError: the portal is about to end.
        """
        if self.portal.closed or self._closing:
            raise CrossingError(_CLOSED)
        self._under_way.add(request)
        if self._stopping:
            request.stop()
        return self.portal.spawn(work, context)

    def ended(self, request: UnderWay) -> None:
        """Learn that a request's task has ended."""
        self._under_way.discard(request)
        if self._idle is not None and not self._under_way:
            self._idle.set()

    def call_later_to_leave(self, call_off: Callable[[], object]) -> Handle:
        """Have a request called off when the grace time of a client that has left is over, unless it is cancelled."""
        return self.portal.call_later(self._grace_seconds, call_off)

    async def _farewell(self) -> None:
        self._closing = True
        begun = anyio.current_time()
        await self._drain(self._shutdown_seconds / 2)
        left = begun + self._shutdown_seconds - anyio.current_time()
        await self.lifespan.stop(left)
        with anyio.move_on_after(_LATE_SECONDS):
            await self.late.end()

    async def _drain(self, seconds: float) -> None:
        """Wait for the requests under way, then cancel those that are left."""
        self._stop_all()
        if not self._under_way:
            return
        self._idle = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._idle.wait()
        if self._under_way:
            _log.warning(
                "cancelling %d tasks of %s that did not end within %g seconds",
                len(self._under_way),
                self.app_name,
                seconds,
            )
            await (
                anyio.lowlevel.checkpoint()
            )  # who is cancelled before its first step never runs, and tells nobody
            for request in tuple(self._under_way):
                request.call_off()
            with anyio.move_on_after(seconds / 2):
                await self._idle.wait()
