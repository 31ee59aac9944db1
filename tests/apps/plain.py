"""WSGI applications that keep to PEP 3333, each with one habit, and what a client gets from them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bridges.typing import Environ, StartResponse, WSGIApplication

TEXT = [("Content-Type", "text/plain")]


def hello(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Answer with a list of one item."""
    start_response("200 OK", TEXT[:])
    return [b"hello"]


def several(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Answer with a list of several items, empty ones among them."""
    start_response("200 OK", TEXT[:])
    return [b"", b"one", b"", b"two"]


def echo(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Read the body by its length and answer with it."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 1 << 20))
    start_response("200 OK", [*TEXT, ("Content-Length", str(len(body)))])
    return [body]


def lines(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """Answer line by line while the body is read."""
    start_response("200 OK", TEXT[:])
    for line in environ["wsgi.input"]:
        yield line.upper()


def stream(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """Answer from a generator, which starts the response in its first step."""
    start_response("201 Created", TEXT[:])
    for number in range(5):
        yield b"%d;" % number


class _Closing:
    def __init__(self) -> None:
        self._chunks = iter([b"a", b"b", b"c"])
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        self.closed += 1


def closing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer from an iterator with ``close``."""
    start_response("200 OK", TEXT[:])
    return _Closing()


def writes(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Answer by ``write`` and a list behind it."""
    write = start_response("200 OK", TEXT[:])
    write(b"one,")
    write(b"two,")
    return [b"three"]


def empty(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Answer without a body."""
    start_response("204 No Content", [("Content-Length", "0")])
    return []


def changes_its_mind(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Start a response, fail, and start another in its place."""
    import sys

    start_response("200 OK", TEXT[:])
    try:
        raise RuntimeError("found out late")
    except RuntimeError:
        start_response("500 Internal Server Error", TEXT[:], sys.exc_info())
    return [b"sorry"]


def file(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with a file-like object in the server's wrapper."""
    start_response("200 OK", TEXT[:])
    wrapper = environ["wsgi.file_wrapper"]
    answer: Iterable[bytes] = wrapper(io.BytesIO(b"x" * 100_000), 4096)
    return answer


@dataclass(frozen=True)
class Case:
    """An application, a request to it, and the answer that is due."""

    app: WSGIApplication
    status: int
    answer: bytes
    method: str = "GET"
    body: bytes | None = None
    scope: dict[str, Any] = field(default_factory=dict)


CASES = {
    "hello": Case(hello, 200, b"hello"),
    "several": Case(several, 200, b"onetwo"),
    "echo": Case(echo, 200, b"some body", "POST", b"some body"),
    "lines": Case(lines, 200, b"A\nB\nC", "POST", b"a\nb\nc"),
    "stream": Case(stream, 201, b"0;1;2;3;4;"),
    "closing": Case(closing, 200, b"abc"),
    "writes": Case(writes, 200, b"one,two,three"),
    "empty": Case(empty, 204, b""),
    "changes_its_mind": Case(changes_its_mind, 500, b"sorry"),
    "file": Case(file, 200, b"x" * 100_000),
}
