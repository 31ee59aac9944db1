"""A borrowed socket on the event loop: what comes goes to a session, what is to go is kept until the client takes it.

All of it on the loop. The socket never blocks; TLS may want to read before it writes, and the other way round.
"""

from __future__ import annotations

import logging
import math
import ssl
import time
from collections.abc import Callable
from typing import Final

from ..crossing.portal import Handle, Portal
from ..crossing.watches import nothing
from ..websocket.session import Session
from .host_socket import WOULD_BLOCK, HostSocket

_log = logging.getLogger("bridges.adapters")

_READ_BYTES: Final = 65_536
# What is given to the socket at once, the first time as any other: TLS that could not write all of a piece wants at
# least as much again, or it breaks the connection.
_WRITE_BYTES: Final = 262_144

# A client that failed may still be sending: closed at once, the connection would be reset, and what told it why lost.
# Past these bytes it is no longer worth the while; the time is the session's.
_LINGER_BYTES: Final = 16_777_216


class Wire:
    """The connection of one websocket.

    Attributes:
        session: what reads, once there is one.
        is_over: True once the socket is given back.
    """

    session: Session | None = None
    is_over = False
    _closing = False
    _lingers = False
    _lingered = 0
    _output_ended = False
    _reads_to_write = False
    _writes_to_read = False
    _moved = False
    _deadline = math.inf
    _alarm_at = math.inf
    _alarm: Handle | None = None

    def __init__(
        self,
        portal: Portal,
        socket: HostSocket,
        limit: int,
        on_caught_up: Callable[[], object],
        on_over: Callable[[], object],
    ) -> None:
        """Take over a socket that was borrowed.

        Args:
            portal: whose loop this runs on.
            socket: as it was borrowed.
            limit: bytes that may be unwritten before writers should wait.
            on_caught_up: called when most of what was unwritten has gone.
            on_over: called once, when the socket is given back.
        """
        self._portal = portal
        self._socket = socket
        self._limit = limit
        self._on_caught_up = on_caught_up
        self._on_over = on_over
        self._output = bytearray()
        self.write_paused = False
        self._send = socket.send
        self._recv = socket.recv
        self._watch = portal.watch(socket.descriptor, self._readable, self._writable)

    def begin(self, session: Session, early: bytes) -> None:
        """Read for a session.

        Args:
            session: of this connection.
            early: what the host has read beyond the handshake.
        """
        self.session = session
        session.data_came(early)
        if not self.is_over and self._socket.has_more():
            self._readable()

    # For the session.

    def write(self, data: bytes) -> None:
        """Write, or keep until the client takes it."""
        if self.is_over or self._closing or not data:
            return
        if not self._output:
            try:
                sent = self._send(data if len(data) <= _WRITE_BYTES else data[:_WRITE_BYTES])
            except WOULD_BLOCK:
                sent = 0
            except OSError as error:
                sent = self._no_bytes(error)
            if sent == len(data):
                return
            data = data[sent:]
        self._output += data
        self.write_paused = len(self._output) > self._limit
        if not self._reads_to_write:
            self._watch.write(True)

    def is_catching_up(self) -> bool:
        """Whether something is unwritten, and the client has taken a part since this was asked last."""
        moved, self._moved = self._moved, False
        return moved and bool(self._output)

    def read_on(self) -> None:
        """Give what comes to the session."""
        if not self.is_over:
            self._watch.read(True)

    def pause_reading(self) -> None:
        """Leave what comes in the socket."""
        if not self._reads_to_write:
            self._watch.read(False)

    def expire_in(self, seconds: float | None) -> None:
        """Have the session called after so many seconds."""
        if seconds is None:
            self._deadline = math.inf
            return
        self._deadline = deadline = time.monotonic() + seconds
        # One that is set for earlier looks at the deadline then, which costs less than setting it anew each time.
        if deadline < self._alarm_at and not self.is_over:
            self._set_alarm(deadline, seconds)

    def close(self, linger: bool) -> None:
        """Close when everything is written, and with ``linger`` when the client has closed its side too."""
        self._lingers = linger
        self._closing = True
        self._end_when_written()

    def cut(self, reason: str) -> None:
        """Close now."""
        if not self.is_over:
            _log.debug("cut a websocket: %s", reason)
            self._give_back()

    # The alarm.

    def _set_alarm(self, deadline: float, seconds: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = deadline
        self._alarm = self._portal.call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._alarm_at = math.inf
        if self.is_over or self._deadline == math.inf:
            return
        left = self._deadline - time.monotonic()
        if left > 0:
            self._set_alarm(self._deadline, left)
        elif self._closing or self.session is None:
            self.cut("the client does not close")
        else:
            self._deadline = math.inf
            self.session.expire()

    # Reading.

    def _readable(self) -> None:
        if self._reads_to_write:
            self._reads_to_write = False
            self._flush()
        try:
            data = self._recv(_READ_BYTES)
            while self._take(data) and self._socket.has_more():
                data = self._recv(_READ_BYTES)
        except WOULD_BLOCK:
            pass
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            self._writes_to_read = True
            self._watch.write(True)
        except OSError as error:
            self.cut(f"the connection broke: {error}")

    def _take(self, data: bytes) -> bool:
        """Take what came; tells whether to go on."""
        if self.is_over:
            return False
        if not data:
            self.cut("the client closed the connection")
        elif self._closing:
            self._lingered += len(data)
            if self._lingered > _LINGER_BYTES:
                self.cut("the client does not stop sending")
        elif self.session is not None:
            self.session.data_came(data)
        return not self.is_over

    # Writing.

    def _writable(self) -> None:
        if self._writes_to_read:
            self._writes_to_read = False
            self._watch.write(bool(self._output))
            self._readable()
        if not self.is_over:
            self._flush()

    def _flush(self) -> None:
        output = self._output
        while output:
            with memoryview(output) as whole, whole[:_WRITE_BYTES] as part:
                size = len(part)
                sent = self._try_to_send(part)
            if self.is_over:
                return
            if sent:
                self._moved = True
                del output[:sent]
            if sent < size:
                break
        if not self._reads_to_write:
            self._watch.write(bool(output) or self._writes_to_read)
        if self.write_paused and len(output) <= self._limit // 4:
            self.write_paused = False
            self._on_caught_up()
            if self.session is not None:
                self.session.read_on()
        self._end_when_written()

    def _try_to_send(self, part: memoryview) -> int:
        try:
            return self._send(part)
        except WOULD_BLOCK:
            return 0
        except OSError as error:
            return self._no_bytes(error)

    def _no_bytes(self, error: OSError) -> int:
        """Give 0, the bytes that were sent, and see to it that they are again, or never."""
        if isinstance(error, ssl.SSLWantReadError):
            self._reads_to_write = True
            self._watch.write(False)
            self._watch.read(True)
        elif not isinstance(error, ssl.SSLWantWriteError):
            # The one who writes is in the middle of its own work.
            self._portal.call_later(0, lambda: self.cut(f"the connection broke: {error}"))
        return 0

    # The end.

    def _end_when_written(self) -> None:
        if not self._closing or self._output or self.is_over:
            return
        if not self._lingers:
            self._give_back()
        elif not self._output_ended:
            self._output_ended = True
            self._socket.end_output()
            self._watch.read(True)

    def _give_back(self) -> None:
        self.is_over = True
        self._output.clear()
        self.write_paused = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._watch.close()
        self._socket.give_back()
        session, self.session = self.session, None
        if session is not None:
            session.lost()
        self._on_caught_up()
        self._on_over()
        # Or what is left of a message, with all else, would wait for the garbage collector.
        self._on_caught_up = self._on_over = nothing
