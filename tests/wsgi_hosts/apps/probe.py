"""A raw ASGI application with a path for each rule, alone and behind two validators of PEP 3333."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
import os
import threading
import traceback
import warnings
import wsgiref.validate
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from adapter import adapt
from asgiref.sync import sync_to_async
from journal import STATE, note, released, released_here
from werkzeug.middleware.lint import LintMiddleware, WSGIWarning

# What a validator only warns of is an error here: it becomes a 500 that a test sees.
warnings.simplefilter("error", WSGIWarning)
warnings.simplefilter("error", wsgiref.validate.WSGIWarning)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Fields = list[tuple[bytes, bytes]]
Environ = dict[str, Any]

BLOCK = bytes(range(256)) * 256  # 64 KiB
AHEAD_BLOCKS = 768  # 48 MiB, more than any server and the kernel hold together
STALL_SECONDS = 0.3
TEXT: Fields = [(b"content-type", b"text/plain")]

of_middleware: contextvars.ContextVar[str] = contextvars.ContextVar("of_middleware", default="")
wsgi_thread: contextvars.ContextVar[int] = contextvars.ContextVar("wsgi_thread", default=0)


class Gone(Exception):
    """The application was told that its client has left."""


class Call:
    """One call of the application."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        query = parse_qs(scope["query_string"].decode("latin-1"))
        self.key = query.get("key", ["none"])[0]

    async def start(self, status: int = 200, fields: Fields = TEXT) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": fields})

    async def body(self, data: bytes = b"", more: bool = False) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(
        self, data: bytes = b"", status: int = 200, fields: Fields = TEXT, sized: bool = True
    ) -> None:
        length = [(b"content-length", b"%d" % len(data))] if sized else []
        await self.start(status, [*fields, *length])
        await self.body(data)

    async def json(self, value: Any) -> None:
        await self.answer(
            json.dumps(value).encode(), fields=[(b"content-type", b"application/json")]
        )

    async def pieces(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Gone
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]


async def page(call: Call) -> None:
    await call.answer(b"hello")


async def scope_(call: Call) -> None:
    scope = call.scope
    seen = {name: scope.get(name) for name in ("type", "http_version", "method", "scheme")}
    seen |= {name: scope.get(name) for name in ("asgi", "root_path", "client", "server")}
    seen["path"] = scope["path"]
    seen["raw_path"] = (scope.get("raw_path") or b"").decode("latin-1")
    seen["query_string"] = scope["query_string"].decode("latin-1")
    seen["headers"] = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in scope["headers"]]
    seen["extensions"] = sorted(scope.get("extensions") or {})
    await call.json(seen)


async def echo(call: Call) -> None:
    data = b"".join([piece async for piece in call.pieces()])
    await call.answer(data, fields=[(b"content-type", b"application/octet-stream")])


async def duplex(call: Call) -> None:
    """Echo each piece as it comes, before the next is asked for."""
    await call.start()
    async for piece in call.pieces():
        await call.body(piece, more=True)
    await call.body()


async def digest(call: Call) -> None:
    total, largest, sha = 0, 0, hashlib.sha256()
    async for piece in call.pieces():
        total += len(piece)
        largest = max(largest, len(piece))
        sha.update(piece)
    await call.json({"length": total, "sha256": sha.hexdigest(), "largest": largest})


async def unread(call: Call) -> None:
    await call.answer(b"too large", 413)


async def upload(call: Call) -> None:
    """Read a body that is going to break off, and say how it ended."""
    note(f"{call.key}-called", True)
    try:
        async for _ in call.pieces():
            continue
    except Gone:
        note(call.key, "disconnect")
        return
    except BaseException as error:
        note(call.key, repr(error))
        raise
    note(call.key, "complete")
    await call.answer(b"whole")


async def big(call: Call) -> None:
    await call.start(200, [*TEXT, (b"content-length", b"%d" % (128 * len(BLOCK)))])
    for number in range(128):
        await call.body(BLOCK, more=number < 127)


async def ahead(call: Call) -> None:
    """Send much to a client that does not read, and tell how far that went before it stood still."""
    done = 0
    told = asyncio.Event()

    async def watch() -> None:
        before = -1
        while before != done:
            before = done
            await asyncio.sleep(STALL_SECONDS)
        note(call.key, done)
        told.set()

    watching = asyncio.create_task(watch())
    await call.start()
    for _ in range(AHEAD_BLOCKS):
        await call.body(BLOCK, more=True)
        done += 1
    await watching
    await call.body()


