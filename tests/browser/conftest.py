"""One Chromium for all tests of the folder, and what the chat is served by."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hostkit.chromium import Browser

FOLDER = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the folder alone in the fast part."""
    ours = FOLDER in collection_path.parents
    return True if ours and "not hosts" in config.option.markexpr else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker("hosts")
            item.add_marker(pytest.mark.timeout(60))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Give the one browser of the run; CI has it, another machine may not."""
    from hostkit.chromium import Browser, find_chromium

    if not find_chromium() and not os.environ.get("CI"):
        pytest.skip("Chromium is not installed; on Debian: apt-get install chromium")
    with Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running
