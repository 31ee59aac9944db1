"""The object way of a websocket: ``environ["wsgi.websocket"]``, as gevent-websocket has it.

The application calls ``receive``, ``send`` and ``close`` and knows nothing of frames: whole messages cross between its
threads and the loop, and no socket is involved.

With gevent-websocket the handshake is done before the application is called. Here the first use of the object does it,
so that the same environ serves applications that take a socket, and those that answer with a response.

Source: gevent-websocket 0.10.1, ``geventwebsocket.websocket.WebSocket``.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from ..crossing.bells import ThreadBell
from ..crossing.gates import Gate
from ..crossing.mail import Mail
from ..crossing.pipes import ThreadToLoop
from ..errors import ClientDisconnected, CrossingError, WebSocketError
from ..typing import Environ
from ..websocket.client import Opening
from ..websocket.frames import NORMAL_CLOSURE, Close, may_stand_in_a_frame

# What a message counts beside its own bytes, so that empty ones cannot pile up either.
_MESSAGE_BYTES: Final = 64


class _End:
    """The last item of the mail."""


_END: Final = _End()


class ObjectLine:
    """What crosses between the object and the loop; on the loop, but for what says otherwise.

    Attributes:
        opening: how the application has opened it, or None; written once, in a thread.
        gone: True once nothing more comes to the application, but for what is in its mail.
    """

    def __init__(self, gate: Gate, buffer_bytes: int) -> None:
        """Make it.

        Args:
            gate: of the loop.
            buffer_bytes: bytes that may be under way, each way; or one message.
        """
        self._gate = gate
        self._pipe: ThreadToLoop[str | bytes | Close] = ThreadToLoop(gate, buffer_bytes)
        self._mail: Mail[str | bytes | _End] = Mail(ThreadBell(), gate, buffer_bytes)
        self._room = gate.signal()
        self._taken: deque[str | bytes | Close] = deque()
        self._at_end = False
        self.opening: Opening | None = None
        self.gone = False

    # For the bridge.

    async def receive(self) -> str | bytes | Close | None:
        """Wait for the application's next message or its close; None is the end of its call."""
        while not self._taken:
            if self._at_end:
                return None
            items, self._at_end = await self._pipe.take()
            self._taken.extend(items)
        return self._taken.popleft()

    async def deliver(self, message: str | bytes) -> None:
        """Hand over a message of the client, waiting while the application is behind."""
        weight = len(message) + _MESSAGE_BYTES
        mail = self._mail
        while not mail.has_room_for(weight):
            mail.when_room(weight, self._room.set)
            await self._room.wait()
        mail.post_weighty(message, weight)

    def answer(self, close: Close) -> None:
        """Answer the application's close: whoever waits in ``receive`` is let go."""
        self.shut()

    async def drop_the_rest(self) -> None:
        """Nothing is left: what the application sends raises."""

    def shut(self) -> None:
        """Let every ``send`` raise, and ``receive`` end behind what it still has."""
        if not self.gone:
            self.gone = True
            self._pipe.close(ClientDisconnected("the websocket is over"))
            self._mail.post(_END)

    # For the object, in threads.

    def check_thread(self) -> None:
        """See that nobody waits on the loop for what the loop has to do.

        Raises:
            CrossingError: the calling thread runs it.
        """
        if self._gate.runs_here():
            raise CrossingError(
                "the event loop would wait for itself: use a websocket in threads, not from async code"
            )

    def put(self, item: str | bytes | Close, weight: int) -> None:
        """Hand over a message, waiting while the client is behind; one thread at a time.

        Raises:
            ClientDisconnected: the websocket is over.
            CrossingError: the loop has ended.
        """
        self._pipe.put(item, weight)

    def take(self) -> str | bytes | None:
        """Take the next message, waiting for it, or None at the end, which comes once; one thread at a time."""
        item = self._mail.take()
        if isinstance(item, str | bytes):
            self._mail.done(len(item) + _MESSAGE_BYTES)
            return item
        return None

    def is_over(self) -> bool:
        """Tell whether the websocket is over, and the application has taken all that came before."""
        return self.gone and self._mail.all_done

    def end(self) -> None:
        """Say that the application's call is over."""
        try:
            self._pipe.end()
        except CrossingError:
            pass  # the loop has ended, and the call is about to say so


