"""The WSGI app that a crowd besets: a small answer, a big list, an upload, and a meeting of all threads."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

from benchmarks.apps import sizes, wsgi

THREADS = int(os.environ["BENCH_THREADS"])

_changed = threading.Condition()
_came: Counter[str] = Counter()


def big_list(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer a list of 1 MiB in all, made for this request: its memory is nobody else's."""
    parts = [b"%08d" % number + sizes.LIST_FILLER for number in range(sizes.LIST_PARTS)]
    start_response("200 OK", [("Content-Length", str(sizes.LIST_BYTES))])
    return parts


def meeting(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Wait until as many requests of this meeting are in here as there are threads; answer how many came.

    The query names the meeting. Those that wait in vain say how many threads were free.
    """
    name = environ["QUERY_STRING"]
    with _changed:
        _came[name] += 1
        if _came[name] == THREADS:
            _changed.notify_all()
        _changed.wait_for(lambda: _came[name] >= THREADS, sizes.MEETING_SECONDS)
        came = str(_came[name]).encode("ascii")
    start_response("200 OK", [("Content-Length", str(len(came)))])
    return [came]


HANDLERS = {"/": wsgi.hello, "/list": big_list, "/upload": wsgi.upload, "/meeting": meeting}


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Pass the request to the handler of its path."""
    return HANDLERS[environ["PATH_INFO"]](environ, start_response)
