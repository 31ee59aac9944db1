"""The arrows between the package's modules, checked without flake8, and the checker itself."""

from __future__ import annotations

import ast

import layers
import pytest

SOURCES = sorted((layers.ROOT / layers.PACKAGE).rglob("*.py"))


def parsed() -> dict[str, tuple[ast.Module, bool]]:
    """Every module of the package by name, with its tree and whether it is an ``__init__``."""
    found = {}
    for path in SOURCES:
        module = layers.module_of(path)
        assert module is not None
        found[module[0]] = (ast.parse(path.read_text()), module[1])
    return found


def runtime_arrows() -> dict[str, set[str]]:
    """Module by module, the package's modules it imports when it is imported."""
    trees = parsed()
    arrows: dict[str, set[str]] = {}
    for module, (tree, is_package) in trees.items():
        arrows[module] = set()
        for found in layers.imports_of(tree, module, is_package):
            target = found.target
            while target and target not in trees:
                # `from . import name` may name a function: its module is what is imported.
                target = target.rpartition(".")[0]
            if target and target != module and not (found.in_function or found.for_types):
                arrows[module].add(target)
    return arrows


def cycle_in(arrows: dict[str, set[str]]) -> list[str] | None:
    """Find a path that returns to its start, by depth-first search; None when there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for target in sorted(arrows.get(module, ())):
            if found := visit(target, [*path, module]):
                return found
        done.add(module)
        return None

    for module in sorted(arrows):
        if found := visit(module, []):
            return found
    return None


def reasons(source: str, module: str, is_package: bool = False) -> list[str]:
    """What the checker says of a source text standing in a module."""
    return [reason for _, reason in layers.problems(ast.parse(source), module, is_package)]


@pytest.mark.spec("design.md", "The rooms")
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(layers.ROOT)))
def test_every_module_imports_only_what_its_level_allows(path):
    """A module imports only from lower levels or its own folder."""
    checker = layers.LayerChecker(ast.parse(path.read_text()), str(path))

    assert [f"{line}: {text}" for line, _, text, _ in checker.run()] == []


@pytest.mark.spec("style.md", "section 6")
def test_no_modules_import_each_other_in_a_circle():
    """Imports that run form no cycle, inside a folder neither."""
    assert cycle_in(runtime_arrows()) is None


def test_the_cycle_search_finds_a_cycle_behind_a_straight_path():
    """A cycle is reported from its first module back to it."""
    arrows = {"a": {"b", "e"}, "b": {"c"}, "c": {"d"}, "d": {"b"}, "e": set()}

    assert cycle_in(arrows) == ["b", "c", "d", "b"]


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("bridges.errors", "import bridges.crossing.pool", "arrows point to lower levels"),
        ("bridges.errors", "from bridges.typing import Scope", "arrows point to lower levels"),
        ("bridges.crossing.pool", "from ..translate import paths", "arrows point to lower levels"),
        ("bridges.wsgi.call", "from bridges import wsgi_to_asgi", "arrows point to lower levels"),
        (
            "bridges.wsgi.call",
            "from bridges import WSGIToASGI",
            "must not import from bridges/__init__",
        ),
        ("bridges.wsgi.call", "import bridges", "must not import from bridges/__init__"),
        ("bridges.wsgi.call", "def f():\n    import bridges.errors", "inside a function"),
        ("bridges.wsgi.call", "def f():\n    import json", "inside a function"),
        ("bridges.wsgi.call", "import requests", "requests is not a dependency"),
        ("bridges.wsgi.call", "import typing_extensions", "not a dependency"),
        (
            "bridges.wsgi.call",
            "def f():\n    import trio",
            "wsgi must not import trio inside a function",
        ),
        ("bridges.crossing.gates", "import trio", "crossing must not import trio at the top"),
        (
            "bridges.crossing.gates",
            "try:\n    import uvloop\nexcept ImportError:\n    uvloop = None",
            "at the top",
        ),
        ("bridges.translate.paths", "import asyncio", "translate/ must not import asyncio"),
        (
            "bridges.translate.paths",
            "import urllib.request",
            "translate/ must not import urllib.request",
        ),
        (
            "bridges.translate.paths",
            "from urllib import request",
            "translate/ must not import urllib.request",
        ),
        ("bridges.translate.paths", "import http.client", "translate/ must not import http.client"),
        (
            "bridges.translate.paths",
            "from collections import OrderedDict",
            "must not import collections",
        ),
        ("bridges.translate.paths", "import anyio", "translate/ must not import anyio"),
        ("bridges.translate.paths", "from ..crossing import pool", "arrows point to lower levels"),
        ("bridges.novelty", "import re", "novelty has no level"),
    ],
)
def test_a_wrong_import_is_reported_with_its_reason(module, source, reason):
    """Each rule of the table is enforced: the same import in the wrong room is refused."""
    (found,) = reasons(source, module)

    assert reason in found


@pytest.mark.parametrize(
    ("module", "source", "is_package"),
    [
        ("bridges", "from bridges.wsgi_to_asgi import WSGIToASGI\nfrom . import errors", True),
        ("bridges.crossing.gates", "def f():\n    import trio", False),
        ("bridges.crossing.pool", "from bridges.crossing import gates\nfrom . import pipes", False),
        ("bridges.crossing", "from .pool import ThreadPool", True),
        ("bridges.translate.paths", "import re\nfrom urllib.parse import quote", False),
        ("bridges.translate.paths", "from collections.abc import Mapping", False),
        ("bridges.wsgi.call", "from bridges import errors\nimport anyio, asgiref.sync", False),
        (
            "bridges.typing",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import typing_extensions",
            False,
        ),
        ("bridges.gunicorn", "from gunicorn.workers.base import Worker", False),
    ],
)
def test_a_right_import_is_left_alone(module, source, is_package):
    """Own folder, lower level, dependency, and optional party in its room are permitted."""
    assert reasons(source, module, is_package) == []


def test_files_outside_the_package_are_nobodys_layer():
    """The flake8 plugin looks at the package alone: tests import as they like."""
    checker = layers.LayerChecker(ast.parse("import trio"), __file__)

    assert list(checker.run()) == []
