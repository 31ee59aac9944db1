"""The worker of this package in real processes of gunicorn: signals under load, ways to end, ways to fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from hostkit.process import Server

pytestmark = pytest.mark.hosts

APPS = Path(__file__).parent / "apps"
JOURNAL = APPS.parents[1] / "wsgi_hosts" / "apps"
SHORTLY = 0.01

# Each hook leaves a note, and one of them a task.
HOOKS = f"""
import asyncio, os, sys
sys.path.insert(0, {str(JOURNAL)!r})
from journal import note

def post_worker_init(worker):
    asyncio.get_running_loop().create_task(running())

async def running():
    note("hook", "a task runs")

def worker_int(worker):
    note("hook", "int")

def worker_abort(worker):
    note("hook", "abort")

def worker_exit(server, worker):
    note("hook", "exit")
"""

Begin = Callable[..., "Server"]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Give a function that starts gunicorn with an application and options, and end what it started."""
    from hostkit.hosts import Host, Matrix
    from hostkit.process import Server
    from hostkit.wsgi_hosts import gunicorn

    class Script(Host):
        def launcher(self) -> list[str]:
            return []

    begun: list[Server] = []

    def start(app: str, *options: str, conf: str = "", ready: bool = True) -> Server:
        (tmp_path / "gunicorn.conf.py").write_text(conf)
        words = ("-k", "bridges.gunicorn.BridgeWorker", "--pythonpath", str(JOURNAL))
        words += ("--graceful-timeout", "8", "-c", str(tmp_path / "gunicorn.conf.py"))
        # The last of an option counts.
        # Not by -m: gunicorn forgets that when it starts itself anew.
        script = (str(Path(sys.executable).with_name("gunicorn")),)
        host = Script(
            "bridge", "gunicorn", script + gunicorn("", *words, *options, threads=1).command[1:]
        )
        target = app if ":" in app else f"worker_apps:{app}"
        matrix = Matrix("bridge_worker", "", "", "", (host,), {app: target}, (), APPS, ())
        server = Server(matrix, host, app, tmp_path, ("", ""))
        begun.append(server)
        if ready:
            server.start()
        else:
            server.spawn()
        return server

    yield start
    for server in begun:
        server.stop()


def process_of(server: Server) -> subprocess.Popen[bytes]:
    assert server.process
    return server.process


def noted(server: Server, key: str, count: int = 1) -> list[Any]:
    """Wait for so many notes of the application; give all."""
    from hostkit.journal import noted as wait

    entries = wait(server, key, count)
    assert len(entries) >= count, server.log
    return entries


def told(server: Server, key: str) -> list[Any]:
    from hostkit.journal import entries

    return entries(server, key)


def pause(server: Server) -> None:
    """Let a moment pass; the process must not end in it."""
    with pytest.raises(subprocess.TimeoutExpired):
        process_of(server).wait(SHORTLY)


def process_that_answers(server: Server) -> int:
    with server.new_client() as client:
        return int(client.get("/").headers["x-process"])


