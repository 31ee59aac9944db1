"""Ways to cut a body into pieces and ways to read one: a test runs every pair, and the result never differs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

Sender: TypeAlias = "Callable[[bytes, random.Random], list[bytes]]"
Reader: TypeAlias = "Callable[[Any, random.Random], bytes]"


def _whole(body: bytes, rng: random.Random) -> list[bytes]:
    return [body]


def _lines(body: bytes, rng: random.Random) -> list[bytes]:
    return body.splitlines(keepends=True)


def _single_bytes(body: bytes, rng: random.Random) -> list[bytes]:
    return [body[i : i + 1] for i in range(len(body))]


def _random_pieces(body: bytes, rng: random.Random) -> list[bytes]:
    """Cut at random places, empty pieces among them."""
    cuts = sorted(rng.choices(range(len(body) + 1), k=1 + len(body) // 8))
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


SENDERS: Final[dict[str, Sender]] = {
    "whole": _whole,
    "lines": _lines,
    "single bytes": _single_bytes,
    "random pieces": _random_pieces,
}


def _until_empty(read: Callable[[], bytes]) -> Iterator[bytes]:
    while piece := read():
        yield piece


READERS: Final[dict[str, Reader]] = {
    "read()": lambda body, rng: body.read(),
    "read(-1)": lambda body, rng: body.read(-1),
    "read(n)": lambda body, rng: b"".join(_until_empty(lambda: body.read(rng.randint(1, 64)))),
    "readline()": lambda body, rng: b"".join(_until_empty(body.readline)),
    "readline(n)": lambda body, rng: b"".join(
        _until_empty(lambda: body.readline(rng.randint(1, 64)))
    ),
    "readlines()": lambda body, rng: b"".join(body.readlines()),
    "readlines(hint)": lambda body, rng: b"".join(
        line for lines in iter(lambda: body.readlines(10), []) for line in lines
    ),
    "iteration": lambda body, rng: b"".join(body),
}
