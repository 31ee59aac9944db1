"""ASGI applications in the server: what they are told, in which order, and what becomes of what they send or raise."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from server_driver import CLOCKED, Client, chunked, driving, echo_asgi, get, post

from bridges.errors import ClientDisconnected
from bridges.typing import Message, Receive, Scope, Send

START = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body", "body": b"", "more_body": False}
GRACE = 3.0  # the default of disconnect_grace_seconds


@pytest.fixture
def anyio_backend() -> Any:
    """Run on a loop whose clock the test turns."""
    return CLOCKED


def start(*headers: tuple[bytes, bytes], status: int = 200, **more: Any) -> Message:
    """Give the message that begins a response."""
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def part(body: bytes) -> Message:
    """Give a message with a piece of a body that goes on."""
    return {"type": "http.response.body", "body": body, "more_body": True}


def last(body: bytes = b"") -> Message:
    """Give the message with the last piece."""
    return {"type": "http.response.body", "body": body}


def sending(*messages: Message) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """Make an application that sends these to every request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(dict(message))

    return app


async def answered(*messages: Message, request: bytes | None = None, complaints: int = 0) -> Client:
    """Give the client of an application that sends these messages to its request; all is over."""
    async with driving(sending(*messages)) as driver:
        client = driver.connect()
        await client.send(request or get())
        assert len(driver.complaints.take()) == complaints
        return client


class Noting:
    """An application that notes what it receives and what ``send`` raises, as the test steers it.

    Attributes:
        got: types of what it received.
        raised: what its sends raised.
        scope: of the latest request.
        ended: how it ended: ``"returned"``, or the name of what was raised into it.
    """

    def __init__(self, *steps: str | Message | asyncio.Event) -> None:
        self.steps = steps
        self.got: list[Message] = []
        self.raised: list[BaseException] = []
        self.scope: Scope = {}
        self.ended = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.ended = ""
        try:
            for step in self.steps:
                await self._take(step, receive, send)
            self.ended = "returned"
        except BaseException as error:
            self.ended = type(error).__name__
            raise

    async def _take(
        self, step: str | Message | asyncio.Event, receive: Receive, send: Send
    ) -> None:
        if step == "receive":
            self.got.append(await receive())
        elif isinstance(step, asyncio.Event):
            await step.wait()
        elif isinstance(step, dict):
            try:
                await send(dict(step))
            except OSError as error:
                self.raised.append(error)

    @property
    def kinds(self) -> list[str]:
        """The types of what it received."""
        return [message["type"] for message in self.got]


# The scope.


@pytest.mark.spec("ASGI HTTP 2.5", "HTTP Connection Scope")
async def test_the_scope_is_complete() -> None:
    """Every key has its type and its value."""
    app = Noting(START, END)
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(
            get("/caf%C3%A9/%2F?x=%20&y", "X-Two: a", "x-two:  b\t ", method="PROPFIND")
        )
        assert client.response().status == 200
    assert app.scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "PROPFIND",
        "scheme": "http",
        "path": "/café//",
        "raw_path": b"/caf%C3%A9/%2F",
        "query_string": b"x=%20&y",
        "root_path": "",
        "headers": [(b"host", b"a.example"), (b"x-two", b"a"), (b"x-two", b"b")],
        "client": ("192.0.2.1", 50_000),
        "server": ("192.0.2.80", 8_000),
        "extensions": {
            "http.response.pathsend": {},
            "http.response.zerocopysend": {},
            "http.response.early_hint": {},
            "http.response.trailers": {},
        },
    }
    assert type(app.scope["headers"]) is list


@pytest.mark.spec("ASGI HTTP 2.5", "HTTP Connection Scope")
@pytest.mark.spec("field-reports", "FR 115")
@pytest.mark.parametrize(
    ("facts", "client", "server"),
    [
        (
            {"peername": ("::1", 5, 0, 0), "sockname": ("::1", 8000, 0, 0)},
            ("::1", 5),
            ("::1", 8000),
        ),
        ({"peername": "", "sockname": "/run/app.sock"}, None, ("/run/app.sock", None)),
        ({"peername": None, "sockname": b"\0app"}, None, ("\0app", None)),
    ],
    ids=["IPv6", "unix", "abstract"],
)
async def test_addresses_are_pairs(facts: dict[str, Any], client: Any, server: Any) -> None:
    """Those of IPv6 have two parts too; a unix socket has a path and no port, and its client has no address."""
    app = Noting(START, END)
    async with driving(app) as driver:
        await driver.connect(**facts).send(get())
    assert app.scope["client"] == client
    assert app.scope["server"] == server