async def stream(call: Call) -> None:
    await call.start()
    for number in range(3):
        await call.body(b"piece %d\n" % number, more=True)
    await call.body()


async def events(call: Call) -> None:
    process = (b"x-process", b"%d" % os.getpid())
    await call.start(200, [(b"content-type", b"text/event-stream"), process])
    await call.body(b"data: one\n\n", more=True)
    await released(call.key)
    await call.body(b"data: two\n\n", more=True)
    await call.body()


async def endless(call: Call) -> None:
    """Send on and on; tell how it ended, and that its cleanup may still wait for the loop."""
    try:
        await call.start()
        while True:
            await call.body(BLOCK, more=True)
    except OSError:
        note(f"{call.key}-end", "OSError")
    except asyncio.CancelledError:
        note(f"{call.key}-end", "cancelled")
        raise
    finally:
        await asyncio.sleep(0)
        note(call.key, threading.get_ident() == LOOP_THREADS[os.getpid()])


async def idle(call: Call) -> None:
    """Begin an answer, and listen for the client's leaving, or the test's word that it was not seen."""
    await call.start(200, [(b"content-type", b"text/event-stream")])
    await call.body(b"data: one\n\n", more=True)

    async def leaving() -> None:
        async for _ in call.pieces():
            continue
        note(call.key, (await call.receive())["type"])

    listening = asyncio.create_task(leaving())
    waiting = asyncio.create_task(released(call.key))
    await asyncio.wait({listening, waiting}, return_when=asyncio.FIRST_COMPLETED)
    for task in (listening, waiting):
        task.cancel()
    await asyncio.gather(listening, waiting, return_exceptions=True)


async def silent(call: Call) -> None:
    """Begin an answer, and hold on to something that only a cancellation ends."""
    await call.start(200, [(b"content-type", b"text/event-stream")])
    await call.body(b"data: one\n\n", more=True)
    try:
        await released(call.key)
    except asyncio.CancelledError:
        await asyncio.sleep(0)
        note(call.key, "cancelled")
        raise


async def background(call: Call) -> None:
    await call.answer(b"answered")
    await released(call.key)
    note(call.key, "done")


async def no_content(call: Call) -> None:
    await call.start(204, [(b"x-kind", b"nothing")])
    await call.body()


async def not_modified(call: Call) -> None:
    await call.start(304, [(b"etag", b'"v1"')])
    await call.body()


async def redirect(call: Call) -> None:
    await call.answer(b"", 303, [*TEXT, (b"location", b"/page")])


