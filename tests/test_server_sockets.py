"""``bridges.server.sockets``: real sockets, on loopback and in a temporary folder."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import logging
import os
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from apps.plain import hello

from bridges.errors import ConfigError
from bridges.server import sockets
from bridges.server.config import Config
from bridges.server.run import Server
from bridges.server.sockets import Listeners, open_sockets

V4 = (socket.AF_INET, ("127.0.0.1", 0))
V6 = (socket.AF_INET6, ("::1", 0, 0, 0))
# Reserved for documentation: no machine has them.
FOREIGN_V4 = (socket.AF_INET, ("192.0.2.1", 0))
FOREIGN_V6 = (socket.AF_INET6, ("2001:db8::1", 0, 0, 0))


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="the machine has no IPv6")

Open = Callable[..., Listeners]


@pytest.fixture
def open_() -> Iterator[Open]:
    """Open sockets that are closed at the end of the test, in an environment without systemd."""
    opened: list[Listeners] = []

    def call(environment: dict[str, str] | None = None, **options: Any) -> Listeners:
        options = {"host": "127.0.0.1", "port": 0, **options}
        opened.append(open_sockets(Config(**options), {} if environment is None else environment))
        return opened[-1]

    yield call
    for each in opened:
        each.close()


@pytest.fixture
def resolve_to(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Any, ...]]]:
    """Stand in for the machine's resolver; gives the questions that were asked."""

    def install(*answers: tuple[Any, Any]) -> list[tuple[Any, ...]]:
        asked: list[tuple[Any, ...]] = []

        def getaddrinfo(host: Any, port: Any, **options: Any) -> list[Any]:
            asked.append((host, port, options))
            kind = socket.SOCK_STREAM
            return [(family, kind, 6, "", address) for family, address in answers]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return install


