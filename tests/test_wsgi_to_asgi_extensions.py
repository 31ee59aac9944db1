"""Extensions of the server under ``WSGIToASGI``: files, early hints, trailers, TLS; and the extras of the environ."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from driver import FakeServer, end_pool, request, server_for

from bridges import WSGIToASGI, errors
from bridges.typing import Environ, Message, StartResponse

PATHSEND = "http.response.pathsend"
ZEROCOPYSEND = "http.response.zerocopysend"
EARLY_HINT = "http.response.early_hint"
TRAILERS = "http.response.trailers"
CONTENT = b"0123456789" * 20_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file on the disk."""
    file = tmp_path / "content.bin"
    file.write_bytes(CONTENT)
    return file


class FileApp:
    """Answers with a file in the server's wrapper."""

    def __init__(
        self,
        make: Callable[[], Any],
        headers: Iterable[tuple[str, str]] = (),
        block: int | None = None,
    ) -> None:
        self.make = make
        self.headers = list(headers)
        self.block = block
        self.file: Any = None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.file = self.make()
        start_response("200 OK", self.headers)
        sizes = () if self.block is None else (self.block,)
        answer: Iterable[bytes] = environ["wsgi.file_wrapper"](self.file, *sizes)
        return answer


async def file_answer(app: FileApp, *extensions: str, method: str = "GET") -> FakeServer:
    server = await request(WSGIToASGI(app), method, extensions={key: {} for key in extensions})
    assert app.file.closed
    return server


def kinds(server: FakeServer) -> list[str]:
    return [message["type"] for message in server.sent]


@pytest.mark.spec("FR 105")
async def test_a_file_is_sent_by_its_path(path: Path) -> None:
    """One ``pathsend`` with an absolute path, under a Content-Length, and the file is closed behind it."""
    server = await file_answer(FileApp(lambda: path.open("rb")), PATHSEND)
    assert kinds(server) == ["http.response.start", PATHSEND]
    assert server.sent[1]["path"] == str(path)
    assert os.path.isabs(server.sent[1]["path"])
    assert server.header(b"content-length") == b"%d" % len(CONTENT)
    assert server.body == CONTENT


@pytest.mark.spec("FR 105")
async def test_a_relative_path_is_made_absolute(path: Path, monkeypatch: Any) -> None:
    """A file opened by a relative name is named absolutely to the server."""
    monkeypatch.chdir(path.parent)
    server = await file_answer(FileApp(lambda: open("content.bin", "rb")), PATHSEND)  # noqa: SIM115
    assert server.sent[1]["path"] == str(path)


@pytest.mark.spec("FR 105")
@pytest.mark.parametrize("buffering", [0, -1])
async def test_a_file_is_sent_by_its_descriptor(path: Path, buffering: int) -> None:
    """``zerocopysend`` is preferred; the descriptor is open until the server has sent the file."""
    app = FileApp(lambda: path.open("rb", buffering=buffering))
    server = await file_answer(app, ZEROCOPYSEND, PATHSEND)
    assert kinds(server) == ["http.response.start", ZEROCOPYSEND]
    assert server.body == CONTENT


@pytest.mark.spec("FR 105")
async def test_a_file_is_read_in_large_blocks_otherwise(path: Path) -> None:
    """Without an extension, blocks of 64 KiB or more are read, whatever size the application asked for."""
    sizes: list[int] = []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            sizes.append(size or -1)
            return super().read(size)

    server = await file_answer(FileApp(lambda: Watched(CONTENT), block=512), PATHSEND)
    assert server.body == CONTENT
    assert min(sizes) >= 65_536
    assert len(sizes) <= len(CONTENT) // 65_536 + 2


def partly_read(path: Path) -> Any:
    file = path.open("rb")
    file.read(10)
    return file


def renamed(path: Path) -> Any:
    file = path.open("rb")
    path.rename(path.with_suffix(".old"))
    return file


def replaced(path: Path) -> Any:
    file = path.open("rb")
    path.rename(path.with_suffix(".old"))
    path.write_bytes(b"something else entirely")
    return file


def by_descriptor(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_RDONLY), "rb")


@pytest.mark.spec("FR 105")
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (partly_read, CONTENT[10:]),
        (renamed, CONTENT),
        (replaced, CONTENT),
        (by_descriptor, CONTENT),
    ],
)
async def test_a_file_whose_path_is_not_its_content_is_read(
    path: Path, make: Callable[[Path], Any], expected: bytes
) -> None:
    """A path that would give other bytes than the open file is not named to the server."""
    server = await file_answer(FileApp(lambda: make(path)), PATHSEND)
    assert PATHSEND not in kinds(server)
    assert server.body == expected


