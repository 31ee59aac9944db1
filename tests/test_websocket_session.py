"""``websocket.session`` without a loop: reading ahead, pings, limits in time, and every way to the end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from websocket_tools import BINARY, CLOSE, PING, PONG, TEXT, close, frame, frames

from bridges.errors import ClientDisconnected
from bridges.typing import Message
from bridges.websocket.asgi import WebSocketMessages
from bridges.websocket.handshake import Handshake
from bridges.websocket.session import Session, Timing

ASKED = Handshake([], [], b"dGhlIHNhbXBsZSBub25jZQ==")
MAX_BYTES = 1_000_000
# What may wait for the application.
AHEAD_BYTES = 65_536
AHEAD_MESSAGES = 64
TIMING = Timing(ping=20, pong=7, close=5)

STOPPED = (1001, "the server is stopping")
SILENT = "the client does not answer"

# What the server writes: the last of its message, and the opcode.
FIN = 0x80


class Line:
    """A connection that notes what it is told.

    Attributes:
        written: all bytes, which nothing may follow after a close frame, the end of the connection, or its loss.
        reads: whether the session wants what comes.
        pauses: how often it stopped wanting it.
        deadline: seconds until ``expire``, or None.
        closed: how it was closed: whether it lingers; None while it is not.
        cut_by: the reason for cutting it.
        progress: what ``is_catching_up`` will say, once.
        lost: True once nothing can be written any more.
    """

    session: Session

    def __init__(self) -> None:
        self.written = bytearray()
        self.write_paused = False
        self.reads = False
        self.pauses = 0
        self.deadline: float | None = None
        self.closed: bool | None = None
        self.cut_by: str | None = None
        self.progress = False
        self.lost = False

    def write(self, data: bytes) -> None:
        assert data
        assert self.closed is None
        assert not self.lost
        self.written += data

    def is_catching_up(self) -> bool:
        progress, self.progress = self.progress, False
        return progress

    def read_on(self) -> None:
        self.reads = True

    def pause_reading(self) -> None:
        self.pauses += self.reads
        self.reads = False

    def expire_in(self, seconds: float | None) -> None:
        self.deadline = seconds

    def close(self, linger: bool) -> None:
        assert self.closed is None
        assert not self.lost
        self.closed = linger

    def cut(self, reason: str) -> None:
        assert not self.lost
        self.cut_by = reason
        self.lose()

    def lose(self) -> None:
        """Break, by itself or by ``cut``."""
        self.lost = True
        self.reads = False
        self.session.lost()

    @property
    def is_over(self) -> bool:
        """Whether the session has nothing more to do with it."""
        return self.closed is not None or self.lost

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """Opcode and payload of what was written."""
        return [(first & 0xF, payload) for first, payload in frames(bytes(self.written))]

    @property
    def close_frames(self) -> list[bytes]:
        """What the close frames hold, of which there is one at most, and the last of all."""
        every = self.frames
        found = [payload for opcode, payload in every if opcode == CLOSE]
        assert len(found) <= 1
        assert not found or every[-1][0] == CLOSE, "something follows the close frame"
        return found


class Socket:
    """An open websocket: a session between a scripted line and an application that does what the test says.

    Attributes:
        news: what the session called, in order.
    """

    def __init__(
        self, timing: Timing = TIMING, *, max_bytes: int = MAX_BYTES, early: bytes = b""
    ) -> None:
        self.messages = WebSocketMessages(ASKED, "shop", max_bytes=max_bytes, deflate=False)
        self.messages.send({"type": "websocket.accept"})
        framing = self.messages.framing
        assert framing is not None
        self.line = Line()
        self.news: list[str] = []
        self.session = Session(
            self.line,
            self.messages,
            framing,
            timing,
            on_message=lambda: self.news.append("message"),
            on_disconnect=lambda: self.news.append("disconnect"),
        )
        self.line.session = self.session
        self.session.data_came(early)

    # The client.

    def sends(self, *pieces: bytes) -> None:
        """Let frames arrive in one piece."""
        self.session.data_came(b"".join(pieces))

    def says(self, *messages: str | bytes) -> None:
        """Let messages arrive in one piece."""
        self.sends(*map(message_frame, messages))

    # Time.

    def expire(self, seconds: float | None) -> None:
        """Let the time pass that the session has asked for."""
        assert self.line.deadline == seconds
        self.line.deadline = None
        self.session.expire()

    # The application.

    def send(self, text: str) -> None:
        """Send a message."""
        frame = self.messages.send({"type": "websocket.send", "text": text})
        assert isinstance(frame, bytes)
        self.line.write(frame)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close."""
        frame = self.messages.send({"type": "websocket.close", "code": code, "reason": reason})
        assert isinstance(frame, bytes)
        self.session.close(frame)

    def end(self, *, failed: bool = False) -> None:
        """Return, or fail."""
        frame = self.messages.finish(failed=failed)
        if frame:
            self.session.close(frame)

    def receives(self, most: int = 1_000) -> list[Any]:
        """Receive what is there: messages, and the pair of code and reason at the end."""
        got: list[Any] = []
        while len(got) < most:
            message = self.session.next()
            if message is None:
                return got
            got.append(plain(message))
            if message["type"] == "websocket.disconnect":
                return got
        return got

    @property
    def disconnect(self) -> tuple[int, str] | None:
        """Code and reason of the disconnect, once there is one; it was told once."""
        assert self.news.count("disconnect") == (self.session.disconnect is not None)
        return None if self.session.disconnect is None else plain(self.session.disconnect)


