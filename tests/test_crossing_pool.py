"""The pool: which thread runs which job when, what ends it, and what is told to whom."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from crossing_tools import (
    PATIENCE_SECONDS,
    Running,
    Work,
    dead_gate,
    falling_asleep,
    held_at_birth,
    soon,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridges import ThreadPool
from bridges.crossing.pool import PoolSnapshot
from bridges.errors import CrossingError, PoolClosed, PoolSaturated


@pytest.fixture
def make_pool() -> Iterator[Callable[..., ThreadPool]]:
    """Make pools that are shut down after the test."""
    pools: list[ThreadPool] = []

    def make(*args: Any, **options: Any) -> ThreadPool:
        pools.append(ThreadPool(*args, **options))
        return pools[-1]

    yield make
    for pool in pools:
        assert pool.shutdown(PATIENCE_SECONDS), "a thread did not end"


def run_all(pool: ThreadPool, works: list[Work]) -> None:
    """Submit jobs and wait for them."""
    for work in works:
        pool.submit(work)
    for work in works:
        soon(work.finished)


def begin_held(pool: ThreadPool, count: int) -> list[Work]:
    """Keep threads busy until ``go`` is set."""
    works = [Work(held=True) for _ in range(count)]
    for work in works:
        pool.submit(work)
    for work in works:
        soon(work.begun)
    return works


def release(*works: Work) -> None:
    """Let held jobs go on, and wait for their ends."""
    for work in works:
        work.go.set()
    for work in works:
        soon(work.finished)


# Order.


@pytest.mark.spec("FR 95")
def test_jobs_begin_in_the_order_of_submission(make_pool):
    """One thread runs what waits first in, first out."""
    pool = make_pool(1)
    (first,) = begin_held(pool, 1)
    order: list[int] = []
    works = [Work(lambda number=number: order.append(number)) for number in range(50)]
    for work in works:
        pool.submit(work)
    release(first, *works)
    assert order == list(range(50))


def test_each_end_begins_the_job_that_waits_longest(make_pool):
    """With several threads, whichever becomes free takes the head of the queue."""
    pool = make_pool(3)
    works = begin_held(pool, 3)
    waiting = [Work(held=True) for _ in range(4)]
    for work in waiting:
        pool.submit(work)
    for place, freed in enumerate((works[1], works[0], works[2], waiting[0])):
        release(freed)
        soon(waiting[place].begun)
        assert not any(work.begun.is_set() for work in waiting[place + 1 :])
    release(*waiting)


def test_each_job_runs_once_in_one_thread(make_pool):
    """Many submitting threads, many jobs: none is lost, none runs twice, no more threads than allowed at once."""
    pool = make_pool(4)
    running, peak, lock = 0, 0, threading.Lock()

    def count() -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        with lock:
            running -= 1

    start = threading.Barrier(6)

    def submit_many() -> list[Work]:
        start.wait(PATIENCE_SECONDS)
        works = [Work(count) for _ in range(200)]
        for work in works:
            pool.submit(work)
        return works

    submitters = [Running(submit_many) for _ in range(6)]
    works = [work for submitter in submitters for work in submitter.result()]
    for work in works:
        soon(work.finished)
    assert [work.runs for work in works] == [1] * 1200
    assert peak <= 4
    assert pool.snapshot().served == 1200
    assert pool.snapshot().threads <= 4


def test_submit_says_whether_there_is_a_thread(make_pool):
    """A job has a thread as long as fewer are unfinished than there may be threads."""
    pool = make_pool(2)
    works = [Work(held=True) for _ in range(4)]
    assert [pool.submit(work)[1] for work in works] == [True, True, False, False]
    release(*works)


# Threads on demand.


@pytest.mark.spec("FR 90")
def test_no_thread_before_the_first_job(make_pool):
    """Making a pool starts nothing."""
    assert make_pool().snapshot() == PoolSnapshot(0, 0, 0, 0, 0, 0)


@pytest.mark.spec("FR 89")
def test_jobs_that_wait_for_each_other_get_a_thread_each(make_pool):
    """As many jobs as threads are allowed run at the same time, however fast they were submitted."""
    pool = make_pool(8)
    meeting = threading.Barrier(8)
    run_all(pool, [Work(lambda: meeting.wait(PATIENCE_SECONDS)) for _ in range(8)])
    assert pool.snapshot().threads == 8


@pytest.mark.spec("FR 95")
def test_never_more_threads_than_allowed(make_pool):
    """Jobs beyond ``max_threads`` wait although nobody is idle."""
    pool = make_pool(2)
    works = begin_held(pool, 2)
    waiting = [Work() for _ in range(5)]
    for work in waiting:
        pool.submit(work)
    snapshot = pool.snapshot()
    assert (snapshot.threads, snapshot.busy, snapshot.queued) == (2, 2, 5)
    release(*works, *waiting)
    assert {work.thread for work in waiting} <= {work.thread for work in works}


def test_idle_thread_is_used_before_a_new_one(make_pool):
    """Jobs one after another are all run by one thread."""
    pool = make_pool(10)
    with falling_asleep() as asleep:
        works = [Work() for _ in range(20)]
        for work in works:
            run_all(pool, [work])
            assert asleep.acquire(timeout=PATIENCE_SECONDS)
        assert len({work.thread for work in works}) == 1
        assert pool.snapshot() == PoolSnapshot(1, 0, 1, 0, 0, 20)


def test_thread_that_was_busy_last_is_used_first(make_pool):
    """Of several idle threads the warmest gets the job."""
    pool = make_pool(3)
    with falling_asleep() as asleep:
        works = begin_held(pool, 3)
        for place in (1, 2, 0):
            release(works[place])
            assert asleep.acquire(timeout=PATIENCE_SECONDS)
        again = begin_held(pool, 3)
        assert [work.thread for work in again] == [works[place].thread for place in (0, 2, 1)]
        release(*again)


def test_one_thread_at_a_time_is_being_woken(make_pool):
    """Short jobs that arrive before a new thread runs are done by it alone; it calls for one more and no other."""
    pool = make_pool(10)
    with held_at_birth() as births:
        works = [Work() for _ in range(30)]
        for work in works:
            pool.submit(work)
        assert pool.snapshot().threads == 1
        births.release()
        for work in works:
            soon(work.finished)
        assert len({work.thread for work in works}) == 1
        assert pool.snapshot().threads == 2  # the one that was called for when 29 jobs waited
        births.release()


def test_one_idle_thread_at_a_time_is_being_woken(make_pool):
    """A burst of jobs that wait for each other wakes every idle thread in the end."""
    pool = make_pool(5)
    with falling_asleep() as asleep:
        works = begin_held(pool, 5)
        release(*works)
        for _ in works:
            assert asleep.acquire(timeout=PATIENCE_SECONDS)
        meeting = threading.Barrier(5)
        again = [Work(lambda: meeting.wait(PATIENCE_SECONDS)) for _ in range(5)]
        run_all(pool, again)
    assert {work.thread for work in again} == {work.thread for work in works}


@pytest.mark.spec("FR 90")
def test_thread_names(make_pool):
    """Threads are called by the pool's name and a number."""
    for options, expected in (
        ({}, "bridges-worker"),
        ({"name": "bridges-reports"}, "bridges-reports"),
    ):
        works = begin_held(make_pool(3, **options), 3)
        names = sorted(work.thread.name for work in works)
        assert names == [f"{expected}-{number}" for number in (1, 2, 3)]
        release(*works)


