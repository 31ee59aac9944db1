"""The registry: one portal of a kind for all who enter, through forks, failures, forgotten tenants and the exit."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import random
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import anyio
import anyio.to_thread
import pytest
from crossing_tools import PATIENCE_SECONDS, Running, soon

from bridges.crossing import registry, threaded
from bridges.crossing.inline import InlinePortal
from bridges.crossing.portal import Portal
from bridges.crossing.registry import check_no_portal_here, enter, leave, leave_soon
from bridges.crossing.threaded import THREAD_NAME, AsyncioPortal, TrioPortal
from bridges.errors import CrossingError

KINDS: list[Any] = [
    pytest.param(("asyncio", None), id="asyncio"),
    pytest.param(("trio", None), id="trio"),
]
if importlib.util.find_spec("uvloop"):
    import uvloop

    KINDS.append(pytest.param(("asyncio", uvloop.new_event_loop), id="uvloop"))
ALL_KINDS = [*KINDS, pytest.param(("inline", None), id="inline")]

each_thread = pytest.mark.parametrize("kind", KINDS)
each = pytest.mark.parametrize("kind", ALL_KINDS)

Kind = tuple[Any, Any]


class Error(Exception):
    """What an application raises."""


class Tenant:
    """Who enters; its farewell counts, and does what a test wants."""

    def __init__(self, action: Callable[[], Any] | None = None) -> None:
        self._action = action
        self.portal: Any = None
        self.farewells = 0
        self.said = threading.Event()

    async def farewell(self) -> None:
        self.farewells += 1
        try:
            if self._action is not None:
                await self._action()
        finally:
            self.said.set()

    def enter(self, kind: Kind, seconds: float = PATIENCE_SECONDS) -> Portal:
        self.portal = enter(*kind, self.farewell, seconds)
        assert isinstance(self.portal, Portal)
        return self.portal

    def leave(self) -> None:
        leave(self.portal, self.farewell)

    def leave_soon(self) -> None:
        leave_soon(self.portal, self.farewell)


def portal_threads() -> list[threading.Thread]:
    """Give the threads of portals."""
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def until_no_portal_thread() -> None:
    """Wait until the threads of portals, and of those who end them, are gone."""
    for thread in threading.enumerate():
        if thread.name.startswith(THREAD_NAME):
            thread.join(PATIENCE_SECONDS)
    assert portal_threads() == []


@pytest.fixture(autouse=True)
def no_portal_left() -> Iterator[None]:
    """Begin and end each test with no portal; no thread of one is left."""
    assert [portal for portal in registry._portals.values() if not portal.closed] == []
    yield
    left = [portal for portal in registry._portals.values() if not portal.closed]
    for portal in left:
        for farewell in tuple(portal.tenants):
            leave(portal, farewell)
    until_no_portal_thread()
    assert [portal for portal in registry._portals.values() if not portal.closed] == []
    registry._portals.clear()


def goes_on(portal: Portal) -> bool:
    """Whether a portal still serves calls."""
    portal.call(anyio.lowlevel.checkpoint, PATIENCE_SECONDS)
    return portal.is_open and not portal.closed


# Enter and leave.


@pytest.mark.spec("FR 73")
@each_thread
def test_one_thread_for_a_hundred_tenants(kind):
    """A hundred tenants share one portal, whose thread is gone when the last one has left."""
    tenants = [Tenant() for _ in range(100)]
    portals = {tenant.enter(kind) for tenant in tenants}
    assert (len(portals), len(portal_threads())) == (1, 1)
    for tenant in tenants[:-1]:
        tenant.leave()
    assert goes_on(*portals)
    tenants[-1].leave()
    until_no_portal_thread()
    assert [tenant.farewells for tenant in tenants] == [1] * 100


@pytest.mark.spec("FR 77")
def test_no_thread_for_inline_tenants():
    """Tenants of the inline back end share one portal without a thread."""
    before = set(threading.enumerate())
    tenants = [Tenant() for _ in range(10)]
    portals = {tenant.enter(("inline", None)) for tenant in tenants}
    assert len(portals) == 1
    for tenant in tenants:
        tenant.leave()
    assert set(threading.enumerate()) <= before
    assert portals.pop().closed


def test_a_portal_for_each_kind():
    """Each back end and loop factory has a portal of its own."""

    def factory() -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    kinds: list[Kind] = [("asyncio", None), ("asyncio", factory), ("trio", None), ("inline", None)]
    tenants = [Tenant() for _ in kinds]
    portals = [tenant.enter(kind) for tenant, kind in zip(tenants, kinds, strict=True)]
    assert [type(portal) for portal in portals] == [
        AsyncioPortal,
        AsyncioPortal,
        TrioPortal,
        InlinePortal,
    ]
    assert len(set(portals)) == 4
    for tenant in tenants:
        tenant.leave()


@each
def test_enter_by_many_at_once(kind):
    """Threads that enter at once get one and the same portal, open."""
    start = threading.Barrier(16)
    tenants = [Tenant() for _ in range(16)]

    def move_in(tenant: Tenant) -> Portal:
        start.wait(PATIENCE_SECONDS)
        return tenant.enter(kind)

    entering = [Running(lambda tenant=tenant: move_in(tenant)) for tenant in tenants]
    portals = {thread.result() for thread in entering}
    assert len(portals) == 1
    assert goes_on(*portals)
    assert len(portal_threads()) == (kind[0] != "inline")
    for tenant in tenants:
        tenant.leave()


@each
def test_enter_after_the_last_one_left(kind):
    """Who comes after the last one has left gets a portal of its own."""
    first, second = Tenant(), Tenant()
    old = first.enter(kind)
    first.leave()
    new = second.enter(kind)
    assert new is not old
    assert (old.closed, goes_on(new)) == (True, True)
    second.leave()


@each_thread
def test_enter_while_the_last_one_says_farewell(kind):
    """Who comes before the last one has gone keeps its portal alive."""
    saying, go_on = threading.Event(), threading.Event()

    async def say() -> None:
        saying.set()
        await anyio.to_thread.run_sync(soon, go_on)

    first, second = Tenant(say), Tenant()
    portal = first.enter(kind)
    leaving = Running(first.leave)
    soon(saying)
    assert second.enter(kind) is portal
    go_on.set()
    leaving.result()
    assert goes_on(portal)
    second.leave()
    assert portal.closed


@each_thread
def test_enter_while_the_portal_ends(kind):
    """Who comes when the last one has gone gets a new portal, while the old one is still ending."""
    ending, go_on = threading.Event(), threading.Event()

    async def stay() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                ending.set()
                await anyio.to_thread.run_sync(soon, go_on)

    first, second = Tenant(), Tenant()
    old = first.enter(kind)

    async def begin() -> None:
        old.spawn(stay, copy_context())
        await anyio.sleep(0.001)

    old.call(begin)
    leaving = Running(first.leave)
    soon(ending)
    new = second.enter(kind)
    assert new is not old
    assert goes_on(new)
    go_on.set()
    leaving.result()
    assert goes_on(new)
    second.leave()


def test_enter_a_portal_that_ends_meanwhile(monkeypatch):
    """Who finds that its portal was ended as it came in gets another one."""
    open_it = AsyncioPortal.open
    opened: list[Portal] = []

    def open_and_end_the_first(portal: AsyncioPortal) -> None:
        open_it(portal)
        opened.append(portal)
        if len(opened) == 1:
            portal.end()

    monkeypatch.setattr(AsyncioPortal, "open", open_and_end_the_first)
    tenant = Tenant()
    assert tenant.enter(("asyncio", None)) is opened[1]
    assert [portal.closed for portal in opened] == [True, False]
    tenant.leave()


@pytest.mark.slow
@each
def test_enter_and_leave_without_end(kind, rng):
    """Threads that come and go as they like always get a portal that serves them, and leave none behind."""

    def live(rng: random.Random) -> int:
        farewells = 0
        for _ in range(25):
            tenant = Tenant()
            portal = tenant.enter(kind)
            portal.call(anyio.lowlevel.checkpoint, PATIENCE_SECONDS)
            if rng.randrange(2):
                portal.call(anyio.lowlevel.checkpoint, PATIENCE_SECONDS)
            tenant.leave()
            farewells += tenant.farewells
        return farewells

    seeds = [rng.random() for _ in range(4)]
    lives = [Running(lambda seed=seed: live(random.Random(seed))) for seed in seeds]
    assert [each_life.result() for each_life in lives] == [25] * 4


# A loop that cannot be made.


class HeldFactory:
    """A loop factory that fails when told so, once so many wait for its loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = True
        self.go = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.calls = 0
        bell_here = threaded.bell_here

        def watched_bell_here() -> Any:
            self.waiting.release()
            return bell_here()

        monkeypatch.setattr(threaded, "bell_here", watched_bell_here)

    def __call__(self) -> asyncio.AbstractEventLoop:
        self.calls += 1
        soon(self.go)
        if self.fails:
            raise Error("no loop today")
        return asyncio.new_event_loop()


