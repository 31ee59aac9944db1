"""What the soak runs: each host with its probe app, as many clients as it can bear, and their visits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.contenders import GUNICORN, Contender
from benchmarks.soak_clients import ASGI_VISITS, VISITS, WEBSOCKET_VISITS, Visit

UVICORN = (
    "-m",
    "uvicorn",
    "--loop={loop}",
    "--http={http}",
    "--no-access-log",
    "--log-level=critical",
    "--timeout-keep-alive=2",
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
    """

    command: tuple[str, ...]
    app: str
    visits: Mapping[Visit, int]
    clients: int
    threads: int
    wrapped: bool = True

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
            **PLAIN_ALLOCATOR,
        }
        return Contender("soak", tuple(filled), self.app, environment)


def gunicorn(
    worker_class: str,
    *options: str,
    visits: Mapping[Visit, int] = ASGI_VISITS,
    clients: int,
    threads: int,
    wrapped: bool = True,
) -> Host:
    """Make a host of one of gunicorn's worker classes for the ASGI probe."""
    command = (*GUNICORN, f"--worker-class={worker_class}", *options, "{app}")
    quiet = tuple(word.replace("--log-level=warning", "--log-level=critical") for word in command)
    return Host(quiet, ASGI_PROBE, visits, clients, threads, wrapped)


WSGI_PROBE = "benchmarks.apps.soak_wsgi:app"
ASGI_PROBE = "benchmarks.apps.soak_asgi:app"

HOSTS = {
    "uvicorn": Host(UVICORN, WSGI_PROBE, VISITS, clients=64, threads=40),
    "sync": gunicorn("sync", clients=12, threads=1),
    "gthread": gunicorn("gthread", "--threads={threads}", clients=64, threads=10),
    "gevent": gunicorn("gevent", clients=64, threads=64),
    "server-wsgi": Host(SERVER, WSGI_PROBE, VISITS, clients=64, threads=40, wrapped=False),
    "server-asgi": Host(
        tuple(word for word in SERVER if "threads" not in word),
        ASGI_PROBE,
        WEBSOCKET_VISITS,
        clients=64,
        threads=64,
        wrapped=False,
    ),
    "bridge-worker": gunicorn(
        "bridges.gunicorn.BridgeWorker",
        "--asgi-loop={loop}",
        visits=WEBSOCKET_VISITS,
        clients=64,
        threads=64,
        wrapped=False,
    ),
}
"""``WSGIToASGI`` on uvicorn, ``ASGIToWSGI`` on gunicorn's workers, the server with either probe, and its worker."""
