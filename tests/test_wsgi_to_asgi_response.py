"""The response under ``WSGIToASGI``: head, chunks, ``write``, ``close``, and what becomes of mistakes."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import anyio
import pytest
from apps.plain import CASES, Case
from driver import (
    FakeServer,
    assert_all_threads_free,
    content_length,
    end_pool,
    request,
    server_for,
    until,
)

from bridges import WSGIToASGI, errors
from bridges.typing import Environ, Message, StartResponse


def giving(
    result: Any, status: str = "200 OK", headers: Iterable[tuple[str, str]] = ()
) -> Callable[[Environ, StartResponse], Any]:
    """Make an application that answers with ``result``."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response(status, list(headers))
        return result

    return app


class Body:
    """An iterable, not its own iterator, that counts its ``close`` and notes the threads it was used in."""

    def __init__(self, chunks: Iterable[Any], then: BaseException | None = None) -> None:
        self.chunks = chunks
        self.then = then
        self.closed = 0
        self.pulled = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[Any]:
        self.threads.add(threading.get_ident())
        for chunk in self.chunks:
            self.pulled += 1
            self.threads.add(threading.get_ident())
            yield chunk
        if self.then is not None:
            raise self.then

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed += 1


async def fails(
    app: Any, expected: Any, method: str = "GET", match: str | None = None
) -> FakeServer:
    """Make a request in which the adapter must raise ``expected``, and show that no thread is lost."""
    adapter = WSGIToASGI(app, max_threads=1)
    server = server_for(method)
    with pytest.raises(expected, match=match):
        await server.serve(adapter)
    assert not server.complete
    await assert_all_threads_free(adapter)
    end_pool(adapter)
    return server


@pytest.mark.spec("PEP 3333", "The Application/Framework Side")
@pytest.mark.parametrize("name", CASES)
async def test_well_behaved_applications_get_their_answers_across(name: str) -> None:
    """Each lawful way to answer arrives as it was meant."""
    case: Case = CASES[name]
    headers = [content_length(len(case.body))] if case.body is not None else []
    body = [case.body] if case.body is not None else None
    server = await request(WSGIToASGI(case.app), case.method, body=body, headers=headers)
    assert (server.status, server.body) == (case.status, case.answer)


@pytest.mark.spec("FR 11")
@pytest.mark.spec("FR 92")
@pytest.mark.parametrize("chunks", [[], [b""], [b"a"], [b"a", b"", b"b"]])
async def test_close_is_called_once_at_the_end(chunks: list[bytes]) -> None:
    """``close()`` of the object that the application returned runs once, in the thread of the iteration."""
    body = Body(chunks)
    server = await request(WSGIToASGI(giving(body)))
    assert server.body == b"".join(chunks)
    assert body.closed == 1
    assert len(body.threads) == 1


@pytest.mark.spec("FR 11")
async def test_close_of_a_list_is_called() -> None:
    """A subclass of list with ``close`` is closed as any other iterable."""

    class Items(list[bytes]):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    items = Items([b"a", b"b"])
    server = await request(WSGIToASGI(giving(items)))
    assert (server.body, items.closed) == (b"ab", 1)


@pytest.mark.spec("FR 11")
@pytest.mark.parametrize("chunks", [[], [b"a"]])
async def test_close_is_called_once_when_the_iteration_raises(chunks: list[bytes]) -> None:
    """An error of the iteration reaches the server after ``close()``."""
    body = Body(chunks, KeyError("broken"))
    await fails(giving(body), KeyError)
    assert body.closed == 1
    assert len(body.threads) == 1


@pytest.mark.spec("FR 11")
async def test_an_error_of_close_reaches_the_server() -> None:
    """What ``close()`` raises is not swallowed, and no second call is made."""

    class Bad(Body):
        def close(self) -> None:
            super().close()
            raise RuntimeError("close failed")

    body = Bad([b"a"])
    adapter = WSGIToASGI(giving(body), max_threads=1)
    with pytest.raises(RuntimeError, match="close failed"):
        await server_for().serve(adapter)
    assert body.closed == 1
    await assert_all_threads_free(adapter)
    end_pool(adapter)


