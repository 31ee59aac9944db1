"""A FastAPI application, at the root and under a prefix of a Flask application."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest
from hostkit.journal import entries, noted, release
from hostkit.process import Server
from hostkit.raw import exchange
from hostkit.wsgi_hosts import APPS_DIRECTORY

APPS = ("FastAPI", "in Flask")
CONTENT = bytes(range(256)) * 600


@pytest.fixture
def client(server: Server) -> httpx.Client:
    """Give a client without cookies."""
    assert server.client
    return server.client


@pytest.fixture
def prefix(server: Server) -> str:
    """Give the path under which FastAPI is found."""
    return "" if server.app == "FastAPI" else "/api"


@pytest.mark.spec("FR 54")
def test_url_for(client: httpx.Client, prefix: str, server: Server) -> None:
    """url_for holds the prefix once."""
    url = f"http://127.0.0.1:{server.port}{prefix}/hello/you"
    assert client.get(f"{prefix}/hello/you").json() == {"name": "you", "self": url}


@pytest.mark.spec("FR 54")
def test_docs(client: httpx.Client, prefix: str) -> None:
    """The page of the docs asks for the schema under the prefix, and the schema names it."""
    assert f"'{prefix}/openapi.json'" in client.get(f"{prefix}/docs").text
    schema = client.get(f"{prefix}/openapi.json").json()
    assert "/hello/{name}" in schema["paths"]
    assert schema.get("servers", []) == ([{"url": prefix}] if prefix else [])


@pytest.mark.spec("FR 54")
def test_missing_slash(client: httpx.Client, prefix: str) -> None:
    """The redirect to the path with a slash stays under the prefix."""
    response = client.get(f"{prefix}/folder", follow_redirects=True)
    assert (response.url.path, response.text) == (f"{prefix}/folder/", "folder")


def test_app_beside_it(client: httpx.Client, prefix: str) -> None:
    """The application around it answers its own paths."""
    assert client.get("/").text == ("old" if prefix else "home")


@pytest.mark.parametrize("name", ["café", "日本", "a b", "100%"])
def test_names_in_the_path(client: httpx.Client, prefix: str, name: str) -> None:
    """A variable of the route is what the client meant, in any script."""
    quoted = httpx.URL(f"http://x/hello/{name.replace('%', '%25')}").raw_path.decode()
    assert client.get(f"{prefix}{quoted}").json()["name"] == name


@pytest.mark.spec("FR 84")
def test_lifespan_state(client: httpx.Client, prefix: str, server: Server) -> None:
    """The lifespan's state is in every request, on the loop that made it."""
    seen = [client.get(f"{prefix}/state").json() for _ in range(3)]
    assert seen == [{"pool": "opened", "same_loop": True}] * 3


def test_middleware(client: httpx.Client, prefix: str) -> None:
    """A BaseHTTPMiddleware sees request and answer."""
    assert client.get(f"{prefix}/def").headers["x-stamp"] == f"{prefix}/def"


def test_def_endpoint(client: httpx.Client, prefix: str) -> None:
    """A plain function runs outside of the loop's thread."""
    assert client.get(f"{prefix}/def").json() == {"loop": False, "main": False}


def test_dependency_with_yield(
    client: httpx.Client, prefix: str, server: Server, patience: float
) -> None:
    """A dependency is closed after its answer, and lives as long as a streamed one."""
    assert client.get(f"{prefix}/session?key=one").json() == "session"
    assert noted(server, "one-session", seconds=patience) == ["closed"]
    rows = client.get(f"{prefix}/session-rows?key=two").text
    assert rows == "".join(f"{number},session\n" for number in range(2000))
    assert noted(server, "two-session", seconds=patience) == ["closed"]


def test_model(client: httpx.Client, prefix: str) -> None:
    """A JSON body becomes a model; a wrong one is 422."""
    assert client.post(f"{prefix}/item", json={"name": "ü"}).json() == {"name": "ü", "price": 1.0}
    assert client.post(f"{prefix}/item", json={"price": "x"}).status_code == 422


def test_upload(client: httpx.Client, prefix: str) -> None:
    """An uploaded file and a form field arrive together."""
    files, data = {"file": ("a.bin", CONTENT)}, {"text": "x"}
    seen = client.post(f"{prefix}/upload", files=files, data=data).json()
    sha = hashlib.sha256(CONTENT).hexdigest()
    assert seen == {"name": "a.bin", "size": len(CONTENT), "sha256": sha, "text": "x"}


@pytest.mark.spec("FR 61")
def test_body_without_length(client: httpx.Client, prefix: str) -> None:
    """A request body of unknown length is not empty to the app."""
    assert client.post(f"{prefix}/raw", content=iter([b"Hel", b"lo"])).content == b"Hello"


@pytest.mark.spec("FR 69")
def test_background_tasks(
    client: httpx.Client, prefix: str, server: Server, patience: float
) -> None:
    """A background task runs after the answer and does not hold it up, BaseHTTPMiddleware or not."""
    assert client.get(f"{prefix}/background?key=back").json() == "accepted"
    assert entries(server, "back") == []
    release(server, "back", patience)
    assert noted(server, "back", seconds=patience) == ["done"]


@pytest.mark.spec("FR 64")
def test_events(prefix: str, server: Server) -> None:
    """A server-sent event reaches the client while the app waits to make the next."""
    with exchange(server) as raw:
        raw.start(b"GET", f"{prefix}/events?key=event".encode(), [], end=True)
        assert raw.head()[1][b"content-type"].startswith(b"text/event-stream")
        assert b"two" not in raw.read_until(b"one\n\n")
        release(server, "event")
        raw.read_until(b"two\n\n")


@pytest.mark.spec("FR 65")
def test_client_leaves(client: httpx.Client, prefix: str, server: Server, patience: float) -> None:
    """What a streaming endpoint depends on is closed when its client leaves."""
    with exchange(server) as raw:
        raw.start(b"GET", f"{prefix}/ticks?key=ticks".encode(), [], end=True)
        raw.head()
        raw.read()
        raw.leave("rst")
    assert noted(server, "ticks-session", seconds=patience) == ["closed"]
    assert client.get(f"{prefix}/def").status_code == 200


@pytest.mark.spec("FR 106")
def test_file(client: httpx.Client, prefix: str) -> None:
    """FileResponse gives the file's bytes, its length, and a range of it."""
    expected = Path(APPS_DIRECTORY, "fastapi_app.py").read_bytes()
    whole = client.get(f"{prefix}/file")
    assert (whole.content, whole.headers["content-length"]) == (expected, str(len(expected)))
    part = client.get(f"{prefix}/file", headers={"Range": "bytes=3-9"})
    assert (part.status_code, part.content) == (206, expected[3:10])


def test_head_is_refused_where_get_alone_is_served(client: httpx.Client, prefix: str) -> None:
    """HEAD of a GET endpoint is FastAPI's own 405, without a body."""
    response = client.head(f"{prefix}/def")
    assert (response.status_code, response.content) == (405, b"")


@pytest.mark.spec("FR 66")
def test_errors(client: httpx.Client, prefix: str, server: Server) -> None:
    """FastAPI's own 403, 404, 405 and 500 arrive; the traceback is in the log."""
    pages = ("/refuse", "/nowhere", "/upload", "/crash")
    assert [client.get(f"{prefix}{page}").status_code for page in pages] == [403, 404, 405, 500]
    assert server.logs("RuntimeError: meant")
