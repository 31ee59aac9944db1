"""One connection of the server: requests one after another, bodies that nobody reads, clients that end or leave."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from server_driver import (
    CLOCKED,
    Client,
    chunked,
    driving,
    echo_asgi,
    either_echo,
    get,
    post,
    serve_bytes,
)

from bridges.typing import Environ, Receive, Scope, Send, StartResponse

# What the server drains of a body that nobody read, and what it reads ahead of requests.
DRAINED_BYTES = READ_AHEAD_BYTES = 65_536


@pytest.fixture
def anyio_backend() -> Any:
    """Run on a loop whose clock the test turns."""
    return CLOCKED


async def ready_asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the path; read nothing."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def ready_wsgi(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Do the same."""
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode()]


either_ready = pytest.mark.parametrize("ready", [ready_asgi, ready_wsgi], ids=["asgi", "wsgi"])


class Gated:
    """An application that answers each request once the test lets it.

    Attributes:
        paths: of the requests begun.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._gates: list[asyncio.Event] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        gate = asyncio.Event()
        self._gates.append(gate)
        await gate.wait()
        await ready_asgi(scope, receive, send)

    def open(self) -> None:
        """Let the oldest request that waits be answered."""
        self._gates.pop(0).set()


def bodies(client: Client) -> list[bytes]:
    """Give the bodies of all responses, each of which is complete."""
    found = client.responses()
    assert all(response.complete for response in found)
    return [response.body for response in found]


# Keep-alive.


@pytest.mark.spec("RFC 9112", "section 9.3")
@either_echo
async def test_a_connection_of_http_1_1_is_kept(echo: Any) -> None:
    """One request after another is answered on it, and nothing is said about it."""
    async with driving(echo) as driver:
        client = driver.connect()
        for number in range(3):
            written = await client.send(get(f"/{number}"))
            assert b"connection:" not in written
        assert bodies(client) == [b"GET /0 ", b"GET /1 ", b"GET /2 "]
        assert not client.is_closed


@pytest.mark.spec("RFC 9112", "section 9.3")
@either_echo
async def test_http_1_0_is_kept_where_it_asks_for_it(echo: Any) -> None:
    """A client of HTTP/1.0 has to ask, and is told that it was granted; else the connection ends."""
    async with driving(echo) as driver:
        kept = driver.connect()
        assert b"connection: keep-alive\r\n" in await kept.send(
            get("/", "Connection: keep-alive", version="1.0")
        )
        assert not kept.is_closed
        await kept.send(get("/again", version="1.0"))
        assert bodies(kept) == [b"GET / ", b"GET /again "]
        assert kept.is_closed
        assert not kept.transport.aborted


@pytest.mark.spec("RFC 9110", "section 7.6.1")
@pytest.mark.spec("issue 4", "Connection: foo, close not seen")
@pytest.mark.parametrize(
    "fields",
    [
        ("Connection: close",),
        ("Connection: CLOSE",),
        ("Connection: foo, close",),
        ("Connection: close,foo",),
        ("Connection: foo", "Connection: close"),
        ("Connection: keep-alive, close",),
    ],
)
@either_echo
async def test_connection_close_is_seen_wherever_it_stands(
    echo: Any, fields: tuple[str, ...]
) -> None:
    """The option is one of a list that may go over several fields; the answer says it too, and nothing follows it."""
    async with driving(echo) as driver:
        client = driver.connect()
        written = await client.send(get("/", *fields) + get("/smuggled"))
        assert b"connection: close\r\n" in written
        assert bodies(client) == [b"GET / "]
        assert client.is_closed


@pytest.mark.spec("RFC 9110", "section 6.6.1")
async def test_every_response_has_a_date() -> None:
    """The server adds the field, unless the application has its own."""

    async def dated(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"Date", b"Tue, 15 Nov 1994 08:12:31 GMT")] if scope["path"] == "/own" else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    async with driving(dated) as driver:
        client = driver.connect()
        await client.send(get() + get("/own"))
        first, second = client.responses()
        date = first.value(b"date")
        assert date is not None
        assert date.endswith(b" gmt")
        assert second.value(b"date") == b"tue, 15 nov 1994 08:12:31 gmt"


# Pipelining.


@pytest.mark.spec("RFC 9112", "section 9.3.2")
@pytest.mark.spec("field-reports", "FR 112")
async def test_pipelined_requests_are_answered_in_order() -> None:
    """The next request begins when the response before it is complete, and not earlier."""
    app = Gated()
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/a") + get("/b") + get("/c"))
        assert app.paths == ["/a"]
        app.open()
        await driver.settle()
        assert app.paths == ["/a", "/b"]
        assert bodies(client) == [b"/a"]
        app.open()
        await driver.settle()
        app.open()
        await driver.settle()
        assert bodies(client) == [b"/a", b"/b", b"/c"]


@pytest.mark.spec("RFC 9112", "section 9.3.2")
@either_echo
async def test_pipelined_requests_with_bodies(echo: Any) -> None:
    """Bodies of either framing end where they end, however the bytes are cut."""
    stream = (
        post(b"one")
        + get("/two", "Transfer-Encoding: chunked", method="PUT")
        + chunked(b"thr", b"ee")
        + post(b"")
        + get("/four")
    )
    wanted = [b"POST / one", b"PUT /two three", b"POST / ", b"GET /four "]
    for size in (1, 7, len(stream)):
        async with driving(echo) as driver:
            client = driver.connect()
            await client.send(*(stream[at : at + size] for at in range(0, len(stream), size)))
            assert bodies(client) == wanted


@pytest.mark.spec(
    "issue 4", "1. HTTP/1.1: bounded read-ahead, reading paused while the app is behind"
)
async def test_read_ahead_is_bounded() -> None:
    """While a request is under way, the server reads no more than a bound of what follows, and loses none of it."""
    app = Gated()
    async with driving(app) as driver:
        client = driver.connect()
        count = 90
        await client.send(get("/first"))
        for number in range(count):
            await client.send(get(f"/{number:04}", "X-Fill: " + "f" * 2000))
        assert not client.is_read
        unread = sum(map(len, client.transport.incoming))
        assert unread > READ_AHEAD_BYTES
        while app.paths[-1] != f"/{count - 1:04}":
            app.open()
            await driver.settle()
        app.open()
        await driver.settle()
        assert len(client.responses()) == count + 1
        assert client.is_read
        assert app.paths == ["/first", *(f"/{number:04}" for number in range(count))]


@pytest.mark.spec("RFC 9112", "section 9.3.2")
@either_ready
async def test_very_many_pipelined_requests_keep_nobody_waiting(ready: Any) -> None:
    """Hundreds of requests that arrive at once are all answered, and another client's one is not behind them all."""
    async with driving(ready) as driver:
        greedy, modest = driver.connect(), driver.connect()

        def arrive() -> None:
            greedy.transport.arrive(get("/") * 400)
            driver.loop.call_soon(modest.transport.arrive, get("/modest"))

        driver.loop.call_soon(arrive)
        while not modest.received:
            await asyncio.sleep(0)
        assert greedy.received.count(b"HTTP/1.1 200 OK") < 400
        await driver.settle()
        assert len(greedy.responses()) == 400


