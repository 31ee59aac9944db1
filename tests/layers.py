"""Which module of bridges may import which: one table, read by flake8 and by ``test_layers.py``.

A room is a top-level module or package of ``bridges``. A module imports only rooms of lower levels and its own
room. flake8 (``setup.cfg``) reports every violation of this file as BRG001.
"""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "bridges"
ROOT = Path(__file__).resolve().parent.parent

# The public face: it re-exports and is imported by nobody inside.
FACE = "__init__"

LEVELS = {
    "errors": 0,
    "typing": 0,
    "kinds": 0,
    "translate": 1,
    "crossing": 1,
    "websocket": 2,
    "wsgi": 3,
    "asgi": 3,
    "wsgi_to_asgi": 4,
    "asgi_to_wsgi": 4,
    "loading": 4,
    "mount": 4,
    "server": 5,
    "gunicorn": 6,
    "cli": 6,
    "__main__": 7,
    FACE: 7,
}

# Runtime dependencies, importable anywhere but in translate.
DECLARED = frozenset({"anyio", "asgiref"})

# Known to every type checker, present at run time only by chance.
TYPES_ONLY = frozenset({"_typeshed", "typing_extensions"})

# Third parties a user may not have: the rooms that may import them inside a function, and those that exist only
# for them and may do so at the top of a module.
OPTIONAL_IN_FUNCTION = {
    "gevent": frozenset({"crossing"}),
    "gunicorn": frozenset({"gunicorn", "cli"}),
    "httptools": frozenset({"server"}),
    "trio": frozenset({"crossing"}),
    "uvloop": frozenset({"crossing", "server"}),
    "watchfiles": frozenset({"cli", "server"}),
    "websockets": frozenset({"websocket"}),
    "wsproto": frozenset({"websocket"}),
}
OPTIONAL_AT_TOP = {
    "gunicorn": frozenset({"gunicorn"}),
    "httptools": frozenset({"server"}),
    "wsproto": frozenset({"websocket"}),
}

# translate decides and never acts: no I/O, no thread, no loop, no clock, no logging can be reached from these.
PURE = frozenset(
    {
        "__future__",
        "collections.abc",
        "dataclasses",
        "enum",
        "functools",
        "http",
        "ipaddress",
        "re",
        "typing",
        "urllib.parse",
    }
)


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported module as it stands in the source.

    Attributes:
        target: absolute dotted name; a name imported from the package's face is joined to it.
        line: 1-based.
        column: 0-based.
        in_function: runs when the function does.
        for_types: stands under ``if TYPE_CHECKING``, so it never runs.
    """

    target: str
    line: int
    column: int
    in_function: bool
    for_types: bool


def room_of(module: str) -> str:
    """The room of a module of the package: ``bridges.translate.paths`` is in ``translate``."""
    _, _, rest = module.partition(".")
    return rest.partition(".")[0] or FACE


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _targets(node: ast.Import | ast.ImportFrom, module: str, is_package: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        above = module.split(".")
        above = above[: len(above) - node.level + is_package]
        base = ".".join([*above, base] if base else above)
    if base == PACKAGE or (node.level and not node.module):
        # `from bridges import errors` imports a room, not the face; `from . import x` a module of the folder.
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif base in ("collections", "urllib"):
        yield from (f"{base}.{alias.name}" for alias in node.names)
    else:
        yield base


def imports_of(tree: ast.AST, module: str, is_package: bool) -> Iterator[Import]:
    """Every import of a module, in any depth."""

    def walk(node: ast.AST, in_function: bool, for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in _targets(node, module, is_package):
                yield Import(target, node.lineno, node.col_offset, in_function, for_types)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            for child in node.body:
                yield from walk(child, in_function, True)
            for child in node.orelse:
                yield from walk(child, in_function, for_types)
        else:
            in_function |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from walk(child, in_function, for_types)

    return walk(tree, False, False)


def _problem_inside(room: str, found: Import) -> str | None:
    """Why an import of the package's own module is wrong, or None."""
    other = room_of(found.target)
    if other not in LEVELS or other == FACE:
        return f"{room} must not import from {PACKAGE}/__init__.py: name the module that has it"
    if found.in_function:
        return f"{found.target} is imported inside a function: only optional third parties are"
    if other != room and LEVELS[other] >= LEVELS[room]:
        return (
            f"{room} (level {LEVELS[room]}) must not import {other} (level {LEVELS[other]}): "
            "arrows point to lower levels"
        )
    return None


def _problem_outside(room: str, found: Import) -> str | None:
    """Why an import of the standard library or a third party is wrong, or None."""
    name = found.target.partition(".")[0]
    if room == "translate" and found.target not in PURE:
        return f"translate/ must not import {found.target}: it is pure"
    if name in sys.stdlib_module_names:
        if found.in_function:
            return f"{found.target} is imported inside a function: only optional third parties are"
        return None
    if name in OPTIONAL_IN_FUNCTION:
        table = OPTIONAL_IN_FUNCTION if found.in_function else OPTIONAL_AT_TOP
        if found.for_types or room in table.get(name, frozenset()):
            return None
        where = "inside a function" if found.in_function else "at the top of a module"
        return f"{room} must not import {name} {where}: see the table in tests/layers.py"
    if name in DECLARED or (found.for_types and name in TYPES_ONLY):
        return None
    return f"{name} is not a dependency of the package"


def problems(tree: ast.AST, module: str, is_package: bool = False) -> Iterator[tuple[Import, str]]:
    """Yield each import that breaks the table, with the reason."""
    room = room_of(module)
    if room not in LEVELS:
        yield Import(module, 1, 0, False, False), f"{room} has no level in tests/layers.py"
        return
    for found in imports_of(tree, module, is_package):
        inside = found.target == PACKAGE or found.target.startswith(f"{PACKAGE}.")
        reason = (_problem_inside if inside else _problem_outside)(room, found)
        if reason is not None:
            yield found, reason


def module_of(path: Path) -> tuple[str, bool] | None:
    """Dotted name of a file of the package and whether it is an ``__init__``; None for other files."""
    try:
        parts = path.resolve().relative_to(ROOT).with_suffix("").parts
    except ValueError:
        return None
    if not parts or parts[0] != PACKAGE:
        return None
    is_package = parts[-1] == "__init__"
    return ".".join(parts[:-1] if is_package else parts), is_package


class LayerChecker:
    """The flake8 plugin: BRG001 for each import that breaks the table."""

    name = "bridges-layers"
    version = "1"

    def __init__(self, tree: ast.AST, filename: str) -> None:
        self.tree = tree
        self.module = module_of(Path(filename))

    def run(self) -> Iterator[tuple[int, int, str, type[LayerChecker]]]:
        """Yield line, column, message and class, as flake8 wants them."""
        if self.module is None:
            return
        for found, reason in problems(self.tree, *self.module):
            yield found.line, found.column, f"BRG001 {reason}", type(self)
