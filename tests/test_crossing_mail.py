"""Mail: items once and in order, bytes counted, and no wake-up lost between the loop and the thread."""

from __future__ import annotations

import itertools
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

import pytest
from crossing_tools import PATIENCE_SECONDS, HandGate, Running, soon

from bridges.crossing import mail as mail_module
from bridges.crossing.bells import ThreadBell
from bridges.crossing.mail import Mail

LIMIT = 10


class CountingBell:
    """A bell that counts; nobody may have to wait at it."""

    def __init__(self) -> None:
        self.rings = 0

    def ring(self) -> None:
        self.rings += 1

    def wait(self, seconds: float | None = None) -> bool:
        assert seconds is not None, "the thread would wait for ever"
        return False


def make_mail(limit: int = LIMIT) -> tuple[CountingBell, HandGate, Mail[Any]]:
    """Make mail whose both sides are the test."""
    bell, gate = CountingBell(), HandGate()
    return bell, gate, Mail(bell, gate, limit)  # type: ignore[arg-type]  # stands for one


class Watched(deque[Any]):
    """Items that let the other side act right after this one has seen whether there are any."""

    after_look: Callable[[], object] | None = None

    def __bool__(self) -> bool:
        any_there = len(self) > 0
        act, self.after_look = self.after_look, None
        if act is not None:
            act()
        return any_there


# Items arrive once, in order.


def test_items_arrive_once_and_in_order():
    """What is posted is taken in the order in which it was posted, items and chunks alike."""
    _, _, mail = make_mail()
    mail.add("head")
    mail.post_chunk(b"one")
    mail.post("note")
    mail.post_chunk(b"two")
    assert [mail.take() for _ in range(4)] == ["head", b"one", "note", b"two"]
    assert mail.take(0) is None


def test_add_does_not_wake():
    """An item that is added waits for the next one that is posted, and comes before it."""
    bell, _, mail = make_mail()
    mail.add("head")
    assert bell.rings == 0
    mail.post("body")
    assert bell.rings == 1
    assert [mail.take(), mail.take()] == ["head", "body"]


@pytest.mark.parametrize("post", ["post", "post_chunk"])
def test_post_wakes_a_waiting_take(post):
    """A thread that waits for its mail gets what comes."""
    waits = threading.Event()

    class Bell(ThreadBell):
        def wait(self, seconds: float | None = None) -> bool:
            waits.set()
            return super().wait(seconds)

    mail: Mail[Any] = Mail(Bell(), HandGate(), LIMIT)  # type: ignore[arg-type]  # stands for one
    taker = Running(mail.take)
    soon(waits)
    getattr(mail, post)(b"mail")
    assert taker.result() == b"mail"


def test_take_within_a_time():
    """A take in vain gives None, and the next one what has come meanwhile."""
    mail: Mail[Any] = Mail(ThreadBell(), HandGate(), LIMIT)  # type: ignore[arg-type]  # stands for one
    assert mail.take(0.01) is None
    mail.post("late")
    assert mail.take(0) == "late"


def test_take_after_a_ring_too_many():
    """A ring for mail that was taken already is no mail."""
    mail: Mail[Any] = Mail(ThreadBell(), HandGate(), LIMIT)  # type: ignore[arg-type]  # stands for one
    mail.post("first")
    mail.post("second")
    assert [mail.take(), mail.take()] == ["first", "second"]
    assert mail.take(0) is None


def test_thread_is_woken_once_for_what_it_has_not_seen():
    """Posts before the thread comes back to its bell are one wake-up."""
    releases: list[None] = []
    bell = ThreadBell()
    lock = bell._lock

    class Lock:
        def acquire(self, timeout: float) -> bool:
            return lock.acquire(timeout=timeout)

        def release(self) -> None:
            releases.append(None)
            lock.release()

    bell._lock = Lock()  # type: ignore[assignment]  # stands for one
    mail: Mail[Any] = Mail(bell, HandGate(), LIMIT)  # type: ignore[arg-type]  # stands for one
    for number in range(5):
        mail.post(number)
    assert len(releases) == 1
    assert [mail.take() for _ in range(5)] == list(range(5))
    assert mail.take(0) is None
    mail.post("more")
    assert len(releases) == 2


