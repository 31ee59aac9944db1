"""Paths: segment borders, the bytes the client sent, and the target as it was."""

from __future__ import annotations

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.errors import PeerProtocolError
from bridges.translate.paths import latin1_from_text, path_bytes, request_uri, split_path

SEGMENTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=4)
PATHS = SEGMENTS.map(lambda segments: "/" + "/".join(segments))
# A mount point has at least one segment with a name at its end.
ROOTS = st.builds(
    lambda segments, last: "".join(f"/{segment}" for segment in [*segments, last]),
    SEGMENTS,
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1),
)


@pytest.mark.spec("FR 51")
@pytest.mark.spec("FR 52")
@pytest.mark.spec("FR 53")
@pytest.mark.spec("PEP 3333", "environ Variables")
@pytest.mark.parametrize(
    ("path", "root_path", "expected"),
    [
        # No mount.
        ("/", "", ("", "/")),
        ("/page", "", ("", "/page")),
        ("/page", "/", ("", "/page")),
        ("/page", "//", ("", "/page")),
        ("", "", ("", "")),
        # ASGI 2.5: the path includes the prefix.
        ("/old/page", "/old", ("/old", "/page")),
        ("/old/", "/old", ("/old", "/")),
        ("/old//", "/old", ("/old", "//")),
        ("/old/old", "/old", ("/old", "/old")),
        ("/a/b/c/d", "/a/b", ("/a/b", "/c/d")),
        ("/old/page", "/old/", ("/old", "/page")),
        # The mount point itself.
        ("/old", "/old", ("/old", "")),
        ("/old", "/old/", ("/old", "")),
        # The older convention: already stripped.
        ("/page", "/old", ("/old", "/page")),
        ("/", "/old", ("/old", "/")),
        ("", "/old", ("/old", "")),
        # Not on a segment border, so not the prefix.
        ("/apple", "/app", ("/app", "/apple")),
        ("/apiary", "/api", ("/api", "/apiary")),
        ("/app.html", "/app", ("/app", "/app.html")),
        ("/ap", "/app", ("/app", "/ap")),
        ("/APP/x", "/app", ("/app", "/APP/x")),
    ],
)
def test_split(path: str, root_path: str, expected: tuple[str, str]) -> None:
    """The prefix is taken off on a segment border; a path not under it was stripped before."""
    assert split_path(path, root_path) == expected


@pytest.mark.spec("FR 51")
@given(ROOTS, PATHS)
def test_parts_joined_give_the_whole_path_back(root_path: str, rest: str) -> None:
    """Under the ASGI 2.5 convention SCRIPT_NAME + PATH_INFO is the path, whatever its segments."""
    script_name, path_info = split_path(root_path + rest, root_path)
    assert script_name + path_info == root_path + rest
    assert script_name == root_path


@pytest.mark.spec("FR 52")
@given(PATHS, st.one_of(st.just(""), st.just("/"), ROOTS))
def test_parts_are_as_cgi_wants_them(path: str, root_path: str) -> None:
    """SCRIPT_NAME never ends with a slash, PATH_INFO is empty or begins with one, no byte is lost."""
    script_name, path_info = split_path(path, root_path)
    assert not script_name.endswith("/")
    assert path_info == "" or path_info.startswith("/")
    assert path in (path_info, script_name + path_info)


# What a client sends, and the bytes that the application must see (as latin-1 characters).
MATRIX = [
    ("plain", b"/abc", b"/abc"),
    ("UTF-8", b"/caf%C3%A9", b"/caf\xc3\xa9"),
    ("latin-1", b"/caf%E9", b"/caf\xe9"),
    ("lone E5", b"/%E5", b"/\xe5"),
    ("invalid FF", b"/%FF", b"/\xff"),
    ("truncated sequence", b"/%E2%82/x", b"/\xe2\x82/x"),
    ("lone continuation", b"/%80", b"/\x80"),
    ("overlong slash", b"/%C0%AF", b"/\xc0\xaf"),
    ("encoded surrogate", b"/%ED%A0%80", b"/\xed\xa0\x80"),
    ("valid and invalid", b"/%C3%A9%E9", b"/\xc3\xa9\xe9"),
    ("NFC", b"/%C3%A5", b"/\xc3\xa5"),
    ("NFD", b"/a%CC%8A", b"/a\xcc\x8a"),
    ("slash", b"/a%2Fb", b"/a/b"),
    ("slash beside invalid", b"/a%2Fb%FF", b"/a/b\xff"),
    ("NUL", b"/a%00b", b"/a\x00b"),
    ("plus", b"/a+b", b"/a+b"),
    ("blank", b"/a%20b", b"/a b"),
    ("percent", b"/100%25", b"/100%"),
    ("question mark", b"/a%3Fb", b"/a?b"),
    ("four bytes", b"/%F0%9F%98%80", b"/\xf0\x9f\x98\x80"),
    ("sent replacement character", b"/%EF%BF%BD", b"/\xef\xbf\xbd"),
]


