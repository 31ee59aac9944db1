"""An accepted websocket between its connection and its application: queue, pings, limits in time, and the close.

Nothing here waits or knows a loop; what carries the bytes is a ``Line``, which calls back.

Source: RFC 6455 sections 5.5 and 7; ASGI WebSocket 2.5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from ..typing import Message
from .asgi import WebSocketMessages, received
from .framing import ABNORMAL_CLOSURE, GOING_AWAY, Close, Failure, Framing, Ping, Pong

# What waits for an application that does not ask: past either, nothing more is read.
_AHEAD_BYTES: Final = 65_536
_AHEAD_MESSAGES: Final = 64

_STOPPING: Final = "the server is stopping"


class Timing(NamedTuple):
    """Limits in seconds.

    Attributes:
        ping: between pings; None sends none.
        pong: for the answer to a ping, in which a client that is behind has to take something.
        close: for the client's part of the close handshake, likewise.
    """

    ping: float | None
    pong: float
    close: float


class Line(Protocol):
    """The connection, as a session needs it."""

    @property
    def write_paused(self) -> bool:
        """Whether more is unwritten than should be; ``Session.read_on`` is called when that is over."""

    def write(self, data: bytes) -> None:
        """Write, or keep until the client takes it."""

    def is_catching_up(self) -> bool:
        """Whether something is unwritten, and the client has taken a part since this was asked last."""

    def read_on(self) -> None:
        """Give what comes to ``Session.data_came``."""

    def pause_reading(self) -> None:
        """Leave what comes in the connection."""

    def expire_in(self, seconds: float | None) -> None:
        """Call ``Session.expire`` after so many seconds from now, instead of what was asked before; None never."""

    def close(self, linger: bool) -> None:
        """Close when everything is written; ``linger`` for a client that may still be sending."""

    def cut(self, reason: str) -> None:
        """Close now, and call ``Session.lost``."""


class Session:
    """One accepted websocket.

    Attributes:
        disconnect: what tells the application that it is over, once it is.
    """

    __slots__ = (
        "_awaits_pong",
        "_end",
        "_framing",
        "_line",
        "_lost",
        "_messages",
        "_on_disconnect",
        "_on_message",
        "_paused",
        "_queue",
        "_timing",
        "_waiting_bytes",
        "disconnect",
    )

    def __init__(
        self,
        line: Line,
        messages: WebSocketMessages,
        framing: Framing,
        timing: Timing,
        on_message: Callable[[], object],
        on_disconnect: Callable[[], object],
    ) -> None:
        """Begin, before anything is read.

        Args:
            line: the connection.
            messages: of the application.
            framing: of this websocket.
            timing: its limits.
            on_message: called when ``next`` has something.
            on_disconnect: called once, when ``disconnect`` is set.
        """
        self._line = line
        self._messages = messages
        self._framing = framing
        self._timing = timing
        self._on_message = on_message
        self._on_disconnect = on_disconnect
        self._queue: deque[str | bytes] = deque()
        self._waiting_bytes = 0
        self._awaits_pong = False
        self._paused = False
        self._lost = False
        self._end: Close | Failure | None = None
        self.disconnect: Message | None = None

    # For the connection.

    def data_came(self, data: bytes) -> None:
        """Take what the client sent; at the beginning what came right behind its handshake, if anything did."""
        framing = self._framing
        if not (self._lost or framing.deaf):
            framing.receive_data(data)
            self._sign_of_life()
            self._read_frames()

    def read_on(self) -> None:
        """Learn that the connection's output has caught up."""
        # A stop has told the application already, and the client has yet to close.
        if not (self._lost or self._framing.deaf):
            self._sign_of_life()
            self._read_frames()

    def lost(self) -> None:
        """Learn that the connection broke or was cut; nothing of it is called any more after this."""
        if self._lost:
            return
        self._lost = True
        end, self._end = self._end, None
        if end is None:
            self._lose(ABNORMAL_CLOSURE, "")
        else:  # the code is that of the close frame that came (RFC 6455 section 7.1.5)
            self._lose(end.code, end.reason)
        # They hold this, and what came of a message would wait with them for the garbage collector.
        del self._line, self._on_message, self._on_disconnect

    def expire(self) -> None:
        """Learn that the time that was asked for is over: send a ping, or give the client up."""
        line, timing, closing = self._line, self._timing, self._framing.close_sent
        if self._end is not None:
            self._end_of_client(self._end)
        elif closing or self._awaits_pong:
            if line.is_catching_up():  # what it has to answer waits behind what it still takes
                line.expire_in(timing.close if closing else timing.pong)
            else:
                line.cut("the client does not answer")
        else:
            self._ask_for_life()

    def stop(self) -> None:
        """Close with 1001, for the server leaves."""
        if not self._framing.close_sent:
            self.close(self._framing.close(GOING_AWAY, _STOPPING))
        self._lose(GOING_AWAY, _STOPPING)

    # For the application.

    def next(self) -> Message | None:
        """Give the next message for the application, or None until ``on_message`` is called."""
        if self._queue:
            message = self._queue.popleft()
            self._waiting_bytes -= len(message)
            if self._paused:
                self._read_on_for_room()
            return received(message)
        if self._end is not None:
            self._end_of_client(self._end)
        return self.disconnect

    def close(self, frame: bytes) -> None:
        """Begin the closing handshake with a frame; the client's part of it has its own time limit."""
        if self.disconnect is not None:
            return
        line = self._line
        line.write(frame)
        self._queue.clear()
        self._waiting_bytes = 0
        line.is_catching_up()  # from now on
        line.expire_in(self._timing.close)
        if self._end is not None:
            self._end_of_client(self._end)
        else:
            self._read_frames()

    # What both need.

    def _read_on_for_room(self) -> None:
        # Not before half of what waited has gone: each change of mind costs the loop two system calls.
        if len(self._queue) <= _AHEAD_MESSAGES // 2 and self._waiting_bytes <= _AHEAD_BYTES // 2:
            self.read_on()

    def _sign_of_life(self) -> None:
        if not self._framing.close_sent:
            self._awaits_pong = False
            self._line.expire_in(self._timing.ping)

    def _ask_for_life(self) -> None:
        line = self._line
        if not self._paused:
            self._awaits_pong = True
            line.write(self._framing.ping())
        elif (
            line.write_paused
        ):  # a pong could not be seen: that the client takes something is the answer
            self._awaits_pong = True
        line.is_catching_up()  # from now on
        line.expire_in(self._timing.pong)

    def _read_frames(self) -> None:
        """Read as far as the application may be behind."""
        line, framing, queue = self._line, self._framing, self._queue
        while (
            self._waiting_bytes < _AHEAD_BYTES
            and len(queue) < _AHEAD_MESSAGES
            and not line.write_paused  # which pongs may be the cause of
        ):
            event = framing.next_event()
            if event is None:
                self._paused = False
                line.read_on()
                return
            if isinstance(event, str | bytes):
                queue.append(event)
                self._waiting_bytes += len(event)
                self._on_message()
            elif isinstance(event, Ping):
                if not framing.close_sent:
                    line.write(event.pong)
            elif not isinstance(event, Pong):
                self._take_end(event)
                return
        self._paused = True
        line.pause_reading()
        if not framing.close_sent:
            line.expire_in(self._timing.pong)  # not of the client, if the application is behind

    def _take_end(self, event: Close | Failure) -> None:
        self._line.pause_reading()
        self._end = event
        if self._queue:  # what came before it can still be answered
            self._line.expire_in(self._timing.close)
        else:
            self._end_of_client(event)

    def _end_of_client(self, event: Close | Failure) -> None:
        self._end = None
        line, framing = self._line, self._framing
        line.expire_in(self._timing.close)
        if not framing.close_sent:
            reason = event.reason if isinstance(event, Failure) else ""
            line.write(framing.close(event.code, reason))
        self._lose(event.code, event.reason)
        line.close(linger=isinstance(event, Failure))

    def _lose(self, code: int, reason: str) -> None:
        if self.disconnect is None:
            self.disconnect = self._messages.disconnect(code, reason)
            self._on_disconnect()
