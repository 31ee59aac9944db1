"""The probe app of the ASGI soak: each way an app can answer, and a door that counts what is under way.

``SOAK_ADAPTER`` names the adapter, or says ``none``, and ``SOAK_THREADS`` how many requests can be in here at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from asgiref.sync import sync_to_async

from benchmarks.soak_terms import (
    BLOCK,
    EVENT_COUNT,
    EVENT_SECONDS,
    HELLO,
    LIST_PARTS,
    MEETING_SECONDS,
    PING_SECONDS,
    STREAM_PARTS,
    TICK_SECONDS,
    WEBSOCKET_MESSAGES,
)

THREADS = int(os.environ["SOAK_THREADS"])

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class Account:
    """What is under way; touched on the loop alone."""

    requests = 0
    background = 0
    tasks: set[asyncio.Task[None]] = set()  # noqa: RUF012  # one account in a process


# --- sending and receiving ---------------------------------------------------------------------


async def start(send: Send, length: int | None = None, status: int = 200) -> None:
    """Send the head of a response."""
    headers = [(b"content-type", b"application/octet-stream")]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def part(send: Send, body: bytes = b"", more: bool = True) -> None:
    """Send a piece of a body."""
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def answer(send: Send, body: bytes, status: int = 200) -> None:
    """Send a whole response of known length."""
    await start(send, len(body), status)
    await part(send, body, more=False)


async def body_of(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the pieces of a request body; one that breaks off is an error."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client left in its request body")
        yield message.get("body", b"")
        more = message.get("more_body", False)


# --- handlers ----------------------------------------------------------------------------------


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a few bytes, which the lifespan has brought."""
    await answer(send, scope["state"]["hello"] if "state" in scope else HELLO)


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Send blocks of undeclared total length."""
    await start(send)
    for _ in range(STREAM_PARTS):
        await part(send, BLOCK)
    await part(send, more=False)


async def events(scope: Scope, receive: Receive, send: Send) -> None:
    """Send server-sent events with a pause before each."""
    await start(send)
    for number in range(EVENT_COUNT):
        await asyncio.sleep(EVENT_SECONDS)
        await part(send, b"data: %d\n\n" % number)
    await part(send, more=False)


async def ticks(scope: Scope, receive: Receive, send: Send) -> None:
    """Send events until the client leaves, whom another task watches, as Starlette does."""
    await start(send)

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def tick() -> None:
        while True:
            await part(send, b"data: tick\n\n")
            await asyncio.sleep(TICK_SECONDS)

    tasks = [asyncio.create_task(watch()), asyncio.create_task(tick())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
    """Send one event, then wait for what never comes: only being called off ends this."""
    await start(send)
    await part(send, b"data: one\n\n")
    await asyncio.Event().wait()


async def upload(scope: Scope, receive: Receive, send: Send) -> None:
    """Receive the body in pieces and answer its length and checksum."""
    length = checksum = 0
    async for piece in body_of(receive):
        length += len(piece)
        checksum = zlib.crc32(piece, checksum)
    await answer(send, b"%d %d" % (length, checksum))


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the body back while it comes."""
    await start(send)
    async for piece in body_of(receive):
        await part(send, piece)
    await part(send, more=False)


async def big_list(scope: Scope, receive: Receive, send: Send) -> None:
    """Send 1 MB of declared length, with no pause between its pieces."""
    await start(send, LIST_PARTS * len(BLOCK))
    for number in range(1, LIST_PARTS + 1):
        await part(send, BLOCK, more=number < LIST_PARTS)


async def error(scope: Scope, receive: Receive, send: Send) -> None:
    """Fail before the answer starts."""
    raise RuntimeError("the probe app fails as it was asked to")


async def late_error(scope: Scope, receive: Receive, send: Send) -> None:
    """Fail in the middle of the answer."""
    await start(send)
    await part(send, BLOCK)
    raise RuntimeError("the probe app fails late as it was asked to")


