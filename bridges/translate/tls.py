"""The ``tls`` extension of ASGI and the SSL_* variables of Apache's mod_ssl, each as the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..typing import Environ
from .headers import bytes_from_native
from .paths import latin1_from_text

_VERSIONS: Final = {
    0x0300: "SSLv3",
    0x0301: "TLSv1",
    0x0302: "TLSv1.1",
    0x0303: "TLSv1.2",
    0x0304: "TLSv1.3",
}

# The suites that TLS 1.3 and the TLS 1.2 profile of RFC 9325 allow, by their OpenSSL names, which mod_ssl
# uses; any other suite is shown by its registered number.
_CIPHERS: Final = {
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
    0x1304: "TLS_AES_128_CCM_SHA256",
    0x1305: "TLS_AES_128_CCM_8_SHA256",
    0xC02B: "ECDHE-ECDSA-AES128-GCM-SHA256",
    0xC02C: "ECDHE-ECDSA-AES256-GCM-SHA384",
    0xC02F: "ECDHE-RSA-AES128-GCM-SHA256",
    0xC030: "ECDHE-RSA-AES256-GCM-SHA384",
    0xCCA8: "ECDHE-RSA-CHACHA20-POLY1305",
    0xCCA9: "ECDHE-ECDSA-CHACHA20-POLY1305",
}

_VERSION_NUMBERS: Final = {name: number for number, name in _VERSIONS.items()}
_CIPHER_NUMBERS: Final = {name: number for number, name in _CIPHERS.items()}

_FACTS: Final = (
    "SSL_PROTOCOL",
    "SSL_CIPHER",
    "SSL_SERVER_CERT",
    "SSL_CLIENT_CERT",
    "SSL_CLIENT_S_DN",
    "SSL_CLIENT_VERIFY",
)


def ssl_variables(tls: Mapping[str, Any]) -> dict[str, str]:
    """Translate the ``tls`` extension into SSL_* variables; facts that it does not state are left out.

    Args:
        tls: the value of ``scope["extensions"]["tls"]``.

    Returns:
        SSL_PROTOCOL, SSL_CIPHER, SSL_SERVER_CERT, SSL_CLIENT_CERT (with SSL_CLIENT_CERT_CHAIN_0 and on for
        the rest of the chain), SSL_CLIENT_S_DN and SSL_CLIENT_VERIFY (``SUCCESS``, ``NONE`` or
        ``FAILED:reason``), those that are known.

    Source:
        ASGI TLS extension 0.2; Apache mod_ssl "Environment Variables".
    """
    variables: dict[str, str] = {}
    version = tls.get("tls_version")
    if version is not None:
        variables["SSL_PROTOCOL"] = _VERSIONS.get(version, f"0x{version:04X}")
    cipher = tls.get("cipher_suite")
    if cipher is not None:
        variables["SSL_CIPHER"] = _CIPHERS.get(cipher, f"0x{cipher:04X}")
    if tls.get("server_cert"):
        variables["SSL_SERVER_CERT"] = tls["server_cert"]
    chain = list(tls.get("client_cert_chain") or ())
    if chain:
        variables["SSL_CLIENT_CERT"] = chain[0]
        for number, certificate in enumerate(chain[1:]):
            variables[f"SSL_CLIENT_CERT_CHAIN_{number}"] = certificate
    if tls.get("client_cert_name"):
        variables["SSL_CLIENT_S_DN"] = latin1_from_text(tls["client_cert_name"])
    failure = tls.get("client_cert_error")
    if failure:
        variables["SSL_CLIENT_VERIFY"] = f"FAILED:{failure}"
    else:
        variables["SSL_CLIENT_VERIFY"] = "SUCCESS" if chain else "NONE"
    return variables


def tls_from_ssl_variables(environ: Environ) -> dict[str, Any] | None:
    """Translate the SSL_* variables of a host into the ``tls`` extension.

    Args:
        environ: of a request that came over TLS; empty variables count as absent, as proxies send them.

    Returns:
        The value of ``scope["extensions"]["tls"]``, all six keys; None where the host tells nothing. A protocol or
        cipher suite whose number is not known is None. ``client_cert_error`` is None only for a client without
        certificate, and for one whose SSL_CLIENT_VERIFY is ``SUCCESS``: silence of the host about a certificate does
        not count as verification.

    Source:
        ASGI TLS extension 0.2; Apache mod_ssl "Environment Variables".
    """
    if not any(environ.get(variable) for variable in _FACTS):
        return None
    chain = _client_chain(environ)
    subject = environ.get("SSL_CLIENT_S_DN")
    return {
        "server_cert": environ.get("SSL_SERVER_CERT") or None,
        "client_cert_chain": chain,
        "client_cert_name": bytes_from_native(subject).decode("utf-8", "replace")
        if subject
        else None,
        "client_cert_error": _client_error(
            environ.get("SSL_CLIENT_VERIFY"), bool(chain or subject)
        ),
        "tls_version": _number(environ.get("SSL_PROTOCOL"), _VERSION_NUMBERS),
        "cipher_suite": _number(environ.get("SSL_CIPHER"), _CIPHER_NUMBERS),
    }


def _client_chain(environ: Environ) -> list[str]:
    chain: list[str] = []
    certificate = environ.get("SSL_CLIENT_CERT")
    while certificate:
        chain.append(certificate)
        certificate = environ.get(f"SSL_CLIENT_CERT_CHAIN_{len(chain) - 1}")
    return chain


def _client_error(verify: str | None, certificate_given: bool) -> str | None:
    if verify and verify.startswith("FAILED"):
        return verify.partition(":")[2] or verify
    if verify == "SUCCESS" or not certificate_given:
        return None
    return verify or "the server does not say whether it verified the certificate"


def _number(name: str | None, numbers: Mapping[str, int]) -> int | None:
    """Give the number that a name stands for, which may be written as ``0x1301``."""
    if not name:
        return None
    if name.startswith("0x"):
        try:
            number = int(name, 16)
        except ValueError:
            return None
        return number if number <= 0xFFFF else None
    return numbers.get(name)