@pytest.mark.spec("PEP 3333", "Specification Details")
@pytest.mark.parametrize("chunks", [[], [b"a"], [b"a", b"b", b"c"], [b"", b"a"]])
async def test_an_iterator_is_not_asked_beyond_its_end(chunks: list[bytes]) -> None:
    """``next()`` is called once for each chunk and once for the end: a second end may block or raise."""

    class Counting:
        def __init__(self) -> None:
            self.asked = 0
            self._chunks = iter(chunks)

        def __iter__(self) -> Counting:
            return self

        def __next__(self) -> bytes:
            self.asked += 1
            return next(self._chunks)

    result = Counting()
    server = await request(WSGIToASGI(giving(result)))
    assert server.body == b"".join(chunks)
    assert result.asked == len(chunks) + 1


@pytest.mark.spec("FR 12")
async def test_nothing_is_sent_when_the_application_raises_after_start_response() -> None:
    """The head waits for the first chunk, so that the server can still answer 500."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        raise ValueError("after start_response")

    server = await fails(app, ValueError, match="after start_response")
    assert server.sends == 0


@pytest.mark.spec("FR 12")
@pytest.mark.parametrize("kind", [list, tuple, iter])
async def test_empty_chunks_are_not_forwarded(kind: Callable[[list[bytes]], Any]) -> None:
    """Empty chunks become no messages; ``FakeServer`` refuses them."""
    server = await request(WSGIToASGI(giving(kind([b"", b"", b"a", b""]))))
    assert server.body == b"a"
    assert sum(1 for message in server.of_type("http.response.body") if message["body"]) == 1


@pytest.mark.spec("FR 12")
async def test_an_empty_chunk_does_not_send_the_head() -> None:
    """A generator that yields ``b""`` and fails is answered by the server's own 500."""
    server = await fails(giving(Body([b"", b""], ValueError("late"))), ValueError)
    assert server.sends == 0


@pytest.mark.spec("FR 13")
@pytest.mark.parametrize("as_generator", [True, False])
async def test_exc_info_before_output_replaces_the_head(as_generator: bool) -> None:
    """Status and headers of the second call go out, nothing of the first."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("X-First", "1"), ("Content-Length", "3")])
        try:
            raise RuntimeError("oops")
        except RuntimeError:
            start_response("500 Broken", [("X-Second", "2")], sys.exc_info())
        return iter([b"error page"]) if as_generator else [b"error page"]

    server = await request(WSGIToASGI(app))
    assert (server.status, server.body) == (500, b"error page")
    assert server.header(b"x-first") is None
    assert server.header(b"x-second") == b"2"


@pytest.mark.spec("FR 14")
async def test_exc_info_after_output_raises_the_given_exception() -> None:
    """The exception rises inside the application, with its traceback, and the response is cut."""
    seen: list[bool] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"begun"
        try:
            raise LookupError("mid-stream")
        except LookupError as original:
            try:
                start_response("500 Broken", [], sys.exc_info())
            except LookupError as again:
                seen.append(again is original)
                raise

    server = await fails(app, LookupError, match="mid-stream")
    assert seen == [True]
    assert server.body == b"begun"


@pytest.mark.spec("FR 14")
async def test_exc_info_of_none_is_no_exc_info() -> None:
    """``start_response(status, headers, None)`` is a plain first call."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [], None)
        return [b"fine"]

    assert (await request(WSGIToASGI(app))).body == b"fine"


