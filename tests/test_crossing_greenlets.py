"""Greenlets: who waits yields to the hub, who rings comes from a real thread; gevent patches child processes only."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import bridges
from bridges.crossing.greenlets import hub_here, is_patched, new_event_loop

pytest.importorskip("gevent")

PATIENCE_SECONDS = 15

PATCHED = """
from gevent import monkey
monkey.patch_all()
"""
TOOLS = """
import asyncio, os, sys, threading
import gevent
from gevent.hub import get_hub
from bridges.crossing import greenlets
from bridges.crossing.greenlets import GreenletBell, hub_here, new_event_loop, start_real_thread
from gevent.monkey import get_original

PATIENCE_SECONDS = 8

def in_real_thread(function):
    bell = GreenletBell(get_hub())
    start_real_thread(lambda: (function(), bell.ring()), "real")
    assert bell.wait(PATIENCE_SECONDS), "the real thread did not end"
"""


def outcome(program: str, patched: bool = True) -> str:
    """Run a program in a process of its own; what it printed."""
    source = (PATCHED if patched else "") + TOOLS + textwrap.dedent(program)
    root = str(Path(bridges.__file__).resolve().parent.parent)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", source],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_hub_where_nothing_is_patched() -> None:
    """A thread that no hub runs in waits as threads do."""
    assert (hub_here(), is_patched()) == (None, False)


def test_the_loop_is_the_usual_one_where_nothing_is_patched() -> None:
    """Without gevent's patches the policy makes the loop."""
    loop = new_event_loop()
    loop.close()
    assert "Hub" not in type(loop).__name__


def test_a_hub_is_found_without_patching() -> None:
    """gevent.pywsgi runs greenlets in programs that are not patched."""
    program = """
        before = hub_here()
        hub = get_hub()
        print(before, gevent.spawn(hub_here).get() is hub)
    """
    assert outcome(program, patched=False) == "None True"


@pytest.mark.parametrize("patched", [True, False])
def test_waiting_lets_other_greenlets_run(patched: bool) -> None:
    """While a greenlet waits for a ring, the others of its thread run."""
    program = """
        bell, order = GreenletBell(get_hub()), []
        def other():
            order.append("other")
            start_real_thread(bell.ring, "ringer")
        gevent.spawn(other)
        order.append(bell.wait(PATIENCE_SECONDS))
        print(order)
    """
    assert outcome(program, patched) == "['other', True]"


def test_a_ring_before_the_wait_is_kept_once() -> None:
    """A ring before the wait ends it at once; rings that come together are one."""
    program = """
        bell = GreenletBell(get_hub())
        in_real_thread(lambda: (bell.ring(), bell.ring()))
        print(bell.wait(), bell.wait(0.001))
    """
    assert outcome(program) == "True False"


def test_many_rings_cost_one_send() -> None:
    """The hub is woken once for all rings of all bells that it has not answered."""
    program = """
        bells = [GreenletBell(get_hub()) for _ in range(1000)]
        hub_bell, sends = bells[0]._hub_bell, []
        class Watcher:
            def __init__(self, watcher): self.__dict__["watcher"] = watcher
            def send(self): sends.append(1); self.watcher.send()
            def __setattr__(self, name, value): setattr(self.watcher, name, value)
        hub_bell._watcher = Watcher(hub_bell._watcher)
        waiters = [gevent.spawn(bell.wait) for bell in bells]
        gevent.sleep(0)
        over = get_original("_thread", "allocate_lock")()
        over.acquire()
        start_real_thread(lambda: ([bell.ring() for bell in bells], over.release()), "ringer")
        over.acquire()  # holds the hub back until all have rung
        gevent.joinall(waiters, timeout=PATIENCE_SECONDS)
        print(sum(waiter.value for waiter in waiters), len(sends), hub_bell._waiters)
    """
    assert outcome(program) == "1000 1 0"


