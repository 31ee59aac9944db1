"""``bridges.cli`` and what it is made of, in this process; ``tests/server_hosts`` has the real ones."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import logging
import logging.config
import os
import re
import signal
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from tools.options_page import PAGE, page

import bridges
from bridges import __main__ as program
from bridges import cli
from bridges.errors import ConfigError
from bridges.server import reload
from bridges.server.command import (
    OWN_OPTIONS,
    Command,
    all_options,
    default_text,
    make_parser,
    read_command,
)
from bridges.server.config import Config, options
from bridges.server.logs import set_up_logging
from bridges.server.run import make_config
from bridges.server.signals import serve_until_told

EVENT_SECONDS = 10.0

ASGI = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
"""
WSGI = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""

# What is typed for each option of the server, what it becomes, and what it needs beside it.
TYPED: dict[str, tuple[str, Any, dict[str, str]]] = {
    "interface": ("asgi", "asgi", {}),
    "factory": ("yes", True, {}),
    "lifespan": ("on", "on", {}),
    "root_path": ("/shop", "/shop", {}),
    "startup_seconds": ("1.5", 1.5, {}),
    "loop": ("asyncio", "asyncio", {}),
    "host": ("::1", "::1", {}),
    "port": ("0", 0, {}),
    "unix_socket": ("/run/app.sock", "/run/app.sock", {}),
    "unix_mode": ("640", 0o640, {}),
    "fd": ("3", 3, {}),
    "backlog": ("5", 5, {}),
    "threads": ("7", 7, {}),
    "max_queue": ("0", 0, {}),
    "queue_seconds": ("2", 2.0, {}),
    "max_websockets": ("7", 7, {}),
    "buffer_bytes": ("1024", 1024, {}),
    "max_head_bytes": ("1000", 1000, {}),
    "max_target_bytes": ("100", 100, {}),
    "max_fields": ("10", 10, {}),
    "max_body_bytes": ("1", 1, {}),
    "max_connections": ("9", 9, {}),
    "head_seconds": ("1", 1.0, {}),
    "body_seconds": ("2", 2.0, {}),
    "keep_alive_seconds": ("0.5", 0.5, {}),
    "write_seconds": ("4", 4.0, {}),
    "disconnect_grace_seconds": ("0", 0.0, {}),
    "graceful_seconds": ("6", 6.0, {}),
    "shutdown_seconds": ("7", 7.0, {}),
    "websocket_max_bytes": ("8", 8, {}),
    "websocket_ping_seconds": ("none", None, {}),
    "websocket_pong_seconds": ("3", 3.0, {}),
    "websocket_close_seconds": ("2", 2.0, {}),
    "websocket_deflate": ("no", False, {}),
    "forwarded_allow_ips": ("10.0.0.0/8,unix", "10.0.0.0/8,unix", {}),
    "certfile": ("cert.pem", "cert.pem", {}),
    "keyfile": ("key.pem", "key.pem", {"certfile": "cert.pem"}),
    "keyfile_password": ("secret", "secret", {}),
    "client_ca": ("ca.pem", "ca.pem", {"certfile": "c", "client_certificate": "optional"}),
    "client_certificate": ("required", "required", {"certfile": "c", "client_ca": "ca.pem"}),
    "access_log": ("json", "json", {}),
    "log_level": ("error", "error", {}),
}
BY_NAME = {option.name: option for option in all_options()}
OWN_TYPED: dict[str, tuple[str, str, Any]] = {
    "app_dir": ("src", "app_dir", "src"),
    "workers": ("3", "workers", 3),
    "preload": ("on", "preload", True),
    "reload": ("on", "reload", True),
    "reload_dir": ("a, b", "reload_dirs", ("a", "b")),
    "reload_include": ("*.py,*.html", "reload_patterns", ("*.py", "*.html")),
}


def typed(name: str, text: str) -> list[str]:
    """Give the words that set an option on the command line."""
    option = BY_NAME[name]
    if option.kind is bool:
        return [option.flag if option.parse(text) else option.flag.replace("--", "--no-", 1)]
    return [option.flag, text]


