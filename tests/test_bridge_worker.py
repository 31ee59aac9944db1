"""The gunicorn worker in this process: settings, hooks, log; ``server_hosts/test_bridge_worker.py`` has real ones."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
import trustme
from gunicorn.config import KNOWN_SETTINGS, Config
from gunicorn.errors import AppImportError
from gunicorn.sock import TCPSocket, UnixSocket
from websockets.sync.client import connect

import bridges.gunicorn
from bridges import errors
from bridges.gunicorn.application import asgi_under, wsgi_under
from bridges.gunicorn.heads import LimitedHeads
from bridges.gunicorn.settings import options_of, warnings_for
from bridges.gunicorn.watch import printable
from bridges.gunicorn.worker import BridgeWorker
from bridges.server.config import Config as ServerConfig
from bridges.server.head import FieldMemory
from bridges.typing import Receive, Scope, Send

WAIT_SECONDS = 10.0


def wait(event: threading.Event) -> None:
    assert event.wait(WAIT_SECONDS)


def until(happens: Callable[[], object]) -> None:
    """Look again and again, for what tells nobody that it happens."""
    for _ in range(2000):
        if happens():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it does not happen")


def config(**settings: Any) -> Config:
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, value)
    return cfg


class Worker(BridgeWorker):
    """A worker whose signals are calls, in a process that goes on."""

    exits_in: float | None = None

    def init_signals(self) -> None:
        """Leave the signals of the test's process alone."""

    def _ignore_signals(self) -> None:
        """Leave them alone in the end, too."""

    def _end_in(self, seconds: float) -> None:
        self.exits_in = seconds


class Running:
    """A worker that lives in a thread, from its boot to its end."""

    def __init__(self, worker: Worker, directory: Path) -> None:
        self.worker = worker
        self.directory = directory
        self.ended: BaseException | None = None
        self.began = threading.Event()
        self.address: tuple[str, int] = worker.sockets[0].getsockname()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        hook = self.worker.cfg.post_worker_init

        def begun(worker: Any) -> None:
            hook(worker)
            self.began.set()

        self.worker.cfg.set("post_worker_init", begun)
        try:
            self.worker.init_process()
        except BaseException as error:
            self.ended = error
        self.began.set()

    def join(self) -> BaseException | None:
        """Wait for its end; give what it ended with."""
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()
        return self.ended

    def stop(self) -> BaseException | None:
        wait(self.began)
        if self._thread.is_alive():
            self.worker.handle_exit(signal.SIGTERM, None)
        return self.join()

    @property
    def service(self) -> Any:
        """What the connections of its server share; after the first request."""
        return self.worker._server.service  # type: ignore[union-attr]

    def client(self, **options: Any) -> httpx.Client:
        scheme = "https" if self.worker.cfg.is_ssl else "http"
        host, port = self.address
        return httpx.Client(
            base_url=f"{scheme}://{host}:{port}", trust_env=False, timeout=WAIT_SECONDS, **options
        )

    def get(self, path: str = "/", **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.get(path, **options)

    def log(self, name: str = "access.log") -> str:
        return (self.directory / name).read_text()


Begin = Callable[..., Running]


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the environment may say."""
    for name in list(os.environ):
        if name.startswith("BRIDGES_") or name in ("SCRIPT_NAME", "FORWARDED_ALLOW_IPS"):
            monkeypatch.delenv(name)


@pytest.fixture
def opened() -> Iterator[list[logging.Handler]]:
    """Give a list for handlers, which are closed in the end, when loggers are what they were."""
    opened: list[logging.Handler] = []
    loggers = [logging.getLogger(name) for name in ("gunicorn.error", "gunicorn.access", "bridges")]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    yield opened
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    for handler in opened:
        handler.close()


@pytest.fixture
def begin(tmp_path: Path, no_variables: None, opened: list[logging.Handler]) -> Iterator[Begin]:
    """Give a function that starts a worker with an application and settings; it ends with the test."""
    begun: list[Running] = []

    def start(
        app: Any,
        *,
        ppid: int | None = None,
        more: Any = (),
        is_program: bool = False,
        **settings: Any,
    ) -> Running:
        cfg = config(errorlog=str(tmp_path / "error.log"), **settings)
        log = cfg.logger_class(cfg)
        opened.extend([*log.error_log.handlers, *log.access_log.handlers])
        sockets = [TCPSocket(("127.0.0.1", 0), cfg, log), *(make(cfg, log) for make in more)]
        program = app if is_program else SimpleNamespace(wsgi=lambda: app)
        parent = os.getppid() if ppid is None else ppid
        worker = Worker(1, parent, sockets, program, cfg.timeout / 2, cfg, log)
        running = Running(worker, tmp_path)
        begun.append(running)
        return running

    yield start
    for running in begun:
        running.stop()
        worker = running.worker
        worker.tmp.close()
        for each in worker.sockets:
            each.close()
        for descriptor in worker.PIPE:
            os.close(descriptor)


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    """Say what some variables are."""
    names = ("SCRIPT_NAME", "PATH_INFO", "REMOTE_ADDR", "SERVER_SOFTWARE", "wsgi.multiprocess")
    start_response("200 OK", [("X-Kind", "wsgi"), ("Content-Type", "text/plain")])
    return ["\n".join(str(environ.get(name)) for name in (*names, "RAW_URI")).encode()]


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Say what some keys are."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    facts = (scope["root_path"], scope["path"], scope["raw_path"], scope["client"][0])
    headers = [(b"x-kind", b"asgi")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": repr(facts).encode()})


class Held:
    """A WSGI application whose requests are held until the test lets them go."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        self.began.release()
        wait(self.go)
        start_response("200 OK", [])
        return [b"held"]


class Later:
    """A request in a thread of its own."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, args=(ask,))
        self._thread.start()

    def _run(self, ask: Callable[[], Any]) -> None:
        try:
            self.result = ask()
        except Exception as error:
            self.result = error

    def wait(self) -> Any:
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()
        return self.result


# Which application.


@pytest.mark.spec("FR 121")
@pytest.mark.parametrize(("app", "kind"), [(wsgi, "wsgi"), (asgi, "asgi")])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_either_kind_of_application(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, app: Any, kind: str, loop: str
) -> None:
    """One worker class serves both, on either loop."""
    monkeypatch.setenv("BRIDGES_LOOP", loop)
    running = begin(app)
    assert running.get("/x").headers["x-kind"] == kind
    assert running.stop() is None


@pytest.mark.spec("FR 110")
def test_an_asgi_2_application(begin: Begin) -> None:
    """The older form of ASGI is told apart, too."""

    def older(scope: Scope) -> Any:
        async def run(receive: Receive, send: Send) -> None:
            await asgi(scope, receive, send)

        return run

    assert begin(older).get("/x").headers["x-kind"] == "asgi"


@pytest.mark.spec("FR 110")
def test_an_application_of_no_kind(begin: Begin) -> None:
    """What is no application is named in a sentence that gunicorn prints before it ends."""
    failure = begin(lambda a, b, c, d: None).join()
    assert isinstance(failure, AppImportError)
    assert "interface" in str(failure)


def test_the_interface_may_be_said(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A callable that shows nothing is believed to be what a variable says."""
    monkeypatch.setenv("BRIDGES_INTERFACE", "wsgi")
    assert begin(lambda *words: wsgi(*words)).get("/x").headers["x-kind"] == "wsgi"


# Settings.


@pytest.mark.spec("FR 117")
@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {"keep_alive_seconds": 2, "max_connections": 1000, "access_log": "off"}),
        ({}, {"graceful_seconds": 24, "shutdown_seconds": 30, "max_head_bytes": 65_536}),
        ({"graceful_timeout": 4}, {"graceful_seconds": 3.0, "shutdown_seconds": 4}),
        ({"graceful_timeout": 0}, {"graceful_seconds": 0, "shutdown_seconds": 0}),
        ({"threads": 7}, {"threads": 7}),
        ({"keepalive": 5}, {"keep_alive_seconds": 5}),
        ({"worker_connections": 3}, {"max_connections": 3}),
        ({"worker_connections": 0}, {"max_connections": None}),
        ({"backlog": 100_000}, {"backlog": 65_535}),
        ({"limit_request_line": 100}, {"max_target_bytes": 100}),
        ({"limit_request_line": 0}, {"max_target_bytes": 1_048_576, "max_head_bytes": 1_064_956}),
        ({"limit_request_fields": 10}, {"max_fields": 10}),
        ({"limit_request_fields": 0}, {"max_fields": 32_768}),
        ({"limit_request_field_size": 50_000}, {"max_head_bytes": 104_094}),
        ({"forwarded_allow_ips": "10.0.0.1"}, {"forwarded_allow_ips": "10.0.0.1,unix"}),
        ({"forwarded_allow_ips": "*"}, {"forwarded_allow_ips": "*,unix"}),
        ({"forwarded_allow_ips": ""}, {"forwarded_allow_ips": "unix"}),
    ],
)
def test_settings_become_options(settings: dict[str, Any], options: dict[str, Any]) -> None:
    """What gunicorn is told, the server is told."""
    given = options_of(config(**settings), {})
    assert {name: given.get(name) for name in options} == options