@pytest.mark.spec("FR 91")
def test_pool_of_one_thread_runs_everything_in_it(make_pool):
    """An application that is not thread-safe sees one thread."""
    works = [Work() for _ in range(30)]
    run_all(make_pool(1), works)
    assert len({work.thread for work in works}) == 1


def test_thread_keeps_nothing_of_the_last_job(make_pool):
    """A request is free as soon as it is over, not when the thread gets the next one."""
    pool = make_pool(1)
    with falling_asleep() as asleep:
        work = Work()
        remains = weakref.ref(work)
        run_all(pool, [work])
        assert asleep.acquire(timeout=PATIENCE_SECONDS)
        del work
        assert remains() is None


# The queue's limit.


@pytest.mark.spec("FR 95")
@pytest.mark.parametrize("max_queue", [0, 1, 3])
def test_full_queue_refuses(make_pool, max_queue):
    """``max_queue`` jobs may wait; one more is refused with what to do about it, and room is used again."""
    pool = make_pool(2, max_queue=max_queue)
    works = begin_held(pool, 2)
    waiting = [Work() for _ in range(max_queue)]
    tickets = [pool.submit(work)[0] for work in waiting]
    refused = Work()
    for _ in range(2):
        with pytest.raises(PoolSaturated, match="max_threads or max_queue"):
            pool.submit(refused)
    assert pool.snapshot().queued == max_queue
    if tickets:
        assert pool.withdraw(tickets.pop(0))
        waiting[0] = Work()
        pool.submit(waiting[0])
    release(*works, *waiting)
    run_all(pool, [Work()])
    assert refused.runs == 0


