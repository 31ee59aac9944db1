"""The start_response machine: what may be called when, what is sent, and whose mistake the rest is."""

from __future__ import annotations

import array
import gc
import random
import sys
import weakref
from typing import Any

import pytest
from feeding import SENDERS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridges.errors import ApplicationProtocolError
from bridges.translate.start_response import ResponseState

TEXT = [("Content-Type", "text/plain")]


def begun(
    status: str = "200 OK", length: int | None = None, *, head: bool = False
) -> ResponseState:
    """Give the state of a response after start_response, with a Content-Length if given."""
    state = ResponseState(head, "shop")
    state.start(status, TEXT if length is None else [*TEXT, ("Content-Length", str(length))])
    return state


def exc_info(error: BaseException) -> Any:
    """Give what sys.exc_info() gives where ``error`` was caught."""
    try:
        raise error
    except BaseException:
        return sys.exc_info()


# The head.


@pytest.mark.spec("FR 12")
@pytest.mark.spec("PEP 3333", "The start_response() Callable")
def test_head_is_a_message_of_asgi() -> None:
    """The head says what start_response was told."""
    state = begun("201 Created", 3)
    assert not state.head_taken
    assert state.take_head() == {
        "type": "http.response.start",
        "status": 201,
        "headers": [(b"content-type", b"text/plain"), (b"content-length", b"3")],
    }
    assert state.head_taken


@pytest.mark.spec("FR 12")
def test_empty_chunks_leave_the_head_replaceable() -> None:
    """Nothing is sent for an empty chunk, so that an error page can still take over."""
    state = begun()
    assert [state.feed(b""), state.feed(b"")] == [b"", b""]
    assert not state.head_taken
    state.start("500 Oops", [], exc_info(ValueError("late")))
    assert state.take_head()["status"] == 500


@pytest.mark.spec("FR 13")
@pytest.mark.spec("PEP 3333", "The start_response() Callable")
def test_exc_info_before_output_replaces_everything() -> None:
    """Status, headers and length of the error page are those that are sent; nothing is raised."""
    state = begun("200 OK", 1000)
    state.start("500 Oops", [("X-Error", "1"), ("Content-Length", "4")], exc_info(ValueError()))
    assert state.take_head() == {
        "type": "http.response.start",
        "status": 500,
        "headers": [(b"x-error", b"1"), (b"content-length", b"4")],
    }
    assert state.feed(b"page") == b"page"
    state.finish()


@pytest.mark.spec("FR 13")
def test_exc_info_forgets_the_first_length() -> None:
    """An error page without a length is not cut to the length of the page it stands in for."""
    state = begun("200 OK", 2)
    state.start("500 Oops", [], exc_info(ValueError()))
    state.take_head()
    assert (state.remaining, state.feed(b"a longer page")) == (None, b"a longer page")
    state.finish()


@pytest.mark.spec("FR 13")
@pytest.mark.parametrize("first", ["204 No Content", "304 Not Modified"])
def test_exc_info_brings_the_body_back(first: str) -> None:
    """An error page has a body even where the first response could have none."""
    state = begun(first)
    state.start("500 Oops", [], exc_info(ValueError()))
    assert state.body_allowed
    assert state.feed(b"page") == b"page"


@pytest.mark.spec("FR 13")
def test_exc_info_may_come_with_the_first_call() -> None:
    """An application that fails before it began sends its error page the same way."""
    state = ResponseState(False, "shop")
    state.start("500 Oops", [], exc_info(ValueError()))
    assert state.take_head()["status"] == 500


