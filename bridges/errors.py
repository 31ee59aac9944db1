"""The errors of ``bridges``: each says whose fault it is and what to do about it.

``BridgesError`` is the root and is never raised itself::

    BridgesError
    ├─ ProtocolError                a peer broke a specification
    │  ├─ ApplicationProtocolError  the application did: logged by the server, answered with 500
    │  ├─ PeerProtocolError         the client did: answered with ``status_hint``
    │  └─ ServerProtocolError       the host server did: raised into the server
    ├─ ApplicationError             the application raised what no server may be handed (SystemExit…)
    ├─ ClientDisconnected           the client left: also an ``OSError``
    ├─ WebSocketError               a websocket of a WSGI application is over: also an ``OSError``
    ├─ LifespanFailed               the application did not start
    ├─ ConfigError                  an option, or the name of an application, is wrong: also a ``ValueError``
    └─ CrossingError                a crossing between thread and loop cannot take place: also a ``RuntimeError``
       ├─ PoolClosed
       └─ PoolSaturated
"""

from __future__ import annotations

import errno


class BridgesError(Exception):
    """Root of every error that ``bridges`` raises."""


class ProtocolError(BridgesError):
    """A specification was broken.

    Attributes:
        clause: name of the specification and its section, or "" where there is none.
    """

    def __init__(self, sentence: str, clause: str = "") -> None:
        super().__init__(sentence)
        self.clause = clause

    def __str__(self) -> str:
        sentence: str = self.args[0]
        return f"{sentence} [{self.clause}]" if self.clause else sentence


class ApplicationProtocolError(ProtocolError):
    """The application broke its specification; the client is owed a 500 or a cut connection."""


class PeerProtocolError(ProtocolError):
    """The client sent something that must be refused.

    Attributes:
        status_hint: the HTTP status code that tells the client so.
    """

    def __init__(self, sentence: str, clause: str = "", *, status_hint: int = 400) -> None:
        super().__init__(sentence, clause)
        self.status_hint = status_hint


class ServerProtocolError(ProtocolError):
    """The host server called the adapter in a way that its specification forbids."""


class ApplicationError(BridgesError):
    """The application raised something that would stop the host server, such as ``SystemExit``.

    The original exception is its ``__cause__``.
    """


class ClientDisconnected(BridgesError, OSError):
    """The client left before the exchange was complete; its ``errno`` is ``EPIPE``."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.errno = errno.EPIPE  # servers look at it to tell a client that left from a failure


class WebSocketError(BridgesError, OSError):
    """A websocket of a WSGI application is over: the application closed it, its client left, or the server stops.

    Where the application has imported gevent-websocket, it is a ``WebSocketError`` of that as well.
    """


class LifespanFailed(BridgesError):
    """The application said that its startup failed, or did not end it in time; no request can be served."""


class ConfigError(BridgesError, ValueError):
    """An option, or the name of an application, is wrong; the sentence says what to type instead."""


class CrossingError(BridgesError, RuntimeError):
    """Work cannot cross between a thread and an event loop."""


class PoolClosed(CrossingError):
    """The thread pool was shut down and takes no more work."""


class PoolSaturated(CrossingError):
    """All threads of the pool are busy and its queue is full."""
