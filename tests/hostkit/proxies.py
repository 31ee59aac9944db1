"""nginx and HAProxy in front of a server, as processes: the configurations of ``examples/deploy``, on loopback.

A proxy inherits its listening socket, so that its port is free and known before it starts, and a client that is quicker
than the proxy waits. Its files are in a folder of the test.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import trustme

ProxyName = Literal["nginx", "haproxy"]

EXAMPLES = Path(__file__).parents[2] / "examples" / "deploy"
HOST = "shop.example"
STOP_SECONDS = 10.0

# What is around a site that the distribution's nginx includes.
_NGINX = """
daemon off;
worker_processes 1;
pid nginx.pid;
{user}
events {{ worker_connections 512; }}
http {{
    access_log access.log;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include site.conf;
}}
"""
# [alert] and worse, and what nginx says of a server that did not answer.
_NGINX_COMPLAINT = re.compile(r"^.*\[(?:warn|error|crit|alert|emerg)\].*$", re.MULTILINE)
# The termination state of option httplog, where one end left too early.
_HAPROXY_COMPLAINT = re.compile(
    r"^.* (?:\d{3}|-1) \d+ - - (?!--)\S{4} .*$|^\[ALERT\].*$", re.MULTILINE
)


@dataclass
class Front:
    """A proxy that runs.

    Attributes:
        name: ``nginx`` or ``haproxy``.
        port: that it listens on, on 127.0.0.1.
        folder: where its files are.
        authority: certificates of the proxy are checked against it.
        expected: regular expressions of complaints that the test is about.
    """

    name: ProxyName
    port: int
    folder: Path
    authority: trustme.CA
    expected: list[str] = field(default_factory=list)

    @property
    def log(self) -> str:
        """What it wrote: errors of nginx, everything of HAProxy."""
        return (self.folder / "log.txt").read_text(errors="replace")

    def complaints(self) -> list[str]:
        """Give what it wrote of failures, those that are expected left out."""
        pattern = _NGINX_COMPLAINT if self.name == "nginx" else _HAPROXY_COMPLAINT
        lines = [found[0] for found in pattern.finditer(self.log)]
        return [line for line in lines if not any(re.search(each, line) for each in self.expected)]

    def context(self) -> ssl.SSLContext:
        """Give what a client needs that trusts the proxy's certificate."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


def changed(text: str, changes: Mapping[str, str]) -> str:
    """Put other words into an example, each of which must be there once."""
    for old, new in changes.items():
        assert text.count(old) == 1, f"the example has {text.count(old)} times {old!r}"
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def in_front(
    name: ProxyName,
    folder: Path,
    upstreams: Sequence[str],
    changes: Mapping[str, str] | None = None,
) -> Iterator[Front]:
    """Run a proxy by the example's configuration; it must have had nothing to complain of at the end.

    Args:
        name: which.
        folder: for its files.
        upstreams: ``127.0.0.1:PORT`` or the path of a unix socket; one for nginx, one or two for HAProxy.
        changes: further ones to the example.
    """
    find(name)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        front = Front(name, listening.getsockname()[1], folder, trustme.CA())
        certificate = front.authority.issue_cert(HOST, "127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / "shop.pem")
        start = _start_nginx if name == "nginx" else _start_haproxy
        process = start(front, listening, upstreams, changes or {})
        listening.close()  # so that nobody waits for a proxy that has failed
        try:
            yield front
        finally:
            _stop(process)
    assert front.complaints() == []


def find(name: ProxyName) -> str:
    """Give the path of a proxy's program; where there is none, skip the test, or fail it on CI."""
    # Debian keeps both in a directory that is not on everybody's path.
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"{name} is not installed: apt-get install nginx-light haproxy")
    return found


def _start_nginx(
    front: Front, listening: socket.socket, upstreams: Sequence[str], changes: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    (upstream,) = upstreams
    site = changed(
        (EXAMPLES / "nginx.conf").read_text(),
        {
            "unix:/run/shop.sock": upstream if ":" in upstream else f"unix:{upstream}",
            "listen 443 ssl;": f"listen 127.0.0.1:{front.port} ssl;",
            "/etc/nginx/shop.pem": str(front.folder / "shop.pem"),
            "/etc/nginx/shop.key": str(front.folder / "shop.pem"),
            **changes,
        },
    )
    (front.folder / "site.conf").write_text(site)
    # Workers of root become another user, who may not go into the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    (front.folder / "nginx.conf").write_text(_NGINX.format(user=user))
    words = [find("nginx"), "-p", str(front.folder), "-c", "nginx.conf", "-e", "log.txt"]
    # As nginx passes its sockets to the binary that takes its place.
    return _spawn(front, words, listening, {"NGINX": f"{listening.fileno()};"})


def _start_haproxy(
    front: Front, listening: socket.socket, upstreams: Sequence[str], changes: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    one, two = (*upstreams, "")[:2]
    config = changed(
        (EXAMPLES / "haproxy.cfg").read_text(),
        {
            "maxconn 10000": "maxconn 200",  # as far as the descriptors of any machine go
            "bind :443": f"bind fd@{listening.fileno()}",
            "/etc/haproxy/shop.pem": str(front.folder / "shop.pem"),
            "server one 127.0.0.1:8001": f"server one {one}",
            "server two 127.0.0.1:8002": f"server two {two}" if two else "",
            **changes,
        },
    )
    (front.folder / "haproxy.cfg").write_text(config)
    return _spawn(front, [find("haproxy"), "-db", "-f", "haproxy.cfg"], listening, {})


def _spawn(
    front: Front, words: Sequence[str], listening: socket.socket, variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    with (front.folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log if front.name == "haproxy" else subprocess.DEVNULL,
            stderr=log,
            cwd=front.folder,
            env={"PATH": os.environ["PATH"], **variables},
            pass_fds=[listening.fileno()],
            start_new_session=True,
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
