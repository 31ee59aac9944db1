"""The frames of one websocket, server's side: bytes of the client in, events out; messages in, bytes to write out.

Nothing here waits, writes or reads a clock, and nothing is locked: one thread or loop at a time drives it.

Source: RFC 6455 sections 5 to 7.
"""

from __future__ import annotations

import codecs
from typing import Final

from wsproto.frame_protocol import CloseReason, Frame, Opcode, ParseFailed

from ..errors import ApplicationProtocolError
from .deflate import LEAST_BYTES, Deflate
from .frames import ABNORMAL_CLOSURE as ABNORMAL_CLOSURE
from .frames import (
    BINARY,
    CLOSE,
    MAX_CONTROL,
    PING,
    PONG,
    TEXT,
    close_payload,
    make_frame,
    may_stand_in_a_frame,
)
from .frames import GOING_AWAY as GOING_AWAY
from .frames import INTERNAL_ERROR as INTERNAL_ERROR
from .frames import NO_STATUS as NO_STATUS
from .frames import NORMAL_CLOSURE as NORMAL_CLOSURE
from .frames import Close as Close
from .frames import Event as Event
from .frames import Failure as Failure
from .frames import Ping as Ping
from .frames import Pong as Pong
from .masking import Decoder, apply_mask

_COMPRESSED: Final = 0x40
_LEFT: Final = 0, 0, 0

_new_utf8_decoder: Final = codecs.getincrementaldecoder("utf-8")


