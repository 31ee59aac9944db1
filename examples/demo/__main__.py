"""Serve the demo, with this project's server and with gunicorn: ``python -m examples.demo [--port PORT]``."""

import argparse
import asyncio
import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

from bridges import Server
from examples.demo import legacy, site

CONFIGURATION = "python:examples.demo.gunicorn_conf"
STOP_SECONDS = 20.0


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
    # Until the loop handles it, and after.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        with gunicorn(options.host, options.gunicorn_port) as site.modern_url:
            print(f"FastAPI under gunicorn on {site.modern_url}", flush=True)
            asyncio.run(serve(options.host, options.port))
    except KeyboardInterrupt:
        print()


async def serve(host: str, port: int) -> None:
    """Serve the two applications in one process, until a signal comes."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    # The page itself shows the requests.
    async with Server(
        site.app, host=host, port=port, access_log="off", graceful_seconds=5
    ) as server:
        print(f"demo on {server.url}/ (Ctrl-C stops it)", flush=True)
        await stop.wait()
        legacy.stopping.set()


if __name__ == "__main__":
    main()
