"""A Flask application, at the root and under two nested mounts of four frameworks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest
from hostkit.asgi_hosts import APPS_DIRECTORY
from hostkit.process import Server

APPS = ("Flask", "in Starlette", "in FastAPI", "in Litestar", "in Quart")
CONTENT = bytes(range(256)) * 600


@pytest.fixture
def client(server: Server) -> httpx.Client:
    """Give a client without cookies."""
    assert server.client
    server.client.cookies.clear()
    return server.client


@pytest.fixture
def prefix(server: Server) -> str:
    """Give the path under which Flask is found."""
    return "" if server.app == "Flask" else "/outer/legacy"


@pytest.mark.spec("FR 53")
def test_url_for(client: httpx.Client, prefix: str, server: Server) -> None:
    """url_for holds the prefix once, relative and absolute."""
    base = f"{server.scheme}://127.0.0.1:{server.port}{prefix}"
    seen = client.get(f"{prefix}/hello/you").json()
    assert seen == {"name": "you", "self": f"{prefix}/hello/you", "root": f"{base}/"}
    assert client.get(f"{prefix}/absolute").text == f"{base}/hello/x"


@pytest.mark.spec("FR 46")
@pytest.mark.parametrize("name", ["café", "日本", "a b", "100%", "a+b"])
def test_names_in_the_path(client: httpx.Client, prefix: str, name: str) -> None:
    """A variable of the route is what the client meant, in any script."""
    quoted = httpx.URL(f"http://x/hello/{name.replace('%', '%25')}").raw_path.decode()
    assert client.get(f"{prefix}{quoted}").json()["name"] == name


@pytest.mark.spec("FR 53")
def test_redirect(client: httpx.Client, prefix: str) -> None:
    """A redirect made by url_for leads to the page under the mount."""
    assert client.get(f"{prefix}/go").headers["location"] == f"{prefix}/hello/there"
    assert client.get(f"{prefix}/go", follow_redirects=True).json()["name"] == "there"


@pytest.mark.spec("FR 53")
def test_missing_slash(client: httpx.Client, prefix: str) -> None:
    """Flask's own redirect to the path with a slash stays under the mount."""
    response = client.get(f"{prefix}/folder", follow_redirects=True)
    assert (response.url.path, response.text) == (f"{prefix}/folder/", "folder")


@pytest.mark.spec("FR 53")
def test_the_mount_point_itself(client: httpx.Client, prefix: str) -> None:
    """The mount point, with and without a slash, leads to Flask's home."""
    for path in (f"{prefix}/", prefix or "/"):
        assert client.get(path, follow_redirects=True).text == "home"


@pytest.mark.spec("FR 52")
def test_a_prefix_ends_at_a_segment(client: httpx.Client, prefix: str) -> None:
    """A longer word that begins like the mount is no page of Flask's."""
    assert client.get(f"{prefix}x/hello/you").status_code == 404


def test_new_app_beside_it(client: httpx.Client, prefix: str) -> None:
    """The application around the mount answers its own paths."""
    assert client.get("/").text == ("new" if prefix else "home")


def test_session(client: httpx.Client, prefix: str) -> None:
    """A signed session survives from request to request."""
    assert [client.get(f"{prefix}/count").json()["count"] for _ in range(3)] == [1, 2, 3]


def test_flash(client: httpx.Client, prefix: str) -> None:
    """A flashed message is seen once, after the redirect."""
    post = client.post(f"{prefix}/note", data={"text": "grüße"}, follow_redirects=True)
    assert post.json() == ["grüße"]
    assert client.get(f"{prefix}/notes").json() == []


def test_upload(client: httpx.Client, prefix: str) -> None:
    """An uploaded file and a form field arrive together."""
    files, data = {"file": ("a.bin", CONTENT)}, {"text": "x"}
    seen = client.post(f"{prefix}/upload", files=files, data=data).json()
    sha = hashlib.sha256(CONTENT).hexdigest()
    assert seen == {"name": "a.bin", "size": len(CONTENT), "sha256": sha, "text": "x"}


@pytest.mark.spec("FR 6")
def test_body_without_length(client: httpx.Client, prefix: str) -> None:
    """A request body of unknown length is not empty to Flask."""
    assert client.post(f"{prefix}/raw", content=iter([b"Hel", b"lo"])).content == b"Hello"


def test_json(client: httpx.Client, prefix: str) -> None:
    """A JSON body arrives, and one goes back."""
    value = {"list": [1, None, "ü"]}
    assert client.post(f"{prefix}/json", json=value).json() == value


def test_stream(client: httpx.Client, prefix: str) -> None:
    """A generated export arrives whole."""
    expected = "".join(f"{number},{number * number}\n" for number in range(2000))
    assert client.get(f"{prefix}/rows").text == expected


@pytest.mark.spec("FR 98")
def test_stream_with_context(client: httpx.Client, prefix: str) -> None:
    """The request context lasts while the answer is generated."""
    seen = client.get(f"{prefix}/in-context?a=1&b=2").text
    assert seen == f"1:{prefix}/hello/a;2:{prefix}/hello/b;"


@pytest.mark.spec("FR 105")
def test_file(client: httpx.Client, prefix: str) -> None:
    """send_file gives the file's bytes, its length, a range of it, and 304 on its ETag."""
    expected = Path(APPS_DIRECTORY, "flask_app.py").read_bytes()
    whole = client.get(f"{prefix}/file")
    assert (whole.content, whole.headers["content-length"]) == (expected, str(len(expected)))
    part = client.get(f"{prefix}/file", headers={"Range": "bytes=3-9"})
    assert (part.status_code, part.content) == (206, expected[3:10])
    again = client.get(f"{prefix}/file", headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_head(client: httpx.Client, prefix: str) -> None:
    """HEAD gives the fields of GET without its body."""
    response = client.head(f"{prefix}/hello/you")
    length = str(len(client.get(f"{prefix}/hello/you").content))
    assert (response.content, response.headers["content-length"]) == (b"", length)


def test_errors(client: httpx.Client, prefix: str, server: Server) -> None:
    """Flask's own pages for 403, 404, 405 and 500 arrive; the traceback is in the log."""
    pages = ("/abort", "/nowhere", "/upload", "/crash")
    seen = [client.get(f"{prefix}{page}").status_code for page in pages]
    assert seen == [403, 404, 405, 500]
    assert server.logs("RuntimeError: meant")


@pytest.mark.spec("FR 96")
def test_process_stops_when_asked(server: Server) -> None:
    """SIGTERM ends the process by itself."""
    assert server.stop() in (0, -15)