@pytest.mark.spec("FR 117")
@pytest.mark.parametrize(
    ("setting", "value", "option"),
    [
        ("asgi_loop", "asyncio", "loop"),
        ("asgi_lifespan", "off", "lifespan"),
        ("asgi_disconnect_grace_period", 9, "disconnect_grace_seconds"),
        ("websocket_max_message_size", 1234, "websocket_max_bytes"),
    ],
)
def test_settings_of_later_versions(setting: str, value: Any, option: str) -> None:
    """What gunicorn's own ASGI worker is told, this one obeys, where this gunicorn knows it."""
    cfg = config()
    if setting not in cfg.settings:
        assert option not in options_of(cfg, {})
        return
    cfg.set(setting, value)
    assert options_of(cfg, {})[option] == value


@pytest.mark.spec("FR 117")
def test_variables_win() -> None:
    """An option of the server that a variable sets counts more than a setting of gunicorn."""
    given = options_of(
        config(threads=7),
        {"BRIDGES_THREADS": "1", "BRIDGES_MAX_BODY_BYTES": "10", "BRIDGES_PORT": "80"},
    )
    assert given["threads"] == 1
    assert given["max_body_bytes"] == 10
    assert "port" not in given


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"proxy_protocol": True}, "proxy_protocol"),
        ({"limit_request_line": 5}, "max_target_bytes must be at least"),
    ],
)
def test_what_cannot_be_served_is_refused(settings: dict[str, Any], words: str) -> None:
    """gunicorn prints the sentence of a RuntimeError, and ends."""
    with pytest.raises(RuntimeError, match=words):
        Worker.check_config(config(**settings), logging.getLogger("unused"))


def test_another_protocol_is_refused() -> None:
    """What uWSGI's protocol would say is not HTTP."""
    cfg: Any = config()
    if "protocol" not in cfg.settings:
        pytest.skip("this gunicorn speaks HTTP alone")
    cfg.set("protocol", "uwsgi")
    with pytest.raises(errors.ConfigError, match="protocol = 'uwsgi'"):
        options_of(cfg, {})


def test_a_reload_with_a_refused_setting_ends_the_boot(begin: Begin) -> None:
    """After a reload the master does not look again: the worker does."""
    failure = begin(wsgi, proxy_protocol=True).join()
    assert isinstance(failure, SystemExit)
    assert failure.code == 3


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"strip_header_spaces": True}, "strip_header_spaces"),
        ({"sendfile": False}, "sendfile"),
        ({"header_map": "dangerous"}, "header_map"),
        ({"secure_scheme_headers": {"X-SSL": "1"}}, "secure_scheme_headers"),
    ],
)
def test_settings_without_effect_are_named(settings: dict[str, Any], name: str) -> None:
    """Who sets what is not obeyed learns of it, once, in the master."""
    assert list(warnings_for(config(), {})) == []
    (warning,) = warnings_for(config(**settings), {})
    assert warning.startswith(name)


