"""The client's socket, where a WSGI host puts it into the environ: found, borrowed for a websocket, and given back.

Source: the code of gunicorn 27 (sync, gthread, gevent), werkzeug's development server, gevent's pywsgi, cheroot and
wsgiref.
"""

from __future__ import annotations

import _socket
import contextlib
import io
import socket
from collections.abc import Callable
from typing import Any, Final

from ..typing import Environ

KNOWN_HOSTS: Final = "gunicorn (sync, gthread, gevent), gevent's pywsgi, cheroot and werkzeug's development server do"

# gunicorn.sock is what gunicorn's worker class "gevent_pywsgi" has.
_KEYS: Final = ("gunicorn.socket", "werkzeug.socket", "gunicorn.sock")

_EARLY_BYTES: Final = 65_536

WOULD_BLOCK: Final = (BlockingIOError, InterruptedError)


class HostSocket:
    """A connection of the host, lent to a websocket.

    What is done with it goes through a descriptor of our own, so that nothing happens to somebody else's if the host
    closes its own early; with TLS, whose state is the host's object, only the waiting does.

    Attributes:
        has_tls: whether reading and writing go through TLS.
        descriptor: to wait at, once it is borrowed.
        recv: reads, as the method of a socket; once it is borrowed.
        send: writes, likewise.
    """

    descriptor: int
    recv: Callable[[int], bytes]
    send: Callable[[Any], int]
    _own: _socket.socket
    _timeout: float | None

    def __init__(self, lent: Any, source: Any) -> None:
        """Remember it.

        Args:
            lent: the host's socket object.
            source: the host's ``wsgi.input``, which may have read more than the request's head.
        """
        self._lent = lent
        self._source = source
        self.has_tls = callable(getattr(lent, "pending", None))

    def borrow(self) -> bytes:
        """Make it non-blocking, and give what the host has read beyond the request's head.

        Raises:
            OSError: the host has closed it.
        """
        lent = self._lent
        # Not socket.socket, which is gevent's own where that has patched, and waits in the wrong thread's hub.
        self._own = own = _socket.socket(fileno=_socket.dup(lent.fileno()))
        self.descriptor = own.fileno()
        self.recv = lent.recv if self.has_tls else own.recv
        self.send = lent.send if self.has_tls else own.send
        self._timeout = lent.gettimeout()
        lent.settimeout(0.0)
        own.setblocking(False)
        return _read_ahead(self._source)

    def has_more(self) -> bool:
        """Whether TLS has decrypted more than was read, of which the descriptor tells nothing."""
        return bool(self.has_tls and self._lent.pending())

    def end_output(self) -> None:
        """Tell the client that nothing more will come."""
        with contextlib.suppress(OSError):  # it is gone
            self._own.shutdown(socket.SHUT_WR)

    def give_back(self) -> None:
        """Close the connection, but not the host's socket object: what the host writes on it fails with EPIPE."""
        if self.has_tls:
            # It sends what TLS calls its end, and does not wait for the client's.
            with contextlib.suppress(OSError, ValueError):
                self._lent.unwrap()
        with contextlib.suppress(OSError):  # the client was faster
            self._own.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):  # the host was faster
            self._lent.settimeout(self._timeout)
        self._own.close()


def find_socket(environ: Environ, key: str | None) -> HostSocket | None:
    """Give the client's socket, or None where the host does not give it.

    Args:
        environ: of the request.
        key: under which some host puts it, besides those that are known.
    """
    source = environ.get("wsgi.input")
    lent = next(
        (environ[each] for each in (key, *_KEYS) if each is not None and each in environ), None
    )
    if lent is None:
        # gevent's pywsgi, cheroot and wsgiref have it beneath the body only.
        raw = getattr(getattr(source, "rfile", source), "raw", None)
        lent = getattr(raw, "_sock", None)
    return None if lent is None else HostSocket(lent, source)


def _read_ahead(source: Any) -> bytes:
    """Give what the host has read beyond the request's head, which ends where a websocket's frames begin."""
    unreader = getattr(getattr(source, "reader", None), "unreader", None)
    buffer = getattr(unreader, "buf", None)
    if isinstance(buffer, io.BytesIO):  # gunicorn
        early = buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        return early
    file = getattr(source, "rfile", source)
    if isinstance(file, io.BufferedReader):
        # It may read from the socket as well, which does not block now; TLS says so by an exception.
        with contextlib.suppress(OSError):
            return file.read1(_EARLY_BYTES)
    return b""
