"""The types of both specifications, as wide as real applications and servers need them.

Scopes and messages are ``MutableMapping[str, Any]``, as in Starlette, uvicorn and Django, so that adapters
fit ``mount()`` calls and server entry points without a cast. The WSGI types are typeshed's own, which Flask,
Django and ``wsgiref.types`` are checked against; they exist for type checkers only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    ExcInfo: TypeAlias = OptExcInfo
    Environ: TypeAlias = WSGIEnvironment
else:
    ExcInfo = tuple
    Environ = dict[str, Any]
    StartResponse = Callable[..., Callable[[bytes], object]]
    WSGIApplication = Callable[[Environ, StartResponse], Iterable[bytes]]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApplication: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders: TypeAlias = list[tuple[bytes, bytes]]

__all__ = [
    "ASGIApplication",
    "Environ",
    "ExcInfo",
    "Message",
    "RawHeaders",
    "Receive",
    "Scope",
    "Send",
    "StartResponse",
    "WSGIApplication",
]
