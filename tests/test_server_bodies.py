"""Request bodies as they come in: where they end however the bytes are cut, and what is refused."""

from __future__ import annotations

import pytest
from http1_corpus import cut_at
from hypothesis import given
from hypothesis import strategies as st
from server_driver import chunked

from bridges.errors import PeerProtocolError
from bridges.server.bodies import ChunkedBody, SizedBody

LIMIT = 1000

SPLITS = st.lists(st.integers(0, 400), max_size=12)
CHUNKS = st.lists(
    # Bytes that look like framing are the ones to get wrong.
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"0", b"0\r\n\r\n", b"x"]), min_size=1).map(
        b"".join
    ),
    max_size=6,
)


def feed(body: SizedBody | ChunkedBody, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """Feed pieces as a connection does; gives what is in the body, and what is behind it."""
    found: list[bytes] = []
    for number, piece in enumerate(pieces):
        parts, rest = body.feed(piece)
        found += parts
        if body.complete:
            return b"".join(found), rest + b"".join(pieces[number + 1 :])
        assert rest == b""
    return b"".join(found), b""


# A length.


@pytest.mark.spec("RFC 9112", "section 6.2")
@given(content=st.binary(min_size=1), behind=st.binary(), places=SPLITS)
def test_a_sized_body_ends_where_it_ends(content: bytes, behind: bytes, places: list[int]) -> None:
    """However it is cut; what comes behind it is given back."""
    body = SizedBody(len(content))
    assert feed(body, cut_at(content + behind, places)) == (content, behind)
    assert body.complete
    assert body.remaining == 0


@pytest.mark.spec("RFC 9112", "section 6.2")
def test_a_sized_body_that_is_not_complete() -> None:
    """It says how much is missing."""
    body = SizedBody(10)
    assert body.remaining == 10
    assert body.feed(b"abc") == ([b"abc"], b"")
    assert not body.complete
    assert body.remaining == 7


# Chunks.


@pytest.mark.spec("RFC 9112", "section 7.1")
@given(chunks=CHUNKS, places=SPLITS, behind=st.sampled_from([b"", b"GET", b"\r\n\r\n", b"\r\nG"]))
def test_a_body_in_chunks_ends_where_it_ends(
    chunks: list[bytes], places: list[int], behind: bytes
) -> None:
    """However it is cut and whatever it looks like; what comes behind it is given back, byte for byte."""
    body = ChunkedBody(LIMIT)
    assert feed(body, cut_at(chunked(*chunks) + behind, places)) == (b"".join(chunks), behind)
    assert body.complete
    assert body.remaining is None


@pytest.mark.spec("RFC 9112", "section 7.1")
@given(chunks=CHUNKS.filter(bool), missing=st.integers(1, 40), places=SPLITS)
def test_a_body_in_chunks_that_breaks_off(
    chunks: list[bytes], missing: int, places: list[int]
) -> None:
    """It is not complete before its last byte; nothing is given that was not sent."""
    raw = chunked(*chunks)
    body = ChunkedBody(LIMIT)
    found, behind = feed(body, cut_at(raw[: max(0, len(raw) - missing)], places))
    assert not body.complete
    assert behind == b""
    assert b"".join(chunks).startswith(found)


@pytest.mark.spec("RFC 9112", "section 7.1")
@pytest.mark.parametrize(
    "raw",
    [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n000\r\n\r\n",
        b"00005\r\nhello\r\n0\r\n\r\n",
        b"5;name=value\r\nhello\r\n0;last\r\n\r\n",
        b'5;name="quoted value"\r\nhello\r\n0\r\n\r\n',
        b"5\r\nhello\r\n0\r\nTrailer: value\r\nOther: x\r\n\r\n",
    ],
    ids=repr,
)
def test_what_else_may_stand_in_a_body_of_chunks(raw: bytes) -> None:
    """Zeros before a size, extensions, trailers (sections 7.1.1 and 7.1.2)."""
    for step in (1, 2, 3, 5, len(raw)):
        pieces = [raw[at : at + step] for at in range(0, len(raw), step)]
        body = ChunkedBody(LIMIT)
        assert feed(body, [*pieces, b"GET"]) == (b"hello", b"GET")


@pytest.mark.spec("RFC 9112", "section 7.1")
@pytest.mark.parametrize("digits", [b"a", b"A", b"00A", b"0a"])
def test_sizes_are_hexadecimal(digits: bytes) -> None:
    """In either case of letters."""
    body = ChunkedBody(LIMIT)
    assert feed(body, [digits + b"\r\n" + b"x" * 10 + b"\r\n0\r\n\r\n"]) == (b"x" * 10, b"")


@pytest.mark.spec("RFC 9112", "section 7.1")
@pytest.mark.spec("field-reports", "FR 113")
@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\nx",
        b"+1\r\nx",
        b"0x1\r\nx",
        b" 1\r\nx",
        b"1_0\r\n",
        b"1\nx\r\n0\r\n\r\n",
        b"1\rx",
        b"1\r\nxy\r\n",
        b"1\r\nx0\r\n\r\n",
        b"1\r\nx\n0\r\n\r\n",
        b"1\r\nx\r0",
        b"1;a\rb\r\nx\r\n",
        b"1;a\nx",
        b"1;a=\x00\r\nx\r\n",
        b"fffffffffffffffff\r\n",
        b"10000000000000000\r\n",
        b"1\r\nx\r\n0\r\nno colon\r\n\r\n",
        b"1\r\nx\r\n0\r\nA: b\nC: d\r\n\r\n",
        b"1\r\nx\r\n0\r\n : b\r\n\r\n",
        b"1\r\nx\r\n0\r\nA: b\x00\r\n\r\n",
    ],
    ids=repr,
)
@pytest.mark.parametrize("step", [1, 100])
def test_malformed_chunks(raw: bytes, step: int) -> None:
    """They are refused, and never taken for an end."""
    body = ChunkedBody(LIMIT)
    with pytest.raises(PeerProtocolError) as caught:
        feed(body, [raw[at : at + step] for at in range(0, len(raw), step)])
    assert caught.value.status_hint == 400
    assert caught.value.clause.startswith("RFC 9112")
    assert not body.complete


