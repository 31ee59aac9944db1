"""The site's ASGI handler through the bridge."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Iterable
from typing import Any

from adapter import adapt
from django.core.asgi import get_asgi_application

os.environ["DJANGO_SETTINGS_MODULE"] = "djangosite.settings"
wsgi_thread: contextvars.ContextVar[int] = contextvars.ContextVar("wsgi_thread", default=0)
adapter = adapt(get_asgi_application())


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Note the server's thread, for the views to compare with their own."""
    wsgi_thread.set(threading.get_ident())
    return adapter(environ, start_response)
