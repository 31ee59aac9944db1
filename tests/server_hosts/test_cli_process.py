"""The command line as a real process: sockets of every sort, signals, reloading, workers, logs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import select
import signal
import socket
import ssl
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from cli_process import STOP_SECONDS, Program, refuses
from hostkit.process import make_certificate

Start = Callable[..., Program]
MODULE = [sys.executable, "-m", "bridges"]

# Notes what happens to it, and answers with what it is.
APP = """
import asyncio
import os
from pathlib import Path

ANSWER = "first"


def note(words):
    with Path("notes.txt").open("a") as notes:
        notes.write(f"{os.getpid()} {words}\\n")


async def lifespan(receive, send):
    await receive()
    note("startup")
    if Path("startup-hangs").exists():
        await asyncio.Event().wait()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    note("shutdown")
    if Path("shutdown-hangs").exists():
        await asyncio.Event().wait()
    await send({"type": "lifespan.shutdown.complete"})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/hang":
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await asyncio.Event().wait()
    if scope["path"] == "/slow":
        note("slow")
        while not Path("go").exists():
            await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": f"{ANSWER} {os.getpid()}".encode()})


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [ANSWER.encode()]
"""


@pytest.fixture(autouse=True)
def app(tmp_path: Path) -> Path:
    """Write the application; give its file."""
    file = tmp_path / "main.py"
    file.write_text(APP)
    return file


def notes(app: Path, words: str) -> list[int]:
    """Give the processes that noted something, in order."""
    path = app.with_name("notes.txt")
    lines = path.read_text().splitlines() if path.exists() else []
    return [int(line.partition(" ")[0]) for line in lines if line.endswith(f" {words}")]


def get(address: str, path: str = "/", **options: object) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=STOP_SECONDS, **options) as client:  # type: ignore[arg-type]  # httpx.Client's own
        return client.get(f"{address}{path}", headers={"Connection": "close"})


def over_unix(path: Path) -> str:
    return get("http://app", transport=httpx.HTTPTransport(uds=str(path))).text


@contextlib.contextmanager
def hanging(address: str) -> Iterator[Callable[[], bytes]]:
    """Begin a response that has no end; give a function that reads on."""
    host, _, port = address.partition("//")[2].rpartition(":")
    with socket.create_connection((host, int(port)), STOP_SECONDS) as client:
        client.sendall(b"GET /hang HTTP/1.1\r\nHost: app\r\n\r\n")
        seen = b""
        while b"begun" not in seen:
            seen += client.recv(4096)
        yield lambda: client.recv(4096)


# --- start and stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("attribute", ["app", "wsgi"])
def test_port_0_prints_the_bound_port(start: Start, attribute: str, number: int) -> None:
    """The start line has the address that a client can use; one signal ends the program with 0."""
    program = start(f"main:{attribute}", "--port", "0")
    address = program.address()

    assert get(address).text.startswith("first")
    program.tell(number)
    assert program.status() == 0
    assert refuses(address)
    assert re.fullmatch(r"bridges: serving .*\n\S+ \S+ INFO stopping\n", program.err)


def test_lifespan_around_it(start: Start, app: Path) -> None:
    """The application's startup and shutdown run in the process that serves."""
    program = start("main:app", "--port", "0")
    program.address()
    assert notes(app, "startup") == [program.process.pid]
    program.tell(signal.SIGTERM)
    assert program.status() == 0
    assert notes(app, "shutdown") == [program.process.pid]


def test_the_console_script(start: Start) -> None:
    """``bridges`` does what ``python -m bridges`` does."""
    scripts = importlib.metadata.entry_points(group="console_scripts", name="bridges")
    script = Path(sys.executable).with_name("bridges")
    if not scripts or not script.exists():
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("the package was installed before it had a console script")
    program = start("main:app", "--port", "0", command=[str(script)])
    assert get(program.address()).status_code == 200


