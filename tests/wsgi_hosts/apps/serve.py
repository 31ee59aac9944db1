"""Servers that are libraries, each started as its own documentation shows: ``serve <server> <target> <port>``."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import wsgiref.simple_server
from typing import Any

HOST = "127.0.0.1"


def waitress(app: Any, port: int) -> None:
    import waitress

    # Without lookahead it does not look at a client while it serves it.
    waitress.serve(app, host=HOST, port=port, threads=4, channel_request_lookahead=1)


def cheroot(app: Any, port: int) -> None:
    from cheroot.wsgi import Server

    server = Server((HOST, port), app, numthreads=4, shutdown_timeout=1)
    server.safe_start()


def werkzeug(app: Any, port: int) -> None:
    from werkzeug.serving import make_server

    make_server(HOST, port, app, threaded=True).serve_forever()


def pywsgi(app: Any, port: int) -> None:
    import gevent
    from gevent.pywsgi import WSGIServer

    server = WSGIServer((HOST, port), app)
    gevent.signal_handler(signal.SIGTERM, server.stop)
    server.serve_forever()


def wsgiref_(app: Any, port: int) -> None:
    with wsgiref.simple_server.make_server(HOST, port, app) as server:

        def stop(number: int, frame: Any) -> None:
            # wsgiref takes SystemExit for an error of the request that it interrupts; and this waits for the loop.
            threading.Thread(target=server.shutdown).start()

        signal.signal(signal.SIGTERM, stop)
        server.serve_forever(poll_interval=0.02)


SERVERS = {"waitress": waitress, "cheroot": cheroot, "werkzeug": werkzeug}
SERVERS |= {"wsgiref": wsgiref_, "pywsgi": pywsgi}


def main() -> None:
    name, target, port = sys.argv[1:]
    # These servers leave signals to the program around them.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    module, _, attribute = target.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    SERVERS[name](app, int(port))


if __name__ == "__main__":
    main()
