"""A websocket of a WSGI application: the environ has two ways to it, and its server has ASGI messages.

An application that writes to the socket in the environ speaks RFC 6455 there (``websocket_socket``). One that uses the
object in the environ sends and receives whole messages (``websocket_object``). What it does first counts; the other way
is closed then. To the bridge either is a line, on which messages come and go.

The call of the application is that of any request (``exchange``). What it returns is its answer where it left both
alone, and means nothing where it did not.

Source: ASGI WebSocket 2.5.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import anyio

from ..crossing.gates import current_gate
from ..crossing.pool import ThreadPool
from ..errors import (
    ApplicationError,
    ApplicationProtocolError,
    ClientDisconnected,
    CrossingError,
    PoolClosed,
    PoolSaturated,
    WebSocketError,
)
from ..typing import Environ, Message, Receive, Send, StartResponse, WSGIApplication
from ..websocket.client import Opening
from ..websocket.frames import (
    ABNORMAL_CLOSURE,
    GOING_AWAY,
    INTERNAL_ERROR,
    NO_STATUS,
    NORMAL_CLOSURE,
    TRY_AGAIN_LATER,
    Close,
    Failure,
)
from .exchange import Exchange
from .websocket_object import ObjectLine, WebSocket
from .websocket_socket import SocketLine

_log = logging.getLogger("bridges.adapters")

DENIAL_EXTENSION: Final = "websocket.http.response"

_BUSY: Final = b"there are too many websockets: try again shortly\n"
_RETRY_AFTER_SECONDS: Final = 1


class Line(Protocol):
    """A way of the application, once it has been chosen; on the loop."""

    async def receive(self) -> str | bytes | Close | Failure | None:
        """Wait for the application's next message or its close; None is the end of what it sends."""

    async def deliver(self, message: str | bytes) -> None:
        """Hand over a message of the client, waiting while the application is behind."""

    def answer(self, close: Close) -> None:
        """Answer the application's close, and end what it receives."""

    async def drop_the_rest(self) -> None:
        """Take what the application sends to a client that has left, as far as that is needed to end it."""


