"""For gunicorn: a worker class that serves either kind of application, and hooks for gunicorn's own workers.

``BridgeWorker``, for ``gunicorn -k bridges.gunicorn.BridgeWorker main:app``, needs the extra ``server``. The hooks
start ASGI applications that ``ASGIToWSGI`` wraps with their worker, not with its first request::

    # gunicorn.conf.py
    from bridges.gunicorn import post_worker_init, worker_exit  # noqa: F401
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..asgi_to_wsgi import dismiss_in, living_adapters, stop_websockets
from ..crossing.registry import end_all

if TYPE_CHECKING:
    from .worker import BridgeWorker as BridgeWorker

_OF_EXTRA = frozenset({"httptools", "wsproto"})


def __getattr__(name: str) -> object:
    """Give ``BridgeWorker``, whose server is not loaded by those who want the hooks alone."""
    if name != "BridgeWorker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        worker = import_module(".worker", __name__)
    except ImportError as error:
        if error.name not in _OF_EXTRA:
            raise
        # gunicorn prints the sentence of a RuntimeError, and the traceback of anything else.
        raise RuntimeError(str(error)) from None
    value: object = worker.BridgeWorker
    return value


def post_worker_init(worker: Any) -> None:
    """Start every ``ASGIToWSGI`` of this worker and wait for its lifespan's startup; in the worker's main thread.

    A startup that fails stops the worker from booting, and gunicorn with it, after the traceback is in the log.

    A graceful stop (SIGTERM) leaves requests half of ``graceful_timeout``. Then streams that have no end by themselves
    are told of it by ``http.disconnect``, so that the lifespan's shutdown still runs before gunicorn kills the worker.
    Websockets are closed with 1001 at once; after ``max_requests`` and a change that ``reload`` has seen, too.

    A worker of the class ``sync`` that serves a websocket is not killed after ``timeout``, as long as its event loop
    answers.

    Args:
        worker: of gunicorn.

    Raises:
        LifespanFailed: an application did not start.

    Source:
        gunicorn settings, "post_worker_init".
    """
    heartbeat = _heartbeat_of(worker)
    for adapter in living_adapters():
        adapter.heartbeat = heartbeat
        adapter.start()
    _call_at_end_of(worker, stop_websockets)
    gunicorns_own: Any = signal.getsignal(signal.SIGTERM)

    def end_streams(number: int, frame: FrameType | None) -> None:
        try:
            dismiss_in(worker.cfg.graceful_timeout / 2)
        finally:
            gunicorns_own(number, frame)

    signal.signal(signal.SIGTERM, end_streams)


def _call_at_end_of(worker: Any, told: Callable[[], object]) -> None:
    """Have ``told`` called as soon as the worker is to end, for whatever reason; from any thread.

    gunicorn has a hook for some reasons only; for all of them it sets ``alive`` to False.
    """
    kind: Any = type(worker)

    def alive(self: Any) -> bool:
        found: bool = vars(self)["alive"]
        return found

    def set_alive(self: Any, alive: bool) -> None:
        vars(self)["alive"] = alive
        if not alive:
            told()

    worker.__class__ = type(kind.__name__, (kind,), {"alive": property(alive, set_alive)})


def _heartbeat_of(worker: Any) -> tuple[Callable[[], object], float] | None:
    """Give what keeps gunicorn from taking a worker for one that hangs, where only its one thread can say so."""
    workers: Any = sys.modules.get("gunicorn.workers.sync")
    if workers is None or not isinstance(worker, workers.SyncWorker) or not worker.cfg.timeout:
        return None
    return worker.notify, worker.cfg.timeout / 4


def worker_exit(server: object, worker: object) -> None:
    """End every ``ASGIToWSGI`` of this worker, each within its ``shutdown_seconds``; in the worker's main thread.

    Args:
        server: the arbiter of gunicorn; unused.
        worker: of gunicorn; unused.

    Source:
        gunicorn settings, "worker_exit".
    """
    end_all()
