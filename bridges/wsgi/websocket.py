"""A websocket of a WSGI application: it gets a socket, as from a server of its own, and its server's ASGI messages.

Libraries such as simple-websocket take the connection's socket from the environ, write the response 101 on it by
themselves, and speak RFC 6455 from then on. Here that socket is one end of a pair. The loop has the other one and is
the client there: what the application writes becomes messages for the server, and the other way round.

The call of the application is that of any request (``exchange``). What it returns is its answer where it left the
socket alone, and means nothing where it did not.

Source: RFC 6455; ASGI WebSocket 2.5.
"""

from __future__ import annotations

import io
import logging
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import anyio

from ..crossing.gates import current_gate
from ..crossing.pool import ThreadPool
from ..crossing.sockets import SocketEnd, socket_pair
from ..errors import (
    ApplicationError,
    ApplicationProtocolError,
    ClientDisconnected,
    CrossingError,
    PoolClosed,
    PoolSaturated,
)
from ..typing import Environ, Message, Receive, Send, StartResponse, WSGIApplication
from ..websocket.client import MAX_HEAD_BYTES, ClientFraming, read_opening
from ..websocket.frames import (
    ABNORMAL_CLOSURE,
    GOING_AWAY,
    INTERNAL_ERROR,
    NO_STATUS,
    NORMAL_CLOSURE,
    TRY_AGAIN_LATER,
    Close,
    Failure,
    Ping,
    Pong,
)
from .exchange import Exchange

_log = logging.getLogger("bridges.adapters")

DENIAL_EXTENSION: Final = "websocket.http.response"

# Where simple-websocket looks first, and what others know. Of the two, the first one has Flask-Sock end with an empty
# response, and the other one with an exception, which error reports would be full of.
_SOCKET_KEYS: Final = ("werkzeug.socket", "gunicorn.socket")

_BUSY: Final = b"there are too many websockets: try again shortly\n"
_RETRY_AFTER_SECONDS: Final = 1
_READ_BYTES: Final = 65_536


