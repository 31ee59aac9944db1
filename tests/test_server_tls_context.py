"""``bridges.server.tls``: real certificates, and real handshakes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import importlib.util
import os
import pty
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st

from bridges.errors import ConfigError
from bridges.server.config import Config
from bridges.server.tls import (
    distinguished_name,
    make_context,
    server_certificate,
    tls_extension,
)
from bridges.translate.tls import ssl_variables

PASSWORD = "sésame"
SUBJECT = r"CN=ann,OU=Sales,O=Shop\, Inc."


@dataclass(frozen=True)
class Files:
    """PEM files: a server's certificate with its key, and others that are wrong for it.

    Clients' certificates have an authority of their own: OpenSSL adds one that the client knows to what it sends.
    """

    folder: Path
    ca: trustme.CA
    server: trustme.LeafCert
    client_ca: trustme.CA

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def write(self, name: str, *parts: bytes) -> str:
        (self.folder / name).write_bytes(b"".join(parts))
        return self.path(name)


def encrypted(leaf: trustme.LeafCert, form: serialization.PrivateFormat) -> bytes:
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    cipher = serialization.BestAvailableEncryption(PASSWORD.encode())
    return key.private_bytes(serialization.Encoding.PEM, form, cipher)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    ca = trustme.CA()
    server = ca.issue_cert("127.0.0.1")
    made = Files(tmp_path_factory.mktemp("tls"), ca, server, trustme.CA())
    chain = b"".join(each.bytes() for each in server.cert_chain_pems)
    key = server.private_key_pem.bytes()
    pkcs8 = encrypted(server, serialization.PrivateFormat.PKCS8)
    made.write("both.pem", key, chain)
    made.write("chain.pem", chain)
    made.write("key.pem", key)
    made.write("key-pkcs8.pem", pkcs8)
    made.write("key-pem.pem", encrypted(server, serialization.PrivateFormat.TraditionalOpenSSL))
    made.write("both-encrypted.pem", chain, pkcs8)
    made.write("other-key.pem", ca.issue_cert("127.0.0.1").private_key_pem.bytes())
    rsa = ca.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA)
    made.write("rsa.pem", rsa.private_key_and_cert_chain_pem.bytes())
    made.write("rsa-key.pem", rsa.private_key_pem.bytes())
    made.write("ca.pem", made.client_ca.cert_pem.bytes())
    made.write("other-ca.pem", trustme.CA().cert_pem.bytes())
    made.write("junk.pem", b"not PEM at all\n")
    made.write("empty.pem")
    made.write("cut.pem", chain[:200])
    made.write("damaged.pem", chain.replace(chain[100:140], b"A" * 40))
    made.write("cut-key.pem", key[:100])
    (made.folder / "folder").mkdir()
    return made


def context_of(files: Files, **options: Any) -> ssl.SSLContext:
    """Make a context; paths are names in the folder."""
    for option in ("certfile", "keyfile", "client_ca"):
        if option in options:
            options[option] = files.path(options[option])
    context = make_context(Config(**{"certfile": files.path("both.pem"), **options}))
    assert context is not None
    return context


def fault(files: Files, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        context_of(files, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence.replace(f"{files.folder}/", "")


def client_context(files: Files, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    files.ca.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


def client_certificate(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert(
        "ann@example.com",
        common_name="ann",
        organization_name="Shop, Inc.",
        organization_unit_name="Sales",
    )


@contextlib.contextmanager
def connected(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """Connect over loopback, and give both ends with their handshake complete.

    Raises:
        ssl.SSLError: the server's, where it refused.
    """

    def accept() -> ssl.SSLSocket:
        plain, _ = listener.accept()
        plain.settimeout(10)
        try:
            end = server.wrap_socket(plain, server_side=True)
            end.sendall(b"!")  # a client of TLS 1.3 takes session tickets when it reads
        except ssl.SSLError:
            plain.close()
            raise
        return end

    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(10)
        thread = opened.enter_context(ThreadPoolExecutor(1))
        accepted = thread.submit(accept)
        plain = opened.enter_context(socket.create_connection(listener.getsockname(), 10))
        end: ssl.SSLSocket | None = None
        try:
            end = client.wrap_socket(plain, server_hostname="127.0.0.1", session=session)
            opened.enter_context(end)
            end.recv(1)
        except OSError:
            # The server's own error says more; without one, this is it.
            accepted.result(10)
            raise
        yield opened.enter_context(accepted.result(10)), end


def extension_of(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    with connected(server, client) as (end, _):
        return tls_extension(end, None)


# The context


@pytest.mark.spec("issue 4", "section 4")
def test_without_certificate() -> None:
    """TLS is off."""
    assert make_context(Config()) is None


@pytest.mark.spec("issue 4", "section 4")
@pytest.mark.parametrize(
    "options",
    [
        {"certfile": "both.pem"},
        {"certfile": "chain.pem", "keyfile": "key.pem"},
        {"certfile": "both.pem", "keyfile": "key.pem", "keyfile_password": "not needed"},
        {"certfile": "chain.pem", "keyfile": "key-pkcs8.pem", "keyfile_password": PASSWORD},
        {"certfile": "chain.pem", "keyfile": "key-pem.pem", "keyfile_password": PASSWORD},
        {"certfile": "both-encrypted.pem", "keyfile_password": PASSWORD},
        {"certfile": "rsa.pem"},
    ],
)
def test_certificate_and_key(files: Files, options: dict[str, str]) -> None:
    """Each way to give them serves a client that verifies the certificate."""
    with connected(context_of(files, **options), client_context(files)) as (_, client):
        assert client.getpeercert()


@pytest.mark.spec("RFC 9325", "section 3.1.1")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(files: Files, version: ssl.TLSVersion) -> None:
    """TLS 1.2 and 1.3 are spoken, and the application learns which."""
    client = client_context(files)
    client.minimum_version = client.maximum_version = version
    assert extension_of(context_of(files), client)["tls_version"] == version


@pytest.mark.spec("RFC 9325", "section 3.1.1")
def test_older_versions(files: Files) -> None:
    """Nothing below TLS 1.2 is spoken, and a client cannot renegotiate."""
    context = context_of(files)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    client = client_context(files)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or the security level alone would refuse it
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported protocol"):
        extension_of(context, client)


@pytest.mark.spec("RFC 7301")
@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None), ([], None)],
)
def test_alpn(files: Files, offered: list[str], chosen: str | None) -> None:
    """HTTP/1.1 is what a client is told that it gets; one that does not ask gets it too."""
    client = client_context(files)
    if offered:
        client.set_alpn_protocols(offered)
    with connected(context_of(files), client) as (end, _):
        assert end.selected_alpn_protocol() == chosen


@pytest.mark.spec("issue 4", "section 4")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"certfile": "missing.pem"},
            "certfile 'missing.pem' cannot be read (No such file or directory): "
            "name a PEM file that this process may read",
        ),
        (
            {"certfile": "chain.pem", "keyfile": "missing.pem"},
            "keyfile 'missing.pem' cannot be read (No such file or directory): "
            "name a PEM file that this process may read",
        ),
        (
            {"client_ca": "missing.pem", "client_certificate": "required"},
            "client_ca 'missing.pem' cannot be read (No such file or directory): "
            "name a PEM file that this process may read",
        ),
        (
            {"certfile": "folder"},
            "certfile 'folder' cannot be read (Is a directory): "
            "name a PEM file that this process may read",
        ),
        (
            {"certfile": "chain.pem", "keyfile": "a\0b"},
            "keyfile 'a\\x00b' cannot be read (embedded null byte): "
            "name a PEM file that this process may read",
        ),
        (
            {"certfile": "chain.pem", "keyfile": "other-key.pem"},
            "the private key in keyfile other-key.pem does not belong to the certificate in chain.pem: "
            "name the one that does",
        ),
        (
            {"certfile": "chain.pem", "keyfile": "rsa-key.pem"},
            "the private key in keyfile rsa-key.pem does not belong to the certificate in chain.pem: "
            "name the one that does",
        ),
        (
            {"certfile": "chain.pem", "keyfile": "key-pkcs8.pem"},
            "the private key in keyfile key-pkcs8.pem is encrypted: give keyfile_password",
        ),
        (
            {"certfile": "both-encrypted.pem"},
            "the private key in certfile both-encrypted.pem is encrypted: give keyfile_password",
        ),
        (
            {"certfile": "chain.pem", "keyfile": "key-pkcs8.pem", "keyfile_password": "wrong"},
            "keyfile_password does not open the private key in keyfile key-pkcs8.pem: give the right one",
        ),
        (
            {"certfile": "chain.pem", "keyfile": "key-pem.pem", "keyfile_password": "wrong"},
            "keyfile_password does not open the private key in keyfile key-pem.pem: give the right one",
        ),
        (
            {"certfile": "both-encrypted.pem", "keyfile_password": ""},
            "keyfile_password does not open the private key in certfile both-encrypted.pem: "
            "give the right one",
        ),
        (
            {"certfile": "chain.pem", "keyfile": "key-pem.pem", "keyfile_password": "x" * 1025},
            "keyfile_password cannot be used: password cannot be longer than 1024 bytes",
        ),
        (
            {"certfile": "chain.pem"},
            "certfile chain.pem holds no usable private key: name the PEM file that does as keyfile",
        ),
        (
            {"certfile": "chain.pem", "keyfile": "junk.pem"},
            "keyfile junk.pem is damaged or holds no private key: name a PEM file that does",
        ),
        (
            {"certfile": "chain.pem", "keyfile": "cut-key.pem"},
            "keyfile cut-key.pem is damaged or holds no private key: name a PEM file that does",
        ),
        *(
            (
                {"certfile": name, "keyfile": "key.pem"},
                f"certfile {name} is damaged or holds no certificate: "
                "name a PEM file with the certificate first",
            )
            for name in ("junk.pem", "empty.pem", "cut.pem", "damaged.pem", "key.pem")
        ),
        *(
            (
                {"client_ca": name, "client_certificate": "optional"},
                f"client_ca {name} is damaged or holds no certificate: "
                "name a PEM file with those of the authorities",
            )
            for name in ("junk.pem", "empty.pem", "cut.pem", "damaged.pem", "key.pem")
        ),
        (
            {"client_ca": "ca.pem"},
            "client_certificate and client_ca need each other: one says whether clients are asked for a certificate,"
            " the other what it is checked against",
        ),
    ],
)
def test_faults(files: Files, options: dict[str, str], sentence: str) -> None:
    """Each mistake is one sentence, which names the file and what to do."""
    assert fault(files, **options) == sentence


@pytest.mark.spec("issue 4", "section 4")
def test_weak_certificate(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenSSL refuses for another reason is told with that reason."""

    def load(self: Any, *arguments: Any) -> None:
        error = ssl.SSLError(399, "[SSL: EE_KEY_TOO_SMALL] ee key too small")
        error.reason = "EE_KEY_TOO_SMALL"
        raise error

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load)
    assert fault(files) == (
        "OpenSSL refuses the certificate in both.pem (ee key too small): name a stronger one"
    )