@pytest.fixture(autouse=True)
def no_logging() -> Iterator[None]:
    """Give the loggers of the package as they are after an import, and leave them so."""
    loggers = {
        name: logger
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and f"{name}.".startswith("bridges.")
    }
    # Those that a test gets for the first time are made here, or they would stay.
    loggers |= {name: logging.getLogger(name) for name in ("bridges", "bridges.access")}
    before = {
        name: (each.handlers[:], each.level, each.propagate, each.disabled)
        for name, each in loggers.items()
    }
    for logger in loggers.values():
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate, logger.disabled = True, False
    yield
    for name, (handlers, level, propagate, disabled) in before.items():
        logger = loggers[name]
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out variables of the machine that are read here."""
    for name in list(os.environ):
        if name.startswith("BRIDGES_") or name in {"WEB_CONCURRENCY", "LISTEN_PID", "GUNICORN_FD"}:
            monkeypatch.delenv(name)


Place = Callable[..., str]
_numbers = itertools.count()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Give a function that writes a module into the working directory and gives the path of its application."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    # One for each test: the interpreter remembers what a directory holds.
    name = f"placed_{next(_numbers)}"

    def write(source: str, attribute: str = "app") -> str:
        (tmp_path / f"{name}.py").write_text(source)
        return f"{name}:{attribute}"

    yield write
    sys.modules.pop(name, None)


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """Give the one sentence that was said on standard error."""
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("bridges: ")
    assert said.err.endswith("\n")
    assert said.err.count("\n") == 1
    return said.err[len("bridges: ") : -1]


# --- options


def test_the_table_of_this_file_has_every_option():
    """A new option gets a line in the tables above."""
    assert list(TYPED) == [option.name for option in options()]
    assert list(OWN_TYPED) == [option.name for option in OWN_OPTIONS]


class Recorder:
    """Stands where the server does, and takes down what reaches it."""

    seen: dict[str, Any]

    def __init__(self, app: object, *, sockets: object = None, **given: Any) -> None:
        Recorder.seen = given
        raise ConfigError("seen")


@pytest.mark.parametrize("way", ["flag", "variable"])
@pytest.mark.parametrize("name", TYPED)
def test_every_option_reaches_the_server(
    name: str, way: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option of Config comes to the server as it was typed, or as its variable says."""
    text, value, beside = TYPED[name]
    app = place(ASGI)
    if name == "factory":
        app = place(f"{ASGI}\ndef make():\n    return app\n", "make")
    words = [word for other, its in beside.items() for word in typed(other, its)]
    if way == "flag":
        words += typed(name, text)
    else:
        monkeypatch.setenv(BY_NAME[name].variable, text)
    monkeypatch.setattr(cli, "Server", Recorder)

    assert cli.main([app, *words]) == 1
    assert Recorder.seen == {**beside, name: value}
    assert getattr(make_config(Recorder.seen), name) == value


@pytest.mark.parametrize("way", ["flag", "variable"])
@pytest.mark.parametrize("name", OWN_TYPED)
def test_every_option_of_the_command_line_is_read(name: str, way: str) -> None:
    """An option that only the command line knows is read from its flag and from its variable."""
    text, attribute, value = OWN_TYPED[name]
    words = typed(name, text) if way == "flag" else []
    variables = {BY_NAME[name].variable: text} if way == "variable" else {}

    assert getattr(read_command(["main:app"], {}), attribute) != value
    assert getattr(read_command(["main:app", *words], variables), attribute) == value


@pytest.mark.parametrize("name", [*TYPED, *OWN_TYPED])
def test_what_is_typed_wins_over_a_variable(name: str) -> None:
    """The flag's value counts where the variable says something else."""
    option = BY_NAME[name]
    text = TYPED[name][0] if name in TYPED else OWN_TYPED[name][0]
    words = [
        word
        for other, its in TYPED.get(name, ("", "", {}))[2].items()
        for word in typed(other, its)
    ]
    other = {bool: "off" if option.parse(text) else "on"}.get(option.kind, "1")
    if option.choices:
        other = next(choice for choice in option.choices if choice != text)

    alone = read_command(["main:app", *words, *typed(name, text)], {})
    both = read_command(["main:app", *words, *typed(name, text)], {option.variable: other})
    assert both == alone


@pytest.mark.parametrize("option", [option for option in all_options() if option.kind is bool])
def test_a_switch_can_be_turned_on_and_off(option: Any) -> None:
    """A bool has --x and --no-x."""
    parse = make_parser().parse_args

    assert getattr(parse(["main:app", option.flag]), option.name) is True
    assert getattr(parse(["main:app", f"--no-{option.flag[2:]}"]), option.name) is False


def test_without_options_everything_is_as_config_says() -> None:
    """What is not typed or set is left to Config."""
    command = read_command(["main:app"], {})

    assert command.config == Config()
    assert command.given == {}
    assert (command.app, command.app_dir, command.workers) == ("main:app", ".", 1)
    assert command.reload_dirs == (".",)
    assert not command.needs_gunicorn


