"""Header fields in both directions: names, repetitions, lengths, and what must not get through."""

from __future__ import annotations

import string
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridges.errors import ApplicationProtocolError, PeerProtocolError
from bridges.translate.headers import (
    HEADER_POLICIES,
    MAX_REPETITIONS,
    HeaderPolicy,
    add_request_headers,
    bytes_from_native,
    length_from_text,
    response_headers_from_asgi,
    response_headers_from_wsgi,
    variable_from_name,
)

TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters
NAMES = st.text(TOKEN_CHARACTERS, min_size=1, max_size=12)
VALUES = st.binary(max_size=12).filter(lambda value: not set(value) & set(b"\r\n\x00"))
POLICIES = st.sampled_from(HEADER_POLICIES)


def variables(*headers: tuple[bytes, bytes], policy: HeaderPolicy = "drop") -> dict[str, str]:
    """Give what a request with these headers adds to an empty environ."""
    environ: dict[str, Any] = {}
    add_request_headers(environ, headers, policy)
    return environ


# Requests: names.


@pytest.mark.spec("PEP 3333", "environ Variables")
@pytest.mark.spec("RFC 3875", "section 4.1.18")
@pytest.mark.parametrize(
    ("name", "variable"),
    [
        (b"accept", "HTTP_ACCEPT"),
        (b"x-real-ip", "HTTP_X_REAL_IP"),
        (b"content-type", "CONTENT_TYPE"),
        (b"content-length", "CONTENT_LENGTH"),
        (b"content-encoding", "HTTP_CONTENT_ENCODING"),
        (b"content_type", "HTTP_CONTENT_TYPE"),
        (b"content_length", "HTTP_CONTENT_LENGTH"),
        (b"proxy-authorization", "HTTP_PROXY_AUTHORIZATION"),
        (b"proxy", None),
    ],
)
@pytest.mark.parametrize("case", [bytes.lower, bytes.upper, bytes.title])
def test_variable_of_a_name_in_any_case(
    name: bytes, variable: str | None, case: Callable[[bytes], bytes]
) -> None:
    """A header is a CGI variable with HTTP_ in front, but for the two that CGI sets apart."""
    assert variable_from_name(case(name)) == variable


@pytest.mark.spec("RFC 9110", "section 5.1")
@given(NAMES)
def test_case_of_a_name_does_not_matter(name: str) -> None:
    """Field names are case-insensitive."""
    raw = name.encode("ascii")
    assert variable_from_name(raw) == variable_from_name(raw.lower())
    assert variable_from_name(raw) == variable_from_name(raw.upper())


@pytest.mark.spec("FR 42")
@pytest.mark.spec("RFC 9110", "section 5.1")
@given(st.binary(min_size=1, max_size=8), st.binary(min_size=1, max_size=8))
@example(b"x-acce\xdf", b"x-access")
@example(b"x-\xb5", b"x-\xff")
def test_different_names_never_share_a_variable(one: bytes, other: bytes) -> None:
    """Only ASCII case and "-" for "_" are folded: no other name can pass for one that is trusted."""

    def folded(name: bytes) -> bytes:
        return name.lower().replace(b"-", b"_")

    if folded(one) != folded(other):
        shared = variable_from_name(one)
        assert shared is None or shared != variable_from_name(other)


@pytest.mark.spec("PEP 3333", "Unicode Issues")
@given(st.binary(min_size=1, max_size=8))
@example(b"\xff")
@example(b"\xb5")
def test_variables_are_native_strings(name: bytes) -> None:
    """A variable's name holds latin-1 code points only, even if the server lets any byte through."""
    variable = variable_from_name(name)
    assert variable is None or variable.encode("latin-1")


# Requests: underscores and httpoxy.


def test_policies_are_those_of_the_type() -> None:
    """The tuple that is checked at run time says the same as the type."""
    assert get_args(HeaderPolicy) == HEADER_POLICIES


@pytest.mark.spec("FR 42")
@pytest.mark.parametrize(
    ("policy", "expected"),
    [("drop", "good"), ("keep", "evil,good")],
)
def test_underscore_twin(policy: HeaderPolicy, expected: str) -> None:
    """X_Forwarded_For cannot pass for X-Forwarded-For unless the operator wants it so."""
    headers = [(b"x_forwarded_for", b"evil"), (b"x-forwarded-for", b"good")]
    assert variables(*headers, policy=policy) == {"HTTP_X_FORWARDED_FOR": expected}