def test_warnings_are_in_the_log(begin: Begin) -> None:
    """The first worker says them, unless the command line has read the variables itself."""
    running = begin(wsgi, strip_header_spaces=True)
    assert running.get().status_code == 200
    assert running.stop() is None
    assert "[WARNING] strip_header_spaces has no effect" in running.log("error.log")


def test_variables_without_effect_are_named() -> None:
    """A certificate that only the other way of starting reads must not be thought of as in use."""
    (warning,) = warnings_for(config(), {"BRIDGES_CERTFILE": "x.pem", "BRIDGES_THREADS": "3"})
    assert warning.startswith("BRIDGES_CERTFILE has no effect")


def test_every_setting_is_in_the_reference() -> None:
    """The page says of each setting of this gunicorn what becomes of it."""
    page = Path(__file__).parents[1] / "docs" / "reference" / "gunicorn-settings.md"
    text = page.read_text("utf-8")
    assert [each.name for each in KNOWN_SETTINGS if f"`{each.name}`" not in text] == []


@pytest.mark.spec("FR 117")
def test_threads(begin: Begin) -> None:
    """So many requests of a WSGI application run at one time; the next one waits."""
    held = Held()
    running = begin(held, threads=2)
    requests = [Later(running.get) for _ in range(3)]
    assert held.began.acquire(timeout=WAIT_SECONDS)
    assert held.began.acquire(timeout=WAIT_SECONDS)
    pool = running.service.pool
    until(lambda: pool.snapshot().queued == 1)  # the third one is on its way
    assert not held.began.acquire(blocking=False)
    held.go.set()
    assert [each.wait().text for each in requests] == ["held"] * 3


@pytest.mark.spec("FR 117")
def test_threads_by_default(begin: Begin) -> None:
    """gunicorn's 1 is what every other worker class has, and cannot be told from unset: 40, as elsewhere."""
    running = begin(wsgi)
    running.get()
    assert running.service.pool.max_threads == 40


@pytest.mark.slow
@pytest.mark.spec("FR 117")
def test_keepalive(begin: Begin) -> None:
    """An idle connection is closed by the server, after a request that was promised more."""
    running = begin(wsgi, keepalive=1)
    with socket.create_connection(running.address, WAIT_SECONDS) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while piece := client.recv(65_536):
            data += piece
    assert b"connection: close" not in data.lower()
    assert data.startswith(b"HTTP/1.1 200 ")


@pytest.mark.spec("FR 117")
def test_no_keepalive(begin: Begin) -> None:
    """With 0 every answer says that it is the last one of its connection."""
    assert begin(wsgi, keepalive=0).get().headers["connection"] == "close"


@pytest.mark.spec("FR 117")
def test_worker_connections(begin: Begin) -> None:
    """One connection more than that is answered with 503."""
    running = begin(wsgi, worker_connections=2)
    with running.client() as first, running.client() as second, running.client() as third:
        statuses = [client.get("/").status_code for client in (first, second, third)]
    assert statuses == [200, 200, 503]


@pytest.mark.spec("FR 117")
@pytest.mark.parametrize(
    ("settings", "path", "headers", "status"),
    [
        ({"limit_request_line": 40}, "/" + "x" * 26, {}, 200),
        ({"limit_request_line": 40}, "/" + "x" * 27, {}, 414),
        ({"limit_request_fields": 6}, "/", {}, 200),
        ({"limit_request_fields": 3}, "/", {}, 431),
        ({"limit_request_field_size": 100}, "/", {"x": "y" * 95}, 200),
        ({"limit_request_field_size": 100}, "/", {"x": "y" * 96}, 431),
        ({"limit_request_field_size": 0}, "/", {"x": "y" * 40_000}, 200),
        ({"header_map": "drop"}, "/", {"x_y": "z"}, 200),
        ({"header_map": "refuse"}, "/", {"x_y": "z"}, 400),
    ],
)
def test_limits_of_heads(
    begin: Begin, settings: dict[str, Any], path: str, headers: dict[str, str], status: int
) -> None:
    """At the limit is served, one beyond is refused."""
    assert begin(wsgi, **settings).get(path, headers=headers).status_code == status


@pytest.mark.spec("FR 117")
@pytest.mark.spec("RFC 9110", "section 15.5.15")
def test_a_long_target_is_no_long_line() -> None:
    """The line is measured with its method and its version."""
    heads = LimitedHeads(30, 10, 0, False)
    line = b"GET /%s HTTP/1.1" % (b"x" * 16)
    assert len(line) == 30
    assert heads.parse(line + b"\r\nhost: x\r\n\r\n", FieldMemory()).method == "GET"
    with pytest.raises(errors.PeerProtocolError) as caught:
        heads.parse(b"PUT" + line.replace(b"GET", b"") + b"0\r\nhost: x\r\n\r\n", FieldMemory())
    assert caught.value.status_hint in (400, 414)
    with pytest.raises(errors.PeerProtocolError) as caught:
        heads.parse(line.replace(b"GET", b"POST") + b"\r\nhost: x\r\n\r\n", FieldMemory())
    assert caught.value.status_hint == 414


@pytest.mark.spec("FR 117")
@pytest.mark.parametrize(("trusted", "client"), [("127.0.0.1", "1.2.3.4"), ("", "127.0.0.1")])
def test_forwarded_allow_ips(begin: Begin, trusted: str, client: str) -> None:
    """A client's address is a proxy's to say, if the proxy is trusted."""
    running = begin(wsgi, forwarded_allow_ips=trusted)
    answer = running.get(headers={"X-Forwarded-For": "1.2.3.4"})
    assert answer.text.split("\n")[2] == client


