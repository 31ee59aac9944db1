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
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostkit.hosts import Host
from hostkit.journal import noted
from hostkit.plugin import Hooks
from hostkit.process import STOP_SECONDS, Server
from hostkit.proxies import in_front
from hostkit.wsgi_hosts import UWSGI, gunicorn
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

GTHREAD = ("-k", "gthread", "--threads", "4")
ADDRESS = "127.0.0.1:{port}"
UWSGI_OPTIONS = (
    *("--virtualenv", sys.prefix, "--module", "{target}", "--need-app", "--die-on-term"),
    *("--logformat", '"%(method) %(uri) %(proto)" %(status)'),
)
LIBRARY = ("serve", "{name}", "{target}", "{port}")
HOSTS = {
    "sync": ("gunicorn", ("-k", "sync")),
    "gthread": ("gunicorn", GTHREAD),
    "gevent": ("gunicorn", ("-k", "gevent")),
    "gevent_pywsgi": ("gunicorn", ("-k", "gevent_pywsgi")),
    "gthread-tls": ("gunicorn", (*GTHREAD, "--certfile", "{cert}", "--keyfile", "{key}")),
    "gevent-tls": ("gunicorn", ("-k", "gevent", "--certfile", "{cert}", "--keyfile", "{key}")),
    "uwsgi-threads": ("uwsgi", ("--http-socket", ADDRESS, "--threads", "4")),
    "uwsgi-inline": ("uwsgi", ("--http-socket", ADDRESS, "--env", "ADAPTER_BACKEND=inline")),
    "uwsgi-gevent": (
        "uwsgi",
        ("--http-socket", ADDRESS, "--gevent", "10", "--gevent-monkey-patch"),
    ),
    "uwsgi-router": ("uwsgi", ("--http", ADDRESS, "--threads", "4", "--http-websockets")),
    "werkzeug": ("library", ()),
    "cheroot": ("library", ()),
    "pywsgi": ("library", ()),
}
# The example's nginx, with uWSGI behind it.
UWSGI_PASS = {
    "    location / {\n        proxy_pass http://shop;": """\
    location / {
        uwsgi_pass shop;
        uwsgi_param QUERY_STRING $query_string;
        uwsgi_param REQUEST_METHOD $request_method;
        uwsgi_param REQUEST_URI $request_uri;
        uwsgi_param PATH_INFO $document_uri;
        uwsgi_param SERVER_PROTOCOL $server_protocol;
        uwsgi_param SERVER_NAME $server_name;
        uwsgi_param SERVER_PORT $server_port;
        uwsgi_param HTTPS $https;"""
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
        kind, words = HOSTS.get(name, ("uwsgi" if name == "uwsgi" else "library", ()))
        if kind == "library":
            command = tuple(part.replace("{name}", name) for part in LIBRARY)
            host = Host(name, name, command, threads=4)
        elif kind == "uwsgi":
            host = _uwsgi(name, *words, *options)
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


def _uwsgi(name: str, *options: str) -> Host:
    host = UWSGI(name, "uwsgi", (*UWSGI_OPTIONS, *options), keeps_connections=False)
    if reason := host.missing():
        # On a machine that decides about a merge nothing may be left out unseen.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return host


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
        server.connect("/none")
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
    assert "SIGPIPE" not in log
    assert "roken pipe" not in log
    if name not in ("werkzeug", "cheroot"):
        assert _statuses(server, 8) == {"101": 6, "200": 2}, server.log


def _statuses(server: Server, requests: int) -> dict[str, int]:
    """Count the access lines by their status; the last ones may come after what they tell of was seen."""
    assert server.process
    for _ in range(300):
        lines = re.findall(r'"GET / HTTP/1.1" (\d+)', server.log)
        if len(lines) >= requests:
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
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--http", ADDRESS, "--threads", "2"), b"set http-websockets = true"),
        (
            ("--http-socket", ADDRESS, "--https-socket", "127.0.0.1:0,{cert},{key}"),
            b"uWSGI's https-socket",
        ),
    ],
    ids=["router", "TLS"],
)
def test_uwsgi_without_a_plain_connection(
    begin: Starter, certificate: tuple[str, str], options: tuple[str, ...], reason: bytes
) -> None:
    """Its router drops what the client sends, or TLS may be in between: 501 with the remedy."""
    cert, key = certificate
    words = (word.replace("{cert}", cert).replace("{key}", key) for word in options)
    server = begin("uwsgi", "", *words)
    assert isinstance(server, _Server)
    with pytest.raises(InvalidStatus) as refused:
        server.connect()
    assert refused.value.response.status_code == 501
    assert reason in refused.value.response.body
    assert server.logs("refused a websocket")


@pytest.mark.spec("FR 103")
def test_uwsgi_behind_nginx(begin: Starter, tmp_path: Path) -> None:
    """nginx's uwsgi_pass makes a tunnel of a response 101, which passes on early frames too."""
    unix = tmp_path / "uwsgi.sock"
    server = begin("uwsgi-threads", "", "--socket", str(unix))
    folder = tmp_path / "nginx"
    folder.mkdir()
    with in_front("nginx", folder, [str(unix)], UWSGI_PASS) as front:
        url = f"wss://127.0.0.1:{front.port}/"
        with connect(url, ssl=front.context(), max_size=None, proxy=None) as ws:
            for message in ("hi", os.urandom(1_900_000)):
                ws.send(message)
                assert ws.recv() == message
            ws.close(4000)
        with connect(url, ssl=front.context(), proxy=None) as ws:
            ws.send("close")
            with pytest.raises(ConnectionClosed):
                ws.recv()
            assert ws.close_code == 4001
        with connect(url, ssl=front.context(), proxy=None) as ws:
            ws.socket.shutdown(socket.SHUT_RDWR)
        assert noted(server, "end", 3) == [4000, 4001, 1006]


@pytest.mark.spec("FR 103")
def test_uwsgi_stops_at_once(begin: Starter) -> None:
    """It runs no exit in a worker that is busy, so that the connection ends without 1001, but the process does."""
    server = begin("uwsgi-threads")
    assert isinstance(server, _Server)
    assert server.process
    with server.connect() as ws:
        ws.send("hi")
        assert ws.recv() == "hi"
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            ws.recv()
        assert ws.close_code == 1006
    server.process.wait(STOP_SECONDS)


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


@pytest.mark.spec("FR 103")
def test_websockets_end_with_a_worker_that_has_served_enough(begin: Starter) -> None:
    """--max-requests closes those that are open and the one too many with 1001, long before --graceful-timeout."""
    hooks = "from bridges.gunicorn import post_worker_init, worker_exit\n"
    # What asks whether the server is up is the first one.
    options = ("--max-requests", "3", "--graceful-timeout", "600")
    server = begin("gthread", "", *options, conf=hooks)
    assert isinstance(server, _Server)
    with server.connect() as open_one, server.connect() as one_too_many:
        for ws in (open_one, one_too_many):
            with pytest.raises(ConnectionClosed):
                ws.recv(STOP_SECONDS)
            assert ws.close_code == 1001
    assert noted(server, "end", 2) == [1001, 1001]
    assert server.logs("Worker exiting")
    with server.connect() as ws:
        ws.send("hi")
        assert ws.recv(STOP_SECONDS) == "hi"
