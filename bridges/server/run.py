"""A server from its start to its stop: in a running loop (``Server``), or as a whole program's work (``serve``)."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from ..asgi.lifespan import Lifespan
from ..errors import ConfigError
from ..kinds import name_of
from ..loading import as_asgi3, kind_of
from ..typing import ASGIApplication, WSGIApplication
from .access_log import AccessLog
from .asgi import ASGIExchange
from .config import Config
from .http1 import Connection
from .logs import set_up_logging
from .service import MakeExchange, Service
from .signals import serve_until_told
from .sockets import Listeners, open_sockets
from .tls import make_context, server_certificate, tls_extension
from .websocket import WebSocketExchange
from .wsgi import WSGIExchange
from .wsgi_websocket import WSGIWebSocketExchange, may_have_websocket

if TYPE_CHECKING:
    from .exchange import Exchange

_log = logging.getLogger("bridges.server")

# What nginx writes of a client that left before its response began.
_CLIENT_LEFT: Final = 499
_WIND_DOWN_SECONDS: Final = 1.0
_TLS_HANDSHAKE_SECONDS: Final = 15.0
_TLS_SHUTDOWN_SECONDS: Final = 2.0
# A unix socket's file is for those who made it to remove: other processes may accept from it, too.
_KEEP_FILE: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class Server:
    """A server in a running asyncio or uvloop loop, for tests and for programs that do other things too.

    ::

        async with Server(app, port=0) as server:
            await client.get(server.url)

    Entering it binds, runs the application's startup, and accepts connections; leaving it stops it gracefully. It
    handles no signals and configures no logging. Everything runs on the loop that enters it.

    Attributes:
        config: every option.
    """

    def __init__(
        self,
        app: ASGIApplication | WSGIApplication,
        *,
        sockets: Sequence[socket.socket] | None = None,
        log_access: Callable[[Exchange], object] | None = None,
        multiprocess: bool = False,
        context: ssl.SSLContext | None = None,
        prepare: Callable[[Service], object] | None = None,
        **options: Any,
    ) -> None:
        """Prepare it; nothing is bound or started.

        Args:
            app: of either kind.
            sockets: listening ones to accept connections from, instead of those that the options name; they stay the
                caller's.
            log_access: called for each request once its response is complete, instead of the access log of the options.
            multiprocess: the value of ``wsgi.multiprocess``.
            context: for TLS, instead of one that is made of the options.
            prepare: called, on the loop, with what the connections share before the first of them is accepted.
            **options: as in ``Config``.

        Raises:
            ConfigError: an option is wrong, or the application is of a kind that cannot be told.
        """
        self.config = config = make_config(options)
        self._kind = kind_of(app, config.interface)
        self._app: Any = as_asgi3(app, self._kind) if self._kind == "asgi2" else app
        self._app_name = name_of(app)
        self._given = sockets
        self._log_access = log_access or _access_logger(config)
        self._multiprocess = multiprocess
        self._context = context
        self._prepare = prepare
        self._listeners: Listeners | None = None
        self._servers: list[asyncio.AbstractServer] = []
        self._service: Service | None = None
        self._lifespan: Lifespan | None = None
        self._lifespan_task: asyncio.Task[None] | None = None
        self._draining: Service | None = None

    @property
    def service(self) -> Service:
        """What the connections share, while the server runs."""
        assert self._service is not None, "the server does not run"
        return self._service

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """Those that it accepts connections from."""
        if self._given is not None:
            return self._given
        return self._listeners.sockets if self._listeners is not None else ()

    @property
    def addresses(self) -> Sequence[str]:
        """Where it is reached: ``http://127.0.0.1:8000``, ``unix:/run/app.sock``."""
        return self._listeners.addresses if self._listeners is not None else ()

    @property
    def port(self) -> int:
        """The TCP port that it is bound to.

        Raises:
            RuntimeError: it does not run, or only on unix sockets.
        """
        for each in self.sockets:
            if each.family != socket.AF_UNIX:
                port: int = each.getsockname()[1]
                return port
        raise RuntimeError("the server has no TCP port: it does not run, or on a unix socket only")

    @property
    def url(self) -> str:
        """Where it is reached, without a slash at the end."""
        scheme = "https" if self.config.certfile else "http"
        host = self.config.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    async def __aenter__(self) -> Server:  # noqa: PYI034  # Self is not in typing before 3.11
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        await self.stop()

    async def start(self) -> None:
        """Bind, run the application's startup, and accept connections.

        Raises:
            ConfigError: an address cannot be bound, or a certificate not be used.
            LifespanFailed: the application did not start.
        """
        context = self._context or make_context(self.config)
        if self._given is None:
            self._listeners = open_sockets(self.config)
        try:
            await self._start_service()
            await self._listen(context)
        except BaseException:
            await self.stop()
            raise

    async def _start_service(self) -> None:
        config = self.config
        is_wsgi = self._kind == "wsgi"
        make_websocket: MakeExchange | None = WebSocketExchange
        if is_wsgi:
            make_websocket = WSGIWebSocketExchange if config.max_websockets else None
        self._service = service = Service(
            self._app,
            self._app_name,
            config,
            WSGIExchange if is_wsgi else ASGIExchange,
            make_websocket,
            self._log_access,
            self._multiprocess,
        )
        if is_wsgi:
            service.may_have_websocket = may_have_websocket
        if config.certfile is not None:
            certificate = server_certificate(config.certfile)
            service.tls = functools.partial(tls_extension, server_cert=certificate)
        if not is_wsgi and config.lifespan != "off":
            self._lifespan = lifespan = Lifespan(
                self._app, self._app_name, config.lifespan, config.startup_seconds
            )
            self._lifespan_task = asyncio.create_task(lifespan.run())
            await lifespan.started()
            service.state = lifespan.state
        if self._prepare is not None:
            self._prepare(service)

    async def _listen(self, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        make = functools.partial(Connection, self.service)
        more: dict[str, Any] = {"backlog": self.config.backlog}
        if context is not None:
            more |= {"ssl": context, "ssl_handshake_timeout": _TLS_HANDSHAKE_SECONDS}
            if sys.version_info >= (3, 11):
                # Few clients answer the end of a connection that they do not look at.
                more["ssl_shutdown_timeout"] = _TLS_SHUTDOWN_SECONDS
        for each in self.sockets:
            own = each.dup()  # the loop closes what it is given
            if own.family == socket.AF_UNIX:
                server = await loop.create_unix_server(make, sock=own, **more, **_KEEP_FILE)
            else:
                # Connections inherit it. asyncio sets it only where a socket names its protocol, as ours do not;
                # without it, a small message waits until the one before is acknowledged.
                own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server = await loop.create_server(make, sock=own, **more)
            self._servers.append(server)

    def stop_accepting(self) -> None:
        """Accept no more connections."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._listeners is not None:
            self._listeners.close()

    async def wind_down(self) -> None:
        """Accept no more connections, and let those that are idle be used for a moment: a proxy may be using one.

        Answers say that their connection ends. It is for servers that others send requests to without looking.
        """
        self.stop_accepting()
        if self._service is not None:
            await self._service.wind_down(min(self.config.graceful_seconds / 8, _WIND_DOWN_SECONDS))

    async def stop(self) -> None:
        """Accept no more, let what is under way end, and run the application's shutdown, within the limits."""
        self.stop_accepting()
        service, self._service = self._service, None
        self._draining = service
        if service is not None:
            await service.drain(self.config.graceful_seconds)
        if self._lifespan is not None and self._lifespan_task is not None:
            # One that is still in its startup has nothing to shut down.
            seconds = self.config.shutdown_seconds if self._lifespan.ready else 0
            await self._lifespan.stop(seconds)
            await self._lifespan_task
        if service is not None:
            await asyncio.to_thread(service.end_threads, self.config.disconnect_grace_seconds)
            service.close()

    def force(self) -> None:
        """Cut off what is still under way; while ``stop`` waits for it."""
        service = self._draining or self._service
        if service is not None:
            for connection in list(service.connections):
                connection.cut("the server was told twice to stop")


def _access_logger(config: Config) -> Callable[[Exchange], object] | None:
    if config.access_log == "off":
        return None
    log = AccessLog(config.access_log)

    def write(exchange: Exchange) -> None:
        if not log.enabled:
            return
        head = exchange.head
        seconds = time.monotonic() - exchange.began
        log.log(
            exchange.client[0] if exchange.client else None,
            head.method,
            head.target,
            head.version,
            exchange.status or _CLIENT_LEFT,
            exchange.sent,
            seconds,
            head.headers,
            time.time() - seconds,
        )

    return write


def make_config(options: dict[str, Any]) -> Config:
    """Make a config of options by name.

    Raises:
        ConfigError: there is no such option, or its value is wrong.
    """
    known = Config.__dataclass_fields__
    for name in options:
        if name not in known:
            raise ConfigError(f"there is no option {name!r}: the options are {', '.join(known)}")
    return Config(**options)


def serve(app: ASGIApplication | WSGIApplication, **options: Any) -> None:
    """Serve an application until SIGINT or SIGTERM; in the main thread, which it blocks.

    The first signal stops gracefully: no more connections, streams are told, requests end, the application's shutdown
    runs. A second one cuts off what is under way. Logging is set up unless the program has configured the logger
    ``bridges`` itself: errors go to standard error, the access log to standard output.

    Args:
        app: of either kind, found by looking.
        **options: as in ``bridges.server.config.Config``; ``serve(app, port=8080)``.

    Raises:
        ConfigError: an option is wrong, an address cannot be bound, a certificate not be used.
        LifespanFailed: the application did not start.
    """
    server = Server(app, **options)
    set_up_logging(server.config)

    def started() -> None:
        for address in server.addresses:
            _log.info("listening on %s", address)

    run_in_loop(serve_until_told(server, started=started), server.config.loop)


def run_in_loop(coroutine: Any, name: str) -> None:
    """Run a coroutine in a new loop: uvloop's where ``name`` asks for it, or is ``auto`` and it is installed.

    Raises:
        ConfigError: uvloop is asked for and not installed.
    """
    make_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if name != "asyncio":
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                coroutine.close()
                raise ConfigError(
                    "uvloop is not installed: pip install 'wsgi-asgi-bridges[server]', or take the asyncio loop"
                ) from None
        else:
            make_loop = uvloop.new_event_loop
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(coroutine)
        return
    loop = make_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(coroutine)
    finally:
        loop.run_until_complete(_end_tasks())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        loop.close()


async def _end_tasks() -> None:
    """Cancel what is left on the loop, as ``asyncio.Runner`` does from Python 3.11 on."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
