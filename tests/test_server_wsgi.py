"""WSGI applications in the server: their environ and body, their thread, their response, and what they raise."""

from __future__ import annotations

import asyncio
import contextvars
import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import pytest
from server_driver import CLOCKED, Client, chunked, driving, echo_wsgi, get, post

from bridges.errors import ClientDisconnected
from bridges.typing import Environ, StartResponse

App = Callable[[Environ, StartResponse], Iterable[bytes]]


@pytest.fixture
def anyio_backend() -> Any:
    """Run on a loop whose clock the test turns."""
    return CLOCKED


class Noting:
    """An application that keeps its environ and answers with what ``respond`` makes.

    Attributes:
        environs: of the requests so far.
    """

    def __init__(self, *chunks: bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
        self._chunks = chunks
        self._headers = headers
        self.environs: list[Environ] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.environs.append(environ)
        start_response("200 OK", list(self._headers))
        return list(self._chunks)

    @property
    def environ(self) -> Environ:
        """Of the only request."""
        (environ,) = self.environs
        return environ


class Closing:
    """An iterable that counts how often it was closed, and in which thread.

    Attributes:
        closed: the threads that closed it.
        thread: that iterated over it.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.closed: list[int] = []
        self.thread = 0

    def __iter__(self) -> Iterator[bytes]:
        self.thread = threading.get_ident()
        yield from self._chunks

    def close(self) -> None:
        self.closed.append(threading.get_ident())


def answering(result: Any, status: str = "200 OK", headers: Iterable[tuple[str, str]] = ()) -> App:
    """Make an application that returns this."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response(status, list(headers))
        return result

    return app


async def answered(
    app: App, request: bytes | None = None, complaints: int = 0, **options: Any
) -> Client:
    """Give the client of an application to its request; all is over."""
    async with driving(app, **options) as driver:
        client = driver.connect()
        await client.send(request or get())
        assert len(driver.complaints.take()) == complaints
        return client


# The environ.


@pytest.mark.spec("PEP 3333", "environ Variables")
async def test_the_environ_is_complete() -> None:
    """Every variable has its type and its value."""
    app = Noting()
    async with driving(app) as driver:
        await driver.connect().send(
            get("/caf%C3%A9/%2F?x=%20", "X-Two: a", "x-two: b", "Cookie: c=d", method="PROPFIND")
        )
    environ = app.environ
    assert isinstance(environ.pop("wsgi.input"), io.BytesIO)
    assert environ.pop("wsgi.errors") is sys.stderr
    assert callable(environ.pop("wsgi.file_wrapper"))
    assert callable(environ.pop("wsgi.early_hints"))
    assert callable(environ.pop("bridges.client_disconnected"))
    assert callable(environ.pop("bridges.trailers"))
    assert environ == {
        "REQUEST_METHOD": "PROPFIND",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/caf\xc3\xa9//",
        "QUERY_STRING": "x=%20",
        "REQUEST_URI": "/caf%C3%A9/%2F?x=%20",
        "RAW_URI": "/caf%C3%A9/%2F?x=%20",
        "SERVER_NAME": "192.0.2.80",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "50000",
        "HTTP_HOST": "a.example",
        "HTTP_X_TWO": "a,b",
        "HTTP_COOKIE": "c=d",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    assert type(environ) is dict


@pytest.mark.spec("RFC 3875", "section 4.1")
@pytest.mark.spec("field-reports", "FR 115")
@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        (
            {"peername": ("::1", 5, 0, 0), "sockname": ("::1", 8000, 0, 0)},
            ("::1", "8000", "::1", "5"),
        ),
        ({"peername": "", "sockname": "/run/app.sock"}, ("localhost", "80", "", None)),
        (
            {"peername": "", "sockname": "/run/app.sock", "ssl_object": object()},
            ("localhost", "443", "", None),
        ),
    ],
    ids=["IPv6", "unix", "unix with TLS"],
)
async def test_addresses(facts: dict[str, Any], wanted: tuple[str | None, ...]) -> None:
    """A unix socket has a name and a port too, for PEP 3333 wants them."""
    app = Noting()
    async with driving(app) as driver:
        await driver.connect(**facts).send(get())
    names = ("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "REMOTE_PORT")
    assert tuple(app.environ.get(name) for name in names) == wanted
    assert app.environ["wsgi.url_scheme"] == ("https" if "ssl_object" in facts else "http")


@pytest.mark.spec("field-reports", "FR 115")
async def test_the_root_path_is_the_script_name() -> None:
    """The option's prefix is no part of PATH_INFO, and latin-1 code points stand for its bytes."""
    app = Noting()
    async with driving(app, root_path="/ä") as driver:
        await driver.connect().send(get("/x"))
    assert app.environ["SCRIPT_NAME"] == "/\xc3\xa4"
    assert app.environ["PATH_INFO"] == "/x"


@pytest.mark.spec("RFC 9112", "section 3.2")
@pytest.mark.spec("issue 4", "traps: the old Host kept on an absolute-form target")
async def test_targets_of_other_forms() -> None:
    """The host of an absolute target counts and is no part of the path; an asterisk means the server."""
    app = Noting()
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("http://other.example:81/a%20b?c"), get("*", method="OPTIONS"))
        assert [each.status for each in client.responses()] == [200, 200]
    absolute, asterisk = app.environs
    names = ("HTTP_HOST", "PATH_INFO", "QUERY_STRING", "REQUEST_URI")
    assert [absolute[name] for name in names] == ["other.example:81", "/a b", "c", "/a%20b?c"]
    assert [asterisk[name] for name in names] == ["a.example", "*", "", "*"]


