"""Frames of a client become events, in order and bounded; messages become frames; and both sides close."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from typing import Any

import pytest
from feeding import SENDERS
from hypothesis import example, given
from hypothesis import strategies as st
from websocket_tools import (
    BINARY,
    CLOSE,
    COMPRESSED,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close,
    frame,
    frames,
    received,
)

from bridges.errors import ApplicationProtocolError
from bridges.websocket.deflate import negotiate
from bridges.websocket.framing import Close, Event, Failure, Framing, Ping, Pong

MIB = 1 << 20


def events_of(*pieces: bytes, max_bytes: int = MIB) -> list[Event]:
    """Give what a new websocket makes of the pieces."""
    return received(Framing(max_bytes), pieces)


def failure(code: int, *pieces: bytes, max_bytes: int = MIB) -> None:
    """Check that the pieces fail the connection, and that it is over once the client is told."""
    framing = Framing(max_bytes)
    *_, last = received(framing, pieces)
    assert isinstance(last, Failure)
    assert last.code == code
    assert not framing.over
    ((first, payload),) = frames(framing.close(last.code, last.reason))
    assert first == 0x88
    assert payload == code.to_bytes(2, "big") + last.reason.encode()
    assert last.reason
    assert framing.over


# Messages.


@pytest.mark.spec("RFC 6455", "section 5.6")
@pytest.mark.parametrize(
    "size", [0, 1, 2, 3, 4, 5, 125, 126, 127, 1023, 1024, 1025, 65_535, 65_536, 70_001]
)
def test_messages_of_every_length(size: int, rng: random.Random) -> None:
    """A frame of each of the three forms of length is one message, text or binary."""
    data = rng.randbytes(size)
    text = "".join(rng.choices("aé€😀", k=size // 2)) + "x" * (size % 2)
    wire = frame(BINARY, data) + frame(TEXT, text.encode())
    assert events_of(wire) == [data, text]


@pytest.mark.spec("RFC 6455", "section 5.7")
def test_the_examples_of_the_specification() -> None:
    """The masked Hello of the RFC is Hello, and a fragmented one is too."""
    hello = bytes.fromhex("818537fa213d7f9f4d5158")
    assert events_of(hello) == ["Hello"]
    assert frame(TEXT, b"Hello") == hello
    fragments = frame(TEXT, b"Hel", fin=False) + frame(CONTINUATION, b"lo")
    assert events_of(fragments) == ["Hello"]
    assert Framing(9).send_text("Hello") == bytes.fromhex("810548656c6c6f")


@pytest.mark.spec("RFC 6455", "section 5.4")
@pytest.mark.parametrize("send", SENDERS.values(), ids=SENDERS)
def test_control_frames_between_fragments(send: Any, rng: random.Random) -> None:
    """Pings and pongs within a message are told when they come, and the message stays whole."""
    wire = (
        frame(TEXT, b"\xe2", fin=False)
        + frame(PING, b"1")
        + frame(CONTINUATION, b"\x82", fin=False)
        + frame(PONG, b"2")
        + frame(CONTINUATION, b"", fin=False)
        + frame(CONTINUATION, b"\xac")
        + frame(BINARY, b"", fin=False)
        + frame(CONTINUATION, b"")
    )
    events = events_of(*send(wire, rng))
    assert events == [Ping(b"\x8a\x011"), Pong(b"2"), "€", b""]


@pytest.mark.spec("RFC 6455", "section 5.5.2")
def test_a_pong_has_the_pings_payload() -> None:
    """What answers a ping is a pong frame with the same bytes, the most that may be among them."""
    payload = bytes(range(125))
    (event,) = events_of(frame(PING, payload))
    assert isinstance(event, Ping)
    assert list(frames(event.pong)) == [(0x8A, payload)]


@pytest.mark.spec("RFC 6455", "section 5.6")
@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_messages_are_written_in_one_frame(size: int) -> None:
    """A message goes out in one frame, unmasked, with the shortest form of its length."""
    framing = Framing(9)
    data = bytes(size)
    written = framing.send_bytes(data)
    assert list(frames(written)) == [(0x82, data)]
    assert len(written) == size + (2 if size < 126 else 4 if size < 65_536 else 10)
    text = "é" * (size // 2)
    assert list(frames(framing.send_text(text))) == [(0x81, text.encode())]
    assert list(frames(framing.ping(b"now"))) == [(0x89, b"now")]


@pytest.mark.spec("RFC 6455", "section 5.6")
def test_text_that_utf8_cannot_express() -> None:
    """A lone surrogate is the application's mistake, and the websocket stays open."""
    framing = Framing(9)
    with pytest.raises(ApplicationProtocolError, match=r"UTF-8.*section 5\.6"):
        framing.send_text("\ud800")
    assert framing.send_text("x") == b"\x81\x01x"


