"""A server and its client in one object, for tests of ASGI applications without sockets.

``FakeServer`` is strict where real servers forgive: two ``receive()`` at once, a body before its head, a message
after the end, a field of a wrong type, a byte more than the Content-Length are each a ``Misuse``. The test decides
when the client leaves, and what each ``send()`` does: pass, wait, fail.
"""

from __future__ import annotations

import importlib.util
import os
import re
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import anyio.to_thread

from bridges import WSGIToASGI
from bridges.typing import ASGIApplication, Environ, Message, Scope, StartResponse

# An event that does not come within this time never will; the test has its own, longer, limit.
EVENT_SECONDS = 15.0
# How long to look out for something that must not happen.
GRACE_SECONDS = 0.05

# The loops that are installed, for tests that run several of them.
LOOPS: dict[str, tuple[str, dict[str, Any]]] = {"asyncio": ("asyncio", {})}
if importlib.util.find_spec("uvloop"):
    LOOPS["uvloop"] = ("asyncio", {"use_uvloop": True})
if importlib.util.find_spec("trio"):
    LOOPS["trio"] = ("trio", {})

SendHook = Callable[[int, Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_HOP_BY_HOP = {b"connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"}


class Misuse(AssertionError):
    """The application did what the ASGI specification forbids."""


def http_scope(
    method: str = "GET", path: str = "/", *, headers: Headers = (), **extra: Any
) -> dict[str, Any]:
    """Make a scope as an HTTP/1.1 server does."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "extensions": {},
        **extra,
    }


class FakeServer:
    """One HTTP exchange, seen from the server.

    Attributes:
        sent: the messages that were sent, in order.
        dropped: those sent after the client had left.
        body: what the client got of the body.
        complete: whether the response came to its end.
        receive_calls: how often ``receive`` was called.
        sends: how often ``send`` was called.
        gone: whether the client has left.
        told: whether the application was told so.
    """

    def __init__(
        self,
        scope: dict[str, Any],
        body: Iterable[bytes] = (b"",),
        *,
        open_body: bool = False,
        then_leave: bool = False,
        on_send: SendHook | None = None,
        keep: bool = True,
    ) -> None:
        """Begin an exchange.

        Args:
            scope: of type ``http``.
            body: its pieces, one message each; an iterator is asked for one when ``receive`` is called.
            open_body: more pieces come by ``feed``.
            then_leave: the client leaves behind the last piece, with or without a complete body.
            on_send: awaited with the number and the message of each ``send``, before it succeeds.
            keep: whether to keep the messages and the body; False for huge ones.
        """
        self.scope = scope
        self.sent: list[Message] = []
        self.dropped: list[Message] = []
        self.body = b""
        self.body_bytes = 0
        self.given_bytes = 0
        self.complete = False
        self.receive_calls = 0
        self.sends = 0
        self.gone = False
        self.on_send = on_send
        self._keep = keep
        self._pieces = _messages(body, open_body or then_leave)
        self._fed: deque[Message] = deque()
        if then_leave:
            self._fed.append({"type": "http.disconnect"})
        self._news = anyio.Event()
        self._receiving = False
        self._sending = False
        self._broken = False
        self._over = False
        self.told = False
        self._misuses: list[Misuse] = []
        self._head: Message | None = None
        self._body_over = False
        self._remaining: int | None = None

    # What the test does.

    def feed(self, chunk: bytes, more: bool = True) -> None:
        """Let a piece of the body arrive; on the loop."""
        self._fed.append({"type": "http.request", "body": chunk, "more_body": more})
        self._news.set()

    def leave(self) -> None:
        """Let the client leave at once; on the loop."""
        self.gone = True
        self._news.set()

    async def serve(self, app: ASGIApplication) -> FakeServer:
        """Run the application to its end and hold it to the specification."""
        try:
            await app(self.scope, self.receive, self.send)
            if not (self.complete or self.gone or self.told):
                self._misuse("returned without completing the response")
        finally:
            self._over = True
            if self._misuses:
                raise self._misuses[0]
            if self._receiving or self._sending:
                raise Misuse("left a receive() or send() waiting")
        return self

    # What the application sees.

    async def receive(self) -> Message:
        """Give the next message, as ASGI's ``receive``."""
        self.receive_calls += 1
        if self._over:
            self._misuse("receive() after the application returned")
        if self._receiving:
            self._misuse("receive() while another one waits")
        if self.told:
            self._misuse("receive() after http.disconnect")
        self._receiving = True
        try:
            await anyio.lowlevel.checkpoint()
            return await self._next()
        finally:
            self._receiving = False

    async def _next(self) -> Message:
        while True:
            if self.gone or self.complete:
                message: Message | None = {"type": "http.disconnect"}
            else:
                message = next(self._pieces, None) or (self._fed.popleft() if self._fed else None)
            if message is None:
                self._news = anyio.Event()
                await self._news.wait()
                continue
            if message["type"] == "http.disconnect":
                self.told = True
            else:
                self.given_bytes += len(message["body"])
            return message

    async def send(self, message: Message) -> None:
        """Take a message, as ASGI's ``send``."""
        number, self.sends = self.sends, self.sends + 1
        if self._over:
            self._misuse("send() after the application returned")
        if self._broken:
            self._misuse("send() after it had raised")
        if self._sending:
            self._misuse("send() while another one waits")
        self._sending = True
        try:
            self._broken = True
            self._check(message)
            await (self.on_send(number, message) if self.on_send else anyio.lowlevel.checkpoint())
            self._broken = False
        finally:
            self._sending = False
        self._record(message)

    def _record(self, message: Message) -> None:
        if self.gone:
            self.dropped.append(message)
            return
        data = _data_of(message)
        self.body_bytes += len(data)
        if self._keep:
            self.sent.append(message)
            self.body += data
        if self._body_over and (
            message["type"] == "http.response.trailers" or not self.head.get("trailers")
        ):
            self.complete = True
            self._news.set()

    def _check(self, message: Message) -> None:
        kind = message["type"]
        check = {
            "http.response.start": self._check_start,
            "http.response.body": self._check_body,
            "http.response.pathsend": self._check_file,
            "http.response.zerocopysend": self._check_file,
            "http.response.trailers": self._check_trailers,
            "http.response.early_hint": self._check_hint,
        }.get(kind)
        if check is None:
            self._misuse(f"unknown message {kind!r}")
        if self.complete:
            self._misuse(f"{kind} after the end of the response")
        check(message)

    def _check_start(self, message: Message) -> None:
        if self._head is not None:
            self._misuse("two heads")
        if type(message["status"]) is not int or not 200 <= message["status"] <= 999:
            self._misuse(f"status {message['status']!r}")
        self._check_headers(message["headers"])
        lengths = [int(value) for name, value in message["headers"] if name == b"content-length"]
        if len(lengths) > 1:
            self._misuse("several Content-Length")
        if message.get("trailers"):
            self._check_offered("http.response.trailers")
        self._head = message
        if not self._bodiless and lengths:
            self._remaining = lengths[0]

    def _check_headers(self, headers: Any) -> None:
        for name, value in headers:
            if type(name) is not bytes or not _TOKEN.fullmatch(name) or name in _HOP_BY_HOP:
                self._misuse(f"header name {name!r}")
            if type(value) is not bytes or re.search(rb"[\r\n\0]|^\s|\s$", value):
                self._misuse(f"header value {value!r}")

    def _check_body(self, message: Message) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        self._check_may_have_body()
        if type(body) is not bytes or type(more) is not bool:
            self._misuse(f"body {type(body).__name__}, more_body {more!r}")
        if more and not body:
            self._misuse("an empty piece of the body")
        self._count(len(body), more)

    def _check_file(self, message: Message) -> None:
        self._check_may_have_body()
        self._check_offered(message["type"])
        self._count(len(_data_of(message)), message.get("more_body", False))

    def _check_may_have_body(self) -> None:
        if self._head is None:
            self._misuse("a body before its head")
        if self._body_over:
            self._misuse("a body after its end")

    def _count(self, size: int, more: bool) -> None:
        if self._bodiless and size:
            self._misuse("a body where none may be")
        if self._remaining is not None:
            self._remaining -= size
            if self._remaining < 0:
                self._misuse("more bytes than the Content-Length")
            if self._remaining and not more:
                self._misuse("fewer bytes than the Content-Length")
        self._body_over = not more

    def _check_trailers(self, message: Message) -> None:
        if not self._body_over or not self.head.get("trailers"):
            self._misuse("trailers unannounced, or before the end of the body")
        self._check_headers(message["headers"])

    def _check_hint(self, message: Message) -> None:
        self._check_offered("http.response.early_hint")
        if self._head is not None:
            self._misuse("an early hint after the head")
        if not all(type(link) is bytes for link in message["links"]):
            self._misuse("a link that is not bytes")

    def _check_offered(self, extension: str) -> None:
        if extension not in self.scope["extensions"]:
            self._misuse(f"{extension} was not offered")

    def _misuse(self, sentence: str) -> NoReturn:
        self._misuses.append(Misuse(sentence))
        raise self._misuses[-1]

    @property
    def _bodiless(self) -> bool:
        return self.scope["method"] == "HEAD" or self.head["status"] in (204, 304)

    # What the client saw.

    @property
    def head(self) -> Message:
        """The ``http.response.start``."""
        assert self._head is not None, "no response was started"
        return self._head

    @property
    def started(self) -> bool:
        """Whether a head was sent."""
        return self._head is not None

    @property
    def status(self) -> int:
        """The status code."""
        status: int = self.head["status"]
        return status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The header fields."""
        headers: list[tuple[bytes, bytes]] = self.head["headers"]
        return headers

    def header(self, name: bytes) -> bytes | None:
        """Give the value of a header field that comes at most once."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, values
        return values[0] if values else None

    def of_type(self, kind: str) -> list[Message]:
        """Give the messages of one type."""
        return [message for message in self.sent if message["type"] == kind]


def _messages(body: Iterable[bytes], unfinished: bool) -> Iterator[Message]:
    if isinstance(body, bytes):
        raise TypeError("give the pieces of the body, not one bytes object")
    if isinstance(body, list | tuple):
        for number, chunk in enumerate(body, 1):
            more = unfinished or number < len(body)
            yield {"type": "http.request", "body": chunk, "more_body": more}
        return
    for chunk in body:
        yield {"type": "http.request", "body": chunk, "more_body": True}
    if not unfinished:
        yield {"type": "http.request", "body": b"", "more_body": False}


def _data_of(message: Message) -> bytes:
    """Give the bytes that a server would put on the wire for a message."""
    if message["type"] == "http.response.pathsend":
        with open(message["path"], "rb") as file:
            return file.read()
    if message["type"] == "http.response.zerocopysend":
        return os.pread(message["file"], message["count"], message["offset"])
    body: bytes = message.get("body", b"") if message["type"] == "http.response.body" else b""
    return body


async def request(
    app: ASGIApplication,
    method: str = "GET",
    path: str = "/",
    *,
    body: Iterable[bytes] | None = None,
    headers: Headers = (),
    on_send: SendHook | None = None,
    **scope: Any,
) -> FakeServer:
    """Make one request and give the exchange when it is over.

    Args:
        app: the application.
        method: of the request.
        path: of the request.
        body: its pieces, sent chunked unless ``headers`` has a Content-Length.
        headers: of the request.
        on_send: see ``FakeServer``.
        **scope: further keys of the scope.
    """
    return await server_for(
        method, path, body=body, headers=headers, on_send=on_send, **scope
    ).serve(app)


def server_for(
    method: str = "GET",
    path: str = "/",
    *,
    body: Iterable[bytes] | None = None,
    headers: Headers = (),
    open_body: bool = False,
    then_leave: bool = False,
    on_send: SendHook | None = None,
    keep: bool = True,
    **scope: Any,
) -> FakeServer:
    """Prepare one request; arguments as of ``request`` and ``FakeServer``."""
    fields = list(headers)
    has_body = body is not None or open_body
    if has_body and not any(name == b"content-length" for name, _ in fields):
        fields.append((b"transfer-encoding", b"chunked"))
    if body is None:
        body = () if open_body else (b"",)
    return FakeServer(
        http_scope(method, path, headers=fields, **scope),
        body,
        open_body=open_body,
        then_leave=then_leave,
        on_send=on_send,
        keep=keep,
    )


def content_length(size: int) -> tuple[bytes, bytes]:
    """Give the header field."""
    return b"content-length", b"%d" % size


def run_on(loop: str, function: Callable[[], Awaitable[None]]) -> None:
    """Run an async function on one of ``LOOPS``, without debug mode."""
    backend, options = LOOPS[loop]
    anyio.run(function, backend=backend, backend_options=options)


async def until(event: threading.Event) -> None:
    """Wait on the loop for an event that a thread sets."""
    came = await anyio.to_thread.run_sync(event.wait, EVENT_SECONDS, abandon_on_cancel=True)
    assert came, "the event did not come"


async def assert_all_threads_free(adapter: WSGIToASGI) -> None:
    """Show that no thread of an adapter's pool is lost: all of them at once can meet in a request."""
    pool = adapter.pool
    assert pool is not None
    meeting = threading.Barrier(pool.max_threads)

    def meet(environ: Environ, start_response: StartResponse) -> list[bytes]:
        meeting.wait(EVENT_SECONDS)
        start_response("200 OK", [])
        return [b"met"]

    probe = WSGIToASGI(meet, pool=pool)
    async with anyio.create_task_group() as tasks:
        for _ in range(pool.max_threads):
            tasks.start_soon(request, probe)
    snapshot = pool.snapshot()
    assert (snapshot.busy, snapshot.queued) == (0, 0)
    assert snapshot.threads == pool.max_threads


def end_pool(adapter: WSGIToASGI) -> None:
    """End an adapter's idle threads now; otherwise they end when the garbage collector comes by, which is slow."""
    assert adapter.pool is not None
    assert adapter.pool.shutdown(EVENT_SECONDS)


class Lifespan:
    """The lifespan of an application, seen from the server.

    Attributes:
        sent: what the application answered.
    """

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self._messages: deque[str] = deque()
        self._news = anyio.Event()
        self._answered = anyio.Event()
        self._receiving = False

    def scope(self) -> Scope:
        """Make the scope."""
        return {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}

    async def tell(self, phase: str) -> Message:
        """Send ``startup`` or ``shutdown`` and give the answer."""
        self._answered = anyio.Event()
        self._messages.append(f"lifespan.{phase}")
        self._news.set()
        await self._answered.wait()
        return self.sent[-1]

    async def receive(self) -> Message:
        """Give the next message, as ASGI's ``receive``."""
        if self._receiving:
            raise Misuse("receive() while another one waits")
        self._receiving = True
        try:
            while not self._messages:
                self._news = anyio.Event()
                await self._news.wait()
            return {"type": self._messages.popleft()}
        finally:
            self._receiving = False

    async def send(self, message: Message) -> None:
        """Take an answer, as ASGI's ``send``."""
        await anyio.lowlevel.checkpoint()
        self.sent.append(message)
        self._answered.set()


@asynccontextmanager
async def lifespan(app: ASGIApplication) -> AsyncIterator[Lifespan]:
    """Run an application's lifespan beside the block, which tells it the phases; wait for its end."""
    server = Lifespan()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, server.scope(), server.receive, server.send)
        yield server
