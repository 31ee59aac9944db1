"""Where thread-sensitive code runs: in the request's own WSGI thread, which waits for the response anyway.

asgiref asks for an executor (``ThreadSensitiveContext``), Django's ORM for one connection a thread: this gives both
what they want, and requests do not queue behind one another for the one thread that asgiref has by default.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext

from .items import Job, RequestMail

Result = TypeVar("Result")


class Desk:
    """The request's thread as a place for jobs, for as long as it is there.

    Attributes:
        used: True once something was submitted; a request that did so keeps its thread until its task has ended.
        attended: False once the thread has gone; what comes later runs in the thread of ``late``.
    """

    __slots__ = ("_late", "_mail", "_running", "attended", "used")

    def __init__(self, mail: RequestMail, late: LateThread) -> None:
        self.used = False
        self.attended = True
        self._running = 0
        self._mail = mail
        self._late = late

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Have ``call`` made in the request's thread; on the loop."""
        self.used = True
        if self.attended:
            future: Future[Result] = Future()
            job = Job(future, functools.partial(self._run, call))
            self._mail.post(job)
            # The thread may have gone meanwhile: it looks once more after saying so, and only one of us gets the job.
            if self.attended or not self._mail.take_back(job):
                return future
        return self._late.submit(call)

    def _run(self, call: Callable[[], Result]) -> Result:
        self._running += 1
        try:
            return call()
        finally:
            self._running -= 1

    def executor_of_job(self) -> Executor | None:
        """Give what runs calls inside a job that waits for the running task (``async_to_sync``), if one does.

        The request's thread does nothing else until that task has ended: it must not wait for the thread.
        """
        if not self._running:
            return None
        executor: Executor | None = getattr(AsyncToSync.executors, "current", None)
        return executor


class LateThread:
    """One thread for the thread-sensitive code that has no request's: of the lifespan, and after responses.

    Made on the loop, when it is needed: of gevent's threads only those work there that were.
    """

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Have ``call`` made in the thread; on the loop."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "bridges-late")
        return self._executor.submit(call)

    async def end(self) -> None:
        """Wait for what was submitted, and end the thread; on the loop."""
        if self._executor is not None:
            executor, self._executor = self._executor, None
            # By a last job: at the interpreter's exit Python 3.12 starts no thread that could wait.
            await asyncio.wrap_future(executor.submit(int))
            executor.shutdown(wait=False)


class _Desks(Executor):
    """All desks as one executor: asgiref's context is entered once, and not for every request."""

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Have ``fn`` called in the thread of the request whose task submits it."""
        return _place.get().submit(functools.partial(fn, *args, **kwargs))


_place: ContextVar[Desk | LateThread] = ContextVar("bridges_place")


def _make_context() -> ThreadSensitiveContext:
    try:
        return ThreadSensitiveContext(executor=_Desks())
    except TypeError:
        # asgiref before 3.13, the last for Python 3.10, has the same without a public way.
        context = ThreadSensitiveContext()
        SyncToAsync.context_to_thread_executor[context] = _Desks()
        return context


_thread_sensitive = _make_context()
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


def come_to(place: Desk | LateThread) -> None:
    """Have the thread-sensitive code of the running task, and of tasks that it starts, run at ``place``."""
    if _variable is not None:
        _variable.set(_thread_sensitive)
        _place.set(place)
