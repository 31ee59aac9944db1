"""``WSGIToASGI``: a WSGI application as an ASGI application."""

from __future__ import annotations

import inspect
import io
import logging
import sys
import threading
from collections.abc import Callable
from typing import Final, TextIO

from .crossing.pool import ThreadPool, WebSocketPool
from .errors import (
    ClientDisconnected,
    PeerProtocolError,
    PoolClosed,
    PoolSaturated,
    ServerProtocolError,
)
from .kinds import is_async, name_of
from .translate.environ import ScopeView, environ_from_scope
from .translate.headers import HEADER_POLICIES, HeaderPolicy
from .typing import Environ, Receive, Scope, Send, WSGIApplication
from .websocket.client import request_fields
from .wsgi.body import BodyMeter, collect
from .wsgi.exchange import Exchange
from .wsgi.files import FileWrapper
from .wsgi.lifespan import answer_lifespan
from .wsgi.websocket import DENIAL_EXTENSION, WebSocketBridge

_log = logging.getLogger("bridges.adapters")

_SMALL_BODY_BYTES: Final = 65_536
_RETRY_AFTER_SECONDS: Final = 1

_making_pool = threading.Lock()

# Frameworks look at signatures, and would otherwise find that of the wrapped application.
_SIGNATURE: Final = inspect.Signature(
    [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for name in ("scope", "receive", "send")
    ]
)


