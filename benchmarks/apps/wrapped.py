"""One app behind one adapter, both named by the environment of the process.

``BENCH_ADAPTER`` is a key of `ADAPTERS`, ``BENCH_APP`` is ``module:attribute``. Only the adapter in
question is imported, so that import cost and memory of the others do not count against it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any


def with_bridges(app: Any) -> Any:
    """Wrap in `bridges.WSGIToASGI`, every option at its default."""
    from bridges import WSGIToASGI

    return WSGIToASGI(app)


def with_bridges_websocket(app: Any) -> Any:
    """Wrap in `bridges.WSGIToASGI` with websockets, each of which holds one of ``BENCH_THREADS`` threads."""
    from bridges import WSGIToASGI

    return WSGIToASGI(app, websocket=True, max_websockets=int(os.environ["BENCH_THREADS"]))


def with_a2wsgi(app: Any) -> Any:
    """Wrap in a2wsgi's middleware, every option at its default."""
    from a2wsgi import WSGIMiddleware

    return WSGIMiddleware(app)


def with_asgiref(app: Any) -> Any:
    """Wrap in asgiref's adapter, which has no options."""
    from asgiref.wsgi import WsgiToAsgi

    return WsgiToAsgi(app)


def asgi_with_bridges(app: Any) -> Any:
    """Wrap an ASGI app in `bridges.ASGIToWSGI`, every option at its default."""
    from bridges import ASGIToWSGI

    return ASGIToWSGI(app)


def asgi_with_bridges_uvloop(app: Any) -> Any:
    """Wrap an ASGI app in `bridges.ASGIToWSGI` with uvloop's event loop."""
    import uvloop

    from bridges import ASGIToWSGI

    return ASGIToWSGI(app, loop_factory=uvloop.new_event_loop)


def asgi_with_a2wsgi(app: Any) -> Any:
    """Wrap an ASGI app in a2wsgi's middleware, every option at its default."""
    from a2wsgi import ASGIMiddleware

    return ASGIMiddleware(app)


ADAPTERS: dict[str, Callable[[Any], Any]] = {
    "bridges": with_bridges,
    "bridges-websocket": with_bridges_websocket,
    "a2wsgi": with_a2wsgi,
    "asgiref": with_asgiref,
    "bridges-asgi": asgi_with_bridges,
    "bridges-asgi-uvloop": asgi_with_bridges_uvloop,
    "a2wsgi-asgi": asgi_with_a2wsgi,
}


def load(target: str) -> Any:
    """Import ``module:attribute`` and return the attribute."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


app = ADAPTERS[os.environ["BENCH_ADAPTER"]](load(os.environ["BENCH_APP"]))