@pytest.mark.spec("FR 15")
async def test_a_second_start_response_is_an_error_inside_the_application() -> None:
    """It rises in the application, names it and the clause, and nothing of either head is sent."""
    caught: list[str] = []

    def twice(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        try:
            start_response("404 Not Found", [])
        except errors.ApplicationProtocolError as error:
            caught.append(str(error))
            raise
        return []

    server = await fails(twice, errors.ApplicationProtocolError)
    assert "twice" in caught[0]
    assert "start_response()" in caught[0]
    assert "PEP 3333" in caught[0]
    assert server.sends == 0


def never_starts(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return [b"data"]


def never_starts_lazily(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    yield b"data"


def never_starts_nor_answers(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return []


def gives_none(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [])


@pytest.mark.spec("FR 16")
@pytest.mark.parametrize("app", [never_starts, never_starts_lazily, never_starts_nor_answers])
async def test_a_body_without_start_response_is_a_clear_error(app: Any) -> None:
    """The error names the application and the mistake, and the server can answer 500."""
    server = await fails(app, errors.ApplicationProtocolError, match=f"{app.__name__}.*without")
    assert server.sends == 0


@pytest.mark.spec("issue 2", "7. Bad input")
async def test_an_application_that_returns_nothing_is_an_error() -> None:
    """``None`` in place of an iterable is an error, not an empty body."""
    server = await fails(gives_none, (TypeError, errors.ApplicationProtocolError))
    assert server.sends == 0


@pytest.mark.spec("FR 17")
async def test_a_generator_may_start_the_response_in_its_first_step() -> None:
    """The head is asked for when the first chunk is there, not before."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("201 Created", [("X-Late", "yes")])
        yield b"made"

    server = await request(WSGIToASGI(app))
    assert (server.status, server.header(b"x-late"), server.body) == (201, b"yes", b"made")


@pytest.mark.spec("FR 18")
async def test_write_comes_before_the_iterable_in_order() -> None:
    """Chunks of ``write()`` and of the iterable arrive in the order in which they were made."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response("200 OK", [])
        write(b"1")
        write(b"")
        yield b"2"
        write(b"3")
        yield b"4"

    assert (await request(WSGIToASGI(app))).body == b"1234"


@pytest.mark.spec("FR 18")
async def test_write_leaves_at_once_and_before_the_application_returns() -> None:
    """``write()`` transmits: the client has the data while the application still runs."""
    arrived = threading.Event()

    async def on_send(number: int, message: Message) -> None:
        if message.get("body") == b"now":
            arrived.set()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])(b"now")
        assert arrived.wait(10)
        return [b"later"]

    assert (await request(WSGIToASGI(app), on_send=on_send)).body == b"nowlater"


@pytest.mark.spec("FR 18")
async def test_write_from_several_places_keeps_to_the_content_length() -> None:
    """Lists, generators and ``write`` count towards one Content-Length."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", [("Content-Length", "9")])
        for word in (b"one", b"two"):
            write(word)
        return [b"six"]

    assert (await request(WSGIToASGI(app))).body == b"onetwosix"


@pytest.mark.spec("FR 19")
@pytest.mark.parametrize("result", [[], (), iter(()), [b""]])
async def test_an_empty_iterable_still_sends_the_head(result: Any) -> None:
    """A redirect without a body is a head and one final message."""
    app = giving(result, "302 Found", [("Location", "/elsewhere")])
    server = await request(WSGIToASGI(app))
    assert (server.status, server.header(b"location"), server.body) == (302, b"/elsewhere", b"")
    assert [message["type"] for message in server.sent] == [
        "http.response.start",
        "http.response.body",
    ]


@pytest.mark.spec("FR 20")
async def test_a_list_of_one_item_gets_a_content_length() -> None:
    """The length of a body that is whole is known, and is not made up for a generator."""
    assert (await request(WSGIToASGI(giving([b"12345"])))).header(b"content-length") == b"5"
    assert (await request(WSGIToASGI(giving(iter([b"12345"]))))).header(b"content-length") is None


@pytest.mark.spec("FR 20")
async def test_the_applications_own_content_length_stays() -> None:
    """Nothing is added where the application has said it."""
    server = await request(WSGIToASGI(giving([b"abc"], headers=[("Content-Length", "3")])))
    assert server.header(b"content-length") == b"3"


@pytest.mark.spec("FR 21")
@pytest.mark.parametrize(("status", "code"), [("200", 200), ("200 ", 200), ("599 Odd", 599)])
async def test_a_status_without_reason_is_accepted(status: str, code: int) -> None:
    """The reason phrase may be missing."""
    assert (await request(WSGIToASGI(giving([b"x"], status)))).status == code


@pytest.mark.spec("FR 21")
@pytest.mark.parametrize("status", ["abc", "", "20", "2000 OK", "100 Continue", 200, None, b"200"])
async def test_a_malformed_status_is_a_clear_error(status: Any) -> None:
    """The error quotes what was given and the client can get a 500."""
    server = await fails(giving([b"x"], status), errors.ApplicationProtocolError, match="status")
    assert server.sends == 0


@pytest.mark.spec("FR 22")
async def test_latin1_header_values_arrive_as_their_bytes() -> None:
    """Native strings of latin-1 code points become those bytes."""
    server = await request(WSGIToASGI(giving([b""], headers=[("X-Name", "café")])))
    assert server.header(b"x-name") == b"caf\xe9"


@pytest.mark.spec("FR 22")
async def test_header_values_beyond_latin1_are_a_clear_error() -> None:
    """What does not fit into latin-1 is named, nothing hangs, and no half answer leaves."""
    server = await fails(
        giving([b""], headers=[("X-Name", "日本")]),
        errors.ApplicationProtocolError,
        match="latin-1",
    )
    assert server.sends == 0


@pytest.mark.spec("FR 23")
async def test_header_names_are_lower_case_and_cookies_stay_apart() -> None:
    """Names are lowered, values stripped, repeated fields kept in order."""
    headers = [("Set-Cookie", "a=1"), ("X-Spaced", "  x\t"), ("Set-Cookie", "b=2")]
    server = await request(WSGIToASGI(giving([b"x"], headers=headers)))
    assert server.headers[:3] == [
        (b"set-cookie", b"a=1"),
        (b"x-spaced", b"x"),
        (b"set-cookie", b"b=2"),
    ]


@pytest.mark.spec("FR 24")
async def test_hop_by_hop_headers_are_removed_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Connection and Transfer-Encoding belong to the server."""
    headers = [("Transfer-Encoding", "chunked"), ("Connection", "close"), ("X-Kept", "1")]
    with caplog.at_level(logging.WARNING, "bridges.adapters"):
        server = await request(WSGIToASGI(giving([b"x"], headers=headers)))
    assert [name for name, _ in server.headers] == [b"x-kept", b"content-length"]
    assert "transfer-encoding" in caplog.text.lower()
    assert "giving" in caplog.text


@pytest.mark.spec("FR 25")
@pytest.mark.parametrize(
    "header",
    [
        ("X-A", "a\r\nInjected: 1"),
        ("X-A", "a\nb"),
        ("X-A", "a\0b"),
        ("X\r\nY", "a"),
        ("", "a"),
        ("X Y", "a"),
    ],
)
async def test_control_characters_in_headers_are_refused(header: tuple[str, str]) -> None:
    """A header that could split the response fails the request before anything is sent."""
    server = await fails(giving([b"x"], headers=[header]), errors.ApplicationProtocolError)
    assert server.sends == 0


@pytest.mark.spec("issue 2", "7. Bad input")
@pytest.mark.parametrize("headers", [[("X-A", 1)], [("X-A", b"1")], [("only",)], [5], [(1, "a")]])
async def test_malformed_headers_are_a_clear_error(headers: Any) -> None:
    """Headers that are not pairs of ``str`` are named, with the clause."""
    server = await fails(
        giving([b"x"], headers=headers), errors.ApplicationProtocolError, match="PEP 3333"
    )
    assert server.sends == 0


@pytest.mark.spec("FR 26")
@pytest.mark.parametrize("chunk", ["text", 5, None, [b"x"]])
@pytest.mark.parametrize("kind", [list, iter])
async def test_a_chunk_of_a_wrong_type_is_a_clear_error(kind: Any, chunk: Any) -> None:
    """The error names the application and the type; the client never sees a complete response."""
    server = await fails(
        giving(kind([chunk])),
        errors.ApplicationProtocolError,
        match=f"giving.*{type(chunk).__name__}",
    )
    assert server.sends == 0


@pytest.mark.spec("FR 26")
@pytest.mark.parametrize("kind", [list, iter])
async def test_a_wrong_chunk_after_good_ones_cuts_the_response(kind: Any) -> None:
    """What was sent stays, and the end never comes."""
    server = await fails(giving(kind([b"good", "bad"])), errors.ApplicationProtocolError)
    assert not server.complete


@pytest.mark.spec("FR 26")
async def test_write_of_a_wrong_type_raises_in_the_application() -> None:
    """``write("text")`` fails where it was called."""
    caught: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write: Any = start_response("200 OK", [])
        try:
            write("text")
        except errors.ApplicationProtocolError as error:
            caught.append(str(error))
            raise
        return []

    await fails(app, errors.ApplicationProtocolError)
    assert "str" in caught[0]


@pytest.mark.spec("FR 27")
@pytest.mark.parametrize("kind", [list, iter])
async def test_surplus_bytes_are_cut_with_a_warning(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets the announced bytes and a complete response."""
    app = giving(kind([b"ab", b"cd", b"ef"]), headers=[("Content-Length", "3")])
    with caplog.at_level(logging.WARNING, "bridges.adapters"):
        server = await request(WSGIToASGI(app))
    assert (server.body, server.complete) == (b"abc", True)
    assert caplog.text.count("more bytes than its Content-Length") == 1


@pytest.mark.spec("FR 27")
async def test_the_iteration_stops_at_the_surplus() -> None:
    """An iterable that goes past its Content-Length is closed, not read to its end."""
    body = Body([b"abcdef"] * 100)
    server = await request(WSGIToASGI(giving(body, headers=[("Content-Length", "3")])))
    assert server.body == b"abc"
    assert body.pulled == 1
    assert body.closed == 1


@pytest.mark.spec("FR 27")
@pytest.mark.parametrize("kind", [list, iter, Body])
@pytest.mark.parametrize("chunks", [[b"abc"], []])
async def test_missing_bytes_abort_the_response(kind: Any, chunks: list[bytes]) -> None:
    """A response shorter than its Content-Length never looks complete."""
    server = await fails(
        giving(kind(chunks), headers=[("Content-Length", "10")]),
        errors.ApplicationProtocolError,
        match="short of its Content-Length",
    )
    assert server.body in (b"", b"abc")


@pytest.mark.spec("FR 27")
async def test_write_beyond_the_content_length_is_cut() -> None:
    """``write()`` is held to the announced length too."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "3")])(b"abcdef")
        return [b"g"]

    server = await request(WSGIToASGI(app))
    assert (server.body, server.complete) == (b"abc", True)


@pytest.mark.spec("FR 27")
@pytest.mark.parametrize(
    "lengths", [["abc"], ["-1"], ["3", "4"], ["1, 2"], ["+3"], ["3_0"], ["\u00b2"]]
)
async def test_a_malformed_content_length_is_an_error(lengths: list[str]) -> None:
    """A Content-Length that is not one number fails before anything is sent."""
    headers = [("Content-Length", length) for length in lengths]
    server = await fails(giving([b"abc"], headers=headers), errors.ApplicationProtocolError)
    assert server.sends == 0


@pytest.mark.spec("FR 28")
@pytest.mark.parametrize("make", [lambda: [b"body"], lambda: Body([b"body"])])
@pytest.mark.parametrize(
    ("method", "status", "kept"),
    [
        ("HEAD", "200 OK", b"4"),
        ("GET", "304 Not Modified", b"4"),
        ("GET", "204 No Content", None),
    ],
)
async def test_no_body_where_none_may_be(
    method: str, status: str, kept: bytes | None, make: Callable[[], Any]
) -> None:
    """HEAD, 204 and 304 carry no bytes; the Content-Length stays on HEAD and 304; the iterable is closed."""
    result = make()
    app = giving(result, status, [("Content-Length", "4")])
    server = await request(WSGIToASGI(app), method)
    assert (server.body, server.complete, server.header(b"content-length")) == (b"", True, kept)
    if isinstance(result, Body):
        assert result.closed == 1


@pytest.mark.spec("FR 28")
async def test_head_of_a_streaming_application() -> None:
    """A generator that starts its response late gets its head across, without its body."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response("200 OK", [("X-Here", "1")])
        write(b"not sent")
        while True:
            yield b"endless"

    server = await request(WSGIToASGI(app), "HEAD")
    assert (server.status, server.header(b"x-here"), server.body) == (200, b"1", b"")


@pytest.mark.spec("FR 29")
async def test_an_exception_in_the_middle_cuts_the_response() -> None:
    """After a chunk was sent an error reaches the server and no end of the body is sent."""
    server = await fails(giving(Body([b"chunk"], ArithmeticError("mid"))), ArithmeticError)
    assert server.body == b"chunk"
    assert all(message["more_body"] for message in server.of_type("http.response.body"))


class Special(Exception):
    pass


@pytest.mark.spec("FR 30")
@pytest.mark.parametrize("sent", [0, 1, 20])
@pytest.mark.parametrize("upload", [False, True])
async def test_the_applications_own_exception_arrives(sent: int, upload: bool) -> None:
    """Whatever else goes on, the server catches the type that was raised, never a group."""
    original = Special("mine")

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        if upload:
            environ["wsgi.input"].read(1)
        for number in range(sent):
            yield b"%d" % number
        raise original

    adapter = WSGIToASGI(app, max_threads=1)
    server = server_for("POST", body=[b"x", b"y"] if upload else None)
    with pytest.raises(Special) as caught:
        await server.serve(adapter)
    assert caught.value is original
    assert any(entry.name == "app" for entry in caught.traceback)
    await assert_all_threads_free(adapter)
    end_pool(adapter)


@pytest.mark.spec("behaviours.md", "errors that would stop a server")
@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration])
async def test_what_would_stop_the_server_is_wrapped(
    kind: type[BaseException], lazily: bool
) -> None:
    """``SystemExit`` and its like arrive as ``ApplicationError`` with the original as cause."""

    class Raising:
        def __iter__(self) -> Raising:
            return self

        def __next__(self) -> bytes:
            raise kind("stop")

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [])
        if lazily and kind is not StopIteration:
            return Raising()
        raise kind("stop")

    adapter = WSGIToASGI(app, max_threads=1)
    with pytest.raises(errors.ApplicationError, match=f"raised {kind.__name__}") as caught:
        await server_for().serve(adapter)
    assert type(caught.value.__cause__) is kind
    await assert_all_threads_free(adapter)
    end_pool(adapter)


@pytest.mark.spec("behaviours.md", "errors that would stop a server")
async def test_a_cancelled_error_of_the_application_cancels_nothing() -> None:
    """An ``asyncio.CancelledError`` or trio's ``Cancelled`` from the thread is an error like others."""
    import asyncio

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        raise asyncio.CancelledError("odd")

    adapter = WSGIToASGI(app, max_threads=1)
    with pytest.raises(errors.ApplicationError) as caught:
        await server_for().serve(adapter)
    assert type(caught.value.__cause__) is asyncio.CancelledError
    await assert_all_threads_free(adapter)
    end_pool(adapter)


@pytest.mark.spec("FR 109")
async def test_the_body_is_read_while_the_response_is_streamed() -> None:
    """Full duplex: each piece of the body comes back before the next one is sent."""
    echoed = [threading.Event() for _ in range(5)]

    async def on_send(number: int, message: Message) -> None:
        for index, event in enumerate(echoed):
            if message.get("body", b"").startswith(b"line %d" % index):
                event.set()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        while line := environ["wsgi.input"].readline():
            yield line

    server = server_for("POST", open_body=True, on_send=on_send)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, WSGIToASGI(app))
        for index, event in enumerate(echoed):
            server.feed(b"line %d\n" % index)
            await until(event)
        server.feed(b"", more=False)
    assert server.body == b"".join(b"line %d\n" % index for index in range(5))


@pytest.mark.spec("behaviours.md", "WSGIToASGI: response")
async def test_bytes_like_chunks_are_accepted_as_bytes() -> None:
    """``bytearray`` and ``memoryview`` are forgiven, as WSGI servers do."""
    chunks = [bytearray(b"a"), memoryview(b"b")]
    assert (await request(WSGIToASGI(giving(chunks)))).body == b"ab"
    assert (await request(WSGIToASGI(giving(iter(chunks))))).body == b"ab"