@pytest.mark.spec("RFC 6455", "section 5.5")
def test_a_ping_that_is_too_long() -> None:
    """A ping of more than 125 bytes is refused before it is a frame."""
    assert len(Framing(9).ping(bytes(125))) == 127
    with pytest.raises(ValueError, match="125"):
        Framing(9).ping(bytes(126))


def test_events_come_when_they_are_asked_for() -> None:
    """What was received waits, unread, until it is asked for."""
    framing = Framing(9)
    framing.receive_data(frame(TEXT, b"a") + frame(TEXT, b"b"))
    framing.receive_data(frame(TEXT, b"c"))
    assert framing.next_event() == "a"
    framing.receive_data(frame(TEXT, b"d"))
    assert [framing.next_event() for _ in range(4)] == ["b", "c", "d", None]


# What fails.


@pytest.mark.spec("RFC 6455", "section 5.1")
@pytest.mark.parametrize("size", [0, 5, 200, 70_000])
def test_a_frame_without_a_mask(size: int) -> None:
    """A client's frame must be masked."""
    failure(1002, frame(TEXT, bytes(size), key=None))


@pytest.mark.spec("RFC 6455", "section 5.2")
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, CLOSE])
@pytest.mark.parametrize("rsv", [0x40, 0x20, 0x10, 0x70])
def test_reserved_bits(opcode: int, rsv: int) -> None:
    """A bit that no extension gave a meaning fails the connection."""
    failure(1002, frame(opcode, b"", rsv=rsv))


@pytest.mark.spec("RFC 6455", "section 5.2")
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF])
def test_unknown_opcodes(opcode: int) -> None:
    """An opcode that is reserved fails the connection."""
    failure(1002, frame(opcode, b"x"))


@pytest.mark.spec("RFC 6455", "section 5.2")
@pytest.mark.parametrize(
    "head",
    [
        "82fe0000",
        "82fe007d",
        "82ff000000000000ffff",
        "82ff0000000000000001",
        "82ff8000000000000000",
    ],
)
def test_lengths_in_a_wrong_form(head: str) -> None:
    """A length must be in its shortest form, and its highest bit is 0; there is no message of it."""
    failure(1002, bytes.fromhex(head) + bytes(200))
    assert len(events_of(bytes.fromhex(head) + bytes(200))) == 1


@pytest.mark.spec("RFC 6455", "section 5.5")
@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_control_frames_are_short_and_whole(opcode: int) -> None:
    """A control frame has at most 125 bytes and no fragments."""
    failure(1002, frame(opcode, bytes(126)))
    failure(1002, frame(opcode, b"", fin=False))


@pytest.mark.spec("RFC 6455", "section 5.4")
@pytest.mark.parametrize(
    "wire",
    [
        frame(CONTINUATION, b"x"),
        frame(CONTINUATION, b"x", fin=False),
        frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
        frame(TEXT, b"a", fin=False) + frame(BINARY, b"b", fin=False),
        frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b") + frame(CONTINUATION, b"c"),
    ],
)
def test_fragments_out_of_order(wire: bytes) -> None:
    """A message does not begin within another one, nor go on when none has begun."""
    failure(1002, wire)


