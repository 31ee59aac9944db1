"""The raw requests in ``tests/corpus/http1``, and what it takes to run them.

That is: a reader of them, an application that records what reaches it, a reader of what a server wrote, and h11's
opinion. ``tests/corpus/http1/README.md`` describes the format. Nothing here knows the server under test.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import h11

from bridges.typing import Receive, Scope, Send

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent / "corpus" / "http1"

# Above it, a request is cut into pieces, of at most so many bytes each, instead of into single bytes.
BYTEWISE_BYTES = 4096
# Largest head of a response that is read.
RESPONSE_HEAD_BYTES = 65_536

_ESCAPE = re.compile(
    rb"\\(?:x([0-9a-f]{2})|([rnt0\\])|\{([0-9]+)\*((?:[^}\\]|\\[rnt0\\]|\\x[0-9a-f]{2})+)\})"
)
_NAMED = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


class CorpusError(ValueError):
    """A file of the corpus is not written as its README says."""


@dataclass(frozen=True)
class Request:
    """What the application must see of one request.

    Attributes:
        method: of the request.
        path: decoded, or None where the specifications leave it open.
        raw_path: without the query.
        query: without its question mark.
        headers: for each name, in lower case, all values in order; other names are free.
        without: names that must not be there.
        body: all of it; what may have arrived before the fault if the body does not end.
        ends: whether the application sees the end of the body.
        version: ``"1.0"`` or ``"1.1"``.
    """

    method: str
    path: str | None
    raw_path: bytes
    query: bytes
    headers: Mapping[bytes, tuple[bytes, ...]]
    without: frozenset[bytes]
    body: bytes
    ends: bool
    version: str


@dataclass(frozen=True)
class Expectation:
    """What must come of a case.

    Attributes:
        sees: the requests that reach the application, in order.
        refuse: the statuses with which the server itself may answer after them; empty if it does not answer.
        silent: it may also close without that answer.
        closes: whether the server closes the connection.
        continues: whether a 100 must (True) or must not (False) be sent; None leaves it open.
    """

    sees: tuple[Request, ...]
    refuse: frozenset[int]
    silent: bool
    closes: bool
    continues: bool | None


@dataclass(frozen=True)
class Case:
    """One connection: bytes from a client, and what must come of them.

    Attributes:
        name: unique in the corpus.
        clause: document and section that rule it.
        raw: what the client sends.
        eof: whether the client then ends its side of the connection.
        options: of the server's ``Config``.
        expectations: what may come of it; more than one where the specification leaves a choice.
        h11_differs: why h11 decides otherwise, or None where it agrees.
        refused_method: of the request that the server refuses: no body may follow the head of the answer to HEAD.
    """

    name: str
    clause: tuple[str, str]
    raw: bytes
    eof: bool
    options: Mapping[str, Any]
    expectations: tuple[Expectation, ...]
    h11_differs: str | None
    refused_method: str

    def feedings(self) -> dict[str, list[bytes]]:
        """Cut the bytes in several ways; the name decides what is random."""
        rng = Random(zlib.crc32(self.name.encode()))
        return {
            "whole": cut_at(self.raw, ()),
            "bytes": cut_evenly(self.raw),
            "lines": cut_at(self.raw, places_after(self.raw, b"\n")),
            "line-ends": cut_at(self.raw, places_after(self.raw, b"\r")),
            "random": cut_at_random(self.raw, rng),
        }


def cut_evenly(raw: bytes) -> list[bytes]:
    """Cut into single bytes; into few bytes at a time where there are very many."""
    step = len(raw) // BYTEWISE_BYTES + 1
    return [raw[start : start + step] for start in range(0, len(raw), step)]


def cut_at_random(raw: bytes, rng: Random) -> list[bytes]:
    """Cut into at most twelve pieces."""
    return cut_at(raw, [rng.randint(0, len(raw)) for _ in range(rng.randint(1, 11))])


def cut_at(raw: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut before each of some offsets; no piece is empty."""
    edges = sorted({0, len(raw), *places})
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


