"""Compression: which offers are met and how, what inflates, what must not, and how much memory it may take."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from collections.abc import Iterable
from typing import Any

import pytest
from feeding import SENDERS
from websocket_tools import (
    BINARY,
    CLOSE,
    COMPRESSED,
    CONTINUATION,
    PING,
    TEXT,
    frame,
    frames,
    received,
)

from bridges.errors import PeerProtocolError
from bridges.websocket.deflate import LEAST_BYTES, extensions_from_fields, negotiate
from bridges.websocket.framing import Event, Failure, Framing, Ping

MIB = 1 << 20
TAIL = b"\x00\x00\xff\xff"


class Client:
    """The client's side of the compression, by zlib alone."""

    def __init__(self, bits: int = 15) -> None:
        self._deflater = zlib.compressobj(wbits=-bits)
        self._inflater = zlib.decompressobj(-15)

    def deflate(self, data: bytes) -> bytes:
        deflated = self._deflater.compress(data) + self._deflater.flush(zlib.Z_SYNC_FLUSH)
        assert deflated.endswith(TAIL)
        return deflated[:-4]

    def inflate(self, data: bytes) -> bytes:
        return self._inflater.decompress(data + TAIL)


def framing_for(offer: str = "permessage-deflate", max_bytes: int = MIB) -> Framing:
    """Give a websocket whose messages are compressed as the offer says."""
    agreed = negotiate([offer], max_bytes)
    assert agreed is not None
    return Framing(max_bytes, agreed[1])


def failure(code: int, pieces: Iterable[bytes], max_bytes: int = MIB) -> None:
    """Check that the pieces fail the connection."""
    *_, last = received(framing_for(max_bytes=max_bytes), pieces)
    assert isinstance(last, Failure)
    assert last.code == code


# Negotiation.


@pytest.mark.spec("RFC 7692", "section 7.1")
@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        (["permessage-deflate"], "permessage-deflate"),
        (
            ["permessage-deflate; client_max_window_bits"],
            "permessage-deflate; client_max_window_bits=12",
        ),
        (
            ["permessage-deflate; client_max_window_bits=10; server_max_window_bits=15"],
            "permessage-deflate; client_max_window_bits=10; server_max_window_bits=12",
        ),
        (
            ["permessage-deflate; server_max_window_bits=9"],
            "permessage-deflate; server_max_window_bits=9",
        ),
        (
            ["permessage-deflate; server_no_context_takeover; client_no_context_takeover"],
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
        ),
        # The first that can be met, without a trace of those before it.
        (["x-webkit-deflate-frame", "permessage-deflate"], "permessage-deflate"),
        (
            [
                "permessage-deflate; client_no_context_takeover; server_max_window_bits=8",
                "permessage-deflate; client_max_window_bits=9; client_max_window_bits=9",
                "permessage-deflate",
                "permessage-deflate; server_no_context_takeover",
            ],
            "permessage-deflate",
        ),
    ],
)
def test_offers_that_are_met(offers: list[str], answer: str) -> None:
    """The answer repeats what binds, with windows no larger than 4 KiB where the client lets the server choose."""
    agreed = negotiate(offers, MIB)
    assert agreed is not None
    assert agreed[0] == answer


@pytest.mark.spec("RFC 7692", "section 7.1")
@pytest.mark.parametrize(
    "parameters",
    [
        "unknown",
        "server_max_window_bits",
        "server_max_window_bits=8",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=010",
        "server_max_window_bits=x",
        "client_max_window_bits=8",
        "client_max_window_bits=99",
        "client_max_window_bits=+9",
        "client_no_context_takeover=1",
        "server_no_context_takeoverx",
        "server_no_context_takeover; server_no_context_takeover",
    ],
)
def test_offers_that_are_declined(parameters: str) -> None:
    """Unknown, repeated and malformed parameters decline an offer, and windows that zlib does not have."""
    assert negotiate([f"permessage-deflate; {parameters}"], MIB) is None


def test_no_offer() -> None:
    """Without an offer there is no compression."""
    assert negotiate([], MIB) is None
    assert negotiate(["permessage-bzip2"], MIB) is None


@pytest.mark.spec("RFC 6455", "section 9.1")
@pytest.mark.parametrize(
    ("values", "offers"),
    [
        ([], []),
        ([b""], []),
        ([b"a", b"b , c"], ["a", "b", "c"]),
        ([b" , a ;b= c; d ,,"], ["a; b=c; d"]),
        ([b'a; b="10"; c="x-y", d'], ["a; b=10; c=x-y", "d"]),
    ],
)
def test_extensions_that_are_well_formed(values: list[bytes], offers: list[str]) -> None:
    """Fields are joined, blanks and quotes taken away."""
    assert extensions_from_fields(values) == offers


