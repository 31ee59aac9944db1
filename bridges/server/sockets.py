"""Listening sockets: inherited, unix and TCP, opened before there is an event loop.

Law: whoever gets a socket from here can hand it to a loop as it is. It is bound, it listens (so that an address in
use is known before the application starts; clients wait in the backlog until the loop accepts), it does not block,
and programs that the application starts do not inherit it. What is wrong with an address is said in one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from ..errors import ConfigError
from .config import Config

Address: TypeAlias = tuple[socket.AddressFamily, tuple[Any, ...]]

_log = logging.getLogger("bridges.server")

# sd_listen_fds(3): descriptors are passed from this one on; whoever takes them unsets the variables.
_FIRST_DESCRIPTOR: Final = 3
_SYSTEMD_VARIABLES: Final = ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES")

# sun_path of unix(7), less its NUL; BSD's is four bytes shorter.
_LONGEST_UNIX_PATH: Final = 107 if sys.platform == "linux" else 103

# How often a free port is looked for that is free for all addresses of the host.
_PORT_TRIES: Final = 20

# What IPv6 is answered where the system has it switched off, although names still resolve to it.
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


@dataclass(frozen=True)
class _SocketFile:
    """A unix socket's file, known by its inode: a file that took its place is not it."""

    path: str
    identity: tuple[int, int]

    @classmethod
    def at(cls, path: str) -> _SocketFile:
        found = os.lstat(path)
        # Absolute, because the application may change the working directory.
        return cls(os.path.abspath(path), (found.st_dev, found.st_ino))

    def remove(self) -> None:
        try:
            if _SocketFile.at(self.path) == self:
                os.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            # Nothing is lost: the next start finds that nobody listens there, and replaces it.
            _log.warning("cannot remove unix socket %s: %s", self.path, error.strerror)


class Listeners:
    """Sockets that listen, and the file of the one that has one.

    Attributes:
        sockets: at least one, in the order of the host's addresses. An ``asyncio`` server may close them.
        addresses: where each is reached: ``http://127.0.0.1:8000``, ``https://[::1]:8000``, ``unix:/run/app.sock``.
    """

    def __init__(
        self, sockets: Sequence[socket.socket], scheme: str, file: _SocketFile | None = None
    ) -> None:
        self.sockets: Final = tuple(sockets)
        self.addresses: Final = tuple(_address_text(each, scheme) for each in sockets)
        self._file = file

    def close(self) -> None:
        """Remove the unix socket's file, if it is still the one that was made, and close the sockets.

        Any thread may call it, more than once. A file of an inherited socket belongs to whoever made it and stays.
        """
        # The file goes first: as long as the socket is open, its inode's number is not given to another file.
        file, self._file = self._file, None
        if file is not None:
            file.remove()
        for each in self.sockets:
            each.close()


def open_sockets(config: Config, environment: MutableMapping[str, str] = os.environ) -> Listeners:
    """Open what the server listens on.

    An address that was typed as an exception wins: ``unix_socket`` or ``fd``; then the sockets that systemd passed
    to this process; then ``host`` and ``port``, which always have a value and so cannot say that they were meant.

    - ``unix_socket``: a file of a socket on which nobody listens is replaced; anything else there stays.
    - ``fd``: taken over, and closed by ``Listeners.close()``.
    - LISTEN_FDS: likewise, all of them; the variables are removed from ``environment``.
    - ``host``: every address that the name has, each IP version on a socket of its own; ``""`` and ``*`` are all
      addresses of the machine. With port 0 they share one free port.

    Args:
        config: the options host, port, unix_socket, unix_mode, fd, backlog and certfile (for the scheme) are read.
        environment: where systemd's variables are.

    Raises:
        ConfigError: an address cannot be had; what was opened before it is closed again.

    Source:
        sd_listen_fds(3); unix(7); RFC 3493 section 5.3 (IPV6_V6ONLY).
    """
    scheme = "https" if config.certfile else "http"
    if config.unix_socket is not None:
        sock, file = _open_unix(config.unix_socket, config.unix_mode, config.backlog)
        return Listeners([sock], scheme, file)
    if config.fd is not None:
        return Listeners([_take_over(config.fd, f"fd {config.fd}")], scheme)
    passed = _from_systemd(environment)
    return Listeners(passed or _open_tcp(config.host, config.port, config.backlog), scheme)


