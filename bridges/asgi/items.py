"""What the loop's side of a request has for its thread, besides chunks of the body."""

from __future__ import annotations

import enum
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeAlias

from ..crossing.mail import Mail
from ..translate.response_events import EarlyHint, SendFile, SendPath


class Note(enum.Enum):
    """What needs no more than its name."""

    READ = enum.auto()  # the application wants a piece of the request body
    END = enum.auto()  # the response is complete
    OVER = enum.auto()  # the application's task has ended
    ACCEPTED = enum.auto()  # the connection is a websocket's, and the loop's business alone
    SWITCHED = enum.auto()  # the websocket is over, and the loop has let go of the host's socket
    ALIVE = enum.auto()  # the loop answers


class Head(NamedTuple):
    """The head of the response.

    Attributes:
        status: the status line.
        headers: as ``start_response`` takes them.
        whole: the whole body, where that is known already; nothing follows then.
    """

    status: str
    headers: list[tuple[str, str]]
    whole: bytes | None


class Failure(NamedTuple):
    """The response will not be completed; ``error`` is for the host to raise."""

    error: BaseException


class Job:
    """A call that has to run in the request's thread."""

    __slots__ = ("_call", "_future")

    def __init__(self, future: Future[Any], call: Callable[[], object]) -> None:
        self._future = future
        self._call = call

    def run(self) -> None:
        """Make the call and hand over what it gives or raises; in the request's thread."""
        if not self._future.set_running_or_notify_cancel():
            return
        try:
            result = self._call()
        except BaseException as error:
            self._future.set_exception(error)
        else:
            self._future.set_result(result)


Item: TypeAlias = "Note | Head | Failure | Job | EarlyHint | SendPath | SendFile"
RequestMail: TypeAlias = Mail[Item]
