"""A Django site on SQLite, through a pool of four threads, on every host."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hostkit.asgi_hosts import APPS_DIRECTORY
from hostkit.process import Server, child_environment

APPS = ("Django",)
THREADS = 4
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
    """Give a client without cookies."""
    assert server.client
    server.client.cookies.clear()
    return server.client


def test_routes(client: httpx.Client) -> None:
    """A variable in the path arrives, and reverse() gives the same path."""
    seen = client.get("/hello/café/").json()
    assert seen == {"name": "café", "self": "/hello/caf%C3%A9/"}


def test_missing_slash(client: httpx.Client) -> None:
    """Django's own redirect to the path with a slash leads there."""
    assert client.get("/hello/you", follow_redirects=True).json()["name"] == "you"


def test_orm_and_messages(client: httpx.Client) -> None:
    """A row that one request writes is read by the next, which also shows the message."""
    response = client.post("/add/", data={"text": "größe"}, follow_redirects=True)
    assert response.json() == {"notes": ["größe"], "told": ["added größe"]}
    assert client.get("/notes/").json() == {"notes": ["größe"], "told": []}


def test_rollback(client: httpx.Client) -> None:
    """An error inside atomic() leaves nothing behind, in this thread's connection or the file."""
    assert client.post("/undone/").status_code == 500
    assert "never kept" not in client.get("/notes/").json()["notes"]


def test_admin(client: httpx.Client) -> None:
    """The admin logs in, with its CSRF check, and shows its first page."""
    login = "/admin/login/?next=/admin/"
    page = client.get(login)
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    assert token
    form = {"username": "root", "password": "secret", "csrfmiddlewaretoken": token[1]}
    headers = {"Referer": str(page.url)}
    index = client.post(login, data=form, headers=headers, follow_redirects=True)
    assert (index.status_code, index.url.path) == (200, "/admin/")
    assert "Site administration" in index.text


@pytest.mark.parametrize(
    ("blocks", "kind"), [(1, "InMemoryUploadedFile"), (80, "TemporaryUploadedFile")]
)
def test_upload(client: httpx.Client, blocks: int, kind: str) -> None:
    """A small file and one of 5 MiB, which Django puts on disk, arrive byte for byte."""
    content = bytes(range(256)) * 256 * blocks
    seen = client.post("/upload/", files={"file": ("a.bin", content)}).json()
    sha = hashlib.sha256(content).hexdigest()
    assert seen == {"name": "a.bin", "size": len(content), "sha256": sha, "kind": kind}


@pytest.mark.spec("FR 105")
def test_file_response(client: httpx.Client) -> None:
    """FileResponse, by way of wsgi.file_wrapper, gives the file and its length."""
    expected = Path(APPS_DIRECTORY, "djangosite", "urls.py").read_bytes()
    response = client.get("/file/")
    assert (response.content, response.headers["content-length"]) == (expected, str(len(expected)))


def test_streaming_response(client: httpx.Client) -> None:
    """A streamed answer that asks the database for each row arrives whole."""
    assert client.get("/rows/").text == "".join(f"{number},True\n" for number in range(500))


def test_head(client: httpx.Client) -> None:
    """HEAD has the length of GET and no body."""
    response = client.head("/")
    assert (response.content, response.headers["content-length"]) == (b"", "4")


def test_errors(client: httpx.Client, server: Server) -> None:
    """Django's own pages for 404 and 500 arrive; the traceback is in the log."""
    assert [client.get(page).status_code for page in ("/nowhere/", "/crash/")] == [404, 500]


@pytest.mark.spec("FR 93")
def test_connections_stay_bounded(client: httpx.Client, server: Server) -> None:
    """CONN_MAX_AGE works: hundreds of requests open one connection a thread, and no more."""

    def ask() -> set[int]:
        with server.new_client() as other:
            return {other.get("/query/").json()["thread"] for _ in range(20)}

    with ThreadPoolExecutor(10) as threads:
        answers = [threads.submit(ask) for _ in range(10)]
        used = set().union(*(answer.result(30) for answer in answers))
    assert len(used) <= THREADS
    seen = client.get("/connections/").json()
    assert seen["threads"] <= THREADS
    assert seen["opened"] == seen["threads"]


@pytest.mark.spec("FR 93")
def test_connections_are_closed_at_the_end(client: httpx.Client, server: Server) -> None:
    """SIGTERM ends every thread, and each closes its connection as it ends."""
    opened = client.get("/connections/").json()["opened"]
    assert opened
    assert server.stop() in (0, -15)
    closed = re.findall(r"thread ended, connections closed: (\d+)", server.log)
    assert sum(int(number) for number in closed) == opened, "threads ended without their hook"
