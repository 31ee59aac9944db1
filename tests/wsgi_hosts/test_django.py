"""A Django site's ASGI handler: async and sync views, middleware, the ORM on SQLite, streaming."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hostkit.journal import release
from hostkit.process import Server, child_environment
from hostkit.raw import exchange
from hostkit.wsgi_hosts import APPS_DIRECTORY

APPS = ("Django",)
made: list[Path] = []


def prepare(state: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give a host its own copy of a database that is made once."""
    if not made:
        template = tmp_path_factory.mktemp("database")
        command = [sys.executable, "-m", "djangosite.make_database"]
        environment = child_environment(template, APPS_DIRECTORY)
        subprocess.run(command, env=environment, cwd=template, check=True, timeout=60)
        made.append(template / "db.sqlite3")
    shutil.copy(made[0], state)


@pytest.fixture
def client(server: Server) -> httpx.Client:
    """Give the client of the host."""
    assert server.client
    return server.client


def test_routes(client: httpx.Client) -> None:
    """A variable in the path arrives, and reverse() gives the same path."""
    seen = client.get("/hello/café/").json()
    assert seen == {"name": "café", "self": "/hello/caf%C3%A9/"}


def test_missing_slash(client: httpx.Client) -> None:
    """Django's own redirect to the path with a slash leads there."""
    assert client.get("/hello/you", follow_redirects=True).json()["name"] == "you"


def test_orm(client: httpx.Client) -> None:
    """A row that an async view writes is read by async and sync views."""
    assert client.post("/add/", data={"text": "größe"}).status_code == 200
    pages = ("/notes/", "/sync-notes/")
    assert ["größe" in client.get(page).json() for page in pages] == [True, True]


def test_rollback(client: httpx.Client) -> None:
    """An error inside atomic() leaves nothing behind, in this thread's connection or the file."""
    assert client.post("/undone/").status_code == 500
    assert "never kept" not in client.get("/notes/").json()


@pytest.mark.spec("FR 97")
@pytest.mark.parametrize("page", ["/query/", "/sync-query/"])
def test_queries_run_in_the_wsgi_thread(client: httpx.Client, page: str) -> None:
    """The ORM works in the thread of the server, from async and from sync views."""
    seen = client.get(page).json()
    assert seen["thread"] == seen["wsgi"]


@pytest.mark.spec("FR 97")
def test_a_sync_view_calls_async_code(client: httpx.Client) -> None:
    """async_to_sync in a sync view comes back, though that view came from the loop."""
    assert client.get("/back/").json() == {"counted": True}


def test_middleware(client: httpx.Client) -> None:
    """Async and sync middleware both see the answer."""
    headers = client.get("/notes/").headers
    assert (headers["x-async"], headers["x-sync"]) == ("/notes/", "/notes/")


@pytest.mark.parametrize(
    ("blocks", "kind"), [(1, "InMemoryUploadedFile"), (80, "TemporaryUploadedFile")]
)
def test_upload(client: httpx.Client, blocks: int, kind: str) -> None:
    """A small file and one of 5 MiB, which Django puts on disk, arrive byte for byte."""
    content = bytes(range(256)) * 256 * blocks
    seen = client.post("/upload/", files={"file": ("a.bin", content)}).json()
    sha = hashlib.sha256(content).hexdigest()
    assert seen == {"name": "a.bin", "size": len(content), "sha256": sha, "kind": kind}


def test_streaming_response(client: httpx.Client) -> None:
    """A streamed answer that asks the database for each row arrives whole."""
    assert client.get("/rows/").text == "".join(f"{number},True\n" for number in range(200))


@pytest.mark.spec("FR 64")
def test_events(server: Server) -> None:
    """A server-sent event reaches the client while the view waits to make the next."""
    with exchange(server) as raw:
        raw.start(b"GET", b"/events/?key=event", [], end=True)
        assert raw.head()[1][b"content-type"].startswith(b"text/event-stream")
        assert b"two" not in raw.read_until(b"one\n\n")
        release(server, "event")
        raw.read_until(b"two\n\n")


def test_head(client: httpx.Client) -> None:
    """HEAD has the length of GET and no body."""
    response = client.head("/")
    assert (response.content, response.headers["content-length"]) == (b"", "4")


def test_errors(client: httpx.Client) -> None:
    """Django's own pages for 404 and 500 arrive."""
    assert [client.get(page).status_code for page in ("/nowhere/", "/crash/")] == [404, 500]


@pytest.mark.spec("FR 97")
def test_connections_stay_bounded(client: httpx.Client, server: Server) -> None:
    """Many requests open one connection a thread of the server, and no more."""
    if server.host.name == "werkzeug":
        pytest.skip("a new thread for each connection")

    def ask() -> set[int]:
        with server.new_client() as other:
            return {other.get("/query/").json()["thread"] for _ in range(10)}

    with ThreadPoolExecutor(4) as threads:
        used = set().union(*(answer.result(30) for answer in [threads.submit(ask) for _ in "1234"]))
    assert used
    seen = client.get("/connections/").json()
    assert seen["opened"] == seen["threads"]


@pytest.mark.spec("FR 85")
def test_log_is_silent(client: httpx.Client, server: Server) -> None:
    """Django refuses lifespan; nobody complains, at the start or the end."""
    assert client.get("/").text == "home"
    assert "lifespan" not in server.log.lower()
