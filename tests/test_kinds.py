"""What ``bridges.kinds`` sees in a callable."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from bridges.kinds import arity_of, is_async, name_of


async def coroutine(a: Any, b: Any, c: Any) -> None: ...


def function(a: Any, b: Any = 1, *, c: Any = 2) -> None: ...


class Object:
    async def __call__(self, a: Any) -> None: ...

    async def method(self, a: Any, b: Any) -> None: ...


class Plain:
    def __call__(self, *arguments: Any) -> None: ...


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (coroutine, True),
        (functools.partial(coroutine, 1), True),
        (functools.partial(functools.partial(coroutine, 1), 2), True),
        (Object(), True),
        (functools.partial(Object(), 1), True),
        (Object().method, True),
        (function, False),
        (functools.partial(function, 1), False),
        (Plain(), False),
        (None, False),
    ],
    ids=str,
)
def test_is_async(thing: Any, expected: bool) -> None:
    """Functions, partials of any depth, methods and callable objects are looked through."""
    assert is_async(thing) == expected


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (coroutine, 3),
        (functools.partial(coroutine, 1), 2),
        (function, 1),
        (Object(), 1),
        (Object().method, 2),
        (Object, 0),
        (Plain(), None),
        (lambda *arguments: None, None),
        (lambda **options: None, 0),
        (int, None),
        (None, None),
    ],
    ids=str,
)
def test_arity_of(thing: Any, expected: int | None) -> None:
    """What must be given by position is counted; None where that cannot be known."""
    assert arity_of(thing) == expected


def test_name_of() -> None:
    """Functions and classes have their own names, objects that of their class."""
    assert name_of(coroutine).endswith("test_kinds.coroutine")
    assert name_of(Object).endswith("test_kinds.Object")
    assert name_of(Object()).endswith("test_kinds.Object")
    assert name_of(functools.partial(coroutine)) == "functools.partial"


def test_long_names_are_cut() -> None:
    """A name has 80 characters at most; its end, which tells most, stays."""
    thing = type("X" * 200 + "End", (), {})
    assert len(name_of(thing)) == 80
    assert name_of(thing).startswith("...")
    assert name_of(thing).endswith("XEnd")
