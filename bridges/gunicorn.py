"""Hooks for ``gunicorn.conf.py``: ASGI applications start with their worker, not with its first request.

::

    # gunicorn.conf.py
    from bridges.gunicorn import post_worker_init, worker_exit  # noqa: F401
"""

from __future__ import annotations

from .asgi_to_wsgi import living_adapters
from .crossing.registry import end_all


def post_worker_init(worker: object) -> None:
    """Start every ``ASGIToWSGI`` of this worker and wait for its lifespan's startup; in the worker's main thread.

    A startup that fails stops the worker from booting, and gunicorn with it, after the traceback is in the log.

    Args:
        worker: of gunicorn; unused.

    Raises:
        LifespanFailed: an application did not start.

    Source:
        gunicorn settings, "post_worker_init".
    """
    for adapter in living_adapters():
        adapter.start()


def worker_exit(server: object, worker: object) -> None:
    """End every ``ASGIToWSGI`` of this worker, each within its ``shutdown_seconds``; in the worker's main thread.

    Args:
        server: the arbiter of gunicorn; unused.
        worker: of gunicorn; unused.

    Source:
        gunicorn settings, "worker_exit".
    """
    end_all()
