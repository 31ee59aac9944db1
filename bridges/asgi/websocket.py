"""A websocket of an ASGI application on the host's own socket.

The loop reads and writes the socket, so that no message crosses a thread; the host's thread waits until it is over, and
runs the application's thread-sensitive code meanwhile. A response instead of a websocket goes the way of any other.

Source: ASGI WebSocket 2.5; RFC 6455.
"""

from __future__ import annotations

import errno
import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..crossing.mail import Mail
from ..errors import ClientDisconnected, CrossingError
from ..typing import Environ, Message, StartResponse
from ..websocket.asgi import DENIAL_EXTENSION, WebSocketMessages
from ..websocket.handshake import UPGRADE_REQUIRED_HEADERS, Handshake, handshake
from ..websocket.session import Session, Timing
from .exchange import Exchange, comes_of_leaving
from .host_socket import HostSocket
from .items import Failure, Head, Job, Note, RequestMail
from .pump import Pump
from .wire import Wire

if TYPE_CHECKING:
    from .service import Service

_log = logging.getLogger("bridges.adapters")

_SCHEMES: Final = {"http": "ws", "https": "wss"}

# How long a thread that was called away waits for the loop to let go of the host's socket.
_LET_GO_SECONDS: Final = 5.0


UPGRADE_REQUIRED: Final = [
    (name.decode("ascii"), value.decode("ascii")) for name, value in UPGRADE_REQUIRED_HEADERS
]
"""What a response with status 426 must say; its Connection field is the host's."""


def handshake_of(scope: Mapping[str, Any]) -> Handshake:
    """Check the request for a websocket.

    Args:
        scope: of the request, as for HTTP.

    Raises:
        PeerProtocolError: it cannot have one.
    """
    return handshake(scope["method"], scope["http_version"], scope["headers"])


class Limits(NamedTuple):
    """What websockets are limited by; the options of ``ASGIToWSGI`` that begin with ``websocket_``."""

    max_bytes: int
    deflate: bool
    ping_seconds: float | None
    pong_seconds: float
    close_seconds: float


class WebSocketExchange(Exchange):
    """One websocket between the host's socket and the application's task; on the loop.

    Attributes:
        gate: the way to the loop.
        mail: to the host's thread.
    """

    _wire: Wire | None = None
    _session: Session | None = None
    _connect_given = False
    _stopping = False

    def __init__(
        self,
        service: Service,
        scope: dict[str, Any],
        handshake: Handshake,
        socket: HostSocket,
        limits: tuple[int, bool, float | None, float, float],
        context: Context,
    ) -> None:
        """Prepare it; in the host's thread.

        Args:
            service: the application and where it runs.
            scope: of the request, as for HTTP.
            handshake: of the request.
            socket: of the host.
            limits: what ``Limits`` is made of.
            context: for the application's task.
        """
        # A response instead of a websocket may use none of HTTP's extensions.
        portal = service.portal
        self.mail: RequestMail = Mail(portal.bell(), portal.gate, service.buffer_bytes)
        super().__init__(service, {**scope, "extensions": {}}, 0, self.mail, context)
        self.gate = portal.gate
        # Where the host's thread drives the loop, the application would learn of the end with the next request only.
        self.desk.used = not service.has_desks
        self._scope = _websocket_scope(scope, handshake)
        self._socket = socket
        self._limits = Limits(*limits)
        self._messages = WebSocketMessages(
            handshake,
            service.app_name,
            max_bytes=self._limits.max_bytes,
            deflate=self._limits.deflate,
        )

    # For the service and the pump.

    def leave(self, reason: str) -> None:
        """Learn that the host's thread goes, or that nobody is left who could be accepted."""
        if self._wire is not None:
            self._wire.cut(reason)
            return
        if not self._gone:
            self._messages.disconnect()
        super().leave(reason)
        self._mail.post(Note.SWITCHED)  # whoever goes waits to hear that the socket is not used

    def stop(self) -> None:
        """Learn that the server is stopping: close with 1001, at once or when it is accepted."""
        self._stopping = True
        if self._session is not None:
            self._session.stop()

    def call_off(self) -> None:
        """Cancel the application's task, or give up a client that does not close."""
        if self._over and self._wire is not None:
            self._wire.cut("the server is stopping")
        super().call_off()

    def lose(self) -> None:
        """Learn that the loop has ended, which nobody waits on any more."""
        self._waiting.clear()
        was_over, self._over = self._over, True
        if self._wire is not None:
            self._wire.cut("the event loop has ended")
        if not was_over:
            self._report(CrossingError("the event loop ended before this websocket did"))

    # For the application.

    async def receive(self) -> Message:
        """Give ``websocket.connect``, then the messages of the client, then its leaving."""
        if not self._connect_given:
            self._connect_given = True
            return {"type": "websocket.connect"}
        while True:
            message = self._next()
            if message is not None:
                return message
            await self._change()

    def _next(self) -> Message | None:
        if self._session is not None:
            return self._session.next()
        if self._gone or self._ended:
            return self._messages.disconnect()
        return None

    async def send(self, message: Message) -> None:
        """Take a message of the application, waiting while the client is slower than it.

        Raises:
            ClientDisconnected: the client has left.
            ApplicationProtocolError: the message is malformed or out of order.
        """
        output = self._messages.send(message)
        if not isinstance(output, bytes):
            for each in output:
                await super().send(each)
            return
        if self._session is None or self._wire is None:
            self._accept(output)
        elif self._messages.state == "closed":
            self._session.close(output)
        else:
            wire = self._wire
            wire.write(output)
            while wire.write_paused:
                await self._change()

    def _accept(self, head: bytes) -> None:
        framing = self._messages.framing
        assert framing is not None  # the message was an accept
        service = self._service
        try:
            early = self._socket.borrow()
        except (OSError, ValueError) as error:
            _log.debug("a websocket's connection was gone before it was accepted: %r", error)
            self._gone = "the client left before its websocket was accepted"
            self._messages.disconnect()
            # The application may go on, or end without an exception; the host's thread has nothing to wait for.
            self._mail.post(Failure(ClientDisconnected(self._gone)))
            return
        self._wire = wire = Wire(
            service.portal, self._socket, service.buffer_bytes, self._wake, self._released
        )
        self._session = Session(
            wire,
            self._messages,
            framing,
            Timing(*self._limits[2:]),
            on_message=self._wake,
            on_disconnect=self._disconnected,
        )
        self._mail.post(Note.ACCEPTED)
        wire.write(head)
        wire.begin(self._session, early)
        if self._stopping:
            self._session.stop()

    def _disconnected(self) -> None:
        self._wake()
        if not self._over:
            self._grace = self._service.call_later_to_leave(self.call_off)

    def _released(self) -> None:
        """Learn that the host's socket is given back."""
        self._mail.post(Note.SWITCHED)
        if self._over:
            self._finish()

    # The application's task.

    def _check_ended(self) -> None:
        frame = self._messages.finish(failed=False)
        if self._session is not None:
            if frame:
                self._session.close(frame)
        elif not self._gone:
            super()._check_ended()

    def _end(self, failure: BaseException | None) -> None:
        if failure is not None:
            frame = self._messages.finish(failed=True)
            if frame and self._session is not None:
                self._session.close(frame)
        self._over = True
        if failure is not None:
            self._report(failure)
        if self._wire is None or self._wire.is_over:
            self._finish()  # else when the close handshake is over

    def _finish(self) -> None:
        self._forget()
        if self.desk.used:
            self._mail.post(Note.OVER)

    def _report(self, failure: BaseException) -> None:
        if self._session is None:
            super()._report(failure)
            return
        name = self._service.app_name
        if self._session.disconnect is not None and comes_of_leaving(failure):
            _log.debug("%s was ended by the end of its websocket: %r", name, failure)
        else:
            _log.error("%s failed in a websocket", name, exc_info=failure)


