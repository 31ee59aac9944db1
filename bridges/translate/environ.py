"""An ASGI HTTP scope as a WSGI environ."""

from __future__ import annotations

from typing import Any, Final

from ..typing import Environ, Scope
from .headers import HeaderPolicy, add_request_headers, length_from_text
from .paths import latin1_from_text, path_bytes, request_uri, split_path
from .tls import ssl_variables

WSGI_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


class ScopeView(dict[str, Any]):
    """A shallow copy of the scope whose ``repr`` names the headers but shows none of their values.

    Debug pages and error reports print the whole environ; cookies and credentials must not go with it.
    """

    def __repr__(self) -> str:
        shown = dict(self)
        shown["headers"] = [name for name, _ in self.get("headers") or ()]
        return repr(shown)


def environ_from_scope(
    scope: Scope, base: Environ, policy: HeaderPolicy = "drop"
) -> tuple[Environ, int | None]:
    """Translate an ASGI HTTP scope into a WSGI environ.

    Args:
        scope: of type ``http``; ``headers``, ``server`` and ``client`` may be any iterables and are read once,
            header names may come in any case, optional keys may be absent or None.
        base: the entries that are the same for every request (``wsgi.version`` and the like); copied.
        policy: for header names with an underscore, see ``add_request_headers``.

    Returns:
        The environ, complete but for ``wsgi.input``, and the length of the request body in bytes: 0 where
        there can be none, None where it is not known beforehand.

    Raises:
        PeerProtocolError: headers or a path that must be refused; hint 400.

    Source:
        PEP 3333 "environ Variables"; ASGI HTTP 2.5 "HTTP Connection Scope".
    """
    environ = base.copy()
    environ["asgi.scope"] = view = ScopeView(scope)
    headers = scope.get("headers") or ()
    if not isinstance(headers, (list, tuple)):
        view["headers"] = headers = list(
            headers
        )  # one-pass iterables are read here and nowhere else
    environ["REQUEST_METHOD"] = scope["method"]
    environ["QUERY_STRING"] = (scope.get("query_string") or b"").decode("latin-1")
    _add_path(environ, scope)
    scheme = WSGI_SCHEMES.get(scope.get("scheme") or "http", "http")
    environ["wsgi.url_scheme"] = scheme
    _add_addresses(environ, view, scheme)
    version = scope.get("http_version")
    environ["SERVER_PROTOCOL"] = "HTTP/" + (version or "1.1")
    if scheme == "https":
        environ["HTTPS"] = "on"
        tls = (scope.get("extensions") or {}).get("tls")
        if tls:
            environ.update(ssl_variables(tls))
    chunked = add_request_headers(environ, headers, policy)
    length = environ.get("CONTENT_LENGTH")
    if length is not None:
        return environ, length_from_text(length)
    # Without either header an HTTP/1 request has no body (RFC 9112 section 6.3); HTTP/2 frames need neither.
    return environ, None if chunked or not version or version[0] != "1" else 0


def _add_path(environ: Environ, scope: Scope) -> None:
    raw_path: bytes | None = scope.get("raw_path")
    path = path_bytes(scope["path"], raw_path)
    root_path = scope.get("root_path")
    if root_path:
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = split_path(path, latin1_from_text(root_path))
    else:
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = "", path
    if raw_path is not None:
        uri = request_uri(raw_path, scope.get("query_string") or b"")
        environ["REQUEST_URI"] = environ["RAW_URI"] = uri


def _add_addresses(environ: Environ, view: ScopeView, scheme: str) -> None:
    """Add the addresses of both ends; a unix socket has no host and port, which PEP 3333 demands."""
    host, port = _address(view, "server")
    if port is None:
        environ["SERVER_NAME"], environ["SERVER_PORT"] = "localhost", DEFAULT_PORTS[scheme]
    else:
        environ["SERVER_NAME"], environ["SERVER_PORT"] = host or "localhost", str(port)
    host, port = _address(view, "client")
    environ["REMOTE_ADDR"] = host
    if port is not None:
        environ["REMOTE_PORT"] = str(port)


def _address(view: ScopeView, end: str) -> tuple[str, int | None]:
    """Take host and port of an address that may be absent, a unix path, or an IPv6 4-tuple."""
    address = view.get(end)
    if address is None:
        return "", None
    if not isinstance(address, (list, tuple)):
        view[end] = address = tuple(address)
    host, port = address if len(address) == 2 else (*address, None, None)[:2]
    return host or "", port
