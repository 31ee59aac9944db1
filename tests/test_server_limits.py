"""Every limit and every time of the server: what is let pass, what is refused and how, and who is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from server_driver import (
    CLOCKED,
    Client,
    Driver,
    chunked,
    driving,
    echo_asgi,
    either_echo,
    get,
    post,
)

from bridges.errors import ClientDisconnected
from bridges.typing import Environ, Receive, Scope, Send, StartResponse

START = {"type": "http.response.start", "status": 200, "headers": []}
# Deadlines are looked at twice a second, and set by a clock that is read as often.
SLACK = 1.5


@pytest.fixture
def anyio_backend() -> Any:
    """Run on a loop whose clock the test turns."""
    return CLOCKED


class Told:
    """An application that reads and notes how that ends.

    Attributes:
        calls: how many requests reached it.
        received: bytes of bodies.
        ends: ``"end"`` or ``"disconnect"`` of each.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.received = 0
        self.ends: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.ends.append("disconnect")
                return
            self.received += len(message["body"])
            if not message["more_body"]:
                self.ends.append("end")
                await send(START)
                await send({"type": "http.response.body", "body": b"ok"})
                return


async def closes_after(driver: Driver, client: Client, seconds: float) -> None:
    """Check that a connection ends after some time, and not before."""
    await driver.advance(seconds)
    assert not client.is_closed, "too early"
    await driver.advance(SLACK)
    assert client.is_closed, "too late"


async def drip(driver: Driver, client: Client, data: bytes) -> int:
    """Send a byte a second until the server ends the connection; gives how many it took."""
    for number, byte in enumerate(data):
        if client.is_closed:
            return number
        await client.send(bytes([byte]))
        await driver.advance(1)
    return len(data)


# Sizes.


def head_of(size: int) -> bytes:
    """Give a head of so many bytes."""
    return get("/", "X-Fill: " + "f" * (size - len(get("/", "X-Fill: "))))


@pytest.mark.spec("RFC 6585", "section 5")
@pytest.mark.spec("issue 4", "1. oversize head (431)")
@pytest.mark.parametrize("step", [100, 10_000])
@either_echo
async def test_max_head_bytes(echo: Any, step: int) -> None:
    """A head of as many bytes is served; of more gets 431, and nobody waits for its end."""
    async with driving(echo, max_head_bytes=5000) as driver:
        fits, large, endless = (driver.connect() for _ in range(3))
        for client, head in ((fits, head_of(5000)), (large, head_of(5001)), (endless, b"")):
            head = head or get("/", "X-Fill: " + "f" * 9000)[:-2]
            for at in range(0, len(head), step):
                if not client.is_closed:
                    await client.send(head[at : at + step])
        assert fits.response().status == 200
        assert not fits.is_closed
        for client in (large, endless):
            assert client.response().status == 431
            assert client.is_closed


@pytest.mark.spec("RFC 9110", "section 15.5.15")
@pytest.mark.spec("issue 4", "1. target (414)")
async def test_max_target_bytes() -> None:
    """A target of as many bytes is served; of more gets 414, however large the head may be."""
    async with driving(echo_asgi, max_target_bytes=100, max_head_bytes=300) as driver:
        for size, status in ((100, 200), (101, 414), (5000, 414)):
            client = driver.connect()
            await client.send(get("/" + "t" * (size - 1)))
            assert client.response().status == status
            assert client.is_closed == (status != 200)


@pytest.mark.spec("RFC 6585", "section 5")
async def test_max_fields() -> None:
    """As many fields are served, one more gets 431."""
    async with driving(echo_asgi, max_fields=10) as driver:
        for count, status in ((9, 200), (10, 431)):
            client = driver.connect()
            await client.send(get("/", *(f"X-{number}: 1" for number in range(count))))
            assert client.response().status == status
            assert client.is_closed == (status != 200)


