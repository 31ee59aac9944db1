"""The matrix of ASGI servers: one process per (host, app), and the record behind the table."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostkit.asgi_hosts import MATRIX
from hostkit.plugin import Hooks, add_option, certificate, patience, server

__all__ = ["certificate", "patience", "server"]

pytest.register_assert_rewrite("hostkit.websockets")

pytest_addoption = add_option
HOOKS = Hooks(MATRIX, Path(__file__).parent)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(HOOKS, f"hooks of {MATRIX.name}")


@pytest.fixture(scope="session")
def hooks() -> Hooks:
    """Give the matrix and what the run saw of it so far."""
    return HOOKS
