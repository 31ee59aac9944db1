"""Header fields, both ways: ASGI pairs of bytes to CGI variables, and WSGI pairs of ``str`` to ASGI pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, TypeAlias

from ..errors import ApplicationProtocolError, PeerProtocolError
from ..typing import Environ, RawHeaders

HeaderPolicy: TypeAlias = Literal["drop", "refuse", "keep"]
HEADER_POLICIES: Final = ("drop", "refuse", "keep")

MAX_REPETITIONS: Final = 100
"""Most fields of one name in a request: joining them without a limit was CVE-2025-14550 in a peer."""

# Hop-by-hop fields are meaningful for one connection only: the host server writes its own (RFC 9110 section
# 7.6.1; PEP 3333 "Other HTTP Features" forbids applications to send them).
_NOT_PASSED_AS_IS: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)

_SINGLE: Final = frozenset({"CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_HOST"})
_COOKIE: Final = "HTTP_COOKIE"
_TRANSFER_ENCODING: Final = "HTTP_TRANSFER_ENCODING"

# RFC 9110 section 5.6.2: token.
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN_IN_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search

_PEP_HEADERS: Final = 'PEP 3333 "The start_response() Callable"'

_ASGI_HEADERS: Final = 'ASGI HTTP 2.5 "Response Start"'

# Names repeat from request to request; the caches are bounded because clients and applications choose them.
_CACHE_LIMIT: Final = 1024
_variables: dict[bytes, str] = {}
_names: dict[str, bytes] = {}
_raw_names: dict[bytes, bytes] = {}
_native_fields: dict[object, tuple[bytes, bytes]] = {}
_checked_fields: dict[object, tuple[bytes, bytes]] = {}


def variable_from_name(name: bytes) -> str | None:
    """Give the CGI variable of a request header.

    Args:
        name: as received, in any case.

    Returns:
        ``"HTTP_ACCEPT"`` for ``b"accept"``, without the prefix for the two names that CGI sets apart, or
        ``None`` for ``proxy``, which would become the variable that HTTP clients read their proxy from.

    Source:
        RFC 3875 section 4.1.18; CVE-2016-5385 ("httpoxy") for ``proxy``.
    """
    upper = name.upper().replace(b"-", b"_").decode("latin-1")  # bytes know no case outside ASCII
    if upper == "PROXY":
        return None
    if upper in ("CONTENT_LENGTH", "CONTENT_TYPE") and b"_" not in name:
        return upper
    return "HTTP_" + upper


def add_request_headers(
    environ: Environ, headers: Iterable[tuple[bytes, bytes]], policy: HeaderPolicy
) -> bool:
    """Add request headers to an environ, in time linear in their number.

    Repeated fields are joined: cookies with ``"; "``, others with ``","``. Equal repetitions of Host,
    Content-Type and Content-Length are folded.

    Args:
        environ: gets the CGI variables, as native strings of latin-1 code points.
        headers: pairs of name (any case) and value; read once.
        policy: what becomes of names with an underscore, which collide with hyphens in the environ:
            ``"drop"`` them, ``"refuse"`` the request, or ``"keep"`` them (joined with their hyphen twins).

    Returns:
        Whether the body came with a Transfer-Encoding. The server has undone it, so that the field is not
        passed on, and neither is a Content-Length beside it.

    Raises:
        PeerProtocolError: differing repetitions of a field that must be single, more than ``MAX_REPETITIONS``
            of one name, an invalid Content-Length, or an underscore under ``"refuse"``; hint 400.

    Source:
        RFC 9110 section 5.3 (combining), RFC 6265 section 5.4 with RFC 9113 section 8.2.3 (cookies),
        RFC 9112 section 6.3 (Content-Length; Transfer-Encoding overrides it).
    """
    repeated: dict[str, list[str]] = {}
    for name, value in headers:
        variable = _variables.get(name) or _variable_under_policy(name, policy)
        if variable is None:
            continue
        text = value.decode("latin-1")
        if variable not in environ:
            environ[variable] = text
        elif variable in repeated:
            repeated[variable].append(text)
        else:
            repeated[variable] = [environ[variable], text]
    for variable, values in repeated.items():
        environ[variable] = _joined(variable, values)
    if _TRANSFER_ENCODING not in environ:
        return False
    del environ[_TRANSFER_ENCODING]
    environ.pop("CONTENT_LENGTH", None)
    return True


def bytes_from_native(value: object) -> bytes:
    """Give the bytes of a native string, which PEP 3333 keeps as latin-1 code points; never fails.

    Some hosts and middleware put other characters there, and numbers: the former are given as UTF-8, with the
    bytes that surrogates stand for, the latter as they are written.

    Source:
        PEP 3333 "Unicode Issues".
    """
    text = value if isinstance(value, str) else str(value)
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        pass
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def length_from_text(text: str) -> int:
    """Read the value of a Content-Length field.

    Raises:
        PeerProtocolError: not a number of bytes (RFC 9110 section 8.6); hint 400.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise PeerProtocolError(
            f"Content-Length is not a number of bytes: {_excerpt(text)}", "RFC 9110 section 8.6"
        )
    return int(text)