@pytest.mark.spec("FR 105")
@pytest.mark.parametrize("make", [partly_read, renamed, replaced, by_descriptor])
async def test_a_descriptor_sends_the_open_file_from_where_it_stands(
    path: Path, make: Callable[[Path], Any]
) -> None:
    """``zerocopysend`` names offset and count, so that a file read in part continues there."""
    server = await file_answer(FileApp(lambda: make(path)), ZEROCOPYSEND)
    skipped = 10 if make is partly_read else 0
    assert kinds(server) == ["http.response.start", ZEROCOPYSEND]
    assert (server.sent[1]["offset"], server.sent[1]["count"]) == (skipped, len(CONTENT) - skipped)
    assert server.body == CONTENT[skipped:]


@pytest.mark.spec("FR 105")
async def test_a_gzip_file_is_read_and_not_sent_compressed(tmp_path: Path) -> None:
    """A file object with a descriptor that does not give the bytes on the disk is read."""
    packed = tmp_path / "content.gz"
    packed.write_bytes(gzip.compress(CONTENT))
    server = await file_answer(FileApp(lambda: gzip.GzipFile(packed)), PATHSEND, ZEROCOPYSEND)
    assert server.body == CONTENT


@pytest.mark.spec("FR 105")
async def test_a_pipe_is_read() -> None:
    """What is no regular file cannot be sent by path or offset."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"through the pipe")
    os.close(write_end)
    app = FileApp(lambda: os.fdopen(read_end, "rb"))
    server = await file_answer(app, PATHSEND, ZEROCOPYSEND)
    assert server.body == b"through the pipe"


@pytest.mark.spec("FR 105")
async def test_an_empty_file(tmp_path: Path) -> None:
    """Nothing is sent in place of nothing."""
    empty = tmp_path / "empty"
    empty.touch()
    server = await file_answer(FileApp(lambda: empty.open("rb")), PATHSEND, ZEROCOPYSEND)
    assert (server.body, server.complete) == (b"", True)


@pytest.mark.spec("FR 105")
@pytest.mark.spec("FR 27")
@pytest.mark.parametrize("extension", [PATHSEND, ZEROCOPYSEND])
async def test_a_content_length_below_the_files_size_is_kept(path: Path, extension: str) -> None:
    """The announced part is sent, and no more."""
    app = FileApp(lambda: path.open("rb"), [("Content-Length", "100")])
    server = await file_answer(app, extension)
    assert server.body == CONTENT[:100]
    assert server.header(b"content-length") == b"100"


@pytest.mark.spec("FR 105")
@pytest.mark.spec("FR 27")
@pytest.mark.parametrize("extension", [PATHSEND, ZEROCOPYSEND])
async def test_a_content_length_beyond_the_files_size_aborts(path: Path, extension: str) -> None:
    """A file shorter than announced never looks like a complete answer."""
    app = FileApp(lambda: path.open("rb"), [("Content-Length", str(len(CONTENT) + 1))])
    server = server_for(extensions={extension: {}})
    with pytest.raises(errors.ApplicationProtocolError, match="short"):
        await server.serve(WSGIToASGI(app))
    assert not server.complete
    assert app.file.closed


@pytest.mark.spec("FR 105")
@pytest.mark.spec("FR 28")
@pytest.mark.parametrize("extension", [PATHSEND, ZEROCOPYSEND, None])
async def test_head_sends_no_file(path: Path, extension: str | None) -> None:
    """HEAD of a file is its head."""
    app = FileApp(lambda: path.open("rb"), [("Content-Length", str(len(CONTENT)))])
    server = await file_answer(app, *[extension] if extension else [], method="HEAD")
    assert (server.body, server.header(b"content-length")) == (b"", b"%d" % len(CONTENT))


@pytest.mark.spec("FR 105")
async def test_a_file_after_write_is_read(path: Path) -> None:
    """What ``write()`` has sent comes first, and the file follows as chunks."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [])(b"header ")
        return environ["wsgi.file_wrapper"](path.open("rb"))

    server = await request(WSGIToASGI(app), extensions={PATHSEND: {}, ZEROCOPYSEND: {}})
    assert server.body == b"header " + CONTENT


