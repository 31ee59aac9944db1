"""An ASGI scope as a WSGI environ: every key, every optional key, and what must not leak."""

from __future__ import annotations

import io
import pprint
import sys
from typing import Any
from urllib.parse import quote, unquote
from wsgiref.validate import check_environ

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.errors import PeerProtocolError
from bridges.translate.environ import ScopeView, environ_from_scope


def scope(**changes: Any) -> dict[str, Any]:
    """Give the smallest valid scope, changed."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [],
        **changes,
    }


def base() -> dict[str, Any]:
    """Give what is the same for every request, as the adapter does."""
    return {
        "wsgi.version": (1, 0),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.errors": sys.stderr,
        "wsgi.input": io.BytesIO(),
    }


def environ(**changes: Any) -> dict[str, Any]:
    """Translate a scope, changed."""
    return environ_from_scope(scope(**changes), base())[0]


def length(**changes: Any) -> int | None:
    """Give the length of the body of a scope, changed."""
    return environ_from_scope(scope(**changes), base())[1]


@pytest.mark.spec("PEP 3333", "environ Variables")
def test_smallest_scope() -> None:
    """The smallest scope gives exactly what CGI and PEP 3333 require."""
    smallest = scope()
    assert environ_from_scope(smallest, {"wsgi.version": (1, 0)}) == (
        {
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "asgi.scope": smallest,
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/",
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "",
        },
        0,
    )


def test_full_scope() -> None:
    """A full request gives every variable, each in its place."""
    result, body_length = environ_from_scope(
        scope(
            method="POST",
            scheme="https",
            path="/old/a/b",
            raw_path=b"/old/a%2Fb",
            query_string=b"x=1",
            root_path="/old",
            headers=[(b"host", b"example.org"), (b"content-length", b"3"), (b"x-a", b"1")],
            client=("192.0.2.1", 5000),
            server=("192.0.2.2", 8443),
            extensions={"tls": {"tls_version": 0x0304}},
        ),
        base(),
    )
    del result["asgi.scope"]
    assert {key: value for key, value in result.items() if key not in base()} == {
        "wsgi.url_scheme": "https",
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "/old",
        "PATH_INFO": "/a/b",
        "REQUEST_URI": "/old/a%2Fb?x=1",
        "RAW_URI": "/old/a%2Fb?x=1",
        "QUERY_STRING": "x=1",
        "SERVER_NAME": "192.0.2.2",
        "SERVER_PORT": "8443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "5000",
        "HTTPS": "on",
        "SSL_PROTOCOL": "TLSv1.3",
        "SSL_CLIENT_VERIFY": "NONE",
        "HTTP_HOST": "example.org",
        "HTTP_X_A": "1",
        "CONTENT_LENGTH": "3",
    }
    assert body_length == 3


@pytest.mark.spec("PEP 3333", "environ Variables")
def test_base_is_left_as_it_was() -> None:
    """The shared entries are copied: an application may write into its environ."""
    shared = base()
    result = environ_from_scope(scope(headers=[(b"x-a", b"1")]), shared)[0]
    result["x"] = 1
    assert shared.keys() == base().keys()
    assert type(result) is dict


def test_scope_is_left_as_it_was() -> None:
    """Neither the translation nor writes to ``asgi.scope`` change the server's scope."""
    original = scope(headers=[(b"x-a", b"1")], raw_path=b"/", client=("h", 1))
    copy = dict(original)
    environ_from_scope(original, base())[0]["asgi.scope"]["mine"] = 1
    assert original == copy


# style.md: one table of inputs on which five adapters stumble.