@pytest.mark.spec("FR 42")
@pytest.mark.parametrize("name", [b"x_forwarded_for", b"_", b"a_", b"X_Real-IP", b"content_length"])
def test_underscore_refused(name: bytes) -> None:
    """Under "refuse" a name with an underscore is answered with 400, and the name is shown."""
    with pytest.raises(PeerProtocolError, match="underscore") as caught:
        variables((b"host", b"a"), (name, b"1"), policy="refuse")
    assert caught.value.status_hint == 400
    assert repr(name) in str(caught.value)


@pytest.mark.spec("FR 42")
def test_underscore_names_do_not_set_what_cgi_sets_apart() -> None:
    """``content_length`` never becomes CONTENT_LENGTH, whatever the policy."""
    headers = [(b"content_length", b"7"), (b"content_type", b"text/evil")]
    assert variables(*headers) == {}
    assert variables(*headers, policy="keep") == {
        "HTTP_CONTENT_LENGTH": "7",
        "HTTP_CONTENT_TYPE": "text/evil",
    }


@pytest.mark.spec("FR 42")
@pytest.mark.spec("RFC 9112", "section 6.3")
def test_underscore_twin_of_transfer_encoding_does_not_frame_the_body() -> None:
    """Under "keep", ``transfer_encoding`` is a field like others: Content-Length stays in force."""
    environ: dict[str, Any] = {}
    headers = [(b"transfer_encoding", b"chunked"), (b"content-length", b"3")]
    assert add_request_headers(environ, headers, "keep") is False
    assert environ["CONTENT_LENGTH"] == "3"


@pytest.mark.spec("FR 42")
@given(st.lists(st.tuples(NAMES, NAMES, VALUES), max_size=3))
def test_drop_drops_every_underscore(parts: list[tuple[str, str, bytes]]) -> None:
    """Under "drop" names with an underscore leave no trace."""
    headers = [(f"{left}_{right}".encode(), value) for left, right, value in parts]
    assert variables(*headers) == {}


@pytest.mark.spec("CVE-2016-5385", "httpoxy")
@pytest.mark.parametrize("policy", HEADER_POLICIES)
@pytest.mark.parametrize("name", [b"proxy", b"Proxy", b"PROXY"])
def test_no_client_sets_http_proxy(name: bytes, policy: HeaderPolicy) -> None:
    """HTTP_PROXY, which HTTP clients read their proxy from, cannot come from a request."""
    assert variables((name, b"http://evil.example"), policy=policy) == {}


@given(
    st.lists(st.tuples(st.binary(max_size=6), VALUES), max_size=6),
    st.sampled_from(["drop", "keep"]),
)
def test_no_header_reaches_another_variable(
    pairs: list[tuple[bytes, bytes]], policy: HeaderPolicy
) -> None:
    """Names of any bytes give HTTP_ variables and the two exceptions, never PATH_INFO and its kind."""
    try:
        environ = variables(*pairs, policy=policy)
    except PeerProtocolError:
        return
    assert "HTTP_PROXY" not in environ
    for variable in environ:
        assert variable.startswith("HTTP_") or variable in ("CONTENT_TYPE", "CONTENT_LENGTH")


# Requests: repetitions.


@pytest.mark.spec("FR 41")
@pytest.mark.spec("RFC 9113", "section 8.2.3")
def test_cookies_are_joined_with_a_semicolon() -> None:
    """HTTP/2 splits cookies over fields; joined by comma the second one would be lost."""
    assert variables((b"cookie", b"a=1"), (b"Cookie", b"b=2"), (b"cookie", b"c=3")) == {
        "HTTP_COOKIE": "a=1; b=2; c=3"
    }


@pytest.mark.spec("RFC 9110", "section 5.3")
@given(st.lists(VALUES, min_size=1, max_size=MAX_REPETITIONS))
def test_repeated_fields_are_joined_in_order(values: list[bytes]) -> None:
    """Other fields become a list with commas, in the order they came."""
    assert variables(*((b"x-list", value) for value in values)) == {
        "HTTP_X_LIST": b",".join(values).decode("latin-1")
    }


