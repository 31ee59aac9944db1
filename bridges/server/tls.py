"""TLS of the server: the context that connections are made with, and what an application is told about one."""

from __future__ import annotations

import itertools
import re
import ssl
import sys
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from ..errors import ConfigError
from .config import Config

TLSObject: TypeAlias = ssl.SSLObject | ssl.SSLSocket

_MISMATCHES: Final = frozenset(
    # The last is OpenSSL's answer to a key of another type than the certificate's (EC and RSA).
    {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
)

_VERIFY_MODES: Final = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}

_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN (X509 |TRUSTED |)CERTIFICATE-----(.*?)-----END \1CERTIFICATE-----", re.DOTALL
)


# The context


def make_context(config: Config) -> ssl.SSLContext | None:
    """Make the context for the server's side of connections; None where no certificate turns TLS on.

    TLS 1.2 and later; ALPN offers ``http/1.1``. A key that needs a password is never asked for on the terminal.

    Args:
        config: the options certfile, keyfile, keyfile_password, client_ca and client_certificate are read, and the
            files that they name. Call it before the loop runs: reading files blocks.

    Raises:
        ConfigError: a file cannot be read or used, the key does not match the certificate or its password is wrong.

    Source:
        RFC 9325 section 3.1.1 (versions); RFC 7301 (ALPN).
    """
    if config.certfile is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client that renegotiates makes the server work much harder than itself (OpenSSL 3 refuses it anyway).
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, config.certfile, config.keyfile, config.keyfile_password)
    _ask_clients(context, config)
    return context


def _load_certificate(
    context: ssl.SSLContext, certfile: str, keyfile: str | None, password: str | None
) -> None:
    _check_readable("certfile", certfile)
    if keyfile is not None:
        _check_readable("keyfile", keyfile)
    key_name = f"certfile {certfile}" if keyfile is None else f"keyfile {keyfile}"
    asked = False

    # Without a callback, OpenSSL would ask on the terminal, and a server that was started by systemd would hang.
    def give_password() -> str:
        nonlocal asked
        asked = True
        if password is None:
            raise ConfigError(f"the private key in {key_name} is encrypted: give keyfile_password")
        return password

    try:
        context.load_cert_chain(certfile, keyfile, give_password)
    except ssl.SSLError as error:
        fault = _certificate_fault(certfile, key_name, error, asked)
        raise ConfigError(fault) from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"keyfile_password cannot be used: {error}") from error


def _certificate_fault(certfile: str, key_name: str, error: ssl.SSLError, asked: bool) -> str:
    """Find out what is wrong: OpenSSL says "PEM lib" to most mistakes, without saying of which file."""
    if error.reason in _MISMATCHES:
        return f"the private key in {key_name} does not belong to the certificate in {certfile}: name the one that does"
    if asked:
        return f"keyfile_password does not open the private key in {key_name}: give the right one"
    if not _holds_certificates(certfile):
        return f"certfile {certfile} is damaged or holds no certificate: name a PEM file with the certificate first"
    if error.reason is not None:
        reason = error.reason.replace("_", " ").lower()
        return f"OpenSSL refuses the certificate in {certfile} ({reason}): name a stronger one"
    if key_name.startswith("certfile"):
        return f"{key_name} holds no usable private key: name the PEM file that does as keyfile"
    return f"{key_name} is damaged or holds no private key: name a PEM file that does"


def _ask_clients(context: ssl.SSLContext, config: Config) -> None:
    if config.client_ca is None:
        return
    _check_readable("client_ca", config.client_ca)
    try:
        context.load_verify_locations(cafile=config.client_ca)
    except ssl.SSLError as error:
        raise ConfigError(
            f"client_ca {config.client_ca} is damaged or holds no certificate: "
            "name a PEM file with those of the authorities"
        ) from error
    context.verify_mode = _VERIFY_MODES[config.client_certificate]


def _check_readable(option: str, path: str) -> None:
    """Raise for a file that OpenSSL could not open; its own error does not say which of two it was."""
    try:
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as error:  # the latter for a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{option} {path!r} cannot be read ({reason}): name a PEM file that this process may read"
        ) from error


def _holds_certificates(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=path)
    except ssl.SSLError:
        return False
    return True


# What the application is told


