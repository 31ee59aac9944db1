"""The host's side of one request: the thread that waits for the response reads the body and runs jobs meanwhile.

It is called by the WSGI server alone, in one thread (or greenlet): the call, each step of the iteration, ``close``.

Source: PEP 3333.
"""

from __future__ import annotations

import functools
import io
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ..crossing.gates import Gate
from ..errors import ClientDisconnected, CrossingError
from ..translate.response_events import EarlyHint, SendFile, SendPath
from ..typing import Environ, StartResponse
from .body import RequestBody
from .exchange import Exchange
from .items import Failure, Head, Item, Job, Note, RequestMail
from .watch import WATCH_SECONDS, watch_client

_log = logging.getLogger("bridges.adapters")

_FILE_BLOCK_BYTES: Final = 65_536

# How long a thread stays with a request whose response is complete, for thread-sensitive code that comes after it:
# Django closes database connections there.
_LINGER_SECONDS: Final = 1.0


class Pump:
    """The response as the host iterates over it."""

    _body: RequestBody | None = None
    _blocks: Iterator[bytes] | None = None
    _first: Item | bytes | None = None
    _given = 0
    _finished = False
    _closed = False

    def __init__(
        self,
        environ: Environ,
        start_response: StartResponse,
        length: int | None,
        exchange: Exchange,
        mail: RequestMail,
        gate: Gate,
    ) -> None:
        """Prepare it.

        Args:
            environ: of the request.
            start_response: of the host.
            length: of the request body, see ``RequestBody``.
            exchange: the other side.
            mail: what comes from there.
            gate: the way there.
        """
        self._environ = environ
        self._start_response = start_response
        self._length = length
        self._exchange = exchange
        self._mail = mail
        self._gate = gate
        self._watch = watch = watch_client(environ)
        self._patience = None if watch is None else WATCH_SECONDS

    def respond(self) -> Iterable[bytes]:
        """Have the application begin, wait for the head of its response, and start that.

        Raises:
            BaseException: what the application raised before its response began; the host answers with 500.
            ClientDisconnected: the client left meanwhile.
        """
        self._gate.ring(self._exchange.begin)
        try:
            head = self._next()
            assert isinstance(head, Head)
            if head.whole is not None:
                return self._respond_whole(head, head.whole)
            self._first = self._next()
            if isinstance(self._first, SendPath) and "wsgi.file_wrapper" in self._environ:
                return self._respond_with_file(head, self._first)
            self._start(head)
        except BaseException:
            self.close()
            raise
        return self

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the chunks."""
        return self

    def __next__(self) -> bytes:
        """Wait for the next chunk; what the last one left behind is with the host by now."""
        if self._given:
            self._mail.done(self._given)
            self._given = 0
        while True:
            if self._blocks is not None:
                block = next(self._blocks, b"")
                if block:
                    return block
                self._blocks = None
            if self._finished and self._first is None:
                raise StopIteration
            item, self._first = self._first or self._next(), None
            if isinstance(item, bytes):
                chunk = self._mail.join(item)
                self._given = len(chunk)
                return chunk
            if isinstance(item, SendPath):
                self._blocks = _blocks_of_path(item.path)
            elif isinstance(item, SendFile):
                self._blocks = _blocks_of_file(item)
            else:
                self._finished = True
                raise StopIteration

    def close(self) -> None:
        """Let go of the request; if it is not complete, the client has left as far as anybody knows."""
        if self._closed:
            return
        self._closed = True
        if not self._finished:
            self._finished = True
            self._leave("the server closed the response before its end")
        close_blocks = getattr(self._blocks, "close", None)
        if close_blocks is not None:
            close_blocks()
        self._part()

    # The response.

    def _respond_whole(self, head: Head, body: bytes) -> Iterable[bytes]:
        self._finished = True
        self._start(head)
        chunks = [body] if body else []
        if not self._exchange.desk.used:
            self._part()
            return chunks
        self._blocks = iter(chunks)
        self._first = Note.END
        return self

    def _respond_with_file(self, head: Head, event: SendPath) -> Iterable[bytes]:
        file = _ResponseFile(event.path, self.close)
        self._finished = True
        try:
            self._start(head)
            result: Iterable[bytes] = self._environ["wsgi.file_wrapper"](file, _FILE_BLOCK_BYTES)
        except BaseException:
            file.close()
            raise
        return result

    def _start(self, head: Head) -> None:
        if self._exchange.events.wants_trailers:
            self._environ["bridges.trailers"](lambda: self._exchange.trailers)
        self._start_response(head.status, head.headers)

    # What the thread does while it waits.

    def _next(self) -> Item | bytes:
        """Serve the application until it has something for the host.

        Raises:
            BaseException: the response will not be completed.
        """
        while True:
            item = self._mail.take(self._patience)
            if item is None:
                self._look_at_client()
            elif item is Note.READ:
                self._read()
            elif isinstance(item, Job):
                item.run()
            elif isinstance(item, EarlyHint):
                self._environ["wsgi.early_hints"](item.headers)
            elif isinstance(item, Failure):
                self._finished = True
                try:
                    raise item.error
                finally:
                    del item  # or the exception and this frame would hold each other
            else:
                return item

    def _read(self) -> None:
        """Read a piece of the request body for the application."""
        if self._body is None:
            self._body = RequestBody(self._environ, self._length)
        try:
            chunk, more = self._body.read()
        except Exception as error:
            self._gate.ring(functools.partial(self._exchange.body_broke, error))
        else:
            self._gate.ring(functools.partial(self._exchange.body_came, chunk, more))

    def _look_at_client(self) -> None:
        if self._watch is not None and self._watch():
            self._finished = True
            self._leave("the client left")
            raise ClientDisconnected("the client left before its response was complete")

    def _leave(self, reason: str) -> None:
        self._exchange.deserted = True
        try:
            self._gate.ring(functools.partial(self._exchange.leave, reason))
        except CrossingError:
            _log.debug("the event loop ended before a request that was left")

    def _part(self) -> None:
        """Run the jobs that are still to come, within limits, then leave the desk."""
        desk = self._exchange.desk
        if desk.used:
            self._linger()
        desk.attended = False
        first, self._first = self._first, None
        for item in (first, *self._mail.take_rest()):
            if isinstance(item, Job):  # posted before the desk could know
                item.run()
            elif isinstance(item, SendFile):
                os.close(item.file)
            elif isinstance(item, Failure):
                _log.error("a request failed after its host had left it", exc_info=item.error)

    def _linger(self) -> None:
        ends = time.monotonic() + _LINGER_SECONDS
        while True:
            item = self._mail.take(max(0.0, ends - time.monotonic()))
            if item is None or item is Note.OVER:
                return
            if isinstance(item, Job):
                item.run()


class _ResponseFile(io.FileIO):
    """A file that the host sends, perhaps by its descriptor, and whose closing is the end of the response."""

    def __init__(self, path: str, on_close: Callable[[], None]) -> None:
        self._on_close = (
            on_close  # first: a file that cannot be opened is closed too, when it is collected
        )
        super().__init__(path, "rb")

    def close(self) -> None:
        super().close()
        self._on_close()


def _blocks_of_path(path: str) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_FILE_BLOCK_BYTES):
            yield block


def _blocks_of_file(event: SendFile) -> Iterator[bytes]:
    """Read a part of a file whose descriptor is ours, but whose position is the application's."""
    offset, left = event.offset, event.count
    try:
        while left is None or left > 0:
            size = _FILE_BLOCK_BYTES if left is None else min(left, _FILE_BLOCK_BYTES)
            if offset is None:
                block = os.read(event.file, size)
            else:
                block = os.pread(event.file, size, offset)
                offset += len(block)
            if not block:
                return
            if left is not None:
                left -= len(block)
            yield block
    finally:
        os.close(event.file)
