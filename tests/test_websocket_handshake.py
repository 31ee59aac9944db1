"""The opening handshake: which requests may have a websocket, and what the 101 response says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websocket_tools import COMPRESSED, TEXT, frame, received

from bridges.errors import ApplicationProtocolError, PeerProtocolError
from bridges.typing import RawHeaders
from bridges.websocket.framing import Failure, Framing
from bridges.websocket.handshake import (
    UPGRADE_REQUIRED_HEADERS,
    Handshake,
    asks_for_websocket,
    handshake,
)

# RFC 6455 section 1.2.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
REQUEST: RawHeaders = [
    (b"host", b"server.example.com"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-key", KEY),
    (b"origin", b"http://example.com"),
    (b"sec-websocket-version", b"13"),
]


def request(*more: tuple[bytes, bytes], **replaced: bytes | None) -> RawHeaders:
    """Give the fields of a request, some of them replaced or, for None, left out; underscores stand for hyphens."""
    new = {name.replace("_", "-").encode(): value for name, value in replaced.items()}
    fields = [(name, new.get(name, value)) for name, value in REQUEST]
    return [(name, value) for name, value in fields if value is not None] + list(more)


def refused(
    headers: RawHeaders, status: int = 400, method: str = "GET", version: str = "1.1"
) -> None:
    """Check that the request is refused with the status, and a clause."""
    with pytest.raises(PeerProtocolError) as caught:
        handshake(method, version, headers)
    assert caught.value.status_hint == status
    assert caught.value.clause


def accepted(
    asked: Handshake, subprotocol: Any = None, headers: Any = (), *, deflate: bool = False
) -> tuple[list[bytes], Framing]:
    """Give the lines of the response, without the empty ones, and the framing."""
    head, framing = asked.accept(subprotocol, headers, max_bytes=99, deflate=deflate)
    *lines, empty, nothing = head.split(b"\r\n")
    assert empty == nothing == b""
    assert b"" not in lines
    return lines, framing


# Requests.


@pytest.mark.spec("RFC 6455", "section 1.3")
def test_the_example_of_the_specification() -> None:
    """The request of the RFC gets the response of the RFC."""
    asked = handshake("GET", "1.1", request((b"sec-websocket-protocol", b"chat, superchat")))
    assert asked.subprotocols == ["chat", "superchat"]
    lines, framing = accepted(asked, "chat")
    assert lines == [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        b"Sec-WebSocket-Protocol: chat",
    ]
    assert received(framing, [frame(TEXT, b"Hello")]) == ["Hello"]


@pytest.mark.spec("RFC 6455", "section 4.2.1")
@pytest.mark.parametrize(
    "headers",
    [
        request(upgrade=b"WebSocket"),
        request(upgrade=b"h2c, websocket"),
        request(connection=b"keep-alive, upgrade"),
        request((b"connection", b"UPGRADE"), connection=b"keep-alive"),
        request((b"upgrade", b"websocket"), upgrade=b",,"),
        request((b"content-length", b"0")),
        request(sec_websocket_key=b" " + KEY + b"\t"),
        [*reversed(request())],
    ],
)
def test_requests_that_differ_in_form(headers: RawHeaders) -> None:
    """Tokens are compared without case, lists may be spread over fields, and blanks do not matter."""
    assert handshake("GET", "1.1", headers) == Handshake([], [], KEY)


@pytest.mark.spec("RFC 6455", "section 4.2.1")
@pytest.mark.parametrize(
    "headers",
    [
        request(host=None),
        request((b"host", b"other")),
        request(upgrade=None),
        request(upgrade=b"h2c"),
        request(upgrade=b"websocketx"),
        request(connection=None),
        request(connection=b"close"),
        request(connection=b"keep-alive upgrade"),
        request(sec_websocket_key=None),
        request(sec_websocket_key=b""),
        request(sec_websocket_key=b"AAAA"),
        request(sec_websocket_key=b"A" * 22),
        request(sec_websocket_key=b"A" * 24),
        request(sec_websocket_key=b"A" * 43 + b"="),
        request(sec_websocket_key=KEY[:-3] + b"-=="),
        request(sec_websocket_key=KEY + b"\n"),
        request((b"sec-websocket-key", KEY)),
        request((b"sec-websocket-protocol", b"chat room")),
        request((b"sec-websocket-protocol", b"caf\xe9")),
        request((b"sec-websocket-extensions", b"a b")),
        request((b"content-length", b"1")),
        request((b"content-length", b"0"), (b"content-length", b"5")),
        request((b"transfer-encoding", b"chunked")),
    ],
)
def test_requests_that_are_refused(headers: RawHeaders) -> None:
    """What the specification asks of a request must be there, once, and in its form; and there is no body."""
    refused(headers)


@pytest.mark.spec("RFC 6455", "section 4.2.1")
@pytest.mark.parametrize(
    ("method", "version"),
    [("POST", "1.1"), ("HEAD", "1.1"), ("get", "1.1"), ("GET", "1.0"), ("GET", "2")],
)
def test_other_methods_and_versions_of_http(method: str, version: str) -> None:
    """A websocket begins with GET and HTTP/1.1."""
    refused(request(), method=method, version=version)


@pytest.mark.spec("RFC 6455", "section 4.4")
@pytest.mark.parametrize(
    "headers",
    [
        request(sec_websocket_version=None),
        request(sec_websocket_version=b"8"),
        request(sec_websocket_version=b"13, 8"),
        request((b"sec-websocket-version", b"8")),
    ],
)
def test_other_versions_of_websockets(headers: RawHeaders) -> None:
    """They get 426, with the version that is there, and with Upgrade (RFC 9110 section 15.5.22)."""
    refused(headers, 426)
    assert (b"sec-websocket-version", b"13") in UPGRADE_REQUIRED_HEADERS
    assert (b"upgrade", b"websocket") in UPGRADE_REQUIRED_HEADERS


@pytest.mark.spec("RFC 9110", "section 7.8")
@pytest.mark.parametrize(
    ("headers", "asks"),
    [
        (request(), True),
        (request(sec_websocket_key=None), True),
        (request(connection=None), False),
        (request(connection=b"close"), False),
        (request(upgrade=None), False),
        (request(upgrade=b"h2c"), False),
        ([], False),
    ],
)
def test_requests_that_ask_for_a_websocket(headers: RawHeaders, asks: bool) -> None:
    """Upgrade counts only where Connection names it."""
    assert asks_for_websocket(headers) is asks


@pytest.mark.slow
@pytest.mark.spec("RFC 6455", "section 4.2.1")
@given(
    headers=st.lists(
        st.sampled_from(REQUEST)
        | st.tuples(
            st.sampled_from(
                [
                    *(name for name, _ in REQUEST),
                    b"sec-websocket-protocol",
                    b"sec-websocket-extensions",
                ]
            ),
            st.binary(max_size=20),
        )
    ).map(lambda more: REQUEST + more)
)
def test_any_fields_are_accepted_or_refused(headers: RawHeaders) -> None:
    """Nothing that a client sends raises anything else, or breaks the head of the response."""
    try:
        asked = handshake("GET", "1.1", headers)
    except PeerProtocolError as error:
        assert error.status_hint in (400, 426)
        return
    for subprotocol in [None, *asked.subprotocols]:
        lines, _ = accepted(asked, subprotocol, deflate=True)
        assert len(lines) <= 6
        assert all(line.isascii() for line in lines)


# Responses.


def mistake(call: Callable[[], object], said: str) -> None:
    """Check that a call is a mistake of the application, with a clause."""
    with pytest.raises(ApplicationProtocolError, match=said) as caught:
        call()
    assert caught.value.clause


@pytest.mark.spec("RFC 6455", "section 4.2.2")
@pytest.mark.parametrize("subprotocol", ["other", "CHAT", "", "chat\r\nx: y", "caf\xe9"])
def test_a_subprotocol_that_was_not_offered(subprotocol: str) -> None:
    """The application may choose only what the client offered."""
    asked = handshake("GET", "1.1", request((b"sec-websocket-protocol", b"chat")))
    mistake(lambda: accepted(asked, subprotocol), "offered")


@pytest.mark.spec("ASGI WebSocket 2.5", "Accept")
def test_headers_of_the_application() -> None:
    """They follow those of the handshake, in order; hop-by-hop fields and Content-Length are left out."""
    lines, _ = accepted(
        handshake("GET", "1.1", request()),
        headers=[
            (b"Set-Cookie", b"a=1"),
            [b"set-cookie", b" b=caf\xe9 "],
            (b"connection", b"close"),
            (b"content-length", b"0"),
            (b"transfer-encoding", b"chunked"),
            (b"upgrade", b"h2c"),
        ],
    )
    assert lines[4:] == [b"set-cookie: a=1", b"set-cookie: b=caf\xe9"]


@pytest.mark.spec("ASGI WebSocket 2.5", "Accept")
@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([(b"a", b"b\r\nc: d")], "CR, LF"),
        ([(b"a", b"b\n")], "CR, LF"),
        ([(b"a", b"\x00")], "NUL"),
        ([(b"a b", b"c")], "token"),
        ([(b"a:", b"c")], "token"),
        ([("a", "b")], "bytes"),
        (5, "pairs"),
        ([(b"sec-websocket-protocol", b"chat")], "subprotocol"),
        ([(b"Sec-WebSocket-Accept", b"x")], "handshake"),
        ([(b"sec-websocket-extensions", b"permessage-deflate")], "handshake"),
    ],
)
def test_headers_that_are_refused(headers: Any, said: str) -> None:
    """Nothing splits the head, and what belongs to the handshake is not the application's to say."""
    asked = handshake("GET", "1.1", request((b"sec-websocket-protocol", b"chat")))
    mistake(lambda: accepted(asked, headers=headers), said)


