"""A websocket of an ASGI application in the server: ``websocket/session.py`` on the connection.

Source: RFC 6455; ASGI WebSocket specification 2.5.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from ..errors import ClientDisconnected, PeerProtocolError
from ..translate.response_events import RawResponseEvents
from ..typing import Message
from ..websocket.asgi import DENIAL_EXTENSION, WebSocketMessages
from ..websocket.handshake import UPGRADE_REQUIRED_HEADERS, Handshake, handshake
from ..websocket.session import Session, Timing
from .head import RequestHead
from .task import TaskExchange

if TYPE_CHECKING:
    from .http1 import Connection

_UPGRADE_REQUIRED: Final = (*UPGRADE_REQUIRED_HEADERS, (b"connection", b"upgrade"))
_SCHEMES: Final = {"http": "ws", "https": "wss"}


class _Line:
    """The connection, as a session needs it."""

    _written = 0
    _taken = 0

    def __init__(self, exchange: WebSocketExchange) -> None:
        self._exchange = exchange
        self._connection = connection = exchange.connection
        self.read_on = connection.read_on
        self.pause_reading = connection.pause_reading
        self.close = connection.close
        self.cut = connection.cut

    @property
    def write_paused(self) -> bool:
        return self._connection.write_paused

    def write(self, data: bytes) -> None:
        self._written += len(data)
        self._connection.transport.write(data)

    def is_catching_up(self) -> bool:
        if self.write_paused:
            return True  # who takes too little of so much is cut off by the time limit for writing
        unwritten = self._connection.transport.get_write_buffer_size()
        taken = self._written + self._exchange.sent - unwritten
        moved, self._taken = taken > self._taken, taken
        return moved and unwritten > 0

    def expire_in(self, seconds: float | None) -> None:
        connection = self._connection
        connection.reading_deadline = (
            math.inf if seconds is None else connection.service.in_seconds(seconds)
        )


class WebSocketExchange(TaskExchange):
    """A request for a websocket, and what becomes of it."""

    _handshake: Handshake
    _messages: WebSocketMessages
    _session: Session | None = None
    _connect_given = False
    _disconnect: Message | None = None
    _denial_due = True

    def __init__(self, connection: Connection, head: RequestHead) -> None:
        super().__init__(connection, head)
        self._denial = RawResponseEvents(False, connection.service.app_name, ())

    # For the connection.

    def begin(self) -> None:
        head, service = self.head, self.connection.service
        try:
            self._handshake = handshake(head.method, head.version, head.headers)
            scope = self.make_scope()
        except PeerProtocolError as refusal:
            more = _UPGRADE_REQUIRED if refusal.status_hint == 426 else ()
            self.answer(refusal.status_hint, str(refusal), headers=more)
            return
        config = service.config
        self._messages = WebSocketMessages(
            self._handshake,
            service.app_name,
            max_bytes=config.websocket_max_bytes,
            deflate=config.websocket_deflate,
        )
        self.start_task(scope)

    @property
    def subprotocols(self) -> list[str]:
        """Those that the client offers."""
        return self._handshake.subprotocols

    def make_scope(self) -> dict[str, Any]:
        """Make what the application is called with.

        Raises:
            PeerProtocolError: the request must be refused.
        """
        scope = self.scope("websocket")
        del scope["method"]
        scope["scheme"] = _SCHEMES[scope["scheme"]]
        scope["subprotocols"] = self._handshake.subprotocols
        extensions: dict[str, Any] = {DENIAL_EXTENSION: {}}
        if self.connection.tls is not None:
            extensions["tls"] = self.connection.tls
        scope["extensions"] = extensions
        state = self.connection.service.state
        if state is not None:
            scope["state"] = state.copy()
        return scope

    def body_came(self, chunk: bytes, more: bool) -> bool:
        return True  # a request for a websocket has none

    def data_came(self, data: bytes) -> None:
        """Take what came on the upgraded connection."""
        assert self._session is not None  # the connection is upgraded by what accepts
        self._session.data_came(data)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._session is not None:
            self._session.read_on()

    def client_left(self, error: ClientDisconnected) -> None:
        if self.gone is not None:
            return
        self.gone = str(error)
        if self._session is not None:
            self._session.lost()
        elif not self._ended:
            self._disconnect = self._messages.disconnect()
            self._tell_end()

    def _tell_end(self) -> None:
        """See to it that the application learns that its client has left, and ends."""
        self.wake()
        self.call_off_later()

    def expire(self) -> None:
        """Learn that the connection's deadline has passed."""
        assert self._session is not None
        self._session.expire()

    def stop(self) -> None:
        if self._session is not None:
            self._session.stop()

    def end_stream(self) -> None:
        if self.status == 101:
            self.connection.cut("the server is stopping")

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
            await self.change()

    def _next(self) -> Message | None:
        if self._session is not None:
            return self._session.next()
        if self.complete:  # it was answered instead, and the connection is the next request's
            return self._messages.disconnect()
        return self._disconnect

    async def send(self, message: Message) -> None:
        """Take a message of the application, waiting while the client is slower than it.

        Raises:
            ClientDisconnected: the client has left.
            ApplicationProtocolError: the message is malformed or out of order.
        """
        output = self._messages.send(message)
        if not isinstance(output, bytes):
            for each in output:
                self._answer_instead(each)
        elif self._session is None:
            self._accept(output)
        elif self._messages.state == "closed":
            self._session.close(output)
        else:
            self.sent += len(output)
            self.connection.transport.write(output)
        await self.caught_up()

    def _accept(self, head: bytes) -> None:
        connection, framing = self.connection, self._messages.framing
        assert framing is not None  # the message was an accept
        config = connection.service.config
        self.status = 101
        connection.transport.write(head)
        self._session = session = Session(
            _Line(self),
            self._messages,
            framing,
            Timing(
                config.websocket_ping_seconds,
                config.websocket_pong_seconds,
                config.websocket_close_seconds,
            ),
            on_message=self.wake,
            on_disconnect=self._tell_end,
        )
        session.data_came(connection.upgrade(self))
        if connection.service.stopping:
            session.stop()

    def _answer_instead(self, message: Message) -> None:
        """Answer with a response instead of a websocket."""
        denial = self._denial
        if message["type"] == "http.response.start":
            denial.start(message)
            return
        chunk = denial.body(message)
        last = denial.complete
        if self._denial_due:
            self._denial_due = False
            _, headers = denial.take_head(len(chunk) if last else None)
            self.start_response(denial.code, headers, chunk, last)
        else:
            self.go_on(chunk, last)

    # The task.

    def returned(self) -> None:
        self._end_messages(failed=False)
        if self.status != 101 and not self.complete and self.gone is None:
            raise self._denial.error("gave up its response", "")

    def report(self, failure: BaseException) -> None:
        self._end_messages(failed=True)
        super().report(failure)

    def _end_messages(self, *, failed: bool) -> None:
        frame = self._messages.finish(failed=failed)
        if frame and self._session is not None:
            self._session.close(frame)

    @property
    def has_left(self) -> bool:
        told = self._session is not None and self._session.disconnect is not None
        return told or self.gone is not None

    @property
    def too_late(self) -> str:
        if self.status == 101 or self.has_left or self.complete:
            return f"in a websocket at {self.head.target.decode('latin-1')}"
        return ""