@pytest.mark.spec("FR 105")
async def test_a_wrapper_inside_another_iterable_is_just_an_iterable(path: Path) -> None:
    """A middleware that wraps the wrapper has its say over every block."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        with path.open("rb") as file:
            for block in environ["wsgi.file_wrapper"](file):
                yield block.replace(b"0", b"x")

    server = await request(WSGIToASGI(app), extensions={PATHSEND: {}, ZEROCOPYSEND: {}})
    assert server.body == CONTENT.replace(b"0", b"x")


@pytest.mark.spec("FR 105")
async def test_the_wrapper_takes_anything_with_read() -> None:
    """A file-like object needs only ``read``; ``close`` is called if there is one."""

    class Reader:
        def __init__(self) -> None:
            self.left = 3

        def read(self, size: int) -> bytes:
            self.left -= 1
            return b"x" * self.left

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](Reader(), 10)

    assert (await request(WSGIToASGI(app))).body == b"xxx"


@pytest.mark.spec("FR 105")
async def test_a_failed_send_of_a_file_closes_it(path: Path) -> None:
    """A client that leaves does not leak the descriptor."""
    app = FileApp(lambda: path.open("rb"))

    async def on_send(number: int, message: Message) -> None:
        if message["type"] == ZEROCOPYSEND:
            raise OSError("reset")

    adapter = WSGIToASGI(app, max_threads=1)
    with pytest.raises(OSError, match="reset"):
        await server_for(extensions={ZEROCOPYSEND: {}}, on_send=on_send).serve(adapter)
    end_pool(adapter)
    assert app.file.closed


@pytest.mark.spec("FR 107")
async def test_early_hints_leave_before_the_response() -> None:
    """Link headers given to ``wsgi.early_hints`` become an early hint, others are left out."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.early_hints"]([("Link", "</a.css>; rel=preload"), ("X-Other", "1")])
        environ["wsgi.early_hints"]([("link", "</b.js>; rel=preload")])
        start_response("200 OK", [])
        return [b"page"]

    server = await request(WSGIToASGI(app), extensions={EARLY_HINT: {}})
    assert [hint["links"] for hint in server.of_type(EARLY_HINT)] == [
        [b"</a.css>; rel=preload"],
        [b"</b.js>; rel=preload"],
    ]
    assert kinds(server)[:2] == [EARLY_HINT, EARLY_HINT]
    assert server.body == b"page"


@pytest.mark.spec("FR 107")
async def test_early_hints_after_the_head_are_an_error() -> None:
    """An early hint cannot follow the response it hints at."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"begun"
        environ["wsgi.early_hints"]([("Link", "</late.css>")])

    server = server_for(extensions={EARLY_HINT: {}})
    with pytest.raises(errors.ApplicationProtocolError, match="early hints after"):
        await server.serve(WSGIToASGI(app))


@pytest.mark.spec("FR 107")
@pytest.mark.spec("FR 25")
async def test_early_hints_are_held_to_the_rules_of_headers() -> None:
    """CR and LF are refused here too."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.early_hints"]([("Link", "</a>\r\nX: 1")])
        return []

    server = server_for(extensions={EARLY_HINT: {}})
    with pytest.raises(errors.ApplicationProtocolError, match="CR, LF"):
        await server.serve(WSGIToASGI(app))
    assert server.sends == 0


@pytest.mark.spec("FR 107")
@pytest.mark.parametrize("kind", [list, iter])
async def test_trailers_follow_the_body(kind: Callable[[list[bytes]], Any]) -> None:
    """The callback is called after the last chunk, and its fields follow as trailers."""
    order: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> Any:
        def trailers() -> list[tuple[str, str]]:
            order.append("trailers")
            return [("X-Checksum", "abc")]

        environ["bridges.trailers"](trailers)
        start_response("200 OK", [("Trailer", "X-Checksum")])
        return kind([b"some ", b"body"])

    server = await request(WSGIToASGI(app), extensions={TRAILERS: {}})
    assert server.head["trailers"] is True
    assert server.body == b"some body"
    assert kinds(server)[-1] == TRAILERS
    assert server.sent[-1]["headers"] == [(b"x-checksum", b"abc")]
    assert server.complete


