"""Fixtures of the host tests: one process per (host, app), and the record behind the table."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # importlib mode does not: hostkit is found beside this file

from hostkit.hosts import APPS, HOSTS, LIMITS  # noqa: E402  # needs the line above
from hostkit.table import Seen  # noqa: E402

if TYPE_CHECKING:
    from hostkit.process import Server

SEEN = pytest.StashKey[Seen]()
BY_NAME = {host.name: host for host in HOSTS}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-compatibility",
        action="store_true",
        help="write docs/compatibility.md instead of comparing it with what the run saw",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SEEN] = Seen()
    config.addinivalue_line("markers", "hosts: real servers as processes of their own")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the folder alone in the fast part: the hosts need not even be installed."""
    return True if "not hosts" in config.option.markexpr else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test one process per host for every app that its module names in APPS."""
    if "server" in metafunc.fixturenames:
        http2_only = getattr(metafunc.module, "HTTP2_ONLY", False)
        hosts = [host for host in HOSTS if host.http2 or not http2_only]
        cells = [(host.name, app) for app in metafunc.module.APPS for host in hosts]
        ids = [f"{host}-{app}" for host, app in cells]
        metafunc.parametrize("server", cells, ids=ids, indirect=True, scope="module")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    config.stash[SEEN].narrowed |= any("::" in argument for argument in config.args)
    for item in ours:
        item.add_marker("hosts")
        item.add_marker(pytest.mark.timeout(60))
    # The table sums up the others, so it comes when all of them are done.
    last = [item for item in ours if item.path.name == "test_table.py"]
    items[:] = [item for item in items if item not in last] + last


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items[:1]:
        item.config.stash[SEEN].narrowed = True


def cell_of(item: pytest.Item) -> tuple[str, str] | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("server") if callspec else None


def check_of(item: pytest.Item) -> str:
    """Name the check: the test's id without the id of its cell."""
    host, app = item.callspec.params["server"]  # type: ignore[attr-defined]  # a parametrised item
    return re.sub(r"\[\]|(?<=\[)-|-(?=\])", "", item.name.replace(f"{host}-{app}", ""))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Turn a limit's expected failure into a skip with its reason, and its absence into a failure."""
    report = yield
    cell = cell_of(item)
    if cell is None:
        return report
    seen = item.config.stash[SEEN]
    limits = [limit for limit in LIMITS if limit.concerns(*cell, check_of(item))]
    if call.when == "call" and limits:
        (limit,) = limits
        if report.passed:
            report.outcome = "failed"
            report.longrepr = f"{cell[0]} has learned this; remove its limit: {limit.reason}"
        elif report.failed and call.excinfo and re.search(limit.sign, str(call.excinfo.value)):
            report.outcome = "skipped"
            report.wasxfail = limit.reason
            seen.limits[cell].append(limit)
            return report
    if report.failed:
        seen.failed[cell] += 1
    elif call.when == "call" and report.passed:
        seen.passed[cell] += 1
    return report


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Give the files of a throwaway certificate and its key."""
    from hostkit.process import make_certificate

    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificate: tuple[str, str],
) -> Iterator[Server]:
    """Run one host with one app for all its checks."""
    from hostkit.process import Server

    name, app = request.param
    assert app in APPS
    state = tmp_path_factory.mktemp("host")
    running = Server(BY_NAME[name], app, state, certificate)
    if prepare := getattr(request.module, "prepare", None):
        prepare(state, tmp_path_factory)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def seen(pytestconfig: pytest.Config) -> Seen:
    """Give what the run saw so far."""
    return pytestconfig.stash[SEEN]
