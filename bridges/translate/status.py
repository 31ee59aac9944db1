"""Status lines."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from typing import Final

from ..errors import ApplicationProtocolError

_STATUSES: Final = {int(status): f"{int(status)} {status.phrase}" for status in HTTPStatus}


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


def status_from_code(code: object) -> str:
    """Give the WSGI status string of a status code.

    Args:
        code: an ``int`` or ``HTTPStatus``.

    Returns:
        ``"200 OK"``; ``"299 Unknown"`` for a code without a registered reason, which PEP 3333 wants all the same.

    Raises:
        ApplicationProtocolError: not an ``int`` from 100 to 999, or an interim (1xx) one, which cannot be the head
            of a response.

    Source:
        ASGI HTTP 2.5 "Response Start"; PEP 3333 "The start_response() Callable"; RFC 9110 section 15.
    """
    if isinstance(code, int) and 200 <= code <= 999:
        return _STATUSES.get(code) or f"{int(code)} Unknown"
    if isinstance(code, int) and 100 <= code < 200:
        raise _interim(int(code))
    raise ApplicationProtocolError(
        f"status must be an int from 100 to 999, got {code!r:.80}", 'ASGI HTTP 2.5 "Response Start"'
    )


@lru_cache(maxsize=256)
def _code(status: str) -> int:
    code, _, reason = status.partition(" ")
    if not (len(code) == 3 and code.isascii() and code.isdigit()) or not reason.isprintable():
        raise _no_status(status)
    number = int(code)
    if number < 200:
        raise _interim(status)
    return number


def _interim(status: object) -> ApplicationProtocolError:
    return ApplicationProtocolError(
        f"status {status!r:.80} is interim and cannot start the response", "RFC 9110 section 15.2"
    )


def _no_status(status: object) -> ApplicationProtocolError:
    return ApplicationProtocolError(
        f'status must be a str such as "200 OK", got {status!r:.80}',
        'PEP 3333 "The start_response() Callable"',
    )
