"""What is measured: a table of works, each with its contenders, its method and its targets.

Later issues add their works as further entries: a new kind of measurement is a method in
`measuring`, a new host or adapter a function in `contenders`, and all else is a row here.
The numbers P1, P2 ... are those of the project's performance plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks import contenders
from benchmarks.apps import sizes
from benchmarks.contenders import (
    ON_GEVENT,
    ON_GTHREAD,
    ON_SYNC,
    OURS,
    SERVER,
    WORKER,
    Contender,
    WSGIHost,
)
from benchmarks.crowds import Crowd
from benchmarks.echoes import Echo
from benchmarks.measuring import Import, Load, Stream

Method = Load | Stream | Import | Crowd | Echo


@dataclass(frozen=True)
class Metric:
    """A kind of figure: its heading, and whether less of it is better."""

    heading: str
    less_is_better: bool
    digits: int = 1


METRICS = {
    "rate": Metric("requests/s", less_is_better=False, digits=0),
    "cpu_us": Metric("CPU µs/request", less_is_better=True),
    "seconds": Metric("seconds", less_is_better=True, digits=3),
    "mb_s": Metric("MB/s", less_is_better=False),
    "cpu_ms_mb": Metric("CPU ms/MB", less_is_better=True, digits=2),
    "rss_mb": Metric("peak MB over idle", less_is_better=True),
    "errors": Metric("% errors", less_is_better=True, digits=0),
    "others": Metric("% of the core used by others", less_is_better=True, digits=0),
    "p99_alone_ms": Metric("p99 ms alone", less_is_better=True, digits=2),
    "p99_ms": Metric("p99 ms in the crowd", less_is_better=True, digits=2),
    "slower": Metric("times slower", less_is_better=True, digits=2),
    "held": Metric("threads held", less_is_better=True, digits=0),
    "lost": Metric("connections lost", less_is_better=True, digits=0),
    "trips": Metric("round trips/s", less_is_better=False, digits=0),
    "trip_us": Metric("CPU µs/round trip", less_is_better=True),
    "start_ms": Metric("ms", less_is_better=True),
    "modules": Metric("modules", less_is_better=True, digits=0),
    "unwanted": Metric("server modules", less_is_better=True, digits=0),
}


@dataclass(frozen=True)
class Target:
    """One line of the performance plan.

    Attributes:
        metric: key of `METRICS`.
        how: ``ratio`` is ours against the other's, more being better whatever the metric;
            ``excess`` is ours minus the other's; ``value`` is ours alone; ``up_to`` is ours against
            the other's or the bound, whichever is lower.
        bound: the least ratio, or the most of an excess or value, or what is enough.
        other: name of the contender compared with; empty for a value.
        subject: the contender that has to reach it.
    """

    metric: str
    how: Literal["ratio", "excess", "value", "up_to"]
    bound: float
    other: str = ""
    subject: str = OURS

    def reached(self, value: float) -> bool:
        """Tell whether a median is within the bound."""
        if self.how == "up_to":
            return value >= 1.0
        return value >= self.bound if self.how == "ratio" else value <= self.bound

    def sentence(self) -> str:
        """Say the target in words."""
        heading = METRICS[self.metric].heading
        if self.how == "ratio":
            return f"{heading}: at least {self.bound:g} × better than {self.other}"
        if self.how == "excess":
            return f"{heading}: at most {self.bound:g} above {self.other}"
        if self.how == "up_to":
            return f"{heading}: at least {self.bound:g} or those of {self.other}, if they are fewer"
        return f"{heading}: at most {self.bound:g}"


@dataclass(frozen=True)
class Work:
    """One comparison: contenders that do the same thing, measured in turn, round by round.

    Attributes:
        plan: number in the performance plan, as typed on the command line; works may share it.
        name: unique, short.
        chart: key of the metric that the chart draws.
        subject: the contender that ratios are taken for.
    """

    plan: str
    name: str
    title: str
    method: Method
    contenders: tuple[Contender, ...]
    targets: tuple[Target, ...]
    chart: str
    subject: str = OURS


A2WSGI = "a2wsgi on uvicorn"
ASGIREF = "asgiref on uvicorn"
NATIVE = "native ASGI on uvicorn"
GTHREAD = "gunicorn gthread"
GRANIAN = "granian"
UVICORN = "uvicorn"
GUNICORN_ASGI = "gunicorn asgi"
BARE = "pass"
IMPORT = "import bridges"

PLAIN = "benchmarks.apps.wsgi"
TWIN = "benchmarks.apps.asgi"
GEVENT = "benchmarks.apps.gevent_wsgi"
FLASK = "benchmarks.apps.flask_wsgi:app"
STARLETTE = "benchmarks.apps.starlette_asgi:app"
CROWD = "benchmarks.apps.crowd_wsgi:app"
ECHO = "benchmarks.apps.echo_asgi:echo"
WSGI_ECHO = "benchmarks.apps.echo_wsgi"

SERVER_MODULES = (
    "bridges.server",
    "bridges.gunicorn",
    "uvicorn",
    "gunicorn",
    "hypercorn",
    "granian",
    "daphne",
    "httptools",
    "uvloop",
    "h11",
    "wsproto",
)


def hello_on(host: WSGIHost, *, name: str, title: str) -> Work:
    """Make the work of an ASGI hello on a WSGI host."""
    ours, native = host.bridges(f"{TWIN}:hello"), host.native(f"{PLAIN}:hello")
    others = (host.bridges_uvloop(f"{TWIN}:hello"), host.a2wsgi(f"{TWIN}:hello"), native)
    return Work(
        plan="p5",
        name=name,
        title=title,
        method=Load(),
        contenders=(ours, *others),
        targets=(Target("cpu_us", "excess", 55.0, native.name, subject=ours.name),),
        chart="cpu_us",
        subject=ours.name,
    )


def stream_on_gthread(
    app: str, *, plan: str, name: str, title: str, size: int, targets: tuple[Target, ...]
) -> Work:
    """Make the work of a stream of an ASGI app on gunicorn's gthread; all its apps have one name."""
    return Work(
        plan=plan,
        name=name,
        title=title,
        method=Stream(size, upload=app == "upload"),
        contenders=(
            ON_GTHREAD.bridges(f"{TWIN}:{app}"),
            ON_GTHREAD.a2wsgi(f"{TWIN}:{app}"),
            ON_GTHREAD.native(f"{PLAIN}:{app}"),
        ),
        targets=targets,
        chart="seconds",
        subject=OURS_ON_GTHREAD,
    )


