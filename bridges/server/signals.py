"""The signals that a server obeys when it is the whole program."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Final, Protocol

_log = logging.getLogger("bridges.server")

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Stoppable(Protocol):
    """What of a server is used here."""

    async def start(self) -> None:
        """Bind, run the application's startup, and accept connections."""

    async def wind_down(self) -> None:
        """Accept no more connections, and let those that are idle be used for a moment."""

    async def stop(self) -> None:
        """Accept no more, let what is under way end, and run the application's shutdown."""

    def force(self) -> None:
        """Cut off what ``stop`` waits for."""


async def serve_until_told(
    server: Stoppable,
    *,
    started: Callable[[], object] = lambda: None,
    numbers: Sequence[int] = STOP_SIGNALS,
    leash: int | None = None,
) -> bool:
    """Start a server and stop it when a signal comes; on its loop, in the main thread.

    The first signal stops it gracefully, also in the middle of its startup. The second one cuts off what is still
    under way; the application's shutdown runs all the same. From then on signals do what they do by default: the third
    one kills the process.

    Args:
        server: not yet started.
        started: called once it accepts connections.
        numbers: of the signals.
        leash: a descriptor at whose end it stops, too; that of a pipe which a parent process holds.

    Returns:
        Whether it stopped by itself after the first signal; False if a second one forced it.

    Raises:
        BridgesError: what ``start`` raises.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    forced = False

    def tell() -> None:
        nonlocal forced
        if not told.is_set():
            told.set()
            return
        forced = True
        _log.warning("cutting off what is under way: told twice to stop")
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        server.force()

    for number in numbers:
        loop.add_signal_handler(number, tell)
    if leash is not None:
        loop.add_reader(leash, _let_go, loop, leash, told)
    try:
        if await _start(server, told):
            started()
            await told.wait()
            _log.info("stopping")
            await server.wind_down()
            await server.stop()
    finally:
        if leash is not None:
            loop.remove_reader(leash)
        for number in numbers:
            loop.remove_signal_handler(number)
    return not forced


def _let_go(loop: asyncio.AbstractEventLoop, leash: int, told: asyncio.Event) -> None:
    loop.remove_reader(leash)  # at its end it would be readable again and again
    told.set()


async def _start(server: Stoppable, told: asyncio.Event) -> bool:
    """Start a server; False if a signal came first, and it has stopped again."""
    start = asyncio.ensure_future(server.start())
    wait = asyncio.ensure_future(told.wait())
    await asyncio.wait((start, wait), return_when=asyncio.FIRST_COMPLETED)
    wait.cancel()
    if not start.done():
        start.cancel()
        await asyncio.wait((start,))
    if start.cancelled():
        return False
    start.result()
    return True