@pytest.mark.spec("FR 14")
@pytest.mark.spec("PEP 3333", "The start_response() Callable")
@pytest.mark.parametrize(
    "error",
    [
        ValueError("the application's"),
        SystemExit(1),
        KeyboardInterrupt(),
        ApplicationProtocolError("of another bridge inside"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exc_info_after_output_raises_that_exception(error: BaseException) -> None:
    """Once the head has left, the very exception is raised, with its traceback, and the head stays."""
    state = begun()
    state.take_head()
    given_ = exc_info(error)
    with pytest.raises(type(error)) as caught:
        state.start("500 Oops", [], given_)
    assert caught.value is error
    names = [entry.name for entry in caught.traceback]
    assert "exc_info" in names
    assert state.status == 200


@pytest.mark.spec("FR 14")
@pytest.mark.parametrize("nothing", [None, (None, None, None)])
def test_second_call_with_an_empty_exc_info_is_an_error(nothing: Any) -> None:
    """sys.exc_info() outside of a handler excuses no second call, before or after output."""
    for taken in (False, True):
        state = begun()
        if taken:
            state.take_head()
        with pytest.raises(ApplicationProtocolError, match="twice"):
            state.start("200 OK", [], nothing)


@pytest.mark.spec("FR 15")
def test_second_call_without_exc_info_is_an_error() -> None:
    """The second call raises in the application, by its name, and the first one stands."""
    state = begun("201 Created")
    with pytest.raises(ApplicationProtocolError, match=r"^shop called .* twice .*PEP 3333"):
        state.start("200 OK", [])
    assert state.take_head()["status"] == 201


class Payload:
    """Something that a local variable of the application refers to."""


@pytest.mark.spec("PEP 3333", "The start_response() Callable")
@pytest.mark.parametrize("sent", [False, True], ids=["before output", "after output"])
def test_no_reference_cycle_is_left_by_exc_info(sent: bool) -> None:
    """What the failed application held is freed at once, not when the collector comes by."""
    state = begun()
    if sent:
        state.take_head()

    def application() -> weakref.ref[Payload]:
        payload = Payload()
        try:
            raise ValueError(payload)
        except ValueError:
            try:
                state.start("500 Oops", [], sys.exc_info())
            except ValueError:
                assert sent
        return weakref.ref(payload)

    gc.disable()
    try:
        assert application()() is None
    finally:
        gc.enable()


@pytest.mark.spec("FR 16")
@pytest.mark.parametrize("chunk", [b"data", b""])
def test_body_before_start_response_names_the_application(chunk: bytes) -> None:
    """Data without a head is the application's mistake, told by its name and the rule."""
    state = ResponseState(False, "shop")
    with pytest.raises(ApplicationProtocolError, match=r"^shop .*without calling start_response"):
        state.feed(chunk)


@pytest.mark.spec("FR 16")
def test_no_head_without_start_response() -> None:
    """A response that ends without a head is the application's mistake too."""
    state = ResponseState(False, "shop")
    with pytest.raises(ApplicationProtocolError, match=r"^shop returned without") as caught:
        state.take_head()
    assert caught.value.clause
    assert not state.head_taken


@pytest.mark.spec("FR 21")
@pytest.mark.spec("FR 22")
@pytest.mark.spec("FR 25")
@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        ("abc", [], "200 OK"),
        (200, [], "str"),
        (b"200 OK", [], "str"),
        ("100 Continue", [], "interim"),
        ("200 OK", None, "list of"),
        ("200 OK", [("X", b"1")], "list of"),
        ("200 OK", [("X", "a\r\nb: c")], "CR, LF"),
        ("200 OK", [("X", "Ł")], "latin-1"),
        ("200 OK", [("X Y", "1")], "token"),
        ("200 OK", [("Content-Length", "x")], "Content-Length"),
        ("200 OK", [("Content-Length", "1"), ("Content-Length", "2")], "Content-Length"),
    ],
)
def test_bad_arguments_are_told_by_name_and_rule(status: Any, headers: Any, said: str) -> None:
    """The error names the application, the mistake and the clause; a better call may follow."""
    state = ResponseState(False, "shop")
    with pytest.raises(ApplicationProtocolError, match=f"^shop .*{said}") as caught:
        state.start(status, headers)
    assert caught.value.clause
    assert state.status == 0
    state.start("500 Oops", TEXT)
    assert state.take_head()["status"] == 500


@pytest.mark.spec("FR 13")
def test_bad_replacement_leaves_the_first_head() -> None:
    """A replacement that is refused changes nothing of what was there."""
    state = begun("200 OK", 3)
    with pytest.raises(ApplicationProtocolError):
        state.start("500 Oops", [("X", "\n")], exc_info(ValueError()))
    assert (state.status, state.remaining) == (200, 3)
    assert (b"content-length", b"3") in state.take_head()["headers"]


@pytest.mark.spec("FR 24")
def test_hop_by_hop_fields_are_dropped_and_named() -> None:
    """The connection is the server's; the caller learns what to warn of."""
    state = ResponseState(False, "shop")
    state.start("200 OK", [("Transfer-Encoding", "chunked"), *TEXT, ("Connection", "close")])
    assert state.take_head()["headers"] == [(b"content-type", b"text/plain")]
    assert [name.lower() for name in state.dropped_headers] == ["transfer-encoding", "connection"]


# Content-Length.


@pytest.mark.spec("FR 20")
@pytest.mark.spec("PEP 3333", "Handling the Content-Length Header")
def test_known_length_is_added() -> None:
    """A body that is known as a whole gets the length that the application left out."""
    state = begun()
    assert (b"content-length", b"5") in state.take_head(5)["headers"]
    assert state.remaining == 5
    assert state.feed(b"hello") == b"hello"
    state.finish()


@pytest.mark.spec("FR 20")
def test_unknown_length_is_not_made_up() -> None:
    """A stream of unknown length stays without one."""
    state = begun()
    assert state.take_head()["headers"] == [(b"content-type", b"text/plain")]
    assert state.remaining is None


@pytest.mark.spec("FR 20")
def test_length_of_the_application_wins() -> None:
    """A length that the application named is not replaced by the one that was counted."""
    headers = begun("200 OK", 3).take_head(5)["headers"]
    assert [field for field in headers if field[0] == b"content-length"] == [
        (b"content-length", b"3")
    ]


@pytest.mark.spec("FR 19")
@pytest.mark.spec("FR 28")
@pytest.mark.spec("RFC 9110", "section 8.6")
@pytest.mark.parametrize(
    ("status", "head", "length", "whole", "expected"),
    [
        ("200 OK", False, None, 0, b"0"),
        ("302 Found", False, None, 0, b"0"),
        ("200 OK", False, 3, 3, b"3"),
        # Never for 204, given or counted.
        ("204 No Content", False, None, 0, None),
        ("204 No Content", False, 0, 0, None),
        ("204 No Content", False, 3, 3, None),
        ("204 No Content", True, 3, 3, None),
        # Kept, but never counted, where the body that it tells of is not sent.
        ("304 Not Modified", False, 3, 0, b"3"),
        ("304 Not Modified", False, None, 0, None),
        ("200 OK", True, 3, 0, b"3"),
        ("200 OK", True, None, 0, None),
    ],
)
def test_length_of_responses_without_body(
    status: str, head: bool, length: int | None, whole: int, expected: bytes | None
) -> None:
    """An empty iterable still sends a head, with the length that the status allows."""
    state = begun(status, length, head=head)
    assert dict(state.take_head(whole)["headers"]).get(b"content-length") == expected
    if length is None:
        state.finish()


@pytest.mark.spec("FR 27")
@pytest.mark.spec("PEP 3333", "Handling the Content-Length Header")
@pytest.mark.parametrize(
    "chunks", [[b"abcdef"], [b"ab", b"cdef"], [b"abc", b"def"], [bytes([c]) for c in b"abcdef"]]
)
def test_surplus_is_cut(chunks: list[bytes]) -> None:
    """No byte beyond the Content-Length is sent, however the body is cut, and the caller learns it."""
    state = begun("200 OK", 3)
    state.take_head()
    assert b"".join(state.feed(chunk) for chunk in chunks) == b"abc"
    assert state.surplus
    assert state.remaining == 0
    state.finish()


@pytest.mark.spec("FR 27")
@pytest.mark.parametrize("sent", [b"", b"abc"])
def test_shortfall_is_an_error(sent: bytes) -> None:
    """Fewer bytes than promised must not end as if they were all: the number that lacks is told."""
    state = begun("200 OK", 10)
    state.take_head()
    state.feed(sent)
    with pytest.raises(ApplicationProtocolError, match=f"^shop .*{10 - len(sent)} bytes short"):
        state.finish()


@pytest.mark.spec("FR 27")
def test_exact_length_is_no_surplus() -> None:
    """As many bytes as promised are neither cut nor complained about."""
    state = begun("200 OK", 3)
    state.take_head()
    assert state.feed(b"abc") + state.feed(b"") == b"abc"
    assert (state.surplus, state.remaining) == (False, 0)
    state.finish()


# The body.


@pytest.mark.spec("FR 28")
@pytest.mark.spec("RFC 9110", "section 6.4.1")
@pytest.mark.parametrize(
    ("status", "head", "allowed"),
    [
        ("200 OK", False, True),
        ("404 Not Found", False, True),
        ("200 OK", True, False),
        ("404 Not Found", True, False),
        ("204 No Content", False, False),
        ("304 Not Modified", False, False),
        ("304 Not Modified", True, False),
    ],
)
def test_statuses_and_methods_without_body(status: str, head: bool, allowed: bool) -> None:
    """To HEAD, and with 204 or 304, no byte of a body is sent, and none is missed."""
    state = begun(status, 4, head=head)
    state.take_head()
    assert state.body_allowed is allowed
    assert state.feed(b"body") == (b"body" if allowed else b"")
    assert state.remaining == (0 if allowed else None)
    assert not state.surplus
    state.finish()


@pytest.mark.spec("FR 28")
@pytest.mark.parametrize(("status", "head"), [("200 OK", True), ("304 Not Modified", False)])
def test_length_promised_but_not_owed(status: str, head: bool) -> None:
    """The length of a body that is not sent is no promise."""
    state = begun(status, 1000, head=head)
    state.take_head()
    state.finish()


@pytest.mark.spec("FR 26")
@pytest.mark.spec("PEP 3333", "A Note On String Types")
@pytest.mark.parametrize("chunk", ["text", "", None, 5, [b"a"], ("a",), array.array("B", b"a")])
def test_chunks_of_a_wrong_type(chunk: object) -> None:
    """What is not bytes is the application's mistake, told with its name and the type."""
    with pytest.raises(ApplicationProtocolError, match=r"^shop ") as caught:
        begun().feed(chunk)
    assert type(chunk).__name__ in str(caught.value)
    assert caught.value.clause


@pytest.mark.parametrize("make", [bytearray, memoryview])
def test_chunks_of_other_bytes_like_types(make: Any) -> None:
    """A bytearray or memoryview is copied at once, as its owner may write to it again."""
    source = bytearray(b"data")
    chunk = begun().feed(make(source))
    source[:] = b"XXXX"
    assert (type(chunk), chunk) == (bytes, b"data")


@pytest.mark.parametrize("send", SENDERS.values(), ids=SENDERS)
def test_pieces_go_through_unchanged(send: Any, rng: random.Random) -> None:
    """However a body is cut, with and without a length, what goes out is what came."""
    body = rng.randbytes(500) + b"\n" + rng.randbytes(500)
    for length in (None, len(body)):
        state = begun("200 OK", length)
        state.take_head()
        assert b"".join(state.feed(piece) for piece in send(body, rng)) == body
        state.finish()


@pytest.mark.spec("FR 12")
@pytest.mark.parametrize(
    ("status", "length", "head", "plain"),
    [
        ("200 OK", None, False, True),
        ("200 OK", 4, False, False),
        ("200 OK", None, True, False),
        ("204 No Content", None, False, False),
    ],
)
def test_plain_tells_when_chunks_pass_as_they_are(
    status: str, length: int | None, head: bool, plain: bool
) -> None:
    """Only a body without length and without ban needs no look at its chunks."""
    assert begun(status, length, head=head).plain is plain


def test_trailers_are_announced() -> None:
    """The head says that trailers follow only where they do (ASGI extensions, HTTP Trailers)."""
    assert begun().take_head(trailers=True)["trailers"] is True
    assert "trailers" not in begun().take_head()


def test_errors_are_worded_by_name() -> None:
    """The caller's own complaints name the application in the same way."""
    error = begun().error("did it again", "PEP 3333")
    assert type(error) is ApplicationProtocolError
    assert str(error) == "shop did it again [PEP 3333]"


# Any sequence of calls against a model.

STATUSES = {"200 OK": True, "201": True, "204 No Content": False, "304 Not Modified": False}


class Conversation(RuleBasedStateMachine):
    """An application that calls what it likes; the model is a few plain variables."""

    def __init__(self) -> None:
        super().__init__()
        self.head = False
        self.state = ResponseState(False, "shop")
        self.began = self.taken = False
        self.code = 0
        self.owed: int | None = None
        self.with_body = True
        self.sent = b""
        self.surplus = False

    @precondition(lambda self: not self.began)
    @rule()
    def as_head_request(self) -> None:
        """Let the request be HEAD from here on."""
        self.head = True
        self.state = ResponseState(True, "shop")

    @rule(
        status=st.sampled_from(sorted(STATUSES)),
        length=st.none() | st.integers(0, 8),
        failing=st.booleans(),
    )
    def start(self, status: str, length: int | None, failing: bool) -> None:
        """Call start_response, while handling an exception or not."""
        headers = [] if length is None else [("Content-Length", str(length))]
        error = ValueError("the application's")
        if self.taken and failing:
            with pytest.raises(ValueError, match="the application's"):
                self.state.start(status, headers, exc_info(error))
        elif self.began and not failing:
            with pytest.raises(ApplicationProtocolError, match="twice"):
                self.state.start(status, headers)
        else:
            self.state.start(status, headers, exc_info(error) if failing else None)
            self.began = True
            self.code = int(status[:3])
            self.with_body = STATUSES[status] and not self.head
            self.owed = length

    @rule(status=st.sampled_from(["", "abc", "199 Low"]))
    def start_badly(self, status: str) -> None:
        """Call start_response with nonsense: refused, and nothing changes."""
        with pytest.raises(ApplicationProtocolError):
            self.state.start(status, [])

    @rule(chunk=st.binary(max_size=6))
    def feed(self, chunk: bytes) -> None:
        """Produce a chunk."""
        if not self.began:
            with pytest.raises(ApplicationProtocolError, match="without calling"):
                self.state.feed(chunk)
            return
        expected = chunk if self.with_body else b""
        if self.with_body and self.owed is not None:
            self.surplus = self.surplus or len(chunk) > self.owed
            expected = chunk[: self.owed]
            self.owed -= len(expected)
        assert self.state.feed(chunk) == expected

    @rule(chunk=st.sampled_from(["text", None, 1]))
    def feed_badly(self, chunk: object) -> None:
        """Produce what is not bytes: refused, and nothing changes."""
        with pytest.raises(ApplicationProtocolError):
            self.state.feed(chunk)

    @precondition(lambda self: not self.taken)
    @rule(whole=st.none() | st.integers(0, 8))
    def take_head(self, whole: int | None) -> None:
        """Send the head."""
        if not self.began:
            with pytest.raises(ApplicationProtocolError, match="without calling"):
                self.state.take_head(whole)
            return
        if self.owed is None and self.with_body:
            self.owed = whole
        lengths = [
            value
            for name, value in self.state.take_head(whole)["headers"]
            if name == b"content-length"
        ]
        assert len(lengths) <= 1
        assert not (lengths and self.code == 204)
        assert lengths or self.owed is None or self.code == 204
        self.taken = True

    @rule()
    def finish(self) -> None:
        """End the body, as often as one likes: the answer depends on what is owed."""
        if self.with_body and self.owed:
            with pytest.raises(ApplicationProtocolError, match=f" {self.owed} bytes short"):
                self.state.finish()
        else:
            self.state.finish()

    @invariant()
    def what_is_shown_is_what_the_model_says(self) -> None:
        """The attributes agree with the model after each call."""
        assert self.state.status == self.code
        assert self.state.head_taken == self.taken
        assert self.state.surplus == self.surplus
        if self.began:
            assert self.state.body_allowed == self.with_body
            assert self.state.remaining == (self.owed if self.with_body else None)
            assert self.state.plain == (self.owed is None and self.with_body)


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=60, stateful_step_count=12)
TestConversation = pytest.mark.slow(
    pytest.mark.spec("PEP 3333", "The start_response() Callable")(TestConversation)
)


@pytest.mark.spec("FR 27")
@given(st.integers(0, 20), st.lists(st.binary(max_size=6)))
def test_never_more_than_promised(length: int, chunks: list[bytes]) -> None:
    """Whatever is produced, what is sent is its beginning, up to the Content-Length."""
    state = begun("200 OK", length)
    state.take_head()
    body = b"".join(chunks)
    assert b"".join(map(state.feed, chunks)) == body[:length]
    assert state.surplus == (len(body) > length)
    if len(body) < length:
        with pytest.raises(ApplicationProtocolError):
            state.finish()
    else:
        state.finish()