@pytest.mark.parametrize(("workers", "multiprocess"), [(1, "False"), (2, "True")])
@pytest.mark.spec("PEP 3333", "environ Variables")
def test_the_environ_knows_of_other_workers(begin: Begin, workers: int, multiprocess: str) -> None:
    """wsgi.multiprocess tells whether there is more than one worker, and SERVER_SOFTWARE whose."""
    lines = begin(wsgi, workers=workers).get().text.split("\n")
    assert lines[4] == multiprocess
    assert lines[3].startswith("gunicorn/")


# The path.


@pytest.mark.spec("ASGI HTTP 2.5", "HTTP Connection Scope")
@pytest.mark.parametrize(
    ("asked", "root_path", "path", "raw_path"),
    [
        ("/%C3%A4/x%2Fy", "/ä", "/ä/x/y", b"/%C3%A4/x%2Fy"),
        ("/%C3%A4", "/ä", "/ä", b"/%C3%A4"),
        ("/%C3%A4x", "/ä", "/ä/äx", b"/%C3%A4/%C3%A4x"),
        ("/", "/ä", "/ä/", b"/%C3%A4/"),
    ],
)
@pytest.mark.parametrize("name", ["SCRIPT_NAME", "root_path"])
def test_the_path_of_an_asgi_application(
    begin: Begin,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    root_path: str,
    path: str,
    raw_path: bytes,
    name: str,
) -> None:
    """A prefix that proxies leave in the path is found on a segment's border; one that they remove is put back."""
    settings = {}
    if name == "SCRIPT_NAME":
        monkeypatch.setenv(name, "/ä")
    elif name not in Config().settings:
        pytest.skip("this gunicorn has no root_path")
    else:
        settings[name] = "/ä/"
    text = begin(asgi, **settings).get(asked).text
    assert text == repr((root_path, path, raw_path, "127.0.0.1"))


@pytest.mark.spec("FR 117")
@pytest.mark.parametrize(
    ("asked", "path_info"),
    [("/app/x", "/x"), ("/app", ""), ("/apps", "/apps"), ("/app/app", "/app"), ("/", "/")],
)
def test_the_path_of_a_wsgi_application(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, asked: str, path_info: str
) -> None:
    """SCRIPT_NAME of the process, as gunicorn has it; the target that was asked for stays as it was."""
    monkeypatch.setenv("SCRIPT_NAME", "/app")
    lines = begin(wsgi).get(asked).text.split("\n")
    assert (lines[0], lines[1], lines[5]) == ("/app", path_info, asked)