class Load:
    """Clients that ask on and on: some on a connection for each request, some on one that is kept."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.enough = threading.Event()
        self.answers: list[str] = []
        asking = (self.ask_anew, self.ask_anew, self.ask_on, self.ask_on)
        self.threads = [threading.Thread(target=ask) for ask in asking]

    def ask(self, client: httpx.Client) -> None:
        try:
            self.answers.append(client.get("/").text)
        except httpx.HTTPError as error:
            self.answers.append(repr(error))

    def ask_anew(self) -> None:
        while not self.enough.is_set():
            with self.server.new_client() as client:
                self.ask(client)

    def ask_on(self) -> None:
        with self.server.new_client() as client:
            while not self.enough.is_set():
                self.ask(client)

    def go_on(self, requests: int = 100) -> None:
        """Wait until so many more were answered."""
        goal = len(self.answers) + requests
        while len(self.answers) < goal:
            pause(self.server)

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *error: object) -> None:
        self.enough.set()
        for thread in self.threads:
            thread.join(20)


# Either kind.


@pytest.mark.spec("FR 121")
@pytest.mark.parametrize(("app", "text"), [("flask", "flask"), ("fastapi", '"fastapi"')])
def test_the_same_flag_for_both(begin: Begin, app: str, text: str) -> None:
    """Flask and FastAPI."""
    server = begin(f"framework_apps:{app}")
    with server.new_client() as client:
        assert client.get("/").text == text
    assert server.stop() == 0


# Signals under load.


@pytest.mark.spec("FR 119")
@pytest.mark.parametrize("app", ["modern", "legacy"])
def test_hup_under_load(begin: Begin, app: str) -> None:
    """A reload replaces every worker, and loses no request."""
    server = begin(app, "-w", "2")
    first = set(noted(server, "import", 2))
    with Load(server) as load:
        process_of(server).send_signal(signal.SIGHUP)
        noted(server, "import", 4)
        while any(alive(process) for process in first):
            pause(server)
        load.go_on()
    assert set(load.answers) == {"hello"}
    if app == "modern":
        ended = [process for word, process in told(server, "lifespan") if word == "shutdown"]
        assert set(ended) == first


def alive(process: int) -> bool:
    """Whether a process is neither gone nor a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.spec("FR 119")
def test_usr1_under_load(begin: Begin, tmp_path: Path) -> None:
    """Log files are opened anew; no request is lost, and no line of the log."""
    server = begin("legacy", "--access-logfile", str(tmp_path / "access.log"))
    with Load(server) as load:
        (tmp_path / "access.log").rename(tmp_path / "access.log.1")
        process_of(server).send_signal(signal.SIGUSR1)
        while (
            not (tmp_path / "access.log").exists() or not (tmp_path / "access.log").stat().st_size
        ):
            pause(server)
        load.go_on()
    assert set(load.answers) == {"hello"}
    assert server.stop() == 0
    logs = [(tmp_path / name).read_text() for name in ("access.log.1", "access.log")]
    assert all(logs)
    # One more was the question whether the server is ready.
    assert "".join(logs).count('"GET / HTTP/1.1" 200 5') == len(load.answers) + 1


@pytest.mark.spec("FR 119")
@pytest.mark.spec("FR 117")
def test_max_requests_under_load(begin: Begin) -> None:
    """Workers end by themselves, one after another, and no request is lost."""
    server = begin("modern", "-w", "2", "--max-requests", "60", "--max-requests-jitter", "20")
    with Load(server) as load:
        noted(server, "import", 5)
    assert set(load.answers) == {"hello"}


@pytest.mark.spec("FR 119")
@pytest.mark.parametrize("app", ["modern", "legacy"])
def test_term_lets_requests_end(begin: Begin, app: str) -> None:
    """What has begun is answered as a whole, and the lifespan's shutdown comes after it."""
    from hostkit.journal import release
    from hostkit.raw import exchange

    server = begin(app, "--access-logfile", "-", conf=HOOKS)
    streams = [exchange(server) for _ in range(3)]
    for number, stream in enumerate(streams):
        stream.start(b"GET", b"/events?key=key%d" % number, [], end=True)
        stream.read_until(b"one\n\n") if stream.head()[0] == 200 else pytest.fail("no stream")
    process_of(server).send_signal(signal.SIGTERM)
    assert server.logs("Handling signal: term")
    for number, stream in enumerate(streams):
        assert not [word for word, _ in told(server, "lifespan") if word == "shutdown"]
        release(server, f"key{number}")
        stream.read_until(b"two\n\n")
        assert stream.read() == b""
        stream.socket.close()
    assert process_of(server).wait(10) == 0
    assert told(server, "hook") == ["a task runs", "exit"]
    if app == "modern":
        assert [word for word, _ in told(server, "lifespan")] == ["startup", "shutdown"]


