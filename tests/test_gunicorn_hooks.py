"""The hooks for ``gunicorn.conf.py``, as gunicorn calls them; ``wsgi_hosts/test_gunicorn_life.py`` has the real one."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from wsgi_driver import Adapt, InThread, app_of, body, serve, start, wait

import bridges.gunicorn
from bridges import errors
from bridges.asgi_to_wsgi import living_adapters
from bridges.gunicorn import post_worker_init, worker_exit
from bridges.typing import Receive, Scope, Send

pytest_plugins = ["wsgi_driver"]


class Worker:
    """A worker that is to stop at once.

    Attributes:
        stopped: signals that its own handler got.
    """

    def __init__(self) -> None:
        self.cfg = SimpleNamespace(graceful_timeout=0)
        self.alive = True
        self.stopped: list[int] = []

    def handle_exit(self, number: int, frame: object) -> None:
        self.stopped.append(number)
        self.alive = False


@pytest.fixture
def worker() -> Iterator[Any]:
    """Give a worker that has put its own handler in place, as gunicorn's has."""
    gc.collect()  # the hooks start every adapter that lives, those of other tests too
    before = signal.getsignal(signal.SIGTERM)
    worker = Worker()
    signal.signal(signal.SIGTERM, worker.handle_exit)
    yield worker
    signal.signal(signal.SIGTERM, before)
    for adapter in living_adapters():  # those of other tests, which the hook has started
        adapter.close()


class Living:
    """An application that says what its lifespan came to."""

    def __init__(self, fails: bool = False) -> None:
        self.said: list[str] = []
        self.streams = threading.Event()
        self._fails = fails

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._stream(send)
            return
        await receive()
        self.said.append("startup")
        if self._fails:
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.said.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    async def _stream(self, send: Send) -> None:
        await send(start())
        await send(body(b"x", more=True))
        self.streams.set()
        await anyio.sleep_forever()


@pytest.mark.spec("FR 83")
def test_the_lifespan_lives_as_long_as_the_worker(adapt_asyncio: Adapt, worker: Any) -> None:
    """It starts before a request comes, and ends when the worker does."""
    app = Living()
    adapter = adapt_asyncio(app)
    post_worker_init(worker)
    assert app.said == ["startup"]
    worker_exit(None, worker)
    assert app.said == ["startup", "shutdown"]
    assert adapter.app is not None  # and so it lives until here


@pytest.mark.spec("FR 88")
def test_a_failing_startup_stops_the_boot(adapt_asyncio: Adapt, worker: Any) -> None:
    """gunicorn halts when this raises."""
    adapter = adapt_asyncio(Living(fails=True))
    with pytest.raises(errors.LifespanFailed, match="no database"):
        post_worker_init(worker)
    assert adapter.app is not None


@pytest.mark.spec("FR 114")
def test_a_stop_tells_streams_and_gunicorn(adapt_asyncio: Adapt, worker: Any) -> None:
    """SIGTERM still reaches gunicorn's own handler; a stream without an end is cut in time."""
    app = Living()
    adapter = adapt_asyncio(app, disconnect_grace_seconds=0)
    post_worker_init(worker)
    stream = InThread(lambda: serve(adapter))
    wait(app.streams)
    signal.raise_signal(signal.SIGTERM)
    assert worker.stopped == [signal.SIGTERM]
    with pytest.raises(errors.ClientDisconnected, match="stopping"):
        stream.result()


@pytest.mark.spec("FR 114")
def test_a_worker_that_is_to_end_tells_it(
    adapt_asyncio: Adapt, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gunicorn sets ``alive`` to False, whatever the reason; to gunicorn it is the worker that it was."""
    told: list[bool] = []
    monkeypatch.setattr(bridges.gunicorn, "stop_websockets", lambda: told.append(worker.alive))
    post_worker_init(worker)
    assert worker.alive
    worker.alive = True
    assert told == []
    worker.alive = False
    assert told == [False]
    assert isinstance(worker, Worker)
    assert type(worker).__name__ == "Worker"


@pytest.mark.spec("FR 65")
def test_an_answer_that_is_complete_is_not_cut(adapt_asyncio: Adapt, worker: Any) -> None:
    """A stop costs nobody who has an answer, and none that comes later."""

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"whole"))

    adapter = adapt_asyncio(app)
    post_worker_init(worker)
    assert serve(adapter).body == b"whole"
    signal.raise_signal(signal.SIGTERM)
    assert serve(adapter).body == b"whole"
