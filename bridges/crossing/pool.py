"""A thread pool for requests: bounded threads, a first-in-first-out queue, withdrawal of work not begun.

Guarantees:

- Jobs begin in the order in which they were submitted; each runs once, in one thread, unless it is withdrawn first.
- Threads start on demand, never more than ``max_threads``; an idle thread is used before a new one is started, the
  one that was busy last before the others.
- One thread at a time is being woken: it wakes the next when it finds more work than its own. Short jobs that arrive
  together are then done by few threads, with few switches, and jobs that wait still get a thread each.
- ``withdraw`` succeeds or the job has begun, never both and never neither.
- No exception of a job ends a thread.
- A job's ``finish`` runs when its thread counts as free, so that whoever it tells may submit the next one.
- ``shutdown`` takes no longer than asked. Jobs under way go on; jobs not begun are told so by ``abandon``.
- An interpreter exit waits for the threads of all pools for a bounded time, and hangs on none of them.
- A forked child starts with an empty pool of its own.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ..errors import PoolClosed, PoolSaturated

_log = logging.getLogger("bridges.adapters")

_WARNING_INTERVAL_SECONDS: Final = 60.0
_EXIT_SECONDS: Final = 5.0


class Job(Protocol):
    """What a pool runs."""

    def run(self) -> None:
        """Do the work; in a thread of the pool."""

    def finish(self) -> None:
        """Tell whoever waits that the work is done; in the same thread, which counts as free by now."""

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
    """A job in a pool: waiting, taken by a thread, or withdrawn."""

    __slots__ = ("job", "waiting")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.waiting = True


class ThreadPool:
    """Threads that run requests, shared by as many adapters as you like.

    Making one starts nothing: threads come with the work, and end when nobody uses the pool any more. All
    methods may be called from any thread.
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
        self.on_thread_exit = on_thread_exit
        self._warned_at: float | None = None
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        """Set what belongs to this process."""
        self._crew = crew = _Crew(self.max_threads, self.name, self.on_thread_exit)
        self._last_rites = weakref.finalize(self, crew.close)
        self._last_rites.atexit = False

    @property
    def closed(self) -> bool:
        """True once ``shutdown`` was called."""
        return self._crew.closed

    def submit(self, job: Job) -> tuple[Ticket, bool]:
        """Queue a job.

        Returns:
            Its ticket, and whether there is a thread for it, so that it need not wait for another job's end.

        Raises:
            PoolClosed: the pool was shut down.
            PoolSaturated: ``max_queue`` jobs are waiting already, or not one thread can be started.
        """
        ticket = Ticket(job)
        crew = self._crew
        with crew.lock:
            if crew.closed:
                raise PoolClosed("this thread pool was shut down: make a new one")
            waiting = crew.unfinished - self.max_threads
            is_full = self.max_queue is not None and waiting >= self.max_queue
            if not is_full:
                crew.jobs.append(ticket)
                crew.unfinished += 1
                if not crew.waking:
                    crew.wake_one()
        if waiting >= 0:
            self._warn_of_saturation()
        if is_full:
            raise PoolSaturated(
                f"all {self.max_threads} threads are busy and {waiting} requests are waiting:"
                " raise max_threads or max_queue"
            )
        return ticket, waiting < 0

    def withdraw(self, ticket: Ticket) -> bool:
        """Take a job back. Returns False if it has begun, was withdrawn before, or is not of this pool."""
        crew = self._crew
        with crew.lock:
            if not ticket.waiting or ticket not in crew.jobs:
                return False
            ticket.waiting = False
            crew.jobs.remove(ticket)
            crew.unfinished -= 1
        return True

    def snapshot(self) -> PoolSnapshot:
        """Count threads and jobs."""
        crew = self._crew
        with crew.lock:
            latest = time.monotonic() - self.stuck_seconds
            began = [at for worker in crew.workers if (at := worker.began_at) is not None]
            return PoolSnapshot(
                threads=len(crew.workers),
                busy=len(began),
                idle=len(crew.workers) - len(began),
                queued=len(crew.jobs),
                stuck=sum(at <= latest for at in began),
                served=crew.served,
            )

    def shutdown(self, seconds: float | None = None) -> bool:
        """Take no more jobs, drop those not begun, and wait for the threads to end.

        Blocks the calling thread: not for a loop. Safe to call again.

        Args:
            seconds: longest time in seconds to wait; None for ``shutdown_seconds``.

        Returns:
            Whether all threads have ended.
        """
        crew = self._crew
        crew.close()
        deadline = time.monotonic() + (self.shutdown_seconds if seconds is None else seconds)
        for worker in list(crew.workers):
            if worker is not threading.current_thread():
                worker.join(max(0.0, deadline - time.monotonic()))
        return not crew.workers

    def _warn_of_saturation(self) -> None:
        now = time.monotonic()
        if self._warned_at is None or now - self._warned_at > _WARNING_INTERVAL_SECONDS:
            self._warned_at = now
            _log.warning(
                "all %d threads of pool %r are busy: %s",
                self.max_threads,
                self.name,
                self._what_saturation_does(),
            )

    def _what_saturation_does(self) -> str:
        if self.max_queue == 0:
            return "requests are refused (raise max_threads, which the server calls threads, or max_queue)"
        return (
            "requests are waiting (raise max_threads, which the server calls threads, or set max_queue and"
            " queue_seconds to answer 503 instead)"
        )


