"""A WSGI environ as an ASGI scope: every key, odd hosts, and bytes that any client can send."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.errors import PeerProtocolError
from bridges.translate.environ import environ_from_scope
from bridges.translate.scope import scope_from_environ


def environ(**changes: Any) -> dict[str, Any]:
    """Give the smallest valid environ, changed; in lower-case names ``__`` stands for a dot, None takes a key out."""
    result: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
    }
    for key, value in changes.items():
        result[key if key.isupper() else key.replace("__", ".")] = value
    return {key: value for key, value in result.items() if value is not None}


def scope(root_path: str | None = None, **changes: Any) -> dict[str, Any]:
    """Translate an environ, changed."""
    return scope_from_environ(environ(**changes), root_path)[0]


def length(**changes: Any) -> int | None:
    """Give the length of the body of an environ, changed."""
    return scope_from_environ(environ(**changes))[1]


@pytest.mark.spec("FR 48")
@pytest.mark.spec("FR 71")
@pytest.mark.spec("ASGI HTTP 2.5", "HTTP Connection Scope")
def test_smallest_environ() -> None:
    """The smallest environ gives exactly what ASGI requires, and itself."""
    smallest = environ()
    assert scope_from_environ(smallest) == (
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "headers": [],
            "client": None,
            "server": ("example.org", 80),
            "extensions": {"wsgi.environ": {"environ": smallest}},
            "wsgi_environ": smallest,
        },
        0,
    )


def test_full_environ() -> None:
    """A request under gunicorn gives every key, each in its place."""
    result, body_length = scope_from_environ(
        environ(
            REQUEST_METHOD="POST",
            SCRIPT_NAME="/old",
            PATH_INFO="/a/b",
            QUERY_STRING="x=1",
            RAW_URI="/old/a%2Fb?x=1",
            HTTP_HOST="example.org",
            HTTP_X_REAL_IP="192.0.2.7",
            CONTENT_TYPE="text/plain",
            CONTENT_LENGTH="3",
            REMOTE_ADDR="192.0.2.1",
            REMOTE_PORT="5000",
            wsgi__url_scheme="https",
            wsgi__input_terminated=True,
        )
    )
    del result["wsgi_environ"], result["extensions"]
    assert result == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/old/a/b",
        "raw_path": b"/old/a%2Fb",
        "query_string": b"x=1",
        "root_path": "/old",
        "headers": [
            (b"host", b"example.org"),
            (b"x-real-ip", b"192.0.2.7"),
            (b"content-type", b"text/plain"),
            (b"content-length", b"3"),
        ],
        "client": ("192.0.2.1", 5000),
        "server": ("example.org", 80),
    }
    assert body_length == 3


def test_environ_is_left_as_it_was() -> None:
    """The translation changes nothing of the host's."""
    original = environ(HTTP_X="1", SCRIPT_NAME="/a", CONTENT_LENGTH="3")
    copy = dict(original)
    scope_from_environ(original, "/outer")
    assert original == copy


def test_no_application_can_damage_the_scope_of_another() -> None:
    """What one application writes into its scope, at any depth, no other one sees."""
    untouched = scope(wsgi__file_wrapper=object)
    damaged = scope(wsgi__file_wrapper=object)
    damaged["asgi"].clear()
    damaged["headers"].append((b"x", b"1"))
    damaged["extensions"]["http.response.pathsend"]["x"] = 1
    damaged["extensions"]["mine"] = {}
    fresh = scope(wsgi__file_wrapper=object)
    for key in ("asgi", "headers", "extensions"):
        assert repr(fresh[key]) == repr(untouched[key])


# Headers.


@pytest.mark.spec("FR 62")
@pytest.mark.parametrize("key", ["CONTENT_TYPE", "CONTENT_LENGTH"])
def test_empty_variables_are_no_headers(key: str) -> None:
    """uWSGI and wsgiref leave them empty where the client sent none."""
    assert scope(**{key: ""})["headers"] == []