@pytest.mark.spec("RFC 6455", "section 9.1")
@pytest.mark.parametrize(
    "value",
    [
        b";",
        b"a;",
        b"a; b=",
        b"a; =b",
        b"a b",
        b'a; b="x',
        b'a; b="x, permessage-deflate"',
        b'a; b="x y"',
        b'a; b=""',
        b"a; b=c=d",
        b"caf\xe9",
        b"a\x00",
    ],
)
def test_extensions_that_are_malformed(value: bytes) -> None:
    """A broken grammar fails the handshake; what is quoted must be a token, so that no comma hides in it."""
    with pytest.raises(PeerProtocolError, match=r"malformed.*section 9\.1") as caught:
        extensions_from_fields([b"ok", value])
    assert caught.value.status_hint == 400


def test_extensions_are_read_in_linear_time() -> None:
    """Quotes without an end are not looked for again and again."""
    with pytest.raises(PeerProtocolError):
        extensions_from_fields([b'"\\' * 500_000])


# From the client.


@pytest.mark.spec("RFC 7692", "section 7.2.3")
@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ("f248cdc9c90700", "Hello"),
        ("000500faff48656c6c6f00", "Hello"),
        ("f348cdc9c9070000", "Hello"),
        ("f24805000000ffffcac9c90700", "Hello"),
        ("00", ""),
        ("0300", ""),
    ],
)
def test_the_examples_of_the_specification(payload: str, text: str) -> None:
    """Blocks of every kind inflate, a last one too, whole and byte by byte; and so does what follows."""
    wire = frame(TEXT, bytes.fromhex(payload), rsv=COMPRESSED)
    following = frame(TEXT, bytes.fromhex("f248cdc9c90700"), rsv=COMPRESSED)
    for pieces in ([wire + following], [bytes([byte]) for byte in wire + following]):
        assert received(framing_for(), pieces) == [text, "Hello"]


@pytest.mark.spec("RFC 7692", "section 7.2.3.2")
def test_the_window_spans_messages() -> None:
    """A message may refer to the one before it."""
    wire = frame(TEXT, bytes.fromhex("f248cdc9c90700"), rsv=COMPRESSED)
    again = frame(TEXT, bytes.fromhex("f200110000"), rsv=COMPRESSED)
    assert received(framing_for(), [wire + again]) == ["Hello", "Hello"]
    failing = framing_for("permessage-deflate; client_no_context_takeover")
    first, second = received(failing, [wire + again])
    assert first == "Hello"
    assert isinstance(second, Failure)
    assert second.code == 1007


@pytest.mark.spec("RFC 7692", "section 7.1.2.2")
def test_a_client_that_cannot_be_told_keeps_a_large_window(rng: random.Random) -> None:
    """Without client_max_window_bits in the offer a client may refer 32 KiB back."""
    far = rng.randbytes(30_000)
    client = Client(15)
    wire = b"".join(frame(BINARY, client.deflate(data), rsv=COMPRESSED) for data in (far, far[:99]))
    assert received(framing_for(), [wire]) == [far, far[:99]]


@pytest.mark.spec("RFC 7692", "section 7.2.2")
@pytest.mark.parametrize("send", SENDERS.values(), ids=SENDERS)
def test_fragments_with_a_ping_between(send: Any, rng: random.Random) -> None:
    """A compressed message stays one when control frames come within it, and plain ones may come between."""
    text = "a compressed message, " * 30
    client = Client()
    deflated = client.deflate(text.encode())
    wire = (
        frame(TEXT, b"plain")
        + frame(PING, b"0")
        + frame(TEXT, deflated[:7], fin=False, rsv=COMPRESSED)
        + frame(PING, b"1")
        + frame(CONTINUATION, deflated[7:20], fin=False)
        + frame(PING, b"2")
        + frame(CONTINUATION, deflated[20:])
        + frame(TEXT, b"plain", fin=False)
        + frame(CONTINUATION, b" too")
        + frame(BINARY, client.deflate(b"last"), rsv=COMPRESSED)
    )
    pings: list[Event] = [Ping(b"\x8a\x01%d" % i) for i in range(3)]
    expected = ["plain", *pings, text, "plain too", b"last"]
    assert received(framing_for(), send(wire, rng)) == expected


@pytest.mark.spec("RFC 7692", "section 6.1")
@pytest.mark.parametrize(
    "wire",
    [
        frame(CONTINUATION, b"x", rsv=COMPRESSED),
        frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", rsv=COMPRESSED),
        frame(PING, b"", rsv=COMPRESSED),
        frame(CLOSE, b"", rsv=COMPRESSED),
        frame(TEXT, b"", rsv=0x20),
        frame(TEXT, b"", rsv=COMPRESSED | 0x10),
    ],
)
def test_the_bit_where_it_means_nothing(wire: bytes) -> None:
    """Only the first frame of a message may have it, and the other bits stay reserved."""
    failure(1002, [wire])


