"""Bare WSGI apps, one per work, without routing, so that host and adapter are all there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.apps import sizes

HELLO_HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(sizes.HELLO)))]


def hello(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer a dozen bytes of known length."""
    start_response("200 OK", HELLO_HEADERS.copy())
    return [sizes.HELLO]


def chunks(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """Yield many small chunks of no declared total length."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    chunk = sizes.SMALL_CHUNK
    for _ in range(sizes.SMALL_CHUNKS):
        yield chunk


def download(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """Yield a big body of known length, 64 KiB at a time."""
    headers = [("Content-Type", "application/octet-stream")]
    headers.append(("Content-Length", str(sizes.DOWNLOAD_BYTES)))
    start_response("200 OK", headers)
    block = sizes.BLOCK
    for _ in range(sizes.DOWNLOAD_BYTES // len(block)):
        yield block


def upload(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Read the body 64 KiB at a time and answer how many bytes came."""
    read = environ["wsgi.input"].read
    total = 0
    while block := read(sizes.BLOCK_BYTES):
        total += len(block)
    body = str(total).encode("ascii")
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
