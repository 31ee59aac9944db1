"""A WSGI environ as an ASGI HTTP scope."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ..errors import PeerProtocolError
from ..typing import Environ, RawHeaders
from .headers import bytes_from_native, length_from_text
from .tls import tls_from_ssl_variables

# What hosts put beside CONTENT_TYPE and CONTENT_LENGTH, and the variable of the process that "httpoxy" abused.
_NO_HEADERS: Final = frozenset({"HTTP_", "HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH", "HTTP_PROXY"})


class _Names(dict[str, bytes]):
    """The names of headers by their variables, remembered within bounds, since clients choose them."""

    def __missing__(self, variable: str) -> bytes:
        name = b""
        if variable[:5] == "HTTP_" and variable not in _NO_HEADERS:
            name = bytes_from_native(variable[5:]).lower().replace(b"_", b"-")
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


class EnvironView(MutableMapping[str, Any]):
    """The host's environ itself, reading and writing, with a ``repr`` that names its keys and shows no value.

    Debug pages print the whole scope; credentials and, under granian, the process environment must not go with it.
    """

    __slots__ = ("_environ",)

    def __init__(self, environ: Environ) -> None:
        self._environ = environ

    def __getitem__(self, key: str) -> Any:
        return self._environ[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._environ[key] = value

    def __delitem__(self, key: str) -> None:
        del self._environ[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)

    def __repr__(self) -> str:
        return f"EnvironView({list(self._environ)})"


class _EnvironExtension(dict[str, Any]):
    """Holds the environ, and does not show it."""

    def __repr__(self) -> str:
        return f"{{'environ': {EnvironView(self['environ'])!r}}}"


def scope_from_environ(
    environ: Environ, root_path: str | None = None
) -> tuple[dict[str, Any], int | None]:
    """Translate a WSGI environ into an ASGI HTTP scope.

    Args:
        environ: of the host; ``SERVER_PORT``, ``REMOTE_ADDR``, ``REMOTE_PORT`` and the headers may be absent, empty or
            odd.
        root_path: what a proxy took off the path before the host saw it, as text; goes before SCRIPT_NAME, unless the
            host has put it there.

    Returns:
        The scope, complete but for ``state``, and the length of the request body in bytes: 0 where there is none,
        None where ``wsgi.input`` ends by itself. The environ is under ``wsgi_environ`` and in the extension
        ``wsgi.environ``. A body of unknown length always comes with ``transfer-encoding``, by which applications
        know that there is one, although the host has undone it.

    Raises:
        PeerProtocolError: CONTENT_LENGTH is no number (hint 400), or the body is in a transfer coding that the host
            has not undone (hint 411).

    Source:
        ASGI HTTP 2.5 "HTTP Connection Scope"; PEP 3333 "environ Variables" and "Unicode Issues".
    """
    script_name, path_info = _mount(environ)
    native = script_name + path_info or "/"
    raw_path = _raw_path(environ, native)
    root = script_name if script_name.isascii() else _text(script_name)
    path = native if native.isascii() else root + _text(path_info)
    if root_path:
        path, root, raw_path = _prefixed(root_path, path, root, raw_path)
    method = environ["REQUEST_METHOD"].upper()
    version = _HTTP_VERSIONS.get(environ.get("SERVER_PROTOCOL", ""), "1.1")
    length = _body_length(environ, method, version)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": version,
        "method": method,
        "scheme": environ.get("wsgi.url_scheme") or "http",
        "path": path,
        "raw_path": raw_path,
        "query_string": bytes_from_native(environ.get("QUERY_STRING") or ""),
        "root_path": root,
        "headers": _headers(environ, length, version),
        "client": _client(environ),
        "server": _server(environ),
        "extensions": _extensions(environ),
        "wsgi_environ": EnvironView(environ),
    }, length


def _mount(environ: Environ) -> tuple[str, str]:
    """Give SCRIPT_NAME without a slash at its end, and PATH_INFO with one at its beginning."""
    script_name = environ.get("SCRIPT_NAME") or ""
    path_info = environ.get("PATH_INFO") or ""
    if script_name:
        script_name = script_name.rstrip("/")
        if path_info and path_info[0] != "/":  # gunicorn takes "/app/" off as it is
            path_info = "/" + path_info
    return script_name, path_info


def _text(native: str) -> str:
    return bytes_from_native(native).decode("utf-8", "replace")


def _prefixed(root_path: str, path: str, root: str, raw_path: bytes) -> tuple[str, str, bytes]:
    """Put a prefix before path and root, unless the host has put it into SCRIPT_NAME already."""
    prefix = root_path.strip("/")
    if not prefix or _lies_under(root, "/" + prefix):
        return path, root, raw_path
    prefix = "/" + prefix
    quoted = quote_from_bytes(prefix.encode("utf-8", "replace"), _SAFE_IN_PATH).encode("ascii")
    return prefix + path, prefix + root, quoted + raw_path


def _body_length(environ: Environ, method: str, version: str) -> int | None:
    text = environ.get("CONTENT_LENGTH")
    coded = bool(environ.get("HTTP_TRANSFER_ENCODING"))
    terminated = environ.get("wsgi.input_terminated")
    # Transfer-Encoding overrides the length (RFC 9112 section 6.3), where the host undoes it and tells the end;
    # else a proxy in front (nginx) has undone it, and tells the length.
    if text and not (coded and terminated):
        return length_from_text(str(text).strip(" \t"))
    if not terminated:
        if coded:
            raise PeerProtocolError(
                "this server takes request bodies with a Content-Length only",
                "RFC 9112 section 6.3",
                status_hint=411,
            )
        return 0
    # WSGIToASGI, outside, has taken the header off; HTTP/2 needs none.
    if coded or method not in _BODILESS_METHODS or version[0] != "1" or "asgi.scope" in environ:
        return None
    return 0


def _headers(environ: Environ, length: int | None, version: str) -> RawHeaders:
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
        if chunked:
            headers = [field for field in headers if field[0] != b"transfer-encoding"]
        if environ.get("CONTENT_LENGTH"):
            headers.append((b"content-length", b"%d" % length))
    elif not chunked and version[0] == "1":
        headers.append((b"transfer-encoding", b"chunked"))
    return headers


def _raw_path(environ: Environ, path: str) -> bytes:
    """Give the path as it was sent, from the host where it tells and means the same path; else quote it."""
    target = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    if isinstance(target, str) and target:
        raw = target.partition("?")[0]
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


def _port(value: object) -> int | None:
    """Read a port; None for a unix socket, which has none. gunicorn takes it from the client's Host there."""
    text = value if isinstance(value, str) else str(value)
    return int(text) if len(text) <= 5 and text.isascii() and text.isdigit() else None


def _extensions(environ: Environ) -> dict[str, dict[str, Any]]:
    """Offer what the host has the means for."""
    extensions: dict[str, dict[str, Any]] = {"wsgi.environ": _EnvironExtension(environ=environ)}
    if "wsgi.file_wrapper" in environ:
        extensions["http.response.pathsend"] = {}
        extensions["http.response.zerocopysend"] = {}
    if callable(environ.get("wsgi.early_hints")):
        extensions["http.response.early_hint"] = {}
    if "bridges.trailers" in environ:
        extensions["http.response.trailers"] = {}
    if environ.get("wsgi.url_scheme") == "https":
        tls = tls_from_ssl_variables(environ)
        if tls is not None:
            extensions["tls"] = tls
    return extensions