@pytest.mark.spec("FR 62")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"HTTP_CONTENT_TYPE": "a/b", "CONTENT_TYPE": "a/b"},
            [(b"content-type", b"a/b")],
        ),
        ({"HTTP_CONTENT_TYPE": "text/evil"}, []),
        ({"HTTP_CONTENT_LENGTH": "3", "CONTENT_LENGTH": "3"}, [(b"content-length", b"3")]),
        ({"HTTP_CONTENT_LENGTH": "9"}, []),
        ({"HTTP_PROXY": "http://evil.example"}, []),
        ({"HTTP_": "nameless"}, []),
        ({"HTTPS": "on", "HTTP": "x"}, []),
        # Only ASCII has case: this is the byte that the client sent.
        ({"HTTP_X_\xc0": "1"}, [(b"x-\xc0", b"1")]),
    ],
)
def test_what_looks_like_a_header_and_is_none(
    changes: dict[str, str], expected: list[tuple[bytes, bytes]]
) -> None:
    """There is one Content-Type and one Content-Length, and nothing of the process's own."""
    assert scope(**changes)["headers"] == expected


@pytest.mark.spec("FR 56")
@given(st.text(st.characters(max_codepoint=255)))
def test_header_bytes_come_through(value: str) -> None:
    """The application gets the very bytes that the client sent, in the order of the environ."""
    headers = scope(HTTP_X_ONE=value, HTTP_X_TWO="2")["headers"]
    assert headers == [(b"x-one", value.encode("latin-1")), (b"x-two", b"2")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("Łódź", "Łódź".encode()), ("\udcff", b"\xff"), ("\ud800", b"?"), (5, b"5")],
)
def test_values_that_are_no_native_strings(value: object, expected: bytes) -> None:
    """Middleware puts anything there; the application still gets bytes, and no traceback."""
    assert scope(HTTP_X=value)["headers"] == [(b"x", expected)]


def test_memory_does_not_grow_with_the_names_that_clients_send() -> None:
    """Of 10,000 different names a bounded number is remembered, and all are translated."""
    from bridges.translate import scope as module

    for number in range(10_000):
        headers = scope(**{f"HTTP_X_CLIENT_{number}": "v"})["headers"]
        assert headers == [(b"x-client-%d" % number, b"v")]
    assert len(module._names) <= 1_024


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


@pytest.mark.spec("FR 43")
def test_steps_grow_no_faster_than_the_headers() -> None:
    """Twice the fields take at most about twice the calls."""

    def many(number: int) -> Callable[[], object]:
        # Longer than what is remembered between requests.
        changed = environ(**{f"HTTP_X_{i}_{'N' * 80}": "v" for i in range(number)})
        return lambda: scope_from_environ(changed)

    assert _events(many(20_000)) <= 2.1 * _events(many(10_000)) + 100


# The body.


@pytest.mark.spec("FR 61")
@pytest.mark.spec("RFC 9112", "section 6.3")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0),
        ({"CONTENT_LENGTH": ""}, 0),
        ({"CONTENT_LENGTH": "0"}, 0),
        ({"CONTENT_LENGTH": "3"}, 3),
        ({"CONTENT_LENGTH": " 3 "}, 3),
        ({"CONTENT_LENGTH": 3}, 3),
        ({"CONTENT_LENGTH": "3", "wsgi__input_terminated": True}, 3),
        # Nobody says where the body ends: it cannot be read.
        ({"wsgi__input_terminated": False}, 0),
        ({"wsgi__input_terminated": True}, None),
        ({"wsgi__input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}, None),
        (
            {
                "wsgi__input_terminated": True,
                "HTTP_TRANSFER_ENCODING": "chunked",
                "CONTENT_LENGTH": "3",
            },
            None,
        ),
        # nginx before uWSGI: the coding is undone and the length is that of the content.
        ({"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": "3"}, 3),
    ],
)
def test_body_length(changes: dict[str, Any], expected: int | None) -> None:
    """The length is known, zero, or open where the host ends wsgi.input."""
    assert length(REQUEST_METHOD="POST", **changes) == expected