class WebSocketPool(ThreadPool):
    """Threads of websockets: each holds one for its whole life, so that a further one does not wait but is refused."""

    def __init__(
        self, max_websockets: int, on_thread_exit: Callable[[], object] | None = None
    ) -> None:
        """Configure it.

        Args:
            max_websockets: most websockets at one time.
            on_thread_exit: as for ``ThreadPool``.
        """
        super().__init__(
            max_websockets, max_queue=0, on_thread_exit=on_thread_exit, name="bridges-websocket"
        )

    def _what_saturation_does(self) -> str:
        return "websockets are refused (raise max_websockets)"


class _Crew:
    """The threads of a pool and their work: what outlives the pool object until the threads have ended.

    Every attribute is changed under ``lock`` only.
    """

    def __init__(
        self, max_threads: int, name: str, on_thread_exit: Callable[[], object] | None
    ) -> None:
        # Reentrant: the garbage collector may end a pool in the middle of anything.
        self.lock = threading.RLock()
        self.jobs: deque[Ticket] = deque()
        self.workers: list[_Worker] = []
        self.idle: list[_Worker] = []
        self.waking = False
        self.unfinished = 0
        self.served = 0
        self.closed = False
        self.name = name
        self.on_thread_exit = on_thread_exit
        self._max_threads = max_threads
        self._started = 0

    def wake_one(self) -> None:
        """Get one more thread to work, if there may be one more."""
        if self.idle:
            self.waking = True
            self.idle.pop().bell.release()
        elif len(self.workers) < self._max_threads:
            self._start_one()

    def _start_one(self) -> None:
        self._started += 1
        worker = _Worker(self, f"{self.name}-{self._started}")
        self.workers.append(worker)
        self.waking = True
        try:
            worker.start()
        except RuntimeError as error:
            # Those threads that there are will do the work.
            self.waking = False
            self.workers.remove(worker)
            if not self.workers:
                self.jobs.clear()
                self.unfinished = 0
                raise PoolSaturated("the system has no thread to give: raise its limits") from error

    def next_job(self, worker: _Worker, woken: bool) -> Ticket | None:
        """Take a job for a thread, which counts as idle where there is none."""
        with self.lock:
            if woken:
                self.waking = False
            if not self.jobs:
                if not self.closed:
                    self.idle.append(worker)
                return None
            ticket = self.jobs.popleft()
            ticket.waiting = False
            if self.jobs and not self.waking:
                self.wake_one()
            worker.began_at = time.monotonic()
            return ticket

    def count_finished(self, worker: _Worker) -> None:
        """Count a job as done and its thread as free."""
        with self.lock:
            worker.began_at = None
            self.unfinished -= 1
            self.served += 1

    def close(self) -> None:
        """Take no more jobs, tell those not begun, and let the threads end when they are through."""
        with self.lock:
            self.closed = True
            dropped = list(self.jobs)
            for ticket in dropped:
                ticket.waiting = False
            self.jobs.clear()
            self.unfinished -= len(dropped)
            while self.idle:
                self.idle.pop().bell.release()
        for ticket in dropped:
            try:
                ticket.job.abandon()
            except BaseException:
                _log.exception("a job of pool %r raised", self.name)

    def dismiss(self, worker: _Worker) -> None:
        """Count a thread out."""
        with self.lock:
            self.workers.remove(worker)


class _Worker(threading.Thread):
    def __init__(self, crew: _Crew, name: str) -> None:
        # A daemon, or an endless response would keep the interpreter from exiting; `_shutdown_at_exit` waits.
        super().__init__(name=name, daemon=True)
        self._crew = crew
        self.bell = threading.Lock()
        self.bell.acquire()
        self.began_at: float | None = None

    def run(self) -> None:
        crew, woken = self._crew, True
        try:
            while True:
                ticket = crew.next_job(self, woken)
                woken = False
                if ticket is not None:
                    self._do(ticket.job)
                elif crew.closed:
                    break
                else:
                    self.bell.acquire()
                    woken = True
        finally:
            self._say_goodbye()

    def _do(self, job: Job) -> None:
        try:
            job.run()
        except BaseException:
            _log.exception("a job of pool %r raised", self._crew.name)
        self._crew.count_finished(self)
        try:
            job.finish()
        except BaseException:
            _log.exception("a job of pool %r raised", self._crew.name)

    def _say_goodbye(self) -> None:
        try:
            if self._crew.on_thread_exit is not None:
                self._crew.on_thread_exit()
        except BaseException:
            _log.exception("on_thread_exit of pool %r raised", self._crew.name)
        finally:
            self._crew.dismiss(self)


_pools: weakref.WeakSet[ThreadPool] = weakref.WeakSet()


def _shutdown_at_exit() -> None:
    deadline = time.monotonic() + _EXIT_SECONDS
    pools = list(_pools)
    for pool in pools:
        pool._crew.close()
    for pool in pools:
        pool.shutdown(max(0.0, deadline - time.monotonic()))


def _begin_anew_after_fork() -> None:
    for pool in list(_pools):
        closed = pool.closed
        pool._last_rites.detach()  # that crew, its lock and its jobs are the parent's
        pool._begin()
        pool._crew.closed = closed


atexit.register(_shutdown_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_after_fork)