def fault(open_: Open, **options: Any) -> str:
    """Give the sentence with which opening is refused."""
    with pytest.raises(ConfigError) as caught:
        open_(**options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def ports(listeners: Listeners) -> list[int]:
    return [each.getsockname()[1] for each in listeners.sockets]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """All TCP sockets that listened: to bind a port anew would not tell whether one is closed, but who was quicker."""
    opened: list[socket.socket] = []
    listen = sockets._listen_tcp

    def keep(family: Any, address: Any, backlog: int) -> socket.socket:
        opened.append(listen(family, address, backlog))
        return opened[-1]

    monkeypatch.setattr(sockets, "_listen_tcp", keep)
    return opened


def are_closed(socks: Iterable[socket.socket]) -> bool:
    return all(sock.fileno() == -1 for sock in socks)


def assert_connects(sock: socket.socket) -> None:
    with socket.socket(sock.family, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(sock.getsockname())


# TCP


@pytest.mark.spec("RFC 9293", "section 3.7.4")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_small_messages_do_not_wait_for_each_other(loop: str) -> None:
    """Nagle's algorithm is off for every connection, on either loop: events and frames follow each other."""
    make_loop = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None

    async def ask() -> int:
        async with Server(hello, port=0, access_log="off") as server:
            host, port = server.sockets[0].getsockname()[:2]
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            (connection,) = server.service.connections
            sock = connection.transport.get_extra_info("socket")
            writer.close()
            await writer.wait_closed()
            return int(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    own = (make_loop or asyncio.new_event_loop)()
    try:
        assert own.run_until_complete(ask()) != 0
    finally:
        own.close()


@pytest.mark.spec("issue 4", "section 4")
def test_port_0(open_: Open) -> None:
    """A free port is taken, clients can connect at once, and the address that they need is told."""
    listeners = open_()
    (sock,) = listeners.sockets
    assert_connects(sock)
    assert listeners.addresses == (f"http://127.0.0.1:{sock.getsockname()[1]}",)


@pytest.mark.spec("PEP 446")
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_how_a_loop_wants_it(open_: Open, tmp_path: Path, kind: str) -> None:
    """It does not block, and programs that the application starts do not hold it open."""
    (sock,) = open_(unix_socket=str(tmp_path / "s") if kind == "unix" else None).sockets
    assert not sock.getblocking()
    assert not sock.get_inheritable()


@pytest.mark.spec("issue 4", "section 4")
def test_https_is_told(open_: Open) -> None:
    """With a certificate, the address says https."""
    listeners = open_(certfile="any.pem")
    assert listeners.addresses == (f"https://127.0.0.1:{ports(listeners)[0]}",)


@pytest.mark.spec("issue 4", "section 4")
def test_close(open_: Open) -> None:
    """Closing gives the port back; closing again does nothing."""
    listeners = open_()
    assert_connects(listeners.sockets[0])
    listeners.close()
    assert are_closed(listeners.sockets)
    listeners.close()


@needs_ipv6
@pytest.mark.spec("issue 4", "section 4")
def test_every_address_of_a_name(open_: Open, resolve_to: Any) -> None:
    """A name that has both IP versions is listened to on both, in its order, on one port; one named twice only once."""
    resolve_to(V6, V4, V6)
    listeners = open_(host="localhost")
    six, four = listeners.sockets
    assert (six.family, four.family) == (socket.AF_INET6, socket.AF_INET)
    port = six.getsockname()[1]
    assert listeners.addresses == (f"http://[::1]:{port}", f"http://127.0.0.1:{port}")
    assert_connects(six)
    assert_connects(four)


@needs_ipv6
@pytest.mark.spec("RFC 3493", "section 5.3")
def test_ip_versions_do_not_share_a_socket(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket of IPv6 leaves the port of IPv4 alone, whatever the system's default."""
    options: list[int] = []

    # Asked before bind(): Linux sets the option itself for any address but "::", which no test shall listen on.
    class Asked(socket.socket):
        def bind(self, address: Any, /) -> None:
            options.append(self.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Asked)
    open_(host="::1")
    assert options == [1]


@needs_ipv6
@pytest.mark.spec("RFC 3986", "section 3.2.2")
def test_brackets(open_: Open) -> None:
    """An IPv6 address may be typed as it stands in a URL."""
    (sock,) = open_(host="[::1]").sockets
    assert sock.getsockname()[0] == "::1"


@pytest.mark.spec("issue 4", "section 4")
@pytest.mark.parametrize("host", ["", "*"])
def test_all_addresses(open_: Open, resolve_to: Any, host: str) -> None:
    """Both spellings ask for the machine's every address."""
    asked = resolve_to(V4)
    open_(host=host)
    assert asked == [(None, 0, {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE})]


@pytest.mark.spec("issue 4", "section 4")
def test_no_ipv6(open_: Open, resolve_to: Any) -> None:
    """Where IPv6 is off (as in many containers, whose hosts file still names ::1), the other address serves."""
    resolve_to(FOREIGN_V6, V4)
    (sock,) = open_(host="localhost").sockets
    assert sock.family == socket.AF_INET


@needs_ipv6
@pytest.mark.spec("issue 4", "section 4")
def test_a_port_that_is_free_for_all(
    open_: Open, resolve_to: Any, tried: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With port 0, a port that is taken for the second address is given up for another one."""
    resolve_to(V4, V6)
    with _somebody_else(monkeypatch, times=2):
        listeners = open_(host="localhost")
    first, second = ports(listeners)
    assert first == second
    *given_up, kept = (sock for sock in tried if sock.family == socket.AF_INET)
    assert len(given_up) >= 2
    assert are_closed(given_up)
    assert not are_closed([kept])


@needs_ipv6
@pytest.mark.spec("issue 4", "section 4")
def test_no_port_that_is_free_for_all(
    open_: Open, resolve_to: Any, tried: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search for such a port ends, and keeps nothing."""
    resolve_to(V4, V6)
    with _somebody_else(monkeypatch, times=1000) as taken:
        sentence = fault(open_, host="localhost")
    assert sentence.startswith(f"[::1]:{taken[-1]} is in use: ")
    assert len(tried) == len(taken) == 20
    assert are_closed(tried)


@contextlib.contextmanager
def _somebody_else(monkeypatch: pytest.MonkeyPatch, times: int) -> Iterator[list[int]]:
    """Let somebody take each port for IPv6 as soon as it was taken for IPv4, some times; gives those ports."""
    taken: list[int] = []
    listen = sockets._listen_tcp

    def and_somebody_else(family: Any, address: Any, backlog: int) -> socket.socket:
        sock = listen(family, address, backlog)
        if family == socket.AF_INET and len(taken) < times:
            taken.append(sock.getsockname()[1])
            other = others.enter_context(socket.socket(socket.AF_INET6))
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Another process may have it already, which does as well.
            with contextlib.suppress(OSError):
                other.bind(("::1", taken[-1]))
                other.listen()
        return sock

    with contextlib.ExitStack() as others:
        monkeypatch.setattr(sockets, "_listen_tcp", and_somebody_else)
        yield taken


@pytest.mark.spec("issue 4", "section 4")
def test_port_in_use(open_: Open) -> None:
    """The sentence names the address, and the option to take another."""
    (port,) = ports(open_())
    assert fault(open_, port=port) == (
        f"127.0.0.1:{port} is in use: stop the server that listens there, "
        "or take another port with --port"
    )


@pytest.mark.spec("issue 4", "section 4")
def test_a_restart_need_not_wait(open_: Open) -> None:
    """A port whose connections are in TIME_WAIT, which the side gets that closes first, can be had again."""
    listeners = open_()
    (sock,) = listeners.sockets
    address = sock.getsockname()
    sock.setblocking(True)
    with socket.create_connection(address) as client:
        sock.accept()[0].close()
        assert client.recv(1) == b""
    listeners.close()
    open_(port=address[1])


@pytest.mark.spec("issue 4", "section 4")
@pytest.mark.parametrize(
    "host", ["nowhere.invalid", "two words", "no..label", "x" * 64, "256.256.256.256"]
)
def test_unknown_host(open_: Open, host: str) -> None:
    """A name that does not resolve is refused, one that cannot be a name too."""
    sentence = fault(open_, host=host)
    assert sentence.startswith(f"host {host!r} cannot be resolved (")
    assert sentence.endswith(
        "): --host takes an address of this machine, a name of it, or * for all its addresses"
    )


@pytest.mark.spec("issue 4", "section 4")
@pytest.mark.parametrize("address", [FOREIGN_V4, FOREIGN_V6], ids=["v4", "v6"])
def test_address_of_another_machine(open_: Open, address: tuple[Any, Any]) -> None:
    """An address that the machine does not have is refused."""
    host = address[1][0]
    assert fault(open_, host=host) == (
        f"{host} is not an address of this machine: "
        "--host takes one of its own, or * for all of them"
    )


@pytest.mark.spec("issue 4", "section 4")
def test_nothing_stays_open_after_a_fault(
    open_: Open, resolve_to: Any, tried: list[socket.socket]
) -> None:
    """When a later address cannot be had, the earlier ones are given back."""
    resolve_to(V4, FOREIGN_V4)
    assert fault(open_, host="localhost").startswith("192.0.2.1 is not an address")
    assert len(tried) == 1
    assert are_closed(tried)


@pytest.mark.spec("issue 4", "section 4")
@pytest.mark.parametrize(
    ("port", "code", "sentence"),
    [
        (
            80,
            errno.EACCES,
            "127.0.0.1:80 cannot be had, because ports below 1024 need privileges: "
            "take a higher one with --port, or let systemd open it (LISTEN_FDS)",
        ),
        (
            8000,
            errno.EACCES,
            "127.0.0.1:8000 cannot be had (Permission denied): "
            "take another address with --host and --port",
        ),
        (
            8000,
            errno.EMFILE,
            "127.0.0.1:8000 cannot be had (Too many open files): "
            "take another address with --host and --port",
        ),
    ],
)
def test_answers_of_the_system(
    open_: Open, monkeypatch: pytest.MonkeyPatch, port: int, code: int, sentence: str
) -> None:
    """What a system answers that this one may not (to root every port is free) is a sentence too."""

    def refuse(*arguments: Any) -> socket.socket:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(sockets, "_listen_tcp", refuse)
    assert fault(open_, port=port) == sentence


# Unix sockets


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.sock"


@pytest.mark.spec("FR 115")
def test_unix_socket(open_: Open, path: Path) -> None:
    """Clients connect to the file, and closing removes it."""
    listeners = open_(unix_socket=str(path))
    (sock,) = listeners.sockets
    assert_connects(sock)
    assert listeners.addresses == (f"unix:{path}",)
    listeners.close()
    assert not path.exists()
    listeners.close()


@pytest.mark.spec("unix(7)", "Pathname socket ownership and permissions")
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_mode(open_: Open, path: Path, mode: int, umask: int) -> None:
    """The mode is the one asked for, whatever the umask, which stays as it was."""
    before = os.umask(umask)
    try:
        open_(unix_socket=str(path), unix_mode=mode)
    finally:
        after = os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert after == umask


@pytest.mark.spec("unix(7)", "Pathname socket ownership and permissions")
def test_nobody_connects_before_the_mode_is_set(
    open_: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the file still has the mode that the umask left it, a client is refused."""
    codes: list[int] = []
    chmod = os.chmod

    def connect_first(file: str, mode: int) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            codes.append(client.connect_ex(file))
        chmod(file, mode)

    monkeypatch.setattr(os, "chmod", connect_first)
    (sock,) = open_(unix_socket=str(path)).sockets
    assert codes == [errno.ECONNREFUSED]
    assert_connects(sock)


@pytest.mark.spec("issue 4", "section 4")
def test_stale_file_is_replaced(open_: Open, path: Path) -> None:
    """What a server that was killed left behind does not hinder the next one."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    (sock,) = open_(unix_socket=str(path)).sockets
    assert_connects(sock)


@pytest.mark.spec("issue 4", "section 4")
def test_live_server_keeps_its_file(open_: Open, path: Path) -> None:
    """A socket on which somebody listens is in use."""
    live = open_(unix_socket=str(path))
    assert fault(open_, unix_socket=str(path)) == (
        f"unix socket {path} is in use: stop the server that listens there, "
        "or name another unix_socket"
    )
    assert_connects(live.sockets[0])


@pytest.mark.spec("connect(2)", "EAGAIN")
@pytest.mark.skipif(sys.platform != "linux", reason="BSD refuses where Linux lets wait")
def test_busy_server_keeps_its_file(open_: Open, path: Path) -> None:
    """A server that has no room for one more connection is alive, and looking at it does not hang."""
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        clients: list[socket.socket] = []
        code = 0
        while code == 0:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            clients.append(client)
            code = client.connect_ex(str(path))
        assert code == errno.EAGAIN
        assert " is in use: " in fault(open_, unix_socket=str(path))
        assert path.is_socket()
        for client in clients:
            client.close()


@pytest.mark.spec("issue 4", "section 4")
def test_socket_of_another_kind_stays(open_: Open, path: Path) -> None:
    """Where it cannot be found out whether a file is in use, it is left alone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        sentence = fault(open_, unix_socket=str(path))
    assert sentence.startswith(
        f"unix socket {path} exists, and whether it is in use cannot be found out ("
    )
    assert sentence.endswith("): remove it, or name another unix_socket")
    assert path.is_socket()


@pytest.mark.spec("issue 4", "section 4")
@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_what_is_no_socket_stays(open_: Open, path: Path, tmp_path: Path, kind: str) -> None:
    """A wrong path never costs a file; a link is not followed, not even to a socket on which nobody listens."""
    target = tmp_path / "target"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)
    if kind == "link":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(target))
    before = path.lstat()
    assert fault(open_, unix_socket=str(path)) == (
        f"{path} exists and is not a socket, so it is left alone: name another unix_socket"
    )
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_size) == (
        before.st_ino,
        before.st_mode,
        before.st_size,
    )
    assert target.exists() == (kind == "link")


@pytest.mark.spec("issue 4", "section 4")
def test_stale_file_that_somebody_else_removes(
    open_: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that goes away while it is looked at leaves the path free."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    lstat = os.lstat

    def after_removal(file: str) -> os.stat_result:
        monkeypatch.setattr(os, "lstat", lstat)
        os.unlink(file)
        return lstat(file)

    monkeypatch.setattr(os, "lstat", after_removal)
    (sock,) = open_(unix_socket=str(path)).sockets
    assert_connects(sock)


@pytest.mark.spec("issue 4", "section 4")
def test_stale_file_that_somebody_else_replaces(
    open_: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes the path while the stale file is probed keeps it."""
    with socket.socket(socket.AF_UNIX) as dead, socket.socket(socket.AF_UNIX) as other:
        # Its descriptor keeps the inode's number from being used again.
        dead.bind(str(path))

        class Slow(socket.socket):
            def connect_ex(self, address: Any, /) -> int:
                code = super().connect_ex(address)
                os.unlink(path)
                other.bind(str(path))
                other.listen()
                return code

        def make(*arguments: Any) -> socket.socket:
            monkeypatch.setattr(socket, "socket", Slow)
            return original(*arguments)

        original = socket.socket
        monkeypatch.setattr(socket, "socket", make)
        assert " is in use: " in fault(open_, unix_socket=str(path))
        monkeypatch.undo()
        assert_connects(other)


@pytest.mark.spec("issue 4", "section 4")
def test_file_of_a_successor_stays(open_: Open, path: Path) -> None:
    """A server that took the path meanwhile does not lose its file when the first one stops."""
    listeners = open_(unix_socket=str(path))
    path.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        successor.listen()
        listeners.close()
        assert_connects(successor)


@pytest.mark.spec("issue 4", "section 4")
def test_file_that_is_gone(open_: Open, path: Path) -> None:
    """There may be nothing left to remove."""
    listeners = open_(unix_socket=str(path))
    path.unlink()
    listeners.close()
    assert listeners.sockets[0].fileno() == -1


@pytest.mark.spec("issue 4", "section 4")
def test_file_that_cannot_be_removed(
    open_: Open,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A stop does not fail because of it (as after privileges were dropped); it is logged, and the socket closed."""
    listeners = open_(unix_socket=str(path))

    def refuse(file: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "unlink", refuse)
    listeners.close()
    assert caplog.record_tuples == [
        (
            "bridges.server",
            logging.WARNING,
            f"cannot remove unix socket {path}: Permission denied",
        )
    ]
    assert listeners.sockets[0].fileno() == -1


@pytest.mark.spec("issue 4", "section 4")
def test_relative_path(open_: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is found again after the application changed the working directory."""
    monkeypatch.chdir(tmp_path)
    listeners = open_(unix_socket="app.sock")
    assert listeners.addresses == ("unix:app.sock",)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    listeners.close()
    assert not (tmp_path / "app.sock").exists()


@pytest.mark.spec("unix(7)", "Address format")
def test_longest_path(open_: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest path works; one byte more is a sentence with both numbers, in bytes."""
    monkeypatch.chdir(tmp_path)
    longest = sockets._LONGEST_UNIX_PATH
    open_(unix_socket="x" * longest)
    assert fault(open_, unix_socket="x" * (longest - 1) + "ü") == (
        f"unix_socket has {longest + 1} bytes, more than the {longest} that the system allows: "
        "take a shorter path, or a relative one"
    )


@pytest.mark.spec("unix(7)", "Address format")
@pytest.mark.parametrize("wrong", ["", "\0abstract", "cut\0short"])
def test_no_path(open_: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """What the system would take for another kind of address, or for another path, is refused."""
    monkeypatch.chdir(tmp_path)
    assert (
        fault(open_, unix_socket=wrong) == f"unix_socket must be the path of a file, got {wrong!r}"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.spec("issue 4", "section 4")
@pytest.mark.parametrize("kind", ["missing", "file"])
def test_folder_that_is_none(open_: Open, tmp_path: Path, kind: str) -> None:
    """The folder that is missing is named."""
    folder = tmp_path / "run"
    if kind == "file":
        folder.write_text("")
    assert fault(open_, unix_socket=str(folder / "s")) == (
        f"unix socket {folder}/s cannot be made: {folder} is not a directory; "
        "make it, or name another unix_socket"
    )


@pytest.mark.spec("issue 4", "section 4")
def test_other_faults_of_a_path(open_: Open, tmp_path: Path) -> None:
    """What has no sentence of its own has the system's reason in it."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert fault(open_, unix_socket=str(loop / "s")) == (
        f"unix socket {loop}/s cannot be made (Too many levels of symbolic links): "
        "name another unix_socket"
    )


@pytest.mark.spec("issue 4", "section 4")
def test_no_file_stays_after_a_fault(
    open_: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a step after bind() fails, the file goes again; the folder that is not writable is named."""

    def refuse(file: str, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    assert fault(open_, unix_socket=str(path)) == (
        f"unix socket {path} cannot be made: this process may not write to {path.parent}; "
        "name another unix_socket"
    )
    assert not path.exists()


@pytest.mark.spec("issue 4", "section 4")
def test_system_without_unix_sockets(
    open_: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the option is refused."""
    monkeypatch.delattr(socket, "AF_UNIX")
    assert fault(open_, unix_socket=str(path)) == (
        "unix_socket needs a system that has them: take host and port instead"
    )


# Inherited descriptors


@pytest.mark.spec("issue 4", "section 4")
def test_fd(open_: Open) -> None:
    """A descriptor that listens is taken over: nothing inherits it any more, and closing closes it."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        given.set_inheritable(True)
        port = given.getsockname()[1]
        number = given.detach()
    listeners = open_(fd=number)
    (sock,) = listeners.sockets
    assert sock.fileno() == number
    assert not sock.getblocking()
    assert not sock.get_inheritable()
    assert listeners.addresses == (f"http://127.0.0.1:{port}",)
    assert_connects(sock)
    listeners.close()
    assert are_closed([sock])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


@pytest.mark.spec("issue 4", "section 4")
def test_fd_of_a_unix_socket(open_: Open, path: Path) -> None:
    """The file belongs to whoever made it, and stays."""
    given = socket.socket(socket.AF_UNIX)
    given.bind(str(path))
    given.listen()
    listeners = open_(fd=given.detach())
    assert listeners.addresses == (f"unix:{path}",)
    listeners.close()
    assert path.is_socket()


@pytest.mark.spec("unix(7)", "Address format")
@pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's")
def test_fd_of_an_abstract_name(open_: Open) -> None:
    """A name without a file is written as systemd writes it."""
    name = f"bridges-test-{os.getpid()}"
    given = socket.socket(socket.AF_UNIX)
    given.bind(f"\0{name}")
    given.listen()
    assert open_(fd=given.detach()).addresses == (f"unix:@{name}",)


@pytest.mark.spec("issue 4", "section 4")
def test_fd_that_is_not_open(open_: Open) -> None:
    """A wrong number is named."""
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    assert fault(open_, fd=writing) == (
        f"fd {writing} is not open: pass a socket that listens to this process"
    )


@pytest.mark.spec("issue 4", "section 4")
def test_fd_that_is_not_a_socket(open_: Open) -> None:
    """A file is refused, and left open."""
    reading, writing = os.pipe()
    assert fault(open_, fd=writing) == (
        f"fd {writing} is not a socket: pass a socket that listens to this process"
    )
    os.close(writing)
    os.close(reading)


@pytest.mark.spec("issue 4", "section 4")
@pytest.mark.parametrize("kind", ["bound", "connected", "datagrams", "packets"])
def test_fd_that_does_not_listen(open_: Open, path: Path, kind: str) -> None:
    """A socket of another sort is refused, and left open."""
    number = _of_another_sort(kind, path)
    assert fault(open_, fd=number) == (
        f"fd {number} is not a stream socket that listens: pass one on which listen() was called "
        "(ListenStream= and Accept=no in a systemd unit)"
    )
    os.close(number)


def _of_another_sort(kind: str, path: Path) -> int:
    if kind == "connected":
        given, other = socket.socketpair()
        other.close()
    elif kind == "packets":
        given = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        given.bind(str(path))
        given.listen()
    else:
        sort = socket.SOCK_DGRAM if kind == "datagrams" else socket.SOCK_STREAM
        given = socket.socket(socket.AF_INET, sort)
        given.bind(("127.0.0.1", 0))
    return given.detach()


@pytest.mark.spec("issue 4", "section 4")
def test_system_that_does_not_know_who_listens(
    open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """POSIX lets SO_ACCEPTCONN be missing; the socket is then taken as it is."""
    monkeypatch.setattr(socket, "SO_ACCEPTCONN", 0x7FFF)
    with socket.create_server(("127.0.0.1", 0)) as given:
        number = given.detach()
    assert_connects(open_(fd=number).sockets[0])


# What systemd passes

SCRIPT = """
import os, sys
from bridges.errors import ConfigError
from bridges.server.config import Config
from bridges.server.sockets import open_sockets

passed = [int(each) for each in sys.argv[1].split(",") if each]
# Both ends above the range first, so that no dup2() covers what another one needs.
high = [os.dup(os.dup(os.dup(each))) for each in passed]
for number, each in enumerate(high):
    os.dup2(each, 3 + number)  # inheritable, as systemd leaves it
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[2], LISTEN_FDNAMES="web", LISTEN_PIDFDID="7")
os.environ["KEPT"] = "1"
try:
    listeners = open_sockets(Config(port=0))
except ConfigError as error:
    print("refused:", error)
else:
    print(*listeners.addresses)
    print(*(f"{each.fileno()} {each.getblocking()} {each.get_inheritable()}" for each in listeners.sockets))
print(*sorted(each for each in os.environ if each.startswith("LISTEN_") or each == "KEPT"))
for number in range(3, 3 + len(passed)):
    try:
        os.fstat(number)
    except OSError:
        print(number, "closed")
"""


def run_with(passed: list[socket.socket], count: str) -> list[str]:
    """Pass sockets as systemd does, and give what the script says."""
    numbers = [each.fileno() for each in passed]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), ",".join(map(str, numbers)), count],
        pass_fds=numbers,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=15,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.spec("sd_listen_fds(3)")
def test_sockets_of_systemd(path: Path) -> None:
    """All that are passed are taken, from descriptor 3 on; nothing inherits them or their variables."""
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(str(path))
        unix.listen()
        assert run_with([tcp, unix], "2") == [
            f"http://127.0.0.1:{tcp.getsockname()[1]} unix:{path}",
            "3 False False 4 False False",
            "KEPT",
        ]
    assert path.is_socket()


@pytest.mark.slow
@pytest.mark.spec("sd_listen_fds(3)")
def test_wrong_socket_of_systemd() -> None:
    """One that does not listen stops the start; those before it are closed."""
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
    ):
        datagram.bind(("127.0.0.1", 0))
        assert run_with([tcp, datagram], "2") == [
            "refused: descriptor 4 of LISTEN_FDS is not a stream socket that listens: "
            "pass one on which listen() was called (ListenStream= and Accept=no in a systemd unit)",
            "KEPT",
            "3 closed",
        ]


@pytest.mark.spec("sd_listen_fds(3)")
@pytest.mark.parametrize("pid", ["1", "", "not a number", None])
def test_variables_for_another_process(open_: Open, pid: str | None) -> None:
    """A parent that was activated may leave its variables in the environment: they are not ours, and stay."""
    environment = {"LISTEN_FDS": "1"}
    if pid is not None:
        environment["LISTEN_PID"] = pid
    before = dict(environment)
    listeners = open_(environment)
    assert listeners.addresses == (f"http://127.0.0.1:{ports(listeners)[0]}",)
    assert environment == before


@pytest.mark.spec("sd_listen_fds(3)")
@pytest.mark.parametrize("count", ["0", None])
def test_no_sockets_of_systemd(open_: Open, count: str | None) -> None:
    """Where none are passed, host and port hold."""
    environment = {"LISTEN_PID": str(os.getpid())}
    if count is not None:
        environment["LISTEN_FDS"] = count
    assert open_(environment).addresses[0].startswith("http://127.0.0.1:")
    assert environment == {}


@pytest.mark.spec("sd_listen_fds(3)")
@pytest.mark.parametrize("count", ["", "two", "-1", "1.5", "²"])
def test_count_that_is_none(open_: Open, count: str) -> None:
    """A broken variable is a sentence."""
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}
    assert fault(open_, environment=environment) == (
        f"LISTEN_FDS must be the number of sockets passed, got {count!r}: "
        "unset it to listen on host and port"
    )


@pytest.mark.spec("issue 4", "section 4")
@pytest.mark.parametrize("kind", ["fd", "unix_socket"])
def test_what_was_typed_wins(open_: Open, path: Path, kind: str) -> None:
    """An address typed as an exception wins over systemd's, whose variables then stay untouched."""
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    before = dict(environment)
    if kind == "fd":
        number = socket.create_server(("127.0.0.1", 0)).detach()
        (sock,) = open_(environment, fd=number).sockets
        assert sock.fileno() == number
    else:
        assert open_(environment, unix_socket=str(path)).addresses == (f"unix:{path}",)
    assert environment == before


# In a loop

LOOPS: list[Any] = [pytest.param(asyncio.new_event_loop, id="asyncio")]
if importlib.util.find_spec("uvloop"):
    import uvloop

    LOOPS.append(pytest.param(uvloop.new_event_loop, id="uvloop"))


@pytest.mark.spec("issue 4", "section 4")
@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_loop_serves_them(
    open_: Open, path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop], kind: str
) -> None:
    """The loop takes them as they are, a client that came before it is served, and a loop that closes them may."""
    listeners = open_(unix_socket=str(path) if kind == "unix" else None)
    (sock,) = listeners.sockets
    client = socket.socket(sock.family)
    client.settimeout(10)
    client.connect(sock.getsockname())

    class Greet(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(b"hello")
            transport.close()
            served.set_result(None)

    async def serve() -> None:
        create: Any = loop.create_unix_server if kind == "unix" else loop.create_server
        server = await create(Greet, sock=sock)
        await asyncio.wait_for(served, 10)
        server.close()
        await server.wait_closed()

    loop = new_loop()
    try:
        served = loop.create_future()
        loop.run_until_complete(serve())
    finally:
        loop.close()
    with client:
        assert client.recv(5) == b"hello"
    listeners.close()
    assert not path.exists()