@pytest.mark.spec("RFC 7692", "section 5.1")
@pytest.mark.parametrize("deflate", [True, False])
@pytest.mark.parametrize("offered", [True, False])
def test_compression_is_agreed_on(offered: bool, deflate: bool) -> None:
    """It is used if the client offers it and the server has it on, and the response says so."""
    offer = (b"sec-websocket-extensions", b"foo, permessage-deflate; client_max_window_bits")
    asked = handshake("GET", "1.1", request(*[offer] if offered else []))
    lines, framing = accepted(asked, deflate=deflate)
    answer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12"
    assert lines[4:] == ([answer] if offered and deflate else [])
    (event,) = received(framing, [frame(TEXT, bytes.fromhex("f248cdc9c90700"), rsv=COMPRESSED)])
    assert event == "Hello" if offered and deflate else isinstance(event, Failure)
    assert framing.send_text("x" * 999)[0] == (0xC1 if offered and deflate else 0x81)


def test_the_limit_of_messages() -> None:
    """max_bytes holds for plain messages and for compressed ones."""
    offer = (b"sec-websocket-extensions", b"permessage-deflate")
    for deflate in (True, False):
        _, framing = accepted(handshake("GET", "1.1", request(offer)), deflate=deflate)
        first, second = received(framing, [frame(TEXT, b"x" * 99), frame(TEXT, b"x" * 100)])
        assert first == "x" * 99
        assert isinstance(second, Failure)
        assert second.code == 1009
