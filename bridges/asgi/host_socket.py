"""The client's socket, where a WSGI host puts it into the environ: found, borrowed for a websocket, and given back.

Source: the code of gunicorn 27 (sync, gthread, gevent), werkzeug's development server, gevent's pywsgi, cheroot,
wsgiref and uWSGI 2.0.31.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import functools
import io
import os
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..typing import Environ

_NOT_GIVEN: Final = (
    "this server does not give its socket away; gunicorn (sync, gthread, gevent), uWSGI, gevent's pywsgi, cheroot and"
    " werkzeug's development server do"
)

# gunicorn.sock is what gunicorn's worker class "gevent_pywsgi" has.
_KEYS: Final = ("gunicorn.socket", "werkzeug.socket", "gunicorn.sock")

_EARLY_BYTES: Final = 65_536

WOULD_BLOCK: Final = (BlockingIOError, InterruptedError)

# Options of uWSGI after which a connection may carry something else than the plain bytes of the client: TLS, or frames
# of another protocol. Nothing in the environ tells by which of several sockets a request came.
_UWSGI_OTHER_SOCKETS: Final = (
    "https-socket",
    "suwsgi-socket",
    "ssl-socket",
    "fastcgi-socket",
    "fastcgi-nph-socket",
    "scgi-socket",
    "scgi-nph-socket",
    "puwsgi-socket",
    "zeromq-socket",
    "zmq-socket",
    "mongrel2-socket",
)
_UWSGI_PROTOCOLS: Final = (b"uwsgi", b"http", b"http11")
_UWSGI_ROUTERS: Final = ("http", "httprouter", "https", "https2", "http-to-https")
# What makes the router pass on what a client sends after its handshake.
_UWSGI_RAW_ROUTER: Final = ("http-websockets", "http-raw-body")

# uWSGI has a handler for SIGPIPE, which looks for the request of the thread that it comes to; the loop's has none.
_NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)


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
        self._own = own = _duplicate(lent.fileno())
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

    def silence(self) -> bool:
        """Have what the host still writes go nowhere, if that can be; in the host's thread, once this is given back.

        Returns:
            False where the host has to be told by an exception that its client has left.
        """
        return False


class UWSGISocket(HostSocket):
    """A connection of uWSGI, which is a number to Python.

    uWSGI writes the head of every response that was started, and has no exception for a client that left: so its own
    descriptor is pointed at the null device in the end. It then writes and closes that, and logs the status.
    """

    def __init__(self, descriptor: int) -> None:
        """Remember it; in the thread of the request.

        Args:
            descriptor: of the connection, which is uWSGI's for as long as the request lasts.

        Raises:
            OSError: it is closed.
        """
        super().__init__(None, None)
        self._number = descriptor
        self._identity = _identity(descriptor)

    def borrow(self) -> bytes:
        """Give nothing: what uWSGI has read beyond the request's head cannot be had.

        Raises:
            OSError: uWSGI has closed it; the number may be another connection's by now.
        """
        own = _duplicate(self._number)
        if _identity(own.fileno()) != self._identity:
            own.close()
            raise OSError(errno.EBADF, "the connection was closed by uWSGI")
        own.setblocking(False)
        self._own = own
        self.descriptor = own.fileno()
        self.recv = own.recv
        self.send = functools.partial(_send_without_signal, own)
        return b""

    def give_back(self) -> None:
        """Close the connection; the number remains uWSGI's."""
        with contextlib.suppress(OSError):  # the client was faster
            self._own.shutdown(socket.SHUT_RDWR)
        self._own.close()

    def silence(self) -> bool:
        """Point uWSGI's descriptor at the null device.

        Returns:
            True, or False where there is none.
        """
        try:
            null = os.open(os.devnull, os.O_RDWR)
        except OSError:
            return False
        os.dup2(null, self._number, inheritable=False)
        os.close(null)
        return True


def find_socket(environ: Environ, key: str | None) -> HostSocket | str:
    """Give the client's socket, or a sentence that says why it cannot be had.

    In the thread that the host called, which goes on with the request.

    Args:
        environ: of the request.
        key: under which some host puts it, besides those that are known.
    """
    source = environ.get("wsgi.input")
    name = next((each for each in (key, *_KEYS) if each is not None and each in environ), "")
    lent = environ.get(name)
    if lent is None:
        # gevent's pywsgi, cheroot and wsgiref have it beneath the body only.
        raw = getattr(getattr(source, "rfile", source), "raw", None)
        lent = getattr(raw, "_sock", None)
    if lent is not None:
        return HostSocket(lent, source) if hasattr(lent, "fileno") else _wrong(name, "is no socket")
    uwsgi = sys.modules.get("uwsgi")
    # The one type that knows its request, in whatever thread it is asked.
    if source is None or uwsgi is None or type(source).__module__ != "uwsgi":
        return _NOT_GIVEN if key is None else _wrong(key, "is not there")
    try:
        return _why_not_by_uwsgi(environ, uwsgi.opt) or UWSGISocket(source.fileno())
    except OSError:
        return "uWSGI has closed the connection"


def _wrong(key: str, how: str) -> str:
    return f"environ[{key!r:.80}] {how}; socket_key names the key under which this server puts the client's socket"


def _why_not_by_uwsgi(environ: Environ, options: Mapping[str, Any]) -> str:
    """Say what in uWSGI's options keeps a websocket from working, "" if nothing does."""
    routed = environ.get("UWSGI_ROUTER") == "http"
    if routed:
        # A router in another process has options that cannot be seen from here.
        is_here = any(name in options for name in _UWSGI_ROUTERS)
        if is_here and not any(name in options for name in _UWSGI_RAW_ROUTER):
            return "uWSGI's http router drops what the client sends; set http-websockets = true"
        return ""
    if environ.get("SERVER_SOFTWARE", "").startswith("Apache"):
        return "Apache's mod_proxy_uwsgi drops what the client sends; set ProxyPass to an http-socket of uWSGI"
    for name in ("protocol", "socket-protocol"):
        if options.get(name, b"uwsgi") not in _UWSGI_PROTOCOLS:
            return f"uWSGI has no plain connection to its client here; take out {name}"
    name = next((each for each in _UWSGI_OTHER_SOCKETS if each in options), "")
    if name:
        return (
            f"uWSGI's {name} has no plain connection to its client; set http-socket instead, or https with"
            " http-websockets = true for TLS"
        )
    return ""


def _duplicate(descriptor: int) -> _socket.socket:
    # Not socket.socket, which is gevent's own where that has patched, and waits in the wrong thread's hub.
    number = _socket.dup(descriptor)
    try:
        return _socket.socket(fileno=number)
    except OSError:  # it is no socket
        os.close(number)
        raise


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _send_without_signal(own: _socket.socket, data: Any) -> int:
    return own.send(data, _NO_SIGNAL)


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