@pytest.mark.parametrize("own", [None, ("127.0.0.1", 8000)])
async def test_a_client_without_address_is_none_on_a_unix_socket(own: Any) -> None:
    """One that has reset its TCP connection already has none; forwarded headers of unix sockets are trusted."""
    app = Noting(START, END)
    async with driving(app) as driver:
        client = driver.connect(peername=None, sockname=own)
        await client.send(get("/", "X-Forwarded-For: 1.2.3.4"))
        assert client.transport.is_lost
    assert client.received == b""


@pytest.mark.spec("ASGI HTTP 2.5", "HTTP Connection Scope")
@pytest.mark.spec("field-reports", "FR 115")
async def test_the_root_path_is_a_part_of_the_path() -> None:
    """The prefix of the option stands in ``root_path``, and before ``path`` and ``raw_path``."""
    app = Noting(START, END)
    async with driving(app, root_path="/ä b") as driver:
        await driver.connect().send(get("/x%20y"))
    assert app.scope["root_path"] == "/ä b"
    assert app.scope["path"] == "/ä b/x y"
    assert app.scope["raw_path"] == b"/%C3%A4%20b/x%20y"


@pytest.mark.spec("ASGI HTTP 2.5", "HTTP Connection Scope")
async def test_http_1_0_has_neither_trailers_nor_interim_responses() -> None:
    """What needs chunks or a 1xx is not offered to its clients (RFC 9110 section 15.2)."""
    app = Noting(START, END)
    async with driving(app) as driver:
        await driver.connect().send(get(version="1.0"))
    assert app.scope["http_version"] == "1.0"
    assert sorted(app.scope["extensions"]) == [
        "http.response.pathsend",
        "http.response.zerocopysend",
    ]


@pytest.mark.spec("ASGI TLS extension")
async def test_the_tls_extension() -> None:
    """A connection with TLS has scheme and extension, the same for each request; a plain one has none."""
    app = Noting(START, END)
    async with driving(app) as driver:
        driver.service.tls = lambda ssl_object: {"tls_version": 0x0304, "of": ssl_object}
        ssl_object = object()
        client = driver.connect(ssl_object=ssl_object)
        await client.send(get())
        first = app.scope
        await client.send(get())
        assert first["scheme"] == "https"
        assert first["extensions"]["tls"] == {"tls_version": 0x0304, "of": ssl_object}
        assert app.scope["extensions"] == first["extensions"]
        assert app.scope["extensions"] is not first["extensions"]


@pytest.mark.spec("ASGI lifespan 2.0", "Lifespan State")
async def test_state_is_copied_for_each_request() -> None:
    """What a request puts into it is its own; what lifespan put there is shared. Without lifespan there is none."""
    shared: list[int] = []
    app = Noting(START, END)
    async with driving(app, state={"shared": shared}) as driver:
        client = driver.connect()
        await client.send(get())
        assert app.scope["state"]["shared"] is shared
        app.scope["state"]["own"] = 1
        await client.send(get())
        assert app.scope["state"] == {"shared": []}
    async with driving(app) as driver:
        await driver.connect().send(get())
        assert "state" not in app.scope


@pytest.mark.spec("issue 4", "4. forwarded headers only from --forwarded-allow-ips")
@pytest.mark.parametrize("trusted", [True, False])
async def test_forwarded_headers_of_a_trusted_proxy(trusted: bool) -> None:
    """A trusted proxy says who the client is, what it asked for and how; anybody else does not."""
    app = Noting(START, END)
    fields = (
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: shop.example",
        "X-Forwarded-Prefix: /shop",
    )
    async with driving(app, forwarded_allow_ips="192.0.2.0/24" if trusted else "") as driver:
        await driver.connect().send(get("/x", *fields))
    scope = app.scope
    seen = (scope["client"], scope["scheme"], scope["root_path"], scope["path"])
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if trusted:
        assert seen == (("203.0.113.9", 0), "https", "/shop", "/shop/x")
        assert hosts == [b"shop.example"]
    else:
        assert seen == (("192.0.2.1", 50_000), "http", "", "/x")
        assert hosts == [b"a.example"]


