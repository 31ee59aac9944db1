"""What every test gets: a time limit, a look at threads left behind, back ends, and a printed seed."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import logging
import os
import random
import sys
import threading
import time
import zlib
from typing import Any

import hypothesis
import pytest

# A thread that was told to end may still have to be scheduled on a loaded machine.
THREAD_EXIT_SECONDS = 5.0
THREAD_PREFIX = "bridges-"


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # 3.12
    return loop


def _backends() -> list[Any]:
    # Debug mode refuses a loop method called from a wrong thread, which is what a bridge gets wrong first.
    backends = [pytest.param(("asyncio", {"debug": True}), id="asyncio")]
    if sys.version_info >= (3, 12):
        eager = ("asyncio", {"debug": True, "loop_factory": _eager_loop})
        backends.append(pytest.param(eager, id="asyncio+eager"))
    if importlib.util.find_spec("uvloop"):
        uvloop = ("asyncio", {"debug": True, "use_uvloop": True})
        backends.append(pytest.param(uvloop, id="asyncio+uvloop"))
    if importlib.util.find_spec("trio"):
        backends.append(pytest.param(("trio", {}), id="trio"))
    return backends


@pytest.fixture(params=_backends())
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run an ``async def`` test once on each event loop installed."""
    return request.param


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Return a generator seeded by the run's seed and the test's name, so each test repeats alone."""
    return random.Random(request.config.stash[_SEED] ^ zlib.crc32(request.node.nodeid.encode()))


def _bridge_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith(THREAD_PREFIX)}


def _is_there(thread: threading.Thread) -> bool:
    """Whether it runs or is just being started, when it cannot be joined yet."""
    return thread.is_alive() or thread.ident is None


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Any:
    """Fail a test that leaves one of our threads running: what it started, it ends."""
    before = _bridge_threads()
    yield
    left = _bridge_threads() - before
    if not left:
        return
    deadline = time.monotonic() + THREAD_EXIT_SECONDS
    while any(map(_is_there, left)) and time.monotonic() < deadline:
        # A pool that only a reference cycle still holds is on its way out, once no thread is within it.
        gc.collect()
        for thread in left:
            if thread.is_alive():
                thread.join(0.2)
    alive = sorted(thread.name for thread in left if _is_there(thread))
    if alive:
        pytest.fail(f"threads left behind by the test: {', '.join(alive)}", pytrace=False)


_SEED = pytest.StashKey[int]()

# That examples take long to make says nothing but that the machine is busy.
_UNTIMED: Any = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("local", **_UNTIMED, print_blob=True)
hypothesis.settings.register_profile("repeatable", **_UNTIMED, derandomize=True, database=None)
_ON_CI = bool(os.environ.get("CI"))
hypothesis.settings.load_profile("repeatable" if _ON_CI else "local")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed of hypothesis and of ``rng`` unless the command line gave one."""
    given = config.getoption("--hypothesis-seed")
    if given is None:
        given = 0 if _ON_CI else random.SystemRandom().randrange(2**32)
        config.option.hypothesis_seed = str(given)
    config.stash[_SEED] = zlib.crc32(str(given).encode())


# In asyncio's debug mode. It says nothing but that the machine is busy, and tests look at what is logged.
logging.getLogger("asyncio").addFilter(lambda record: not str(record.msg).startswith("Executing "))


def pytest_collection_finish() -> None:
    """Take what thousands of tests are made of out of the collections that `no_thread_left_behind` asks for."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    """Say how to repeat the run's random choices."""
    return f"random choices: --hypothesis-seed={config.getoption('--hypothesis-seed')}"