# Inherited descriptors


def _from_systemd(environment: MutableMapping[str, str]) -> list[socket.socket]:
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []  # meant for a parent that did not unset them
    count = environment.get("LISTEN_FDS", "0")
    for name in _SYSTEMD_VARIABLES:
        environment.pop(name, None)
    if not (count.isascii() and count.isdigit()):
        raise ConfigError(
            f"LISTEN_FDS must be the number of sockets passed, got {count!r:.80}: "
            "unset it to listen on host and port"
        )
    with contextlib.ExitStack() as opened:
        sockets = [
            opened.enter_context(_take_over(number, f"descriptor {number} of LISTEN_FDS"))
            for number in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count))
        ]
        opened.pop_all()
    return sockets


def _take_over(number: int, name: str) -> socket.socket:
    """Make a socket of a descriptor; one that is refused stays as it was."""
    try:
        sock = socket.socket(fileno=number)
    except OSError as error:
        fault = "not open" if error.errno == errno.EBADF else "not a socket"
        raise ConfigError(
            f"{name} is {fault}: pass a socket that listens to this process"
        ) from error
    if sock.type != socket.SOCK_STREAM or not _listens(sock):
        sock.detach()
        raise ConfigError(
            f"{name} is not a stream socket that listens: pass one on which listen() was called "
            "(ListenStream= and Accept=no in a systemd unit)"
        )
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def _listens(sock: socket.socket) -> bool:
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return True  # POSIX lets a system not know; the loop calls listen() once more and finds out


# Unix sockets


def _open_unix(path: str, mode: int, backlog: int) -> tuple[socket.socket, _SocketFile]:
    _check_unix_path(path)
    with contextlib.ExitStack() as opened:
        sock = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            _bind_unix(sock, path)
            file = _SocketFile.at(path)
            opened.callback(file.remove)
            # Nobody can connect before listen(), so the mode is in force for the first client. A umask would do too,
            # but it is the whole process's: files that other threads make meanwhile would get it.
            os.chmod(path, mode)
            sock.listen(backlog)
        except OSError as error:
            raise ConfigError(_unix_fault(path, error)) from error
        sock.setblocking(False)
        opened.pop_all()
    return sock, file


def _check_unix_path(path: str) -> None:
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError("unix_socket needs a system that has them: take host and port instead")
    if not path or "\0" in path:
        # To the system both are something else: a name that it makes up, and a path cut short.
        raise ConfigError(f"unix_socket must be the path of a file, got {path!r:.80}")
    length = len(os.fsencode(path))
    if length > _LONGEST_UNIX_PATH:
        raise ConfigError(
            f"unix_socket has {length} bytes, more than the {_LONGEST_UNIX_PATH} that the system allows: "
            "take a shorter path, or a relative one"
        )


def _bind_unix(sock: socket.socket, path: str) -> None:
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        _remove_stale(path)
        sock.bind(path)