def test_a_prefix_of_a_proxy_stands_before(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """X-Forwarded-Prefix of a trusted proxy is what it has removed."""
    monkeypatch.setenv("SCRIPT_NAME", "/app")
    headers = {"X-Forwarded-Prefix": "/outer"}
    assert begin(wsgi).get("/app/x", headers=headers).text.split("\n")[:2] == ["/outer/app", "/x"]
    running = begin(asgi)
    for asked in ("/app/x", "/x"):
        facts = running.get(asked, headers=headers).text
        assert facts.startswith("('/outer/app', '/outer/app/x', b'/outer/app/x'")


def test_names_of_surrounded_applications() -> None:
    """The log calls an application what it is called without a prefix."""
    from bridges.kinds import name_of

    assert name_of(wsgi_under(wsgi, "/x")) == name_of(wsgi)
    assert name_of(asgi_under(asgi, "/x")) == name_of(asgi)
    assert name_of(wsgi_under(Held(), "/x")) == name_of(Held())


# Hooks.


@pytest.mark.spec("FR 120")
def test_the_hook_sees_a_running_loop(begin: Begin) -> None:
    """post_worker_init may start tasks: they run beside the application, which is loaded."""
    import asyncio

    seen: dict[str, Any] = {}
    ran = threading.Event()

    async def task() -> None:
        ran.set()

    def hook(worker: Any) -> None:
        seen["loop"] = asyncio.get_running_loop()
        seen["app"] = worker.wsgi
        seen["task"] = seen["loop"].create_task(task())

    running = begin(asgi, post_worker_init=hook)
    running.get()
    wait(ran)
    assert seen["app"] is asgi


@pytest.mark.spec("FR 120")
def test_a_hook_that_fails_ends_the_boot(begin: Begin) -> None:
    """gunicorn takes an exception of a worker that has not booted as its end."""

    def hook(worker: Any) -> None:
        raise ValueError("meant")

    running = begin(asgi, post_worker_init=hook)
    assert repr(running.join()) == "ValueError('meant')"
    assert not running.worker.booted


def test_hooks_around_a_request(begin: Begin) -> None:
    """One request object passes from pre_request to post_request, which gets environ and response as well."""
    seen: list[Any] = []
    after = threading.Event()

    def pre_request(worker: Any, req: Any) -> None:
        seen.append((req, req.method, req.path, req.query, req.version))

    def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
        seen.append((req, environ["REMOTE_ADDR"], resp.status, resp.sent, dict(resp.headers)))
        after.set()

    running = begin(wsgi, pre_request=pre_request, post_request=post_request)
    size = len(running.get("/a%20b?c=d").content)
    wait(after)
    (req, *before), (same, *behind) = seen
    assert same is req
    assert before == ["GET", "/a b", "c=d", (1, 1)]
    assert behind[:3] == ["127.0.0.1", "200 OK", size]
    assert behind[3]["x-kind"] == "wsgi"


def test_hooks_that_fail_cost_nobody_anything(begin: Begin) -> None:
    """What a hook of a request raises is logged; the request is served."""

    def pre_request(worker: Any, req: Any) -> None:
        raise ValueError("meant before")

    def post_request(worker: Any, req: Any) -> None:
        raise ValueError("meant after")

    running = begin(wsgi, pre_request=pre_request, post_request=post_request)
    assert running.get().status_code == 200
    assert running.stop() is None
    log = running.log("error.log")
    assert "Exception in pre_request hook" in log
    assert "ValueError: meant before" in log
    assert "Exception in post_request hook" in log
    assert "ValueError: meant after" in log


@pytest.mark.spec("FR 118")
def test_each_request_that_begins_ends(begin: Begin) -> None:
    """What a hook counts up at a beginning it counts down at an end: answered, refused, cut off, or left."""
    count: list[int] = []
    ended = threading.Semaphore(0)

    def post_request(worker: Any, req: Any) -> None:
        count.append(-1)
        ended.release()

    class App:
        began = threading.Event()
        left = threading.Event()

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await lifespan(receive, send)
            elif scope["path"] == "/left":
                await receive()
                self.began.set()
                assert (await receive())["type"] == "http.disconnect"
                self.left.set()
            elif scope["path"] == "/crash":
                raise ValueError("meant")
            elif scope["path"] == "/cut":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                raise ValueError("meant")
            else:
                await asgi(scope, receive, send)

    running = begin(
        App(), pre_request=lambda worker, req: count.append(1), post_request=post_request
    )
    assert running.get("/").status_code == 200
    assert running.get("/crash").status_code == 500
    with pytest.raises(httpx.RemoteProtocolError):
        running.get("/cut")
    with leaving(running, "/left"):
        wait(App.began)
    wait(App.left)
    for _ in range(4):
        assert ended.acquire(timeout=WAIT_SECONDS)
    assert running.stop() is None
    assert (len(count), sum(count)) == (8, 0)


# The log.

FORMAT = '%(h)s "%(r)s" %(s)s %(b)s %(m)s %(U)s %(q)s %(H)s %({x-kind}o)s %({x-mine}i)s %({raw_uri}e)s "%(a)s" %(u)s'


@pytest.mark.spec("FR 117")
@pytest.mark.parametrize("app", [wsgi, asgi])
def test_access_log_format(begin: Begin, tmp_path: Path, app: Any) -> None:
    """gunicorn's own logger writes the line, with headers of both directions."""
    running = begin(app, accesslog=str(tmp_path / "access.log"), access_log_format=FORMAT)
    headers = {"X-Mine": "yes", "User-Agent": 'a "b" \\', "X-Forwarded-For": "9.9.9.9"}
    with running.client(auth=("ann", "secret")) as client:
        answer = client.get("/a%0Ab?c=d", headers=headers)
    assert running.stop() is None
    kind, size = app.__name__, len(answer.content)
    assert running.log() == (
        f'9.9.9.9 "GET /a%0Ab?c=d HTTP/1.1" 200 {size} GET /a\\nb c=d HTTP/1.1 {kind} yes /a%0Ab?c=d'
        ' "a \\"b\\" \\\\" ann\n'
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä", "plain ä"),
        ("a\nb\r", "a\\nb\\r"),
        ("\x1b[2J\x9b", "\\x1b[2J\\x9b"),
        ("\\", "\\\\"),
        ("\u2028", "\\u2028"),
    ],
)
def test_nothing_ends_a_line_of_the_log(text: str, shown: str) -> None:
    """Controls and backslashes are escaped, before gunicorn escapes quotation marks."""
    assert printable(text) == shown


def test_a_client_that_left_is_in_the_log(begin: Begin, tmp_path: Path) -> None:
    """A request that was not answered is logged, as 499; one that was cut off with what was sent of it."""
    began = threading.Event()

    class App:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await lifespan(receive, send)
                return
            await receive()
            if scope["path"] == "/some":
                await send({"type": "http.response.start", "status": 201, "headers": []})
                await send({"type": "http.response.body", "body": b"abc", "more_body": True})
            began.set()
            await receive()

    running = begin(
        App(), accesslog=str(tmp_path / "access.log"), access_log_format="%(U)s %(s)s %(b)s"
    )
    for path in ("/none", "/some"):
        began.clear()
        with leaving(running, path):
            wait(began)
    assert running.stop() is None
    assert running.log() == "/none 499 0\n/some 201 3\n"


@pytest.mark.spec("FR 117")
def test_statsd_gets_its_metrics(begin: Begin) -> None:
    """Duration, count and status of each request, without an access log."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(WAIT_SECONDS)
        running = begin(
            wsgi, statsd_host=f"127.0.0.1:{statsd.getsockname()[1]}", statsd_prefix="site"
        )
        running.get()
        metrics = [statsd.recv(1000).decode() for _ in range(3)]
        running.stop()
        running.worker.log.sock.close()
    assert metrics[0].startswith("site.gunicorn.request.duration:")
    assert metrics[1:] == [
        "site.gunicorn.requests:1|c|@1.0",
        "site.gunicorn.request.status.200:1|c|@1.0",
    ]


def test_errors_go_to_gunicorns_log(begin: Begin) -> None:
    """What the server says of an application, and what that writes to wsgi.errors, is in the error log."""

    def app(environ: Any, start_response: Any) -> Any:
        environ["wsgi.errors"].write("a word of the application\n")
        raise ValueError("meant")

    running = begin(app)
    assert running.get("/x").status_code == 500
    assert running.stop() is None
    log = running.log("error.log")
    assert "a word of the application\n" in log
    assert "[ERROR]" in log
    assert "ValueError: meant" in log


def test_loggers_that_are_set_up_stay_so(begin: Begin) -> None:
    """Who has given ``bridges`` a handler keeps it, and gets no line twice."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("bridges").addHandler(handler)
    try:
        running = begin(lambda environ, start_response: 1 / 0)
        assert running.get("/x").status_code == 500
        assert running.stop() is None
    finally:
        logging.getLogger("bridges").removeHandler(handler)
    assert [record.levelname for record in records] == ["ERROR"]
    assert "ZeroDivisionError" not in running.log("error.log")