@pytest.mark.spec("RFC 9110", "section 15.5.14")
@pytest.mark.spec("issue 4", "1. body (413)")
@pytest.mark.spec("field-reports", "FR 113")
async def test_max_body_bytes_as_announced() -> None:
    """An announced length that is too large gets 413 before the application is called, and before a 100."""
    app = Told()
    async with driving(app, max_body_bytes=1000) as driver:
        for size, status in ((1000, 200), (1001, 413)):
            client = driver.connect()
            await client.send(post(b"b" * size))
            assert client.response().status == status
            assert client.is_closed == (status != 200)
        assert app.calls == 1
        patient = driver.connect()
        await patient.send(get("/", "Content-Length: 1001", "Expect: 100-continue", method="PUT"))
        assert patient.interim() == []
        assert patient.response().status == 413


@pytest.mark.spec("RFC 9110", "section 15.5.14")
@pytest.mark.parametrize("size", [1000, 1001])
async def test_max_body_bytes_in_chunks(size: int) -> None:
    """Chunks count as they come; one too many gets 413, and the application is told that the rest will not come."""
    app = Told()
    async with driving(app, max_body_bytes=1000) as driver:
        client = driver.connect()
        await client.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        await client.send(chunked(b"b" * 600, last=False), chunked(b"b" * (size - 600)))
        fits = size <= 1000
        assert client.response().status == (200 if fits else 413)
        assert client.is_closed == (not fits)
        assert app.ends == ["end" if fits else "disconnect"]


@pytest.mark.spec("RFC 9110", "section 15.5.14")
async def test_max_body_bytes_for_a_thread() -> None:
    """A read raises once there is too much."""
    got: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        got.append(environ["wsgi.input"].read(600))
        with pytest.raises(ClientDisconnected):
            environ["wsgi.input"].read()
        got.append("raised")
        return []

    async with driving(app, max_body_bytes=1000) as driver:
        client = driver.connect()
        await client.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        await client.send(chunked(b"b" * 600, last=False), chunked(b"b" * 600))
        assert client.response().status == 413
        assert got == [b"b" * 600, "raised"]
        driver.complaints.take()