def test_a_greenlet_that_is_killed_or_timed_out_leaves_nothing() -> None:
    """The bell of a killed greenlet may be rung, and other greenlets' bells work on."""
    program = """
        bells = [GreenletBell(get_hub()) for _ in range(3)]
        def limited():
            with gevent.Timeout(0.001, False):
                bells[1].wait()
            return "timed out"
        killed, late, good = gevent.spawn(bells[0].wait), gevent.spawn(limited), gevent.spawn(bells[2].wait)
        late.join()
        killed.kill()
        in_real_thread(lambda: [bell.ring() for bell in bells])
        print(repr(killed.value), late.value, good.get(timeout=PATIENCE_SECONDS), bells[0]._hub_bell._waiters)
    """
    assert outcome(program) == "GreenletExit() timed out True 0"


def test_a_greenlet_that_dies_of_an_error_takes_no_ring_with_it() -> None:
    """An error that reaches the hub from a raw greenlet does not keep the rest from being woken."""
    program = """
        bells = [GreenletBell(get_hub()) for _ in range(2)]
        def dying():
            bells[0].wait()
            raise ValueError("raw")
        gevent.spawn_raw(dying)
        good = gevent.spawn(bells[1].wait)
        gevent.sleep(0)
        for bell in bells:
            bell.ring()
        print(good.get(timeout=PATIENCE_SECONDS))
    """
    assert outcome(program) == "True"


def test_a_ring_for_a_destroyed_hub_is_nothing() -> None:
    """A loop may ring for a request whose thread has ended, hub and all."""
    program = """
        bells = []
        def other():
            hub = get_hub()
            bells.append(GreenletBell(hub))
            hub.destroy(destroy_loop=True)
        in_real_thread(other)
        bells[0].ring()
        print("rang")
    """
    assert outcome(program) == "rang"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_is_woken_though_its_parent_was_ringing() -> None:
    """A thread between its mark and its wake-up of the hub does not exist in the child."""
    program = """
        GreenletBell(get_hub())._hub_bell._sent = True  # as that thread leaves it
        child = os.fork()
        if not child:
            bell = GreenletBell(get_hub())
            get_hub().loop.run_callback(start_real_thread, bell.ring, "ringer")
            with gevent.Timeout(5, False):
                os._exit(7 if bell.wait() else 1)
            os._exit(2)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert outcome(program) == "7"


def test_a_real_thread_is_real_and_has_its_name() -> None:
    """A patched process starts a thread of the operating system, named for the logs."""
    program = """
        native = get_original("threading", "get_native_id")
        seen = []
        in_real_thread(lambda: seen.extend((native(), threading.current_thread().name)))
        print(seen[0] != native(), seen[1])
    """
    assert outcome(program) == "True real"


def test_the_running_loop_is_seen_only_by_who_runs_on_it() -> None:
    """Neither greenlets of the main thread nor worker greenlets beside the loop see a running loop."""
    program = """
        seen = {}
        look = asyncio._get_running_loop
        async def main():
            seen["worker"] = await asyncio.to_thread(look)
            seen["main"] = looked.get()
            seen["loop"] = look() is asyncio.get_running_loop()
        looked = gevent.spawn(look)
        looked.join()
        def run():
            loop = new_event_loop()
            loop.run_until_complete(main())
            loop.close()
        in_real_thread(run)
        print(seen)
    """
    assert outcome(program) == "{'worker': None, 'main': None, 'loop': True}"


def test_a_worker_may_run_a_loop_of_its_own() -> None:
    """Worker greenlets run loops at the same time, as worker threads do."""
    program = """
        async def nested(number):
            await asyncio.sleep(0)
            return number
        async def main():
            return await asyncio.gather(
                *(asyncio.to_thread(lambda n=n: asyncio.run(nested(n))) for n in range(5))
            )
        seen = []
        def run():
            loop = new_event_loop()
            seen.extend(loop.run_until_complete(main()))
            loop.close()
        in_real_thread(run)
        print(seen)
    """
    assert outcome(program) == "[0, 1, 2, 3, 4]"


def test_a_closed_loop_leaves_no_thread_that_the_exit_waits_for() -> None:
    """The workers of the loop's executor have ended when it is closed."""
    program = """
        workers = []
        async def main():
            await asyncio.to_thread(lambda: workers.append(threading.current_thread()))
        def run():
            loop = new_event_loop()
            loop.run_until_complete(main())
            loop.close()
            workers.append(workers[0].is_alive())
        in_real_thread(run)
        print(workers[1])
    """
    assert outcome(program) == "False"
