"""The table host x app is full, and docs/compatibility.md says what the run saw."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostkit.table import Seen, compared, page

PAGE = Path(__file__).parent.parent.parent / "docs" / "compatibility.md"


def test_committed_page_agrees_with_the_run(seen: Seen, pytestconfig: pytest.Config) -> None:
    """docs/compatibility.md is the outcome of the full matrix, and nothing else."""
    if not seen.full():
        pytest.skip("only a part of the matrix ran")
    assert not seen.failed
    expected = page(seen)
    if pytestconfig.getoption("--write-compatibility", default=False):
        PAGE.write_text(expected)
    assert compared(expected) == compared(PAGE.read_text())