def test_post_does_not_wait():
    """The loop posts more than the limit without waiting; keeping to it is its own affair."""
    _, _, mail = make_mail(1)
    for _ in range(3):
        mail.post_chunk(b"1234567890")
    assert mail.take_rest() == [b"1234567890"] * 3


def test_take_rest():
    """The rest is all that is there, in order, and taken with that."""
    _, _, mail = make_mail()
    assert mail.take_rest() == []
    mail.post("one")
    mail.post_chunk(b"two")
    assert mail.take_rest() == ["one", b"two"]
    assert mail.take_rest() == []


def test_a_thread_and_a_loop_at_once(rng):
    """Mail between two threads that run freely arrives once, in order, and is never more than the limit."""
    limit = 4096
    gate = LoopThread()
    mail: Mail[Any] = Mail(ThreadBell(), gate, limit)  # type: ignore[arg-type]  # stands for one
    chunks = [rng.randbytes(rng.choice((1, 100, 2000, 5000))) for _ in range(1000)]
    over_limit: list[int] = []
    taken: list[bytes] = []

    def post_all() -> None:
        for chunk in chunks:
            while not mail.has_room_for(len(chunk)):
                mail.when_room(len(chunk), gate.wake)
                gate.turn_until_woken()
            mail.post_chunk(chunk)
            under_way = mail._put - mail._done
            if under_way > max(limit, len(chunk)):
                over_limit.append(under_way)
        mail.post("end")

    poster = Running(post_all)
    while (item := mail.take(PATIENCE_SECONDS)) != "end":
        assert isinstance(item, bytes), "a wake-up is lost"
        joined = mail.join(item)
        taken.append(joined)
        mail.done(len(joined))
    poster.result()
    assert b"".join(taken) == b"".join(chunks)
    assert over_limit == []