PROMPT = """
import os, sys
os.close(os.open(sys.argv[1], os.O_RDWR))  # a session's leader without a terminal gets this one
from bridges.errors import ConfigError
from bridges.server.config import Config
from bridges.server.tls import make_context
open("/dev/tty").close()
try:
    make_context(Config(certfile=sys.argv[2]))
except ConfigError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.spec("issue 4", "section 4")
def test_no_question_on_the_terminal(files: Files) -> None:
    """A key that needs a password stops the start, also where somebody could be asked for it."""
    ours, theirs = pty.openpty()
    path = files.path("both-encrypted.pem")
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROMPT, os.ttyname(theirs), path],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=15,
            check=True,
        )
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 100)
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.stderr == ""
    assert done.stdout == (
        f"the private key in certfile {path} is encrypted: give keyfile_password\n"
    )


# Client certificates


@pytest.mark.spec("ASGI TLS 0.2", "client_cert_chain")
@pytest.mark.parametrize("options", [{}, {"client_ca": "ca.pem", "client_certificate": "optional"}])
def test_client_without_certificate(files: Files, options: dict[str, str]) -> None:
    """It is served, and the extension says that there is none."""
    extension = extension_of(context_of(files, **options), client_context(files))
    assert extension["client_cert_chain"] == []
    assert extension["client_cert_name"] is None
    assert extension["client_cert_error"] is None


@pytest.mark.spec("ASGI TLS 0.2", "client_cert_chain")
def test_certificate_that_nobody_asked_for(files: Files) -> None:
    """A server that does not ask learns nothing of a client's certificate."""
    client = client_context(files, client_certificate(files.client_ca))
    assert extension_of(context_of(files), client)["client_cert_chain"] == []


