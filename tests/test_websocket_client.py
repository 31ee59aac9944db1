"""The client's side towards an application in this process: the opening, frames of the application, frames for it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websocket_tools import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from wsproto.utilities import generate_accept_token

from bridges.errors import ApplicationProtocolError
from bridges.websocket.client import KEY, ClientFraming, read_opening, request_fields
from bridges.websocket.frames import Close, Event, Failure, Ping, Pong
from bridges.websocket.framing import Framing

OPENING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + generate_accept_token(KEY) + b"\r\n"
)


def events_of(pieces: Iterable[bytes]) -> list[Event]:
    framing, events = ClientFraming(), []
    for piece in pieces:
        framing.receive_data(piece)
        while (event := framing.next_event()) is not None:
            events.append(event)
    return events


def unmasked(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Give a frame as a server writes it."""
    return frame(opcode, payload, fin=fin, rsv=rsv, key=None)


# The opening.


@pytest.mark.spec("RFC 6455", "section 4.1")
def test_the_request_has_the_fields_of_a_client_and_none_of_another_hop() -> None:
    """What the server left of the client's handshake is replaced; everything else stays."""
    fields = request_fields(
        [(b"host", b"a"), (b"Sec-WebSocket-Extensions", b"permessage-deflate"), (b"upgrade", b"x")],
        ["chat", "v2"],
    )
    assert fields == [
        (b"host", b"a"),
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-key", KEY),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-protocol", b"chat, v2"),
    ]
    assert b"sec-websocket-protocol" not in dict(request_fields([], []))


@pytest.mark.spec("RFC 6455", "section 4.2.2")
def test_the_response_tells_subprotocol_and_headers() -> None:
    """Names are taken in any case; fields of the handshake stay with the server that makes its own."""
    head = OPENING + b"SEC-WEBSOCKET-PROTOCOL: chat\r\nSet-Cookie: a=1\r\nset-cookie:b=2\r\n\r\n"
    opening = read_opening(head, KEY, ["chat"], "the app")
    assert opening == ("chat", [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])
    assert read_opening(OPENING + b"\r\n", KEY, [], "the app") == (None, [])


@pytest.mark.spec("RFC 6455", "section 4.1")
@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "something else than a 101"),
        (OPENING.replace(b"=", b"x") + b"\r\n", "Sec-WebSocket-Accept"),
        (OPENING + OPENING.split(b"\r\n")[3] + b"\r\n\r\n", "Sec-WebSocket-Accept"),
        (OPENING + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "extension"),
        (OPENING + b"Sec-WebSocket-Protocol: other\r\n\r\n", "subprotocol"),
        (OPENING + b"Sec-WebSocket-Protocol: chat\r\n" * 2 + b"\r\n", "subprotocol"),
        (OPENING + b"no field\r\n\r\n", "malformed header"),
        (OPENING + b"X-A: b\rSet-Cookie: c=d\r\n\r\n", "malformed header"),
        (OPENING + b"X-A: b\0c\r\n\r\n", "malformed header"),
    ],
)
def test_a_response_that_a_client_must_refuse_is_the_applications_mistake(
    head: bytes, sentence: str
) -> None:
    """The error names the application and what it wrote."""
    with pytest.raises(ApplicationProtocolError, match=f"the app .*{sentence}"):
        read_opening(head, KEY, ["chat"], "the app")


# Frames of the application.


@pytest.mark.spec("RFC 6455", "section 5.2")
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_messages_of_every_length(size: int) -> None:
    """A frame of each of the three forms of length is one message, text or binary."""
    data = b"x" * size
    assert events_of([unmasked(BINARY, data) + unmasked(TEXT, data)]) == [data, data.decode()]


MESSAGES = st.one_of(st.text(), st.binary(), st.binary(min_size=120, max_size=70_000))