class WSGIToASGI:
    """Run a WSGI application on any ASGI server: on asyncio, uvloop and trio, each request in one thread of a pool.

    The object binds nothing to a loop: made at import time, it serves any number of loops, one after another or
    at once. No thread is started before the first request.

    Attributes:
        app: the WSGI application; also ``__wrapped__``.
        pool: the thread pool, or None before the first request made one.
        websocket_pool: the threads of websockets, or None before the first of these made them.
    """

    websocket_pool: ThreadPool | None = None
    _warned_of_websockets = False

    def __init__(
        self,
        app: WSGIApplication,
        *,
        max_threads: int = 40,
        pool: ThreadPool | None = None,
        buffer_bytes: int = 262_144,
        max_body_bytes: int | None = None,
        spool_body_bytes: int | None = None,
        header_policy: HeaderPolicy = "drop",
        multiprocess: bool = True,
        errors: TextIO | None = None,
        websocket: bool = False,
        max_websockets: int = 100,
        startup: Callable[[], object] | None = None,
        shutdown: Callable[[], object] | None = None,
    ) -> None:
        """Wrap an application.

        Args:
            app: the WSGI application.
            max_threads: most requests that run at one time; further ones wait in order. Unused with ``pool``.
            pool: a thread pool to share with other adapters; whoever made it shuts it down.
            buffer_bytes: bytes that a response may run ahead of its client, and a request body ahead of the
                application.
            max_body_bytes: largest request body in bytes, larger ones get 413; None for no limit.
            spool_body_bytes: bytes of every request body that are collected before a thread is taken, which
                keeps slow uploads from occupying threads; None collects bodies that are announced as at most
                64 KiB and do not come with ``Expect``.
            header_policy: what becomes of request headers with an underscore in their name: ``"drop"`` them,
                ``"refuse"`` the request with 400, or ``"keep"`` them.
            multiprocess: the value of ``wsgi.multiprocess``.
            errors: text stream that becomes ``wsgi.errors``; None for ``sys.stderr``.
            websocket: whether the application gets websockets: by a socket in its environ, for Flask-Sock,
                simple-websocket, Flask-SocketIO and the like, and by ``wsgi.websocket``, for what was written for
                gevent-websocket; otherwise they are refused with 403.
            max_websockets: most of them at one time, each in one thread for as long as it lasts; further ones are
                refused. These threads come on top of ``max_threads``, so that open websockets never keep requests
                waiting.
            startup: called in a thread of the pool before the first request, where the server speaks lifespan.
            shutdown: called likewise after the last request.

        Raises:
            TypeError: ``app`` is not callable or is an ASGI application, or a hook is not a plain function.
            ValueError: an option is out of range.
        """
        _check_application(app)
        _check_hooks(startup=startup, shutdown=shutdown)
        if header_policy not in HEADER_POLICIES:
            raise ValueError(
                f"header_policy must be one of {HEADER_POLICIES}, got {header_policy!r:.80}"
            )
        for name, least in (
            ("max_threads", max_threads),
            ("buffer_bytes", buffer_bytes),
            ("max_websockets", max_websockets),
        ):
            if least < 1:
                raise ValueError(f"{name} must be at least 1, got {least}")
        for name, limit in (
            ("max_body_bytes", max_body_bytes),
            ("spool_body_bytes", spool_body_bytes),
        ):
            if limit is not None and limit < 0:
                raise ValueError(f"{name} must be None or at least 0, got {limit}")
        self.app = self.__wrapped__ = app
        self.__signature__ = _SIGNATURE
        self.pool = pool
        self._owns_pool = pool is None
        self._max_threads = max_threads
        self._app_name = f"the WSGI application {name_of(app)}"
        self._buffer_bytes = buffer_bytes
        self._max_body_bytes = max_body_bytes
        self._spool_body_bytes = spool_body_bytes
        self._header_policy = header_policy
        self._errors = errors
        self._websocket = websocket
        self._max_websockets = max_websockets
        self._websockets: set[WebSocketBridge] = set()
        self._startup = startup
        self._shutdown = shutdown
        self._base_environ: Environ = {
            "wsgi.version": (1, 0),
            "wsgi.multithread": (max_threads if pool is None else pool.max_threads) > 1,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
        }

    def __repr__(self) -> str:
        """Name the application."""
        return f"WSGIToASGI({name_of(self.app)})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or websocket, or the lifespan.

        Raises:
            BaseException: what the application raised, for the server to log and to answer or to cut off.
            ServerProtocolError: a scope of another type.
        """
        kind = scope["type"]
        if kind == "http":
            await self._serve(scope, receive, send)
        elif kind == "lifespan":
            await answer_lifespan(
                receive,
                send,
                self._living_pool,
                startup=self._startup,
                shutdown=self._shutdown,
                end=self._end_pools,
            )
        elif kind == "websocket" and self._websocket:
            await self._serve_websocket(scope, receive, send)
        elif kind == "websocket":
            await self._refuse_websocket(scope, receive, send)
        else:
            raise ServerProtocolError(
                f"WSGIToASGI serves scopes of type http, lifespan and websocket, got {kind!r:.80}",
                'ASGI specification 3.0 "Connection Scope"',
            )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange | None = None
        try:
            environ, length = environ_from_scope(scope, self._base_environ, self._header_policy)
            environ["wsgi.errors"] = self._errors or sys.stderr
            exchange = Exchange(
                self.app,
                self._app_name,
                environ,
                receive,
                send,
                self._buffer_bytes,
                scope.get("extensions") or {},
            )
            if length == 0:
                environ["wsgi.input"] = io.BytesIO()
            elif not await self._provide_body(exchange, environ, length, receive):
                return
            await exchange.run(self._living_pool())
        except PeerProtocolError as refusal:
            if exchange is not None and exchange.head_sent:
                raise
            await _refuse(scope, send, refusal.status_hint, str(refusal))
        except (PoolSaturated, PoolClosed):
            if exchange is not None and exchange.head_sent:
                raise
            await _refuse(
                scope, send, 503, "the server is too busy or shutting down: try again shortly"
            )

    async def _provide_body(
        self, exchange: Exchange, environ: Environ, length: int | None, receive: Receive
    ) -> bool:
        """Collect the body now where it is small or spooling is on, and stream the rest of it.

        Returns:
            False where the client left meanwhile, so that there is nobody to serve.
        """
        meter = BodyMeter(length, self._max_body_bytes)
        meter.check_announced()
        chunks: list[bytes] = []
        complete = False
        small = length is not None and length <= _SMALL_BODY_BYTES and "HTTP_EXPECT" not in environ
        try:
            if self._spool_body_bytes is not None:
                chunks, complete = await collect(receive, meter, self._spool_body_bytes)
            elif small:
                chunks, complete = await collect(receive, meter, _SMALL_BODY_BYTES)
        except ClientDisconnected:
            return False
        if complete:
            body = b"".join(chunks)
            environ["CONTENT_LENGTH"] = str(len(body))
            environ["wsgi.input"] = io.BytesIO(body)
        else:
            exchange.stream_body(environ, chunks, meter)
        return True

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        subprotocols = list(scope.get("subprotocols") or ())
        fields = request_fields(scope.get("headers") or (), subprotocols)
        # Whatever brought it to the server, to the application it is the request that opens a websocket.
        request = {**scope, "method": "GET", "http_version": "1.1", "headers": fields}
        try:
            environ, _ = environ_from_scope(request, self._base_environ, self._header_policy)
        except PeerProtocolError as refusal:
            await _deny(scope, receive, send, refusal.status_hint, str(refusal))
            return
        environ["asgi.scope"] = ScopeView(scope)
        environ["wsgi.errors"] = self._errors or sys.stderr
        environ.setdefault("HTTP_HOST", f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}")
        bridge = WebSocketBridge(
            self.app,
            self._app_name,
            environ,
            receive,
            send,
            extensions=scope.get("extensions") or {},
            subprotocols=subprotocols,
            buffer_bytes=self._buffer_bytes,
        )
        self._websockets.add(bridge)
        try:
            await bridge.run(self._living_websocket_pool())
        finally:
            self._websockets.discard(bridge)

    async def _refuse_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a handshake with 403 (ASGI WebSocket 2.5 "Close - send event" and "Websocket Denial Response")."""
        if not self._warned_of_websockets:
            self._warned_of_websockets = True
            _log.warning(
                "refused a websocket to %r with 403: set websocket=True if the application takes websockets",
                self,
            )
        await _deny(
            scope,
            receive,
            send,
            403,
            "This path is served by a WSGI application, which takes no websockets.",
            "a WSGI application is served here",
        )

    def _living_websocket_pool(self) -> ThreadPool:
        """Give the pool of websockets, making one at the first of them and after a lifespan has ended the last one."""
        with _making_pool:
            pool = self.websocket_pool
            if pool is None or pool.closed:
                pool = self.websocket_pool = WebSocketPool(
                    self._max_websockets,
                    None if self.pool is None else self.pool.on_thread_exit,
                )
            return pool

    def _end_pools(self, pool: ThreadPool) -> list[ThreadPool]:
        """Tell all websockets that the server stops; gives the pools to be shut down."""
        for bridge in list(self._websockets):
            bridge.leave()
        pools = [pool] if self._owns_pool else []
        return pools if self.websocket_pool is None else [self.websocket_pool, *pools]

    def _living_pool(self) -> ThreadPool:
        """Give the pool, making one at the first request and after a lifespan has ended the last one."""
        pool = self.pool
        if pool is not None and not (self._owns_pool and pool.closed):
            return pool
        with _making_pool:
            if self.pool is None or (self._owns_pool and self.pool.closed):
                self.pool = ThreadPool(self._max_threads)
            return self.pool