@pytest.mark.parametrize(
    ("words", "variables", "workers"),
    [
        ([], {"WEB_CONCURRENCY": "4"}, 4),
        ([], {"WEB_CONCURRENCY": "4", "BRIDGES_WORKERS": "2"}, 2),
        (["--workers", "3"], {"WEB_CONCURRENCY": "4", "BRIDGES_WORKERS": "2"}, 3),
        (["--reload"], {"WEB_CONCURRENCY": "4"}, 1),
    ],
)
def test_workers_from_the_variable_of_platforms(
    words: list[str], variables: dict[str, str], workers: int
) -> None:
    """WEB_CONCURRENCY counts where nothing else says how many workers, and not with --reload."""
    assert read_command(["main:app", *words], variables).workers == workers


@pytest.mark.parametrize(
    ("words", "needed"),
    [([], False), (["--workers", "1"], False), (["--workers", "2"], True), (["--preload"], True)],
)
def test_when_gunicorn_is_needed(words: list[str], needed: bool) -> None:
    """One process needs nobody who keeps it; several do, and so does preloading."""
    assert read_command(["main:app", *words], {}).needs_gunicorn is needed


@pytest.mark.parametrize(
    ("words", "variables", "sentence"),
    [
        ([], {}, "the following arguments are required: module:attribute (see bridges --help)"),
        (["a:b", "--bogus"], {}, "unrecognized arguments: --bogus (see bridges --help)"),
        (["a:b", "--hos", "x"], {}, "unrecognized arguments: --hos x (see bridges --help)"),
        (["a:b", "--port"], {}, "argument --port: expected one argument (see bridges --help)"),
        (["a:b", "--port", "x"], {}, "port must be a whole number, got 'x'"),
        (["a:b", "--port", "65536"], {}, "port must be at most 65535, got 65536"),
        (["a:b", "--head-seconds", "nan"], {}, "head_seconds must be at least 0.1, got nan"),
        (["a:b", "--lifespan", "maybe"], {}, "lifespan must be one of auto, on, off, got 'maybe'"),
        (["a:b", "--workers", "0"], {}, "workers must be at least 1, got 0"),
        (
            ["a:b", "--unix-socket", "s", "--fd", "3"],
            {},
            "unix_socket and fd exclude each other: name one place to listen on",
        ),
        (
            ["a:b", "--reload", "--workers", "2"],
            {},
            "reload serves by one process: leave out workers and preload",
        ),
        (
            ["a:b", "--reload", "--preload"],
            {},
            "reload serves by one process: leave out workers and preload",
        ),
        (
            ["a:b"],
            {"BRIDGES_PORT": "x"},
            "port must be a whole number, got 'x' (from BRIDGES_PORT)",
        ),
        (
            ["a:b"],
            {"BRIDGES_RELOAD": "x"},
            "reload must be true or false, got 'x' (from BRIDGES_RELOAD)",
        ),
        (
            ["a:b"],
            {"WEB_CONCURRENCY": "many"},
            "workers must be a whole number, got 'many' (from WEB_CONCURRENCY)",
        ),
    ],
)
def test_a_wrong_option_is_one_sentence_and_status_2(
    words: list[str],
    variables: dict[str, str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What cannot be understood ends the program before it looks at the application."""
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    try:
        status: Any = cli.main(words)
    except SystemExit as end:
        status = end.code

    assert status == 2
    assert complaint(capsys) == sentence


def help_text(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_help_is_complete(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--help has each option in its group: flag, what it is for, default, variable."""
    monkeypatch.setenv("COLUMNS", "1000")
    text = help_text(capsys)
    groups = dict(re.findall(r"^(\S[^\n]*):\n((?:  .*\n)+)", text, re.MULTILINE))

    for option in all_options():
        entry = f"{option.text} (default: {default_text(option)}; {option.variable})"
        lines = [line for line in groups[option.group].splitlines() if entry in line]
        assert len(lines) == 1, option.name
    for option in all_options():
        assert re.search(rf"^  {option.flag}[ ,]", groups[option.group], re.MULTILINE), option.name
        if option.kind is bool:
            assert f", --no-{option.flag[2:]}" in groups[option.group]
    assert {"--help", "--version"} <= set(re.findall(r"--\w+", groups["options"]))
    assert "Exit status: 0" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("startup_seconds", "60 seconds"),
        ("max_head_bytes", "65536 bytes"),
        ("unix_mode", "666, octal"),
        ("max_body_bytes", "none"),
        ("root_path", "empty"),
        ("websocket_deflate", "on"),
        ("factory", "off"),
        ("app_dir", "."),
    ],
)
def test_defaults_have_units(name: str, words: str) -> None:
    """A default is shown as it would be typed, with its unit."""
    assert default_text(BY_NAME[name]) == words


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version gives the package's version."""
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])

    assert end.value.code == 0
    assert capsys.readouterr().out == f"bridges {bridges.__version__}\n"


