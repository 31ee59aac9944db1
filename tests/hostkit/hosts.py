"""What a matrix of hosts and applications is made of.

A limit belongs to a host, names the one check it concerns, and carries the reason that
the table shows. The check still runs: it must fail, and with the words of ``sign``. A
host that starts to behave fails the run, so that the limit is taken out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Host:
    """One server in one configuration."""

    name: str
    # What is installed, for the versions under the table; "python" for the standard library.
    distribution: str
    # The arguments of ``python -m``.
    command: tuple[str, ...]
    http2: bool = False
    # Requests that it serves at once; 0 for as many as come.
    threads: int = 0
    # False for a server that closes after each answer without a word of it, which a client may run into.
    keeps_connections: bool = True

    def argv(
        self, target: str, port: int, certificate: tuple[str, str] | None, state: Path
    ) -> list[str]:
        """Give the command line that serves ``target`` on ``port`` of 127.0.0.1."""
        certfile, keyfile = certificate or ("", "")
        values = {"target": target, "port": port, "certfile": certfile, "keyfile": keyfile}
        return [*self.launcher(), *(part.format(**values) for part in self.command)]

    def launcher(self) -> list[str]:
        """Give what stands before the command."""
        return [sys.executable, "-m"]

    def missing(self) -> str:
        """Say what keeps the host from being installed here, and the remedy; "" when it is here."""
        return ""


@dataclass(frozen=True)
class Limit:
    """Something a host cannot do, whatever runs on it."""

    hosts: str
    check: str
    sign: str
    reason: str
    apps: str = ".*"

    def concerns(self, host: str, app: str, check: str) -> bool:
        """Say whether this limit speaks of ``check`` (a test's id without its cell)."""
        return bool(
            re.fullmatch(self.hosts, host)
            and re.fullmatch(self.apps, app)
            and re.fullmatch(self.check, check)
        )


@dataclass(frozen=True)
class Matrix:
    """Hosts x applications, and the words around their table."""

    # The folder of its tests.
    name: str
    title: str
    introduction: str
    columns: str
    hosts: tuple[Host, ...]
    # Column of the table -> the object that the host imports.
    apps: Mapping[str, str]
    limits: tuple[Limit, ...]
    apps_directory: Path
    # Distributions of the applications, for the versions under the table.
    distributions: tuple[str, ...]

    def host(self, name: str) -> Host:
        """Give the host of that name."""
        return next(host for host in self.hosts if host.name == name)
