"""The ``tls`` extension of ASGI as the SSL_* variables of Apache's mod_ssl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

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