@pytest.mark.spec("FR 74")
def test_factory_that_fails(monkeypatch):
    """What making the loop raises is raised to everybody who waits for it; the next one who enters tries again."""
    factory = HeldFactory(monkeypatch)
    tenants = [Tenant() for _ in range(3)]
    entering = [
        Running(lambda tenant=tenant: tenant.enter(("asyncio", factory))) for tenant in tenants
    ]
    for _ in tenants:
        assert factory.waiting.acquire(timeout=PATIENCE_SECONDS)
    factory.go.set()
    for thread in entering:
        with pytest.raises(Error, match="no loop today"):
            thread.result()
    assert factory.calls == 1
    factory.fails = False
    portal = tenants[0].enter(("asyncio", factory))
    assert (goes_on(portal), factory.calls) == (True, 2)
    tenants[0].leave()


@pytest.mark.spec("FR 74")
@pytest.mark.parametrize("backend", ["asyncio", "inline"])
@pytest.mark.parametrize("made", [None, "loop", object()])
def test_factory_that_gives_something_else(backend, made):
    """A factory that gives no loop is an error of everybody who enters, each time, and no hang."""

    def factory() -> Any:
        return made

    for _ in range(2):
        with pytest.raises(Exception):  # noqa: B017  # what it is depends on what came
            Tenant().enter((backend, factory))
    until_no_portal_thread()


