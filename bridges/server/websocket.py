"""A websocket of an ASGI application in the server.

The frames are ``websocket/framing.py``, the order of the application's messages ``websocket/asgi.py``; this is what is
between them and the connection: reading no faster than the application, pings, deadlines, both ends of the close.

Source: RFC 6455; ASGI WebSocket specification 2.5.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ..errors import ClientDisconnected, PeerProtocolError
from ..translate.response_events import RawResponseEvents
from ..typing import Message
from ..websocket.asgi import DENIAL_EXTENSION, WebSocketMessages, received
from ..websocket.framing import ABNORMAL_CLOSURE, GOING_AWAY, Close, Failure, Framing, Ping, Pong
from ..websocket.handshake import UPGRADE_REQUIRED_HEADERS, Handshake, handshake
from .head import RequestHead
from .task import TaskExchange

if TYPE_CHECKING:
    from .http1 import Connection

# What waits for an application that does not ask: past either, nothing more is read.
_AHEAD_BYTES: Final = 65_536
_AHEAD_MESSAGES: Final = 64
_UPGRADE_REQUIRED: Final = (*UPGRADE_REQUIRED_HEADERS, (b"connection", b"upgrade"))
_SCHEMES: Final = {"http": "ws", "https": "wss"}


class WebSocketExchange(TaskExchange):
    """A request for a websocket, and what becomes of it."""

    _handshake: Handshake
    _messages: WebSocketMessages
    _connect_given = False
    _awaits_pong = False
    _waiting_bytes = 0
    _disconnect: Message | None = None
    _denial_due = True
    _end: Close | Failure | None = None

    def __init__(self, connection: Connection, head: RequestHead) -> None:
        super().__init__(connection, head)
        self._queue: deque[str | bytes] = deque()
        self._denial = RawResponseEvents(False, connection.service.app_name, ())

    @property
    def _framing(self) -> Framing | None:
        return self._messages.framing

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
        framing = self._framing
        assert framing is not None  # the connection is upgraded by what accepts
        framing.receive_data(data)
        self._sign_of_life()
        self._read_frames(framing)

    def _sign_of_life(self) -> None:
        framing = self._framing
        if framing is None or framing.close_sent or framing.deaf:
            return
        self._awaits_pong = False
        service = self.connection.service
        seconds = service.config.websocket_ping_seconds
        self.connection.reading_deadline = (
            math.inf if seconds is None else service.in_seconds(seconds)
        )

    def _read_frames(self, framing: Framing) -> None:
        """Read as far as the application may be behind."""
        connection = self.connection
        while self._has_room and not connection.write_paused:  # which pongs may be the cause of
            event = framing.next_event()
            if event is None:
                connection.read_on()
                return
            if isinstance(event, str | bytes):
                self._queue.append(event)
                self._waiting_bytes += len(event)
                self.wake()
            elif isinstance(event, Ping):
                connection.transport.write(event.pong)
            elif not isinstance(event, Pong):
                self._end = event
                if self._queue:  # what came before it can still be answered
                    service = connection.service
                    seconds = service.config.websocket_close_seconds
                    connection.reading_deadline = service.in_seconds(seconds)
                else:
                    self._end_of_client(framing, event)
                return
        if not framing.close_sent:
            # The pong that would come cannot be seen now.
            connection.reading_deadline = math.inf
        connection.pause_reading()

    @property
    def _has_room(self) -> bool:
        return self._waiting_bytes < _AHEAD_BYTES and len(self._queue) < _AHEAD_MESSAGES

    def resume_writing(self) -> None:
        super().resume_writing()
        self._resume_reading()

    def _resume_reading(self) -> None:
        framing = self._framing
        if framing is not None and self._disconnect is None and self.connection.reads_paused:
            self._sign_of_life()
            self._read_frames(framing)

    def _end_of_client(self, framing: Framing, event: Close | Failure) -> None:
        self._end = None
        if not framing.close_sent:
            reason = event.reason if isinstance(event, Failure) else ""
            self.connection.transport.write(framing.close(event.code, reason))
        self._lose(event.code, event.reason)
        self.connection.close(linger=isinstance(event, Failure))

    def client_left(self, error: ClientDisconnected) -> None:
        if self.gone is None:
            self.gone = str(error)
            if not self._ended:
                self._lose(ABNORMAL_CLOSURE, "")

    def _lose(self, code: int, reason: str) -> None:
        """Tell the application that its client has left, and call it off if it does not end then."""
        if self._disconnect is None:
            self._disconnect = self._messages.disconnect(code, reason)
            self.wake()
            self.call_off_later()

    def expire(self) -> None:
        """Learn that the connection's deadline has passed: send a ping, or give the client up."""
        framing = self._framing
        if framing is not None and self._end is not None:
            self._end_of_client(framing, self._end)
            return
        if framing is not None and self._awaits_pong and self._has_unwritten:
            # The ping waits behind what the client is still to read, which has a limit of its own.
            self._await_pong()
            return
        if framing is None or framing.close_sent or self._awaits_pong:
            self.connection.cut("the client does not answer")
            return
        self._awaits_pong = True
        self.connection.transport.write(framing.ping())
        self._await_pong()

    @property
    def _has_unwritten(self) -> bool:
        return self.connection.transport.get_write_buffer_size() > 0

    def _await_pong(self) -> None:
        service = self.connection.service
        self.connection.reading_deadline = service.in_seconds(service.config.websocket_pong_seconds)

    def stop(self) -> None:
        framing = self._framing
        if framing is not None and not framing.close_sent:
            self._close(framing.close(GOING_AWAY, "the server is stopping"))
        if self._framing is not None:
            self._lose(GOING_AWAY, "the server is stopping")

    def end_stream(self) -> None:
        if self.status == 101:
            self.connection.cut("the server is stopping")

    # For the application.

    async def receive(self) -> Message:
        """Give ``websocket.connect``, then the messages of the client, then its leaving."""
        if not self._connect_given:
            self._connect_given = True
            return {"type": "websocket.connect"}
        while not self._queue:
            if self._end is not None and self._framing is not None:
                self._end_of_client(self._framing, self._end)
            if self._disconnect is not None:
                return self._disconnect
            await self.change()
        message = self._queue.popleft()
        self._waiting_bytes -= len(message)
        self._resume_reading()
        return received(message)

    async def send(self, message: Message) -> None:
        """Take a message of the application, waiting while the client is slower than it.

        Raises:
            ClientDisconnected: the client has left.
            ApplicationProtocolError: the message is malformed or out of order.
        """
        messages = self._messages
        connecting = messages.framing is None
        output = messages.send(message)
        if isinstance(output, bytes):
            if connecting:
                self._accept(output)
            elif messages.state == "closed":
                self._close(output)
            else:
                self.sent += len(output)
                self.connection.transport.write(output)
        else:
            for each in output:
                self._answer_instead(each)
        await self.caught_up()

    def _accept(self, head: bytes) -> None:
        self.status = 101
        self.connection.transport.write(head)
        self._sign_of_life()
        self.connection.upgrade(self)
        if self.connection.service.stopping:
            self.stop()

    def _close(self, frame: bytes) -> None:
        """Begin the closing handshake; the client's part of it has its own time limit."""
        if self.gone is not None:
            return
        connection, service = self.connection, self.connection.service
        connection.transport.write(frame)
        framing = self._framing
        if framing is not None and framing.over:
            connection.close()
            return
        connection.reading_deadline = service.in_seconds(service.config.websocket_close_seconds)
        self._queue.clear()
        self._waiting_bytes = 0
        if framing is not None:
            self._read_frames(framing)

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
        if frame:
            self._close(frame)

    @property
    def has_left(self) -> bool:
        return self._disconnect is not None or self.gone is not None

    @property
    def too_late(self) -> str:
        if self.status == 101 or self.has_left or self.complete:
            return f"in a websocket at {self.head.target.decode('latin-1')}"
        return ""
