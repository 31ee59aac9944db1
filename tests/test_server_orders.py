"""Any order of events on a connection: every request that came whole is answered once, in order, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_driver import Client, Driver, chunked, driving, get, on_clock, post

from bridges.errors import ClientDisconnected
from bridges.typing import Environ, Receive, Scope, Send, StartResponse

STREAM = 120_000


class Planned(NamedTuple):
    """A request, and what becomes of it."""

    method: str
    raw: bytes
    body: bytes


PLANS = {
    "get": Planned("GET", get("/echo"), b"GET "),
    "head": Planned("HEAD", get("/echo", method="HEAD"), b""),
    "post": Planned("POST", post(b"b" * 100, path="/echo"), b"POST " + b"b" * 100),
    "upload": Planned("POST", post(b"b" * 90_000, path="/echo"), b"POST " + b"b" * 90_000),
    "chunked": Planned(
        "PUT",
        get("/echo", "Transfer-Encoding: chunked", method="PUT") + chunked(b"ab", b"c" * 70_000),
        b"PUT ab" + b"c" * 70_000,
    ),
    "expect": Planned(
        "PUT",
        get("/echo", "Expect: 100-continue", "Content-Length: 3", method="PUT") + b"abc",
        b"PUT abc",
    ),
    "unread": Planned("POST", post(get("/smuggled"), path="/unread"), b"unread"),
    "stream": Planned("GET", get("/stream"), b"s" * STREAM),
    "list": Planned("GET", get("/list"), b"l" * STREAM),
    "late": Planned("GET", b"\r\n" + get("/late") + b"\r\n", b"late"),
}


async def app_asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as the plans say."""
    path = scope["path"]
    if path == "/late":
        await asyncio.sleep(2)
    body = b"" if path in ("/unread", "/stream", "/list") else await _read(scope, receive)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if path == "/stream":
        for number in range(12):
            chunk = b"s" * (STREAM // 12)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(number % 3 * 0.5)
    content = {"/unread": b"unread", "/list": b"l" * STREAM, "/late": b"late", "/stream": b""}
    await send({"type": "http.response.body", "body": content.get(path, body)})


async def _read(scope: Scope, receive: Receive) -> bytes:
    body, more = scope["method"].encode() + b" ", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected("as most applications do")
        body += message["body"]
        more = message["more_body"]
    return body


def app_wsgi(environ: Environ, start_response: StartResponse) -> Any:
    """Do the same, in threads."""
    path = environ["PATH_INFO"]
    start_response("200 OK", [])
    if path == "/stream":
        return _stream()
    if path == "/echo":
        return [environ["REQUEST_METHOD"].encode() + b" " + environ["wsgi.input"].read()]
    return [{"/unread": b"unread", "/list": b"l" * STREAM, "/late": b"late"}[path]]


def _stream() -> Iterator[bytes]:
    for _ in range(12):
        yield b"s" * (STREAM // 12)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 200)),
        st.tuples(st.just("send"), st.integers(200, 100_000)),
        st.tuples(st.just("hold"), st.just(0)),
        st.tuples(st.just("take"), st.integers(1, 90_000)),
        st.tuples(st.just("read on"), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 4)),
    ),
    max_size=25,
)
ENDS = st.sampled_from(["stays", "ends", "ends early", "leaves", "leaves early"])


async def _play(client: Client, driver: Driver, raw: bytes, events: list[tuple[str, int]]) -> int:
    """Let the events happen; gives how many bytes were sent by then."""
    sent = 0
    for kind, number in events:
        if kind == "send":
            await client.send(raw[sent : sent + number])
            sent = min(len(raw), sent + number)
        elif kind == "hold":
            await client.hold()
        elif kind == "take":
            await client.take(number)
        elif kind == "read on":
            await client.read_on()
        else:
            await driver.advance(number)
    return sent


async def _run(app: Any, plans: list[Planned], events: list[tuple[str, int]], end: str) -> None:
    raw = b"".join(plan.raw for plan in plans)
    times = {"head_seconds": 500, "body_seconds": 500, "write_seconds": 500}
    async with driving(app, buffer_bytes=30_000, keep_alive_seconds=50, **times) as driver:
        client = driver.connect()
        sent = await _play(client, driver, raw, events)
        if not end.endswith("early"):
            await client.send(raw[sent:])
            sent = len(raw)
        if end.startswith("ends"):
            await client.half_close()
        elif end.startswith("leaves"):
            await client.leave()
        if not client.transport.is_lost:
            await client.read_on()
            await driver.advance(150)
        _check(client, plans, sent, may_miss=end.startswith("leaves"))


def _check(client: Client, plans: list[Planned], sent: int, *, may_miss: bool) -> None:
    found = client.responses(*(plan.method for plan in plans)) if client.received else []
    whole, end = 0, 0
    for plan in plans:
        end += len(plan.raw)
        # A request that nobody reads is answered before its body has come.
        whole += end - 2 <= sent or (b"/unread" in plan.raw and end - len(plan.raw) < sent)
    assert client.is_closed
    assert len(found) <= whole
    assert may_miss or len(found) >= sum(1 for _ in _whole(plans, sent))
    for response, plan in zip(found, plans, strict=False):
        assert response.status == 200
        assert plan.body.startswith(response.body)
        assert response.body == plan.body or not response.complete
    assert all(response.complete for response in found[:-1])
    assert may_miss or not found or found[-1].complete


def _whole(plans: list[Planned], sent: int) -> Iterator[Planned]:
    end = 0
    for plan in plans:
        end += len(plan.raw)
        if end <= sent:
            yield plan


@pytest.mark.spec("RFC 9112", "section 9.3")
@pytest.mark.spec("issue 4", "6. never an unhandled exception, never two answers for one request")
@pytest.mark.parametrize("app", [app_asgi, app_wsgi])
@settings(max_examples=60)
@given(
    names=st.lists(st.sampled_from(sorted(PLANS)), min_size=1, max_size=6), events=EVENTS, end=ENDS
)
def test_any_order_of_events(
    app: Any, names: list[str], events: list[tuple[str, int]], end: str
) -> None:
    """Pieces of any size, clients that read or do not, wait, end or leave at any moment."""
    on_clock(_run(app, [PLANS[name] for name in names], events, end))
