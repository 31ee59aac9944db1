"""Who the client is when proxies stand between: whose forwarded fields are believed, and what they say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import unquote_to_bytes

from ..errors import ConfigError

Address: TypeAlias = tuple[str, int]

MAX_HOPS: Final = 100
"""Most elements of a list that are looked at, counted from the nearest proxy; what stands before them is not read."""

_FIELDS: Final = frozenset(
    {
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
    }
)
_INSTEAD_OF_STANDARD: Final = _FIELDS - {b"forwarded", b"x-forwarded-prefix"}
_SCHEMES: Final = {b"http": "http", b"https": "https", b"ws": "ws", b"wss": "wss"}
# Where no proxy tells the scheme, either port may be the one that a URL leaves out.
_PORTS_LEFT_OUT: Final = {"http": (80,), "ws": (80,), "https": (443,), "wss": (443,)}

_OBFUSCATED: Final = rb"_[0-9A-Za-z._-]+"
# RFC 7239 section 6, and the IPv6 address without brackets that X-Forwarded-For has.
_NODE: Final = re.compile(
    rb"(?:\[(?P<bracketed>[0-9A-Fa-f:.]{2,45})\]|(?P<v4>[0-9.]{7,15})|(?P<hidden>(?i:unknown)|%b))"
    rb"(?::(?:(?P<port>[0-9]{1,5})|%b))?"
    rb"|(?P<bare>[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{0,41})"
    % (_OBFUSCATED, _OBFUSCATED)
).fullmatch

_HOST: Final = re.compile(
    rb"(?:[0-9A-Za-z_][0-9A-Za-z._-]{0,254}|\[(?P<v6>[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,41})\])"
    rb"(?::(?P<port>[0-9]{1,5}))?"
).fullmatch
_PORT: Final = re.compile(rb"[0-9]{1,5}").fullmatch
# RFC 3986 section 3.3, but for the comma, which separates the values of two proxies.
_PREFIX: Final = re.compile(rb"/(?:[0-9A-Za-z/:@!$&'()*+;=~._-]|%[0-9A-Fa-f]{2})*").fullmatch
_REFUSED_IN_PREFIX: Final = re.compile(r"//|\.\.|[\x00-\x1f\x7f-\x9f\\]").search

# One forwarded-pair of RFC 7239 section 4 and the border before it, in a text that is written backwards. A quotation
# mark before "=" is always the one that opens: inside, it would have a backslash there. A value without quotation
# marks may hold more than a token does, as proxies write ports and IPv6 addresses: what it is for decides about it.
_PAIR_BACKWARDS: Final = re.compile(
    rb'[ \t]*(?:(?:"(?P<quoted>[^"]*(?:"(?!=)[^"]*)*)"|(?P<plain>[^\x00-\x20\x7f",;=]*))'
    rb"=(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+))?[ \t]*(?P<border>[;,]|\Z)"
).match
_QUOTED: Final = re.compile(rb"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*").fullmatch
_QUOTED_PAIR: Final = re.compile(rb"\\(.)")


class TrustedPeers:
    """The proxies whose word about the client is believed."""

    __slots__ = ("_decide", "_everybody", "_networks", "_unix")

    def __init__(self, text: str) -> None:
        """Read the list once.

        Args:
            text: entries separated by commas: an address, a network as ``10.0.0.0/8``, ``unix`` for the peers on unix
                sockets, ``*`` for everybody. An empty one trusts nobody.

        Raises:
            ConfigError: an entry is none of these. Names are not looked up.
        """
        entries = {entry for entry in map(str.strip, text.split(",")) if entry}
        self._everybody = "*" in entries
        self._unix = "unix" in entries
        self._networks = tuple(_network(entry) for entry in sorted(entries - {"*", "unix"}))
        self._decide = lru_cache(maxsize=1024)(self._is_inside)

    def trusts(self, host: str | None) -> bool:
        """Say whether a peer is believed; decided once for each address, within bounds. Any thread.

        Args:
            host: its address, an IPv4 one also as IPv4-mapped IPv6; None for a peer on a unix socket.
        """
        if self._everybody:
            return True
        if host is None:
            return self._unix
        return self._decide(host)

    def _is_inside(self, host: str) -> bool:
        address = _unmapped(host)
        return address is not None and any(
            ip_address(address) in network for network in self._networks
        )


class Forwarded(NamedTuple):
    """What trusted proxies say about a request.

    Attributes:
        client: address and port of the client, the port 0 where nobody tells it; the peer itself where no proxy names
            an address; None where a proxy hides it (``unknown``, ``_name``), so that a client which nobody knows never
            passes for the proxy.
        scheme: that the client used: ``http``, ``https``, ``ws`` or ``wss``; None where nobody tells it.
        host: that the client asked for, with the port where it has one; None where nobody tells it.
        prefix: under which a proxy publishes the application, decoded, without a slash at its end; None where nobody
            tells it, and for ``/``.
    """

    client: Address | None
    scheme: str | None
    host: bytes | None
    prefix: str | None


def forwarded(
    headers: Sequence[tuple[bytes, bytes]], peer: Address | None, trusted: TrustedPeers
) -> Forwarded | None:
    r"""Read the forwarded fields of a request, from the nearest proxy outwards.

    Each proxy writes, at the end, the address that it was called from. The walk begins with the peer: while the
    writer is trusted, its element counts, and the address in it is the next writer. The first address that is not
    trusted is the client; where all are trusted, the leftmost is. What stands left of the client's element was written
    by nobody known and is not read, so that nothing in it, an open quotation mark included, can spoil the rest.

    Scheme and host are those of the outermost element that counts, for they are what the client itself used; where it
    does not tell them, those of the next nearer one. In X-Forwarded-Proto, -Host, -Port and -Prefix, where many
    proxies leave one value for all, it is the value as far from the end as the client is in X-Forwarded-For; of a
    list that is shorter it is the last, which the nearest proxy wrote.

    Where any of X-Forwarded-For, -Proto, -Host and -Port is present and not empty, Forwarded is ignored, never mixed
    in: most proxies write X-Forwarded-\* and pass on a Forwarded that the client made up. X-Forwarded-Prefix, which
    has no counterpart there, is read beside both. A trusted proxy must still set or remove every one of these fields:
    what it lets through is the client's own word, and a proxy that writes only Forwarded must remove X-Forwarded-\*.

    X-Forwarded-Port is that of the server. It is added to a host that has none, that of Host if need be, unless it is
    the one that belongs to the scheme.

    A malformed value counts as absent. The walk ends at an element that has no address or a malformed one, and before
    one whose syntax is wrong. No more than ``MAX_HOPS`` elements are read, in a time that is linear in their bytes.

    Args:
        headers: of the request, names in lower case.
        peer: address and port of the connection's other end; None on a unix socket.
        trusted: whose fields are believed.

    Returns:
        None where there is no such field or the peer is not trusted.

    Source:
        RFC 7239 sections 4 to 7; for X-Forwarded-\* the practice of nginx, HAProxy, Apache and Traefik.
    """
    if not trusted.trusts(None if peer is None else peer[0]):
        return None
    found = [field for field in headers if field[0] in _FIELDS]
    if not found:
        return None
    lines: dict[bytes, list[bytes]] = {}
    for name, value in found:
        lines.setdefault(name, []).append(value)
    # RFC 9110 section 5.3: several fields of one name are one list.
    fields = {name: b",".join(values) for name, values in lines.items()}
    if any(fields.get(name, b"").strip(b" \t,") for name in _INSTEAD_OF_STANDARD):
        return _from_x(fields, headers, peer, trusted)
    return _from_standard(fields, peer, trusted) or _from_x(fields, headers, peer, trusted)


def _from_standard(
    fields: dict[bytes, bytes], peer: Address | None, trusted: TrustedPeers
) -> Forwarded | None:
    elements: list[dict[bytes, bytes]] = []

    def nodes() -> Iterator[bytes]:
        for element in _elements_backwards(fields.get(b"forwarded", b"")):
            elements.append(element)
            yield element.get(b"for", b"")

    client, distance = _walk(nodes(), peer, trusted)
    if not elements:
        return None
    outermost_first = elements[::-1]
    schemes = (_SCHEMES.get(element.get(b"proto", b"").lower()) for element in outermost_first)
    hosts = (_host(element.get(b"host", b"")) for element in outermost_first)
    return Forwarded(
        client,
        next((scheme for scheme in schemes if scheme), None),
        next((host for host in hosts if host), None),
        _prefix(_value_at(fields, b"x-forwarded-prefix", distance)),
    )


def _from_x(
    fields: dict[bytes, bytes],
    headers: Sequence[tuple[bytes, bytes]],
    peer: Address | None,
    trusted: TrustedPeers,
) -> Forwarded:
    values = _values_backwards(fields.get(b"x-forwarded-for", b""))
    client, distance = _walk(values, peer, trusted)
    scheme = _SCHEMES.get(_value_at(fields, b"x-forwarded-proto", distance).lower())
    host = _host(_value_at(fields, b"x-forwarded-host", distance))
    port = _port(_value_at(fields, b"x-forwarded-port", distance))
    if port and port not in _PORTS_LEFT_OUT.get(scheme or "", (80, 443)):
        asked = host or _host(dict(headers).get(b"host", b""))
        host = _with_port(asked, port) if asked else None
    return Forwarded(
        client, scheme, host, _prefix(_value_at(fields, b"x-forwarded-prefix", distance))
    )


def _walk(
    nodes: Iterable[bytes], peer: Address | None, trusted: TrustedPeers
) -> tuple[Address | None, int]:
    """Give the client, and how many elements before the last one it is named."""
    client, distance = peer, 0
    for distance, node in enumerate(nodes):
        match = _NODE(node)
        if match is None:
            break
        if match["hidden"]:
            return None, distance
        host = _unmapped((match["bracketed"] or match["v4"] or match["bare"]).decode())
        port = int(match["port"] or 0)
        if host is None or port > 65_535:
            break
        client = (host, port)
        if not trusted.trusts(host):
            break
    return client, distance


def _values_backwards(text: bytes) -> list[bytes]:
    """Split a list, last value first; empty elements do not count (RFC 9110 section 5.6.1.2)."""
    pieces = text.rsplit(b",", MAX_HOPS)
    if len(pieces) > MAX_HOPS:
        del pieces[0]
    return [value for value in map(_trimmed, reversed(pieces)) if value]


def _value_at(fields: dict[bytes, bytes], name: bytes, distance: int) -> bytes:
    if name not in fields:
        return b""
    values = _values_backwards(fields[name])
    if distance < len(values):
        return values[distance]
    return values[0] if values else b""


def _trimmed(value: bytes) -> bytes:
    return value.strip(b" \t")


def _elements_backwards(text: bytes) -> Iterator[dict[bytes, bytes]]:
    """Give the elements of Forwarded by the names of their parameters, last element first, up to a malformed one."""
    backwards = text[::-1]
    element: dict[bytes, bytes] = {}
    position = 0
    elements_read = 0
    while elements_read < MAX_HOPS:
        match = _PAIR_BACKWARDS(backwards, position)
        if match is None or not _add_pair(element, match):
            return
        position = match.end()
        if match["border"] != b";":
            elements_read += 1
            if element:
                yield element
                element = {}
            if not match["border"]:
                return


def _add_pair(element: dict[bytes, bytes], match: re.Match[bytes]) -> bool:
    """Take a pair in, if there is one between the borders; False if it must not be there."""
    if match["name"] is None:
        return True
    name = match["name"][::-1].lower()
    if name in element:
        return False  # RFC 7239 section 4: each parameter at most once
    if match["quoted"] is None:
        element[name] = match["plain"][::-1]
        return True
    quoted = match["quoted"][::-1]
    element[name] = _QUOTED_PAIR.sub(rb"\1", quoted)
    return _QUOTED(quoted) is not None


@lru_cache(maxsize=1024)
def _unmapped(text: str) -> str | None:
    """Give an address as it is commonly written, an IPv4-mapped one as IPv4; None if it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(address)


def _host(text: bytes) -> bytes | None:
    match = _HOST(text)
    if match is None or (match["port"] and not _port(match["port"])):
        return None
    if match["v6"] and _unmapped(match["v6"].decode()) is None:
        return None
    return text


def _with_port(host: bytes, port: int) -> bytes:
    has_one = b":" in host.rpartition(b"]")[2]
    return host if has_one else b"%b:%d" % (host, port)


def _port(text: bytes) -> int:
    """Give a port, or 0 for what is none."""
    port = int(text) if _PORT(text) else 0
    return port if port <= 65_535 else 0


def _prefix(text: bytes) -> str | None:
    if not _PREFIX(text):
        return None
    try:
        prefix = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return None
    if _REFUSED_IN_PREFIX(prefix):
        return None
    return prefix.rstrip("/") or None


def _network(entry: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(entry)
    except ValueError as error:
        raise ConfigError(
            "forwarded_allow_ips must be addresses, networks, * or unix, separated by commas, "
            f"got {entry!r:.80} ({str(error)!r:.120})"
        ) from None
    first = network.network_address
    if isinstance(first, IPv6Address) and first.ipv4_mapped and network.prefixlen >= 96:
        return IPv4Network((first.ipv4_mapped, network.prefixlen - 96))
    return network
