"""The order of an application's websocket messages: what may come when, what is written, and whose mistake it is."""

from __future__ import annotations

from typing import Any

import pytest
from websocket_tools import close, frame, frames
from websocket_tools import received as events_of

from bridges.errors import ApplicationProtocolError, ClientDisconnected
from bridges.websocket.asgi import WebSocketMessages, received
from bridges.websocket.handshake import Handshake

ASKED = Handshake(["chat", "superchat"], ["permessage-deflate"], b"dGhlIHNhbXBsZSBub25jZQ==")

ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close"}
SEND = {"type": "websocket.send", "text": "x"}
DENY = {"type": "websocket.http.response.start", "status": 404, "headers": [(b"a", b"b")]}
BODY = {"type": "websocket.http.response.body", "body": b"no"}
PART = {**BODY, "more_body": True}
EVERY = [ACCEPT, CLOSE, SEND, DENY, BODY]


def new(*sent: dict[str, Any], deflate: bool = False) -> WebSocketMessages:
    """Give the messages of a websocket after those sent."""
    messages = WebSocketMessages(ASKED, "shop", max_bytes=99, deflate=deflate)
    for message in sent:
        messages.send(message)
    return messages


def mistake(messages: WebSocketMessages, message: dict[str, Any], said: str) -> None:
    """Check that a message is a mistake of the application, told by name and clause, and changes nothing."""
    state = messages.state
    with pytest.raises(ApplicationProtocolError, match=f"^shop .*{said}") as caught:
        messages.send(message)
    assert caught.value.clause
    assert len(str(caught.value)) < 500
    assert messages.state == state


# Order.


@pytest.mark.spec("ASGI WebSocket 2.5", "Accept")
def test_a_whole_websocket() -> None:
    """An accepted websocket sends text and bytes, and closes with code and reason."""
    messages = new()
    assert messages.state == "connecting"
    assert messages.framing is None
    head = messages.send(
        {**ACCEPT, "subprotocol": "superchat", "headers": [(b"x-a", b"b")]},
    )
    assert isinstance(head, bytes)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert head.endswith(b"\r\nSec-WebSocket-Protocol: superchat\r\nx-a: b\r\n\r\n")
    assert messages.state == "open"
    assert messages.send({"type": "websocket.send", "text": "é"}) == b"\x81\x02\xc3\xa9"
    assert messages.send({"type": "websocket.send", "bytes": b"\x00"}) == b"\x82\x01\x00"
    closing = messages.send({**CLOSE, "code": 4000, "reason": "done"})
    assert closing == b"\x88\x06\x0f\xa0done"
    assert messages.state == "closed"
    assert messages.framing is not None
    assert events_of(messages.framing, [close(4000)])
    assert messages.framing.over
    assert messages.finish(failed=False) == b""


@pytest.mark.spec("ASGI WebSocket 2.5", "Close")
def test_closed_before_it_was_accepted() -> None:
    """The client gets 403, and no websocket."""
    messages = new()
    assert messages.send({**CLOSE, "code": 4000, "reason": "x"}) == [
        {"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]},
        {"type": "http.response.body", "body": b""},
    ]
    assert messages.state == "closed"
    assert messages.framing is None
    assert messages.finish(failed=False) == b""


@pytest.mark.spec("ASGI extensions", "Websocket Denial Response")
def test_a_response_of_its_own() -> None:
    """The application's response passes as it is, as messages of HTTP."""
    messages = new()
    assert messages.send(DENY) == [{**DENY, "type": "http.response.start"}]
    assert messages.state == "denying"
    assert messages.send(PART) == [
        {"type": "http.response.body", "body": b"no", "more_body": True},
    ]
    assert messages.state == "denying"
    assert messages.send(BODY) == [{"type": "http.response.body", "body": b"no"}]
    assert messages.state == "closed"
    assert messages.finish(failed=False) == b""


@pytest.mark.spec("ASGI WebSocket 2.5", "Connect")
@pytest.mark.parametrize(
    ("sent", "allowed"),
    [
        ([], [ACCEPT, CLOSE, DENY]),
        ([ACCEPT], [SEND, CLOSE]),
        ([ACCEPT, SEND], [SEND, CLOSE]),
        ([DENY], [BODY]),
        ([DENY, PART], [BODY]),
        ([DENY, BODY], []),
        ([CLOSE], []),
        ([ACCEPT, CLOSE], []),
    ],
)
@pytest.mark.parametrize("message", EVERY, ids=[message["type"] for message in EVERY])
def test_the_order_of_messages(
    sent: list[dict[str, Any]], allowed: list[dict[str, Any]], message: dict[str, Any]
) -> None:
    """Each state has its messages; every other one is a mistake, which changes nothing."""
    messages = new(*sent)
    if message in allowed:
        messages.send(message)
    else:
        mistake(messages, message, f"sent '{message['type']}'")


@pytest.mark.parametrize(
    "kind", [None, 5, [], "websocket.receive", "http.response.start", "websocket." + "x" * 999]
)
def test_messages_of_other_types(kind: Any) -> None:
    """A type that there is not is a mistake wherever it comes."""
    for messages in (new(), new(ACCEPT), new(DENY), new(CLOSE)):
        mistake(messages, {"type": kind}, "sent")
    mistake(new(), {}, "sent None")


# Malformed messages.


@pytest.mark.spec("ASGI WebSocket 2.5", "Accept")
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"subprotocol": "other"}, "websocket.accept: .*offered"),
        ({"subprotocol": b"chat"}, "no str"),
        ({"headers": [(b"a", b"\n")]}, "websocket.accept: .*CR, LF"),
        ({"headers": [(b"sec-websocket-protocol", b"chat")]}, "websocket.accept: .*'subprotocol'"),
        ({"headers": 5}, "pairs"),
    ],
)
def test_a_malformed_accept(keys: dict[str, Any], said: str) -> None:
    """It is told by name and rule, and a better one may follow."""
    messages = new()
    mistake(messages, {**ACCEPT, **keys}, said)
    messages.send({**ACCEPT, "subprotocol": None, "headers": None})
    assert messages.state == "open"


