"""Carry web applications across the line between WSGI and ASGI.

The public names are loaded at their first use: ``import bridges`` alone costs next to nothing and pulls in
neither an event loop nor a server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from . import errors

if TYPE_CHECKING:
    from .asgi_to_wsgi import ASGIToWSGI
    from .crossing.pool import PoolSnapshot, ThreadPool
    from .server.run import Server, serve
    from .wsgi_to_asgi import WSGIToASGI

__version__ = "0.1.0"

__all__ = [
    "ASGIToWSGI",
    "PoolSnapshot",
    "Server",
    "ThreadPool",
    "WSGIToASGI",
    "errors",
    "serve",
]

_HOMES = {
    "ASGIToWSGI": ".asgi_to_wsgi",
    "PoolSnapshot": ".crossing.pool",
    "Server": ".server.run",
    "ThreadPool": ".crossing.pool",
    "WSGIToASGI": ".wsgi_to_asgi",
    "serve": ".server.run",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home, __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
