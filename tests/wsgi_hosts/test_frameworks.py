"""What Starlette, Quart, Litestar and Falcon applications do all day works on every WSGI server."""

from __future__ import annotations

import hashlib

import httpx
import pytest
from hostkit.journal import entries, noted, release
from hostkit.process import Server
from hostkit.raw import exchange

APPS = ("Starlette", "Quart", "Litestar", "Falcon")
CONTENT = bytes(range(256)) * 600


@pytest.fixture
def client(server: Server) -> httpx.Client:
    """Give a client without cookies."""
    assert server.client
    server.client.cookies.clear()
    return server.client


@pytest.mark.parametrize("name", ["you", "café"])
def test_routes(client: httpx.Client, name: str) -> None:
    """A variable in the route arrives, and the way back gives the same path."""
    seen = client.get(f"/hello/{name}").json()
    assert seen["name"] == name
    assert seen["self"] in (f"/hello/{name}", httpx.URL(f"http://x/hello/{name}").raw_path.decode())


def test_redirect(client: httpx.Client) -> None:
    """A redirect leads to a page of the same application."""
    response = client.get("/go", follow_redirects=True)
    assert (response.url.path, response.json()["name"]) == ("/hello/there", "there")


def test_form(client: httpx.Client) -> None:
    """A form's field arrives."""
    assert client.post("/form", data={"text": "naïve & co"}).json() == {"text": "naïve & co"}


def test_upload(client: httpx.Client) -> None:
    """An uploaded file arrives byte for byte."""
    seen = client.post("/upload", files={"file": ("a.bin", CONTENT)}).json()
    sha = hashlib.sha256(CONTENT).hexdigest()
    assert seen == {"name": "a.bin", "size": len(CONTENT), "sha256": sha}


def test_json(client: httpx.Client) -> None:
    """A JSON body arrives, and one goes back."""
    value = {"list": [1, None, "ü"]}
    assert client.post("/json", json=value).json() == value


@pytest.mark.spec("FR 64")
def test_stream(client: httpx.Client) -> None:
    """A generated answer arrives whole."""
    assert client.get("/rows").text == "".join(f"{number}\n" for number in range(2000))


@pytest.mark.spec("FR 64")
def test_events(server: Server) -> None:
    """A server-sent event reaches the client while the app waits to make the next."""
    key = "event"
    with exchange(server) as raw:
        raw.start(b"GET", b"/events?key=event", [], end=True)
        assert raw.head()[1][b"content-type"].startswith(b"text/event-stream")
        assert b"two" not in raw.read_until(b"one")
        release(server, key)
        raw.read_until(b"two")


def test_cookies(client: httpx.Client) -> None:
    """State in a cookie survives from request to request."""
    assert [client.get("/count").json()["count"] for _ in range(3)] == [1, 2, 3]


@pytest.mark.spec("FR 83")
def test_lifespan(client: httpx.Client) -> None:
    """What the startup made is there."""
    assert client.get("/state").json() == "opened"


@pytest.mark.spec("FR 69")
def test_background(client: httpx.Client, server: Server, patience: float) -> None:
    """A background task runs after the answer and does not hold it up."""
    assert client.get("/background?key=back").text == "accepted"
    assert entries(server, "back") == []
    release(server, "back", patience)
    assert noted(server, "back", seconds=patience) == ["done"]


def test_error_pages(client: httpx.Client) -> None:
    """The framework's own 404 and 403 arrive."""
    assert [client.get(page).status_code for page in ("/nowhere", "/refuse")] == [404, 403]


@pytest.mark.spec("FR 66")
def test_crash(client: httpx.Client, server: Server) -> None:
    """An error in an endpoint is a 500 and a traceback in the log, and the next request is served."""
    response = client.get("/crash")
    assert response.status_code == 500
    assert "meant" not in response.text
    assert server.logs("RuntimeError: meant")
    assert client.get("/").text == "home"
