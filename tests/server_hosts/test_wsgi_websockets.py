"""WSGI applications with websockets, unchanged, on every ASGI server, on the server of this package and its worker."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from cli_process import Program

import bridges

Start = Callable[..., Program]
APPS = Path(__file__).parent / "apps"
SECONDS = 10.0

HOSTS = {
    "uvicorn-websockets": "uvicorn --host 127.0.0.1 --port {port} --ws websockets websocket_apps:asgi",
    "uvicorn-wsproto": "uvicorn --host 127.0.0.1 --port {port} --ws wsproto websocket_apps:asgi",
    "hypercorn-asyncio": "hypercorn -w 0 -b 127.0.0.1:{port} websocket_apps:asgi",
    "hypercorn-trio": "hypercorn -k trio -w 1 -b 127.0.0.1:{port} websocket_apps:asgi",
    "daphne": "daphne -b 127.0.0.1 -p {port} websocket_apps:asgi",
    "granian": "granian --interface asgi --host 127.0.0.1 --port {port} --workers 1 websocket_apps:asgi",
    "bridges-asgi": "bridges --port {port} websocket_apps:asgi",
    "bridges-wsgi": "bridges --port {port} websocket_apps:app",
    "BridgeWorker": "gunicorn -k bridges.gunicorn.BridgeWorker --no-control-socket -b 127.0.0.1:{port}"
    " websocket_apps:app",
}


@pytest.fixture(params=HOSTS)
def port(request: pytest.FixtureRequest, start: Start) -> tuple[int, str, Program]:
    """Give the port at which a host serves the applications, and its name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    words = HOSTS[request.param].format(port=free).split()
    program = start(
        *words, environment={"PYTHONPATH": path_with_apps()}, command=[sys.executable, "-m"]
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{free}", trust_env=False) as client:

        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return client.get("/").text == "home"
            return False

        assert program.until(answers), program.err
    return free, request.param, program


def path_with_apps() -> str:
    return os.pathsep.join([str(APPS), str(Path(bridges.__file__).resolve().parent.parent)])


@pytest.mark.spec("FR 102")
def test_unchanged_applications(port: tuple[int, str, Program]) -> None:
    """Echo, big messages, subprotocols, pings, close codes both ways, many clients, one that vanishes."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    number, host, program = port
    url = f"ws://127.0.0.1:{number}"

    def get(path: str) -> str:
        return httpx.get(f"http://127.0.0.1:{number}{path}", trust_env=False).text

    with connect(f"{url}/echo", subprotocols=["x", "chat"], max_size=None) as ws:  # type: ignore[list-item]
        assert ws.subprotocol == "chat"
        for message in ("hi", b"\0\1", "ä" * 100_000, b"x" * 900_000):
            ws.send(message)
            assert ws.recv(SECONDS) == message
        assert ws.ping().wait(SECONDS)
        assert get("/handlers") == "1"

    # The server's own close, as its application chose it; daphne loses the reason.
    with connect(f"{url}/bye") as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(SECONDS)
        assert (ws.close_code, ws.close_reason) == (4001, "" if host == "daphne" else "bye")

    with connect(f"{url}/simple") as ws:
        ws.send("text")
        assert ws.recv(SECONDS) == "simple text"
        with pytest.raises(ConnectionClosed):
            ws.recv(SECONDS)
        assert ws.close_code == 1000

    with connect(f"{url}/codes") as ws:
        ws.close(4002, "enough")
    assert program.until(lambda: get("/last-code"), SECONDS), "the application was not told"
    # hypercorn tells its applications no code, and some others no reason.
    told = ("1005 None",) if host.startswith("hypercorn") else ("4002 enough", "4002 ", "4002 None")
    assert get("/last-code") in told

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(f"{url}/room")) for _ in range(10)]
        assert [each.recv(SECONDS) for each in clients] == ["welcome"] * 10
        clients[3].send("all")
        assert [each.recv(SECONDS) for each in clients] == ["all"] * 10

    # A client that vanishes: its socket is shut without a close frame.
    with connect(f"{url}/echo") as ws:
        ws.send("there")
        assert ws.recv(SECONDS) == "there"
        assert get("/handlers") == "1"
        ws.socket.shutdown(socket.SHUT_RDWR)
        assert program.until(lambda: get("/handlers") == "0", SECONDS), "the thread is held"


@pytest.mark.spec("FR 102", "gevent-websocket")
def test_applications_for_gevent_websocket(port: tuple[int, str, Program]) -> None:
    """Echo, big messages, close codes, exceptions, a broadcast, clients that vanish, and a response instead."""
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect

    number, host, program = port
    url = f"ws://127.0.0.1:{number}/gevent"

    def get(path: str) -> str:
        return httpx.get(f"http://127.0.0.1:{number}{path}", trust_env=False).text

    with connect(f"{url}/echo", max_size=None) as ws:
        for message in ("hi", "", b"\0\1", "ä" * 100_000, b"x" * 1_000_000):
            if host == "daphne" and not message:
                continue  # it drops empty ones of applications
            ws.send(message)
            assert ws.recv(SECONDS) == message
        assert ws.ping().wait(SECONDS)
        assert get("/handlers") == "1"
        ws.close(4002, "enough")
    assert program.until(lambda: get("/last-code") == "None", SECONDS), "it was not told"

    for path, code, reason in (("bye", 4001, "bye"), ("fail", 1011, "")):
        with connect(f"{url}/{path}") as ws:
            with pytest.raises(ConnectionClosed):
                for _ in range(2):
                    ws.recv(SECONDS)
            # daphne loses the reason.
            assert (ws.close_code, ws.close_reason) == (code, "" if host == "daphne" else reason)
    assert get("/last-code") == "WebSocketError"

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(f"{url}/room")) for _ in range(10)]
        assert [each.recv(SECONDS) for each in clients] == ["welcome"] * 10
        clients[3].send("all")
        assert [each.recv(SECONDS) for each in clients] == ["all"] * 10

    with pytest.raises(InvalidStatus) as refused, connect(f"{url}/nothing"):
        pass
    assert refused.value.response.status_code in (403, 404)  # some have no denial response

    # Clients that vanish: one that is received from, and one that is only sent to.
    for path in ("echo", "clock"):
        with connect(f"{url}/{path}", max_size=None) as ws:
            ws.send("there")
            ws.recv(SECONDS)
            assert program.until(lambda: get("/handlers") == "1", SECONDS)
            ws.socket.shutdown(socket.SHUT_RDWR)
            assert program.until(lambda: get("/handlers") == "0", SECONDS), "the thread is held"
    assert get("/last-code") == "closed True"


@pytest.mark.spec("issue 5", "2. Flask-SocketIO")
def test_flask_socketio(port: tuple[int, str, Program]) -> None:
    """By websocket at once, and by polling that is upgraded: both clients hear what one shouts."""
    import socketio

    number, _, _ = port
    with contextlib.ExitStack() as stack:
        clients = []
        for transports in (["websocket"], ["polling", "websocket"]):
            client = stack.enter_context(socketio.SimpleClient())
            client.connect(f"http://127.0.0.1:{number}", transports=transports)
            clients.append(client)
        clients[0].emit("shout", "hello")
        assert [each.receive(SECONDS) for each in clients] == [["heard", "HELLO"]] * 2
        assert clients[0].transport == "websocket"