@pytest.mark.spec("ASGI TLS 0.2", "client_cert_name")
@pytest.mark.parametrize("mode", ["optional", "required"])
def test_client_certificate(files: Files, mode: str) -> None:
    """A verified certificate reaches the application, as PEM, with its subject."""
    certificate = client_certificate(files.client_ca)
    server = context_of(files, client_ca="ca.pem", client_certificate=mode)
    extension = extension_of(server, client_context(files, certificate))
    assert extension["client_cert_chain"] == [certificate.cert_chain_pems[0].bytes().decode()]
    # As the library writes it that made the certificate.
    subject = x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes()).subject
    assert extension["client_cert_name"] == subject.rfc4514_string()
    assert extension["client_cert_name"] == SUBJECT
    assert extension["client_cert_error"] is None


@pytest.mark.spec("FR 108")
def test_wsgi_applications_learn_of_it(files: Files) -> None:
    """The extension becomes the variables that applications behind mod_ssl decide on."""
    server = context_of(files, client_ca="ca.pem", client_certificate="required")
    client = client_context(files, client_certificate(files.client_ca))
    variables = ssl_variables(extension_of(server, client))
    assert variables["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert variables["SSL_PROTOCOL"] == "TLSv1.3"


@pytest.mark.spec("issue 4", "section 4")
def test_client_certificate_is_required(files: Files) -> None:
    """A client without one is refused in the handshake."""
    server = context_of(files, client_ca="ca.pem", client_certificate="required")
    with pytest.raises(ssl.SSLError, match=r"(?i)peer did not return a certificate"):
        extension_of(server, client_context(files))


@pytest.mark.spec("ASGI TLS 0.2", "client_cert_error")
@pytest.mark.parametrize("mode", ["optional", "required"])
def test_certificate_of_another_authority(files: Files, mode: str) -> None:
    """It is refused in the handshake, also where none would do."""
    server = context_of(files, client_ca="other-ca.pem", client_certificate=mode)
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate verify failed"):
        extension_of(server, client_context(files, client_certificate(files.client_ca)))


@pytest.mark.spec("ASGI TLS 0.2", "client_cert_chain")
@pytest.mark.parametrize("root_sent", [False, True])
def test_chain(files: Files, root_sent: bool) -> None:
    """What the client sent follows its own certificate as far as it leads to the authority."""
    middle = files.client_ca.create_child_ca()
    leaf = client_certificate(middle)
    sent = [each.bytes() for each in leaf.cert_chain_pems]
    assert len(sent) == 2
    if root_sent:
        sent.append(files.client_ca.cert_pem.bytes())
    unrelated = trustme.CA().cert_pem.bytes()
    path = files.write("client.pem", leaf.private_key_pem.bytes(), *sent, unrelated)
    client = client_context(files)
    client.load_cert_chain(path)
    server = context_of(files, client_ca="ca.pem", client_certificate="required")
    extension = extension_of(server, client)
    expected = sent if sys.version_info >= (3, 13) else sent[:1]
    assert extension["client_cert_chain"] == [each.decode() for each in expected]


@pytest.mark.spec("ASGI TLS 0.2", "client_cert_chain")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_resumed_session(files: Files, version: ssl.TLSVersion) -> None:
    """A client that comes back without a whole handshake is still known."""
    certificate = client_certificate(files.client_ca)
    server = context_of(files, client_ca="ca.pem", client_certificate="required")
    client = client_context(files, certificate)
    client.minimum_version = client.maximum_version = version
    with connected(server, client) as (_, end):
        session = end.session
    with connected(server, client, session) as (end, again):
        assert again.session_reused
        extension = tls_extension(end, None)
    assert extension["client_cert_chain"] == [certificate.cert_chain_pems[0].bytes().decode()]
    assert extension["client_cert_name"] == SUBJECT


# What else the extension says


@pytest.mark.spec("ASGI TLS 0.2", "cipher_suite")
@pytest.mark.parametrize(
    ("certfile", "name", "number"),
    [
        ("both.pem", "ECDHE-ECDSA-AES128-GCM-SHA256", 0xC02B),
        ("both.pem", "ECDHE-ECDSA-AES256-GCM-SHA384", 0xC02C),
        ("both.pem", "ECDHE-ECDSA-CHACHA20-POLY1305", 0xCCA9),
        ("both.pem", "ECDHE-ECDSA-AES256-SHA384", 0xC024),
        ("rsa.pem", "ECDHE-RSA-AES128-GCM-SHA256", 0xC02F),
        ("rsa.pem", "ECDHE-RSA-AES128-SHA256", 0xC027),
    ],
)
def test_suites_of_tls_1_2(files: Files, certfile: str, name: str, number: int) -> None:
    """The number is IANA's, for every suite that the context allows."""
    client = client_context(files)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(name)
    with connected(context_of(files, certfile=certfile), client) as (end, _):
        cipher = end.cipher()
        assert cipher is not None
        assert cipher[0] == name
        assert tls_extension(end, None)["cipher_suite"] == number


@pytest.mark.spec("ASGI TLS 0.2", "cipher_suite")
def test_suites_of_tls_1_3(files: Files) -> None:
    """Those of TLS 1.3 are numbered too (RFC 8446 appendix B.4)."""
    numbers = {
        "TLS_AES_128_GCM_SHA256": 0x1301,
        "TLS_AES_256_GCM_SHA384": 0x1302,
        "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
    }
    with connected(context_of(files), client_context(files)) as (end, client):
        cipher = client.cipher()
        assert cipher is not None
        assert tls_extension(end, None)["cipher_suite"] == numbers[cipher[0]]


@pytest.mark.spec("ASGI TLS 0.2", "TLS Connection Scope")
def test_connection_of_which_nothing_is_known() -> None:
    """Version and suite are None where the library does not tell them."""

    class Silent:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        name: Any = None

        def getpeercert(self, binary_form: bool = False) -> None:
            return None

        def version(self) -> Any:
            return self.name

        def cipher(self) -> Any:
            return self.name and (self.name, self.name, 1)

    silent: Any = Silent()
    expected: dict[str, Any] = {
        "server_cert": "PEM",
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": None,
        "cipher_suite": None,
    }
    assert tls_extension(silent, "PEM") == expected
    silent.name = "TLSv9.9"
    assert tls_extension(silent, "PEM") == expected


@pytest.mark.spec("ASGI TLS 0.2", "server_cert")
@pytest.mark.parametrize("certfile", ["both.pem", "chain.pem", "both-encrypted.pem"])
def test_server_certificate(files: Files, certfile: str) -> None:
    """It is the one that a client sees, wherever it stands in the file."""
    with connected(context_of(files), client_context(files)) as (end, client):
        seen = client.getpeercert(binary_form=True)
        assert seen is not None
        expected = ssl.DER_cert_to_PEM_cert(seen)
        cert = server_certificate(files.path(certfile))
        assert cert == expected
        assert tls_extension(end, cert)["server_cert"] == expected


@pytest.mark.spec("ASGI TLS 0.2", "server_cert")
def test_server_certificate_in_other_forms(files: Files) -> None:
    """Text around it, other line ends and the old label do not matter; OpenSSL's own form has more than was sent."""
    plain = files.server.cert_chain_pems[0].bytes()
    other = files.ca.cert_pem.bytes()
    expected = plain.decode()
    commented = files.write("commented.pem", "Subject: Zoë\n".encode(), plain, other)
    assert server_certificate(commented) == expected
    assert server_certificate(files.write("crlf.pem", plain.replace(b"\n", b"\r\n"))) == expected
    old = plain.replace(b" CERTIFICATE-", b" X509 CERTIFICATE-")
    assert server_certificate(files.write("old.pem", old, other)) == expected
    trusted = plain.replace(b" CERTIFICATE-", b" TRUSTED CERTIFICATE-")
    assert server_certificate(files.write("trusted.pem", trusted, other)) is None


# Names


@pytest.mark.spec("RFC 4514", "section 4")
@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ((), ""),
        (
            (
                (("domainComponent", "net"),),
                (("domainComponent", "example"),),
                (("userId", "jsmith"),),
            ),
            "UID=jsmith,DC=example,DC=net",
        ),
        (
            (
                (("domainComponent", "net"),),
                (("organizationalUnitName", "Sales"), ("commonName", "J.  Smith")),
            ),
            "OU=Sales+CN=J.  Smith,DC=net",
        ),
        (
            ((("commonName", 'James "Jim" Smith, III'),),),
            r"CN=James \"Jim\" Smith\, III",
        ),
        (((("commonName", "Before\rAfter"),),), r"CN=Before\0DAfter"),
        (((("commonName", "Lu\u010di\u0107"),),), "CN=Lu\u010di\u0107"),
        (((("1.3.6.1.4.1.1466.0", "Hi"),),), "1.3.6.1.4.1.1466.0=#0c024869"),
        (((("1.2.3", "x" * 200),),), "1.2.3=#0c81c8" + "78" * 200),
        (((("1.2.3", "x" * 300),),), "1.2.3=#0c82012c" + "78" * 300),
        (((("emailAddress", "a@b"),), (("surname", "S"),)), "sn=S,emailAddress=a@b"),
        (((("commonName", "#1"),), (("commonName", " "),)), r"CN=\ ,CN=\#1"),
        (((("commonName", " a b "),),), r"CN=\ a b\ "),
        (((("commonName", "a\0b\\c+d;e<f>g=h#"),),), r"CN=a\00b\\c\+d\;e\<f\>g=h#"),
        (((("commonName", "a \n"),),), r"CN=a \0A"),
    ],
)
def test_distinguished_name(subject: Any, name: str) -> None:
    """The examples of the RFC, and what may not stand as it is."""
    assert distinguished_name(subject) == name


