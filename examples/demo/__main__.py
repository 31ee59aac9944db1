"""Serve the demo with uvicorn and gunicorn: ``python -m examples.demo [--host HOST] [--port PORT]``."""

import argparse
import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from types import FrameType

import uvicorn

from examples.demo import legacy, site

CONFIGURATION = "python:examples.demo.gunicorn_conf"
STOP_SECONDS = 20.0


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


@contextlib.contextmanager
def gunicorn(host: str, port: int) -> Iterator[str]:
    """Serve the modern application, give its address, and stop the server at the end."""
    bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    command = [sys.executable, "-m", "gunicorn", "-c", CONFIGURATION, "-b", bind]
    command.append("examples.demo.modern:application")
    # A session of its own: Ctrl-C comes here alone. Its standard input tells it when this process is gone.
    server = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with server:
        try:
            line = server.stdout.readline() if server.stdout else ""
            found = re.search(r"http://\S+/", line)
            if found is None:
                raise SystemExit(f"gunicorn did not start: {line or server.wait(STOP_SECONDS)}")
            yield found[0]
        finally:
            server.terminate()
            try:
                said, _ = server.communicate(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                raise
            print(
                f"gunicorn stopped with exit code {server.returncode}: {said.strip()}", flush=True
            )


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (%(default)s)")
    parser.add_argument("--gunicorn-port", type=int, default=8001, help="likewise (%(default)s)")
    options = parser.parse_args()
    # uvicorn stops gracefully, then raises the signal again: the other server is to be stopped, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        with gunicorn(options.host, options.gunicorn_port) as site.modern_url:
            print(f"FastAPI under gunicorn on {site.modern_url}", flush=True)
            serve(options.host, options.port)
    except KeyboardInterrupt:  # uvicorn has stopped by now and passes the signal on
        print()


def serve(host: str, port: int) -> None:
    """Serve the two applications in one process, until a signal comes."""
    # Warnings only: the page itself shows the requests.
    config = uvicorn.Config(
        site.app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5
    )
    Server(config).run()


if __name__ == "__main__":
    main()
