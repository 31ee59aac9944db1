"""The chat of ``examples/chat`` in a real browser: both back ends, each on each of the four servers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hostkit.chromium import Browser, Window
    from hostkit.process import Server

pytestmark = pytest.mark.hosts

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

BRIDGES = ("bridges", "--port", "{port}", "--access-log", "off", "{target}")
UVICORN = ("uvicorn", "--port", "{port}", "--log-level", "warning", "{target}")
GUNICORN = ("gunicorn", "-b", "127.0.0.1:{port}", "--no-control-socket")
GTHREAD = (*GUNICORN, "-c", "python:examples.chat.gunicorn_conf", "{target}")
BRIDGE_WORKER = (*GUNICORN, "-k", "bridges.gunicorn.BridgeWorker", "{target}")


@dataclass(frozen=True)
class Served:
    """One row of the table in the README of the chat."""

    backend: str
    server: str
    target: str
    command: tuple[str, ...]


ROWS = (
    Served("Starlette", "bridges", "examples.chat.starlette_chat:app", BRIDGES),
    Served("Starlette", "uvicorn", "examples.chat.starlette_chat:app", UVICORN),
    Served("Starlette", "BridgeWorker", "examples.chat.starlette_chat:app", BRIDGE_WORKER),
    Served("Starlette", "gthread", "examples.chat.starlette_chat:application", GTHREAD),
    Served("Flask-Sock", "bridges", "examples.chat.flask_chat:app", BRIDGES),
    Served("Flask-Sock", "uvicorn", "examples.chat.flask_chat:asgi", UVICORN),
    Served("Flask-Sock", "BridgeWorker", "examples.chat.flask_chat:app", BRIDGE_WORKER),
    Served("Flask-Sock", "gthread", "examples.chat.flask_chat:app", GTHREAD),
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder in which ``examples`` can be imported and nothing else: ``bridges`` is the installed one."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "examples").symlink_to(EXAMPLES)
    return folder


def label(row: Served) -> str:
    return f"{row.backend}-{row.server}"


@pytest.fixture(scope="module", params=ROWS, ids=label)
def served(
    request: pytest.FixtureRequest, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Serve the chat; give the server, by which it can be told to start anew."""
    from hostkit.hosts import Host, Matrix
    from hostkit.process import Server

    row: Served = request.param
    host = Host(row.server, row.command[0], row.command, threads=50)
    matrix = Matrix("browser", "", "", "", (host,), {row.backend: row.target}, (), package, ())
    server = Server(matrix, host, row.backend, tmp_path_factory.mktemp("served"), ("", ""))
    try:
        server.start()
        yield server
    finally:
        server.stop()


Enter = Callable[..., "Window"]


@pytest.fixture
def enter(browser: Browser, served: Server, request: pytest.FixtureRequest) -> Iterator[Enter]:
    """Give a function that opens a window and joins a room of this test's own."""
    windows: list[Window] = []
    room = request.node.originalname.removeprefix("test_")[:24]

    def come(name: str, width: int = 900, height: int = 640, **look: bool) -> Window:
        window = browser.window(
            f"http://127.0.0.1:{served.port}/?room={room}", width, height, **look
        )
        windows.append(window)
        window.type("[name=name]", name, enter=True)
        window.shows("Connected", "#state")
        return window

    yield come
    faults = [fault for window in windows for fault in window.faults]
    for window in windows:
        window.close()
    assert faults == []


def start_anew(served: Server) -> None:
    """Replace the process that serves: by a signal under gunicorn, elsewhere by a stop and a start."""
    assert served.process
    if served.host.distribution == "gunicorn":
        served.process.send_signal(signal.SIGHUP)
    else:
        served.stop()
        served.spawn(served.port)


def people(window: Window) -> list[str]:
    names: list[str] = window.evaluate(
        "[...document.querySelectorAll('#there li')].map((item) => item.textContent)"
    )
    return names


def process_of(window: Window) -> str:
    return window.text("#backend").rpartition("process ")[2]


@pytest.mark.spec("RFC 6455", "section 5.6")
def test_messages_go_both_ways(enter: Enter) -> None:
    """What one window sends the other one shows, and the sender too, in order and beyond ASCII."""
    ada, ben = enter("Ada"), enter("Ben")

    ada.type("#text", "Grüße an Ben 👋", enter=True)
    ben.shows("Grüße an Ben 👋", "#messages")
    ben.type("#text", "hello Ada")
    ben.click("#send")
    ada.shows("hello Ada", "#messages")

    said = "[...document.querySelectorAll('.message p')].map((text) => text.textContent)"
    for window in (ada, ben):
        window.until(f"({said}).length === 2")
    assert ada.evaluate(said) == ["Grüße an Ben 👋", "hello Ada"] == ben.evaluate(said)
    mine = "[...document.querySelectorAll('.message.mine')].map((item) => item.querySelector('p').textContent)"
    assert ada.evaluate(mine) == ["Grüße an Ben 👋"]
    assert ben.evaluate(mine) == ["hello Ada"]


@pytest.mark.spec("RFC 6455", "section 7.1.4")
def test_everybody_sees_who_is_there(enter: Enter) -> None:
    """Who comes is listed, under a name of its own; who leaves or closes the window is not, and both are said."""
    ada, ben = enter("Ada"), enter("Ben")
    again = enter("Ada")

    for window in (ada, ben, again):
        window.until("document.querySelectorAll('#there li').length === 3")
    assert people(ada) == ["Ada (you)", "Ada 2", "Ben"]
    assert people(again) == ["Ada", "Ada 2 (you)", "Ben"]

    ben.click("#leave")
    ada.shows("Ben left.", "#messages")
    ben.shows("Not connected", "#state")
    again.go("about:blank")
    ada.shows("Ada 2 left.", "#messages")
    ada.until("document.querySelectorAll('#there li').length === 1")
    assert people(ada) == ["Ada (you)"]


@pytest.mark.parametrize("served", ROWS[:1], indirect=True, ids=label)
def test_text_is_text(enter: Enter) -> None:
    """Names and messages are shown as they were typed, whatever they would be as HTML."""
    ada, mallory = enter("Ada"), enter("<img src=x>")

    mallory.type("#text", "<script>document.title = 'x'</script>&amp;", enter=True)
    ada.shows("<script>document.title = 'x'</script>&amp;", "#messages")
    ada.shows("<img src=x>", "#there")

    assert ada.evaluate("document.querySelectorAll('main img, main script').length") == 0


@pytest.mark.spec("RFC 6455", "section 7.2.3")
def test_windows_come_back_after_a_restart(enter: Enter, served: Server) -> None:
    """A server that starts anew closes its websockets; the windows say so, come back by themselves, and go on."""
    ada, ben = enter("Ada"), enter("Ben")
    before = process_of(ada)

    start_anew(served)

    for window in (ada, ben):
        window.shows("The connection was lost.", "#messages")
        window.shows("Connected again: the server was restarted.", "#messages")
        window.shows("Connected", "#state")
    assert process_of(ada) == process_of(ben) != before
    for window in (ada, ben):
        window.until("document.querySelectorAll('#there li').length === 2")
    ada.type("#text", "still there?", enter=True)
    ben.shows("still there?", "#messages")
    ben.type("#text", "yes", enter=True)
    ada.until(
        "[...document.querySelectorAll('.message p')].some((text) => text.textContent === 'yes')"
    )
