"""The loop's side of one request: what the server receives goes to the thread, what the thread says is sent.

A request begins in the simple way: one hand-over to a thread, one back, one task. Only when it lasts (it waits for a
thread, streams its response, wants its body, or asks whether the client is still there) does a second task listen
to ``receive``, which is called from one place only and never by two tasks at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import anyio

from ..crossing.gates import copy_context_for_thread, current_gate
from ..crossing.pipes import ThreadToLoop
from ..crossing.pool import ThreadPool, Ticket
from ..errors import ClientDisconnected, PeerProtocolError, PoolSaturated
from ..typing import Environ, Message, Receive, Send, WSGIApplication
from .body import BodyMeter, StreamedBody
from .call import Call, Item, Note

# How long a request waits for a thread before somebody listens for its client's leaving: most are served by then,
# and a listener costs more than they do.
_LISTEN_AFTER_SECONDS: Final = 0.05

# Chunks that have piled up leave as one message, up to this size; past it copying costs more than sending.
_JOIN_BYTES: Final = 65_536


class Exchange:
    """One request between the server's task and a thread of the pool.

    Attributes:
        head_sent: True once the head of the response was given to the server.
    """

    # What most requests never change stands here: setting it for each of them would cost.
    head_sent = False
    _body: StreamedBody | None = None
    _refusal: PeerProtocolError | None = None
    _listener_failure: BaseException | None = None
    _pending: Sequence[Item] = ()
    _sending: anyio.CancelScope | None = None

    def __init__(
        self,
        app: WSGIApplication,
        app_name: str,
        environ: Environ,
        receive: Receive,
        send: Send,
        buffer_bytes: int,
        extensions: Mapping[str, Any],
        last_act: Callable[[], object] | None = None,
        forgives: Callable[[BaseException], bool] | None = None,
    ) -> None:
        """Prepare an exchange; on the loop.

        Args:
            app: the application.
            app_name: what errors call it.
            environ: complete but for ``wsgi.input`` where the body is to be streamed.
            receive: of the server.
            send: of the server.
            buffer_bytes: bytes that may be under way, each way.
            extensions: of ASGI that the server offers for the response.
            last_act: called in the thread when the application has ended.
            forgives: asked in the thread whether a failure is none, when the server has cancelled this.
        """
        self._receive = receive
        self._send = send
        self._buffer_bytes = buffer_bytes
        self._gate = gate = current_gate()
        self._pipe: ThreadToLoop[Item] = ThreadToLoop(gate, buffer_bytes)
        self._call = Call(
            app, app_name, environ, self._pipe, gate, copy_context_for_thread(), extensions
        )
        if last_act is not None:
            self._call.last_act = last_act
        if forgives is not None:
            self._call.forgives = forgives

    def stream_body(self, environ: Environ, begun: list[bytes], meter: BodyMeter) -> None:
        """Give the application a body that is received while it reads.

        Args:
            environ: gets ``wsgi.input``.
            begun: chunks that were received already.
            meter: has counted those.
        """
        pipe = self._pipe
        self._body = StreamedBody(
            self._gate, self._buffer_bytes, begun, meter, lambda: pipe.put(Note.WANT_BODY)
        )
        environ["wsgi.input"] = self._body.reader()

    async def run(self, pool: ThreadPool) -> None:
        """Run the application in a thread of ``pool`` and send its response.

        Raises:
            BaseException: what the application raised, or what ``send`` or ``receive`` did.
            PeerProtocolError: the request must be refused, and nothing was sent yet.
            CrossingError: the pool takes no more requests.
        """
        ticket, free = pool.submit(self._call)
        over = False
        try:
            if not await self._answer_at_once(free):
                await self._converse(pool, ticket, queued=not free)
            over = True
        finally:
            if not over:
                self._call.nobody_waits = True
                self._close("the server ended this request")
                pool.withdraw(ticket)
        if self._refusal is not None and not self.head_sent:
            raise self._refusal
        failure, self._pipe.failure = self._pipe.failure or self._listener_failure, None
        self._listener_failure = None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # or the exception and this frame would hold each other

    async def _answer_at_once(self, free: bool) -> bool:
        """Send a response that is there as a whole; tells whether it was, so that nobody needs to listen."""
        taken = await (self._pipe.take() if free else self._take_soon())
        if taken is None:
            return False
        items, ended = taken
        if not ended and items[-1] is not Note.END_OF_BODY:
            # A send that waits for its client needs somebody who hears it leave.
            self._pending = items
            return False
        wants_listener = await self._forward(items)
        while not ended and not wants_listener:
            items, ended = await self._pipe.take()
            wants_listener = await self._forward(items)
        return ended

    async def _take_soon(self) -> tuple[list[Item], bool] | None:
        with anyio.move_on_after(_LISTEN_AFTER_SECONDS):
            return await self._pipe.take()
        return None

    async def _converse(self, pool: ThreadPool, ticket: Ticket, queued: bool) -> None:
        """Send what comes and listen to ``receive`` meanwhile."""
        failure: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen, pool, ticket)
            if queued and pool.queue_seconds is not None:
                tasks.start_soon(self._expire, pool, ticket, pool.queue_seconds)
            try:
                await self._answer_to_the_end()
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:
                # Raised outside the task group, which would wrap it in an ExceptionGroup.
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure

    async def _answer_to_the_end(self) -> None:
        items, ended = self._pending, False
        self._pending = ()
        with anyio.CancelScope() as self._sending:
            await self._forward(items)
            while not ended:
                items, ended = await self._pipe.take()
                await self._forward(items)
        while not ended:  # the client has left; what is still to come from the thread is its end
            items, ended = await self._pipe.take()

    async def _forward(self, items: Sequence[Item]) -> bool:
        """Send a batch, joining neighbouring chunks; tells whether it asks for a listener."""
        if self._pipe.closed is not None:
            return False
        wants_listener = False
        chunks: list[bytes] = []
        size = 0
        for item in items:
            if isinstance(item, bytes):
                if chunks and size + len(item) > _JOIN_BYTES:
                    await self._send_body(chunks)
                    size = 0
                chunks.append(item)
                size += len(item)
            elif item is Note.END_OF_BODY:
                await self._send_body(chunks, more_body=False)
            elif isinstance(item, Note):
                wants_listener = True
                self._want_body()
            else:
                if chunks:
                    await self._send_body(chunks)
                await self._send_message(item)
        if chunks:
            await self._send_body(chunks)
        return wants_listener

    async def _send_body(self, chunks: list[bytes], more_body: bool = True) -> None:
        """Send chunks as one message, and forget them."""
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        await self._send({"type": "http.response.body", "body": body, "more_body": more_body})

    async def _send_message(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.head_sent = True
            self._want_body()  # this send may wait for a client whose leaving only receive() tells
        await self._send(message)

    def _want_body(self) -> None:
        if self._body is not None:
            self._body.want()

    async def _listen(self, pool: ThreadPool, ticket: Ticket) -> None:
        """Receive the body, then the client's leaving; the only caller of ``receive`` once the call has begun."""
        try:
            await self._receive_body()
            await self._hear_leave(pool, ticket)
        except ClientDisconnected as error:
            self._leave(pool, ticket, str(error))
        except Exception as error:
            self._listener_failure = error
            self._leave(pool, ticket, "receive() of the server failed")

    async def _receive_body(self) -> None:
        if self._body is not None:
            try:
                await self._body.pump(self._receive, lambda: self.head_sent)
            except PeerProtocolError as refusal:
                self._refuse(refusal)

    async def _hear_leave(self, pool: ThreadPool, ticket: Ticket) -> None:
        """Receive, and drop what still comes of the body, until the client has left."""
        # A request without a body has an empty http.request to give; after that there is nothing but the disconnect
        # to come (ASGI HTTP 2.5 "Disconnect"), and a server that says otherwise would go on for ever.
        ends_to_bear = 2
        while ends_to_bear:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._leave(pool, ticket, "the client left")
                return
            ends_to_bear -= not message.get("more_body", False)

    def _leave(self, pool: ThreadPool, ticket: Ticket, reason: str) -> None:
        """Tell the thread that the client has left; a call that has not begun never will."""
        self._close(reason)
        if self._sending is not None:
            self._sending.cancel()  # some servers let a send to a client that is gone wait for ever
        if pool.withdraw(ticket):
            self._pipe.end()

    def _close(self, reason: str) -> None:
        self._pipe.close(ClientDisconnected(reason))
        if self._body is not None:
            self._body.fail(ClientDisconnected(reason))

    def _refuse(self, refusal: PeerProtocolError) -> None:
        """Cut the body short; where nothing was sent yet the client is told so by its status."""
        self._refusal = refusal
        if self._body is not None:
            self._body.fail(ClientDisconnected(str(refusal)))
        if not self.head_sent:
            self._pipe.close(ClientDisconnected(str(refusal)))

    async def _expire(self, pool: ThreadPool, ticket: Ticket, seconds: float) -> None:
        """Give up a request that waits for a thread for too long."""
        await anyio.sleep(max(0.0, seconds - _LISTEN_AFTER_SECONDS))
        if pool.withdraw(ticket):
            self._pipe.end(failure=PoolSaturated(f"no thread became free within {seconds} seconds"))
