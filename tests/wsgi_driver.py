"""A WSGI host and its client in one object, for tests of WSGI applications without sockets.

``FakeHost`` is strict where real hosts forgive: a head twice or too late, a field of a wrong type, a byte more than
the Content-Length, a read past the end of the body or from a foreign thread are each a ``Misuse``. The test decides
when the host asks for the next chunk, and when it closes.

``checked`` is the same for the other side: it holds what an ASGI application is given to the specification.

Name it in ``pytest_plugins`` for the fixtures ``backend`` and ``adapt``. It is imported by then: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib.util
import io
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, NoReturn
from wsgiref.validate import validator

import anyio
import pytest

from bridges import ASGIToWSGI
from bridges.typing import ASGIApplication, Environ, Message, Receive, Scope, Send, WSGIApplication

# An event that does not come within this time never will; the test has its own, longer, limit.
EVENT_SECONDS = 15.0

TEXT = [(b"content-type", b"text/plain")]

_HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class Misuse(AssertionError):
    """Somebody did what the specification forbids."""


class HostInput(io.RawIOBase):
    """A request body as a careful host gives it: one thread reads, and never past the end.

    Attributes:
        given: bytes given so far.
        reads: how often it was read.
        before_read: called before each read, which it may delay or fail.
    """

    def __init__(self, body: Iterable[bytes], *, ends: bool, whole: int | None) -> None:
        """Prepare it.

        Args:
            body: pieces, each of which a read gives at most.
            ends: whether a read at the end gives ``b""`` (``wsgi.input_terminated``) instead of waiting for ever.
            whole: how many bytes may be asked for.
        """
        self.given = 0
        self.reads = 0
        self.before_read: Callable[[], object] | None = None
        self._pieces = iter(body)
        self._rest = b""
        self._ends = ends
        self._whole = whole
        self._thread = threading.get_ident()
        self._reading = threading.Lock()

    def read1(self, size: int = -1) -> bytes:
        """Give what has come."""
        if threading.get_ident() != self._thread:
            raise Misuse("wsgi.input was read in a foreign thread")
        if not self._reading.acquire(blocking=False):
            raise Misuse("wsgi.input was read while it is read")
        try:
            return self._read(size)
        finally:
            self._reading.release()

    def _read(self, size: int) -> bytes:
        self.reads += 1
        if self.before_read is not None:
            self.before_read()
        if self._whole is not None and size < 0:
            raise Misuse("read without a size, which would wait for the client to leave")
        if self._whole is not None and self.given + size > self._whole:
            raise Misuse("read past the Content-Length")
        if not self._rest:
            self._rest = next(self._pieces, b"")
        chunk, self._rest = (
            (self._rest[:size], self._rest[size:]) if size >= 0 else (self._rest, b"")
        )
        self.given += len(chunk)
        return chunk

    def read(self, size: int | None = -1) -> bytes:
        """Give so many bytes, waiting for them."""
        chunks = []
        left = -1 if size is None else size
        while left:
            chunk = self.read1(left)
            if not chunk:
                break
            chunks.append(chunk)
            left = left - len(chunk) if left > 0 else left
        return b"".join(chunks)

    def readable(self) -> bool:
        """Tell that this is a reader."""
        return True


class OldInput:
    """A request body without ``read1``, as many hosts give it."""

    def __init__(self, source: HostInput) -> None:
        self.read = source.read
        self.readline = source.readline
        self.readlines = source.readlines
        self.__iter__ = source.__iter__


class FakeHost:
    """One HTTP exchange, seen from the host.

    Attributes:
        environ: of the request.
        input: its body.
        result: what the application returned.
        chunks: what it gave.
        taken: bytes of it.
        complete: whether the iteration came to its end.
        hints: what was given to ``wsgi.early_hints``.
        trailers: what the callable of ``bridges.trailers`` gave at the end.
    """

    result: Iterable[bytes]

    def __init__(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        body: bytes | Iterable[bytes] = b"",
        length: int | str | None = None,
        chunked: bool = False,
        headers: dict[str, str] | None = None,
        old_input: bool = False,
        **environ: Any,
    ) -> None:
        """Prepare a request.

        Args:
            method: of the request.
            path: after SCRIPT_NAME.
            body: whole, or its pieces as they come.
            length: the Content-Length; that of the body, unless told otherwise.
            chunked: no Content-Length, and ``wsgi.input`` ends by itself.
            headers: by their names in HTTP.
            old_input: ``wsgi.input`` has no ``read1``.
            **environ: further keys, with ``__`` for a dot; None takes one out.
        """
        pieces = [body] if isinstance(body, bytes) else body
        if length is None and isinstance(body, bytes | list | tuple):
            length = sum(map(len, pieces))
        known = None if chunked else int(length) if str(length or 0).isdigit() else None
        self.input = HostInput(pieces, ends=chunked, whole=None if chunked else known)
        self.environ = _environ(method, path, headers or {})
        self.environ["wsgi.input"] = OldInput(self.input) if old_input else self.input
        self.environ["wsgi.input_terminated"] = chunked
        if not chunked and (length or method == "POST"):
            self.environ["CONTENT_LENGTH"] = str(length)
        for key, value in environ.items():
            key = key.replace("__", ".")
            if value is None:
                del self.environ[key]
            else:
                self.environ[key] = value
        self.chunks: list[bytes] = []
        self.taken = 0
        self.complete = False
        self.hints: list[list[tuple[str, str]]] = []
        self.trailers: Callable[[], list[tuple[str, str]]] | None = None
        self._status: str | None = None
        self._headers: list[tuple[str, str]] = []
        self._closed = False
        self._thread = threading.get_ident()

    # What the host does.

    def call(self, app: WSGIApplication) -> FakeHost:
        """Call the application, and take hold of its iterator."""
        self.result = app(self.environ, self._start_response)
        self._iterator = iter(self.result)
        return self

    def next(self) -> bytes | None:
        """Take the next chunk; None at the end."""
        for chunk in self._iterator:
            self._check_chunk(chunk)
            self.chunks.append(chunk)
            self.taken += len(chunk)
            return chunk
        if self._status is None:
            raise Misuse("no response was started")
        if self.length is not None and not self._bodiless and self.taken < self.length:
            raise Misuse("fewer bytes than the Content-Length")
        self.complete = True
        return None

    def rest(self) -> FakeHost:
        """Take all chunks that are left."""
        while self.next() is not None:
            pass
        return self

    def close(self) -> FakeHost:
        """Close the response, as every host must once."""
        if not self._closed:
            self._closed = True
            close = getattr(self.result, "close", None)
            if close is not None:
                close()
        return self

    def serve(self, app: WSGIApplication) -> FakeHost:
        """Do all of it."""
        self.call(app)
        try:
            return self.rest()
        finally:
            self.close()

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        self._check_thread()
        if self._status is not None and exc_info is None:
            raise Misuse("the response was started twice")
        if self.chunks:
            raise exc_info[1].with_traceback(exc_info[2])
        if type(status) is not str or not re.fullmatch(r"[2-9]\d\d [ -~]+", status):
            raise Misuse(f"status {status!r}")
        if type(headers) is not list:
            raise Misuse(f"headers {type(headers).__name__}")
        for field in headers:
            _check_field(field)
        self._status, self._headers = status, headers
        return self._write

    def _write(self, chunk: bytes) -> NoReturn:
        raise Misuse("write() was called")

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise Misuse("the host was called in a foreign thread")

    def _check_chunk(self, chunk: bytes) -> None:
        if self._status is None:
            raise Misuse("a body before its head")
        if type(chunk) is not bytes:
            raise Misuse(f"a chunk of {type(chunk).__name__}")
        if chunk and self._bodiless:
            raise Misuse("a body where none may be")
        if self.length is not None and self.taken + len(chunk) > self.length:
            raise Misuse("more bytes than the Content-Length")

    @property
    def _bodiless(self) -> bool:
        return self.environ["REQUEST_METHOD"] == "HEAD" or self.status in (204, 304)

    # What its client saw.

    @property
    def started(self) -> bool:
        """Whether the response was started."""
        return self._status is not None

    @property
    def status(self) -> int:
        """The status code."""
        assert self._status is not None, "no response was started"
        return int(self._status[:3])

    @property
    def reason(self) -> str:
        """The status line behind the code."""
        assert self._status is not None, "no response was started"
        return self._status[4:]

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The header fields, names in lower case."""
        return [(name.lower(), value) for name, value in self._headers]

    def header(self, name: str) -> str | None:
        """Give the value of a header field that comes at most once."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, values
        return values[0] if values else None

    @property
    def length(self) -> int | None:
        """The Content-Length."""
        value = self.header("content-length")
        return None if value is None else int(value)

    @property
    def body(self) -> bytes:
        """What came of the body."""
        return b"".join(self.chunks)


def _environ(method: str, path: str, headers: dict[str, str]) -> Environ:
    environ: Environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "50000",
        "HTTP_HOST": "testserver",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in headers.items():
        environ["HTTP_" + name.upper().replace("-", "_")] = value
    return environ


def _check_field(field: Any) -> None:
    if type(field) is not tuple or len(field) != 2:
        raise Misuse(f"header field {field!r}")
    name, value = field
    if type(name) is not str or not _TOKEN.fullmatch(name) or name.lower() in _HOP_BY_HOP:
        raise Misuse(f"header name {name!r}")
    if type(value) is not str or re.search(r"[\r\n\0]|^\s|\s$", value):
        raise Misuse(f"header value {value!r}")
    value.encode("latin-1")


def serve(app: WSGIApplication, method: str = "GET", path: str = "/", **request: Any) -> FakeHost:
    """Make one request and give the exchange when it is over; arguments as of ``FakeHost``."""
    return FakeHost(method, path, **request).serve(app)


# What an ASGI application is given.


def checked(app: ASGIApplication) -> ASGIApplication:
    """Wrap an application that then is given nothing against the specification, or fails with ``Misuse``."""

    @functools.wraps(app, updated=())
    async def checking(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        _check_scope(scope)
        await app(scope, _Receiving(receive), send)

    return checking


class _Receiving:
    """A ``receive`` that looks at what comes."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._body_over = False
        self._told = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._told = True
        elif message["type"] != "http.request":
            raise Misuse(f"received {message!r}")
        elif self._told or self._body_over:
            raise Misuse("a piece of the body after its end")
        elif type(message["body"]) is not bytes or type(message["more_body"]) is not bool:
            raise Misuse(f"received {message!r:.200}")
        elif message["more_body"] and not message["body"]:
            raise Misuse("an empty piece of the body")
        else:
            self._body_over = not message["more_body"]
        return message