def message_frame(message: str | bytes) -> bytes:
    if isinstance(message, str):
        return frame(TEXT, message.encode())
    return frame(BINARY, message)


def plain(message: Message) -> Any:
    """Give what matters of a message for the application."""
    if message["type"] == "websocket.disconnect":
        return message["code"], message["reason"]
    (data,) = [message[key] for key in ("text", "bytes") if key in message]
    return data


def code(payload: bytes) -> int:
    return int.from_bytes(payload[:2], "big")


# Messages.


@pytest.mark.spec("ASGI WebSocket 2.5", "Receive")
def test_messages_come_in_order_and_are_told_of() -> None:
    """Each once, text and bytes apart, empty ones too; nothing is there before or behind them."""
    socket = Socket()
    assert socket.session.next() is None
    socket.says("a", b"b", "", b"", "é")
    assert socket.news == ["message"] * 5
    assert socket.receives() == ["a", b"b", "", b"", "é"]
    assert socket.session.next() is None


@pytest.mark.spec("RFC 6455", "section 5.4")
def test_a_frame_in_pieces_is_one_message() -> None:
    """However it is cut, nothing is told of before all of it is there."""
    socket = Socket()
    whole = frame(TEXT, b"ab", fin=False) + frame(0, b"c")
    for at in range(len(whole) - 1):
        socket.sends(whole[at : at + 1])
    assert socket.news == []
    socket.sends(whole[-1:])
    assert socket.receives() == ["abc"]


@pytest.mark.spec("RFC 6455", "section 4.1")
def test_frames_right_behind_the_handshake() -> None:
    """What came with it is the beginning, up to the client's close."""
    socket = Socket(early=message_frame("early") + close(1000))
    assert socket.receives() == ["early", (1000, "")]


# Reading ahead.


def test_reading_pauses_at_so_many_bytes() -> None:
    """What the application has not asked for stays in the connection, and reading goes on when half of it has gone."""
    size = 10_000
    socket = Socket()
    line = socket.line
    assert line.reads
    messages = [bytes([number]) * size for number in range(10)]
    socket.says(*messages[:6])
    assert line.reads
    socket.says(*messages[6:])
    assert not line.reads
    assert socket.news == ["message"] * 7  # the first one that is past the limit, and none behind
    assert socket.receives(3) == messages[:3]
    assert not line.reads, "40,000 bytes wait still"
    assert socket.receives(1) == [messages[3]]
    assert line.reads
    assert socket.receives() == messages[4:]
    assert line.pauses == 1


