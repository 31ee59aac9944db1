"""The life of gunicorn's workers: stop, murder, reload, recycling, and the hooks of ``bridges.gunicorn``."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from hostkit.journal import entries, noted, release
from hostkit.plugin import Hooks
from hostkit.process import STOP_SECONDS, Server
from hostkit.raw import CLIENT_SECONDS, Exchange, Gone, exchange
from hostkit.wsgi_hosts import gunicorn

CLASSES = ("sync", "gthread", "gevent")
Starter = Callable[..., Server]
HOOKS = "from bridges.gunicorn import post_worker_init, worker_exit\n"


@pytest.fixture
def begin(hooks: Hooks, tmp_path: Path) -> Iterator[Starter]:
    """Give a function that starts gunicorn with options, and end what it started."""
    begun: list[Server] = []

    def start(kind: str, *options: str, conf: str = "", ready: bool = True) -> Server:
        (tmp_path / "gunicorn.conf.py").write_text(conf)
        words = ("-k", kind, "--graceful-timeout", "8", "-c", str(tmp_path / "gunicorn.conf.py"))
        # The last of an option counts.
        words += ("--threads", "4") if kind == "gthread" else ()
        host = gunicorn(f"life-{kind}", *words, *options, threads=4)
        server = Server(hooks.matrix, host, "ASGI", tmp_path, ("", ""))
        begun.append(server)
        if ready:
            server.start()
        else:
            server.spawn()
        return server

    yield start
    for server in begun:
        server.stop()


def lifespan(server: Server, what: str) -> list[int]:
    """Give the processes that noted ``what``: startup or shutdown."""
    return [process for word, process in entries(server, "lifespan") if word == what]


def open_stream(server: Server, key: str) -> tuple[Exchange, int]:
    """Begin a stream that waits for ``key``; give it and the process that serves it."""
    raw = exchange(server)
    raw.start(b"GET", f"/events?key={key}".encode(), [], end=True)
    process = int(raw.head()[1][b"x-process"])
    raw.read_until(b"one\n\n")
    return raw, process


@pytest.mark.parametrize("kind", CLASSES)
def test_a_stream_ends_before_its_worker(begin: Starter, kind: str) -> None:
    """SIGTERM lets a stream come to its end, then runs the lifespan's shutdown, and exits with 0."""
    server = begin(kind, conf=HOOKS)
    assert server.process
    raw, process = open_stream(server, "key")
    with raw:
        server.process.send_signal(signal.SIGTERM)
        assert server.logs("Handling signal: term")
        release(server, "key")
        raw.read_until(b"two\n\n")
        assert raw.read() == b""
    assert server.process.wait(STOP_SECONDS) == 0
    assert process in lifespan(server, "shutdown")


@pytest.mark.parametrize("kind", CLASSES)
def test_a_killed_worker_costs_its_own_requests_alone(begin: Starter, kind: str) -> None:
    """After kill -9 of a worker the streams of the other go on, and a new one takes its place."""
    # Room for all streams in one worker, whose share nobody decides.
    threads = ("--threads", "50") if kind == "gthread" else ()
    server = begin(kind, "-w", "2", *threads, conf=HOOKS)
    # One that begins later would leave all room of the other to be taken.
    assert len(noted(server, "lifespan", 2)) == 2
    with ExitStack() as stack:
        streams: list[tuple[Exchange, int]] = []
        while len({process for _, process in streams}) < 2:
            streams.append(open_stream(server, f"key{len(streams)}"))
            stack.enter_context(streams[-1][0])
        killed = streams[-1][1]
        os.kill(killed, signal.SIGKILL)
        for number, (raw, process) in enumerate(streams):
            if process == killed:
                with pytest.raises(Gone):
                    raw.read_until(b"two")
            else:
                release(server, f"key{number}")
                raw.read_until(b"two\n\n")
                assert raw.read() == b""
    assert len(noted(server, "lifespan", 3)) == 3
    with server.new_client() as client:
        assert client.get("/page").text == "hello"


class Load:
    """Clients that ask on and on, each request on a connection of its own, until they are told to stop."""

    def __init__(self, server: Server, clients: int = 4) -> None:
        self.server = server
        self.enough = threading.Event()
        self.answers: list[object] = []
        self.threads = [threading.Thread(target=self.ask) for _ in range(clients)]

    def ask(self) -> None:
        while not self.enough.is_set():
            try:
                with self.server.new_client() as client:
                    self.answers.append(client.get("/stream").text)
            except httpx.HTTPError as error:
                self.answers.append(repr(error))

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.enough.set()
        for thread in self.threads:
            thread.join(CLIENT_SECONDS)


WHOLE = "piece 0\npiece 1\npiece 2\n"


@pytest.mark.parametrize("kind", CLASSES)
def test_a_reload_loses_nothing(begin: Starter, kind: str) -> None:
    """HUP under load replaces every worker; each request is answered, each lifespan is ended."""
    server = begin(kind, "-w", "2", conf=HOOKS)
    assert server.process
    first = noted(server, "lifespan", 2)
    assert len(first) == 2
    with Load(server) as load:
        server.process.send_signal(signal.SIGHUP)
        assert len(noted(server, "lifespan", 6)) == 6
    assert sorted(lifespan(server, "shutdown")) == sorted(process for _, process in first)
    assert set(load.answers) == {WHOLE}


@pytest.mark.parametrize("kind", CLASSES)
def test_recycling_loses_nothing(begin: Starter, kind: str) -> None:
    """--max-requests under load replaces workers; each request is answered."""
    server = begin(kind, "-w", "2", "--max-requests", "30", conf=HOOKS)
    with Load(server) as load:
        assert len(noted(server, "lifespan", 10)) >= 10
    assert set(load.answers) == {WHOLE}


@pytest.mark.spec("FR 83")
@pytest.mark.parametrize("kind", CLASSES)
def test_hooks_start_the_app_with_its_worker(begin: Starter, kind: str) -> None:
    """With the hooks the lifespan starts at boot, before any request, and ends with the worker."""
    server = begin(kind, conf=HOOKS, ready=False)
    assert server.process
    ((word, process),) = noted(server, "lifespan")
    assert word == "startup"
    assert process != server.process.pid
    assert server.stop() == 0
    assert lifespan(server, "shutdown") == [process]


@pytest.mark.spec("FR 83")
@pytest.mark.parametrize("kind", CLASSES)
def test_a_failing_startup_stops_the_boot(begin: Starter, tmp_path: Path, kind: str) -> None:
    """With the hooks a startup that fails ends gunicorn, with the traceback in its log."""
    (tmp_path / "startup-fails").touch()
    server = begin(kind, conf=HOOKS, ready=False)
    assert server.process
    assert server.process.wait(STOP_SECONDS) == 3, server.log
    assert "RuntimeError: meant: the startup fails" in server.log
    assert "Traceback" in server.log
