"""A client whose every byte the test decides: HTTP/1.1 by h11, HTTP/2 by h2, over one socket.

Both classes speak of one exchange: ``start`` sends the head, ``send`` a piece of the body,
``head`` and ``read`` give the answer as it comes, ``leave`` goes away without a word.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h11
import httpx

if TYPE_CHECKING:
    from .process import Server

# The longest silence that a client puts up with.
CLIENT_SECONDS = 15.0

READ_BYTES = 65536
Headers = list[tuple[bytes, bytes]]
Self = TypeVar("Self", bound="Exchange")


class Gone(Exception):
    """The server closed or reset where more was to come."""


class Exchange:
    """One connection, one request on it."""

    def __init__(self, server: Server, receive_buffer: int | None, seconds: float) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(seconds)
        try:
            self.socket.connect(("127.0.0.1", server.port))
            if server.context:
                name = "127.0.0.1"
                self.socket = server.context.wrap_socket(self.socket, server_hostname=name)
        except OSError:
            self.socket.close()
            raise
        self.authority = f"127.0.0.1:{server.port}".encode()
        self.scheme = server.scheme.encode()

    def __enter__(self: Self) -> Self:  # noqa: PYI019  # typing.Self came with 3.11
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def start(self, method: bytes, target: bytes, headers: Headers, end: bool = False) -> None:
        raise NotImplementedError

    def send(self, data: bytes, end: bool = False) -> None:
        raise NotImplementedError

    def head(self) -> tuple[int, dict[bytes, bytes]]:
        """Wait for the final head; give its status and its fields."""
        raise NotImplementedError

    def read(self) -> bytes:
        """Wait for a piece of the body; b"" at its proper end, Gone when it is cut."""
        raise NotImplementedError

    def read_until(self, mark: bytes) -> bytes:
        """Read pieces until ``mark`` has come."""
        seen = b""
        while mark not in seen:
            piece = self.read()
            if not piece:
                raise Gone(f"ended before {mark!r}: {seen[-200:]!r}")
            seen += piece
        return seen

    def leave(self, way: str) -> None:
        """Go away: by an orderly close ("fin") or a reset ("rst") of the connection."""
        if way == "rst":
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        # A TLS object says nothing on close(); the peer sees the transport end, as intended.
        self.socket.close()


class Exchange1(Exchange):
    """An exchange in HTTP/1.1."""

    def __init__(self, server: Server, receive_buffer: int | None, seconds: float) -> None:
        super().__init__(server, receive_buffer, seconds)
        self.protocol = h11.Connection(h11.CLIENT)
        self.informational: list[int] = []

    def start(self, method: bytes, target: bytes, headers: Headers, end: bool = False) -> None:
        fields = [(b"host", self.authority), *headers]
        request = h11.Request(method=method, target=target, headers=fields)
        self.socket.sendall(self.protocol.send(request) or b"")
        if end:
            self.send(b"", end=True)

    def send(self, data: bytes, end: bool = False) -> None:
        out = self.protocol.send(h11.Data(data=data)) or b"" if data else b""
        if end:
            out += self.protocol.send(h11.EndOfMessage()) or b""
        self.socket.sendall(out)

    def next_event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            try:
                event = self.protocol.next_event()
            except h11.RemoteProtocolError as error:
                raise Gone(str(error)) from error
            if event is not h11.NEED_DATA:
                return event
            try:
                self.protocol.receive_data(self.socket.recv(READ_BYTES))
            except ConnectionError as error:
                raise Gone(str(error)) from error

    def head(self) -> tuple[int, dict[bytes, bytes]]:
        while isinstance(event := self.next_event(), h11.InformationalResponse):
            self.informational.append(event.status_code)
        if not isinstance(event, h11.Response):
            raise Gone(f"no head but {event!r}")
        return event.status_code, dict(event.headers)

    def read(self) -> bytes:
        while True:
            event = self.next_event()
            if isinstance(event, h11.Data):
                if event.data:
                    return bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return b""
            else:
                raise Gone(f"cut: {event!r}")


class Exchange2(Exchange):
    """An exchange in HTTP/2, the only stream of its connection."""

    STREAM = 1

    def __init__(self, server: Server, receive_buffer: int | None, seconds: float) -> None:
        super().__init__(server, receive_buffer, seconds)
        self.protocol = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        self.protocol.initiate_connection()
        self.flush()
        self.events: list[h2.events.Event] = []
        self.fields: Headers = []

    def flush(self) -> None:
        self.socket.sendall(self.protocol.data_to_send())

    def next_event(self) -> h2.events.Event:
        while not self.events:
            try:
                data = self.socket.recv(READ_BYTES)
            except OSError as error:
                if isinstance(error, TimeoutError):
                    raise
                raise Gone(str(error)) from error
            if not data:
                raise Gone("connection closed")
            self.events = self.protocol.receive_data(data)
            self.flush()
        return self.events.pop(0)

    def start(self, method: bytes, target: bytes, headers: Headers, end: bool = False) -> None:
        pseudo = [(b":method", method), (b":path", target), (b":authority", self.authority)]
        fields = [*pseudo, (b":scheme", self.scheme), *headers]
        self.protocol.send_headers(self.STREAM, fields, end_stream=end)
        self.flush()

    def send(self, data: bytes, end: bool = False) -> None:
        early: list[h2.events.Event] = []
        left = memoryview(data)
        while left:
            window = self.protocol.local_flow_control_window(self.STREAM)
            size = min(window, self.protocol.max_outbound_frame_size, len(left))
            if size:
                # The end goes with the last bytes: hypercorn loses the connection over a frame that
                # comes when the application has answered already (see test_late_data.py).
                last = end and size == len(left)
                self.protocol.send_data(self.STREAM, bytes(left[:size]), end_stream=last)
                left = left[size:]
                self.flush()
            else:
                event = self.next_event()
                if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    raise Gone(repr(event))
                early.append(event)
        self.events = early + self.events

    def head(self) -> tuple[int, dict[bytes, bytes]]:
        while True:
            event = self.next_event()
            if isinstance(event, h2.events.ResponseReceived):
                self.fields = [(bytes(name), bytes(value)) for name, value in event.headers or ()]
                return int(dict(self.fields)[b":status"]), dict(self.fields)
            if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                raise Gone(repr(event))

    def read(self) -> bytes:
        while True:
            event = self.next_event()
            if isinstance(event, h2.events.DataReceived):
                self.protocol.acknowledge_received_data(
                    event.flow_controlled_length or 0, self.STREAM
                )
                self.flush()
                if event.data:
                    return bytes(event.data)
            elif isinstance(event, h2.events.StreamEnded):
                return b""
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                raise Gone(repr(event))

    def outlives_late_data(self) -> bool:
        """Send pieces of the request's body after its answer; say whether pings are answered still."""
        try:
            # More than one: the server may need a moment to forget the stream after its last frame.
            for number in range(20):
                self.protocol.send_data(self.STREAM, b"late")
                self.protocol.ping(b"ping%04d" % number)
                self.flush()
                while not isinstance(self.next_event(), h2.events.PingAckReceived):
                    continue
        except h2.exceptions.StreamClosedError:
            return True  # the server has said that it wants no more, as it should
        except (Gone, OSError):
            return False
        return True

    def leave(self, way: str) -> None:
        """Also "cancel": reset the stream, and keep the connection until the test ends."""
        if way != "cancel":
            super().leave(way)
            return
        self.protocol.reset_stream(self.STREAM, error_code=8)
        self.flush()


