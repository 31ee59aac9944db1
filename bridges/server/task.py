"""A request whose application runs in a task: the same for HTTP and for websockets."""

from __future__ import annotations

import asyncio
import logging
import sys
from abc import abstractmethod
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, Final

from ..errors import ClientDisconnected
from ..typing import Message
from .exchange import Exchange

_log = logging.getLogger("bridges.server")


def _start_eagerly(
    coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, context: Context
) -> asyncio.Task[None]:
    """Run a task to its first wait at once, which most applications never come to."""
    return asyncio.Task(coroutine, loop=loop, context=context, eager_start=True)  # type: ignore[call-arg]  # 3.12


def _start_lazily(
    coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, context: Context
) -> asyncio.Task[None]:
    return context.run(loop.create_task, coroutine)


_start: Final = _start_eagerly if sys.version_info >= (3, 12) else _start_lazily


class TaskExchange(Exchange):
    """A request to an ASGI application, which runs in one task from the call to its return."""

    _task: asyncio.Task[None] | None = None
    _grace: asyncio.TimerHandle | None = None
    _called_off = False
    _ended = False

    # For the application.

    @abstractmethod
    async def receive(self) -> Message:
        """Give the next event."""

    @abstractmethod
    async def send(self, message: Message) -> None:
        """Take a message."""

    # The task.

    def start_task(self, scope: dict[str, Any]) -> None:
        """Call the application, in a task and a context of its own.

        Not in a copy of the running context: that may be of the request before, which made room for this one.
        """
        service = self.connection.service
        task = _start(self._run(scope), service.loop, service.context.copy())
        if not task.done():
            self._task = task
            service.add_task(task)

    async def _run(self, scope: dict[str, Any]) -> None:
        failure: BaseException | None = None
        try:
            await self.call_application(scope)
            self.returned()
        except BaseException as error:  # nothing that an application raises may end the loop
            failure = error
        self._ended = True
        if self._task is not None:
            self.connection.service.discard_task(self._task)
            self._task = None
        if self._grace is not None:
            self._grace.cancel()
        if failure is not None:
            self.report(failure)

    async def call_application(self, scope: dict[str, Any]) -> None:
        """Run the application to its end."""
        await self.connection.service.app(scope, self.receive, self.send)

    @abstractmethod
    def returned(self) -> None:
        """Take the application's return.

        Raises:
            ApplicationProtocolError: it has left something undone.
        """

    def call_off_later(self) -> None:
        """Give the application its grace time, then cancel its task."""
        if not self._ended:  # it may still be in its eager part, before there is a task to name
            service = self.connection.service
            self._grace = service.loop.call_later(
                service.config.disconnect_grace_seconds, self._call_off
            )

    def _call_off(self) -> None:
        if self._task is not None:
            self._called_off = True
            self._task.cancel()

    # What went wrong.

    @property
    def has_left(self) -> bool:
        """Whether the application was told, or could have been, that its client has left."""
        return self.gone is not None

    @property
    @abstractmethod
    def too_late(self) -> str:
        """Say why a failure cannot be answered any more, as a part of a sentence; "" while it can."""

    def report(self, failure: BaseException) -> None:
        """Log what the application raised, and answer it if that still goes."""
        name = self.connection.service.app_name
        # Told of its end, it may cancel itself; and what has not ended at the server's stop is cancelled by that.
        if (self.has_left or self._called_off) and isinstance(
            failure, ClientDisconnected | asyncio.CancelledError
        ):
            _log.debug("%s was ended by its client's leaving: %r", name, failure)
        elif self.too_late:
            _log.error("%s failed %s", name, self.too_late, exc_info=failure)
        else:
            self.fail(failure)
