"""Random bytes for the server's HTTP/1.1 connection: it serves or it refuses, and nothing else."""

from __future__ import annotations

import h11
import http1_corpus
import pytest
from http1_corpus import Exchange, Recorder, ask_h11, cut_at, places_after, responses
from hypothesis import given, settings
from hypothesis import strategies as st
from server_driver import Complaints, serve_bytes

from bridges.server.config import Config

# The grammar is the parser's: it is the same on every Python.
pytestmark = pytest.mark.one_python

# Cases that are longer cost time and teach nothing new.
LONGEST_CASE_BYTES = 600
SEEDS = [case.raw for case in http1_corpus.cases() if 0 < len(case.raw) <= LONGEST_CASE_BYTES]

CONFIGS = (
    Config(),
    Config(max_head_bytes=256, max_target_bytes=32, max_fields=5, max_body_bytes=8),
)

SNIPPETS = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\0", b" ", b"\t", b"\x0b", b"\x7f", b"\x80", b"\xff"),
    *(b":", b";", b",", b"=", b'"', b"\\", b"#", b"?", b"/", b"%", b"@", b"[", b"]", b"_", b"+", b"-"),
    *(b"0", b"1", b"f", b"0x", b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\n", b"5;a=b\r\n", b"5", b"hello"),
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"CONNECT ",
    b"OPTIONS * ",
    b" HTTP/1.1",
    b" HTTP/1.0\r\n",
    b"http://b.example",
    b"Host: a.example\r\n",
    b"Host: [::1]:80\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"Upgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n",
)  # fmt: skip

_snippet = st.sampled_from(SNIPPETS) | st.binary(min_size=1, max_size=4)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """A case of the corpus after a few accidents."""
    raw = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        end = min(len(raw), start + draw(st.integers(0, 20)))
        accident = draw(st.sampled_from(("insert", "replace", "delete", "repeat", "cut", "append")))
        if accident == "insert":
            raw = raw[:start] + draw(_snippet) + raw[start:]
        elif accident == "replace":
            raw = raw[:start] + draw(_snippet) + raw[end:]
        elif accident == "delete":
            raw = raw[:start] + raw[end:]
        elif accident == "repeat":
            raw = raw[:end] + raw[start:]
        elif accident == "cut":
            raw = raw[:start]
        else:
            raw += draw(st.sampled_from(SEEDS))
    return raw


_pieced_together = st.lists(_snippet, max_size=20).map(b"".join)
_bytes = st.one_of(_mutated(), _pieced_together, st.binary(max_size=200))


@st.composite
def _cut(draw: st.DrawFn) -> list[bytes]:
    """Bytes in pieces; many of the cuts are at line ends, where a parser has most to remember."""
    raw = draw(_bytes)
    anywhere = st.integers(0, len(raw))
    line_ends = sorted({*places_after(raw, b"\r"), *places_after(raw, b"\n")})
    place = (anywhere | st.sampled_from(line_ends)) if line_ends else anywhere
    return cut_at(raw, draw(st.lists(place, max_size=8)))


fuzz = given(pieces=_cut(), eof=st.booleans(), config=st.sampled_from(CONFIGS))


def _serve(pieces: list[bytes], eof: bool, config: Config, *, reads: bool = True) -> Exchange:
    # An answer without content reads the same to HEAD, so that nobody has to know what was asked.
    recorder = Recorder(reads, content=b"")
    with Complaints() as complaints:
        written, closed = serve_bytes(pieces, recorder, config, eof=eof)
    assert complaints.take() == []
    try:
        answers, interim = responses(written, (), closed=closed)
    except h11.RemoteProtocolError:
        # What was refused began like a HEAD request.
        methods = ["GET"] * len(recorder.seen)
        answers, interim = responses(written, methods, closed=closed, then="HEAD")
    return Exchange(recorder.seen, answers, interim, closed)


def _check_answers(exchange: Exchange, answered: list[int]) -> None:
    """One answer to each request that the application answered, in order; at most one refusal, which ends it all."""
    answers = exchange.answers
    assert all(answer.complete for answer in answers)
    assert [answer.number for answer in answers if answer.number is not None] == answered
    for answer in answers[:-1]:
        assert answer.value(b"connection") != b"close"
    if answers and answers[-1].value(b"connection") == b"close":
        assert exchange.closed
    for answer in answers:
        if answer.number is None:
            assert 400 <= answer.status < 600


def _without_statuses(exchange: Exchange) -> tuple[object, ...]:
    """Of two faults, the one that came first may decide how the bytes are refused."""
    outcome = exchange.outcome()
    return outcome.seen, outcome.closed, [number for _, number in outcome.answers]


@pytest.mark.spec("RFC 9112", "section 2.2")
@pytest.mark.spec("RFC 9112", "section 11.2")
@pytest.mark.slow
@pytest.mark.timeout(300)  # a fault takes time to be made small
@settings(max_examples=400)
@fuzz
def test_any_bytes_are_served_or_refused(pieces: list[bytes], eof: bool, config: Config) -> None:
    """Whatever arrives, the answers are well-formed and as many as the requests, however the bytes were cut."""
    raw = b"".join(pieces)
    whole = _serve(cut_at(raw, ()), eof, config)
    answered = [
        number
        for number, seen in enumerate(whole.seen)
        if seen.ends and seen.scope["type"] == "http"
    ]
    _check_answers(whole, answered)
    assert len(whole.seen) <= raw.count(b" HTTP/1.")
    assert sum(len(seen.body) for seen in whole.seen) < max(len(raw), 1)
    assert _without_statuses(_serve(pieces, eof, config)) == _without_statuses(whole)


@pytest.mark.spec("RFC 9112", "section 6.3")
@pytest.mark.slow
@pytest.mark.timeout(300)  # a fault takes time to be made small
@settings(max_examples=400)
@given(raw=_bytes, eof=st.booleans())
def test_requests_are_framed_as_by_h11(raw: bytes, eof: bool) -> None:
    """What is served is what h11 finds in the same bytes: neither more requests, nor fewer, nor other bodies."""
    config = Config()
    ours = _serve(cut_at(raw, ()), eof, config)
    theirs = ask_h11(raw, eof=eof, max_head_bytes=config.max_head_bytes)
    complete = [
        (seen.scope.get("method", "GET"), seen.body)
        for seen in ours.seen
        if seen.ends or seen.scope["type"] == "websocket"
    ]
    common = [(method, body) for method, body, ends in theirs.seen if ends][: len(complete)]
    assert common == complete[: len(common)]
    if not (theirs.refuses or theirs.closes):
        assert len(common) == len(complete)


@pytest.mark.spec("field-reports", "FR 112")
@pytest.mark.slow
@pytest.mark.timeout(300)  # a fault takes time to be made small
@settings(max_examples=200)
@fuzz
def test_any_bytes_to_an_application_that_does_not_read(
    pieces: list[bytes], eof: bool, config: Config
) -> None:
    """A body that nobody reads is not taken for requests: those are the ones that a reading application sees."""
    reading = _serve(pieces, eof, config)
    lazy = _serve(pieces, eof, config, reads=False)
    _check_answers(
        lazy, [number for number, seen in enumerate(lazy.seen) if seen.scope["type"] == "http"]
    )
    expected = [(seen.scope["type"], seen.scope["raw_path"]) for seen in reading.seen]
    found = [(seen.scope["type"], seen.scope["raw_path"]) for seen in lazy.seen]
    assert found == expected[: len(found)]