async def test_requests_of_a_connection_do_not_share_an_environ() -> None:
    """What one puts into it, or takes out, is not seen by the next."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        found = environ.pop("SERVER_NAME") + environ.get("own", " none")
        environ["own"] = "here"
        environ["wsgi.version"] = None
        return [found.encode()]

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get() + get())
        assert [each.body for each in client.responses()] == [b"192.0.2.80 none"] * 2


@pytest.mark.spec("field-reports", "FR 115")
async def test_forwarded_headers_of_a_trusted_proxy() -> None:
    """The client, the scheme, the host and the prefix are those that it names."""
    app = Noting()
    fields = (
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: shop.example",
        "X-Forwarded-Prefix: /shop",
    )
    async with driving(app, forwarded_allow_ips="192.0.2.1") as driver:
        client = driver.connect()
        await client.send(get("/x", *fields))
        await client.send(get("/x"))
    first, second = app.environs
    names = ("REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "HTTPS", "HTTP_HOST", "SCRIPT_NAME")
    assert [first.get(name) for name in names] == [
        "203.0.113.9",
        None,
        "https",
        "on",
        "shop.example",
        "/shop",
    ]
    assert [second.get(name) for name in names] == [
        "192.0.2.1",
        "50000",
        "http",
        None,
        "a.example",
        "",
    ]


@pytest.mark.spec("behaviours", "WSGIToASGI: headers")
async def test_headers_that_must_be_refused() -> None:
    """The client gets 400, the application is not called, and the connection goes on."""
    app = Noting(b"x")
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/", *["X-Many: 1"] * 101) + get())
        assert [each.status for each in client.responses()] == [400, 200]
        await client.send(post(b"body", "Content-Type: a/b", "Content-Type: c/d"), get())
        assert [each.status for each in client.responses()][2:] == [400, 200]
    assert len(app.environs) == 2


@pytest.mark.spec("PEP 3333")
@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_the_validator_of_the_standard_library_has_nothing_to_say(method: str) -> None:
    """Neither about the environ nor about how the application is called."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1")])
        return [environ["wsgi.input"].read(1) or b"-"]

    request = post(b"x", "Content-Type: a/b", method=method)
    client = await answered(validator(app), request, interface="wsgi")  # type: ignore[arg-type]
    assert client.response(method).status == 200


# The body of the request.