@pytest.mark.parametrize("manner", ["pipelined", "after an upload", "behind a slow reader"])
async def test_each_request_has_a_context_of_its_own(manner: str) -> None:
    """What one sets in a context variable is not there for the next, in whatever callback of the loop that begins."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(variable.get())
        variable.set(scope["path"])
        await asyncio.sleep(10)
        while (await receive()).get("more_body"):
            pass
        seen.append(variable.get())
        await send(START)
        await send(last(b"x" * 100_000))

    async with driving(app) as driver:
        client = driver.connect()
        if manner == "pipelined":
            await client.send(get("/a") + get("/b"))
        elif manner == "after an upload":
            head = get("/a", "Content-Length: 200000", method="POST")
            await client.send(head, b"b" * 100_000, b"b" * 100_000)
            await driver.advance(11)
            await client.send(get("/b"))
        else:
            await client.hold()
            await client.send(get("/a"))
            await driver.advance(11)
            await client.send(get("/b"))
            await client.read_on()
        await driver.advance(21)
    assert seen == ["none", "/a", "none", "/b"]


async def test_an_asgi_2_application() -> None:
    """The old, two-step kind is served too."""

    class Old:
        def __init__(self, scope: Scope) -> None:
            self.path = scope["path"]

        async def __call__(self, receive: Receive, send: Send) -> None:
            await send(START)
            await send(last(self.path.encode()))

    async with driving(Old, interface="asgi2") as driver:
        client = driver.connect()
        await client.send(get("/old"))
        assert client.response().body == b"/old"


# receive.


@pytest.mark.spec("ASGI HTTP 2.5", "Request")
async def test_a_request_without_a_body() -> None:
    """One empty message says so; then nothing comes until the response is complete."""
    gate = asyncio.Event()
    app = Noting("receive", gate, START, END, "receive", "receive")
    async with driving(app) as driver:
        await driver.connect().send(get())
        assert app.got == [{"type": "http.request", "body": b"", "more_body": False}]
        gate.set()
        await driver.settle()
        assert app.kinds[1:] == ["http.disconnect", "http.disconnect"]
        assert app.ended == "returned"


@pytest.mark.spec("ASGI HTTP 2.5", "Request")
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_body_streams(framing: str) -> None:
    """Each piece is there when it arrives, and the last one says so."""
    app = Noting("receive", "receive", "receive", START, END)
    async with driving(app) as driver:
        client = driver.connect()
        if framing == "length":
            await client.send(get("/", "Content-Length: 4", method="POST"))
            pieces = [b"ab", b"c", b"d"]
        else:
            await client.send(get("/", "Transfer-Encoding: chunked", method="POST"))
            pieces = [chunked(b"ab", last=False), b"1\r\nc\r\n1", b"\r\nd\r\n0\r\n\r\n"]
        assert app.got == []
        for number, piece in enumerate(pieces):
            await client.send(piece)
            assert len(app.got) == number + 1
        assert [(each["body"], each["more_body"]) for each in app.got] == [
            (b"ab", True),
            (b"c", True),
            (b"d", False),
        ]


@pytest.mark.spec("issue 4", "1. HTTP/1.1: reading paused while the app is behind")
async def test_a_body_waits_for_an_application_that_does_not_read() -> None:
    """The server reads ahead by a bound, then lets the client wait; no time runs against that one meanwhile."""
    gate = asyncio.Event()
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        while not got or got[-1]["more_body"]:
            got.append(await receive())
        await send(START)
        await send(END)

    size = 200_000
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/", f"Content-Length: {size}", method="POST"))
        await client.send(*[b"b" * 10_000] * (size // 10_000))
        assert not client.is_read
        waiting = sum(map(len, client.transport.incoming))
        assert 65_536 <= size - waiting <= 65_536 + 10_000
        await driver.advance(200)
        gate.set()
        await driver.settle()
        assert client.is_read
        assert sum(len(each["body"]) for each in got) == size
        assert client.response().status == 200


async def test_a_body_that_is_read_as_it_comes_is_not_held_up() -> None:
    """Reading is not paused for an application that keeps up, however long the body."""
    async with driving(echo_asgi) as driver:
        client = driver.connect()
        await client.send(get("/", "Content-Length: 400000", method="POST"))
        await client.send(*[b"b" * 10_000] * 40)
        assert client.response().complete
        assert client.transport.pauses == 0


@pytest.mark.spec("issue 4", "traps: the second request on a kept-alive connection hanging")
@pytest.mark.spec("ASGI HTTP 2.5", "Disconnect - receive event")
async def test_disconnect_once_the_response_is_complete() -> None:
    """An application that waits for the disconnect while it answers is told; the next request is served."""
    told: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

        async def listen() -> None:
            told.append(await receive())

        listener = asyncio.ensure_future(listen())
        await send(START)
        await send(END)
        await listener

    async with driving(app) as driver:
        client = driver.connect()
        for number in range(1, 4):
            await client.send(get())
            assert len(client.responses()) == number
            assert told == [{"type": "http.disconnect"}] * number


async def test_disconnect_reaches_everybody_who_waits() -> None:
    """Middleware and application may both wait for it."""
    told: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        told.extend(await asyncio.gather(receive(), receive(), receive()))

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        assert told == []
        await client.leave()
        assert told == [{"type": "http.disconnect"}] * 3


@pytest.mark.spec("ASGI HTTP 2.5", "Disconnect - receive event")
async def test_a_wait_that_is_given_up_takes_nothing_along() -> None:
    """A receive() that was cancelled has not eaten the next piece."""
    got: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(5)
        waiting.cancel()
        await asyncio.sleep(5)
        got.append((await receive())["body"])
        await send(START)
        await send(END)

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/", "Content-Length: 4", method="POST"))
        await driver.advance(7)
        await client.send(b"body")
        await driver.advance(7)
        assert got == [b"body"]


@pytest.mark.spec("field-reports", "FR 112")
async def test_a_client_that_leaves_in_the_middle_of_its_body() -> None:
    """What came is given, as a part; then the disconnect. It is never an end."""
    gate = asyncio.Event()
    app = Noting(gate, "receive", "receive", "receive")
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/", "Content-Length: 10", method="POST") + b"part")
        await client.leave()
        gate.set()
        await driver.settle()
        assert app.got == [
            {"type": "http.request", "body": b"part", "more_body": True},
            {"type": "http.disconnect"},
            {"type": "http.disconnect"},
        ]


async def test_a_client_that_leaves_behind_its_whole_body() -> None:
    """The body is still the application's to have."""
    gate = asyncio.Event()
    app = Noting(gate, "receive", "receive")
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(post(b"whole"))
        await client.leave()
        gate.set()
        await driver.settle()
        assert app.got == [
            {"type": "http.request", "body": b"whole", "more_body": False},
            {"type": "http.disconnect"},
        ]