def test_reading_pauses_at_so_many_messages() -> None:
    """Small ones count too, however small."""
    socket = Socket()
    line = socket.line
    socket.says(*[""] * (AHEAD_MESSAGES - 1))
    assert line.reads
    socket.says(*["x"] * 10)
    assert not line.reads
    assert len(socket.news) == AHEAD_MESSAGES
    socket.receives(AHEAD_MESSAGES // 2 - 1)
    assert not line.reads
    socket.receives(1)
    assert line.reads
    assert len(socket.receives()) == AHEAD_MESSAGES // 2 + 9


def test_one_message_past_the_limit_is_read() -> None:
    """A single large message is given, and nothing is read until it is taken."""
    socket = Socket()
    large = b"x" * (AHEAD_BYTES * 3)
    socket.says(large)
    assert not socket.line.reads
    assert socket.receives() == [large]
    assert socket.line.reads


def test_what_comes_while_reading_is_paused_is_kept() -> None:
    """A line may have had more in its hands: it waits behind the others, and does not make the session read on."""
    socket = Socket()
    large = b"x" * AHEAD_BYTES
    socket.says(large)
    socket.says("late")
    assert not socket.line.reads
    assert socket.news == ["message"]
    assert socket.receives() == [large, "late"]


def test_reading_pauses_while_the_client_does_not_take_its_pongs() -> None:
    """A client that pings and does not read cannot make the output grow: pings wait in the connection."""
    socket = Socket()
    line = socket.line
    line.write_paused = True
    socket.sends(frame(PING, b"1"), frame(PING, b"2"))
    assert not line.reads
    assert line.frames == []
    line.write_paused = False
    socket.session.read_on()
    assert line.reads
    assert line.frames == [(PONG, b"1"), (PONG, b"2")]


def test_room_is_made_only_where_the_client_takes_its_output() -> None:
    """An application that takes messages does not have more read while the output is full."""
    socket = Socket()
    line = socket.line
    socket.says(b"x" * AHEAD_BYTES, "y")
    line.write_paused = True
    assert socket.receives() == [b"x" * AHEAD_BYTES]
    assert not line.reads
    line.write_paused = False
    socket.session.read_on()
    assert socket.receives() == ["y"]
    assert line.reads


# Pings and pongs.


@pytest.mark.spec("RFC 6455", "section 5.5.2")
def test_pings_are_answered_at_once_and_not_given_to_the_application() -> None:
    """Each by a pong with its payload, between messages and within one."""
    socket = Socket()
    socket.sends(frame(PING, b"a"), frame(TEXT, b"x", fin=False), frame(PING, b"b"), frame(0, b"y"))
    assert socket.line.frames == [(PONG, b"a"), (PONG, b"b")]
    assert socket.receives() == ["xy"]


@pytest.mark.spec("RFC 6455", "section 5.5.3")
def test_pongs_that_nobody_asked_for_are_signs_of_life() -> None:
    """They are not given to anybody, and put off the next ping."""
    socket = Socket()
    socket.line.deadline = None
    socket.sends(frame(PONG, b"?"))
    assert socket.line.deadline == TIMING.ping
    assert socket.news == []


@pytest.mark.spec("RFC 6455", "section 5.5.2")
@pytest.mark.parametrize("sign", [frame(PONG), message_frame("x"), b"\x81"])
def test_a_silent_client_is_asked_and_any_byte_is_an_answer(sign: bytes) -> None:
    """A pong, a message, or a part of one: the client is there, and is asked again later."""
    socket = Socket()
    for asked in (1, 2):
        socket.expire(TIMING.ping)
        assert socket.line.frames == [(PING, b"")] * asked
        assert socket.line.deadline == TIMING.pong
        socket.sends(sign)
        assert socket.line.deadline == TIMING.ping
        sign = b"" if sign == b"\x81" else sign
    assert not socket.line.is_over


@pytest.mark.spec("FR 112")
def test_a_client_that_does_not_answer_is_cut_off() -> None:
    """The application learns 1006."""
    socket = Socket()
    socket.expire(TIMING.ping)
    socket.expire(TIMING.pong)
    assert socket.line.cut_by == SILENT
    assert socket.receives() == [(1006, "")]
    assert socket.line.frames == [(PING, b"")]


def test_no_pings_where_none_are_wanted() -> None:
    """Without pings an idle websocket has no limit."""
    socket = Socket(TIMING._replace(ping=None))
    assert socket.line.deadline is None
    socket.says("x")
    assert socket.line.deadline is None


def test_a_ping_behind_much_output_is_waited_for_while_the_client_takes_it() -> None:
    """Only progress after the ping counts; without any the client is cut off."""
    socket = Socket()
    socket.line.progress = True  # of long ago
    socket.expire(TIMING.ping)
    for _ in range(3):
        socket.line.progress = True
        socket.expire(TIMING.pong)
    assert not socket.line.is_over
    assert socket.line.frames == [(PING, b"")], "one is enough"
    socket.expire(TIMING.pong)
    assert socket.line.cut_by == SILENT
    again = Socket()
    again.line.progress = True
    again.expire(TIMING.ping)
    again.expire(TIMING.pong)
    assert again.line.cut_by == SILENT


def test_an_application_that_is_behind_does_not_cost_the_client_its_websocket() -> None:
    """What the client answers cannot be seen while reading is paused: it is not asked, however long that takes."""
    socket = Socket()
    socket.says(b"x" * AHEAD_BYTES)
    for _ in range(5):
        socket.expire(TIMING.pong)
    assert socket.line.frames == []
    assert socket.receives() == [b"x" * AHEAD_BYTES]
    socket.expire(TIMING.ping)
    assert socket.line.frames == [(PING, b"")]
    socket.receives()
    assert socket.line.deadline == TIMING.pong, (
        "that the application receives is no sign of the client"
    )
    assert not socket.line.is_over


@pytest.mark.parametrize("ping", [20.0, None])
@pytest.mark.parametrize("first", ["its messages", "its silence"])
def test_a_client_that_sends_and_does_not_read_is_cut_off(first: str, ping: float | None) -> None:
    """Neither side moves: the application waits for the client's room, and reading is paused, for either reason."""
    socket = Socket(TIMING._replace(ping=ping))
    line = socket.line
    if first == "its messages":
        socket.says(b"x" * AHEAD_BYTES)
        line.write_paused = True
    else:
        line.write_paused = True
        socket.says("x")
    assert not line.reads
    line.progress = True
    socket.expire(TIMING.pong)
    line.progress = True
    socket.expire(TIMING.pong)
    assert not line.is_over
    socket.expire(TIMING.pong)
    assert line.cut_by == SILENT
    assert socket.disconnect == (1006, "")


# The close.


@pytest.mark.spec("RFC 6455", "section 5.5.1")
@pytest.mark.parametrize(
    ("sent", "told", "answer"),
    [
        (close(1000, b"bye"), (1000, "bye"), 1000),
        (close(4000), (4000, ""), 4000),
        (close(), (1005, ""), 0),
    ],
)
def test_the_client_closes(sent: bytes, told: tuple[int, str], answer: int) -> None:
    """Its code is sent back and told to the application; the connection is closed, without lingering."""
    socket = Socket()
    socket.sends(sent)
    assert [code(each) for each in socket.line.close_frames] == [answer]
    assert socket.line.closed is False
    assert socket.disconnect == told
    assert socket.receives() == [told]
    assert socket.receives() == [told], "and again"
    with pytest.raises(ClientDisconnected):
        socket.send("late")
    socket.end()
    assert len(socket.line.close_frames) == 1


@pytest.mark.spec("RFC 6455", "section 5.5.1")
def test_messages_before_the_clients_close_can_be_answered() -> None:
    """The close is answered when the application has taken them all and asks for more."""
    socket = Socket()
    socket.says("a", "b")
    socket.sends(close(4000, b"over"))
    assert not socket.line.reads
    assert socket.disconnect is None
    assert socket.receives(1) == ["a"]
    socket.send("A")
    assert socket.receives(1) == ["b"]
    socket.send("B")
    assert socket.disconnect is None
    assert socket.receives() == [(4000, "over")]
    assert [opcode for opcode, _ in socket.line.frames] == [TEXT, TEXT, CLOSE]
    assert socket.line.closed is False


@pytest.mark.parametrize("sent", [close(4000, b"over"), frame(3)])
def test_the_answer_to_the_clients_close_does_not_wait_for_ever(sent: bytes) -> None:
    """An application that is too slow is disconnected, and may still take the messages."""
    socket = Socket()
    socket.sends(message_frame("a"), sent)
    socket.expire(TIMING.close)
    assert len(socket.line.close_frames) == 1
    assert socket.line.closed is not None
    assert socket.disconnect is not None
    assert socket.receives() == ["a", socket.disconnect]


@pytest.mark.spec("RFC 6455", "section 7.1.1")
def test_the_application_closes() -> None:
    """Its frame is written, and the connection is closed when the client has answered, whose code is told."""
    socket = Socket()
    socket.close(4001, "bye")
    assert socket.line.close_frames == [b"\x0f\xa1bye"]
    assert socket.line.closed is None
    assert socket.line.reads
    assert socket.session.next() is None
    socket.sends(close(4001, b"ok"))
    assert socket.line.closed is False
    assert socket.receives() == [(4001, "ok")]
    assert len(socket.line.close_frames) == 1


@pytest.mark.spec("RFC 6455", "section 7.1.1")
@pytest.mark.parametrize("sign", [b"", frame(PONG), message_frame("x"), frame(PING)])
def test_a_client_that_does_not_close_is_cut_off(sign: bytes) -> None:
    """Whatever else it sends does not put that off, and is not answered or given to anybody."""
    socket = Socket()
    socket.close()
    socket.sends(sign)
    socket.expire(TIMING.close)
    assert socket.line.cut_by == SILENT
    assert socket.receives() == [(1006, "")]
    assert len(socket.line.frames) == 1


@pytest.mark.spec("RFC 6455", "section 7.1.1")
def test_a_close_behind_much_output_is_waited_for_while_the_client_takes_it() -> None:
    """As a ping is, from the close on."""
    socket = Socket()
    socket.line.progress = True  # of long ago
    socket.close()
    socket.line.progress = True
    socket.expire(TIMING.close)
    assert not socket.line.is_over
    socket.expire(TIMING.close)
    assert socket.line.cut_by == SILENT
    again = Socket()
    again.line.progress = True
    again.close()
    again.expire(TIMING.close)
    assert again.line.cut_by == SILENT


def test_closing_ends_the_wait_for_a_pong() -> None:
    """The closing handshake has its own limit, whatever was asked before."""
    socket = Socket()
    socket.expire(TIMING.ping)
    socket.close()
    assert socket.line.deadline == TIMING.close
    socket.expire(TIMING.close)
    assert socket.line.cut_by == SILENT


def test_messages_that_the_application_did_not_want_are_dropped_with_its_close() -> None:
    """Those in the queue, and those behind that in the connection, up to the client's close."""
    socket = Socket()
    socket.says(*["x"] * (AHEAD_MESSAGES + 5))
    assert not socket.line.reads
    socket.close()
    assert socket.line.reads
    assert socket.session.next() is None
    socket.says(*["y"] * (AHEAD_MESSAGES + 5))
    assert socket.line.reads
    socket.sends(close(1000))
    assert socket.receives() == [(1000, "")]


@pytest.mark.spec("RFC 6455", "section 7.1.5")
def test_both_close_at_once() -> None:
    """The client's close came before the application's, which did not know: one frame each, and all is over."""
    socket = Socket()
    socket.says("a")
    socket.sends(close(4000, b"over"))
    socket.close(4001)
    assert [code(each) for each in socket.line.close_frames] == [4001]
    assert socket.line.closed is False
    assert socket.receives() == [(4000, "over")]


def test_the_clients_close_waits_in_the_connection_behind_what_is_queued() -> None:
    """An application that closes then sees it at once."""
    socket = Socket()
    socket.says(b"x" * AHEAD_BYTES)
    socket.sends(close(4000))
    assert socket.disconnect is None
    socket.close(4001)
    assert socket.line.closed is False
    assert socket.disconnect == (4000, "")


@pytest.mark.parametrize(("failed", "expected"), [(False, 1000), (True, 1011)])
def test_an_application_that_ends_closes(failed: bool, expected: int) -> None:
    """With 1000 where it returns, and 1011 where it fails; once, though it had closed by itself."""
    socket = Socket()
    socket.end(failed=failed)
    assert [code(each) for each in socket.line.close_frames] == [expected]
    socket = Socket()
    socket.close(4001)
    socket.end(failed=failed)
    assert [code(each) for each in socket.line.close_frames] == [4001]


def test_a_close_while_the_client_takes_nothing() -> None:
    """The client's part is read as soon as it has caught up; until then the limit runs."""
    socket = Socket()
    line = socket.line
    line.write_paused = True
    socket.close()
    socket.sends(close(1000))
    assert line.deadline == TIMING.close
    line.write_paused = False
    socket.session.read_on()
    assert line.closed is False
    assert socket.disconnect == (1000, "")


# Failures.


@pytest.mark.spec("RFC 6455", "section 7.4.1")
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (frame(3), 1002),
        (frame(TEXT, b"x", key=None), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(BINARY, b"x" * 1001), 1009),
        (close(1006), 1002),
        (close(1000, b"\xff"), 1007),
    ],
)
def test_a_client_that_breaks_the_rules_is_told_so(sent: bytes, expected: int) -> None:
    """Once, with the reason; the connection lingers, for the client may still be sending."""
    socket = Socket(max_bytes=1000)
    socket.sends(sent)
    (payload,) = socket.line.close_frames
    assert code(payload) == expected
    assert len(payload) > 2
    assert socket.line.closed is True
    assert socket.receives() == [(expected, payload[2:].decode())]


