"""``bridges.asgi.desk``: which thread runs a job, and that exactly one does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bridges.asgi.desk import Desk, LateThread
from bridges.asgi.items import Job
from bridges.crossing.mail import Mail

EVENT_SECONDS = 15


class Bell:
    def ring(self) -> None:
        pass

    def wait(self, seconds: float | None = None) -> bool:
        return False


def _mail() -> Mail[Any]:
    return Mail(Bell(), None, 100)  # type: ignore[arg-type]


@pytest.fixture
def late() -> Iterator[LateThread]:
    """Give the thread of what comes late, and end it."""
    late = LateThread()
    yield late
    if late._executor is not None:
        late._executor.shutdown()


def _ident(late: LateThread) -> int:
    return late.submit(threading.get_ident).result(EVENT_SECONDS)


def test_a_job_waits_for_the_thread(late: LateThread) -> None:
    """What is submitted becomes mail, and its future what it gave."""
    mail = _mail()
    desk = Desk(mail, late)
    assert not desk.used
    future = desk.submit(lambda: 8)
    assert desk.used
    assert not future.done()
    (job,) = mail.take_rest()
    assert isinstance(job, Job)
    job.run()
    assert future.result(0) == 8


@pytest.mark.parametrize("kind", [LookupError, SystemExit, KeyboardInterrupt])
def test_what_a_job_raises_is_its_futures(late: LateThread, kind: type[BaseException]) -> None:
    """Nothing comes out into the thread."""
    mail = _mail()

    def fail() -> None:
        raise kind

    future = Desk(mail, late).submit(fail)
    (job,) = mail.take_rest()
    assert isinstance(job, Job)
    job.run()
    assert isinstance(future.exception(0), kind)


def test_a_cancelled_job_is_not_run(late: LateThread) -> None:
    """A future that was cancelled in time takes its job with it."""
    mail = _mail()
    ran: list[int] = []
    future = Desk(mail, late).submit(lambda: ran.append(1))
    assert future.cancel()
    (job,) = mail.take_rest()
    assert isinstance(job, Job)
    job.run()
    assert ran == []


def test_an_unattended_desk_uses_the_late_thread(late: LateThread) -> None:
    """After the request's thread has gone, jobs run in the one that is kept for them."""
    mail = _mail()
    desk = Desk(mail, late)
    desk.attended = False
    assert desk.submit(threading.get_ident).result(EVENT_SECONDS) == _ident(late)
    assert mail.take_rest() == []


class _Leaving(Mail[Any]):
    """Mail whose thread leaves in the middle of a post."""

    __slots__ = ("desk", "take_it")

    def post(self, item: Any) -> None:
        super().post(item)
        self.desk.attended = False
        if self.take_it:
            for job in self.take_rest():
                job.run()


@pytest.mark.parametrize("take_it", [True, False])
def test_a_thread_that_leaves_in_the_middle(late: LateThread, take_it: bool) -> None:
    """A job that was posted as the thread left runs once: there if it was seen, else in the late thread."""
    mail = _Leaving(Bell(), None, 100)  # type: ignore[arg-type]
    mail.desk = desk = Desk(mail, late)
    mail.take_it = take_it
    runs: list[int] = []
    desk.submit(lambda: runs.append(threading.get_ident())).result(EVENT_SECONDS)
    assert runs == [threading.get_ident() if take_it else _ident(late)]