@pytest.mark.spec("RFC 6455", "section 8.1")
@pytest.mark.parametrize(
    "wire",
    [
        frame(TEXT, b"\xff"),
        frame(TEXT, b"a\xe2\x82"),
        frame(TEXT, b"\xed\xa0\x80"),
        frame(TEXT, b"\xc0\x80" * 40_000),
        frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b""),
        frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"x"),
        close(1000, b"\xff"),
        close(1000, b"\xe2\x82"),
    ],
)
def test_text_that_is_no_utf8(wire: bytes) -> None:
    """Text must be UTF-8, also where it is cut into fragments and in the reason of a close frame."""
    failure(1007, wire)


@pytest.mark.spec("RFC 6455", "section 8.1")
def test_text_that_is_no_utf8_is_told_early() -> None:
    """A wrong byte is told when it comes, not when the message is whole."""
    whole = frame(TEXT, b"abc\xf4\x90" + bytes(1000))
    framing = Framing(MIB)
    assert received(framing, [whole[:11]]) == []
    (event,) = received(framing, [whole[11:13]])
    assert isinstance(event, Failure)
    assert event.code == 1007


@pytest.mark.spec("RFC 6455", "section 7.4.1")
@pytest.mark.parametrize(
    "wire",
    [
        frame(BINARY, bytes(101)),
        frame(TEXT, bytes(101)),
        frame(TEXT, "é".encode() * 51),
        frame(BINARY, bytes(100_000)),
        frame(BINARY, bytes(99), fin=False) + frame(CONTINUATION, bytes(2)),
        b"".join(frame(TEXT, "é".encode(), fin=False) for _ in range(1))
        + b"".join(frame(CONTINUATION, "é".encode(), fin=False) for _ in range(50)),
    ],
)
def test_a_message_that_is_too_large(wire: bytes) -> None:
    """A message of more than max_bytes fails with 1009, however it is cut; one of as many bytes does not."""
    failure(1009, wire, max_bytes=100)
    assert events_of(frame(BINARY, bytes(100)), max_bytes=100) == [bytes(100)]