@pytest.mark.spec("RFC 9112", "section 7.1.1")
@pytest.mark.parametrize(
    ("begin", "end"),
    [(b"1;", b"\r\nx\r\n0\r\n\r\n"), (b"1\r\nx\r\n0;", b"\r\n\r\n"), (b"0\r\nA: ", b"\r\n\r\n")],
    ids=["extension", "last extension", "trailer"],
)
@pytest.mark.parametrize("step", [1, 100, 10_000])
def test_extensions_and_trailers_are_bounded(begin: bytes, end: bytes, step: int) -> None:
    """They go to nobody: a little is passed over, and an endless one is refused before it has come."""
    for size, fits in ((LIMIT // 2, True), (LIMIT * 20, False)):
        raw = begin + b"e" * size + (end if fits else b"")
        body = ChunkedBody(LIMIT)
        pieces = [raw[at : at + step] for at in range(0, len(raw), step)]
        if fits:
            feed(body, pieces)
            assert body.complete
        else:
            with pytest.raises(PeerProtocolError, match="too long"):
                feed(body, pieces)


@pytest.mark.spec("RFC 9112", "section 7.1.1")
def test_extensions_of_many_chunks_add_up() -> None:
    """A long body may not carry a long extension in each of its small chunks."""
    body = ChunkedBody(LIMIT)
    with pytest.raises(PeerProtocolError, match="too long"):
        for _ in range(100):
            body.feed(b"1;" + b"e" * 50 + b"\r\nx\r\n")


def test_small_chunks_do_not_count_as_overhead() -> None:
    """A body of very many of them is a body like others."""
    body = ChunkedBody(LIMIT)
    assert feed(body, [b"1\r\nx\r\n" * 10_000, b"0\r\n\r\n"]) == (b"x" * 10_000, b"")


@given(raw=st.binary(max_size=200), places=SPLITS)
def test_any_bytes_are_read_or_refused(raw: bytes, places: list[int]) -> None:
    """The refusal is the only exception there is, and the cuts change nothing about the outcome."""

    def outcome(pieces: list[bytes]) -> tuple[str, bytes]:
        body = ChunkedBody(LIMIT)
        try:
            found, behind = feed(body, pieces)
        except PeerProtocolError:
            return "refused", b""
        return ("complete", found + b"|" + behind) if body.complete else ("incomplete", found)

    assert outcome([raw] if raw else []) == outcome(cut_at(raw, places))


@given(chunks=CHUNKS, mutation=st.tuples(st.integers(0, 300), st.binary(max_size=3)))
def test_bodies_that_were_damaged(chunks: list[bytes], mutation: tuple[int, bytes]) -> None:
    """Near a right body, too, nothing but the refusal is raised, whole or byte by byte with the same outcome."""
    raw = chunked(*chunks)
    at = mutation[0] % len(raw)
    damaged = raw[:at] + mutation[1] + raw[at + 1 :]

    def outcome(pieces: list[bytes]) -> object:
        body = ChunkedBody(LIMIT)
        try:
            return feed(body, pieces), body.complete
        except PeerProtocolError:
            return "refused"

    bytewise = [damaged[at : at + 1] for at in range(len(damaged))]
    assert outcome([damaged] if damaged else []) == outcome(bytewise)
