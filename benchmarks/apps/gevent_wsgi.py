"""The WSGI app that waits as gevent would have it: the twin of `asgi.nap`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gevent

from benchmarks.apps import sizes, wsgi


def nap(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Wait as for a database, then answer hello."""
    gevent.sleep(sizes.NAP_SECONDS)
    return wsgi.hello(environ, start_response)