def _remove_stale(path: str) -> None:
    """Remove the file of a socket on which nobody listens, which a server that was killed leaves behind.

    Raises:
        ConfigError: it is not a socket, or somebody listens, or that cannot be found out.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError(
                f"{path} exists and is not a socket, so it is left alone: name another unix_socket"
            )
        file = _SocketFile.at(path)
    except FileNotFoundError:
        return  # removed meanwhile
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A listener whose backlog is full would let a blocking probe wait.
        probe.setblocking(False)
        code = probe.connect_ex(path)
    if code in (0, errno.EAGAIN):
        raise ConfigError(_unix_in_use(path))
    if code == errno.ECONNREFUSED:
        file.remove()
    elif code != errno.ENOENT:
        raise ConfigError(
            f"unix socket {path} exists, and whether it is in use cannot be found out "
            f"({os.strerror(code)}): remove it, or name another unix_socket"
        )


def _unix_in_use(path: str) -> str:
    return f"unix socket {path} is in use: stop the server that listens there, or name another unix_socket"


def _unix_fault(path: str, error: OSError) -> str:
    folder = os.path.dirname(path) or "."
    if error.errno == errno.EADDRINUSE:
        return _unix_in_use(path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"unix socket {path} cannot be made: {folder} is not a directory; make it, or name another unix_socket"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"unix socket {path} cannot be made: this process may not write to {folder}; name another unix_socket"
    return f"unix socket {path} cannot be made ({error.strerror}): name another unix_socket"


# TCP


def _open_tcp(host: str, port: int, backlog: int) -> list[socket.socket]:
    addresses = _resolve(host)
    tries = 1 if port else _PORT_TRIES
    while True:
        tries -= 1
        try:
            return _open_all(addresses, port, backlog)
        except ConfigError as error:
            # The port that was free for the first address is taken for another one.
            cause = error.__cause__
            taken = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
            if not (taken and tries):
                raise


def _resolve(host: str) -> list[Address]:
    bare = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
    try:
        found = socket.getaddrinfo(
            None if bare in ("", "*") else bare, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        raise ConfigError(
            f"host {host!r:.80} cannot be resolved ({reason}): "
            "--host takes an address of this machine, a name of it, or * for all its addresses"
        ) from error
    # A hosts file may name one address twice; the port is not part of it yet.
    return list(dict.fromkeys((each[0], tuple(each[4])) for each in found))


def _open_all(addresses: Sequence[Address], port: int, backlog: int) -> list[socket.socket]:
    only_ipv6 = all(family == socket.AF_INET6 for family, _ in addresses)
    sockets: list[socket.socket] = []
    with contextlib.ExitStack() as opened:
        for family, address in addresses:
            try:
                sock = _listen_tcp(family, (address[0], port, *address[2:]), backlog)
            except OSError as error:
                if family == socket.AF_INET6 and error.errno in _NO_IPV6 and not only_ipv6:
                    continue
                raise ConfigError(_tcp_fault(address[0], port, error)) from error
            sockets.append(opened.enter_context(sock))
            port = port or sock.getsockname()[1]
        opened.pop_all()
    return sockets


def _listen_tcp(
    family: socket.AddressFamily, address: tuple[Any, ...], backlog: int
) -> socket.socket:
    with contextlib.ExitStack() as opened:
        sock = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
        if os.name == "posix":
            # Connections of the server before, still in TIME_WAIT, do not hold the port; on Windows it means sharing.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" would take the port of IPv4 too, and 0.0.0.0 beside it would find it in use.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
        sock.setblocking(False)
        opened.pop_all()
    return sock


def _tcp_fault(host: str, port: int, error: OSError) -> str:
    where = _host_and_port(host, port)
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use: stop the server that listens there, or take another port with --port"
    if error.errno == errno.EACCES and port < 1024:
        return (
            f"{where} cannot be had, because ports below 1024 need privileges: take a higher one with --port, "
            "or let systemd open it (LISTEN_FDS)"
        )
    if error.errno in _NO_IPV6:
        return f"{host} is not an address of this machine: --host takes one of its own, or * for all of them"
    return f"{where} cannot be had ({error.strerror}): take another address with --host and --port"


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address_text(sock: socket.socket, scheme: str) -> str:
    name = sock.getsockname()
    if isinstance(name, tuple):
        return f"{scheme}://{_host_and_port(name[0], name[1])}"
    # Linux's abstract names, which systemd can pass on, begin with a NUL and are written with @.
    return f"unix:{os.fsdecode(name).replace(chr(0), '@')}"