async def test_max_body_bytes_in_the_middle_of_a_response() -> None:
    """The connection is cut where no 413 can be given any more."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with driving(app, max_body_bytes=1000) as driver:
        client = driver.connect()
        await client.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        await client.send(chunked(b"b" * 1001))
        assert client.transport.aborted
        assert not client.response().complete


async def test_max_body_bytes_of_nothing() -> None:
    """No body at all may be allowed."""
    async with driving(echo_asgi, max_body_bytes=0) as driver:
        client = driver.connect()
        await client.send(get(), post(b""), post(b"b"))
        assert [each.status for each in client.responses()] == [200, 200, 413]


# The time of a head.


@pytest.mark.spec("issue 4", "traps: no time limit on a dripped head")
@pytest.mark.spec("RFC 9110", "section 15.5.9")
async def test_head_seconds_of_a_drip() -> None:
    """A head that comes a byte a second gets 408 when its time is over, however much has come."""
    async with driving(echo_asgi, head_seconds=15) as driver:
        client = driver.connect()
        took = await drip(driver, client, get("/", "X-Fill: " + "f" * 100))
        assert 15 <= took <= 15 + SLACK + 1
        assert client.response().status == 408


@pytest.mark.spec("RFC 9110", "section 15.5.9")
async def test_head_seconds_of_a_later_request() -> None:
    """The time runs from the first byte of each head, whatever was idle before."""
    async with driving(echo_asgi, head_seconds=15, keep_alive_seconds=1000) as driver:
        client = driver.connect()
        await client.send(get())
        await driver.advance(500)
        await client.send(b"G")
        await closes_after(driver, client, 14)
        assert [each.status for each in client.responses()] == [200, 408]


@pytest.mark.spec("RFC 9110", "section 15.5.9")
async def test_head_seconds_behind_a_pipelined_request() -> None:
    """It runs for a head that begins in the packet of the request before, and for each anew."""
    async with driving(echo_asgi, head_seconds=15) as driver:
        client = driver.connect()
        for _ in range(5):
            await client.send(get("/a") + get("/b")[:-1])
            await driver.advance(10)
            await client.send(b"\n")
        assert len(client.responses()) == 10
        await client.send(get("/c") + b"GET")
        await closes_after(driver, client, 14)
        assert client.responses()[-1].status == 408


@pytest.mark.spec("issue 4", "1. slow heads (408)")
async def test_head_seconds_of_a_silent_client() -> None:
    """One that connects and sends nothing, or empty lines, is let go without an answer."""
    async with driving(echo_asgi, head_seconds=15) as driver:
        silent, empty = driver.connect(), driver.connect()
        await empty.send(b"\r\n")
        await closes_after(driver, silent, 14)
        assert silent.received == b""
        assert empty.is_closed
        assert empty.received == b""


async def test_head_seconds_do_not_run_while_a_request_is_served() -> None:
    """However long it takes, and whatever has been read ahead."""
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await echo_asgi(scope, receive, send)

    async with driving(app, head_seconds=5, keep_alive_seconds=5) as driver:
        client = driver.connect()
        await client.send(get() + b"GET")
        await driver.advance(100)
        assert not client.is_closed
        gate.set()
        await driver.settle()
        await client.send(get()[3:])
        assert [each.status for each in client.responses()] == [200, 200]


# The time of a body.


@pytest.mark.spec("issue 4", "traps: no time limit on a dripped body")
@pytest.mark.spec("RFC 9110", "section 15.5.9")
@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
@either_echo
async def test_body_seconds_of_a_drip(echo: Any, framing: str) -> None:
    """A body that comes a byte a second gets 408; the application is told that the rest will not come."""
    async with driving(echo, body_seconds=30) as driver:
        client = driver.connect()
        await client.send(get("/", framing, method="POST"))
        chunks = b"".join(b"1\r\nb\r\n" for _ in range(100))
        took = await drip(driver, client, b"b" * 100 if "Length" in framing else chunks)
        assert 30 <= took <= 30 + SLACK + 1
        assert client.response().status == 408
        assert client.response().value(b"connection") == b"close"


@pytest.mark.spec("RFC 9110", "section 15.5.9")
@pytest.mark.parametrize("size", [1000, 100_000])
@either_echo
async def test_body_seconds_of_a_silent_client(echo: Any, size: int) -> None:
    """Also of one that sends a part at once and then nothing, also before a thread was taken."""
    async with driving(echo, body_seconds=30) as driver:
        client = driver.connect()
        await client.send(get("/", f"Content-Length: {size}", method="POST") + b"b" * 900)
        await closes_after(driver, client, 29.5)
        assert client.response().status == 408


@pytest.mark.spec("issue 4", "1. body idle time")
@either_echo
async def test_body_seconds_let_slow_clients_pass(echo: Any) -> None:
    """One that sends 1 KiB in each period takes as long as it needs."""
    async with driving(echo, body_seconds=30) as driver:
        client = driver.connect()
        size = 40 * 1024
        await client.send(get("/", f"Content-Length: {size}", method="POST"))
        for _ in range(40):
            await driver.advance(29)
            await client.send(b"b" * 1024)
        assert client.response().status == 200
        assert len(client.response().body) == size + len(b"POST / ")


async def test_body_seconds_do_not_run_while_the_application_is_behind() -> None:
    """A client that the server does not read from is not late; it gets its whole time when that reads on."""
    gate = asyncio.Event()
    app = Told()

    async def gated(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await app(scope, receive, send)

    async with driving(gated, body_seconds=30) as driver:
        client = driver.connect()
        await client.send(get("/", "Content-Length: 300000", method="POST"), b"b" * 100_000)
        assert not client.is_read
        await driver.advance(200)
        gate.set()
        await driver.settle()
        assert client.is_read
        await closes_after(driver, client, 29.5)
        assert client.response().status == 408
        assert app.ends == ["disconnect"]


async def test_body_seconds_do_not_run_while_a_thread_is_behind() -> None:
    """The same for a WSGI application."""
    gate = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        gate.wait()
        body = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [b"%d" % len(body)]

    async with driving(app, body_seconds=30, buffer_bytes=50_000) as driver:
        client = driver.connect()
        await client.send(get("/", "Content-Length: 300000", method="POST"))
        await client.send(*[b"b" * 40_000] * 5)
        assert not client.is_read
        await driver.advance(200)
        gate.set()
        await driver.settle()
        assert client.is_read
        await driver.advance(29)
        await client.send(b"b" * 100_000)
        assert client.response().body == b"300000"


@pytest.mark.spec("RFC 9110", "section 10.1.1")
async def test_body_seconds_run_from_the_100() -> None:
    """A client that waits to be told is not late before that."""
    gate = asyncio.Event()
    app = Told()

    async def gated(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await app(scope, receive, send)

    async with driving(gated, body_seconds=30) as driver:
        client = driver.connect()
        await client.send(get("/", "Content-Length: 3", "Expect: 100-continue", method="PUT"))
        await driver.advance(200)
        assert client.received == b""
        gate.set()
        await driver.settle()
        await closes_after(driver, client, 29.5)
        assert client.interim("PUT") == [100]
        assert client.response("PUT").status == 408


async def test_body_seconds_in_the_middle_of_a_response() -> None:
    """The connection is cut where no 408 can be given any more; the application is told."""
    got: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        got.append((await receive())["type"])

    async with driving(app, body_seconds=30) as driver:
        client = driver.connect()
        await client.send(get("/", "Content-Length: 3", method="PUT"))
        await closes_after(driver, client, 29.5)
        assert client.transport.aborted
        assert got == ["http.disconnect"]


async def test_body_seconds_of_a_body_that_nobody_reads() -> None:
    """The rest of it, which is to be dropped, has no more time than any other; no second answer comes."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"whole"})

    async with driving(app, body_seconds=30, keep_alive_seconds=1000) as driver:
        client = driver.connect()
        await client.send(get("/", "Content-Length: 300", method="POST"))
        took = await drip(driver, client, b"b" * 300)
        assert 30 <= took <= 30 + SLACK + 1
        assert client.response().body == b"whole"