@pytest.mark.spec("RFC 7692", "section 8")
@pytest.mark.parametrize(
    "payload",
    [
        b"\xff" * 9,
        b"\x03\x00" * 6,
        b"\xf3\x48\xcd\xc9\xc9\x07\x00" + b"x" * 200,
        b"\x03\x00\x01",
        zlib.compress(b"with zlib's head"),
    ],
)
def test_data_that_does_not_inflate(payload: bytes) -> None:
    """Malformed data fails with 1007, as does data behind a last block."""
    wire = frame(BINARY, payload, rsv=COMPRESSED)
    failure(1007, [wire])
    failure(1007, [bytes([byte]) for byte in wire])


def test_data_behind_a_last_block_is_not_collected() -> None:
    """It fails when it comes, not at the end of the frame, however large that is."""
    wire = frame(BINARY, b"\x03\x00" + bytes(50_000), rsv=COMPRESSED)
    failure(1007, [wire[:100]])


def test_text_that_inflates_to_no_utf8() -> None:
    """What inflates is checked as what came plain."""
    failure(1007, [frame(TEXT, Client().deflate(b"\xff"), rsv=COMPRESSED)])


@pytest.mark.spec("RFC 6455", "section 10.4")
@pytest.mark.parametrize("cut", [False, True])
def test_a_bomb_fails_within_bounded_memory(cut: bool) -> None:
    """20 MiB in 20 KB of a frame fail with 1009 at max_bytes; never much more than that is inflated."""
    bomb = Client().deflate(bytes(20 * MIB))
    assert len(bomb) < 30_000
    if cut:
        wire = frame(BINARY, bomb[:10], fin=False, rsv=COMPRESSED) + frame(CONTINUATION, bomb[10:])
    else:
        wire = frame(BINARY, bomb, rsv=COMPRESSED)
    tracemalloc.start()
    try:
        failure(1009, [wire], max_bytes=100_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.spec("RFC 6455", "section 10.4")
def test_the_largest_message_passes() -> None:
    """One of max_bytes inflates, one of a byte more does not, and a plain one is measured too."""
    largest = frame(BINARY, Client().deflate(bytes(5000)), rsv=COMPRESSED)
    assert received(framing_for(max_bytes=5000), [largest] * 2) == [bytes(5000)] * 2
    failure(1009, [frame(BINARY, Client().deflate(bytes(5001)), rsv=COMPRESSED)], max_bytes=5000)
    failure(1009, [frame(BINARY, bytes(5001))], max_bytes=5000)


@pytest.mark.spec("RFC 6455", "section 10.4")
def test_bombs_in_one_piece_inflate_one_by_one() -> None:
    """Many large messages that came at once are inflated when they are asked for, not before."""
    client = Client()
    framing = framing_for(max_bytes=MIB)
    framing.receive_data(
        b"".join(frame(BINARY, client.deflate(bytes(MIB)), rsv=COMPRESSED) for _ in range(9))
    )
    tracemalloc.start()
    try:
        for _ in range(9):
            event = framing.next_event()
            assert isinstance(event, bytes)
            assert len(event) == MIB
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * MIB


# To the client.


@pytest.mark.spec("RFC 7692", "section 7.2.1")
@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate",
        "permessage-deflate; server_no_context_takeover",
        "permessage-deflate; server_max_window_bits=9",
    ],
)
def test_messages_are_deflated(offer: str) -> None:
    """Large ones are, with the window as agreed, and small ones, the empty one too, are sent as they are."""
    framing = framing_for(offer)
    client = Client()
    large = "0123456789" * 30
    for text in (large, "", "small", large, "x" * LEAST_BYTES, "x" * (LEAST_BYTES - 1), ""):
        ((first, payload),) = frames(framing.send_text(text))
        is_large = len(text) >= LEAST_BYTES
        assert first == (0xC1 if is_large else 0x81)
        assert (client.inflate(payload) if is_large else payload) == text.encode()
        assert not is_large or len(payload) < 40


@pytest.mark.spec("RFC 7692", "section 7.1.1.1")
def test_the_servers_context() -> None:
    """A repeated message shrinks by referring to the one before it, unless the client asked for none of that."""
    text = "".join(chr(33 + i % 90) for i in range(400))
    sizes = {}
    for offer in ("permessage-deflate", "permessage-deflate; server_no_context_takeover"):
        framing = framing_for(offer)
        sizes[offer] = [len(framing.send_text(text)) for _ in range(2)]
    with_context, without = sizes.values()
    assert with_context[1] < with_context[0] / 3
    assert without[1] == without[0]


@pytest.mark.spec("RFC 7692", "section 7.1.2.1")
@pytest.mark.parametrize(("offer", "bits"), [("", 12), ("; server_max_window_bits=9", 9)])
def test_the_servers_window(offer: str, bits: int, rng: random.Random) -> None:
    """A client with a window of the agreed size inflates everything."""
    framing = framing_for(f"permessage-deflate{offer}")
    inflater = zlib.decompressobj(-bits)
    data = rng.randbytes(3000) * 20
    for _ in range(3):
        ((_, payload),) = frames(framing.send_bytes(data))
        assert inflater.decompress(payload + TAIL) == data
