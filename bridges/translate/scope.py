"""A WSGI environ as an ASGI HTTP scope."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ..typing import Environ, RawHeaders
from .headers import bytes_from_native, length_from_text
from .tls import tls_from_ssl_variables

# What hosts put beside CONTENT_TYPE and CONTENT_LENGTH, and the variable of the process that "httpoxy" abused.
_NO_HEADERS: Final = frozenset({"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH", "HTTP_PROXY"})


class _Names(dict[str, bytes]):
    """The names of headers by their variables, remembered within bounds, since clients choose them."""

    def __missing__(self, variable: str) -> bytes:
        name = b""
        if variable[:5] == "HTTP_" and variable not in _NO_HEADERS:
            name = bytes_from_native(variable[5:].replace("_", "-").lower())
        if len(self) < 1024 and len(variable) <= 64:
            self[variable] = name
        return name


_names: Final = _Names()

_HTTP_VERSIONS: Final = {
    "HTTP/1.0": "1.0",
    "HTTP/1.1": "1.1",
    "HTTP/2": "2",
    "HTTP/2.0": "2",
    "HTTP/3": "3",
    "HTTP/3.0": "3",
}

# RFC 3986 section 3.3: what may stand in a path besides letters, digits and escapes.
_SAFE_IN_PATH: Final = "/:@!$&'()*+,;=~-._"

# Methods whose requests seldom have a body: without a word about one, there is none (RFC 9110 section 9.3).
_BODILESS_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"})


def scope_from_environ(
    environ: Environ, root_path: str | None = None
) -> tuple[dict[str, Any], int | None]:
    """Translate a WSGI environ into an ASGI HTTP scope.

    Args:
        environ: of the host; ``SERVER_PORT``, ``REMOTE_ADDR``, ``REMOTE_PORT`` and the headers may be absent, empty or
            odd.
        root_path: what a proxy took off the path before the host saw it; goes before SCRIPT_NAME, unless the host
            has put it there.

    Returns:
        The scope, complete but for ``state``, and the length of the request body in bytes: 0 where there is none,
        None where ``wsgi.input`` ends by itself. The environ is under ``wsgi_environ`` and in the extension
        ``wsgi.environ``. A body of unknown length always comes with ``transfer-encoding``, by which applications
        know that there is one, although the host has undone it.

    Raises:
        PeerProtocolError: CONTENT_LENGTH is no number; hint 400.

    Source:
        ASGI HTTP 2.5 "HTTP Connection Scope"; PEP 3333 "environ Variables" and "Unicode Issues".
    """
    script_name = environ.get("SCRIPT_NAME") or ""
    path = script_name + (environ.get("PATH_INFO") or "")
    raw_path = _raw_path(environ, path)
    if root_path:
        prefix = root_path.rstrip("/")
        if not _lies_under(script_name, prefix):
            script_name, path = prefix + script_name, prefix + path
            raw_path = _quoted(prefix) + raw_path
    method = environ["REQUEST_METHOD"]
    length = _body_length(environ, method)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": _HTTP_VERSIONS.get(environ.get("SERVER_PROTOCOL", ""), "1.1"),
        "method": method,
        "scheme": environ.get("wsgi.url_scheme") or "http",
        "path": path if path.isascii() else bytes_from_native(path).decode("utf-8", "replace"),
        "raw_path": raw_path,
        "query_string": bytes_from_native(environ.get("QUERY_STRING") or ""),
        "root_path": script_name
        if script_name.isascii()
        else bytes_from_native(script_name).decode("utf-8", "replace"),
        "headers": _headers(environ, length),
        "client": _client(environ),
        "server": _server(environ),
        "extensions": _extensions(environ),
        "wsgi_environ": environ,
    }, length


def _body_length(environ: Environ, method: str) -> int | None:
    text = environ.get("CONTENT_LENGTH")
    chunked = bool(environ.get("HTTP_TRANSFER_ENCODING"))
    # Transfer-Encoding overrides the length (RFC 9112 section 6.3), where the host undoes it and tells the end.
    if text and not (chunked and environ.get("wsgi.input_terminated")):
        return length_from_text(text)
    if not environ.get("wsgi.input_terminated"):
        return 0
    # WSGIToASGI, outside, has taken the header off.
    if chunked or method not in _BODILESS_METHODS or "asgi.scope" in environ:
        return None
    return 0


def _headers(environ: Environ, length: int | None) -> RawHeaders:
    headers: RawHeaders = []
    chunked = False
    for variable, value in environ.items():
        name = _names[variable]
        if name:
            try:
                headers.append((name, value.encode("latin-1")))
            except (UnicodeEncodeError, AttributeError):
                headers.append((name, bytes_from_native(str(value))))
            chunked |= name == b"transfer-encoding"
    content_type = environ.get("CONTENT_TYPE")
    if content_type:
        headers.append((b"content-type", bytes_from_native(content_type)))
    if length is not None:
        if environ.get("CONTENT_LENGTH"):
            headers.append((b"content-length", b"%d" % length))
    elif not chunked:
        headers.append((b"transfer-encoding", b"chunked"))
    return headers


def _raw_path(environ: Environ, path: str) -> bytes:
    """Give the path as it was sent, from the host where it tells and means the same path; else quote it."""
    target = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    if target:
        raw: str = target.partition("?")[0]
        if raw == path and "%" not in raw and raw.isascii():
            return bytes_from_native(raw)
        if raw[:1] != "/" and "://" in raw:
            raw = "/" + raw.partition("://")[2].partition("/")[2]
        raw_bytes = bytes_from_native(raw)
        if unquote_to_bytes(raw_bytes) == bytes_from_native(path):
            return raw_bytes
    return _quoted(path)


def _quoted(path: str) -> bytes:
    return quote_from_bytes(bytes_from_native(path), _SAFE_IN_PATH).encode("ascii")


def _lies_under(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")


def _client(environ: Environ) -> tuple[str, int] | None:
    host = environ.get("REMOTE_ADDR")
    return (host, _port(environ.get("REMOTE_PORT")) or 0) if host else None


def _server(environ: Environ) -> tuple[str, int | None] | None:
    host = environ.get("SERVER_NAME")
    return (host, _port(environ.get("SERVER_PORT"))) if host else None


def _port(text: Any) -> int | None:
    """Read a port; None for a unix socket, which has none."""
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def _extensions(environ: Environ) -> dict[str, dict[str, Any]]:
    """Offer what the host has the means for."""
    extensions: dict[str, dict[str, Any]] = {"wsgi.environ": {"environ": environ}}
    if "wsgi.file_wrapper" in environ:
        extensions["http.response.pathsend"] = {}
        extensions["http.response.zerocopysend"] = {}
    if "wsgi.early_hints" in environ:
        extensions["http.response.early_hint"] = {}
    if "bridges.trailers" in environ:
        extensions["http.response.trailers"] = {}
    if environ.get("wsgi.url_scheme") == "https":
        tls = tls_from_ssl_variables(environ)
        if tls is not None:
            extensions["tls"] = tls
    return extensions