def test_finish_may_submit_the_next_job(make_pool):
    """A thread counts as free before ``finish`` runs, even where nothing may wait."""
    pool = make_pool(1, max_queue=0)
    answers: list[Any] = []
    following = Work()

    class Chain(Work):
        def finish(self) -> None:
            answers.append(pool.snapshot())
            answers.append(pool.submit(following)[1])
            super().finish()

    run_all(pool, [Chain()])
    soon(following.finished)
    assert answers == [PoolSnapshot(1, 0, 1, 0, 0, 1), True]


def test_finish_runs_in_the_thread_of_the_job(make_pool):
    """What a job hands over at its end, it hands over in its own thread."""
    seen: list[threading.Thread] = []

    class Told(Work):
        def finish(self) -> None:
            seen.append(threading.current_thread())
            super().finish()

    work = Told()
    run_all(make_pool(), [work])
    assert seen == [work.thread]


@pytest.mark.spec("FR 94")
@pytest.mark.spec("FR 95")
def test_saturation_warns_once(make_pool, caplog):
    """The first job that has to wait is worth a warning; the following ones are not, for a minute."""
    pool = make_pool(1, name="bridges-small")
    (work,) = begin_held(pool, 1)
    assert not caplog.records
    waiting = [Work() for _ in range(5)]
    for queued in waiting:
        pool.submit(queued)
    assert [(r.name, r.levelno) for r in caplog.records] == [("bridges.adapters", logging.WARNING)]
    assert "bridges-small" in caplog.text
    assert "max_threads" in caplog.text
    release(work, *waiting)


@pytest.mark.spec("FR 95")
def test_a_pool_without_a_queue_warns_when_it_refuses(make_pool, caplog):
    """Nobody ever waits there, so that the first refusal is what the operator has to learn of."""
    pool = make_pool(1, max_queue=0)
    (work,) = begin_held(pool, 1)
    for _ in range(2):
        with pytest.raises(PoolSaturated):
            pool.submit(Work())
    (record,) = caplog.records
    assert "requests are refused" in record.getMessage()
    release(work)


def test_saturation_warns_again_after_a_minute(make_pool, caplog, monkeypatch):
    """A pool that is too small for hours says so more than once."""
    real, ahead = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead)
    pool = make_pool(1)
    (work,) = begin_held(pool, 1)
    waiting = [Work() for _ in range(4)]
    for queued, ahead in zip(waiting, (0.0, 59.0, 61.0, 62.0), strict=True):  # noqa: B007
        pool.submit(queued)
    assert len(caplog.records) == 2
    release(work, *waiting)


# Withdrawal.


def test_withdrawn_job_never_begins(make_pool):
    """A job that waits can be taken back, once, and those around it keep their order."""
    pool = make_pool(1)
    (work,) = begin_held(pool, 1)
    order: list[int] = []
    waiting = [Work(lambda number=number: order.append(number)) for number in range(5)]
    tickets = [pool.submit(queued)[0] for queued in waiting]
    assert pool.withdraw(tickets[2])
    assert not pool.withdraw(tickets[2])
    assert pool.withdraw(tickets[0])
    assert pool.snapshot().queued == 3
    left = [waiting[number] for number in (1, 3, 4)]
    release(work, *left)
    assert order == [1, 3, 4]
    assert not waiting[2].abandoned.is_set()


def test_job_that_has_begun_cannot_be_withdrawn(make_pool):
    """While it runs and after its end, a job stays begun."""
    pool = make_pool(1)
    work = Work(held=True)
    ticket, _ = pool.submit(work)
    soon(work.begun)
    assert not pool.withdraw(ticket)
    release(work)
    assert not pool.withdraw(ticket)


def test_withdrawal_before_the_thread_that_was_started_for_the_job(make_pool):
    """A job whose thread is on its way may be withdrawn; the thread then serves the next one."""
    pool = make_pool(4)
    with held_at_birth() as births:
        withdrawn, work = Work(), Work()
        ticket, _ = pool.submit(withdrawn)
        assert pool.withdraw(ticket)
        births.release()
        births.release()
        run_all(pool, [work])
    assert withdrawn.runs == 0
    assert pool.snapshot().served == 1


def test_withdrawal_of_all_jobs_leaves_a_pool_that_works(make_pool):
    """A thread that was woken for nothing does not keep later jobs from their threads."""
    pool = make_pool(3)
    with held_at_birth() as births:
        tickets = [pool.submit(Work())[0] for _ in range(5)]
        assert [pool.withdraw(ticket) for ticket in tickets] == [True] * 5
        births.release(10)
        meeting = threading.Barrier(3)
        run_all(pool, [Work(lambda: meeting.wait(PATIENCE_SECONDS)) for _ in range(3)])
    assert pool.snapshot().served == 3