@pytest.mark.spec("RFC 9110", "section 5.3")
def test_repetitions_need_not_be_neighbours() -> None:
    """Fields of one name are found wherever they stand, in any case."""
    headers = [(b"x-a", b"1"), (b"x-b", b"2"), (b"X-A", b"3"), (b"x-B", b"4"), (b"x-a", b"5")]
    assert variables(*headers) == {"HTTP_X_A": "1,3,5", "HTTP_X_B": "2,4"}


@pytest.mark.spec("FR 44")
@pytest.mark.parametrize(
    ("name", "variable", "value"),
    [
        (b"content-length", "CONTENT_LENGTH", b"3"),
        (b"content-type", "CONTENT_TYPE", b"text/plain"),
        (b"host", "HTTP_HOST", b"example.org"),
    ],
)
def test_equal_repetitions_of_single_fields_are_folded(
    name: bytes, variable: str, value: bytes
) -> None:
    """The same Content-Length, Content-Type or Host twice is that one, not "3,3"."""
    headers = [(name, value), (name.title(), value), (name, value)]
    assert variables(*headers) == {variable: value.decode()}


@pytest.mark.spec("FR 44")
@pytest.mark.spec("RFC 9112", "section 6.3")
@pytest.mark.parametrize(
    ("name", "values"),
    [
        (b"content-length", [b"3", b"4"]),
        (b"content-length", [b"3", b"3", b"03"]),
        (b"content-type", [b"text/plain", b"text/html"]),
        (b"host", [b"a.example", b"b.example"]),
        (b"host", [b"a.example", b""]),
    ],
)
def test_differing_repetitions_of_single_fields_are_refused(
    name: bytes, values: list[bytes]
) -> None:
    """Two that disagree are how requests are smuggled: 400."""
    with pytest.raises(PeerProtocolError, match="single") as caught:
        variables(*((name, value) for value in values))
    assert caught.value.status_hint == 400
    assert caught.value.clause


@pytest.mark.spec("FR 43")
@pytest.mark.parametrize("name", [b"x-a", b"cookie", b"host", b"x-unseen-before"])
def test_limit_of_repetitions(name: bytes) -> None:
    """A hundred fields of one name are served, one more is answered with 400."""
    allowed = [(name, b"v")] * MAX_REPETITIONS
    assert len(variables(*allowed)) == 1
    with pytest.raises(PeerProtocolError, match="100") as caught:
        variables(*allowed, (name, b"v"))
    assert caught.value.status_hint == 400


class CountedText(str):
    """A str that counts the characters that are copied when it is joined piece by piece."""

    __slots__ = ()
    copied = 0

    def __add__(self, other: str) -> CountedText:
        return self._sum(str(self), str(other))

    def __radd__(self, other: str) -> CountedText:
        return self._sum(str(other), str(self))

    def __format__(self, spec: str) -> str:
        CountedText.copied += len(self)
        return str(self)

    @staticmethod
    def _sum(left: str, right: str) -> CountedText:
        CountedText.copied += len(left) + len(right)
        return CountedText(left + right)


class CountedBytes(bytes):
    """A header value whose text counts what is copied."""

    decoded = 0

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        CountedBytes.decoded += 1
        return CountedText(super().decode(encoding, errors))


@pytest.mark.spec("FR 43")
def test_values_are_not_joined_piece_by_piece() -> None:
    """Of 20,000 repetitions, and of 100, each value is copied a bounded number of times."""
    CountedText.copied = CountedBytes.decoded = 0
    value = CountedBytes(b"v" * 10)
    with pytest.raises(PeerProtocolError):
        variables(*[(b"x-a", value)] * 20_000)
    assert 0 < CountedBytes.decoded <= 20_000
    variables(*[(b"x-a", value)] * MAX_REPETITIONS)
    assert CountedText.copied <= 2 * 10 * (20_000 + MAX_REPETITIONS)


