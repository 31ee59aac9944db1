"""The order of ASGI response messages: what may come when, what is sent, and whose mistake the rest is."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.errors import ApplicationProtocolError
from bridges.translate.response_events import (
    EarlyHint,
    ResponseEvents,
    SendFile,
    SendPath,
    Trailers,
)

TEXT = [(b"content-type", b"text/plain")]
HINT, PATH = "http.response.early_hint", "http.response.pathsend"
FILE, TRAILERS = "http.response.zerocopysend", "http.response.trailers"
ALL = frozenset({HINT, PATH, FILE, TRAILERS})


def start(status: Any = 200, headers: Any = TEXT, **keys: Any) -> dict[str, Any]:
    """Give a message that starts a response."""
    return {"type": "http.response.start", "status": status, "headers": headers, **keys}


def body(data: Any = b"", more: bool = False) -> dict[str, Any]:
    """Give a message with a piece of the body."""
    return {"type": "http.response.body", "body": data, "more_body": more}


def begun(
    status: int = 200, length: int | None = None, *, head: bool = False, **keys: Any
) -> ResponseEvents:
    """Give the events of a response after its start, with a Content-Length if given."""
    events = ResponseEvents(head, "shop", ALL)
    fields = TEXT if length is None else [*TEXT, (b"content-length", b"%d" % length)]
    events.start(start(status, fields, **keys))
    return events


def mistake(call: Callable[[], object], said: str) -> None:
    """Check that a call is a mistake of the application, told by name and clause."""
    with pytest.raises(ApplicationProtocolError, match=f"^shop .*{said}") as caught:
        call()
    assert caught.value.clause
    assert len(str(caught.value)) < 500


# The head.


@pytest.mark.spec("FR 57")
@pytest.mark.spec("ASGI HTTP 2.5", "Response Start")
def test_head_is_what_start_response_takes() -> None:
    """The head is a status line and native strings."""
    events = ResponseEvents(False, "shop", ())
    assert not events.started
    events.start(start(201, [*TEXT, (b"X-A", b" caf\xe9 ")]))
    assert events.started
    assert not events.head_taken
    assert events.take_head() == (
        "201 Created",
        [("content-type", "text/plain"), ("x-a", "café")],
    )
    assert events.head_taken


@pytest.mark.spec("FR 57")
@pytest.mark.parametrize("message", [{"status": 200}, {"status": 200, "headers": None}])
def test_headers_are_optional(message: dict[str, Any]) -> None:
    """A start without headers is a response without headers."""
    events = ResponseEvents(False, "shop", ())
    events.start({"type": "http.response.start", **message})
    assert events.take_head() == ("200 OK", [])


@pytest.mark.spec("FR 71")
@pytest.mark.parametrize(
    ("status", "line"),
    [(HTTPStatus.NOT_FOUND, "404 Not Found"), (299, "299 Unknown"), (599, "599 Unknown")],
)
def test_any_final_status(status: int, line: str) -> None:
    """Codes without a registered reason, and members of HTTPStatus, are codes like others."""
    assert begun(status).take_head()[0] == line


@pytest.mark.spec("FR 68")
@pytest.mark.spec("ASGI HTTP 2.5", "Response Start")
@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({}, "status"),
        (start(None), "int"),
        (start("200 OK"), "int"),
        (start(99), "100 to 999"),
        (start(1000), "100 to 999"),
        (start(103), "interim"),
        (start(headers=[("a", "b")]), "bytes"),
        (start(headers=5), "pairs"),
        (start(headers=[(b"a b", b"c")]), "token"),
        (start(headers=[(b"a", b"b\r\nc: d")]), "CR, LF"),
        (start(headers=[(b"content-length", b"x")]), "Content-Length"),
        (start(headers=[(b"content-length", b"1"), (b"content-length", b"2")]), "differing"),
    ],
)
def test_bad_start_is_told_by_name_and_rule(message: dict[str, Any], said: str) -> None:
    """The error says what was wrong, and a better message may follow."""
    events = ResponseEvents(False, "shop", ALL)
    mistake(lambda: events.start(message), said)
    assert not events.started
    events.start(start(500))
    assert events.take_head()[0] == "500 Internal Server Error"


@pytest.mark.spec("FR 68")
def test_second_start_is_an_error() -> None:
    """The first one stands."""
    events = begun(201)
    mistake(lambda: events.start(start(200)), "twice")
    assert events.take_head()[0] == "201 Created"


@pytest.mark.spec("FR 58")
def test_no_head_before_start() -> None:
    """A head cannot be taken that was not given."""
    events = ResponseEvents(False, "shop", ALL)
    mistake(events.take_head, "http.response.start")
    assert not events.head_taken


@pytest.mark.spec("FR 24")
def test_hop_by_hop_fields_are_dropped_and_named() -> None:
    """The connection is the server's; the caller learns what to warn of."""
    events = ResponseEvents(False, "shop", ALL)
    events.start(start(headers=[(b"Connection", b"close"), *TEXT]))
    assert events.take_head()[1] == [("content-type", "text/plain")]
    assert events.dropped_headers == ["connection"]


