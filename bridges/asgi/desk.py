"""Where thread-sensitive code runs: in the request's own WSGI thread, which waits for the response anyway.

asgiref asks for an executor (``ThreadSensitiveContext``), Django's ORM for one connection a thread: this gives both
what they want, and requests do not queue behind one another for the one thread that asgiref has by default.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext

from .items import Job, RequestMail

Result = TypeVar("Result")


class Desk:
    """The request's thread as a place for jobs, for as long as it is there.

    Attributes:
        used: True once something was submitted; a request that did so keeps its thread until its task has ended.
        attended: False once the thread has gone; what comes later runs in asgiref's own thread.
    """

    __slots__ = ("_mail", "attended", "used")

    def __init__(self, mail: RequestMail) -> None:
        self.used = False
        self.attended = True
        self._mail = mail

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Have ``call`` made in the request's thread; on the loop."""
        self.used = True
        if self.attended:
            future: Future[Result] = Future()
            job = Job(future, call)
            self._mail.post(job)
            # The thread may have gone meanwhile: it looks once more after saying so, and only one of us gets the job.
            if self.attended or not self._mail.take_back(job):
                return future
        return SyncToAsync.single_thread_executor.submit(call)


class _Desks(Executor):
    """All desks as one executor: asgiref's context is entered once, and not for every request."""

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Have ``fn`` called in the thread of the request whose task submits it."""
        return _desk.get().submit(functools.partial(fn, *args, **kwargs))


_desk: ContextVar[Desk] = ContextVar("bridges_desk")
_thread_sensitive = ThreadSensitiveContext(executor=_Desks())
# By which asgiref finds the context that a task is in.
_variable: ContextVar[ThreadSensitiveContext] | None = None


async def open_desks() -> None:
    """Make asgiref know the desks, once in a process; on an asyncio loop.

    The context is never left: tasks that outlive their request would then be refused by asgiref, although ``Desk``
    serves them too.
    """
    global _variable
    if _variable is None:
        await _thread_sensitive.__aenter__()  # type: ignore[no-untyped-call]  # asgiref has no types there
        for variable, value in copy_context().items():
            if value is _thread_sensitive:
                _variable = variable


def sit_at(desk: Desk) -> None:
    """Have the thread-sensitive code of the running task, and of tasks that it starts, come to ``desk``."""
    if _variable is not None:
        _variable.set(_thread_sensitive)
        _desk.set(desk)