def _events(function: Callable[[], object]) -> int:
    """Count the calls and returns, of Python and C functions, that a call takes."""
    count = 0

    def profiler(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(profiler)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def _repetitions(number: int) -> Callable[[], object]:
    headers = [(b"x-a", b"v")] * number

    def run() -> None:
        with pytest.raises(PeerProtocolError):
            variables(*headers)

    return run


def _different(number: int) -> Callable[[], object]:
    # Longer than what is remembered between requests.
    headers = [(b"x-%d-%b" % (i, b"n" * 80), b"v") for i in range(number)]
    return lambda: variables(*headers)


def _many_repeated(number: int) -> Callable[[], object]:
    headers = [(b"x-%d-%b" % (i % (number // 50), b"n" * 80), b"v") for i in range(number)]
    return lambda: variables(*headers)


@pytest.mark.spec("FR 43")
@pytest.mark.parametrize("make", [_repetitions, _different, _many_repeated])
def test_steps_grow_no_faster_than_the_headers(make: Callable[[int], Callable[[], object]]) -> None:
    """Twice the fields take at most about twice the calls."""
    few, many = _events(make(10_000)), _events(make(20_000))
    assert many <= 2.1 * few + 100


# Requests: values.


@pytest.mark.spec("PEP 3333", "Unicode Issues")
@given(NAMES.filter(lambda name: "_" not in name), VALUES)
def test_values_are_latin_1(name: str, value: bytes) -> None:
    """The application gets the bytes of a value back by encoding with latin-1."""
    for text in variables((name.encode(), value)).values():
        assert text.encode("latin-1") == value


def test_headers_are_read_once() -> None:
    """An iterator of headers will do, of lists as well as tuples."""
    headers: Iterator[Any] = iter([[b"x-a", b"1"], (b"x-b", b"2"), [b"x-a", b"3"]])
    environ: dict[str, Any] = {}
    assert add_request_headers(environ, headers, "drop") is False
    assert environ == {"HTTP_X_A": "1,3", "HTTP_X_B": "2"}


# Requests: length of the body.


@pytest.mark.spec("FR 6")
@pytest.mark.spec("RFC 9112", "section 6.3")
@pytest.mark.parametrize(
    "headers",
    [
        [(b"transfer-encoding", b"chunked")],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [(b"transfer-encoding", b"chunked"), (b"content-length", b"3")],
        [(b"content-length", b"3"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"nonsense"), (b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"gzip"), (b"transfer-encoding", b"chunked")],
    ],
)
def test_transfer_encoding_overrides_content_length(headers: list[tuple[bytes, bytes]]) -> None:
    """A body that came in chunks has no length beforehand; the server's framing is not passed on."""
    environ: dict[str, Any] = {}
    assert add_request_headers(environ, [*headers, (b"x-a", b"1")], "drop") is True
    assert environ == {"HTTP_X_A": "1"}


@pytest.mark.spec("FR 44")
def test_conflicting_lengths_are_refused_beside_transfer_encoding() -> None:
    """Transfer-Encoding does not excuse two lengths that disagree."""
    with pytest.raises(PeerProtocolError):
        variables(
            (b"transfer-encoding", b"chunked"), (b"content-length", b"3"), (b"content-length", b"4")
        )


@pytest.mark.spec("RFC 9110", "section 8.6")
@pytest.mark.parametrize(
    ("text", "length"),
    [("0", 0), ("3", 3), ("03", 3), ("1073741824", 2**30), ("9223372036854775807", 2**63 - 1)],
)
def test_length(text: str, length: int) -> None:
    """A Content-Length is a decimal number of bytes."""
    assert length_from_text(text) == length


BAD_LENGTHS = [
    "",
    " ",
    " 3",
    "3 ",
    "-1",
    "+1",
    "1_0",
    "1.0",
    "1e3",
    "0x10",
    "3,3",
    "3, 3",
    "abc",
    "3\x00",
    "3\n",
    "\xb3",  # superscript three: a digit to str.isdigit()
    "٣",
    "\uff19",  # fullwidth nine
    "9" * 20,
    "9" * 5_000,
    "0" * 100_000,
]


@pytest.mark.spec("FR 44")
@pytest.mark.spec("RFC 9110", "section 8.6")
@pytest.mark.parametrize("text", BAD_LENGTHS, ids=lambda text: ascii(text)[:20])
def test_bad_length(text: str) -> None:
    """Anything else is answered with 400: signs, lists, other scripts' digits, absurd sizes."""
    with pytest.raises(PeerProtocolError, match="Content-Length") as caught:
        length_from_text(text)
    assert caught.value.status_hint == 400
    assert len(str(caught.value)) < 250


@given(st.text(max_size=22))
def test_any_text_is_a_length_or_the_peers_error(text: str) -> None:
    """Whatever the text, the answer is a number that it spells or a PeerProtocolError."""
    try:
        length = length_from_text(text)
    except PeerProtocolError:
        return
    assert text.lstrip("0") == str(length).lstrip("0")


# Responses.


@pytest.mark.spec("FR 23")
@pytest.mark.spec("PEP 3333", "The start_response() Callable")
def test_response_headers_are_lower_case_stripped_and_kept_apart() -> None:
    """ASGI wants names in lower case; cookies cannot be joined, so nothing is."""
    given_ = [
        ("Content-Type", "text/plain"),
        ("Set-Cookie", "a=1"),
        ("X-Blank", " \t spaced out\t "),
        ("SET-COOKIE", "b=2"),
        ("x-empty", ""),
    ]
    translated = response_headers_from_wsgi(given_)
    assert translated.raw == [
        (b"content-type", b"text/plain"),
        (b"set-cookie", b"a=1"),
        (b"x-blank", b"spaced out"),
        (b"set-cookie", b"b=2"),
        (b"x-empty", b""),
    ]
    assert (translated.length, translated.dropped) == (None, [])


@pytest.mark.spec("FR 22")
@pytest.mark.spec("PEP 3333", "Unicode Issues")
def test_latin_1_values_are_sent_as_bytes() -> None:
    """A download called café has a name."""
    assert response_headers_from_wsgi([("X", "café")]).raw == [(b"x", b"caf\xe9")]


@pytest.mark.spec("FR 22")
@pytest.mark.parametrize(
    "header", [("X", "Łódź"), ("X", "\ud800"), ("Ł", "x"), ("X", "\u0141" * 999)]
)
def test_other_characters_are_refused_with_advice(header: tuple[str, str]) -> None:
    """What latin-1 cannot say is an error that tells how to encode it."""
    with pytest.raises(ApplicationProtocolError, match="RFC 8187") as caught:
        response_headers_from_wsgi([header])
    assert len(str(caught.value)) < 400


@pytest.mark.spec("FR 25")
@pytest.mark.spec("PEP 3333", "The start_response() Callable")
@pytest.mark.parametrize("bad", ["\r", "\n", "\x00", "\r\n"])
@pytest.mark.parametrize("form", ["a{}Injected: 1", "{}", "{}a", "a{}", " {} "])
def test_no_line_break_or_nul_in_a_value(form: str, bad: str) -> None:
    """An application that passes on what a user typed cannot be made to send another header."""
    with pytest.raises(ApplicationProtocolError, match="CR, LF, NUL") as caught:
        response_headers_from_wsgi([("X-A", form.format(bad))])
    assert "\n" not in str(caught.value)


@pytest.mark.spec("FR 25")
@pytest.mark.spec("RFC 9110", "section 5.6.2")
@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a:", ":a", "a\r\nb", "a\n", "a\x00", "é", "a\tb", "(a)", "a/b", "a\x7f"],
)
def test_names_are_tokens(name: str) -> None:
    """A name with blanks, colons or control characters is refused and shown, as often as it comes."""
    for _ in range(2):
        with pytest.raises(ApplicationProtocolError, match="token") as caught:
            response_headers_from_wsgi([("X-A", "1"), (name, "1")])
        assert repr(name) in str(caught.value)


MALFORMED: list[Any] = [
    None,
    5,
    [None],
    [("a",)],
    [("a", "b", "c")],
    ["abc"],
    [("a", None)],
    [("a", 1)],
    [("a", b"b")],
    [(b"a", "b")],
    [(b"a", b"b")],
    [(1, "b")],
    [([], "b")],
    [(None, "b")],
    "abc",
    {"content-type": "text/plain"},
]


@pytest.mark.spec("PEP 3333", "The start_response() Callable")
@pytest.mark.parametrize("headers", MALFORMED, ids=repr)
def test_headers_must_be_pairs_of_str(headers: Any) -> None:
    """Another shape is the application's mistake, named as such and shown."""
    with pytest.raises(ApplicationProtocolError, match=r"list of \(name, value\) tuples"):
        response_headers_from_wsgi(headers)


@pytest.mark.spec("FR 24")
@pytest.mark.spec("PEP 3333", "Other HTTP Features")
@pytest.mark.spec("RFC 9110", "section 7.6.1")
@pytest.mark.parametrize(
    "name",
    ["Connection", "Keep-Alive", "Proxy-Connection", "TE", "Transfer-Encoding", "Upgrade"],
)
def test_hop_by_hop_fields_are_taken_out_and_named(name: str) -> None:
    """The connection is the server's: its fields are dropped, and the caller can warn."""
    for spelled in (name, name.lower(), name.upper()):
        translated = response_headers_from_wsgi([("A", "1"), (spelled, "x"), ("B", "2")])
        assert translated.raw == [(b"a", b"1"), (b"b", b"2")]
        assert [dropped.lower() for dropped in translated.dropped] == [name.lower()]


@pytest.mark.spec("FR 24")
def test_bad_values_are_refused_in_dropped_fields_too() -> None:
    """A field that would be dropped is still checked, so that the mistake is seen."""
    with pytest.raises(ApplicationProtocolError):
        response_headers_from_wsgi([("Connection", "close\r\nX: 1")])


@pytest.mark.spec("FR 27")
@pytest.mark.spec("RFC 9110", "section 8.6")
@pytest.mark.parametrize(
    ("values", "length"),
    [(["0"], 0), (["5"], 5), ([" 5 "], 5), (["5", "5"], 5), (["5", "5", "5"], 5)],
)
def test_content_length_of_a_response(values: list[str], length: int) -> None:
    """The length is read, and a repetition of the same one is sent once."""
    translated = response_headers_from_wsgi([("Content-Length", value) for value in values])
    assert translated.length == length
    assert translated.raw == [(b"content-length", b"%d" % length)]


@pytest.mark.spec("FR 27")
@pytest.mark.parametrize(
    "values",
    [
        ["5", "6"],
        ["5", "5", "6"],
        ["5", "x"],
        ["5, 5"],
        ["-1"],
        ["+1"],
        [""],
        ["1_0"],
        ["\xb2"],
        ["9" * 5_000],
    ],
    ids=lambda values: repr(values)[:20],
)
def test_bad_content_length_of_a_response(values: list[str]) -> None:
    """Two lengths, or none that is a number, are the application's mistake."""
    with pytest.raises(ApplicationProtocolError) as caught:
        response_headers_from_wsgi([("Content-Length", value) for value in values])
    assert "Content-Length" in str(caught.value)


CONTROLS = "".join(map(chr, [*range(9), *range(10, 32), 127]))
LATIN_1 = st.text(st.characters(max_codepoint=255, exclude_characters=CONTROLS), max_size=12)
UNTOUCHED = NAMES.filter(
    lambda name: (
        name.lower()
        not in ("te", "upgrade", "connection", "keep-alive", "proxy-connection", "content-length")
    )
)


@pytest.mark.spec("FR 22")
@pytest.mark.spec("FR 23")
@given(st.lists(st.tuples(UNTOUCHED, LATIN_1), max_size=5))
def test_any_valid_response_headers_come_through(headers: list[tuple[str, str]]) -> None:
    """Number, order, names and values stay what the application gave."""
    assert response_headers_from_wsgi(iter(headers)).raw == [
        (name.lower().encode("ascii"), value.strip(" \t").encode("latin-1"))
        for name, value in headers
    ]


@pytest.mark.spec("FR 25")
@given(st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6))))
def test_what_is_sent_can_split_no_message(headers: list[tuple[str, str]]) -> None:
    """Whatever the application gives, no CR, LF, NUL or other control gets out."""
    try:
        translated = response_headers_from_wsgi(headers)
    except ApplicationProtocolError:
        return
    for name, value in translated.raw:
        assert name
        assert not set(name + value) & set(b"\r\n\x00")


# Responses, the other way.


@pytest.mark.spec("FR 57")
@pytest.mark.spec("ASGI HTTP 2.5", "Response Start")
def test_asgi_headers_become_native_strings() -> None:
    """Names are lower case, values native strings without blanks around; nothing is joined."""
    translated = response_headers_from_asgi(
        [
            (b"Content-Type", b"text/plain"),
            [b"set-cookie", b"a=1"],
            (b"x-blank", b" \t spaced out\t "),
            (b"SET-COOKIE", b"b=2"),
            (b"x-empty", b""),
            (b"x-latin", b"caf\xe9"),
        ]
    )
    assert translated.native == [
        ("content-type", "text/plain"),
        ("set-cookie", "a=1"),
        ("x-blank", "spaced out"),
        ("set-cookie", "b=2"),
        ("x-empty", ""),
        ("x-latin", "café"),
    ]
    assert (translated.length, translated.dropped) == (None, [])


@pytest.mark.spec("FR 25")
@pytest.mark.parametrize("bad", [b"\r", b"\n", b"\x00", b"\r\n", b"\x7f", b"\x1b"])
@pytest.mark.parametrize("form", [b"a%bInjected: 1", b"%b", b"%ba", b"a%b", b" %b "])
def test_no_line_break_or_nul_in_a_value_from_asgi(form: bytes, bad: bytes) -> None:
    """No ASGI application can be made to send another header either."""
    with pytest.raises(ApplicationProtocolError, match="CR, LF, NUL"):
        response_headers_from_asgi([(b"x-a", form % bad)])


@pytest.mark.spec("FR 25")
@pytest.mark.spec("RFC 9110", "section 5.6.2")
@pytest.mark.parametrize(
    "name", [b"", b" ", b"a b", b"a:", b":status", b"a\r\nb", b"a\n", b"a\x00", b"\xe9", b"(a)"]
)
def test_names_from_asgi_are_tokens(name: bytes) -> None:
    """A name that is none is refused and shown, as often as it comes; so are pseudo headers."""
    for _ in range(2):
        with pytest.raises(ApplicationProtocolError, match="token") as caught:
            response_headers_from_asgi([(b"x-a", b"1"), (name, b"1")])
        assert repr(name) in str(caught.value)


MALFORMED_ASGI: list[Any] = [
    5,
    [None],
    [(b"a",)],
    [(b"a", b"b", b"c")],
    [b"ab"],
    [(b"a", None)],
    [(b"a", 1)],
    [(b"a", "b")],
    [("a", b"b")],
    [("a", "b")],
    [(1, b"b")],
    [([], b"b")],
    [(bytearray(b"a"), b"b")],
    [(b"a", memoryview(b"b"))],
    [(memoryview(b"a"), b"b")],
    [(memoryview(b"a"), b"another")],
    b"abc",
    {b"content-type": b"text/plain"},
]


@pytest.mark.spec("ASGI HTTP 2.5", "Response Start")
@pytest.mark.parametrize("headers", MALFORMED_ASGI, ids=repr)
def test_headers_from_asgi_must_be_pairs_of_bytes(headers: Any) -> None:
    """Another shape is the application's mistake, named as such, also after its equal of the right type."""
    response_headers_from_asgi([(b"a", b"b")])
    with pytest.raises(ApplicationProtocolError, match="pairs of bytes"):
        response_headers_from_asgi(headers)


@pytest.mark.spec("FR 24")
@pytest.mark.spec("ASGI HTTP 2.5", "Response Start")
@pytest.mark.parametrize(
    "name",
    [b"Connection", b"Keep-Alive", b"Proxy-Connection", b"TE", b"Transfer-Encoding", b"Upgrade"],
)
def test_hop_by_hop_fields_from_asgi_are_taken_out_and_named(name: bytes) -> None:
    """ASGI: the server must ignore Transfer-Encoding; WSGI: the application must not send the others."""
    translated = response_headers_from_asgi([(b"a", b"1"), (name, b"x"), (b"b", b"2")])
    assert translated.native == [("a", "1"), ("b", "2")]
    assert translated.dropped == [name.decode().lower()]


@pytest.mark.spec("RFC 9110", "section 8.6")
@pytest.mark.parametrize("values", [[b"5"], [b" 5 "], [b"5", b"5"]])
def test_content_length_from_asgi(values: list[bytes]) -> None:
    """The length is read, and a repetition of the same one is sent once."""
    translated = response_headers_from_asgi([(b"Content-Length", value) for value in values])
    assert translated.length == 5
    assert translated.native == [("content-length", "5")]


@pytest.mark.spec("RFC 9110", "section 8.6")
@pytest.mark.parametrize("values", [[b"5", b"6"], [b"x"], [b"5, 5"], [b"-1"], [b""], [b"\xb2"]])
def test_bad_content_length_from_asgi(values: list[bytes]) -> None:
    """Two lengths, or none that is a number, are the application's mistake."""
    with pytest.raises(ApplicationProtocolError, match="Content-Length"):
        response_headers_from_asgi([(b"content-length", value) for value in values])


@pytest.mark.spec("FR 22")
@pytest.mark.spec("FR 81")
@given(st.lists(st.tuples(UNTOUCHED, LATIN_1), max_size=5))
def test_response_headers_come_back(headers: list[tuple[str, str]]) -> None:
    """To ASGI and back to WSGI nothing is lost but case and blanks."""
    raw = response_headers_from_wsgi(headers).raw
    assert response_headers_from_wsgi(response_headers_from_asgi(raw).native).raw == raw


@pytest.mark.spec("FR 25")
@given(st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6))))
def test_what_is_sent_from_asgi_can_split_no_message(headers: list[tuple[bytes, bytes]]) -> None:
    """Whatever the application gives, what gets out is what the host would accept."""
    try:
        translated = response_headers_from_asgi(headers)
    except ApplicationProtocolError:
        return
    assert len(response_headers_from_wsgi(translated.native).raw) == len(translated.native)


