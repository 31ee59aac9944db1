"""The response under ``ASGIToWSGI``: when its head goes, how its chunks travel, and where it ends."""

from __future__ import annotations

import functools
import logging
import threading
from http import HTTPStatus

import anyio
import hypothesis
import hypothesis.strategies as st
import pytest
from wsgi_driver import (
    TEXT,
    Adapt,
    FakeHost,
    answer,
    app_of,
    body,
    hello,
    serve,
    start,
    until,
    wait,
)

from bridges import ASGIToWSGI
from bridges.typing import Message, Receive, Scope, Send

pytest_plugins = ["wsgi_driver"]


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: response")
@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_whole_response_is_a_list(adapt: Adapt, content: bytes) -> None:
    """A body in one message is a list of at most one item, with its Content-Length."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, content)

    host = serve(adapt(app))
    assert host.result == [content] * bool(content)
    assert host.length == len(content)


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: response")
def test_a_content_length_is_not_doubled(adapt: Adapt) -> None:
    """The application's own Content-Length stays, alone."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"abc", headers=[*TEXT, (b"Content-Length", b"3")])

    assert serve(adapt(app)).length == 3


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: response")
def test_the_head_goes_with_the_first_chunk(adapt: Adapt) -> None:
    """``start_response`` is called once there is a chunk to send: until then the response may still be a 500."""
    started: list[bool] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"", more=True))
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        started.append(host.started)
        await send(body(b"x", more=True))
        await until(got_it)
        await send(body())

    got_it = threading.Event()
    host = FakeHost()
    host.call(adapt(app))
    assert host.started
    assert host.next() == b"x"
    got_it.set()
    host.rest().close()
    assert started == [False]


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: response")
def test_a_stream_without_a_chunk(adapt: Adapt) -> None:
    """A response that ends before its first byte is a whole one, of no length."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"", more=True))
        await send(body())

    host = serve(adapt(app))
    assert (host.status, host.body, host.length) == (200, b"", 0)


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: response")
def test_chunks_that_piled_up_are_joined(adapt: Adapt) -> None:
    """What lies ready when the host asks leaves as one chunk."""
    sent = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        for number in range(10):
            await send(body(b"%d" % number, more=True))
        sent.set()
        await send(body())

    host = FakeHost().call(adapt(app))
    wait(sent)
    assert host.rest().close().chunks == [b"0123456789"]


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: response")
def test_joining_has_a_limit(adapt: Adapt) -> None:
    """Chunks are joined up to 64 KiB; a larger one leaves as it is."""
    sent = threading.Event()
    sizes = [40_000, 40_000, 20_000, 5_000, 5_000, 100_000, 1, 1]

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        for size in sizes:
            await send(body(b"x" * size, more=True))
        sent.set()
        await send(body())

    host = FakeHost().call(adapt(app))
    wait(sent)
    host.rest().close()
    assert [len(chunk) for chunk in host.chunks] == [40_000, 65_000, 5_000, 100_000, 2]


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: response")
def test_a_lone_chunk_leaves_at_once(adapt: Adapt) -> None:
    """The application may wait for a chunk's arrival before it makes the next one."""
    arrived = [threading.Event() for _ in range(5)]

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        for number, event in enumerate(arrived):
            await send(body(b"%d" % number, more=True))
            await until(event)
        await send(body())

    host = FakeHost().call(adapt(app))
    for event in arrived:
        host.next()
        event.set()
    assert host.rest().close().chunks == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: response")
