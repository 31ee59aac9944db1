"""gunicorn's configuration for Flask-Sock in gunicorn's own threads: a worker that stops says so to its windows.

Without it the old worker of a reload waits for its websockets, which know nothing of the reload, until it is killed.
"""

import signal
from types import FrameType
from typing import Any

worker_class = "gthread"
# Each window holds one for as long as it is open.
threads = 50
graceful_timeout = 5


def post_worker_init(worker: Any) -> None:
    from examples.chat import flask_chat

    gunicorns_own = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        gunicorns_own(number, frame)  # it accepts no more
        flask_chat.close_all()

    signal.signal(signal.SIGTERM, stop)