def server_wsgi(app: str, *, name: str, title: str, targets: tuple[Target, ...]) -> Work:
    """Make the work of a small answer from a WSGI app on the server and its peers."""
    return Work(
        plan="p8",
        name=name,
        title=title,
        method=Load(),
        contenders=(
            contenders.server(app),
            contenders.gthread(app),
            contenders.granian(app),
            contenders.waitress(app),
        ),
        targets=targets,
        chart="cpu_us",
        subject=SERVER,
    )


def server_asgi(app: str, *, name: str, title: str, targets: tuple[Target, ...]) -> Work:
    """Make the work of a small answer from an ASGI app on the server and its peers."""
    return Work(
        plan="p9",
        name=name,
        title=title,
        method=Load(),
        contenders=(
            contenders.server(app),
            contenders.uvicorn(app),
            contenders.granian_asgi(app),
            contenders.gunicorn_asgi(app),
            contenders.hypercorn(app),
        ),
        targets=targets,
        chart="cpu_us",
        subject=SERVER,
    )


def beset(method: Crowd, *, name: str, title: str, targets: tuple[Target, ...]) -> Work:
    """Make the work of a crowd before a WSGI app on the server and its peers."""
    return Work(
        plan="p11",
        name=name,
        title=title,
        method=method,
        contenders=contenders.beset(CROWD),
        targets=(
            Target("slower", "value", 2.0, subject=SERVER),
            Target("held", "value", 0.0, subject=SERVER),
            *targets,
        ),
        chart="p99_ms",
        subject=SERVER,
    )