def _check_application(app: object) -> None:
    if not callable(app):
        raise TypeError(
            f"WSGIToASGI needs a WSGI application, a callable of (environ, start_response); got {app!r:.80}"
        )
    if is_async(app):
        raise TypeError(
            f"{name_of(app)} is asynchronous, so it is an ASGI application already: give it to the server"
            " without WSGIToASGI"
        )


def _check_hooks(**hooks: object) -> None:
    for name, hook in hooks.items():
        if hook is not None and not _is_plain_function(hook):
            raise TypeError(f"{name} must be a plain function without arguments, got {hook!r:.80}")


def _is_plain_function(hook: object) -> bool:
    return callable(hook) and not is_async(hook)


async def _refuse(scope: Scope, send: Send, status: int, reason: str) -> None:
    """Answer a request that the application will not see, in one sentence."""
    body = reason.encode("utf-8", "replace") + b"\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    if status == 503:
        headers.append((b"retry-after", b"%d" % _RETRY_AFTER_SECONDS))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if scope["method"] == "HEAD":
        body = b""
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _deny(
    scope: Scope, receive: Receive, send: Send, status: int, sentence: str, reason: str = ""
) -> None:
    """Answer a handshake in one sentence, or where the server cannot, with whatever it makes of a close."""
    await receive()
    if DENIAL_EXTENSION not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
        return
    body = sentence.encode("utf-8", "replace") + b"\n"
    await send(
        {
            "type": "websocket.http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", b"%d" % len(body)),
            ],
        }
    )
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})
