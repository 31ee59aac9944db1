"""One call of a WSGI application, in a thread: ``start_response``, ``write``, iteration, ``close``.

What is to be sent goes into a pipe as ASGI messages, bare chunks of the body, and a few notes; the loop's side
(``exchange``) joins the chunks and sends. Everything here runs in one thread and one context.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import Context
from typing import Any, Final, TypeAlias

from ..crossing.gates import Gate, adopt
from ..crossing.pipes import ThreadToLoop
from ..errors import ApplicationError, ClientDisconnected, CrossingError, PoolClosed
from ..translate.headers import response_headers_from_wsgi
from ..translate.start_response import ResponseState
from ..typing import Environ, ExcInfo, Message, WSGIApplication
from .files import FileWrapper, file_message

_log = logging.getLogger("bridges.adapters")

_TRAILERS: Final = "http.response.trailers"
_EARLY_HINT: Final = "http.response.early_hint"


class Note(enum.Enum):
    """What the thread has to say besides messages."""

    END_OF_BODY = enum.auto()
    WANT_BODY = enum.auto()
    WATCH_CLIENT = enum.auto()


Item: TypeAlias = "bytes | Message | Note"


class Call:
    """A job for the pool: runs the application and puts its response into ``pipe``.

    Attributes:
        nobody_waits: set by the loop's side when it has gone before the call's end, so that failures are logged.
        last_act: called at the end of the application, in its thread, before that is told to the loop.
        forgives: asked in the thread whether a failure is none, when nobody waits who would be asked on the loop.
    """

    # What most calls never change stands here: setting it for each of them would cost.
    nobody_waits = False
    last_act: Callable[[], object] | None = None
    forgives: Callable[[BaseException], bool] | None = None
    _trailers: Callable[[], Iterable[tuple[str, str]]] | None = None
    _body_ended = False
    _watching = False
    _last_items: Sequence[Item] = ()
    _failure: BaseException | None = None

    def __init__(
        self,
        app: WSGIApplication,
        app_name: str,
        environ: Environ,
        pipe: ThreadToLoop[Item],
        gate: Gate,
        context: Context,
        extensions: Mapping[str, Any],
    ) -> None:
        """Prepare a call; on the loop.

        Args:
            app: the application.
            app_name: what errors and warnings call it.
            environ: complete but for what this call adds.
            pipe: takes the response.
            gate: of the loop that asked.
            context: covers the call, the iteration and ``close``.
            extensions: of ASGI that whoever takes the response offers.
        """
        self._app = app
        self._app_name = app_name
        self._environ = environ
        self._pipe = pipe
        self._gate = gate
        self._context = context
        self._state = ResponseState(environ["REQUEST_METHOD"] == "HEAD", app_name)
        self._extensions = extensions
        environ["bridges.client_disconnected"] = self.client_disconnected
        if _EARLY_HINT in extensions:
            environ["wsgi.early_hints"] = self.early_hints
        if _TRAILERS in extensions:
            environ["bridges.trailers"] = self.set_trailers

    def run(self) -> None:
        """Run the application to its end; in a thread."""
        adopt(self._gate)
        try:
            self._context.run(self._respond)
        except BaseException as error:
            self._failure = self._failure_for_loop(error)
        if self.last_act is not None:
            self.last_act()

    def finish(self) -> None:
        """Hand over what is left of the response, or what went wrong; in the same thread."""
        failure, self._failure = self._failure, None
        try:
            if failure is not None and self.nobody_waits:
                self._report(failure)
            self._pipe.end(self._last_items, failure)
        except CrossingError:
            _log.debug("the event loop ended before %s did", self._app_name)
        finally:
            del failure  # the exception holds this frame, and the frame would hold the exception

    def _report(self, failure: BaseException) -> None:
        if self.forgives is None or not self.forgives(failure):
            _log.error("%s failed after its request had ended", self._app_name, exc_info=failure)

    def abandon(self) -> None:
        """Learn that the pool was shut down before the call began."""
        try:
            self._pipe.end(failure=PoolClosed("the server is shutting down"))
        except CrossingError:
            _log.debug("the event loop ended before a queued request of %s began", self._app_name)

    # What the application may call.

    def start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: ExcInfo | None = None,
        /,
    ) -> Callable[[bytes], object]:
        """Take the head of the response, as PEP 3333 says under that name."""
        self._state.start(status, headers, exc_info)
        if self._state.dropped_headers:
            _log.warning(
                "%s sent hop-by-hop headers, which are the server's: dropped %s",
                self._app_name,
                ", ".join(self._state.dropped_headers),
            )
        return self.write

    def write(self, data: bytes, /) -> None:
        """Send a piece of the body, for applications that cannot return it (PEP 3333)."""
        self._send_piece(self._state.feed(data))
        self._note_surplus()

    def early_hints(self, headers: Iterable[tuple[str, str]], /) -> None:
        """Send the Link headers among ``headers`` ahead of the response (RFC 8297); before its head only."""
        if self._state.head_taken:
            raise self._state.error(
                "sent early hints after the response had begun", "RFC 8297 section 2"
            )
        links = [
            value for name, value in response_headers_from_wsgi(headers).raw if name == b"link"
        ]
        if links:
            self._pipe.put({"type": _EARLY_HINT, "links": links})

    def set_trailers(self, callback: Callable[[], Iterable[tuple[str, str]]], /) -> None:
        """Have ``callback`` called after the body, for header fields that follow it; before the head only.

        Raises:
            ApplicationProtocolError: the head has left without announcing trailers.
        """
        if self._state.head_taken:
            raise self._state.error(
                "asked for trailers after the response had begun", 'ASGI extensions "HTTP Trailers"'
            )
        self._trailers = callback

    def client_disconnected(self) -> bool:
        """Tell whether the client is known to have left; the first call begins to watch for it.

        Watching receives a body that was not asked for yet, as far as the buffer goes.
        """
        if not self._watching:
            self._watching = True
            try:
                self._pipe.put(Note.WATCH_CLIENT)
            except (ClientDisconnected, CrossingError):
                return True
        return self._pipe.closed is not None

    # The response.

    def _respond(self) -> None:
        # The environ holds this call's methods; without this it would take the garbage collector to free both.
        environ, self._environ = self._environ, {}
        result = self._app(environ, self.start_response)
        del environ
        try:
            if type(result) is list or type(result) is tuple:
                self._send_whole(result)
            elif type(result) is FileWrapper:
                self._send_file(result)
            else:
                self._send_chunks(result)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _send_whole(self, chunks: list[bytes] | tuple[bytes, ...]) -> None:
        """Hand over a body that exists in full: it costs no more memory than it has, and frees the thread."""
        state = self._state
        if not state.status:
            state.take_head()  # raises
        sized = not state.head_taken and self._trailers is None
        length = _total_length(chunks) if sized else None
        items: list[Item] = []
        if not state.head_taken:
            items.append(state.take_head(length, trailers=self._trailers is not None))
        for chunk in chunks:
            body = state.feed(chunk)
            if body:
                items.append(body)
        self._note_surplus()
        if state.remaining:
            self._pipe.put_all(items, 0)
            state.finish()
        if not self._body_ended:
            items.append(Note.END_OF_BODY)
        items += self._trailer_messages()
        self._last_items = items

    def _send_file(self, wrapper: FileWrapper) -> None:
        """Let the server send the file where it can; the file stays open until it has."""
        state = self._state
        plan = None
        if state.status and state.body_allowed and not state.head_taken and self._trailers is None:
            plan = file_message(wrapper.filelike, self._extensions, state.remaining)
        if plan is None:
            self._send_chunks(wrapper)
            return
        message, length = plan
        self._pipe.put_all((state.take_head(length), message), 0)
        self._pipe.drain()

    def _send_chunks(self, iterable: Iterable[bytes]) -> None:
        state = self._state
        # Where no body may follow a head that is known, there is nothing to ask the application for.
        try:
            iterator = iter(() if state.status and not state.body_allowed else iterable)
        except TypeError as error:
            raise state.error(
                f"returned a {type(iterable).__name__}, which must be an iterable of bytes",
                'PEP 3333 "Specification Details"',
            ) from error
        for chunk in iterator:
            body = state.feed(chunk)
            if not chunk:
                self._end_with_client()
                continue
            self._send_piece(body)
            if state.plain:
                self._send_plain(iterator)
                break
            if state.surplus or not state.body_allowed:
                break
        self._note_surplus()
        state.finish()
        if not self._body_ended:
            self._send_piece(b"", last=True)
        for message in self._trailer_messages():
            self._pipe.put(message)

    def _send_plain(self, iterator: Iterator[bytes]) -> None:
        """Send the rest of a body about which nothing is left to decide: the hot loop of streams."""
        put, feed = self._pipe.put_all, self._state.feed
        for chunk in iterator:
            body = chunk if type(chunk) is bytes else feed(chunk)
            if body:
                put((body,), len(body))
            else:
                self._end_with_client()

    def _end_with_client(self) -> None:
        """End a response that yields nothing for now, as some do while they wait, when its client has left."""
        self.client_disconnected()
        if self._pipe.closed is not None:
            raise self._pipe.closed

    def _send_piece(self, body: bytes, last: bool = False) -> None:
        """Send a piece of the body together with what goes before and after it: the head, and the end."""
        state = self._state
        items: list[Item] = []
        if not state.head_taken:
            items.append(state.take_head(trailers=self._trailers is not None))
        if body:
            items.append(body)
        if last or (state.remaining == 0 and not self._body_ended):
            self._body_ended = True
            items.append(Note.END_OF_BODY)
        if items:
            self._pipe.put_all(items, len(body))
        else:
            self._end_with_client()

    def _trailer_messages(self) -> list[Item]:
        if self._trailers is None:
            return []
        return [{"type": _TRAILERS, "headers": response_headers_from_wsgi(self._trailers()).raw}]

    def _note_surplus(self) -> None:
        if self._state.surplus:
            self._state.surplus = False
            _log.warning("%s sent more bytes than its Content-Length: cut", self._app_name)

    def _failure_for_loop(self, error: BaseException) -> BaseException | None:
        """Choose what the server is told: nothing of a client that left, nothing that would stop the server."""
        if isinstance(error, ClientDisconnected) and (self._pipe.closed is not None):
            return None
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            return error
        wrapped = ApplicationError(f"{self._app_name} raised {type(error).__name__}: {error}")
        wrapped.__cause__ = error
        return wrapped


def _total_length(chunks: Iterable[object]) -> int | None:
    """Add up the body; None where a chunk is not bytes, which is refused later by name."""
    total = 0
    for chunk in chunks:
        if not isinstance(chunk, bytes):
            return None
        total += len(chunk)
    return total