@pytest.mark.spec(
    "issue 4", "1. HTTP/1.1: bounded read-ahead, reading paused while the app is behind"
)
@either_ready
async def test_read_ahead_is_bounded_for_applications_that_never_wait(ready: Any) -> None:
    """A client that sends requests faster than they are served does not fill the memory."""
    async with driving(ready) as driver:
        client = driver.connect()
        flood = get("/", "X-Fill: " + "f" * 1000) * 64
        for _ in range(20):
            client.transport.arrive(flood)
            await asyncio.sleep(0)
        assert client.transport.pauses > 0
        await driver.settle()
        assert client.received.count(b"HTTP/1.1 200 OK\r\n") == 20 * flood.count(b"GET")
        assert client.is_read


@pytest.mark.spec("RFC 9112", "section 2.2")
@either_echo
async def test_empty_lines_before_a_request_are_passed_over(echo: Any) -> None:
    """Some clients send one behind a body; a connection that waits behind one is as idle as any other."""
    async with driving(echo, keep_alive_seconds=10) as driver:
        client = driver.connect()
        await client.send(b"\r\n" + post(b"x") + b"\r\n")
        await client.send(post(b"y") + b"\r\n\r\n")
        assert bodies(client) == [b"POST / x", b"POST / y"]
        assert not client.is_closed
        await driver.advance(12)
        assert client.is_closed


@pytest.mark.spec(
    "issue 4", "1. HTTP/1.1: bounded read-ahead, reading paused while the app is behind"
)
async def test_an_empty_line_behind_a_full_read_ahead() -> None:
    """Reading goes on when nothing but an empty line is left of what was read ahead."""
    app = Gated()
    async with driving(app) as driver:
        client = driver.connect()
        filled = get("/b", "X-Fill: " + "f" * (READ_AHEAD_BYTES - 200))
        await client.send(get("/a"))
        await client.send(filled + b"\r\n" * 100)
        await client.send(get("/c"))
        assert not client.is_read
        for _ in range(3):
            app.open()
            await driver.settle()
        assert bodies(client) == [b"/a", b"/b", b"/c"]


