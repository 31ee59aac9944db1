"""Every option of the server: its default, its unit, and what it is for.

The command line, the environment variables and the reference page are made from this.
"""

from __future__ import annotations

import dataclasses
import os
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from ..asgi.lifespan import LifespanMode
from ..errors import ConfigError
from ..loading import Interface

LoopName: TypeAlias = Literal["auto", "asyncio", "uvloop"]
AccessLog: TypeAlias = Literal["common", "json", "off"]

ENVIRONMENT_PREFIX: Final = "BRIDGES_"


def _option(
    group: str,
    text: str,
    default: Any,
    least: float | None = None,
    unit: str = "",
    *,
    most: float | None = None,
    secret: bool = False,
) -> Any:
    metadata = {"group": group, "text": text, "least": least, "most": most, "unit": unit}
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a server is told. Every option has a default; times are in seconds, sizes in bytes.

    Raises:
        ConfigError: an option has the wrong type, is out of range, or contradicts another one.
    """

    interface: Interface = _option(
        "Application", "what the application speaks; auto looks at it", "auto"
    )
    factory: bool = _option(
        "Application", "call what the path names, without arguments, to get the application", False
    )
    lifespan: LifespanMode = _option(
        "Application",
        "whether an ASGI application takes part in startup and shutdown; auto lets it refuse",
        "auto",
    )
    root_path: str = _option(
        "Application",
        "path under which the application is reached: root_path of ASGI, SCRIPT_NAME of WSGI",
        "",
    )
    startup_seconds: float = _option(
        "Application", "longest time for the application's startup", 60.0, 0, "seconds"
    )
    loop: LoopName = _option(
        "Application", "event loop; auto takes uvloop where it is installed", "auto"
    )

    host: str = _option(
        "Address", "address to listen on; a name may stand for several", "127.0.0.1"
    )
    port: int = _option("Address", "TCP port; 0 takes any free one", 8000, 0, most=65_535)
    unix_socket: str | None = _option("Address", "path of a unix socket to listen on instead", None)
    unix_mode: int = _option("Address", "access mode of that socket", 0o666, 0, "octal", most=0o777)
    fd: int | None = _option(
        "Address",
        "number of an inherited descriptor that listens already; systemd's are found by LISTEN_FDS",
        None,
        0,
        most=2**31 - 1,
    )
    backlog: int = _option(
        "Address",
        "connections that the system may hold until they are accepted",
        2048,
        1,
        most=65_535,
    )

    threads: int = _option(
        "WSGI applications", "most requests that run at one time, each in a thread", 40, 1
    )
    max_queue: int | None = _option(
        "WSGI applications", "most requests that wait for a thread; more get 503", None, 0
    )
    queue_seconds: float | None = _option(
        "WSGI applications", "longest wait for a thread; then 503", None, 0.1, "seconds"
    )
    max_websockets: int = _option(
        "WSGI applications",
        "most websockets at one time, each in a thread of its own beside the others; more get 503, and 0 serves none",
        100,
        0,
    )
    buffer_bytes: int = _option(
        "WSGI applications",
        "bytes that a response may run ahead of its client, and a request body ahead of the application",
        262_144,
        1,
        "bytes",
    )

    max_head_bytes: int = _option(
        "Limits", "largest request head; larger ones get 431", 65_536, 256, "bytes"
    )
    max_target_bytes: int = _option(
        "Limits", "longest request target; longer ones get 414", 16_384, 16, "bytes"
    )
    max_fields: int = _option("Limits", "most header fields of a request; more get 431", 128, 1)
    max_body_bytes: int | None = _option(
        "Limits", "largest request body; larger ones get 413", None, 0, "bytes"
    )
    max_connections: int | None = _option(
        "Limits", "most connections at one time; further ones get 503", None, 1
    )
    head_seconds: float = _option(
        "Limits",
        "longest time from the first byte of a request head to its last; then 408",
        15.0,
        0.1,
        "seconds",
    )
    body_seconds: float = _option(
        "Limits",
        "longest time in which a client sends less than 1 KiB of its request body; then 408",
        30.0,
        0.1,
        "seconds",
    )
    keep_alive_seconds: float = _option(
        "Limits",
        "longest time that an idle connection is kept; longer than that of a proxy in front",
        75.0,
        0,
        "seconds",
    )
    write_seconds: float = _option(
        "Limits",
        "longest time in which a client takes less than 1 KiB of what it is owed; then the connection is cut",
        60.0,
        0.1,
        "seconds",
    )
    disconnect_grace_seconds: float = _option(
        "Limits",
        "time that an ASGI application has to end after its client left; then its task is cancelled",
        3.0,
        0,
        "seconds",
    )
    graceful_seconds: float = _option(
        "Limits", "longest time for requests under way when the server stops", 30.0, 0, "seconds"
    )
    shutdown_seconds: float = _option(
        "Limits", "longest time for the application's shutdown after that", 30.0, 0, "seconds"
    )

    websocket_max_bytes: int = _option(
        "Websockets", "largest message; larger ones close with 1009", 16_777_216, 1, "bytes"
    )
    websocket_ping_seconds: float | None = _option(
        "Websockets", "time between pings; none sends none", 20.0, 0.1, "seconds"
    )
    websocket_pong_seconds: float = _option(
        "Websockets", "longest wait for the answer to a ping", 20.0, 0.1, "seconds"
    )
    websocket_close_seconds: float = _option(
        "Websockets",
        "longest wait for the client's part of the close handshake",
        10.0,
        0,
        "seconds",
    )
    websocket_deflate: bool = _option("Websockets", "offer compression (permessage-deflate)", True)

    forwarded_allow_ips: str = _option(
        "Proxies",
        "addresses and networks, with commas between, whose forwarded headers are believed; * for all",
        "127.0.0.1,::1,unix",
    )

    certfile: str | None = _option("TLS", "certificate chain, PEM; turns TLS on", None)
    keyfile: str | None = _option(
        "TLS", "private key, PEM, where it is not in the certificate's file", None
    )
    keyfile_password: str | None = _option("TLS", "password of the private key", None, secret=True)
    client_ca: str | None = _option(
        "TLS", "certificate authorities, PEM, that clients' certificates are checked against", None
    )
    client_certificate: Literal["none", "optional", "required"] = _option(
        "TLS", "whether clients are asked for a certificate", "none"
    )

    access_log: AccessLog = _option(
        "Logging", "format of the line that each request gets on standard output", "common"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _option(
        "Logging", "what of the error log is shown", "info"
    )

    def __post_init__(self) -> None:
        """Check every option."""
        hints = get_type_hints(type(self))
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            _check_type(option.name, value, hints[option.name])
            _check_range(option.name, value, option.metadata["least"], option.metadata["most"])
        self._check_together()

    def _check_together(self) -> None:
        if self.unix_socket is not None and self.fd is not None:
            raise ConfigError("unix_socket and fd exclude each other: name one place to listen on")
        if self.root_path and (self.root_path[0] != "/" or self.root_path[-1] == "/"):
            raise ConfigError(
                f'root_path must begin with a slash and not end with one, as "/app" does, got {self.root_path!r}'
            )
        if self.certfile is None and (self.keyfile or self.client_ca):
            raise ConfigError("keyfile and client_ca need certfile, which turns TLS on")
        if (self.client_certificate == "none") != (self.client_ca is None):
            raise ConfigError(
                "client_certificate and client_ca need each other: one says whether clients are asked for a"
                " certificate, the other what it is checked against"
            )


def _check_type(name: str, value: object, hint: Any) -> None:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(
                f"{name} must be one of {', '.join(get_args(hint))}, got {value!r:.80}"
            )
        return
    allowed = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and type(None) in allowed:
        return
    wanted = next(kind for kind in allowed if kind is not type(None))
    fits = type(value) is wanted or (wanted is float and type(value) is int)
    if not fits:
        raise ConfigError(f"{name} must be {_words_for(wanted)}, got {value!r:.80}")


def _check_range(name: str, value: Any, least: float | None, most: float | None) -> None:
    if value is None:
        return
    if least is not None and not value >= least:  # NaN fails too
        raise ConfigError(f"{name} must be at least {least:g}, got {value!r}")
    if most is not None and value > most:
        raise ConfigError(f"{name} must be at most {most:g}, got {value!r}")


def _words_for(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


@dataclass(frozen=True)
class Option:
    """One option as text knows it: on a command line, in a variable, on a page.

    Attributes:
        name: of the attribute.
        group: heading under which it stands.
        text: what it is for.
        unit: of its value, or "".
        default: of its value.
        kind: the type of its value.
        choices: the values that it may have, or none where there are many.
        optional: whether it may be None.
    """

    name: str
    group: str
    text: str
    unit: str
    default: Any
    kind: type
    choices: tuple[str, ...]
    optional: bool

    @property
    def flag(self) -> str:
        """As it is typed: ``--max-head-bytes``."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable: ``BRIDGES_MAX_HEAD_BYTES``."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    def parse(self, text: str) -> Any:
        """Read a value.

        Raises:
            ConfigError: it is none.
        """
        if self.optional and text.lower() in ("", "none"):
            return None
        if self.kind is bool:
            return self._parse_bool(text)
        try:
            if self.unit == "octal":
                return int(text, 8)
            return self.kind(text)
        except ValueError:
            raise ConfigError(
                f"{self.name} must be {_words_for(self.kind)}, got {text!r:.80}"
            ) from None

    def _parse_bool(self, text: str) -> bool:
        lowered = text.lower()
        if lowered in ("1", "true", "yes", "on"):
            return True
        if lowered in ("0", "false", "no", "off"):
            return False
        raise ConfigError(f"{self.name} must be true or false, got {text!r:.80}")


def options() -> Iterator[Option]:
    """Give every option, in the order of the groups."""
    hints = get_type_hints(Config)
    for each in dataclasses.fields(Config):
        hint = hints[each.name]
        is_choice = get_origin(hint) is Literal
        parts = () if is_choice else get_args(hint)
        yield Option(
            name=each.name,
            group=each.metadata["group"],
            text=each.metadata["text"],
            unit=each.metadata["unit"],
            default=each.default,
            kind=str
            if is_choice
            else next((part for part in parts if part is not type(None)), hint),
            choices=get_args(hint) if is_choice else (),
            optional=type(None) in parts,
        )


def options_from_environment(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Read the options that ``BRIDGES_*`` variables set.

    Raises:
        ConfigError: a value is wrong; the sentence names the variable.
    """
    found: dict[str, Any] = {}
    for option in options():
        text = environment.get(option.variable)
        if text is not None:
            try:
                found[option.name] = option.parse(text)
            except ConfigError as error:
                raise ConfigError(f"{error} (from {option.variable})") from None
    return found