@pytest.mark.spec("FR 114")
def test_a_request_under_way_is_answered(start: Start, app: Path) -> None:
    """After the first signal nobody new is let in, and whoever is in gets the answer."""
    program = start("main:app", "--port", "0")
    address = program.address()
    answers: list[str] = []
    client = threading.Thread(target=lambda: answers.append(get(address, "/slow").text))
    client.start()
    assert program.until(lambda: notes(app, "slow"))
    program.tell(signal.SIGTERM)
    assert program.until(lambda: refuses(address))
    app.with_name("go").touch()
    client.join(STOP_SECONDS)

    assert answers == [f"first {program.process.pid}"]
    assert program.status() == 0
    assert notes(app, "shutdown")


@pytest.mark.spec("FR 114")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_two_signals_force(start: Start, app: Path, loop: str) -> None:
    """The second signal cuts off what is under way; the shutdown still runs; the status is 1."""
    words = ("--graceful-seconds", "600", "--disconnect-grace-seconds", "0", "--loop", loop)
    program = start("main:app", "--port", "0", *words)
    address = program.address()
    with hanging(address) as read:
        program.tell(signal.SIGINT)
        assert program.until(lambda: refuses(address))
        assert program.process.poll() is None
        program.tell(signal.SIGINT)
        with contextlib.suppress(ConnectionResetError):
            assert read() == b""
    assert program.status() == 1
    assert " WARNING cutting off what is under way: told twice to stop\n" in program.err
    assert notes(app, "shutdown")


@pytest.mark.spec("FR 114")
def test_three_signals_kill(start: Start, app: Path) -> None:
    """When the shutdown hangs, the third signal ends the process as signals do."""
    app.with_name("shutdown-hangs").touch()
    program = start("main:app", "--port", "0", "--shutdown-seconds", "600")
    program.address()
    program.tell(signal.SIGTERM)
    assert program.until(lambda: notes(app, "shutdown"))
    program.tell(signal.SIGTERM)
    assert program.says("told twice to stop")
    program.tell(signal.SIGTERM)
    assert program.status() == -signal.SIGTERM


def test_a_signal_while_the_application_starts(start: Start, app: Path) -> None:
    """A startup that hangs is given up within the time for the shutdown, with status 0 and no start line."""
    app.with_name("startup-hangs").touch()
    program = start("main:app", "--port", "0", "--shutdown-seconds", "0.1")
    assert program.until(lambda: notes(app, "startup"))
    program.tell(signal.SIGTERM)
    assert program.status() == 0
    assert "bridges: serving" not in program.err


def test_an_occupied_port(start: Start) -> None:
    """One sentence, status 1, no traceback."""
    first = start("main:app", "--port", "0")
    port = first.address().rpartition(":")[2]
    second = start("main:app", "--port", port)
    assert second.status() == 1
    assert re.fullmatch(rf"bridges: 127\.0\.0\.1:{port} is in use: .*\n", second.err)


def test_a_variable_counts(start: Start) -> None:
    """Options of a container come by variables."""
    program = start("main:app", environment={"BRIDGES_PORT": "0", "BRIDGES_MAX_TARGET_BYTES": "16"})
    address = program.address()

    assert get(address, "/").status_code == 200
    assert get(address, "/of-more-than-16-bytes").status_code == 414


def test_app_dir(start: Start, app: Path) -> None:
    """--app-dir is where modules are looked for; the working directory stays what it was."""
    folder = app.parent / "src"
    folder.mkdir()
    (folder / "inner.py").write_text(APP.replace("first", "inner"))
    program = start("inner:app", "--port", "0", "--app-dir", "src")

    assert get(program.address()).text.startswith("inner")
    assert notes(app, "startup")


# --- sockets


def test_a_unix_socket(start: Start, tmp_path: Path) -> None:
    """It has its mode, is in the start line, serves, and its file goes with the server."""
    path = tmp_path / "app.sock"
    program = start("main:app", "--unix-socket", "app.sock", "--unix-mode", "600")

    assert program.address() == "unix:app.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert over_unix(path).startswith("first")
    program.tell(signal.SIGTERM)
    assert program.status() == 0
    assert not path.exists()