async def fields(call: Call) -> None:
    extra = [(b"x-name", b"caf\xe9"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    await call.answer(b"fields", fields=[*TEXT, *extra])


async def bare(call: Call) -> None:
    """Start without fields, and end without a body message's optional keys."""
    await call.send({"type": "http.response.start", "status": 200})
    await call.send({"type": "http.response.body"})


async def nothing(call: Call) -> None:
    """Return without any answer."""


async def fail_before(call: Call) -> None:
    raise RuntimeError("meant: before the head")


async def fail_started(call: Call) -> None:
    await call.start()
    raise RuntimeError("meant: after the head, before any data")


async def fail_late(call: Call) -> None:
    await call.start()
    await call.body(b"begun", more=True)
    raise RuntimeError("meant: after the first chunk")


async def fail_short(call: Call) -> None:
    await call.start(200, [*TEXT, (b"content-length", b"1000")])
    await call.body(b"begun", more=True)
    raise RuntimeError("meant: after the first chunk of a known length")


async def exits(call: Call) -> None:
    raise SystemExit("meant: an application must not end its server")


async def lifespan_state(call: Call) -> None:
    state = call.scope.get("state")
    leaked = "mine" in (state or {})
    if state is not None:
        state["mine"] = True
    # Two at once would share the loop; two after another too.
    await call.json(
        {
            "process": os.getpid(),
            "loop": id(asyncio.get_running_loop()),
            "started": state and state.get("loop"),
            "leaked": leaked,
        }
    )


async def context(call: Call) -> None:
    await call.json(of_middleware.get())


async def sensitive(call: Call) -> None:
    ident = await sync_to_async(threading.get_ident, thread_sensitive=True)()
    await call.json({"ident": ident, "wsgi": wsgi_thread.get()})


async def sensitive_wait(call: Call) -> None:
    await sync_to_async(released_here, thread_sensitive=True)(call.key)
    await call.answer(b"released")


async def wait(call: Call) -> None:
    await released(call.key)
    await call.answer(b"released")


async def early_hint(call: Call) -> None:
    if "http.response.early_hint" not in (call.scope.get("extensions") or {}):
        await call.answer(b"no early hints", 501)
        return
    await call.send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
    await call.answer(b"hinted")


async def pathsend(call: Call) -> None:
    if "http.response.pathsend" not in (call.scope.get("extensions") or {}):
        await call.answer(b"no pathsend", 501)
        return
    path = STATE / "big.bin"
    if not path.exists():
        made = STATE / f"{os.getpid()}.part"
        made.write_bytes(BLOCK * 128)
        made.replace(path)
    await call.start(200, [*TEXT, (b"content-length", b"%d" % path.stat().st_size)])
    await call.send({"type": "http.response.pathsend", "path": str(path)})


ROUTES: dict[str, Callable[[Call], Awaitable[None]]] = {
    "": page,
    "page": page,
    "scope": scope_,
    "echo": echo,
    "duplex": duplex,
    "digest": digest,
    "unread": unread,
    "upload": upload,
    "big": big,
    "ahead": ahead,
    "stream": stream,
    "events": events,
    "endless": endless,
    "idle": idle,
    "silent": silent,
    "background": background,
    "no-content": no_content,
    "not-modified": not_modified,
    "redirect": redirect,
    "fields": fields,
    "bare": bare,
    "nothing": nothing,
    "fail-before": fail_before,
    "fail-started": fail_started,
    "fail-late": fail_late,
    "fail-short": fail_short,
    "exits": exits,
    "lifespan": lifespan_state,
    "context": context,
    "sensitive": sensitive,
    "sensitive-wait": sensitive_wait,
    "wait": wait,
    "early-hint": early_hint,
    "pathsend": pathsend,
}
LOOP_THREADS: dict[int, int] = {}


def check_startup() -> None:
    if (STATE / "startup-fails").exists():
        raise RuntimeError("meant: the startup fails")


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "lifespan.startup"
    try:
        check_startup()
    except RuntimeError:
        # As Starlette does it.
        text = traceback.format_exc()
        await send({"type": "lifespan.startup.failed", "message": text})
        raise
    scope["state"]["loop"] = id(asyncio.get_running_loop())
    note("lifespan", ["startup", os.getpid()])
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    note("lifespan", ["shutdown", os.getpid()])
    await send({"type": "lifespan.shutdown.complete"})


async def accept_websocket(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await receive()


async def probe(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer by the first segment of the path."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    LOOP_THREADS[os.getpid()] = threading.get_ident()
    if scope["type"] == "websocket":
        await accept_websocket(receive, send)
        return
    await ROUTES[scope["path"].split("/")[1]](Call(scope, receive, send))


# An endless stream must not hold up the end of its server for long.
adapter = adapt(probe, shutdown_seconds=2, disconnect_grace_seconds=1)


def behind(inner: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Set what the application is to find in its context, as a WSGI middleware does."""

    def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
        of_middleware.set(environ.get("QUERY_STRING", ""))
        wsgi_thread.set(threading.get_ident())
        return inner(environ, start_response)

    return application


def past_lint(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Let HEAD go past: the validator holds that it must send the bytes that Content-Length names."""
    inner = adapter if environ["REQUEST_METHOD"] == "HEAD" else under_lint
    return inner(environ, start_response)


def in_strings(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Mend the one variable that werkzeug's server gives as a number, which the validator refuses."""
    environ["REMOTE_PORT"] = str(environ.get("REMOTE_PORT", ""))
    return under_validator(environ, start_response)


under_validator = wsgiref.validate.validator(adapter)
under_lint = LintMiddleware(adapter)
app = behind(adapter)
validated = behind(in_strings)
linted = behind(past_lint)
