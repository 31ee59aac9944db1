"""One host process: a free port, a readiness request, a log file, a bounded stop."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import bridges

from .hosts import Host, Matrix
from .raw import CLIENT_SECONDS, Transport2

START_SECONDS = 30.0
STOP_SECONDS = 10.0


def make_certificate(directory: Path) -> tuple[str, str]:
    """Write a throwaway self-signed certificate for 127.0.0.1; give its two file names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certfile, keyfile = directory / "cert.pem", directory / "key.pem"
    certfile.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    keyfile.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(certfile), str(keyfile)


def child_environment(state: Path, apps_directory: Path) -> dict[str, str]:
    """Give a host's environment: our apps on the path, the tested ``bridges``, its own state."""
    # The copy of bridges under test, wherever it was installed: not the tree we stand in.
    package_root = Path(bridges.__file__).resolve().parent.parent
    return {
        **{name: value for name, value in os.environ.items() if name != "SCRIPT_NAME"},
        "PYTHONPATH": os.pathsep.join([str(apps_directory), str(package_root)]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "",
        "HOSTS_STATE": str(state),
    }


class Server:
    """A running (host, app) pair and a client for it."""

    def __init__(
        self, matrix: Matrix, host: Host, app: str, state: Path, certificate: tuple[str, str]
    ) -> None:
        self.matrix = matrix
        self.host = host
        self.app = app
        self.state = state
        self.log_path = state / "log.txt"
        self.certificate = certificate if host.http2 else None
        self.port = 0
        self.context: ssl.SSLContext | None = None
        if self.certificate:
            self.context = ssl.create_default_context(cafile=self.certificate[0])
            self.context.set_alpn_protocols(["h2"])
        self.process: subprocess.Popen[bytes] | None = None
        self.client: httpx.Client | None = None

    @property
    def scheme(self) -> str:
        return "https" if self.host.http2 else "http"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def logs(self, text: str) -> bool:
        """Wait until the log holds ``text``: some hosts write it after they have answered."""
        assert self.process
        for _ in range(100):
            if text in self.log:
                return True
            # Waiting for the exit that must not come is the pause between two looks.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.03)
        return False

    def start(self) -> None:
        """Start the process and wait until it answers; a lost race for the port is retried."""
        for _ in range(3):
            self.spawn()
            if self._ready():
                return
            self.stop()
        raise AssertionError(f"{self.host.name} does not serve {self.app}:\n{self.log}")

    def new_client(self, **options: object) -> httpx.Client:
        """Open a client with connections of its own."""
        return httpx.Client(
            base_url=f"{self.scheme}://127.0.0.1:{self.port}",
            transport=Transport2(self) if self.host.http2 else None,
            timeout=CLIENT_SECONDS,
            trust_env=False,
            headers=None if self.host.keeps_connections else {"Connection": "close"},
            **options,  # type: ignore[arg-type]  # httpx.Client's own options
        )

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """Ask the process to stop, kill it when it does not; give its exit code."""
        if self.client:
            self.client.close()
            self.client = None
        assert self.process
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            # What is left of the group that this harness made: workers of a killed master.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def spawn(self, port: int = 0) -> None:
        """Start the process on a port, or on a free one, and do not wait."""
        self.port = port
        if not port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        target = self.matrix.apps[self.app]
        argv = self.host.argv(target, self.port, self.certificate, self.state)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child_environment(self.state, self.matrix.apps_directory),
                cwd=self.state,
                start_new_session=True,
            )
        self.client = self.new_client()

    def _ready(self) -> bool:
        assert self.process and self.client
        give_up = datetime.datetime.now() + datetime.timedelta(seconds=START_SECONDS)
        while datetime.datetime.now() < give_up:
            try:
                self.client.get("/")
            except httpx.TransportError:
                # Waiting for the exit that must not come is the pause between two attempts.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.03)
                    return False
            else:
                return self.process.poll() is None
        return False