def echo(connections: int, size: int, *, name: str, title: str) -> Work:
    """Make the work of websocket messages that come back."""
    return Work(
        plan="p13",
        name=name,
        title=title,
        method=Echo(connections, size),
        contenders=(
            contenders.server(ECHO),
            contenders.uvicorn_websockets(ECHO, "websockets"),
            contenders.uvicorn_websockets(ECHO, "websockets-sansio"),
            contenders.uvicorn_websockets(ECHO, "wsproto"),
            contenders.gunicorn_asgi(ECHO),
            contenders.granian_asgi(ECHO),
        ),
        targets=(Target("trip_us", "ratio", 1.0, "uvicorn, wsproto", subject=SERVER),),
        chart="trip_us",
        subject=SERVER,
    )


def echo_asgi_on_gthread(connections: int, size: int, *, name: str, title: str) -> Work:
    """Make the work of websocket messages that come back, by an ASGI app on a WSGI server."""
    native = contenders.simple_websocket_on_gthread(f"{WSGI_ECHO}:echo")
    return Work(
        plan="p14",
        name=name,
        title=title,
        method=Echo(connections, size),
        contenders=(contenders.asgi_echo_on_gthread(ECHO), native),
        targets=(Target("trip_us", "ratio", 1.0, native.name, subject=OURS_ON_GTHREAD),),
        chart="trip_us",
        subject=OURS_ON_GTHREAD,
    )


def echo_wsgi(connections: int, size: int, *, name: str, title: str) -> Work:
    """Make the work of websocket messages that come back, by a WSGI app on ASGI servers."""
    flask_app, by_object = f"{WSGI_ECHO}:app", f"{WSGI_ECHO}:by_object"
    on_uvicorn, on_server = (
        contenders.wsgi_websocket_on_uvicorn("Flask-Sock", flask_app),
        contenders.wsgi_websocket_on_server("Flask-Sock", flask_app),
    )
    native = contenders.flask_sock_on_gthread(flask_app)
    return Work(
        plan="p15",
        name=name,
        title=title,
        method=Echo(connections, size),
        contenders=(
            on_uvicorn,
            on_server,
            contenders.wsgi_websocket_on_uvicorn("wsgi.websocket", by_object),
            contenders.wsgi_websocket_on_server("wsgi.websocket", by_object),
            native,
        ),
        targets=tuple(
            Target("trip_us", "ratio", 1.0, native.name, subject=ours.name)
            for ours in (on_uvicorn, on_server)
        ),
        chart="trip_us",
        subject=on_uvicorn.name,
    )


def four_echoes(make: Callable[..., Work], plan: str, where: str) -> tuple[Work, ...]:
    """Make the works of one and of a hundred connections, of small messages and of big ones."""
    many = ((1, "one connection"), (100, "100 connections"))
    sizes_of = ((100, "small", "100 bytes"), (65_536, "big", "64 KiB"))
    return tuple(
        make(
            connections,
            size,
            name=f"{plan}-{connections}-{word}",
            title=f"Websocket messages of {words} to and fro{where}, {how_many}",
        )
        for size, word, words in sizes_of
        for connections, how_many in many
    )


OURS_ON_GTHREAD = "bridges on gthread"
A2WSGI_ON_GTHREAD = "a2wsgi on gthread"
NATIVE_ON_GTHREAD = "native WSGI on gthread"
OURS_ON_GEVENT = "bridges on gevent"
NATIVE_ON_GEVENT = "native WSGI on gevent"

# The targets of both ways of P7.
AS_NATIVE_ON_GTHREAD = (
    Target("mb_s", "ratio", 0.9, NATIVE_ON_GTHREAD, subject=OURS_ON_GTHREAD),
    Target("rss_mb", "value", 16.0, subject=OURS_ON_GTHREAD),
)

