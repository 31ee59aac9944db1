"""The WSGI environ of a request to the server, made from its head: what ``WSGIToASGI`` makes from a scope.

Source: PEP 3333 "environ Variables"; RFC 3875.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from ..translate.environ import DEFAULT_PORTS, WSGI_SCHEMES
from ..translate.forwarded import Forwarded
from ..translate.headers import add_request_headers
from ..translate.paths import latin1_from_text, request_uri
from ..translate.tls import ssl_variables
from ..typing import Environ
from .head import RequestHead

if TYPE_CHECKING:
    from .http1 import Connection


def connection_environ(connection: Connection, base: Environ, root_path: str) -> Environ:
    """Give what is the same for all requests of a connection.

    Args:
        connection: that they come by.
        base: what is the same for all connections; copied.
        root_path: under which the application is reached.
    """
    environ = base.copy()
    environ["SCRIPT_NAME"] = latin1_from_text(root_path)
    host, port = connection.server or (None, None)
    if port is None:  # a unix socket has neither, and PEP 3333 wants both
        host, port = "localhost", int(DEFAULT_PORTS[connection.scheme])
    environ["SERVER_NAME"], environ["SERVER_PORT"] = host or "localhost", str(port)
    _set_client(environ, connection.client)
    _set_scheme(environ, connection.scheme)
    if connection.tls is not None:
        environ.update(ssl_variables(connection.tls))
    return environ


def request_environ(head: RequestHead, of_connection: Environ) -> Environ:
    """Give the environ of a request, complete but for ``wsgi.input`` and ``wsgi.errors``.

    Args:
        head: of the request.
        of_connection: from ``connection_environ``; copied.

    Raises:
        PeerProtocolError: fields that must be refused; hint 400.
    """
    environ = _environ_of_fields(head, of_connection)
    environ["REQUEST_METHOD"] = head.method
    environ["SERVER_PROTOCOL"] = "HTTP/" + head.version
    raw_path = head.raw_path
    environ["PATH_INFO"] = (unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path).decode(
        "latin-1"
    )
    environ["QUERY_STRING"] = head.query.decode("latin-1")
    environ["REQUEST_URI"] = environ["RAW_URI"] = request_uri(raw_path, head.query)
    return environ


def _environ_of_fields(head: RequestHead, of_connection: Environ) -> Environ:
    memory = head.same_fields
    if memory is not None and memory.environ is not None:
        return memory.environ.copy()
    environ = of_connection.copy()
    add_request_headers(environ, head.headers, "drop")
    if memory is not None:
        memory.environ = environ.copy()
    return environ


def add_forwarded(environ: Environ, forwarded: Forwarded) -> None:
    """Replace what a trusted proxy knows better."""
    _set_client(environ, forwarded.client)
    if forwarded.scheme is not None:
        _set_scheme(environ, WSGI_SCHEMES[forwarded.scheme])
    if forwarded.host is not None:
        environ["HTTP_HOST"] = forwarded.host.decode("latin-1")
    if forwarded.prefix is not None:
        environ["SCRIPT_NAME"] = latin1_from_text(forwarded.prefix) + environ["SCRIPT_NAME"]


def _set_client(environ: Environ, client: tuple[str, int] | None) -> None:
    environ["REMOTE_ADDR"] = ""
    environ.pop("REMOTE_PORT", None)
    if client is not None:
        environ["REMOTE_ADDR"] = client[0]
        if client[1]:
            environ["REMOTE_PORT"] = str(client[1])


def _set_scheme(environ: Environ, scheme: str) -> None:
    environ["wsgi.url_scheme"] = scheme
    environ.pop("HTTPS", None)
    if scheme == "https":
        environ["HTTPS"] = "on"
