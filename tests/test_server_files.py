"""Files of responses, on real sockets and each loop: by the system's sendfile, in blocks, and what can go wrong."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pytest
import trustme
from server_driver import (
    CLOCKED,
    ClockLoop,
    connected,
    driving,
    fetch,
    get,
    on_real_loops,
    read_to_end,
    serving,
)

from bridges.typing import Environ, Message, Receive, Scope, Send, StartResponse

pytestmark = pytest.mark.skipif(not hasattr(os, "sendfile"), reason="there is no sendfile here")

App = Callable[[Scope, Receive, Send], Awaitable[None]]

# More than sockets of the loopback hold.
LARGE = 5_000_000


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    """Give the message that begins a response."""
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def sized(size: int) -> Message:
    """Give one with a Content-Length."""
    return start((b"content-length", b"%d" % size))


def pathsend(path: Path) -> Message:
    """Give the message that sends a file by its path."""
    return {"type": "http.response.pathsend", "path": str(path)}


def zerocopysend(file: int, **details: Any) -> Message:
    """Give the message that sends a part of an open file."""
    return {"type": "http.response.zerocopysend", "file": file, **details}


def sending(*messages: Message) -> App:
    """Make an application that sends these to every request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(dict(message))

    return app


def pattern(size: int) -> bytes:
    """Give bytes of which no two parts are the same."""
    return b"".join(b"%08d" % number for number in range(size // 8 + 1))[:size]


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[[int], Path]:
    """Make a file of so many bytes."""

    def make(size: int) -> Path:
        path = tmp_path / f"{size}.bin"
        path.write_bytes(pattern(size))
        return path

    return make


@pytest.fixture
def sendfiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note what each sendfile sends."""
    sent: list[int] = []
    real = os.sendfile

    def sendfile(*arguments: Any) -> int:
        sent.append(real(*arguments))
        return sent[-1]

    monkeypatch.setattr(os, "sendfile", sendfile)
    return sent


def is_open(path: Path) -> bool:
    """Tell whether this process has a file open."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == str(path):
                return True
        except FileNotFoundError:
            pass  # closed meanwhile
    return False


CLOSE = get("/", "Connection: close")


# By path.


@pytest.mark.spec("ASGI extensions", "Path Send")
@pytest.mark.spec("issue 4", "1. pathsend/zerocopysend by sendfile")
@pytest.mark.parametrize("size", [1, LARGE])
@on_real_loops
async def test_a_file_by_its_path(make_file: Any, sendfiles: list[int], size: int) -> None:
    """The system sends all of it; the next request on the connection is served behind it."""
    path = make_file(size)
    async with serving(sending(sized(size), pathsend(path)), lifespan="off") as server:
        first, second = await fetch(server, get() + CLOSE)
        assert first.body == second.body == path.read_bytes()
        assert sum(sendfiles) == 2 * size
        assert not is_open(path)


@pytest.mark.spec("ASGI extensions", "Path Send")
@on_real_loops
async def test_an_empty_file(make_file: Any) -> None:
    """It is a body too, with and without a length."""
    path = make_file(0)
    for head in (sized(0), start()):
        async with serving(sending(head, pathsend(path)), lifespan="off") as server:
            first, second = await fetch(server, get() + CLOSE)
            assert (first.body, first.complete) == (second.body, second.complete) == (b"", True)


@pytest.mark.spec("RFC 9112", "section 6.3")
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@on_real_loops
async def test_a_file_without_a_length(make_file: Any, version: str) -> None:
    """It goes in chunks, or up to the end of the connection on HTTP/1.0."""
    path = make_file(1_000_000)
    async with serving(sending(start(), pathsend(path)), lifespan="off") as server:
        (response,) = await fetch(server, get("/", "Connection: close", version=version))
        coding = response.value(b"transfer-encoding")
        assert coding == (b"chunked" if version == "1.1" else None)
        assert response.body == path.read_bytes()
        assert response.complete


@pytest.mark.spec("RFC 9110", "section 9.3.2")
@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204)])
@on_real_loops
async def test_a_file_that_nobody_gets(
    make_file: Any, sendfiles: list[int], method: str, status: int
) -> None:
    """A response without a body has none of a file either."""
    app = sending(start(status=status), pathsend(make_file(100)))
    async with serving(app, lifespan="off") as server:
        request = get("/", method=method) + get("/", "Connection: close", method=method)
        found = await fetch(server, request, (method, method))
        assert [each.status for each in found] == [status, status]
        assert sendfiles == []


@pytest.mark.spec("ASGI extensions", "Path Send")
@on_real_loops
async def test_a_part_of_a_file_by_its_path(make_file: Any) -> None:
    """No more than the Content-Length is sent of a file that is longer."""
    path = make_file(1000)
    async with serving(sending(sized(600), pathsend(path)), lifespan="off") as server:
        first, second = await fetch(server, get() + CLOSE)
        assert first.body == second.body == pattern(1000)[:600]


