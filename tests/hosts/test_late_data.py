"""HTTP/2: a piece of an upload that arrives when the application has answered."""

from __future__ import annotations

from hostkit.process import Server
from hostkit.raw import Exchange2

APPS = ("wsgiref.validate",)
HTTP2_ONLY = True


def answered_early(raw: Exchange2) -> None:
    """Begin an upload, hear its refusal to the end, and send the piece that was on its way."""
    raw.start(b"POST", b"/unread", [(b"content-length", b"100000")])
    assert raw.head()[0] == 413
    assert b"".join(iter(raw.read, b"")) == b"too large"


def test_late_data_keeps_the_connection(server: Server) -> None:
    """A piece that comes late is dropped; the connection goes on."""
    with Exchange2(server, None, 5.0) as raw:
        answered_early(raw)
        assert raw.outlives_late_data(), "Gone: the connection was closed"


def test_late_data_costs_nobody_else(server: Server) -> None:
    """Whatever becomes of the connection, the next client is served."""
    with Exchange2(server, None, 5.0) as raw:
        answered_early(raw)
        raw.outlives_late_data()
    assert server.client
    assert server.client.get("/page").text == "hello"