class ResponseHeaders(NamedTuple):
    """The headers of a response, translated.

    Attributes:
        raw: as ASGI headers, without hop-by-hop fields, and with one Content-Length at most.
        length: the Content-Length in bytes, or None.
        dropped: names of the hop-by-hop fields that were taken out.
    """

    raw: RawHeaders
    length: int | None
    dropped: list[str]


def response_headers_from_wsgi(headers: Iterable[tuple[str, str]]) -> ResponseHeaders:
    """Translate the headers given to ``start_response`` into ASGI headers.

    Names become lower case, values lose surrounding blanks, repeated fields stay apart and in order.

    Raises:
        ApplicationProtocolError: not pairs of ``str``, a name that is no token, a value with control characters or
            with characters outside latin-1, a Content-Length that is not one number.

    Source:
        PEP 3333 "The start_response() Callable", "Unicode Issues" and "Other HTTP Features"; RFC 9110 sections
        5 and 8.6.
    """
    raw: RawHeaders = []
    length: int | None = None
    dropped: list[str] = []
    try:
        for field in headers:
            checked = _native_fields.get(field) if type(field) is tuple else None
            if checked is None:
                checked = _checked_native_field(*field)
                _remember(_native_fields, field, checked)
            raw_name, raw_value = checked
            if raw_name in _NOT_PASSED_AS_IS:
                if raw_name != b"content-length":
                    dropped.append(field[0])
                    continue
                if length is not None:
                    _check_repetition(length, raw_value)
                    continue
                length = _response_length(raw_value)
            raw.append(checked)
    except UnicodeEncodeError as error:
        raise ApplicationProtocolError(
            f"response header {_excerpt(error.object)} has characters outside latin-1: encode them first"
            " (RFC 8187 for parameters, percent-encoding for URLs)",
            'PEP 3333 "Unicode Issues"',
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ApplicationProtocolError(
            f"response headers must be a list of (name, value) tuples of str, got {_excerpt(headers)}",
            _PEP_HEADERS,
        ) from error
    return ResponseHeaders(raw, length, dropped)


class NativeHeaders(NamedTuple):
    """The headers of a response as ``start_response`` takes them.

    Attributes:
        native: pairs of ``str``, without hop-by-hop fields, and with one Content-Length at most.
        length: the Content-Length in bytes, or None.
        dropped: names of the hop-by-hop fields that were taken out.
    """

    native: list[tuple[str, str]]
    length: int | None
    dropped: list[str]


def response_headers_from_asgi(headers: Iterable[Iterable[bytes]]) -> NativeHeaders:
    """Translate the headers of an ASGI message into those that ``start_response`` takes.

    Raises:
        ApplicationProtocolError: as ``checked_response_headers`` does.

    Source:
        ASGI HTTP 2.5 "Response Start"; PEP 3333 "Unicode Issues" and "Other HTTP Features".
    """
    raw, length, dropped = checked_response_headers(headers)
    native = [(_native_names[name], value.decode("latin-1")) for name, value in raw]
    return NativeHeaders(native, length, dropped)


def checked_response_headers(headers: Iterable[Iterable[bytes]]) -> ResponseHeaders:
    """Check the headers of an ASGI message.

    Names become lower case, values lose surrounding blanks, repeated fields stay apart and in order.

    Raises:
        ApplicationProtocolError: not pairs of ``bytes``, a name that is no token, a value with control characters, a
            Content-Length that is not one number.

    Source:
        ASGI HTTP 2.5 "Response Start"; RFC 9110 sections 5 and 8.6.
    """
    raw: RawHeaders = []
    length: int | None = None
    dropped: list[str] = []
    try:
        for field in headers:
            known = _checked_fields.get(field) if type(field) is tuple else None
            # A memoryview equals its bytes.
            if known is not None and type(field[0]) is type(field[1]) is bytes:  # type: ignore[index]
                raw_name, raw_value = checked = known
            else:
                raw_name, raw_value = checked = _checked_field(*field)
                _remember(_checked_fields, field, checked)
            if raw_name in _NOT_PASSED_AS_IS:
                if raw_name != b"content-length":
                    dropped.append(raw_name.decode())
                    continue
                if length is not None:
                    _check_repetition(length, raw_value)
                    continue
                length = _response_length(raw_value)
            raw.append(checked)
    except (TypeError, ValueError, AttributeError) as error:
        raise ApplicationProtocolError(
            f"response headers must be (name, value) pairs of bytes, got {_excerpt(headers)}",
            _ASGI_HEADERS,
        ) from error
    return ResponseHeaders(raw, length, dropped)


def _checked_field(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    raw_name = _checked_raw_name(name)
    raw_value = value.strip(b" \t")
    if _FORBIDDEN_IN_VALUE(raw_value):
        raise ApplicationProtocolError(
            f"value of response header {name!r} contains CR, LF, NUL or another control: {_excerpt(value)}",
            _ASGI_HEADERS,
        )
    return raw_name, raw_value


def _checked_native_field(name: str, value: str) -> tuple[bytes, bytes]:
    raw_name = _names.get(name) or _checked_name(name)
    raw_value = value.strip(" \t").encode("latin-1")
    if _FORBIDDEN_IN_VALUE(raw_value):
        raise ApplicationProtocolError(
            f"value of response header {name!r} contains CR, LF, NUL or another control: {_excerpt(value)}",
            _PEP_HEADERS,
        )
    return raw_name, raw_value


def _remember(
    fields: dict[object, tuple[bytes, bytes]], field: object, checked: tuple[bytes, bytes]
) -> None:
    """Remember a field of a response that was checked: most are the same in response after response."""
    if type(field) is tuple and len(fields) < _CACHE_LIMIT and len(checked[1]) <= 64:
        fields[field] = checked


def _response_length(value: bytes) -> int:
    if not value.isdigit():
        raise ApplicationProtocolError(
            f"Content-Length is not one number: {_excerpt(value)}", "RFC 9110 section 8.6"
        )
    return int(value)


def _check_repetition(length: int, value: bytes) -> None:
    if _response_length(value) != length:
        raise ApplicationProtocolError(
            f"two differing Content-Length headers: {length} and {_excerpt(value)}",
            "RFC 9110 section 8.6",
        )


def _variable_under_policy(name: bytes, policy: HeaderPolicy) -> str | None:
    if b"_" in name:
        if policy == "refuse":
            raise PeerProtocolError(f"header name with an underscore: {_excerpt(name)}")
        variable = variable_from_name(name) if policy == "keep" else None
        return None if variable == _TRANSFER_ENCODING else variable
    variable = variable_from_name(name)
    if variable is not None and len(_variables) < _CACHE_LIMIT and len(name) <= 64:
        _variables[name] = variable
    return variable


def _joined(variable: str, values: list[str]) -> str:
    if len(values) > MAX_REPETITIONS:
        raise PeerProtocolError(
            f"more than {MAX_REPETITIONS} request header fields of one name ({variable})"
        )
    if variable in _SINGLE:
        if len(set(values)) > 1:
            raise PeerProtocolError(
                f"{len(values)} differing request header fields for {variable}, which must be single",
                "RFC 9110 section 5.3",
            )
        return values[0]
    return ("; " if variable == _COOKIE else ",").join(values)


def _checked_name(name: str) -> bytes:
    if not isinstance(name, str):
        raise TypeError(name)
    raw = name.encode("latin-1")
    _check_token(raw, name)
    raw = raw.lower()
    if len(_names) < _CACHE_LIMIT:
        _names[name] = raw
    return raw


def _checked_raw_name(name: bytes) -> bytes:
    if not isinstance(name, bytes):  # before the look-up, which takes a memoryview for its bytes
        raise TypeError(name)
    known = _raw_names.get(name)
    if known is not None:
        return known
    _check_token(name, name)
    raw = name.lower()
    if len(_raw_names) < _CACHE_LIMIT:
        _raw_names[name] = raw
    return raw


class _NativeNames(dict[bytes, str]):
    """Names as native strings, of those that were checked."""

    def __missing__(self, name: bytes) -> str:
        native = name.decode("ascii")
        if len(self) < _CACHE_LIMIT:
            self[name] = native
        return native


def _check_token(raw: bytes, name: object) -> None:
    if not _TOKEN.fullmatch(raw):
        raise ApplicationProtocolError(
            f"response header name is not a token: {_excerpt(name)}", "RFC 9110 section 5.6.2"
        )


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


_native_names: Final = _NativeNames()