@pytest.mark.spec("FR 38")
@pytest.mark.spec("FR 39")
@pytest.mark.spec("FR 41")
@pytest.mark.spec("FR 42")
@pytest.mark.spec("FR 45")
@pytest.mark.spec("FR 52")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"root_path": "/app", "path": "/apple"},
            {"SCRIPT_NAME": "/app", "PATH_INFO": "/apple"},
        ),
        ({"headers": [(b"cookie", b"a=1"), (b"cookie", b"b=2")]}, {"HTTP_COOKIE": "a=1; b=2"}),
        ({"server": ("h", 8000)}, {"SERVER_NAME": "h", "SERVER_PORT": "8000"}),
        ({"server": None}, {"SERVER_NAME": "localhost", "SERVER_PORT": "80"}),
        ({"server": ("/run/s.sock", None)}, {"SERVER_NAME": "localhost", "SERVER_PORT": "80"}),
        ({"query_string": b"q=\xe9"}, {"QUERY_STRING": "q=\xe9"}),
        (
            {"headers": [(b"x-real-ip", b"good"), (b"x_real_ip", b"evil")]},
            {"HTTP_X_REAL_IP": "good"},
        ),
        ({"headers": [(b"proxy", b"http://evil")]}, {"HTTP_PROXY": None}),
    ],
    ids=["segment", "cookies", "port", "no server", "unix", "query", "underscore", "httpoxy"],
)
def test_copied_mistakes(changes: dict[str, Any], expected: dict[str, str | None]) -> None:
    """What every adapter of one ancestor gets wrong is right here."""
    result = environ(**changes)
    assert {key: result.get(key) for key in expected} == expected


# Addresses.


@pytest.mark.spec("FR 38")
@pytest.mark.spec("FR 39")
@pytest.mark.parametrize(
    ("server", "scheme", "name", "port"),
    [
        (("example.org", 8080), "http", "example.org", "8080"),
        (["example.org", 8080], "http", "example.org", "8080"),
        (("::1", 8080, 0, 0), "http", "::1", "8080"),
        (("/run/app.sock", None), "http", "localhost", "80"),
        (("/run/app.sock", None), "https", "localhost", "443"),
        (("/run/app.sock",), "wss", "localhost", "443"),
        (None, "http", "localhost", "80"),
        (None, "https", "localhost", "443"),
        ((), "http", "localhost", "80"),
        (("", 8080), "http", "localhost", "8080"),
        ((None, 8080), "http", "localhost", "8080"),
        (("example.org", 0), "http", "example.org", "0"),
        (iter(("example.org", 8080)), "http", "example.org", "8080"),
    ],
)
def test_server_address(server: Any, scheme: str, name: str, port: str) -> None:
    """SERVER_NAME and SERVER_PORT are always there, never empty, and both str."""
    result = environ(server=server, scheme=scheme)
    assert (result["SERVER_NAME"], result["SERVER_PORT"]) == (name, port)


@pytest.mark.spec("FR 39")
@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (("192.0.2.1", 5000), {"REMOTE_ADDR": "192.0.2.1", "REMOTE_PORT": "5000"}),
        (["192.0.2.1", 5000], {"REMOTE_ADDR": "192.0.2.1", "REMOTE_PORT": "5000"}),
        (("::1", 5000, 0, 0), {"REMOTE_ADDR": "::1", "REMOTE_PORT": "5000"}),
        (("testclient", 0), {"REMOTE_ADDR": "testclient", "REMOTE_PORT": "0"}),
        (("192.0.2.1", None), {"REMOTE_ADDR": "192.0.2.1"}),
        (("", None), {"REMOTE_ADDR": ""}),
        ((None, None), {"REMOTE_ADDR": ""}),
        ((), {"REMOTE_ADDR": ""}),
        (None, {"REMOTE_ADDR": ""}),
        (iter(("192.0.2.1", 5000)), {"REMOTE_ADDR": "192.0.2.1", "REMOTE_PORT": "5000"}),
    ],
)
def test_client_address(client: Any, expected: dict[str, str]) -> None:
    """REMOTE_ADDR is always there; REMOTE_PORT only where there is a port."""
    result = environ(client=client)
    assert {key: result[key] for key in result if key.startswith("REMOTE_")} == expected


