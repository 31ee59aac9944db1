"""Serve the demo with uvicorn: ``python -m examples.demo [--host HOST] [--port PORT]``."""

import argparse
import socket
from types import FrameType

import uvicorn

from examples.demo import legacy
from examples.demo.site import app


class Server(uvicorn.Server):
    """Print the address once it answers, and tell the endless streams when the end is near."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            host = f"[{host}]" if ":" in host else host
            print(f"demo on http://{host}:{port}/ (Ctrl-C stops it)", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        legacy.stopping.set()
        super().handle_exit(sig, frame)


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (%(default)s)")
    options = parser.parse_args()
    # Warnings only: the page itself shows the requests.
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
    try:
        Server(config).run()
    except KeyboardInterrupt:  # uvicorn has stopped by now and passes the signal on
        print()


if __name__ == "__main__":
    main()