@pytest.mark.spec(
    "issue 4", "1. HTTP/1.1: bounded read-ahead, reading paused while the app is behind"
)
@pytest.mark.parametrize("size", [1000, 100_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@either_echo
async def test_a_body_that_begins_in_the_read_ahead(echo: Any, framing: str, size: int) -> None:
    """Where reading was paused in the middle of a following request's body, its beginning lets reading go on."""
    body = b"b" * size
    if framing == "length":
        begin = get("/b", f"Content-Length: {size}", method="POST")
        rest = body
    else:
        begin = get("/b", "Transfer-Encoding: chunked", method="POST")
        rest = chunked(body)
    async with driving(echo) as driver:
        client = driver.connect()
        # The first one waits for the end of its body, so that all that follows is read ahead of it.
        filler = get("/f", "X-Fill: " + "f" * 30_000)
        first = post(b"a")
        await client.hold()
        driver.loop.call_soon(client.transport.arrive, first + filler * 3 + begin + rest[:50])
        await driver.settle()
        await client.send(rest[50:])
        await client.read_on()
        found = bodies(client)
        assert found[-1] == b"POST /b " + body
        assert len(found) == 5


@pytest.mark.spec(
    "issue 4", "1. HTTP/1.1: bounded read-ahead, reading paused while the app is behind"
)
@pytest.mark.parametrize("size", [1000, 100_000])
async def test_a_wsgi_body_that_begins_in_the_read_ahead(size: int) -> None:
    """The same while a thread is busy with the request before."""
    gate = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        if environ["PATH_INFO"] == "/a":
            gate.wait()
        body = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [b"%d" % len(body)]

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/a"))
        filler = get("/f", "X-Fill: " + "f" * 40_000)
        begin = get("/b", f"Content-Length: {size}", method="POST")
        await client.send(filler * 2 + begin + b"b" * 50)
        assert not client.is_read
        await client.send(b"b" * (size - 50))
        gate.set()
        await driver.settle()
        assert bodies(client) == [b"0", b"0", b"0", b"%d" % size]


async def test_requests_of_a_slow_reader_wait() -> None:
    """While a client does not take the responses it has, no more of its pipelined requests are begun."""
    began: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        began.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 50_000})

    async with driving(app) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(b"".join(get(f"/{number}") for number in range(9)))
        assert began == ["/0", "/1"]
        await client.take(90_000)
        assert began == ["/0", "/1", "/2", "/3"]
        await client.read_on()
        assert len(client.responses()) == 9


# A client that ends its side.


@pytest.mark.spec("issue 4", "traps: a half-closed client dropped without its answer")
@pytest.mark.spec("RFC 9112", "section 9.6")
@either_echo
async def test_a_client_that_has_ended_gets_its_answer(echo: Any) -> None:
    """The end of what the client sends is not the end of what it gets; then the connection ends."""
    async with driving(echo) as driver:
        client = driver.connect()
        await client.send_and_end(post(b"last"))
        assert client.response().body == b"POST / last"
        assert client.is_closed
        assert not client.transport.aborted


async def test_an_answer_that_comes_long_after_the_end_of_the_client() -> None:
    """However long the application takes."""
    app = Gated()
    async with driving(app) as driver:
        client = driver.connect()
        await client.send_and_end(get("/a") + get("/b"))
        await driver.advance(200)
        app.open()
        await driver.settle()
        assert not client.is_closed
        app.open()
        await driver.settle()
        assert bodies(client) == [b"/a", b"/b"]
        assert client.is_closed


@pytest.mark.spec("issue 4", "traps: a half-closed client dropped without its answer")
@pytest.mark.parametrize("count", [1, 16, 17, 40, 500])
@either_ready
async def test_all_pipelined_requests_of_a_client_that_has_ended(ready: Any, count: int) -> None:
    """Every request that came before the end is answered, however many they are."""
    async with driving(ready) as driver:
        client = driver.connect()
        await client.send_and_end(get() * count)
        assert len(client.responses()) == count
        assert client.is_closed


