"""Open what an application needs once in a process, and give it to each request. Needs starlette, httpx.

What it shows: the lifespan starts with the first request (or by `start()`, or with gunicorn's
worker, see gunicorn_conf.py) and ends with `close()` or the process. What it yields is
`request.state`, copied for each request: the pool is shared, a new name is not.

Command: python examples/lifespan_state.py

Expected output:

    startup
    GET / 200 pool is open, seen before: False
    GET / 200 pool is open, seen before: False
    shutdown, the pool is closed
"""

import contextlib

import httpx
from local_wsgi_server import serving_wsgi
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bridges import ASGIToWSGI


class Pool:
    """Stands for a database pool."""

    status = "open"


@contextlib.asynccontextmanager
async def lifespan(app):
    print("startup", flush=True)
    pool = Pool()
    yield {"pool": pool}
    pool.status = "closed"
    print(f"shutdown, the pool is {pool.status}", flush=True)


async def index(request):
    seen = hasattr(request.state, "seen")
    request.state.seen = True  # in this request's copy only
    return PlainTextResponse(f"pool is {request.state.pool.status}, seen before: {seen}")


application = ASGIToWSGI(Starlette(routes=[Route("/", index)], lifespan=lifespan))


if __name__ == "__main__":
    with serving_wsgi(application) as url:
        for _ in range(2):
            response = httpx.get(url)
            print("GET /", response.status_code, response.text)
    application.close()
