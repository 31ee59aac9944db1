"""Websockets of ``ASGIToWSGI`` on real hosts with a real client, and those of several frameworks under gunicorn."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostkit.hosts import Host
from hostkit.journal import noted
from hostkit.plugin import Hooks
from hostkit.process import STOP_SECONDS, Server
from hostkit.wsgi_hosts import gunicorn
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

GTHREAD = ("-k", "gthread", "--threads", "4")
LIBRARY = ("serve", "{name}", "{target}", "{port}")
HOSTS = {
    "sync": ("gunicorn", ("-k", "sync")),
    "gthread": ("gunicorn", GTHREAD),
    "gevent": ("gunicorn", ("-k", "gevent")),
    "gevent_pywsgi": ("gunicorn", ("-k", "gevent_pywsgi")),
    "gthread-tls": ("gunicorn", (*GTHREAD, "--certfile", "{cert}", "--keyfile", "{key}")),
    "gevent-tls": ("gunicorn", ("-k", "gevent", "--certfile", "{cert}", "--keyfile", "{key}")),
    "werkzeug": ("library", ()),
    "cheroot": ("library", ()),
    "pywsgi": ("library", ()),
}

Starter = Callable[..., Server]


@pytest.fixture
def begin(
    hooks: Hooks, tmp_path: Path, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Starter]:
    """Give a function that starts a host with an application, and end what it started."""
    begun: list[Server] = []
    matrix = dataclasses.replace(hooks.matrix, apps={"websocket": "websocket_apps:application"})

    def start(name: str, app: str = "", *options: str, conf: str = "") -> Server:
        monkeypatch.setenv("WEBSOCKET_APP", app)
        (tmp_path / "gunicorn.conf.py").write_text(conf)
        kind, words = HOSTS.get(name, ("library", ()))
        if kind == "library":
            command = tuple(part.replace("{name}", name) for part in LIBRARY)
            host = Host(name, name, command, threads=4)
        else:
            words = tuple(
                word.format(cert=certificate[0], key=certificate[1])
                for word in (
                    *words,
                    "--access-logfile",
                    "-",
                    "-c",
                    str(tmp_path / "gunicorn.conf.py"),
                )
            )
            host = gunicorn(name, *words, *options, threads=4)
        server = _Server(matrix, host, "websocket", tmp_path, certificate)
        if name.endswith("-tls"):
            server.tls = ssl.create_default_context(cafile=certificate[0])
        begun.append(server)
        server.start()
        return server

    yield start
    for server in begun:
        server.stop()


class _Server(Server):
    """A server that may speak TLS in HTTP/1.1.

    Attributes:
        tls: for its clients.
    """

    tls: ssl.SSLContext | None = None

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    def new_client(self, **options: object) -> Any:
        more = {"verify": self.tls} if self.tls else {}
        return super().new_client(**options, **more)

    def connect(self, path: str = "/", **options: Any) -> ClientConnection:
        """Open a websocket."""
        scheme = "wss" if self.tls else "ws"
        url = f"{scheme}://127.0.0.1:{self.port}{path}"
        return connect(url, ssl=self.tls, max_size=None, proxy=None, **options)


@pytest.mark.spec("FR 103")
@pytest.mark.parametrize("name", HOSTS)
def test_a_websocket(begin: Starter, name: str) -> None:
    """Echo of all kinds, both ends of the close, a refusal, a client that vanishes; then HTTP, and a clean log."""
    server = begin(name)
    assert isinstance(server, _Server)
    for compression in ("deflate", None):
        with server.connect(subprotocols=["chat"], compression=compression) as ws:
            assert ws.subprotocol == "chat"
            for message in ("hi", "", b"\0", "ä" * 70_000, os.urandom(1_900_000)):
                ws.send(message)
                assert ws.recv() == message
            ws.send(["one", "two", "three"])
            assert ws.recv() == "onetwothree"
            assert ws.ping().wait(STOP_SECONDS)
            ws.close(4000, "over")
    for word, code, reason in (("close", 4001, "bye"), ("fail", 1011, "")):
        with server.connect() as ws:
            ws.send(word)
            with pytest.raises(ConnectionClosed):
                ws.recv()
            assert (ws.close_code, ws.close_reason) == (code, reason)
    with server.connect() as ws:
        with contextlib.suppress(ConnectionClosed):
            ws.send(b"x" * 2_000_001)
            ws.recv()
        assert ws.close_code == 1009
    with pytest.raises(InvalidStatus) as refused:
        server.connect("/deny")
    assert refused.value.response.status_code == 403
    with server.connect() as ws:
        ws.socket.shutdown(socket.SHUT_RDWR)
    ends = noted(server, "end", 5)
    assert ends == [4000, 4000, 4001, 1009, 1006]
    with server.new_client() as client:
        assert client.get("/").text == "hello"
    _check_log(server, name)


def _check_log(server: Server, name: str) -> None:
    """Find one complaint, the application's, and an access line of status 101 for each websocket."""
    log = server.log
    assert log.count("Traceback") == log.count("ValueError: on purpose") == 1, log
    assert "Error handling request" not in log
    assert "Invalid request" not in log
    if name not in ("werkzeug", "cheroot"):
        assert _statuses(server, 6) == {"101": 6, "200": 2}, server.log


