"""The extensions that ``ASGIToWSGI`` offers where its host has the means, and refuses where it has not."""

from __future__ import annotations

import gc
import io
import os
import threading
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from wsgi_driver import Adapt, FakeHost, answer, app_of, body, serve, start

from bridges.typing import Receive, Scope, Send

pytest_plugins = ["wsgi_driver"]

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a file of 256 000 bytes."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


class Wrapper(FileWrapper):
    """A host's file wrapper that remembers what it was given."""

    made: list[Wrapper]

    def __init__(self, file: Any, size: int = 8192) -> None:
        super().__init__(file, size)
        self.file = file
        self.made.append(self)


@pytest.fixture
def wrapper() -> Any:
    """Give a file wrapper class of this test."""
    return type("OwnWrapper", (Wrapper,), {"made": []})


def _descriptors() -> int:
    gc.collect()  # other tests' loops hold theirs until then
    return len(os.listdir("/dev/fd"))


def _pathsend(path: Any) -> Any:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "http.response.pathsend" in scope["extensions"]
        await send(start())
        await send({"type": "http.response.pathsend", "path": str(path)})

    return app


@pytest.mark.spec("FR 106")
def test_pathsend_uses_the_hosts_wrapper(adapt: Adapt, path: Path, wrapper: Any) -> None:
    """The host gets a real file, by whose descriptor it may send, in its own wrapper, and closes it."""
    adapter = adapt(_pathsend(path))
    serve(adapter, wsgi__file_wrapper=wrapper)
    before = _descriptors()
    host = FakeHost(wsgi__file_wrapper=wrapper).call(adapter)
    file = wrapper.made[-1].file
    assert host.result is wrapper.made[-1]
    assert os.fstat(file.fileno()).st_size == len(CONTENT)
    assert file.tell() == 0
    assert host.rest().close().body == CONTENT
    assert file.closed
    assert _descriptors() <= before


@pytest.mark.spec("FR 106")
def test_pathsend_is_left_early(adapt: Adapt, path: Path, wrapper: Any) -> None:
    """A host that closes in the middle of a file closes that, too."""
    host = FakeHost(wsgi__file_wrapper=wrapper).call(adapt(_pathsend(path)))
    host.next()
    host.close()
    assert wrapper.made[-1].file.closed


@pytest.mark.spec("FR 106")
def test_pathsend_of_a_missing_file(adapt: Adapt, tmp_path: Path, wrapper: Any) -> None:
    """The host can still answer 500: nothing was started."""
    host = FakeHost(wsgi__file_wrapper=wrapper)
    with pytest.raises(FileNotFoundError):
        host.call(adapt(_pathsend(tmp_path / "missing")))
    assert not host.started


@pytest.mark.spec("FR 106")
@pytest.mark.parametrize("what", ["start_response", "wrapper"])
def test_a_host_that_fails_at_a_file(adapt: Adapt, path: Path, what: str) -> None:
    """The file is closed whatever the host raises."""
    adapter = adapt(_pathsend(path))
    serve(adapter, wsgi__file_wrapper=FileWrapper)
    before = _descriptors()

    def fail(*arguments: Any) -> Any:
        raise LookupError

    host = FakeHost(wsgi__file_wrapper=fail if what == "wrapper" else FileWrapper)
    with pytest.raises(LookupError):
        adapter(host.environ, fail if what == "start_response" else host._start_response)
    assert _descriptors() <= before


@pytest.mark.spec("RFC 9110", "9.3.2 HEAD")
@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
def test_no_file_is_sent_for_head(adapt: Adapt, path: Path, wrapper: Any, kind: str) -> None:
    """A response to HEAD has no body, however the application sends it."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        if kind == "pathsend":
            await send({"type": "http.response.pathsend", "path": str(path)})
        else:
            with path.open("rb") as file:
                await send({"type": "http.response.zerocopysend", "file": file.fileno()})

    host = serve(adapt(app), "HEAD", wsgi__file_wrapper=wrapper)
    assert (host.status, host.body) == (200, b"")


@pytest.mark.spec("FR 106")
@pytest.mark.parametrize(
    ("offset", "count", "expected"),
    [
        (None, None, CONTENT),
        (0, 10, CONTENT[:10]),
        (255, 70_000, CONTENT[255:70_255]),
        (255_999, None, CONTENT[-1:]),
        (0, 0, b""),
    ],
)
def test_zerocopysend(
    adapt: Adapt, path: Path, wrapper: Any, offset: int | None, count: int | None, expected: bytes
) -> None:
    """A part of an open file is sent, although the application closes its descriptor at once."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "http.response.zerocopysend" in scope["extensions"]
        await send(start())
        await send(body(b"<", more=True))
        message: dict[str, Any] = {"type": "http.response.zerocopysend", "more_body": True}
        if offset is not None:
            message["offset"] = offset
        if count is not None:
            message["count"] = count
        with path.open("rb") as file:
            await send({**message, "file": file.fileno()})
        await send(body(b">"))

    adapter = adapt(app)
    serve(adapter, wsgi__file_wrapper=wrapper)
    before = _descriptors()
    assert serve(adapter, wsgi__file_wrapper=wrapper).body == b"<" + expected + b">"
    assert _descriptors() <= before


