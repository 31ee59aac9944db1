"""What gunicorn puts around an application: the path that it is reached under, and where its errors go."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

from ..translate.paths import latin1_from_text
from ..typing import ASGIApplication, WSGIApplication

_AppT = TypeVar("_AppT", ASGIApplication, WSGIApplication)


def asgi_under(app: ASGIApplication, prefix: str) -> ASGIApplication:
    """Give an ASGI application that is reached under a path, which the proxy in front leaves in its requests.

    A request whose path does not begin with it is taken as one of a proxy that removes it.

    Args:
        app: of ASGI 3.
        prefix: begins with a slash and does not end with one.

    Source:
        ASGI HTTP 2.5 "HTTP Connection Scope" (root_path).
    """

    def application(scope: Any, receive: Any, send: Any) -> Any:
        path = scope.get("path")
        if path is not None:
            before = scope["root_path"]
            rest = path[len(before) :]
            if not _begins_with(rest, prefix):
                raw, cut = scope["raw_path"], len(quote(before))
                scope["path"] = before + prefix + rest
                scope["raw_path"] = raw[:cut] + quote(prefix).encode("ascii") + raw[cut:]
            scope["root_path"] = before + prefix
        return app(scope, receive, send)

    return _named_like(app, application)


def wsgi_under(app: WSGIApplication, prefix: str) -> WSGIApplication:
    """Give a WSGI application that is reached under a path, as ``asgi_under`` does.

    Args:
        app: the application.
        prefix: begins with a slash and does not end with one.

    Source:
        PEP 3333 "environ Variables"; gunicorn's documentation of the variable SCRIPT_NAME.
    """
    prefix = latin1_from_text(prefix)

    def application(environ: Any, start_response: Any) -> Any:
        if _begins_with(environ["PATH_INFO"], prefix):
            environ["PATH_INFO"] = environ["PATH_INFO"][len(prefix) :]
        environ["SCRIPT_NAME"] += prefix
        return app(environ, start_response)

    return _named_like(app, application)


def with_errors(app: WSGIApplication, open_errors: Callable[[], Any]) -> WSGIApplication:
    """Give a WSGI application whose ``wsgi.errors`` is not the process's standard error.

    Args:
        app: the application.
        open_errors: called for each request, in its thread.
    """

    def application(environ: Any, start_response: Any) -> Any:
        environ["wsgi.errors"] = open_errors()
        return app(environ, start_response)

    return _named_like(app, application)


def _begins_with(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/")


def _named_like(app: _AppT, application: Any) -> _AppT:
    """Have errors and the log call it as they would call the application."""
    named = app if hasattr(app, "__qualname__") else type(app)
    wrapped: _AppT = functools.wraps(named, ("__module__", "__qualname__"), ())(application)
    return wrapped
