"""PEP 3333 clause by clause, with ``WSGIToASGI`` as the server, watched by two independent validators."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.validate import validator

import anyio
import httpx
import pytest
from apps.plain import CASES, Case, hello
from driver import content_length, request, server_for

from bridges import WSGIToASGI
from bridges.typing import Environ, StartResponse, WSGIApplication

PEP = "PEP 3333"


def linted(app: WSGIApplication) -> WSGIApplication:
    """Put werkzeug's lint around an application; its complaints are warnings, which fail a test here."""
    from werkzeug.middleware.lint import LintMiddleware

    return LintMiddleware(app)


WATCHES: dict[str, Callable[[Any], Any]] = {"wsgiref": validator, "werkzeug": linted}

# Under the lint a file wrapper is one more iterable: the case `closing` shows that.
WATCHED = [
    (watch, name) for watch in WATCHES for name in CASES if (watch, name) != ("werkzeug", "file")
]

# httpx's WSGI side has no file wrapper, drops what is written, and raises any exc_info.
DIRECT = [name for name in CASES if name not in ("file", "writes", "changes_its_mind")]

SCOPES: dict[str, dict[str, Any]] = {
    "tcp": {},
    "ipv6": {"server": ("::1", 8000, 0, 0), "client": ("::1", 50000, 0, 0)},
    "unix socket": {"server": ("/run/app.sock", None), "client": None},
    "missing addresses": {"server": None, "client": None},
    "https": {"scheme": "https", "server": ("127.0.0.1", 443)},
    "http/2": {"http_version": "2"},
    "mounted": {"path": "/old/page", "root_path": "/old"},
    "mount point": {"path": "/old", "root_path": "/old"},
    "nothing optional": {
        "root_path": None,
        "raw_path": None,
        "query_string": None,
        "extensions": None,
        "asgi": {"version": "3.0"},
    },
}


async def run_case(app: Any, case: Case, **scope: Any) -> tuple[int, bytes]:
    body = None if case.body is None else [case.body]
    headers = [(b"host", b"test"), (b"accept", b"*/*")]
    if case.body is not None:
        headers += [content_length(len(case.body)), (b"content-type", b"text/plain")]
    server = await request(WSGIToASGI(app), case.method, body=body, headers=headers, **scope)
    return server.status, server.body


@pytest.mark.spec(PEP, "Specification Details")
@pytest.mark.parametrize(("watch", "name"), WATCHED)
async def test_validators_find_nothing_between_adapter_and_application(
    watch: str, name: str
) -> None:
    """Each kind of application passes under ``wsgiref.validate`` and werkzeug's lint, with the same answer."""
    case = CASES[name]
    assert await run_case(WATCHES[watch](case.app), case) == (case.status, case.answer)


@pytest.mark.spec(PEP, "environ Variables")
@pytest.mark.spec("FR 38")
@pytest.mark.spec("FR 39")
@pytest.mark.parametrize("watch", WATCHES)
@pytest.mark.parametrize("shape", SCOPES)
async def test_validators_accept_the_environ_of_every_shape_of_scope(
    shape: str, watch: str
) -> None:
    """TCP, unix sockets, missing addresses, HTTP/2, mounts: the environ is always lawful."""
    case = CASES["hello"]
    assert await run_case(WATCHES[watch](case.app), case, **SCOPES[shape]) == (200, b"hello")


async def environ_of(method: str = "GET", **options: Any) -> Environ:
    seen: list[Environ] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [])
        return []

    await request(WSGIToASGI(app), method, **options)
    return seen[0]


