"""What the soak runs: each host with its probe app, as many clients as it can bear, and their visits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks.contenders import GUNICORN, Contender
from benchmarks.soak_clients import ASGI_VISITS, VISITS, Visit
from benchmarks.soak_terms import PING_SECONDS, WEBSOCKETS
from benchmarks.soak_websockets import WEBSOCKET_VISITS

UVICORN = (
    "-m",
    "uvicorn",
    "--loop={loop}",
    "--http={http}",
    "--no-access-log",
    "--log-level=critical",
    "--timeout-keep-alive=2",
    f"--ws-ping-interval={PING_SECONDS}",
    f"--ws-ping-timeout={PING_SECONDS}",
    "--port={port}",
    "{app}",
)
SERVER = (
    "-m",
    "bridges",
    "--loop={loop}",
    "--access-log=off",
    "--log-level=error",
    "--keep-alive-seconds=2",
    "--threads={threads}",
    f"--max-websockets={WEBSOCKETS}",
    "--port={port}",
    "{app}",
)

# glibc keeps what was freed, in an arena for each thread, so that RSS creeps up to the worst moment so far (by 27 MB in
# ten minutes, while the memory that Python had in use stayed at 17 MB). With one arena, and buffers from 16 KiB on
# given back when they are freed, what grows is what is kept.
PLAIN_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "16384",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


@dataclass(frozen=True)
class Host:
    """A server under soak.

    Attributes:
        command: words after ``python``.
        app: ``module:attribute`` of the probe.
        visits: what its clients do, and how often.
        clients: at a time, so that none waits in vain for its turn.
        threads: requests that are made to meet inside the app: all that can be there at once.
        wrapped: whether an adapter stands between the server and the probe.
        websockets: that are made to be open at one time, for where they have threads of their own.
    """

    command: tuple[str, ...]
    app: str
    visits: Mapping[Visit, int]
    clients: int
    threads: int
    wrapped: bool = True
    websockets: int = 0

    def without_websockets(self) -> Host:
        """Make it one for an adapter that has none."""
        visits = {
            visit: share for visit, share in self.visits.items() if visit not in WEBSOCKET_VISITS
        }
        return replace(self, visits=visits, websockets=0)

    def contender(self, adapter: str, threads: int, words: Mapping[str, str]) -> Contender:
        """Make what is to be started; ``words`` fill in the command."""
        filled = [
            word.format(port="{port}", app="{app}", threads=threads, **words)
            for word in self.command
        ]
        environment = {
            "SOAK_ADAPTER": adapter if self.wrapped else "none",
            "SOAK_THREADS": str(threads),
            # So long may clients that left while the application is silent stay unnoticed.
            "BRIDGES_WRITE_SECONDS": "3",
            "BRIDGES_WEBSOCKET_PING_SECONDS": str(PING_SECONDS),
            "BRIDGES_WEBSOCKET_PONG_SECONDS": str(PING_SECONDS),
            **PLAIN_ALLOCATOR,
        }
        return Contender("soak", tuple(filled), self.app, environment)


def gunicorn(
    worker_class: str,
    *options: str,
    clients: int,
    threads: int,
    wrapped: bool = True,
) -> Host:
    """Make a host of one of gunicorn's worker classes for the ASGI probe."""
    command = (*GUNICORN, f"--worker-class={worker_class}", *options, "{app}")
    quiet = tuple(word.replace("--log-level=warning", "--log-level=critical") for word in command)
    return Host(quiet, ASGI_PROBE, {**ASGI_VISITS, **WEBSOCKET_VISITS}, clients, threads, wrapped)


WSGI_VISITS = {**VISITS, **WEBSOCKET_VISITS}
WSGI_PROBE = "benchmarks.apps.soak_wsgi:app"
ASGI_PROBE = "benchmarks.apps.soak_asgi:app"

HOSTS = {
    "uvicorn": Host(
        UVICORN, WSGI_PROBE, WSGI_VISITS, clients=64, threads=40, websockets=WEBSOCKETS
    ),
    "sync": gunicorn("sync", clients=12, threads=1),
    "gthread": gunicorn("gthread", "--threads={threads}", clients=64, threads=10),
    "gevent": gunicorn("gevent", clients=64, threads=64),
    "server-wsgi": Host(
        SERVER,
        WSGI_PROBE,
        WSGI_VISITS,
        clients=64,
        threads=40,
        wrapped=False,
        websockets=WEBSOCKETS,
    ),
    "server-asgi": Host(
        tuple(word for word in SERVER if "threads" not in word),
        ASGI_PROBE,
        {**ASGI_VISITS, **WEBSOCKET_VISITS},
        clients=64,
        threads=64,
        wrapped=False,
    ),
    "bridge-worker": gunicorn(
        "bridges.gunicorn.BridgeWorker",
        "--asgi-loop={loop}",
        clients=64,
        threads=64,
        wrapped=False,
    ),
}
"""``WSGIToASGI`` on uvicorn, ``ASGIToWSGI`` on gunicorn's workers, the server with either probe, and its worker."""