@pytest.mark.spec("RFC 9110", "section 8.6")
@pytest.mark.parametrize(
    ("status", "head", "length", "whole", "expected"),
    [
        (200, False, None, 5, ["5"]),
        (200, False, None, 0, ["0"]),
        (200, False, None, None, []),
        (200, False, 5, 5, ["5"]),
        (200, True, None, 0, []),
        (200, True, 5, 0, ["5"]),
        (304, False, None, 0, []),
        (304, False, 5, 0, ["5"]),
        (204, False, None, 0, []),
        (204, False, 5, 0, []),
        (204, True, 5, 0, []),
    ],
)
def test_content_length_of_the_head(
    status: int, head: bool, length: int | None, whole: int | None, expected: list[str]
) -> None:
    """A whole body gets the length that the application left out, unless there can be none."""
    events = begun(status, length, head=head)
    events.body(body(b"x" * 5))
    headers = events.take_head(whole)[1]
    assert [value for name, value in headers if name == "content-length"] == expected


# The body.


@pytest.mark.spec("ASGI HTTP 2.5", "Response Body")
def test_chunks_pass_until_the_last() -> None:
    """Each piece is what may be sent; the last one completes the response."""
    events = begun()
    assert events.body(body(b"a", True)) == b"a"
    assert (events.body_ended, events.complete) == (False, False)
    assert events.body(body(b"b")) == b"b"
    assert (events.body_ended, events.complete) == (True, True)
    events.finish()


@pytest.mark.spec("ASGI HTTP 2.5", "Response Body")
def test_body_and_more_body_are_optional() -> None:
    """A message with nothing in it is the empty end."""
    events = begun()
    assert events.body({"type": "http.response.body"}) == b""
    assert events.complete


@pytest.mark.parametrize("data", [bytearray(b"ab"), memoryview(b"ab"), memoryview(b"a.b.")[::2]])
def test_other_containers_of_bytes(data: Any) -> None:
    """What holds bytes is sent as bytes."""
    chunk = begun().body(body(data))
    assert type(chunk) is bytes
    assert chunk == b"ab"


@pytest.mark.spec("FR 68")
@pytest.mark.parametrize("data", ["text", None, 5, [b"a"]], ids=repr)
def test_body_must_be_bytes(data: object) -> None:
    """Another type is told, and what follows may still be right."""
    events = begun()
    mistake(lambda: events.body(body(data)), type(data).__name__)
    assert events.body(body(b"a")) == b"a"


@pytest.mark.spec("FR 68")
def test_body_before_start_is_an_error() -> None:
    """There is no body without a head."""
    events = ResponseEvents(False, "shop", ALL)
    mistake(lambda: events.body(body(b"a")), "before http.response.start")
    assert not events.body_ended


@pytest.mark.spec("FR 68")
def test_body_after_the_end_is_an_error() -> None:
    """What comes after more_body=False would be lost in silence."""
    events = begun()
    events.body(body())
    mistake(lambda: events.body(body(b"a")), "after its response was complete")


@pytest.mark.spec("RFC 9110", "section 6.4.1")
@pytest.mark.parametrize(("status", "head"), [(200, True), (204, False), (304, False), (304, True)])
def test_no_body_where_none_is_allowed(status: int, head: bool) -> None:
    """The pieces are taken, so that the order holds, and not sent; no length binds them."""
    events = begun(status, 5, head=head)
    assert not events.body_allowed
    assert events.remaining is None
    assert [events.body(body(b"abc", True)), events.body(body(b"defgh"))] == [b"", b""]
    events.finish()


