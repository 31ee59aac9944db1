"""Who runs: each contender is a name, a host command and an app.

To add one, name it here and enter it in the table of `works`. Commands start after ``python``;
``{app}`` and ``{port}`` are filled in when the server starts. Every host gets one worker process,
as the server has one core, and writes no access log.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace

OURS = "bridges on uvicorn"
SERVER = "bridges server"
WORKER = "bridges worker"

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
# Several of them are up at once, and a control socket has the same path for all.
GUNICORN = (
    "-m",
    "gunicorn",
    "--workers=1",
    "--no-control-socket",
    "--log-level=warning",
    "--bind=127.0.0.1:{port}",
)
GTHREAD = (*GUNICORN, "--worker-class=gthread", "--threads=10", "{app}")
SYNC = (*GUNICORN, "--worker-class=sync", "{app}")
GEVENT = (*GUNICORN, "--worker-class=gevent", "{app}")
GRANIAN_WSGI = (
    "-m",
    "granian",
    "--interface=wsgi",
    "--workers=1",
    "--log-level=warning",
    "--port={port}",
    "{app}",
)

GRANIAN_ASGI = ("-m", "granian", "--interface=asginl", *GRANIAN_WSGI[3:])
BRIDGES = (
    "-m",
    "bridges",
    "--access-log=off",
    "--log-level=warning",
    "--lifespan=off",
    "--port={port}",
    "{app}",
)
BRIDGE_WORKER = (*GUNICORN, "--worker-class=bridges.gunicorn.BridgeWorker")
GUNICORN_ASGI = (*GUNICORN, "--worker-class=asgi", "--asgi-lifespan=off", "{app}")
HYPERCORN = (
    "-m",
    "hypercorn",
    "--worker-class=uvloop",
    "--log-level=error",
    "--bind=127.0.0.1:{port}",
    "{app}",
)
WAITRESS = ("-m", "waitress", "--host=127.0.0.1", "--port={port}")

WRAPPED = "benchmarks.apps.wrapped:app"
QUIET = "benchmarks.apps.quiet:app"
# Threads of a server whose websockets hold one each: for 100, and some that are about to end.
TALKERS = 150


@dataclass(frozen=True)
class Contender:
    """One server process to be measured, or one statement for the import work.

    Attributes:
        name: what tables and charts call it.
        command: words after ``python``.
        app: ``module:attribute`` that the host loads.
        environment: variables added to the process's own.
        may_err: answers other than 200 are counted and shown, where else they end the run.
        may_fail: when it cannot be measured the report says why, where else that ends the run.
    """

    name: str
    command: tuple[str, ...]
    app: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    may_err: bool = False
    may_fail: bool = False

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


@dataclass(frozen=True)
class WSGIHost:
    """A WSGI server for ASGI apps behind adapters, and for the WSGI apps that do the same work.

    Attributes:
        name: what the names of its contenders end with.
        command: words after ``python``.
    """

    name: str
    command: tuple[str, ...]

    def bridges(self, app: str) -> Contender:
        """Put `bridges.ASGIToWSGI` on it."""
        return self.wrapped("bridges", "bridges-asgi", app)

    def bridges_uvloop(self, app: str) -> Contender:
        """Put `bridges.ASGIToWSGI` on it, with uvloop's event loop."""
        return self.wrapped("bridges, uvloop,", "bridges-asgi-uvloop", app)

    def a2wsgi(self, app: str) -> Contender:
        """Put a2wsgi's ASGIMiddleware on it."""
        return self.wrapped("a2wsgi", "a2wsgi-asgi", app)

    def a2wsgi_if_it_can(self, app: str) -> Contender:
        """Put a2wsgi's ASGIMiddleware on a host that it was not made for."""
        return replace(self.a2wsgi(app), may_fail=True)

    def native(self, app: str) -> Contender:
        """Put a WSGI app on it with nothing between."""
        return Contender(f"native WSGI on {self.name}", self.command, app)

    def wrapped(self, who: str, adapter: str, app: str) -> Contender:
        """Make the contender that runs an ASGI app behind an adapter."""
        environment = {"BENCH_ADAPTER": adapter, "BENCH_APP": app}
        return Contender(f"{who} on {self.name}", self.command, WRAPPED, environment)


ON_GTHREAD = WSGIHost("gthread", GTHREAD)
ON_SYNC = WSGIHost("sync", SYNC)
ON_GEVENT = WSGIHost("gevent", GEVENT)


def granian(app: str) -> Contender:
    """Put a WSGI app on granian, whose server side is Rust."""
    return Contender("granian", GRANIAN_WSGI, app)


# --- the reference server and its peers --------------------------------------------------------


