"""The order of an ASGI application's websocket messages: what may come when, what is written, and whose fault it is.

Source: ASGI WebSocket 2.5 and the extension "Websocket Denial Response".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

from ..errors import ApplicationProtocolError, ClientDisconnected
from ..typing import Message
from .framing import ABNORMAL_CLOSURE, INTERNAL_ERROR, NORMAL_CLOSURE, Framing
from .handshake import Handshake

DENIAL_EXTENSION: Final = "websocket.http.response"
"""The key that the scope's ``extensions`` have."""

State: TypeAlias = Literal["connecting", "open", "denying", "closed", "disconnected"]

_ACCEPT_CLAUSE: Final = 'ASGI WebSocket 2.5 "Accept"'
_SEND_CLAUSE: Final = 'ASGI WebSocket 2.5 "Send"'
_CLOSE_CLAUSE: Final = 'ASGI WebSocket 2.5 "Close"'
_CONNECT_CLAUSE: Final = 'ASGI WebSocket 2.5 "Connect"'
_DENIAL_CLAUSE: Final = 'ASGI extensions "Websocket Denial Response"'


class WebSocketMessages:
    """What is known of one websocket of an application, and what it may send next.

    Attributes:
        state: ``"connecting"`` until the application accepts or refuses; ``"open"`` after it accepted; ``"denying"``
            while its own HTTP response is under way; ``"closed"`` after the application closed or refused;
            ``"disconnected"`` after the client did.
        framing: of the accepted websocket, or None.
    """

    __slots__ = (
        "_app_name",
        "_deflate",
        "_disconnect",
        "_handshake",
        "_max_bytes",
        "framing",
        "state",
    )

    def __init__(
        self, handshake: Handshake, app_name: str, *, max_bytes: int, deflate: bool
    ) -> None:
        """Begin.

        Args:
            handshake: the client's request.
            app_name: what errors call the application.
            max_bytes: of one message of the client.
            deflate: whether messages are compressed if the client offers it.
        """
        self._handshake = handshake
        self._app_name = app_name
        self._max_bytes = max_bytes
        self._deflate = deflate
        self._disconnect: Message | None = None
        self.state: State = "connecting"
        self.framing: Framing | None = None

    def send(self, message: Message) -> bytes | list[Message]:
        """Take a message of the application.

        Returns:
            Bytes to be written on the connection; or, instead of a websocket, messages of an HTTP response
            (``http.response.start`` and ``http.response.body``), to be answered with as any other.

        Raises:
            ApplicationProtocolError: it is malformed or out of order; the state stays as it was.
            ClientDisconnected: the websocket was disconnected.
        """
        kind = message.get("type")
        if kind == "websocket.send" and self.framing is not None and self.state == "open":
            return self._send_data(message, self.framing)
        if self.state == "disconnected":
            raise ClientDisconnected("the client left before the websocket was closed")
        translate = _ALLOWED[self.state].get(kind) if isinstance(kind, str) else None
        if translate is None:
            raise self._out_of_order(kind)
        return translate(self, message)

    def disconnect(self, code: int = ABNORMAL_CLOSURE, reason: str = "") -> Message:
        """Take it that the websocket is disconnected, and give the message that tells the application so.

        It is the same again for every later call. Whatever the application sends from now on raises
        ``ClientDisconnected``, unless it had closed before.

        Args:
            code: of the client's close frame, of the failure that was told to it, of the server that leaves, or 1006
                for a connection that broke.
            reason: likewise.

        Source:
            ASGI WebSocket 2.5 "Disconnect".
        """
        if self._disconnect is None:
            self._disconnect = {"type": "websocket.disconnect", "code": code, "reason": reason}
            if self.state != "closed":
                self.state = "disconnected"
        return self._disconnect

    def finish(self, *, failed: bool) -> bytes:
        """Take the end of the application, and give what remains to be written on the connection.

        Args:
            failed: it raised an exception: a websocket still open is closed with 1011 instead of 1000.

        Raises:
            ApplicationProtocolError: it returned before it accepted or refused, or within its response.
        """
        if self.state == "open" and self.framing is not None:
            self.state = "closed"
            return self.framing.close(INTERNAL_ERROR if failed else NORMAL_CLOSURE)
        if not failed and self.state == "connecting":
            raise self._error(
                "returned without accepting or refusing the websocket", _CONNECT_CLAUSE
            )
        if not failed and self.state == "denying":
            raise self._error(
                "returned without ending its response: the last body message has more_body=False",
                _DENIAL_CLAUSE,
            )
        return b""

    def _accept(self, message: Message) -> bytes:
        subprotocol = message.get("subprotocol")
        if not isinstance(subprotocol, str | None):
            raise self._error(
                f"sent websocket.accept whose subprotocol is no str: {subprotocol!r:.80}",
                _ACCEPT_CLAUSE,
            )
        try:
            head, self.framing = self._handshake.accept(
                subprotocol,
                message.get("headers") or (),
                max_bytes=self._max_bytes,
                deflate=self._deflate,
            )
        except ApplicationProtocolError as error:
            raise self._malformed("websocket.accept", error) from error
        self.state = "open"
        return head

    def _refuse(self, message: Message) -> list[Message]:
        self.state = "closed"
        return [
            {
                "type": "http.response.start",
                "status": 403,
                "headers": [(b"content-length", b"0")],
            },
            {"type": "http.response.body", "body": b""},
        ]

    def _start_denial(self, message: Message) -> list[Message]:
        self.state = "denying"
        return [{**message, "type": "http.response.start"}]

    def _continue_denial(self, message: Message) -> list[Message]:
        if not message.get("more_body"):
            self.state = "closed"
        return [{**message, "type": "http.response.body"}]

    def _send_data(self, message: Message, framing: Framing) -> bytes:
        text, data = message.get("text"), message.get("bytes")
        if (text is None) == (data is None):
            raise self._error(
                "sent websocket.send without exactly one of text and bytes", _SEND_CLAUSE
            )
        if isinstance(data, bytes):
            return framing.send_bytes(data)
        if isinstance(data, bytearray | memoryview):
            return framing.send_bytes(bytes(data))
        if not isinstance(text, str):
            raise self._error(
                f"sent websocket.send with {text if data is None else data!r:.80}: text is str, bytes are bytes",
                _SEND_CLAUSE,
            )
        try:
            return framing.send_text(text)
        except ApplicationProtocolError as error:
            raise self._malformed("websocket.send", error) from error

    def _close(self, message: Message) -> bytes:
        code, reason = message.get("code"), message.get("reason")
        code = NORMAL_CLOSURE if code is None else code
        if not isinstance(code, int) or not isinstance(reason, str | None) or self.framing is None:
            raise self._error(
                f"sent websocket.close whose code is no int or whose reason is no str: {message!r:.120}",
                _CLOSE_CLAUSE,
            )
        try:
            frame = self.framing.close(code, reason or "")
        except ApplicationProtocolError as error:
            raise self._malformed("websocket.close", error) from error
        self.state = "closed"
        return frame

    def _out_of_order(self, kind: object) -> ApplicationProtocolError:
        where = {
            "connecting": "before websocket.accept",
            "open": "on an open websocket",
            "denying": "within its HTTP response",
            "closed": "after its websocket was closed or refused",
        }[self.state]
        clause = _DENIAL_CLAUSE if self.state == "denying" else _CLOSE_CLAUSE
        return self._error(f"sent {kind!r:.80} {where}", clause)

    def _malformed(self, kind: str, error: ApplicationProtocolError) -> ApplicationProtocolError:
        return self._error(f"sent a malformed {kind}: {error.args[0]}", error.clause)

    def _error(self, mistake: str, clause: str) -> ApplicationProtocolError:
        return ApplicationProtocolError(f"{self._app_name} {mistake}", clause)


_Translate: TypeAlias = Callable[[WebSocketMessages, Message], "bytes | list[Message]"]

_ALLOWED: Final[Mapping[str, Mapping[str, _Translate]]] = {
    "connecting": {
        "websocket.accept": WebSocketMessages._accept,
        "websocket.close": WebSocketMessages._refuse,
        "websocket.http.response.start": WebSocketMessages._start_denial,
    },
    "open": {"websocket.close": WebSocketMessages._close},
    "denying": {"websocket.http.response.body": WebSocketMessages._continue_denial},
    "closed": {},
}


def received(data: str | bytes) -> Message:
    """Give the message that hands a message of the client to the application.

    Source:
        ASGI WebSocket 2.5 "Receive".
    """
    return {"type": "websocket.receive", "text" if isinstance(data, str) else "bytes": data}
