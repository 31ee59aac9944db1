"""A websocket of a WSGI application in the server: the websocket of ``websocket.py``, and the bridge behind it.

The application does not get the connection's own socket. With that, nobody could keep the limits, ask a silent client
for a sign of life, tell client and application that the server stops, or encrypt; and what the bridge costs is little
beside what the application's library does for each message.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from ..errors import PeerProtocolError
from ..typing import Environ
from ..websocket.asgi import DENIAL_EXTENSION
from ..websocket.handshake import handshake
from ..wsgi.websocket import WebSocketBridge
from .environ import add_forwarded, request_environ
from .head import RequestHead
from .websocket import WebSocketExchange

_EXTENSIONS: Final[dict[str, Any]] = {DENIAL_EXTENSION: {}}


def may_have_websocket(head: RequestHead) -> bool:
    """Tell whether the handshake of a request is good; one that is not is as any other to a WSGI application."""
    try:
        handshake(head.method, head.version, head.headers)
    except PeerProtocolError:
        return False
    return True


class WSGIWebSocketExchange(WebSocketExchange):
    """A request for a websocket to a WSGI application, which may answer it as any other."""

    def make_scope(self) -> Environ:
        environ = request_environ(self.head, self.connection.environ())
        if self.head.forwarded and self.connection.is_trusted:
            forwarded = self.connection.forwarded(self.head.headers)
            if forwarded is not None:
                self.client = forwarded.client
                add_forwarded(environ, forwarded)
        environ["wsgi.errors"] = sys.stderr
        # Those are of the connection. Within this process nothing is compressed.
        environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        return environ

    async def call_application(self, scope: Environ) -> None:
        service = self.connection.service
        bridge = WebSocketBridge(
            service.app,
            service.app_name,
            scope,
            self.receive,
            self.send,
            extensions=_EXTENSIONS,
            subprotocols=self.subprotocols,
            buffer_bytes=service.config.buffer_bytes,
        )
        await bridge.run(service.websocket_pool)