def test_failing_factory_does_not_touch_other_kinds():
    """A kind whose loop cannot be made leaves the portals of the others alone."""

    def factory() -> Any:
        raise Error

    tenant = Tenant()
    portal = tenant.enter(("asyncio", None))
    with pytest.raises(Error):
        Tenant().enter(("asyncio", factory))
    assert goes_on(portal)
    tenant.leave()


# The farewell.


@each
def test_farewell_comes_before_the_end_of_the_tasks(kind):
    """A farewell runs on the loop while everything else still runs; what is left after it is cancelled."""
    order: list[str] = []

    async def stay() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            order.append("task cancelled")

    async def say() -> None:
        await anyio.sleep(0.001)
        assert tenant.portal.gate.runs_here()
        order.append("farewell")

    tenant = Tenant(say)
    portal = tenant.enter(kind)

    async def begin() -> None:
        portal.spawn(stay, copy_context())
        await anyio.sleep(0.001)

    portal.call(begin)
    tenant.leave()
    assert order == ["farewell", "task cancelled"]
    assert portal.closed


@each
def test_leave_twice(kind):
    """Who has left has left."""
    tenant = Tenant()
    tenant.enter(kind)
    tenant.leave()
    tenant.leave()
    assert tenant.farewells == 1


@each
def test_leave_by_a_stranger(kind):
    """Who never entered leaves nothing, and nobody."""
    tenant, stranger = Tenant(), Tenant()
    stranger.portal = tenant.enter(kind)
    stranger.leave()
    assert (stranger.farewells, goes_on(tenant.portal)) == (0, True)
    tenant.leave()


@pytest.mark.spec("FR 80")
@each
def test_leave_from_the_loop(kind):
    """The loop would wait for itself: that is an error, and the tenant stays."""
    tenant = Tenant()
    portal = tenant.enter(kind)

    async def work() -> None:
        with pytest.raises(CrossingError, match="would wait for itself"):
            tenant.leave()

    portal.call(work)
    assert (tenant.farewells, goes_on(portal)) == (0, True)
    tenant.leave()


@each
@pytest.mark.parametrize("error", [Error, SystemExit, KeyboardInterrupt])
def test_farewell_that_raises(kind, error):
    """What a farewell raises is raised by leave; the portal ends all the same."""

    async def say() -> None:
        raise error

    tenant = Tenant(say)
    portal = tenant.enter(kind)
    with pytest.raises(error):
        tenant.leave()
    assert portal.closed
    until_no_portal_thread()


@each
def test_farewell_that_takes_too_long(kind, monkeypatch, caplog):
    """A farewell that does not come to its end is given up with an error; the portal ends."""
    monkeypatch.setattr(registry, "_PATIENCE_SECONDS", 0.01)
    tenant = Tenant(anyio.sleep_forever)
    portal = tenant.enter(kind, 0.01)
    tenant.leave()
    assert portal.closed
    assert "could not be ended in order" in caplog.text
    until_no_portal_thread()


def test_leave_after_the_portal_failed(caplog):
    """Whose portal has failed can leave, without a second complaint, and enter a new one."""
    tenant = Tenant()
    portal = tenant.enter(("asyncio", None))
    portal.end()
    tenant.leave()
    assert (tenant.farewells, portal.closed) == (0, True)
    assert caplog.records == []
    assert tenant.enter(("asyncio", None)) is not portal
    tenant.leave()


