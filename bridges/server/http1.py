"""One HTTP/1.1 connection: requests one after another, each with its exchange, and deadlines for what clients do.

Source: RFC 9112.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from ..errors import ClientDisconnected, PeerProtocolError
from ..translate.forwarded import Forwarded, forwarded
from ..typing import Environ, RawHeaders
from .bodies import ChunkedBody, SizedBody
from .environ import connection_environ
from .exchange import Exchange
from .head import FieldMemory, RequestHead
from .response import Transfer, simple_response
from .service import Service

if TYPE_CHECKING:
    from .websocket import WebSocketExchange

_log = logging.getLogger("bridges.server")

_BLANK: Final = b"\r\n\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# Bytes of following requests that are read while one is under way.
_READ_AHEAD_BYTES: Final = 65_536
# What is left of a request body when its response is complete is read and dropped up to this; else the connection ends.
_DRAIN_BYTES: Final = 65_536
# What a client sends after it was told that nobody reads it: a reset would take its response from it.
_LINGER_BYTES: Final = 1_048_576
_LINGER_SECONDS: Final = 2.0
# Less than this in its time counts as nothing.
_PROGRESS_BYTES: Final = 1024
# A client that has closed its side may wait for its response, or may be gone: an application that asks is told so
# when a response that is on its way would have been there.
_HALF_CLOSE_SECONDS: Final = 1.0
_PIPELINED_AT_ONCE: Final = 16

_EXTENSIONS_1_0: Final[dict[str, Any]] = {
    "http.response.pathsend": {},
    "http.response.zerocopysend": {},
}
_EXTENSIONS: Final = _EXTENSIONS_1_0 | {
    "http.response.early_hint": {},
    "http.response.trailers": {},
}


class Connection(asyncio.Protocol):
    """A connection, from its first byte to its last. Everything runs on the loop.

    Attributes:
        service: that it is to.
        transport: that it is by.
        client: address of the other end; None on a unix socket.
        server: address of this end; the path and None on a unix socket.
        scheme: ``http`` or ``https``.
        tls: the extension of that name, on a connection with TLS.
        is_trusted: whether forwarded headers are believed.
        reads_paused: True while what the client sends is left to wait.
        write_paused: True while the client is slower than the response.
        reading_deadline: when the client must have sent something; then ``expire`` is called.
        writing_deadline: when it must have taken something.
    """

    transport: asyncio.Transport
    client: tuple[str, int] | None = None
    server: tuple[str, int | None] | None = None
    scheme = "http"
    is_trusted = False
    write_paused = False
    reading_deadline = math.inf
    writing_deadline = math.inf
    _unwritten = 0
    _buffer = b""
    _position = 0
    _searched = 0
    _empty_bytes = 0
    _exchange: Exchange | None = None
    _body: SizedBody | ChunkedBody | None = None
    _body_bytes = 0
    _body_progress = 0
    _continue_owed = False
    _advancing = False
    _awaits_head = True
    reads_paused = False
    _closing = False
    _lingered: int | None = None
    _is_unread = False
    _half_closed = False
    _lost = False
    _one_too_many = False
    _upgraded: WebSocketExchange | None = None
    tls: dict[str, Any] | None = None
    _environ: Environ | None = None

    def __init__(self, service: Service) -> None:
        self.service = service
        self._fields = FieldMemory()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's are none by inheritance
        service = self.service
        if service.closed:  # a handshake that was under way when the server stopped
            self._turn_away()
            return
        peer = transport.get_extra_info("peername")
        own = transport.get_extra_info("sockname")
        if isinstance(peer, tuple):
            self.client = (peer[0], peer[1])
        elif not isinstance(own, str | bytes):
            # Over TCP, and reset already. Without its address it must not pass for a peer on a unix socket.
            self._turn_away()
            return
        if isinstance(own, tuple):
            self.server = (own[0], own[1])
        elif own:
            self.server = (own if isinstance(own, str) else own.decode(), None)
        self._one_too_many = service.add(self)
        self.is_trusted = service.trusted.trusts(self.client[0] if self.client else None)
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self.scheme = "https"
            self.tls = service.tls(ssl_object) if service.tls is not None else None
        seconds = _LINGER_SECONDS if service.stopping else service.config.head_seconds
        self.reading_deadline = service.in_seconds(seconds)

    def _turn_away(self) -> None:
        self._lost = self._closing = True
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._lost:
            return
        if self._body is not None or self._lingered is not None or self._upgraded is not None:
            data = self._take_rest(data)
            if not data:
                return
        if self._buffer:
            data = self._buffer[self._position :] + data
            self._searched -= self._position
            self._position = 0
        self._buffer = data
        if self._exchange is None:
            self._advance()
        if len(self._buffer) - self._position >= _READ_AHEAD_BYTES and not self._awaits_head:
            self.pause_reading()

    def _take_rest(self, data: bytes) -> bytes:
        """Take more of a request that has begun; gives what came behind its end."""
        if self._lingered is None:
            if self._upgraded is None:
                return self._feed_body(data)
            self._upgraded.data_came(data)
            return b""
        self._lingered += len(data)
        if self._lingered > _LINGER_BYTES:
            self.transport.pause_reading()  # who cannot send any more looks at what came back
        return b""

    def eof_received(self) -> bool:
        """Take the end of what the client sends; tells whether the transport stays open for the rest of the answer."""
        self._half_closed = True
        exchange = self._exchange
        if self._closing or self._upgraded is not None or self.scheme == "https":
            return False
        if exchange is None:
            return self._body is None and _BLANK in self._buffer[self._position :]
        if self._body is not None:
            exchange.client_left(
                ClientDisconnected("the client left before its request body was complete")
            )
            return False
        self.service.loop.call_later(_HALF_CLOSE_SECONDS, exchange.half_closed)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """Take the end of the connection."""
        self._lost = self._closing = True
        self.reading_deadline = self.writing_deadline = math.inf
        self.service.discard(self)
        self._abandon("the client left")
        self._upgraded = None

    def _abandon(self, reason: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            if self.service.log_access is not None:
                self.service.log_access(exchange)
            exchange.client_left(ClientDisconnected(reason))

    def pause_writing(self) -> None:
        """Learn that the client is slower than the response."""
        self.write_paused = True
        self.watch_writing()

    def resume_writing(self) -> None:
        """Learn that it has caught up."""
        self.write_paused = False
        # asyncio calls this in the middle of its own work, which takes it badly if the connection is closed here.
        self.service.loop.call_soon(self._write_on)

    def _write_on(self) -> None:
        if self.write_paused or self._lost:
            return
        if self._closing:
            self._watch_the_end()
            return
        self.unwatch_writing()
        if self._exchange is not None:
            self._exchange.resume_writing()
        elif self._buffer:
            self._advance()

    # Requests.

    def _advance(self) -> None:
        """Begin the requests that are there, each once the one before has its response."""
        if self._advancing:
            return
        self._advancing = True
        try:
            for _ in range(_PIPELINED_AT_ONCE):
                if not self._buffer or self._exchange or self._body or self._closing:
                    return
                if self.write_paused or not self._begin_next():
                    return
        finally:
            self._advancing = False
        self.service.loop.call_soon(self._advance)

    def _begin_next(self) -> bool:
        """Begin the next request, if all of its head is there; tells whether it was."""
        service, buffer, begin = self.service, self._buffer, self._position
        if buffer.startswith(b"\r\n", begin):
            begin = self._skip_empty_lines(begin)
            if self._empty_bytes > service.config.max_head_bytes:
                self._refuse(self._too_large(b""))
                return False
        end = buffer.find(_BLANK, max(begin, self._searched - 3))
        if end < 0:
            self._searched = len(buffer)
            self._await_head(buffer[begin:])
            return False
        end += 4
        if end == len(buffer):
            data = buffer[begin:] if begin else buffer
            self._forget()
        else:
            data = buffer[begin:end]
            self._searched = self._position = end
        try:
            if len(data) > service.config.max_head_bytes:
                raise self._too_large(data)
            head = service.heads.parse(data, self._fields)
            if head.length:
                self._check_body_size(head.length)
        except PeerProtocolError as refusal:
            self._refuse(refusal, is_head=data.startswith(b"HEAD "))
        else:
            self._begin(head)
        return True

    def _skip_empty_lines(self, begin: int) -> int:
        """Pass over what some clients send behind a body (RFC 9112 section 2.2)."""
        while self._buffer.startswith(b"\r\n", begin):
            begin += 2
        self._empty_bytes += begin - self._position
        self._position = begin
        return begin

    def _await_head(self, begun: bytes) -> None:
        if not begun:
            self._forget()
            if not self._awaits_head:
                self._idle()
            return
        if self._half_closed:
            self.close()
            return
        service = self.service
        if not self._awaits_head:
            self._awaits_head = True
            self.reading_deadline = service.in_seconds(service.config.head_seconds)
        if len(begun) > service.config.max_head_bytes:
            self._refuse(self._too_large(begun))
        elif begun.count(b"\n") != begun.count(b"\r\n"):
            self._refuse(PeerProtocolError("a line ends without CR", "RFC 9112 section 2.2"))
        else:
            self.read_on()

    def _forget(self) -> None:
        self._buffer = b""
        self._position = self._searched = 0

    def _idle(self) -> None:
        """Wait for another request."""
        if self._half_closed or self.service.stopping:
            self.close()
        else:
            self._awaits_head = False
            self.reading_deadline = self.service.idle_deadline
            self.read_on()

    def _too_large(self, begun: bytes) -> PeerProtocolError:
        line = begun.partition(b"\r\n")[0]
        if len(line) > self.service.config.max_target_bytes:
            return PeerProtocolError(
                "the request target is too long", "RFC 9110 section 15.5.15", status_hint=414
            )
        return PeerProtocolError(
            f"the request head is larger than {self.service.config.max_head_bytes} bytes",
            "RFC 6585 section 5",
            status_hint=431,
        )

    def _check_body_size(self, size: int) -> None:
        limit = self.service.config.max_body_bytes
        if limit is not None and size > limit:
            raise PeerProtocolError(
                f"the request body is larger than {limit} bytes",
                "RFC 9110 section 15.5.14",
                status_hint=413,
            )

    def _begin(self, head: RequestHead) -> None:
        service = self.service
        service.requests += 1
        self._empty_bytes = 0
        self._awaits_head = False
        self.reading_deadline = math.inf
        if self._one_too_many:
            self._refuse(
                PeerProtocolError("too many connections: try again shortly", status_hint=503),
                is_head=head.method == "HEAD",
            )
            return
        make = service.make_exchange
        if head.upgrade and service.make_websocket is not None and service.may_have_websocket(head):
            make = service.make_websocket
        exchange = self._exchange = make(self, head)
        if head.length != 0:
            self._begin_body(head)
            if self._exchange is not exchange:
                return  # refused by what came of the body
        exchange.begin()

    def _begin_body(self, head: RequestHead) -> None:
        self._body_bytes = self._body_progress = 0
        self._continue_owed = head.expects_continue
        if head.length is None:
            self._body = ChunkedBody(self.service.config.max_head_bytes)
        else:
            self._body = SizedBody(head.length)
        came = self._buffer[self._position :]
        self._forget()
        self.read_on()
        if came:
            self._buffer = self._feed_body(came)
        elif not self._continue_owed:
            self._expect_body()
        if self._half_closed and self._body is not None:
            self._exchange = None  # which has not begun, and whose body will not come
            self.close()

    def _expect_body(self) -> None:
        self.reading_deadline = self.service.in_seconds(self.service.config.body_seconds)

    def want_body(self) -> None:
        """Learn that the application waits for the request body."""
        if not self._continue_owed:
            return
        self._continue_owed = False
        exchange = self._exchange
        # Once the response has begun, an interim one would pass for a part of it.
        if exchange is not None and not exchange.status and self._body is not None:
            self.transport.write(_CONTINUE)
        self._expect_body()

    def _feed_body(self, data: bytes) -> bytes:
        """Read the body; gives what came behind its end."""
        body = self._body
        assert body is not None
        self._continue_owed = False
        try:
            pieces, rest = body.feed(data)
            size = sum(map(len, pieces))
            self._body_bytes += size
            self._check_body_size(self._body_bytes)
        except PeerProtocolError as refusal:
            self._body = None
            self._refuse_rest(refusal)
            return b""
        if body.complete:
            self._body = None
            self.reading_deadline = math.inf
        self._count_progress(len(data), body.complete)
        exchange = self._exchange
        if exchange is not None:
            if pieces or body.complete:
                chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                if not exchange.body_came(chunk, not body.complete):
                    self._pause_for_room()
        elif body.complete:
            self._body_drained(rest)
            return b""
        return rest

    def _count_progress(self, size: int, complete: bool) -> None:
        self._body_progress += size
        if not complete and self._body_progress >= _PROGRESS_BYTES:
            self._body_progress = 0
            self._expect_body()
        elif not complete and self.reading_deadline == math.inf:
            self._expect_body()

    def _pause_for_room(self) -> None:
        if self._body is not None:
            self.pause_reading()
            self.reading_deadline = math.inf

    def room_for_body(self) -> None:
        """Learn that the application takes more of the request body."""
        if self.reads_paused and self._body is not None:
            self._body_progress = 0
            self._expect_body()
            self.read_on()

    def _body_drained(self, rest: bytes) -> None:
        self._buffer, self._position, self._searched = rest, 0, 0
        if rest:
            self._advance()
        else:
            self._idle()

    def _refuse_rest(self, refusal: PeerProtocolError) -> None:
        self._is_unread = True
        exchange = self._exchange
        if exchange is None:
            self.close()  # it was answered long ago
        else:
            exchange.framing.keep_alive = False
            exchange.refuse(refusal)

    def may_keep_alive(self) -> bool:
        """Whether the connection can go on after the request under way."""
        if self.service.stopping or self._one_too_many:
            return False
        body = self._body
        if body is None:
            return True
        return (
            body.remaining is not None
            and body.remaining <= _DRAIN_BYTES
            and not self._continue_owed
        )

    def response_complete(self, exchange: Exchange) -> None:
        """Learn that a response was written as a whole; the next request may begin."""
        service = self.service
        if service.log_access is not None:
            service.log_access(exchange)
        if self._exchange is not exchange:
            return
        self._exchange = None
        if not exchange.framing.keep_alive or service.stopping:
            self.close()
        elif self._body is not None:
            self._expect_body()
            self.read_on()
        elif self._buffer:
            self._advance()
        else:
            self._idle()

    # Websockets.

    def upgrade(self, exchange: WebSocketExchange) -> bytes:
        """Give what comes from now on to a websocket; returns what came already."""
        self._upgraded = exchange
        came = self._buffer[self._position :]
        self._forget()
        self.read_on()
        if (
            self._half_closed
        ):  # what came counts, but nobody will answer anything, nor a second end tell so
            self.service.loop.call_soon(self.close)
        return came

    # Deadlines.

    def unwatch_writing(self) -> None:
        """Let the client take its time again."""
        self.writing_deadline = math.inf

    def watch_writing(self) -> None:
        """Cut the connection off unless the client takes something in time."""
        self._unwritten = self.transport.get_write_buffer_size()
        self.writing_deadline = self.service.in_seconds(self.service.config.write_seconds)

    def expire(self, now: float) -> None:
        """Look at what is late."""
        if self.writing_deadline <= now:
            if self._closing and not self.transport.get_write_buffer_size():
                self._watch_the_end()
            elif self._unwritten - self.transport.get_write_buffer_size() < _PROGRESS_BYTES:
                self.cut("the client does not read")
            else:
                self.watch_writing()
        elif self._closing:
            self.transport.abort()
        elif self._upgraded is not None:
            self._upgraded.expire()
        elif self._body is not None:
            self._refuse_rest(_too_slow("body"))
        elif self._awaits_head and self._buffer:
            self._refuse(_too_slow("head"))
        else:
            self.close()

    # The end.

    def _refuse(self, refusal: PeerProtocolError, is_head: bool = False) -> None:
        """Answer in place of the application, and end the connection: where the next request begins is not known."""
        _log.info("refused a request of %s: %s", self.client, refusal)
        data, _ = simple_response(
            refusal.status_hint,
            str(refusal),
            head_request=is_head,
            http11=True,
            keep_alive=False,
            date=self.service.date,
        )
        self.transport.write(data)
        self.close(linger=True)

    def close(self, linger: bool = False) -> None:
        """End the connection once everything is written."""
        if self._closing:
            return
        self._closing = True
        transport = self.transport
        self.read_on()
        unread = linger or self._is_unread or self._body is not None or bool(self._buffer)
        self._forget()
        self._body = None
        self.reading_deadline = math.inf
        if transport.is_closing():
            return  # by itself: its loss is about to be told
        if unread and not self._half_closed and transport.can_write_eof():
            self._lingered = 0
            try:
                transport.write_eof()
            except OSError:  # reset by the client, which the loop has yet to see
                transport.abort()
        else:
            transport.close()
        self._watch_the_end()

    def _watch_the_end(self) -> None:
        """Give the client its time for what is unwritten, and then for closing its side."""
        if self.transport.get_write_buffer_size():
            self.watch_writing()
        else:
            self.unwatch_writing()
            if self._lingered is not None:
                self.reading_deadline = self.service.in_seconds(_LINGER_SECONDS)

    def cut(self, reason: str) -> None:
        """End the connection at once; the client cannot take it for the end of the response.

        Args:
            reason: for the application.
        """
        if self._lost:
            return
        self._closing = True
        exchange = self._exchange
        if exchange is not None and exchange.framing.transfer is Transfer.UNTIL_CLOSE:
            self._reset_at_close()
        self.transport.abort()
        self._abandon(reason)

    def _reset_at_close(self) -> None:
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def stop(self) -> None:
        """Begin no more requests; the server stops."""
        if self._exchange is not None:
            self._exchange.stop()
        elif self._body is None and not self._awaits_head:
            self.close()
        elif self._body is not None or not self._buffer:
            # The rest of a request that was answered is on its way, or one of which nothing has come.
            self.reading_deadline = min(
                self.reading_deadline, self.service.in_seconds(_LINGER_SECONDS)
            )

    def end_stream(self) -> None:
        """End a response that may have no end by itself."""
        if self._exchange is not None:
            self._exchange.end_stream()

    # What exchanges ask.

    def forwarded(self, headers: RawHeaders) -> Forwarded | None:
        """Read what a proxy says of the request."""
        return forwarded(headers, self.client, self.service.trusted)

    def environ(self) -> Environ:
        """Give what is the same in the environ of all requests of this connection; not to be changed."""
        if self._environ is None:
            service = self.service
            self._environ = connection_environ(self, service.base_environ, service.config.root_path)
        return self._environ

    def extensions(self, version: str) -> dict[str, Any]:
        """Give the extensions of ASGI that this connection serves."""
        extensions = (_EXTENSIONS if version == "1.1" else _EXTENSIONS_1_0).copy()
        if self.tls is not None:
            extensions["tls"] = self.tls
        return extensions

    def pause_reading(self) -> None:
        """Let the client wait."""
        if not self.reads_paused and not self._closing:
            self.reads_paused = True
            self.transport.pause_reading()

    def read_on(self) -> None:
        """Read on, if that was paused."""
        if self.reads_paused and not self._lost:
            self.reads_paused = False
            self.transport.resume_reading()


def _too_slow(part: str) -> PeerProtocolError:
    return PeerProtocolError(
        f"the request {part} comes too slowly", "RFC 9110 section 15.5.9", status_hint=408
    )
