"""A WSGI application in the server: from the connection to a thread of the pool and back, with no task between.

The call itself is ``wsgi/call.py``, as in ``WSGIToASGI``; this is the loop's side of it.

Source: PEP 3333.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
from typing import TYPE_CHECKING, Final

from ..crossing.pipes import LoopToThread, ThreadToLoop
from ..crossing.pool import Ticket
from ..errors import ClientDisconnected, PeerProtocolError, PoolClosed, PoolSaturated
from ..typing import Environ, Message
from ..wsgi.body import BodyReader
from ..wsgi.call import Call, Item, Note
from .environ import add_forwarded, request_environ
from .exchange import Exchange
from .files import send_descriptor
from .head import RequestHead

if TYPE_CHECKING:
    from .http1 import Connection

_log = logging.getLogger("bridges.server")

# A body that is announced as no more is collected before a thread is taken for it.
_SMALL_BODY_BYTES: Final = 65_536
_READER_BYTES: Final = 65_536
_JOIN_BYTES: Final = 65_536
_BUSY: Final = "the server is too busy or shutting down: try again shortly"


class WSGIExchange(Exchange):
    """One request to a WSGI application."""

    _ticket: Ticket | None = None
    _body: LoopToThread | None = None
    _refused_chunk: bytes | None = None
    _body_complete = False
    _pending_head: Message | None = None
    _ended = False
    _trailers = False
    _task: asyncio.Task[None] | None = None

    def __init__(self, connection: Connection, head: RequestHead) -> None:
        super().__init__(connection, head)
        service = connection.service
        self._environ: Environ = {}
        self._chunks: list[bytes] = []
        self._pipe: ThreadToLoop[Item] = ThreadToLoop(
            service.gate, service.config.buffer_bytes, self._pump
        )
        length = head.length
        if length == 0:
            self._body_complete = True
        elif length is None or length > _SMALL_BODY_BYTES or head.expects_continue:
            self._body = LoopToThread(
                service.gate, service.config.buffer_bytes, on_room=self._offer_again
            )

    # For the connection.

    def begin(self) -> None:
        try:
            self._environ = environ = request_environ(self.head, self.connection.environ())
        except PeerProtocolError as refusal:
            self.answer(refusal.status_hint, str(refusal))
            return
        if self.head.forwarded and self.connection.is_trusted:
            forwarded = self.connection.forwarded(self.head.headers)
            if forwarded is not None:
                self.client = forwarded.client
                add_forwarded(environ, forwarded)
        if self._body is not None or self._body_complete:
            self.connection.service.soon(self._submit)

    def body_came(self, chunk: bytes, more: bool) -> bool:
        body = self._body
        if body is None:
            self._chunks.append(chunk)
            if not more:
                self._body_complete = True
                if self._environ:
                    self.connection.service.soon(self._submit)
            return True
        room = body.offer(chunk)
        if not room:
            self._refused_chunk = chunk
            self._body_complete = not more
        elif not more:
            body.end()
        return room

    def _offer_again(self) -> None:
        """Go on with the body, now that the application has read some of it."""
        chunk, self._refused_chunk = self._refused_chunk, None
        # Once the response is complete, what the connection reads is of the next request.
        if chunk is None or self._body is None or self.complete or self.gone is not None:
            return
        if not self._body.offer(chunk):
            self._refused_chunk = chunk
        elif self._body_complete:
            self._body.end()
        else:
            self.connection.room_for_body()

    def _submit(self) -> None:
        if self.gone is not None:
            self._ended = True
            return
        environ = self._environ
        environ["wsgi.errors"] = sys.stderr
        body = self._body
        if body is None:
            environ["wsgi.input"] = io.BytesIO(b"".join(self._chunks))
        else:
            environ["wsgi.input"] = io.BufferedReader(BodyReader(self._take_body), _READER_BYTES)
        service = self.connection.service
        call = Call(
            service.app,
            service.app_name,
            environ,
            self._pipe,
            service.gate,
            service.thread_context.copy(),
            self.connection.extensions(self.head.version),
        )
        try:
            self._ticket, free = service.pool.submit(call)
        except (PoolSaturated, PoolClosed):
            self._give_up()
            return
        seconds = service.pool.queue_seconds
        if not free and seconds is not None:
            service.loop.call_later(seconds, self._expire)

    def _take_body(self) -> bytes:
        """Take the next piece of the body; in the thread."""
        assert self._body is not None
        if self.head.expects_continue:
            self.connection.service.gate.ring(self._want_body)
        return self._body.take()

    def _want_body(self) -> None:
        if not self.complete and self.gone is None:
            self.connection.want_body()

    def _expire(self) -> None:
        """Give up a request that has waited for a thread for too long."""
        if self._ticket is not None and self.connection.service.pool.withdraw(self._ticket):
            self._give_up()

    def _give_up(self) -> None:
        self._ended = True
        if self.gone is None:
            self.answer(503, _BUSY)

    def client_left(self, error: ClientDisconnected) -> None:
        if self.gone is None:
            self.gone = str(error)
            self._pipe.close(error)
            if self._body is not None:
                self._body.fail(error)
            if self._ticket is not None and self.connection.service.pool.withdraw(self._ticket):
                self._ended = True
            self.wake()
            self._pump()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._pump()

    def finish(self) -> None:
        super().finish()
        # The connection goes on without this request: what is still to come of its body does not get here.
        if self._body is not None and not self._body_complete:
            self._body.fail(ClientDisconnected("the response is complete: nothing more is read"))

    # The response.

    def _pump(self) -> None:
        """Write what the thread has for the client, as long as that takes it."""
        while not (self._ended or self._must_wait or self._task is not None):
            items, ended = self._pipe.take_now()
            if items and self.gone is None and not self.connection.transport.is_closing():
                self._write(items)
            if ended:
                self._ended = True
                if self._task is None:
                    self._conclude()
            elif not items:
                return

    @property
    def _must_wait(self) -> bool:
        return self.connection.write_paused and self.gone is None

    def _write(self, items: list[Item]) -> None:
        """Write a batch, joining neighbouring chunks."""
        chunks: list[bytes] = []
        size = 0
        for item in items:
            if isinstance(item, bytes):
                if chunks and size + len(item) > _JOIN_BYTES:
                    self._write_body(chunks, False)
                    size = 0
                chunks.append(item)
                size += len(item)
            elif item is Note.END_OF_BODY:
                self._write_body(chunks, True)
            elif not isinstance(item, Note):
                if chunks:
                    self._write_body(chunks, False)
                self._write_message(item)
        if chunks:
            self._write_body(chunks, False)

    def _write_body(self, chunks: list[bytes], last: bool) -> None:
        """Write chunks as one, behind the head if that is due, and forget them."""
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        head, self._pending_head = self._pending_head, None
        if head is None:
            self.go_on(body, last, self._trailers)
        else:
            self._trailers = head.get("trailers", False)
            self.start_response(head["status"], head["headers"], body, last, self._trailers)

    def _write_message(self, message: Message) -> None:
        """Write a message that is no piece of the body; a file, behind which there is nothing, by a task."""
        kind = message["type"]
        if kind == "http.response.start":
            self._pending_head = message
        elif kind == "http.response.early_hint":
            self.write_early_hints([("link", link.decode("latin-1")) for link in message["links"]])
        elif kind == "http.response.trailers":
            self.write_trailers(
                [(n.decode("latin-1"), v.decode("latin-1")) for n, v in message["headers"]]
            )
        else:
            # The application closes its descriptor as soon as its client has left, while ours may be in use.
            file = os.dup(message["file"])
            self._task = self.connection.service.loop.create_task(self._send_file(message, file))

    async def _send_file(self, message: Message, file: int) -> None:
        """Send a file, which is the whole body, and close our descriptor."""
        try:
            if self._pending_head is not None:
                head, self._pending_head = self._pending_head, None
                self.start_response(head["status"], head["headers"], b"", False)
            await send_descriptor(self, file, message["offset"], message["count"])
            self.go_on(b"", True)
        except ClientDisconnected:
            _log.debug("the client left in the middle of a file")
        except Exception as error:
            self.fail(error)
        finally:
            os.close(file)
        self._task = None
        if self._ended:
            self._conclude()
        else:
            self._pump()

    def _conclude(self) -> None:
        """Take the end of the call."""
        self._body = None  # which holds a callback of this exchange
        failure, self._pipe.failure = self._pipe.failure, None
        if failure is None:
            return
        if self.gone is not None or self.complete:
            _log.error(
                "%s failed after its request had ended",
                self.connection.service.app_name,
                exc_info=failure,
            )
        elif isinstance(failure, PoolClosed):
            self._give_up()
        else:
            self.fail(failure)
        del failure