def exchange(
    server: Server, receive_buffer: int | None = None, seconds: float = CLIENT_SECONDS
) -> Exchange:
    """Open an exchange in the version of HTTP that the host is tested with."""
    kind = Exchange2 if server.host.http2 else Exchange1
    return kind(server, receive_buffer, seconds)


class Transport2(httpx.BaseTransport):
    """httpx over HTTP/2, a connection for each request, its end marked on its last frame."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        target = request.extensions.get("target") or request.url.raw_path
        dropped = (b"host", b"connection", b"transfer-encoding")
        fields = [(name.lower(), value) for name, value in request.headers.raw]
        body = b"".join(request.stream)  # type: ignore[arg-type]  # a sync client has sync streams
        try:
            raw = Exchange2(self.server, None, CLIENT_SECONDS)
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        try:
            kept = [field for field in fields if field[0] not in dropped]
            raw.start(request.method.encode(), target, kept, end=not body)
            raw.send(body, end=True)
            status, _ = raw.head()
        except (Gone, OSError) as error:
            raw.socket.close()
            raise httpx.RemoteProtocolError(str(error)) from error
        sent = [field for field in raw.fields if not field[0].startswith(b":")]
        return httpx.Response(status, headers=sent, stream=_Body(raw))


class _Body(httpx.SyncByteStream):
    def __init__(self, raw: Exchange) -> None:
        self.raw = raw

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.raw.read, b"")

    def close(self) -> None:
        self.raw.socket.close()