@pytest.mark.slow
def test_withdrawal_races_with_the_beginning(make_pool):
    """In 10,000 races between a withdrawal and a thread exactly one of them gets the job."""
    pool = make_pool(2, max_queue=0)
    begun: list[int] = []
    done = threading.Semaphore(0)

    class Race:
        def __init__(self, number: int) -> None:
            self.number = number

        def run(self) -> None:
            begun.append(self.number)

        def finish(self) -> None:
            done.release()

        def abandon(self) -> None:
            raise AssertionError("nobody shuts this pool down")

    withdrawn: list[int] = []
    for number in range(10_000):
        ticket, _ = pool.submit(Race(number))
        if pool.withdraw(ticket):
            withdrawn.append(number)
        else:
            assert done.acquire(timeout=PATIENCE_SECONDS), "a job was lost"
    assert sorted(begun + withdrawn) == list(range(10_000))
    assert pool.snapshot().served == len(begun)


def test_withdrawal_by_two_threads_at_once(make_pool):
    """Of two withdrawals of one job one succeeds."""
    pool = make_pool(1)
    (work,) = begin_held(pool, 1)
    rounds = 300
    tickets = [pool.submit(Work())[0] for _ in range(rounds)]
    meeting = threading.Barrier(2)

    def withdraw_all() -> list[bool]:
        answers = []
        for ticket in tickets:
            meeting.wait(PATIENCE_SECONDS)
            answers.append(pool.withdraw(ticket))
        return answers

    one, other = Running(withdraw_all), Running(withdraw_all)
    assert [a + b for a, b in zip(one.result(), other.result(), strict=True)] == [1] * rounds
    release(work)


# Figures.


def test_snapshot_counts(make_pool):
    """Busy, idle, queued and served add up."""
    pool = make_pool(2)
    with falling_asleep() as asleep:
        works = begin_held(pool, 2)
        waiting = Work(held=True)
        pool.submit(waiting)
        assert pool.snapshot() == PoolSnapshot(2, 2, 0, 1, 0, 0)
        release(works[0])
        soon(waiting.begun)
        assert pool.snapshot() == PoolSnapshot(2, 2, 0, 0, 0, 1)
        release(works[1])
        assert asleep.acquire(timeout=PATIENCE_SECONDS)
        assert pool.snapshot() == PoolSnapshot(2, 1, 1, 0, 0, 2)
        release(waiting)
        assert pool.snapshot() == PoolSnapshot(2, 0, 2, 0, 0, 3)


@pytest.mark.spec("FR 37")
def test_snapshot_counts_stuck_threads(make_pool, monkeypatch):
    """A thread that is busy with one job for ``stuck_seconds`` counts as stuck until that job ends."""
    real, ahead = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead)
    pool = make_pool(2, stuck_seconds=100.0)
    works = begin_held(pool, 1)
    ahead = 90.0
    works += begin_held(pool, 1)
    assert pool.snapshot().stuck == 0
    ahead = 110.0
    assert pool.snapshot().stuck == 1
    ahead = 300.0
    assert pool.snapshot().stuck == 2
    release(*works)
    assert pool.snapshot().stuck == 0


# No exception ends a thread.


class Bang(BaseException):
    """Not even an Exception."""


@pytest.mark.spec("FR 33")
@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, Bang]
)
@pytest.mark.parametrize("place", ["run", "finish"])
def test_no_exception_ends_a_thread(make_pool, caplog, error, place):
    """Whatever a job raises is logged once, and its thread runs the next one."""
    pool = make_pool(1)

    def fail() -> None:
        raise error("on purpose")

    class BadEnd(Work):
        def finish(self) -> None:
            super().finish()
            fail()

    bad = Work(fail) if place == "run" else BadEnd()
    good = Work()
    run_all(pool, [bad, good])
    assert bad.thread is good.thread
    assert pool.snapshot().served == 2
    logged = [(record.name, record.exc_info[0]) for record in caplog.records if record.exc_info]
    assert logged == [("bridges.adapters", error)]


def test_job_that_exits_its_thread(make_pool):
    """``sys.exit`` in a job is an exception as any other."""
    pool = make_pool(1)
    works = [Work(sys.exit), Work()]
    run_all(pool, works)
    assert len({work.thread for work in works}) == 1


def test_loop_that_has_ended_costs_no_thread(make_pool, anyio_backend):
    """A job whose loop has ended learns it from an exception; its thread runs the next job."""
    gate = dead_gate(anyio_backend)
    pool = make_pool(1)
    told: list[type[BaseException]] = []

    def ring() -> None:
        try:
            gate.ring(lambda: None)
        except CrossingError as error:
            told.append(type(error))
            raise

    works = [Work(ring), Work()]
    run_all(pool, works)
    assert told == [CrossingError]
    assert len({work.thread for work in works}) == 1


