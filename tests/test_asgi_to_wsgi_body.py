"""The request body under ``ASGIToWSGI``: who reads it, when, how far, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from wsgi_driver import (
    Adapt,
    FakeHost,
    InThread,
    answer,
    app_of,
    body,
    echo,
    hello,
    read_all,
    serve,
    start,
    wait,
)

from bridges import errors
from bridges.typing import Message, Receive, Scope, Send

pytest_plugins = ["wsgi_driver"]


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: body")
@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_is_read_only_when_asked(adapt: Adapt, chunked: bool) -> None:
    """Each ``receive()`` costs one read, nothing is read ahead, and the host's thread alone reads."""
    notes: list[tuple[int, int]] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        received, more = 0, True
        notes.append((host.input.reads, 0))
        while more:
            message = await receive()
            received += len(message["body"])
            more = message["more_body"]
            await anyio.lowlevel.checkpoint()
            notes.append((host.input.reads, host.input.given - received))
        await answer(send)

    host = FakeHost("POST", body=[b"x" * 1000] * 5, chunked=chunked)
    assert host.serve(adapt(app)).status == 200
    reads = 5 + chunked  # the end of a chunked body has to be read, too
    assert notes == [(number, 0) for number in range(reads + 1)]


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: body")
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 1_048_576, 1_100_000])
@pytest.mark.parametrize("old_input", [False, True], ids=["read1", "read"])
def test_bodies_of_any_size(adapt_asyncio: Adapt, size: int, old_input: bool) -> None:
    """A body arrives whole whether ``wsgi.input`` has ``read1`` or not, and is never read past its end."""
    host = serve(adapt_asyncio(echo), "POST", body=b"x" * size, old_input=old_input)
    assert len(host.body) == size


@pytest.mark.spec("FR 61")
@pytest.mark.parametrize("old_input", [False, True], ids=["read1", "read"])
@pytest.mark.parametrize("pieces", [[], [b"hello"], [b"he", b"llo"], [b"x" * 200_000]])
def test_a_chunked_body(adapt: Adapt, pieces: list[bytes], old_input: bool) -> None:
    """Under ``wsgi.input_terminated`` a body without Content-Length is read to its end."""
    host = serve(adapt(echo), "POST", body=pieces, chunked=True, old_input=old_input)
    assert host.body == b"".join(pieces)


@pytest.mark.spec("FR 60")
@pytest.mark.parametrize("sent", [b"", b"abc"])
def test_a_short_body_is_a_disconnect(adapt: Adapt, sent: bytes) -> None:
    """An end before the Content-Length is ``http.disconnect``, again and again; the host hears who was at fault."""
    seen: list[Message] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while len(seen) < 4:
            seen.append(await receive())

    with pytest.raises(errors.ClientDisconnected):
        serve(adapt(app), "POST", body=sent, length=10)
    parts = [message["body"] for message in seen if message["type"] == "http.request"]
    assert parts == [sent] * bool(sent)
    assert seen[-1] == seen[-2] == {"type": "http.disconnect"}


@pytest.mark.spec("FR 60")
def test_a_read_that_raises_is_a_disconnect(adapt: Adapt) -> None:
    """What ``wsgi.input`` raises ends the body; if the application gives up, the host gets it back."""
    seen: list[str] = []
    failure = OSError("reset by peer")

    def fail() -> None:
        raise failure

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((await receive())["type"])
        raise LookupError("no body")

    host = FakeHost("POST", body=b"abc")
    host.input.before_read = fail
    with pytest.raises(OSError, match="reset by peer") as caught:
        host.serve(adapt(app))
    assert caught.value is failure
    assert seen == ["http.disconnect"]


@pytest.mark.spec("FR 60")
@pytest.mark.parametrize("kind", [OSError, ValueError, TimeoutError])
def test_a_broken_body_may_be_answered(adapt: Adapt, kind: type[Exception]) -> None:
    """An application that answers all the same is heard."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await read_all(receive)
        except EOFError:
            await answer(send, b"incomplete", 400)

    def fail() -> None:
        raise kind

    host = FakeHost("POST", body=b"abc")
    host.input.before_read = fail
    assert host.serve(adapt(app)).status == 400


@pytest.mark.spec("FR 62")
def test_an_empty_content_length_is_none(adapt: Adapt) -> None:
    """``CONTENT_LENGTH=""`` and ``CONTENT_TYPE=""`` are no header fields, and there is no body to wait for."""
    names: list[bytes] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        names.extend(name for name, _ in scope["headers"])
        await answer(send, await read_all(receive))

    host = serve(adapt(app), "POST", CONTENT_LENGTH="", CONTENT_TYPE="")
    assert (host.status, host.body, host.input.reads) == (200, b"", 0)
    assert not {b"content-length", b"content-type"} & set(names)


@pytest.mark.spec("FR 63")
@pytest.mark.parametrize("length", ["x", "-1", "1_0", "1.0", "٣", "+3", "0x1"])
def test_a_bad_content_length_is_refused(adapt_asyncio: Adapt, length: str) -> None:
    """What is no number is answered with 400; the application does not see it."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("called")

    host = serve(adapt_asyncio(app), "POST", CONTENT_LENGTH=length)
    assert host.status == 400
    assert host.body.endswith(b"\n")