def test_messages_before_a_failure_can_be_answered() -> None:
    """Likewise as before a close."""
    socket = Socket()
    socket.sends(message_frame("a"), frame(3), message_frame("b"))
    assert socket.receives(1) == ["a"]
    socket.send("A")
    assert [each[0] for each in socket.receives()] == [1002]
    assert [opcode for opcode, _ in socket.line.frames] == [TEXT, CLOSE]


def test_a_failure_after_the_applications_close() -> None:
    """Nothing more is written; the connection is closed, and lingers."""
    socket = Socket()
    socket.close(4001)
    socket.sends(frame(3))
    assert [code(each) for each in socket.line.close_frames] == [4001]
    assert socket.line.closed is True
    assert socket.disconnect is not None
    assert socket.disconnect[0] == 1002


def test_what_comes_behind_the_end_is_not_looked_at() -> None:
    """Whatever a line still hands over."""
    socket = Socket()
    socket.sends(message_frame("a"), close(4000))
    socket.sends(message_frame("b"), frame(3), close(4001))
    assert socket.line.deadline == TIMING.close
    assert not socket.line.reads
    assert socket.receives() == ["a", (4000, "")]
    socket.sends(frame(3))
    assert len(socket.line.close_frames) == 1


# The stop.


@pytest.mark.spec("FR 114")
def test_a_stop_tells_both_sides_at_once() -> None:
    """The application does not wait for the client, which has its time for the handshake."""
    socket = Socket()
    socket.session.stop()
    assert [code(each) for each in socket.line.close_frames] == [1001]
    assert socket.receives() == [STOPPED]
    assert socket.line.closed is None
    assert socket.line.reads
    assert socket.line.deadline == TIMING.close
    socket.sends(close(1001))
    assert socket.line.closed is False
    assert socket.disconnect == STOPPED