def test_an_inherited_descriptor(start: Start) -> None:
    """--fd serves on a socket that somebody else opened."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        program = start("main:app", "--fd", str(number), pass_fds=[number])
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"

        assert program.address() == address
        assert get(address).text.startswith("first")


# Puts a socket where systemd does, and becomes the program that follows.
AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.spec("sd_listen_fds(3)")
def test_a_socket_of_systemd(start: Start) -> None:
    """LISTEN_FDS is found without an option."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        command = [sys.executable, "-c", AS_SYSTEMD, str(number), *MODULE]
        program = start("main:app", command=command, pass_fds=[number])
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"

        assert program.address() == address
        assert get(address).text.startswith("first")


def test_tls(start: Start, tmp_path: Path) -> None:
    """A certificate turns TLS on."""
    certfile, keyfile = make_certificate(tmp_path)
    program = start("main:app", "--port", "0", "--certfile", certfile, "--keyfile", keyfile)
    address = program.address()

    assert address.startswith("https://127.0.0.1:")
    assert get(address, verify=ssl.create_default_context(cafile=certfile)).text.startswith("first")


# --- logs


def test_the_logs(start: Start) -> None:
    """Access lines stand alone on standard output, as JSON if wanted; everything else is on standard error."""
    program = start("main:app", "--port", "0", "--access-log", "json", "--threads", "2")
    get(program.address(), "/a")
    assert program.until(lambda: program.out)
    program.tell(signal.SIGTERM)
    program.status()
    (line,) = program.out.splitlines()

    assert {"target": "/a", "status": 200, "method": "GET"}.items() <= json.loads(line).items()
    assert re.match(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} WARNING --threads has no effect", program.err
    )


def test_no_access_log(start: Start) -> None:
    """--access-log off writes none."""
    program = start("main:app", "--port", "0", "--access-log", "off")
    get(program.address())
    program.tell(signal.SIGTERM)
    assert program.status() == 0
    assert program.out == ""


# --- reloading


@pytest.fixture
def reloading(start: Start) -> Program:
    program = start("main:app", "--port", "0", "--reload")
    program.address()
    return program


def change(app: Path, text: str) -> None:
    """Change the source file in one step, as editors do."""
    new = app.with_name("main.py.new")
    new.write_text(text)
    new.replace(app)


def children(app: Path) -> list[int]:
    """Give the processes that served, the last one at the end."""
    return notes(app, "startup")


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # An orphan that ended waits for whoever collects it.
    return " Z " not in Path(f"/proc/{process}/stat").read_text()


def test_a_change_starts_anew(reloading: Program, app: Path) -> None:
    """A changed source file is served; the child before it was stopped in order."""
    address = reloading.address()
    assert get(address).text.startswith("first")
    change(app, APP.replace("first", "second"))
    assert reloading.says("bridges: main.py changed: starting anew")
    assert reloading.says("bridges: serving", 2)

    assert get(address).text.startswith("second")
    first, second = children(app)
    assert notes(app, "shutdown") == [first]
    assert not alive(first)
    assert {first, second}.isdisjoint({reloading.process.pid})


def test_no_client_is_refused_while_it_reloads(reloading: Program, app: Path) -> None:
    """Clients that come between two children wait, and all of them get an answer."""
    address = reloading.address()
    enough = threading.Event()
    answers: list[str] = []

    def ask() -> None:
        while not enough.is_set():
            try:
                answers.append(get(address).text.partition(" ")[0])
            except httpx.HTTPError as error:
                answers.append(repr(error))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        assert reloading.until(lambda: "first" in answers)
        for word in ("second", "third"):
            change(app, APP.replace("first", word))
            assert reloading.until(lambda word=word: word in answers), reloading.err
    finally:
        enough.set()
        for client in clients:
            client.join(STOP_SECONDS)

    assert set(answers) == {"first", "second", "third"}