# Leaving without waiting.


@each_thread
def test_leave_soon(kind):
    """Who leaves soon does not wait; its farewell is said, and the last one's going ends the loop."""
    held, go_on = threading.Event(), threading.Event()
    tenant = Tenant()
    portal = tenant.enter(kind)

    def hold() -> None:
        held.set()
        soon(go_on)

    portal.gate.ring(hold)
    soon(held)
    tenant.leave_soon()
    assert tenant.farewells == 0
    go_on.set()
    soon(tenant.said)
    until_no_portal_thread()
    assert (tenant.farewells, portal.closed) == (1, True)


@each_thread
def test_leave_soon_of_one_of_two(kind):
    """The portal goes on for those who stay."""
    first, second = Tenant(), Tenant()
    portal = first.enter(kind)
    second.enter(kind)
    first.leave_soon()
    soon(first.said)
    assert goes_on(portal)
    second.leave()
    assert (first.farewells, second.farewells) == (1, 1)


@each_thread
def test_leave_soon_from_the_loop_itself(kind):
    """The loop's own thread may call, too."""
    tenant = Tenant()
    portal = tenant.enter(kind)

    async def work() -> None:
        tenant.leave_soon()

    portal.call(work)
    soon(tenant.said)
    until_no_portal_thread()
    assert (tenant.farewells, portal.closed) == (1, True)


class Adapter:
    """Holds a tenant, and is in a cycle, so that only the garbage collector finds it."""

    def __init__(self, tenant: Tenant) -> None:
        self.myself = self
        weakref.finalize(self, tenant.leave_soon).atexit = False


@pytest.mark.spec("FR 73")
@each_thread
@pytest.mark.parametrize("where", ["a thread", "the loop"])
def test_leave_soon_by_the_garbage_collector(kind, where):
    """A finalizer may call, in whichever thread the garbage collector runs, the loop's among them."""
    tenant = Tenant()
    portal = tenant.enter(kind)

    async def collect() -> None:
        gc.collect()

    gc.disable()
    try:
        Adapter(tenant)
        if where == "the loop":
            portal.call(collect)
        else:
            gc.collect()
    finally:
        gc.enable()
    soon(tenant.said)
    until_no_portal_thread()
    assert (tenant.farewells, portal.closed) == (1, True)


@each_thread
@pytest.mark.parametrize("at", ["enter", "ring"])
def test_leave_soon_in_the_middle_of_our_own_work(kind, at, monkeypatch):
    """A garbage collection that sets in while the thread is in the registry or in the gate does not lock it."""
    tenant, other = Tenant(), Tenant()
    portal = tenant.enter(kind)
    if at == "enter":
        # With the registry's lock held.
        make = registry._make

        def collect_and_make(*args: Any) -> Portal:
            tenant.leave_soon()
            return make(*args)

        monkeypatch.setattr(registry, "_make", collect_and_make)
        other.enter(("inline", None))
    else:
        wake = portal.gate._wake

        def collect_and_wake(callback: Callable[[], object]) -> None:
            portal.gate._wake = wake
            tenant.leave_soon()
            wake(callback)

        portal.gate._wake = collect_and_wake
        other.enter(kind)
        assert goes_on(portal)
    soon(tenant.said)
    other.leave()
    until_no_portal_thread()
    assert (tenant.farewells, other.farewells) == (1, 1)


@each
def test_leave_soon_after_leave(kind):
    """Who has left already is not made to say farewell again when it is collected, and the portal goes on."""
    tenant, other = Tenant(), Tenant()
    portal = tenant.enter(kind)
    other.enter(kind)
    tenant.leave()
    tenant.leave_soon()
    assert goes_on(portal)
    assert tenant.farewells == 1
    other.leave()
    tenant.leave_soon()
    assert (tenant.farewells, other.farewells) == (1, 1)


def test_leave_soon_as_the_loop_ends(monkeypatch):
    """Who leaves at the moment at which the loop has ended has nothing more to do."""
    tenant = Tenant()
    portal = tenant.enter(("asyncio", None))
    portal.end()
    portal.closed = False  # as it was a moment before
    tenant.leave_soon()
    assert tenant.farewells == 0
    portal.closed = True


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@each_thread
@pytest.mark.parametrize("error", [Error, SystemExit])
def test_leave_soon_with_a_farewell_that_raises(kind, error, caplog, monkeypatch):
    """A farewell that raises where nobody waits for it is logged; the portal ends."""
    monkeypatch.setattr(threaded, "LAST_TASKS_SECONDS", 0.2)

    async def say() -> None:
        raise error

    tenant = Tenant(say)
    portal = tenant.enter(kind)
    tenant.leave_soon()
    soon(tenant.said)
    for thread in portal_threads():
        thread.join(1)
    left = list(portal.tenants)
    portal.tenants.clear()
    if not portal.closed:
        portal.end()
    assert left == []
    assert "could not be ended in order" in caplog.text