# Scheme, protocol, TLS.


@pytest.mark.spec("FR 40")
@pytest.mark.spec("PEP 3333", "environ Variables")
@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("http", "http"),
        ("https", "https"),
        ("ws", "http"),
        ("wss", "https"),
        (None, "http"),
        ("", "http"),
        ("odd", "http"),
    ],
)
def test_scheme(scheme: str | None, expected: str) -> None:
    """wsgi.url_scheme is http or https, and HTTPS says the same."""
    result = environ(scheme=scheme)
    assert result["wsgi.url_scheme"] == expected
    assert result.get("HTTPS") == ("on" if expected == "https" else None)


@pytest.mark.parametrize(
    ("version", "protocol"),
    [
        ("1.0", "HTTP/1.0"),
        ("1.1", "HTTP/1.1"),
        ("2", "HTTP/2"),
        ("3", "HTTP/3"),
        (None, "HTTP/1.1"),
        ("", "HTTP/1.1"),
    ],
)
def test_protocol(version: str | None, protocol: str) -> None:
    """SERVER_PROTOCOL is the version of the request."""
    assert environ(http_version=version)["SERVER_PROTOCOL"] == protocol


@pytest.mark.spec("FR 108")
@pytest.mark.parametrize(
    ("scheme", "extensions", "shown"),
    [
        ("https", {"tls": {"tls_version": 0x0303}}, {"SSL_PROTOCOL", "SSL_CLIENT_VERIFY"}),
        ("https", {"tls": None}, set()),
        ("https", {"tls": {}}, set()),
        ("https", {}, set()),
        ("https", None, set()),
        ("http", {"tls": {"tls_version": 0x0303}}, set()),
    ],
)
def test_tls_facts(scheme: str, extensions: Any, shown: set[str]) -> None:
    """SSL variables appear for a TLS connection of which the server tells something."""
    result = environ(scheme=scheme, extensions=extensions)
    assert {key for key in result if key.startswith("SSL_")} == shown


@pytest.mark.spec("FR 108")
@pytest.mark.parametrize("name", [b"ssl-client-verify", b"https", b"x-ssl-client-s-dn"])
def test_headers_cannot_state_tls_facts(name: bytes) -> None:
    """A client cannot say of itself that it was verified: headers keep their prefix."""
    result = environ(headers=[(name, b"SUCCESS")])
    assert not {key for key in result if key.startswith(("SSL_", "HTTPS"))}


# Paths and the target.


@pytest.mark.spec("FR 45")
@given(st.binary())
def test_query_bytes_come_through(query: bytes) -> None:
    """Any query bytes reach the application, as latin-1."""
    assert environ(query_string=query)["QUERY_STRING"].encode("latin-1") == query


@pytest.mark.spec("FR 46")
@pytest.mark.spec("FR 47")
@given(st.binary(), st.sampled_from(["", "/old", "/café"]))
def test_path_bytes_come_through(sent: bytes, root_path: str) -> None:
    """PATH_INFO as latin-1 is what the client sent below the mount, valid UTF-8 or not."""
    raw_path = (quote(root_path) + "/" + quote(sent)).encode("ascii")
    result = environ(path=unquote(raw_path.decode("ascii")), raw_path=raw_path, root_path=root_path)
    assert result["PATH_INFO"].encode("latin-1") == b"/" + sent
    assert result["SCRIPT_NAME"].encode("latin-1") == root_path.encode()