WORKS: tuple[Work, ...] = (
    Work(
        plan="p1",
        name="p1-hello",
        title="Hello from a bare WSGI app on uvicorn",
        method=Load(),
        contenders=(
            contenders.bridges(f"{PLAIN}:hello"),
            contenders.a2wsgi(f"{PLAIN}:hello"),
            contenders.asgiref(f"{PLAIN}:hello"),
            contenders.asgiref_helped(f"{PLAIN}:hello"),
            contenders.native_asgi(f"{TWIN}:hello"),
        ),
        targets=(
            Target("cpu_us", "ratio", 3.5, A2WSGI),
            Target("cpu_us", "ratio", 9.0, ASGIREF),
            Target("cpu_us", "excess", 30.0, NATIVE),
        ),
        chart="cpu_us",
    ),
    Work(
        plan="p2",
        name="p2-flask",
        title="Hello from Flask",
        method=Load(),
        contenders=(
            contenders.bridges(FLASK),
            contenders.a2wsgi(FLASK),
            contenders.gthread(FLASK),
            contenders.granian(FLASK),
        ),
        targets=(
            Target("cpu_us", "ratio", 2.7, A2WSGI),
            Target("cpu_us", "ratio", 2.0, GTHREAD),
            Target("cpu_us", "ratio", 1.0, GRANIAN),
        ),
        chart="cpu_us",
    ),
    Work(
        plan="p3",
        name="p3-chunks",
        title="100,000 chunks of 72 bytes, one client",
        method=Stream(sizes.SMALL_BYTES),
        contenders=(
            contenders.bridges(f"{PLAIN}:chunks"),
            contenders.a2wsgi(f"{PLAIN}:chunks"),
            contenders.gthread(f"{PLAIN}:chunks"),
            contenders.native_asgi(f"{TWIN}:chunks"),
        ),
        targets=(
            Target("mb_s", "ratio", 40.0, A2WSGI),
            Target("mb_s", "ratio", 3.0, GTHREAD),
        ),
        chart="seconds",
    ),
    Work(
        plan="p4",
        name="p4-download",
        title="200 MB down in chunks of 64 KiB, one client",
        method=Stream(sizes.DOWNLOAD_BYTES),
        contenders=(
            contenders.bridges(f"{PLAIN}:download"),
            contenders.a2wsgi(f"{PLAIN}:download"),
            contenders.native_asgi(f"{TWIN}:download"),
        ),
        targets=(
            Target("mb_s", "ratio", 0.9, NATIVE),
            Target("rss_mb", "value", 16.0),
        ),
        chart="seconds",
    ),
    Work(
        plan="p4",
        name="p4-upload",
        title="300 MB up, read 64 KiB at a time, one client",
        method=Stream(sizes.UPLOAD_BYTES, upload=True),
        contenders=(
            contenders.bridges(f"{PLAIN}:upload"),
            contenders.a2wsgi(f"{PLAIN}:upload"),
            contenders.native_asgi(f"{TWIN}:upload"),
        ),
        targets=(
            Target("mb_s", "ratio", 0.9, NATIVE),
            Target("rss_mb", "value", 16.0),
        ),
        chart="seconds",
    ),
    hello_on(
        ON_GTHREAD,
        name="p5-hello-gthread",
        title="Hello from a bare ASGI app on gunicorn gthread, 10 threads",
    ),
    hello_on(
        ON_SYNC,
        name="p5-hello-sync",
        title="Hello from a bare ASGI app on gunicorn sync, a connection each",
    ),
    stream_on_gthread(
        "chunks",
        plan="p6",
        name="p6-chunks",
        title="100,000 chunks of 72 bytes of an ASGI app on gthread, one client",
        size=sizes.SMALL_BYTES,
        targets=(
            Target("mb_s", "ratio", 10.0, A2WSGI_ON_GTHREAD, subject=OURS_ON_GTHREAD),
            Target("mb_s", "ratio", 0.9, NATIVE_ON_GTHREAD, subject=OURS_ON_GTHREAD),
        ),
    ),
    stream_on_gthread(
        "download",
        plan="p7",
        name="p7-download",
        title="200 MB down in chunks of 64 KiB of an ASGI app on gthread, one client",
        size=sizes.DOWNLOAD_BYTES,
        targets=AS_NATIVE_ON_GTHREAD,
    ),
    stream_on_gthread(
        "upload",
        plan="p7",
        name="p7-upload",
        title="300 MB up to an ASGI app on gthread, one client",
        size=sizes.UPLOAD_BYTES,
        targets=AS_NATIVE_ON_GTHREAD,
    ),
    Work(
        plan="gevent",
        name="gevent-nap",
        title="500 clients of an ASGI app that sleeps 0.1 s, one gevent worker",
        method=Load(connections=500),
        contenders=(
            ON_GEVENT.bridges(f"{TWIN}:nap"),
            ON_GEVENT.a2wsgi_if_it_can(f"{TWIN}:nap"),
            ON_GEVENT.native(f"{GEVENT}:nap"),
        ),
        targets=(Target("rate", "up_to", 2_000.0, NATIVE_ON_GEVENT, subject=OURS_ON_GEVENT),),
        chart="rate",
        subject=OURS_ON_GEVENT,
    ),
    server_wsgi(
        f"{PLAIN}:hello",
        name="p8-hello",
        title="Hello from a bare WSGI app on the server",
        targets=(Target("cpu_us", "ratio", 4.0, GTHREAD, subject=SERVER),),
    ),
    server_wsgi(
        FLASK,
        name="p8-flask",
        title="Hello from Flask on the server",
        targets=(
            Target("cpu_us", "ratio", 2.5, GTHREAD, subject=SERVER),
            Target("cpu_us", "ratio", 1.0, GRANIAN, subject=SERVER),
        ),
    ),
    server_asgi(
        f"{TWIN}:hello",
        name="p9-hello",
        title="Hello from a bare ASGI app on the server",
        targets=(
            Target("cpu_us", "ratio", 1.6, UVICORN, subject=SERVER),
            Target("cpu_us", "ratio", 1.6, GRANIAN, subject=SERVER),
        ),
    ),
    server_asgi(
        STARLETTE,
        name="p9-starlette",
        title="Hello from Starlette on the server",
        targets=(Target("cpu_us", "ratio", 1.3, UVICORN, subject=SERVER),),
    ),
    Work(
        plan="p10",
        name="p10-asgi",
        title="Hello from a bare ASGI app, gunicorn with BridgeWorker",
        method=Load(),
        contenders=(
            contenders.worker_asgi(f"{TWIN}:hello"),
            contenders.gunicorn_asgi(f"{TWIN}:hello"),
        ),
        targets=(Target("rate", "ratio", 1.5, GUNICORN_ASGI, subject=WORKER),),
        chart="rate",
        subject=WORKER,
    ),
    Work(
        plan="p10",
        name="p10-wsgi",
        title="Hello from a bare WSGI app, gunicorn with BridgeWorker, 10 threads",
        method=Load(),
        contenders=(
            contenders.worker_wsgi(f"{PLAIN}:hello"),
            contenders.gthread(f"{PLAIN}:hello"),
        ),
        targets=(Target("rate", "ratio", 2.5, GTHREAD, subject=WORKER),),
        chart="rate",
        subject=WORKER,
    ),
    beset(
        Crowd(idle=1_000, stalled=500),
        name="p11-crowd",
        title="8 clients of a WSGI app among 1,000 idle connections and 500 that do not read 1 MiB",
        targets=(Target("lost", "value", 0.0, subject=SERVER),),
    ),
    beset(
        Crowd(dripping=1_000),
        name="p11-drip",
        title="8 clients of a WSGI app among 1,000 connections that send a byte a second",
        targets=(),
    ),
    Work(
        plan="p12",
        name="p12-import",
        title="A fresh interpreter that imports bridges and ends",
        method=Import(SERVER_MODULES),
        contenders=(
            contenders.statement(IMPORT),
            contenders.statement(BARE),
            contenders.statement("import asgiref.wsgi"),
            contenders.statement("import a2wsgi"),
        ),
        targets=(
            Target("start_ms", "excess", 40.0, BARE, subject=IMPORT),
            Target("unwanted", "value", 0.0, subject=IMPORT),
        ),
        chart="start_ms",
        subject=IMPORT,
    ),
    *four_echoes(echo, "p13", ""),
    *four_echoes(echo_asgi_on_gthread, "p14", " by an ASGI app on gthread"),
    *four_echoes(echo_wsgi, "p15", " by a WSGI app"),
)
