"""What a connection remembers of its last request's fields changes nothing but the work."""

from __future__ import annotations

from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.errors import PeerProtocolError
from bridges.server.environ import request_environ
from bridges.server.head import FieldMemory, HeadParser, RequestHead

HOST = b"Host: a.example\r\n"
METHODS = (b"GET", b"HEAD", b"POST", b"OPTIONS", b"CONNECT", b"get", b"SOURCE", b"WHATEVER")
TARGETS = (
    *(b"/", b"/a?b=c", b"/%61", b"//b/c", b"/a#b", b"*", b"a", b"?a", b"http://b.example/c?d"),
    *(b"/" + b"a" * 200, b"b.example:80", b'/"<>^`{|}'),
)
VERSIONS = (b"1.1", b"1.0", b"2.0")
SECTIONS = tuple(
    fields + b"\r\n"
    for fields in (
        HOST,
        HOST + b"Accept: */*\r\nCookie: a=b\r\n",
        HOST + b"Connection: keep-alive\r\n",
        HOST + b"Connection: close\r\n",
        HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
        HOST + b"Content-Length: 0\r\n",
        HOST + b"Content-Length: 5\r\n",
        HOST + b"Content-Length: 5\r\nExpect: 100-continue\r\n",
        HOST + b"Expect: 100-continue\r\n",
        HOST + b"Transfer-Encoding: chunked\r\n",
        HOST + b"X-Forwarded-For: 192.0.2.1\r\n",
        HOST + b"Authorization: " + b"a" * 3000 + b"\r\n",
        HOST + b"Content-Type: a\r\nContent-Type: b\r\n",
        HOST + HOST,
        b"Host: a b\r\n",
        b"Host : a\r\n",
        b"Accept: */*\r\n",
        b"X: " + b"a: b\r\nX: " * 20 + b"\r\n",
        b"",
    )
)
heads = st.builds(
    lambda method, target, version, section: (
        b"%b %b HTTP/%b\r\n%b" % (method, target, version, section)
    ),
    *map(st.sampled_from, (METHODS, TARGETS, VERSIONS, SECTIONS)),
)


def facts(parser: HeadParser, data: bytes, memory: FieldMemory) -> dict[str, Any]:
    """Give all that the server gets to know of a head: its attributes and its environ, or why it is refused."""
    try:
        head = parser.parse(data, memory)
        names = {name for name in (*vars(head), *vars(RequestHead)) if not name.startswith("_")}
        found = {name: getattr(head, name) for name in names - {"on_header"}}
        found["headers"] = list(head.headers)
        del found["same_fields"]
        environ = request_environ(head, {"SERVER_NAME": "a"})
        found["environ"] = environ.copy()
        environ["HTTP_ADDED"] = "by the application"
        head.headers.append((b"added", b"by the application"))
    except PeerProtocolError as refusal:
        return {"status": refusal.status_hint, "sentence": str(refusal)}
    return found


@pytest.mark.spec("RFC 9112", "section 3")
@given(st.lists(heads, max_size=6))
def test_the_same_with_and_without_memory(several: list[bytes]) -> None:
    """Each head of a connection reads as it would alone, whatever came before it and what became of that."""
    parser, memory = HeadParser(100, 15), FieldMemory()
    for data in several:
        assert facts(parser, data, memory) == facts(HeadParser(100, 15), data, FieldMemory())


@pytest.mark.spec("RFC 9112", "section 3")
@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: repr(section[:60]))
def test_the_same_fields_after_others(section: bytes) -> None:
    """A plain request before it does not let any other through, and neither does the same again."""
    parser, memory = HeadParser(100, 15), FieldMemory()
    for target in TARGETS:
        for version in VERSIONS:
            for method in METHODS:
                data = b"%b %b HTTP/%b\r\n%b" % (method, target, version, section)
                for before in (b"GET / HTTP/1.1\r\n", b"%b / HTTP/1.1\r\n" % method):
                    facts(parser, before + section, memory)
                    seen = facts(parser, data, memory)
                    assert seen == facts(HeadParser(100, 15), data, FieldMemory())


@pytest.mark.spec("performance.md")
def test_the_same_fields_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends the same fields again costs no second parser; one that changes them does."""
    made: list[object] = []
    parser_class = httptools.HttpRequestParser
    monkeypatch.setattr(
        httptools, "HttpRequestParser", lambda head: (made.append(head), parser_class(head))[1]
    )
    parser, memory = HeadParser(100, 15), FieldMemory()
    for target in (b"/a", b"/b?c", b"/a"):
        head = parser.parse(b"GET %b HTTP/1.1\r\n%b" % (target, SECTIONS[1]), memory)
        assert head.target == target
    assert len(made) == 1
    parser.parse(b"GET /a HTTP/1.1\r\n" + SECTIONS[0], memory)
    assert len(made) == 2


@pytest.mark.spec("issue 4", "6. memory bounded")
def test_long_fields_are_not_remembered() -> None:
    """An idle connection keeps no more than 2 KiB of them."""
    parser, memory = HeadParser(100, 15), FieldMemory()
    parser.parse(b"GET / HTTP/1.1\r\n" + SECTIONS[11], memory)
    assert memory.section == b""