# The time between requests.


@pytest.mark.spec("field-reports", "FR 112")
@pytest.mark.spec("issue 4", "1. keep-alive time")
@either_echo
async def test_keep_alive_seconds(echo: Any) -> None:
    """An idle connection is closed without a word; each request gives it its time anew."""
    async with driving(echo, keep_alive_seconds=75) as driver:
        client = driver.connect()
        for _ in range(3):
            await client.send(post(b"x"))
            await driver.advance(74)
        assert len(client.responses()) == 3
        assert not client.is_closed
        await driver.advance(1 + SLACK)
        assert client.is_closed
        assert not client.transport.aborted
        assert len(client.responses()) == 3


@either_echo
async def test_keep_alive_seconds_of_none(echo: Any) -> None:
    """A connection need not be kept at all for somebody who sends nothing."""
    async with driving(echo, keep_alive_seconds=0) as driver:
        client = driver.connect()
        await client.send(get())
        await driver.advance(SLACK)
        assert client.is_closed
        assert len(client.responses()) == 1


async def test_keep_alive_seconds_behind_a_drained_body() -> None:
    """They run from the end of the body that nobody read."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.body"})

    async with driving(app, keep_alive_seconds=10) as driver:
        client = driver.connect()
        await client.send(get("/", "Content-Length: 3", method="POST"))
        await driver.advance(20)
        await client.send(b"bod")
        await closes_after(driver, client, 9.5)


async def test_keep_alive_seconds_do_not_run_while_a_request_is_served() -> None:
    """A response may take as long as it likes."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(200)
        await send(START)
        await send({"type": "http.response.body"})

    async with driving(app, keep_alive_seconds=10, body_seconds=10) as driver:
        client = driver.connect()
        await client.send(get())
        await driver.advance(199)
        assert not client.is_closed
        await driver.advance(2)
        assert client.response().status == 200


# The time of a response.


class Flood:
    """An application that sends without end.

    Attributes:
        error: what ended it.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(START)
            while True:
                await send({"type": "http.response.body", "body": b"x" * 9000, "more_body": True})
        except BaseException as error:
            self.error = error
            raise


@pytest.mark.spec("issue 4", "1. write-stall time")
@pytest.mark.parametrize("bytes_a_second", [0, 1, 15])
async def test_write_seconds_of_a_client_that_does_not_read(bytes_a_second: int) -> None:
    """Nor does one that reads a few bytes: it is cut off, and the application's send() raises."""
    app = Flood()
    async with driving(app, write_seconds=60) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get())
        for second in range(60):
            assert not client.is_closed, second
            await client.take(bytes_a_second)
            await driver.advance(1)
        await driver.advance(SLACK)
        assert client.transport.aborted
        assert isinstance(app.error, ClientDisconnected)