class LoopThread:
    """A gate into a thread that is its own loop."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._rung = threading.Semaphore(0)
        self._woken = False

    def ring(self, callback: Callable[[], object]) -> None:
        self._calls.append(callback)
        self._rung.release()

    def wake(self) -> None:
        self._woken = True

    def turn_until_woken(self) -> None:
        while not self._woken:
            assert self._rung.acquire(timeout=PATIENCE_SECONDS), "a wake-up is lost"
            self._calls.popleft()()
        self._woken = False


# Join.


def test_join_takes_chunks_that_piled_up():
    """Chunks that lie one behind the other are joined, in order."""
    _, _, mail = make_mail()
    for chunk in (b"one", b"two", b"three"):
        mail.post_chunk(chunk)
    assert mail.join(mail.take()) == b"onetwothree"
    assert mail.take(0) is None


def test_join_of_a_chunk_alone():
    """A chunk with nothing behind it is given as it is, not a copy."""
    _, _, mail = make_mail()
    chunk = bytes(100)
    assert mail.join(chunk) is chunk


@pytest.mark.parametrize("before", [0, 1, 2])
def test_join_stops_at_an_item(before):
    """What is no chunk ends the joining and stays."""
    _, _, mail = make_mail()
    for _ in range(before):
        mail.post_chunk(b"more")
    mail.post("note")
    mail.post_chunk(b"behind")
    assert mail.join(b"first") == b"first" + b"more" * before
    assert mail.take_rest() == ["note", b"behind"]


@pytest.mark.parametrize(
    ("sizes", "joined"),
    [
        ((mail_module._JOIN_BYTES - 1, 1, 1), 2),
        ((mail_module._JOIN_BYTES, 1), 1),
        ((1, mail_module._JOIN_BYTES), 1),
        ((1, mail_module._JOIN_BYTES + 1), 1),
        ((mail_module._JOIN_BYTES + 1, 1), 1),
        ((1, 2, 3), 3),
    ],
)
def test_join_up_to_its_limit(sizes, joined):
    """Chunks are joined up to the size at which it stops to pay, which none of the joined ones exceeds."""
    _, _, mail = make_mail()
    for size in sizes:
        mail.post_chunk(bytes(size))
    chunk = mail.take()
    assert len(mail.join(chunk)) == sum(sizes[:joined])
    assert [len(rest) for rest in mail.take_rest()] == list(sizes[joined:])


# Bytes count until the thread is done with them.


def test_room_is_counted_until_done():
    """Bytes take room from the post until the thread says that it is done with them."""
    _, _, mail = make_mail()
    assert mail.has_room_for(LIMIT)
    mail.post_chunk(b"123456")
    assert (mail.has_room_for(4), mail.has_room_for(5)) == (True, False)
    mail.take()
    assert (mail.has_room_for(4), mail.has_room_for(5)) == (True, False)
    mail.done(2)
    assert (mail.has_room_for(6), mail.has_room_for(7)) == (True, False)
    mail.done(4)
    assert mail.has_room_for(LIMIT)


def test_all_is_done_when_every_byte_is():
    """Items without weight do not count, neither posted nor taken."""
    _, _, mail = make_mail()
    assert mail.all_done
    mail.post_weighty("item", 2)
    mail.post("end")
    mail.take()
    assert not mail.all_done
    mail.done(2)
    assert mail.all_done


def test_items_take_no_room():
    """Only bytes of the body count."""
    _, _, mail = make_mail(1)
    mail.add("head")
    mail.post("note")
    assert mail.has_room_for(1)


def test_chunk_larger_than_the_limit_goes_alone():
    """A chunk larger than the limit may be under way by itself, and nothing beside it."""
    _, _, mail = make_mail()
    assert mail.has_room_for(LIMIT * 5)
    mail.post_chunk(b"1")
    assert not mail.has_room_for(LIMIT * 5)
    mail.done(1)
    mail.post_chunk(bytes(LIMIT * 5))
    assert not mail.has_room_for(0)
    assert not mail.has_room_for(1)
    mail.done(LIMIT * 5)
    assert mail.has_room_for(1)


# when_room.


def test_when_room_is_answered_on_the_loop():
    """The callback is rung through the gate, not called by the thread, and once."""
    _, gate, mail = make_mail()
    calls: list[str] = []
    mail.post_chunk(bytes(LIMIT))
    mail.when_room(1, lambda: calls.append("room"))
    mail.done(LIMIT)
    assert (calls, gate.rings) == ([], 1)
    gate.answer()
    assert calls == ["room"]
    mail.done(0)
    assert gate.rings == 1


def test_when_room_waits_until_most_is_free():
    """The loop is woken for a good part of the limit, not for each byte."""
    _, gate, mail = make_mail(100)
    mail.post_chunk(bytes(100))
    mail.when_room(1, lambda: None)
    for _ in range(74):
        mail.done(1)
    assert gate.rings == 0
    mail.done(1)
    assert gate.rings == 1


@pytest.mark.parametrize("size", range(1, LIMIT * 2))
@pytest.mark.parametrize("limit", [1, 2, LIMIT])
def test_when_room_is_answered_with_enough_room(size, limit):
    """Whoever asks for room, be it more than the limit, has it when the callback comes: no second question."""
    _, gate, mail = make_mail(limit)
    mail.post_chunk(bytes(limit))
    if mail.has_room_for(size):
        pytest.fail("there is no room")
    mail.when_room(size, lambda: None)
    for _ in range(limit):
        assert gate.rings == 0
        mail.done(1)
        if gate.rings:
            break
    assert gate.rings == 1
    assert mail.has_room_for(size)


def test_when_room_is_asked_after_the_thread_was_done():
    """A thread that was done before it could see the callback costs no wake-up: the loop rings itself."""
    _, gate, mail = make_mail()
    mail.post_chunk(bytes(LIMIT))
    assert not mail.has_room_for(1)
    mail.done(LIMIT)
    mail.when_room(1, lambda: None)
    assert gate.rings == 1


def test_done_without_anybody_waiting():
    """A thread that nobody waits for wakes nobody."""
    _, gate, mail = make_mail()
    mail.post_chunk(bytes(LIMIT))
    mail.done(LIMIT)
    assert gate.rings == 0


class Turns:
    """Two threads that take turns, each at every look at the mail's counts, as a list of turns says."""

    def __init__(self, turns: Iterator[int]) -> None:
        self._turns = turns
        self._semaphores = [threading.Semaphore(0), threading.Semaphore(0)]
        self._over = [False, False]
        self._who = threading.local()

    def run(self, *sides: Callable[[], object]) -> None:
        def as_side(number: int) -> None:
            self._who.number = number
            assert self._semaphores[number].acquire(timeout=PATIENCE_SECONDS)
            try:
                sides[number]()
            finally:
                self._over[number] = True
                self._semaphores[1 - number].release()

        threads = [Running(lambda number=number: as_side(number)) for number in (0, 1)]
        self._semaphores[0].release()
        for thread in threads:
            thread.result()

    def is_over(self, number: int) -> bool:
        """Whether a side has nothing more to do."""
        return self._over[number]

    def give_way(self) -> None:
        """Have the other side go on, if this turn says so."""
        if hasattr(self._who, "number") and next(self._turns, 0):
            self.pass_on()

    def pass_on(self) -> None:
        """Have the other side go on."""
        number = self._who.number
        if self._over[1 - number]:
            return
        self._semaphores[1 - number].release()
        assert self._semaphores[number].acquire(timeout=PATIENCE_SECONDS)


