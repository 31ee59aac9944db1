"""The matrix of WSGI servers: one process per (host, app), and the record behind the table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostkit.plugin import Hooks, add_option, certificate, check_of, server
from hostkit.wsgi_hosts import MATRIX

if TYPE_CHECKING:
    from hostkit.process import Server

__all__ = ["certificate", "server"]

pytest.register_assert_rewrite("hostkit.websockets")

pytest_addoption = add_option
# What a host is known to be unable to do is waited for no longer than this.
IMPATIENT_SECONDS = 1.0
HOOKS = Hooks(MATRIX, Path(__file__).parent)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(HOOKS, f"hooks of {MATRIX.name}")


@pytest.fixture(scope="session")
def hooks() -> Hooks:
    """Give the matrix and what the run saw of it so far."""
    return HOOKS


@pytest.fixture
def patience(request: pytest.FixtureRequest, server: Server) -> float:
    """Give the seconds that this test waits for what may never come."""
    from hostkit.raw import CLIENT_SECONDS

    check = check_of(request.node)
    limits = MATRIX.limits
    limited = any(limit.concerns(server.host.name, server.app, check) for limit in limits)
    return IMPATIENT_SECONDS if limited else CLIENT_SECONDS