@pytest.mark.spec(PEP, "environ Variables")
@pytest.mark.parametrize("shape", SCOPES)
async def test_the_environ_is_complete_and_of_exact_types(shape: str) -> None:
    """A builtin ``dict`` with every required key; CGI variables are ``str`` and no subclass."""
    environ = await environ_of(headers=[(b"host", b"test"), (b"x-a", b"\xe9")], **SCOPES[shape])
    assert type(environ) is dict
    required = {
        "REQUEST_METHOD",
        "SCRIPT_NAME",
        "PATH_INFO",
        "QUERY_STRING",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
    }
    assert required <= set(environ)
    for key, value in environ.items():
        assert type(key) is str
        if "." not in key:
            assert type(value) is str, key
            value.encode("latin-1")
    assert environ["SERVER_NAME"]
    assert environ["SERVER_PORT"].isdigit()
    assert environ["wsgi.version"] == (1, 0)
    assert environ["wsgi.url_scheme"] == ("https" if shape == "https" else "http")
    for flag in ("wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once"):
        assert type(environ[flag]) is bool
    for method in ("read", "readline", "readlines", "__iter__"):
        assert hasattr(environ["wsgi.input"], method)
    for method in ("flush", "write", "writelines"):
        assert hasattr(environ["wsgi.errors"], method)


@pytest.mark.spec(PEP, "environ Variables")
async def test_the_environ_belongs_to_the_application() -> None:
    """It may be changed at will, which touches neither the scope nor the next request."""
    kept: list[int] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        kept.append(len(environ))
        environ.clear()
        environ["junk"] = 1
        return hello(environ, start_response)

    adapter = WSGIToASGI(app)
    server = server_for(headers=[(b"host", b"test")])
    before = repr(server.scope)
    await server.serve(adapter)
    await request(adapter, headers=[(b"host", b"test")])
    assert repr(server.scope) == before
    assert kept[0] == kept[1]


@pytest.mark.spec(PEP, "environ Variables")
@pytest.mark.parametrize("multiprocess", [True, False])
async def test_multiprocess_is_what_the_operator_says(multiprocess: bool) -> None:
    """``wsgi.multiprocess`` is an option, since no server tells."""
    seen: list[object] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(environ["wsgi.multiprocess"])
        return hello(environ, start_response)

    await request(WSGIToASGI(app, multiprocess=multiprocess))
    assert seen == [multiprocess]


@pytest.mark.spec(PEP, "The start_response() Callable")
async def test_start_response_takes_its_arguments_by_position() -> None:
    """Two or three positional arguments; the third is ``exc_info``."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(*("200 OK", [("Content-Type", "text/plain")], None))
        assert callable(write)
        return [b"positional"]

    assert (await request(WSGIToASGI(app))).body == b"positional"


@pytest.mark.spec(PEP, "The start_response() Callable")
async def test_the_headers_list_may_be_changed_before_the_call_only() -> None:
    """What the application does to its list after ``start_response`` changes nothing that is sent."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        headers = [("X-Kept", "1")]
        start_response("200 OK", headers)
        headers.append(("X-Late", "1"))
        yield b"x"

    assert (await request(WSGIToASGI(app))).headers == [(b"x-kept", b"1")]


@pytest.mark.spec(PEP, "Buffering and Streaming")
@pytest.mark.spec(PEP, "Middleware Handling of Block Boundaries")
async def test_blocks_arrive_in_order_and_entire() -> None:
    """However they are joined on the way, the bytes are those that were yielded."""
    blocks = [b"%d," % number for number in range(2000)]

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield from blocks

    assert (await request(WSGIToASGI(app))).body == b"".join(blocks)


@pytest.mark.spec(PEP, "Thread Support")
async def test_the_same_application_object_serves_again() -> None:
    """An application is called many times."""
    adapter = WSGIToASGI(hello)
    for _ in range(3):
        assert (await request(adapter)).body == b"hello"


@pytest.mark.spec(PEP, "The Application/Framework Side")
async def test_a_class_is_an_application() -> None:
    """Calling a class gives an instance, which is the iterable."""

    class App:
        def __init__(self, environ: Environ, start_response: StartResponse) -> None:
            self.start_response = start_response

        def __iter__(self) -> Iterator[bytes]:
            self.start_response("200 OK", [("Content-Type", "text/plain")])
            yield b"instance"

    assert (await request(WSGIToASGI(App))).body == b"instance"


@pytest.mark.spec(PEP, "Optional Platform-Specific File Handling")
async def test_the_wrapper_is_an_iterable_with_the_files_close() -> None:
    """``wsgi.file_wrapper`` may be called for any file-like object, with or without a block size."""
    file = io.BytesIO(b"content")

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        wrapper = environ["wsgi.file_wrapper"]
        assert b"".join(wrapper(io.BytesIO(b"other"), 2)) == b"other"
        return wrapper(file)

    assert (await request(WSGIToASGI(app))).body == b"content"
    assert file.closed