# on_thread_exit.


@pytest.mark.spec("FR 93")
def test_on_thread_exit_runs_in_each_thread_as_its_last_act():
    """Every thread closes what it owns, itself and after its last job."""
    acts: list[tuple[str, threading.Thread]] = []
    pool = ThreadPool(3, on_thread_exit=lambda: acts.append(("exit", threading.current_thread())))
    meeting = threading.Barrier(3)

    def act() -> None:
        meeting.wait(PATIENCE_SECONDS)
        acts.append(("job", threading.current_thread()))

    works = [Work(act) for _ in range(3)]
    run_all(pool, works)
    assert {name for name, _ in acts} == {"job"}
    assert pool.shutdown(PATIENCE_SECONDS)
    for work in works:
        assert [name for name, thread in acts if thread is work.thread] == ["job", "exit"]


@pytest.mark.spec("FR 93")
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_on_thread_exit_that_raises(caplog, error):
    """A hook that fails is logged for each thread, and all of them end."""

    def fail() -> None:
        raise error("on purpose")

    pool = ThreadPool(2, on_thread_exit=fail)
    works = begin_held(pool, 2)
    release(*works)
    assert pool.shutdown(PATIENCE_SECONDS)
    assert [record.exc_info[0] for record in caplog.records] == [error, error]
    assert pool.snapshot().threads == 0


def test_shutdown_waits_for_on_thread_exit():
    """A thread that still closes its connections has not ended."""
    closing, may_close = threading.Event(), threading.Event()

    def close_slowly() -> None:
        closing.set()
        soon(may_close)

    pool = ThreadPool(1, on_thread_exit=close_slowly)
    run_all(pool, [Work()])
    assert not pool.shutdown(0)
    soon(closing)
    assert not pool.shutdown(0)
    may_close.set()
    assert pool.shutdown(PATIENCE_SECONDS)


# Shutdown.


def test_shutdown_of_a_pool_never_used():
    """There is nothing to wait for, and no job is taken any more."""
    pool = ThreadPool()
    assert not pool.closed
    assert pool.shutdown()
    assert pool.closed
    with pytest.raises(PoolClosed, match="make a new one"):
        pool.submit(Work())


@pytest.mark.spec("FR 96")
def test_shutdown_is_bounded():
    """Jobs under way outlast a shutdown, which says so; a later one says when they are over."""
    pool = ThreadPool(2, shutdown_seconds=0)
    works = begin_held(pool, 2)
    assert not pool.shutdown()
    assert not pool.shutdown(0.001)
    assert pool.snapshot().busy == 2
    release(works[0])
    assert not pool.shutdown()
    release(works[1])
    assert pool.shutdown(PATIENCE_SECONDS)
    assert pool.shutdown(0)
    assert pool.snapshot() == PoolSnapshot(0, 0, 0, 0, 0, 2)


def test_shutdown_tells_jobs_not_begun():
    """Jobs that wait are abandoned, in order, and cannot be withdrawn any more; none of them runs."""
    pool = ThreadPool(1)
    (work,) = begin_held(pool, 1)
    told: list[int] = []

    class Abandoned(Work):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def abandon(self) -> None:
            told.append(self.number)

    waiting = [Abandoned(number) for number in range(4)]
    tickets = [pool.submit(queued)[0] for queued in waiting]
    assert pool.withdraw(tickets[1])
    assert not pool.shutdown(0)
    assert told == [0, 2, 3]
    assert [pool.withdraw(ticket) for ticket in tickets] == [False] * 4
    assert pool.snapshot().queued == 0
    release(work)
    assert pool.shutdown(PATIENCE_SECONDS)
    assert told == [0, 2, 3]
    assert [queued.runs for queued in waiting] == [0] * 4


def test_abandon_that_raises_does_not_keep_others_from_knowing():
    """Every job that is dropped is told so, whatever the ones before make of it, and the shutdown goes on."""

    class BadLoser(Work):
        def abandon(self) -> None:
            raise LookupError("on purpose")

    pool = ThreadPool(1)
    (work,) = begin_held(pool, 1)
    pool.submit(BadLoser())
    good = Work()
    pool.submit(good)
    try:
        assert not pool.shutdown(0)
        assert good.abandoned.is_set()
    finally:
        release(work)
        assert pool.shutdown(PATIENCE_SECONDS)


