"""Configure gunicorn for an ASGI application. Needs gunicorn, starlette and httpx.

What it shows: this file is gunicorn's configuration. With the two hooks of `bridges.gunicorn` the
lifespan starts when the worker boots, before any request, and ends when the worker stops.

Command (asks itself and ends):   python examples/gunicorn_conf.py
Command (serves until Ctrl-C):    gunicorn --chdir examples -c gunicorn_conf.py lifespan_state:application

Expected output:

    worker: startup
    GET / 200 pool is open, seen before: False
    worker: shutdown, the pool is closed
    gunicorn ended with 0
"""

from bridges.gunicorn import post_worker_init, worker_exit  # noqa: F401

bind = "127.0.0.1:8000"
worker_class = "gthread"
threads = 8
workers = 1
graceful_timeout = 10
control_socket_disable = True


def main() -> None:
    """Start gunicorn with this file on a free port, ask it, stop it."""
    import re
    import subprocess
    import sys

    import httpx

    options = ["-c", __file__, "-b", "127.0.0.1:0", "lifespan_state:application"]
    command = [sys.executable, "-m", "gunicorn", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as gunicorn:
        try:
            found = (re.search(r"Listening at: (http://\S+)", line) for line in gunicorn.stderr)
            url = next(filter(None, found))[1]
            print("worker:", gunicorn.stdout.readline().strip())
            response = httpx.get(url)
            print("GET /", response.status_code, response.text)
        finally:
            gunicorn.terminate()
        print("worker:", gunicorn.stdout.readline().strip())
    print("gunicorn ended with", gunicorn.returncode)


if __name__ == "__main__":
    main()
