"""Serve the demo with uvicorn: ``python -m examples.demo [--host HOST] [--port PORT]``."""

import argparse
import socket
import sys
from types import FrameType

import uvicorn

from examples.demo import legacy
from examples.demo.site import app


class Server(uvicorn.Server):
    """Tell the endless streams of the signal, so that the graceful stop need not cut them."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        legacy.stopping.set()
        super().handle_exit(sig, frame)


def main() -> int:
    """Bind, print the address, serve until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (%(default)s)")
    options = parser.parse_args()
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family)
    except OSError as error:
        place = f"{options.host} port {options.port}"
        print(f"cannot listen on {place}: {error.strerror}; try --port 0", file=sys.stderr)
        return 1
    host = f"[{options.host}]" if ":" in options.host else options.host
    # The socket listens already, so a client that reads this line may connect at once.
    print(f"demo on http://{host}:{listener.getsockname()[1]}/ (Ctrl-C stops it)", flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
    try:
        Server(config).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn has stopped by now and passes the signal on
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
