"""gunicorn's configuration for either chat in gunicorn's own threads: a worker that stops says so to its windows.

Without it the old worker of a reload waits for its websockets, which know nothing of the reload, until it is killed.
"""

import signal
import sys
from types import FrameType
from typing import Any

from bridges import gunicorn as hooks
from bridges.gunicorn import worker_exit  # noqa: F401

worker_class = "gthread"
# Each window holds one for as long as it is open.
threads = 50
graceful_timeout = 5


def post_worker_init(worker: Any) -> None:
    hooks.post_worker_init(worker)  # for the Starlette chat
    flask_chat = sys.modules.get("examples.chat.flask_chat")
    if flask_chat is None:
        return
    gunicorns_own: Any = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        gunicorns_own(number, frame)  # it accepts no more
        flask_chat.close_all()

    signal.signal(signal.SIGTERM, stop)