@pytest.mark.spec("RFC 9110", "section 8.6")
def test_length_is_kept_count_of() -> None:
    """What the Content-Length still promises is known after every piece."""
    events = begun(length=3)
    seen = [events.remaining]
    for data, more in ((b"ab", True), (b"", True), (b"c", False)):
        events.body(body(data, more))
        seen.append(events.remaining)
    assert seen == [3, 1, 1, 0]
    events.finish()


@pytest.mark.spec("RFC 9110", "section 8.6")
@pytest.mark.parametrize("more", [False, True])
def test_more_than_the_length_is_an_error(more: bool) -> None:
    """Surplus bytes would be the head of the next response."""
    events = begun(length=3)
    events.body(body(b"ab", True))
    mistake(lambda: events.body(body(b"cd", more)), "1 bytes more")
    assert (events.remaining, events.complete) == (1, False)


@pytest.mark.spec("RFC 9110", "section 8.6")
def test_less_than_the_length_is_an_error() -> None:
    """The end that comes early is refused, and the response stays open."""
    events = begun(length=3)
    mistake(lambda: events.body(body(b"a")), "2 bytes short")
    assert not events.complete
    mistake(events.finish, "without ending")


# The end.


@pytest.mark.spec("FR 58")
@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "without a response"),
        ([start()], "without ending"),
        ([start(), body(b"a", True)], "without ending"),
        ([start(trailers=True), body()], "trailers"),
    ],
)
def test_application_that_returns_too_early(messages: list[dict[str, Any]], said: str) -> None:
    """Each way of leaving a response unfinished is told apart."""
    events = ResponseEvents(False, "shop", ALL)
    for message in messages:
        (events.body if message["type"].endswith("body") else events.start)(message)
    mistake(events.finish, said)


# Extensions.


@pytest.mark.spec("FR 68")
@pytest.mark.spec("FR 70")
@pytest.mark.parametrize(
    "kind",
    ["http.response.push", "http.response.debug", "websocket.send", "x" * 10_000, None, 5, []],
    ids=lambda kind: repr(kind)[:20],
)
def test_unknown_type_is_an_error(kind: object) -> None:
    """The type is shown, and nothing has happened."""
    events = begun()
    mistake(lambda: events.extension({"type": kind}), "sent a message of type")
    assert events.body(body(b"a")) == b"a"


@pytest.mark.spec("FR 70")
@pytest.mark.parametrize("kind", sorted(ALL))
def test_extension_that_was_not_offered_is_an_error(kind: str) -> None:
    """An application may use what its scope holds, and no more."""
    events = ResponseEvents(False, "shop", ALL - {kind})
    events.start(start(trailers=True))
    message = {"type": kind, "path": "/a", "file": 0, "links": [], "headers": []}
    mistake(lambda: events.extension(message), kind)


@pytest.mark.spec("FR 70")
def test_offer_of_something_else_is_no_extension_of_messages() -> None:
    """Names in the extensions that are no message types stay unknown types."""
    events = ResponseEvents(False, "shop", {"tls": {}, "wsgi.environ": {}})
    mistake(lambda: events.extension({"type": "tls"}), "tls")


@pytest.mark.spec("FR 70")
@pytest.mark.parametrize("begin", [False, True])
def test_early_hint(begin: bool) -> None:
    """Links are sent before the head, which may be known already; they change nothing else."""
    events = begun() if begin else ResponseEvents(False, "shop", ALL)
    message = {"type": HINT, "links": iter([b"</a.css>; rel=preload", b"</b.js>"])}
    assert events.extension(message) == EarlyHint(
        [("link", "</a.css>; rel=preload"), ("link", "</b.js>")]
    )
    assert events.started is begin


@pytest.mark.spec("FR 70")
@pytest.mark.spec("RFC 9110", "section 15.2")
def test_early_hint_after_the_head_left() -> None:
    """An interim response cannot follow the final head."""
    events = begun()
    events.take_head()
    mistake(lambda: events.extension({"type": HINT, "links": [b"</a>"]}), "after the head")


@pytest.mark.spec("FR 70")
@pytest.mark.parametrize("links", [None, b"</a>", "</a>", ["</a>"], [b"a\r\nb: c"], [5]], ids=repr)
def test_malformed_links(links: object) -> None:
    """Links are bytes that split no message."""
    mistake(lambda: begun().extension({"type": HINT, "links": links}), "early hint")


@pytest.mark.spec("FR 106")
def test_path_is_the_whole_body() -> None:
    """The file ends the body; whoever reads it checks its length against the promised one."""
    events = begun(length=3)
    assert events.extension({"type": PATH, "path": "/a"}) == SendPath("/a", 3)
    assert (events.body_ended, events.complete, events.remaining) == (True, True, None)
    events.finish()