@pytest.mark.spec("FR 64")
@pytest.mark.parametrize("sent", [b"", b"abc"])
def test_receive_after_the_body_waits_for_the_end(adapt: Adapt, sent: bytes) -> None:
    """After the body ``receive()`` blocks until the response is complete, then it is ``http.disconnect``."""
    order: list[str] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await read_all(receive) == sent

        async def listen() -> None:
            order.append((await receive())["type"])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await send(start())
            for _ in range(10):
                await send(body(b"x", more=True))
                await anyio.lowlevel.checkpoint()
            order.append("complete")
            await send(body())
        order.append((await receive())["type"])
        over.set()

    over = threading.Event()
    adapter = adapt(app)
    assert serve(adapter, "POST", body=sent).body == b"x" * 10
    adapter.close()
    assert over.is_set()
    assert order == ["complete", "http.disconnect", "http.disconnect"]


@pytest.mark.spec("FR 64")
def test_several_receivers(adapt: Adapt) -> None:
    """Any number of tasks may receive: each piece goes to one of them, the end to all."""
    pieces: list[bytes] = []
    ends: list[str] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            while (message := await receive())["type"] == "http.request":
                pieces.append(message["body"])
                if not message["more_body"]:
                    whole.set()
            ends.append(message["type"])

        whole = anyio.Event()
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(listen)
            await whole.wait()
            await answer(send)

    adapter = adapt(app)
    serve(adapter, "POST", body=[b"%d" % number for number in range(10)])
    adapter.close()
    assert sorted(pieces) == [b"%d" % number for number in range(10)]
    assert ends == ["http.disconnect"] * 5


@pytest.mark.spec("FR 64")
def test_a_receive_that_is_cancelled_loses_nothing(adapt: Adapt) -> None:
    """A piece that comes after its receiver was cancelled is the next receiver's."""
    reading, go_on = threading.Event(), threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            await receive()
            raise AssertionError("it was cancelled")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await anyio.wait_all_tasks_blocked() if inline else await _reached(reading)
            tasks.cancel_scope.cancel()
        go_on.set()
        await answer(send, await read_all(receive))

    def before_read() -> None:
        reading.set()
        if not inline:
            wait(go_on)

    adapter = adapt(app)
    inline = adapter._make_service.keywords["backend"] == "inline"
    host = FakeHost("POST", body=[b"one", b"two"])
    host.input.before_read = before_read
    assert host.serve(adapter).body == b"onetwo"


async def _reached(event: threading.Event) -> None:
    """Wait for an event without a worker thread, which a cancelled scope would have to wait for."""
    while not event.is_set():
        await anyio.sleep(0.001)


@pytest.mark.spec("FR 109")
def test_full_duplex(adapt: Adapt) -> None:
    """The application answers to each piece of the body before the next one is sent."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send(body(message["body"].upper(), more))

    def pieces() -> Iterator[bytes]:
        for number in range(10):
            assert host.body == b"".join(b"N%d" % earlier for earlier in range(number))
            yield b"n%d" % number

    host = FakeHost("POST", body=pieces(), chunked=True)
    assert host.serve(adapt(app)).body == b"".join(b"N%d" % number for number in range(10))


@pytest.mark.spec("FR 64")
def test_receive_and_send_at_once(adapt: Adapt) -> None:
    """One task may send while another one receives."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def produce() -> None:
            for _ in range(100):
                await send(body(b"y" * 1000, more=True))

        await send(start())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
            got = await read_all(receive)
        await send(body(b"%d" % len(got)))

    host = serve(adapt(app, buffer_bytes=5000), "POST", body=[b"x" * 1000] * 100)
    assert host.body == b"y" * 100_000 + b"100000"


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: body")
def test_a_slow_upload_holds_up_nobody(adapt: Adapt) -> None:
    """While one request waits for its client, others are served."""
    reading, go_on = threading.Event(), threading.Event()
    adapter = adapt(echo)

    def upload() -> FakeHost:
        host = FakeHost("POST", body=b"slow")

        def before_read() -> None:
            reading.set()
            wait(go_on)

        host.input.before_read = before_read
        return host.serve(adapter)

    slow = InThread(upload)
    wait(reading)
    assert serve(adapter, "POST", body=b"fast").body == b"fast"
    go_on.set()
    assert slow.result().body == b"slow"


@pytest.mark.spec("FR 60")
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_signal_in_the_read_is_the_hosts(adapt_asyncio: Adapt, kind: type[BaseException]) -> None:
    """What ends the host's own thread, as its time-out does, passes through; the application learns of it."""
    told: list[Any] = []
    over = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        told.append((await receive())["type"])
        over.set()

    def fail() -> None:
        raise kind

    host = FakeHost("POST", body=b"abc")
    host.input.before_read = fail
    with pytest.raises(kind):
        host.serve(adapt_asyncio(app))
    wait(over)
    assert told == ["http.disconnect"]


def test_a_body_without_an_input(adapt_asyncio: Adapt) -> None:
    """Where ``wsgi.input`` lacks there is no body, whatever its length is said to be."""
    assert serve(adapt_asyncio(echo), "POST", CONTENT_LENGTH="3", wsgi__input=None).body == b""


def test_an_unread_body_of_a_finished_response(adapt: Adapt) -> None:
    """A body may be left in the middle."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await answer(send, b"enough", 413)

    host = serve(adapt(app), "POST", body=[b"x" * 100] * 100)
    assert (host.status, host.input.given) == (413, 100)


def test_hello_is_not_disturbed_by_expectations(adapt_asyncio: Adapt) -> None:
    """``Expect: 100-continue`` is the host's: an unread body is never asked for."""
    host = serve(adapt_asyncio(hello), "POST", body=b"abc", headers={"Expect": "100-continue"})
    assert host.input.reads == 0
