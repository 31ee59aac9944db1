"""Status lines: what counts as one, and what is refused with words."""

from __future__ import annotations

import weakref
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.errors import ApplicationProtocolError
from bridges.translate.status import code_from_status, status_from_code


@pytest.mark.spec("PEP 3333", "The start_response() Callable")
@pytest.mark.parametrize("status", [s for s in HTTPStatus if s >= 200], ids=lambda s: str(s.value))
def test_every_final_status_of_the_standard_library(status: HTTPStatus) -> None:
    """A code and its phrase give the code."""
    assert code_from_status(f"{status.value} {status.phrase}") == status.value


@pytest.mark.spec("FR 21")
@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("200", 200),
        ("200 ", 200),
        ("200 OK", 200),
        ("404 not found, sorry", 404),
        ("418 I'm a teapot: déjà vu", 418),
        ("599 Custom", 599),
        ("999 Odd", 999),
    ],
)
def test_reason_is_free_and_may_be_missing(status: str, code: int) -> None:
    """Only the code counts; HTTP/2 has no reason at all."""
    assert code_from_status(status) == code


BAD = [
    "",
    " ",
    "abc",
    "OK 200",
    " 200 OK",
    "20",
    "2000",
    "2 0",
    "+20 OK",
    "-20 OK",
    "2_0 OK",
    "20.0 OK",
    "200\tOK",
    "200OK",
    "٢٠٠ OK",
    "²⁰⁰ OK",
    "200 OK\r\nX-Injected: 1",
    "200 OK\n",
    "200\r\n",
    "200 \x00",
    "200 \x7f",
]


@pytest.mark.spec("FR 21")
@pytest.mark.spec("PEP 3333", "The start_response() Callable")
@pytest.mark.parametrize("status", BAD, ids=repr)
def test_what_is_no_status_is_refused_and_quoted(status: str) -> None:
    """The application is told what it gave and what was expected."""
    with pytest.raises(ApplicationProtocolError, match="200 OK") as caught:
        code_from_status(status)
    assert repr(status)[:40] in str(caught.value)


@pytest.mark.spec("PEP 3333", "A Note On String Types")
@pytest.mark.parametrize("status", [200, b"200 OK", None, ("200 OK",), ["200 OK"]], ids=repr)
def test_status_must_be_a_str(status: object) -> None:
    """Another type is the application's mistake, named as such, and never a TypeError of ours."""
    with pytest.raises(ApplicationProtocolError, match="str"):
        code_from_status(status)  # type: ignore[arg-type,unused-ignore]  # the mistake


@pytest.mark.spec("FR 28")
@pytest.mark.spec("RFC 9110", "section 15.2")
@pytest.mark.parametrize(
    "status", ["100 Continue", "101 Switching Protocols", "103 Early Hints", "199"]
)
def test_interim_status_cannot_start_a_response(status: str) -> None:
    """A 1xx head is followed by another one, which start_response cannot give."""
    with pytest.raises(ApplicationProtocolError, match="interim"):
        code_from_status(status)


@pytest.mark.parametrize("status", ["000 Zero", "099 Low"])
def test_codes_below_100_are_refused(status: str) -> None:
    """No status code begins with zero."""
    with pytest.raises(ApplicationProtocolError):
        code_from_status(status)


@given(st.text(max_size=12))
def test_any_text_gives_a_code_or_the_applications_error(status: str) -> None:
    """Whatever the text, the answer is a final code or an ApplicationProtocolError."""
    try:
        code = code_from_status(status)
    except ApplicationProtocolError:
        return
    assert 200 <= code <= 999
    assert status.startswith(str(code))


def test_long_status_is_cut_in_the_error() -> None:
    """A megabyte of nonsense does not become a megabyte of log."""
    with pytest.raises(ApplicationProtocolError) as caught:
        code_from_status("x" * 1_000_000)
    assert len(str(caught.value)) < 300


class Status(str):
    """A str that can be watched."""

    __slots__ = ("__weakref__",)


def test_memory_does_not_grow_with_the_number_of_reasons() -> None:
    """Applications may put anything into the reason; what is remembered of it has a bound."""
    alive = []
    for number in range(10_000):
        status = Status(f"200 reason {number}")
        assert code_from_status(status) == 200
        alive.append(weakref.ref(status))
    del status
    assert sum(reference() is not None for reference in alive) <= 1_500


@pytest.mark.spec("FR 71")
@pytest.mark.spec("PEP 3333", "The start_response() Callable")
@pytest.mark.parametrize("status", [s for s in HTTPStatus if s >= 200], ids=lambda s: str(s.value))
def test_registered_codes_have_their_phrase(status: HTTPStatus) -> None:
    """A code and a member of HTTPStatus give the same line, and back."""
    line = f"{status.value} {status.phrase}"
    assert status_from_code(status) == status_from_code(status.value) == line
    assert code_from_status(line) == status


@pytest.mark.spec("FR 71")
@pytest.mark.parametrize("code", [299, 599, 999])
def test_unknown_codes_have_a_reason_too(code: int) -> None:
    """PEP 3333 wants a reason for every code."""
    assert status_from_code(code) == f"{code} Unknown"


@pytest.mark.spec("FR 68")
@pytest.mark.spec("ASGI HTTP 2.5", "Response Start")
@pytest.mark.parametrize("code", [None, "200", b"200", 200.0, 0, -200, 99, 1000, True, 10**500])
def test_what_is_no_code_is_refused(code: object) -> None:
    """Another type or range is the application's mistake, and shown within limits."""
    with pytest.raises(ApplicationProtocolError, match="100 to 999") as caught:
        status_from_code(code)
    assert len(str(caught.value)) < 300


@pytest.mark.spec("RFC 9110", "section 15.2")
@pytest.mark.parametrize("code", [100, 101, 103, 199])
def test_interim_code_cannot_start_a_response(code: int) -> None:
    """The client would wait for the head that has to follow."""
    with pytest.raises(ApplicationProtocolError, match="interim"):
        status_from_code(code)