@pytest.mark.spec("FR 46")
@pytest.mark.spec("FR 47")
@pytest.mark.spec("PEP 3333", "Unicode Issues")
@pytest.mark.parametrize(
    ("raw_path", "sent"), [row[1:] for row in MATRIX], ids=[row[0] for row in MATRIX]
)
def test_application_sees_the_bytes_that_were_sent(raw_path: bytes, sent: bytes) -> None:
    """Whatever the encoding, PATH_INFO as latin-1 is what the client percent-encoded."""
    path = unquote(raw_path.decode("ascii"))  # as servers do: lossy for what is not UTF-8
    assert path_bytes(path, raw_path).encode("latin-1") == sent


@pytest.mark.spec("FR 46")
@pytest.mark.parametrize(
    ("raw_path", "sent"),
    [row[1:] for row in MATRIX if "\N{REPLACEMENT CHARACTER}" not in unquote(row[1].decode())],
    ids=lambda value: repr(value),
)
def test_valid_paths_need_no_raw_path(raw_path: bytes, sent: bytes) -> None:
    """Without raw_path every path that was UTF-8 comes out as its bytes."""
    assert path_bytes(unquote(raw_path.decode("ascii")), None).encode("latin-1") == sent


@pytest.mark.spec("FR 47")
@given(st.binary())
def test_any_bytes_survive(sent: bytes) -> None:
    """Path bytes of any kind reach the application unchanged where the server gives raw_path."""
    raw_path = quote(sent).encode("ascii")
    text = path_bytes(unquote(raw_path.decode("ascii")), raw_path)
    assert text.encode("latin-1") == sent


@pytest.mark.spec("FR 47")
@given(st.binary(), st.binary(max_size=8))
def test_query_in_raw_path_is_no_part_of_the_path(sent: bytes, query: bytes) -> None:
    """Some servers leave the query in raw_path; PATH_INFO never holds it."""
    raw_path = quote(sent).encode("ascii")
    path = unquote(raw_path.decode("ascii"))
    assert path_bytes(path, raw_path + b"?" + query).encode("latin-1") == sent


@pytest.mark.spec("FR 47")
@pytest.mark.parametrize(
    ("path", "raw_path", "expected"),
    [
        ("/new", b"/old/new", "/new"),
        ("/n\N{REPLACEMENT CHARACTER}", b"/old/%FF", "/n\xef\xbf\xbd"),
        ("/\N{REPLACEMENT CHARACTER}", b"", "/\xef\xbf\xbd"),
        ("/rewritten", b"/%FF", "/rewritten"),
    ],
)
def test_rewritten_path_wins_over_raw_path(path: str, raw_path: bytes, expected: str) -> None:
    """A framework that rewrites path alone is obeyed: raw_path counts only if it says the same."""
    assert path_bytes(path, raw_path) == expected


@pytest.mark.spec("PEP 3333", "Unicode Issues")
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_becomes_its_utf8_bytes(text: str) -> None:
    """A native string holds one character for each byte of the UTF-8 form."""
    assert latin1_from_text(text).encode("latin-1") == text.encode("utf-8")


@pytest.mark.spec("PEP 3333", "Unicode Issues")
@given(st.binary())
def test_escaped_bytes_become_bytes_again(sent: bytes) -> None:
    """A server that decodes with surrogateescape loses nothing."""
    text = sent.decode("utf-8", "surrogateescape")
    assert latin1_from_text(text).encode("latin-1") == sent


@pytest.mark.spec("FR 46")
@pytest.mark.parametrize("code_point", [0xD800, 0xDBFF, 0xDC7F, 0xDD00, 0xDFFF], ids=hex)
def test_surrogates_that_are_no_bytes_are_refused(code_point: int) -> None:
    """A path that no bytes can be made of is answered with 400, not with a crash."""
    with pytest.raises(PeerProtocolError) as caught:
        latin1_from_text(f"/a{chr(code_point)}b")
    assert caught.value.status_hint == 400
    str(caught.value).encode("utf-8")


@pytest.mark.spec("FR 47")
@pytest.mark.parametrize(
    ("raw_path", "query_string", "expected"),
    [
        (b"/a%2Fb", b"x=1", "/a%2Fb?x=1"),
        (b"/a%2Fb?x=1", b"x=1", "/a%2Fb?x=1"),
        (b"/a", b"", "/a"),
        (b"/a?", b"", "/a"),
        (b"/%FF", b"q=\xe9", "/%FF?q=\xe9"),
        (b"/caf\xc3\xa9", b"", "/caf\xc3\xa9"),
        (b"/", b"?", "/??"),
        (b"*", b"", "*"),
    ],
)
def test_request_uri(raw_path: bytes, query_string: bytes, expected: str) -> None:
    """REQUEST_URI is the target as sent, with its query once."""
    assert request_uri(raw_path, query_string) == expected
