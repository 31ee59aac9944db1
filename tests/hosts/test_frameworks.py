"""What Pyramid, Bottle and Falcon applications do all day works on every host."""

from __future__ import annotations

import hashlib

import httpx
import pytest
from hostkit.process import Server

APPS = ("Pyramid", "Bottle", "Falcon")
CONTENT = bytes(range(256)) * 600


@pytest.fixture
def client(server: Server) -> httpx.Client:
    """Give a client without cookies."""
    assert server.client
    server.client.cookies.clear()
    return server.client


def test_routes(client: httpx.Client) -> None:
    """A variable in the route arrives, and the way back gives the same path."""
    assert client.get("/hello/you").json() == {"name": "you", "self": "/hello/you"}


def test_route_in_utf8(client: httpx.Client) -> None:
    """A non-ASCII path is what its UTF-8 bytes say."""
    assert client.get("/hello/café").json()["name"] == "café"


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


@pytest.mark.spec("FR 32")
def test_stream(client: httpx.Client) -> None:
    """A generated answer arrives whole."""
    assert client.get("/rows").text == "".join(f"{number}\n" for number in range(2000))


def test_cookies(client: httpx.Client) -> None:
    """State in a cookie survives from request to request."""
    assert [client.get("/count").json()["count"] for _ in range(3)] == [1, 2, 3]


def test_unknown_page(client: httpx.Client) -> None:
    """The framework's own 404 arrives."""
    assert client.get("/nowhere").status_code == 404


def test_refusal(client: httpx.Client) -> None:
    """An error answer that the app chose arrives."""
    assert client.get("/refuse").status_code == 403


def test_crash(client: httpx.Client, server: Server) -> None:
    """An error in a view is a 500 and a traceback in the log, and the next request is served."""
    response = client.get("/crash")
    assert response.status_code == 500
    assert "meant" not in response.text
    assert server.logs("RuntimeError: meant")
    assert client.get("/").text == "home"


def test_head(client: httpx.Client) -> None:
    """HEAD of a page that GET serves gives no body."""
    response = client.head("/hello/you")
    assert response.content == b""


@pytest.mark.spec("FR 96")
def test_process_stops_when_asked(server: Server) -> None:
    """SIGTERM ends the process by itself."""
    assert server.stop() in (0, -15)
