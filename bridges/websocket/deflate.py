"""Compression of messages by permessage-deflate: its negotiation, and both directions, with bounded memory.

Source: RFC 7692; RFC 6455 section 9.1 for the header field.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import Any, Final

from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import (
    CloseReason,
    FrameDecoder,
    FrameProtocol,
    Opcode,
    ParseFailed,
    RsvBits,
)

from ..errors import PeerProtocolError

# zlib's default, a window of 32 KiB and as much again for its tables, costs 300 KB for each connection; these two
# cost 40 KB and lose little on messages of some KiB.
_WINDOW_BITS: Final = 12
_MEMORY_LEVEL: Final = 5

# Smaller messages go out as they are: less would be saved than a packet costs anyway. An empty one must: zlib
# flushes nothing where nothing was added, which no receiver can undo (RFC 7692 section 7.2.3.6).
LEAST_BYTES: Final = 256

# RFC 7692 section 7.2.1: what the sender cuts off its data and the receiver puts back.
_TAIL: Final = b"\x00\x00\xff\xff"

# What may follow a last block: an empty one, whose end the sender cut off (RFC 7692 section 7.2.3.4).
_AFTER_THE_END: Final = b"\x00" + _TAIL

_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED_TOKEN: Final = re.compile(f'"({_TOKEN})"')
_NAME: Final = re.compile(_TOKEN).fullmatch
_BITS: Final = "(?:[89]|1[0-5])"
_PARAMETER: Final = re.compile(
    "(?:server|client)_no_context_takeover"
    f"|server_max_window_bits={_BITS}|client_max_window_bits(?:={_BITS})?"
).fullmatch

_EXTENSIONS_CLAUSE: Final = "RFC 6455 section 9.1"


class Deflate(PerMessageDeflate):
    """The compression of one connection, server's side.

    wsproto's own inflates a piece without a limit, takes the second half of a compressed message for plain when a
    ping came between, and gives empty messages once a client has sent a last block.
    """

    def __init__(self, max_bytes: int) -> None:
        """Prepare it for ``accept``.

        Args:
            max_bytes: of one message, inflated.
        """
        super().__init__(server_max_window_bits=_WINDOW_BITS)
        self._max_bytes = max_bytes
        self._room = max_bytes
        self._is_control = False
        self._inflating = False
        self._inflater: Any = None
        self._deflater: Any = None

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,
    ) -> RsvBits:
        """Take the head of a frame: the first one of a message says whether it is compressed."""
        self._is_control = opcode.iscontrol()
        if rsv.rsv1 and (self._is_control or opcode is Opcode.CONTINUATION):
            raise ParseFailed("only the first frame of a message may say that it is compressed")
        if not self._is_control and opcode is not Opcode.CONTINUATION:
            self._inflating = rsv.rsv1
        return RsvBits(True, False, False)

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes:
        """Inflate a piece of a message."""
        return self._inflate(data) if self._inflating and not self._is_control else data

    def frame_inbound_complete(
        self, proto: FrameDecoder | FrameProtocol, fin: bool
    ) -> bytes | None:
        """End a frame, and with the last one the message."""
        if not fin or self._is_control or not self._inflating:
            return None
        return self._end_inflating()

    def inflate(self, payload: bytes) -> bytes:
        """Inflate a whole message.

        Raises:
            ParseFailed: it is malformed (1007), or larger than allowed (1009).
        """
        return self._inflate(payload) + self._end_inflating()

    def deflate(self, payload: bytes) -> bytes:
        """Deflate a whole message, which must not be empty."""
        deflater = self._deflater
        if deflater is None:
            deflater = self._deflater = zlib.compressobj(
                zlib.Z_DEFAULT_COMPRESSION,
                zlib.DEFLATED,
                -self.server_max_window_bits,
                _MEMORY_LEVEL,
            )
        data: bytes = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
        if self.server_no_context_takeover:
            self._deflater = None
        return data[: -len(_TAIL)]

    def _inflate(self, data: bytes) -> bytes:
        inflater = self._inflater
        if inflater is None:
            inflater = self._inflater = zlib.decompressobj(-self.client_max_window_bits)
        try:
            # One byte more than there may be tells a message that is too large, and costs no more memory.
            inflated: bytes = inflater.decompress(data, self._room + 1)
        except zlib.error:
            raise _corrupt() from None
        self._room -= len(inflated)
        if self._room < 0:
            raise ParseFailed(
                f"the message is larger than {self._max_bytes} bytes", CloseReason.MESSAGE_TOO_BIG
            )
        if inflater.eof and len(inflater.unused_data) > len(_AFTER_THE_END):
            raise _corrupt()
        return inflated

    def _end_inflating(self) -> bytes:
        inflated = self._inflate(_TAIL)
        if self._inflater.eof and self._inflater.unused_data not in (_TAIL, _AFTER_THE_END):
            raise _corrupt()
        if self._inflater.eof or self.client_no_context_takeover:
            self._inflater = None
        self._room = self._max_bytes
        return inflated


def extensions_from_fields(values: Iterable[bytes]) -> list[str]:
    """Read the extensions that a client offers.

    Args:
        values: of its Sec-WebSocket-Extensions fields.

    Returns:
        Each offer as ``name; parameter; parameter=value``, without quotes.

    Raises:
        PeerProtocolError: the grammar is broken, which must fail the handshake; hint 400.

    Source:
        RFC 6455 section 9.1: what is quoted must be a token too, so that no comma can hide in it.
    """
    offers: list[str] = []
    for value in values:
        for offer in _QUOTED_TOKEN.sub(r"\1", value.decode("latin-1")).split(","):
            words = [_word(word, offer) for word in offer.split(";")] if offer.strip() else []
            if words:
                offers.append("; ".join(words))
    return offers


def negotiate(offers: Iterable[str], max_bytes: int) -> tuple[str, Deflate] | None:
    """Accept the first offer of permessage-deflate that can be met.

    Args:
        offers: as ``extensions_from_fields`` gives them.
        max_bytes: of one message, inflated.

    Returns:
        The answer for the Sec-WebSocket-Extensions field and the compression, or None.

    Source:
        RFC 7692 sections 5.1 and 7.1. A client that can be told to keep to a smaller window is.
    """
    for offer in offers:
        name, *parameters = offer.split("; ")
        if name != Deflate.name or not _can_be_met(parameters):
            continue
        deflate = Deflate(max_bytes)  # a new one each time: what an offer says sticks to it
        answer = deflate.accept("; ".join([name, *map(_with_small_window, parameters)]))
        if isinstance(answer, str):
            return "; ".join([name, answer] if answer else [name]), deflate
    return None


def _can_be_met(parameters: list[str]) -> bool:
    names = {parameter.partition("=")[0] for parameter in parameters}
    return len(names) == len(parameters) and all(map(_PARAMETER, parameters))


def _with_small_window(parameter: str) -> str:
    name, _, bits = parameter.partition("=")
    if not name.endswith("_max_window_bits"):
        return parameter
    return f"{name}={min(int(bits or _WINDOW_BITS), _WINDOW_BITS)}"


def _word(word: str, offer: str) -> str:
    name, equals, value = (part.strip(" \t") for part in word.partition("="))
    if not _NAME(name) or (equals and not _NAME(value)):
        raise PeerProtocolError(
            f"Sec-WebSocket-Extensions is malformed: {offer!r:.80}", _EXTENSIONS_CLAUSE
        )
    return f"{name}={value}" if equals else name


def _corrupt() -> ParseFailed:
    return ParseFailed("the compressed data is malformed", CloseReason.INVALID_FRAME_PAYLOAD_DATA)
