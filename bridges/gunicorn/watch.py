"""Every request of a worker, at its beginning and at its end: counted, logged by gunicorn's logger, told to its hooks.

Source: gunicorn settings, "access_log_format", "pre_request", "post_request", "max_requests".
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from gunicorn.glogging import Logger

from ..server.exchange import Exchange
from ..server.service import MakeExchange
from ..translate.status import status_from_code
from ..typing import Environ, RawHeaders

# What nginx and others call it when the client has left before there was a status.
_CLIENT_LEFT: Final = "499 Client Closed Request"


class LoggedRequest:
    """A request as gunicorn's logger and hooks know it.

    Attributes:
        method: as sent.
        uri: the target, as sent.
        path: decoded.
        query: what follows the question mark.
        fragment: always "", for none is sent.
        version: ``(1, 1)``.
        scheme: of the connection.
        headers: names in upper case, and values.
        remote_addr: address and port of the other end, or "" on a unix socket.
    """

    def __init__(self, exchange: Exchange) -> None:
        head, connection = exchange.head, exchange.connection
        self.method = head.method
        self.uri = printable(head.target.decode("latin-1"))
        self.path = printable(head.path)
        self.query = printable(head.query.decode("latin-1"))
        self.fragment = ""
        self.version = (1, int(head.version[-1]))
        self.scheme = connection.scheme
        self.remote_addr = connection.client or ""
        self.headers = [(name.upper(), value) for name, value in _texts(head.headers)]

    def environ(self, client: tuple[str, int] | None) -> Environ:
        """Give what of an environ the log may ask for.

        Args:
            client: address and port, which a trusted proxy may have told.
        """
        environ: Environ = {
            "REQUEST_METHOD": self.method,
            "RAW_URI": self.uri,
            "PATH_INFO": self.path,
            "QUERY_STRING": self.query,
            "SERVER_PROTOCOL": f"HTTP/{self.version[0]}.{self.version[1]}",
            "wsgi.url_scheme": self.scheme,
        }
        if client is not None:
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = printable(client[0]), str(client[1])
        for name, value in self.headers:
            key = name.replace("-", "_")
            if "_" in name:
                continue  # no application gets it either
            if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                key = "HTTP_" + key
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        return environ


class LoggedResponse:
    """A response as gunicorn's logger and hooks know it.

    Attributes:
        status: with its reason, ``"200 OK"``; 499 where the client left before there was one.
        status_code: the number of it.
        headers: that the application gave.
        sent: bytes of the body.
    """

    def __init__(self, exchange: WatchedExchange) -> None:
        code = exchange.status
        self.status = _CLIENT_LEFT
        if code:
            self.status = "101 Switching Protocols" if code == 101 else status_from_code(code)
        self.status_code = code or int(_CLIENT_LEFT[:3])
        self.headers = list(_texts(exchange.response_headers))
        self.sent = exchange.sent


def _texts(headers: Any) -> Any:
    return (
        (printable(name.decode("latin-1")), printable(value.decode("latin-1")))
        for name, value in headers
    )


def printable(text: str) -> str:
    r"""Escape what could end a line of the log or move a terminal; a quotation mark is gunicorn's to escape.

    Returns:
        ``\xhh`` or ``\uhhhh`` in place of a control or other invisible character, and two backslashes of one.
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        character
        if character.isprintable() and character != "\\"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


if TYPE_CHECKING:
    from ..server.head import RequestHead
    from ..server.http1 import Connection

    _Base = Exchange
else:
    _Base = object


class WatchedExchange(_Base):
    """An exchange whose beginning and response headers are seen; beside the class of an exchange.

    Attributes:
        watch: that sees them.
        request: that a hook has got.
        response_headers: that the application gave.
        began_at: the time of its beginning.
    """

    watch: Watch
    request: LoggedRequest | None = None
    response_headers: RawHeaders | tuple[()] = ()

    def __init__(self, connection: Connection, head: RequestHead) -> None:
        super().__init__(connection, head)
        # The loop's own clock stands still while it works.
        self.began_at = time.monotonic()

    def begin(self) -> None:
        self.watch.begun(self)
        super().begin()  # type: ignore[safe-super]  # of the class beside this one

    def start_response(
        self, status: int, headers: RawHeaders, body: bytes, last: bool, trailers: bool = False
    ) -> None:
        self.response_headers = headers
        super().start_response(status, headers, body, last, trailers)


class Watch:
    """What a worker does at the beginning and at the end of each request; on the loop."""

    def __init__(self, worker: Any, count: Callable[[], object] | None) -> None:
        """Find out what there is to do.

        Args:
            worker: of gunicorn.
            count: called for each request that begins.
        """
        self._worker = worker
        self._log = worker.log
        self._count = count
        self._before = _hook(worker.cfg, "pre_request")
        self._after = _hook(worker.cfg, "post_request")
        self._logs = _takes_requests(worker.log)
        self._closes = not worker.cfg.keepalive

    @property
    def looks_at_beginnings(self) -> bool:
        """Whether a beginning is of any interest."""
        return self._count is not None or self._before is not None or self._closes

    @property
    def looks_at_ends(self) -> bool:
        """Whether an end is."""
        return self._logs or self._after is not None

    def wrap(self, make: MakeExchange) -> MakeExchange:
        """Give a class of exchanges that are watched.

        Args:
            make: the class of those of the server.
        """
        kind = cast("type[Exchange]", make)
        return type(kind.__name__, (WatchedExchange, kind), {"watch": self})

    def begun(self, exchange: WatchedExchange) -> None:
        """Take a beginning."""
        if self._closes:
            exchange.framing.keep_alive = False
        if self._before is not None:
            exchange.request = LoggedRequest(exchange)
            self._call("pre_request", self._before, exchange.request)
        if self._count is not None:
            self._count()

    def ended(self, exchange: Exchange) -> None:
        """Take an end."""
        exchange = cast(WatchedExchange, exchange)
        seconds = time.monotonic() - exchange.began_at
        request = exchange.request or LoggedRequest(exchange)
        response = LoggedResponse(exchange)
        environ = request.environ(exchange.client)
        if self._logs:
            self._log.access(response, request, environ, datetime.timedelta(seconds=seconds))
        if self._after is not None:
            self._call("post_request", self._after, request, environ, response)

    def _call(self, name: str, hook: Callable[..., object], *arguments: object) -> None:
        try:
            hook(self._worker, *arguments)
        except Exception:
            self._log.exception("Exception in %s hook", name)


def _hook(cfg: Any, name: str) -> Any:
    """Give a hook, or None for gunicorn's default, which does nothing."""
    setting = cfg.settings[name]
    return None if setting.get() is type(setting)().get() else setting.get()


def _takes_requests(log: Any) -> bool:
    """Whether a logger does anything with a request: one of another class than gunicorn's may always."""
    if type(log).access is not Logger.access:
        return True
    cfg = log.cfg
    return bool(
        cfg.accesslog
        or cfg.logconfig
        or cfg.logconfig_dict
        or cfg.logconfig_json
        or (cfg.syslog and not cfg.disable_redirect_access_to_syslog)
    )
