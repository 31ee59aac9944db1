"""The command line: ``bridges main:app``, ``python -m bridges main:app``.

Exit status: 0 when it was told to stop and did, 1 when it could not serve or was forced to stop, 2 when an option is
wrong. What goes wrong is said in one sentence; a traceback is shown of the application's own code alone.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from .errors import BridgesError, ConfigError
from .kinds import name_of
from .loading import Kind, kind_of, load
from .server.command import PROGRAM, Command, all_options, parts, read_command, say
from .server.config import ENVIRONMENT_PREFIX, Config, options
from .server.logs import set_up_logging
from .server.reload import inherited, serve_with_reload
from .server.run import Server, run_in_loop
from .server.signals import STOP_SIGNALS, serve_until_told
from .server.sockets import Listeners, open_sockets
from .server.tls import make_context

_log = logging.getLogger("bridges.server")

# How much a variable must look like one of an option to be taken as a slip of the pen.
_CLOSE: Final = 0.85


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; in the main thread, until the server has stopped.

    Args:
        arguments: without the program's name; None for those of the process.

    Returns:
        The exit status.

    Raises:
        SystemExit: with 0 after ``--help`` and ``--version``, with 2 for a wrong option.
    """
    child = inherited()
    if child is not None:
        # Ctrl-C reaches parent and child; the parent passes it on. Programs that the application starts would inherit
        # that it is ignored, but no handler.
        signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        command = read_command(arguments)
    except ConfigError as error:
        say(str(error))
        return 2
    try:
        if child is not None:
            leash, sockets = child
            return _serve(command, Listeners(sockets, _scheme(command.config)), leash)
        if command.reload:
            return _serve_with_reload(command)
        if command.needs_gunicorn:
            return _serve_by_gunicorn(command)
        return _serve(command)
    except BridgesError as error:
        say(str(error))
        return 1
    except _AppFailed as failure:
        sys.stderr.write(failure.report())
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


# The application


class _AppFailed(Exception):
    """The application's own code failed while it was imported or made."""

    def __init__(self, app: str, error: BaseException, frames: TracebackType | None) -> None:
        super().__init__(f"{app} failed while it was loaded: {_title(error)}")
        self._lines = traceback.format_exception(type(error), error, frames)

    def report(self) -> str:
        """Give the traceback of the application's frames, and the sentence."""
        return f"{''.join(self._lines)}{PROGRAM}: {self}\n"


def _title(error: BaseException) -> str:
    words = traceback.format_exception_only(type(error), error)[-1].strip()
    return words if len(words) <= 200 else f"{words[:197]}..."


def _load(command: Command) -> Any:
    try:
        return load(command.app, factory=command.config.factory, directory=command.app_dir)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frames = _frames_of_app(error.__traceback__)
        if isinstance(error, ConfigError) and frames is None:
            raise
        raise _AppFailed(command.app, error, frames) from error


def _frames_of_app(frames: TracebackType | None) -> TracebackType | None:
    """Leave out what leads from here to the application's first line."""
    own = os.path.dirname(__file__) + os.sep
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if not file.startswith((own, "<frozen importlib", importlib.__file__)):
            return frames
        frames = frames.tb_next
    return None


# Serving


def _serve(command: Command, listeners: Listeners | None = None, leash: int | None = None) -> int:
    """Serve in this process; from sockets that a parent opened, if it has one."""
    app = _load(command)
    kind = kind_of(app, command.config.interface)
    set_up_logging(command.config)
    warn_of(command, kind)
    sockets = None if listeners is None else listeners.sockets
    server = Server(app, sockets=sockets, **command.given)
    stopped_by_itself = True

    def started() -> None:
        addresses = server.addresses if listeners is None else listeners.addresses
        _announce(command, f"{_KINDS[kind]}, {name_of(app)}", addresses)

    async def run() -> None:
        nonlocal stopped_by_itself
        # A child's parent passes Ctrl-C on as SIGTERM.
        numbers = STOP_SIGNALS if leash is None else (signal.SIGTERM,)
        stopped_by_itself = await serve_until_told(
            server, started=started, numbers=numbers, leash=leash
        )

    run_in_loop(run(), command.config.loop)
    return 0 if stopped_by_itself else 1


_KINDS: Final[dict[Kind, str]] = {"wsgi": "WSGI", "asgi": "ASGI", "asgi2": "ASGI 2"}


def _announce(command: Command, how: str, addresses: Sequence[str]) -> None:
    if command.config.log_level in ("debug", "info"):
        where = " and ".join(addresses)
        say(f"serving {command.app} ({how}) on {where} (press Ctrl-C to stop)")