@pytest.mark.spec("FR 77")
def test_leave_soon_from_the_inline_portal():
    """On a portal without a thread the farewell is said by the next one who drives."""
    tenant, other = Tenant(), Tenant()
    portal = tenant.enter(("inline", None))
    other.enter(("inline", None))
    tenant.leave_soon()
    assert tenant.farewells == 0
    assert goes_on(portal)
    assert tenant.farewells == 1
    other.leave()


# Callers on a portal's loop.


@pytest.mark.spec("FR 80")
@each
def test_check_no_portal_here(kind):
    """Who runs on the loop of a portal is refused, whichever portal it wants; others are not."""
    tenant = Tenant()
    portal = tenant.enter(kind)
    check_no_portal_here()
    refused: list[bool] = []

    async def work() -> None:
        with pytest.raises(CrossingError):
            check_no_portal_here()
        refused.append(True)

    portal.call(work)
    assert refused == [True]
    tenant.leave()
    check_no_portal_here()


def test_check_no_portal_here_on_a_loop_that_is_none_of_ours():
    """A thread that runs a loop of its own is not refused by a portal of another back end that it does not want."""
    tenant = Tenant()
    tenant.enter(("inline", None))

    async def main() -> None:
        check_no_portal_here()

    try:
        asyncio.run(main())
    finally:
        tenant.leave()


# The end of all.


def test_end_all():
    """All portals end, and whoever enters afterwards gets a new one."""
    kinds: list[Kind] = [("asyncio", None), ("trio", None), ("inline", None)]
    tenants = [Tenant() for _ in kinds]
    portals = [tenant.enter(kind) for tenant, kind in zip(tenants, kinds, strict=True)]
    registry.end_all()
    assert [portal.closed for portal in portals] == [True] * 3
    assert [tenant.farewells for tenant in tenants] == [1] * 3
    for tenant in tenants:
        tenant.leave()  # has nothing more to say
    assert [tenant.farewells for tenant in tenants] == [1] * 3
    assert tenants[0].enter(kinds[0]) is not portals[0]
    tenants[0].leave()


@each
def test_end_all_says_all_farewells_at_once(kind):
    """Farewells of several tenants do not wait for one another."""
    met: list[int] = []

    async def meet() -> None:
        met.append(1)
        while len(met) < 3:
            await anyio.sleep(0.001)

    tenants = [Tenant(meet) for _ in range(3)]
    for tenant in tenants:
        tenant.enter(kind)
    registry.end_all()
    assert [tenant.farewells for tenant in tenants] == [1] * 3


@each
def test_end_all_with_a_farewell_that_raises(kind, caplog):
    """A farewell that raises is logged, and cuts no other one short."""

    async def fail() -> None:
        raise Error

    async def say() -> None:
        await anyio.sleep(0.01)
        said.append(True)

    said: list[bool] = []
    tenants = [Tenant(fail), Tenant(say)]
    for tenant in tenants:
        tenant.enter(kind)
    registry.end_all()
    assert said == [True]
    assert "could not be ended in order" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@each
def test_end_all_with_a_farewell_that_exits(kind):
    """A farewell that raises SystemExit cuts no other one short, and all portals end."""

    async def fail() -> None:
        raise SystemExit

    async def say() -> None:
        await anyio.sleep(0.01)
        said.append(True)

    said: list[bool] = []
    tenants = [Tenant(fail), Tenant(say), Tenant()]
    portals = [tenants[0].enter(kind), tenants[1].enter(kind)]
    other: Kind = ("inline", None) if kind[0] != "inline" else ("asyncio", None)
    portals.append(tenants[2].enter(other))
    failure: BaseException | None = None
    try:
        registry.end_all()
    except BaseException as error:
        failure = error
    closed = [portal.closed for portal in portals]
    for portal in portals:
        if not portal.closed:
            portal.end()
    assert (failure, said, closed) == (None, [True], [True] * 3)


@each
def test_end_all_with_a_farewell_that_takes_too_long(kind, monkeypatch, caplog):
    """A farewell that does not come to its end is given up with an error; all portals end."""
    monkeypatch.setattr(registry, "_PATIENCE_SECONDS", 0.01)
    tenant = Tenant(anyio.sleep_forever)
    portal = tenant.enter(kind, 0.01)
    registry.end_all()
    assert portal.closed
    assert "could not be ended in order" in caplog.text