@pytest.mark.spec(PEP, "Error Handling")
async def test_error_pages_replace_what_was_not_sent() -> None:
    """The PEP's own pattern for error handling works in call and iteration."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        try:
            start_response("200 Froody", [("content-type", "text/plain")])
            raise ValueError("regular application code here")
        except ValueError:
            start_response(
                "500 Oops", [("content-type", "text/plain"), ("x-error", "1")], sys.exc_info()
            )
            yield b"error body goes here"

    server = await request(WSGIToASGI(app))
    assert (server.status, server.body) == (500, b"error body goes here")
    assert server.header(b"x-error") == b"1"


def client_of(app: WSGIApplication) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=WSGIToASGI(app))  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.spec("issue 2", "httpx ASGITransport")
@pytest.mark.parametrize("name", CASES)
async def test_httpx_gets_the_answers_through_its_own_asgi_transport(name: str) -> None:
    """An independent ASGI server side gets the same answers."""
    case = CASES[name]
    async with client_of(case.app) as client:
        answer = await client.request(case.method, "/", content=case.body)
    assert (answer.status_code, answer.content) == (case.status, case.answer)


@pytest.mark.spec("issue 2", "httpx ASGITransport")
@pytest.mark.parametrize("name", DIRECT)
async def test_the_bare_application_and_the_bridged_one_answer_alike(name: str) -> None:
    """httpx's WSGI transport, which calls the application directly, gives status, body and type as ASGI does."""
    case = CASES[name]
    async with client_of(case.app) as client:
        bridged = await client.request(case.method, "/a%2Fb?x=1&y=%C3%A9", content=case.body)
    bare_transport = httpx.WSGITransport(app=case.app)
    with httpx.Client(transport=bare_transport, base_url="http://test") as bare_client:
        bare = bare_client.request(case.method, "/a%2Fb?x=1&y=%C3%A9", content=case.body)
    assert (bridged.status_code, bridged.content) == (bare.status_code, bare.content)
    assert bridged.headers.get("content-type") == bare.headers.get("content-type")


@pytest.mark.spec("issue 2", "httpx ASGITransport")
async def test_httpx_uploads_a_stream() -> None:
    """A chunked upload from an async iterator reaches ``wsgi.input``."""

    async def pieces() -> Any:
        for number in range(10):
            await anyio.sleep(0)
            yield b"%d" % number

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    async with client_of(app) as client:
        answer = await client.post("/", content=pieces())
    assert answer.content == b"0123456789"


@pytest.mark.spec("FR 51")
@pytest.mark.spec("FR 53")
@pytest.mark.parametrize(
    ("path", "root_path", "script_name", "path_info"),
    [
        ("/page", "", "", "/page"),
        ("/old/page", "/old", "/old", "/page"),
        ("/old/page", "/old/", "/old", "/page"),
        ("/old", "/old", "/old", ""),
        ("/old/", "/old", "/old", "/"),
        ("/page", "/old", "/old", "/page"),
        ("/older", "/old", "/old", "/older"),
        ("/a/b/c", "/a/b", "/a/b", "/c"),
    ],
)
async def test_the_mount_is_script_name_and_the_rest_path_info(
    path: str, root_path: str, script_name: str, path_info: str
) -> None:
    """The path is split on a segment border; a path outside the mount was stripped by the framework already."""
    environ = await environ_of(path=path, root_path=root_path)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


@pytest.mark.spec("FR 51")
async def test_a_mount_in_starlette() -> None:
    """Under two nested Starlette mounts the application sees both prefixes as SCRIPT_NAME."""
    applications = pytest.importorskip("starlette.applications")
    routing = pytest.importorskip("starlette.routing")

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}".encode()]

    inner = routing.Mount("/inner", WSGIToASGI(app))
    outer = applications.Starlette(routes=[routing.Mount("/outer", routes=[inner])])
    assert (await request(outer, path="/outer/inner/page/1")).body == b"/outer/inner|/page/1"