@pytest.mark.spec("FR 47")
@pytest.mark.parametrize(
    ("path", "raw_path", "path_info", "uri"),
    [
        ("/a/b", b"/a%2Fb", "/a/b", "/a%2Fb?x=1"),
        ("/\N{REPLACEMENT CHARACTER}", b"/%FF", "/\xff", "/%FF?x=1"),
        ("/é", b"/%C3%A9", "/\xc3\xa9", "/%C3%A9?x=1"),
        ("/é", None, "/\xc3\xa9", None),
    ],
)
def test_raw_target(path: str, raw_path: bytes | None, path_info: str, uri: str | None) -> None:
    """REQUEST_URI and RAW_URI are there where the server tells the target, as it was sent."""
    result = environ(path=path, raw_path=raw_path, query_string=b"x=1")
    assert result["PATH_INFO"] == path_info
    assert (result.get("REQUEST_URI"), result.get("RAW_URI")) == (uri, uri)


@pytest.mark.spec("FR 51")
@pytest.mark.spec("FR 53")
@pytest.mark.parametrize(
    ("path", "root_path", "expected"),
    [
        ("/flask", "/flask", ("/flask", "")),
        ("/flask/", "/flask", ("/flask", "/")),
        ("/a/flask/page", "/a/flask", ("/a/flask", "/page")),
        ("/page", "/flask", ("/flask", "/page")),
        ("/page", None, ("", "/page")),
        ("/page", "", ("", "/page")),
        ("/é/ü", "/é", ("/\xc3\xa9", "/\xc3\xbc")),
    ],
)
def test_mount(path: str, root_path: str | None, expected: tuple[str, str]) -> None:
    """The mount point is SCRIPT_NAME, once, under either convention and nesting."""
    result = environ(path=path, root_path=root_path)
    assert (result["SCRIPT_NAME"], result["PATH_INFO"]) == expected


@pytest.mark.spec("FR 46")
def test_path_of_no_bytes_is_refused() -> None:
    """A path with surrogates that stand for no byte is the client's error."""
    with pytest.raises(PeerProtocolError) as caught:
        environ(path="/\ud800")
    assert caught.value.status_hint == 400


@pytest.mark.spec("FR 50")
def test_script_name_of_the_process_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the process does not move the application."""
    monkeypatch.setenv("SCRIPT_NAME", "/elsewhere")
    result = environ(path="/old/page", root_path="/old")
    assert (result["SCRIPT_NAME"], result["PATH_INFO"]) == ("/old", "/page")


# Length of the body.


@pytest.mark.spec("FR 6")
@pytest.mark.spec("RFC 9112", "section 6.3")
@pytest.mark.parametrize(
    ("version", "headers", "expected"),
    [
        ("1.1", [(b"content-length", b"3")], 3),
        ("2", [(b"content-length", b"3")], 3),
        ("1.1", [(b"content-length", b"0")], 0),
        ("1.1", [(b"Content-Length", b"3"), (b"content-length", b"3")], 3),
        ("1.1", [(b"transfer-encoding", b"chunked")], None),
        ("1.1", [(b"transfer-encoding", b"chunked"), (b"content-length", b"3")], None),
        ("1.1", [], 0),
        ("1.0", [], 0),
        ("2", [], None),
        ("3", [], None),
        (None, [], None),
    ],
)
def test_body_length(
    version: str | None, headers: list[tuple[bytes, bytes]], expected: int | None
) -> None:
    """The length is known, zero, or open; HTTP/2 needs neither field for a body."""
    assert length(http_version=version, headers=headers, method="POST") == expected


@pytest.mark.spec("FR 6")
def test_no_length_beside_transfer_encoding() -> None:
    """The application sees neither the framing that the server undid nor a length beside it."""
    result = environ(headers=[(b"transfer-encoding", b"chunked"), (b"content-length", b"3")])
    assert "CONTENT_LENGTH" not in result
    assert "HTTP_TRANSFER_ENCODING" not in result


@pytest.mark.spec("FR 44")
@pytest.mark.parametrize(
    "values",
    [[b"3", b"4"], [b"3, 3"], [b"-1"], [b"+1"], [b""], [b"\xb3"], [b"\xd9\xa3"], [b"1_0"]],
)
def test_bad_content_length_is_refused(values: list[bytes]) -> None:
    """A length that conflicts or is no number is answered with 400 before the application runs."""
    with pytest.raises(PeerProtocolError) as caught:
        environ(headers=[(b"content-length", value) for value in values])
    assert caught.value.status_hint == 400


@pytest.mark.spec("FR 42")
def test_policy_is_passed_on() -> None:
    """The operator's choice about underscores reaches the headers."""
    with_underscore = scope(headers=[(b"x_a", b"1")])
    assert "HTTP_X_A" not in environ_from_scope(with_underscore, base())[0]
    assert environ_from_scope(with_underscore, base(), "keep")[0]["HTTP_X_A"] == "1"
    with pytest.raises(PeerProtocolError):
        environ_from_scope(with_underscore, base(), "refuse")


