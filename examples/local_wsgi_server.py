"""What the examples of ASGIToWSGI share: the standard library's WSGI server, on a free port of this machine."""

import contextlib
import threading
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request."""


class Handler(WSGIRequestHandler):
    """Says nothing of requests."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class calls it so
        pass


@contextlib.contextmanager
def serving_wsgi(application: Any) -> Iterator[str]:
    """Serve a WSGI application, give its address, and stop the server at the end."""
    with make_server("127.0.0.1", 0, application, Server, Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
