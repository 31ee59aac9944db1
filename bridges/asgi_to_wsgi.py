"""``ASGIToWSGI``: an ASGI application as a WSGI application."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, Final

from asgiref.compatibility import guarantee_single_callable

from .asgi.exchange import Exchange
from .asgi.host_socket import find_socket
from .asgi.lifespan import LIFESPAN_MODES, LifespanMode
from .asgi.pump import Pump
from .asgi.service import Service
from .crossing.gates import copy_context_for_thread
from .crossing.mail import Mail
from .crossing.portal import LoopFactory
from .crossing.registry import BACKENDS, Backend, check_no_portal_here
from .errors import CrossingError, PeerProtocolError
from .kinds import arity_of, is_async, name_of
from .translate.scope import scope_from_environ
from .translate.status import status_from_code
from .typing import ASGIApplication, Environ, StartResponse

_log = logging.getLogger("bridges.adapters")

_EXTRA: Final = "wsgi-asgi-bridges[websocket]"

# Made anew in the child of a fork, where a thread that held it does not exist.
_starting = threading.Lock()


class ASGIToWSGI:
    """Run an ASGI application on any WSGI server, its event loop in one thread that all of them share.

    The object binds nothing at construction: made before a fork, it works after it, in parent and children. The
    first request (or ``start``) starts the loop and the application's lifespan; ``close`` and the interpreter's exit
    end both.

    Attributes:
        app: the ASGI application; also ``__wrapped__``.
        heartbeat: what a thread that serves a websocket calls meanwhile, as long as the event loop answers, and how
            many seconds apart; for hosts that take a thread that is silent for one that hangs.
    """

    def __init__(
        self,
        app: ASGIApplication,
        *,
        lifespan: LifespanMode = "auto",
        backend: Backend = "asyncio",
        loop_factory: LoopFactory | None = None,
        startup_seconds: float = 30,
        shutdown_seconds: float = 30,
        disconnect_grace_seconds: float = 3,
        buffer_bytes: int = 262_144,
        root_path: str | None = None,
        socket_key: str | None = None,
        websocket_max_bytes: int = 16_777_216,
        websocket_ping_seconds: float | None = 20,
        websocket_pong_seconds: float = 20,
        websocket_close_seconds: float = 10,
        websocket_deflate: bool = True,
    ) -> None:
        """Wrap an application.

        Args:
            app: the ASGI application; one of ASGI 2 is adapted.
            lifespan: ``"auto"`` runs the lifespan of applications that have one, ``"on"`` demands it, ``"off"`` does
                not ask.
            backend: ``"asyncio"``, ``"trio"``, or ``"inline"``, which is asyncio driven by the thread of the request,
                for hosts where no other thread runs; it is taken by itself under uWSGI without ``enable-threads``.
            loop_factory: makes the asyncio loop, as ``uvloop.new_event_loop`` does.
            startup_seconds: how long the lifespan's startup may last.
            shutdown_seconds: how long the end may last; half of it is for requests and background tasks under way.
            disconnect_grace_seconds: how long the application may go on after its client has left, before it is
                cancelled.
            buffer_bytes: bytes that a response, or a websocket, may run ahead of its client.
            root_path: goes before SCRIPT_NAME, for hosts behind a proxy that takes off a prefix.
            socket_key: key of the environ under which the host puts the client's socket; those of gunicorn, werkzeug
                and gevent are known.
            websocket_max_bytes: of a client's message; larger ones close with 1009.
            websocket_ping_seconds: time between pings; None sends none.
            websocket_pong_seconds: longest wait for the answer to a ping.
            websocket_close_seconds: longest wait for the client's part of the close handshake.
            websocket_deflate: compress messages (permessage-deflate) if the client offers it.

        Raises:
            TypeError: ``app`` is not an ASGI application.
            ValueError: an option is out of range.
        """
        _check_options(lifespan, backend, loop_factory)
        for name, seconds in (
            ("startup_seconds", startup_seconds),
            ("shutdown_seconds", shutdown_seconds),
            ("disconnect_grace_seconds", disconnect_grace_seconds),
            ("websocket_close_seconds", websocket_close_seconds),
        ):
            _check_least(name, seconds, 0)
        _check_least("buffer_bytes", buffer_bytes, 1)
        _check_least("websocket_max_bytes", websocket_max_bytes, 1)
        _check_least("websocket_pong_seconds", websocket_pong_seconds, 0.1)
        if websocket_ping_seconds is not None:
            _check_least("websocket_ping_seconds", websocket_ping_seconds, 0.1)
        self.app = self.__wrapped__ = app
        self._make_service = functools.partial(
            Service,
            _single_callable(app),
            f"the ASGI application {name_of(app)}",
            backend=_fitting(backend),
            loop_factory=loop_factory,
            lifespan=lifespan,
            startup_seconds=startup_seconds,
            shutdown_seconds=shutdown_seconds,
            disconnect_grace_seconds=disconnect_grace_seconds,
            buffer_bytes=buffer_bytes,
        )
        self._root_path = root_path
        self._socket_key = socket_key
        self._websocket_limits = (
            websocket_max_bytes,
            websocket_deflate,
            websocket_ping_seconds,
            websocket_pong_seconds,
            websocket_close_seconds,
        )
        self.heartbeat: tuple[Callable[[], object], float] | None = None
        self._service: Service | None = None
        self._finalizer: weakref.finalize[..., ASGIToWSGI] | None = None
        self._warned_of_websockets = False
        _living.add(self)

    def __repr__(self) -> str:
        """Name the application."""
        return f"ASGIToWSGI({name_of(self.app)})"

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request; bad ones are refused with 400, and websockets with 501 where the host gives no socket.

        Raises:
            BaseException: what the application raised, for the server to log and to answer or to cut off.
            CrossingError: this thread runs the event loop that would have to answer.
        """
        try:
            scope, length = scope_from_environ(environ, self._root_path)
        except PeerProtocolError as refusal:
            return _refuse(environ, start_response, refusal.status_hint, str(refusal))
        if "HTTP_UPGRADE" in environ and _asks_for_websocket(environ):
            return self._serve_websocket(environ, start_response, scope)
        service = self._service
        if service is None or not service.is_open or service.closed:
            service = self._living_service()
        portal = service.portal
        portal.check_caller()
        mail: Mail[Any] = Mail(portal.bell(), portal.gate, service.buffer_bytes)
        exchange = Exchange(service, scope, length, mail, copy_context_for_thread())
        exchange.adapter = self
        return Pump(environ, start_response, exchange, mail, portal.gate).respond()

    def start(self) -> None:
        """Start the loop and the lifespan now, and wait for its startup; from any thread but the loop's.

        Raises:
            LifespanFailed: the application did not start.
        """
        service = self._living_service()
        service.wait_for_startup()

    def close(self) -> None:
        """End the application: requests and background tasks under way, then its lifespan; waits for that.

        From any thread but the loop's. A request that comes later starts it anew.
        """
        check_no_portal_here()
        with _starting:
            service, self._service = self._service, None
            self._forget_service()
        if service is not None:
            service.close()

    def _living_service(self) -> Service:
        """Give the service, starting one at the first request, after a fork, and after ``close``."""
        check_no_portal_here()  # before the lock, which somebody may hold who waits for the loop
        while True:
            with _starting:
                service = self._service
                if service is None or service.closed:
                    service = self._service = self._make_service()
                    self._forget_service()
                    self._finalizer = weakref.finalize(self, service.close_soon)
                    self._finalizer.atexit = False
            # Without the lock: under gevent others of this thread come by while this one waits.
            if service.open():
                return service

    def _forget_service(self) -> None:
        """Let go of a service that has ended, or is about to."""
        if self._finalizer is not None:
            self._finalizer.detach()

    def _serve_websocket(
        self, environ: Environ, start_response: StartResponse, scope: dict[str, Any]
    ) -> Iterable[bytes]:
        socket = find_socket(environ, self._socket_key)
        if isinstance(socket, str):
            return self._refuse_websocket(environ, start_response, socket)
        websockets = _websockets()
        if websockets is None:
            return self._refuse_websocket(
                environ, start_response, f"websockets need wsproto: pip install '{_EXTRA}'"
            )
        try:
            handshake = websockets.handshake_of(scope)
        except PeerProtocolError as refusal:
            status = refusal.status_hint
            more = websockets.UPGRADE_REQUIRED if status == 426 else ()
            return _refuse(environ, start_response, status, str(refusal), more)
        service = self._living_service()
        service.portal.check_caller()
        exchange = websockets.WebSocketExchange(
            service, scope, handshake, socket, self._websocket_limits, copy_context_for_thread()
        )
        exchange.adapter = self
        pump = websockets.WebSocketPump(environ, start_response, exchange, socket, self.heartbeat)
        response: Iterable[bytes] = pump.respond()
        return response

    def _refuse_websocket(
        self, environ: Environ, start_response: StartResponse, why: str
    ) -> Iterable[bytes]:
        if not self._warned_of_websockets:
            self._warned_of_websockets = True
            _log.warning("refused a websocket to %r with 501: %s", self, why)
        return _refuse(environ, start_response, 501, why)