def _stepped(name: str) -> Any:
    slot = Mail.__dict__[name]

    def get(mail: Any) -> Any:
        mail.turns.give_way()
        value = slot.__get__(mail)
        mail.turns.give_way()
        return value

    def put(mail: Any, value: Any) -> None:
        mail.turns.give_way()
        slot.__set__(mail, value)
        mail.turns.give_way()

    return property(get, put)


class SteppedMail(Mail[Any]):
    """Mail whose sides may lose their turn before and after each touch of what both touch."""

    turns: Turns

    _done = _stepped("_done")
    _put = _stepped("_put")
    _room_at = _stepped("_room_at")
    _when_room = _stepped("_when_room")


class Exchange:
    """Chunks sent in given turns by a loop that asks for room to a thread that takes them."""

    def __init__(self, turns: Iterator[int], sizes: tuple[int, ...]) -> None:
        self._sizes = sizes
        self._turns = Turns(turns)
        self._gate = HandGate()
        SteppedMail.turns = self._turns
        self._mail = SteppedMail(CountingBell(), self._gate, LIMIT)  # type: ignore[arg-type]  # stands for one
        self._woken = 0

    def run(self) -> int:
        """Send everything; give how often the loop was woken. Fails if one wake-up is lost."""
        self._turns.run(self._loop, self._thread)
        return self._woken

    def _wake(self) -> None:
        self._woken += 1

    def _loop(self) -> None:
        for size in self._sizes:
            while not self._mail.has_room_for(size):
                self._wait_for_room(size)
            self._mail.post_chunk(bytes(size))

    def _wait_for_room(self, size: int) -> None:
        before = self._woken
        self._mail.when_room(size, self._wake)
        self._gate.answer()
        while self._woken == before:
            assert not self._turns.is_over(1), "a wake-up is lost"
            self._turns.pass_on()
            self._gate.answer()

    def _thread(self) -> None:
        for _ in self._sizes:
            while not self._mail._items:
                assert not self._turns.is_over(0), "a chunk is lost"
                self._turns.pass_on()
            self._mail.done(len(self._mail._items.popleft()))