@pytest.mark.spec("FR 61")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_get_has_a_body_only_if_it_says_so(method: str) -> None:
    """gunicorn sets wsgi.input_terminated always: a GET must not cost a look for a body."""
    terminated: dict[str, Any] = {"REQUEST_METHOD": method, "wsgi__input_terminated": True}
    assert length(**terminated) == 0
    assert length(**terminated, CONTENT_LENGTH="3") == 3
    assert length(**terminated, HTTP_TRANSFER_ENCODING="chunked") is None


@pytest.mark.spec("FR 61")
@pytest.mark.spec("RFC 9112", "section 6.3")
def test_coded_body_that_nobody_ends_is_refused() -> None:
    """wsgiref and uWSGI do not undo the coding: 411, and not a body that is lost in silence."""
    with pytest.raises(PeerProtocolError) as caught:
        scope(REQUEST_METHOD="POST", HTTP_TRANSFER_ENCODING="chunked")
    assert caught.value.status_hint == 411


@pytest.mark.spec("FR 61")
def test_http_2_needs_no_header_for_a_body() -> None:
    """The length is open, and no header of HTTP/1 is made up for it."""
    result, body_length = scope_from_environ(
        environ(SERVER_PROTOCOL="HTTP/2.0", wsgi__input_terminated=True)
    )
    assert body_length is None
    assert result["headers"] == []


@pytest.mark.spec("FR 61")
def test_length_alone_where_a_proxy_has_undone_the_coding() -> None:
    """Of two fields that would contradict each other, the one that holds is passed on."""
    assert scope(HTTP_TRANSFER_ENCODING="chunked", CONTENT_LENGTH="3")["headers"] == [
        (b"content-length", b"3")
    ]


@pytest.mark.spec("FR 81")
def test_body_of_get_survives_a_bridge_outside() -> None:
    """WSGIToASGI takes Transfer-Encoding off: only the input can tell whether there is a body."""
    outer: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/",
        "headers": [(b"transfer-encoding", b"chunked")],
    }
    inner, body_length = environ_from_scope(outer, {"wsgi.input_terminated": True})
    assert body_length is None
    assert scope_from_environ(inner)[1] is None


@pytest.mark.spec("FR 61")
@pytest.mark.spec("FR 81")
@pytest.mark.parametrize("changes", [{}, {"HTTP_TRANSFER_ENCODING": "chunked"}])
def test_body_of_unknown_length_is_told_of_by_one_header(changes: dict[str, Any]) -> None:
    """A bridge or proxy inside knows by Transfer-Encoding alone that there is a body."""
    headers = scope(
        REQUEST_METHOD="POST", wsgi__input_terminated=True, CONTENT_LENGTH="", **changes
    )["headers"]
    assert headers == [(b"transfer-encoding", b"chunked")]


@pytest.mark.spec("FR 61")
@pytest.mark.spec("RFC 9112", "section 6.3")
def test_no_length_beside_a_coding_that_overrides_it() -> None:
    """A length that is not that of the body is not passed on."""
    headers = scope(
        wsgi__input_terminated=True, HTTP_TRANSFER_ENCODING="chunked", CONTENT_LENGTH="3"
    )["headers"]
    assert headers == [(b"transfer-encoding", b"chunked")]


@pytest.mark.spec("FR 63")
@pytest.mark.parametrize("text", ["abc", "-1", "+1", "3,3", "1_0", "\xb3", "9" * 20, "9" * 5_000])
def test_bad_content_length_is_refused(text: str) -> None:
    """A length that is no number is answered with 400, not with a traceback."""
    with pytest.raises(PeerProtocolError) as caught:
        scope(REQUEST_METHOD="POST", CONTENT_LENGTH=text)
    assert caught.value.status_hint == 400


# Path, target, query.