def places_after(raw: bytes, byte: bytes) -> list[int]:
    """Give the offsets that follow a byte."""
    return [place + 1 for place, each in enumerate(raw) if each == byte[0]]


def decode(text: str, where: str = "") -> bytes:
    r"""Read bytes written as text.

    Line breaks of the file count for nothing. ``\r \n \t \0 \\ \x7f`` are what they are in Python, and
    ``\{300*ab}`` is ``ab`` three hundred times. Everything else must be printable ASCII.

    Raises:
        CorpusError: the text has another escape, a byte that cannot be seen, or a space that an editor may drop.
    """
    for line in text.split("\n"):
        if line != line.rstrip(" ") or not line.isascii() or not line.isprintable():
            raise CorpusError(
                f"{where}: write spaces at the end of a line, and what is not printable ASCII, as \\xHH: {line!r}"
            )
    joined = text.replace("\n", "").encode("ascii")
    if b"\\" in _ESCAPE.sub(b"", joined):
        raise CorpusError(f"{where}: unknown escape in {text!r}")
    return _ESCAPE.sub(_unescape, joined)


def _unescape(match: re.Match[bytes]) -> bytes:
    digits, letter, times, repeated = match.groups()
    if digits is not None:
        return bytes.fromhex(digits.decode())
    if letter is not None:
        return _NAMED[letter]
    return _ESCAPE.sub(_unescape, repeated) * int(times)


def cases() -> tuple[Case, ...]:
    """Read the whole corpus, in the order of files and of cases in them.

    Raises:
        CorpusError: a case is not written as the README says, or two have one name.
    """
    found: dict[str, Case] = {}
    for path in sorted(FOLDER.glob("*.toml")):
        for case in _read(path):
            if case.name in found:
                raise CorpusError(f"{path.name}: two cases are called {case.name}")
            found[case.name] = case
    return tuple(found.values())


def _read(path: Path) -> Iterator[Case]:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    _only(table, {"config", "case"}, path.name)
    for entry in table["case"]:
        yield _case(entry, table.get("config", {}), f"{path.name}, {entry.get('name')}")


