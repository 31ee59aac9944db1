"""The table host x app is full, and docs/compatibility.md says what the run saw."""

from __future__ import annotations

import pytest
from hostkit.plugin import Hooks, check_page


def test_committed_page_agrees_with_the_run(hooks: Hooks, pytestconfig: pytest.Config) -> None:
    """docs/compatibility.md is the outcome of the full matrix, and nothing else."""
    check_page(hooks, pytestconfig)