@pytest.mark.spec("FR 54")
@pytest.mark.parametrize(
    ("script_name", "path_info", "path", "root"),
    [
        ("", "/", "/", ""),
        ("/app", "", "/app", "/app"),
        ("/app", "/", "/app/", "/app"),
        ("/app", "/docs", "/app/docs", "/app"),
        ("/caf\xc3\xa9", "/\xc3\xbc", "/café/ü", "/café"),
        ("", "*", "*", ""),
        ("", "", "/", ""),
        ("/", "/x", "/x", ""),
        ("/app/", "/x", "/app/x", "/app"),
        ("/app/", "x", "/app/x", "/app"),
        ("/\xc3", "\xa9/x", "/\ufffd/\ufffd/x", "/\ufffd"),
    ],
)
def test_path_includes_the_mount(script_name: str, path_info: str, path: str, root: str) -> None:
    """The path is the whole one, and root_path is where the application is mounted."""
    result = scope(SCRIPT_NAME=script_name, PATH_INFO=path_info)
    assert (result["path"], result["root_path"]) == (path, root)


@pytest.mark.spec("FR 54")
def test_missing_script_name_and_path() -> None:
    """PEP 3333 allows both to be absent where they are empty."""
    result = scope(SCRIPT_NAME=None, PATH_INFO="/a")
    assert (result["path"], result["root_path"]) == ("/a", "")


@pytest.mark.spec("FR 54")
@pytest.mark.parametrize(
    ("root_path", "script_name", "path", "root", "raw_path"),
    [
        ("/api", "", "/api/a/b", "/api", b"/api/a%2Fb"),
        ("/api/", "", "/api/a/b", "/api", b"/api/a%2Fb"),
        ("api", "", "/api/a/b", "/api", b"/api/a%2Fb"),
        ("/", "", "/a/b", "", b"/a%2Fb"),
        ("/café", "", "/café/a/b", "/café", b"/caf%C3%A9/a%2Fb"),
        ("/api", "/api", "/api/a/b", "/api", b"/api/a%2Fb"),
        (None, "/api", "/api/a/b", "/api", b"/api/a%2Fb"),
        (None, "", "/a/b", "", b"/a%2Fb"),
    ],
)
def test_prefix_that_a_proxy_took_off(
    root_path: str | None, script_name: str, path: str, root: str, raw_path: bytes
) -> None:
    """The prefix is put back into all three, once."""
    result = scope(
        root_path, SCRIPT_NAME=script_name, PATH_INFO="/a/b", RAW_URI=script_name + "/a%2Fb"
    )
    assert (result["path"], result["root_path"], result["raw_path"]) == (path, root, raw_path)


@pytest.mark.spec("FR 55")
@pytest.mark.parametrize("variable", ["RAW_URI", "REQUEST_URI"])
@pytest.mark.parametrize(
    ("target", "path_info", "raw_path"),
    [
        ("/a/b?x=1", "/a/b", b"/a/b"),
        ("/a%2Fb", "/a/b", b"/a%2Fb"),
        ("/%C3%A9?", "/\xc3\xa9", b"/%C3%A9"),
        ("/\xc3\xa9", "/\xc3\xa9", b"/\xc3\xa9"),
        ("/%25", "/%", b"/%25"),
        ("/%41", "/%41", b"/%2541"),
        ("/100%", "/100%", b"/100%"),
        ("*", "*", b"*"),
        ("http://example.org/a%2Fb?x", "/a/b", b"/a%2Fb"),
        ("http://example.org?x", "/", b"/"),
        # Middleware has rewritten the path alone: the target is that of another page.
        ("/other", "/a/b", b"/a/b"),
        ("/a b", "/\xe9 \x00?%", b"/%E9%20%00%3F%25"),
        ("/Ł", "/a", b"/a"),
        ("", "/a", b"/a"),
    ],
)
def test_raw_path(variable: str, target: str, path_info: str, raw_path: bytes) -> None:
    """raw_path is what the client sent, where the target still says the same path."""
    assert scope(**{variable: target}, PATH_INFO=path_info)["raw_path"] == raw_path


@pytest.mark.spec("FR 55")
def test_raw_path_without_target() -> None:
    """A host that tells no target gets a path that is quoted no more than it must be."""
    path = "/a-._~!$&'()*+,;=:@b"
    assert scope(PATH_INFO=path)["raw_path"] == path.encode()