TYPES = {
    "commonName": NameOID.COMMON_NAME,
    "localityName": NameOID.LOCALITY_NAME,
    "organizationName": NameOID.ORGANIZATION_NAME,
    "organizationalUnitName": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "stateOrProvinceName": NameOID.STATE_OR_PROVINCE_NAME,
    "streetAddress": NameOID.STREET_ADDRESS,
    "userId": NameOID.USER_ID,
}


@pytest.mark.slow
@pytest.mark.spec("RFC 4514", "section 2")
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(sorted(TYPES)),
                # Printable, because the library that reads it takes no control characters.
                st.text(
                    st.characters(min_codepoint=32, exclude_categories=["C"]),
                    min_size=1,
                    max_size=20,
                ),
            ),
            min_size=1,
            max_size=2,
            unique_by=lambda pair: pair[0],
        ),
        max_size=4,
    )
)
def test_name_is_read_back(subject: list[list[tuple[str, str]]]) -> None:
    """Another reader finds the attributes again: no value can pass for an attribute of its own."""
    read = x509.Name.from_rfc4514_string(distinguished_name(subject))
    expected = [
        x509.RelativeDistinguishedName(
            x509.NameAttribute(TYPES[kind], value) for kind, value in each
        )
        for each in subject
    ]
    assert list(read.rdns) == expected