def test_a_child_that_cannot_start_is_waited_for(reloading: Program, app: Path) -> None:
    """A syntax error is shown, and the next change serves again."""
    address = reloading.address()
    change(app, "def broken(:\n")
    assert reloading.says("bridges: waiting for a change")
    assert "SyntaxError" in reloading.err
    change(app, APP.replace("first", "mended"))
    assert reloading.says("bridges: serving", 2)
    assert get(address).text.startswith("mended")


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)],
)
def test_a_signal_ends_both(reloading: Program, app: Path, number: int, whole_group: bool) -> None:
    """Ctrl-C, which a terminal sends to both, stops the child in order once; so does a signal to the parent alone."""
    (child,) = children(app)
    if whole_group:
        os.killpg(reloading.process.pid, number)
    else:
        reloading.tell(number)

    assert reloading.status() == 0
    assert notes(app, "shutdown") == [child]
    assert not alive(child)
    assert refuses(reloading.address())
    assert "told twice" not in reloading.err


def test_a_child_leaves_ctrl_c_to_its_parent(reloading: Program, app: Path) -> None:
    """SIGINT alone, which a terminal sends to both, does nothing to the child."""
    (child,) = children(app)
    os.kill(child, signal.SIGINT)
    for _ in range(2):
        assert get(reloading.address()).text == f"first {child}"
    assert "stopping" not in reloading.err


def test_a_signal_while_the_child_imports(start: Start, app: Path) -> None:
    """A child that has no handler yet ends at once, with status 0."""
    app.write_text(f"{APP}\nnote('import')\nimport time\nwhile True:\n    time.sleep(1)\n")
    program = start("main:app", "--port", "0", "--reload")
    assert program.until(lambda: notes(app, "import"))
    program.tell(signal.SIGINT)
    assert program.status() == 0
    assert "Traceback" not in program.err


def test_two_signals_force_the_child(reloading: Program) -> None:
    """The second signal reaches the child, too; its status is the program's."""
    with hanging(reloading.address()) as read:
        reloading.tell(signal.SIGINT)
        assert reloading.says("INFO stopping")
        reloading.tell(signal.SIGINT)
        with contextlib.suppress(ConnectionResetError):
            assert read() == b""
    assert reloading.status() == 1
    assert reloading.err.count("told twice to stop") == 1


def test_a_parent_that_is_killed_takes_its_child_along(reloading: Program, app: Path) -> None:
    """kill -9 of the parent leaves no process that holds the port."""
    (child,) = children(app)
    address = reloading.address()
    reloading.tell(signal.SIGKILL)
    reloading.status()
    with contextlib.ExitStack() as stack:
        watch = os.pidfd_open(child)
        stack.callback(os.close, watch)
        assert select.select([watch], [], [], STOP_SECONDS)[0]
    assert refuses(address)
    assert notes(app, "shutdown") == [child]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_unix_socket_outlives_a_child(start: Start, app: Path, tmp_path: Path, loop: str) -> None:
    """The file stays when a child stops, and goes with the parent."""
    path = tmp_path / "app.sock"
    program = start("main:app", "--unix-socket", "app.sock", "--reload", "--loop", loop)
    program.address()
    change(app, APP.replace("first", "second"))
    assert program.says("bridges: serving", 2)

    assert over_unix(path).startswith("second")
    program.tell(signal.SIGTERM)
    assert program.status() == 0
    assert not path.exists()


def test_what_is_watched(start: Start, app: Path) -> None:
    """--reload-dir and --reload-include say what matters; other files do not."""
    pages, other = app.parent / "pages", app.parent / "other"
    pages.mkdir()
    other.mkdir()
    program = start(
        "main:app", "--port", "0", "--reload", "--reload-dir", "pages", "--reload-include", "*.html"
    )
    program.address()
    change(app, APP.replace("first", "second"))
    (other / "page.html").write_text("x")
    (pages / "page.txt").write_text("x")
    (pages / "page.html").write_text("x")
    assert program.says("bridges: serving", 2)

    assert re.findall(r"bridges: (\S+) changed", program.err) == ["pages/page.html"]