_SCOPE_TYPES: dict[str, Any] = {
    "type": str,
    "asgi": dict,
    "http_version": str,
    "method": str,
    "scheme": str,
    "path": str,
    "raw_path": (bytes, type(None)),
    "query_string": bytes,
    "root_path": str,
    "client": (tuple, list, type(None)),
    "server": (tuple, list, type(None)),
    "state": dict,
    "extensions": dict,
}


def _check_scope(scope: Scope) -> None:
    for key, kind in _SCOPE_TYPES.items():
        if not isinstance(scope[key], kind):
            raise Misuse(f"scope[{key!r}] is {scope[key]!r}")
    for name, value in scope["headers"]:
        if type(name) is not bytes or type(value) is not bytes or name != name.lower():
            raise Misuse(f"header {name!r}: {value!r}")
    if scope["method"] != scope["method"].upper():
        raise Misuse(f"method {scope['method']!r}")


# Applications, or parts of them; each runs on asyncio and trio.


def app_of(handle: Callable[[Scope, Receive, Send], Awaitable[None]]) -> ASGIApplication:
    """Make an application that takes no part in the lifespan."""

    @functools.wraps(handle)
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "this application has no lifespan"
        await handle(scope, receive, send)

    return app


def start(status: int = 200, headers: Any = TEXT, **more: Any) -> Message:
    """Make the message that starts a response."""
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(chunk: bytes = b"", more: bool = False) -> Message:
    """Make a message of the body."""
    return {"type": "http.response.body", "body": chunk, "more_body": more}