@pytest.mark.spec("PEP 3333", "Input and Error Streams")
@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1_000_000])
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_bodies_of_any_size(size: int, framing: str) -> None:
    """They arrive whole, read at once, by lines or in pieces; then there is an end, again and again."""
    body = (b"line\n" * (size // 5 + 1))[:size]

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        stream = environ["wsgi.input"]
        pieces = [stream.readline(), stream.read(7), *stream.readlines(100), stream.read()]
        start_response("200 OK", [])
        assert stream.read() == stream.read(10) == stream.readline() == b""
        return pieces

    async with driving(app) as driver:
        client = driver.connect()
        if framing == "length":
            raw = post(body)
        else:
            chunks = [body[at : at + 9999] for at in range(0, size, 9999)]
            raw = get("/", "Transfer-Encoding: chunked", method="POST") + chunked(*chunks)
        await client.send(*[raw[at : at + 60_000] for at in range(0, len(raw), 60_000)])
        assert client.response().body == body


@pytest.mark.spec("behaviours", "WSGIToASGI: body")
async def test_a_small_body_is_there_before_a_thread_is_taken() -> None:
    """A slow client holds no thread: the call begins when the announced bytes are complete."""
    app = Noting()
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/", "Content-Length: 4", method="POST"), b"bod")
        assert app.environs == []
        assert driver.service.pool.snapshot().threads == 0
        await client.send(b"y")
        assert len(app.environs) == 1


@pytest.mark.spec("behaviours", "WSGIToASGI: body")
async def test_a_large_body_streams_with_backpressure() -> None:
    """The application has what came, and no more is read ahead of it than the buffer holds."""
    gate = threading.Event()
    first: list[bytes] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        first.append(environ["wsgi.input"].read1(10))
        gate.wait()
        start_response("200 OK", [])
        return [b"%d" % (10 + len(environ["wsgi.input"].read()))]

    size, buffer_bytes, step = 1_000_000, 100_000, 20_000
    async with driving(app, buffer_bytes=buffer_bytes) as driver:
        client = driver.connect()
        await client.send(get("/", f"Content-Length: {size}", method="POST"), b"b" * step)
        assert first == [b"b" * 10]
        await client.send(*[b"b" * step] * (size // step - 1))
        assert not client.is_read
        read = size - sum(map(len, client.transport.incoming))
        # The stream object, the buffer, and the piece that found no room.
        assert buffer_bytes <= read <= 65_536 + buffer_bytes + step
        gate.set()
        await driver.settle()
        assert client.response().body == b"%d" % size


@pytest.mark.spec("behaviours", "WSGIToASGI: body")
@pytest.mark.parametrize("manner", ["leaves", "ends", "sends a malformed chunk"])
async def test_a_body_that_breaks_off(manner: str) -> None:
    """The read raises; it is never an end. What came before is given."""
    got: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        got.append(environ["wsgi.input"].read(4))
        for _ in range(2):
            with pytest.raises(ClientDisconnected):
                environ["wsgi.input"].read()
            got.append("raised")
        raise ClientDisconnected("as most let pass what a read raises")

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/", "Transfer-Encoding: chunked", method="POST"), b"4\r\npart\r\n")
        if manner == "leaves":
            await client.leave()
        elif manner == "ends":
            await client.half_close()
        else:
            await client.send(b"zz\r\n")
            assert client.response().status == 400
        assert got == [b"part", "raised", "raised"]
        assert client.is_closed


async def test_a_body_that_is_not_read_holds_nobody_up() -> None:
    """The response comes before the end of the body; the thread is free, and the connection ends."""
    app = Noting(b"answer")
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/", "Content-Length: 1000000", method="POST"), b"b" * 300_000)
        assert client.response().body == b"answer"
        assert client.response().value(b"connection") == b"close"
        assert client.is_closed


# The thread.


@pytest.mark.spec("behaviours", "WSGIToASGI: threads")
@pytest.mark.spec("behaviours", "WSGIToASGI: context")
async def test_one_request_one_thread_one_context() -> None:
    """The call, the iteration and close() share them; the next request has a fresh context."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: list[tuple[int, str]] = []

    def note(value: str) -> None:
        seen.append((threading.get_ident(), variable.get()))
        variable.set(value)

    class Result:
        def __iter__(self) -> Iterator[bytes]:
            note("iterated")
            yield b"x"

        def close(self) -> None:
            note("closed")

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        note("called")
        start_response("200 OK", [])
        return Result()

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get() + get())
        assert len(client.responses()) == 2
    for request in (seen[:3], seen[3:]):
        assert [value for _, value in request] == ["none", "called", "iterated"]
        assert len({thread for thread, _ in request}) == 1
        assert request[0][0] != threading.get_ident()


@pytest.mark.spec("design", "A buffered response frees its thread")
async def test_a_list_frees_its_thread() -> None:
    """However slow the client and large the list."""
    async with driving(answering([b"x" * 1_000_000] * 3), threads=1) as driver:
        slow, fast = driver.connect(), driver.connect()
        await slow.hold()
        await slow.send(get())
        assert driver.service.pool.snapshot().busy == 0
        await fast.send(get())
        assert len(fast.response().body) == 3_000_000
        await slow.read_on()
        assert len(slow.response().body) == 3_000_000


@pytest.mark.spec("behaviours", "WSGIToASGI: run-ahead")
@pytest.mark.parametrize("buffer_bytes", [20_000, 100_000])
async def test_a_generator_runs_ahead_by_the_buffer(buffer_bytes: int) -> None:
    """Then its thread waits for the client; it goes on as that reads."""
    made: list[int] = []

    def stream() -> Iterator[bytes]:
        for number in range(60):
            made.append(number)
            yield b"x" * 10_000

    async with driving(answering(stream()), buffer_bytes=buffer_bytes) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get())
        # What the transport takes before it is full, what the pipe holds, and the chunk that waits for room.
        most = 65_536 + 2 * buffer_bytes + 2 * 10_000
        assert buffer_bytes <= len(made) * 10_000 <= most
        before = len(made)
        taken = await client.take()
        assert len(made) > before
        assert len(made) * 10_000 <= most + len(taken)
        await client.read_on()
        assert len(client.response().body) == 600_000


@pytest.mark.spec("field-reports", "FR 111")
async def test_a_lone_chunk_leaves_at_once() -> None:
    """A client of events sees the first before the second is made."""
    gate = threading.Event()

    def stream() -> Iterator[bytes]:
        yield b"data: 1\n\n"
        gate.wait()
        yield b"data: 2\n\n"

    async with driving(answering(stream())) as driver:
        client = driver.connect()
        await client.send(get())
        assert client.response().body == b"data: 1\n\n"
        assert not client.response().complete
        gate.set()
        await driver.settle()
        assert client.response().body == b"data: 1\n\ndata: 2\n\n"
        assert client.response().complete


# The queue.


class Waiting:
    """An application whose calls wait for the test.

    Attributes:
        gate: that they wait for.
        paths: of the calls begun.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.paths: list[str] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        self.paths.append(environ["PATH_INFO"])
        self.gate.wait()
        start_response("200 OK", [])
        return [b"served"]


@pytest.mark.spec("behaviours", "WSGIToASGI: threads")
async def test_a_full_queue_is_answered_with_503() -> None:
    """With Retry-After, at once; those that wait are served in order when a thread is free."""
    app = Waiting()
    async with driving(app, threads=1, max_queue=2) as driver:
        clients = [driver.connect() for _ in range(4)]
        for number, client in enumerate(clients):
            await client.send(get(f"/{number}"))
        refused = clients[3].response()
        assert (refused.status, refused.value(b"retry-after")) == (503, b"1")
        assert not clients[3].is_closed
        assert app.paths == ["/0"]
        app.gate.set()
        await driver.settle()
        assert app.paths == ["/0", "/1", "/2"]
        assert [client.response().body for client in clients[:3]] == [b"served"] * 3
        await clients[3].send(get("/3"))
        assert app.paths[-1] == "/3"
        assert [complaint[:9] for complaint in driver.complaints.take()] == ["all 1 thr"]


@pytest.mark.spec("behaviours", "WSGIToASGI: threads")
async def test_a_wait_in_the_queue_is_bounded() -> None:
    """queue_seconds after its request a client gets 503, and the application is not called for it."""
    app = Waiting()
    async with driving(app, threads=1, queue_seconds=5) as driver:
        busy, waiting = driver.connect(), driver.connect()
        await busy.send(get("/busy"))
        await waiting.send(get("/waiting"))
        await driver.advance(4)
        assert waiting.received == b""
        await driver.advance(1.5)
        assert waiting.response().status == 503
        await driver.advance(50)
        app.gate.set()
        await driver.settle()
        assert busy.response().body == b"served"
        assert app.paths == ["/busy"]
        await waiting.send(get("/again"))
        assert waiting.responses()[1].body == b"served"
        driver.complaints.take()


@pytest.mark.spec("behaviours", "WSGIToASGI: threads")
async def test_a_client_that_leaves_the_queue_is_not_served() -> None:
    """Its request never runs, and the one behind it does."""
    app = Waiting()
    async with driving(app, threads=1) as driver:
        clients = [driver.connect() for _ in range(3)]
        for number, client in enumerate(clients):
            await client.send(get(f"/{number}"))
        await clients[1].leave()
        app.gate.set()
        await driver.settle()
        assert app.paths == ["/0", "/2"]
        driver.complaints.take()


# A client that leaves.


@pytest.mark.spec("behaviours", "WSGIToASGI: response")
async def test_a_client_that_leaves_in_the_middle_of_a_stream() -> None:
    """The next chunk raises in the generator's thread, close() runs, nothing is logged as a failure."""
    gate = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"one"
        gate.wait()
        for _ in range(100):
            yield b"x" * 10_000

    result = Closing(chunks())
    async with driving(answering(result)) as driver:
        client = driver.connect()
        await client.send(get())
        await client.leave()
        gate.set()
        await driver.settle()
        assert result.closed == [result.thread]


async def test_a_slow_client_that_leaves_frees_the_thread() -> None:
    """The put that waits for room ends."""
    result = Closing(b"x" * 50_000 for _ in range(100))
    async with driving(answering(result)) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get())
        assert driver.service.pool.snapshot().busy == 1
        await client.leave()
        assert driver.service.pool.snapshot().busy == 0
        assert result.closed == [result.thread]


@pytest.mark.spec("FR 35")
@pytest.mark.parametrize("before", [[], [b"first"]], ids=["no head", "a head"])
async def test_an_application_that_yields_nothing_ends_with_its_client(before: list[bytes]) -> None:
    """Empty chunks, which some yield while they wait, send nothing that could fail."""
    resume = threading.Event()
    steps: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield from before
            yield b""
            resume.wait()
            yield b""
            steps.append("went on")
        finally:
            steps.append("ended")

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        await client.leave()
        resume.set()
        await driver.settle()
        assert steps == ["ended"]


async def test_the_application_can_ask_whether_the_client_is_there() -> None:
    """Also where it sends nothing for a while."""
    asked = [threading.Event(), threading.Event()]
    answers: list[bool] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        for event in asked:
            answers.append(environ["bridges.client_disconnected"]())
            event.wait()
        answers.append(environ["bridges.client_disconnected"]())
        start_response("200 OK", [])
        return []

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        asked[0].set()
        await driver.settle()
        assert answers == [False, False]
        await client.leave()
        asked[1].set()
        await driver.settle()
        assert answers == [False, False, True]


@pytest.mark.parametrize("paused", [False, True])
async def test_a_failure_behind_the_clients_leaving_is_logged(paused: bool) -> None:
    """What the clean-up of an application raises is not lost, however slow its client was."""
    gate = threading.Event()

    def chunks() -> Iterator[bytes]:
        try:
            yield b"x" * (200_000 if paused else 1)
            gate.wait()
            yield b"x" * 500_000
            yield b"x" * 500_000
        finally:
            raise ValueError("in the clean-up")

    async with driving(answering(chunks())) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get())
        await client.leave()
        gate.set()
        await driver.settle()
        (complaint,) = driver.complaints.take()
        assert complaint.endswith("(ValueError)")


# What the application raises.

RAISED = [
    ValueError("v"),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    StopIteration(),
    OSError("o"),
    ClientDisconnected("an application that is its own client"),
]


def _name(error: BaseException) -> str:
    return type(error).__name__


@pytest.mark.spec("behaviours", "WSGIToASGI: response")
@pytest.mark.parametrize("error", RAISED, ids=_name)
@pytest.mark.parametrize("moment", ["call", "start", "iteration", "close"])
async def test_an_application_that_raises_before_the_head_leaves(
    error: BaseException, moment: str
) -> None:
    """The client gets 500 and nothing of the reason, the log gets it; thread, connection and server go on."""

    class Result:
        closed = 0

        def __iter__(self) -> Iterator[bytes]:
            yield b""
            if moment == "iteration":
                raise error

        def close(self) -> None:
            Result.closed += 1
            if moment == "close":
                raise error

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if moment == "call":
            raise error
        start_response("200 OK", [("X-Own", "1")])
        if moment == "start":
            raise error
        return Result()

    async with driving(app, threads=1) as driver:
        client = driver.connect()
        await client.send(get())
        if moment == "close":  # the response is complete by then
            assert client.response().status in (200, 500)
        else:
            assert client.response().status == 500
            assert client.response().value(b"x-own") is None
            assert client.response().body == b"Internal Server Error\n"
            assert not client.is_closed
        assert len(driver.complaints.take()) == 1
        again = driver.connect()
        await again.send(get())
        assert again.received
        assert len(driver.complaints.take()) == 1
        assert Result.closed == (2 if moment in ("iteration", "close") else 0)


@pytest.mark.spec("RFC 9112", "section 8")
@pytest.mark.parametrize("error", RAISED, ids=_name)
@pytest.mark.parametrize("headers", [[], [("Content-Length", "100")]], ids=["chunks", "length"])
async def test_an_application_that_raises_in_the_body(
    error: BaseException, headers: list[tuple[str, str]]
) -> None:
    """The connection is cut, so that nobody takes the part for the whole; close() runs once."""

    def chunks() -> Iterator[bytes]:
        yield b"part"
        raise error

    result = Closing(chunks())
    async with driving(answering(result, headers=headers)) as driver:
        client = driver.connect()
        await client.send(get() + get())
        assert client.response().body == b"part"
        assert not client.response().complete
        assert client.transport.aborted
        assert len(result.closed) == 1
        assert len(driver.complaints.take()) == 1


@pytest.mark.spec("PEP 3333", "The start_response() Callable")
@pytest.mark.parametrize(
    "app",
    [
        lambda environ, start_response: [b"x"],
        lambda environ, start_response: None,
        answering(None),
        answering(["text"]),
        answering([b"x"], "OK 200"),
        answering([b"x"], headers=[("X", "a\r\nSet-Cookie: b")]),
        answering([b"x"], headers=[("X", "a\0b")]),
        answering([b"x"], headers=[("X\n", "a")]),
        answering([b"x"], headers=[("X", "\u20ac")]),
        answering([b"x"], headers=[("Content-Length", "1"), ("Content-Length", "2")]),
        answering([b"x"], headers=[("Content-Length", "one")]),
        answering(x for x in ["text"]),
    ],
)
async def test_mistakes_before_the_head_leaves(app: App) -> None:
    """Each is the application's, which the log says; the client gets 500."""
    client = await answered(app, complaints=1)
    assert client.response().status == 500
    assert b"Set-Cookie" not in client.received


@pytest.mark.spec("PEP 3333", "Error Handling")
async def test_an_error_page_replaces_the_head() -> None:
    """start_response with exc_info, before anything was sent."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "5"), ("X-Own", "1")])
        try:
            raise ValueError
        except ValueError:
            start_response("500 Sorry", [("X-Error", "1")], sys.exc_info())  # type: ignore[arg-type]
        return [b"an apology"]

    client = await answered(app)
    response = client.response()
    assert (response.status, response.body) == (500, b"an apology")
    assert response.value(b"x-own") is None
    assert response.value(b"x-error") == b"1"


# The response.


@pytest.mark.spec("PEP 3333", "The write() Callable")
async def test_write() -> None:
    """It sends at once, before what is returned."""
    gate = threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"one ")
        gate.wait()
        write(b"two ")
        return [b"three"]

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        assert client.response().body == b"one "
        gate.set()
        await driver.settle()
        assert client.response().body == b"one two three"


@pytest.mark.spec("PEP 3333", "Handling the Content-Length Header")
@pytest.mark.spec("RFC 9112", "section 6.3")
@pytest.mark.parametrize(
    ("chunks", "length"), [([], b"0"), ([b""], b"0"), ([b"one"], b"3"), ([b"one ", b"two"], b"7")]
)
async def test_a_list_has_a_length(chunks: list[bytes], length: bytes) -> None:
    """All of it is known before anything is sent."""
    client = await answered(answering(chunks))
    assert client.response().value(b"content-length") == length
    assert client.response().body == b"".join(chunks)


@pytest.mark.spec("RFC 9112", "section 6.3")
@pytest.mark.spec("field-reports", "FR 111")
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_generator_without_a_length(version: str) -> None:
    """It is chunked on HTTP/1.1, and ends with the connection on 1.0."""
    async with driving(answering(chunk for chunk in (b"one ", b"", b"two"))) as driver:
        client = driver.connect()
        await client.send(get("/", "Connection: keep-alive", version=version))
        response = client.response()
        assert response.body == b"one two"
        coding = response.value(b"transfer-encoding")
        assert coding == (b"chunked" if version == "1.1" else None)
        assert client.is_closed == (version == "1.0")


@pytest.mark.spec("PEP 3333", "Handling the Content-Length Header")
@pytest.mark.spec("issue 4", "1. Content-Length kept honest")
@pytest.mark.parametrize(
    "result", [[b"four", b"five"], iter([b"four", b"five"])], ids=["list", "iter"]
)
async def test_more_bytes_than_promised(result: Iterable[bytes]) -> None:
    """They are cut, with a warning, and the connection goes on."""
    async with driving(answering(result, headers=[("Content-Length", "5")])) as driver:
        client = driver.connect()
        await client.send(get())
        assert client.response().body == b"fourf"
        assert not client.is_closed
        (complaint,) = driver.complaints.take()
        assert "more bytes" in complaint


@pytest.mark.spec("issue 4", "1. Content-Length kept honest")
@pytest.mark.parametrize("result", [[b"four"], iter([b"four"])], ids=["list", "iter"])
async def test_fewer_bytes_than_promised(result: Iterable[bytes]) -> None:
    """The connection is cut: the next response must not fill the gap."""
    async with driving(answering(result, headers=[("Content-Length", "5")])) as driver:
        client = driver.connect()
        await client.send(get() + get())
        assert client.transport.aborted
        assert client.response().body == b"four"
        assert not client.response().complete
        assert len(driver.complaints.take()) == 1


@pytest.mark.spec("RFC 9110", "section 9.3.2")
@pytest.mark.spec("issue 4", "traps: HEAD answered with a body; a body written after 204 or 304")
@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")],
)
@pytest.mark.parametrize("kind", [list, iter])
async def test_responses_without_a_body(method: str, status: str, kind: Any) -> None:
    """They end with their head whatever the application returns, which is closed; the connection goes on."""
    results: list[Closing] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [])
        results.append(Closing(kind([b"bo", b"dy"])))
        return results[-1]

    async with driving(app) as driver:
        client = driver.connect()
        written = await client.send(get(method=method))
        assert written.endswith(b"\r\n\r\n")
        assert written.count(b"\r\n\r\n") == 1
        assert b"transfer-encoding" not in written
        await client.send(get(method=method))
        assert len(client.responses(method, method)) == 2
        assert not client.is_closed
        assert [len(result.closed) for result in results] == [1, 1]


@pytest.mark.spec("PEP 3333", "Specification Details")
@pytest.mark.parametrize("chunks", [[], [b"x"], [b"x", b"y"], [b""]])
async def test_close_runs_once(chunks: list[bytes]) -> None:
    """In the thread of the call, whatever the result is."""
    result = Closing(chunks)
    client = await answered(answering(result))
    assert client.response().complete
    assert result.closed == [result.thread]


@pytest.mark.spec("PEP 3333", "Specification Details")
@pytest.mark.parametrize("headers", [[], [("Content-Length", "4")]], ids=["chunks", "length"])
async def test_the_response_does_not_wait_for_close(headers: list[tuple[str, str]]) -> None:
    """What an application does when it is through costs its client no time."""
    gate = threading.Event()

    class Slow(Closing):
        def close(self) -> None:
            gate.wait()
            super().close()

    result = Slow(iter([b"bo", b"dy"]))
    async with driving(answering(result, headers=headers)) as driver:
        client = driver.connect()
        await client.send(get())
        assert client.response().complete
        assert result.closed == []
        gate.set()
        await driver.settle()
        assert len(result.closed) == 1


@pytest.mark.spec("field-reports", "FR 22")
async def test_header_values_are_latin_1() -> None:
    """The code points of a native string are the bytes on the wire."""
    client = await answered(answering([], headers=[("X-Café", "x")]), complaints=1)
    assert client.response().status == 500  # no token
    client = await answered(answering([], headers=[("X-A", "café")]))
    assert b"x-a: caf\xe9\r\n" in client.received


# Extensions.


@pytest.mark.spec("RFC 8297", "section 2")
async def test_early_hints() -> None:
    """The Link fields leave at once; on HTTP/1.0 there is no such thing."""
    gate = threading.Event()
    offered: list[bool] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        offered.append("wsgi.early_hints" in environ)
        if offered[-1]:
            environ["wsgi.early_hints"]([("Link", "</a.css>; rel=preload"), ("X-Other", "1")])
            gate.wait()
        start_response("200 OK", [])
        return []

    async with driving(app) as driver:
        client, old = driver.connect(), driver.connect()
        await client.send(get())
        assert client.received == (
            b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
        )
        gate.set()
        await driver.settle()
        assert client.response().status == 200
        await old.send(get(version="1.0"))
        assert offered == [True, False]


@pytest.mark.spec("RFC 9112", "section 7.1.2")
@pytest.mark.parametrize("kind", [list, iter])
async def test_trailers(kind: Any) -> None:
    """They are asked for when the body is complete."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        made: list[bytes] = []
        environ["bridges.trailers"](lambda: [("X-Made", str(len(made)))])
        start_response("200 OK", [("Trailer", "X-Made")])

        def chunks() -> Iterator[bytes]:
            for chunk in (b"a", b"b"):
                made.append(chunk)
                yield chunk

        return kind(chunks())

    client = await answered(app)
    assert client.response().body == b"ab"
    assert client.received.endswith(b"0\r\nx-made: 2\r\n\r\n")


async def test_trailers_that_fail() -> None:
    """The response does not end as if it were complete."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["bridges.trailers"](lambda: [("X", "a\r\nb")])
        start_response("200 OK", [])
        return iter([b"body"])

    client = await answered(app, complaints=1)
    assert not client.response().complete
    assert client.transport.aborted


@pytest.mark.spec("PEP 3333", "Optional Platform-Specific File Handling")
async def test_a_file_that_the_system_cannot_send() -> None:
    """Its blocks are read in the request's thread, and it is closed."""
    file = io.BytesIO(b"content" * 30_000)

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file)

    client = await answered(app)
    assert client.response().body == b"content" * 30_000
    assert file.closed


# More than one request.


async def test_pipelined_requests_run_one_after_another() -> None:
    """Threads or not: those of one connection are answered in order, each begun when the one before is complete."""
    began: list[str] = []
    gates = {"/0": threading.Event(), "/1": threading.Event(), "/2": threading.Event()}

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        began.append(environ["PATH_INFO"])
        gates[environ["PATH_INFO"]].wait()
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/0") + get("/1") + get("/2"))
        for number in range(3):
            assert len(began) == number + 1
            gates[f"/{number}"].set()
            await driver.settle()
        assert [each.body for each in client.responses()] == [b"/0", b"/1", b"/2"]


async def test_many_clients_at_once() -> None:
    """Each gets the answer to its own request, with fewer threads than clients."""
    async with driving(echo_wsgi, threads=4) as driver:
        clients = [driver.connect() for _ in range(30)]
        for number, client in enumerate(clients):
            driver.loop.call_soon(client.transport.arrive, post(b"%d" % number))
        await driver.settle()
        assert [client.response().body for client in clients] == [
            b"POST / %d" % number for number in range(30)
        ]
        assert driver.service.pool.snapshot().threads <= 4
        driver.complaints.take()


@pytest.mark.spec("issue 4", "1. unread request bodies")
async def test_a_request_that_is_over_has_no_say_in_the_next_ones_body() -> None:
    """Its thread may go on reading: what the connection reads by now is another request's."""
    may_answer, may_read, has_read, may_take = (threading.Event() for _ in range(4))

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/first":
            start_response("200 OK", [("Content-Length", "2")])
            may_answer.wait(10)
            yield b"ok"
            may_read.wait(10)
            try:
                environ["wsgi.input"].read(140_000)
            except OSError:
                pass
            has_read.set()
        else:
            may_take.wait(10)
            start_response("200 OK", [])
            yield b"%d" % len(environ["wsgi.input"].read())

    async with driving(app, buffer_bytes=100_000, threads=2) as driver:
        client = driver.connect()
        await client.send(b"POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 160000\r\n\r\n")
        await client.send(b"1" * 130_000, b"1" * 20_000)
        may_answer.set()
        await driver.settle()
        await client.send(b"1" * 10_000)
        await client.send(b"POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n")
        await client.send(*[b"2" * 50_000] * 8)
        assert not client.transport.is_reading()
        may_read.set()
        await asyncio.to_thread(has_read.wait, 10)
        await driver.settle()
        assert not client.transport.is_reading()
        may_take.set()
        await driver.settle()
        assert [response.body for response in client.responses()] == [b"ok", b"400000"]