@pytest.mark.spec("ASGI HTTP 2.5", "Disconnect - receive event")
async def test_a_half_closed_client_may_be_gone() -> None:
    """An application that asks is told after a second; one that answers all the same reaches the client."""
    gate = asyncio.Event()
    app = Noting("receive", "receive", gate, START, last(b"late"))
    async with driving(app) as driver:
        client = driver.connect()
        await client.send_and_end(get())
        assert app.kinds == ["http.request"]
        await driver.advance(2)
        assert app.kinds == ["http.request", "http.disconnect"]
        gate.set()
        await driver.settle()
        assert client.response().body == b"late"
        assert app.raised == []
        assert client.is_closed


# send, to a client that has left.


@pytest.mark.spec("ASGI HTTP 2.5", "Disconnected Client - send exception")
@pytest.mark.parametrize("moment", ["before the head", "after the head", "in the body"])
async def test_send_raises_once_the_client_has_left(moment: str) -> None:
    """It is an OSError, at each message, and the application may end as it likes."""
    gate = asyncio.Event()
    steps: list[Any] = [START, part(b"one"), part(b"two"), END]
    steps.insert(["before the head", "after the head", "in the body"].index(moment), gate)
    app = Noting(*steps)
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        await client.leave()
        gate.set()
        await driver.settle()
        assert app.ended == "returned"
        assert len(app.raised) == 5 - steps.index(gate) - 1
        assert {type(error) for error in app.raised} == {ClientDisconnected}
        assert all(isinstance(error, OSError) for error in app.raised)


@pytest.mark.spec("ASGI HTTP 2.5", "Disconnected Client - send exception")
async def test_what_the_leaving_raises_is_not_logged_as_a_failure() -> None:
    """An application that lets it pass has made no mistake; one that raises something else has."""
    for wrong in (False, True):
        gate = asyncio.Event()

        async def app(
            scope: Scope, receive: Receive, send: Send, gate: Any = gate, wrong: bool = wrong
        ) -> None:
            await send(START)
            await gate.wait()
            try:
                await send(END)
            except OSError as error:
                if wrong:
                    raise ValueError("in the clean-up") from error
                raise

        async with driving(app) as driver:
            client = driver.connect()
            await client.send(get())
            await client.leave()
            gate.set()
            await driver.settle()
            complaints = driver.complaints.take()
            assert len(complaints) == wrong
            assert all(complaint.endswith("(ValueError)") for complaint in complaints)


# Backpressure.


@pytest.mark.spec("issue 4", "2. write backpressure from the transport")
async def test_send_waits_for_a_slow_client() -> None:
    """While the transport is full the application waits in send(); it goes on when the client has caught up."""
    sent: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        for number in range(20):
            await send(part(b"x" * 10_000))
            sent.append(number)
        await send(END)

    async with driving(app) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get())
        assert len(sent) == 6
        await driver.advance(20)
        assert len(sent) == 6
        await client.take(30_000)
        assert len(sent) == 6
        await client.take(25_000)
        assert 6 < len(sent) < 13
        await client.read_on()
        assert len(sent) == 20
        assert len(client.response().body) == 200_000


async def test_several_tasks_that_send_all_wait() -> None:
    """And all go on."""
    done: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)

        async def stream(number: int) -> None:
            await send(part(b"x" * 50_000))
            await send(part(b"y" * 50_000))
            done.append(number)

        await asyncio.gather(*map(stream, range(3)))
        await send(END)

    async with driving(app) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get())
        assert done == []
        await client.read_on()
        assert sorted(done) == [0, 1, 2]
        assert len(client.response().body) == 300_000