def warn_of(command: Command, kind: Kind, environment: Mapping[str, str] = os.environ) -> None:
    """Log what was typed or set without effect, or with one that is seldom meant.

    Args:
        command: what was typed.
        kind: of the application.
        environment: where variables may be misspelt.
    """
    known = {option.variable: option for option in all_options()}
    for name in environment:
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known:
            for close in difflib.get_close_matches(name, known, 1, _CLOSE):
                _log.warning("the variable %s is no option: %s is", name, close)
    for option in options():
        in_vain = kind != "wsgi" and option.group == "WSGI applications"
        if in_vain and option.name in command.given:
            _log.warning("%s has no effect: %s is not a WSGI application", option.flag, command.app)
    if "*" in parts(command.config.forwarded_allow_ips):
        _log.warning(
            "--forwarded-allow-ips * believes what every client says of itself: name the proxies"
        )


def _scheme(config: Config) -> str:
    return "https" if config.certfile else "http"


def _serve_with_reload(command: Command) -> int:
    listeners = open_sockets(command.config)
    try:
        return serve_with_reload(listeners.sockets, command.reload_dirs, command.reload_patterns)
    finally:
        listeners.close()


# gunicorn


def _serve_by_gunicorn(command: Command) -> int:
    """Start gunicorn in this process, which becomes its arbiter."""
    try:
        from gunicorn.app.base import BaseApplication
        from gunicorn.arbiter import Arbiter
        from gunicorn.errors import AppImportError, HaltServer
    except ImportError:
        raise ConfigError(
            "workers and preload need gunicorn, which is not installed: pip install 'wsgi-asgi-bridges[gunicorn]'"
        ) from None
    make_context(command.config)  # so that what is wrong with a certificate is said here, once
    app = _load(command) if command.preload else None
    bind = _bind(command)

    class Program(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
        # Read by BridgeWorker.
        bridges_config = command.config

        def load_config(self) -> None:
            self.cfg.bridges_config = command.config
            for name, value in gunicorn_settings(command, bind).items():
                if name in self.cfg.settings:
                    self.cfg.set(name, value)

        def load(self) -> Any:
            return _load_in_worker(command, AppImportError) if app is None else app

        def run(self) -> None:
            arbiter = Arbiter(self)
            # SIGUSR2 starts this program once more; gunicorn's own guess forgets -m and the interpreter's options.
            arbiter.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
            arbiter.run()

    master = os.getpid()
    try:
        Program().run()
    except SystemExit as end:
        if os.getpid() != master:
            raise  # a worker, whose exit status its master understands
        return 1 if end.code else 0
    except HaltServer:
        return 1  # a second worker could not boot, while gunicorn stopped because of the first
    return 0


def _load_in_worker(command: Command, failure: type[Exception]) -> Any:
    """Load the application in a worker, whose failure gunicorn prints before it stops."""
    try:
        return _load(command)
    except ConfigError as error:
        raise failure(f"{PROGRAM}: {error}") from error
    except _AppFailed as error:
        raise failure(error.report()) from error


def _bind(command: Command) -> list[str]:
    """Open what gunicorn listens on, so that it is the same as without workers; it gets the descriptors."""
    config = command.config
    if config.fd is not None or config.unix_socket is not None:
        os.environ.pop("LISTEN_PID", None)  # gunicorn would take systemd's sockets, too
    if _inherits(os.environ):
        return ["127.0.0.1:0"]  # never opened: gunicorn takes what it inherited
    listeners = open_sockets(config)
    _announce(command, f"gunicorn, {command.workers} workers", listeners.addresses)
    return [f"fd://{each.detach()}" for each in listeners.sockets]


def _inherits(environment: Mapping[str, str]) -> bool:
    """Whether the gunicorn that this one takes the place of passed sockets, or systemd did."""
    return "GUNICORN_FD" in environment or environment.get("LISTEN_PID") == str(os.getpid())


def gunicorn_settings(command: Command, bind: Sequence[str]) -> dict[str, Any]:
    """Give the settings of gunicorn that its arbiter needs; workers read the options themselves.

    Args:
        command: what was typed.
        bind: what gunicorn listens on.

    Source:
        gunicorn settings.
    """
    config = command.config
    return {
        "bind": list(bind),
        "backlog": config.backlog,
        "workers": command.workers,
        "worker_class": "bridges.gunicorn.BridgeWorker",
        "preload_app": command.preload,
        "proc_name": command.app,
        # A worker that is killed in the middle of its stop would have lost what it was given time for.
        "graceful_timeout": math.ceil(config.graceful_seconds + config.shutdown_seconds) + 5,
        "timeout": math.ceil(max(30.0, config.startup_seconds)),
        "loglevel": config.log_level,
        "accesslog": None if config.access_log == "off" else "-",
        "certfile": config.certfile,
        "keyfile": config.keyfile,
        # One file for all masters of a user, who could not tell them apart.
        "control_socket_disable": True,
    }