@pytest.mark.spec("RFC 6455", "section 5.4")
@given(st.lists(st.tuples(MESSAGES, st.integers(1, 4), st.booleans()), max_size=6), st.data())
def test_messages_are_joined_however_they_are_cut(
    messages: list[tuple[str | bytes, int, bool]], data: st.DataObject
) -> None:
    """In fragments, with pings between them, in pieces of any size: the messages are the same, and in order."""
    wire, expected = b"", []
    for message, parts, pinged in messages:
        payload = message.encode() if isinstance(message, str) else message
        step = max(1, -(-len(payload) // parts))
        pieces = [payload[i : i + step] for i in range(0, len(payload), step)] or [b""]
        for number, piece in enumerate(pieces):
            opcode = CONTINUATION if number else TEXT if isinstance(message, str) else BINARY
            wire += unmasked(opcode, piece, fin=number == len(pieces) - 1)
            if pinged and number < len(pieces) - 1:
                wire += unmasked(PONG, b"p")
                expected.append(Pong(b"p"))
        expected.append(message)
    size = data.draw(st.integers(1, 5000) if len(wire) > 3000 else st.integers(1, 50))
    assert events_of(wire[i : i + size] for i in range(0, len(wire), size)) == expected


@pytest.mark.spec("RFC 6455", "section 5.3")
@given(MESSAGES)
def test_what_is_sent_is_what_a_server_reads(message: str | bytes) -> None:
    """A server's side takes frames, pongs and the close as a client's: all of them are masked."""
    client, server = ClientFraming(), Framing(1 << 20)
    client.receive_data(server.ping(b"now"))
    ping = client.next_event()
    assert isinstance(ping, Ping)
    server.receive_data(client.message(message) + ping.pong + client.close(4001, "bye"))
    assert [server.next_event() for _ in range(3)] == [message, Pong(b"now"), Close(4001, "bye")]


@pytest.mark.spec("RFC 6455", "section 7")
def test_the_close_frame_is_given_once_and_only_with_a_code_that_may_stand_in_it() -> None:
    """1005 stands for none, and nothing stands for 1006: the connection just ends."""
    assert ClientFraming().close(1006) == ClientFraming().close(1015) == b""
    assert ClientFraming().close(1005) == frame(CLOSE, key=b"\0" * 4)
    framing = ClientFraming()
    assert framing.close(1000)
    assert framing.close(1000) == b""


@pytest.mark.spec("RFC 6455", "section 7.1.5")
def test_the_applications_close_is_the_last_event() -> None:
    """What comes behind it is not looked at."""
    wire = unmasked(CLOSE, b"\x0f\xa1bye") + unmasked(TEXT, b"late")
    assert events_of([wire, unmasked(TEXT, b"later")]) == [Close(4001, "bye")]
    assert events_of([unmasked(CLOSE)]) == [Close(1005, "")]


@pytest.mark.spec("RFC 6455", "section 5")
@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(TEXT, b"masked"), 1002),
        (unmasked(TEXT, b"x", rsv=0x40), 1002),
        (unmasked(0x3), 1002),
        (unmasked(0xB), 1002),
        (unmasked(PING, b"x", fin=False), 1002),
        (unmasked(PING, b"x" * 126), 1002),
        (unmasked(CONTINUATION, b"x"), 1002),
        (unmasked(TEXT, b"x", fin=False) + unmasked(TEXT, b"y"), 1002),
        (unmasked(CLOSE, b"\x03"), 1002),
        (unmasked(CLOSE, b"\x03\xed"), 1002),
        (unmasked(TEXT, b"\xff"), 1007),
        (unmasked(TEXT, b"\xff", fin=False) + unmasked(CONTINUATION), 1007),
        (unmasked(CLOSE, b"\x03\xe8\xff"), 1007),
    ],
)
def test_bad_frames_are_the_end(wire: bytes, code: int) -> None:
    """A failure with a code and a reason; nothing after it is looked at."""
    *before, last = events_of([wire, unmasked(TEXT, b"late")])
    assert before == []
    assert isinstance(last, Failure)
    assert last.code == code
    assert last.reason


@given(st.binary(max_size=300))
def test_any_bytes_are_events_or_a_failure(wire: bytes) -> None:
    """Nothing else than the documented events comes of garbage, and a failure or a close only as the last one."""
    events = events_of([wire])
    assert not any(isinstance(event, Close | Failure) for event in events[:-1])
    assert events == events_of([wire[i : i + 1] for i in range(len(wire))])