@pytest.mark.spec("issue 4", "traps: a half-closed client dropped without its answer")
async def test_a_client_that_has_ended_and_reads_slowly() -> None:
    """Requests that waited for it to read its responses are answered too."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 100_000})

    async with driving(app) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get() * 3)
        await client.half_close()
        await client.read_on()
        assert [len(body) for body in bodies(client)] == [100_000] * 3
        assert client.is_closed


@pytest.mark.spec("issue 4", "traps: a half-closed client dropped without its answer")
@pytest.mark.spec("RFC 9112", "section 9.6")
@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
async def test_a_client_that_has_ended_and_reads_a_stream_slowly(kind: str) -> None:
    """It has the time of every slow client, though nothing new can be written meanwhile."""

    async def stream_asgi(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(20):
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
        await send({"type": "http.response.body"})

    def stream_wsgi(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        return iter([b"x" * 10_000] * 20)

    options = {"buffer_bytes": 20_000, "write_seconds": 60, "disconnect_grace_seconds": 3}
    async with driving(stream_asgi if kind == "asgi" else stream_wsgi, **options) as driver:
        client = driver.connect()
        await client.hold()
        await client.send_and_end(get())
        for _ in range(5):
            await driver.advance(40)
            await client.take(2000)
        await client.read_on()
        assert len(client.response().body) == 200_000
        assert client.response().complete


@pytest.mark.parametrize("seconds", [0, 0.5])
async def test_a_client_that_has_ended_costs_nothing_while_it_waits(seconds: float) -> None:
    """However short the grace time, the server does not look after it all the time."""
    app = Gated()
    async with driving(app, disconnect_grace_seconds=seconds) as driver:
        client = driver.connect()
        await client.send_and_end(get("/a"))
        await driver.advance(5)
        before = driver.loop.timers
        for _ in range(100):
            await asyncio.sleep(0)
        assert driver.loop.timers - before < 10
        await driver.advance(60)
        app.open()
        await driver.settle()
        assert client.response().body == b"/a"


@pytest.mark.spec("RFC 9112", "section 8")
@pytest.mark.parametrize(
    "begun", [b"", b"GE", b"GET / HTTP/1.1\r\nHost: a.example\r\n", b"\r\n"], ids=repr
)
async def test_a_client_that_ends_without_a_request_is_let_go(begun: bytes) -> None:
    """There is nothing to answer; the connection does not wait for more that cannot come."""
    async with driving(ready_asgi) as driver:
        fresh = driver.connect()
        await fresh.send(begun)
        await fresh.half_close()
        assert fresh.is_closed
        assert fresh.received == b""
        used = driver.connect()
        await used.send(get())
        await used.send_and_end(begun)
        assert used.is_closed
        assert bodies(used) == [b"/"]
        late = driver.connect()
        await late.send_and_end(get() + begun)
        assert late.is_closed
        assert bodies(late) == [b"/"]


@pytest.mark.spec("RFC 9112", "section 8")
@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
async def test_a_body_that_its_client_ends_too_early(framing: str) -> None:
    """The application never takes a part for the whole, and the connection ends."""
    got: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.append(await receive())
        got.append(await receive())

    async with driving(app) as driver:
        client = driver.connect()
        body = b"part" if "Length" in framing else b"4\r\npart\r\n"
        await client.send(get("/", framing, method="POST") + body)
        await client.half_close()
        assert got == [
            {"type": "http.request", "body": b"part", "more_body": True},
            {"type": "http.disconnect"},
        ]
        assert client.is_closed


@pytest.mark.spec("issue 4", "2. clients that vanish at every point")
@pytest.mark.parametrize("manner", ["leaves", "ends"])
@pytest.mark.parametrize(
    "request_",
    [post(b"body"), get("/", "Transfer-Encoding: chunked", method="PUT") + chunked(b"b")],
)
@either_echo
async def test_a_client_that_goes_at_any_byte_of_its_request(
    echo: Any, request_: bytes, manner: str
) -> None:
    """Nothing is logged, nothing is left, and only a whole request is answered."""
    async with driving(echo) as driver:
        for size in range(len(request_) + 1):
            client = driver.connect()
            await client.send(request_[:size])
            await (client.leave() if manner == "leaves" else client.half_close())
            assert client.is_closed, size
            assert bool(client.received) == (size == len(request_)), size
        await driver.advance(5)
        assert driver.service.connections == set()
        assert driver.tasks == set()


@pytest.mark.spec("issue 4", "2. clients that vanish at every point")
@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
async def test_a_client_that_goes_at_any_byte_of_its_response(kind: str) -> None:
    """Wherever the application is by then."""

    async def stream_asgi(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(30):
            await send({"type": "http.response.body", "body": b"x" * 9_000, "more_body": True})
        await send({"type": "http.response.body"})

    closed: list[bool] = []

    def stream_wsgi(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield from [b"x" * 9_000] * 30
        finally:
            closed.append(True)

    async with driving(
        stream_asgi if kind == "asgi" else stream_wsgi, buffer_bytes=20_000
    ) as driver:
        sizes = range(0, 280_000, 7_000)
        for size in sizes:
            client = driver.connect()
            await client.hold()
            await client.send(get())
            for _ in range(size // 7_000):
                await client.take(7_000)
            await client.leave()
        await driver.advance(5)
        assert driver.tasks == set()
        assert driver.service.pool.snapshot().busy == 0
        assert len(closed) == (len(sizes) if kind == "wsgi" else 0)


@pytest.mark.spec("RFC 9112", "section 8")
@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
@either_echo
async def test_a_pipelined_body_that_its_client_has_ended(echo: Any, framing: str) -> None:
    """The end was seen while the request before it was served: nobody waits for the rest of the body."""
    async with driving(echo) as driver:
        client = driver.connect()
        begun = b"part" if "Length" in framing else b"4\r\npart\r\n"
        await client.send_and_end(get() + get("/", framing, method="POST") + begun)
        assert bodies(client) == [b"GET / "]
        assert client.is_closed
        assert driver.tasks == set()
        assert driver.service.pool.snapshot().busy == 0


# Expect: 100-continue.


@pytest.mark.spec("RFC 9110", "section 10.1.1")
@pytest.mark.spec("field-reports", "FR 113")
async def test_continue_when_the_application_first_reads() -> None:
    """The client is told to go on at the first receive(), once, and not before."""
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await echo_asgi(scope, receive, send)

    async with driving(app) as driver:
        client = driver.connect()
        head = get("/", "Expect: 100-continue", "Content-Length: 4", method="POST")
        assert await client.send(head) == b""
        gate.set()
        await driver.settle()
        assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"bo", b"dy")
        assert client.interim("POST") == [100]
        assert client.response("POST").body == b"POST / body"
        await client.send(get("/next"))
        assert client.responses("POST", "GET")[1].body == b"GET /next "


@pytest.mark.spec("RFC 9110", "section 10.1.1")
@pytest.mark.parametrize("framing", ["Content-Length: 4", "Transfer-Encoding: chunked"])
async def test_continue_when_the_wsgi_application_first_reads(framing: str) -> None:
    """The same for a thread that reads, also of a body that would else be collected before a thread is taken."""
    gate, began = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        began.set()
        gate.wait()
        body = environ["wsgi.input"].read(2) + environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [body]

    async with driving(app) as driver:
        client = driver.connect()
        assert await client.send(get("/", "Expect: 100-continue", framing, method="POST")) == b""
        assert began.is_set()
        gate.set()
        await driver.settle()
        assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"body" if "Length" in framing else chunked(b"body"))
        assert client.interim("POST") == [100]
        assert client.response("POST").body == b"body"
        await client.send(get("/next"))
        assert [r.body for r in client.responses("POST", "GET")] == [b"body", b""]


@pytest.mark.spec("RFC 9110", "section 10.1.1")
@pytest.mark.spec("field-reports", "FR 113")
@either_ready
async def test_no_continue_where_nobody_reads(ready: Any) -> None:
    """The final answer comes instead; whether the client then sends its body cannot be known: the connection ends."""
    async with driving(ready) as driver:
        client = driver.connect()
        await client.send(get("/", "Expect: 100-continue", "Content-Length: 4", method="POST"))
        assert client.interim() == []
        assert client.response().body == b"/"
        assert client.response().value(b"connection") == b"close"
        assert client.is_closed


@pytest.mark.spec("RFC 9110", "section 10.1.1")
@either_echo
async def test_no_continue_for_a_client_that_did_not_wait(echo: Any) -> None:
    """It has begun to send its body, so that it need not be told."""
    async with driving(echo) as driver:
        client = driver.connect()
        head = get("/", "Expect: 100-continue", "Content-Length: 4", method="POST")
        await client.send(head + b"bo", b"dy")
        assert client.interim() == []
        assert client.response().body == b"POST / body"
        assert not client.is_closed


@pytest.mark.spec("RFC 9110", "section 10.1.1")
@either_echo
async def test_no_continue_for_http_1_0_nor_without_a_body(echo: Any) -> None:
    """A client of HTTP/1.0 does not know it, and one without a body does not wait."""
    async with driving(echo) as driver:
        old, empty = driver.connect(), driver.connect()
        await old.send(
            get("/", "Expect: 100-continue", "Content-Length: 1", method="PUT", version="1.0")
        )
        assert old.received == b""
        await old.send(b"x")
        assert old.interim() == []
        assert old.response().body == b"PUT / x"
        await empty.send(get("/", "Expect: 100-continue", "Content-Length: 0", method="PUT"))
        assert empty.interim() == []
        assert empty.response().body == b"PUT / "


@pytest.mark.spec("RFC 9110", "section 15.2")
async def test_no_continue_once_the_response_has_begun() -> None:
    """An interim response in the middle of the final one would be taken for a part of its body."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
        message = await receive()
        body = message.get("body", b"")
        await send({"type": "http.response.body", "body": b"got " + body})

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/", "Expect: 100-continue", "Content-Length: 4", method="POST"))
        assert b"100 Continue" not in client.received
        await client.send(b"body")
        assert client.interim("POST") == []
        assert client.response("POST").body == b"begun got body"


