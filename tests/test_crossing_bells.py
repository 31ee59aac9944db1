"""Bells: a ring is never lost, however ringers and the waiter interleave."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import pytest
from crossing_tools import PATIENCE_SECONDS, Running, soon

from bridges.crossing import bells
from bridges.crossing.bells import ThreadBell, bell_here


class HandLock:
    """Stands for the lock of a bell: tells who comes to it, and holds a release back while a test says so."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.releases = 0
        self.waits = threading.Event()
        self.releasing = threading.Event()
        self.may_release = threading.Event()
        self.may_release.set()
        self.after_acquire: BaseException | None = None

    def acquire(self, timeout: float) -> bool:
        self.waits.set()
        came: bool = self._lock.acquire(timeout=timeout)
        failure, self.after_acquire = self.after_acquire, None
        if failure is not None:
            raise failure
        return came

    def release(self) -> None:
        self.releases += 1
        self.releasing.set()
        soon(self.may_release)
        self._lock.release()


def watched_bell() -> tuple[ThreadBell, HandLock]:
    """Make a bell whose lock a test sees."""
    bell = ThreadBell()
    lock = HandLock(bell._lock)
    bell._lock = lock  # type: ignore[assignment]  # stands for one
    return bell, lock


class TwoRingersBell(ThreadBell):
    """A bell at which two ringers both find that nobody has rung before either goes on."""

    __slots__ = ("_both", "_value")

    def __init__(self) -> None:
        self._both: threading.Barrier | None = None
        super().__init__()
        self._both = threading.Barrier(2)

    @property
    def _rung(self) -> bool:
        value = self._value
        if self._both is not None:
            self._both.wait(PATIENCE_SECONDS)
        return value

    @_rung.setter
    def _rung(self, value: bool) -> None:
        self._value = value

    def meet_no_more(self) -> None:
        self._both = None


# A ring before the wait is not lost; rings that come together are one.


def test_ring_before_the_wait():
    """A ring that comes before the wait lets it pass, once."""
    bell = ThreadBell()
    bell.ring()
    assert bell.wait() is True
    assert bell.wait(0) is False


def test_rings_before_the_wait_are_one():
    """Rings that come together let one wait pass, and cost one release of the lock."""
    bell, lock = watched_bell()
    for _ in range(3):
        bell.ring()
    assert lock.releases == 1
    assert bell.wait() is True
    assert bell.wait(0) is False


def test_ring_ends_a_wait():
    """A thread that waits goes on when another one rings."""
    bell, lock = watched_bell()
    waiter = Running(bell.wait)
    soon(lock.waits)
    bell.ring()
    assert waiter.result() is True


def test_bell_is_good_for_many_rings():
    """After a wait the next ring counts again, however often."""
    bell = ThreadBell()
    for _ in range(3):
        bell.ring()
        assert bell.wait() is True


def test_wait_within_a_time():
    """A wait for a ring that does not come ends after its time and says so; the next ring counts."""
    bell = ThreadBell()
    assert bell.wait(0.01) is False
    bell.ring()
    assert bell.wait(PATIENCE_SECONDS) is True


def test_ring_from_the_waiter_itself():
    """The thread of the bell may ring it, as a finalizer that runs there does."""
    bell = ThreadBell()
    bell.ring()
    bell.ring()
    assert bell.wait() is True


# Two ringers at once.


def test_two_ringers_at_once():
    """Two ringers that both believe to be first are one ring, none of them fails, and the next ring counts."""
    bell = TwoRingersBell()
    ringers = [Running(bell.ring) for _ in range(2)]
    for ringer in ringers:
        ringer.result()
    bell.meet_no_more()
    assert bell.wait() is True
    assert bell.wait(0) is False
    bell.ring()
    assert bell.wait() is True


def test_second_ringer_comes_late():
    """A ringer that releases after the waiter went on is one ring too many, which takes no later one away."""
    bell = TwoRingersBell()
    lock = HandLock(bell._lock)
    bell._lock = lock  # type: ignore[assignment]  # stands for one
    lock.may_release.clear()
    ringers = [Running(bell.ring) for _ in range(2)]
    soon(lock.releasing)
    bell.meet_no_more()
    lock._lock.release()  # as the first of them does
    assert bell.wait() is True
    lock.may_release.set()
    for ringer in ringers:
        ringer.result()
    assert bell.wait() is True  # the one too many
    assert bell.wait(0) is False
    bell.ring()
    assert bell.wait() is True


def test_ring_while_another_ringer_is_about_to_release():
    """Who finds the bell rung relies on the one who rang it: its message is found by a wait that begins after."""
    bell, lock = watched_bell()
    messages: deque[str] = deque()
    lock.may_release.clear()
    messages.append("first")
    first = Running(bell.ring)
    soon(lock.releasing)
    messages.append("second")
    bell.ring()  # returns at once
    assert bell.wait(0) is False
    lock.may_release.set()
    first.result()
    assert bell.wait() is True
    assert list(messages) == ["first", "second"]


def test_no_message_is_lost_among_many_ringers():
    """A waiter that looks for its messages after every wait sees those of all ringers."""
    bell = ThreadBell()
    messages: deque[int] = deque()
    seen: list[int] = []
    ringers, rounds = 4, 2000

    def ring_on(first: int) -> None:
        for number in range(rounds):
            messages.append(first + number)
            bell.ring()

    def listen() -> None:
        while len(seen) < ringers * rounds:
            assert bell.wait(PATIENCE_SECONDS), "a ring is lost"
            while messages:
                seen.append(messages.popleft())

    listener = Running(listen)
    running = [Running(lambda i=i: ring_on(i * rounds)) for i in range(ringers)]
    for ringer in running:
        ringer.result()
    listener.result()
    assert sorted(seen) == list(range(ringers * rounds))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_wait_that_a_signal_interrupts(error):
    """A signal's exception that hits the wait as the ring comes leaves a bell that still hears later rings."""
    bell, lock = watched_bell()
    bell.ring()
    lock.after_acquire = error()
    with pytest.raises(error):
        bell.wait()
    bell.ring()
    assert bell.wait(0) is True


# Which bell.


def test_bell_of_a_thread(monkeypatch):
    """Where no hub of greenlets runs, a bell is a thread's."""
    monkeypatch.setattr(bells, "hub_here", lambda: None)
    assert type(bell_here()) is ThreadBell


def test_bell_of_a_greenlet(monkeypatch):
    """Where a hub runs, a bell is a greenlet's, of this hub."""
    hub, made = object(), []
    monkeypatch.setattr(bells, "hub_here", lambda: hub)
    monkeypatch.setattr(bells, "GreenletBell", lambda of: made.append(of) or "a greenlet's bell")
    assert bell_here() == "a greenlet's bell"
    assert made == [hub]