# Optional keys and iterables.

OPTIONAL = ["scheme", "raw_path", "query_string", "root_path", "headers", "client", "server"]
OPTIONAL += ["http_version", "extensions"]


@pytest.mark.spec("FR 39")
@pytest.mark.spec("ASGI HTTP 2.5", "HTTP Connection Scope")
@pytest.mark.parametrize("key", OPTIONAL)
def test_none_is_as_good_as_absent(key: str) -> None:
    """An optional key may be missing or None, and both mean its default."""
    without = scope()
    without.pop(key, None)
    absent = environ_from_scope(without, base())
    none = environ_from_scope({**without, key: None}, base())
    del absent[0]["asgi.scope"], none[0]["asgi.scope"]
    for result, _ in (absent, none):
        del result["wsgi.errors"], result["wsgi.input"]
    assert absent == none


@pytest.mark.spec("FR 39")
def test_all_optional_keys_none_at_once() -> None:
    """A scope of nothing but None passes wsgiref's checks."""
    result = environ(**dict.fromkeys(OPTIONAL))
    check_environ(result)


@pytest.mark.spec("FR 49")
@pytest.mark.spec("ASGI HTTP 2.5", "HTTP Connection Scope")
def test_one_pass_headers_are_kept_for_the_application() -> None:
    """Headers may be any iterable; the application can still read them in ``asgi.scope``."""
    pairs = [(b"X-A", b"1"), (b"x-b", b"2")]
    result = environ(headers=iter(pairs))
    assert result["HTTP_X_A"] == "1"
    assert list(result["asgi.scope"]["headers"]) == pairs


@pytest.mark.spec("FR 49")
def test_raw_headers_keep_order_and_case() -> None:
    """``asgi.scope`` has the header list as received, repetitions and dropped names included."""
    pairs = [(b"X-B", b"2"), (b"x-a", b"1"), (b"X-b", b"3"), (b"x_a", b"4")]
    assert list(environ(headers=pairs)["asgi.scope"]["headers"]) == pairs


@pytest.mark.spec("FR 48")
def test_scope_is_reachable_with_its_state() -> None:
    """What ASGI middleware and lifespan put into the scope is the same object in the application."""
    state, user = {"pool": object()}, object()
    view = environ(state=state, user=user)["asgi.scope"]
    assert view["state"] is state
    assert view["user"] is user
    assert view["type"] == "http"


# What a debug page shows.


@pytest.mark.slow
@pytest.mark.spec("FR 48")
@given(
    st.lists(st.sampled_from([b"cookie", b"authorization", b"x-api-key"]), min_size=1, max_size=3),
    st.text("abcdefghijklmnop", min_size=1, max_size=5),
    st.booleans(),
)
def test_scope_shows_no_value_of_a_header(names: list[bytes], salt: str, once: bool) -> None:
    """However ``asgi.scope`` is printed, names of headers may appear, values never."""
    secret = f"SECRET-{salt}"
    headers: Any = [(name, secret.encode()) for name in names]
    view = environ(headers=iter(headers) if once else headers)["asgi.scope"]
    shown = [repr(view), str(view), f"{view}", pprint.pformat(view), repr({"asgi.scope": view})]
    for text in shown:
        assert secret not in text
        assert names[0].decode() in text
        assert "'method'" in text