@pytest.mark.spec("RFC 9110", "section 15.2")
async def test_no_continue_once_the_wsgi_response_has_begun() -> None:
    """The same for an application that reads while it writes."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        write = start_response("200 OK", [])
        write(b"begun ")
        yield b"got " + environ["wsgi.input"].read()

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/", "Expect: 100-continue", "Content-Length: 4", method="POST"))
        assert b"100 Continue" not in client.received
        await client.send(b"body")
        assert client.interim("POST") == []
        assert client.response("POST").body == b"begun got body"


# Bodies that nobody reads.


@pytest.mark.spec("RFC 9112", "section 9.3")
@pytest.mark.spec("field-reports", "FR 112")
@pytest.mark.parametrize("at_once", [True, False])
@either_ready
async def test_an_unread_body_is_no_request(ready: Any, at_once: bool) -> None:
    """What is left of a small body is read and dropped, and the next request begins behind it."""
    smuggled = get("/smuggled")
    request = post(smuggled, path="/first")
    async with driving(ready) as driver:
        client = driver.connect()
        if at_once:
            await client.send(request + get("/second"))
        else:
            await client.send(
                request[: -len(smuggled)], smuggled[:9], smuggled[9:] + get("/second")
            )
        assert bodies(client) == [b"/first", b"/second"]
        assert not client.is_closed


@pytest.mark.spec("RFC 9112", "section 9.3")
@pytest.mark.parametrize(("surplus", "kept"), [(0, True), (1, False)])
async def test_how_much_of_an_unread_body_is_drained(surplus: int, kept: bool) -> None:
    """A body that is too large to be dropped ends the connection, which the response says."""
    size = DRAINED_BYTES + surplus
    async with driving(ready_asgi) as driver:
        client = driver.connect()
        await client.send(get("/", f"Content-Length: {size}", method="POST"))
        said = client.response().value(b"connection")
        assert said == (None if kept else b"close")
        assert client.is_closed != kept
        await client.send(b"b" * size, get("/second"))
        assert bodies(client) == ([b"/", b"/second"] if kept else [b"/"])


@pytest.mark.spec("RFC 9112", "section 9.3")
@either_ready
async def test_an_unread_body_in_chunks_ends_the_connection(ready: Any) -> None:
    """Nobody knows how much of it will come. If all of it has come, the connection goes on."""
    head = get("/", "Transfer-Encoding: chunked", method="POST")
    async with driving(ready) as driver:
        open_ended, whole = driver.connect(), driver.connect()
        await open_ended.send(head)
        if (
            ready is ready_wsgi
        ):  # whose thread is asked at once, so that the body could not have come
            assert open_ended.response().value(b"connection") == b"close"
        assert open_ended.is_closed
        await whole.send(head + chunked(b"body") + get("/second"))
        assert bodies(whole) == [b"/", b"/second"]


@pytest.mark.spec("RFC 9112", "section 7.1")
@pytest.mark.spec("field-reports", "FR 113")
@either_echo
async def test_a_malformed_chunk_is_no_end_of_the_body(echo: Any) -> None:
    """The application does not get to see an end, and the client gets 400."""
    async with driving(echo) as driver:
        client = driver.connect()
        await client.send(get("/", "Transfer-Encoding: chunked", method="POST"), b"2\r\nab\r\n")
        await client.send(b"zz\r\n")
        assert client.response().status == 400
        assert client.is_closed


async def test_a_malformed_chunk_in_the_middle_of_the_response() -> None:
    """Where no answer can be given any more, the connection is cut; the application is told."""
    got: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        got.append((await receive())["type"])
        got.append((await receive())["type"])

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(
            get("/", "Transfer-Encoding: chunked", method="POST"), b"1\r\na\r\n", b"z"
        )
        assert got == ["http.request", "http.disconnect"]
        assert client.transport.aborted
        assert not client.response().complete


async def test_a_malformed_chunk_of_a_body_that_nobody_waits_for() -> None:
    """It comes behind the response to its own request, and costs the connection only."""
    async with driving(ready_asgi) as driver:
        client = driver.connect()
        await client.send(get("/", "Transfer-Encoding: chunked", method="POST") + b"z")
        assert client.response().status in (200, 400)
        assert client.is_closed


# The end of a connection on which something is still sent.


@pytest.mark.spec("RFC 9112", "section 9.6")
async def test_a_refused_client_that_goes_on_sending_gets_its_answer() -> None:
    """A reset would take the response from it: what it still sends is read and dropped, for a while."""
    async with driving(ready_asgi, max_body_bytes=100) as driver:
        client = driver.connect()
        await client.send(get("/", "Content-Length: 1000000", method="POST"))
        assert client.response().status == 413
        assert client.is_closed
        await client.send(*[b"b" * 10_000] * 50)
        assert not client.transport.is_lost
        await driver.advance(4)
        assert client.transport.is_lost


@pytest.mark.spec("RFC 9112", "section 9.6")
async def test_a_refused_client_that_sends_very_much_is_cut_off() -> None:
    """There is a bound to that: it can send no more, which lets it look at the answer, and soon it is let go."""
    async with driving(ready_asgi, max_body_bytes=100) as driver:
        client = driver.connect()
        await client.send(get("/", "Content-Length: 10000000", method="POST"))
        await client.send(*[b"b" * 100_000] * 11)
        assert client.response().status == 413
        assert not client.transport.is_reading() and not client.transport.is_lost
        await driver.advance(3)
        assert client.transport.is_lost


@pytest.mark.spec("RFC 9112", "section 9.6")
async def test_a_client_whose_last_response_is_under_way_may_still_send() -> None:
    """Requests behind the last one are read and dropped for a moment, so that no reset overtakes the response."""
    async with driving(ready_asgi) as driver:
        client = driver.connect()
        await client.send(get("/", "Connection: close") + get("/behind"))
        assert client.is_closed
        assert not client.transport.is_lost
        await client.send(get("/more"))
        await driver.advance(4)
        assert client.transport.is_lost
        assert len(client.responses()) == 1


async def test_a_refused_client_that_ends_is_let_go_at_once() -> None:
    """It has seen the end, and answers it."""
    async with driving(ready_asgi) as driver:
        client = driver.connect()
        await client.send(b"nonsense\r\n\r\n")
        assert client.response().status == 400
        assert not client.transport.is_lost
        await client.half_close()
        assert client.transport.is_lost


async def test_a_refused_client_over_tls_is_let_go_at_once() -> None:
    """TLS has no half-closed connections."""
    async with driving(ready_asgi) as driver:
        client = driver.connect(ssl_object=object())
        await client.send(b"nonsense\r\n\r\n")
        assert client.response().status == 400
        assert client.transport.is_lost


@pytest.mark.spec("RFC 9112", "section 8")
@pytest.mark.parametrize("manner", ["the server stops", "it does not read"])
async def test_a_body_without_length_is_never_cut_off_as_if_it_were_whole(manner: str) -> None:
    """A client of HTTP/1.0 takes the end of the connection for the end of the body: it gets a reset instead."""
    options: list[tuple[Any, ...]] = []

    class Socket:
        family = 2

        def setsockopt(self, *arguments: Any) -> None:
            options.append(arguments)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 9_000, "more_body": True})

    async with driving(app, write_seconds=1000 if "stops" in manner else 10) as driver:
        client = driver.connect(socket=Socket())
        await client.hold()
        await client.send(get(version="1.0"))
        if "stops" in manner:
            drain = asyncio.ensure_future(driver.service.drain(10))
        await driver.advance(15)
        assert client.transport.aborted
        assert len(options) == 1
        if "stops" in manner:
            await drain
            driver.complaints.take()


# Writes.


@pytest.mark.spec("issue 4", "2. One write for head and small body")
@either_echo
async def test_a_small_response_is_written_at_once(echo: Any) -> None:
    """Head and body leave in one packet."""
    async with driving(echo) as driver:
        client = driver.connect()
        await client.send(post(b"b" * 1000), post(b"b" * 1000))
        assert client.transport.writes == 2
        assert len(client.responses()) == 2


@pytest.mark.spec("issue 4", "2. An eager task where Python has it (3.12)")
@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks begin later")
async def test_an_application_that_never_waits_answers_at_once() -> None:
    """Before the transport has gone on to the next connection."""
    async with driving(ready_asgi) as driver:
        client = driver.connect()
        client.transport.arrive(get("/now"))
        assert client.response().body == b"/now"


# Upgrades.


@pytest.mark.spec("RFC 9110", "section 7.8")
@pytest.mark.spec("issue 4", "traps: POST with Upgrade: websocket never answered")
@either_echo
async def test_upgrades_that_are_not_granted_are_ignored(echo: Any) -> None:
    """The request is served as it is; only GET with HTTP/1.1 can become a websocket, of an ASGI application."""
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    async with driving(echo) as driver:
        client = driver.connect()
        await client.send(post(b"x", *fields, key))
        await client.send(get("/h2c", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"))
        await client.send(get("/1.0", *fields, key, "Connection: keep-alive", version="1.0"))
        assert bodies(client) == [b"POST / x", b"GET /h2c ", b"GET /1.0 "]


# Many connections.


@pytest.mark.spec("issue 4", "2. exceptions of one request never touch another")
async def test_connections_do_not_touch_each_other() -> None:
    """One that fails, one that is refused, one whose client leaves: a stream beside them goes on."""
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fail":
            raise SystemExit(3)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one ", "more_body": True})
        await gate.wait()
        await send({"type": "http.response.body", "body": b"two"})

    async with driving(app) as driver:
        stream = driver.connect()
        await stream.send(get())
        others = [driver.connect() for _ in range(3)]
        await others[0].send(get("/fail"))
        await others[1].send(b"nonsense\r\n\r\n")
        await others[2].send(get())
        await others[2].leave()
        gate.set()
        await driver.settle()
        assert stream.response().body == b"one two"
        assert stream.response().complete
        assert [other.response().status for other in others[:2]] == [500, 400]
        assert len(driver.complaints.take()) == 1


# The access log.


@either_ready
async def test_the_access_log_is_told_of_each_response(ready: Any) -> None:
    """Once it is complete, with its status and the bytes of its body: none for HEAD."""
    async with driving(ready) as driver:
        client = driver.connect()
        await client.send(get("/abc") + get("/abc", method="HEAD") + get("/"))
        told = [(each.head.method, each.status, each.sent) for each in driver.logged]
        assert told == [("GET", 200, 4), ("HEAD", 200, 0), ("GET", 200, 1)]


async def test_the_access_log_is_told_of_failures() -> None:
    """A response of the server itself is one, whose body HEAD has none of; and so is one that was broken off."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise ValueError

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/", method="HEAD") + get() + get("/late"))
        told = [(each.head.path, each.status, each.sent) for each in driver.logged]
        body = b"Internal Server Error\n"
        assert told == [("/", 500, 0), ("/", 500, len(body)), ("/late", 200, 4)]
        assert len(driver.complaints.take()) == 3