async def background(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, then work on: in this task, in thread-sensitive code, and in a task of its own."""

    async def later() -> None:
        try:
            await asyncio.sleep(EVENT_SECONDS)
            await sync_to_async(time.sleep, thread_sensitive=True)(0)
        finally:
            Account.background -= 1

    Account.background += 1
    task = asyncio.create_task(later())
    Account.tasks.add(task)
    task.add_done_callback(Account.tasks.discard)
    await answer(send, HELLO)
    await asyncio.sleep(EVENT_SECONDS)
    await sync_to_async(time.sleep, thread_sensitive=True)(0)


async def sensitive(scope: Scope, receive: Receive, send: Send) -> None:
    """Run code that must stay in one thread, twice, and say so if it did not."""
    run = sync_to_async(work_in_a_thread, thread_sensitive=True)
    first, second = await run(), await run()
    same = first == second != threading.get_ident()
    await answer(send, HELLO if same else b"not in one thread, or on the loop")


def work_in_a_thread() -> int:
    """Wait a moment; tell the thread."""
    time.sleep(EVENT_SECONDS / 10)
    return threading.get_ident()


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Send messages back until the client leaves, or end it by itself after a few."""
    await receive()
    await send({"type": "websocket.accept"})
    for _ in range(WEBSOCKET_MESSAGES):
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({**message, "type": "websocket.send"})
    await send({"type": "websocket.close", "code": 1000})


async def flood(scope: Scope, receive: Receive, send: Send) -> None:
    """Send messages until the client leaves."""
    await receive()
    await send({"type": "websocket.accept"})
    try:
        while True:
            await send({"type": "websocket.send", "bytes": BLOCK})
    except OSError:
        pass


async def meeting(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer once as many requests are in here as the host can have: none of its threads is lost."""
    barrier: asyncio.Barrier = scope["state"]["barrier"] if "state" in scope else no_lifespan()
    try:
        async with asyncio.timeout(MEETING_SECONDS):
            await barrier.wait()
    except (TimeoutError, asyncio.BrokenBarrierError):
        await barrier.abort()
        await barrier.reset()
        await answer(send, b"broken", 503)
    else:
        await answer(send, b"met")


async def account(scope: Scope, receive: Receive, send: Send) -> None:
    """Count what is under way, this request included."""
    found = {
        "busy": Account.requests,
        "queued": Account.background,
        "tasks": len(asyncio.all_tasks()),
    }
    await answer(send, json.dumps(found).encode("ascii"))


HANDLERS: dict[str, Handler] = {
    "/hello": hello,
    "/stream": stream,
    "/events": events,
    "/ticks": ticks,
    "/deaf": deaf,
    "/upload": upload,
    "/echo": echo,
    "/list": big_list,
    "/error": error,
    "/late-error": late_error,
    "/background": background,
    "/websocket": websocket,
    "/flood": flood,
    "/sensitive": sensitive,
    "/meeting": meeting,
    "/account": account,
}

_barriers: list[asyncio.Barrier] = []


def no_lifespan() -> asyncio.Barrier:
    """Make the barrier where the adapter runs no lifespan; on the loop."""
    if not _barriers:
        _barriers.append(asyncio.Barrier(THREADS))
    return _barriers[0]


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Bring what requests share."""
    await receive()
    scope["state"].update(hello=HELLO, barrier=asyncio.Barrier(THREADS))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def probe(scope: Scope, receive: Receive, send: Send) -> None:
    """Pass the request to the handler of its path, and keep account of it."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    handler = HANDLERS.get(scope["path"])
    Account.requests += 1
    try:
        if handler is None:
            await answer(send, b"no such path", 404)
        else:
            await handler(scope, receive, send)
    finally:
        Account.requests -= 1


def with_bridges() -> Any:
    """Wrap the probe in `bridges.ASGIToWSGI`."""
    from bridges import ASGIToWSGI

    return ASGIToWSGI(
        probe, websocket_ping_seconds=PING_SECONDS, websocket_pong_seconds=PING_SECONDS
    )


def with_a2wsgi() -> Any:
    """Wrap the probe in a2wsgi's middleware, to see what the soak says of a peer."""
    from a2wsgi import ASGIMiddleware

    return ASGIMiddleware(probe)


def alone() -> Any:
    """Leave the probe as it is, for a server that takes it so."""
    return probe


ADAPTERS = {"bridges": with_bridges, "a2wsgi": with_a2wsgi, "none": alone}
app = ADAPTERS[os.environ["SOAK_ADAPTER"]]()
