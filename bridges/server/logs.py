"""Logging of a server that is the whole program: errors to standard error, requests to standard output.

A library leaves logging alone; this is called by the command line, and by nobody on import.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

from .config import Config

_log = logging.getLogger("bridges.server")

_ROOT: Final = "bridges"
_ACCESS: Final = "bridges.access"
_LINE: Final = "%(asctime)s %(levelname)s %(message)s"
_TIME: Final = "%Y-%m-%d %H:%M:%S%z"


def set_up_logging(config: Config) -> None:
    """Give ``bridges`` and ``bridges.access`` a handler each, unless the program has configured them itself.

    Call it after the application was imported, so that what that says of these loggers counts, and what it says of
    loggers that it does not know (``disable_existing_loggers``) does not. In the main thread, before there is a loop.

    - ``bridges`` writes time, level and message to standard error, from ``log_level`` up.
    - ``bridges.access`` writes the bare line to standard output, whatever ``log_level`` is.

    Neither passes its records on to the root logger, where an application's own handlers would write them once more.

    Args:
        config: the option log_level is read.
    """
    root, access = logging.getLogger(_ROOT), logging.getLogger(_ACCESS)
    if root.handlers:
        return
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and (name + ".").startswith(_ROOT + "."):
            logger.disabled = False
    root.addHandler(_handler(logging.StreamHandler(sys.stderr), logging.Formatter(_LINE, _TIME)))
    root.setLevel(config.log_level.upper())
    root.propagate = False
    if not access.handlers:
        access.addHandler(_handler(_LineHandler(sys.stdout), logging.Formatter("%(message)s")))
        access.setLevel(logging.INFO)
        access.propagate = False


def _handler(handler: logging.Handler, formatter: logging.Formatter) -> logging.Handler:
    handler.setFormatter(formatter)
    return handler


class _LineHandler(logging.StreamHandler):  # type: ignore[type-arg]  # has no subscript before 3.11
    """Write lines until their reader is gone, as that of ``bridges main:app | head`` is."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)
            return
        logging.getLogger(_ACCESS).removeHandler(self)
        # What is in the stream's buffer would fail once more when the interpreter ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)
        _log.warning("standard output is closed: the access log ends")
