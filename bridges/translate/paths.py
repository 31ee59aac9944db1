"""Paths: where the mount ends and the application begins, and which bytes the client really sent."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_to_bytes

from ..errors import PeerProtocolError

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def split_path(path: str, root_path: str) -> tuple[str, str]:
    """Split a request path into SCRIPT_NAME and PATH_INFO, on a segment border.

    Args:
        path: with the prefix (ASGI 2.5, Starlette) or already without it (older frameworks): a path that does
            not lie under ``root_path`` is taken as stripped.
        root_path: of the scope, with or without a slash at its end.

    Returns:
        ``("/old", "/page")`` for ``"/old/page"`` under ``"/old"``; ``("/old", "")`` for the mount point itself.

    Source:
        ASGI HTTP 2.5 "HTTP Connection Scope" (path, root_path); PEP 3333 "environ Variables".
    """
    prefix = root_path.rstrip("/")
    if not prefix:
        return "", path
    if prefix[0] != "/":
        prefix = "/" + prefix
    if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
        return prefix, path[len(prefix) :]
    return prefix, path


def latin1_from_text(text: str) -> str:
    """Give a decoded path as the native string that PEP 3333 wants: its UTF-8 bytes as latin-1 code points.

    Raises:
        PeerProtocolError: the text holds surrogates that stand for no byte; hint 400.

    Source:
        PEP 3333 "Unicode Issues".
    """
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("latin-1")
    except UnicodeEncodeError as error:
        raise PeerProtocolError(f"path is not valid Unicode: {text!r:.80}") from error


def path_bytes(path: str, raw_path: bytes | None) -> str:
    """Give a path as latin-1 native string, from ``raw_path`` where decoding has lost bytes.

    A server that decodes ``%FF`` with replacement leaves U+FFFD in ``path``; the bytes are still in
    ``raw_path``. It is used only if it says the same path, for a framework may have rewritten ``path`` alone.
    """
    if raw_path is not None and _REPLACEMENT in path:
        original = unquote_to_bytes(raw_path.partition(b"?")[0])
        if original.decode("utf-8", "replace") == path:
            return original.decode("latin-1")
    return latin1_from_text(path)


def request_uri(raw_path: bytes, query_string: bytes) -> str:
    """Give the request target as sent, query included: the value of REQUEST_URI and RAW_URI."""
    target = raw_path.partition(b"?")[0] if b"?" in raw_path else raw_path
    return (target + b"?" + query_string if query_string else target).decode("latin-1")