def _only(table: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = set(table) - known
    if unknown:
        raise CorpusError(f"{where}: unknown key {', '.join(sorted(unknown))}")


_OUTCOME_KEYS = {"sees", "refuse", "silent", "closes", "continues"}
_CASE_KEYS = _OUTCOME_KEYS | {
    "name",
    "clause",
    "raw",
    "eof",
    "config",
    "or",
    "h11_differs",
    "refused_method",
}
_REQUEST_KEYS = {each.name for each in dataclasses.fields(Request)}


def _case(entry: Mapping[str, Any], options: Mapping[str, Any], where: str) -> Case:
    _only(entry, _CASE_KEYS, where)
    document, _, section = entry["clause"].partition(", ")
    if not section:
        raise CorpusError(f"{where}: clause must be a document, a comma, and a section")
    outcomes = [{key: entry[key] for key in _OUTCOME_KEYS & set(entry)}]
    if "or" in entry:
        outcomes.append(entry["or"])
    return Case(
        name=entry["name"],
        clause=(document, section),
        raw=decode(entry["raw"], where),
        eof=entry.get("eof", False),
        options={**options, **entry.get("config", {})},
        expectations=tuple(_expectation(outcome, where) for outcome in outcomes),
        h11_differs=entry.get("h11_differs"),
        refused_method=entry.get("refused_method", "GET"),
    )


def _expectation(outcome: Mapping[str, Any], where: str) -> Expectation:
    _only(outcome, _OUTCOME_KEYS, where)
    refuse = outcome.get("refuse", [])
    refuse = [refuse] if isinstance(refuse, int) else refuse
    if not refuse and "sees" not in outcome:
        raise CorpusError(f"{where}: say what the application sees, or what is refused")
    return Expectation(
        sees=tuple(_request(each, where) for each in outcome.get("sees", [])),
        refuse=frozenset(refuse),
        silent=outcome.get("silent", False),
        closes=outcome.get("closes", bool(refuse)),
        continues=outcome.get("continues"),
    )


def _request(entry: Mapping[str, Any], where: str) -> Request:
    _only(entry, _REQUEST_KEYS, where)
    path = entry.get("path", None if "raw_path" in entry else "/")
    raw_path = entry.get("raw_path", path)
    headers: dict[bytes, tuple[bytes, ...]] = {}
    for name, value in entry.get("headers", []):
        key = decode(name, where)
        headers[key] = (*headers.get(key, ()), decode(value, where))
    return Request(
        method=entry.get("method", "GET"),
        path=path,
        raw_path=decode(raw_path, where),
        query=decode(entry.get("query", ""), where),
        headers=headers,
        without=frozenset(decode(name, where) for name in entry.get("without", [])),
        body=decode(entry.get("body", ""), where),
        ends=entry.get("ends", True),
        version=entry.get("version", "1.1"),
    )


@dataclass
class Seen:
    """One request as it reached the application.

    Attributes:
        scope: of the request.
        body: as far as it came.
        ends: whether its end was seen.
        left: whether ``http.disconnect`` came before its end.
    """

    scope: Scope
    body: bytes = b""
    ends: bool = False
    left: bool = False

    def values(self, name: bytes) -> tuple[bytes, ...]:
        """All values of a header field, in order."""
        return tuple(bytes(value) for key, value in self.scope["headers"] if key == name)


class Recorder:
    """An ASGI application that reads each request to its end, records it, and answers with its number.

    Websockets are denied.

    Args:
        reads: whether it reads the body at all.
        content: of each answer.

    Attributes:
        seen: the requests in the order of their calls.
    """

    def __init__(self, reads: bool = True, content: bytes = b"answer") -> None:
        self.seen: list[Seen] = []
        self._reads = reads
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        seen = Seen(scope)
        number = len(self.seen)
        self.seen.append(seen)
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if self._reads and not await self._read(seen, receive):
            return
        content = self._content
        headers = [(b"content-length", b"%d" % len(content)), (b"x-number", b"%d" % number)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _read(self, seen: Seen, receive: Receive) -> bool:
        while not seen.ends:
            message = await receive()
            if message["type"] == "http.disconnect":
                seen.left = True
                return False
            seen.body += message.get("body", b"")
            seen.ends = not message.get("more_body", False)
        return True


@dataclass(frozen=True)
class Response:
    """One final response.

    Attributes:
        status: of it.
        headers: names in lower case, and values.
        body: decoded.
        complete: whether its end came.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    complete: bool

    def value(self, name: bytes) -> bytes | None:
        """The only value of a header field, in lower case, or None."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name!r} stands {len(values)} times in a response"
        return values[0].lower() if values else None

    @property
    def number(self) -> int | None:
        """Of the request that ``Recorder`` answered with it; None for an answer of the server itself."""
        number = self.value(b"x-number")
        return None if number is None else int(number)


def responses(
    written: bytes, methods: Sequence[str], *, closed: bool, then: str = "GET"
) -> tuple[list[Response], list[int]]:
    """Read what a server wrote, as a client does that sent some requests.

    Args:
        written: all bytes.
        methods: of the requests that were answered, in order.
        closed: whether the server ended the connection after them.
        then: method of the request of any further response.

    Returns:
        The final responses, and the statuses of all interim ones, which need no final one behind them.

    Raises:
        h11.RemoteProtocolError: the bytes are no sequence of responses.
    """
    found: list[Response] = []
    interim: list[int] = []
    rest = written
    while rest:
        method = methods[len(found)] if len(found) < len(methods) else then
        response, more, rest = _response(rest, method, closed)
        interim += more
        if response is not None:
            found.append(response)
    return found, interim


def _response(
    written: bytes, method: str, closed: bool
) -> tuple[Response | None, list[int], bytes]:
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=RESPONSE_HEAD_BYTES)
    client.send(h11.Request(method=method, target="/", headers=[("host", "a.example")]))
    client.send(h11.EndOfMessage())
    client.receive_data(written)
    interim: list[int] = []
    head: h11.Response | None = None
    body = b""
    while True:
        event = client.next_event()
        if isinstance(event, h11.InformationalResponse):
            interim.append(event.status_code)
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif event is h11.NEED_DATA and closed and (head or client.trailing_data[0]):
            closed = False
            client.receive_data(b"")
        else:
            break
    if head is None:
        return None, interim, b""
    complete = isinstance(event, h11.EndOfMessage)
    rest = client.trailing_data[0] if complete else b""
    return Response(head.status_code, tuple(head.headers), body, complete), interim, rest


@dataclass(frozen=True)
class Outcome:
    """What must not depend on how the bytes were cut.

    Attributes:
        seen: the requests as the application saw them. One whose body has a fault counts for nothing: where the fault
            came together with the head, the application need not be called.
        answers: status and number of each final response.
        closed: whether the server closed.
    """

    seen: tuple[tuple[object, ...], ...]
    answers: tuple[tuple[int, int | None], ...]
    closed: bool


@dataclass
class Exchange:
    """A connection that is over.

    Attributes:
        seen: the requests, as ``Recorder`` has them.
        answers: the final responses.
        interim: the statuses of the interim ones.
        closed: whether the server closed.
    """

    seen: list[Seen]
    answers: list[Response]
    interim: list[int]
    closed: bool

    def outcome(self) -> Outcome:
        """Leave out what may depend on how the bytes were cut."""
        return Outcome(
            tuple(_facts(seen) for seen in self.seen if seen.ends or not self.closed),
            tuple((answer.status, answer.number) for answer in self.answers),
            self.closed,
        )


def _facts(seen: Seen) -> tuple[object, ...]:
    scope = seen.scope
    return (
        scope["type"],
        scope.get("method"),
        scope["path"],
        scope["raw_path"],
        scope["query_string"],
        scope["http_version"],
        tuple(map(tuple, scope["headers"])),
        seen.body,
        seen.ends,
    )


@dataclass
class Verdict:
    """What h11 makes of some bytes.

    Attributes:
        seen: method, body and end of each request.
        refuses: whether it finds a fault.
        closes: whether it would close the connection.
    """

    seen: list[tuple[str, bytes, bool]]
    refuses: bool = False
    closes: bool = False


def ask_h11(raw: bytes, *, eof: bool, max_head_bytes: int) -> Verdict:
    """Ask for a second opinion.

    Args:
        raw: what a client sends.
        eof: whether it then ends its side.
        max_head_bytes: most that h11 may hold of a head that is not complete.
    """
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head_bytes)
    if raw:
        server.receive_data(raw)
    if eof:
        server.receive_data(b"")
    verdict = Verdict([])
    try:
        while _next(server, verdict):
            pass
    except h11.RemoteProtocolError:
        verdict.refuses = verdict.closes = True
    return verdict


def _next(server: h11.Connection, verdict: Verdict) -> bool:
    """Take one event; False if there is no further one."""
    event = server.next_event()
    if isinstance(event, h11.Request):
        verdict.seen.append((event.method.decode(), b"", False))
    elif isinstance(event, h11.Data):
        method, body, _ = verdict.seen[-1]
        verdict.seen[-1] = (method, body + bytes(event.data), False)
    elif isinstance(event, h11.EndOfMessage):
        method, body, _ = verdict.seen[-1]
        verdict.seen[-1] = (method, body, True)
        # 404, because a success would turn what follows CONNECT into a tunnel.
        server.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
        server.send(h11.EndOfMessage())
        if server.our_state is not h11.DONE or server.their_state is not h11.DONE:
            verdict.closes = True
            return False
        server.start_next_cycle()
    else:
        verdict.closes = isinstance(event, h11.ConnectionClosed)
        return False
    return True