@pytest.mark.spec("FR 106")
@pytest.mark.parametrize("path", [None, b"/a", "", "/a\0b", Path("/a"), 0], ids=repr)
def test_malformed_path(path: object) -> None:
    """A path is a str that an operating system can open."""
    events = begun()
    mistake(lambda: events.extension({"type": PATH, "path": path}), "no path")
    assert not events.body_ended


@pytest.mark.spec("FR 106")
@pytest.mark.parametrize("kind", [PATH, FILE])
def test_files_out_of_order(kind: str) -> None:
    """A file is a body: it needs a head before it and no end."""
    message = {"type": kind, "path": "/a", "file": 0}
    events = ResponseEvents(False, "shop", ALL)
    mistake(lambda: events.extension(message), "before http.response.start")
    events.start(start())
    events.body(body())
    mistake(lambda: events.extension(message), "after its response was complete")


@pytest.mark.spec("FR 106")
@pytest.mark.spec("ASGI Extensions", "Path Send")
@pytest.mark.parametrize("first", [body(b"a", True), {"type": FILE, "file": 0, "more_body": True}])
def test_path_does_not_mix_with_a_body(first: dict[str, Any]) -> None:
    """A path after a part of the body is an error."""
    events = begun()
    (events.body if first["type"] == "http.response.body" else events.extension)(first)
    mistake(lambda: events.extension({"type": PATH, "path": "/a"}), "after a part")


@pytest.mark.spec("FR 106")
@pytest.mark.spec("ASGI Extensions", "Zero Copy Send")
def test_parts_of_files_mix_with_chunks() -> None:
    """Parts count as body; the last one ends it."""
    events = begun(length=6)
    message = {"type": FILE, "file": 7, "offset": 2, "count": 3, "more_body": True}
    assert events.extension(message) == SendFile(7, 2, 3, True)
    assert events.remaining == 3
    assert events.body(body(b"a", True)) == b"a"
    assert events.extension({"type": FILE, "file": 7, "count": 2}) == SendFile(7, None, 2, False)
    assert events.complete
    events.finish()


@pytest.mark.spec("FR 106")
def test_file_up_to_its_end() -> None:
    """Without a count it is all that the Content-Length still promises, or all that there is."""
    events = begun(length=6)
    assert events.body({"type": "http.response.body", "body": b"ab", "more_body": True}) == b"ab"
    assert events.extension({"type": FILE, "file": 7}) == SendFile(7, None, 4, False)
    events.finish()
    events = begun()
    assert events.extension({"type": FILE, "file": 7}) == SendFile(7, None, None, False)
    events.finish()


@pytest.mark.spec("FR 106")
def test_file_without_a_count_within_a_body_of_known_length() -> None:
    """What follows it could not be held to the Content-Length."""
    events = begun(length=6)
    mistake(lambda: events.extension({"type": FILE, "file": 7, "more_body": True}), "without count")


@pytest.mark.spec("FR 106")
@pytest.mark.parametrize(("count", "said"), [(4, "1 bytes more"), (2, "1 bytes short")])
def test_count_in_conflict_with_the_length(count: int, said: str) -> None:
    """A part of a file is held to the Content-Length as a chunk is."""
    events = begun(length=3)
    mistake(lambda: events.extension({"type": FILE, "file": 7, "count": count}), said)
    assert (events.remaining, events.complete) == (3, False)