@pytest.mark.spec("FR 107")
async def test_trailers_asked_for_too_late_are_an_error() -> None:
    """The head announces trailers, so that they must be asked for before it leaves."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"begun"
        environ["bridges.trailers"](list)

    server = server_for(extensions={TRAILERS: {}})
    with pytest.raises(errors.ApplicationProtocolError, match="trailers after"):
        await server.serve(WSGIToASGI(app))


@pytest.mark.spec("FR 107")
async def test_an_error_of_the_trailers_cuts_the_response() -> None:
    """A callback that fails is an error of the application, and the response does not look complete."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        def broken() -> list[tuple[str, str]]:
            raise LookupError("no checksum")

        environ["bridges.trailers"](broken)
        start_response("200 OK", [])
        yield b"body"

    server = server_for(extensions={TRAILERS: {}})
    with pytest.raises(LookupError, match="no checksum"):
        await server.serve(WSGIToASGI(app))
    assert not server.complete


@pytest.mark.spec("FR 107")
@pytest.mark.parametrize("extensions", [{}, None])
async def test_extensions_that_are_not_offered_are_not_in_the_environ(extensions: Any) -> None:
    """An application can ask whether the server does hints and trailers."""
    seen: list[set[str]] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append({"wsgi.early_hints", "bridges.trailers"} & set(environ))
        start_response("200 OK", [])
        return []

    server = server_for()
    server.scope["extensions"] = extensions
    await server.serve(WSGIToASGI(app))
    assert seen == [set()]


async def environ_of(**scope: Any) -> Environ:
    seen: list[Environ] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [])
        return []

    await request(WSGIToASGI(app), **scope)
    return seen[0]


@pytest.mark.spec("FR 108")
async def test_tls_facts_are_in_the_environ() -> None:
    """The ``tls`` extension becomes HTTPS and the SSL variables that applications know from mod_ssl."""
    tls = {
        "server_cert": "SERVER PEM",
        "client_cert_chain": ["CLIENT PEM", "ISSUER PEM"],
        "client_cert_name": "CN=someone",
        "client_cert_error": None,
        "tls_version": 0x0304,
        "cipher_suite": 0x1301,
    }
    environ = await environ_of(scheme="https", extensions={"tls": tls})
    expected = {
        "HTTPS": "on",
        "SSL_PROTOCOL": "TLSv1.3",
        "SSL_CIPHER": "TLS_AES_128_GCM_SHA256",
        "SSL_SERVER_CERT": "SERVER PEM",
        "SSL_CLIENT_CERT": "CLIENT PEM",
        "SSL_CLIENT_CERT_CHAIN_0": "ISSUER PEM",
        "SSL_CLIENT_S_DN": "CN=someone",
        "SSL_CLIENT_VERIFY": "SUCCESS",
    }
    assert {key: environ.get(key) for key in expected} == expected


@pytest.mark.spec("FR 108")
async def test_no_tls_no_variables() -> None:
    """A plain request has neither HTTPS nor SSL variables, and no header can forge them."""
    environ = await environ_of(headers=[(b"https", b"on"), (b"ssl-client-verify", b"SUCCESS")])
    assert [key for key in environ if key == "HTTPS" or key.startswith("SSL_")] == []


@pytest.mark.spec("FR 48")
@pytest.mark.spec("FR 49")
async def test_the_scope_is_in_the_environ_without_its_secrets() -> None:
    """``asgi.scope`` gives the raw headers in order; its repr shows no value of them."""
    headers = [(b"cookie", b"secret=1"), (b"x-b", b"2"), (b"authorization", b"Basic abc")]
    environ = await environ_of(headers=headers, state={"user": "someone"})
    scope = environ["asgi.scope"]
    assert scope["headers"] == headers
    assert scope["state"] == {"user": "someone"}
    assert "secret" not in repr(environ["asgi.scope"])
    assert "Basic" not in repr(scope)
    assert "authorization" in repr(scope)


@pytest.mark.spec("FR 47")
async def test_the_request_target_is_in_the_environ() -> None:
    """REQUEST_URI and RAW_URI give the target as sent."""
    environ = await environ_of(path="/a/b", raw_path=b"/a%2Fb", query_string=b"x=1&y=%C3%A9")
    assert environ["REQUEST_URI"] == environ["RAW_URI"] == "/a%2Fb?x=1&y=%C3%A9"
    assert environ["PATH_INFO"] == "/a/b"


@pytest.mark.spec("FR 40")
@pytest.mark.parametrize("given", [True, False])
async def test_errors_go_to_stderr_or_where_they_are_told(
    given: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """``wsgi.errors`` is the stream of the option, or today's ``sys.stderr``."""
    stream = io.StringIO()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.errors"].write("complaint\n")
        environ["wsgi.errors"].flush()
        start_response("200 OK", [])
        return []

    await request(WSGIToASGI(app, errors=stream if given else None))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert (stream.getvalue() if given else captured.err) == "complaint\n"
