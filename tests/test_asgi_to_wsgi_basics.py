"""What every request under ``ASGIToWSGI`` gets, on every back end, bare and between validators."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from wsgi_driver import (
    BACKENDS,
    EVENT_SECONDS,
    TEXT,
    Adapt,
    FakeHost,
    InThread,
    answer,
    app_of,
    body,
    echo,
    hello,
    linted,
    read_all,
    serve,
    start,
    validated,
)

from bridges import ASGIToWSGI
from bridges.asgi_to_wsgi import living_adapters
from bridges.typing import ASGIApplication, Receive, Scope, Send

pytest_plugins = ["wsgi_driver"]

WRAPPERS = {"bare": lambda app: app, "validated": validated, "linted": linted}


@app_of
async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(201))
    for number in range(5):
        await send(body(b"%d;" % number, more=True))
    await send(body())


@app_of
async def empty(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(204, []))
    await send(body())


@app_of
async def upper(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start())
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        await send(body(message["body"].upper(), more))


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: response")
@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize(
    ("app", "method", "sent", "status", "got"),
    [
        pytest.param(hello, "GET", b"", 200, b"hello", id="hello"),
        pytest.param(hello, "HEAD", b"", 200, b"", id="head"),
        pytest.param(echo, "POST", b"some body", 200, b"some body", id="echo"),
        pytest.param(echo, "POST", b"x" * 300_000, 200, b"x" * 300_000, id="long"),
        pytest.param(upper, "PUT", b"abc" * 50_000, 200, b"ABC" * 50_000, id="upper"),
        pytest.param(stream, "GET", b"", 201, b"0;1;2;3;4;", id="stream"),
        pytest.param(empty, "GET", b"", 204, b"", id="empty"),
    ],
)
def test_the_host_gets_what_the_application_sends(
    adapt: Adapt, app: ASGIApplication, method: str, sent: bytes, status: int, got: bytes, wrap: str
) -> None:
    """Status and body arrive, whichever the back end, and every validator is content on the way."""
    if wrap == "linted" and app is empty:
        pytest.skip(
            "werkzeug's lint wants a Content-Length under 204, which RFC 9110 section 8.6 forbids"
        )
    host = serve(WRAPPERS[wrap](adapt(app)), method, "/somewhere", body=sent)
    assert (status, got) == (host.status, host.body)
    assert host.complete


@pytest.mark.spec("FR 54")
@pytest.mark.spec("FR 55")
def test_the_application_sees_the_request(adapt: Adapt) -> None:
    """Path, root path, raw path, query, method, headers and addresses stand in the scope."""
    seen: list[Scope] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await answer(send)

    serve(
        adapt(app),
        "PATCH",
        "/a/b",
        SCRIPT_NAME="/mount",
        QUERY_STRING="q=%20&r=\xe9",
        RAW_URI="/mount/a%2Fb?q=%20",
        SERVER_PORT="8080",
        headers={"X-One": "1"},
        wsgi__url_scheme="https",
    )
    (scope,) = seen
    assert (scope["path"], scope["root_path"]) == ("/mount/a/b", "/mount")
    assert scope["raw_path"] == b"/mount/a%2Fb"
    assert scope["query_string"] == b"q=%20&r=\xe9"
    assert (scope["method"], scope["scheme"]) == ("PATCH", "https")
    assert (b"x-one", b"1") in scope["headers"]
    assert tuple(scope["client"]) == ("127.0.0.1", 50000)
    assert tuple(scope["server"]) == ("testserver", 8080)


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: constructor")
def test_root_path_replaces_script_name(adapt_asyncio: Adapt) -> None:
    """A prefix that a proxy took off can be given by hand."""
    seen: list[tuple[str, str]] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["root_path"], scope["path"]))
        await answer(send)

    serve(adapt_asyncio(app, root_path="/prefix"), "GET", "/page")
    assert seen == [("/prefix", "/prefix/page")]


@pytest.mark.spec("FR 56")
@pytest.mark.parametrize("path", ["/\xff\xfe", "/\xc3", "/caf\xe9"])
def test_bytes_that_are_not_utf8_in_the_path(adapt_asyncio: Adapt, path: str) -> None:
    """A path that is not UTF-8 is refused or replaced, never a traceback."""
    assert serve(adapt_asyncio(hello), path=path).status in (200, 400)


@pytest.mark.spec("FR 71")
@pytest.mark.parametrize(
    ("protocol", "version"), [("HTTP/1.1", "1.1"), ("HTTP/1.0", "1.0"), ("HTTP/2", "2"), (None, "")]
)
def test_versions(adapt_asyncio: Adapt, protocol: str | None, version: str) -> None:
    """The protocol of the host and the version of the specification are told as they are."""
    seen: list[Scope] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await answer(send)

    assert serve(adapt_asyncio(app), SERVER_PROTOCOL=protocol).status == 200
    assert seen[0]["http_version"] == version or not version
    assert seen[0]["asgi"]["version"] == "3.0"
    assert seen[0]["asgi"]["spec_version"].startswith("2.")


@pytest.mark.spec("FR 63")
@pytest.mark.parametrize(
    "oddity",
    [
        {"SERVER_PORT": ""},
        {"REMOTE_PORT": None},
        {"REMOTE_PORT": None, "REMOTE_ADDR": None},
        {"wsgi__input": None},
        {"wsgi__errors": None},
        {"QUERY_STRING": None},
        {"CONTENT_TYPE": ""},
        {"SCRIPT_NAME": None},
        {"PATH_INFO": ""},
    ],
    ids=str,
)
def test_environs_of_careless_hosts(adapt_asyncio: Adapt, oddity: dict[str, Any]) -> None:
    """What hosts leave out or leave empty costs no request."""
    host = serve(adapt_asyncio(echo), **oddity)
    assert (host.status, host.body) == (200, b"")


@pytest.mark.spec("FR 63")
def test_a_client_without_a_port(adapt_asyncio: Adapt) -> None:
    """REMOTE_ADDR alone still names the client."""
    seen: list[Any] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(tuple(scope["client"]))
        await answer(send)

    serve(adapt_asyncio(app), REMOTE_ADDR="1.2.3.4", REMOTE_PORT=None)
    assert seen == [("1.2.3.4", 0)]


@pytest.mark.spec("FR 75")
def test_requests_share_a_loop(adapt: Adapt) -> None:
    """Requests from several threads run on one loop, so that clients and pools survive."""
    loops: set[int] = set()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        loops.add(_loop_id())
        await answer(send)

    adapter = adapt(app)
    threads = [InThread(lambda: serve(adapter)) for _ in range(4)]
    assert [thread.result().status for thread in threads] == [200] * 4
    assert len(loops) == 1


def _loop_id() -> int:
    import sniffio

    if sniffio.current_async_library() == "trio":
        import trio

        return id(trio.lowlevel.current_trio_token())
    import asyncio

    return id(asyncio.get_running_loop())


def _portal_threads() -> set[threading.Thread]:
    """Give the loops' threads; the workers of other libraries come and go."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("bridges-portal")}


