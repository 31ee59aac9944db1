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
from ..errors import ApplicationProtocolError, ClientDisconnected, CrossingError
from ..translate.response_events import EarlyHint, SendFile, SendPath
from ..typing import Environ, StartResponse
from .exchange import FILE_WEIGHT, Exchange
from .items import Failure, Head, Item, Job, Note, RequestMail
from .watch import WATCH_SECONDS, watch_client

_log = logging.getLogger("bridges.adapters")

_CLOSED: Final = "the server closed the response before its end"
_FILE_BLOCK_BYTES: Final = 65_536

# How long a thread stays with a request whose response is complete, for thread-sensitive code that comes after it:
# Django closes database connections there.
_LINGER_SECONDS: Final = 1.0


class Pump:
    """The response as the host iterates over it."""

    _blocks: Iterator[bytes] | None = None
    _first: Item | bytes | None = None
    _given = 0
    _finished = False
    _closed = False

    def __init__(
        self,
        environ: Environ,
        start_response: StartResponse,
        exchange: Exchange,
        mail: RequestMail,
        gate: Gate,
    ) -> None:
        """Prepare it.

        Args:
            environ: of the request.
            start_response: of the host.
            exchange: the other side.
            mail: what comes from there.
            gate: the way there.
        """
        self._environ = environ
        self._start_response = start_response
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
            return self._respond_with(head)
        except BaseException:
            self.close()
            raise

    def _respond_with(self, head: Head) -> Iterable[bytes]:
        if head.whole is not None:
            return self._respond_whole(head, head.whole)
        self._first = self._next()
        if isinstance(self._first, SendPath):
            file = self._file_for_host(self._first)
            if file is not None:
                return self._respond_with_file(head, file)
        self._start(head)
        return self

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the chunks."""
        return self

    def __next__(self) -> bytes:
        """Wait for the next chunk; what the last one left behind is with the host by now."""
        while True:
            if self._blocks is not None:
                block = next(self._blocks, b"")
                if block:
                    return block
                self._blocks = None
            if self._given:
                self._mail.done(self._given)
                self._given = 0
            if self._finished and self._first is None:
                raise StopIteration
            item, self._first = self._first or self._next(), None
            if isinstance(item, bytes):
                chunk = self._mail.join(item)
                self._given = len(chunk)
                return chunk
            if isinstance(item, SendPath):
                self._blocks = _blocks_of_path(item)
            elif isinstance(item, SendFile):
                self._blocks = _blocks_of_file(item)
                self._given = FILE_WEIGHT
            elif self._closed:
                raise ClientDisconnected(_CLOSED)  # by another thread, while this one waited
            else:
                self._finished = True
                raise StopIteration

    def close(self) -> None:
        """Let go of the request; if it is not complete, the client has left as far as anybody knows."""
        if self._closed:
            return
        self._closed = True
        left = not self._finished
        if left:
            self._finished = True
            self._leave(_CLOSED)
        close_blocks = getattr(self._blocks, "close", None)
        if close_blocks is not None:
            close_blocks()
        self._part()
        if left:
            self._mail.post(Note.OVER)  # for another thread, which may wait in the iteration

    def __del__(self) -> None:
        """Leave a response that middleware dropped without closing it, as a generator does."""
        if not (self._closed or self._finished):
            self._closed = True
            self._leave("the server dropped the response")
            self._exchange.desk.attended = False
            self._clear(run_jobs=False)  # this may be any thread, and any moment

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

    def _file_for_host(self, event: SendPath) -> _ResponseFile | None:
        """Open a file that the host may send by itself: as it is, and with nothing to come after it.

        Raises:
            ApplicationProtocolError: it is shorter than the Content-Length.
        """
        events = self._exchange.events
        if "wsgi.file_wrapper" not in self._environ or events.wants_trailers:
            return None
        file = _ResponseFile(event.path, self.close)
        size = os.fstat(file.fileno()).st_size
        if event.length is None or size == event.length:
            return file
        file.forget()
        if size < event.length:
            raise _too_short(event.length - size)
        return None

    def _respond_with_file(self, head: Head, file: _ResponseFile) -> Iterable[bytes]:
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
                self._exchange.read_body()
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
        self._clear(run_jobs=True)

    def _clear(self, run_jobs: bool) -> None:
        """Take what nobody will any more: jobs that were posted before the desk could know, files, a failure."""
        first, self._first = self._first, None
        for item in (first, *self._mail.take_rest()):
            if isinstance(item, Job) and run_jobs:
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
        # First: a file that cannot be opened is closed too, when it is collected.
        self._on_close: Callable[[], None] | None = on_close
        super().__init__(path, "rb")

    def forget(self) -> None:
        """Close it, which is not the end of the response."""
        self._on_close = None
        self.close()

    def close(self) -> None:
        super().close()
        if self._on_close is not None:
            self._on_close()


def _blocks_of_path(event: SendPath) -> Iterator[bytes]:
    """Read a file, as far as the Content-Length goes: it may grow meanwhile."""
    with open(event.path, "rb", buffering=0) as file:
        yield from _blocks(lambda size, offset: file.read(size), event.length)


def _blocks_of_file(event: SendFile) -> Iterator[bytes]:
    """Read a part of a file whose descriptor is ours, but whose position is the application's."""

    def read(size: int, done: int) -> bytes:
        if event.offset is None:
            return os.read(event.file, size)
        return os.pread(event.file, size, event.offset + done)

    try:
        yield from _blocks(read, event.count)
    finally:
        os.close(event.file)


def _blocks(read: Callable[[int, int], bytes], length: int | None) -> Iterator[bytes]:
    """Read blocks of a file by ``read(size, bytes so far)``.

    Raises:
        ApplicationProtocolError: it ends before ``length``, which the client was promised.
    """
    done = 0
    while length is None or done < length:
        left = _FILE_BLOCK_BYTES if length is None else length - done
        block = read(min(left, _FILE_BLOCK_BYTES), done)
        if not block:
            if length is not None:
                raise _too_short(length - done)
            return
        done += len(block)
        yield block


def _too_short(missing: int) -> ApplicationProtocolError:
    return ApplicationProtocolError(
        f"a file of the response is {missing} bytes shorter than the application said",
        "RFC 9110 section 8.6",
    )