@pytest.mark.spec("ASGI extensions", "Path Send")
@pytest.mark.parametrize("kind", ["missing", "directory"])
@pytest.mark.parametrize("swallows", [False, True])
@on_real_loops
async def test_a_path_that_leads_to_no_file(tmp_path: Path, kind: str, swallows: bool) -> None:
    """The application gets an OSError, and the client 500, for nothing has been sent."""
    raised: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(sized(100))
        try:
            await send(pathsend(tmp_path / "no.bin" if kind == "missing" else tmp_path))
        except OSError as error:
            raised.append(error)
            if not swallows:
                raise

    async with serving(app, complaints=1, lifespan="off") as server:
        (response,) = await fetch(server, CLOSE)
        assert response.status == 500
        assert len(raised) == 1


@pytest.mark.spec("RFC 9110", "section 8.6")
@pytest.mark.parametrize("swallows", [False, True])
@pytest.mark.parametrize("manner", ["path", "descriptor"])
@on_real_loops
async def test_a_file_that_is_too_short(make_file: Any, swallows: bool, manner: str) -> None:
    """The client can tell that it has not got all: the connection ends before the announced length."""
    path = make_file(1000)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(sized(2000))
        with path.open("rb") as file:
            message = zerocopysend(file.fileno(), count=2000)
            try:
                await send(pathsend(path) if manner == "path" else message)
            except Exception:
                if not swallows:
                    raise

    async with (
        serving(app, complaints=1, lifespan="off") as server,
        connected(server) as (reader, writer),
    ):
        writer.write(get() + get())
        received = await read_to_end(reader)
        assert received.partition(b"\r\n\r\n")[2] == path.read_bytes()


@pytest.mark.spec("RFC 9110", "section 8.6")
@on_real_loops
async def test_a_part_that_fails_is_not_made_up_for_by_the_next_response(make_file: Any) -> None:
    """An application that goes on behind a part which was too short has no connection left to do so."""
    path = make_file(10)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(sized(105))
        with path.open("rb") as file, suppress(Exception):
            await send({**zerocopysend(file.fileno(), count=100), "more_body": True})
        with suppress(OSError):
            await send({"type": "http.response.body", "body": b"12345"})

    async with (
        serving(app, complaints=1, lifespan="off") as server,
        connected(server) as (reader, writer),
    ):
        writer.write(get() + get())
        received = await read_to_end(reader)
        assert received.count(b"HTTP/1.1") == 1
        assert received.partition(b"\r\n\r\n")[2] == path.read_bytes()


# By descriptor.