class WebSocketPump(Pump):
    """The host's side of a websocket: its thread, which waits."""

    _accepted = False

    def __init__(
        self,
        environ: Environ,
        start_response: StartResponse,
        exchange: WebSocketExchange,
        socket: HostSocket,
        heartbeat: tuple[Callable[[], object], float] | None,
    ) -> None:
        """Prepare it.

        Args:
            environ: of the request.
            start_response: of the host.
            exchange: the other side.
            socket: of the host.
            heartbeat: what to call while the loop answers, and how many seconds apart.
        """
        super().__init__(environ, start_response, exchange, exchange.mail, exchange.gate)
        self._socket = socket
        self._heartbeat = heartbeat

    def respond(self) -> Iterable[bytes]:
        """Have the application begin, and wait for its response, or until its websocket is over.

        Raises:
            BaseException: what the application raised before it accepted; the host answers with 500.
            ClientDisconnected: the client left before that.
        """
        self._gate.ring(self._exchange.begin)
        try:
            item = self._next()
            while item is Note.ACCEPTED or item is Note.ALIVE:
                self._accept(item)
                item = self._next()
            if isinstance(item, Head):
                return self._respond_with(item)
            self._finished = True
            silent = self._socket.silence()
            # For the host's log; validators want a type. None of it reaches the client.
            self._start_response("101 Switching Protocols", [("content-type", "text/plain")])
            self._part()
            return () if silent else _nothing_more()
        except BaseException:
            self.close()
            raise

    def _accept(self, item: Note) -> None:
        if item is Note.ALIVE and self._heartbeat is not None:
            self._heartbeat[0]()
        self._accepted = True
        # The loop sees by itself that the client leaves.
        self._patience = None if self._heartbeat is None else self._heartbeat[1]

    def _look_at_client(self) -> None:
        if self._accepted:
            self._gate.ring(self._answer)
        else:
            super()._look_at_client()

    def _answer(self) -> None:
        self._mail.post(Note.ALIVE)

    def _leave(self, reason: str) -> None:
        """Have the loop let go of the socket, which the host may close as soon as this returns."""
        self._exchange.deserted = True
        try:
            self._gate.ring(functools.partial(self._exchange.leave, reason))
        except CrossingError:
            return  # it has ended, and let go of everything
        ends = time.monotonic() + _LET_GO_SECONDS
        while (item := self._mail.take(max(0.0, ends - time.monotonic()))) is not Note.SWITCHED:
            if item is None:
                _log.error("left a websocket to an event loop that does not answer")
                return
            if isinstance(item, Job):
                item.run()
            elif isinstance(item, Failure):
                _log.error("a websocket failed when its host had left it", exc_info=item.error)


def _nothing_more() -> Iterator[bytes]:
    """End a response as a connection does that broke: hosts write nothing then, log it, and close the connection."""
    raise BrokenPipeError(errno.EPIPE, "the connection was a websocket's, which is over")
    yield b""


def _websocket_scope(scope: dict[str, Any], handshake: Handshake) -> dict[str, Any]:
    """Translate the scope of a request into that of its websocket.

    Source:
        ASGI WebSocket 2.5 "WebSocket Connection Scope".
    """
    http = scope["extensions"]
    extensions = {name: http[name] for name in ("wsgi.environ", "tls") if name in http}
    websocket = {
        **scope,
        "type": "websocket",
        "scheme": _SCHEMES[scope["scheme"]],
        "subprotocols": list(handshake.subprotocols),
        "extensions": {DENIAL_EXTENSION: {}, **extensions},
    }
    del websocket["method"]
    return websocket