@pytest.mark.spec("FR 119")
@pytest.mark.parametrize(("app", "number"), [("modern", signal.SIGQUIT), ("legacy", signal.SIGINT)])
def test_quit_and_int_are_quick(begin: Begin, app: str, number: signal.Signals) -> None:
    """Neither a stream without end nor a thread that does not come back holds up the end."""
    from hostkit.raw import Gone, exchange

    server = begin(app, "--graceful-timeout", "600", conf=HOOKS)
    with exchange(server) as stream:
        stream.start(b"GET", b"/events?key=never", [], end=True)
        stream.head()
        stream.read_until(b"one\n\n")
        process_of(server).send_signal(number)
        with pytest.raises(Gone):
            stream.read_until(b"two\n\n")
        assert process_of(server).wait(10) == 0
    assert "int" in told(server, "hook")


@pytest.mark.spec("FR 119")
def test_a_blocked_loop_does_not_hold_up_a_quick_end(begin: Begin) -> None:
    """SIGQUIT ends a worker whose loop does not answer."""
    from hostkit.raw import exchange

    server = begin("modern", "--graceful-timeout", "600", conf=HOOKS)
    with exchange(server) as stream:
        stream.start(b"GET", b"/block", [], end=True)
        noted(server, "blocks")
        process_of(server).send_signal(signal.SIGQUIT)
        assert process_of(server).wait(10) == 0
    assert "int" in told(server, "hook")


@pytest.mark.spec("FR 117")
@pytest.mark.spec("FR 119")
def test_a_blocked_loop_is_killed(begin: Begin) -> None:
    """A loop that stands still for longer than timeout ends with the place in the log; another worker serves."""
    from hostkit.raw import exchange

    server = begin("modern", "--timeout", "1", conf=HOOKS)
    blocked = process_that_answers(server)
    with exchange(server) as stream:
        stream.start(b"GET", b"/block", [], end=True)
        assert server.logs("WORKER TIMEOUT")
        noted(server, "import", 2)
        assert process_that_answers(server) != blocked
    assert "time.sleep(BLOCKED_SECONDS)" in server.log
    assert "the event loop was blocked here" in server.log
    assert "abort" in told(server, "hook")


@pytest.mark.spec("FR 117")
def test_busy_threads_are_not_killed(begin: Begin) -> None:
    """Requests in threads may take longer than timeout: the loop is what has to live."""
    server = begin("legacy", "--timeout", "1", "--threads", "2")
    answers: list[int] = []

    def ask() -> None:
        with server.new_client() as client:
            answers.append(client.get("/busy").status_code)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [200, 200]
    assert "WORKER TIMEOUT" not in server.log
    assert len(told(server, "import")) == 1


@pytest.mark.spec("FR 119")
def test_usr2_under_load(begin: Begin, tmp_path: Path) -> None:
    """A new gunicorn takes over the sockets of the old one, which ends: no request is lost."""
    pidfile = tmp_path / "pid"
    server = begin("modern", "--pid", str(pidfile))
    new = 0
    try:
        with Load(server) as load:
            process_of(server).send_signal(signal.SIGUSR2)
            noted(server, "lifespan", 2)
            new = int((tmp_path / "pid.2").read_text())
            load.go_on()
            process_of(server).send_signal(signal.SIGTERM)
            assert process_of(server).wait(10) == 0
            goal = len(load.answers) + 100
            while len(load.answers) < goal:
                assert threading.Event().wait(SHORTLY) is False
        assert set(load.answers) == {"hello"}
        assert new != process_of(server).pid
    finally:
        if new:
            os.kill(new, signal.SIGTERM)
            while alive(new):
                threading.Event().wait(SHORTLY)


@pytest.mark.spec("FR 119")
def test_winch_changes_nothing(begin: Begin) -> None:
    """A terminal that changes its size is of no interest to gunicorn, nor to its workers."""
    server = begin("modern")
    worker = process_that_answers(server)
    with Load(server) as load:
        process_of(server).send_signal(signal.SIGWINCH)
        os.kill(worker, signal.SIGWINCH)
        assert server.logs("Handling signal: winch")
        load.go_on()
    assert set(load.answers) == {"hello"}
    assert process_that_answers(server) == worker


