"""The framing against a client written by others: the protocol of the ``websockets`` library, without a network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websocket_tools import received
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from bridges.websocket.framing import Close, Framing, Ping, Pong
from bridges.websocket.handshake import handshake

MESSAGES = st.lists(
    st.text(max_size=300)
    | st.binary(max_size=300)
    | st.tuples(st.integers(0, 70_000), st.binary(min_size=1, max_size=3)).map(
        lambda pair: pair[1] * (pair[0] // len(pair[1]))
    ),
    max_size=6,
)


def connected(deflate: ClientPerMessageDeflateFactory | None) -> tuple[ClientProtocol, Framing]:
    """Give both sides after their handshake, with a subprotocol."""
    client = ClientProtocol(
        parse_uri("ws://127.0.0.1/chat"),
        extensions=[deflate] if deflate else None,
        subprotocols=["superchat", "chat"],  # type: ignore[list-item]
        max_size=None,
    )
    request = client.connect()
    client.send_request(request)
    client.data_to_send()
    fields = [
        (name.lower().encode(), value.encode()) for name, value in request.headers.raw_items()
    ]
    asked = handshake("GET", "1.1", fields)
    assert asked.subprotocols == ["superchat", "chat"]
    head, framing = asked.accept("chat", [(b"x-a", b"b")], max_bytes=1 << 20, deflate=True)
    client.receive_data(head)
    (response,) = client.events_received()
    assert isinstance(response, Response)
    assert client.handshake_exc is None
    assert client.state is OPEN
    assert client.subprotocol == "chat"
    assert bool(client.extensions) is bool(deflate)
    return client, framing


def heard(client: ClientProtocol, written: bytes) -> list[str | bytes]:
    """Give the messages that the client hears."""
    client.receive_data(written)
    assert client.parser_exc is None
    return [
        event.data.decode() if event.opcode is Opcode.TEXT else event.data
        for event in client.events_received()
        if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY)
    ]


DEFLATES = {
    "plain": None,
    "deflate": ClientPerMessageDeflateFactory(client_max_window_bits=True),
    "deflate without context": ClientPerMessageDeflateFactory(
        server_no_context_takeover=True, client_no_context_takeover=True
    ),
    "deflate with small windows": ClientPerMessageDeflateFactory(
        server_max_window_bits=9, client_max_window_bits=9
    ),
    "deflate with large windows": ClientPerMessageDeflateFactory(server_max_window_bits=15),
}


@pytest.mark.slow
@pytest.mark.spec("RFC 6455", "section 5.6")
@pytest.mark.spec("RFC 7692", "section 7.2")
@pytest.mark.parametrize("deflate", DEFLATES.values(), ids=DEFLATES)
@given(messages=MESSAGES, fragments=st.booleans())
def test_messages_go_there_and_back(
    deflate: ClientPerMessageDeflateFactory | None, messages: list[str | bytes], fragments: bool
) -> None:
    """What the client sends, whole or in fragments, is what the server gets, and the same the other way."""
    client, framing = connected(deflate)
    for message in messages:
        is_text = isinstance(message, str)
        data = message.encode() if isinstance(message, str) else message
        send = client.send_text if is_text else client.send_binary
        if fragments:
            send(data[:50], fin=False)
            client.send_continuation(data[50:], fin=True)
        else:
            send(data)
    assert received(framing, client.data_to_send()) == messages
    written = b"".join(
        framing.send_text(message) if isinstance(message, str) else framing.send_bytes(message)
        for message in messages
    )
    assert heard(client, written) == messages


@pytest.mark.spec("RFC 6455", "section 5.5.2")
@pytest.mark.spec("RFC 6455", "section 7.1.1")
@pytest.mark.parametrize("first", ["client", "server"])
def test_pings_and_the_end(first: str) -> None:
    """Both sides answer pings, and close, whoever begins."""
    client, framing = connected(None)
    client.send_ping(b"1")
    (ping,) = received(framing, client.data_to_send())
    assert isinstance(ping, Ping)
    client.receive_data(ping.pong)
    (pong,) = client.events_received()
    assert (pong.opcode, pong.data) == (Opcode.PONG, b"1")  # type: ignore[union-attr]
    client.receive_data(framing.ping(b"2"))
    assert received(framing, client.data_to_send()) == [Pong(b"2")]
    if first == "client":
        client.send_close(4001, "bye")
        assert received(framing, client.data_to_send()) == [Close(4001, "bye")]
        client.receive_data(framing.close(4001))
    else:
        client.receive_data(framing.close(4001, "bye"))
        assert received(framing, client.data_to_send()) == [Close(4001, "bye")]
    assert framing.over
    assert client.parser_exc is None
    assert client.close_rcvd is not None
    assert client.close_rcvd.code == 4001
