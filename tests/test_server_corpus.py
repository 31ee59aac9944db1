"""The corpus of raw requests against the server's HTTP/1.1 connection, and against h11 as a second opinion."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import http1_corpus
import pytest
from http1_corpus import (
    Case,
    Exchange,
    Expectation,
    Recorder,
    Request,
    Response,
    Seen,
    Verdict,
    ask_h11,
    decode,
    responses,
)
from server_driver import Complaints, serve_bytes

from bridges.server.config import Config

# The grammar is the parser's: it is the same on every Python.
pytestmark = pytest.mark.one_python

CASES = http1_corpus.cases()
FEEDINGS = ("whole", "bytes", "lines", "line-ends", "random")


def _parameters(cases: tuple[Case, ...]) -> list[Any]:
    return [
        pytest.param(case, id=case.name, marks=pytest.mark.spec(*case.clause)) for case in cases
    ]


every_case = pytest.mark.parametrize("case", _parameters(CASES))


def _serve(case: Case, feeding: str, *, reads: bool = True) -> Exchange:
    recorder = Recorder(reads)
    with Complaints() as complaints:
        written, closed = serve_bytes(
            case.feedings()[feeding], recorder, Config(**case.options), eof=case.eof
        )
    assert complaints.take() == []
    methods = [seen.scope["method"] for seen in recorder.seen if seen.ends or not reads]
    answers, interim = responses(written, methods, closed=closed, then=case.refused_method)
    return Exchange(recorder.seen, answers, interim, closed)


# What is wrong with an exchange; nothing if it is as expected.


def _problems(exchange: Exchange, expected: Expectation) -> list[str]:
    found = []
    least = sum(1 for request in expected.sees if request.ends or not expected.closes)
    if not least <= len(exchange.seen) <= len(expected.sees):
        found.append(f"the application saw {len(exchange.seen)} requests, not {len(expected.sees)}")
    for number, (seen, request) in enumerate(zip(exchange.seen, expected.sees, strict=False)):
        problems = _problems_of_request(seen, request, expected)
        found += [f"request {number}: {problem}" for problem in problems]
    if exchange.closed != expected.closes:
        found.append("closed" if exchange.closed else "not closed")
    if expected.continues is not None and (100 in exchange.interim) != expected.continues:
        found.append(f"interim responses: {exchange.interim}")
    return found + _problems_of_answers(exchange, expected)


def _problems_of_request(seen: Seen, request: Request, expected: Expectation) -> list[str]:
    scope = seen.scope
    pairs = [
        ("type", scope["type"], "http"),
        ("method", scope.get("method"), request.method),
        ("raw_path", scope["raw_path"], request.raw_path),
        ("query_string", scope["query_string"], request.query),
        ("http_version", scope["http_version"], request.version),
        ("end", seen.ends, request.ends),
    ]
    if request.path is not None:
        pairs.append(("path", scope["path"], request.path))
    if request.ends or not expected.closes:
        pairs.append(("body", seen.body, request.body))
    else:
        pairs.append(("told of the end", seen.left, True))
        pairs.append(("start of body", seen.body, request.body[: len(seen.body)]))
    pairs += [(f"{name!r}", seen.values(name), values) for name, values in request.headers.items()]
    pairs += [(f"{name!r}", seen.values(name), ()) for name in request.without]
    return [f"{what} is {is_!r}, not {must!r}" for what, is_, must in pairs if is_ != must]


def _problems_of_answers(exchange: Exchange, expected: Expectation) -> list[str]:
    answers = exchange.answers
    served = [number for number, request in enumerate(expected.sees) if request.ends]
    found = [f"answer with {answer.status} is cut" for answer in answers if not answer.complete]
    numbers = [answer.number for answer in answers[: len(served)]]
    if numbers != served:
        found.append(f"answers to {numbers}, not to {served}")
    own = answers[len(served) :]
    statuses = [answer.status for answer in own]
    fits = len(own) == 1 and own[0].status in expected.refuse
    if not fits and not (not own and (expected.silent or not expected.refuse)):
        found.append(f"refused with {statuses}, not {sorted(expected.refuse)}")
    found += [
        f"{answer.status} is the application's" for answer in own if answer.number is not None
    ]
    if answers:
        found += _problems_of_last(answers[-1], bool(own), expected)
    return found


def _problems_of_last(last: Response, is_refusal: bool, expected: Expectation) -> list[str]:
    """RFC 9112 section 9.6: a server that closes says so; section 9.3: one that keeps HTTP/1.0 open does."""
    says = last.value(b"connection")
    if is_refusal and expected.closes:
        return [] if says == b"close" else [f"a refusal with Connection {says!r}"]
    if not expected.sees:
        return []
    version = expected.sees[-1].version
    if not expected.closes and version == "1.0" and says != b"keep-alive":
        return [f"kept open with Connection {says!r}"]
    if not expected.closes and says == b"close":
        return ["kept open though it says close"]
    return []


@functools.cache
def _whole(name: str) -> Exchange:
    return _serve(next(case for case in CASES if case.name == name), "whole")


@pytest.mark.parametrize("feeding", FEEDINGS)
@every_case
def test_corpus(case: Case, feeding: str) -> None:
    """What comes of a request is what its clause says, however its bytes arrive."""
    exchange = _whole(case.name) if feeding == "whole" else _serve(case, feeding)
    found = [_problems(exchange, expected) for expected in case.expectations]
    assert [] in found, f"{case.raw[:400]!r}: {found}"
    assert exchange.outcome() == _whole(case.name).outcome()


@pytest.mark.spec("RFC 9112", "section 9.6")
@pytest.mark.parametrize(
    "case",
    _parameters(
        tuple(
            case
            for case in CASES
            if case.expectations[0].closes and not case.expectations[0].refuse and not case.eof
        )
    ),
)
def test_last_response_says_close(case: Case) -> None:
    """A server that will close the connection says so in the last response, to HTTP/1.1 clients."""
    exchange = _whole(case.name)
    says = exchange.answers[-1].value(b"connection")
    is_old = case.expectations[0].sees[-1].version == "1.0"
    assert says in ((b"close", None) if is_old else (b"close",))


@pytest.mark.parametrize("feeding", ["whole", "line-ends"])
@pytest.mark.spec("RFC 9112", "section 9.3")
@pytest.mark.spec("field-reports", "FR 112")
@pytest.mark.parametrize(
    "case", _parameters(tuple(case for case in CASES if case.expectations[0].sees))
)
def test_application_that_does_not_read(case: Case, feeding: str) -> None:
    """A body that the application leaves unread is never taken for a request."""
    exchange = _serve(case, feeding, reads=False)
    allowed = [
        [(request.method, request.raw_path) for request in expected.sees]
        for expected in case.expectations
    ]
    seen = [(seen.scope["method"], seen.scope["raw_path"]) for seen in exchange.seen]
    assert any(seen == sees[: len(seen)] for sees in allowed), seen
    numbers = [answer.number for answer in exchange.answers]
    assert numbers[: len(seen)] == list(range(len(seen)))
    assert numbers[len(seen) :] in ([], [None])
    assert seen or exchange.answers


# The corpus itself.


@every_case
def test_second_opinion(case: Case) -> None:
    """h11 decides as the corpus does, or the corpus says why not."""
    limit = case.options.get("max_head_bytes", Config().max_head_bytes)
    verdict = ask_h11(case.raw, eof=case.eof, max_head_bytes=limit)
    agrees = any(_is_same(verdict, expected) for expected in case.expectations)
    assert agrees == (case.h11_differs is None), verdict


def _is_same(verdict: Verdict, expected: Expectation) -> bool:
    seen = [(method, body if ends else b"", ends) for method, body, ends in verdict.seen]
    sees = [(each.method, each.body if each.ends else b"", each.ends) for each in expected.sees]
    may_be_silent = expected.silent and verdict.closes
    refusal_fits = verdict.refuses == bool(expected.refuse) or may_be_silent
    return seen == sees and refusal_fits and verdict.closes == expected.closes


def test_corpus_is_large_and_goes_both_ways() -> None:
    """The corpus has at least 180 cases, and many of either kind."""
    kinds = Counter(bool(case.expectations[0].refuse) for case in CASES)
    assert len(CASES) >= 180
    assert min(kinds.values()) >= 90


def test_raw_bytes_are_exact() -> None:
    """The notation of the corpus gives the bytes that it says."""
    assert decode("A\\r\\n\n B: \\xff\\0\\t\\\\r\n") == b"A\r\n B: \xff\0\t\\r"
    assert decode("\\{3*a\\r\\n}\\{2*\\x41}") == b"a\r\na\r\na\r\nAA"


@pytest.mark.parametrize("text", ["a \n", "a\tb", "\\q", "\\x4", "é", "\\", "\\{3*}", "\\xFF"])
def test_raw_bytes_that_are_not_clear(text: str) -> None:
    """What an editor could change, and what is no escape, is refused."""
    with pytest.raises(http1_corpus.CorpusError):
        decode(text)


@every_case
def test_feedings_are_whole(case: Case) -> None:
    """Each way to cut a request gives all of its bytes, in pieces that are not empty, and the same ones each time."""
    for name, pieces in case.feedings().items():
        assert b"".join(pieces) == case.raw
        assert all(pieces)
        assert pieces == case.feedings()[name]
        assert name in FEEDINGS
