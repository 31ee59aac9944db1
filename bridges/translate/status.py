"""Status lines."""

from __future__ import annotations

from functools import lru_cache

from ..errors import ApplicationProtocolError


def code_from_status(status: object) -> int:
    """Give the status code of a WSGI status string.

    Args:
        status: ``"200 OK"``; a missing reason (``"200"``) is tolerated, since HTTP/2 has none either.

    Raises:
        ApplicationProtocolError: not a ``str`` that starts with a code from 100 to 999, or an interim (1xx)
            one, which cannot be the head of a response.

    Source:
        PEP 3333 "The start_response() Callable"; RFC 9110 section 15.
    """
    if isinstance(status, str):
        return _code(status)
    raise _no_status(status)


@lru_cache(maxsize=256)
def _code(status: str) -> int:
    code, _, reason = status.partition(" ")
    if not (len(code) == 3 and code.isascii() and code.isdigit()) or not reason.isprintable():
        raise _no_status(status)
    number = int(code)
    if number < 200:
        raise ApplicationProtocolError(
            f"status {status!r:.80} is interim and cannot start the response",
            "RFC 9110 section 15.2",
        )
    return number


def _no_status(status: object) -> ApplicationProtocolError:
    return ApplicationProtocolError(
        f'status must be a str such as "200 OK", got {status!r:.80}',
        'PEP 3333 "The start_response() Callable"',
    )