class WebSocketBridge:
    """One websocket between a task of the server and a thread of the application."""

    _end: SocketEnd
    _theirs: socket.socket
    _theirs_too: socket.socket
    _denies: bool | None = None
    _begun = False
    _call_began = False
    _open = False
    _closed = False
    _gone = False
    _deaf = False
    _over = False
    _answers_error = False
    _farewell: tuple[int, str] | None = None
    _failure: BaseException | None = None

    def __init__(
        self,
        app: WSGIApplication,
        app_name: str,
        environ: Environ,
        receive: Receive,
        send: Send,
        *,
        extensions: Mapping[str, Any],
        subprotocols: Sequence[str],
        buffer_bytes: int,
    ) -> None:
        """Prepare it; on the loop.

        Args:
            app: the application.
            app_name: what errors call it.
            environ: of the request for a websocket, without extensions of the protocol; gets the socket.
            receive: of the server.
            send: of the server.
            extensions: of ASGI that the server offers.
            subprotocols: that the request offers.
            buffer_bytes: bytes that a response in place of a websocket may run ahead of its client.
        """
        self._app = app
        self._app_name = app_name
        self._environ = environ
        self._key = environ["HTTP_SEC_WEBSOCKET_KEY"].encode("latin-1")
        self._receive = receive
        self._send = send
        self._extensions = extensions
        self._subprotocols = subprotocols
        self._buffer_bytes = buffer_bytes
        self._framing = ClientFraming()
        self._gate = current_gate()
        self._left = anyio.Event()
        self._all_sent = anyio.Event()
        self._sending = anyio.CancelScope()
        self._receiving = anyio.CancelScope()
        self._received = anyio.Event()

    async def run(self, pool: ThreadPool) -> None:
        """Serve the websocket to its end, in a thread of ``pool``.

        Raises:
            BaseException: what the application raised while its websocket was open or was not opened, or what
                ``receive`` or ``send`` did.
            CrossingError: the system has no descriptors left.
        """
        message = await self._receive()
        if message["type"] != "websocket.connect":
            return  # the client has left already
        self._end, self._theirs = socket_pair(self._gate)
        try:
            self._theirs_too = self._theirs.dup()
        except OSError as error:  # the descriptors of the pair were the last ones
            self._end.close()
            self._theirs.close()
            raise CrossingError(f"no socket for an application is to be had: {error}") from error
        self._begun = True
        try:
            failure = await self._serve(pool)
        finally:
            self._over = True
            self._end.shut()
            self._end.close()
            # Who holds the environ holds this, as Flask-Sock does until the garbage collector runs: not the connection,
            # too, and what came of a message.
            del self._receive, self._send
            if not self._call_began:
                self._close_theirs()
        if failure is not None:
            try:
                raise failure
            finally:
                self._failure = None
                del failure  # or the exception and this frame would hold each other

    def leave(self) -> None:
        """End the websocket, because the server stops; from any thread."""
        try:
            self._gate.ring(self._leave)
        except CrossingError:
            pass  # its loop has ended, and the websocket with it

    def _leave(self) -> None:
        # One that has not begun finds the pool closed.
        if self._gone or self._closed or self._over or not self._begun:
            return
        if self._open:
            self._farewell = GOING_AWAY, "the server is stopping"
            self._lose_client(*self._farewell)
        else:
            self._end.shut()

    # The call.

    def _call(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self._call_began = True
        if self._over:
            raise ClientDisconnected("the server ended this request")
        return self._app(environ, start_response)

    def _close_theirs(self) -> None:
        """Close the application's end; in its thread, or where it has none.

        The application may have closed its own descriptor of it, and may have made others: ours reaches it in any case.
        What it has not read is taken out first, for the other end would see an error instead of the end, by which
        uvloop stops watching it without a word.
        """
        end = self._theirs_too
        try:
            end.shutdown(
                socket.SHUT_RDWR
            )  # wakes threads that wait at it, before its number is another file's
            while end.recv(_READ_BYTES):
                pass
        except OSError:
            pass  # the other end is closed already
        end.close()
        self._theirs.close()

    def _exchange(self) -> Exchange:
        environ = self._environ
        del self._environ  # it will hold the call, which holds this
        for key in _SOCKET_KEYS:
            environ[key] = self._theirs
        environ["wsgi.input"] = io.BytesIO()
        return Exchange(
            self._call,
            self._app_name,
            environ,
            self._disconnected,
            self._respond,
            self._buffer_bytes,
            {},
            self._close_theirs,
        )

    async def _serve(self, pool: ThreadPool) -> BaseException | None:
        """Run everything; gives what is to be raised."""
        failure: BaseException | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._carry_up)
            tasks.start_soon(self._carry_down)
            try:
                await self._exchange().run(pool)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:
                # Raised outside the task group, which would wrap it in an ExceptionGroup.
                failure = error
            try:
                failure = await self._settle(failure)
            except Exception as error:
                failure = error
            tasks.cancel_scope.cancel()
        return failure

    async def _settle(self, failure: BaseException | None) -> BaseException | None:
        """Do what is left when the call is over; gives what is to be raised."""
        if isinstance(failure, PoolSaturated | PoolClosed) and not self._call_began:
            await self._refuse()
            return None
        await self._all_sent.wait()
        if failure is not None and self._is_a_way_to_end(failure):
            failure = None
        failure = self._failure or failure
        if self._open and not (self._closed or self._gone):
            self._closed = True
            failed = failure is not None or self._answers_error
            await self._send_close(INTERNAL_ERROR if failed else NORMAL_CLOSURE, "")
        return failure

    def _is_a_way_to_end(self, failure: BaseException) -> bool:
        """Tell whether an exception is how applications and libraries leave a socket that they took over.

        Servers of their own take a bare ``StopIteration`` or ``ConnectionError`` so; and an application that goes on
        writing when its websocket is over sees what it would on any socket. What is wrong with a response that nobody
        takes, such as an empty list without a call of ``start_response``, is no mistake either.
        """
        if isinstance(failure, ConnectionError) and (self._closed or self._gone):
            return True
        if not self._end.has_received():
            return False
        if isinstance(failure, ApplicationError):
            return isinstance(failure.__cause__, StopIteration)
        bare = type(failure) is ConnectionError and not failure.args
        return bare or isinstance(failure, ApplicationProtocolError)

    # A response instead of a websocket.

    async def _disconnected(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _respond(self, message: Message) -> None:
        """Take a message of the application's HTTP response."""
        if self._denies is None:
            # What it wrote to its socket before it answered is there by now.
            self._denies = not self._end.has_received()
        kind = message["type"]
        if not self._denies:
            # A framework that caught what the application raised answers so, wherever that was.
            if kind == "http.response.start" and message["status"] >= 500:
                self._answers_error = True
            return
        if self._gone:
            return
        if DENIAL_EXTENSION in self._extensions:
            await self._send({**message, "type": f"websocket.{kind}"})
        elif kind == "http.response.start":
            await self._send_close(NORMAL_CLOSURE, "")

    async def _refuse(self) -> None:
        """Refuse a websocket that finds no thread."""
        if DENIAL_EXTENSION not in self._extensions:
            await self._send_close(TRY_AGAIN_LATER, "too many websockets")
            return
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(_BUSY)),
            (b"retry-after", b"%d" % _RETRY_AFTER_SECONDS),
        ]
        await self._send(
            {"type": "websocket.http.response.start", "status": 503, "headers": headers}
        )
        await self._send(
            {"type": "websocket.http.response.body", "body": _BUSY, "more_body": False}
        )

    # From the application to the server.

    async def _carry_up(self) -> None:
        try:
            await self._open_and_forward_or_lose()
            if self._farewell is not None:
                await self._send_close(*self._farewell)
            if self._gone:
                await self._drop_the_rest()
        except Exception as error:
            self._fail(error)
        finally:
            self._all_sent.set()

    async def _open_and_forward_or_lose(self) -> None:
        try:
            with self._sending:
                await self._open_and_forward()
        except OSError:  # of send(): the client has left, which receive() may have told already
            self._lose_client(ABNORMAL_CLOSURE, "")

    async def _open_and_forward(self) -> None:
        data = await self._open_websocket()
        if data is None:
            return
        read, receive_data = self._end.read, self._framing.receive_data
        while True:
            receive_data(data)
            if not await self._forward():
                return
            data = await read()
            if not data:
                return

    async def _forward(self) -> bool:
        """Send all messages that are there; tells whether more may come."""
        send, next_event = self._send, self._framing.next_event
        while (event := next_event()) is not None:
            if isinstance(event, str):
                await send({"type": "websocket.send", "text": event})
            elif isinstance(event, bytes):
                await send({"type": "websocket.send", "bytes": event})
            elif isinstance(event, Ping):
                self._write_now(event.pong)
            elif not isinstance(event, Pong):
                await self._end_of_application(event)
                return False
        return True

    async def _open_websocket(self) -> bytes | None:
        """Take the response that opens the websocket; gives what came behind it, or None if it was not opened."""
        head = bytearray()
        while (end := head.find(b"\r\n\r\n")) < 0:
            # What is longer has no end yet; what came behind the end counts for nothing.
            data = b"" if len(head) > MAX_HEAD_BYTES else await self._end.read()
            if self._denies or not (data or head):
                return None
            if not data:
                raise ApplicationProtocolError(
                    f"{self._app_name} wrote something else than a whole 101 response to its socket",
                    "RFC 6455 section 4.2.2",
                )
            head += data
        opening = read_opening(
            bytes(head[: end + 4]), self._key, self._subprotocols, self._app_name
        )
        accept: Message = {"type": "websocket.accept", "subprotocol": opening.subprotocol}
        if opening.headers:
            accept["headers"] = opening.headers
        self._open = True
        await self._send(accept)
        return bytes(head[end + 4 :])

    async def _end_of_application(self, event: Close | Failure) -> None:
        """Pass the application's close frame on, and let it have an answer and the end of its socket."""
        self._closed = True
        if isinstance(event, Failure):
            self._fail(
                ApplicationProtocolError(f"{self._app_name} sent bad frames: {event.reason}")
            )
            await self._send_close(INTERNAL_ERROR, "")
            return
        code = NORMAL_CLOSURE if event.code == NO_STATUS else event.code
        await self._send_close(code, event.reason)
        self._write_now(self._framing.close(event.code, event.reason))
        self._end.shut()

    async def _send_close(self, code: int, reason: str) -> None:
        """Close the websocket, and receive nothing more: granian closes none from which somebody still receives."""
        self._receiving.cancel()
        await self._received.wait()
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except OSError:
            _log.debug("the client of %s left before its websocket was closed", self._app_name)

    async def _drop_the_rest(self) -> None:
        """Read what nobody takes any more, as far as an application goes that has not looked yet.

        That one then answers the close frame. One that sends a message instead may never look: its next one fails, as
        on a connection whose client has left.
        """
        while data := await self._end.read():
            self._framing.receive_data(data)
            while (event := self._framing.next_event()) is not None:
                if not isinstance(event, Ping | Pong):
                    self._end.shut()

    # From the server to the application.

    async def _carry_down(self) -> None:
        try:
            with self._receiving:
                await self._receive_and_deliver()
        except Exception as error:
            self._fail(error)
        finally:
            self._received.set()

    async def _receive_and_deliver(self) -> None:
        receive = self._receive
        while (message := await receive())["type"] != "websocket.disconnect":
            if message["type"] == "websocket.receive" and not self._deaf:
                await self._deliver(message)
        self._lose_client(message.get("code", NO_STATUS), message.get("reason") or "")

    async def _deliver(self, message: Message) -> None:
        text = message.get("text")
        try:
            await self._end.write(self._framing.message(message["bytes"] if text is None else text))
        except OSError:
            self._deaf = True  # the application has closed its end, or is about to be told of its own close frame

    def _lose_client(self, code: int, reason: str) -> None:
        """Tell the application that its client has left, by a close frame where the client sent one."""
        if self._gone:
            return
        self._gone = True
        self._left.set()
        if self._closed:
            return
        self._sending.cancel()  # some servers let a send to a client that is gone wait for ever
        frame = self._framing.close(code, reason) if self._open else b""
        if frame and not self._end.is_stuck:
            self._write_now(frame)
        if frame and not self._end.is_stuck:
            self._end.end_writing()
        else:
            self._end.shut()

    def _write_now(self, frame: bytes) -> None:
        try:
            self._end.write_now(frame)
        except OSError:
            self._deaf = True

    def _fail(self, error: BaseException) -> None:
        """End the websocket because somebody broke the rules, or ``receive`` or ``send`` failed."""
        if self._failure is None:
            self._failure = error
        self._left.set()
        self._end.shut()
