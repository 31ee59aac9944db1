"""ASGI twins of the apps in `wsgi`: bare they are the floor of an ASGI host, wrapped the load of an adapter."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.apps import sizes

HELLO_HEADERS = [
    (b"content-type", b"text/plain"),
    (b"content-length", str(len(sizes.HELLO)).encode("ascii")),
]


def start(headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """Make the message that starts a 200 response."""
    return {"type": "http.response.start", "status": 200, "headers": headers}


def part(body: bytes, more: bool) -> dict[str, Any]:
    """Make one body message; ``more`` says whether another follows."""
    return {"type": "http.response.body", "body": body, "more_body": more}


async def hello(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer a dozen bytes of known length."""
    await send(start(HELLO_HEADERS))
    await send({"type": "http.response.body", "body": sizes.HELLO})


async def nap(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Wait as for a database, then answer hello."""
    await asyncio.sleep(sizes.NAP_SECONDS)
    await hello(scope, receive, send)


async def chunks(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send many small chunks of no declared total length."""
    await send(start([(b"content-type", b"text/plain")]))
    chunk = sizes.SMALL_CHUNK
    for _ in range(sizes.SMALL_CHUNKS):
        await send(part(chunk, True))
    await send(part(b"", False))


async def download(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send a big body of known length, 64 KiB at a time."""
    length = str(sizes.DOWNLOAD_BYTES).encode("ascii")
    await send(start([(b"content-type", b"application/octet-stream"), (b"content-length", length)]))
    block = sizes.BLOCK
    for _ in range(sizes.DOWNLOAD_BYTES // len(block)):
        await send(part(block, True))
    await send(part(b"", False))


async def upload(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Receive the whole body and answer how many bytes came."""
    total = 0
    more = True
    while more:
        message = await receive()
        total += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = str(total).encode("ascii")
    await send(start([(b"content-length", str(len(body)).encode("ascii"))]))
    await send(part(body, False))