@pytest.mark.spec("issue 4", "1. write-stall time")
async def test_write_seconds_let_slow_clients_pass() -> None:
    """One that takes 1 KiB in each period is served to the end, however long that takes."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        for _ in range(10):
            await send({"type": "http.response.body", "body": b"x" * 20_000, "more_body": True})
        await send({"type": "http.response.body"})

    async with driving(app, write_seconds=60, keep_alive_seconds=10) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get())
        for _ in range(30):
            await client.take(6000)
            await driver.advance(50)
        assert not client.is_closed
        await client.read_on()
        assert len(client.response().body) == 200_000


@pytest.mark.spec("issue 4", "1. write-stall time")
async def test_write_seconds_of_a_client_that_stops_reading() -> None:
    """Progress buys one period, and not more."""
    app = Flood()
    async with driving(app, write_seconds=60) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get())
        await driver.advance(50)
        await client.take(2048)
        await driver.advance(50)
        assert not client.is_closed
        await driver.advance(20 + 2 * SLACK)
        assert client.transport.aborted


@pytest.mark.spec("issue 4", "6. 500 that never read a 1 MB list response")
@pytest.mark.parametrize("size", [1000, 60_000, 1_000_000])
async def test_write_seconds_of_a_response_that_is_complete(size: int) -> None:
    """What the transport holds for a client that never reads is dropped in the end, much or little."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * size]

    async with driving(app, write_seconds=60, keep_alive_seconds=75) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get())
        assert driver.service.pool.snapshot().busy == 0
        await driver.advance(60 + 75 + 2 * SLACK)
        assert client.transport.is_lost
        assert driver.service.connections == set()


