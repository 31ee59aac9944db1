"""TLS facts of ASGI as the variables of mod_ssl."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.translate.tls import ssl_variables

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"


@pytest.mark.spec("FR 108")
@pytest.mark.parametrize(
    ("version", "name"),
    [
        (0x0300, "SSLv3"),
        (0x0301, "TLSv1"),
        (0x0302, "TLSv1.1"),
        (0x0303, "TLSv1.2"),
        (0x0304, "TLSv1.3"),
        (0x0305, "0x0305"),
        (0x7F1C, "0x7F1C"),
    ],
)
def test_protocol_version(version: int, name: str) -> None:
    """A version is called as mod_ssl calls it, an unknown one by its number."""
    assert ssl_variables({"tls_version": version})["SSL_PROTOCOL"] == name


@pytest.mark.spec("FR 108")
@pytest.mark.parametrize(
    ("suite", "name"),
    [
        (0x1301, "TLS_AES_128_GCM_SHA256"),
        (0x1302, "TLS_AES_256_GCM_SHA384"),
        (0x1303, "TLS_CHACHA20_POLY1305_SHA256"),
        (0x1304, "TLS_AES_128_CCM_SHA256"),
        (0x1305, "TLS_AES_128_CCM_8_SHA256"),
        (0xC02B, "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (0xC02C, "ECDHE-ECDSA-AES256-GCM-SHA384"),
        (0xC02F, "ECDHE-RSA-AES128-GCM-SHA256"),
        (0xC030, "ECDHE-RSA-AES256-GCM-SHA384"),
        (0xCCA8, "ECDHE-RSA-CHACHA20-POLY1305"),
        (0xCCA9, "ECDHE-ECDSA-CHACHA20-POLY1305"),
        (0x002F, "0x002F"),
        (0, "0x0000"),
    ],
)
def test_cipher_suite(suite: int, name: str) -> None:
    """A suite has its OpenSSL name, an unknown one its registered number (IANA TLS parameters)."""
    assert ssl_variables({"cipher_suite": suite})["SSL_CIPHER"] == name


@pytest.mark.spec("FR 108")
@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ({}, {"SSL_CLIENT_VERIFY": "NONE"}),
        (
            {
                "server_cert": None,
                "client_cert_chain": None,
                "client_cert_name": None,
                "client_cert_error": None,
                "tls_version": None,
                "cipher_suite": None,
            },
            {"SSL_CLIENT_VERIFY": "NONE"},
        ),
        (
            {"server_cert": CERTIFICATE},
            {"SSL_SERVER_CERT": CERTIFICATE, "SSL_CLIENT_VERIFY": "NONE"},
        ),
        ({"client_cert_chain": []}, {"SSL_CLIENT_VERIFY": "NONE"}),
        (
            {"client_cert_chain": ["leaf"], "client_cert_name": "CN=ann"},
            {
                "SSL_CLIENT_CERT": "leaf",
                "SSL_CLIENT_S_DN": "CN=ann",
                "SSL_CLIENT_VERIFY": "SUCCESS",
            },
        ),
        (
            {"client_cert_chain": iter(["leaf", "middle", "root"])},
            {
                "SSL_CLIENT_CERT": "leaf",
                "SSL_CLIENT_CERT_CHAIN_0": "middle",
                "SSL_CLIENT_CERT_CHAIN_1": "root",
                "SSL_CLIENT_VERIFY": "SUCCESS",
            },
        ),
        (
            {"client_cert_chain": ["leaf"], "client_cert_error": "expired"},
            {"SSL_CLIENT_CERT": "leaf", "SSL_CLIENT_VERIFY": "FAILED:expired"},
        ),
        ({"client_cert_error": "no chain"}, {"SSL_CLIENT_VERIFY": "FAILED:no chain"}),
    ],
)
def test_certificates(tls: dict[str, Any], expected: dict[str, str]) -> None:
    """Stated facts become variables; what the server did not state is left out."""
    assert ssl_variables(tls) == expected


@pytest.mark.spec("FR 108")
@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=4),
    st.text(min_size=1),
)
def test_failed_certificate_never_counts_as_verified(chain: list[str], failure: str) -> None:
    """Applications decide on SSL_CLIENT_VERIFY: with an error it is never SUCCESS."""
    variables = ssl_variables({"client_cert_chain": chain, "client_cert_error": failure})
    assert variables["SSL_CLIENT_VERIFY"] == f"FAILED:{failure}"