class WebSocket:
    """A websocket of a WSGI application, with the methods of gevent-websocket's.

    It is opened by the first ``receive``, ``send``, ``close`` or look at ``closed``. Any thread may use it, several of
    them at one time; when the call of the application is over, it is closed.

    Attributes:
        environ: of the request; None after the call.
    """

    def __init__(self, environ: Environ, line: ObjectLine, on_open: Callable[[], object]) -> None:
        """Make it; on the loop.

        Args:
            environ: of the request; gets the object.
            line: to the loop.
            on_open: called once, at the first use, in its thread, to open the line.
        """
        self.environ: Environ | None = environ
        self._line = line
        self._on_open: Callable[[], object] | None = on_open
        self._opening = threading.Lock()
        self._receiving = threading.Lock()
        self._sending = threading.Lock()
        # Closed by the application, or its end was heard, or the call is over.
        self._ended = False
        # A send has failed; there may still be something to be received.
        self._broken = False
        environ["wsgi.websocket"] = self
        environ["wsgi.websocket_version"] = self.version

    def __repr__(self) -> str:
        """Name the path."""
        return f"<WebSocket {self.path}>"

    # What gevent-websocket has.

    def receive(self) -> str | bytearray | None:
        """Wait for the client's next message.

        Returns:
            A text as ``str``, a binary message as ``bytearray``, and None, once, when the websocket is over: the client
            has closed it or vanished, or the server stops.

        Raises:
            WebSocketError: it was over before.
            CrossingError: called in async code on the event loop of the server.
        """
        self._line.check_thread()
        self._open()
        with self._receiving:
            if self._ended:
                raise _error("the websocket is closed already")
            message = self._line.take()
            if message is None:
                self._ended = True
        return bytearray(message) if isinstance(message, bytes) else message

    def send(
        self, message: str | bytes | bytearray | memoryview, binary: bool | None = None
    ) -> None:
        """Send a message, waiting while the client is too far behind.

        Args:
            message: a ``str``, or bytes of any kind.
            binary: whether it leaves as a binary message; None for what it is by its type.

        Raises:
            WebSocketError: the websocket is over.
            TypeError: the message is neither.
            UnicodeError: a text message is not encodable as UTF-8, or not encoded so.
            CrossingError: called in async code on the event loop of the server.
        """
        self._line.check_thread()
        self._open()
        with self._sending:
            if self._ended:
                raise _error("the websocket is closed already")
            item = _item_of(message, binary)
            try:
                self._line.put(item, len(item) + _MESSAGE_BYTES)
            except ClientDisconnected:
                self._broken = True
                raise _error(
                    "the websocket is over: its client has left, or the server stops"
                ) from None

    def close(self, code: int = NORMAL_CLOSURE, message: str | bytes | None = b"") -> None:
        """Close the websocket; one that is closed stays so.

        Args:
            code: 1000 to 1003, 1007 to 1014, or 3000 to 4999.
            message: the reason, cut at 123 bytes of UTF-8.

        Raises:
            ValueError: no close frame may have such a code.
            CrossingError: called in async code on the event loop of the server.
        """
        if not may_stand_in_a_frame(code):
            raise ValueError(
                f"close code must be one of 1000 to 1003, 1007 to 1014 or 3000 to 4999, got {code!r:.80}"
            )
        reason = message.decode("utf-8", "replace") if isinstance(message, bytes) else message or ""
        self._line.check_thread()
        self._open()
        with self._sending:
            if self._ended:
                return
            self._ended = True
            try:
                self._line.put(Close(code, reason), 0)
            except ClientDisconnected:
                pass  # somebody else has closed it

    @property
    def closed(self) -> bool:
        """Whether the websocket is over, and everything that came before was received."""
        self._open()
        return self._ended or self._broken or self._line.is_over()

    @property
    def origin(self) -> str | None:
        """The field ``Origin`` of the request."""
        return self._field("HTTP_ORIGIN")

    @property
    def protocol(self) -> str | None:
        """The subprotocols that the client offers, as its request has them."""
        return self._field("HTTP_SEC_WEBSOCKET_PROTOCOL")

    @property
    def version(self) -> str | None:
        """The version of the protocol, 13."""
        return self._field("HTTP_SEC_WEBSOCKET_VERSION")

    @property
    def path(self) -> str | None:
        """``PATH_INFO`` of the request."""
        return self._field("PATH_INFO")

    # For the bridge.

    def finish(self) -> None:
        """End it behind what was sent, and let go of everything; in a thread, when the call is over."""
        with self._sending:
            self._ended = True
            self._line.end()
        # The environ holds this object: without this it would take the garbage collector to free both.
        self.environ = self._on_open = None

    def _field(self, key: str) -> str | None:
        environ = self.environ
        return None if environ is None else environ.get(key)

    def _open(self) -> None:
        if self._line.opening is not None:
            return
        with self._opening:
            on_open = self._on_open
            if on_open is not None and self._line.opening is None:
                on_open()


def _item_of(message: object, binary: bool | None) -> str | bytes:
    """Choose what the client gets."""
    if isinstance(message, str):
        if binary:
            return message.encode()
        if not message.isascii():
            message.encode()  # raises here what would otherwise be a failure of the server
        return message
    if not isinstance(message, bytes | bytearray | memoryview):
        raise TypeError(f"a websocket message is str or bytes, got {message!r:.80}")
    data = bytes(message)
    return data.decode() if binary is False else data


def _error(sentence: str) -> WebSocketError:
    """Make the exception: where the application knows gevent-websocket's, it is one of these too."""
    theirs = getattr(sys.modules.get("geventwebsocket.exceptions"), "WebSocketError", None)
    return (WebSocketError if theirs is None else _error_class(theirs))(sentence)


@functools.cache
def _error_class(theirs: type[Exception]) -> type[WebSocketError]:
    namespace = {"__module__": WebSocketError.__module__, "__doc__": WebSocketError.__doc__}
    return type("WebSocketError", (WebSocketError, theirs), namespace)