class WebSocketBridge:
    """One websocket between a task of the server and a thread of the application."""

    _socket: SocketLine
    _line: Line
    _denies: bool | None = None
    _begun = False
    _call_began = False
    _open = False
    _closed = False
    _gone = False
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
            environ: of the request for a websocket, without extensions of the protocol; gets the two ways.
            receive: of the server.
            send: of the server.
            extensions: of ASGI that the server offers.
            subprotocols: that the request offers.
            buffer_bytes: bytes that a response in place of a websocket may run ahead of its client, and that messages
                of the object may be under way, each way.
        """
        self._app = app
        self._app_name = app_name
        self._environ = environ
        self._receive = receive
        self._send = send
        self._extensions = extensions
        self._subprotocols = subprotocols
        self._buffer_bytes = buffer_bytes
        self._gate = current_gate()
        self._object = ObjectLine(self._gate, buffer_bytes)
        self._accepted = anyio.Event()
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
        self._line = self._socket = SocketLine(
            self._gate, self._environ, self._subprotocols, self._app_name
        )
        self._websocket = WebSocket(self._environ, self._object, self._open_object)
        self._begun = True
        try:
            failure = await self._serve(pool)
        finally:
            self._over = True
            self._shut()
            self._socket.close()
            # Who holds the environ holds this, as Flask-Sock does until the garbage collector runs: not the connection,
            # too, and what came of a message.
            del self._receive, self._send
            if not self._call_began:
                self._end_call()
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
            self._shut()

    # The call.

    def _call(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self._call_began = True
        if self._over:
            raise ClientDisconnected("the server ended this request")
        return self._app(environ, start_response)

    def _open_object(self) -> None:
        """Take the object as the way; in a thread of the application."""
        self._object.opening = Opening(self._chosen_subprotocol(), [])
        self._socket.close_theirs()  # by which the loop learns of it

    def _chosen_subprotocol(self) -> str | None:
        """Ask the application as gevent-websocket does, which knows no other way to choose one."""
        ask = getattr(self._app, "app_protocol", None)
        chosen = None if ask is None else ask(self._websocket.path)
        return chosen if chosen in self._subprotocols else None

    def _end_call(self) -> None:
        """End both ways; in the thread of the application, or where it has none."""
        self._websocket.finish()
        self._socket.close_theirs()

    def _exchange(self) -> Exchange:
        # It holds methods of the call, which holds this bridge: it would take the garbage collector to free them.
        environ, self._environ = self._environ, {}
        environ["wsgi.input"] = io.BytesIO()
        return Exchange(
            self._call,
            self._app_name,
            environ,
            self._disconnected,
            self._respond,
            self._buffer_bytes,
            {},
            self._end_call,
            self._forgives,
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
        if isinstance(failure, ConnectionError | WebSocketError) and (self._closed or self._gone):
            return True
        return self._is_used() and _is_a_way_to_leave(failure)

    def _forgives(self, failure: BaseException) -> bool:
        """Tell the same when the server has cancelled the websocket; in the thread of the application."""
        opened = self._open or self._object.opening is not None
        return opened and (
            isinstance(failure, ConnectionError | WebSocketError) or _is_a_way_to_leave(failure)
        )

    def _is_used(self) -> bool:
        """Tell whether the application has chosen one of its ways."""
        return self._object.opening is not None or self._socket.is_used()

    # A response instead of a websocket.

    async def _disconnected(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _respond(self, message: Message) -> None:
        """Take a message of the application's HTTP response."""
        if self._denies is None:
            # What it wrote to its socket before it answered is there by now.
            self._denies = not self._is_used()
            if self._denies:
                self._sending.cancel()
                self._object.shut()
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
                await self._line.drop_the_rest()
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
        opening = await self._open_line()
        if opening is None:
            return
        accept: Message = {"type": "websocket.accept", "subprotocol": opening.subprotocol}
        if opening.headers:
            accept["headers"] = opening.headers
        self._open = True
        await self._send(accept)
        self._accepted.set()
        await self._forward()
        if self._line is self._socket and self._object.opening is not None:
            raise ApplicationProtocolError(
                f'{self._app_name} used environ["wsgi.websocket"] after the socket in its environ: use one of them'
            )

    async def _open_line(self) -> Opening | None:
        """Wait until the application has chosen its way; None where its call ends before."""
        opening = await self._socket.open()
        if opening is None and self._object.opening is not None:
            self._line = self._object
            self._socket.close()
            return self._object.opening
        return opening

    async def _forward(self) -> None:
        """Send the application's messages, up to its close or its end."""
        send, receive = self._send, self._line.receive
        while (event := await receive()) is not None:
            if isinstance(event, str):
                await send({"type": "websocket.send", "text": event})
            elif isinstance(event, bytes):
                await send({"type": "websocket.send", "bytes": event})
            else:
                await self._end_of_application(event)
                return

    async def _end_of_application(self, event: Close | Failure) -> None:
        """Pass the application's close on, and let it have an answer and the end."""
        self._closed = True
        if isinstance(event, Failure):
            self._fail(
                ApplicationProtocolError(f"{self._app_name} sent bad frames: {event.reason}")
            )
            await self._send_close(INTERNAL_ERROR, "")
            return
        code = NORMAL_CLOSURE if event.code == NO_STATUS else event.code
        await self._send_close(code, event.reason)
        self._line.answer(event)

    async def _send_close(self, code: int, reason: str) -> None:
        """Close the websocket, and receive nothing more: granian closes none from which somebody still receives."""
        self._receiving.cancel()
        await self._received.wait()
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except OSError:
            _log.debug("the client of %s left before its websocket was closed", self._app_name)

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
            if message["type"] == "websocket.receive":
                if not self._accepted.is_set():
                    await self._accepted.wait()  # it is not known yet which way it goes
                text = message.get("text")
                await self._line.deliver(message["bytes"] if text is None else text)
        self._lose_client(message.get("code", NO_STATUS), message.get("reason") or "")

    def _lose_client(self, code: int, reason: str) -> None:
        """Tell the application that its client has left."""
        if self._gone:
            return
        self._gone = True
        self._left.set()
        if self._closed:
            return
        self._sending.cancel()  # some servers let a send to a client that is gone wait for ever
        self._object.shut()
        self._socket.lose(code, reason)

    def _fail(self, error: BaseException) -> None:
        """End the websocket because somebody broke the rules, or ``receive`` or ``send`` failed."""
        if self._failure is None:
            self._failure = error
        self._left.set()
        self._shut()

    def _shut(self) -> None:
        """End both ways, whichever it is."""
        self._object.shut()
        self._socket.shut()


def _is_a_way_to_leave(failure: BaseException) -> bool:
    if isinstance(failure, ApplicationError):
        return isinstance(failure.__cause__, StopIteration)
    bare = type(failure) is ConnectionError and not failure.args
    return bare or isinstance(failure, ApplicationProtocolError)