# Counting.


@pytest.mark.spec("FR 117")
def test_max_requests(begin: Begin) -> None:
    """After so many requests the worker ends by itself; the last one is answered, and told to close."""
    running = begin(wsgi, max_requests=3)
    with running.client() as client:
        statuses = [client.get("/").status_code for _ in range(3)]
    assert statuses == [200, 200, 200]
    assert running.join() is None
    assert "Autorestarting worker" in running.log("error.log")


@pytest.mark.spec("FR 117")
def test_max_requests_jitter(begin: Begin) -> None:
    """The limit is gunicorn's, with its share of chance."""
    running = begin(wsgi, max_requests=3, max_requests_jitter=4)
    with running.client() as client:
        for _ in range(running.worker.max_requests):
            assert client.get("/").status_code == 200
    assert 3 <= running.worker.max_requests <= 7
    assert running.join() is None
    assert running.worker.nr == running.worker.max_requests


class Sockets:
    """An ASGI application of websockets and streams, ended by either side."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            if scope["path"] == "/close":
                await send({"type": "websocket.close", "code": 1000})
            else:
                while (await receive())["type"] != "websocket.disconnect":
                    await send({"type": "websocket.send", "text": "echo"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(3):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await send({"type": "http.response.body", "body": b""})


@contextlib.contextmanager
def leaving(running: Running, path: str) -> Iterator[None]:
    """Ask for a path, and be gone at the end."""
    with socket.create_connection(running.address, WAIT_SECONDS) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        yield
        # A reset: after an orderly end of its side a client may still wait for the answer.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def websocket(running: Running, path: str = "/") -> Iterator[Any]:
    host, port = running.address
    with connect(f"ws://{host}:{port}{path}", proxy=None, open_timeout=WAIT_SECONDS) as client:
        yield client


@pytest.mark.slow
@pytest.mark.spec("FR 118")
def test_websockets_and_streams_count_for_max_requests(begin: Begin) -> None:
    """Each is one request; the one that reaches the limit ends in order, and so does the worker."""
    running = begin(Sockets(), max_requests=3)
    with websocket(running) as client:
        client.send("hello")
        assert client.recv(WAIT_SECONDS) == "echo"
    assert running.get().text == "xxx"
    with websocket(running) as client:
        with contextlib.suppress(Exception):
            client.recv(WAIT_SECONDS)
        assert client.close_code == 1001
    assert running.join() is None
    assert running.worker.nr == 3


@pytest.mark.slow
@pytest.mark.spec("FR 118")
def test_20_closes_by_the_server_leave_nothing(begin: Begin) -> None:
    """Connections that the server ends are counted out: a stop has nothing to wait for."""
    running = begin(Sockets(), keepalive=0, graceful_timeout=120)
    assert running.get().status_code == 200
    service, gone = running.service, threading.Semaphore(0)
    until(lambda: not service.connections)
    discard = service.discard

    def counted(connection: Any) -> None:
        discard(connection)
        gone.release()

    service.discard = counted
    for number in range(20):
        if number % 2:
            assert running.get().headers["connection"] == "close"
        else:
            with websocket(running, "/close") as client:
                with contextlib.suppress(Exception):
                    client.recv(WAIT_SECONDS)
                assert client.close_code == 1000
    for _ in range(20):
        assert gone.acquire(timeout=WAIT_SECONDS)
    assert len(service.connections) == 0
    assert service.requests == 21
    assert running.stop() is None


# Clients that leave.


@pytest.mark.spec("FR 122")
@pytest.mark.parametrize("kind", ["setting", "variable"])
def test_a_rollback_completes_after_the_client_left(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """An application whose client is gone has time to clean up before it is cancelled."""
    settings: dict[str, Any] = {}
    if kind == "variable":
        monkeypatch.setenv("BRIDGES_DISCONNECT_GRACE_SECONDS", "30")
    elif "asgi_disconnect_grace_period" not in Config().settings:
        pytest.skip("this gunicorn has no asgi_disconnect_grace_period")
    else:
        settings["asgi_disconnect_grace_period"] = 30
    began, rolled_back = threading.Event(), threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        try:
            await receive()
            began.set()
            assert (await receive())["type"] == "http.disconnect"
        finally:
            for _ in range(20):  # what a driver does to roll back awaits answers
                await anyio.sleep(0)
            rolled_back.set()

    running = begin(app, **settings)
    with leaving(running, "/"):
        wait(began)
    wait(rolled_back)
    assert running.stop() is None


@pytest.mark.spec("FR 122")
def test_an_application_that_does_not_end_is_cancelled(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that it has is bounded."""
    monkeypatch.setenv("BRIDGES_DISCONNECT_GRACE_SECONDS", "0")
    began, cancelled = threading.Event(), threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        await receive()
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    running = begin(app)
    with leaving(running, "/"):
        wait(began)
    wait(cancelled)
    assert running.stop() is None


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Give an authority that signs certificates for the tests."""
    return trustme.CA()


@pytest.fixture
def tls_files(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """Write a server's certificate, key, and the authority's certificate; give their settings."""
    certificate = authority.issue_cert("127.0.0.1")
    paths = {name: tmp_path / f"{name}.pem" for name in ("certfile", "keyfile", "ca_certs")}
    certificate.cert_chain_pems[0].write_to_path(str(paths["certfile"]))
    certificate.private_key_pem.write_to_path(str(paths["keyfile"]))
    authority.cert_pem.write_to_path(str(paths["ca_certs"]))
    return {name: str(path) for name, path in paths.items()}


def client_context(authority: trustme.CA, certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if certificate:
        authority.issue_cert("ann@example.org").configure_cert(context)
    return context


async def tls_app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    tls = scope["extensions"]["tls"]
    facts = (scope["scheme"], bool(tls["server_cert"]), bool(tls["client_cert_chain"]))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": repr(facts).encode()})


@pytest.mark.spec("FR 117")
@pytest.mark.parametrize("wanted", [ssl.CERT_NONE, ssl.CERT_REQUIRED])
def test_tls(
    begin: Begin, authority: trustme.CA, tls_files: dict[str, str], wanted: ssl.VerifyMode
) -> None:
    """certfile, keyfile, ca_certs and cert_reqs; ALPN names what is spoken; the application sees both sides."""
    running = begin(tls_app, cert_reqs=wanted, **tls_files)
    required = wanted is ssl.CERT_REQUIRED
    context = client_context(authority, required)
    with running.client(verify=context) as client, client.stream("GET", "/") as answer:
        tls = answer.extensions["network_stream"].get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "http/1.1"
        assert answer.read().decode() == repr(("https", True, required))
    if required:
        context = client_context(authority)
        with running.client(verify=context) as stranger, pytest.raises(httpx.TransportError):
            stranger.get("/")


@pytest.mark.spec("FR 117")
def test_ciphers_and_the_context_hook(
    begin: Begin, authority: trustme.CA, tls_files: dict[str, str]
) -> None:
    """The hook ssl_context may change what gunicorn would make."""
    made: list[ssl.SSLContext] = []

    def ssl_context(cfg: Any, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        made.append(default())
        made[0].maximum_version = ssl.TLSVersion.TLSv1_2
        return made[0]

    cipher = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
    running = begin(tls_app, ssl_context=ssl_context, ciphers=cipher, **tls_files)
    context = client_context(authority)
    with running.client(verify=context) as client, client.stream("GET", "/") as answer:
        tls = answer.extensions["network_stream"].get_extra_info("ssl_object")
        assert tls.version() == "TLSv1.2"
        assert tls.cipher()[0] in cipher.split(":")
    assert len(made) == 1


@pytest.mark.parametrize("damage", ["missing", "not a certificate", "keyfile alone"])
def test_wrong_certificates_end_the_boot(
    begin: Begin, tls_files: dict[str, str], tmp_path: Path, damage: str
) -> None:
    """A worker that cannot serve TLS serves nothing, and gunicorn ends with a sentence."""
    del tls_files["ca_certs"]
    if damage == "missing":
        Path(tls_files["keyfile"]).unlink()
    elif damage == "not a certificate":
        Path(tls_files["certfile"]).write_text("no")
    else:
        del tls_files["certfile"]
    running = begin(asgi, **tls_files)
    failure = running.join()
    assert isinstance(failure, SystemExit)
    assert failure.code == 3
    assert "TLS cannot be set up" in running.log("error.log")
    assert "Traceback" not in running.log("error.log")


# The beginning and the end.


@pytest.mark.parametrize("kind", ["says so", "raises"])
def test_a_startup_that_fails_ends_the_boot(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """gunicorn ends at status 3 of a worker, and does not start it again and again."""
    monkeypatch.setenv("BRIDGES_LIFESPAN", "on")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if kind == "raises":
            raise ValueError("no database")
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    running = begin(app)
    failure = running.join()
    assert isinstance(failure, SystemExit)
    assert failure.code == 3
    assert not running.worker.booted
    assert "no database" in running.log("error.log")


@pytest.mark.slow
def test_a_stop_in_the_middle_of_the_startup(begin: Begin) -> None:
    """Who is told to stop before it serves ends in order; gunicorn is not ended with it."""
    began, cancelled = threading.Event(), threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    running = begin(app, graceful_timeout=600)
    wait(began)
    assert running.stop() is None
    assert cancelled.is_set()


def test_a_stop_before_the_loop(begin: Begin) -> None:
    """A signal that came while the application was imported counts."""
    told: list[Running] = []
    loading, go = threading.Event(), threading.Event()

    class Program:
        def wsgi(self) -> Any:
            loading.set()
            wait(go)
            told[0].worker.handle_exit(signal.SIGTERM, None)
            return asgi

    told.append(begin(Program(), is_program=True))
    wait(loading)
    go.set()
    assert told[0].join() is None


def test_requests_under_way_are_answered_at_a_stop(begin: Begin) -> None:
    """SIGTERM, even twice: what has begun is answered, and told that its connection closes."""
    held = Held()
    running = begin(held)
    request = Later(running.get)
    assert held.began.acquire(timeout=WAIT_SECONDS)
    running.worker.handle_exit(signal.SIGTERM, None)
    running.worker.handle_exit(signal.SIGTERM, None)
    stopping = running.service
    until(lambda: stopping.stopping)
    held.go.set()
    assert request.wait().headers["connection"] == "close"
    assert running.join() is None


@pytest.mark.slow
@pytest.mark.spec("FR 119")
def test_a_request_on_an_idle_connection_is_answered_at_a_stop(begin: Begin) -> None:
    """A client that was promised its connection may be sending when the worker stops: that request is not lost."""
    running = begin(wsgi)
    with running.client() as client:
        assert "connection" not in client.get("/").headers
        running.worker.handle_exit(signal.SIGTERM, None)
        until(lambda: running.worker.sockets[0].sock is None)
        assert client.get("/").headers["connection"] == "close"
    assert running.join() is None


def test_a_quick_stop_cuts_what_is_under_way(begin: Begin) -> None:
    """SIGQUIT and SIGINT wait for nobody: streams and slow requests are cut, the shutdown runs, hooks are told."""
    began = threading.Event()
    said: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            said.append("shutdown")
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        began.set()
        await receive()
        await receive()

    running = begin(app, graceful_timeout=600, worker_int=lambda worker: said.append("hook"))
    request = Later(running.get)
    wait(began)
    running.worker.handle_quit(signal.SIGQUIT, None)
    running.worker.handle_quit(signal.SIGQUIT, None)
    assert running.join() is None
    assert isinstance(request.wait(), httpx.RemoteProtocolError)
    assert said == ["hook", "shutdown"]
    assert running.worker.exits_in is not None


def test_a_quick_stop_in_the_middle_of_a_graceful_one(begin: Begin) -> None:
    """SIGTERM, then SIGINT: the second one does not wait any more."""
    held = Held()
    running = begin(held, graceful_timeout=600)
    request = Later(running.get)
    assert held.began.acquire(timeout=WAIT_SECONDS)
    running.worker.handle_exit(signal.SIGTERM, None)
    running.worker.handle_quit(signal.SIGINT, None)
    assert isinstance(request.wait(), httpx.RemoteProtocolError)
    held.go.set()
    assert running.join() is None


@pytest.mark.slow
@pytest.mark.spec("FR 117")
def test_graceful_timeout_is_the_limit(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that does not end is cut in time for the shutdown, which runs before gunicorn would kill the worker."""
    monkeypatch.setenv("BRIDGES_DISCONNECT_GRACE_SECONDS", "0")
    began = threading.Event()
    said: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            said.append("shutdown")
            return
        began.set()
        await anyio.sleep_forever()

    running = begin(app, graceful_timeout=1)
    request = Later(running.get)
    wait(began)
    assert running.stop() is None
    assert isinstance(request.wait(), httpx.RemoteProtocolError)
    assert said == ["shutdown"]