_living: weakref.WeakSet[ASGIToWSGI] = weakref.WeakSet()


def dismiss_in(seconds: float) -> None:
    """Tell all requests of this process that are under way in ``seconds`` from now that the server is stopping.

    Their applications get ``http.disconnect``; those that go on are cancelled after the grace time. Websockets are
    stopped at once. May be called by a signal handler.
    """
    _tell_services(lambda service: service.dismiss_in(seconds))


def stop_websockets() -> None:
    """Close all websockets of this process with 1001, and those that are still to come as soon as they are accepted.

    From any thread; may be called by a signal handler.
    """
    _tell_services(lambda service: service.stop_websockets())


def _tell_services(tell: Callable[[Service], object]) -> None:
    for adapter in living_adapters():
        service = adapter._service
        if service is not None and service.is_open and not service.closed:
            try:
                tell(service)
            except CrossingError:
                pass  # it ends just now


def living_adapters() -> list[ASGIToWSGI]:
    """Give all adapters of this process, for hosts that start and close them with their workers."""
    return list(_living)


def _after_fork() -> None:
    global _starting
    _starting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _single_callable(app: ASGIApplication) -> ASGIApplication:
    """Give an ASGI 3 application, adapting one of ASGI 2.

    Raises:
        TypeError: it is neither.
    """
    if not callable(app):
        raise TypeError(
            "ASGIToWSGI needs an ASGI application, a callable of (scope, receive, send) to await;"
            f" got {app!r:.80}"
        )
    arity = arity_of(app)
    if inspect.isclass(app):
        if arity == 1 and is_async(app.__call__):
            return _adapted(app)
        raise TypeError(f"{name_of(app)} is a class: give ASGIToWSGI an instance of it")
    if is_async(app):
        return app
    if arity == 1:
        return _adapted(app)
    if arity == 2:
        raise TypeError(
            f"{name_of(app)} takes two arguments, so it is a WSGI application already: give it to the server without"
            " ASGIToWSGI"
        )
    return app