@pytest.mark.spec("FR 56")
@given(st.text(st.characters(max_codepoint=255)))
def test_any_path_bytes(sent: str) -> None:
    """Bytes that are not UTF-8 are replaced in path and kept in raw_path."""
    result = scope(PATH_INFO="/" + sent)
    data = b"/" + sent.encode("latin-1")
    assert result["path"] == data.decode("utf-8", "replace")
    assert result["raw_path"] == quote_from_bytes(data, "/:@!$&'()*+,;=").encode()


@pytest.mark.spec("FR 56")
@given(st.text(st.characters(max_codepoint=255)))
def test_query_bytes_come_through(query: str) -> None:
    """Any query bytes reach the application."""
    assert scope(QUERY_STRING=query)["query_string"] == query.encode("latin-1")


# Protocol and addresses.


@pytest.mark.spec("FR 71")
@pytest.mark.parametrize(
    ("protocol", "version"),
    [
        ("HTTP/1.0", "1.0"),
        ("HTTP/1.1", "1.1"),
        ("HTTP/2", "2"),
        ("HTTP/2.0", "2"),
        ("HTTP/3", "3"),
        ("HTTP/3.0", "3"),
        ("INCLUDED", "1.1"),
        ("", "1.1"),
        (None, "1.1"),
    ],
)
def test_http_version(protocol: str | None, version: str) -> None:
    """The version is one that ASGI knows, whatever the host calls it."""
    assert scope(SERVER_PROTOCOL=protocol)["http_version"] == version


@pytest.mark.spec("FR 63")
@pytest.mark.parametrize(
    ("name", "port", "server"),
    [
        ("example.org", "8000", ("example.org", 8000)),
        ("example.org", 8000, ("example.org", 8000)),
        ("/run/app.sock", "", ("/run/app.sock", None)),
        ("/run/app.sock", None, ("/run/app.sock", None)),
        ("example.org", "x", ("example.org", None)),
        # gunicorn on a unix socket takes them from the client's Host.
        ("example.org", "-5", ("example.org", None)),
        ("example.org", "99999999", ("example.org", None)),
        ("", "80", None),
        (None, None, None),
    ],
)
def test_server_address(name: str | None, port: Any, server: object) -> None:
    """A unix socket has no port, and a host that is silent no server."""
    assert scope(SERVER_NAME=name, SERVER_PORT=port)["server"] == server


@pytest.mark.spec("FR 63")
@pytest.mark.parametrize(
    ("address", "port", "client"),
    [
        ("192.0.2.1", "5000", ("192.0.2.1", 5000)),
        ("192.0.2.1", 5000, ("192.0.2.1", 5000)),
        ("192.0.2.1", None, ("192.0.2.1", 0)),
        ("192.0.2.1", "", ("192.0.2.1", 0)),
        ("192.0.2.1", "None", ("192.0.2.1", 0)),
        ("::1", "5000", ("::1", 5000)),
        ("", "", None),
        (None, None, None),
    ],
)
def test_client_address(address: str | None, port: Any, client: object) -> None:
    """The client is known without its port too."""
    assert scope(REMOTE_ADDR=address, REMOTE_PORT=port)["client"] == client


# Extensions.


@pytest.mark.spec("FR 106")
@pytest.mark.spec("FR 108")
@pytest.mark.parametrize(
    ("changes", "offered"),
    [
        ({}, set()),
        (
            {"wsgi__file_wrapper": object},
            {"http.response.pathsend", "http.response.zerocopysend"},
        ),
        ({"wsgi__early_hints": print}, {"http.response.early_hint"}),
        ({"wsgi__early_hints": False}, set()),
        ({"bridges__trailers": print}, {"http.response.trailers"}),
        ({"wsgi__url_scheme": "https", "SSL_PROTOCOL": "TLSv1.3"}, {"tls"}),
        ({"wsgi__url_scheme": "https"}, set()),
        # A proxy's words do not make plain HTTP a TLS connection.
        ({"SSL_PROTOCOL": "TLSv1.3"}, set()),
    ],
)
def test_extensions_are_what_the_host_can_do(changes: dict[str, Any], offered: set[str]) -> None:
    """Nothing is offered that would fail when used."""
    assert set(scope(**changes)["extensions"]) == {"wsgi.environ", *offered}


