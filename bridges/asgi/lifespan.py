"""Driving an application's lifespan: startup before the first request, shutdown after the last, in one task.

Source: ASGI lifespan specification 2.0.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Final, Literal, TypeAlias

import anyio

from ..crossing.portal import is_cancellation
from ..errors import ApplicationProtocolError, LifespanFailed
from ..typing import ASGIApplication, Message

_log = logging.getLogger("bridges.adapters")

LifespanMode: TypeAlias = Literal["auto", "on", "off"]
LIFESPAN_MODES: Final = ("auto", "on", "off")

# An application that says that its startup failed ends; most raise what went wrong, whose traceback is worth a wait.
_LAST_WORDS_SECONDS: Final = 1.0

_CLAUSE: Final = "ASGI lifespan specification 2.0"


class Lifespan:
    """The lifespan of one application on one loop; everything runs on that.

    Attributes:
        state: what the application keeps for its requests, each of which gets a copy.
        ready: True once requests may be served.
        ended: True once its task has ended; there is nothing to shut down any more.
    """

    def __init__(
        self, app: ASGIApplication, app_name: str, mode: LifespanMode, startup_seconds: float
    ) -> None:
        """Prepare it; on the loop.

        Args:
            app: the application.
            app_name: what errors and the log call it.
            mode: ``"on"`` demands that the application takes part, ``"auto"`` lets it refuse, ``"off"`` does not ask.
            startup_seconds: how long its startup may last.
        """
        self.state: dict[str, Any] = {}
        self.ready = mode == "off"
        self.ended = mode == "off"
        self._app = app
        self._app_name = app_name
        self._must_take_part = mode == "on"
        self._startup_seconds = startup_seconds
        self._asked = False
        self._told = False
        self._has_shut_down = False
        self._failure: str | None = None
        self._stopping = False
        self._settled = anyio.Event()
        self._shutdown = anyio.Event()
        self._over = anyio.Event()
        self._patience = anyio.CancelScope()

    async def started(self) -> None:
        """Wait until requests may be served.

        Raises:
            LifespanFailed: they never may.
        """
        if not self.ready:
            await self._settled.wait()
            if self._failure is not None:
                raise LifespanFailed(self._failure)

    async def stop(self, seconds: float) -> None:
        """Run the shutdown, for ``seconds`` at most."""
        if not self.ended:
            self._stopping = True
            self._patience.deadline = anyio.current_time() + seconds
            self._shutdown.set()
            await self._over.wait()

    async def run(self) -> None:
        """Run the application's lifespan from startup to shutdown; in a task of its own."""
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        error: BaseException | None = None
        self._patience.deadline = anyio.current_time() + self._startup_seconds
        try:
            with self._patience:
                try:
                    await self._app(scope, self._receive, self._send)
                except BaseException as raised:
                    if is_cancellation(raised):
                        raise
                    error = raised
        finally:
            self.ended = True
            self._conclude(error, timed_out=self._patience.cancelled_caught)
            self._over.set()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._shutdown.wait()
        if self._told:
            await anyio.sleep_forever()  # there is nothing more to come
        self._told = True
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        starting = not self._settled.is_set()
        if kind == "lifespan.startup.complete" and starting:
            if not self._stopping:
                self._patience.deadline = math.inf
            self._settle()
        elif kind == "lifespan.startup.failed" and starting:
            self._failure = str(message.get("message") or "").strip() or "it gave no reason"
            self._give_last_words()
        elif kind == "lifespan.shutdown.failed" and self._stopping:
            _log.error("%s failed to shut down: %s", self._app_name, message.get("message") or "")
            self._has_shut_down = True
            self._give_last_words()
        elif kind == "lifespan.shutdown.complete" and self._stopping:
            self._has_shut_down = True
            self._give_last_words()
        else:
            raise ApplicationProtocolError(
                f"{self._app_name} sent {kind!r:.80} in its lifespan, out of order", _CLAUSE
            )

    def _give_last_words(self) -> None:
        """Let the application end by itself, but not wait for what never comes."""
        ends = anyio.current_time() + _LAST_WORDS_SECONDS
        self._patience.deadline = min(self._patience.deadline, ends)

    def _settle(self, failure: str | None = None) -> None:
        if failure is not None:
            self._failure = f"{self._app_name} did not start: {failure}"
        self.ready = failure is None
        self._settled.set()

    def _conclude(self, error: BaseException | None, *, timed_out: bool) -> None:
        """Say what the end of the task means, and log what went wrong, once."""
        if not self._settled.is_set():
            self._conclude_startup(error, timed_out=timed_out)
        elif timed_out:
            if not self._has_shut_down:
                _log.error("%s did not end its shutdown in time: cancelled it", self._app_name)
        elif error is not None:
            phase = "shutdown" if self._stopping else "lifespan, which ended before its shutdown"
            _log.error("%s failed in its %s", self._app_name, phase, exc_info=error)

    def _conclude_startup(self, error: BaseException | None, *, timed_out: bool) -> None:
        if self._failure is not None:
            reason = self._failure.splitlines()[-1]
            # Some applications put the whole traceback of what they raise into their message.
            said = self._failure if error is None else reason
            _log.error("%s did not start: %s", self._app_name, said, exc_info=error)
            self._settle(reason)
        elif timed_out:
            failure = f"its startup did not end within {self._startup_seconds:g} seconds"
            _log.error("%s did not start: %s", self._app_name, failure)
            self._settle(failure)
        elif self._must_take_part:
            failure = "it takes no part in the lifespan" if error is None else f"{error!r:.200}"
            _log.error("%s did not start: %s", self._app_name, failure, exc_info=error)
            self._settle(failure)
        else:
            # "If an exception is raised when calling the application callable with a lifespan.startup message or a
            # scope of type lifespan, the server must continue but not send any lifespan events."
            if error is not None and self._asked:
                _log.error(
                    "%s failed in its startup; serving it without lifespan",
                    self._app_name,
                    exc_info=error,
                )
            else:
                _log.debug("%s takes no part in the lifespan: %r", self._app_name, error)
            self._settle()
