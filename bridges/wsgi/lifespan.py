"""Answering lifespan for a WSGI application, which has none: hooks before the first and after the last request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Final

import anyio
import anyio.to_thread

from ..crossing.gates import Gate, adopt, copy_context_for_thread, current_gate
from ..crossing.pipes import ThreadToLoop
from ..crossing.pool import ThreadPool
from ..errors import CrossingError, PoolClosed, PoolSaturated, ServerProtocolError
from ..typing import Receive, Send

_log = logging.getLogger("bridges.adapters")

_CLAUSE: Final = "ASGI lifespan specification 2.0"

Hook = Callable[[], object]


async def answer_lifespan(
    receive: Receive,
    send: Send,
    living_pool: Callable[[], ThreadPool],
    *,
    startup: Hook | None,
    shutdown: Hook | None,
    end: Callable[[ThreadPool], Iterable[ThreadPool]],
) -> None:
    """Answer the lifespan messages of a server, running hooks in a thread of the pool.

    Args:
        receive: of the server.
        send: of the server.
        living_pool: gives the pool that runs the hooks; another lifespan may have ended the one of the startup.
        startup: called before the first request; what it raises stops the server.
        shutdown: called after the last request.
        end: called with the living pool when the server stops, before ``shutdown``; gives the pools that are shut down
            behind it, waiting at most their ``shutdown_seconds``.

    Source:
        ASGI lifespan specification 2.0.
    """
    message = await receive()
    if message["type"] != "lifespan.startup":
        raise ServerProtocolError(
            f"expected lifespan.startup, got {message['type']!r:.80}", _CLAUSE
        )
    failure = await _run_hook("startup", startup, living_pool())
    await _say("startup", failure, send)
    if failure is not None:
        return
    message = await receive()
    if message["type"] != "lifespan.shutdown":
        raise ServerProtocolError(
            f"expected lifespan.shutdown, got {message['type']!r:.80}", _CLAUSE
        )
    pool = living_pool()
    ending = end(pool)
    failure = await _run_hook("shutdown", shutdown, pool)
    for each in ending:
        await _shut_down(each)
    await _say("shutdown", failure, send)


async def _shut_down(pool: ThreadPool) -> None:
    if not await anyio.to_thread.run_sync(pool.shutdown, abandon_on_cancel=True):
        _log.warning(
            "%d threads of pool %r are still busy after %g seconds: leaving them",
            pool.snapshot().threads,
            pool.name,
            pool.shutdown_seconds,
        )


async def _say(phase: str, failure: BaseException | None, send: Send) -> None:
    if failure is None:
        await send({"type": f"lifespan.{phase}.complete"})
    else:
        await send(
            {"type": f"lifespan.{phase}.failed", "message": f"{type(failure).__name__}: {failure}"}
        )


async def _run_hook(phase: str, hook: Hook | None, pool: ThreadPool) -> BaseException | None:
    """Run a hook in a thread of the pool; gives what it raised, which is logged."""
    if hook is None:
        return None
    gate = current_gate()
    pipe: ThreadToLoop[None] = ThreadToLoop(gate, 1)
    failure: BaseException | None
    try:
        ticket, _ = pool.submit(_HookCall(hook, pipe, gate, copy_context_for_thread()))
    except CrossingError as error:
        failure = error
    else:
        with anyio.move_on_after(pool.shutdown_seconds) as patience:
            await pipe.take()
        # A hook that has begun is waited for: only one that gets no thread is given up.
        if patience.cancelled_caught and pool.withdraw(ticket):
            pipe.end(failure=PoolSaturated(f"no thread became free for the {phase} hook"))
        await pipe.take()
        failure = pipe.failure
    if failure is not None:
        _log.error("the %s hook failed", phase, exc_info=failure)
    return failure


class _HookCall:
    """A job that calls a hook."""

    def __init__(self, hook: Hook, pipe: ThreadToLoop[None], gate: Gate, context: Context) -> None:
        self._hook = hook
        self._pipe = pipe
        self._gate = gate
        self._context = context
        self._failure: BaseException | None = None

    def run(self) -> None:
        adopt(self._gate)
        try:
            self._context.run(self._hook)
        except BaseException as error:
            self._failure = error

    def finish(self) -> None:
        self._pipe.end(failure=self._failure)

    def abandon(self) -> None:
        self._pipe.end(failure=PoolClosed("the pool was shut down before the hook ran"))