def _statuses(server: Server, websockets: int) -> dict[str, int]:
    """Count the access lines by their status; the last ones may come after what they tell of was noted."""
    assert server.process
    for _ in range(300):
        lines = re.findall(r'"GET / HTTP/1.1" (\d+)', server.log)
        if lines.count("101") >= websockets and lines.count("200") >= 2:
            break
        # Waiting for the exit that must not come is the pause between two looks.
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(0.03)
    return {status: lines.count(status) for status in lines}


@pytest.mark.spec("FR 103")
def test_a_host_without_a_socket(begin: Starter) -> None:
    """waitress: 501 with a sentence, and one record that names those that can."""
    server = begin("waitress")
    assert isinstance(server, _Server)
    for _ in range(2):
        with pytest.raises(InvalidStatus) as refused:
            server.connect()
        assert refused.value.response.status_code == 501
        assert b"gunicorn" in refused.value.response.body
    assert server.logs("refused a websocket")
    assert server.log.count("refused a websocket") == 1


@pytest.mark.spec("FR 103")
@pytest.mark.parametrize("app", ["FastAPI", "Starlette", "Quart", "Litestar", "Channels"])
def test_a_framework(begin: Starter, app: str) -> None:
    """Its websockets echo under gunicorn gthread."""
    server = begin("gthread", app)
    assert isinstance(server, _Server)
    with server.connect("/ws") as ws:
        for text in ("one", "ä" * 50_000):
            ws.send(text)
            assert ws.recv() == text
    assert "Traceback" not in server.log


@pytest.mark.spec("FR 103")
def test_socket_io(begin: Starter) -> None:
    """python-socketio: its transport websocket, an event, and the answer to it."""
    server = begin("gthread", "Socket.IO")
    assert isinstance(server, _Server)
    with server.connect("/socket.io/?EIO=4&transport=websocket") as ws:
        assert str(ws.recv()).startswith("0{")
        ws.send("40")
        assert str(ws.recv()).startswith("40")
        ws.send('420["echo",{"a":1}]')
        answer = str(ws.recv())
        assert answer.startswith("430")
        assert json.loads(answer[3:]) == [{"a": 1}]
    assert "Traceback" not in server.log


@pytest.mark.spec("FR 103")
@pytest.mark.parametrize("name", ["sync", "gthread", "gevent"])
def test_a_websocket_outlives_the_timeout_and_ends_with_the_worker(
    begin: Starter, name: str
) -> None:
    """gunicorn kills no worker for it; SIGTERM closes it with 1001, and the worker ends by itself."""
    hooks = "from bridges.gunicorn import post_worker_init, worker_exit\n"
    server = begin(name, "", "--timeout", "2", conf=hooks)
    assert isinstance(server, _Server)
    assert server.process
    with server.connect() as ws:
        ws.send("hi")
        assert ws.recv() == "hi"
        with pytest.raises(TimeoutError):
            ws.recv(timeout=4)  # twice what gunicorn allows
        ws.send("still there")
        assert ws.recv() == "still there"
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            ws.recv()
        assert ws.close_code == 1001
    assert server.process.wait(STOP_SECONDS) == 0
    assert "WORKER TIMEOUT" not in server.log
    assert noted(server, "end", 1) == [1001]