# --- workers


def listening(program: Program) -> str:
    """Wait until every worker serves; give the address."""
    address = program.address()
    assert program.until(lambda: program.err.count("Booting worker") >= 2), program.err
    return address


def workers_of(address: str, program: Program, count: int = 2) -> set[int]:
    """Ask until so many processes have answered; give them."""
    seen: set[int] = set()

    def ask() -> bool:
        seen.add(int(get(address).text.partition(" ")[2]))
        return len(seen) >= count

    assert program.until(ask), seen
    return seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers(start: Start, app: Path, number: int) -> None:
    """--workers 2 serves by two processes on the port of the start line; a signal ends them in order, with 0."""
    program = start("main:app", "--port", "0", "--workers", "2")
    address = listening(program)
    workers = workers_of(address, program)

    assert program.process.pid not in workers
    assert program.until(lambda: len(notes(app, "startup")) == 2)
    program.tell(number)
    assert program.status() == 0
    assert refuses(address)
    if number == signal.SIGTERM:
        assert sorted(notes(app, "shutdown")) == sorted(workers)


def test_options_reach_the_workers(start: Start) -> None:
    """What was typed or set holds in every worker, whether gunicorn has such a setting or not."""
    program = start(
        "main:app", "--port", "0", "--workers", "2", "--max-target-bytes", "20", "--access-log", "json",
        environment={"BRIDGES_MAX_BODY_BYTES": "3"},
    )  # fmt: skip
    address = listening(program)

    for _ in range(8):
        assert get(address, "/of-more-than-20-bytes").status_code == 414
        assert get(address, "/short").status_code == 200
    assert program.until(lambda: program.out.count('"target":"/short"') == 8)
    assert all(json.loads(line) for line in program.out.splitlines())
    with httpx.Client(trust_env=False, timeout=STOP_SECONDS) as client:
        assert client.post(address, content=b"four").status_code == 413


def test_variables_have_an_effect_with_workers(start: Start) -> None:
    """What BridgeWorker says of variables under gunicorn's own command line is not said under this one."""
    program = start(
        "main:app", "--port", "0", "--workers", "2", environment={"BRIDGES_LOG_LEVEL": "info"}
    )
    listening(program)
    assert "has no effect" not in program.err


def test_workers_from_the_platforms_variable(start: Start) -> None:
    """WEB_CONCURRENCY is enough."""
    program = start("main:app", "--port", "0", environment={"WEB_CONCURRENCY": "2"})
    assert len(workers_of(listening(program), program)) == 2


def test_preload(start: Start, app: Path) -> None:
    """--preload makes the application once, in the master."""
    app.write_text(f"{APP}\nnote('import')\ndef make():\n    note('made')\n    return app\n")
    program = start("main:make", "--factory", "--port", "0", "--workers", "2", "--preload")
    workers = workers_of(listening(program), program)

    assert notes(app, "import") == notes(app, "made") == [program.process.pid]
    assert program.process.pid not in workers


@pytest.mark.parametrize("more", [(), ("--preload",)])
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere:app", "bridges: there is no module nowhere in "),
        ("main:ap", "bridges: main:ap does not exist"),
        (
            "broken:app",
            "bridges: broken:app failed while it was loaded: ZeroDivisionError: division by zero",
        ),
    ],
)
def test_workers_without_an_application(
    start: Start, app: Path, target: str, words: str, more: tuple[str, ...]
) -> None:
    """What keeps the application from being loaded ends the program with 1, and its sentence is there."""
    app.with_name("broken.py").write_text("1 / 0\n")
    program = start(target, "--port", "0", "--workers", "2", *more)

    assert program.status() == 1
    assert words in program.err
    assert ("Traceback" in program.err) == (target == "broken:app")