def test_abandon_may_use_the_pool():
    """A job learns of the shutdown without any lock held: it may look at the pool, from other threads too."""
    pool = ThreadPool(1)
    (work,) = begin_held(pool, 1)
    seen: list[PoolSnapshot] = []

    class Curious(Work):
        def abandon(self) -> None:
            seen.append(Running(pool.snapshot).result())

    pool.submit(Curious())
    assert not pool.shutdown(0)
    assert seen == [PoolSnapshot(1, 1, 0, 0, 0, 0)]
    release(work)
    assert pool.shutdown(PATIENCE_SECONDS)


def test_shutdown_from_a_thread_of_the_pool():
    """A job may shut its own pool down: it does not wait for itself, and the other threads end."""
    pool = ThreadPool(3)
    answers: list[bool] = []
    alive: list[bool] = []
    others = begin_held(pool, 2)
    release(*others)

    def shut_down() -> None:
        answers.append(pool.shutdown(PATIENCE_SECONDS))
        alive.extend(o.thread.is_alive() for o in others if o.thread is not work.thread)

    work = Work(shut_down)
    run_all(pool, [work])
    assert answers == [False]
    assert True not in alive
    assert pool.shutdown(PATIENCE_SECONDS)


def test_shutdown_by_two_threads_of_the_pool():
    """Two jobs that shut the pool down wait for each other no longer than asked."""
    pool = ThreadPool(2)
    meeting = threading.Barrier(2)
    answers: list[bool] = []

    def shut_down() -> None:
        meeting.wait(PATIENCE_SECONDS)
        answers.append(pool.shutdown(0.001))
        meeting.wait(PATIENCE_SECONDS)

    run_all(pool, [Work(shut_down), Work(shut_down)])
    assert answers == [False, False]
    assert pool.shutdown(PATIENCE_SECONDS)


def test_shutdown_while_a_thread_starts():
    """A thread that was started for a job which the shutdown drops ends at its first step."""
    pool = ThreadPool(2)
    with held_at_birth() as births:
        work = Work()
        pool.submit(work)
        assert not pool.shutdown(0)
        assert work.abandoned.is_set()
        births.release(5)
        assert pool.shutdown(PATIENCE_SECONDS)
    assert work.runs == 0


# A pool that nobody uses any more.


def test_collected_pool_ends_its_threads():
    """Threads of a pool that was forgotten end, and close what they own."""
    exits: list[int] = []
    pool = ThreadPool(2, on_thread_exit=lambda: exits.append(1))
    works = begin_held(pool, 2)
    release(*works)
    remains = weakref.ref(pool)
    del pool
    gc.collect()
    assert remains() is None
    for work in works:
        work.thread.join(PATIENCE_SECONDS)
        assert not work.thread.is_alive()
    assert exits == [1, 1]


def test_collected_pool_lets_its_jobs_go_on():
    """A job under way outlives its pool; its thread ends after it."""
    pool = ThreadPool(1)
    (work,) = begin_held(pool, 1)
    del pool
    gc.collect()
    assert not work.finished.is_set()
    release(work)
    work.thread.join(PATIENCE_SECONDS)
    assert not work.thread.is_alive()


# A system that has no more threads to give.


@pytest.fixture
def no_more_threads(monkeypatch) -> Iterator[pytest.MonkeyPatch]:
    """Let every start of a thread fail from the moment that ``setattr`` is called with it."""
    with monkeypatch.context() as patch:
        yield patch