def server_certificate(certfile: str) -> str | None:
    """Read the certificate that the server sends: the first one of the file, as PEM.

    Call it together with ``make_context``: after a renewal the file has one that the context does not know of.

    Returns:
        None for a certificate in OpenSSL's own form (TRUSTED CERTIFICATE), which has more in it than was sent.
    """
    with open(certfile, "rb") as file:
        found = _CERTIFICATE.search(file.read())
    if found is None or found[1] == b"TRUSTED ":
        return None
    body = found[2].decode("ascii")
    return ssl.DER_cert_to_PEM_cert(
        ssl.PEM_cert_to_DER_cert(f"{ssl.PEM_HEADER}{body}{ssl.PEM_FOOTER}")
    )


def tls_extension(tls: TLSObject, server_cert: str | None) -> dict[str, Any]:
    """Describe a connection for ``scope["extensions"]["tls"]``; it holds for all of its requests.

    ``client_cert_error`` is always None: a client whose certificate fails gets no connection.

    Args:
        tls: of a connection whose handshake is complete, ``transport.get_extra_info("ssl_object")``.
        server_cert: what ``server_certificate`` gave.

    Returns:
        All six keys. ``client_cert_chain`` has the client's own certificate, and from Python 3.13 on the
        others that it sent, as far as they lead to an authority.

    Source:
        ASGI TLS extension 0.2.
    """
    subject: Any = (tls.getpeercert() or {}).get("subject", ())
    chain = _client_chain(tls)
    return {
        "server_cert": server_cert,
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(each) for each in chain],
        "client_cert_name": distinguished_name(subject) if chain else None,
        "client_cert_error": None,
        "tls_version": _version_number(tls.version()),
        "cipher_suite": _suite_number(tls),
    }


def _client_chain(tls: TLSObject) -> list[bytes]:
    own = tls.getpeercert(binary_form=True)
    if own is None:
        return []
    if sys.version_info < (3, 13):
        return [own]
    # What was sent may hold unrelated certificates, and what was verified some that the server has itself. A resumed
    # session has the client's own alone.
    sent = set(tls.get_unverified_chain())
    return [own, *itertools.takewhile(sent.__contains__, tls.get_verified_chain()[1:])]


def _version_number(name: str | None) -> int | None:
    """Give the number for ``TLSv1.3``."""
    member = ssl.TLSVersion.__members__.get((name or "").replace(".", "_"))
    return None if member is None else int(member)


# Numbers of the suites by OpenSSL's names, which are the same in every context.
_suite_numbers: dict[str, int] = {}


def _suite_number(tls: TLSObject) -> int | None:
    cipher = tls.cipher()
    if cipher is None:
        return None
    if cipher[0] not in _suite_numbers:
        # The upper half of OpenSSL's id is its own; the lower is the number registered with IANA.
        known = tls.context.get_ciphers()
        _suite_numbers.update({each["name"]: each["id"] & 0xFFFF for each in known})
    return _suite_numbers.get(cipher[0])


# Short names of attribute types by OpenSSL's long ones, which getpeercert() has: RFC 4514 section 3, RFC 4519.
_SHORT_NAMES: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "surname": "sn",
    "userId": "UID",
}

_ESCAPED: Final = re.compile(r'["+,;<>\\]|^[ #]| \Z|[\x00-\x1f\x7f]')


def distinguished_name(subject: Iterable[Iterable[tuple[str, str]]]) -> str:
    r"""Write a subject, as ``getpeercert()`` gives it, as text: ``CN=ann,OU=sales\, south,O=shop``.

    Args:
        subject: relative names from the root on, each of pairs of an attribute type and its value.

    Returns:
        The relative names from the leaf on, which is the order of LDAP.

    Source:
        RFC 4514 section 2. An attribute type without a registered short name keeps the name that OpenSSL has for it
        (``emailAddress``); one that it has no name for is a number, and its value a UTF8String in hexadecimal.
    """
    relative = ["+".join(_attribute(*pair) for pair in each) for each in subject]
    return ",".join(reversed(relative))


def _attribute(kind: str, value: str) -> str:
    if kind[:1].isdigit():
        return f"{kind}=#{_utf8_string(value).hex()}"
    return f"{_SHORT_NAMES.get(kind, kind)}={_ESCAPED.sub(_escape, value)}"


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    return f"\\{character}" if character.isprintable() else f"\\{ord(character):02X}"


def _utf8_string(text: str) -> bytes:
    """Encode in BER (X.690 section 8): tag, length, octets."""
    octets = text.encode()
    size = len(octets)
    if size < 0x80:
        return bytes([0x0C, size]) + octets
    digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([0x0C, 0x80 | len(digits)]) + digits + octets
