"""An ASGI server with one websocket and its client in one object, and WSGI applications that use the socket they get.

``FakeWebSocket`` is strict where real servers forgive: a message out of order, two ``receive()`` at once, one that
still waits while the websocket is closed, are each a ``Misuse``. The test decides what the client does and when.

``AppSocket`` is a server's side of RFC 6455 on the application's socket, in few lines and without the code under test.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import pytest
from driver import EVENT_SECONDS, Misuse
from websocket_tools import BINARY, CLOSE, PING, PONG, TEXT, frame
from wsproto.utilities import generate_accept_token

from bridges import WSGIToASGI
from bridges.typing import ASGIApplication, Environ, Message, StartResponse

SendHook = Callable[[Message], Awaitable[None]]
DENIAL = {"websocket.http.response": {}}


def websocket_scope(path: str = "/", **extra: Any) -> dict[str, Any]:
    """Make a scope as a server does that keeps the fields of the handshake."""
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"testserver"),
            (b"upgrade", b"websocket"),
            (b"sec-websocket-key", b"AAAAAAAAAAAAAAAAAAAAAA=="),
            (b"sec-websocket-extensions", b"permessage-deflate"),
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "subprotocols": [],
        "extensions": DENIAL,
        **extra,
    }


def records_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Give what bridges has logged; asyncio says of a slow callback that the machine is busy."""
    return [record for record in caplog.records if record.name.startswith("bridges")]