def test_a_stop_after_which_the_client_does_not_answer() -> None:
    """It is cut off, and nobody is told twice."""
    socket = Socket()
    socket.session.stop()
    socket.session.stop()
    socket.expire(TIMING.close)
    assert socket.line.cut_by == SILENT
    assert socket.disconnect == STOPPED


def test_a_stop_while_the_client_takes_nothing() -> None:
    """Its answer is read when it has caught up, though the application was told long ago."""
    socket = Socket()
    line = socket.line
    line.write_paused = True
    socket.session.stop()
    assert not line.reads
    line.write_paused = False
    socket.session.read_on()
    assert line.reads
    socket.sends(close(1001))
    assert line.closed is False


def test_a_stop_after_the_applications_close() -> None:
    """The close is the application's, and it learns of the stop."""
    socket = Socket()
    socket.close(4001)
    socket.session.stop()
    assert [code(each) for each in socket.line.close_frames] == [4001]
    assert socket.receives() == [STOPPED]


def test_a_stop_after_the_clients_close() -> None:
    """Nothing is left to be told but that."""
    socket = Socket()
    socket.sends(message_frame("a"), close(4000))
    socket.session.stop()
    assert len(socket.line.close_frames) == 1
    assert socket.line.closed is False
    assert socket.disconnect == (4000, "")


