"""A thread pool for requests: bounded threads, a first-in-first-out queue, withdrawal of work not begun.

Guarantees:

- Jobs begin in the order in which they were submitted; each runs once, in one thread, unless it is withdrawn first.
- Threads start on demand, never more than ``max_threads``; an idle thread is used before a new one is started.
- ``withdraw`` succeeds or the job has begun, never both and never neither.
- No exception of a job ends a thread.
- ``shutdown`` takes no longer than asked. Jobs under way go on; jobs not begun are told so by ``abandon``.
- An interpreter exit waits for the threads of all pools for a bounded time, and hangs on none of them.
- A forked child starts with an empty pool of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from ..errors import PoolClosed, PoolSaturated

_log = logging.getLogger("bridges.adapters")

_WARNING_INTERVAL_SECONDS: Final = 60.0
_EXIT_SECONDS: Final = 5.0


class Job(Protocol):
    """What a pool runs."""

    def run(self) -> None:
        """Do the work; in a thread of the pool."""

    def abandon(self) -> None:
        """Learn that the work will never begin, because the pool is shut down; in any thread."""


@dataclass(frozen=True)
class PoolSnapshot:
    """The figures of a pool at one moment.

    Attributes:
        threads: alive.
        busy: threads that run a job.
        idle: threads that wait for one.
        queued: jobs that wait for a thread.
        stuck: threads busy with one job for longer than ``stuck_seconds``.
        served: jobs that were finished since the pool was made.
    """

    threads: int
    busy: int
    idle: int
    queued: int
    stuck: int
    served: int


class Ticket:
    """A job in a pool. Its lock decides, once, whether it begins or is withdrawn."""

    __slots__ = ("claim", "job")

    def __init__(self, job: Job) -> None:
        self.job = job
        # Whoever gets it first has the job; acquiring never waits.
        self.claim = threading.Lock()


class ThreadPool:
    """Threads that run requests, shared by as many adapters as you like.

    Making one starts nothing: threads come with the work. All methods may be called from any thread.
    """

    def __init__(
        self,
        max_threads: int = 40,
        *,
        max_queue: int | None = None,
        queue_seconds: float | None = None,
        on_thread_exit: Callable[[], object] | None = None,
        stuck_seconds: float = 60.0,
        shutdown_seconds: float = 30.0,
        name: str = "bridges-worker",
    ) -> None:
        """Configure a pool.

        Args:
            max_threads: most threads at one time; requests beyond them wait in the queue.
            max_queue: most jobs that may wait; None for no limit.
            queue_seconds: longest time in seconds that a request should wait; kept by the adapter; None for no
                limit.
            on_thread_exit: called in each thread as its last act, to close what the thread owns, such as
                database connections.
            stuck_seconds: age in seconds from which a running job counts as stuck in ``snapshot()``.
            shutdown_seconds: longest time in seconds that ``shutdown()`` waits for jobs under way.
            name: threads are called by it and a number.

        Raises:
            ValueError: an option is out of range.
        """
        if max_threads < 1:
            raise ValueError(f"max_threads must be at least 1, got {max_threads}")
        if max_queue is not None and max_queue < 0:
            raise ValueError(f"max_queue must be None or at least 0, got {max_queue}")
        if queue_seconds is not None and queue_seconds <= 0:
            raise ValueError(f"queue_seconds must be None or more than 0, got {queue_seconds}")
        if stuck_seconds <= 0 or shutdown_seconds < 0:
            raise ValueError("stuck_seconds must be more than 0 and shutdown_seconds at least 0")
        self.max_threads = max_threads
        self.max_queue = max_queue
        self.queue_seconds = queue_seconds
        self.stuck_seconds = stuck_seconds
        self.shutdown_seconds = shutdown_seconds
        self.name = name
        self._on_thread_exit = on_thread_exit
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        """Set what belongs to this process."""
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Ticket | None] = SimpleQueue()
        self._workers: list[_Worker] = []
        # Jobs submitted and neither finished nor withdrawn: those beyond the threads are waiting.
        self._unfinished = 0
        self._started_threads = 0
        self._served = 0
        self._closed = False
        self._warned_at: float | None = None
        weakref.finalize(self, _dismiss, self._queue, self._workers).atexit = False

    @property
    def closed(self) -> bool:
        """True once ``shutdown`` was called."""
        return self._closed

    def submit(self, job: Job) -> tuple[Ticket, bool]:
        """Queue a job.

        Returns:
            Its ticket, and whether a thread was free for it.

        Raises:
            PoolClosed: the pool was shut down.
            PoolSaturated: ``max_queue`` jobs are waiting already.
        """
        ticket = Ticket(job)
        saturated = False
        with self._lock:
            if self._closed:
                raise PoolClosed("this thread pool was shut down: make a new one")
            waiting = self._unfinished - len(self._workers)
            if waiting >= 0:
                if len(self._workers) < self.max_threads:
                    self._start_thread()
                elif self.max_queue is not None and waiting >= self.max_queue:
                    raise PoolSaturated(
                        f"all {self.max_threads} threads are busy and {waiting} requests are waiting:"
                        " raise max_threads or max_queue"
                    )
                else:
                    saturated = True
            self._unfinished += 1
            free = self._unfinished <= len(self._workers)
            self._queue.put(ticket)
        if saturated:
            self._warn_of_saturation()
        return ticket, free

    def withdraw(self, ticket: Ticket) -> bool:
        """Take a job back. Returns False if it has begun or was withdrawn before."""
        if not ticket.claim.acquire(blocking=False):
            return False
        with self._lock:
            self._unfinished -= 1
        return True

    def snapshot(self) -> PoolSnapshot:
        """Count threads and jobs."""
        with self._lock:
            threads = len(self._workers)
            latest = time.monotonic() - self.stuck_seconds
            began = [at for worker in self._workers if (at := worker.began_at) is not None]
            return PoolSnapshot(
                threads=threads,
                busy=len(began),
                idle=threads - len(began),
                queued=max(0, self._unfinished - len(began)),
                stuck=sum(at <= latest for at in began),
                served=self._served,
            )

    def shutdown(self, seconds: float | None = None) -> bool:
        """Take no more jobs, drop those not begun, and wait for the threads to end.

        Blocks the calling thread: not for a loop. Safe to call again.

        Args:
            seconds: longest time in seconds to wait; None for ``shutdown_seconds``.

        Returns:
            Whether all threads have ended.
        """
        self._close()
        deadline = time.monotonic() + (self.shutdown_seconds if seconds is None else seconds)
        current = threading.current_thread()
        for worker in list(self._workers):
            if worker is not current:
                worker.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            return not self._workers

    def _close(self) -> None:
        dropped: list[Ticket] = []
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(Empty):
                while True:
                    ticket = self._queue.get_nowait()
                    if ticket is not None and ticket.claim.acquire(blocking=False):
                        dropped.append(ticket)
            self._unfinished -= len(dropped)
            _dismiss(self._queue, self._workers)
        for ticket in dropped:
            ticket.job.abandon()

    def _start_thread(self) -> None:
        self._started_threads += 1
        worker = _Worker(self, f"{self.name}-{self._started_threads}")
        self._workers.append(worker)
        try:
            worker.start()
        except RuntimeError:
            # The system has no more threads to give: those that there are will do the work.
            self._workers.remove(worker)
            if not self._workers:
                raise

    def _warn_of_saturation(self) -> None:
        now = time.monotonic()
        if self._warned_at is None or now - self._warned_at > _WARNING_INTERVAL_SECONDS:
            self._warned_at = now
            _log.warning(
                "all %d threads of pool %r are busy: requests are waiting (raise max_threads, or set max_queue"
                " and queue_seconds to answer 503 instead)",
                self.max_threads,
                self.name,
            )

    def _finished(self, worker: _Worker) -> None:
        with self._lock:
            worker.began_at = None
            self._unfinished -= 1
            self._served += 1

    def _ended(self, worker: _Worker) -> None:
        with self._lock:
            self._workers.remove(worker)


class _Worker(threading.Thread):
    """A thread of a pool. While it waits it does not keep the pool alive: one that nobody uses any more ends."""

    def __init__(self, pool: ThreadPool, name: str) -> None:
        # A daemon, or an endless response would keep the interpreter from exiting; `_shutdown_at_exit` waits.
        super().__init__(name=name, daemon=True)
        self._pool = weakref.ref(pool)
        self._queue = pool._queue
        self._pool_name = pool.name
        self._on_thread_exit = pool._on_thread_exit
        self.began_at: float | None = None

    def run(self) -> None:
        try:
            while self._work_once():
                pass
        finally:
            self._say_goodbye()

    def _work_once(self) -> bool:
        ticket = self._queue.get()
        if ticket is None:
            return False
        if ticket.claim.acquire(blocking=False):
            self.began_at = time.monotonic()
            try:
                ticket.job.run()
            except BaseException:
                _log.exception("a job of pool %r raised", self._pool_name)
            pool = self._pool()
            if pool is not None:
                pool._finished(self)
        return True

    def _say_goodbye(self) -> None:
        try:
            if self._on_thread_exit is not None:
                self._on_thread_exit()
        except BaseException:
            _log.exception("on_thread_exit of pool %r raised", self._pool_name)
        finally:
            pool = self._pool()
            if pool is not None:
                pool._ended(self)


def _dismiss(queue: SimpleQueue[Ticket | None], workers: list[_Worker]) -> None:
    for _ in workers:
        queue.put(None)


_pools: weakref.WeakSet[ThreadPool] = weakref.WeakSet()


def _shutdown_at_exit() -> None:
    deadline = time.monotonic() + _EXIT_SECONDS
    for pool in list(_pools):
        pool._close()
    for pool in list(_pools):
        pool.shutdown(max(0.0, deadline - time.monotonic()))


def _begin_anew_after_fork() -> None:
    for pool in list(_pools):
        closed = pool._closed
        pool._begin()
        pool._closed = closed


atexit.register(_shutdown_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_after_fork)