@pytest.mark.spec("ASGI extensions", "Zero Copy Send")
@pytest.mark.parametrize(
    ("details", "wanted"),
    [
        ({"count": 100}, slice(0, 100)),
        ({"offset": 0}, slice(0, None)),
        ({}, slice(0, None)),
        ({"offset": 200}, slice(200, None)),
        ({"offset": 200, "count": 300}, slice(200, 500)),
        ({"offset": 10_000}, slice(10_000, None)),
        ({"offset": 5, "count": 0}, slice(5, 5)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("with_length", [False, True])
@on_real_loops
async def test_a_part_of_an_open_file(
    make_file: Any, details: dict[str, Any], wanted: slice, with_length: bool
) -> None:
    """From its offset, as far as its count; it stays open."""
    path = make_file(10_000)
    content = pattern(10_000)[wanted]
    with path.open("rb") as file:
        head = sized(len(content)) if with_length else start()
        app = sending(head, zerocopysend(file.fileno(), **details))
        async with serving(app, lifespan="off") as server:
            (response,) = await fetch(server, CLOSE)
            assert response.complete
            assert response.body == content
        file.seek(0)
        assert file.read(8) == b"00000000"


@pytest.mark.spec("ASGI extensions", "Zero Copy Send")
@pytest.mark.parametrize("with_length", [False, True])
@on_real_loops
async def test_the_position_of_an_open_file(make_file: Any, with_length: bool) -> None:
    """Without an offset the file's position is where the part begins, and moves along with it."""
    with make_file(1000).open("rb", buffering=0) as file:
        file.seek(100)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(sized(500) if with_length else start())
            for more_body in (True, False):
                await send(zerocopysend(file.fileno(), count=250, more_body=more_body))
            assert file.tell() == 600

        async with serving(app, lifespan="off") as server:
            (response,) = await fetch(server, CLOSE)
            assert response.body == pattern(1000)[100:600]


@pytest.mark.spec("RFC 9110", "section 8.6")
@pytest.mark.spec("issue 4", "1. Content-Length kept honest")
@pytest.mark.parametrize("length", [400, 1000, 1600])
@on_real_loops
async def test_an_open_file_without_a_count_and_its_length(make_file: Any, length: int) -> None:
    """However long the file is, no byte of it gets past the announced length, where the next response would begin."""
    with make_file(1000).open("rb") as file:
        app = sending(sized(length), zerocopysend(file.fileno(), offset=0))
        mistakes = int(length > 1000)
        async with (
            serving(app, complaints=mistakes, lifespan="off") as server,
            connected(server) as (reader, writer),
        ):
            writer.write(get() + CLOSE)
            received = await read_to_end(reader)
    body = received.partition(b"\r\n\r\n")[2]
    if mistakes:
        assert body == pattern(1000)
    else:
        assert body.startswith(pattern(1000)[:length] + b"HTTP/1.1 200 OK\r\n")


@pytest.mark.spec("ASGI extensions", "Zero Copy Send")
@pytest.mark.parametrize("with_length", [False, True])
@on_real_loops
async def test_files_between_other_pieces(make_file: Any, with_length: bool) -> None:
    """Everything arrives in order, whatever is still in the transport when the system begins to send."""
    size = 3_000_000
    content = pattern(size)
    before, after = b"b" * 700_000, b"a" * 300_000
    with make_file(size).open("rb") as file:
        app = sending(
            sized(len(before) + size + len(after)) if with_length else start(),
            {"type": "http.response.body", "body": before, "more_body": True},
            zerocopysend(file.fileno(), offset=0, count=1_000_000, more_body=True),
            zerocopysend(file.fileno(), offset=1_000_000, more_body=True, count=2_000_000),
            {"type": "http.response.body", "body": after},
        )
        async with serving(app, lifespan="off") as server:
            first, second = await fetch(server, get() + CLOSE)
            assert first.body == before + content + after
            assert second.body == first.body


@pytest.mark.spec("ASGI extensions", "Zero Copy Send")
@on_real_loops
async def test_a_file_does_not_overtake_what_the_transport_holds(
    make_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that is so little that nobody has to wait for it."""
    path = make_file(1_000_000)
    filled = asyncio.Event()
    before = 0
    held: list[int] = []
    real = os.sendfile

    def sendfile(*arguments: Any) -> int:
        (connection,) = server.service.connections
        held.append(connection.transport.get_write_buffer_size())
        return real(*arguments)

    monkeypatch.setattr(os, "sendfile", sendfile)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal before
        await send(start())
        (connection,) = server.service.connections
        while not connection.transport.get_write_buffer_size():
            await send({"type": "http.response.body", "body": b"b" * 9_000, "more_body": True})
            before += 9_000
            await asyncio.sleep(0)
        filled.set()
        with path.open("rb") as file:
            await send(zerocopysend(file.fileno()))

    async with serving(app, lifespan="off") as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(get(version="1.0"))
            await filled.wait()
            received = await asyncio.to_thread(_receive, client)
        assert received.partition(b"\r\n\r\n")[2] == b"b" * before + path.read_bytes()
        assert set(held) == {0}


def _receive(client: socket.socket) -> bytes:
    pieces = []
    while piece := client.recv(100_000):
        pieces.append(piece)
    return b"".join(pieces)


# Of WSGI applications.


class Wrapping:
    """A WSGI application that answers with a file.

    Attributes:
        files: that it opened.
    """

    def __init__(self, path: Path, offset: int = 0, length: int | None = None) -> None:
        self._path = path
        self._offset = offset
        self._length = length
        self.files: list[IO[bytes]] = []
        self.threads: list[threading.Thread] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        file = self._path.open("rb")
        file.seek(self._offset)
        self.files.append(file)
        length = [] if self._length is None else [("Content-Length", str(self._length))]
        start_response("200 OK", length)
        return environ["wsgi.file_wrapper"](file)


@pytest.mark.spec("PEP 3333", "Optional Platform-Specific File Handling")
@pytest.mark.parametrize(
    ("offset", "length"), [(0, None), (0, LARGE), (1000, None), (1000, 5000), (0, 100)]
)
@on_real_loops
async def test_a_wrapped_file(
    make_file: Any, sendfiles: list[int], offset: int, length: int | None
) -> None:
    """The system sends it, from where it stands as far as was announced, with a length; then it is closed."""
    path = make_file(LARGE)
    app = Wrapping(path, offset, length)
    wanted = path.read_bytes()[offset:][:length]
    async with serving(app) as server:
        first, second = await fetch(server, get() + CLOSE)
        assert first.body == second.body == wanted
        assert first.value(b"content-length") == b"%d" % len(wanted)
        assert sum(sendfiles) == 2 * len(wanted)
    assert all(file.closed for file in app.files)


@pytest.mark.spec("PEP 3333", "Optional Platform-Specific File Handling")
@on_real_loops
async def test_a_wrapped_file_for_head(make_file: Any, sendfiles: list[int]) -> None:
    """Nothing of it is sent, and it is closed."""
    app = Wrapping(make_file(1000))
    async with serving(app) as server:
        (response,) = await fetch(server, get("/", "Connection: close", method="HEAD"), ("HEAD",))
        assert response.complete
        assert sendfiles == []
    assert [file.closed for file in app.files] == [True]


@pytest.mark.spec("behaviours", "WSGIToASGI: threads; no thread lost to any client behaviour")
@on_real_loops
async def test_a_client_that_leaves_in_the_middle_of_a_wrapped_file(make_file: Any) -> None:
    """The thread is free and the file closed; the next client is served."""
    app = Wrapping(make_file(LARGE))
    async with serving(app, threads=2) as server:
        async with connected(server) as (reader, writer):
            writer.write(get())
            await reader.readexactly(100_000)
            writer.transport.abort()
        (response,) = await fetch(server, CLOSE)
        assert len(response.body) == LARGE
    assert all(file.closed for file in app.files)


# Clients.


@pytest.mark.spec("ASGI HTTP 2.5", "Disconnected Client - send exception")
@on_real_loops
async def test_a_client_that_leaves_in_the_middle_of_a_file(make_file: Any) -> None:
    """The application's send() raises an OSError, and nothing stays open."""
    path = make_file(LARGE)
    raised: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(sized(LARGE))
        try:
            await send(pathsend(path))
        except BaseException as error:
            raised.set_result(error)
            raise

    async with serving(app, lifespan="off") as server:
        async with connected(server) as (reader, writer):
            writer.write(get())
            await reader.readexactly(100_000)
            assert is_open(path)
            writer.transport.abort()
        assert isinstance(await raised, OSError)
        while server.service.connections:
            await asyncio.sleep(0)
        assert not is_open(path)


@pytest.mark.spec("issue 4", "1. write-stall time")
@pytest.mark.parametrize("anyio_backend", [CLOCKED], ids=["clock"])
async def test_a_client_that_does_not_read_a_file(make_file: Any) -> None:
    """It is cut off when its time is over, and the application's send() raises."""
    path = make_file(LARGE)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ClockLoop)
    raised: asyncio.Future[BaseException] = loop.create_future()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(sized(LARGE))
        try:
            await send(pathsend(path))
        except BaseException as error:
            raised.set_result(error)
            raise

    async with serving(app, lifespan="off", write_seconds=60) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(get())
            while not any(each.writing_deadline < 1e9 for each in server.service.connections):
                await asyncio.sleep(0)
            began = loop.now
            while not raised.done():
                await asyncio.sleep(0)
                loop.now += 0.5 if not loop.has_work() else 0
            assert 59 <= loop.now - began <= 63
            assert isinstance(raised.result(), OSError)


@on_real_loops
async def test_a_slow_client_of_a_file_keeps_nobody_waiting(make_file: Any) -> None:
    """Others are served meanwhile, and it gets the whole in the end."""
    path = make_file(LARGE)
    async with (
        serving(sending(sized(LARGE), pathsend(path)), lifespan="off") as server,
        connected(server) as (reader, writer),
    ):
        writer.write(CLOSE)
        assert await reader.readexactly(10)
        for _ in range(3):
            (response,) = await fetch(server, CLOSE)
            assert len(response.body) == LARGE
        received = await read_to_end(reader)
        assert received.endswith(path.read_bytes())


@pytest.mark.spec("issue 4", "2. write backpressure from the transport")
@pytest.mark.parametrize("anyio_backend", [CLOCKED], ids=["clock"])
async def test_a_slow_client_of_a_file_in_chunks(make_file: Any) -> None:
    """What the system cannot send is read no faster than its client takes it."""
    path = make_file(3_000_000)
    async with driving(sending(start(), pathsend(path))) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get())
        assert client.transport.get_write_buffer_size() < 600_000
        await client.take(300_000)
        assert client.transport.get_write_buffer_size() < 600_000
        await client.read_on()
        assert client.response().body == path.read_bytes()


# TLS.


@pytest.mark.spec("issue 4", "4. TLS")
@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
@on_real_loops
async def test_files_over_tls(make_file: Any, sendfiles: list[int], kind: str) -> None:
    """What has to be encrypted is read and written in blocks, and is the same for the client."""
    path = make_file(3_000_000)
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    app: Any = sending(sized(3_000_000), pathsend(path)) if kind == "asgi" else Wrapping(path)
    options = {"lifespan": "off"} if kind == "asgi" else {}
    async with serving(app, context=context, **options) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting)
        writer.write(CLOSE)
        received = await read_to_end(reader)
        writer.close()
        assert received.endswith(b"\r\n\r\n" + path.read_bytes())
        assert sendfiles == []