def test_workers_whose_application_does_not_start(start: Start, app: Path) -> None:
    """A startup that fails ends the program with 1."""
    program = start("main:wsgi", "--port", "0", "--workers", "2", "--interface", "asgi")
    assert program.status() == 1
    app.write_text("async def app(scope, receive, send):\n    raise RuntimeError('no database')\n")
    program = start("main:app", "--port", "0", "--workers", "2", "--lifespan", "on")
    assert program.status() == 1
    assert "did not start: RuntimeError('no database')" in program.err


def test_workers_on_an_occupied_port(start: Start) -> None:
    """One sentence and 1, before gunicorn says anything."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        program = start("main:app", "--port", port, "--workers", "2")
        assert program.status() == 1
    assert re.fullmatch(rf"bridges: 127\.0\.0\.1:{port} is in use: .*\n", program.err)


def test_workers_on_a_unix_socket(start: Start, tmp_path: Path) -> None:
    """Mode and file are as without workers."""
    path = tmp_path / "app.sock"
    program = start("main:app", "--unix-socket", "app.sock", "--unix-mode", "600", "--workers", "2")
    listening(program)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert over_unix(path).startswith("first")
    program.tell(signal.SIGTERM)
    assert program.status() == 0
    assert not path.exists()


@pytest.mark.parametrize("way", ["fd", "systemd"])
def test_workers_on_an_inherited_socket(start: Start, way: str) -> None:
    """--fd and LISTEN_FDS serve with workers, too."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        number = str(sock.fileno())
        if way == "fd":
            program = start("main:app", "--workers", "2", "--fd", number, pass_fds=[sock.fileno()])
        else:
            command = [sys.executable, "-c", AS_SYSTEMD, number, *MODULE]
            program = start("main:app", "--workers", "2", command=command, pass_fds=[sock.fileno()])
        assert program.says("Booting worker", 2), program.err
        assert get(f"http://127.0.0.1:{sock.getsockname()[1]}").text.startswith("first")


def test_workers_with_tls(start: Start, tmp_path: Path) -> None:
    """TLS is that of the options, the key's password included."""
    certfile, keyfile = make_certificate(tmp_path)
    program = start(
        "main:app", "--port", "0", "--workers", "2", "--certfile", certfile, "--keyfile", keyfile
    )
    address = listening(program)
    context = ssl.create_default_context(cafile=certfile)

    assert address.startswith("https://")
    assert get(address, verify=context).text.startswith("first")


def test_hup_loads_the_application_anew(start: Start, app: Path) -> None:
    """SIGHUP replaces the workers, on the same socket."""
    program = start("main:app", "--port", "0", "--workers", "2")
    address = listening(program)
    workers = workers_of(address, program)
    app.write_text(APP.replace("first", "second"))
    program.tell(signal.SIGHUP)
    assert program.until(lambda: set(notes(app, "shutdown")) == workers), program.err

    assert get(address).text.startswith("second")
    assert get(address).text.startswith("second")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_usr2_starts_a_second_master(start: Start, app: Path, kind: str) -> None:
    """SIGUSR2 starts the program once more, on the same socket; the first one can then end."""
    where = ("--port", "0") if kind == "tcp" else ("--unix-socket", "app.sock")
    program = start("main:app", *where, "--workers", "2")
    address = listening(program)
    first = set(notes(app, "startup"))
    app.write_text(APP.replace("first", "second"))
    program.tell(signal.SIGUSR2)
    assert program.until(lambda: len(notes(app, "startup")) == 4), program.err
    program.tell(signal.SIGTERM)
    assert program.status() == 0
    text = get(address).text if kind == "tcp" else over_unix(app.with_name("app.sock"))

    assert text.startswith("second")
    assert int(text.partition(" ")[2]) not in first