# So many times a side may lose its turn from the first look for room to the last answer.
_POINTS = 40


def _preemptions(points: int, most: int) -> Iterator[list[int]]:
    """Give the turns in which at most so many of the first points are where a side loses its turn."""
    for count in range(most + 1):
        for chosen in itertools.combinations(range(points), count):
            yield [int(point in chosen) for point in range(points)]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(6, 6), (6, 25, 3)], ids=["small", "one larger than the limit"])
def test_when_room_in_each_interleaving(sizes):
    """No wake-up is lost, and none comes in vain without end, wherever either side loses its turn twice."""
    for turns in _preemptions(_POINTS, 2):
        woken = Exchange(iter(turns), sizes).run()
        assert woken <= 2 * len(sizes)


# Guarantee: when_room is answered however the thread and the loop interleave.
@pytest.mark.slow
def test_when_room_in_many_interleavings():
    """No wake-up is lost where the sides lose their turns more often than twice, in ways drawn once for all."""
    for seed in range(400):
        rng = random.Random(seed)
        turns = (int(rng.randrange(4) == 0) for _ in itertools.count())
        assert Exchange(turns, (LIMIT,) * 4).run() <= 12


# take_back.


def test_take_back_what_is_there():
    """An item that nobody took comes back, and is not delivered."""
    _, _, mail = make_mail()
    job = object()
    mail.post("before")
    mail.post(job)
    mail.post("behind")
    assert mail.take_back(job) is True
    assert mail.take_rest() == ["before", "behind"]


def test_take_back_what_was_taken():
    """An item that the thread has already stays with it."""
    _, _, mail = make_mail()
    job = object()
    mail.post(job)
    assert mail.take() is job
    assert mail.take_back(job) is False


def test_take_back_and_take_at_once():
    """Of two who want the same item at once, one gets it."""
    _, _, mail = make_mail()
    for _ in range(300):
        job, start = object(), threading.Barrier(2)
        mail.post(job)

        def back(job: object = job, start: threading.Barrier = start) -> bool:
            start.wait(PATIENCE_SECONDS)
            return mail.take_back(job)

        taking_back = Running(back)
        start.wait(PATIENCE_SECONDS)
        taken = mail.take_rest()
        assert taking_back.result() is not (taken == [job])


@pytest.mark.parametrize("way", ["take", "take_rest", "join"])
def test_take_back_after_the_thread_has_seen_the_item(way):
    """A thread that saw an item which is taken back before it has it finds none, and does not fail."""
    _, _, mail = make_mail()
    items = mail._items = Watched()
    job = object()
    mail.post(job)
    taken_back: list[bool] = []
    items.after_look = lambda: taken_back.append(mail.take_back(job))
    found = {
        "take": lambda: [mail.take(0)],
        "take_rest": mail.take_rest,
        "join": lambda: [mail.join(b"first")],
    }[way]()
    items.after_look = None
    assert (job in found) + (True in taken_back) + (job in list(mail._items)) == 1


def test_take_back_while_a_chunk_is_joined():
    """A note behind chunks that are being joined is taken back without harm to them."""
    _, _, mail = make_mail()

    class Items(deque[Any]):
        on_popleft: Callable[[], object] = staticmethod(lambda: None)

        def popleft(self) -> Any:
            self.on_popleft()
            return super().popleft()

        def __getitem__(self, index: SupportsIndex) -> Any:  # type: ignore[override]  # no slices
            return super().__getitem__(index)

    items = mail._items = Items()
    job = object()
    mail.post_chunk(b"one")
    mail.post(job)
    mail.post_chunk(b"two")
    items.on_popleft = lambda: mail.take_back(job) and None
    assert mail.join(b"first") == b"firstonetwo"