@pytest.mark.spec("FR 73")
def test_a_hundred_adapters_share_a_thread(backend: str, adapt: Adapt) -> None:
    """Adapters cost no thread each, whatever their number; the last one to close ends it."""
    before = _portal_threads()
    adapters = [adapt(hello) for _ in range(100)]
    assert _portal_threads() <= before
    assert {serve(adapter).body for adapter in adapters} == {b"hello"}
    started = _portal_threads() - before
    assert len(started) == (backend != "inline")
    for adapter in adapters:
        adapter.close()
    for thread in started:
        thread.join(EVENT_SECONDS)  # its last steps come after the loop's
        assert not thread.is_alive()


@pytest.mark.spec("FR 77")
def test_the_inline_back_end_starts_no_thread() -> None:
    """The loop runs in the thread of the request, and only there."""
    threads: set[int] = set()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        threads.add(threading.get_ident())
        await answer(send, b"here")

    before = _portal_threads()
    adapter = ASGIToWSGI(app, backend="inline")
    assert serve(adapter).body == b"here"
    assert threads == {threading.get_ident()}
    assert _portal_threads() <= before
    adapter.close()


class _UWSGI:
    def __init__(self, **opt: Any) -> None:
        self.has_threads = opt.pop("has_threads", 0)
        self.opt = {name.replace("_", "-"): value for name, value in opt.items()}


@pytest.mark.spec("FR 77")
@pytest.mark.parametrize(
    ("options", "threads"),
    [({}, 0), ({"enable_threads": True}, 1), ({"threads": b"4"}, 1), ({"has_threads": 1}, 1)],
)
def test_uwsgi_without_threads_takes_the_inline_back_end(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], threads: int
) -> None:
    """A host where no other thread runs is recognised by itself."""
    monkeypatch.setitem(sys.modules, "uwsgi", _UWSGI(**options))  # type: ignore[arg-type]
    before = _portal_threads()
    adapter = ASGIToWSGI(hello)
    assert serve(adapter).body == b"hello"
    assert len(_portal_threads() - before) == threads
    adapter.close()


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: constructor")
def test_the_adapter_shows_what_it_wraps() -> None:
    """The application is at hand, and named in the repr; hosts find all living adapters."""
    adapter = ASGIToWSGI(hello)
    assert adapter.app is adapter.__wrapped__ is hello
    assert "hello" in repr(adapter)
    assert adapter in living_adapters()


