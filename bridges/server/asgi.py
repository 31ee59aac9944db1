"""An ASGI application in the server: one task for each request, straight on the connection.

Source: ASGI HTTP specification 2.5.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from ..errors import ClientDisconnected
from ..translate.response_events import EarlyHint, RawResponseEvents, SendFile, SendPath, Trailers
from ..typing import Message, RawHeaders
from .exchange import Exchange
from .files import open_file, send_descriptor
from .head import RequestHead

if TYPE_CHECKING:
    from .http1 import Connection
    from .service import Service

_log = logging.getLogger("bridges.server")

# Bytes of the request body that are kept for an application that does not ask yet.
_BODY_AHEAD_BYTES: Final = 65_536


def start_task(coroutine: Coroutine[Any, Any, None], service: Service) -> asyncio.Task[None]:
    """Start a request's task, in a context of its own.

    Not in a copy of the running one: that may be of the request before, which made room for this one.
    """
    return _start(coroutine, service.loop, service.context.copy())


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


class ASGIExchange(Exchange):
    """One request to an ASGI application."""

    _task: asyncio.Task[None] | None = None
    _ended = False
    _body_given = False
    _body_complete = False
    _reader_gone = False
    _told = False
    _called_off = False
    _head_due = True
    _grace: asyncio.TimerHandle | None = None
    _chunks: list[bytes] | tuple[()] = ()
    _unread = 0
    _trailers: list[tuple[str, str]] | tuple[()] = ()

    def __init__(self, connection: Connection, head: RequestHead) -> None:
        super().__init__(connection, head)
        self._scope = scope = self.scope("http")
        state = connection.service.state
        if state is not None:
            scope["state"] = state.copy()
        self._events = RawResponseEvents(
            head.method == "HEAD", connection.service.app_name, scope["extensions"]
        )
        if head.length == 0:
            self._body_complete = True

    # For the connection.

    def begin(self) -> None:
        task = start_task(self._run(), self.connection.service)
        if not task.done():
            self._task = task
            self.connection.service.add_task(task)

    def body_came(self, chunk: bytes, more: bool) -> bool:
        if not more:
            self._body_complete = True
        if chunk:
            if isinstance(self._chunks, list):
                self._chunks.append(chunk)
            else:
                self._chunks = [chunk]
            self._unread += len(chunk)
        self.wake()
        return self._unread < _BODY_AHEAD_BYTES

    def client_left(self, error: ClientDisconnected) -> None:
        if self.gone is None and not self._ended:
            self.gone = str(error)
            self.wake()
            if not self.complete:
                self._call_off_later()

    def _call_off_later(self) -> None:
        service = self.connection.service
        self._grace = service.loop.call_later(
            service.config.disconnect_grace_seconds, self._call_off
        )

    def _call_off(self) -> None:
        if self._task is not None and not self._ended:
            self._called_off = True
            self._task.cancel()

    def half_closed(self) -> None:
        self._tell_reader_gone()
        super().half_closed()

    def _tell_reader_gone(self) -> None:
        self._reader_gone = True
        self.wake()

    def stop(self) -> None:
        # Other streams most often end by themselves: to tell those, too, would cut off downloads at every restart.
        if self.status and _is_event_stream(self._events.headers):
            self._tell_reader_gone()

    # For the application.

    async def receive(self) -> Message:
        """Give the next piece of the request body, then wait until the response is complete or the client gone."""
        while not self._body_given:
            if self._chunks or self._body_complete:
                return self._next_piece()
            if self.gone is not None or self.complete:
                return {"type": "http.disconnect"}
            self.connection.want_body()
            await self.change()
        while not (self.gone is not None or self.complete or self._reader_gone):
            await self.change()
        self._told = True
        return {"type": "http.disconnect"}

    def _next_piece(self) -> Message:
        chunks, self._chunks = self._chunks, ()
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._unread = 0
        self._body_given = self._body_complete
        if not self._body_complete:
            self.connection.room_for_body()
        return {"type": "http.request", "body": body, "more_body": not self._body_complete}

    async def send(self, message: Message) -> None:
        """Take a message of the response, waiting while the client is slower than it.

        Raises:
            ClientDisconnected: the client has left.
            ApplicationProtocolError: the message is malformed or out of order.
        """
        self.check_client()
        kind = message.get("type")
        events = self._events
        if kind == "http.response.body":
            chunk = events.body(message)
            last = events.body_ended
            if self.complete:  # what follows the head of a response without a body
                if last and self._grace is not None:
                    self._grace.cancel()
                return
            if self._head_due:
                self._write_head(chunk, last)
            elif chunk or last:
                self.go_on(chunk, last, trailers=events.wants_trailers)
            if self.connection.write_paused and not self.complete:
                await self.drained()
        elif kind == "http.response.start":
            events.start(message)
        else:
            await self._send_extension(events.extension(message))

    def _write_head(self, chunk: bytes, last: bool, whole: bool = False) -> None:
        self._head_due = False
        events = self._events
        is_whole = last and not whole and not events.wants_trailers
        _, headers = events.take_head(len(chunk) if is_whole else None)
        if events.dropped_headers:
            _log.debug(
                "%s sent hop-by-hop headers, which are the server's: dropped %s",
                self.connection.service.app_name,
                ", ".join(events.dropped_headers),
            )
        if events.body_allowed:
            last = last and not whole
            self.start_response(events.code, headers, chunk, last, events.wants_trailers)
        else:
            self.start_response(events.code, headers, b"", True)
            if not events.body_ended:
                self._call_off_later()

    async def _send_extension(self, event: EarlyHint | SendPath | SendFile | Trailers) -> None:
        if isinstance(event, EarlyHint):
            self.write_early_hints(event.headers)
        elif isinstance(event, Trailers):
            self._trailers = [*self._trailers, *event.headers]
            if self._events.complete:
                self.write_trailers(self._trailers)
        else:
            await self._send_file(event)

    async def _send_file(self, event: SendPath | SendFile) -> None:
        if isinstance(event, SendFile):
            await self._send_part(event.file, event.offset, event.count)
            return
        file = await asyncio.to_thread(open_file, event.path)
        try:
            await self._send_part(file, 0, event.length)
        finally:
            os.close(file)

    async def _send_part(self, file: int, offset: int | None, count: int | None) -> None:
        events = self._events
        last = events.body_ended
        if self._head_due:
            self._write_head(b"", last, whole=True)
        if events.body_allowed:
            await send_descriptor(self, file, offset, count)
            if last:
                self.go_on(b"", True, trailers=events.wants_trailers)

    # The task.

    async def _run(self) -> None:
        failure: BaseException | None = None
        try:
            await self.connection.service.app(self._scope, self.receive, self.send)
            if not self.complete and self.gone is None:
                self._end_early()
        except BaseException as error:  # nothing that an application raises may end the loop
            failure = error
        self._ended = True
        if self._task is not None:
            self.connection.service.discard_task(self._task)
            self._task = None
        if self._grace is not None:
            self._grace.cancel()
        if failure is not None:
            self._report(failure)

    def _end_early(self) -> None:
        """Take it that the application returned before its response was complete."""
        if not self._told:
            self._events.finish()
            raise self._events.error("gave up its response", "")
        if self.status and _is_event_stream(self._events.headers):
            self.go_on(b"", True)  # which has no other end than this
        else:
            self.connection.cut("the response ended when its client was gone")

    def _report(self, failure: BaseException) -> None:
        name = self.connection.service.app_name
        left = self.gone is not None and isinstance(failure, ClientDisconnected)
        if left or (self._called_off and isinstance(failure, asyncio.CancelledError)):
            _log.debug("%s was ended by its client's leaving: %r", name, failure)
        elif self.complete or self.gone is not None:
            when = "its response was complete" if self.complete else "its client had left"
            _log.error("%s failed after %s", name, when, exc_info=failure)
        else:
            self.fail(failure)


def _is_event_stream(headers: RawHeaders) -> bool:
    return any(
        name == b"content-type" and value.lower().startswith(b"text/event-stream")
        for name, value in headers
    )