async def test_the_last_piece_is_not_waited_for() -> None:
    """The application ends, and a client takes its time with what the server holds."""
    app = Noting(START, last(b"x" * 500_000))
    async with driving(app) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get())
        assert app.ended == "returned"
        await client.read_on()
        assert len(client.response().body) == 500_000


@pytest.mark.spec("ASGI HTTP 2.5", "Disconnected Client - send exception")
async def test_a_slow_client_that_leaves_ends_the_wait() -> None:
    """The send() that waits raises."""
    app = Noting(START, part(b"x" * 100_000), part(b"y"))
    async with driving(app) as driver:
        client = driver.connect()
        await client.hold()
        await client.send(get())
        assert app.raised == []
        await client.leave()
        assert len(app.raised) == 2
        assert app.ended == "returned"


# The grace time.


@pytest.mark.spec("field-reports", "FR 122")
async def test_an_application_that_does_not_end_is_cancelled_after_the_grace_time() -> None:
    """Its clean-up runs to its end, waits and all; nothing is logged as a failure."""
    cleaned: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5)
            cleaned.append("yes")

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        await client.leave()
        await driver.advance(GRACE - 0.5)
        assert len(driver.tasks) == 1
        assert cleaned == []
        await driver.advance(1)
        assert cleaned == []
        await driver.advance(5)
        assert cleaned == ["yes"]
        assert driver.tasks == set()


@pytest.mark.spec("field-reports", "FR 122")
async def test_what_a_clean_up_raises_is_logged() -> None:
    """An application that is cancelled and then fails has made a mistake that somebody has to see."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("in the rollback")

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        await client.leave()
        await driver.advance(GRACE + 1)
        (complaint,) = driver.complaints.take()
        assert complaint.endswith("(ValueError)")


@pytest.mark.spec("field-reports", "FR 122")
async def test_an_application_that_ends_in_time_is_not_cancelled() -> None:
    """It has its grace time to roll back what it began."""
    rolled_back: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await asyncio.sleep(GRACE - 1)
        rolled_back.append("yes")

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        await client.leave()
        await driver.advance(GRACE)
        assert rolled_back == ["yes"]


async def test_work_after_a_complete_response_is_not_cancelled() -> None:
    """The client that leaves then has got what it asked for; the next request does not wait for that work."""
    done: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(END)
        await asyncio.sleep(GRACE * 10)
        done.append(scope["path"])

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/a"), get("/b"))
        assert len(client.responses()) == 2
        await client.leave()
        await driver.advance(GRACE * 10 + 1)
        assert done == ["/a", "/b"]


# What the application raises.

RAISED = [
    ValueError("v"),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError(),
    StopAsyncIteration(),
    OSError("o"),
    ClientDisconnected("an application that is its own client"),
]


@pytest.mark.spec("issue 4", "2. exceptions of one request never touch another")
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("moment", ["before the head", "after the head"])
async def test_an_application_that_raises_before_the_head_leaves(
    error: BaseException, moment: str
) -> None:
    """The client gets 500 and nothing of the reason, the log gets it; the connection and the server go on.

    A head that was given but not yet written does not bind.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if moment == "after the head":
            await send(start((b"content-length", b"5"), (b"x-own", b"1")))
        raise error

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        response = client.response()
        assert response.status == 500
        assert response.value(b"x-own") is None
        assert response.body == b"Internal Server Error\n"
        assert not client.is_closed
        (complaint,) = driver.complaints.take()
        assert complaint.endswith(f"failed at GET / ({type(error).__name__})")
        await client.send(get("/again"))
        assert len(client.responses()) == 2
        assert len(driver.complaints.take()) == 1


@pytest.mark.spec("RFC 9112", "section 8")
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_an_application_that_raises_in_the_body(error: BaseException, framing: str) -> None:
    """The connection is cut, so that nobody takes the part for the whole."""
    headers = [(b"content-length", b"100")] if framing == "length" else []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(*headers))
        await send(part(b"part"))
        raise error

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get() + get())
        assert client.response().body == b"part"
        assert not client.response().complete
        assert client.transport.aborted
        assert len(driver.complaints.take()) == 1


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_an_application_that_raises_after_its_response(error: BaseException) -> None:
    """It is logged, and costs the client nothing."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(last(b"whole"))
        await asyncio.sleep(0)
        raise error

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get(), get())
        assert [response.body for response in client.responses()] == [b"whole", b"whole"]
        complaints = driver.complaints.take()
        assert len(complaints) == 2
        assert all("after its response was complete" in complaint for complaint in complaints)


@pytest.mark.parametrize("size", [10, 100_000, 1_000_000])
async def test_an_application_that_raises_in_the_middle_of_an_upload(size: int) -> None:
    """The client gets the answer; the rest of the body is dropped, or the connection ends after the answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise ValueError

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get("/", f"Content-Length: {size}", method="POST") + b"12345")
        assert client.response().status == 500
        assert not client.transport.aborted
        assert client.is_closed == (size > 65_536 + 5)
        driver.complaints.take()