@pytest.mark.parametrize("headers", [None, (), []])
def test_scope_without_headers_can_be_shown(headers: Any) -> None:
    """A scope without headers has a repr too."""
    assert "'method'" in repr(ScopeView(scope(headers=headers)))
    assert "'type'" in repr(ScopeView({"type": "http"}))


# Every environ is valid.

NAME_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_!#$%&'*+.^`|~"
HEADER = st.tuples(
    st.text(NAME_CHARACTERS, min_size=1, max_size=10)
    .filter(lambda name: name.lower() not in ("host", "te"))
    .map(str.encode),
    st.binary(max_size=10),
)
SPECIAL_HEADERS = st.lists(
    st.sampled_from(
        [
            (b"Host", b"example.org"),
            (b"content-length", b"7"),
            (b"Content-Type", b"text/plain"),
            (b"transfer-encoding", b"chunked"),
            (b"cookie", b"a=\xe9"),
            (b"proxy", b"evil"),
            (b"content_length", b"99"),
            (b"content_type", b"evil"),
        ]
    )
)
PATH_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
ADDRESSES = st.sampled_from(
    [None, ("192.0.2.1", 80), ["h", 1], ("::1", 80, 0, 0), ("/run/s", None), ("/run/s",), ("", 80)]
)
TLS = st.fixed_dictionaries(
    {"tls_version": st.none() | st.integers(0, 0xFFFF)},
    optional={
        "cipher_suite": st.none() | st.integers(0, 0xFFFF),
        "server_cert": st.none() | st.text(),
        "client_cert_chain": st.none() | st.lists(st.text(), max_size=2),
        "client_cert_name": st.none() | st.text(),
        "client_cert_error": st.none() | st.text(),
    },
)


@st.composite
def valid_scopes(draw: st.DrawFn) -> dict[str, Any]:
    """Draw an HTTP scope that the ASGI specification allows."""
    optional = {
        "scheme": st.sampled_from([None, "http", "https", "ws", "wss"]),
        "raw_path": st.none() | st.binary(max_size=10).map(lambda tail: b"/" + tail),
        "query_string": st.none() | st.binary(max_size=10),
        "root_path": st.none()
        | st.just("")
        | PATH_TEXT.map(lambda text: "/" + text)
        | st.sampled_from(["/", "/old", "/old/"]),
        "client": ADDRESSES,
        "server": ADDRESSES,
        "extensions": st.none() | st.fixed_dictionaries({}, optional={"tls": TLS}),
        "state": st.just({}),
    }
    drawn: dict[str, Any] = draw(st.fixed_dictionaries({}, optional=optional))
    prefix = draw(st.sampled_from(["", drawn.get("root_path") or ""]))
    headers: Any = draw(st.lists(HEADER, max_size=6)) + draw(SPECIAL_HEADERS)
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": draw(st.sampled_from(["1.0", "1.1", "2", "3"])),
        "method": draw(st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])),
        "path": prefix.rstrip("/") + "/" + draw(PATH_TEXT),
        "headers": draw(st.sampled_from([list, tuple, iter]))(headers),
        **drawn,
    }


@pytest.mark.slow
@pytest.mark.spec("FR 38")
@pytest.mark.spec("FR 39")
@pytest.mark.spec("PEP 3333", "environ Variables")
@given(valid_scopes())
def test_every_environ_passes_wsgiref(valid: dict[str, Any]) -> None:
    """Whatever a valid scope holds, wsgiref.validate accepts the environ that comes of it."""
    result, body_length = environ_from_scope(valid, base())
    check_environ(result)
    assert "HTTP_PROXY" not in result
    assert body_length in (0, 7, None)
    for key, value in result.items():
        if "." not in key:
            assert type(value) is str
            if not key.startswith("SSL_"):
                assert value.encode("latin-1") is not None