def _refuse_to_start(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_jobs_go_to_the_threads_that_there_are(make_pool, no_more_threads):
    """Where no thread can be added, those that exist do the work."""
    pool = make_pool(5)
    (work,) = begin_held(pool, 1)
    no_more_threads.setattr(threading.Thread, "start", _refuse_to_start)
    waiting = [Work() for _ in range(3)]
    for queued in waiting:
        pool.submit(queued)
    assert pool.snapshot().threads == 1
    release(work, *waiting)
    assert {queued.thread for queued in waiting} == {work.thread}
    no_more_threads.undo()
    meeting = threading.Barrier(5)
    run_all(pool, [Work(lambda: meeting.wait(PATIENCE_SECONDS)) for _ in range(5)])


def test_thread_that_cannot_call_for_help_works_on(make_pool, no_more_threads):
    """A thread that finds more work than its own, and cannot start another thread, does it all."""
    pool = make_pool(5)
    with held_at_birth() as births:
        works = [Work() for _ in range(4)]
        for work in works:
            pool.submit(work)
        no_more_threads.setattr(threading.Thread, "start", _refuse_to_start)
        births.release()
        for work in works:
            soon(work.finished)
    assert len({work.thread for work in works}) == 1


def test_job_without_any_thread_is_refused(make_pool, no_more_threads):
    """Where not even one thread can be had the job is refused and forgotten, and later ones run."""
    pool = make_pool(2, max_queue=0)
    refused = Work()
    no_more_threads.setattr(threading.Thread, "start", _refuse_to_start)
    for _ in range(4):
        with pytest.raises((RuntimeError, CrossingError)):
            pool.submit(refused)
    assert pool.snapshot() == PoolSnapshot(0, 0, 0, 0, 0, 0)
    no_more_threads.undo()
    run_all(pool, [Work(), Work()])
    assert refused.runs == 0


# Options.


@pytest.mark.parametrize(
    "options",
    [
        {"max_threads": 0},
        {"max_queue": -1},
        {"queue_seconds": 0},
        {"stuck_seconds": 0},
        {"shutdown_seconds": -1},
    ],
    ids=str,
)
def test_option_out_of_range(options):
    """The error names the option."""
    with pytest.raises(ValueError, match=next(iter(options))):
        ThreadPool(**options)


# A model.


class PoolModel(RuleBasedStateMachine):
    """A pool of three threads against a list of what runs and a list of what waits."""

    THREADS = 3
    QUEUE = 4

    def __init__(self) -> None:
        super().__init__()
        self.pool = ThreadPool(self.THREADS, max_queue=self.QUEUE)
        self.running: list[Work] = []
        self.waiting: list[Work] = []
        self.over: list[Work] = []
        self.withdrawn: list[Work] = []
        self.tickets: dict[Work, Any] = {}
        self.closed = False

    @rule()
    def submit(self) -> None:
        work = Work(held=True)
        if self.closed:
            with pytest.raises(PoolClosed):
                self.pool.submit(work)
        elif len(self.running) + len(self.waiting) >= self.THREADS + self.QUEUE:
            with pytest.raises(PoolSaturated):
                self.pool.submit(work)
        else:
            self.tickets[work], free = self.pool.submit(work)
            assert free == (len(self.running) < self.THREADS)
            self.waiting.append(work)
            self._advance()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end_one(self, data: st.DataObject) -> None:
        work = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        release(work)
        self.over.append(work)
        self._advance()

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(list(self.tickets)))
        assert self.pool.withdraw(self.tickets[work]) == (work in self.waiting)
        if work in self.waiting:
            self.waiting.remove(work)
            self.withdrawn.append(work)

    @precondition(lambda self: len(self.over) > 6)
    @rule()
    def shut_down(self) -> None:
        assert self.pool.shutdown(PATIENCE_SECONDS if not self.running else 0) == (not self.running)
        for work in self.waiting:
            assert work.abandoned.is_set()
        self.withdrawn += self.waiting
        self.waiting = []
        self.closed = True

    def _advance(self) -> None:
        while self.waiting and len(self.running) < self.THREADS:
            work = self.waiting.pop(0)
            soon(work.begun)
            self.running.append(work)

    @invariant()
    def figures(self) -> None:
        snapshot = self.pool.snapshot()
        assert (snapshot.busy, snapshot.queued) == (len(self.running), len(self.waiting))
        assert snapshot.served == len(self.over)
        assert snapshot.threads <= self.THREADS
        assert snapshot.threads == snapshot.busy + snapshot.idle
        assert not any(work.runs for work in self.waiting + self.withdrawn)

    def teardown(self) -> None:
        self.pool.shutdown(0)
        release(*self.running)
        assert self.pool.shutdown(PATIENCE_SECONDS)


TestPoolModel = pytest.mark.slow(PoolModel.TestCase)
TestPoolModel.settings = settings(max_examples=40, stateful_step_count=30)


# Processes of their own.

_PRELUDE = """
import gc, logging, os, sys, threading, warnings
from bridges import ThreadPool

logging.disable(logging.WARNING)  # of saturation
# Python 3.12 warns of every fork in a process with threads, which is what these scripts are about.
warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)

class Job:
    def __init__(self, run=lambda: None):
        self._run, self.begun, self.over = run, threading.Event(), threading.Event()
        self.abandoned = False
    def run(self):
        self.begun.set()
        self._run()
    def finish(self):
        self.over.set()
    def abandon(self):
        self.abandoned = True
"""


