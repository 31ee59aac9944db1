"""Responses as bytes: for each method, status and version the framing that the client expects."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from http1_corpus import Response, responses
from hypothesis import given
from hypothesis import strategies as st

from bridges.server.response import (
    Framing,
    Transfer,
    early_hints,
    encode_fields,
    simple_response,
)

DATE = b"date: Tue, 15 Nov 1994 08:12:31 GMT\r\n"
LENGTH = (b"content-length", b"4")


def framing(method: str = "GET", version: str = "1.1", keep_alive: bool = True) -> Framing:
    """Make the framing of a response to such a request."""
    return Framing(method == "HEAD", version == "1.1", keep_alive)


def read(written: bytes, method: str = "GET", closed: bool = False) -> Response:
    """Read one response as h11 does."""
    (response,) = responses(written, [method], closed=closed)[0]
    return response


# The head.


@pytest.mark.spec("RFC 9112", "section 4")
@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK\r\n"),
        (404, b"HTTP/1.1 404 Not Found\r\n"),
        (299, b"HTTP/1.1 299 \r\n"),
        (999, b"HTTP/1.1 999 \r\n"),
    ],
)
def test_the_status_line(status: int, line: bytes) -> None:
    """A status without a name has an empty reason behind its space."""
    assert framing().head(status, [], DATE).startswith(line)


def test_the_whole_head() -> None:
    """Fields as they are, in order, then those of the server, then an empty line."""
    head = framing().head(200, [(b"x-a", b"1"), LENGTH, (b"x-a", b"2")], DATE)
    assert head == (
        b"HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 4\r\nx-a: 2\r\n" + DATE + b"\r\n"
    )


@pytest.mark.spec("RFC 9110", "section 6.6.1")
def test_the_date_of_the_application_counts() -> None:
    """There is one Date field, and one that the application gave is that."""
    head = framing().head(200, [(b"date", b"today")], DATE)
    assert head.count(b"date: ") == 1
    assert b"date: today\r\n" in head


@pytest.mark.spec("RFC 9112", "section 6.3")
@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("status", [200, 204, 205, 304, 404, 500])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_the_framing(method: str, status: int, version: str, sized: bool, keep_alive: bool) -> None:
    """No body, or a length, or chunks, or the end of the connection: as the method, the status and the version say."""
    made = framing(method, version, keep_alive)
    head = made.head(status, [LENGTH] if sized else [], DATE)
    without_body = method == "HEAD" or status in (204, 304)
    if without_body:
        expected = Transfer.NONE
    elif sized:
        expected = Transfer.SIZED
    else:
        expected = Transfer.CHUNKED if version == "1.1" else Transfer.UNTIL_CLOSE
    assert made.transfer is expected
    assert (b"transfer-encoding: chunked\r\n" in head) == (expected is Transfer.CHUNKED)
    kept = keep_alive and expected is not Transfer.UNTIL_CLOSE
    assert made.keep_alive == kept
    assert (b"connection: close\r\n" in head) == (not kept)
    assert (b"connection: keep-alive\r\n" in head) == (kept and version == "1.0")
    assert head.count(b"\r\n\r\n") == 1
    assert head.endswith(b"\r\n\r\n")


# The body.


@pytest.mark.spec("RFC 9112", "section 7.1")
@given(pieces=st.lists(st.binary(max_size=50), min_size=1))
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_body_of_any_pieces(method: str, sized: bool, version: str, pieces: list[bytes]) -> None:
    """A client reads what was written, and knows where it ends; an empty piece is no end of the chunks."""
    body = b"".join(pieces)
    made = framing(method, version)
    headers = [(b"content-length", b"%d" % len(body))] if sized else []
    written = made.head(200, headers, DATE)
    for number, piece in enumerate(pieces):
        written += made.frame(piece, number == len(pieces) - 1)
    response = read(written, method, closed=not made.keep_alive)
    assert response.body == (b"" if method == "HEAD" else body)
    assert response.complete


def test_frames_byte_by_byte() -> None:
    """Each kind of framing, written out."""
    chunks = framing()
    chunks.head(200, [], DATE)
    assert chunks.frame(b"", False) == b""
    assert chunks.frame(b"x" * 26, False) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert chunks.frame(b"x", True) == b"1\r\nx\r\n0\r\n\r\n"
    assert chunks.frame(b"", True) == b"0\r\n\r\n"
    plain = framing()
    plain.head(200, [LENGTH], DATE)
    assert plain.frame(b"body", True) == b"body"
    nothing = framing("HEAD")
    nothing.head(200, [], DATE)
    assert nothing.frame(b"body", True) == b""


# Trailers and early hints.


@pytest.mark.spec("RFC 9112", "section 7.1.2")
def test_trailers() -> None:
    """They stand between the last chunk and the empty line; without chunks there are none."""
    fields = [("a", "1"), ("b", "caf\xe9")]
    chunks = framing()
    chunks.head(200, [], DATE)
    assert chunks.trailers(fields) == b"0\r\na: 1\r\nb: caf\xe9\r\n\r\n"
    for made, headers in ((framing("HEAD"), []), (framing(), [LENGTH])):
        made.head(200, headers, DATE)
        assert made.trailers(fields) == b""


@pytest.mark.spec("RFC 8297", "section 2")
def test_early_hints() -> None:
    """A 103 has a head only, and no fields but the given ones."""
    written = early_hints([("link", "</a>"), ("link", "</b>")])
    assert written == b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\n\r\n"
    final = framing().head(200, [LENGTH], DATE) + b"body"
    found, interim = responses(written + final, ["GET"], closed=False)
    assert interim == [103]
    assert found[0].body == b"body"


@pytest.mark.spec("RFC 9110", "section 5.5")
def test_fields_are_latin_1() -> None:
    """The code points of their text are the bytes."""
    assert encode_fields([("a", "\xff")]) == b"a: \xff\r\n"
    assert encode_fields([]) == b""


# The server's own responses.


@pytest.mark.spec("RFC 9110", "section 15.6.4")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("status", [400, 431, 500, 503])
def test_simple_responses(status: int, keep_alive: bool, method: str) -> None:
    """A sentence in plain text with its length, nothing of it for HEAD; 503 says when to come again."""
    written, kept = simple_response(
        status,
        "caf\xe9 \ud800",
        head_request=method == "HEAD",
        http11=True,
        keep_alive=keep_alive,
        date=DATE,
        more_headers=[(b"x-more", b"1")],
    )
    response = read(written, method, closed=not kept)
    assert kept == keep_alive
    assert response.status == status
    assert response.complete
    assert response.value(b"x-more") == b"1"
    assert response.value(b"content-type") == b"text/plain; charset=utf-8"
    assert response.value(b"content-length") == b"8"
    assert response.body == (b"" if method == "HEAD" else "café ?\n".encode())
    assert response.value(b"retry-after") == (b"1" if status == 503 else None)
    assert response.value(b"connection") == (None if keep_alive else b"close")


def test_a_simple_response_to_http_1_0() -> None:
    """It has a length, so that the connection can be kept there too."""
    details: dict[str, Any] = {"head_request": False, "http11": False, "date": DATE}
    written, kept = simple_response(400, "no", keep_alive=True, **details)
    assert kept
    assert b"connection: keep-alive\r\n" in written
    assert read(written).body == b"no\n"
    with pytest.raises(h11.RemoteProtocolError):
        read(written[:-1], closed=True)
