"""gunicorn's configuration for the modern application; the demo says where to bind.

The lifespan begins and ends with the worker. Its endless streams are told of the end, and gunicorn
stops when the process that started it is gone.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any

from bridges import gunicorn as hooks
from bridges.gunicorn import worker_exit  # noqa: F401
from examples.demo import modern

worker_class = "gthread"
workers = 1
threads = 8
graceful_timeout = 10
loglevel = "warning"
control_socket_disable = True


def when_ready(server: Any) -> None:
    """Print the address once gunicorn listens."""
    host, port = server.LISTENERS[0].sock.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    print(f"FastAPI under gunicorn on http://{host}:{port}/", flush=True)


def post_worker_init(worker: Any) -> None:
    hooks.post_worker_init(worker)
    gunicorns_own = signal.getsignal(signal.SIGTERM)

    def end_streams(number: int, frame: FrameType | None) -> None:
        modern.stopping.set()
        gunicorns_own(number, frame)

    signal.signal(signal.SIGTERM, end_streams)
    threading.Thread(target=stop_with_parent, daemon=True).start()


def stop_with_parent() -> None:
    while os.read(0, 1):  # the demo holds the other end, and never writes
        pass
    os.kill(os.getppid(), signal.SIGTERM)