def run_script(script: str) -> list[str]:
    """Run Python; give the lines that it printed, after it ended well and without complaints."""
    ended = subprocess.run(
        [sys.executable, "-c", _PRELUDE + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.spec("FR 96")
def test_interpreter_exit_waits_for_jobs_under_way():
    """A job that ends soon after the main thread is not cut off, and its thread says goodbye."""
    lines = run_script("""
        def outlast():
            threading.main_thread().join()
            print("job over", flush=True)

        pool = ThreadPool(2, on_thread_exit=lambda: print("thread over", flush=True))
        job = Job(outlast)
        pool.submit(job)
        job.begun.wait()
    """)
    assert lines == ["job over", "thread over"]


@pytest.mark.slow
@pytest.mark.spec("FR 96")
def test_interpreter_exit_does_not_hang_on_a_stuck_job():
    """A process ends well, for all that two of its pools have jobs that never end and one that was never used."""
    lines = run_script("""
        import bridges.crossing.pool
        bridges.crossing.pool._EXIT_SECONDS = 0.2  # or the test would take as long as a user does

        unused, pools = ThreadPool(), [ThreadPool(1), ThreadPool(1)]
        waiting = Job()
        for pool in pools:
            job = Job(threading.Event().wait)
            pool.submit(job)
            job.begun.wait()
        pools[0].submit(waiting)
        idle = ThreadPool()
        served = Job()
        idle.submit(served)
        served.over.wait()
        print("end", flush=True)
    """)
    assert lines == ["end"]


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.mark.slow
@needs_fork
@pytest.mark.spec("FR 72")
def test_forked_child_has_a_pool_of_its_own():
    """A child begins with an empty pool that works; the parent's goes on with its jobs; a closed one stays closed."""
    lines = run_script("""
        def work(pool, who):
            job = Job(lambda: print(who, "works", flush=True))
            pool.submit(job)
            assert job.over.wait(10)

        pool, closed = ThreadPool(1), ThreadPool(1)
        closed.shutdown()
        go = threading.Event()
        held, queued = Job(go.wait), Job()
        pool.submit(held)
        held.begun.wait()
        pool.submit(queued)
        child = os.fork()
        if not child:
            s = pool.snapshot()
            print("child begins", s.threads, s.busy, s.queued, closed.closed, flush=True)
            work(pool, "child")
            assert pool.shutdown(10)
            os._exit(0 if not queued.begun.is_set() else 1)
        assert os.waitpid(child, 0)[1] == 0
        s = pool.snapshot()
        print("parent goes on", s.threads, s.busy, s.queued, closed.closed, flush=True)
        go.set()
        assert queued.over.wait(10)
        work(pool, "parent")
        assert pool.shutdown(10)
    """)
    assert lines == [
        "child begins 0 0 0 True",
        "child works",
        "parent goes on 1 1 1 True",
        "parent works",
    ]


@pytest.mark.slow
@needs_fork
@pytest.mark.spec("FR 72")
def test_forked_child_leaves_the_jobs_of_its_parent_alone():
    """A child that forgets its pool tells nothing to the jobs that wait in its parent's."""
    lines = run_script("""
        pool = ThreadPool(1)
        go = threading.Event()
        held, queued = Job(go.wait), Job()
        pool.submit(held)
        held.begun.wait()
        pool.submit(queued)
        child = os.fork()
        if not child:
            del pool
            gc.collect()
            print("abandoned in the child:", queued.abandoned, flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        go.set()
        assert queued.over.wait(10)
    """)
    assert lines == ["abandoned in the child: False"]


@pytest.mark.slow
@needs_fork
@pytest.mark.spec("FR 72")
def test_fork_while_a_thread_is_busy_with_the_pool():
    """A fork while a thread of the pool is calling for another one locks neither the child's pool nor its end."""
    lines = run_script("""
        import signal

        start, starting, go_on = threading.Thread.start, threading.Event(), threading.Event()
        both_wait = threading.Event()

        def hold_at_birth(frame, event, argument):
            if frame.f_globals.get("__name__") == "bridges.crossing.pool":
                sys.setprofile(None)
                both_wait.wait()

        def slow_start(thread):
            if threading.current_thread() is not threading.main_thread():
                starting.set()
                go_on.wait()
            start(thread)

        threading.setprofile(hold_at_birth)
        threading.Thread.start = slow_start
        pool = ThreadPool(2)
        jobs = [Job(), Job()]
        for job in jobs:
            pool.submit(job)
        both_wait.set()
        starting.wait()
        child = os.fork()
        if not child:
            signal.alarm(5)  # ends a child that hangs
            threading.Thread.start = start
            own = Job()
            pool.submit(own)
            assert own.over.wait(10)
            print("child works", flush=True)
            assert pool.shutdown(10)
            del pool
            gc.collect()
            print("child ends", flush=True)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        go_on.set()
        for job in jobs:
            assert job.over.wait(10)
        print("child's status", status, flush=True)
    """)
    assert lines == ["child works", "child ends", "child's status 0"]