@pytest.mark.spec("ASGI WebSocket 2.5", "Send")
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "exactly one"),
        ({"text": None, "bytes": None}, "exactly one"),
        ({"text": "", "bytes": b""}, "exactly one"),
        ({"text": b"x"}, "text is str"),
        ({"bytes": "x"}, "bytes are bytes"),
        ({"bytes": 5}, "bytes are bytes"),
        ({"text": "\ud800"}, "websocket.send: .*UTF-8"),
    ],
)
def test_a_malformed_send(keys: dict[str, Any], said: str) -> None:
    """Exactly one of text and bytes must be there, of its type."""
    mistake(new(ACCEPT), {"type": "websocket.send", **keys}, said)


@pytest.mark.spec("ASGI WebSocket 2.5", "Send")
@pytest.mark.parametrize("data", [b"ab", bytearray(b"ab"), memoryview(b"ab")])
def test_binary_data(data: Any) -> None:
    """Any bytes-like object will do, beside a text that is None."""
    message = {"type": "websocket.send", "bytes": data, "text": None}
    assert new(ACCEPT).send(message) == b"\x82\x02ab"
    assert new(ACCEPT).send({"type": "websocket.send", "text": "", "bytes": None}) == b"\x81\x00"


@pytest.mark.spec("ASGI WebSocket 2.5", "Close")
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"code": "1000"}, "int"),
        ({"code": 1006}, "websocket.close: .*1006"),
        ({"code": 0}, "websocket.close"),
        ({"reason": b"x"}, "str"),
    ],
)
def test_a_malformed_close(keys: dict[str, Any], said: str) -> None:
    """A code that may not stand in a frame leaves the websocket open."""
    messages = new(ACCEPT)
    mistake(messages, {**CLOSE, **keys}, said)
    assert messages.send({**CLOSE, "code": None, "reason": None}) == b"\x88\x02\x03\xe8"


def test_the_options_reach_the_framing() -> None:
    """Compression and the limit are those given."""
    head = new(deflate=True).send(ACCEPT)
    assert isinstance(head, bytes)
    assert b"permessage-deflate" in head
    messages = new(ACCEPT)
    assert messages.framing is not None
    (event,) = events_of(messages.framing, [frame(2, bytes(100))])
    assert event[0] == 1009  # type: ignore[index]


# The client leaves.


@pytest.mark.spec("ASGI WebSocket 2.5", "Disconnected Client")
@pytest.mark.parametrize("sent", [[], [ACCEPT], [ACCEPT, SEND], [DENY], [DENY, PART]])
@pytest.mark.parametrize("message", EVERY, ids=[message["type"] for message in EVERY])
def test_what_is_sent_after_the_client_left(
    sent: list[dict[str, Any]], message: dict[str, Any]
) -> None:
    """It raises an OSError that the server knows as its own."""
    messages = new(*sent)
    messages.disconnect()
    assert messages.state == "disconnected"
    for _ in range(2):
        with pytest.raises(ClientDisconnected) as caught:
            messages.send(message)
        assert isinstance(caught.value, OSError)
    assert messages.finish(failed=False) == b""
    assert messages.finish(failed=True) == b""


@pytest.mark.spec("ASGI WebSocket 2.5", "Disconnect")
def test_the_message_of_a_disconnect() -> None:
    """It has code and reason, and is the same for every later call."""
    messages = new(ACCEPT)
    told = {"type": "websocket.disconnect", "code": 1001, "reason": "tab closed"}
    assert messages.disconnect(1001, "tab closed") == told
    assert messages.disconnect() == told
    assert new().disconnect() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}


def test_a_disconnect_after_the_application_closed() -> None:
    """It is told; what is sent then is still the application's mistake."""
    messages = new(ACCEPT, CLOSE)
    assert messages.disconnect(1000)["code"] == 1000
    mistake(messages, SEND, "after")


# The application ends.


@pytest.mark.spec("RFC 6455", "section 7.4.1")
@pytest.mark.parametrize(("failed", "code"), [(False, 1000), (True, 1011)])
def test_an_application_that_leaves_its_websocket_open(failed: bool, code: int) -> None:
    """It is closed: normally if the application returned, with 1011 if it failed."""
    messages = new(ACCEPT)
    ((first, payload),) = frames(messages.finish(failed=failed))
    assert (first, payload) == (0x88, code.to_bytes(2, "big"))
    assert messages.state == "closed"
    assert messages.finish(failed=failed) == b""


@pytest.mark.spec("ASGI WebSocket 2.5", "Connect")
@pytest.mark.parametrize(
    ("sent", "said"), [([], "without accepting"), ([DENY], "ending"), ([DENY, PART], "ending")]
)
def test_an_application_that_leaves_its_client_without_an_answer(
    sent: list[dict[str, Any]], said: str
) -> None:
    """Returning so is its mistake; if it failed, that is told already."""
    with pytest.raises(ApplicationProtocolError, match=f"^shop returned .*{said}") as caught:
        new(*sent).finish(failed=False)
    assert caught.value.clause
    assert new(*sent).finish(failed=True) == b""


@pytest.mark.spec("ASGI WebSocket 2.5", "Receive")
def test_messages_of_the_client() -> None:
    """Text and bytes have their own keys, and only the one that is there."""
    assert received("a") == {"type": "websocket.receive", "text": "a"}
    assert received(b"a") == {"type": "websocket.receive", "bytes": b"a"}