# The order of messages.


@pytest.mark.spec("ASGI HTTP 2.5", "Response Start")
@pytest.mark.parametrize(
    "messages",
    [
        [],
        [START],
        [last(b"x")],
        [START, START],
        [{"type": "http.response.nonsense"}],
        [{}],
        [start(status=99)],
        [start(status="200")],
        [start(status=103)],
        [START, {"type": "http.response.body", "body": "text"}],
        [{"type": "websocket.accept"}],
    ],
    ids=repr,
)
async def test_mistakes_before_the_head_leaves(messages: list[Message]) -> None:
    """Each is the application's, which the log says; the client gets 500."""
    client = await answered(*messages, complaints=1)
    assert client.response().status == 500
    assert client.response().complete


@pytest.mark.spec("ASGI HTTP 2.5", "Response Body")
@pytest.mark.parametrize(
    "messages",
    [
        [START, part(b"part")],
        [START, part(b"part"), START],
        [START, part(b"part"), {"type": "http.response.body", "body": 7}],
        [start(trailers=True), last(b"part")],
    ],
    ids=repr,
)
async def test_mistakes_in_the_body(messages: list[Message]) -> None:
    """The connection is cut: the response has no end that can be believed."""
    client = await answered(*messages, complaints=1)
    assert client.response().body == b"part"
    assert not client.response().complete
    assert client.transport.aborted


async def test_mistakes_after_the_response() -> None:
    """They are logged, and no byte of them gets to the client."""
    client = await answered(START, last(b"whole"), last(b"more"), complaints=1)
    assert client.response().body == b"whole"
    assert not client.transport.aborted