class Framing:
    """One websocket after its handshake.

    Events come in the order of the client's frames, and each only when it is asked for. Who asks no more once enough
    waits for the application keeps the memory of a connection to that, one message of ``max_bytes``, and what
    was received last. A close frame or a failure is one event among the others: messages before it can still be
    answered before ``close`` is called.

    Attributes:
        close_sent: True once ``close`` gave the close frame; no message may follow it.
        deaf: True once the last event was given; what the client sends is not looked at any more.
    """

    __slots__ = (
        "_buffer",
        "_decoder",
        "_deflate",
        "_max_bytes",
        "_message",
        "_opcode",
        "_utf8",
        "close_sent",
        "deaf",
    )

    def __init__(self, max_bytes: int, deflate: Deflate | None = None) -> None:
        """Begin, right after the handshake.

        Args:
            max_bytes: of one message of the client.
            deflate: the compression, if one was agreed on.
        """
        self._max_bytes = max_bytes
        self._deflate = deflate
        self._decoder = Decoder(False, [deflate] if deflate else [])
        # What came and was not read yet: shared with the decoder, which is past it while it is within a frame.
        self._buffer = self._decoder.buffer.buffer
        # The message that is under way: its opcode and what came of it.
        self._opcode: Opcode | None = None
        self._message = bytearray()
        self._utf8 = _new_utf8_decoder()
        self.close_sent = False
        self.deaf = False

    @property
    def over(self) -> bool:
        """True once both sides closed or the client failed: close the connection when what was given is written."""
        return self.close_sent and self.deaf

    def receive_data(self, data: bytes) -> None:
        """Take what the client sent."""
        if not self.deaf:
            self._decoder.receive_bytes(data)

    def next_event(self) -> Event | None:
        """Give the next event, or None until more data came.

        A ``str`` is a text message and ``bytes`` a binary one, joined from its fragments. After ``close`` messages
        are dropped: nobody is left to take them.
        """
        buffer = self._buffer
        while buffer:
            try:
                first, start, end = self._whole_message()
                if 0 < end <= len(buffer):
                    event: Event | None = self._take(first, start, end)
                elif end and first == BINARY:
                    return None  # it costs less in one piece; a text is checked as it comes
                else:
                    frame = self._next_frame()
                    if frame is None:
                        return None
                    event = self._take_frame(frame)
            except ParseFailed as error:
                self._stop_listening()
                return Failure(int(error.code), str(error))
            if event is not None and not (self.close_sent and isinstance(event, str | bytes)):
                return event
        return None

    def send_text(self, text: str) -> bytes:
        """Give the frame of a text message.

        Raises:
            ApplicationProtocolError: after ``close``, or the text has lone surrogates, which UTF-8 cannot express.
        """
        try:
            payload = text.encode()
        except UnicodeEncodeError as error:
            raise ApplicationProtocolError(
                f"text cannot be encoded as UTF-8: {error}", "RFC 6455 section 5.6"
            ) from error
        return self._message_frame(TEXT, payload)

    def send_bytes(self, data: bytes) -> bytes:
        """Give the frame of a binary message.

        Raises:
            ApplicationProtocolError: after ``close``.
        """
        return self._message_frame(BINARY, data)

    def ping(self, payload: bytes = b"") -> bytes:
        """Give a ping frame; its payload, of at most 125 bytes, comes back with the pong."""
        if len(payload) > MAX_CONTROL:
            raise ValueError(f"a ping has at most {MAX_CONTROL} bytes, got {len(payload)}")
        return make_frame(PING, payload)

    def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> bytes:
        """Give the close frame, the first time; nothing after that.

        Args:
            code: 1005 stands for a frame without a code, which has no reason either.
            reason: is cut at 123 bytes of UTF-8, between characters.

        Raises:
            ApplicationProtocolError: the code may not stand in a frame; the state stays as it was.

        Source:
            RFC 6455 sections 5.5.1, 7.4 and 7.1.5.
        """
        if self.close_sent:
            return b""
        payload = close_payload(code, reason)
        self.close_sent = True
        return make_frame(CLOSE, payload)

    def _whole_message(self) -> tuple[int, int, int]:
        """Find the next message if it is one frame: its first byte, and where its payload begins and will end.

        What is odd in any way is left to the decoder, which takes several times as long: then all of it is 0.

        Raises:
            ParseFailed: it is too large.
        """
        buffer = self._buffer
        if self._opcode is not None or self._decoder.header is not None or len(buffer) < 6:
            return _LEFT
        first = buffer[0]
        opcode = first & ~_COMPRESSED if self._deflate is not None else first
        if opcode != TEXT and opcode != BINARY:
            return _LEFT
        start, size = 6, buffer[1] - 0x80
        if size >= 126:
            start, size = _long_header(buffer, size)
        if size < 0:
            return _LEFT
        if size > self._max_bytes and first == opcode:
            raise self._too_large()
        return first, start, start + size

    def _take(self, first: int, start: int, end: int) -> str | bytes:
        """Take such a message off the buffer."""
        buffer = self._buffer
        payload = apply_mask(buffer[start:end], buffer[start - 4 : start])
        del buffer[:end]
        if first & _COMPRESSED and self._deflate is not None:
            payload = self._deflate.inflate(payload)
        return _text(payload) if first & ~_COMPRESSED == TEXT else payload

    def _next_frame(self) -> Frame | None:
        """Have the decoder take a control frame, or a data frame or a piece of one, off the buffer."""
        decoder = self._decoder
        if decoder.header is None:
            if not decoder.parse_header():
                return None
            assert decoder.header is not None  # it was parsed
            self._check_order(decoder.header.opcode)
        return decoder.process_buffer()

    def _check_order(self, opcode: Opcode) -> None:
        """Refuse what may not come now, before its payload is looked at, of which more or less may be there."""
        if opcode is Opcode.CONTINUATION:
            if self._opcode is None:
                raise ParseFailed("a continuation frame without a message to continue")
        elif not opcode.iscontrol() and self._opcode is not None:
            raise ParseFailed("a new message within another one")

    def _take_frame(self, frame: Frame) -> Event | None:
        """Take what the decoder gives: a control frame, or a data frame or a piece of one."""
        payload = frame.payload
        assert isinstance(payload, bytes | bytearray)  # the decoder gives nothing else
        payload = bytes(payload)
        opcode = frame.opcode
        if opcode is Opcode.PING:
            return Ping(make_frame(PONG, payload))
        if opcode is Opcode.PONG:
            return Pong(payload)
        if opcode is Opcode.CLOSE:
            event = _close_event(payload)
            self._stop_listening()
            return event
        if opcode is not Opcode.CONTINUATION:
            self._opcode = opcode
        return self._add(payload, is_last=frame.frame_finished and frame.message_finished)

    def _add(self, payload: bytes, *, is_last: bool) -> str | bytes | None:
        """Add a piece to the message that is under way, and give the message with the last one."""
        message = self._message
        message += payload
        if len(message) > self._max_bytes:
            raise self._too_large()
        if self._opcode is Opcode.TEXT:
            try:
                self._utf8.decode(payload, is_last)  # early, as section 8.1 of RFC 6455 allows
            except UnicodeDecodeError:
                raise _not_utf8() from None
        if not is_last:
            return None
        whole = str(message, "utf-8") if self._opcode is Opcode.TEXT else bytes(message)
        self._opcode = None
        self._message = bytearray()
        return whole

    def _too_large(self) -> ParseFailed:
        return ParseFailed(
            f"the message is larger than {self._max_bytes} bytes", CloseReason.MESSAGE_TOO_BIG
        )

    def _stop_listening(self) -> None:
        self.deaf = True
        self._message = bytearray()
        self._buffer.clear()

    def _message_frame(self, first: int, payload: bytes) -> bytes:
        if self.close_sent:
            raise ApplicationProtocolError(
                "a message was sent after the close frame", "RFC 6455 section 5.5.1"
            )
        if self._deflate is not None and len(payload) >= LEAST_BYTES:
            return make_frame(first | _COMPRESSED, self._deflate.deflate(payload))
        return make_frame(first, payload)


def _long_header(buffer: bytearray, short_size: int) -> tuple[int, int]:
    """Give where the payload begins, and its size by the longer length field; -1 for what is odd or not yet there."""
    start, least, limit = (8, 126, 1 << 16) if short_size == 126 else (14, 1 << 16, 1 << 63)
    size = int.from_bytes(buffer[2 : start - 4], "big")
    return start, size if least <= size < limit and len(buffer) >= start else -1


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise _not_utf8() from None


def _not_utf8() -> ParseFailed:
    return ParseFailed("the text is not encoded as UTF-8", CloseReason.INVALID_FRAME_PAYLOAD_DATA)


def _close_event(payload: bytes) -> Close:
    if not payload:
        return Close(NO_STATUS, "")
    code = int.from_bytes(payload[:2], "big")
    if not may_stand_in_a_frame(code):  # half a code is none of them
        raise ParseFailed("the close frame has no valid code")
    return Close(code, _text(payload[2:]))