class FakeWebSocket:
    """One websocket, seen from the server.

    Attributes:
        sent: the messages that the application sent, in order.
        receives: how often ``receive`` was called.
        waits: whether a ``receive`` waits now.
    """

    def __init__(self, *, on_send: SendHook | None = None, **scope: Any) -> None:
        """Begin it: ``websocket.connect`` is there.

        Args:
            on_send: awaited with each message before it counts as sent.
            **scope: further keys of the scope.
        """
        self.scope = websocket_scope(**scope)
        self.sent: list[Message] = []
        self.receives = 0
        self.waits = False
        self._on_send = on_send
        self._coming: deque[Message] = deque([{"type": "websocket.connect"}])
        self._news = anyio.Event()
        self._state = "connecting"
        self._misuses: list[Misuse] = []

    # What the client does.

    def says(self, *messages: str | bytes) -> None:
        """Let messages arrive; on the loop."""
        for message in messages:
            text = isinstance(message, str)
            self._come(
                {
                    "type": "websocket.receive",
                    "text": message if text else None,
                    "bytes": None if text else message,
                }
            )

    def leaves(self, code: int = 1006, reason: str = "") -> None:
        """Let the client close the websocket, or vanish; on the loop."""
        self._come({"type": "websocket.disconnect", "code": code, "reason": reason})

    def _come(self, message: Message) -> None:
        self._coming.append(message)
        self._changed()

    def _changed(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    # What the application sees.

    async def serve(self, app: ASGIApplication) -> FakeWebSocket:
        """Run the application to its end and hold it to the specification."""
        try:
            await app(self.scope, self._receive, self._send)
        finally:
            if self._misuses:
                raise self._misuses[0]
        return self

    async def _receive(self) -> Message:
        if self.waits:
            self._misuse("receive() while another one waits")
        self.receives += 1
        self.waits = True
        try:
            while not self._coming:
                await self._news.wait()
            await anyio.lowlevel.checkpoint()
            return self._coming.popleft()
        finally:
            self.waits = False

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        allowed = {
            "connecting": ("websocket.accept", "websocket.close", "websocket.http.response.start"),
            "open": ("websocket.send", "websocket.close"),
            "denying": ("websocket.http.response.body",),
            "closed": (),
        }[self._state]
        if kind not in allowed:
            self._misuse(f"{kind} while {self._state}")
        if kind == "websocket.close" and self.waits:
            self._misuse("a receive() waits while the websocket is closed")
        if kind.startswith("websocket.http") and not self.scope["extensions"]:
            self._misuse(f"{kind} was not offered")
        if kind == "websocket.accept":
            self._state = "open"
        elif kind == "websocket.http.response.start":
            self._state = "denying"
        elif kind == "websocket.close" or not message.get("more_body", True):
            self._state = "closed"
        await (self._on_send(message) if self._on_send else anyio.lowlevel.checkpoint())
        self.sent.append(message)
        self._changed()

    def _misuse(self, sentence: str) -> NoReturn:
        self._misuses.append(Misuse(sentence))
        raise self._misuses[-1]

    # What the client sees.

    async def until(self, reached: Callable[[FakeWebSocket], object]) -> None:
        """Wait until something is true that a message of the application makes so."""
        with anyio.fail_after(EVENT_SECONDS):
            while not reached(self):
                await self._news.wait()

    async def sees(self, count: int) -> list[str | bytes]:
        """Wait for so many messages; gives them all."""
        await self.until(lambda self: len(self.messages) >= count)
        return self.messages

    @property
    def messages(self) -> list[str | bytes]:
        """The messages of the application."""
        return [
            message["text"] if "text" in message else message["bytes"]
            for message in self.sent
            if message["type"] == "websocket.send"
        ]

    @property
    def close(self) -> tuple[int, str] | None:
        """Code and reason of the application's close."""
        for message in self.sent:
            if message["type"] == "websocket.close":
                return message["code"], message["reason"]
        return None

    @property
    def accept(self) -> Message | None:
        """The message that accepted it."""
        return next((each for each in self.sent if each["type"] == "websocket.accept"), None)


class AppSocket:
    """The socket of an application: opened by its constructor; messages are read and written in the calling thread."""

    def __init__(self, environ: Environ, subprotocol: str = "", *, fields: str = "") -> None:
        self.sock: socket.socket = environ["werkzeug.socket"]
        accept = generate_accept_token(environ["HTTP_SEC_WEBSOCKET_KEY"].encode()).decode()
        if subprotocol:
            fields += f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
        head = (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n{fields}\r\n"
        )
        self.sock.sendall(head.encode())

    def send(self, message: str | bytes) -> None:
        """Send a message."""
        text = isinstance(message, str)
        data = message.encode() if isinstance(message, str) else message
        self.frame(TEXT if text else BINARY, data)

    def frame(self, opcode: int, data: bytes = b"") -> None:
        """Send a frame."""
        self.sock.sendall(frame(opcode, data, key=None))

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame."""
        self.frame(CLOSE, code.to_bytes(2, "big") + reason.encode())

    def receive(self) -> tuple[int, bytes] | None:
        """Receive a frame: its opcode and payload; None at the end."""
        head = self._exactly(2)
        if not head:
            return None
        assert head[0] & 0x80, "a fragment"
        assert head[1] & 0x80, "a client's frames are masked"
        size = head[1] & 0x7F
        if size >= 126:
            size = int.from_bytes(self._exactly(2 if size == 126 else 8), "big")
        key = self._exactly(4)
        data = self._exactly(size)
        if any(key):
            data = bytes(byte ^ key[i % 4] for i, byte in enumerate(data))
        return head[0] & 0x0F, data

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                assert not data, "the end within a frame"
                return b""
            data += piece
        return data

    def all(self) -> list[tuple[int, bytes]]:
        """Receive until the end."""
        return list(iter(self.receive, None))


@contextmanager
def adapter_of(app: Any, **options: Any) -> Iterator[WSGIToASGI]:
    """Give an adapter; behind the test all its threads are free, and end."""
    adapter = WSGIToASGI(app, websocket=True, **options)
    yield adapter
    for pool in (adapter.websocket_pool, adapter.pool):
        if pool is not None:
            assert pool.shutdown(EVENT_SECONDS), "a thread is held"


@asynccontextmanager
async def running(ws: FakeWebSocket, app: ASGIApplication) -> Any:
    """Run the application beside the test, and wait for its end."""
    failures: list[BaseException] = []

    async def serve() -> None:
        try:
            await ws.serve(app)
        except Exception as error:
            failures.append(error)

    with anyio.fail_after(EVENT_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            yield failures


def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Send back what comes, and answer the close frame."""
    ws = AppSocket(environ)
    for opcode, data in iter(ws.receive, None):
        if opcode in (TEXT, BINARY):
            ws.frame(opcode, data)
        elif opcode == CLOSE:
            ws.frame(CLOSE, data)
            break
    return []


class Recording:
    """An application that notes how its call ended.

    Attributes:
        ended: set when the call is over.
        seen: what it put there.
    """

    def __init__(self, act: Callable[[AppSocket, Recording], Any], **opening: str) -> None:
        self._act = act
        self._opening = opening
        self.began = threading.Event()
        self.ended = threading.Event()
        self.seen: list[Any] = []
        self.environ: Environ = {}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.environ = environ
        self.began.set()
        try:
            return self._act(AppSocket(environ, **self._opening), self) or []
        finally:
            self.ended.set()


__all__ = [
    "BINARY",
    "CLOSE",
    "DENIAL",
    "PING",
    "PONG",
    "TEXT",
    "AppSocket",
    "FakeWebSocket",
    "Recording",
    "adapter_of",
    "echo",
    "records_of",
    "running",
    "websocket_scope",
]
