"""The loop's side of one request: ``receive`` and ``send``, and the task that runs the application.

``pump`` is the other side, in the host's thread. What goes there is mail; what comes back is rung through the gate.

Source: ASGI HTTP specification 2.5.
"""

from __future__ import annotations

import functools
import logging
import os
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from ..crossing.gates import Signal
from ..crossing.portal import Handle, is_cancellation
from ..errors import ApplicationError, BridgesError, ClientDisconnected, CrossingError
from ..translate.response_events import EarlyHint, ResponseEvents, SendFile, SendPath, Trailers
from ..typing import Message
from .body import RequestBody
from .desk import Desk, come_to
from .items import Failure, Head, Note, RequestMail

if TYPE_CHECKING:
    from .service import Service

_log = logging.getLogger("bridges.adapters")

# Bytes that a part of a file counts for while it is under way: each holds a descriptor.
FILE_WEIGHT: Final = 65_536


class Exchange:
    """One request between a host's thread and the application's task.

    Attributes:
        adapter: whoever made this; not to be collected, which ends its application, before the task has ended.
        desk: runs the application's thread-sensitive code in the host's thread.
        events: what is known of the response.
        deserted: set by the host's thread when it goes before the end, so that failures are logged.
        trailers: the fields that follow the body, once it is complete.
    """

    # What most requests never change stands here: setting it for each of them would cost.
    adapter: object = None
    deserted = False
    _arrived: tuple[bytes, bool] | None = None
    _body_given = False
    _reading = False
    _broken: BaseException | None = None
    _gone: str | None = None
    _handle: Handle | None = None
    _grace: Handle | None = None
    _head_posted = False
    _called_off = False
    _ended = False
    _over = False
    _queue: list[object] | tuple[()] = ()

    def __init__(
        self,
        service: Service,
        scope: dict[str, Any],
        length: int | None,
        mail: RequestMail,
        context: Context,
    ) -> None:
        """Prepare an exchange; in the host's thread.

        Args:
            service: the application and where it runs.
            scope: complete but for ``state``.
            length: of the request body in bytes, 0 where there is none, None where it is not known.
            mail: to the host's thread.
            context: for the application's task.
        """
        self._service = service
        self._scope = scope
        self._mail = mail
        self._context = context
        self._length = length
        self._body: RequestBody | None = None
        self.desk = Desk(mail, service.late)
        self.events = ResponseEvents(
            scope["method"] == "HEAD", service.app_name, scope["extensions"]
        )
        self.trailers: list[tuple[str, str]] = []
        self._waiting: list[Signal] = []
        if length == 0:
            self._arrived = (b"", False)

    # For the service and the pump, on the loop.

    def begin(self) -> None:
        """Start the application's task."""
        try:
            self._handle = self._service.begin(self, self._run, self._context)
        except BaseException as error:  # whoever waits has to learn of it
            self._over = True
            self._service.ended(self)
            self._mail.post(Failure(self._for_host(error)))

    def body_came(self, chunk: bytes, more: bool) -> None:
        """Take a piece of the request body."""
        self._arrived = (chunk, more)
        self._wake()

    def body_broke(self, error: BaseException) -> None:
        """Learn that the rest of the request body will not come, and why."""
        self._broken = error
        _log.info("the body of a request to %s broke off: %r", self._service.app_name, error)
        self._wake()

    def lose(self) -> None:
        """Learn that the loop has ended, and the task with it; in the loop's thread."""
        if not self._over:
            self._over = True
            self._report(CrossingError("the event loop ended before this request did"))

    def leave(self, reason: str) -> None:
        """Learn that nobody takes the response: tell the application, and call it off after the grace time."""
        if not (self._over or self._gone or self._ended):
            self._gone = reason
            self._wake()
            self._grace = self._service.call_later_to_leave(self.call_off)

    def stop(self) -> None:
        """Learn that the service ends: a response may come to its end."""

    def call_off(self) -> None:
        """Cancel the application's task."""
        if not self._over and self._handle is not None:
            self._called_off = True
            self._handle.cancel()

    # For the application.

    async def receive(self) -> Message:
        """Give the next piece of the request body, then wait until the response is complete or the client gone."""
        while not self._body_given:
            if self._arrived is not None:
                (chunk, more), self._arrived = self._arrived, None
                self._reading = False
                self._body_given = not more
                return {"type": "http.request", "body": chunk, "more_body": more}
            if self._gone or self._broken or self._ended:
                return {"type": "http.disconnect"}
            if not self._reading:
                self._reading = True
                self._ask_for_body()
            await self._change()
        while not (self._gone or self._ended):
            await self._change()
        return {"type": "http.disconnect"}

    def _ask_for_body(self) -> None:
        if self._body is None:
            self._body = RequestBody(self._scope["wsgi_environ"], self._length)
        executor = self.desk.executor_of_job()
        if executor is None:
            self._mail.post(Note.READ)
        else:
            executor.submit(self.read_body)

    def read_body(self) -> None:
        """Read a piece of the request body; in the host's thread."""
        assert self._body is not None  # somebody has asked for it
        gate = self._service.portal.gate
        try:
            chunk, more = self._body.read()
        except Exception as error:
            gate.ring(functools.partial(self.body_broke, error))
        else:
            gate.ring(functools.partial(self.body_came, chunk, more))

    async def send(self, message: Message) -> None:
        """Take a message of the response, waiting for room where too much is under way.

        Raises:
            ClientDisconnected: the client has left.
            ApplicationProtocolError: the message is malformed or out of order.
        """
        if self._gone is not None:
            raise ClientDisconnected(self._gone)
        kind = message.get("type")
        if kind == "http.response.body":
            chunk = self.events.body(message)
            last = self.events.complete  # of this message: others may come while it waits
            if self._ended:
                return  # what follows the head of a response without a body
            if not self._head_posted and (last or not self.events.body_allowed):
                self._post_head(whole=chunk)
                self._complete()
                if not last:
                    self._grace = self._service.call_later_to_leave(self._give_up_bodiless)
            else:
                await self._send_chunk(chunk, last)
        elif kind == "http.response.start":
            self.events.start(message)
        else:
            await self._send_extension(self.events.extension(message))

    def _give_up_bodiless(self) -> None:
        """Call off an application that still sends to a HEAD, whose client had its answer long ago."""
        if not self.events.body_ended:
            self._gone = "the response has no body"
            self.call_off()

    async def _send_chunk(self, chunk: bytes, last: bool) -> None:
        if self._queue or (chunk and not self._mail.has_room_for(len(chunk))):
            try:
                await self._make_room(len(chunk))
            except BaseException:
                self.events.give_back(len(chunk))
                raise
        if chunk:
            if not self._head_posted:
                self._post_head()
            self._mail.post_chunk(chunk)
        if last:
            self._complete()

    async def _make_room(self, size: int) -> None:
        """Wait for room, in the order of the messages."""
        if self.desk.executor_of_job() is not None:
            return  # the thread that would make it waits for this task
        place = object()
        self._queue = [*self._queue, place]
        try:
            while self._queue[0] is not place or not self._mail.has_room_for(size):
                if self._queue[0] is place:
                    self._mail.when_room(size, self._wake)
                await self._change()
                if self._gone is not None:
                    raise ClientDisconnected(self._gone)
        finally:
            self._queue = [other for other in self._queue if other is not place]
            self._wake()

    async def _send_extension(self, event: EarlyHint | SendPath | SendFile | Trailers) -> None:
        last = self.events.complete
        if isinstance(event, SendFile):
            await self._send_file(event)
        elif self._queue:
            await self._make_room(0)
        if isinstance(event, EarlyHint):
            self._mail.post(event)
        elif isinstance(event, Trailers):
            self.trailers += event.headers
        elif isinstance(event, SendPath):
            if not self._head_posted:
                self._post_head()
            if self.events.body_allowed:
                self._mail.post(event)
        if last:
            self._complete()

    async def _send_file(self, event: SendFile) -> None:
        if not self._head_posted:
            self._post_head()
        if not self.events.body_allowed:
            return
        if self._queue or not self._mail.has_room_for(FILE_WEIGHT):
            await self._make_room(FILE_WEIGHT)
        # The application may close its descriptor as soon as this returns.
        event = event._replace(file=os.dup(event.file))
        self._mail.post_weighty(event, FILE_WEIGHT)
        if self.deserted and self._mail.take_back(event):
            os.close(event.file)

    def _post_head(self, whole: bytes | None = None) -> None:
        self._head_posted = True
        status, headers = self.events.take_head(None if whole is None else len(whole))
        if self.events.dropped_headers:
            self._service.warn_of_dropped(self.events.dropped_headers)
        self._mail.add(Head(status, headers, whole))  # what follows it wakes the thread

    def _complete(self) -> None:
        if self.events.remaining:
            raise self.events.error("gave up a piece of its response", "")
        if not self._head_posted:
            self._post_head()
        self._ended = True
        self._mail.post(Note.END)
        self._wake()

    # The application's task.

    async def _run(self) -> None:
        failure: BaseException | None = None
        try:
            await self._call_application()
            if not self.deserted:
                self._check_ended()
        except BaseException as error:
            failure = error
            if is_cancellation(error):
                raise
        finally:
            self._end(failure)
            del failure  # the exception holds this frame, and the frame would hold the exception

    async def _call_application(self) -> None:
        service = self._service
        if service.knows_asgiref:
            come_to(self.desk if service.has_desks else service.late)
        lifespan = service.lifespan
        if not lifespan.ready:
            await lifespan.started()
        self._scope["state"] = lifespan.state.copy()
        await service.app(self._scope, self.receive, self.send)

    def _end(self, failure: BaseException | None) -> None:
        self._over = True
        self._forget()
        if failure is not None:
            self._report(failure)
        if self.desk.used:
            self._mail.post(Note.OVER)

    def _forget(self) -> None:
        """Have nothing hold this any more: neither the service nor a timer."""
        self._service.ended(self)
        if self._grace is not None:
            self._grace.cancel()

    def _check_ended(self) -> None:
        if not self._ended:
            self.events.finish()
            raise self.events.error("gave up the last piece of its response", "")

    def _report(self, failure: BaseException) -> None:
        """Give a failure to the host, or log it where the host no longer waits; once."""
        if not (self._ended or self.deserted):
            self._mail.post(Failure(self._for_host(failure)))
        elif not self._ended and comes_of_leaving(failure):
            _log.debug("%s was ended by its client's leaving: %r", self._service.app_name, failure)
        elif not is_cancellation(failure):
            _log.error(
                "%s failed after %s",
                self._service.app_name,
                "its response was complete" if self._ended else self._gone or "its client had left",
                exc_info=failure,
            )

    def _for_host(self, failure: BaseException) -> BaseException:
        """Give what the host may raise without ending itself, and with the cause where there is a known one."""
        if self._broken is not None:
            if not comes_of_leaving(failure):
                self._broken.__cause__ = failure
            return self._broken
        if self._gone is not None:
            return ClientDisconnected(self._gone)
        if is_cancellation(failure):
            why = "was called off by the server's end" if self._called_off else "was cancelled"
            return ApplicationError(
                f"{self._service.app_name} {why} before its response was complete"
            )
        # Hosts take an OSError for their client's leaving: no 500, and often no log.
        if isinstance(failure, Exception) and (
            not isinstance(failure, OSError) or isinstance(failure, BridgesError)
        ):
            return failure
        error = ApplicationError(f"{self._service.app_name} raised {failure!r:.200}")
        error.__cause__ = failure
        return error

    # Waiting, for any number of tasks of the application.

    async def _change(self) -> None:
        signal = self._service.portal.gate.signal()
        self._waiting.append(signal)
        try:
            await signal.wait()
        finally:
            # Called off: frameworks ask like that whether the client has left.
            if signal in self._waiting:
                self._waiting.remove(signal)

    def _wake(self) -> None:
        waiting = self._waiting
        while waiting:
            waiting.pop().set()


def comes_of_leaving(error: BaseException) -> bool:
    """Whether an exception is what ``send`` raised for a client that had left, or was made from it."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        if isinstance(one, ClientDisconnected) or is_cancellation(one):
            return True
        seen.add(id(one))
        pending += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return False
