"""Seeing that a client has left while its response is idle, on hosts that give their socket away.

A WSGI host notices that by writing only. gunicorn and werkzeug put the socket into the environ, waitress a function
that knows.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from ..typing import Environ

Watch: TypeAlias = Callable[[], bool]

WATCH_SECONDS: Final = 0.5
"""How often a waiting thread looks."""

_SOCKETS: Final = ("gunicorn.socket", "werkzeug.socket")

# The client has closed its sending side. Linux has this event; elsewhere only data could be peeked at, which tells
# nothing while a pipelined request lies before the end.
_LEFT: Final = getattr(select, "POLLRDHUP", 0)


def watch_client(environ: Environ) -> Watch | None:
    """Give a function that tells whether the client has left, or None where the host gives no means."""
    known: Watch | None = environ.get("waitress.client_disconnected")
    if known is not None:
        return known
    for key in _SOCKETS:
        socket = environ.get(key)
        if socket is not None and _LEFT:
            return lambda: _has_left(socket)
    return None


def _has_left(socket: Any) -> bool:
    descriptor: int = socket.fileno()
    if descriptor < 0:
        return True
    poll = _real_poll()
    poll.register(descriptor, _LEFT)
    return bool(poll.poll(0))


def _real_poll() -> Any:
    """Make a poll object; gevent's patched one would yield, and knows no ``POLLRDHUP``."""
    monkey: Any = sys.modules.get("gevent.monkey")
    make = select.poll if monkey is None else monkey.get_original("select", "poll")
    return make()
