"""The reference server: either kind of application, over HTTP/1.1 and websockets, on asyncio or uvloop."""

from __future__ import annotations

from importlib.util import find_spec

for _needed in ("httptools", "wsproto"):
    if find_spec(_needed) is None:
        raise ImportError(
            f"the server needs {_needed}, which is not installed: pip install 'wsgi-asgi-bridges[server]'",
            name=_needed,
        )