# Other processes.

_PRELUDE = """
import asyncio, functools, gc, os, signal, sys, threading
import anyio, anyio.to_thread
from bridges.crossing import registry
from bridges.crossing.registry import enter, leave, leave_soon

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")  # in one piece
    sys.stdout.flush()

def tenant(name, action=None):
    async def farewell():
        if action is not None:
            await action()
        say("farewell of", name)
    return farewell

def works(portal):
    portal.call(anyio.lowlevel.checkpoint, 10)
    return True

def wait_for(child):
    say("child's status", os.waitpid(child, 0)[1])
"""


def run_script(script: str, *options: str, code: int = 0, **environ: str) -> list[str]:
    """Run Python; give the lines that it printed, after it ended well and without complaints."""
    ended = subprocess.run(
        [sys.executable, *options, "-c", _PRELUDE + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environ},
    )
    assert (ended.returncode, ended.stderr) == (code, "")
    return ended.stdout.splitlines()


EXIT_KINDS = [
    pytest.param("'asyncio', None", id="asyncio"),
    pytest.param("'trio', None", id="trio"),
    pytest.param("'inline', None", id="inline"),
]
THREAD_KINDS = EXIT_KINDS[:2]
if importlib.util.find_spec("uvloop"):
    _UVLOOP = pytest.param("'asyncio', __import__('uvloop').new_event_loop", id="uvloop")
    EXIT_KINDS.append(_UVLOOP)
    THREAD_KINDS = [*THREAD_KINDS, _UVLOOP]


@pytest.mark.slow
@pytest.mark.spec("FR 72")
def test_import_starts_nothing():
    """Importing the package starts no thread and makes no loop."""
    lines = run_script("""
        import bridges
        say(threading.active_count(), registry._portals)
    """)
    assert lines == ["1 {}"]


@pytest.mark.slow
@pytest.mark.spec("FR 78")
@pytest.mark.parametrize("kind", EXIT_KINDS)
def test_interpreter_exit(kind):
    """A process that exits with a living portal says its farewells, ends what is left, and exits well."""
    lines = run_script(f"""
        async def stay():
            try:
                await anyio.sleep_forever()
            finally:
                say("task cancelled")

        async def begin():
            portal.spawn(stay, __import__("contextvars").copy_context())
            await anyio.sleep(0.001)

        portal = enter({kind}, tenant("the only one"), 10)
        portal.call(begin)
        say("end of main")
    """)
    assert lines == ["end of main", "farewell of the only one", "task cancelled"]


@pytest.mark.slow
@pytest.mark.spec("FR 78")
@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="Python 3.12 starts no thread once it exits"
)
@pytest.mark.parametrize("kind", EXIT_KINDS)
def test_interpreter_exit_leaves_executors_usable(kind):
    """A farewell at the interpreter's exit may use threads: those of executors, and of its own."""
    lines = run_script(f"""
        async def use_threads():
            await anyio.to_thread.run_sync(say, "in a worker thread")
            if "trio" not in {kind!r}:
                await asyncio.to_thread(say, "in the executor")

        enter({kind}, tenant("the only one", use_threads), 10)
    """)
    executor = [] if "trio" in kind else ["in the executor"]
    assert lines == ["in a worker thread", *executor, "farewell of the only one"]


@pytest.mark.slow
@pytest.mark.spec("FR 78")
@pytest.mark.parametrize("kind", THREAD_KINDS)
def test_interpreter_exit_does_not_wait_for_threads_first(kind):
    """A thread that only the farewell can end does not keep the interpreter from getting there."""
    lines = run_script(f"""
        over = threading.Event()

        async def let_go():
            over.set()

        def serve():
            over.wait()
            say("thread over")

        enter({kind}, tenant("the only one", let_go), 10)
        threading.Thread(target=serve).start()
    """)
    assert sorted(lines) == ["farewell of the only one", "thread over"]


@pytest.mark.slow
@pytest.mark.spec("FR 78")
def test_interpreter_exit_keeps_the_exit_code():
    """A process that exits with a code does so with a living portal, too."""
    lines = run_script(
        """
        enter("asyncio", None, tenant("the only one"), 10)
        sys.exit(3)
        """,
        code=3,
    )
    assert lines == ["farewell of the only one"]


