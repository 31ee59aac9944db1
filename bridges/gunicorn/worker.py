"""gunicorn's worker with the server of this package in it: one process, one event loop, either kind of application.

Source: gunicorn settings; gunicorn's documentation "Signal Handling".
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
import sys
import threading
import traceback
from types import FrameType
from typing import Any, Final

from gunicorn import SERVER_SOFTWARE
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError
from gunicorn.http.wsgi import WSGIErrorsWrapper
from gunicorn.workers.base import Worker

from ..errors import ConfigError, LifespanFailed
from ..loading import Kind, as_asgi3, kind_of
from ..server.config import Config
from ..server.logs import set_up_logging
from ..server.run import Server, run_in_loop
from ..server.service import Service
from .application import asgi_under, with_errors, wsgi_under
from .heads import LimitedHeads
from .settings import describe_tls, make_tls, options_of, warnings_for
from .watch import Watch

# The longest time between two signs of life.
_BEAT_SECONDS: Final = 1.0
# Before gunicorn loses its patience at the end of a graceful stop.
_MARGIN_SECONDS: Final = 0.02
# What the application's shutdown may take after SIGQUIT or SIGINT, and when the process ends whatever holds it up:
# gunicorn kills what is left after two seconds.
_QUICK_SECONDS: Final = 1.0
_LAST_SECONDS: Final = 1.5


class BridgeWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """Serve a WSGI or an ASGI application, told apart by looking: ``gunicorn -k bridges.gunicorn.BridgeWorker``.

    The application is imported before there is a loop. From ``post_worker_init`` on everything runs on the loop, in
    the main thread, but for WSGI applications, which run in threads.

    It tells gunicorn that it lives as long as its loop runs, however busy its threads are.

    Source:
        gunicorn settings; ``docs/reference/gunicorn-settings.md`` tells what becomes of each.
    """

    alive: bool
    booted: bool
    nr: int
    _loop: asyncio.AbstractEventLoop | None = None
    _told: asyncio.Event
    _hurry: asyncio.Event
    _is_quick = False
    _aborted = False
    _kind: Kind
    _config: Config
    _by_command: bool
    _hook: Any = None
    _server: Server | None = None

    # Before the loop.

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Look at the settings before workers are started; in the master.

        Raises:
            RuntimeError: one is refused, or wrong; gunicorn prints the sentence and ends.
        """
        if getattr(cfg, "bridges_config", None) is not None:
            return  # of our command line, which has read and checked every option
        try:
            options_of(cfg)
        except ConfigError as error:
            raise RuntimeError(str(error)) from error

    def init_process(self) -> None:
        """Run the worker's life, from the fork to its end."""
        # gunicorn calls the hook when the application is loaded; ours waits for the loop.
        self._hook = self.cfg.post_worker_init
        self.cfg.set("post_worker_init", _nothing)
        super().init_process()

    def load_wsgi(self) -> None:
        """Import the application, and see what it is."""
        by_command = getattr(self.app, "bridges_config", None)
        self._by_command = by_command is not None
        try:
            self._config = by_command or Config(**options_of(self.cfg))
        except ConfigError as error:
            self._fail(error)
        if self.age == 1 and not self._by_command:  # the first worker speaks for all
            for warning in warnings_for(self.cfg):
                self.log.warning("%s", warning)
        super().load_wsgi()
        try:
            self._kind = kind_of(self.wsgi, self._config.interface)
        except ConfigError as error:
            raise AppImportError(str(error)) from error  # whose sentence gunicorn prints

    def run(self) -> None:
        """Serve until told to stop."""
        # Until the application has started, an exception ends gunicorn, and not this worker alone.
        self.booted = False
        self.cfg.set("post_worker_init", self._hook)
        self._route_logs()
        try:
            run_in_loop(self._live(), self._config.loop)
        except (ConfigError, LifespanFailed) as error:
            self._fail(error)
        finally:
            self._loop = None
            self._ignore_signals()
        if self._aborted:
            sys.exit(1)

    def _ignore_signals(self) -> None:
        """Let no signal kill a process that is ending: gunicorn would take it for a failure."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)

    def _fail(self, error: Exception) -> None:
        self.log.error("%s", error)
        sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def _route_logs(self) -> None:
        """Have the records of ``bridges`` go where gunicorn's go, unless somebody has routed them."""
        if self._by_command:
            set_up_logging(self._config)
            return
        logger = logging.getLogger("bridges")
        if not logger.handlers:
            for handler in self.log.error_log.handlers:
                logger.addHandler(handler)
            logger.setLevel(self.log.error_log.level)
            logger.propagate = False

    # On the loop.

    async def _live(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._told, self._hurry = asyncio.Event(), asyncio.Event()
        loop.add_reader(self.PIPE[0], self._look)
        heart = loop.create_task(self._beat())
        try:
            self._notice()  # of signals that came before
            self.cfg.post_worker_init(self)
            self._server = server = self._make_server()
            if await self._start(server):
                self.booted = True
                await self._told.wait()
                await self._stop(server)
        finally:
            heart.cancel()
            loop.remove_reader(self.PIPE[0])

    async def _beat(self) -> None:
        """Tell gunicorn that the loop lives, and see whether gunicorn does."""
        seconds = min(self.timeout or _BEAT_SECONDS, _BEAT_SECONDS)
        while True:
            self.notify()
            if self.ppid != os.getppid() and self.alive:
                self.log.info("Parent changed, shutting down: %s", self)
                self.alive = False
                self._notice()
            await asyncio.sleep(seconds)

    def _look(self) -> None:
        """Take what was written to wake this worker: by signals, and by gunicorn's reloader."""
        os.read(self.PIPE[0], 4096)
        self._notice()

    def _notice(self) -> None:
        """See what handlers have decided."""
        if not self.alive:
            self._told.set()
        if self._is_quick or self._aborted:
            self._hurry.set()

    def _make_server(self) -> Server:
        cfg, config = self.cfg, self._config
        options = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        sockets = [each.sock for each in self.sockets]
        app: Any = self.wsgi
        if self._by_command:
            # The command line has options for what settings of gunicorn tell below.
            return Server(app, sockets=sockets, multiprocess=cfg.workers > 1, **options)
        watch = Watch(self, self._count if cfg.max_requests else None)
        context = make_tls(cfg)

        def prepare(service: Service) -> None:
            service.base_environ["SERVER_SOFTWARE"] = SERVER_SOFTWARE
            service.heads = LimitedHeads(
                config.max_target_bytes,
                config.max_fields,
                cfg.limit_request_field_size,
                getattr(cfg, "header_map", "drop") == "refuse",
            )
            if context is not None:
                describe_tls(cfg, service)
            if watch.looks_at_beginnings or watch.looks_at_ends:
                service.make_exchange = watch.wrap(service.make_exchange)
                if service.make_websocket is not None:
                    service.make_websocket = watch.wrap(service.make_websocket)

        if self._kind == "asgi2":
            app = as_asgi3(app, "asgi2")
        options["interface"] = "wsgi" if self._kind == "wsgi" else "asgi"
        return Server(
            self._surrounded(app),
            sockets=sockets,
            log_access=watch.ended if watch.looks_at_ends else None,
            multiprocess=cfg.workers > 1,
            context=context,
            prepare=prepare,
            **options,
        )

    def _surrounded(self, app: Any) -> Any:
        """Give the application what gunicorn gives it beside requests."""
        cfg = self.cfg
        prefix = getattr(cfg, "root_path", "") or os.environ.get("SCRIPT_NAME", "")
        prefix = "/" + prefix.strip("/") if prefix.strip("/") else ""
        if self._kind != "wsgi":
            return asgi_under(app, prefix) if prefix else app
        if prefix:
            app = wsgi_under(app, prefix)
        # Where it is "-", it is the process's standard error.
        return app if cfg.errorlog == "-" else with_errors(app, lambda: WSGIErrorsWrapper(cfg))

    def _count(self) -> None:
        """Count a request that begins, and stop once there were enough."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
            self._notice()

    async def _start(self, server: Server) -> bool:
        """Start the server; False if it was told to stop first."""
        start = asyncio.ensure_future(server.start())
        await self._first(start, self._told)
        if start.done():
            start.result()
            return True
        start.cancel()
        await self._first(start, self._hurry, _QUICK_SECONDS)
        if start.done() and not start.cancelled():
            start.exception()  # logged already, and of no more interest
        return False

    async def _stop(self, server: Server) -> None:
        """Stop the server, within the time that gunicorn gives, or at once if told so."""
        assert self._loop is not None
        began = self._loop.time()
        seconds = self.cfg.graceful_timeout
        for each in self.sockets:
            each.close()  # with reuse_port nobody else accepts from it
        wind_down = asyncio.ensure_future(server.wind_down())
        await self._first(wind_down, self._hurry)
        wind_down.cancel()
        stop = asyncio.ensure_future(server.stop())
        left = began + seconds - _MARGIN_SECONDS - self._loop.time()
        await self._first(stop, self._hurry, max(left, 0.0))
        if self._hurry.is_set() and not (stop.done() or self._aborted):
            server.force()
            await asyncio.wait([stop], timeout=_QUICK_SECONDS)
        if stop.done():
            stop.result()
        else:
            self.log.warning("The application has not shut down in time: left it")

    async def _first(
        self, task: asyncio.Future[None], event: asyncio.Event, seconds: float | None = None
    ) -> None:
        """Wait for the end of a task, or for an event, whichever comes first."""
        waiting = asyncio.ensure_future(event.wait())
        await asyncio.wait((task, waiting), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    # Signals: gunicorn has routed them here. Handlers run in the main thread, in the middle of anything.

    def _tell(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._notice)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gracefully: SIGTERM. gunicorn may send it again and again, which changes nothing."""
        super().handle_exit(sig, frame)
        self._tell()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Stop quickly: SIGQUIT, SIGINT."""
        if self._loop is None:
            super().handle_quit(sig, frame)
        if self._is_quick:
            return
        self._is_quick = True
        self.alive = False
        self._end_in(_LAST_SECONDS)
        self._tell()
        self.cfg.worker_int(self)

    def _end_in(self, seconds: float) -> None:
        """End the process whatever holds it up: a blocked loop, a thread that does not end."""
        timer = threading.Timer(seconds, os._exit, (0,))
        timer.daemon = True
        timer.start()

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:
        """Reopen the log files: SIGUSR1. On the loop, not in the middle of a line."""
        if self._loop is None:
            super().handle_usr1(sig, frame)
        else:
            self._loop.call_soon_threadsafe(self.log.reopen_files)

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """Say where the loop is blocked, and end: SIGABRT, gunicorn's word to a worker that has been silent."""
        self._aborted = True
        stack = "".join(traceback.format_stack(frame))
        self.log.critical("Aborted; the event loop was blocked here:\n%s", stack)
        self._tell()
        super().handle_abort(sig, frame)


def _nothing(worker: object) -> None:
    """Stand in for a hook."""