async def answer(send: Send, chunk: bytes = b"", status: int = 200, headers: Any = TEXT) -> None:
    """Send a whole response."""
    await send(start(status, headers))
    await send(body(chunk))


async def read_all(receive: Receive) -> bytes:
    """Receive a whole body.

    Raises:
        EOFError: the client left.
    """
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise EOFError(b"".join(chunks))
        chunks.append(message["body"])
        if not message["more_body"]:
            return b"".join(chunks)


@app_of
async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a whole response."""
    await answer(send, b"hello")


@app_of
async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the whole body, then answer with it."""
    await answer(send, await read_all(receive))


def wait(event: threading.Event) -> None:
    """Wait in a thread for an event."""
    assert event.wait(EVENT_SECONDS), "the event did not come"


async def until(event: threading.Event) -> None:
    """Wait on the loop for an event that a thread sets."""
    came = await anyio.to_thread.run_sync(event.wait, EVENT_SECONDS, abandon_on_cancel=True)
    assert came, "the event did not come"


class InThread:
    """A function that runs in a thread of its own, in an empty context; ``result`` waits for it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._outcome: Any = None
        self._error: BaseException | None = None
        run = functools.partial(contextvars.Context().run, self._run)
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._function()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        """Wait for its end, and give what it returned or raise what it raised."""
        self._thread.join(EVENT_SECONDS)
        assert not self._thread.is_alive(), "the thread hangs"
        if self._error is not None:
            raise self._error
        return self._outcome


# Fixtures.


def uvloop_options() -> dict[str, Any]:
    """Give the options for uvloop."""
    import uvloop

    return {"loop_factory": uvloop.new_event_loop}


BACKENDS: dict[str, Callable[[], dict[str, Any]]] = {
    "asyncio": lambda: {"backend": "asyncio"},
    "inline": lambda: {"backend": "inline"},
}
if importlib.util.find_spec("uvloop"):
    BACKENDS["uvloop"] = uvloop_options
if importlib.util.find_spec("trio"):
    BACKENDS["trio"] = lambda: {"backend": "trio"}

Adapt = Callable[..., ASGIToWSGI]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Run a test once on each kind of loop."""
    return str(request.param)


@contextlib.contextmanager
def _adapters(name: str) -> Iterator[Adapt]:
    made: list[ASGIToWSGI] = []

    def adapt(app: ASGIApplication, **options: Any) -> ASGIToWSGI:
        made.append(ASGIToWSGI(checked(app), **{**BACKENDS[name](), **options}))
        return made[-1]

    yield adapt
    for adapter in made:
        adapter.close()


@pytest.fixture
def adapt(backend: str) -> Iterator[Adapt]:
    """Give a function that makes adapters of checked applications on the back end; they are closed behind the test."""
    with _adapters(backend) as make:
        yield make


@pytest.fixture
def adapt_asyncio() -> Iterator[Adapt]:
    """Give what ``adapt`` gives, on asyncio alone."""
    with _adapters("asyncio") as make:
        yield make


def validated(app: WSGIApplication) -> WSGIApplication:
    """Put a WSGI application under ``wsgiref.validate``."""
    return validator(app)  # type: ignore[return-value]


def linted(app: WSGIApplication) -> WSGIApplication:
    """Put a WSGI application under werkzeug's lint, whose warnings are errors here."""
    from werkzeug.middleware.lint import LintMiddleware

    return LintMiddleware(app)