@pytest.mark.spec("FR 48")
def test_the_environ_is_the_hosts_own() -> None:
    """The application reaches the environ by a2wsgi's key and by the extension, and can write into it."""
    host = environ()
    result = scope_from_environ(host)[0]
    result["wsgi_environ"]["mine"] = 1
    assert host["mine"] == 1
    assert result["extensions"]["wsgi.environ"]["environ"]["mine"] == 1


@pytest.mark.spec("FR 48")
def test_no_value_of_the_environ_is_printed() -> None:
    """Debug pages print the scope; the process environment of some hosts must not go with it."""
    result = scope(DATABASE_PASSWORD="hunter2")
    assert "hunter2" not in repr(result)
    assert "hunter2" not in repr(result["extensions"])
    assert "DATABASE_PASSWORD" in repr(result)
    assert dict(result["wsgi_environ"])["DATABASE_PASSWORD"] == "hunter2"
    del result["wsgi_environ"]["DATABASE_PASSWORD"]
    assert len(result["wsgi_environ"]) == len(environ())


@pytest.mark.spec("FR 55")
def test_target_that_is_no_str() -> None:
    """A target of another type is taken as absent."""
    assert scope(REQUEST_URI=b"/a")["raw_path"] == b"/"


@pytest.mark.spec("ASGI HTTP 2.5", "HTTP Connection Scope")
def test_method_is_upper_case() -> None:
    """ASGI wants it so; hosts pass on what the client wrote."""
    assert scope(REQUEST_METHOD="get")["method"] == "GET"


# There and back, and any garbage.

LATIN_1 = st.text(st.characters(max_codepoint=255), max_size=12)
VARIABLES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_", min_size=1, max_size=8).map(
    "HTTP_X_{}".format
)


@pytest.mark.spec("FR 81")
@given(LATIN_1, LATIN_1, st.dictionaries(VARIABLES, LATIN_1, max_size=4))
def test_environ_comes_back(path: str, query: str, headers: dict[str, str]) -> None:
    """Path, query and headers survive the way to ASGI and back, whatever bytes they hold."""
    sent = environ(SCRIPT_NAME="/old", PATH_INFO="/" + path, QUERY_STRING=query, **headers)
    back = environ_from_scope(scope_from_environ(sent)[0], {})[0]
    for key in ("SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", *headers):
        assert back[key] == sent[key]


KEYS = st.sampled_from(
    [
        *environ(),
        *("CONTENT_TYPE", "CONTENT_LENGTH", "REMOTE_ADDR", "REMOTE_PORT", "RAW_URI"),
        *("REQUEST_URI", "HTTP_TRANSFER_ENCODING", "HTTP_X", "HTTP_COOKIE"),
    ]
) | LATIN_1.map("HTTP_{}".format)


@pytest.mark.slow
@pytest.mark.spec("FR 56")
@pytest.mark.spec("FR 63")
@given(st.dictionaries(KEYS, LATIN_1, max_size=8), st.none() | st.booleans())
def test_any_garbage_is_served_or_refused(garbage: dict[str, str], terminated: bool | None) -> None:
    """Whatever the variables hold, there is a scope of the right types or a PeerProtocolError."""
    sent = {**environ(wsgi__input_terminated=terminated), **garbage}
    try:
        result, body_length = scope_from_environ(sent)
    except PeerProtocolError:
        return
    assert body_length is None or body_length >= 0
    assert type(result["path"]) is type(result["root_path"]) is str
    assert type(result["raw_path"]) is type(result["query_string"]) is bytes
    for name, value in result["headers"]:
        assert type(name) is type(value) is bytes
        assert name