def test_the_page_of_options_is_up_to_date() -> None:
    """docs/reference/options.md is what tests/tools/options_page.py makes of the options."""
    assert PAGE.read_text("utf-8") == page(), "run python tests/tools/options_page.py"


# --- what keeps it from serving


def test_an_application_that_is_not_there(place: Place, capsys: Any) -> None:
    """A wrong module or attribute is one sentence, and status 1."""
    app = place(ASGI)
    assert cli.main(["missing_module:app"]) == 1
    assert complaint(capsys).startswith("there is no module missing_module in ")
    assert cli.main([app.replace(":app", ":ap")]) == 1
    assert f"type {app}" in complaint(capsys)


def test_an_application_of_no_kind(place: Place, capsys: Any) -> None:
    """What cannot be an application is one sentence, and status 1."""
    app = place("def app(a, b, c, d, e):\n    pass\n")
    assert cli.main([app]) == 1
    assert "is no application" in complaint(capsys)


def test_an_occupied_port(place: Place, capsys: Any) -> None:
    """An address in use is one sentence, and status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main([place(ASGI), "--port", str(port)]) == 1
    assert complaint(capsys).startswith(f"127.0.0.1:{port} is in use: ")


@pytest.mark.parametrize("words", [(), ("--preload",)])
def test_a_certificate_that_cannot_be_read(
    words: tuple[str, ...], place: Place, capsys: Any
) -> None:
    """An unreadable file is one sentence, and status 1; with gunicorn, too."""
    if words:
        pytest.importorskip("gunicorn")
    assert cli.main([place(ASGI), "--certfile", "nowhere.pem", *words]) == 1
    assert complaint(capsys).startswith("certfile 'nowhere.pem' cannot be read (No such file")


@pytest.mark.parametrize(
    ("source", "title"),
    [
        (
            "import not_installed_anywhere\n",
            "ModuleNotFoundError: No module named 'not_installed_anywhere'",
        ),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def broken(:\n", "SyntaxError: invalid syntax"),
        ("import sys\nsys.exit('enough')\n", "SystemExit: enough"),
        (
            "from bridges.server.config import Config\nConfig(port=-1)\n",
            "bridges.errors.ConfigError: port must be at least 0, got -1",
        ),
        (f"raise ValueError({'x' * 300!r})\n", f"ValueError: {'x' * 185}..."),
    ],
)
def test_what_the_applications_own_code_raises(
    source: str, title: str, place: Place, capsys: Any
) -> None:
    """A failing import shows the application's frames, none of ours, and then the sentence; status 1."""
    app = place(source)

    assert cli.main([app]) == 1
    *frames, last = capsys.readouterr().err.splitlines()
    files = re.findall(r'File "([^"]+)"', "\n".join(frames))
    assert last == f"bridges: {app} failed while it was loaded: {title}"
    assert Path(files[0]).name == f"{app.partition(':')[0]}.py"
    assert not [file for file in files if file.endswith(("cli.py", "loading.py"))]


