"""What ``ASGIToWSGI`` refuses: options, things that are no ASGI applications, websockets, bad requests."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest
from wsgi_driver import Adapt, app_of, hello, serve

from bridges import ASGIToWSGI
from bridges.typing import Environ, Receive, Scope, Send, StartResponse

pytest_plugins = ["wsgi_driver"]


@pytest.mark.spec("behaviours.md", "Bad input")
@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"lifespan": "maybe"}, ValueError, "lifespan must be one of"),
        ({"backend": "twisted"}, ValueError, "backend must be one of"),
        ({"backend": "trio", "loop_factory": asyncio.new_event_loop}, ValueError, "loop_factory"),
        ({"loop_factory": 1}, TypeError, "loop_factory"),
        ({"startup_seconds": -1}, ValueError, "startup_seconds must be at least 0, got -1"),
        ({"startup_seconds": float("nan")}, ValueError, "startup_seconds"),
        ({"shutdown_seconds": -1}, ValueError, "shutdown_seconds"),
        ({"disconnect_grace_seconds": -0.1}, ValueError, "disconnect_grace_seconds"),
        ({"buffer_bytes": 0}, ValueError, "buffer_bytes must be at least 1"),
        ({"buffer_bytes": -1}, ValueError, "buffer_bytes"),
    ],
    ids=str,
)
def test_options_out_of_range(
    options: dict[str, Any], kind: type[Exception], sentence: str
) -> None:
    """A wrong option is an error at construction that names it."""
    with pytest.raises(kind, match=sentence):
        ASGIToWSGI(hello, **options)


def _wsgi(environ: Environ, start_response: StartResponse) -> list[bytes]:
    return []


class _Class:
    def __init__(self, debug: bool = False) -> None:
        pass

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass


@pytest.mark.spec("behaviours.md", "Bad input")
@pytest.mark.parametrize(
    ("app", "sentence"),
    [
        (None, "needs an ASGI application"),
        ("module:app", "needs an ASGI application"),
        (_wsgi, "WSGI application already"),
        (functools.partial(lambda extra, environ, start_response: [], 1), "WSGI application"),
        (_Class, "is a class: give ASGIToWSGI an instance"),
    ],
    ids=str,
)
def test_what_is_no_asgi_application(app: Any, sentence: str) -> None:
    """The error says what was given and what to give instead."""
    with pytest.raises(TypeError, match=sentence):
        ASGIToWSGI(app)


@pytest.mark.spec("FR 103")
def test_a_websocket_is_refused(adapt: Adapt, caplog: pytest.LogCaptureFixture) -> None:
    """Where the host has no socket to give, an upgrade is answered with 501, and logged once."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("called")

    adapter = adapt(app)
    upgrade = {"Upgrade": "WebSocket", "Connection": "Upgrade"}
    for _ in range(3):
        host = serve(adapter, headers=upgrade)
        assert host.status == 501
        assert host.body.endswith(b"\n")
        assert host.length == len(host.body)
    (record,) = caplog.records
    assert "websocket" in record.getMessage()


@pytest.mark.spec("FR 103")
def test_other_upgrades_are_ordinary_requests(adapt_asyncio: Adapt) -> None:
    """An offer of HTTP/2 may be passed over."""
    host = serve(adapt_asyncio(hello), headers={"Upgrade": "h2c", "Connection": "Upgrade"})
    assert host.body == b"hello"


@pytest.mark.spec("behaviours.md", "Bad input")
def test_a_refusal_to_head_has_no_body(adapt_asyncio: Adapt) -> None:
    """HEAD gets the head of the refusal alone."""
    host = serve(adapt_asyncio(hello), "HEAD", CONTENT_LENGTH="x")
    assert (host.status, host.body) == (400, b"")
