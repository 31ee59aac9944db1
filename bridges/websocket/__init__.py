"""Websockets by RFC 6455, without sockets, threads or loops: bytes in, events out; messages in, bytes out."""