@pytest.mark.parametrize(("chunk", "limit"), [(1, 10), (700, 5000), (5000, 5000), (1000, 262_144)])
def test_the_application_never_runs_ahead(adapt: Adapt, chunk: int, limit: int) -> None:
    """Sent and not yet taken is never more than ``buffer_bytes``; up to that, the application does not wait."""
    ahead: list[int] = []
    total = chunk * max(100, 3 * limit // chunk)

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        sent = 0
        while sent < total:
            await send(body(b"x" * chunk, more=True))
            sent += chunk
            ahead.append(sent - host.taken)
        await send(body())

    host = FakeHost()
    host.serve(adapt(app, buffer_bytes=limit))
    assert host.taken == total
    assert max(ahead) <= limit
    assert max(ahead) > limit - 2 * chunk or chunk * 2 > limit or limit > 100_000


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: response")
def test_a_host_that_rests_stops_the_application(adapt: Adapt) -> None:
    """Without a host that asks, the application goes exactly to the limit, and waits there."""
    sent: list[int] = []
    full = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        for number in range(100):
            if number == 10:
                full.set()  # ten chunks fit: this one waits
            await send(body(b"x" * 100, more=True))
            sent.append(host.taken)
        await send(body())

    host = FakeHost()
    host.call(adapt(app, buffer_bytes=1000))
    wait(full)
    host.next()
    assert all(taken for taken in sent[10:])
    assert host.rest().close().taken == 10_000
    assert all(taken for taken in sent[10:])


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: response")
@pytest.mark.parametrize("more", [True, False])
def test_a_chunk_larger_than_the_buffer_passes(adapt: Adapt, more: bool) -> None:
    """One chunk beyond the limit is under way alone instead of waiting for ever, the last one included."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        for _ in range(3):
            await send(body(b"x" * 1000, more=True))
        await send(body(b"x" * 1000, more=more))
        if more:
            await send(body())

    assert serve(adapt(app, buffer_bytes=10)).taken == 4000


@pytest.mark.spec("FR 69")
@pytest.mark.parametrize("whole", [True, False])
def test_background_work_does_not_delay_the_response(adapt: Adapt, whole: bool) -> None:
    """The response ends at ``more_body=False``; what comes after it runs on, and ``close()`` waits for it."""
    go_on, done = threading.Event(), threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        if not whole:
            await send(body(b"x", more=True))
        await send(body(b"y"))
        await until(go_on)
        done.set()

    adapter = adapt(app)
    assert serve(adapter).complete
    assert not done.is_set()
    go_on.set()
    adapter.close()
    assert done.is_set()


@pytest.mark.spec("FR 69")
def test_background_work_is_called_off_in_the_end(
    adapt: Adapt, caplog: pytest.LogCaptureFixture
) -> None:
    """What does not end within the shutdown time is cancelled, and the log says how many."""
    cleaned = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.set()

    adapter = adapt(app, shutdown_seconds=0.1)
    serve(adapter)
    serve(adapter)
    adapter.close()
    assert cleaned.is_set()
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "2 tasks" in record.getMessage()


@pytest.mark.spec("FR 57")
def test_headers_are_optional(adapt: Adapt) -> None:
    """``http.response.start`` needs no headers, ``http.response.body`` no body."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    host = serve(adapt(app))
    assert (host.status, host.body, host.headers) == (200, b"", [("content-length", "0")])


@pytest.mark.spec("FR 71")
@pytest.mark.parametrize("status", [200, 299, 404, 418, 599, HTTPStatus.CREATED])
def test_statuses(adapt_asyncio: Adapt, status: int) -> None:
    """Any status has a reason, known or not; members of ``HTTPStatus`` are numbers."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, status=status)

    host = serve(adapt_asyncio(app))
    assert host.status == int(status)
    assert host.reason


def test_header_fields_arrive_in_order(adapt_asyncio: Adapt) -> None:
    """Repeated fields stay apart and in order; bytes beyond ASCII are latin-1."""
    fields = [
        (b"content-type", b"text/plain"),
        (b"set-cookie", b"a=1"),
        (b"x-name", "Zoë".encode("latin-1")),
        (b"set-cookie", b"b=2"),
    ]

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, fields))
        await send(body(b"x", more=True))
        await send(body())

    got = serve(adapt_asyncio(app)).headers
    assert got == [(name.decode(), value.decode("latin-1")) for name, value in fields]


def test_headers_of_one_pass(adapt_asyncio: Adapt) -> None:
    """Any iterable of pairs does for the headers."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": ([*f] for f in iter(TEXT))}
        )
        await send(body(b"x"))

    assert serve(adapt_asyncio(app)).header("content-type") == "text/plain"


@pytest.mark.spec("PEP 3333", "Other HTTP Features")
def test_hop_by_hop_headers_are_dropped(
    adapt_asyncio: Adapt, caplog: pytest.LogCaptureFixture
) -> None:
    """They are the host's; the log says which were dropped."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"x", headers=[*TEXT, (b"connection", b"close")])

    host = serve(adapt_asyncio(app))
    assert host.header("connection") is None
    assert any("connection" in record.getMessage().lower() for record in caplog.records)


@pytest.mark.spec("PEP 234", "the iterator protocol")
@pytest.mark.parametrize("used", [False, True])
def test_the_end_of_the_iteration_is_for_ever(adapt: Adapt, used: bool) -> None:
    """A host that asks again after the end hears the same, and does not wait for ever."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", more=True))
        await send(body())

    host = FakeHost().call(adapt(app)).rest()
    if used:
        host.close()
    assert next(iter(host.result), None) is None
    host.close()


def test_a_response_is_its_own_iterator(adapt_asyncio: Adapt) -> None:
    """Middleware may take hold of the iterator more than once."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", more=True))
        await send(body())

    host = FakeHost().call(adapt_asyncio(app))
    assert iter(host.result) is host.result
    host.rest().close()


@pytest.mark.spec("PEP 3333", "Buffering and Streaming")
def test_no_empty_chunks(adapt: Adapt) -> None:
    """Empty messages in the middle are no chunks."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        for chunk in (b"", b"a", b"", b"b", b""):
            await send(body(chunk, more=True))
        await send(body())

    host = serve(adapt(app))
    assert host.body == b"ab"
    assert all(host.chunks)


SCRIPTS = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.integers(1, 70_000).map(lambda size: b"\xa5" * size),
        st.none(),
    ),
    max_size=12,
)


def test_any_script_gives_the_bytes_of_a_model(adapt_asyncio: Adapt) -> None:
    """Whatever is sent in whatever pieces, the host gets the concatenation, and the length where it is known."""
    scripts: list[list[Message | None]] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in scripts.pop():
            if message is None:
                await anyio.lowlevel.checkpoint()
            else:
                await send(message)

    adapter = adapt_asyncio(app, buffer_bytes=1000)

    @hypothesis.given(script=SCRIPTS, last=st.binary(max_size=30), head=st.booleans())
    def play(script: list[bytes | None], last: bytes, head: bool) -> None:
        messages = [None if chunk is None else body(chunk, more=True) for chunk in script]
        scripts.append([start(), *messages, body(last)])
        host = serve(adapter, "HEAD" if head else "GET")
        whole = b"".join([*filter(None, script), last])
        assert host.body == (b"" if head else whole)
        assert host.length is None or host.length == len(whole)
        assert host.length is not None or head or any(script)

    play()


def test_the_response_of_a_partial(adapt_asyncio: Adapt) -> None:
    """A partial of an async function is an application."""

    async def app(extra: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await answer(send, extra)

    adapter = ASGIToWSGI(functools.partial(app, b"partial"), lifespan="off")
    assert serve(adapter).body == b"partial"
    adapter.close()


def test_many_requests_in_a_row(adapt: Adapt) -> None:
    """One adapter serves any number of requests."""
    adapter = adapt(hello)
    assert [serve(adapter).body for _ in range(100)] == [b"hello"] * 100