@pytest.mark.spec("PEP 3333", "Unicode Issues")
@given(st.binary())
def test_bytes_of_a_native_string(sent: bytes) -> None:
    """A native string holds bytes, and gives them back."""
    assert bytes_from_native(sent.decode("latin-1")) == sent


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Łódź", "Łódź".encode()),
        ("Ł\udcff", b"\xc5\x81\xff"),
        ("\ud800", b"?"),
        (5, b"5"),
        (None, b"None"),
    ],
)
def test_bytes_of_what_is_no_native_string(value: object, expected: bytes) -> None:
    """Anything else gives bytes too, never an error."""
    assert bytes_from_native(value) == expected


# Memory between requests.


class WatchedBytes(bytes):
    """Bytes whose life can be watched: bytes take no weak references."""

    alive = 0

    def __init__(self, *args: object) -> None:
        type(self).alive += 1

    def __del__(self) -> None:
        type(self).alive -= 1


class WatchedText(str):
    """A str whose life can be watched."""

    __slots__ = ("__weakref__",)


@pytest.mark.spec("FR 43")
def test_memory_does_not_grow_with_the_names_that_clients_send() -> None:
    """Of 10,000 different names a bounded number is remembered, and all are translated."""
    before = WatchedBytes.alive
    for number in range(10_000):
        name = WatchedBytes(b"x-client-%d" % number)
        assert variables((name, b"v")) == {f"HTTP_X_CLIENT_{number}": "v"}
    del name
    assert WatchedBytes.alive - before <= 1_500


@pytest.mark.spec("FR 23")
def test_memory_does_not_grow_with_the_names_that_applications_send() -> None:
    """The same holds for the names of responses."""
    watched = []
    for number in range(10_000):
        name = WatchedText(f"X-Application-{number}")
        assert response_headers_from_wsgi([(name, "v")]).raw == [
            (b"x-application-%d" % number, b"v")
        ]
        watched.append(weakref.ref(name))
    del name
    assert sum(reference() is not None for reference in watched) <= 1_500


@pytest.mark.spec("FR 57")
def test_memory_does_not_grow_with_the_names_that_asgi_applications_send() -> None:
    """And for those that come from ASGI."""
    before = WatchedBytes.alive
    for number in range(10_000):
        name = WatchedBytes(b"x-application-%d" % number)
        assert response_headers_from_asgi([(name, b"v")]).native == [
            (f"x-application-{number}", "v")
        ]
    del name
    assert WatchedBytes.alive - before <= 1_500