@pytest.mark.spec("RFC 9112", "section 11.1")
@pytest.mark.spec("issue 4", "1. CR/LF/NUL in names or values from the app are refused")
@pytest.mark.parametrize(
    "field",
    [
        (b"x", b"a\r\nset-cookie: b"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\0b"),
        (b"x\r\ny", b"a"),
        (b"x y", b"a"),
        (b"x:", b"a"),
        (b"", b"a"),
        ("x", b"a"),
        (b"x", "a"),
    ],
    ids=repr,
)
async def test_response_headers_that_would_be_something_else(field: Any) -> None:
    """The application gets an exception, the client 500."""
    client = await answered(start(field), END, complaints=1)
    assert client.response().status == 500
    assert b"set-cookie" not in client.received


@pytest.mark.spec("issue 4", "traps: two Content-Lengths from the app passed on")
@pytest.mark.parametrize(
    "values", [(b"1", b"2"), (b"1", b"1", b"2"), (b"1, 1",), (b"+1",), (b"-1",), (b"",), (b"1 1",)]
)
async def test_a_content_length_that_is_none(values: tuple[bytes, ...]) -> None:
    """A response has one length at most, and it is a number (RFC 9110 section 8.6)."""
    headers = [(b"Content-Length", value) for value in values]
    client = await answered(start(*headers), last(b"x"), complaints=1)
    assert client.response().status == 500


@pytest.mark.spec("issue 4", "traps: two Content-Lengths from the app passed on")
async def test_a_content_length_that_is_repeated() -> None:
    """The client gets one."""
    headers = [(b"Content-Length", b"1"), (b"content-length", b"1")]
    client = await answered(start(*headers), last(b"x"))
    assert client.response().value(b"content-length") == b"1"
    assert client.response().body == b"x"


@pytest.mark.spec("RFC 9110", "section 7.6.1")
async def test_hop_by_hop_fields_are_the_servers() -> None:
    """Those of the application are left out, so that they cannot contradict it."""
    client = await answered(
        start(
            (b"Transfer-Encoding", b"gzip"),
            (b"connection", b"close"),
            (b"keep-alive", b"x"),
            (b"x-kept", b"1"),
        ),
        last(b"x"),
    )
    (response,) = client.responses()
    assert response.value(b"x-kept") == b"1"
    assert response.value(b"transfer-encoding") is None
    assert response.value(b"connection") is None
    assert response.body == b"x"


# Bodies and their framing.


@pytest.mark.spec("RFC 9112", "section 6.3")
@pytest.mark.spec("field-reports", "FR 111")
async def test_a_response_without_length_is_chunked() -> None:
    """On HTTP/1.1; a whole body in one message has a length all the same."""
    client = await answered(START, part(b"one "), part(b""), part(b"two"), END)
    assert client.response().value(b"transfer-encoding") == b"chunked"
    assert client.response().value(b"content-length") is None
    assert client.response().body == b"one two"
    assert client.received.endswith(b"\r\n\r\n4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")
    whole = await answered(START, last(b"whole"))
    assert whole.response().value(b"content-length") == b"5"
    empty = await answered(START, END)
    assert empty.response().value(b"content-length") == b"0"


@pytest.mark.spec("RFC 9112", "section 6.3")
@pytest.mark.spec("issue 4", "traps: chunked to HTTP/1.0")
async def test_a_response_without_length_closes_on_http_1_0() -> None:
    """Even where the client wants the connection kept."""
    async with driving(sending(START, part(b"one "), last(b"two"))) as driver:
        client = driver.connect()
        await client.send(get("/", "Connection: keep-alive", version="1.0"))
        response = client.response()
        assert response.value(b"transfer-encoding") is None
        assert response.value(b"connection") == b"close"
        assert response.body == b"one two"
        assert client.is_closed
        assert not client.transport.aborted


@pytest.mark.spec("RFC 9112", "section 8")
async def test_a_broken_response_without_length_on_http_1_0_is_reset() -> None:
    """A plain end would pass for the end of the response; the socket is told to reset the connection."""
    told: list[tuple[Any, ...]] = []

    class Socket:
        family = 2

        def setsockopt(self, *arguments: Any) -> None:
            told.append(arguments)

    async with driving(sending(START, part(b"one"))) as driver:
        client = driver.connect(socket=Socket())
        await client.send(get(version="1.0"))
        assert client.transport.aborted
        assert len(told) == 1
        assert len(driver.complaints.take()) == 1


@pytest.mark.spec("field-reports", "FR 111")
async def test_events_leave_at_once() -> None:
    """A client sees the head, and each event, before the next one is made."""
    gates = [asyncio.Event(), asyncio.Event()]
    app = Noting(
        start((b"content-type", b"text/event-stream")),
        part(b""),
        gates[0],
        part(b"data: 1\n\n"),
        gates[1],
        END,
    )
    async with driving(app) as driver:
        client = driver.connect()
        assert (await client.send(get())).startswith(b"HTTP/1.1 200 OK\r\n")
        gates[0].set()
        await driver.settle()
        assert client.response().body == b"data: 1\n\n"
        assert not client.response().complete
        gates[1].set()
        await driver.settle()
        assert client.response().complete


@pytest.mark.spec("RFC 9110", "section 8.6")
@pytest.mark.spec("issue 4", "1. Content-Length kept honest")
async def test_more_bytes_than_promised() -> None:
    """The surplus is refused: before the head leaves the client gets 500, after it the connection is cut."""
    early = await answered(start((b"content-length", b"3")), last(b"four"), complaints=1)
    assert early.response().status == 500
    late = await answered(start((b"content-length", b"3")), part(b"two"), last(b"x"), complaints=1)
    assert late.response().body == b"two"
    assert b"x" not in late.received.partition(b"\r\n\r\n")[2]


@pytest.mark.spec("RFC 9110", "section 8.6")
@pytest.mark.spec("issue 4", "1. Content-Length kept honest")
async def test_fewer_bytes_than_promised() -> None:
    """The client must be able to tell: 500 before the head leaves, a cut connection after it."""
    early = await answered(start((b"content-length", b"3")), last(b"tw"), complaints=1)
    assert early.response().status == 500
    late = await answered(start((b"content-length", b"3")), part(b"tw"), END, complaints=1)
    assert not late.response().complete
    assert late.transport.aborted


async def test_an_application_that_swallows_the_refusal() -> None:
    """It has not ended its response, which is then found at its return."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start((b"content-length", b"3")))
        await send(part(b"tw"))
        with pytest.raises(Exception, match="short"):
            await send(END)

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        assert client.transport.aborted
        assert len(driver.complaints.take()) == 1


@pytest.mark.spec("RFC 9110", "section 9.3.2")
@pytest.mark.spec("issue 4", "traps: HEAD answered with a body; a body written after 204 or 304")
@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304), ("HEAD", 304)]
)
@pytest.mark.parametrize(
    "messages", [[last(b"body")], [part(b"bo"), last(b"dy")], [part(b""), END]], ids=len
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_responses_without_a_body(
    method: str, status: int, messages: list[Message], version: str
) -> None:
    """They end with their head whatever the application sends, and the connection goes on behind them."""
    async with driving(sending(start(status=status), *messages)) as driver:
        client = driver.connect()
        request = get("/", "Connection: keep-alive", method=method, version=version)
        written = await client.send(request)
        assert written.endswith(b"\r\n\r\n")
        assert written.count(b"\r\n\r\n") == 1
        assert b"transfer-encoding" not in written
        assert not client.is_closed
        await client.send(request)
        assert [each.status for each in client.responses(method, method)] == [status, status]


@pytest.mark.spec("RFC 9110", "section 8.6")
async def test_lengths_of_responses_without_a_body() -> None:
    """HEAD and 304 keep the length that the application names; 204 has none."""
    headers = [(b"content-length", b"1234")]
    head = await answered(start(*headers), END, request=get(method="HEAD"))
    assert head.response("HEAD").value(b"content-length") == b"1234"
    unchanged = await answered(start(*headers, status=304), END)
    assert unchanged.response().value(b"content-length") == b"1234"
    nothing = await answered(start(*headers, status=204), END)
    assert nothing.response().value(b"content-length") is None


async def test_an_endless_stream_that_head_asks_for() -> None:
    """The response is complete with its head; the application is told, and cancelled if it does not end."""
    app = Noting(START, part(b"x"), "receive", "receive", asyncio.Event())
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get(method="HEAD"))
        assert client.response("HEAD").complete
        assert app.kinds == ["http.request", "http.disconnect"]
        await client.send(get(method="HEAD"))
        assert len(client.responses("HEAD", "HEAD")) == 2
        await driver.advance(GRACE + 1)
        assert app.ended == "CancelledError"
        assert driver.complaints.take() == []


# Extensions.


@pytest.mark.spec("ASGI extensions", "HTTP Trailers")
@pytest.mark.spec("RFC 9112", "section 7.1.2")
async def test_trailers() -> None:
    """They follow the last chunk, those of several messages together."""

    def trailers(*fields: tuple[bytes, bytes], more: bool = False) -> Message:
        return {"type": "http.response.trailers", "headers": fields, "more_trailers": more}

    client = await answered(
        start((b"trailer", b"a, b"), trailers=True),
        part(b"x"),
        last(b"y"),
        trailers((b"A", b"1"), more=True),
        trailers((b"b", b"2")),
    )
    assert client.received.endswith(b"1\r\nx\r\n1\r\ny\r\n0\r\na: 1\r\nb: 2\r\n\r\n")
    assert client.response().complete
    one = await answered(start(trailers=True), last(b"x"), trailers((b"a", b"1")))
    assert one.received.endswith(b"\r\n\r\n1\r\nx\r\n0\r\na: 1\r\n\r\n")
    bare = await answered(
        start(trailers=True), last(), trailers((b"a", b"1")), request=get(method="HEAD")
    )
    assert bare.received.endswith(b"\r\n\r\n")
    assert b"a: 1" not in bare.received


@pytest.mark.spec("ASGI extensions", "HTTP Trailers")
@pytest.mark.spec("RFC 9112", "section 7.1.2")
async def test_trailers_are_fields_like_others() -> None:
    """CR, LF and NUL are refused in them too; nothing of the end has been sent by then."""
    client = await answered(
        start(trailers=True),
        last(b"x"),
        {"type": "http.response.trailers", "headers": [(b"a", b"1\r\n\r\nHTTP/1.1 200 OK")]},
        complaints=1,
    )
    assert not client.response().complete
    assert client.received.count(b"HTTP/1.1 200 OK") == 1


@pytest.mark.spec("ASGI extensions", "Early Hints")
@pytest.mark.spec("RFC 8297", "section 2")
async def test_early_hints() -> None:
    """They leave at once, as often as the application likes, before the head."""
    gate = asyncio.Event()
    hint = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b>"]}
    app = Noting(hint, hint, gate, START, END)
    async with driving(app) as driver:
        client = driver.connect()
        await client.send(get())
        one = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b>\r\n\r\n"
        assert client.received == one * 2
        gate.set()
        await driver.settle()
        assert client.interim() == [103, 103]
        assert client.response().status == 200


@pytest.mark.spec("RFC 9110", "section 15.2")
async def test_early_hints_to_http_1_0_are_a_mistake() -> None:
    """They were not offered."""
    hint = {"type": "http.response.early_hint", "links": [b"</a>"]}
    client = await answered(hint, request=get(version="1.0"), complaints=1)
    assert client.interim() == []
    assert client.response().status == 500


# More than one request.


async def test_a_failure_and_a_body_on_one_connection() -> None:
    """Each request stands for itself, whatever became of the one before."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fail":
            raise ValueError
        await echo_asgi(scope, receive, send)

    async with driving(app) as driver:
        client = driver.connect()
        await client.send(post(b"lost", path="/fail") + post(b"kept"))
        assert [each.status for each in client.responses("POST", "POST")] == [500, 200]
        assert client.responses("POST", "POST")[1].body == b"POST / kept"
        assert len(driver.complaints.take()) == 1
