"""Serve one request through WSGIToASGI with nothing installed but the wheel and its dependencies.

The run starts this in an environment that holds the oldest anyio and asgiref the metadata allows: an
undeclared import, or a call those versions do not have, ends it with a traceback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import bridges


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with the request's body, so that both directions cross."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"echo: ", environ["wsgi.input"].read()]


async def _exchange() -> list[dict[str, Any]]:
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"content-length", b"5")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
    }
    requests = iter([{"type": "http.request", "body": b"hello", "more_body": False}])
    sent: list[dict[str, Any]] = []
    finished = asyncio.Event()

    async def receive() -> dict[str, Any]:
        message = next(requests, None)
        if message is None:
            # As a server does: after the body there is news only when the client leaves.
            await finished.wait()
            return {"type": "http.disconnect"}
        return message

    async def send(message: Any) -> None:
        sent.append(message)
        if not message.get("more_body", True):
            finished.set()

    bridge: Any = bridges.WSGIToASGI(app)
    await asyncio.wait_for(bridge(scope, receive, send), timeout=15)
    bridge.pool.shutdown(5)
    return sent


def main() -> None:
    """Exit with an error unless the answer is the whole one."""
    sent = asyncio.run(_exchange())
    status = [m["status"] for m in sent if m["type"] == "http.response.start"]
    body = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
    if status != [200] or body != b"echo: hello":
        raise SystemExit(f"expected one 200 with 'echo: hello', got {sent!r}")
    print(f"bridges {bridges.__version__} answered {body.decode()!r}")


if __name__ == "__main__":
    main()
