"""Carry web applications across the line between WSGI and ASGI."""

from . import errors
from .crossing.pool import PoolSnapshot, ThreadPool
from .wsgi_to_asgi import WSGIToASGI

__version__ = "0.1.0"

__all__ = ["PoolSnapshot", "ThreadPool", "WSGIToASGI", "errors"]