@pytest.mark.spec("performance.md")
@pytest.mark.parametrize("size", [10, 1000, 1 << 16])
def test_a_frame_of_bytes_is_taken_in_one_piece(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it comes, its mask is undone once; the decoder, which copies each piece several times, sees none."""
    framing = Framing(MIB)
    monkeypatch.delattr("wsproto.frame_protocol.FrameDecoder.process_buffer")
    data = random.Random(size).randbytes(size)
    wire = frame(BINARY, data)
    cuts = [0, size // 3 + 14, size // 2 + 14, len(wire)]
    assert received(framing, [wire[a:b] for a, b in itertools.pairwise(cuts)]) == [data]


@pytest.mark.spec("RFC 6455", "section 7.4.1")
@pytest.mark.parametrize("opcode", [BINARY, TEXT])
@pytest.mark.parametrize(("size", "head"), [(101, 6), (1000, 8), (1 << 16, 14)])
def test_a_large_message_fails_before_it_is_there(opcode: int, size: int, head: int) -> None:
    """What is too large is told as soon as its frame announces it; the rest is not waited for, nor kept."""
    framing = Framing(100)
    wire = frame(opcode, bytes(size))
    assert received(framing, [wire[: head - 1]]) == []
    (event,) = received(framing, [wire[head - 1 : head]])
    assert isinstance(event, Failure)
    assert event.code == 1009
    assert received(framing, [bytes(1000), frame(TEXT, b"x")]) == []


def test_nothing_is_kept_after_the_end() -> None:
    """What came behind the last event is dropped, and what comes later too."""
    for last in (frame(3), close()):
        framing = Framing(100)
        assert len(received(framing, [last + bytes(1000), bytes(1000)])) == 1
        assert not framing._buffer


@pytest.mark.slow
@pytest.mark.spec("RFC 6455", "section 10.4")
def test_fragments_cost_no_more_than_their_bytes() -> None:
    """A message in fragments of two bytes needs little more memory than one in a single frame."""
    piece = frame(CONTINUATION, b"ab", fin=False) * 1000
    framing = Framing(MIB)
    received(framing, [frame(TEXT, b"", fin=False)])
    tracemalloc.start()
    try:
        for _ in range(5):
            assert received(framing, [piece]) == []
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 60_000


def test_messages_before_a_failure_can_be_answered() -> None:
    """The failure is an event behind the others: until it is told to the client, messages may be sent."""
    framing = Framing(MIB)
    framing.receive_data(frame(TEXT, b"first") + frame(3, b""))
    assert framing.next_event() == "first"
    assert framing.send_text("answer")
    assert isinstance(framing.next_event(), Failure)
    assert framing.send_text("last words")
    framing.close(1002)
    with pytest.raises(ApplicationProtocolError, match="close frame"):
        framing.send_text("too late")


# Closing.


@pytest.mark.spec("RFC 6455", "section 5.5.1")
@pytest.mark.parametrize(
    ("wire", "event", "answer"),
    [
        (close(), Close(1005, ""), b"\x88\x00"),
        (close(1000), Close(1000, ""), b"\x88\x02\x03\xe8"),
        (close(4999, "bye é".encode()), Close(4999, "bye é"), b"\x88\x02\x13\x87"),
    ],
)
def test_the_client_closes(wire: bytes, event: Close, answer: bytes) -> None:
    """The client's close frame is the last event; the answer has its code, and then all is over."""
    framing = Framing(MIB)
    assert received(framing, [wire + frame(TEXT, b"ignored"), frame(PING)]) == [event]
    assert not framing.over
    assert framing.close(event.code) == answer
    assert framing.over
    assert framing.close(event.code) == b""


@pytest.mark.spec("RFC 6455", "section 7.1.1")
def test_the_server_closes() -> None:
    """After the server's close frame pings are answered, messages dropped, and the client's close ends all."""
    framing = Framing(MIB)
    received(framing, [frame(TEXT, b"half", fin=False)])
    assert framing.close(1001, "going") == b"\x88\x07\x03\xe9going"
    assert framing.close_sent
    assert not framing.over
    wire = frame(CONTINUATION, b"x") + frame(PING, b"?") + frame(BINARY, b"y") + close(1001)
    assert received(framing, [wire]) == [Ping(b"\x8a\x01?"), Close(1001, "")]
    assert framing.over
    assert framing.close() == b""


@pytest.mark.spec("RFC 6455", "section 7.1.7")
def test_a_failure_after_the_servers_close_frame() -> None:
    """It ends all at once: there is nothing more to be told."""
    framing = Framing(MIB)
    framing.close()
    (event,) = received(framing, [frame(TEXT, b"\xff")])
    assert isinstance(event, Failure)
    assert framing.over


VALID = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
INVALID = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535]


@pytest.mark.spec("RFC 6455", "section 7.4")
@pytest.mark.parametrize("code", VALID)
def test_valid_close_codes(code: int) -> None:
    """The registered codes and those of libraries and applications pass both ways."""
    assert events_of(close(code)) == [Close(code, "")]
    assert Framing(9).close(code) == b"\x88\x02" + code.to_bytes(2, "big")


@pytest.mark.spec("RFC 6455", "section 7.4")
@pytest.mark.parametrize("code", INVALID)
def test_invalid_close_codes(code: int) -> None:
    """Codes that may not stand in a frame fail the connection, as does half a code."""
    failure(1002, close(code))
    failure(1002, frame(CLOSE, b"\x03"))


@pytest.mark.spec("RFC 6455", "section 7.4")
@pytest.mark.parametrize("code", [code for code in INVALID if code != 1005] + [-1, 70_000])
def test_close_codes_that_an_application_may_not_use(code: int) -> None:
    """They are its mistake, and the websocket stays open for a better one."""
    framing = Framing(9)
    with pytest.raises(ApplicationProtocolError, match=f"{code}.*7.4"):
        framing.close(code)
    assert not framing.close_sent
    assert framing.close(1000)