@pytest.mark.slow
@pytest.mark.spec("FR 78")
def test_interpreter_exit_with_portals_of_all_kinds():
    """All portals end."""
    lines = run_script("""
        for kind in ("asyncio", "trio", "inline"):
            enter(kind, None, tenant(kind), 10)
    """)
    assert sorted(lines) == [f"farewell of {kind}" for kind in ("asyncio", "inline", "trio")]


@pytest.mark.slow
@pytest.mark.spec("FR 78")
@pytest.mark.parametrize("kind", EXIT_KINDS)
def test_interpreter_exit_after_everybody_left(kind):
    """Where everybody has left, the exit has nothing to do."""
    lines = run_script(f"""
        farewell = tenant("the only one")
        leave(enter({kind}, farewell, 10), farewell)
        say("end of main")
    """)
    assert lines == ["farewell of the only one", "end of main"]


@pytest.mark.slow
@pytest.mark.spec("FR 78")
@pytest.mark.parametrize("kind", THREAD_KINDS)
def test_interpreter_exit_while_a_forgotten_tenant_leaves(kind):
    """A farewell that is being said for a forgotten tenant as the interpreter exits is said once, to its end."""
    lines = run_script(f"""
        begun = threading.Event()

        async def wait_for_the_exit():
            say("farewell begins")
            begun.set()
            while registry._portals:
                await anyio.sleep(0.001)
            await anyio.sleep(0.01)

        farewell = tenant("the forgotten", wait_for_the_exit)
        leave_soon(enter({kind}, farewell, 10), farewell)
        begun.wait()
    """)
    assert lines == ["farewell begins", "farewell of the forgotten"]


@pytest.mark.slow
@pytest.mark.spec("FR 78")
@pytest.mark.parametrize("kind", THREAD_KINDS)
def test_interpreter_exit_while_a_portal_ends(kind):
    """What is cancelled at the end of a portal that the last one has left soon ends before the interpreter does."""
    lines = run_script(f"""
        exiting = threading.Event()
        begun = threading.Event()

        async def stay():
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    begun.set()
                    while not exiting.is_set():
                        await anyio.sleep(0.001)
                    await anyio.sleep(0.01)
                say("task over")

        async def begin():
            portal.spawn(stay, __import__("contextvars").copy_context())
            await anyio.sleep(0.001)

        farewell = tenant("the last")
        portal = enter({kind}, farewell, 10)
        portal.call(begin)
        leave_soon(portal, farewell)
        begun.wait()
        exiting.set()
    """)
    assert lines == ["farewell of the last", "task over"]


@pytest.mark.slow
@pytest.mark.spec("FR 79")
@pytest.mark.parametrize("kind", EXIT_KINDS)
def test_debug_mode_is_clean(kind):
    """With asyncio's debug mode, and warnings as errors, a portal's life is without a word of complaint."""
    lines = run_script(
        f"""
        import logging
        from contextvars import copy_context

        # That a step took long is about the machine.
        logging.getLogger("asyncio").addFilter(lambda record: "took" not in record.getMessage())

        async def stay():
            await anyio.sleep_forever()

        async def work():
            portal.spawn(stay, copy_context())
            portal.call_later(0.001, lambda: None)
            await anyio.to_thread.run_sync(lambda: None)
            await anyio.sleep(0.005)

        def serve():
            for _ in range(5):
                portal.call(work, 10)

        for round in range(2):
            farewell = tenant(round)
            portal = enter({kind}, farewell, 10)
            threads = [threading.Thread(target=serve) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if round == 0:
                leave(portal, farewell)
                del portal
                gc.collect()
        """,
        "-X",
        "dev",
        "-W",
        "error",
        PYTHONASYNCIODEBUG="1",
    )
    assert lines == ["farewell of 0", "farewell of 1"]


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
# From 3.12 on Python warns of forks in processes with threads, which is what these are about.
NO_FORK_WARNING = ("-W", "ignore::DeprecationWarning")


@pytest.mark.slow
@needs_fork
@pytest.mark.spec("FR 72")
@pytest.mark.parametrize("kind", EXIT_KINDS)
def test_fork(kind):
    """A child's first enter starts a portal of its own, which its exit ends; the parent's goes on."""
    lines = run_script(
        f"""
        parents = enter({kind}, tenant("parent"), 10)
        child = os.fork()
        if not child:
            signal.alarm(8)  # ends a child that hangs
            say("inherited", parents.closed, threading.active_count())
            own = enter({kind}, tenant("child"), 10)
            say("own", own is not parents and works(own))
            sys.exit()
        wait_for(child)
        say("parent goes on", works(parents))
        say("same for who comes", enter({kind}, tenant("second"), 10) is parents)
        registry._portals[{kind}].tenants.popitem()
        """,
        *NO_FORK_WARNING,
    )
    assert lines == [
        "inherited True 1",
        "own True",
        "farewell of child",
        "child's status 0",
        "parent goes on True",
        "same for who comes True",
        "farewell of parent",
    ]


