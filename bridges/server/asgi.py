"""An ASGI application in the server: one task for each request, straight on the connection.

Source: ASGI HTTP specification 2.5.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final

from ..errors import ApplicationProtocolError, ClientDisconnected
from ..translate.response_events import EarlyHint, RawResponseEvents, SendFile, SendPath, Trailers
from ..typing import Message, RawHeaders
from .files import open_file, send_descriptor
from .head import RequestHead
from .task import TaskExchange

if TYPE_CHECKING:
    from .http1 import Connection

_log = logging.getLogger("bridges.server")

# Bytes of the request body that are kept for an application that does not ask yet.
_BODY_AHEAD_BYTES: Final = 65_536


class ASGIExchange(TaskExchange):
    """One request to an ASGI application."""

    _body_given = False
    _body_complete = False
    _reader_gone = False
    _told = False
    _cut_short = False
    _head_due = True
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
        self.start_task(self._scope)

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
                self.call_off_later()

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
        if self.gone is not None:
            raise ClientDisconnected(self.gone)
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
            if not self.complete:
                connection = self.connection
                if connection.write_paused or connection.transport.is_closing():
                    await self.drained()
        elif kind == "http.response.start":
            events.start(message)
        else:
            await self._send_extension(events.extension(message))

    def _write_head(self, chunk: bytes, last: bool) -> None:
        """Write the head, and the first piece of the body, which may be the last one."""
        self._head_due = False
        events = self._events
        is_whole = last and not events.wants_trailers
        _, headers = events.take_head(len(chunk) if is_whole else None)
        if events.dropped_headers:
            _log.debug(
                "%s sent hop-by-hop headers, which are the server's: dropped %s",
                self.connection.service.app_name,
                ", ".join(events.dropped_headers),
            )
        if events.body_allowed:
            self.start_response(events.code, headers, chunk, last, events.wants_trailers)
        else:
            self.start_response(events.code, headers, b"", True)
            if not events.body_ended:
                self.call_off_later()

    async def _send_extension(self, event: EarlyHint | SendPath | SendFile | Trailers) -> None:
        if isinstance(event, EarlyHint):
            self.write_early_hints(event.headers)
        elif isinstance(event, Trailers):
            self._trailers = [*self._trailers, *event.headers]
            if self._events.complete and not self.complete:
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
            self._write_head(b"", last=False)
        if events.body_allowed:
            try:
                await send_descriptor(self, file, offset, count)
            except BaseException:
                # It was promised as a whole: what the application sends next must not take the place of the rest.
                self._cut_short = self.gone is None
                self.connection.cut("a file of its response could not be sent as a whole")
                raise
            if last:
                self.go_on(b"", True, trailers=events.wants_trailers)

    # The task.

    def returned(self) -> None:
        if self._cut_short:
            raise self._gave_up()
        if self.complete or self.gone is not None:
            return
        if not self._told:
            self._events.finish()
            raise self._gave_up()
        if self.status and _is_event_stream(self._events.headers):
            self.go_on(b"", True)  # which has no other end than this
        else:
            self.connection.cut("the response ended when its client was gone")

    def _gave_up(self) -> ApplicationProtocolError:
        return self._events.error("gave up its response", "")

    @property
    def too_late(self) -> str:
        if self.complete:
            return "after its response was complete"
        return "after its client had left" if self.has_left else ""


def _is_event_stream(headers: RawHeaders) -> bool:
    return any(
        name == b"content-type" and value.lower().startswith(b"text/event-stream")
        for name, value in headers
    )
