"""Which portals there are in this process: one for each back end and loop factory, shared by all who enter.

Guarantees:

- Nothing is started before ``enter``; the last one who leaves ends the loop, and its thread.
- A forked child has no portal: the first ``enter`` in it starts one of its own. The parent's goes on.
- At the interpreter's exit all portals end, before it waits for threads and before executors refuse work.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  # registers its exit callback first, so that ours runs before it
import functools
import logging
import os
import threading
from contextvars import Context
from typing import Final, Literal, TypeAlias

import anyio

from ..errors import CrossingError
from .greenlets import is_patched, start_real_thread
from .inline import InlinePortal
from .portal import LoopFactory, Portal, Work, is_cancellation
from .threaded import AsyncioPortal, TrioPortal

_log = logging.getLogger("bridges.adapters")

Backend: TypeAlias = Literal["asyncio", "trio", "inline"]
BACKENDS: Final = ("asyncio", "trio", "inline")

# A farewell keeps its time by itself; so much longer a loop may be late that something else blocks.
_PATIENCE_SECONDS: Final = 1.0

_portals: dict[tuple[str, LoopFactory | None], Portal] = {}
# What a fork left of the parent's. Freeing a loop would close descriptors that are shared with the parent, and take
# the parent's own out of its epoll set.
_inherited: list[Portal] = []
# The last one has left, and the loop has not ended yet.
_ending: set[Portal] = set()
_lock = threading.Lock()
_process = os.getpid()


def enter(
    backend: Backend, loop_factory: LoopFactory | None, farewell: Work, farewell_seconds: float
) -> Portal:
    """Give the portal of this kind, starting it for the first who asks.

    Args:
        backend: what runs.
        loop_factory: makes the loop; not for trio.
        farewell: run on the loop before it ends; ``leave`` knows the tenant by it.
        farewell_seconds: how long that may take.

    Raises:
        BaseException: what making the loop raised.
    """
    if _process != os.getpid():
        _forget()  # forked by a host in C that runs no hooks of Python's, as uWSGI
    while True:
        with _lock:
            portal = _portals.get((backend, loop_factory))
            if portal is None or portal.closed:
                portal = _portals[backend, loop_factory] = _make(backend, loop_factory)
            portal.tenants[farewell] = farewell_seconds
        try:
            portal.open()
        except BaseException:
            _strike(portal, farewell)
            raise
        if not portal.closed:
            return portal


def check_no_portal_here() -> None:
    """Refuse a caller that runs on a portal's loop.

    Raises:
        CrossingError: it does.
    """
    for portal in tuple(_portals.values()):
        if not portal.closed and portal.is_open:
            Portal.check_caller(portal)  # not that of its kind, which the caller may not want


def leave(portal: Portal, farewell: Work) -> None:
    """Say a tenant's farewell and wait for it; the last one's leaving ends the loop. Not from the loop."""
    seconds = portal.tenants.get(farewell)
    if seconds is None or portal.closed:
        return
    portal.check_caller()
    try:
        portal.call(functools.partial(_say_once, portal, farewell), seconds + _PATIENCE_SECONDS)
    except CrossingError as error:
        said = portal.said.get(farewell)
        # Where it was said, another thread has said it, and ended the loop since.
        if said is None or not said.is_set():
            _log.error("an ASGI application could not be ended in order: %s", error)
    finally:
        if _strike(portal, farewell):
            _end(portal)


def leave_soon(portal: Portal, farewell: Work) -> None:
    """Do as ``leave`` without waiting; from any thread and at any moment, as the garbage collector calls."""

    async def depart() -> None:
        if farewell in portal.tenants:
            await _say(portal, farewell)
        if _strike(portal, farewell):
            try:
                start_real_thread(functools.partial(_end, portal), "bridges-portal-end")
            except RuntimeError:
                pass  # the interpreter exits, and ends what is ending

    if not portal.closed:
        try:
            portal.gate.ring(lambda: portal.spawn(depart, Context()))
        except CrossingError:
            _log.debug("a portal ended before a forgotten adapter left it")


def end_all() -> None:
    """Say everybody's farewell and end all portals; at the interpreter's exit."""
    with _lock:
        portals = [portal for portal in _portals.values() if portal.is_open and not portal.closed]
        _portals.clear()
    for portal in portals:
        seconds = max(portal.tenants.values(), default=0.0)
        try:
            portal.call(functools.partial(_part, portal), seconds + _PATIENCE_SECONDS)
        except CrossingError as error:
            _log.error("ASGI applications could not be ended in order: %s", error)
        portal.end()
    for portal in tuple(_ending):
        portal.end()


def _end(portal: Portal) -> None:
    portal.end()
    _ending.discard(portal)


async def _part(portal: Portal) -> None:
    async with anyio.create_task_group() as tasks:
        for farewell in tuple(portal.tenants):
            tasks.start_soon(_say, portal, farewell)
    portal.tenants.clear()


async def _say(portal: Portal, farewell: Work) -> None:
    try:
        await _say_once(portal, farewell)
    except BaseException as error:
        if is_cancellation(error):
            raise
        _log.exception("an ASGI application could not be ended in order")


async def _say_once(portal: Portal, farewell: Work) -> None:
    """Say it, or wait for somebody else who does: a tenant may leave while the interpreter exits."""
    said = portal.said.get(farewell)
    if said is not None:
        await said.wait()
        return
    said = portal.said[farewell] = anyio.Event()
    try:
        await farewell()
    finally:
        said.set()


def _strike(portal: Portal, farewell: Work) -> bool:
    """Take a tenant out; tells whether it was the last, after which nobody enters this portal any more."""
    with _lock:
        portal.tenants.pop(farewell, None)
        portal.said.pop(farewell, None)
        if portal.tenants or portal.closed:
            return False
        portal.closed = True
        if portal.is_open:
            _ending.add(portal)
        return True


def _make(backend: Backend, loop_factory: LoopFactory | None) -> Portal:
    if is_patched() and (backend == "trio" or loop_factory is not None):
        raise CrossingError(
            "gevent has patched threading, whose threads run only while an asyncio loop of gevent's own selector waits:"
            " leave backend and loop_factory at their defaults"
        )
    if backend == "trio":
        return TrioPortal()
    return (InlinePortal if backend == "inline" else AsyncioPortal)(loop_factory)


def _forget() -> None:
    """Begin anew, in the child of a fork."""
    global _lock, _process
    _lock = threading.Lock()
    _process = os.getpid()
    for portal in _portals.values():
        portal.closed = True
        portal.tenants.clear()  # their farewells are the parent's
        _inherited.append(portal)
    _inherited.extend(_ending)
    _ending.clear()
    _portals.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
# atexit would be too late: the interpreter waits for threads before it, and executors take no work by then.
threading._register_atexit(end_all)  # type: ignore[attr-defined]  # there is no public way
