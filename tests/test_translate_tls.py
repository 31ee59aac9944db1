"""TLS facts of ASGI as the variables of mod_ssl."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.translate.tls import ssl_variables, tls_from_ssl_variables

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


# And back.


def tls(**changes: Any) -> dict[str, Any]:
    """Give the extension of a connection of which nothing is known, changed."""
    return {
        "server_cert": None,
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": None,
        "cipher_suite": None,
        **changes,
    }


@pytest.mark.spec("FR 108")
@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HTTPS": "on"},
        {"SSL_PROTOCOL": "", "SSL_CIPHER": "", "SSL_CLIENT_CERT": "", "SSL_CLIENT_VERIFY": ""},
    ],
)
def test_silence_of_the_host_is_no_extension(environ: dict[str, Any]) -> None:
    """Proxies send empty variables for what they do not know."""
    assert tls_from_ssl_variables(environ) is None


@pytest.mark.spec("FR 108")
@pytest.mark.spec("ASGI TLS 0.2")
@pytest.mark.parametrize(
    ("environ", "facts"),
    [
        ({"SSL_PROTOCOL": "TLSv1.2"}, {"tls_version": 0x0303}),
        ({"SSL_PROTOCOL": "0x7F1C"}, {"tls_version": 0x7F1C}),
        ({"SSL_PROTOCOL": "TLSv9"}, {}),
        ({"SSL_CIPHER": "TLS_AES_128_GCM_SHA256"}, {"cipher_suite": 0x1301}),
        ({"SSL_CIPHER": "0x002F"}, {"cipher_suite": 0x2F}),
        ({"SSL_CIPHER": "0x10000"}, {}),
        ({"SSL_CIPHER": "0xZZ"}, {}),
        ({"SSL_CIPHER": "0x" + "F" * 10_000}, {}),
        ({"SSL_CIPHER": "AES128-SHA"}, {}),
        ({"SSL_SERVER_CERT": CERTIFICATE}, {"server_cert": CERTIFICATE}),
        ({"SSL_CLIENT_VERIFY": "NONE"}, {}),
        (
            {
                "SSL_CLIENT_CERT": "leaf",
                "SSL_CLIENT_CERT_CHAIN_0": "middle",
                "SSL_CLIENT_CERT_CHAIN_1": "root",
                "SSL_CLIENT_CERT_CHAIN_3": "behind a gap",
                "SSL_CLIENT_VERIFY": "SUCCESS",
            },
            {"client_cert_chain": ["leaf", "middle", "root"]},
        ),
        (
            {"SSL_CLIENT_S_DN": "CN=J\xc3\xbcrg", "SSL_CLIENT_VERIFY": "SUCCESS"},
            {"client_cert_name": "CN=Jürg"},
        ),
        (
            {"SSL_CLIENT_S_DN": "CN=\xff", "SSL_CLIENT_VERIFY": "SUCCESS"},
            {"client_cert_name": "CN=\ufffd"},
        ),
    ],
)
def test_facts_of_the_host(environ: dict[str, str], facts: dict[str, Any]) -> None:
    """Each variable is a fact; names without a known number are not guessed at."""
    assert tls_from_ssl_variables(environ) == tls(**facts)


@pytest.mark.spec("FR 108")
@pytest.mark.parametrize(
    ("verify", "error"),
    [
        ("FAILED:expired", "expired"),
        ("FAILED:a:b", "a:b"),
        ("FAILED:", "FAILED:"),
        ("FAILED", "FAILED"),
        ("GENEROUS", "GENEROUS"),
        ("NONE", "NONE"),
        ("success", "success"),
    ],
)
@pytest.mark.parametrize("given", ["SSL_CLIENT_CERT", "SSL_CLIENT_S_DN"])
def test_only_success_is_success(given: str, verify: str, error: str) -> None:
    """A certificate of which the host says anything but SUCCESS does not count as verified."""
    found = tls_from_ssl_variables({given: "x", "SSL_CLIENT_VERIFY": verify})
    assert found is not None
    assert found["client_cert_error"] == error


@pytest.mark.spec("FR 108")
@pytest.mark.parametrize("environ", [{}, {"SSL_CLIENT_VERIFY": ""}])
def test_silence_about_a_certificate_is_no_verification(environ: dict[str, str]) -> None:
    """Applications let in whoever has a certificate and no error."""
    found = tls_from_ssl_variables({"SSL_CLIENT_CERT": "x", **environ})
    assert found is not None
    assert "verified" in found["client_cert_error"]


@pytest.mark.spec("FR 108")
@given(
    st.fixed_dictionaries(
        {
            "server_cert": st.none() | st.just(CERTIFICATE),
            "tls_version": st.none() | st.integers(0, 0xFFFF),
            "cipher_suite": st.none() | st.integers(0, 0xFFFF),
        }
    ),
    st.lists(st.just(CERTIFICATE), min_size=1, max_size=3),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.none() | st.text(min_size=1),
)
def test_there_and_back(
    facts: dict[str, Any], chain: list[str], name: str, error: str | None
) -> None:
    """What WSGIToASGI says of a connection, ASGIToWSGI reads as the same."""
    sent = tls(**facts, client_cert_chain=chain, client_cert_name=name, client_cert_error=error)
    assert tls_from_ssl_variables(ssl_variables(sent)) == sent