# Other ends.


def test_an_orphan_ends(begin: Begin) -> None:
    """When gunicorn was killed its workers stop in order."""
    server = begin("modern", conf=HOOKS)
    worker = process_that_answers(server)
    process_of(server).kill()
    process_of(server).wait()
    while alive(worker):
        assert threading.Event().wait(SHORTLY) is False
    assert told(server, "lifespan") == [["startup", worker], ["shutdown", worker]]


def test_reload_when_a_file_changes(begin: Begin, tmp_path: Path) -> None:
    """--reload serves the new source, also while a stream is open; a file that is no Python is shown as an error."""
    module = tmp_path / "changing.py"
    text = (
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'%s']\n"
    )
    module.write_text(text % "old")
    server = begin("changing:app", "--reload", "--chdir", str(tmp_path))
    with server.new_client() as client:
        assert client.get("/").text == "old"
    for content, shown in (
        (text % "newer", "newer"),
        ("def", "SyntaxError"),
        (text % "last", "last"),
    ):
        module.write_text(content)
        stamp = module.stat().st_mtime + 10 + len(shown)  # clocks of file systems may be coarse
        os.utime(module, (stamp, stamp))
        seen = ""
        while shown not in seen:
            with server.new_client() as client:
                seen = client.get("/").text
            pause(server)


def test_preload(begin: Begin) -> None:
    """The application is imported, and made, once, by gunicorn; each worker has a lifespan of its own."""
    server = begin("create_app()", "--preload", "-w", "2")
    started = noted(server, "lifespan", 2)
    assert told(server, "import") == [process_of(server).pid]
    assert len({process for _, process in started}) == 2
    assert server.stop() == 0
    assert len(told(server, "lifespan")) == 4


def test_hooks_of_asgi_to_wsgi(begin: Begin) -> None:
    """The hooks for applications in ASGIToWSGI work with this worker, too."""
    server = begin(
        "mounted", conf="from bridges.gunicorn import post_worker_init, worker_exit\n", ready=False
    )
    noted(server, "lifespan")
    with server.new_client() as client:
        while not (text := answer_of(client)):
            pause(server)
        assert text == "hello"
    assert server.stop() == 0
    assert [word for word, _ in told(server, "lifespan")] == ["startup", "shutdown"]


def answer_of(client: httpx.Client) -> str:
    try:
        return client.get("/").text
    except httpx.ConnectError:
        return ""


# Failures of the boot.


@pytest.mark.parametrize(
    ("app", "options", "status", "sentence"),
    [
        ("modern", (), 3, "RuntimeError: meant: the startup fails"),
        ("unclear", (), 4, "worker_apps.unclear"),
        ("nothing_there", (), 4, "Failed to find attribute 'nothing_there'"),
        ("modern", ("--proxy-protocol",), 1, "proxy_protocol"),
        ("modern", ("--certfile", "gunicorn.conf.py"), 3, "TLS cannot be set up"),
    ],
    ids=["startup", "kind", "attribute", "setting", "certificate"],
)
def test_what_fails_at_the_boot_ends_gunicorn(
    begin: Begin,
    tmp_path: Path,
    app: str,
    options: tuple[str, ...],
    status: int,
    sentence: str,
) -> None:
    """gunicorn does not start workers on and on that cannot serve; a sentence says why."""
    if sentence.startswith("RuntimeError"):
        (tmp_path / "startup-fails").touch()
    server = begin(app, *options, conf="raw_env = ['BRIDGES_LIFESPAN=on']\n", ready=False)
    assert process_of(server).wait(10) == status, server.log
    assert sentence in server.log
    if "startup" not in sentence:
        assert "Traceback" not in server.log
