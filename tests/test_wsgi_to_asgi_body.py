"""The request body under ``WSGIToASGI``: streamed, bounded, complete or an error."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.from_thread
import pytest
from driver import (
    GRACE_SECONDS,
    assert_all_threads_free,
    content_length,
    request,
    server_for,
    until,
)
from hypothesis import given
from hypothesis import strategies as st

from bridges import WSGIToASGI, errors
from bridges.typing import Environ, StartResponse

MIB = 1 << 20


def answering(read: Any) -> Any:
    """Make an application that answers with the repr of what ``read(input)`` gives."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        result = read(environ["wsgi.input"])
        start_response("200 OK", [])
        return [repr(result).encode()]

    return app


async def read_with(read: Any, pieces: list[bytes], **options: Any) -> Any:
    server = await request(WSGIToASGI(answering(read)), "POST", body=pieces, **options)
    return eval(server.body)


@pytest.mark.slow
@pytest.mark.spec("FR 1")
async def test_a_large_upload_never_runs_far_ahead_of_the_reader() -> None:
    """Bytes received and not yet read stay below the buffer, a message in hand at each end, and one block."""
    message = bytes(MIB // 4)
    buffer_bytes = MIB // 2
    worst = read = 0

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        nonlocal worst, read
        while size := len(environ["wsgi.input"].read(65_536)):
            read += size
            worst = max(worst, server.given_bytes - read)
        start_response("200 OK", [])
        return [b"%d" % read]

    server = server_for("POST", body=(message for _ in range(1024)))
    await server.serve(WSGIToASGI(app, buffer_bytes=buffer_bytes))
    assert server.body == b"%d" % (256 * MIB)
    assert 0 < worst <= buffer_bytes + 2 * len(message) + 65_536


@pytest.mark.spec("FR 1")
async def test_an_upload_waits_for_its_reader() -> None:
    """A client that sends more than fits is not listened to before the application reads on."""
    begun, go_on = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.input"].read(1)
        begun.set()
        go_on.wait()
        rest = len(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [b"%d" % rest]

    # The buffer, a message in hand at each end, and the block that the reader has taken.
    most = 5000 + 2 * 1000 + 65_536
    server = server_for("POST", body=(bytes(1000) for _ in range(100)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, WSGIToASGI(app, buffer_bytes=5000))
        await until(begun)
        with anyio.move_on_after(GRACE_SECONDS):
            while server.given_bytes <= most:
                await anyio.sleep(0)
        assert server.given_bytes <= most
        go_on.set()
    assert server.body == b"99999"


@pytest.mark.spec("FR 1")
async def test_receive_is_not_called_before_the_application_reads() -> None:
    """A streamed body is not asked for while the application does something else."""
    calls_before: list[int] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        calls_before.append(server.receive_calls)
        body: bytes = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [body]

    server = server_for("POST", body=[b"late"])
    await server.serve(WSGIToASGI(app))
    assert calls_before == [0]
    assert server.body == b"late"


@pytest.mark.slow
@pytest.mark.spec("FR 2")
async def test_reading_a_large_message_in_blocks_copies_no_rest() -> None:
    """Reading costs no copy of what is left, which would make it quadratic: memory never doubles."""
    peaks: list[int] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        tracemalloc.start()
        try:
            while environ["wsgi.input"].read(65_536):
                pass
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        start_response("200 OK", [])
        return []

    await request(WSGIToASGI(app), "POST", body=[bytes(32 * MIB), b"end"])
    assert peaks[0] < 2 * MIB


@pytest.mark.spec("FR 2")
async def test_reading_everything_asks_for_each_message_once() -> None:
    """``read()`` to the end takes one ``receive()`` for each message."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        size = len(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [b"%d" % size]

    server = server_for("POST", body=[b"xy"] * 500)
    await server.serve(WSGIToASGI(app))
    assert server.body == b"1000"
    assert server.receive_calls <= 501  # and perhaps once for the client's leaving


READS = {
    "read": lambda stream: stream.read(),
    "read(10)": lambda stream: stream.read(10),
    "readline": lambda stream: [stream.readline(), stream.readline()],
    "readlines": lambda stream: stream.readlines(),
    "iteration": list,
    "read1": lambda stream: [stream.read1(5), stream.read1(5)],
    "readinto": lambda stream: stream.readinto(bytearray(10)),
}


@pytest.mark.spec("FR 3")
@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("how", READS)
async def test_every_read_raises_when_the_client_leaves_in_the_middle_of_its_body(
    how: str, announced: bool
) -> None:
    """A broken upload never looks like a complete, shorter one, whichever way it is read."""
    outcome: list[object] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            outcome.append(READS[how](environ["wsgi.input"]))
        except OSError as error:
            outcome.append(type(error))
            raise
        return []

    headers = [content_length(10), (b"expect", b"100-continue")] if announced else []
    server = server_for("POST", body=[b"abc"], headers=headers, then_leave=True)
    adapter = WSGIToASGI(app, max_threads=1)
    await server.serve(adapter)
    assert outcome == [errors.ClientDisconnected]
    assert not server.started
    await assert_all_threads_free(adapter)


@pytest.mark.spec("FR 3")
async def test_an_application_does_not_run_for_a_client_that_left_during_collection() -> None:
    """A small body that is collected beforehand and breaks off reaches nobody."""
    calls: list[Environ] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        calls.append(environ)
        return []

    server = server_for("POST", body=[b"abc"], headers=[content_length(10)], then_leave=True)
    await server.serve(WSGIToASGI(app))
    assert calls == []
    assert server.sends == 0


@pytest.mark.spec("FR 3")
async def test_reads_go_on_raising_after_the_client_left() -> None:
    """An application that ignores the first error is not given an end of file by the second read."""
    outcomes: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        for _ in range(3):
            try:
                outcomes.append(repr(environ["wsgi.input"].read(1000)))
            except errors.ClientDisconnected:
                outcomes.append("left")
        return []

    # The application breaks PEP 3333 by not starting a response; its client has left, so nobody minds.
    server = server_for("POST", body=[b"abc"], then_leave=True)
    with pytest.raises(errors.ApplicationProtocolError):
        await server.serve(WSGIToASGI(app))
    assert outcomes == ["left", "left", "left"]


@pytest.mark.spec("FR 4")
@pytest.mark.parametrize(
    "pieces", [[b"l1\nl2\n"], [b"l", b"1\nl", b"2\n"], [b"l1", b"\n", b"l2\n"], [b"", b"l1\nl2\n"]]
)
async def test_readline_with_a_size_finds_lines_across_messages(pieces: list[bytes]) -> None:
    """``readline(size)`` gives whole lines from the first call on, wherever messages end."""
    got = await read_with(lambda stream: [stream.readline(100) for _ in range(3)], pieces)
    assert got == [b"l1\n", b"l2\n", b""]


@pytest.mark.spec("FR 5")
@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda s: s.readlines(), []),
        (lambda s: list(s), []),
        (lambda s: (s.read(), s.read()), (b"", b"")),
        (lambda s: s.readline(), b""),
        (lambda s: s.read(0), b""),
    ],
)
@pytest.mark.parametrize("pieces", [None, [b""], [b"", b""]])
async def test_an_empty_body_is_at_its_end(
    read: Any, expected: object, pieces: list[bytes] | None
) -> None:
    """Each way to read gives nothing at once from an empty body, announced or not."""
    server = await request(WSGIToASGI(answering(read)), "POST", body=pieces)
    assert server.body == repr(expected).encode()


@pytest.mark.spec("FR 5")
@pytest.mark.parametrize("size", [-1, None])
async def test_read_without_a_limit_reads_everything(size: int | None) -> None:
    """``read(-1)`` and ``read(None)`` read to the end, and read again give nothing."""
    got = await read_with(lambda stream: (stream.read(size), stream.read(size)), [b"a", b"b"])
    assert got == (b"ab", b"")


@pytest.mark.spec("FR 5")
async def test_the_end_of_the_body_is_known_without_another_receive() -> None:
    """Reading at the end asks the server for nothing more but the news that the client left."""
    counts: list[int] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        for _ in range(3):
            environ["wsgi.input"].read()
            counts.append(server.receive_calls)
        start_response("200 OK", [])
        return []

    server = server_for("POST", body=[b"all"])
    await server.serve(WSGIToASGI(app))
    assert counts[-1] <= 2


CALLS = st.one_of(
    st.tuples(st.just("read"), st.one_of(st.none(), st.integers(-1, 40))),
    st.tuples(st.just("readline"), st.one_of(st.just(-1), st.integers(0, 12))),
    st.tuples(st.just("readlines"), st.sampled_from([-1, None])),
    st.tuples(st.just("__next__"), st.none()),
)


def perform(stream: Any, calls: list[tuple[str, int | None]]) -> list[object]:
    """Call each method in turn and note what it gave."""
    notes: list[object] = []
    for name, size in calls:
        if name == "__next__":
            notes.append(next(stream, None))
        else:
            notes.append(getattr(stream, name)(size))
    return notes


@pytest.mark.spec("FR 5")
@pytest.mark.slow
@given(
    pieces=st.lists(
        st.binary(max_size=20) | st.sampled_from([b"\n", b"a\n", b"ab\ncd\n"]), max_size=8
    ),
    calls=st.lists(CALLS, max_size=8),
    announced=st.booleans(),
)
def test_the_body_reads_like_a_file(
    pieces: list[bytes], calls: list[tuple[str, int | None]], announced: bool
) -> None:
    """For any split into messages and any calls, ``wsgi.input`` gives what ``io.BytesIO`` gives."""
    import io

    whole = b"".join(pieces)
    expected = perform(io.BytesIO(whole), calls)
    headers = [content_length(len(whole)), (b"expect", b"100-continue")] if announced else []

    async def exchange() -> bytes:
        adapter = WSGIToASGI(answering(lambda stream: perform(stream, calls)), max_threads=1)
        answer = await request(adapter, "POST", body=pieces or [b""], headers=headers)
        return answer.body

    assert anyio.run(exchange) == repr(expected).encode()


@pytest.mark.spec("FR 5")
@pytest.mark.parametrize("hint", [1, 3, 4, 6, 100])
async def test_readlines_with_a_hint(hint: int) -> None:
    """The hint is bytes: whole lines come until it is reached or just exceeded; the rest stays."""
    lines = [b"ab\n", b"c\n", b"def\n", b"g"]
    first, rest = await read_with(
        lambda stream: (stream.readlines(hint), stream.readlines()), [b"ab\nc", b"\nde", b"f\ng"]
    )
    assert first + rest == lines
    assert sum(map(len, first)) >= min(hint, 10)
    assert sum(map(len, first[:-1])) <= hint


@pytest.mark.spec("FR 6")
async def test_a_chunked_body_reaches_the_application() -> None:
    """A body without Content-Length is readable to its end, and the environ says so."""
    seen: list[Environ] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    server = await request(WSGIToASGI(app), "POST", body=[b"Hel", b"lo"])
    assert server.body == b"Hello"
    assert seen[0]["wsgi.input_terminated"] is True
    assert "HTTP_TRANSFER_ENCODING" not in seen[0]
    assert "CONTENT_LENGTH" not in seen[0]


@pytest.mark.spec("FR 6")
async def test_flask_sees_a_chunked_body() -> None:
    """Werkzeug's request, which trusts ``wsgi.input_terminated``, reads a chunked upload."""
    flask = pytest.importorskip("flask")
    app = flask.Flask(__name__)

    @app.post("/")
    def echo() -> bytes:
        data: bytes = flask.request.get_data()
        return data

    server = await request(WSGIToASGI(app), "POST", body=[b"Hel", b"lo"])
    assert (server.status, server.body) == (200, b"Hello")


@pytest.mark.spec("FR 6")
async def test_http2_bodies_need_no_header() -> None:
    """An HTTP/2 request without Content-Length may have a body, which is read."""
    server = server_for("POST", open_body=True, http_version="2")
    server.scope["headers"] = []
    server.feed(b"frames", more=False)
    await server.serve(WSGIToASGI(answering(lambda stream: stream.read())))
    assert server.body == b"b'frames'"


@pytest.mark.spec("FR 7")
async def test_an_application_answers_without_reading() -> None:
    """A 413 leaves before the upload has come, and what was not wanted is not received."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("413 Content Too Large", [])
        return [b"too large"]

    server = server_for(
        "POST",
        body=(bytes(65_536) for _ in range(800)),
        headers=[content_length(800 * 65_536)],
    )
    await server.serve(WSGIToASGI(app))
    assert (server.status, server.body) == (413, b"too large")
    assert server.given_bytes < MIB


@pytest.mark.spec("FR 8")
async def test_an_announced_body_that_is_too_large_is_refused_beforehand() -> None:
    """413 by the Content-Length alone: nothing is received and the application does not run."""
    calls: list[Environ] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        calls.append(environ)
        return []

    adapter = WSGIToASGI(app, max_body_bytes=MIB)
    server = await request(adapter, "POST", body=[b""], headers=[content_length(MIB + 1)])
    assert server.status == 413
    assert (calls, server.receive_calls) == ([], 0)


@pytest.mark.spec("FR 8")
async def test_a_body_of_exactly_the_limit_passes() -> None:
    """The limit itself is allowed, announced or chunked."""
    adapter = WSGIToASGI(answering(lambda stream: len(stream.read())), max_body_bytes=1000)
    for headers in ([], [content_length(1000)]):
        server = await request(adapter, "POST", body=[bytes(600), bytes(400)], headers=headers)
        assert (server.status, server.body) == (200, b"1000")


@pytest.mark.spec("FR 8")
@pytest.mark.parametrize("spool", [None, 100_000])
async def test_a_chunked_body_that_grows_too_large_is_refused(spool: int | None) -> None:
    """413 where no response was started: the read in the application raises meanwhile."""
    outcomes: list[type] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            outcomes.append(type(error))
            raise
        raise AssertionError("the body must not look complete")

    adapter = WSGIToASGI(app, max_body_bytes=1000, spool_body_bytes=spool, max_threads=1)
    server = await request(adapter, "POST", body=[bytes(600), bytes(600), b"rest"])
    assert server.status == 413
    assert outcomes == ([] if spool else [errors.ClientDisconnected])
    if not spool:
        await assert_all_threads_free(adapter)


@pytest.mark.spec("FR 8")
async def test_a_body_that_grows_too_large_under_a_response_cuts_it() -> None:
    """After the head no status can tell: the response is broken off, never ended as if whole."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"begun"
        environ["wsgi.input"].read()
        yield b"never"

    server = server_for("POST", body=[bytes(600), bytes(600), b"rest"])
    with pytest.raises((errors.BridgesError, OSError)):
        await server.serve(WSGIToASGI(app, max_body_bytes=1000))
    assert (server.body, server.complete) == (b"begun", False)


@pytest.mark.spec("FR 9")
async def test_a_slow_upload_takes_no_thread_when_bodies_are_spooled() -> None:
    """With ``spool_body_bytes`` another request is answered by the only thread while uploads trickle in."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [b"%d" % len(environ["wsgi.input"].read())]

    adapter = WSGIToASGI(app, max_threads=1, spool_body_bytes=1000)
    slow = [server_for("POST", body=[b"first"], open_body=True) for _ in range(10)]
    async with anyio.create_task_group() as tasks:
        for server in slow:
            tasks.start_soon(server.serve, adapter)
        while not all(server.given_bytes for server in slow):
            await anyio.sleep(0)
        assert (await request(adapter)).body == b"0"
        for server in slow:
            server.feed(b"last", more=False)
    assert [server.body for server in slow] == [b"9"] * 10


@pytest.mark.spec("behaviours.md", "WSGIToASGI: body")
async def test_a_body_beyond_the_spool_is_streamed() -> None:
    """What does not fit ``spool_body_bytes`` is read after it, in order."""
    adapter = WSGIToASGI(answering(lambda stream: stream.read()), spool_body_bytes=4)
    server = await request(adapter, "POST", body=[b"abc", b"def", b"ghi"])
    assert server.body == b"b'abcdefghi'"


@pytest.mark.spec("behaviours.md", "WSGIToASGI: body")
@pytest.mark.parametrize(
    ("size", "expect", "collected"),
    [(10, False, True), (65_536, False, True), (65_537, False, False), (10, True, False)],
)
async def test_small_announced_bodies_are_collected_before_a_thread_is_taken(
    size: int, expect: bool, collected: bool
) -> None:
    """Bodies up to 64 KiB are there when the application begins, unless the client waits for its say."""
    received_before: list[int] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        received_before.append(server.given_bytes)
        body = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [b"%d" % len(body)]

    headers = [content_length(size)] + ([(b"expect", b"100-continue")] if expect else [])
    server = server_for("POST", body=[bytes(size)], headers=headers)
    await server.serve(WSGIToASGI(app))
    assert received_before == [size if collected else 0]
    assert server.body == b"%d" % size


@pytest.mark.spec("FR 10")
@pytest.mark.parametrize("headers", [[], [content_length(2)]])
async def test_empty_messages_in_the_middle_are_no_end(headers: list[Any]) -> None:
    """An empty message with more to come ends nothing."""
    got = await read_with(lambda s: s.read(), [b"a", b"", b"b"], headers=headers)
    assert got == b"ab"


@pytest.mark.spec("FR 10")
async def test_a_collected_body_shorter_than_announced_is_refused() -> None:
    """400 where the server says that the body is over before its Content-Length."""
    calls: list[Environ] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        calls.append(environ)
        return []

    server = await request(WSGIToASGI(app), "POST", body=[b"ab"], headers=[content_length(10)])
    assert (server.status, calls) == (400, [])


@pytest.mark.spec("FR 10")
async def test_a_streamed_body_shorter_than_announced_is_refused() -> None:
    """The read raises and, where no response was started, the client gets 400."""
    outcomes: list[object] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            outcomes.append(environ["wsgi.input"].read())
        except OSError as error:
            outcomes.append(type(error))
            raise
        return []

    headers = [content_length(10), (b"expect", b"100-continue")]
    server = await request(WSGIToASGI(app), "POST", body=[b"ab"], headers=headers)
    assert (server.status, outcomes) == (400, [errors.ClientDisconnected])


@pytest.mark.spec("FR 10")
async def test_bytes_beyond_the_announced_length_are_not_given() -> None:
    """The application reads no more than the Content-Length it was told."""
    got = await read_with(
        lambda s: (s.read(), s.read()), [b"abc", b"def"], headers=[content_length(4)]
    )
    assert got == (b"abcd", b"")


@pytest.mark.spec("PEP 3333", "Input and Error Streams")
async def test_a_late_reader_gets_what_was_sent_after_the_response_began() -> None:
    """The body can be read from inside the iteration, and by a file object's whole interface."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b">"
        stream = environ["wsgi.input"]
        assert stream.readable()
        assert not stream.closed
        yield stream.readline()
        yield from stream

    server = await request(WSGIToASGI(app), "POST", body=[b"a\nb", b"\nc"])
    assert server.body == b">a\nb\nc"


@pytest.mark.spec("design.md", "reading on the loop")
async def test_reading_the_body_on_the_loop_raises_instead_of_hanging() -> None:
    """Async code that reads a body which has yet to come is told so; the thread can read it afterwards."""
    outcomes: list[str] = []
    allowed = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        async def read() -> bytes:
            body: bytes = environ["wsgi.input"].read()
            return body

        try:
            anyio.from_thread.run(read)
        except errors.CrossingError as error:
            outcomes.append(str(error))
        allowed.set()
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    server = server_for("POST", open_body=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, WSGIToASGI(app))
        await until(allowed)
        server.feed(b"now", more=False)
    assert len(outcomes) == 1
    assert "loop" in outcomes[0]
    assert server.body == b"now"