# The loss.


@pytest.mark.spec("RFC 6455", "section 7.1.5")
def test_a_broken_connection_is_1006_behind_all_messages() -> None:
    """What came before is not lost."""
    socket = Socket()
    socket.says("a", "b")
    socket.line.lose()
    assert socket.receives() == ["a", "b", (1006, "")]


@pytest.mark.parametrize("sent", [close(4000, b"over"), frame(3)])
@pytest.mark.spec("RFC 6455", "section 7.1.5")
def test_a_broken_connection_behind_the_clients_close(sent: bytes) -> None:
    """The client said what it had to say: its code counts. Nothing is written on what is gone."""
    socket = Socket()
    socket.sends(message_frame("a"), sent)
    socket.line.lose()
    assert socket.disconnect is not None
    assert socket.disconnect[0] in (4000, 1002)
    assert socket.receives() == ["a", socket.disconnect]
    socket.end()
    socket.session.stop()
    assert socket.line.written == b""


@pytest.mark.parametrize("before", ["open", "asked", "paused", "closing", "closed", "stopped"])
def test_a_broken_connection_at_each_point(before: str) -> None:
    """It is told once, and nothing is written or asked of the line after it."""
    socket = Socket()
    expected = (1006, "")
    if before == "asked":
        socket.expire(TIMING.ping)
    elif before == "paused":
        socket.says(b"x" * AHEAD_BYTES, "y")
    elif before == "closing":
        socket.close(4001)
    elif before == "closed":
        socket.sends(close(4000))
        expected = (4000, "")
    elif before == "stopped":
        socket.session.stop()
        expected = STOPPED
    socket.line.lose()
    assert socket.disconnect == expected
    written = bytes(socket.line.written)
    socket.session.read_on()
    assert socket.receives()[-1] == expected
    socket.session.stop()
    socket.session.lost()
    socket.end()
    assert socket.disconnect == expected
    assert socket.line.written == written
    assert not socket.line.reads