@pytest.mark.spec("FR 106")
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_zerocopysend_is_left_early(adapt: Adapt, path: Path, wrapper: Any, steps: int) -> None:
    """Descriptors that were taken for a host that left are closed, sent or not."""
    sent = threading.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"<", more=True))
        with path.open("rb") as file:
            for _ in range(3):
                await send(
                    {
                        "type": "http.response.zerocopysend",
                        "file": file.fileno(),
                        "offset": 0,
                        "more_body": True,
                    }
                )
        sent.set()
        await send(body(b">"))

    adapter = adapt(app)
    serve(adapter, wsgi__file_wrapper=wrapper)
    before = _descriptors()
    sent.clear()
    host = FakeHost(wsgi__file_wrapper=wrapper).call(adapter)
    assert sent.wait(15)
    for _ in range(steps):
        host.next()
    host.close()
    assert _descriptors() <= before


@pytest.mark.spec("FR 107")
def test_early_hints(adapt: Adapt) -> None:
    """Each hint is given to the host's callable before the head."""
    hints: list[Any] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        links = [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]
        await send({"type": "http.response.early_hint", "links": links})
        await answer(send, b"x")

    def early_hints(headers: Any) -> None:
        assert not host.started
        hints.append(list(headers))

    host = FakeHost(wsgi__early_hints=early_hints)
    assert host.serve(adapt(app)).body == b"x"
    ((first, second),) = hints
    assert [name.lower() for name, _ in (first, second)] == ["link", "link"]
    assert (first[1], second[1]) == ("</a.css>; rel=preload", "</b.js>; rel=preload")


@pytest.mark.spec("FR 107")
@pytest.mark.parametrize("whole", [True, False])
def test_trailers(adapt: Adapt, whole: bool) -> None:
    """A host that takes trailers is given a callable, which knows them once the body is over."""
    given: list[Any] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(trailers=True))
        if not whole:
            await send(body(b"x", more=True))
        await send(body(b"y"))
        fields = [(b"x-sum", b"1")]
        await send({"type": "http.response.trailers", "headers": fields, "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [(b"x-time", b"2")]})

    host = FakeHost(bridges__trailers=given.append)
    assert host.serve(adapt(app)).complete
    (trailers,) = given
    assert trailers() == [("x-sum", "1"), ("x-time", "2")]


@pytest.mark.spec("FR 107")
def test_trailers_that_the_host_does_not_take(adapt: Adapt) -> None:
    """Trailers announced to a host that has none are not waited for."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "http.response.trailers" not in scope["extensions"]
        await send(start(trailers=True))
        await send(body(b"x"))

    assert serve(adapt(app)).body == b"x"


@pytest.mark.spec("FR 107")
def test_trailers_that_never_come(adapt: Adapt) -> None:
    """An application that announced trailers and returns without them has not completed its response."""
    from bridges import errors

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(trailers=True))
        await send(body(b"x"))

    with pytest.raises(errors.ApplicationProtocolError, match="trailers"):
        serve(adapt(app), bridges__trailers=lambda trailers: None)


@pytest.mark.spec("FR 108")
def test_tls(adapt_asyncio: Adapt) -> None:
    """Facts that the host states in SSL_* variables stand in the ``tls`` extension."""
    seen: list[Any] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["scheme"], scope["extensions"].get("tls")))
        await answer(send)

    adapter = adapt_asyncio(app)
    serve(
        adapter,
        HTTPS="on",
        wsgi__url_scheme="https",
        SSL_PROTOCOL="TLSv1.3",
        SSL_CLIENT_S_DN="CN=someone",
        SSL_CLIENT_VERIFY="SUCCESS",
    )
    serve(adapter)
    (scheme, tls), plain = seen
    assert scheme == "https"
    assert tls["tls_version"] == 0x0304
    assert tls["client_cert_name"] == "CN=someone"
    assert plain == ("http", None)


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: extensions")
def test_only_what_the_host_has_is_offered(adapt_asyncio: Adapt) -> None:
    """A bare host offers its environ, and nothing that it could not do."""
    seen: list[Scope] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await answer(send)

    host = serve(adapt_asyncio(app))
    assert set(seen[0]["extensions"]) == {"wsgi.environ"}
    assert seen[0]["extensions"]["wsgi.environ"]["environ"] is host.environ


@pytest.mark.spec("FR 106")
def test_starlettes_file_response(adapt: Adapt, path: Path, wrapper: Any) -> None:
    """A framework's file response takes the short way by itself."""
    from starlette.responses import FileResponse

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await FileResponse(path)(scope, receive, send)

    host = serve(adapt(app), wsgi__file_wrapper=wrapper)
    assert host.body == CONTENT
    assert host.length == len(CONTENT)
    assert len(wrapper.made) == 1


def test_a_wrapper_that_is_io(adapt_asyncio: Adapt, path: Path) -> None:
    """A host's wrapper may be any callable, also one that gives the file back."""
    host = serve(adapt_asyncio(_pathsend(path)), wsgi__file_wrapper=lambda file, size: file)
    assert isinstance(host.result, io.RawIOBase)
    assert host.body == CONTENT
