"""The socket way of a websocket: an application that speaks RFC 6455 by itself, on one end of a socket pair.

Libraries such as simple-websocket take the connection's socket from the environ, write the response 101 on it by
themselves, and speak RFC 6455 from then on. The loop has the pair's other end and is the client there.

Source: RFC 6455.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from ..crossing.gates import Gate
from ..crossing.sockets import SocketEnd, socket_pair
from ..errors import ApplicationProtocolError, CrossingError
from ..typing import Environ
from ..websocket.client import MAX_HEAD_BYTES, ClientFraming, Opening, read_opening
from ..websocket.frames import Close, Failure, Ping, Pong

# Where simple-websocket looks first, and what others know. Of the two, the first one has Flask-Sock end with an empty
# response, and the other one with an exception, which error reports would be full of.
_SOCKET_KEYS: Final = ("werkzeug.socket", "gunicorn.socket")

_READ_BYTES: Final = 65_536


class SocketLine:
    """One socket pair: what the application writes there, as messages, and the other way round.

    On the loop, but for ``close_theirs``.
    """

    _deaf = False
    _opened = False

    def __init__(
        self, gate: Gate, environ: Environ, subprotocols: Sequence[str], app_name: str
    ) -> None:
        """Make the pair.

        Args:
            gate: of the loop.
            environ: of the request; gets the application's end.
            subprotocols: that the request offers.
            app_name: what errors call the application.

        Raises:
            CrossingError: the system has no descriptors left.
        """
        self._key = environ["HTTP_SEC_WEBSOCKET_KEY"].encode("latin-1")
        self._subprotocols = subprotocols
        self._app_name = app_name
        self._framing = ClientFraming()
        self._end: SocketEnd
        self._end, self._theirs = socket_pair(gate)
        try:
            self._theirs_too = self._theirs.dup()
        except OSError as error:  # the descriptors of the pair were the last ones
            self._end.close()
            self._theirs.close()
            raise CrossingError(f"no socket for an application is to be had: {error}") from error
        for key in _SOCKET_KEYS:
            environ[key] = self._theirs

    def is_used(self) -> bool:
        """Tell whether the application has written anything yet, looked at or not."""
        return self._end.has_received()

    async def open(self) -> Opening | None:
        """Take the response that opens the websocket, or None where the application's end came first.

        Raises:
            ApplicationProtocolError: it is something else.
        """
        head = bytearray()
        while (end := head.find(b"\r\n\r\n")) < 0:
            # What is longer has no end yet; what came behind the end counts for nothing.
            data = b"" if len(head) > MAX_HEAD_BYTES else await self._end.read()
            if not (data or head):
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
        self._framing.receive_data(bytes(head[end + 4 :]))
        self._opened = True
        return opening

    async def receive(self) -> str | bytes | Close | Failure | None:
        """Wait for the application's next message or its close; None is the end of its socket."""
        framing = self._framing
        while True:
            while (event := framing.next_event()) is not None:
                if isinstance(event, Ping):
                    self._write_now(event.pong)
                elif not isinstance(event, Pong):
                    return event
            data = await self._end.read()
            if not data:
                return None
            framing.receive_data(data)

    async def deliver(self, message: str | bytes) -> None:
        """Write a message of the client, waiting while the application does not read."""
        if self._deaf:
            return
        try:
            await self._end.write(self._framing.message(message))
        except OSError:
            self._deaf = True  # the application has closed its end, or is about to be told of its own close frame

    def answer(self, close: Close) -> None:
        """Answer the application's close frame, and end its socket behind that."""
        self._write_now(self._framing.close(close.code, close.reason))
        self._end.shut()

    def lose(self, code: int, reason: str) -> None:
        """Tell the application that its client has left, by a close frame where the code may stand in one."""
        frame = self._framing.close(code, reason) if self._opened else b""
        if frame and not self._end.is_stuck:
            self._write_now(frame)
        if frame and not self._end.is_stuck:
            self._end.end_writing()
        else:
            self._end.shut()

    async def drop_the_rest(self) -> None:
        """Read what nobody takes any more, as far as an application goes that has not looked yet.

        That one then answers the close frame. One that sends a message instead may never look: its next one fails, as
        on a connection whose client has left.
        """
        while data := await self._end.read():
            self._framing.receive_data(data)
            while (event := self._framing.next_event()) is not None:
                if not isinstance(event, Ping | Pong):
                    self._end.shut()

    def shut(self) -> None:
        """End the application's socket: it may read what was written."""
        self._end.shut()

    def close(self) -> None:
        """Let go of the loop's end, when no task waits at it any more."""
        self._end.shut()
        self._end.close()

    def close_theirs(self) -> None:
        """Close the application's end; in its thread, or where it has none; again for nothing.

        The application may have closed its own descriptor of it, and may have made others: ours reaches it in any case.
        What it has not read is taken out first, for the other end would see an error instead of the end, by which
        uvloop stops watching it without a word.
        """
        end = self._theirs_too
        try:
            # Wakes threads that wait at it, before its number is another file's.
            end.shutdown(socket.SHUT_RDWR)
            while end.recv(_READ_BYTES):
                pass
        except OSError:
            pass  # one of the ends is closed already
        end.close()
        self._theirs.close()

    def _write_now(self, frame: bytes) -> None:
        try:
            self._end.write_now(frame)
        except OSError:
            self._deaf = True