def server(app: str) -> Contender:
    """Put an app of either kind on the reference server."""
    return Contender(SERVER, BRIDGES, app)


def worker_asgi(app: str) -> Contender:
    """Put an ASGI app on `bridges.gunicorn.BridgeWorker`."""
    return Contender(WORKER, (*BRIDGE_WORKER, "--asgi-lifespan=off", "{app}"), app)


def worker_wsgi(app: str) -> Contender:
    """Put a WSGI app on `bridges.gunicorn.BridgeWorker`, with as many threads as gthread has here."""
    return Contender(WORKER, (*BRIDGE_WORKER, "--threads=10", "{app}"), app)


def waitress(app: str) -> Contender:
    """Put a WSGI app on waitress, without its complaints of the load."""
    return Contender("waitress", (*WAITRESS, QUIET), environment={"BENCH_APP": app})


def uvicorn(app: str) -> Contender:
    """Put an ASGI app on uvicorn with uvloop and httptools."""
    return Contender("uvicorn", UVICORN, app)


def granian_asgi(app: str) -> Contender:
    """Put an ASGI app on granian, whose server side is Rust."""
    return Contender("granian", GRANIAN_ASGI, app)


def gunicorn_asgi(app: str) -> Contender:
    """Put an ASGI app on gunicorn's own worker for such."""
    return Contender("gunicorn asgi", GUNICORN_ASGI, app)


def hypercorn(app: str) -> Contender:
    """Put an ASGI app on hypercorn with uvloop."""
    return Contender("hypercorn", HYPERCORN, app)


def uvicorn_websockets(app: str, library: str) -> Contender:
    """Put an ASGI app on uvicorn with one of its three ways to speak websocket."""
    command = (*UVICORN[:-1], f"--ws={library}", UVICORN[-1])
    return Contender(f"uvicorn, {library}", command, app)


def talkative(contender: Contender) -> Contender:
    """Give a contender whose websockets hold a thread each as many threads as it needs.

    gunicorn counts a connection beyond the threads among those that it may keep, so their limit is above.
    """
    *words, app = contender.command
    if "--threads=10" in words:
        words[words.index("--threads=10")] = f"--threads={TALKERS}"
    environment = {**contender.environment, "BENCH_THREADS": str(TALKERS)}
    return replace(contender, command=(*words, app), environment=environment)


def asgi_echo_on_gthread(app: str) -> Contender:
    """Put an ASGI app with websockets on gthread by `bridges.ASGIToWSGI`."""
    return talkative(ON_GTHREAD.bridges(app))


def simple_websocket_on_gthread(app: str) -> Contender:
    """Put a WSGI app that speaks websocket by simple-websocket on gthread with nothing between."""
    return talkative(Contender("simple-websocket on gthread", GTHREAD, app))


def flask_sock_on_gthread(app: str) -> Contender:
    """Put a Flask-Sock app on gthread with nothing between."""
    return talkative(Contender("Flask-Sock on gthread", GTHREAD, app))


def wsgi_websocket_on_uvicorn(way: str, app: str) -> Contender:
    """Put a WSGI app with websockets on uvicorn by `bridges.WSGIToASGI`; ``way`` is how it speaks."""
    bridged = wrapped(f"{way}, bridges on uvicorn", "bridges-websocket", app)
    return talkative(replace(bridged, command=uvicorn_websockets(app, "websockets-sansio").command))


def wsgi_websocket_on_server(way: str, app: str) -> Contender:
    """Put a WSGI app with websockets on the reference server."""
    words = (*BRIDGES[:-1], f"--max-websockets={TALKERS}", BRIDGES[-1])
    return Contender(f"{way}, bridges server", words, app)


def beset(app: str) -> tuple[Contender, ...]:
    """Put a WSGI app on the server and its peers, each told to bear thousands of connections.

    A peer that no longer answers its other clients is reported with that as the reason.
    """
    peers = (
        besieged(gthread(app), 10, "--worker-connections=4000", "--keep-alive=75"),
        besieged(granian(app), 40, "--blocking-threads=40", "--backpressure=4000"),
        besieged(waitress(app), 4, "--connection-limit=4000", "--asyncore-use-poll"),
    )
    ours = besieged(server(app), 40, "--threads=40")
    return (ours, *(replace(peer, may_fail=True) for peer in peers))


def besieged(contender: Contender, threads: int, *options: str) -> Contender:
    """Give a contender more options, and tell its app how many threads it has."""
    *words, app = contender.command
    environment = {**contender.environment, "BENCH_THREADS": str(threads)}
    return replace(contender, command=(*words, *options, app), environment=environment)


def statement(text: str) -> Contender:
    """Run one statement in a fresh interpreter; the statement is its name."""
    return Contender(text, ("-c", text))