@pytest.mark.spec("RFC 6455", "section 7.1.5")
def test_a_close_frame_without_a_code() -> None:
    """1005 stands for no code, so that the code of a disconnect can be passed on as it is."""
    assert Framing(9).close(1005, "unheard") == b"\x88\x00"


@pytest.mark.spec("RFC 6455", "section 5.5")
@pytest.mark.parametrize(
    ("reason", "sent"), [("x" * 124, b"x" * 123), ("é" * 62, "é".encode() * 61)]
)
def test_a_long_reason_is_cut_between_characters(reason: str, sent: bytes) -> None:
    """A control frame has 125 bytes, two of them the code; the rest of a reason is left out."""
    ((_, payload),) = frames(Framing(9).close(1000, reason))
    assert payload == b"\x03\xe8" + sent


def test_a_reason_that_utf8_cannot_express() -> None:
    """A reason is for people: what cannot be written of it does not stop the close."""
    assert Framing(9).close(1000, "a\udc80b") == b"\x88\x05\x03\xe8a?b"


# Any bytes.

CLIENT_FRAMES = st.lists(
    st.one_of(
        st.builds(
            frame,
            st.sampled_from([TEXT, BINARY, CONTINUATION, PING, PONG]),
            st.binary(max_size=200) | st.text(max_size=60).map(str.encode),
            fin=st.booleans() | st.just(True),
            rsv=st.sampled_from([0, 0, 0, 0, 0, COMPRESSED, 0x20]),
            key=st.binary(min_size=4, max_size=4),
        ),
        st.builds(close, st.sampled_from([None, 1000, 1006, 4000]), st.binary(max_size=5)),
        st.binary(max_size=20),
    ),
    max_size=8,
).map(b"".join)


def _new(compressed: bool) -> Framing:
    agreed = negotiate(["permessage-deflate"], 150) if compressed else None
    return Framing(150, agreed[1] if agreed else None)


@pytest.mark.slow
@pytest.mark.spec("RFC 6455", "section 5.4")
@given(wire=CLIENT_FRAMES, cuts=st.lists(st.integers(0, 400)), compressed=st.booleans())
@example(wire=frame(BINARY, frame(TEXT, b"x"), key=bytes(4)), cuts=[6], compressed=False)
@example(wire=frame(PING, frame(TEXT, b"x"), key=bytes(4)), cuts=[6], compressed=False)
@example(wire=frame(TEXT, b"\xf0\x90\x80") + frame(3), cuts=[2, 3, 8], compressed=False)
@example(
    wire=frame(TEXT, fin=False) + frame(TEXT, bytes(2), rsv=COMPRESSED), cuts=[], compressed=True
)
def test_any_split_gives_the_same_events(wire: bytes, cuts: list[int], compressed: bool) -> None:
    """How the network cuts the bytes changes nothing of what they mean."""
    whole = received(_new(compressed), [wire])
    assert received(_new(compressed), [wire[i : i + 1] for i in range(len(wire))]) == whole
    places = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    pieces = [wire[a:b] for a, b in itertools.pairwise(places)]
    assert received(_new(compressed), pieces) == whole


@pytest.mark.slow
@pytest.mark.spec("RFC 6455", "section 7.1.7")
@given(wire=CLIENT_FRAMES, compressed=st.booleans())
def test_any_bytes_give_events_or_one_end(wire: bytes, compressed: bool) -> None:
    """Nothing raises; after the last event there is none, and closing ends it."""
    framing = _new(compressed)
    events = received(framing, [wire, frame(TEXT, b"more"), wire])
    ends = [event for event in events if isinstance(event, Close | Failure)]
    assert ends == ([events[-1]] if framing.deaf else [])
    for event in events:
        if isinstance(event, str | bytes):
            assert len(event.encode() if isinstance(event, str) else event) <= 150
    if ends:
        assert list(frames(framing.close(*ends[0])))
        assert framing.over