def _adapted(app: Any) -> ASGIApplication:
    adapted: ASGIApplication = guarantee_single_callable(app)  # type: ignore[no-untyped-call]  # asgiref has no types there
    return adapted


def _check_least(name: str, value: float, least: float) -> None:
    if not value >= least:  # NaN fails too
        raise ValueError(f"{name} must be at least {least:g}, got {value}")


def _check_options(
    lifespan: LifespanMode, backend: Backend, loop_factory: LoopFactory | None
) -> None:
    if lifespan not in LIFESPAN_MODES:
        raise ValueError(f"lifespan must be one of {LIFESPAN_MODES}, got {lifespan!r:.80}")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r:.80}")
    if loop_factory is not None and backend == "trio":
        raise ValueError("loop_factory makes asyncio loops; the back end trio has none")
    if loop_factory is not None and not callable(loop_factory):
        raise TypeError(
            f"loop_factory must be a function that makes an event loop, got {loop_factory!r:.80}"
        )


def _fitting(backend: Backend) -> Backend:
    """Take the inline back end on a host where no other thread of Python runs."""
    uwsgi: Any = sys.modules.get("uwsgi")
    if backend != "asyncio" or uwsgi is None:
        return backend
    # uWSGI 2.0.31 has threads whatever it is told, and says so; older ones have them if that was asked for.
    asked = any(option in uwsgi.opt for option in ("enable-threads", "threads"))
    return "asyncio" if asked or getattr(uwsgi, "has_threads", False) else "inline"


def _asks_for_websocket(environ: Environ) -> bool:
    """Whether the client wants one; a host may have taken off the field Connection, which tells so too.

    Source:
        RFC 9110 section 7.8: the field is ignored in a request of HTTP/1.0, as old proxies send it on.
    """
    if environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        return False
    if not _has_word(environ["HTTP_UPGRADE"], "websocket"):
        return False
    connection = environ.get("HTTP_CONNECTION")
    return connection is None or _has_word(connection, "upgrade")


def _has_word(field: str, word: str) -> bool:
    return word in (part.strip(" \t") for part in field.lower().split(","))


@functools.cache
def _websockets() -> Any | None:
    """Give the module that serves them, which few need; None without wsproto."""
    try:
        return import_module(".asgi.websocket", __package__)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "wsproto":
            raise
        return None


def _refuse(
    environ: Environ,
    start_response: StartResponse,
    status: int,
    reason: str,
    more: Iterable[tuple[str, str]] = (),
) -> list[bytes]:
    """Answer a request that the application will not see, in one sentence."""
    body = reason.encode("utf-8", "replace") + b"\n"
    headers = [
        *more,
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", str(len(body))),
    ]
    start_response(status_from_code(status), headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
