"""One WSGI app behind one adapter, both named by the environment of the process.

``BENCH_ADAPTER`` is a key of `ADAPTERS`, ``BENCH_APP`` is ``module:attribute``. Only the adapter in
question is imported, so that import cost and memory of the others do not count against it.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import os
from collections.abc import Callable
from typing import Any


def with_bridges(app: Any) -> Any:
    """Wrap in `bridges.WSGIToASGI`, every option at its default."""
    from bridges import WSGIToASGI

    return WSGIToASGI(app)


def with_a2wsgi(app: Any) -> Any:
    """Wrap in a2wsgi's middleware, every option at its default."""
    from a2wsgi import WSGIMiddleware

    return WSGIMiddleware(app)


def with_asgiref(app: Any) -> Any:
    """Wrap in asgiref's adapter, which has no options, and give each request a fresh context.

    Without that, a later request on a kept connection finds the context of the one before and
    fails ("CurrentThreadExecutor already quit or is broken"; measured with asgiref 3.13 and
    uvicorn 0.54: 15 to 50 of 100 answers were 500, on either loop and with either parser).
    Errors are no measure of speed, and the extra task costs a few microseconds of several hundred.
    """
    from asgiref.wsgi import WsgiToAsgi

    adapted = WsgiToAsgi(app)

    async def in_fresh_context(scope: Any, receive: Any, send: Any) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_task(adapted(scope, receive, send), context=contextvars.Context())

    return in_fresh_context


ADAPTERS: dict[str, Callable[[Any], Any]] = {
    "bridges": with_bridges,
    "a2wsgi": with_a2wsgi,
    "asgiref": with_asgiref,
}


def load(target: str) -> Any:
    """Import ``module:attribute`` and return the attribute."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


app = ADAPTERS[os.environ["BENCH_ADAPTER"]](load(os.environ["BENCH_APP"]))