@pytest.mark.spec("RFC 4514", "section 2.4")
def test_attribute_that_openssl_does_not_know(files: Files) -> None:
    """In a real certificate such a type is a number."""
    oid = "1.3.6.1.4.1.55555.1"
    certificate, key = _self_signed(
        x509.Name(
            [
                x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
                x509.NameAttribute(ObjectIdentifier(oid), "Zoë"),
                x509.NameAttribute(NameOID.SERIAL_NUMBER, "7"),
            ]
        )
    )
    path = files.write("self-signed.pem", certificate, key)
    client = client_context(files)
    client.load_cert_chain(path)
    server = context_of(files, client_ca="self-signed.pem", client_certificate="required")
    extension = extension_of(server, client)
    assert extension["client_cert_name"] == f"serialNumber=7,{oid}=#0c045a6fc3ab,C=DE"


def _self_signed(subject: x509.Name) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


# In a loop

LOOPS: list[Any] = [pytest.param(asyncio.new_event_loop, id="asyncio")]
if importlib.util.find_spec("uvloop"):
    import uvloop

    LOOPS.append(pytest.param(uvloop.new_event_loop, id="uvloop"))


@pytest.mark.spec("issue 4", "section 4")
@pytest.mark.parametrize("new_loop", LOOPS)
def test_in_a_loop(files: Files, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """The loop's own TLS object tells the same."""
    certificate = client_certificate(files.client_ca)
    server_context = context_of(files, client_ca="ca.pem", client_certificate="required")

    class Tell(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            told.set_result(tls_extension(transport.get_extra_info("ssl_object"), "PEM"))
            transport.close()

    async def talk() -> dict[str, Any]:
        server = await loop.create_server(Tell, "127.0.0.1", 0, ssl=server_context)
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context(files, certificate)
        )
        extension: dict[str, Any] = await asyncio.wait_for(told, 10)
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return extension

    loop = new_loop()
    try:
        told = loop.create_future()
        extension = loop.run_until_complete(talk())
    finally:
        loop.close()
    assert extension == {
        "server_cert": "PEM",
        "client_cert_chain": [certificate.cert_chain_pems[0].bytes().decode()],
        "client_cert_name": SUBJECT,
        "client_cert_error": None,
        "tls_version": 0x0304,
        "cipher_suite": extension["cipher_suite"],
    }
    assert extension["cipher_suite"] in (0x1301, 0x1302, 0x1303)
