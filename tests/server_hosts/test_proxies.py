"""The server behind the real nginx and HAProxy, by the configurations of ``examples/deploy``."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import httpx
import pytest
import websockets.asyncio.client as websockets_client
from anyio import fail_after
from hostkit.proxies import EXAMPLES, HOST, Front, ProxyName, changed, in_front
from server_driver import serving
from websockets.exceptions import ConnectionClosed

from bridges.server.command import all_options, read_command
from bridges.server.config import Config
from bridges.server.run import _WIND_DOWN_SECONDS, Server
from bridges.server.service import _LAST_SECONDS
from bridges.typing import Environ, Receive, Scope, Send, StartResponse

if TYPE_CHECKING:
    from cli_process import Program

pytestmark = pytest.mark.hosts

CLIENT_SECONDS = 20.0
# Of the loopback, and not the proxy's: so the one cannot pass for the other.
CLIENT_ADDRESS = "127.0.0.2"
UPLOAD_BYTES = 50_000_000
PIECE_BYTES = 250_000

Kind = tuple[ProxyName, str]

BOTH = [(name, where) for name in get_args(ProxyName) for where in ("tcp", "unix")]
behind_each = pytest.mark.parametrize("kind", BOTH, ids="-".join)


@pytest.fixture
def anyio_backend() -> Any:
    """Run on the loop that the server chooses for itself."""
    return ("asyncio", {"use_uvloop": True})


# Applications.


class Shop:
    """An ASGI application whose steps the test takes.

    Attributes:
        began: set when a request has reached it.
        go: it waits for this before it goes on.
        left: set when a client has left.
        received: bytes of the last body so far.
    """

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.go = asyncio.Event()
        self.left = asyncio.Event()
        self.received = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self.talk(scope, receive, send)
        elif scope["path"] == "/ready":
            await answer(send, b"ready\n")
        elif scope["type"] == "http":
            self.began.set()
            first = scope["path"].split("/")[1]
            views = {
                "bodiless": self.bodiless,
                "events": self.events,
                "live": self.events,
                "uploads": self.upload,
            }
            await views.get(first, self.facts)(scope, receive, send)
        else:
            raise NotImplementedError("it has no lifespan")

    async def facts(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell what this application is told."""
        await answer(send, json.dumps(told(scope)).encode())

    async def upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a body piece by piece; tell its size and digest."""
        digest, more = hashlib.sha256(), True
        self.received = 0
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.set()
                return
            digest.update(message["body"])
            self.received += len(message["body"])
            more = message["more_body"]
        await answer(send, f"{self.received} {digest.hexdigest()}".encode())

    async def events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send an event, wait for the test, send another one, wait for the client to leave."""
        headers = [(b"content-type", b"text/event-stream")]
        if scope["path"] == "/live":
            headers.append((b"x-accel-buffering", b"no"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in (b"1", b"2"):
            event = b"data: " + number + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await self.go.wait()
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()

    async def bodiless(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the status that the path names, and nothing else."""
        status = int(scope["path"].rpartition("/")[2])
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})

    async def talk(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say what is known of the client, echo, and close with 4001 when asked to."""
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "shop"})
        await send({"type": "websocket.send", "text": json.dumps(told(scope))})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "close":
                await send({"type": "websocket.close", "code": 4001, "reason": "asked"})
                return
            await send({**message, "type": "websocket.send"})
        self.left.set()


def told(scope: Scope) -> dict[str, Any]:
    headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
    return {
        "client": scope["client"] and scope["client"][0],
        "scheme": scope["scheme"],
        "host": [value for name, value in headers if name == "host"],
        "prefix": scope["root_path"],
        "path": scope["path"],
    }


async def answer(send: Send, body: bytes, status: int = 200) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def wsgi_shop(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Tell what this application is told."""
    start_response("200 OK", [("Content-Type", "application/json")])
    facts = {
        "client": environ["REMOTE_ADDR"],
        "scheme": environ["wsgi.url_scheme"],
        "host": [environ["HTTP_HOST"]],
        "prefix": environ["SCRIPT_NAME"],
        "path": environ["PATH_INFO"],
    }
    return [json.dumps(facts).encode()]


# A server, a proxy in front of it, and a client of that.


@dataclass
class Behind:
    """What runs.

    Attributes:
        server: behind the proxy.
        front: the proxy.
        client: of the proxy, with an address of its own.
        connections: how many the server has accepted.
        alone: set when the server has none left.
    """

    server: Server
    front: Front
    client: httpx.AsyncClient
    connections: int
    alone: asyncio.Event

    def watch(self) -> None:
        """Count connections from now on."""
        service = self.server.service
        add, discard = service.add, service.discard

        def added(connection: Any) -> bool:
            self.connections += 1
            self.alone.clear()
            return add(connection)

        def discarded(connection: Any) -> None:
            discard(connection)
            if not service.connections:
                self.alone.set()

        service.add, service.discard = added, discarded  # type: ignore[method-assign]


@asynccontextmanager
async def behind(
    kind: Kind, folder: Path, app: Any, changes: Mapping[str, str] | None = None, **options: Any
) -> AsyncIterator[Behind]:
    name, where = kind
    path = str(folder / "shop.sock")
    if where == "unix":
        options["unix_socket"] = path
    async with serving(app, **options) as server:
        upstream = path if where == "unix" else f"127.0.0.1:{server.port}"
        with in_front(name, folder, [upstream], changes) as front:
            url = f"https://127.0.0.1:{front.port}"
            transport = httpx.AsyncHTTPTransport(
                verify=front.context(), local_address=CLIENT_ADDRESS
            )
            async with httpx.AsyncClient(
                transport=transport,
                base_url=url,
                headers={"Host": f"{HOST}:{front.port}"},
                timeout=CLIENT_SECONDS,
            ) as client:
                running = Behind(server, front, client, 0, asyncio.Event())
                running.watch()
                yield running


# Who the client is.

FORGED = {
    "X-Forwarded-For": "203.0.113.6",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "666",
    "X-Forwarded-Prefix": "/evil",
    "X_Forwarded_For": "203.0.113.6",
    "Forwarded": "for=203.0.113.6;proto=http;host=evil.example",
}
# The example's lines replaced by the standard's field, and nothing else.
FORWARDED_ALONE = {
    "nginx": {
        "X-Forwarded-For $remote_addr;": 'X-Forwarded-For "";',
        "X-Forwarded-Proto $scheme;": 'X-Forwarded-Proto "";',
        "X-Forwarded-Host $host;": 'X-Forwarded-Host "";',
        "X-Forwarded-Port $server_port;": 'X-Forwarded-Port "";',
        'Forwarded "";': "Forwarded 'for=$remote_addr;proto=$scheme;host=\"$http_host\"';",
    },
    "haproxy": {
        "set-header X-Forwarded-For %[src]": "del-header X-Forwarded-For",
        "set-header X-Forwarded-Proto https if { ssl_fc }": "del-header X-Forwarded-Proto",
        "http-request set-header X-Forwarded-Proto http if !{ ssl_fc }": "",
        "set-header X-Forwarded-Host %[req.hdr(host)]": "del-header X-Forwarded-Host",
        "del-header Forwarded": "set-header Forwarded"
        ' for=%[src];proto=https;host=\\"%[req.hdr(host)]\\"',
    },
}


@pytest.mark.spec("issue 4", "4. forwarded headers only from --forwarded-allow-ips")
@pytest.mark.spec("RFC 7239", "section 5")
@pytest.mark.parametrize("forged", [{}, FORGED], ids=["plain", "forged"])
@pytest.mark.parametrize("field", ["X-Forwarded", "Forwarded"])
@pytest.mark.parametrize("app", [Shop, lambda: wsgi_shop], ids=["asgi", "wsgi"])
@behind_each
async def test_who_the_client_is(
    kind: Kind, app: Any, field: str, forged: dict[str, str], tmp_path: Path
) -> None:
    """Address, scheme and host are those that the proxy saw, whatever the client says of itself."""
    changes = FORWARDED_ALONE[kind[0]] if field == "Forwarded" else {}
    async with behind(kind, tmp_path, app(), changes) as running:
        response = await running.client.get("/facts", headers=forged)
        assert response.json() == {
            "client": CLIENT_ADDRESS,
            "scheme": "https",
            "host": [f"{HOST}:{running.front.port}"],
            "prefix": "",
            "path": "/facts",
        }


@pytest.mark.spec("issue 4", "4. forwarded headers only from --forwarded-allow-ips")
@pytest.mark.parametrize("app", [Shop, lambda: wsgi_shop], ids=["asgi", "wsgi"])
@behind_each
async def test_a_proxy_that_is_not_trusted(kind: Kind, app: Any, tmp_path: Path) -> None:
    """Nothing that a proxy says is believed unless its address is allowed."""
    async with behind(kind, tmp_path, app(), forwarded_allow_ips="192.0.2.1") as running:
        told = (await running.client.get("/facts", headers=FORGED)).json()
        nobody = None if app is Shop else ""
        assert told["client"] == ("127.0.0.1" if kind[1] == "tcp" else nobody)
        assert told["scheme"] == "http"
        assert told["prefix"] == ""


# Bodies.


@pytest.mark.spec("issue 4", "6. Real proxies in front: uploads")
@pytest.mark.parametrize("framing", ["length", "chunks"])
@behind_each
async def test_an_upload_streams(kind: Kind, framing: str, tmp_path: Path) -> None:
    """50 MB reach the application while they are sent: the client sends its end when the beginning was read."""
    shop = Shop()
    digest = hashlib.sha256()

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(UPLOAD_BYTES // PIECE_BYTES):
            if number == UPLOAD_BYTES // PIECE_BYTES - 1:
                with fail_after(CLIENT_SECONDS):
                    await shop.began.wait()
            piece = number.to_bytes(2, "big") * (PIECE_BYTES // 2)
            digest.update(piece)
            yield piece

    headers = {"Content-Length": str(UPLOAD_BYTES)} if framing == "length" else {}
    async with behind(kind, tmp_path, shop) as running:
        response = await running.client.post("/uploads/", content=pieces(), headers=headers)
        assert response.text == f"{UPLOAD_BYTES} {digest.hexdigest()}"


@pytest.mark.spec("issue 4", "6. Real proxies in front: uploads")
@pytest.mark.parametrize("where", ["tcp", "unix"])
async def test_an_upload_that_nginx_collects(where: str, tmp_path: Path) -> None:
    """Where nginx buffers requests, the application hears of 50 MB when they are complete, with their length."""
    shop = Shop()
    digest = hashlib.sha256()

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(UPLOAD_BYTES // PIECE_BYTES):
            assert not shop.began.is_set()
            piece = number.to_bytes(2, "big") * (PIECE_BYTES // 2)
            digest.update(piece)
            yield piece

    changes = {"proxy_request_buffering off;": "proxy_request_buffering on;"}
    async with behind(("nginx", where), tmp_path, shop, changes) as running:
        running.front.expected.append("a client request body is buffered")
        response = await running.client.post("/uploads/", content=pieces())
        assert response.text == f"{UPLOAD_BYTES} {digest.hexdigest()}"


@pytest.mark.spec("RFC 9110", "section 15.5.14")
@pytest.mark.spec("field-reports", "FR 113")
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("name", get_args(ProxyName))
async def test_a_refused_upload_gets_its_answer(
    name: ProxyName, framing: str, tmp_path: Path
) -> None:
    """A client of the proxy that looks while it sends sees the server's 413, and not the proxy's 502."""
    piece = b"%x\r\n%b\r\n" % (PIECE_BYTES, bytes(PIECE_BYTES))
    field = "Transfer-Encoding: chunked"
    if framing == "length":
        piece, field = bytes(PIECE_BYTES), f"Content-Length: {UPLOAD_BYTES}"
    async with behind((name, "tcp"), tmp_path, Shop(), max_body_bytes=1_000_000) as running:
        running.front.expected.append("(SD|CD)--")
        async with connected_to(running.front) as (reader, writer):
            writer.write(f"POST /uploads/ HTTP/1.1\r\nHost: {HOST}\r\n{field}\r\n\r\n".encode())

            async def send() -> None:
                for _ in range(UPLOAD_BYTES // PIECE_BYTES):
                    writer.write(piece)
                    await writer.drain()

            sending = asyncio.create_task(send())
            with fail_after(CLIENT_SECONDS):
                assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
            sending.cancel()
            await asyncio.wait([sending])


@asynccontextmanager
async def connected_to(
    front: Front,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to the proxy without a library that has a mind of its own."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", front.port, ssl=front.context(), server_hostname=HOST
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@pytest.mark.spec("issue 4", "6. Real proxies in front: uploads")
@behind_each
async def test_a_client_that_leaves_its_upload(kind: Kind, tmp_path: Path) -> None:
    """The application is told of it, and does not take what came for the whole."""
    shop = Shop()

    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(PIECE_BYTES)
        await shop.began.wait()
        raise Leaving

    async with behind(kind, tmp_path, shop) as running:
        running.front.expected.append("C[HD]--")
        with pytest.raises(Leaving):
            await running.client.post("/uploads/", content=pieces())
        with fail_after(CLIENT_SECONDS):
            await shop.left.wait()


class Leaving(Exception):
    pass


# Streams.


@pytest.mark.spec("field-reports", "FR 111")
@pytest.mark.spec("issue 4", "6. Real proxies in front: SSE")
@pytest.mark.parametrize("path", ["/live", "/events/"])
@behind_each
async def test_events(kind: Kind, path: str, tmp_path: Path) -> None:
    """An event arrives before the next one is made, and the application is told when its client leaves.

    nginx does not collect them, once because the application says so, once because the location does.
    """
    shop = Shop()
    async with behind(kind, tmp_path, shop) as running:
        running.front.expected.append("CD--")
        async with running.client.stream("GET", path) as response:
            lines = response.aiter_lines()
            assert await anext(lines) == "data: 1"
            assert not shop.go.is_set()
            shop.go.set()
            assert [await anext(lines) for _ in range(2)] == ["", "data: 2"]
        with fail_after(CLIENT_SECONDS):
            await shop.left.wait()


@asynccontextmanager
async def websocket_to(running: Behind) -> AsyncIterator[Any]:
    front = running.front
    async with websockets_client.connect(
        f"wss://{HOST}:{front.port}/talk",
        host="127.0.0.1",
        port=front.port,
        ssl=front.context(),
        local_addr=(CLIENT_ADDRESS, 0),
        proxy=None,
        subprotocols=["shop"],  # type: ignore[list-item]
        additional_headers=FORGED,
        open_timeout=CLIENT_SECONDS,
        max_size=None,
    ) as websocket:
        yield websocket


@pytest.mark.spec("RFC 6455", "section 4.1")
@pytest.mark.spec("issue 4", "6. Real proxies in front: websockets")
@behind_each
async def test_a_websocket(kind: Kind, tmp_path: Path) -> None:
    """Handshake, messages of all sizes, the client's address, and the code of the server's close come through."""
    async with behind(kind, tmp_path, Shop()) as running, websocket_to(running) as websocket:
        assert websocket.subprotocol == "shop"
        facts = json.loads(await websocket.recv())
        assert facts == {
            "client": CLIENT_ADDRESS,
            "scheme": "wss",
            "host": [f"{HOST}:{running.front.port}"],
            "prefix": "",
            "path": "/talk",
        }
        for message in ("", "text \u20ac", bytes(2_000_000)):
            await websocket.send(message)
            assert await websocket.recv() == message
        await websocket.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "asked")


@pytest.mark.spec("RFC 6455", "section 7.1.4")
@behind_each
async def test_the_end_of_a_websocket(kind: Kind, tmp_path: Path) -> None:
    """The application is told when the client closes."""
    shop = Shop()
    async with behind(kind, tmp_path, shop) as running:
        async with websocket_to(running) as websocket:
            await websocket.recv()
        with fail_after(CLIENT_SECONDS):
            await shop.left.wait()


# Connections that are kept.

# The checks of HAProxy are connections of their own.
WITHOUT_CHECKS = {"default-server check inter 1s fall 2 rise 1": ""}


@pytest.mark.spec("RFC 9112", "section 9.3")
@behind_each
async def test_connections_are_used_again(kind: Kind, tmp_path: Path) -> None:
    """Requests of all sorts go over one connection, for responses without a body leave nothing behind on it."""
    async with behind(kind, tmp_path, Shop(), checks_of(kind)) as running:
        for number in range(10):
            for method, path, status in (
                ("GET", "/facts", 200),
                ("HEAD", "/facts", 200),
                ("POST", "/uploads/", 200),
                ("GET", "/bodiless/204", 204),
                ("GET", "/bodiless/304", 304),
                ("HEAD", "/bodiless/404", 404),
            ):
                content = bytes(number * 10_000) if method == "POST" else None
                response = await running.client.request(method, path, content=content)
                assert response.status_code == status
        assert running.connections == 1


def checks_of(kind: Kind) -> dict[str, str]:
    return WITHOUT_CHECKS if kind[0] == "haproxy" else {}


PROXY_GIVES_UP = {
    "nginx": {"keepalive_timeout 60s": "keepalive_timeout 100ms"},
    "haproxy": {
        "default-server check inter 1s fall 2 rise 1": "default-server pool-purge-delay 100ms"
    },
}


@pytest.mark.spec("RFC 9112", "section 9.8")
@pytest.mark.parametrize("first", ["proxy", "server"])
@behind_each
async def test_an_idle_connection_ends(kind: Kind, first: str, tmp_path: Path) -> None:
    """Whichever side gives an idle connection up, the next request has another one."""
    changes = PROXY_GIVES_UP[kind[0]] if first == "proxy" else checks_of(kind)
    seconds = 75.0 if first == "proxy" else 0.1
    async with behind(kind, tmp_path, Shop(), changes, keep_alive_seconds=seconds) as running:
        assert (await running.client.post("/uploads/", content=b"x")).status_code == 200
        assert running.connections == 1
        with fail_after(CLIENT_SECONDS):
            await running.alone.wait()
        assert (await running.client.post("/uploads/", content=b"x")).status_code == 200
        assert running.connections == 2


# Restarts under load.

CLIENTS = 24
ROLLING_APP = """
import asyncio, os, pathlib

draining = pathlib.Path(os.environ.get("DRAINING", "draining"))


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    status = 404 if scope["path"] == "/ready" and draining.exists() else 200
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(0.05)
    body = b"%d %d" % (os.getpid(), size)
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


class Load:
    """Clients that ask again and again, on connections that they keep for a while.

    Attributes:
        answers: how many there were, by process.
        lost: what came instead of an answer with 200.
    """

    def __init__(self, front: Front) -> None:
        self.answers: Counter[int] = Counter()
        self.lost: list[str] = []
        self._front = front
        self._ends = False
        self._news = asyncio.Event()

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(CLIENTS)]
        return self

    async def __aexit__(self, *details: object) -> None:
        self._ends = True
        await asyncio.wait(self._tasks)
        for task in self._tasks:
            task.result()

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds, which is looked at after each answer."""
        with fail_after(CLIENT_SECONDS):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def answered_by(self, process: int, times: int = 50) -> None:
        """Wait until a process has given so many more answers."""
        wanted = self.answers[process] + times
        await self.until(lambda: self.answers[process] >= wanted)

    async def _ask(self, number: int) -> None:
        requests_each = 1000 if number % 2 else 20
        while not self._ends:
            async with connected_to(self._front) as (reader, writer):
                for count in range(requests_each):
                    method = "POST" if (number + count) % 3 else "GET"
                    path = "/slow" if number % 4 == 0 else "/"
                    is_last = await self._exchange(reader, writer, method, path)
                    if is_last or self._ends:
                        break

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str
    ) -> bool:
        body = b"x" * 100 if method == "POST" else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            writer.write(head.encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = re.search(r"^content-length: (\d+)", head, re.MULTILINE)
            assert length is not None, head
            answer = (await reader.readexactly(int(length[1]))).decode()
        except (OSError, asyncio.IncompleteReadError) as error:
            self.lost.append(f"{method} {path}: {error!r}")
            return True
        process, _, size = answer.partition(" ")
        if head.startswith("http/1.1 200 ") and size == str(len(body)):
            self.answers[int(process)] += 1
        else:
            self.lost.append(f"{method} {path}: {head}{answer}")
        self._news.set()
        return "connection: close" in head


@pytest.fixture
def ports() -> Iterator[list[int]]:
    """Give two ports that nobody gets by chance while no server listens on them."""
    held = [socket.socket() for _ in range(2)]
    for each in held:
        # The server sets it too, and so may bind the port beside a socket that does not listen.
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        each.bind(("127.0.0.1", 0))
    yield [each.getsockname()[1] for each in held]
    for each in held:
        each.close()


Start = Callable[..., "Program"]
QUIET = ("--access-log", "off")


async def stopped(program: Program) -> None:
    """Tell a server to stop, and wait until it has."""
    program.tell(signal.SIGTERM)
    assert await asyncio.to_thread(program.status, CLIENT_SECONDS) == 0
    assert "cut off" not in program.err


@pytest.mark.spec("issue 4", "6. a rolling restart of two instances behind HAProxy under load")
@pytest.mark.spec("field-reports", "FR 114")
@pytest.mark.parametrize("way", ["signal", "drained first"])
async def test_a_rolling_restart(start: Start, ports: list[int], way: str, tmp_path: Path) -> None:
    """Two instances are stopped and started in turn while clients ask: every request gets its 200, POST included.

    Either the instance is just told to stop, or its health path has answered 404 before, and HAProxy sends it nothing.
    """
    (tmp_path / "main.py").write_text(ROLLING_APP)

    def begin(port: int) -> Program:
        file = {"DRAINING": f"draining-{port}"}
        return start("main:app", "--port", str(port), *QUIET, environment=file)

    programs = [begin(port) for port in ports]
    for program in programs:
        assert await asyncio.to_thread(program.address)
    upstreams = [f"127.0.0.1:{port}" for port in ports]
    with in_front("haproxy", tmp_path, upstreams, QUICK_CHECKS) as front:
        async with Load(front) as load:
            for number, name in enumerate(("one", "two")):
                old, port = programs[number], ports[number]
                await load.answered_by(old.process.pid)
                if way == "drained first":
                    (tmp_path / f"draining-{port}").touch()
                    await load.until(lambda name=name: f"shop/{name} is stopping" in front.log)
                await stopped(old)
                (tmp_path / f"draining-{port}").unlink(missing_ok=True)
                programs[number] = begin(port)
                await load.answered_by(programs[number].process.pid)
            await load.until(lambda: load.answers.total() >= 2000)
    assert load.lost == []
    assert len(load.answers) == 4


QUICK_CHECKS = {"check inter 1s fall 2": "check inter 100ms fall 1"}


@pytest.mark.spec("sd_listen_fds(3)")
@pytest.mark.spec("issue 4", "4. systemd LISTEN_FDS")
@pytest.mark.parametrize("name", get_args(ProxyName))
async def test_a_restart_on_a_socket_that_stays(
    start: Start, name: ProxyName, tmp_path: Path
) -> None:
    """One instance, whose socket is not its own, is stopped and started under load: requests wait, and none is lost."""
    (tmp_path / "main.py").write_text(ROLLING_APP)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        number = listening.fileno()

        def begin() -> Program:
            return start("main:app", "--fd", str(number), *QUIET, pass_fds=[number])

        program = begin()
        changes = {"default-server check inter 1s fall 2 rise 1": ""} if name == "haproxy" else {}
        upstream = f"127.0.0.1:{listening.getsockname()[1]}"
        with in_front(name, tmp_path, [upstream], changes) as front:
            async with Load(front) as load:
                for _ in range(2):
                    await load.answered_by(program.process.pid, 500)
                    await stopped(program)
                    program = begin()
                await load.answered_by(program.process.pid, 500)
    assert load.lost == []
    assert len(load.answers) == 3


@pytest.mark.spec("issue 4", "6. a rolling HUP")
@pytest.mark.parametrize("name", get_args(ProxyName))
async def test_hup_of_the_workers(start: Start, name: ProxyName, tmp_path: Path) -> None:
    """gunicorn's workers are replaced under load, and every request gets its 200."""
    (tmp_path / "main.py").write_text(ROLLING_APP)
    path = str(tmp_path / "shop.sock")
    program = start("main:app", "--unix-socket", path, "--workers", "2", *QUIET)
    assert await asyncio.to_thread(program.address)
    with in_front(name, tmp_path, [path]) as front:
        async with Load(front) as load:
            await load.until(lambda: load.answers.total() >= 500)
            old = set(load.answers)
            program.tell(signal.SIGHUP)
            await load.until(lambda: program.err.count("Worker exiting") == 2)
            await load.until(lambda: sum_of_others(load, old) >= 500)
            since = Counter(load.answers)  # the last answers of the old were on their way for a moment
            await load.until(lambda: (load.answers - since).total() >= 500)
    assert load.lost == []
    assert old
    assert not old & set(load.answers - since)


def sum_of_others(load: Load, processes: set[int]) -> int:
    """Count the answers that other processes gave."""
    return sum(count for process, count in load.answers.items() if process not in processes)


# The other examples.


def example(name: str) -> str:
    return (EXAMPLES / name).read_text()


def number_in(name: str, pattern: str) -> int:
    """Give the only number that a pattern finds in an example."""
    (found,) = re.findall(pattern, example(name))
    return int(found)


@pytest.mark.spec("style.md", "14. Docs")
@pytest.mark.parametrize(
    ("name", "command", "variables"),
    [
        ("shop.service", r"^ExecStart=(.+)$", r"^Environment=(\w+)=(\S+)$"),
        ("Dockerfile", r"^CMD (.+)$", r"(BRIDGES_\w+)=(\S+)"),
        ("kubernetes.yaml", None, r'\{name: (BRIDGES_\w+), value: "?([^"}]+)"?\}'),
    ],
)
def test_commands_of_the_examples(name: str, command: str | None, variables: str) -> None:
    """What an example types or sets is an option, and its value is one that the option takes."""
    words = ["main:app"]
    if command:
        (typed,) = re.findall(command, example(name), re.MULTILINE)
        program, *words = json.loads(typed) if typed.startswith("[") else typed.split()
        assert program.rpartition("/")[2] == "bridges"
    environment = dict(re.findall(variables, example(name), re.MULTILINE))

    assert environment
    assert set(environment) <= {option.variable for option in all_options()}
    assert read_command(words, environment).app == "main:app"


def longest_stop() -> float:
    """Give the time from SIGTERM to the end, with the defaults, if everything that is waited for takes all of it."""
    config = Config()
    requests = _WIND_DOWN_SECONDS + config.graceful_seconds
    tasks = config.disconnect_grace_seconds + _LAST_SECONDS
    threads = config.disconnect_grace_seconds
    return requests + tasks + config.shutdown_seconds + threads


@pytest.mark.spec("style.md", "14. Docs")
@pytest.mark.parametrize(
    "page",
    ["explanation/server.md", "how-to/run-under-systemd.md", "how-to/containers-and-kubernetes.md"],
)
def test_the_longest_stop_is_told(page: str) -> None:
    """The pages name the number of seconds that comes of the defaults."""
    text = (EXAMPLES.parents[1] / "docs" / page).read_text("utf-8")
    assert f"{longest_stop():.0f}" in re.findall(r"\b\d+\b", text)


@pytest.mark.spec("issue 4", "4. SIGTERM/SIGINT: finish requests, lifespan shutdown")
def test_nobody_kills_a_server_that_still_stops() -> None:
    """The examples' supervisors wait for the longest stop, whatever they do before it."""
    before = number_in("kubernetes.yaml", r'"sleep", "(\d+)"')
    assert number_in("shop.service", r"TimeoutStopSec=(\d+)") > longest_stop()
    assert (
        number_in("kubernetes.yaml", r"terminationGracePeriodSeconds: (\d+)")
        > longest_stop() + before
    )


@pytest.mark.spec("RFC 9112", "section 9.8")
def test_the_server_keeps_idle_connections_for_longer_than_the_proxies() -> None:
    """It is the proxy that gives a connection up, so that it never sends a request into the end of one."""
    assert number_in("nginx.conf", r"keepalive_timeout (\d+)s") < Config().keep_alive_seconds


@pytest.mark.spec("systemd.unit(5)")
def test_units(tmp_path: Path) -> None:
    """systemd finds nothing to say about the units."""
    verify = program_of_systemd("systemd-analyze")
    unit = changed(example("shop.service"), {"/srv/shop/venv/bin/bridges": sys.executable})
    (tmp_path / "shop.service").write_text(unit)
    (tmp_path / "shop.socket").write_text(example("shop.socket"))
    done = subprocess.run(
        [verify, "verify", str(tmp_path / "shop.service"), str(tmp_path / "shop.socket")],
        capture_output=True,
        text=True,
        check=False,
        timeout=CLIENT_SECONDS,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.spec("sd_listen_fds(3)")
def test_a_socket_of_the_real_systemd(start: Start, tmp_path: Path) -> None:
    """The first client of a socket that systemd opened starts the server, and gets its answer."""
    (tmp_path / "main.py").write_text(ROLLING_APP)
    path = str(tmp_path / "shop.sock")
    activate = [program_of_systemd("systemd-socket-activate"), "--listen", path]
    passed = [f"--setenv={name}" for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")]
    bridges = [sys.executable, "-m", "bridges"]
    program = start("main:app", *QUIET, command=[*activate, *passed, *bridges])
    assert program.says("Listening on"), program.err
    with httpx.Client(transport=httpx.HTTPTransport(uds=path), timeout=CLIENT_SECONDS) as client:
        assert client.get("http://shop.example/").text == f"{program.process.pid} 0"
    program.tell(signal.SIGTERM)
    assert program.status() == 0
    assert Path(path).exists()  # it is systemd's to remove


def program_of_systemd(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install systemd")
    return found
