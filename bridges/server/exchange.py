"""One request and its response: what is the same for either kind of application."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from ..errors import ClientDisconnected, PeerProtocolError
from ..translate.environ import WSGI_SCHEMES
from ..typing import RawHeaders
from .head import RequestHead
from .response import Framing, Transfer, early_hints, simple_response

if TYPE_CHECKING:
    from .http1 import Connection

_log = logging.getLogger("bridges.server")

# Pieces that are larger are written as they are, with their framing around them, and not copied into one.
_COPY_BYTES: Final = 32_768


class Exchange(ABC):
    """A request under way. Everything runs on the loop.

    Attributes:
        connection: that it came by.
        head: of the request.
        framing: of the response.
        status: of the response, 0 before its head was written.
        sent: bytes of its body so far.
        complete: True once the response was written as a whole.
        began: when, by ``time.monotonic``.
        client: address of the client, whom a trusted proxy may name.
        gone: why nobody takes the response any more, or None while somebody does.
    """

    status = 0
    sent = 0
    complete = False
    gone: str | None = None
    _looked = False
    _waiting: list[asyncio.Future[None]] | tuple[()] = ()

    def __init__(self, connection: Connection, head: RequestHead) -> None:
        self.connection = connection
        self.head = head
        self.framing = Framing(head.method == "HEAD", head.version == "1.1", head.keep_alive)
        self.client = connection.client
        self.began = time.monotonic()

    # For the connection.

    @abstractmethod
    def begin(self) -> None:
        """Start."""

    @abstractmethod
    def body_came(self, chunk: bytes, more: bool) -> bool:
        """Take a piece of the request body; tells whether there is room for more at once."""

    @abstractmethod
    def client_left(self, error: ClientDisconnected) -> None:
        """Learn that nobody takes the response any more, or that the rest of the request body will not come."""

    def refuse(self, refusal: PeerProtocolError) -> None:
        """Learn that the rest of the request body is not to be had, and tell the client why, if that still goes."""
        answered = bool(self.status)
        if not answered:
            self.answer(refusal.status_hint, str(refusal), keep_alive=False)
        self.client_left(ClientDisconnected(str(refusal)))
        if answered:
            self.connection.cut(str(refusal))

    def resume_writing(self) -> None:
        """Learn that the transport takes bytes again."""
        self.wake()

    def half_closed(self) -> None:
        """Learn that the client will send no more; it may be gone, and it may wait for its response."""
        self._give_up_if_silent(self.sent)

    def _give_up_if_silent(self, sent: int) -> None:
        """Look again and again whether the client is there: if it is gone, what is written to it comes back.

        Where nothing is written nobody can tell, and a response that has begun is not waited for without an end.
        """
        if self.complete or self.gone is not None:
            return
        connection = self.connection
        waits_for_client = connection.write_paused or connection.writing_deadline < math.inf
        silent = self.sent == sent and self._looked and not waits_for_client
        if self.status and silent:
            connection.cut("the client left")
        else:
            self._looked = True
            service = connection.service
            seconds = service.config.write_seconds
            service.loop.call_later(seconds, self._give_up_if_silent, self.sent)

    def stop(self) -> None:  # noqa: B027
        """Learn that the server is to stop."""

    def end_stream(self) -> None:
        """Cut off a response that has begun and whose end nobody knows; the server has stopped for half of its time."""
        endless = self.framing.transfer in (Transfer.CHUNKED, Transfer.UNTIL_CLOSE)
        if self.status and endless and not self.complete:
            self.connection.cut("the server is stopping")

    # Waiting, for any number of tasks.

    async def change(self) -> None:
        """Wait for the next ``wake``."""
        future = self.connection.service.loop.create_future()
        self._waiting = [*self._waiting, future]
        try:
            await future
        finally:
            self._waiting = [each for each in self._waiting if each is not future]

    def wake(self) -> None:
        """Have those who wait look again."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def check_client(self) -> None:
        """Raise ``ClientDisconnected`` if nobody takes the response."""
        if self.gone is not None:
            raise ClientDisconnected(self.gone)

    async def caught_up(self) -> None:
        """Wait while the client is slower than what is written, and there."""
        if not self.complete and self.connection.transport.is_closing():
            # Its loss is about to be told, which who sends without a pause would never let happen.
            await asyncio.sleep(0)
        while self.connection.write_paused and self.gone is None:
            await self.change()

    async def drained(self) -> None:
        """Wait while the client is slower than the response.

        Raises:
            ClientDisconnected: it has left.
        """
        await self.caught_up()
        self.check_client()

    async def flushed(self) -> None:
        """Wait until the transport has written everything.

        Raises:
            ClientDisconnected: the client has left.
        """
        transport = self.connection.transport
        transport.set_write_buffer_limits(high=0)
        try:
            await self.drained()
        finally:
            transport.set_write_buffer_limits()

    # For the application's side.

    def start_response(
        self, status: int, headers: RawHeaders, body: bytes, last: bool, trailers: bool = False
    ) -> None:
        """Write the head, and what there is of the body, in one go."""
        connection = self.connection
        framing = self.framing
        self.status = status
        if framing.keep_alive and not connection.may_keep_alive():
            framing.keep_alive = False
        data = framing.head(status, headers, connection.service.date)
        if body or last:
            if framing.transfer is not Transfer.NONE:
                self.sent = len(body)
            if len(body) > _COPY_BYTES and framing.transfer is not Transfer.NONE:
                connection.transport.write(data)
                self._write_large(body, last and not trailers)
            else:
                data += framing.frame(body, last and not trailers)
                connection.transport.write(data)
        else:
            connection.transport.write(data)
        if last and not trailers:
            self.finish()

    def go_on(self, body: bytes, last: bool, trailers: bool = False) -> None:
        """Write a piece of the body."""
        framing = self.framing
        if framing.transfer is not Transfer.NONE:
            self.sent += len(body)
        last_frame = last and not trailers
        if len(body) > _COPY_BYTES:
            self._write_large(body, last_frame)
        else:
            data = framing.frame(body, last_frame)
            if data:
                self.connection.transport.write(data)
        if last_frame:
            self.finish()

    def _write_large(self, body: bytes, last: bool) -> None:
        framing, transport = self.framing, self.connection.transport
        if framing.transfer is Transfer.CHUNKED:
            end = b"\r\n0\r\n\r\n" if last else b"\r\n"
            # Not writelines(), which on some Pythons forgets to say when the client is slower (CVE-2024-12254).
            transport.write(b"%x\r\n" % len(body))
            transport.write(body)
            transport.write(end)
        elif framing.transfer is not Transfer.NONE:
            transport.write(body)

    def write_trailers(self, fields: list[tuple[str, str]]) -> None:
        """Write the end of the body, and what follows it."""
        data = self.framing.trailers(fields)
        if data:
            self.connection.transport.write(data)
        self.finish()

    def write_early_hints(self, fields: list[tuple[str, str]]) -> None:
        """Write a 103 response, to a client that knows of such (RFC 9110 section 15.2)."""
        if self.head.version == "1.1":
            self.connection.transport.write(early_hints(fields))

    def finish(self) -> None:
        """Count the response as complete."""
        self.complete = True
        self.connection.response_complete(self)
        if self._waiting:
            self.wake()

    def answer(
        self,
        status: int,
        sentence: str,
        *,
        keep_alive: bool = True,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Answer in the application's stead."""
        self.status = status
        data, self.framing.keep_alive = simple_response(
            status,
            sentence,
            head_request=self.head.method == "HEAD",
            http11=self.head.version == "1.1",
            keep_alive=keep_alive and self.framing.keep_alive and self.connection.may_keep_alive(),
            date=self.connection.service.date,
            more_headers=headers,
        )
        if self.head.method != "HEAD":
            self.sent = len(sentence) + 1
        self.connection.transport.write(data)
        self.finish()

    def fail(self, error: BaseException) -> None:
        """Log what the application raised; answer with 500, or cut off a response that has begun."""
        head, connection = self.head, self.connection
        _log.error(
            "%s failed at %s %s",
            connection.service.app_name,
            head.method,
            head.target.decode("latin-1"),
            exc_info=error,
        )
        if not self.status:
            self.answer(500, "Internal Server Error")
        elif not self.complete:
            connection.cut("its application failed")

    def scope(self, kind: str) -> dict[str, Any]:
        """Make the connection scope (ASGI HTTP 2.5 "HTTP Connection Scope")."""
        head, connection = self.head, self.connection
        service = connection.service
        root_path = service.config.root_path
        client, scheme = connection.client, connection.scheme
        headers = head.headers
        if head.forwarded and connection.is_trusted:
            forwarded = connection.forwarded(headers)
            if forwarded is not None:
                self.client = client = forwarded.client
                scheme = WSGI_SCHEMES.get(forwarded.scheme or scheme, scheme)
                root_path = (forwarded.prefix or "") + root_path
                if forwarded.host:
                    headers = [(b"host", forwarded.host), *(f for f in headers if f[0] != b"host")]
        path, raw_path = head.path, head.raw_path
        if root_path:
            path = root_path + path
            raw_path = quote(root_path).encode("ascii") + raw_path
        return {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": head.version,
            "method": head.method,
            "scheme": scheme,
            "path": path,
            "raw_path": raw_path,
            "query_string": head.query,
            "root_path": root_path,
            "headers": headers,
            "client": client,
            "server": connection.server,
            "extensions": connection.extensions(head.version),
        }
