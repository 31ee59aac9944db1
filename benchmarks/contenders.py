"""Who runs: each contender is a name, a host command and an app.

To add one, name it here and enter it in the table of `works`. Commands start after ``python``;
``{app}`` and ``{port}`` are filled in when the server starts. Every host gets one worker process,
as the server has one core, and writes no access log.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

OURS = "bridges on uvicorn"

UVICORN = (
    "-m",
    "uvicorn",
    "--loop=uvloop",
    "--http=httptools",
    "--no-access-log",
    "--log-level=warning",
    "--lifespan=off",
    "--port={port}",
    "{app}",
)
GTHREAD = (
    "-m",
    "gunicorn",
    "--worker-class=gthread",
    "--workers=1",
    "--threads=10",
    "--log-level=warning",
    "--bind=127.0.0.1:{port}",
    "{app}",
)
GRANIAN_WSGI = (
    "-m",
    "granian",
    "--interface=wsgi",
    "--workers=1",
    "--log-level=warning",
    "--port={port}",
    "{app}",
)

WRAPPED = "benchmarks.apps.wrapped:app"


@dataclass(frozen=True)
class Contender:
    """One server process to be measured, or one statement for the import work.

    Attributes:
        name: what tables and charts call it.
        command: words after ``python``.
        app: ``module:attribute`` that the host loads.
        environment: variables added to the process's own.
        may_err: answers other than 200 are counted and shown, where else they end the run.
    """

    name: str
    command: tuple[str, ...]
    app: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    may_err: bool = False

    def words(self, port: int | str) -> list[str]:
        """Return the command with app and port filled in."""
        return [word.format(app=self.app, port=port) for word in self.command]

    def spoken(self) -> str:
        """Return the command as a reader would type it, with no path and no concrete port."""
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return shlex.join([*settings, "python", *self.words("PORT")])


def wrapped(name: str, adapter: str, app: str) -> Contender:
    """Make the contender that runs a WSGI app behind an adapter on uvicorn."""
    environment = {"BENCH_ADAPTER": adapter, "BENCH_APP": app}
    return Contender(name, UVICORN, WRAPPED, environment)


def bridges(app: str) -> Contender:
    """Put `bridges.WSGIToASGI` on uvicorn."""
    return wrapped(OURS, "bridges", app)


def a2wsgi(app: str) -> Contender:
    """Put a2wsgi's WSGIMiddleware on uvicorn."""
    return wrapped("a2wsgi on uvicorn", "a2wsgi", app)


def asgiref(app: str) -> Contender:
    """Put asgiref's WsgiToAsgi on uvicorn, as it comes: part of its answers are errors.

    Their tracebacks are not logged, which would cost it more than the answers do.
    """
    quiet = tuple(word.replace("--log-level=warning", "--log-level=critical") for word in UVICORN)
    environment = {"BENCH_ADAPTER": "asgiref", "BENCH_APP": app}
    return Contender("asgiref on uvicorn", quiet, WRAPPED, environment, may_err=True)


def asgiref_helped(app: str) -> Contender:
    """Put asgiref's WsgiToAsgi on uvicorn told to begin each request with a fresh context.

    Otherwise a later request on a kept connection finds the context of the one before and may
    fail ("CurrentThreadExecutor already quit or is broken"; measured with asgiref 3.13 and
    uvicorn 0.54: 15 to 50 of 100 answers were 500, on either loop and with either parser).
    """
    environment = {"BENCH_ADAPTER": "asgiref", "BENCH_APP": app}
    command = (*UVICORN[:-1], "--reset-contextvars", UVICORN[-1])
    return Contender("asgiref, fresh contexts", command, WRAPPED, environment)


def native_asgi(app: str) -> Contender:
    """Put an ASGI app on uvicorn with nothing between."""
    return Contender("native ASGI on uvicorn", UVICORN, app)


def gthread(app: str) -> Contender:
    """Put a WSGI app on gunicorn's threaded worker."""
    return Contender("gunicorn gthread", GTHREAD, app)


def granian(app: str) -> Contender:
    """Put a WSGI app on granian, whose server side is Rust."""
    return Contender("granian", GRANIAN_WSGI, app)


def statement(text: str) -> Contender:
    """Run one statement in a fresh interpreter; the statement is its name."""
    return Contender(text, ("-c", text))