@pytest.mark.slow
@needs_fork
@pytest.mark.spec("FR 72")
@pytest.mark.parametrize("kind", EXIT_KINDS)
def test_fork_leaves_the_parents_loop_alone(kind):
    """A child that drops what it inherited, collects its garbage and exits does not disturb the parent's loop."""
    lines = run_script(
        f"""
        parents = enter({kind}, tenant("parent"), 10)
        for _ in range(3):
            child = os.fork()
            if not child:
                signal.alarm(8)  # ends a child that hangs
                del parents
                gc.collect()
                sys.exit()
            wait_for(child)
            say("parent goes on", works(parents))
        """,
        *NO_FORK_WARNING,
    )
    assert lines == ["child's status 0", "parent goes on True"] * 3 + ["farewell of parent"]


@pytest.mark.slow
@needs_fork
@pytest.mark.spec("FR 72")
@pytest.mark.parametrize("kind", EXIT_KINDS)
def test_leave_in_a_forked_child(kind):
    """A child that leaves what its parent entered neither waits, nor says a farewell, nor complains."""
    lines = run_script(
        f"""
        registry._PATIENCE_SECONDS = 0.1
        farewell = tenant("parent")
        parents = enter({kind}, farewell, 0.1)
        child = os.fork()
        if not child:
            signal.alarm(8)  # ends a child that hangs
            leave_soon(parents, farewell)
            leave(parents, farewell)
            say("child has left")
            sys.exit()
        wait_for(child)
        say("parent goes on", works(parents))
        """,
        *NO_FORK_WARNING,
    )
    assert lines == [
        "child has left",
        "child's status 0",
        "parent goes on True",
        "farewell of parent",
    ]


@pytest.mark.slow
@needs_fork
@pytest.mark.spec("FR 72")
def test_fork_while_another_thread_holds_the_lock():
    """A fork while another thread is in the registry, or is starting a portal, does not lock the child."""
    lines = run_script(
        """
        making, starting, go_on = threading.Event(), threading.Event(), threading.Event()

        def factory():
            starting.set()
            go_on.wait()
            return asyncio.new_event_loop()

        make = registry._make

        def slow_make(backend, loop_factory):
            making.set()
            go_on.wait()
            return make(backend, loop_factory)

        entering = threading.Thread(target=enter, args=("asyncio", factory, tenant("slow start"), 10))
        entering.start()
        starting.wait()
        registry._make = slow_make
        locking = threading.Thread(target=enter, args=("trio", None, tenant("slow"), 10))
        locking.start()
        making.wait()
        assert registry._lock.locked()
        child = os.fork()
        if not child:
            signal.alarm(8)  # ends a child that hangs
            registry._make = make
            go_on = threading.Event()
            go_on.set()
            for kind in (("asyncio", None), ("asyncio", factory), ("trio", None)):
                say("child works", works(enter(*kind, tenant(kind[0]), 10)))
            registry.end_all()
            say("child ends")
            os._exit(0)
        wait_for(child)
        go_on.set()
        entering.join()
        locking.join()
        say("parent's portals", sorted(type(p).__name__ for p in registry._portals.values()))
        """,
        *NO_FORK_WARNING,
    )
    assert lines == [
        "child works True",
        "child works True",
        "child works True",
        "farewell of asyncio",
        "farewell of asyncio",
        "farewell of trio",
        "child ends",
        "child's status 0",
        "parent's portals ['AsyncioPortal', 'TrioPortal']",
        "farewell of slow start",
        "farewell of slow",
    ]


@pytest.mark.slow
@needs_fork
@pytest.mark.spec("FR 72")
def test_fork_before_anybody_entered():
    """What is made before a fork works in all children, each with its own portal."""
    lines = run_script(
        """
        for number in range(2):
            child = os.fork()
            if not child:
                signal.alarm(8)  # ends a child that hangs
                say("child works", works(enter("asyncio", None, tenant(number), 10)))
                sys.exit()
            wait_for(child)
        say("parent works", works(enter("asyncio", None, tenant("parent"), 10)))
        """,
        *NO_FORK_WARNING,
    )
    assert lines == [
        "child works True",
        "farewell of 0",
        "child's status 0",
        "child works True",
        "farewell of 1",
        "child's status 0",
        "parent works True",
        "farewell of parent",
    ]