@pytest.mark.slow
@pytest.mark.spec("FR 117")
def test_a_shutdown_that_does_not_end_is_left(begin: Begin) -> None:
    """The time that gunicorn gives is for all of it: what goes on then is left, before the worker is killed."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await anyio.sleep_forever()

    running = begin(app, graceful_timeout=1)
    assert running.stop() is None
    assert "has not shut down in time: left it" in running.log("error.log")


def test_the_reloader_stops_the_worker(begin: Begin) -> None:
    """gunicorn's reloader, in its thread, says so by a flag and a byte in a pipe."""
    running = begin(wsgi)
    assert running.get().status_code == 200
    running.worker.alive = False
    os.write(running.worker.PIPE[1], b"1")
    assert running.join() is None


def test_an_orphan_ends(begin: Begin) -> None:
    """A worker whose gunicorn is gone stops by itself."""
    running = begin(wsgi, ppid=1 if os.getppid() != 1 else 2)
    assert running.join() is None
    assert "Parent changed" in running.log("error.log")


@pytest.mark.spec("FR 119")
def test_an_abort_says_where_the_loop_was(begin: Begin) -> None:
    """SIGABRT: the place is in the log, the hook is called, and the status is 1."""
    said: list[str] = []
    running = begin(wsgi, worker_abort=lambda worker: said.append("hook"))
    assert running.get().status_code == 200
    with pytest.raises(SystemExit) as caught:
        running.worker.handle_abort(signal.SIGABRT, sys._getframe())
    assert caught.value.code == 1
    ended = running.join()
    assert isinstance(ended, SystemExit)
    assert ended.code == 1
    assert said == ["hook"]
    assert "test_an_abort_says_where_the_loop_was" in running.log("error.log")


