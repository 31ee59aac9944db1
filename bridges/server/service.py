"""What all connections of a server share: the application and where it runs, limits, the clock, the log."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextvars import copy_context
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from ..crossing.gates import copy_context_for_thread, open_gate
from ..crossing.pool import ThreadPool, WebSocketPool
from ..translate.forwarded import TrustedPeers
from ..typing import ASGIApplication, WSGIApplication
from ..wsgi.files import FileWrapper
from .config import Config
from .head import HeadParser

if TYPE_CHECKING:
    from .exchange import Exchange
    from .head import RequestHead
    from .http1 import Connection

_log = logging.getLogger("bridges.server")

_TICK_SECONDS: Final = 0.5
# For what was cancelled at the end of a stop.
_LAST_SECONDS: Final = 1.0

MakeExchange = Callable[["Connection", "RequestHead"], "Exchange"]


class Service:
    """One application, served on one loop.

    Attributes:
        app: the application, of either kind.
        app_name: what errors and the log call it.
        config: what the server was told.
        context: of the server, which each request's task begins with a copy of.
        thread_context: likewise for threads.
        connections: those that are open.
        state: what the application's lifespan keeps for its requests; None without one.
        closed: True once nothing is served any more.
        stopping: True once no new requests are to be begun.
        date: the Date field, not older than a second.
        now: the loop's time, not older than half a second.
        idle_deadline: for connections that become idle now.
        requests: begun so far.
    """

    def __init__(
        self,
        app: ASGIApplication | WSGIApplication,
        app_name: str,
        config: Config,
        make_exchange: MakeExchange,
        make_websocket: MakeExchange | None = None,
        log_access: Callable[[Exchange], object] | None = None,
        multiprocess: bool = False,
    ) -> None:
        """Prepare it; on the loop."""
        self.app: Any = app
        self.app_name = app_name
        self.config = config
        self.make_exchange = make_exchange
        self.make_websocket = make_websocket
        self.log_access = log_access
        self.loop = asyncio.get_running_loop()
        self.gate = open_gate()
        self.context = copy_context()
        self.thread_context = copy_context_for_thread()
        self.heads = HeadParser(config.max_target_bytes, config.max_fields)
        self.trusted = TrustedPeers(config.forwarded_allow_ips)
        self.pool = ThreadPool(
            config.threads, max_queue=config.max_queue, queue_seconds=config.queue_seconds
        )
        # On top of the others, so that open websockets never keep requests waiting.
        self.websocket_pool = WebSocketPool(max(1, config.max_websockets))
        self.base_environ: dict[str, Any] = {
            "wsgi.version": (1, 0),
            "wsgi.multithread": config.threads > 1,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
        }
        # Of a request that asks for it; an ASGI application's is answered with what is wrong.
        self.may_have_websocket: Callable[[RequestHead], bool] = bool
        self.connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.state: dict[str, Any] | None = None
        self.tls: Callable[[Any], dict[str, Any]] | None = None
        self._soon: list[Callable[[], object]] = []
        self.stopping = False
        self.closed = False
        self.requests = 0
        self._quiet: asyncio.Future[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self.now = self.loop.time()
        self._tick()

    def _tick(self) -> None:
        """Read the clock, and let connections look at their deadlines: one timer for all of them."""
        self._ticker = self.loop.call_later(_TICK_SECONDS, self._tick)
        now = self.loop.time()
        if now - self.now > 2 * _TICK_SECONDS:
            self._forgive(now - self.now)
        self.now = now
        self.date = f"date: {formatdate(usegmt=True)}\r\n".encode("ascii")
        self.idle_deadline = self.in_seconds(self.config.keep_alive_seconds)
        late = [
            each
            for each in self.connections
            if each.reading_deadline <= now or each.writing_deadline <= now
        ]
        for connection in late:
            try:
                connection.expire(now)
            except Exception:  # of one connection, while all others rely on this
                _log.exception("a deadline of a connection failed")
                connection.transport.abort()

    def _forgive(self, seconds: float) -> None:
        """Put off all deadlines: while the loop was blocked, clients may have done what it could not see."""
        for connection in self.connections:
            connection.reading_deadline += seconds
            connection.writing_deadline += seconds

    def in_seconds(self, seconds: float) -> float:
        """Give the time by the loop's clock at which so many seconds will surely have passed."""
        return self.now + seconds + _TICK_SECONDS if seconds < math.inf else math.inf

    def add(self, connection: Connection) -> bool:
        """Count a connection in; tells whether it is one too many."""
        self.connections.add(connection)
        limit = self.config.max_connections
        return limit is not None and len(self.connections) > limit

    def discard(self, connection: Connection) -> None:
        """Count a connection out."""
        self.connections.discard(connection)
        self._look_quiet()

    def add_task(self, task: asyncio.Task[None]) -> None:
        """Count a task of the application in: a stop waits for it, and asyncio itself would not hold it."""
        self._tasks.add(task)

    def discard_task(self, task: asyncio.Task[None]) -> None:
        """Count a task out."""
        self._tasks.discard(task)
        self._look_quiet()

    def _look_quiet(self) -> None:
        quiet = self._quiet
        if quiet is not None and not (self.connections or self._tasks or quiet.done()):
            quiet.set_result(None)

    def soon(self, callback: Callable[[], object]) -> None:
        """Call something once all that the loop has just read was looked at.

        A thread that is woken earlier takes the interpreter's lock between any two reads, and the loop has to get it
        back for each of them.
        """
        self._soon.append(callback)
        if len(self._soon) == 1:
            self.loop.call_soon(self._call_those)

    def _call_those(self) -> None:
        callbacks, self._soon = self._soon, []
        for callback in callbacks:
            callback()

    async def wind_down(self, seconds: float) -> None:
        """End each connection with its next answer, for so many seconds."""
        self.stopping = True
        await self._until_quiet(seconds)

    async def drain(self, seconds: float) -> None:
        """Begin no new requests, and let those under way end, for ``seconds`` at most; then cut them off.

        Event streams and websockets are told at once; other responses without a known end lose their client after
        half of the time. Tasks that go on after their response are waited for, too, and cancelled in the end.
        """
        self.stopping = True
        for connection in list(self.connections):
            connection.stop()
        half = self.loop.call_later(seconds / 2, self._end_streams)
        await self._until_quiet(seconds)
        half.cancel()
        if self.connections:
            _log.warning("%d connections were cut off at the stop", len(self.connections))
            for connection in list(self.connections):
                connection.cut("the server has stopped")
        await self._until_quiet(self.config.disconnect_grace_seconds)
        if self._tasks:
            _log.warning("%d tasks did not end in time: cancelled", len(self._tasks))
            for task in self._tasks:
                task.cancel()
            await self._until_quiet(_LAST_SECONDS)
        self.closed = True

    def _end_streams(self) -> None:
        for connection in list(self.connections):
            connection.end_stream()

    async def _until_quiet(self, seconds: float) -> None:
        if self.connections or self._tasks:
            self._quiet = self.loop.create_future()
            try:
                await asyncio.wait([self._quiet], timeout=seconds)
            finally:
                self._quiet = None

    def end_threads(self, seconds: float) -> None:
        """Wait for the threads of the application; blocks.

        Args:
            seconds: longest time to wait; those that go on are left.
        """
        deadline = time.monotonic() + seconds
        for pool in (self.websocket_pool, self.pool):
            pool.shutdown(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Stop the clock; on the loop."""
        self.closed = True
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        self.gate.close()
