"""``bridges.asgi.body``: reading ``wsgi.input`` up to the end of the body, and no further."""

from __future__ import annotations

import io
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from bridges import errors
from bridges.asgi.body import RequestBody


class Source:
    """An input that gives pieces, and notes how much it was asked for."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = list(pieces)
        self.asked: list[int] = []

    def read(self, size: int) -> bytes:
        self.asked.append(size)
        piece = self.pieces.pop(0) if self.pieces else b""
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]


def _read_all(body: RequestBody) -> list[bytes]:
    chunks, more = [], True
    while more:
        chunk, more = body.read()
        chunks.append(chunk)
    return chunks


@pytest.mark.parametrize("environ", [{}, {"wsgi.input": None}, {"wsgi.input": io.BytesIO(b"abc")}])
def test_no_body(environ: dict[str, Any]) -> None:
    """A body of no length, or without an input, is over at once, again and again, unread."""
    body = RequestBody(environ, 0)
    assert [body.read(), body.read()] == [(b"", False)] * 2
    assert environ.get("wsgi.input") is None or environ["wsgi.input"].tell() == 0


@hypothesis.given(pieces=st.lists(st.binary(min_size=1, max_size=50)), extra=st.binary(max_size=9))
def test_a_body_ends_at_its_length(pieces: list[bytes], extra: bytes) -> None:
    """The pieces come as they are, and what the next request sent behind them stays."""
    whole = b"".join(pieces)
    source = Source([*pieces, extra])
    chunks = _read_all(RequestBody({"wsgi.input": source}, len(whole)))
    assert b"".join(chunks) == whole
    assert all(chunks) or not whole
    assert sum(map(len, source.pieces)) == len(extra)


@hypothesis.given(pieces=st.lists(st.binary(min_size=1, max_size=50)))
def test_a_body_of_unknown_length_ends_with_its_input(pieces: list[bytes]) -> None:
    """The end of the input is the end of the body."""
    chunks = _read_all(RequestBody({"wsgi.input": Source(pieces)}, None))
    assert chunks == [*pieces, b""]


@pytest.mark.spec("FR 60")
def test_a_short_body() -> None:
    """An end before the length is a client that left, not the end of the body."""
    body = RequestBody({"wsgi.input": Source([b"abc"])}, 10)
    assert body.read() == (b"abc", True)
    for _ in range(2):
        with pytest.raises(errors.ClientDisconnected):
            body.read()


@pytest.mark.parametrize(
    ("length", "block"), [(10, 10), (100_000, 65_536), (1_048_576, 262_144), (None, 65_536)]
)
def test_the_size_of_reads(length: int | None, block: int) -> None:
    """A long body is read in larger blocks, a short one never past its end."""
    source = Source([b"x"])
    RequestBody({"wsgi.input": source}, length).read()
    assert source.asked == [block]


def test_read1_is_preferred() -> None:
    """``read`` would wait for all that was asked for, ``read1`` gives what has come."""

    class Both(Source):
        def read1(self, size: int) -> bytes:
            return b"come"

    assert RequestBody({"wsgi.input": Both([b"waited"])}, None).read() == (b"come", True)


def test_what_the_input_raises_passes() -> None:
    """It is for the caller to judge."""

    class Broken:
        def read(self, size: int) -> bytes:
            raise LookupError

    with pytest.raises(LookupError):
        RequestBody({"wsgi.input": Broken()}, 10).read()