@pytest.mark.spec("FR 119")
def test_usr1_opens_the_log_anew(begin: Begin, tmp_path: Path) -> None:
    """After a rotation lines go to the new file, also those of the server."""
    running = begin(
        lambda environ, start_response: 1 / 0,
        accesslog=str(tmp_path / "access.log"),
        access_log_format="%(U)s",
    )
    assert running.get("/one").status_code == 500
    for name in ("access.log", "error.log"):
        (tmp_path / name).rename(tmp_path / f"{name}.1")
    running.worker.handle_usr1(signal.SIGUSR1, None)
    until((tmp_path / "access.log").exists)
    assert running.get("/two").status_code == 500
    assert running.stop() is None
    assert running.log("access.log.1") == "/one\n"
    assert running.log() == "/two\n"
    assert "ZeroDivisionError" in running.log("error.log")


@pytest.mark.spec("FR 117")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_several_addresses(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    """Each address that gunicorn binds is served; the file of a unix socket outlives the worker, for the next one."""
    monkeypatch.setenv("BRIDGES_LOOP", loop)
    path = str(tmp_path / "gunicorn.sock")
    running = begin(wsgi, more=[lambda cfg, log: UnixSocket(path, cfg, log)])
    assert running.get("/tcp").text.split("\n")[1:3] == ["/tcp", "127.0.0.1"]
    with httpx.Client(transport=httpx.HTTPTransport(uds=path)) as client:
        assert client.get("http://x/unix").text.split("\n")[1:3] == ["/unix", ""]
    assert running.stop() is None
    assert os.path.exists(path)


def test_the_command_line_brings_its_own_options(begin: Begin) -> None:
    """``bridges --workers`` gives the application to gunicorn together with a config, which counts as it is."""
    program = SimpleNamespace(
        bridges_config=ServerConfig(threads=3, keep_alive_seconds=9.0, access_log="off"),
        wsgi=lambda: wsgi,
    )
    running = begin(program, is_program=True, threads=7)
    assert running.get().status_code == 200
    assert running.service.config.threads == 3
    assert running.service.config.keep_alive_seconds == 9.0


# The module.


def test_the_worker_is_found_where_gunicorn_looks() -> None:
    """``-k bridges.gunicorn.BridgeWorker``."""
    cfg = config(worker_class="bridges.gunicorn.BridgeWorker")
    assert cfg.worker_class is BridgeWorker
    with pytest.raises(AttributeError, match="nothing"):
        getattr(bridges.gunicorn, "nothing")  # noqa: B009


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without httptools the sentence says what to install; gunicorn prints it and ends."""
    monkeypatch.delitem(sys.modules, "bridges.gunicorn.worker")
    for name in list(sys.modules):
        if name.startswith("bridges.server"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httptools", None)
    with pytest.raises(RuntimeError, match=r"needs httptools.*\[server\]"):
        import_module("bridges.gunicorn").BridgeWorker  # noqa: B018
