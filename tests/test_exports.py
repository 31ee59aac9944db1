"""The public names: what `from bridges import *` gives is what the docs describe."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import bridges

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = [name for name in bridges.__all__ if not name.startswith("_")]
MODULES = sorted(module.name for module in pkgutil.walk_packages(bridges.__path__, "bridges."))


def documented() -> set[str]:
    """Names of the package that a page of the docs hands to autodoc."""
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts]
    found: set[str] = set()
    for page in pages:
        found.update(
            re.findall(r"\bauto\w+(?:::|\})\s+bridges\.(\w+)\s*$", page.read_text(), re.MULTILINE)
        )
    return found


def test_public_names_are_listed_once_and_in_order():
    """A sorted list without repetition merges and reads well."""
    assert list(bridges.__all__) == sorted(set(bridges.__all__))


@pytest.mark.parametrize("name", bridges.__all__)
def test_every_listed_name_exists(name):
    """A name in __all__ that is not there breaks `from bridges import *`."""
    assert hasattr(bridges, name)


def test_every_public_object_is_listed():
    """An object the face imports without listing it would be public by accident."""
    submodules = {module.rpartition(".")[2] for module in MODULES}
    visible = {name for name in vars(bridges) if not name.startswith("_")}

    assert visible - submodules - {"annotations", "TYPE_CHECKING", "import_module"} <= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_in_the_reference(name):
    """What is public is documented from its docstring."""
    assert name in documented()


@pytest.mark.parametrize("module", MODULES)
def test_lists_of_modules_name_what_is_there(module):
    """Where a module of the package has an __all__, each of its names exists, once."""
    loaded = importlib.import_module(module)
    listed = getattr(loaded, "__all__", [])

    assert [name for name in listed if not hasattr(loaded, name)] == []
    assert len(set(listed)) == len(listed)