def test_a_factory_that_fails(place: Place, capsys: Any) -> None:
    """A factory is the application's own code, too."""
    app = place("def make():\n    raise RuntimeError('no settings')\n", "make")

    assert cli.main([app, "--factory"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):\n")
    assert "in make\n" in said
    assert said.endswith(f"bridges: {app} failed while it was loaded: RuntimeError: no settings\n")


def test_an_interrupt_while_the_application_is_loaded(place: Place, capsys: Any) -> None:
    """Ctrl-C before there is a server ends the program as Ctrl-C does, without a word."""
    assert cli.main([place("raise KeyboardInterrupt\n")]) == 130
    assert capsys.readouterr().err == ""


def test_a_startup_that_fails(place: Place, capsys: Any) -> None:
    """An application that does not start ends the program with a sentence; its traceback is in the log."""
    app = place("async def app(scope, receive, send):\n    raise RuntimeError('no database')\n")

    assert cli.main([app, "--lifespan", "on", "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last):\n" in said
    assert said.splitlines()[-1].startswith("bridges: ")
    assert said.endswith(f"{app.replace(':', '.')} did not start: RuntimeError('no database')\n")


@pytest.mark.parametrize(
    ("missing", "words", "extra"),
    [
        ("gunicorn", ["--workers", "2"], "gunicorn"),
        ("gunicorn", ["--preload"], "gunicorn"),
        ("watchfiles", ["--reload", "--port", "0"], "reload"),
        ("uvloop", ["--loop", "uvloop", "--port", "0"], "server"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    missing: str, words: list[str], extra: str, place: Place, capsys: Any, monkeypatch: Any
) -> None:
    """What an option needs and is not installed is one sentence, with what to install."""
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)

    assert cli.main([place(ASGI), *words]) == 1
    sentence = complaint(capsys)
    assert f"{missing}, which is not installed" in sentence or f"{missing} is not" in sentence
    assert f"pip install 'wsgi-asgi-bridges[{extra}]'" in sentence


def test_a_missing_server_is_named_with_its_extra(capsys: Any, monkeypatch: Any) -> None:
    """Without the extra server, the program is one sentence, whatever is typed."""

    def import_module(name: str) -> Any:
        raise ImportError("the server needs httptools: pip install it", name="httptools")

    monkeypatch.setattr(program, "import_module", import_module)
    assert program.main() == 1
    assert complaint(capsys) == "the server needs httptools: pip install it"


def test_another_missing_module_is_not_hidden(monkeypatch: Any) -> None:
    """An import that fails for another reason is a defect, and shown as one."""

    def import_module(name: str) -> Any:
        raise ImportError("anything", name="anything")

    monkeypatch.setattr(program, "import_module", import_module)
    with pytest.raises(ImportError, match="anything"):
        program.main()


def test_a_directory_to_watch_that_is_not_there(place: Place, capsys: Any) -> None:
    """--reload-dir names directories."""
    pytest.importorskip("watchfiles")
    assert cli.main([place(ASGI), "--port", "0", "--reload", "--reload-dir", ".,nowhere"]) == 1
    assert complaint(capsys) == "--reload-dir: there is no directory nowhere"


# --- serving


class Visitor(threading.Thread):
    """A client that waits for the start line, makes its visit, and tells this process to stop."""

    def __init__(
        self, err: Watched, visit: Callable[[str], object], numbers: tuple[int, ...]
    ) -> None:
        super().__init__(name="visitor")
        self.err = err
        self.visit = visit
        self.numbers = numbers
        self.found: object = None
        self.main = threading.main_thread().ident

    def run(self) -> None:
        # Without a start line there is no handler, and the signal would end the tests.
        if not self.err.started.wait(EVENT_SECONDS) or not self.err.address:
            return
        try:
            self.found = self.visit(self.err.address)
        except Exception as error:
            self.found = error
        finally:
            for number in self.numbers:
                assert self.main is not None
                signal.pthread_kill(self.main, number)


class Watched(io.StringIO):
    """A standard error in which the start line is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.started = threading.Event()
        self.address = ""

    def write(self, text: str) -> int:
        found = re.match(r"bridges: serving .* on (\S+)", text)
        if found:
            self.address = found[1]
            self.started.set()
        return super().write(text)


def ask(address: str) -> bytes:
    with urllib.request.urlopen(f"{address}/a?b", timeout=EVENT_SECONDS) as answer:
        body: bytes = answer.read()
    return body


def run(
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    visit: Callable[[str], object] = ask,
    numbers: tuple[int, ...] = (signal.SIGTERM,),
) -> tuple[int, str, object]:
    """Run the command line with a visitor; give its status, what it said, and what the visitor found."""
    err = Watched()
    monkeypatch.setattr(sys, "stderr", err)
    visitor = Visitor(err, visit, numbers)
    visitor.start()
    try:
        status = cli.main(words)
    finally:
        err.started.set()
        visitor.join(EVENT_SECONDS)
    return status, err.getvalue(), visitor.found


@pytest.mark.parametrize("loop", ["asyncio", "auto"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("source", "kind"), [(ASGI, "ASGI"), (WSGI, "WSGI")])
def test_it_serves_until_a_signal(
    source: str, kind: str, number: int, loop: str, place: Place, capsys: Any, monkeypatch: Any
) -> None:
    """It says what it serves and where, serves, writes the access log alone to standard output, and ends with 0."""
    app = place(source)
    status, said, found = run(monkeypatch, [app, "--port", "0", "--loop", loop], numbers=(number,))

    assert found == b"hello"
    assert status == 0
    name = app.replace(":", ".")
    line = rf"bridges: serving {app} \({kind}, {name}\) on http://127\.0\.0\.1:\d+ \(press Ctrl-C to stop\)"
    assert re.fullmatch(rf"{line}\n\S+ \S+ INFO stopping\n", said)
    lines = capsys.readouterr().out
    assert re.fullmatch(r'127\.0\.0\.1 - - \[[^]]+\] "GET /a\?b HTTP/1\.1" 200 5\n', lines)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_the_interface_that_is_typed_counts(place: Place, monkeypatch: Any) -> None:
    """An application that shows nothing of its kind is served as the user says."""
    app = place(
        WSGI.replace("(environ, start_response)", "(*args)").replace("start_response(", "args[1](")
    )
    status, said, found = run(monkeypatch, [app, "--port", "0", "--interface", "wsgi"])

    assert (status, found) == (0, b"hello")
    assert f"bridges: serving {app} (WSGI, " in said


@pytest.mark.parametrize(("level", "lines"), [("debug", 1), ("info", 1), ("warning", 0)])
def test_the_start_line_is_information(
    level: str, lines: int, place: Place, monkeypatch: Any
) -> None:
    """Whoever asks for warnings only gets no start line."""
    app = place(ASGI)
    ready = threading.Event()
    announce = cli._announce

    def announced(*arguments: Any) -> None:
        announce(*arguments)
        ready.set()
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(cli, "_announce", announced)
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)

    assert cli.main([app, "--port", "0", "--log-level", level]) == 0
    assert ready.is_set()
    assert len(re.findall("^bridges: serving ", err.getvalue(), re.MULTILINE)) == lines


def test_warnings_are_logged(place: Place, monkeypatch: Any) -> None:
    """What was typed without effect is in the log before the start line."""
    app = place(ASGI)
    _, said, _ = run(monkeypatch, [app, "--port", "0", "--threads", "3"])

    assert f" WARNING --threads has no effect: {app} is not a WSGI application\n" in said
    assert said.index(" WARNING ") < said.index("bridges: serving")


def command(*words: str, variables: dict[str, str] | None = None) -> Command:
    return read_command(["main:app", *words], variables or {})


@pytest.mark.parametrize(
    ("given", "kind", "environment", "warnings"),
    [
        (command(), "wsgi", {}, []),
        (command(), "asgi", {"BRIDGES_PORT": "1", "BRIDGES_WHEEL": "x", "HOME": "x"}, []),
        (
            command(),
            "asgi",
            {"BRIDGES_PROT": "1"},
            ["the variable BRIDGES_PROT is no option: BRIDGES_PORT is"],
        ),
        (
            command(),
            "asgi",
            {"BRIDGES_RELOADS": "1"},
            ["the variable BRIDGES_RELOADS is no option: BRIDGES_RELOAD is"],
        ),
        (command("--threads", "2"), "wsgi", {}, []),
        (
            command(variables={"BRIDGES_MAX_QUEUE": "2"}),
            "asgi2",
            {},
            ["--max-queue has no effect: main:app is not a WSGI application"],
        ),
        (
            command("--forwarded-allow-ips", "unix, *"),
            "wsgi",
            {},
            ["--forwarded-allow-ips * believes what every client says of itself: name the proxies"],
        ),
    ],
)
def test_warnings(
    given: Command,
    kind: Any,
    environment: dict[str, str],
    warnings: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Options without effect, variables that are misspelt, and trust in everybody are warned of."""
    cli.warn_of(given, kind, environment)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", warning) for warning in warnings
    ]


# --- signals


class Fake:
    """A server whose steps a test decides; it refuses to be stopped twice."""

    def __init__(self, steps: list[str], hold: str = "") -> None:
        self.steps = steps
        self.hold = hold
        self.forced = asyncio.Event()

    async def start(self) -> None:
        self.steps.append("start")
        if self.hold == "start":
            await asyncio.Event().wait()

    async def wind_down(self) -> None:
        pass

    async def stop(self) -> None:
        assert "stop" not in self.steps
        self.steps.append("stop")
        if self.hold == "stop":
            signal.raise_signal(signal.SIGTERM)
            await self.forced.wait()

    def force(self) -> None:
        self.steps.append("force")
        self.forced.set()


@pytest.fixture
def kept_signals() -> Iterator[None]:
    """Give signals back to whoever had them."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def obey(server_of: Callable[[], Fake], started: Callable[[], object], **options: Any) -> bool:
    async def serve() -> bool:
        task = serve_until_told(server_of(), started=started, **options)
        return await asyncio.wait_for(task, EVENT_SECONDS)

    return asyncio.run(serve())


@pytest.mark.spec("FR 114")
@pytest.mark.usefixtures("kept_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_gracefully(number: int) -> None:
    """One signal stops the server once it has started, and forces nothing."""
    steps: list[str] = []

    assert obey(lambda: Fake(steps), lambda: signal.raise_signal(number)) is True
    assert steps == ["start", "stop"]


@pytest.mark.spec("FR 114")
@pytest.mark.usefixtures("kept_signals")
def test_the_second_signal_forces_and_the_third_is_nobodys() -> None:
    """A signal during the stop forces it; after that the process can be killed by one."""
    steps: list[str] = []

    assert obey(lambda: Fake(steps, "stop"), lambda: signal.raise_signal(signal.SIGINT)) is False
    assert steps == ["start", "stop", "force"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


@pytest.mark.usefixtures("kept_signals")
def test_a_signal_in_the_middle_of_the_start() -> None:
    """A startup that goes on is given up, and nothing is said to have started."""
    steps: list[str] = []

    class Starting(Fake):
        async def start(self) -> None:
            asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)
            await super().start()

    assert obey(lambda: Starting(steps, "start"), lambda: steps.append("started")) is True
    assert steps == ["start"]


@pytest.mark.usefixtures("kept_signals")
def test_a_start_that_fails() -> None:
    """What the start raises is raised, and the signals are given back."""

    class Failing(Fake):
        async def start(self) -> None:
            raise ConfigError("no address")

    with pytest.raises(ConfigError, match="no address"):
        obey(lambda: Failing([]), lambda: None)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.usefixtures("kept_signals")
def test_the_end_of_the_leash_stops() -> None:
    """A parent that is gone, however it went, stops its child."""
    held, let_go = os.pipe()
    steps: list[str] = []
    watched: list[bool] = []

    class Leashed(Fake):
        async def wind_down(self) -> None:
            pass

        async def stop(self) -> None:
            # An end that is still looked at would be seen in every step of the loop.
            watched.append(asyncio.get_running_loop().remove_reader(held))
            await super().stop()

    try:
        stopped = obey(lambda: Leashed(steps), lambda: os.close(let_go), leash=held)
    finally:
        os.close(held)

    assert stopped is True
    assert steps == ["start", "stop"]
    assert watched == [False]


# --- logging


Capture: TypeAlias = pytest.CaptureFixture[str]


def test_where_records_go(capsys: Capture) -> None:
    """The error log has time, level and message on standard error; access lines stand alone on standard output."""
    set_up_logging(Config(log_level="warning"))
    logging.getLogger("bridges.server").warning("careful, %s", "you")
    logging.getLogger("bridges.adapters").error("broken")
    logging.getLogger("bridges.server").info("not shown")
    logging.getLogger("bridges.access").info("GET / 200")
    out, err = capsys.readouterr()

    assert out == "GET / 200\n"
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4}"
    assert re.fullmatch(rf"{time} WARNING careful, you\n{time} ERROR broken\n", err)


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_level(level: str, capsys: Capture) -> None:
    """log_level is the lowest that is shown of the error log, and nothing to the access log."""
    set_up_logging(Config(log_level=level))
    shown = [
        name
        for name in ("debug", "info", "warning", "error")
        if logging.getLogger("bridges.server").isEnabledFor(getattr(logging, name.upper()))
    ]

    assert shown[0] == level
    assert logging.getLogger("bridges.access").isEnabledFor(logging.INFO)


def test_records_are_written_once(capsys: Capture) -> None:
    """An application's handlers at the root do not repeat them, and setting up twice is setting up once."""
    rooted = io.StringIO()
    handler = logging.StreamHandler(rooted)
    logging.getLogger().addHandler(handler)
    try:
        set_up_logging(Config())
        set_up_logging(Config())
        logging.getLogger("bridges.server").warning("once")
        logging.getLogger("bridges.access").info("line")
    finally:
        logging.getLogger().removeHandler(handler)

    out, err = capsys.readouterr()

    assert rooted.getvalue() == ""
    assert out == "line\n"
    assert err.count("once") == 1


def test_a_program_that_has_configured_our_logger_keeps_it(
    capsys: Capture,
) -> None:
    """Handlers and level that somebody gave to bridges are left alone, for both logs."""
    mine = io.StringIO()
    logger = logging.getLogger("bridges")
    logger.addHandler(logging.StreamHandler(mine))
    logger.setLevel(logging.ERROR)
    set_up_logging(Config())
    logging.getLogger("bridges.server").error("mine")
    logging.getLogger("bridges.server").warning("nobody's")

    assert mine.getvalue() == "mine\n"
    assert tuple(capsys.readouterr()) == ("", "")


def test_a_program_that_has_configured_the_access_log_keeps_it(
    capsys: Capture,
) -> None:
    """The access log alone may be somebody's, too."""
    mine = io.StringIO()
    logger = logging.getLogger("bridges.access")
    logger.addHandler(logging.StreamHandler(mine))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    set_up_logging(Config())
    logger.info("line")
    logging.getLogger("bridges.server").warning("ours")
    out, err = capsys.readouterr()

    assert mine.getvalue() == "line\n"
    assert out == ""
    assert err.endswith(" WARNING ours\n")


def test_loggers_that_an_application_disabled_by_default_speak(
    capsys: Capture,
) -> None:
    """dictConfig disables loggers that it does not name, unless told otherwise; nobody means ours."""
    handlers = logging.getLogger().handlers[:]
    try:
        logging.config.dictConfig({"version": 1})
        assert logging.getLogger("bridges.access").disabled
        set_up_logging(Config())
    finally:
        logging.getLogger().handlers[:] = handlers
        for logger in logging.root.manager.loggerDict.values():
            if isinstance(logger, logging.Logger) and not logger.name.startswith("bridges"):
                logger.disabled = False
    logging.getLogger("bridges.access").info("line")
    logging.getLogger("bridges.server").warning("careful")
    out, err = capsys.readouterr()

    assert out == "line\n"
    assert err.endswith(" WARNING careful\n")


def test_a_reader_of_the_access_log_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """bridges main:app | head: the log ends with one warning, and the server goes on."""
    reading, writing = os.pipe()
    os.close(reading)
    err = io.StringIO()
    with open(writing, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        set_up_logging(Config())
        for _ in range(3):
            logging.getLogger("bridges.access").info("GET / 200")
        assert logging.getLogger("bridges.access").handlers == []
        # What is left in the buffer goes nowhere when the stream is closed.
    assert re.fullmatch(
        r"\S+ \S+ WARNING standard output is closed: the access log ends\n", err.getvalue()
    )


def test_another_failure_of_the_access_log_is_reported(capsys: Capture) -> None:
    """What else a handler fails at is shown as logging does."""
    set_up_logging(Config())
    logging.getLogger("bridges.access").info("%s and %s", "one")
    out, err = capsys.readouterr()

    assert out == ""
    assert "--- Logging error ---" in err


# --- gunicorn and reloading, as far as they need neither


def test_settings_of_gunicorn() -> None:
    """What the arbiter has to know of the options."""
    given = command(
        "--workers", "3", "--preload", "--backlog", "7", "--log-level", "debug", "--startup-seconds", "90.5",
        "--graceful-seconds", "1.5", "--shutdown-seconds", "2", "--certfile", "c", "--keyfile", "k",
    )  # fmt: skip

    assert cli.gunicorn_settings(given, ["fd://9"]) == {
        "bind": ["fd://9"],
        "backlog": 7,
        "workers": 3,
        "worker_class": "bridges.gunicorn.BridgeWorker",
        "preload_app": True,
        "proc_name": "main:app",
        "graceful_timeout": 9,
        "timeout": 91,
        "loglevel": "debug",
        "accesslog": "-",
        "certfile": "c",
        "keyfile": "k",
        "control_socket_disable": True,
    }
    settings = cli.gunicorn_settings(command("--workers", "2", "--access-log", "off"), [])
    assert settings["accesslog"] is None
    assert (settings["timeout"], settings["graceful_timeout"]) == (60, 65)


@pytest.mark.parametrize(
    ("end", "status"), [("SystemExit(0)", 0), ("SystemExit(3)", 1), ("Halt", 1)]
)
def test_the_status_of_gunicorn(
    end: str, status: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However gunicorn ends, the status is 0 or 1."""
    arbiter = pytest.importorskip("gunicorn.arbiter")
    ends = {"SystemExit(0)": SystemExit(0), "SystemExit(3)": SystemExit(3)}

    def run(self: Any) -> None:
        (number,) = self.cfg.address
        os.close(number)
        raise ends.get(end) or arbiter.HaltServer("App failed to load.", 4)

    monkeypatch.setattr(arbiter.Arbiter, "run", run)
    monkeypatch.setenv("SERVER_SOFTWARE", "")  # gunicorn's own is taken back after the test
    for name in ("gunicorn.error", "gunicorn.access"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    assert cli.main([place(ASGI), "--port", "0", "--workers", "2"]) == status


def test_what_a_child_inherits() -> None:
    """The variable names the leash and the sockets, once."""
    leash, let_go = os.pipe()
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    for number in (leash, *(each.fileno() for each in listening)):
        os.set_inheritable(number, True)
    numbers = ",".join(str(each.fileno()) for each in listening)
    environment = {"_BRIDGES_CHILD": f"{leash},{numbers}", "HOME": "/"}
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, leash)
        stack.callback(os.close, let_go)
        passed = reload.inherited(environment)
        for each in listening:
            each.detach()
        assert passed is not None
        for each in passed[1]:
            stack.callback(each.close)

        assert passed[0] == leash
        assert not any(
            os.get_inheritable(each) for each in (leash, *map(socket.socket.fileno, passed[1]))
        )
        assert [f"{each.fileno()}" for each in passed[1]] == numbers.split(",")
        assert environment == {"HOME": "/"}
        assert reload.inherited(environment) is None