# Any order.

SIZES = st.sampled_from([0, 1, 200, 5_000, 40_000, 70_000])
CODES = st.sampled_from([1000, 1001, 3000, 4999])


class AnyOrder(RuleBasedStateMachine):
    """Client, application, time and network in any order, against what may be said of any of them."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = bytearray()  # sent by the client, not yet arrived
        self.sent: list[str | bytes] = []
        self.pings: list[bytes] = []
        self.client_ended = False
        self.got: list[Any] = []
        self.app_closed = False
        self.stopped = False

    @initialize(early=st.booleans(), ping=st.sampled_from([20.0, None]))
    def begin(self, early: bool, ping: float | None) -> None:
        """Open it, maybe with a message right behind the handshake."""
        data = b""
        if early:
            self.sent.append("early")
            data = message_frame("early")
        self.socket = Socket(TIMING._replace(ping=ping), early=data)

    @property
    def line(self) -> Line:
        return self.socket.line

    # The client.

    @precondition(lambda self: not self.client_ended)
    @rule(size=SIZES, text=st.booleans())
    def client_says(self, size: int, text: bool) -> None:
        number = len(self.sent)
        data = f"{number:05}" * (size // 5) if size > 1 else str(number % 10) * size
        message = data if text else data.encode()
        self.sent.append(message)
        self.wire += message_frame(message)

    @precondition(lambda self: not self.client_ended)
    @rule()
    def client_pings(self) -> None:
        payload = b"%d" % len(self.pings)
        self.pings.append(payload)
        self.wire += frame(PING, payload)

    @precondition(lambda self: not self.client_ended)
    @rule()
    def client_pongs(self) -> None:
        self.wire += frame(PONG)

    @precondition(lambda self: not self.client_ended and len(self.sent) > 1)
    @rule(code=CODES)
    def client_closes(self, code: int) -> None:
        self.client_ended = True
        self.wire += close(code)

    @precondition(lambda self: not self.client_ended and len(self.sent) > 1)
    @rule()
    def client_fails(self) -> None:
        self.client_ended = True
        self.wire += frame(3)

    @precondition(lambda self: self.wire and self.line.reads and not self.line.is_over)
    @rule(size=st.sampled_from([1, 7, 1_000, 65_536, 1_000_000]))
    def arrives(self, size: int) -> None:
        data = bytes(self.wire[:size])
        del self.wire[:size]
        self.socket.session.data_came(data)

    @rule()
    def client_takes_nothing(self) -> None:
        self.line.write_paused = not self.line.is_over

    @precondition(lambda self: self.line.write_paused)
    @rule()
    def client_catches_up(self) -> None:
        self.line.write_paused = False
        if not self.line.is_over:
            self.socket.session.read_on()

    @precondition(lambda self: len(self.sent) > 2 and not self.line.lost)
    @rule()
    def client_vanishes(self) -> None:
        self.line.lose()

    # The application.

    @rule(most=st.sampled_from([1, 5, 100]))
    def app_receives(self, most: int) -> None:
        self.got += [each for each in self.socket.receives(most) if not isinstance(each, tuple)]

    @rule()
    def app_sends(self) -> None:
        if self.socket.messages.state == "open":
            self.socket.send("x")
        elif not self.app_closed:
            with pytest.raises(ClientDisconnected):
                self.socket.send("x")

    @precondition(lambda self: self.socket.messages.state == "open" and len(self.got) > 1)
    @rule(code=CODES)
    def app_closes(self, code: int) -> None:
        self.app_closed = True
        self.socket.close(code)

    @precondition(lambda self: len(self.got) > 1)
    @rule(failed=st.booleans())
    def app_ends(self, failed: bool) -> None:
        self.app_closed = True
        self.socket.end(failed=failed)

    # The server.

    @precondition(lambda self: len(self.got) > 1)
    @rule()
    def stops(self) -> None:
        self.stopped = True
        self.socket.session.stop()

    @precondition(lambda self: self.line.deadline is not None and not self.line.is_over)
    @rule(progress=st.booleans())
    def time_passes(self, progress: bool) -> None:
        self.line.progress = progress
        self.line.deadline = None
        self.socket.session.expire()

    # What is always so.

    @invariant()
    def messages_are_a_beginning_of_what_was_sent(self) -> None:
        assert self.got == self.sent[: len(self.got)]

    @invariant()
    def one_close_frame_is_the_last_one(self) -> None:
        assert len(self.line.close_frames) <= 1

    @invariant()
    def pings_are_answered_in_order(self) -> None:
        pongs = [payload for opcode, payload in self.line.frames if opcode == PONG]
        assert pongs == self.pings[: len(pongs)]

    @invariant()
    def an_end_is_told_once(self) -> None:
        assert (self.socket.disconnect is None) or self.line.is_over or self.stopped

    @invariant()
    def it_is_never_stuck(self) -> None:
        idle = self.socket.session._timing.ping is None and self.line.reads
        assert self.line.is_over or self.line.deadline is not None or idle

    def teardown(self) -> None:
        """Let everybody do their part: whatever was sent arrives, unless somebody closed before."""
        if not hasattr(self, "socket"):
            return
        line, session = self.line, self.socket.session
        line.write_paused = False
        session.read_on()
        before = None
        while before != (before := (len(self.wire), len(self.got))):
            if self.wire and line.reads:
                self.arrives(1_000_000)
            self.app_receives(1000)
        self.messages_are_a_beginning_of_what_was_sent()
        if not (self.app_closed or self.stopped or line.lost):
            assert self.got == self.sent
            assert self.client_ended is line.is_over
        self.one_close_frame_is_the_last_one()
        session.stop()
        for _ in range(3):
            if not line.is_over:
                self.time_passes(False)
        assert line.is_over, "neither closed nor cut"
        assert self.socket.disconnect is not None


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40)
