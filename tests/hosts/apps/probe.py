"""A plain WSGI application with a path for each rule of PEP 3333, between two validators."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import warnings
import wsgiref.validate
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

from werkzeug.middleware.lint import LintMiddleware, WSGIWarning

from bridges import ThreadPool, WSGIToASGI

# What a validator only warns of is an error here: it becomes a 500 that a test sees.
warnings.simplefilter("error", WSGIWarning)
warnings.simplefilter("error", wsgiref.validate.WSGIWarning)

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], object]]
TEXT = [("Content-Type", "text/plain")]
BLOCK = bytes(range(256)) * 256  # 64 KiB
WAIT_SECONDS = 2

pool = ThreadPool(max_threads=16)


class Journal:
    """What happened, by key; a reader may wait for it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.entries: dict[str, list[Any]] = defaultdict(list)

    def add(self, key: str, entry: Any) -> None:
        with self.changed:
            self.entries[key].append(entry)
            self.changed.notify_all()

    def wait(self, key: str) -> list[Any]:
        with self.changed:
            self.changed.wait_for(lambda: self.entries[key], WAIT_SECONDS)
            return list(self.entries[key])


journal = Journal()
released: dict[str, threading.Event] = defaultdict(threading.Event)


class Counted:
    """An iterable that writes each step's thread, and its closing, to the journal."""

    def __init__(self, key: str, chunks: Iterable[bytes]) -> None:
        self.key = key
        self.chunks = iter(chunks)
        self.threads = {threading.get_ident()}

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.threads.add(threading.get_ident())
        return next(self.chunks)

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        journal.add(self.key, len(self.threads))


def as_json(start: Start, value: Any) -> list[bytes]:
    """Answer 200 with ``value`` as JSON."""
    body = json.dumps(value).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def environ_(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    # All of it: hypercorn loses HTTP/2 connections whose client sends on when it is answered (test_late_data.py).
    for _ in body_pieces(environ):
        pass
    plain = {k: v for k, v in environ.items() if isinstance(v, str | int | bool)}
    return as_json(start, {**plain, "wsgi.version": list(environ["wsgi.version"])})


def body_pieces(environ: Environ) -> Iterator[bytes]:
    while piece := environ["wsgi.input"].read(65536):
        yield piece


def echo(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    body = b"".join(body_pieces(environ))
    start("200 OK", [("Content-Type", "application/octet-stream")])
    return [body]


def digest(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    total, sha = 0, hashlib.sha256()
    for piece in body_pieces(environ):
        total += len(piece)
        sha.update(piece)
    return as_json(start, {"length": total, "sha256": sha.hexdigest()})


def lines(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    return as_json(start, [len(line) for line in environ["wsgi.input"]])


def pieces_of_lines(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    readline = environ["wsgi.input"].readline
    return as_json(start, [len(line) for line in iter(lambda: readline(50), b"")])


def one_item(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return [b"one item"]


def unread(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    start("413 Content Too Large", TEXT)
    return [b"too large"]


def big(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    start("200 OK", [*TEXT, ("Content-Length", str(128 * len(BLOCK)))])
    return Counted(key, (BLOCK for _ in range(128)))


def stream(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return Counted(key, (b"piece %d\n" % number for number in range(3)))


def write(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    out = start("200 OK", TEXT)
    out(b"one,")
    out(b"two,")
    return [b"three"]


def lazy(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    start("201 Created", TEXT)
    yield b""
    yield b"made"


def no_content(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    start("204 No Content", [("X-Kind", "nothing")])
    return []


def not_modified(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    start("304 Not Modified", [("ETag", '"v1"')])
    return []


def page(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    start("200 OK", [*TEXT, ("Content-Length", "5")])
    return Counted(key, [b"hello"])


def fail_before(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    raise RuntimeError("meant: before start_response")


def fail_started(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    start("200 OK", TEXT)
    raise RuntimeError("meant: after start_response, before any data")


def fail_late(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    def chunks() -> Iterator[bytes]:
        yield b"begun"
        raise RuntimeError("meant: after the first chunk")

    start("200 OK", TEXT)
    return Counted(key, chunks())


def fail_replaced(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    start("200 OK", [*TEXT, ("X-Old", "1")])
    try:
        raise RuntimeError("meant: the application handles it")
    except RuntimeError:
        start("503 Service Unavailable", TEXT, sys.exc_info())
    return [b"sorry"]


def fields(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    start("200 OK", [*TEXT, ("X-Name", "caf\xe9"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    return [b"fields"]


def events(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    def chunks() -> Iterator[bytes]:
        yield b"data: one\n\n"
        # Only a client that has seen the first event can set this.
        journal.add(f"{key}-released", released[key].wait(WAIT_SECONDS))
        yield b"data: two\n\n"

    start("200 OK", [("Content-Type", "text/event-stream")])
    return Counted(key, chunks())


def release(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    released[key].set()
    return as_json(start, True)


def endless(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    def chunks() -> Iterator[bytes]:
        while True:
            yield BLOCK

    start("200 OK", TEXT)
    return Counted(key, chunks())


def upload(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    """Read a body that is going to break off, and say how it ended."""
    total = 0
    journal.add(f"{key}-called", True)
    try:
        for piece in body_pieces(environ):
            total += len(piece)
    except BaseException as error:
        journal.add(key, {"complete": False, "oserror": isinstance(error, OSError)})
        raise
    journal.add(key, {"complete": True, "oserror": False, "read": total})
    return as_json(start, total)


def wait(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    return as_json(start, journal.wait(key))


def snapshot(environ: Environ, start: Start, key: str) -> Iterable[bytes]:
    figures = pool.snapshot()
    names = ("threads", "busy", "idle", "queued", "stuck", "served")
    return as_json(start, {name: getattr(figures, name) for name in names})


ROUTES: dict[str, Callable[[Environ, Start, str], Iterable[bytes]]] = {
    "environ": environ_,
    "echo": echo,
    "digest": digest,
    "lines": lines,
    "unread": unread,
    "big": big,
    "stream": stream,
    "write": write,
    "lazy": lazy,
    "no-content": no_content,
    "not-modified": not_modified,
    "page": page,
    "fail-before": fail_before,
    "fail-started": fail_started,
    "fail-late": fail_late,
    "fail-replaced": fail_replaced,
    "fields": fields,
    "events": events,
    "release": release,
    "endless": endless,
    "upload": upload,
    "wait": wait,
    "snapshot": snapshot,
    "": page,
}


# What a validator hides (that the iterable is a list) or refuses (a size for readline) goes past it.
# Both hold that HEAD must iterate as GET does, which PEP 3333 does not ask for.
BARE = {"/pieces-of-lines": pieces_of_lines, "/one-item": one_item, "/bare-page": page}


def probe(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Answer by the first segment of the path."""
    query = parse_qs(environ.get("QUERY_STRING", ""))
    name = environ["PATH_INFO"].split("/")[1]
    return ROUTES[name](environ, start_response, query.get("key", ["none"])[0])


def behind(validator: Callable[..., Any]) -> WSGIToASGI:
    """Put ``validator`` between the bridge and the probe."""
    checked = validator(probe)

    def application(environ: Environ, start_response: Start) -> Iterable[bytes]:
        bare = BARE.get(environ["PATH_INFO"])
        if bare:
            return bare(environ, start_response, environ["QUERY_STRING"])
        return checked(environ, start_response)  # type: ignore[no-any-return]  # as it came

    return WSGIToASGI(application, pool=pool)


validated = behind(wsgiref.validate.validator)
linted = behind(LintMiddleware)