async def test_the_access_log_is_told_of_streams_whose_client_left() -> None:
    """A stream of events ends in no other way."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"event", "more_body": True})
        await receive()
        await receive()

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/events"))
        await client.leave()
        assert [(each.head.path, each.status, each.sent) for each in driver.logged] == [
            ("/events", 200, 5)
        ]


# The driver.


def test_serve_bytes_gives_what_was_written_and_whether_the_server_closed() -> None:
    """With nothing running beforehand or afterwards, for either kind."""
    for app in (ready_asgi, ready_wsgi):
        written, closed = serve_bytes([get("/a")[:9], get("/a")[9:]], app)
        assert written.endswith(b"\r\n\r\n/a")
        assert not closed
        assert serve_bytes([get("/a")], app, eof=True)[1]
        assert serve_bytes([], app, eof=True) == (b"", True)


@pytest.mark.spec("issue 4", "traps: a half-closed client dropped without its answer")
async def test_a_client_that_has_ended_waits_out_a_pause_of_the_application() -> None:
    """A response that has begun may stand still for as long as a slow client may; then the client counts as gone."""
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"second"})

    async with driving(app, write_seconds=60, disconnect_grace_seconds=3) as driver:
        patient = driver.connect()
        await patient.send_and_end(get())
        await driver.advance(50)
        go_on.set()
        await driver.settle()
        assert patient.response().body == b"first second"
        go_on.clear()
        gone = driver.connect()
        await gone.send_and_end(get())
        await driver.advance(130)
        assert gone.transport.is_lost


@pytest.mark.spec("ASGI extensions", "HTTP Trailers")
async def test_trailers_of_a_head_request_are_one_request() -> None:
    """The response was complete with its head, and is counted once."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        await send({"type": "http.response.trailers", "headers": [(b"a", b"b")]})

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get(method="HEAD"))
        assert client.response("HEAD").status == 200
        assert len(driver.logged) == 1


async def test_hosts_are_remembered_up_to_a_length() -> None:
    """A client cannot have the server keep what it sent."""
    async with driving(ready_asgi) as driver:
        before = set(driver.service.heads._good_hosts)
        await driver.connect().send(b"GET / HTTP/1.1\r\nHost: " + b"a" * 60_000 + b"\r\n\r\n")
        await driver.connect().send(b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n")
        assert driver.service.heads._good_hosts - before == {b"b.example"}


async def test_nothing_is_closed_in_the_middle_of_the_transports_work() -> None:
    """asyncio says that it can be written again from within its own writing, where it takes a close badly."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 100_000})

    async with driving(app) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get() + b"nonsense\r\n\r\n")
        (connection,) = driver.service.connections
        connection.resume_writing()
        assert not connection._closing
        await driver.settle()
        await client.read_on()
        assert [response.status for response in client.responses()] == [200, 400]
