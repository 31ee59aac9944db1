"""Two adapters around one application give what the application gives by itself."""

from __future__ import annotations

from typing import Any

import pytest
from apps.plain import CASES
from driver import end_pool, request
from wsgi_driver import FakeHost, answer, app_of, body, echo, hello, serve, start

from bridges import ASGIToWSGI, WSGIToASGI
from bridges.typing import Receive, Scope, Send

pytest_plugins = ["wsgi_driver"]


@app_of
async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(201))
    for number in range(50):
        await send(body(b"%d;" % number, more=True))
    await send(body())


@app_of
async def upper(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start())
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        await send(body(message["body"].upper(), more))


@app_of
async def describe(scope: Scope, receive: Receive, send: Send) -> None:
    keys = ("method", "path", "root_path", "raw_path", "query_string", "scheme", "http_version")
    facts = {key: scope[key] for key in keys}
    headers = sorted(field for field in scope["headers"] if field[0] != b"transfer-encoding")
    await answer(send, repr((facts, headers)).encode())


@app_of
async def empty(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"", 204, [])


@app_of
async def missing(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"no such page", 404, [(b"content-type", b"text/x"), (b"x-a", b"b")])


ASGI_CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "hello": (hello, {}),
    "head": (hello, {"method": "HEAD"}),
    "echo": (echo, {"method": "POST", "body": b"some body"}),
    "echo long": (echo, {"method": "POST", "body": b"x" * 300_000}),
    "echo chunked": (echo, {"method": "POST", "body": [b"a", b"b" * 9000], "chunked": True}),
    "upper": (upper, {"method": "PUT", "body": [b"one", b"two"]}),
    "stream": (stream, {}),
    "empty": (empty, {}),
    "missing": (missing, {}),
    "describe": (
        describe,
        {"path": "/a/b", "SCRIPT_NAME": "/m", "QUERY_STRING": "q=1", "headers": {"X-A": "b"}},
    ),
    "describe utf-8": (describe, {"path": "/caf\xc3\xa9", "QUERY_STRING": "q=%C3%A9"}),
    "describe post": (
        describe,
        {"method": "POST", "body": b"abc", "CONTENT_TYPE": "text/plain"},
    ),
}


def _facts(host: FakeHost) -> Any:
    headers = sorted(field for field in host.headers if field[0] != "content-length")
    return host.status, headers, host.body


@pytest.mark.spec("FR 81")
@pytest.mark.parametrize("case", ASGI_CASES)
@pytest.mark.parametrize("backend", ["asyncio", "inline"])
def test_an_asgi_application_through_both(case: str, backend: Any) -> None:
    """ASGI in WSGI in ASGI in WSGI is as good as ASGI in WSGI."""
    app, options = ASGI_CASES[case]
    once = ASGIToWSGI(app, backend=backend)
    outer = WSGIToASGI(ASGIToWSGI(app))
    thrice = ASGIToWSGI(outer, backend=backend)
    try:
        expected = _facts(serve(once, **options))
        assert _facts(serve(thrice, **options)) == expected
    finally:
        thrice.close()
        once.close()
        outer.__wrapped__.close()
        if outer.pool is not None:
            end_pool(outer)


@pytest.mark.spec("FR 81")
@pytest.mark.parametrize("case", CASES)
def test_a_wsgi_application_through_both(case: str) -> None:
    """WSGI in ASGI in WSGI gives the answer that the application itself gives to the host."""
    plain = CASES[case]
    options: dict[str, Any] = {"method": plain.method, "wsgi__file_wrapper": _wrapper}
    if plain.body is not None:
        options["body"] = plain.body
    inner = WSGIToASGI(plain.app)
    adapter = ASGIToWSGI(inner)
    try:
        host = serve(adapter, **options)
        assert (host.status, host.body) == (plain.status, plain.answer)
    finally:
        adapter.close()
        end_pool(inner)


def _wrapper(file: Any, size: int) -> Any:
    return iter(lambda: file.read(size), b"")


@pytest.mark.spec("FR 81")
@pytest.mark.parametrize("case", ["hello", "echo", "stream", "closing", "writes"])
async def test_a_wsgi_application_through_three(case: str, anyio_backend: Any) -> None:
    """The same holds on an ASGI server, whatever its loop."""
    plain = CASES[case]
    inner = WSGIToASGI(plain.app)
    middle = ASGIToWSGI(inner)
    outer = WSGIToASGI(middle)
    try:
        pieces = None if plain.body is None else [plain.body]
        server = await request(outer, plain.method, body=pieces)
        assert (server.status, server.body) == (plain.status, plain.answer)
    finally:
        import anyio

        await anyio.to_thread.run_sync(middle.close)
        end_pool(outer)
        end_pool(inner)


@pytest.mark.spec("FR 81")
def test_an_exception_comes_through_both() -> None:
    """The application's own exception reaches the host through any number of adapters."""

    class Boom(Exception):
        pass

    failure = Boom("why")

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise failure

    inner = ASGIToWSGI(app)
    middle = WSGIToASGI(inner)
    outer = ASGIToWSGI(middle, backend="inline")
    try:
        with pytest.raises(Boom) as caught:
            serve(outer)
        assert caught.value is failure
    finally:
        outer.close()
        inner.close()
        end_pool(middle)