@pytest.mark.spec("FR 106")
def test_open_file_object(tmp_path: Path) -> None:
    """A file object stands for its descriptor."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        event = begun().extension({"type": FILE, "file": file})
        assert isinstance(event, SendFile)
        assert event.file == file.fileno()


@pytest.mark.spec("FR 106")
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"file": None},
        {"file": -1},
        {"file": "name"},
        {"file": io.BytesIO(b"x")},
        {"file": 7, "offset": -1},
        {"file": 7, "offset": "1"},
        {"file": 7, "count": -1},
        {"file": 7, "count": 1.5},
    ],
    ids=repr,
)
def test_malformed_file(keys: dict[str, Any]) -> None:
    """A file has a descriptor, and a part of it lies somewhere."""
    events = begun()
    mistake(lambda: events.extension({"type": FILE, **keys}), "zerocopysend whose")
    assert not events.body_ended


@pytest.mark.parametrize("kind", [PATH, FILE])
def test_file_for_head_is_named_but_not_allowed(kind: str) -> None:
    """The response to HEAD ends in order; the caller sees that no file may be sent."""
    events = begun(length=6, head=True)
    events.extension({"type": kind, "path": "/a", "file": 7, "count": 1})
    assert not events.body_allowed
    events.finish()


@pytest.mark.spec("FR 70")
@pytest.mark.spec("ASGI Extensions", "HTTP Trailers")
def test_trailers_complete_the_response() -> None:
    """Announced trailers come after the body, in one message or several."""
    events = begun(trailers=True)
    assert events.wants_trailers
    events.body(body(b"a"))
    assert (events.body_ended, events.complete) == (True, False)
    first = {"type": TRAILERS, "headers": [(b"A", b"1")], "more_trailers": True}
    assert events.extension(first) == Trailers([("a", "1")], True)
    assert not events.complete
    assert events.extension({"type": TRAILERS}) == Trailers([], False)
    assert events.complete
    events.finish()


@pytest.mark.spec("FR 70")
def test_trailers_out_of_order() -> None:
    """Not without announcement, not before the end of the body, not after the last."""
    trailers = {"type": TRAILERS, "headers": []}
    plain = begun()
    plain.body(body())
    mistake(lambda: plain.extension(trailers), "did not announce")
    events = begun(trailers=True)
    mistake(lambda: events.extension(trailers), "before the end")
    events.body(body())
    events.extension(trailers)
    mistake(lambda: events.extension(trailers), "twice")


@pytest.mark.spec("FR 70")
@pytest.mark.spec("RFC 9110", "section 6.5.1")
@pytest.mark.parametrize("headers", [[(b"content-length", b"1")], [(b"a", b"\n")], [("a", "b")], 5])
def test_malformed_trailers(headers: object) -> None:
    """Trailers are fields that do not frame the message."""
    events = begun(trailers=True)
    events.body(body())
    mistake(lambda: events.extension({"type": TRAILERS, "headers": headers}), "trailers")
    assert not events.complete


@pytest.mark.spec("FR 70")
def test_trailers_that_the_host_cannot_send_are_not_waited_for() -> None:
    """The response is complete without them."""
    events = ResponseEvents(False, "shop", ALL - {TRAILERS})
    events.start(start(trailers=True))
    events.body(body())
    assert not events.wants_trailers
    events.finish()


# Any order of any messages.

MESSAGES = st.sampled_from(
    [
        start(),
        start(204),
        start(trailers=True),
        start("bad"),
        start(headers=[(b"content-length", b"3")]),
        body(),
        body(b"ab", True),
        body(b"abc"),
        body("bad"),
        {"type": HINT, "links": [b"</a>"]},
        {"type": PATH, "path": "/a"},
        {"type": FILE, "file": 7, "count": 1, "more_body": True},
        {"type": FILE, "file": 7},
        {"type": TRAILERS, "headers": [], "more_trailers": True},
        {"type": TRAILERS, "headers": []},
        {"type": "unknown"},
    ]
)


@pytest.mark.spec("FR 68")
@given(st.lists(MESSAGES, max_size=8), st.booleans())
def test_any_order_is_valid_or_the_applications_mistake(
    messages: list[dict[str, Any]], head: bool
) -> None:
    """Nothing but an ApplicationProtocolError is raised, refused messages change nothing, and ends stay."""
    events = ResponseEvents(head, "shop", ALL)
    calls = {"http.response.start": events.start, "http.response.body": events.body}
    for message in messages:
        before = vars(events).copy()
        body_ended, complete = events.body_ended, events.complete
        try:
            calls.get(message["type"], events.extension)(message)
        except ApplicationProtocolError:
            assert vars(events) == before
        assert events.body_ended >= events.complete
        assert events.body_ended >= body_ended
        assert events.complete >= complete
        assert events.started or not events.body_ended
    if events.complete:
        events.finish()
    else:
        mistake(events.finish, "returned without")


def test_a_mistake_leaves_no_reference_cycle() -> None:
    """Errors on the request path are freed at once, not when the collector comes by."""

    def alive() -> int:
        return sum(type(found) is ResponseEvents for found in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = alive()
        for _ in range(10):
            events = begun()
            with pytest.raises(ApplicationProtocolError):
                events.start(start())
            del events
        assert alive() == before
    finally:
        gc.enable()
