"""What the conftest of a matrix is made of: the hooks, which each binds to its matrix, and the fixtures.

One process serves all checks of a cell (host, app). A test's module names its apps in ``APPS``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .hosts import Matrix
from .table import Seen, compared, replaced, section

# The fast part loads this file where neither hosts nor what drives them are installed.
if TYPE_CHECKING:
    from .process import Server

PAGE = Path(__file__).parent.parent.parent / "docs" / "compatibility.md"
OPTION = "--write-compatibility"
# What a host is known to be unable to do is waited for no longer than this.
IMPATIENT_SECONDS = 1.0


def add_option(parser: pytest.Parser) -> None:
    """Add the option that all matrices share; the first conftest that asks brings it."""
    text = "write docs/compatibility.md instead of comparing it with what the run saw"
    with contextlib.suppress(ValueError):  # the conftest of the other matrix brought it
        parser.addoption(OPTION, action="store_true", help=text)


class Hooks:
    """The hooks of one matrix, whose tests stand below ``folder``."""

    def __init__(self, matrix: Matrix, folder: Path) -> None:
        self.matrix = matrix
        self.folder = folder
        self.seen = Seen()

    def pytest_ignore_collect(self, collection_path: Path, config: pytest.Config) -> bool | None:
        """Leave the folder alone in the fast part: the hosts need not even be installed."""
        ours = self.folder in collection_path.parents
        return True if ours and "not hosts" in config.option.markexpr else None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Give each test one process per host for every app that its module names in APPS."""
        ours = self.folder in metafunc.definition.path.parents
        if not ours or "server" not in metafunc.fixturenames:
            return
        http2_only = getattr(metafunc.module, "HTTP2_ONLY", False)
        hosts = [host for host in self.matrix.hosts if host.http2 or not http2_only]
        cells = [(host.name, app) for app in metafunc.module.APPS for host in hosts]
        ids = [f"{host}-{app}" for host, app in cells]
        metafunc.parametrize("server", cells, ids=ids, indirect=True, scope="module")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Mark the matrix's tests, and put its table behind them."""
        ours = [item for item in items if self.folder in item.path.parents]
        self.seen.narrowed |= any("::" in argument for argument in config.args)
        for item in ours:
            item.add_marker("hosts")
            item.add_marker(pytest.mark.timeout(60))
        # The table sums up the others, so it comes when all of them are done.
        last = [item for item in ours if item.path.name == "test_table.py"]
        items[:] = [item for item in items if item not in last] + last

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Remember that something is left out."""
        self.seen.narrowed |= any(self.folder in item.path.parents for item in items)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Iterator[None]:
        """Turn a limit's expected failure into a skip with its reason, and its absence into a failure."""
        report = yield
        if self.folder in item.path.parents and (cell := cell_of(item)):
            self._enter(cell, check_of(item), call, report)
        return report

    def _enter(
        self,
        cell: tuple[str, str],
        check: str,
        call: pytest.CallInfo[None],
        report: pytest.TestReport,
    ) -> None:
        limits = [limit for limit in self.matrix.limits if limit.concerns(*cell, check)]
        if call.when == "call" and limits:
            (limit,) = limits
            if report.passed:
                report.outcome = "failed"
                report.longrepr = f"{cell[0]} has learned this; remove its limit: {limit.reason}"
            elif report.failed and call.excinfo and re.search(limit.sign, str(call.excinfo.value)):
                report.outcome = "skipped"
                report.wasxfail = limit.reason
                self.seen.limits[cell].append(limit)
                return
        if report.failed:
            self.seen.failed[cell] += 1
        elif call.when == "call" and report.passed:
            self.seen.passed[cell] += 1


def cell_of(item: pytest.Item) -> tuple[str, str] | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("server") if callspec else None


def check_of(item: pytest.Item) -> str:
    """Name the check: the test's id without the id of its cell."""
    host, app = item.callspec.params["server"]  # type: ignore[attr-defined]  # a parametrised item
    return re.sub(r"\[\]|(?<=\[)-|-(?=\])", "", item.name.replace(f"{host}-{app}", ""))


def check_page(hooks: Hooks, config: pytest.Config) -> None:
    """Compare docs/compatibility.md with what the run saw, or write it."""
    if not hooks.seen.full(hooks.matrix):
        pytest.skip("only a part of the matrix ran")
    assert not hooks.seen.failed
    text = section(hooks.matrix, hooks.seen)
    if config.getoption(OPTION, default=False):
        PAGE.write_text(replaced(PAGE.read_text(), hooks.matrix, text))
    assert compared(text, hooks.matrix) == compared(PAGE.read_text(), hooks.matrix)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Give the files of a throwaway certificate and its key."""
    from .process import make_certificate

    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest,
    hooks: Hooks,
    tmp_path_factory: pytest.TempPathFactory,
    certificate: tuple[str, str],
) -> Iterator[Server]:
    """Run one host with one app for all its checks."""
    from .process import Server

    name, app = request.param
    host = hooks.matrix.host(name)
    if reason := host.missing():
        # On a machine that decides about a merge nothing may be left out unseen.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    state = tmp_path_factory.mktemp("host")
    running = Server(hooks.matrix, host, app, state, certificate)
    if prepare := getattr(request.module, "prepare", None):
        prepare(state, tmp_path_factory)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def patience(request: pytest.FixtureRequest, hooks: Hooks, server: Server) -> float:
    """Give the seconds that this test waits for what may never come."""
    from .raw import CLIENT_SECONDS

    check, limits = check_of(request.node), hooks.matrix.limits
    limited = any(limit.concerns(server.host.name, server.app, check) for limit in limits)
    return IMPATIENT_SECONDS if limited else CLIENT_SECONDS
