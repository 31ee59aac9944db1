"""The site through the bridge: four threads, each closing its connections when it ends."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

from bridges import ThreadPool, WSGIToASGI

os.environ["DJANGO_SETTINGS_MODULE"] = "djangosite.settings"
application = get_wsgi_application()


def close_connections() -> None:
    from django.db import connections

    open_ones = [one for one in connections.all(initialized_only=True) if one.connection]
    connections.close_all()
    print(f"thread ended, connections closed: {len(open_ones)}", flush=True)


def end_pool() -> None:
    """End the pool at shutdown, in one of its threads, which then has its own connections to close."""
    pool.shutdown()
    close_connections()


pool = ThreadPool(max_threads=4, on_thread_exit=close_connections)
app = WSGIToASGI(application, pool=pool, shutdown=end_pool)