@pytest.mark.spec("behaviours.md", "ASGIToWSGI: constructor")
def test_construction_starts_nothing() -> None:
    """Neither a thread nor a descriptor is taken before the first request."""
    portals, descriptors = _portal_threads(), len(os.listdir("/dev/fd"))
    adapters = [ASGIToWSGI(hello, **options()) for options in BACKENDS.values()]
    assert _portal_threads() <= portals
    assert len(os.listdir("/dev/fd")) <= descriptors
    for adapter in adapters:
        adapter.close()


@pytest.mark.spec("ASGI", "2.0 Applications")
def test_an_application_of_asgi_2(adapt_asyncio: Adapt) -> None:
    """A callable of one argument that gives a coroutine function is adapted, class or function."""

    class Double:
        def __init__(self, scope: Scope) -> None:
            self.scope = scope

        async def __call__(self, receive: Receive, send: Send) -> None:
            await answer(send, self.scope["path"].encode())

    def double(scope: Scope) -> Any:
        return Double(scope)

    for app in (Double, double):
        adapter = ASGIToWSGI(app, lifespan="off")  # type: ignore[arg-type]
        assert serve(adapter, path="/two").body == b"/two"
        adapter.close()


@pytest.mark.spec("FR 74")
def test_a_loop_factory_makes_the_loop() -> None:
    """``loop_factory`` is called once, in the loop's thread, and its loop is closed at the end."""
    import asyncio

    made: list[asyncio.AbstractEventLoop] = []
    used: list[asyncio.AbstractEventLoop] = []

    def factory() -> asyncio.AbstractEventLoop:
        made.append(asyncio.new_event_loop())
        return made[-1]

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        used.append(asyncio.get_running_loop())
        await answer(send)

    adapter = ASGIToWSGI(app, loop_factory=factory)
    serve(adapter)
    serve(adapter)
    adapter.close()
    assert [id(loop) for loop in used] == [id(made[0])] * 2
    assert [loop.is_closed() for loop in made] == [True]


@pytest.mark.spec("FR 74")
def test_a_loop_factory_that_fails() -> None:
    """Its own exception is raised in the request; the next request tries anew."""
    import asyncio

    fails = [True]

    def factory() -> asyncio.AbstractEventLoop:
        if fails.pop():
            raise LookupError("no loop today")
        return asyncio.new_event_loop()

    fails.insert(0, False)
    adapter = ASGIToWSGI(hello, loop_factory=factory)
    with pytest.raises(LookupError, match="no loop today"):
        serve(adapter)
    assert serve(adapter).body == b"hello"
    adapter.close()


def test_the_host_does_not_read_what_was_sent_along(adapt: Adapt) -> None:
    """A request whose body nobody asks for leaves it unread."""
    host = serve(adapt(hello), "POST", body=b"x" * 1000)
    assert host.body == b"hello"
    assert host.input.reads == 0


DEBUG_FILES = ("body", "response", "errors", "disconnect")


@pytest.mark.slow
@pytest.mark.spec("FR 79")
@pytest.mark.timeout(120)
@pytest.mark.skipif("PYTHONASYNCIODEBUG" in os.environ, reason="this is the run in question")
def test_the_debug_mode_of_asyncio_has_no_complaint() -> None:
    """The core of the suite passes with asyncio's debug mode, and with every warning an error."""
    here = Path(__file__).parent
    files = [str(here / f"test_asgi_to_wsgi_{name}.py") for name in DEBUG_FILES]
    plugins = ["-p", "stubs"] if "stubs" in sys.modules else []
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-m", "pytest", "-q", "-x", "-k", "not trio", *plugins,
         "-p", "no:cacheprovider", "-W", "error", *files, __file__],
        env={**os.environ, "PYTHONASYNCIODEBUG": "1"},
        cwd=here.parent,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]


def test_read_all_sees_every_piece(adapt: Adapt) -> None:
    """The body comes as the host has it, piece by piece."""
    pieces: list[bytes] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        first = await receive()
        pieces.append(first["body"])
        pieces.append(await read_all(receive))
        await answer(send)

    serve(adapt(app), "POST", body=[b"one", b"two", b"three"])
    assert pieces == [b"one", b"twothree"]


def test_text_is_the_content_type_of_the_tests(adapt_asyncio: Adapt) -> None:
    """Header fields arrive as they were sent."""
    assert serve(adapt_asyncio(hello)).headers[0] == tuple(part.decode() for part in TEXT[0])


def test_a_host_may_take_its_time(adapt: Adapt) -> None:
    """Between the steps of the iteration the host may do as it likes: also serve another request."""
    adapter = adapt(stream)
    slow = FakeHost().call(adapter)
    assert serve(adapter).body == b"0;1;2;3;4;"
    assert slow.rest().close().body == b"0;1;2;3;4;"