async def test_write_seconds_do_not_run_for_a_slow_application() -> None:
    """A stream that has nothing to say for long owes nobody anything."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        await asyncio.sleep(500)
        await send({"type": "http.response.body", "body": b"y"})

    async with driving(app, write_seconds=60) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get())
        await driver.advance(10)
        await client.read_on()
        await driver.advance(500)
        assert len(client.response().body) == 100_001


@pytest.mark.spec("behaviours", "WSGIToASGI: threads; no thread lost to any client behaviour")
async def test_write_seconds_free_the_thread() -> None:
    """A generator whose client does not read is told, and closed."""
    closed: list[bool] = []

    def stream() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 50_000
        finally:
            closed.append(True)

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        return stream()

    async with driving(app, write_seconds=60, threads=1) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get())
        assert driver.service.pool.snapshot().busy == 1
        await closes_after(driver, client, 59.5)
        assert driver.service.pool.snapshot().busy == 0
        assert closed == [True]


async def test_write_seconds_of_the_last_response() -> None:
    """A connection that is to end with its response does not wait longer for its client to take that."""
    async with driving(echo_asgi, write_seconds=60) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get("/", "Connection: close"))
        await driver.advance(60 + 2 * SLACK)
        assert client.transport.is_lost
        refused = driver.connect()
        await refused.hold()
        await refused.send(b"nonsense\r\n\r\n")
        await driver.advance(60 + 2 * SLACK)
        assert refused.transport.is_lost


# Connections.


@pytest.mark.spec("issue 4", "1. connections")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_max_connections(method: str) -> None:
    """One too many gets 503 with Retry-After, and no body for HEAD; when one has gone there is room again."""
    app = Told()
    async with driving(app, max_connections=2) as driver:
        clients = [driver.connect() for _ in range(3)]
        for client in clients:
            await client.send(get(method=method))
        assert [each.response(method).status for each in clients] == [200, 200, 503]
        refused = clients[2]
        assert refused.response(method).value(b"retry-after") == b"1"
        assert refused.response(method).complete
        assert refused.is_closed
        assert app.calls == 2
        await clients[0].leave()
        await refused.leave()
        another = driver.connect()
        await another.send(get(method=method))
        assert another.response(method).status == 200
        await clients[1].send(get(method=method))
        assert len(clients[1].responses(method, method)) == 2


# The grace time.


@pytest.mark.spec("field-reports", "FR 122")
@pytest.mark.parametrize("seconds", [0, 10])
async def test_disconnect_grace_seconds(seconds: int) -> None:
    """An application that does not end when its client left is cancelled so much later."""
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with driving(app, disconnect_grace_seconds=seconds) as driver:
        client = driver.connect()
        await client.send(get())
        await client.leave()
        if seconds:
            await driver.advance(seconds - 0.5)
            assert ended == []
        await driver.advance(1)
        assert ended == ["cancelled"]


# A loop that was busy.


def block(driver: Driver, seconds: float) -> None:
    """Keep the loop from running for some time, as an application does that blocks it."""
    driver.loop.now += seconds


@pytest.mark.spec("issue 4", "1. Limits and times")
@pytest.mark.parametrize("kind", ["fresh", "head", "body", "idle", "reader"])
async def test_a_loop_that_was_blocked_is_no_fault_of_clients(kind: str) -> None:
    """What they did meanwhile could not be seen: nobody is late who was in time."""
    times = ("head_seconds", "body_seconds", "keep_alive_seconds", "write_seconds")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await echo_asgi(scope, receive, send)
        if scope["path"] == "/block":
            block(driver, 100)

    async with driving(app, **dict.fromkeys(times, 10)) as driver:
        other = driver.connect()
        client = driver.connect() if kind != "fresh" else None
        request = get("/x") if kind != "reader" else post(b"b" * 200_000, path="/x")
        begun = {"head": 5, "body": 0, "idle": 0, "reader": 0}.get(kind, 0)
        if kind == "body":
            request = post(b"b" * 3000, path="/x")
            begun = len(request) - 2000
        if client is not None:
            if kind == "reader":
                await client.hold()
                await client.send(request)
            else:
                await client.send(get() if kind == "idle" else request[:begun])
        await driver.advance(2)

        def at_once() -> None:
            nonlocal client
            if client is None:
                client = driver.connect()
            if kind == "reader":
                client.transport.take(100_000)
            else:
                client.transport.arrive(request[begun:])

        # The loop finds all of it ready when it comes back from the application.
        driver.loop.call_soon(other.transport.arrive, get("/block"))
        driver.loop.call_soon(driver.loop.call_soon, at_once)
        await driver.settle()
        await driver.advance(5)
        assert client is not None
        assert not client.is_closed
        if kind == "reader":
            await client.read_on()
        assert client.responses()[-1].status == 200
        assert client.responses()[-1].complete


async def test_no_time_is_shorter_than_it_says() -> None:
    """Whenever it begins between two looks at the clock."""
    async with driving(echo_asgi, head_seconds=15) as driver:
        await driver.advance(0.4)
        client = driver.connect()
        await client.send(b"GET")
        await driver.advance(0.4)
        await driver.advance(14.5)
        assert not client.is_closed
        await driver.advance(SLACK)
        assert client.response().status == 408


# Crowds.


@pytest.mark.spec("issue 4", "6. slow and hostile clients: other clients served")
async def test_slow_clients_keep_nobody_waiting() -> None:
    """Hundreds that drip and hundreds that are idle cost another client nothing; all of them go in their time."""
    app = Told()
    async with driving(app) as driver:
        slow = [driver.connect() for _ in range(200)]
        idle = [driver.connect() for _ in range(200)]
        for client in idle:
            client.transport.arrive(get())
        honest = driver.connect()
        for second, byte in enumerate(get()[:14]):
            for client in slow:
                client.transport.arrive(bytes([byte]))
            await honest.send(get())
            assert len(honest.responses()) == second + 1
            await driver.advance(1)
        assert not any(client.is_closed for client in slow + idle)
        await driver.advance(3)
        assert {client.response().status for client in slow} == {408}
        assert all(client.transport.is_lost or client.is_closed for client in slow)
        await driver.advance(75)
        assert driver.service.connections == set()
        assert app.calls == 200 + 14


async def test_a_limit_of_one_connection_is_no_limit_of_another() -> None:
    """Deadlines belong to connections: one that is served does not give time to one that is not."""
    async with driving(echo_asgi, head_seconds=10, keep_alive_seconds=20) as driver:
        late, idle = driver.connect(), driver.connect()
        await late.send(b"GET")
        await idle.send(get())
        await driver.advance(5)
        await idle.send(get())
        await closes_after(driver, late, 4.5)
        assert not idle.is_closed
