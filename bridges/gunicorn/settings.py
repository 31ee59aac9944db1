"""From gunicorn's settings to the server's options: what is honoured, what has no effect, what is refused.

Source: gunicorn settings.
"""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gunicorn.sock import ssl_context

from ..errors import ConfigError
from ..server.config import Config, options, options_from_environment
from ..server.service import Service
from ..server.tls import server_certificate, tls_extension

# gunicorn's own bound where limit_request_line is 0, "unlimited", and where limit_request_fields is.
_LONGEST_LINE: Final = 1_048_576
_MOST_FIELDS: Final = 32_768

_FIELD_BYTES: Final = 8190

# What of graceful_timeout is not for requests: idle connections come first, and the application's shutdown last.
_SHUTDOWN_SECONDS: Final = 6.0

# Options that are gunicorn's business: what BRIDGES_* variables say of them is not looked at.
_GUNICORNS_GROUPS: Final = frozenset({"Address", "TLS", "Logging"})
_GUNICORNS_OPTIONS: Final = frozenset({"factory"})

# Settings of the same meaning, which came with later versions.
_SAME: Final = {
    "asgi_loop": "loop",
    "asgi_lifespan": "lifespan",
    "asgi_disconnect_grace_period": "disconnect_grace_seconds",
    "websocket_max_message_size": "websocket_max_bytes",
}

# What a request would be misread with.
_REFUSED: Final = {
    "proxy_protocol": (False, "off"),
    "protocol": ("http",),
}

# What was set to no effect, other than the value without one.
_NO_EFFECT: Final = {
    "http_protocols": "HTTP/1.1 is what clients are offered",
    "http2_cleartext": "HTTP/1.1 is what is spoken",
    "permit_obsolete_folding": "such requests are refused",
    "permit_unconventional_http_method": "such requests are refused",
    "permit_unconventional_http_version": "such requests are refused",
    "casefold_http_method": "such requests are refused",
    "strip_header_spaces": "such requests are refused",
    "tolerate_dangerous_framing": "such requests are refused",
    "forwarder_headers": "names with underscores reach no WSGI application; X-Forwarded-Prefix sets SCRIPT_NAME",
    "secure_scheme_headers": "X-Forwarded-Proto and Forwarded alone tell the scheme",
    "sendfile": "files are sent by the system where it can",
    "tmp_upload_dir": "bodies are not written to files",
}


def options_of(cfg: Any, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Give the options of the server that gunicorn's settings and ``BRIDGES_*`` variables set; variables win.

    Args:
        cfg: of gunicorn.
        environment: where the variables are.

    Raises:
        ConfigError: a setting is refused, or an option is wrong.
    """
    for name, fitting in _REFUSED.items():
        value = getattr(cfg, name, fitting[0])
        if value not in fitting:
            raise ConfigError(
                f"BridgeWorker does not speak what {name} = {value!r:.80} asks for: leave it out"
            )
    given = {
        "access_log": "off",
        "backlog": min(max(cfg.backlog, 1), 65_535),
        "keep_alive_seconds": cfg.keepalive,
        "max_connections": cfg.worker_connections or None,
        "forwarded_allow_ips": ",".join([*cfg.forwarded_allow_ips, "unix"]),
    }
    if cfg.threads > 1:
        given["threads"] = cfg.threads
    given |= _limits(cfg) | _times(cfg.graceful_timeout)
    given |= {
        ours: getattr(cfg, theirs) for theirs, ours in _SAME.items() if theirs in cfg.settings
    }
    given |= {
        name: value
        for name, value in options_from_environment(environment).items()
        if name not in _not_ours()
    }
    Config(**given)
    return given


@functools.cache
def _not_ours() -> frozenset[str]:
    by_group = {option.name for option in options() if option.group in _GUNICORNS_GROUPS}
    return _GUNICORNS_OPTIONS | by_group


def _limits(cfg: Any) -> dict[str, int]:
    line = cfg.limit_request_line or _LONGEST_LINE
    fields = cfg.limit_request_fields
    return {
        "max_target_bytes": line,
        # Room for the longest line, and for two fields of the largest size.
        "max_head_bytes": max(
            Config.max_head_bytes, line + 2 * max(cfg.limit_request_field_size, _FIELD_BYTES)
        ),
        "max_fields": min(fields, _MOST_FIELDS) if fields > 0 else _MOST_FIELDS,
    }


def _times(graceful_timeout: int) -> dict[str, float]:
    """Share out the time that gunicorn gives a worker for its stop."""
    return {
        "graceful_seconds": graceful_timeout - min(graceful_timeout / 4, _SHUTDOWN_SECONDS),
        # Whatever is left of graceful_timeout by then.
        "shutdown_seconds": float(graceful_timeout),
    }


def warnings_for(cfg: Any, environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Say what was set without effect.

    Args:
        cfg: of gunicorn.
        environment: where ``BRIDGES_*`` variables are.
    """
    for name, instead in _NO_EFFECT.items():
        setting = cfg.settings.get(name)
        if setting is not None and setting.get() != type(setting)().get():
            yield f"{name} has no effect with BridgeWorker: {instead}"
    if getattr(cfg, "header_map", "drop") == "dangerous":
        yield "header_map = 'dangerous' has no effect with BridgeWorker: names with underscores are dropped"
    for option in options():
        if option.name in _not_ours() and option.variable in environment:
            yield f"{option.variable} has no effect under gunicorn, whose own settings are read"


def make_tls(cfg: Any) -> ssl.SSLContext | None:
    """Make the context for TLS as gunicorn does, its hook ``ssl_context`` included; None without a certificate.

    Args:
        cfg: of gunicorn.

    Raises:
        ConfigError: a file cannot be read or used.
    """
    if not cfg.is_ssl:
        return None
    try:
        context: ssl.SSLContext = ssl_context(cfg)
    except (OSError, TypeError, ValueError) as error:  # of the ssl module, for wrong files
        raise ConfigError(
            f"TLS cannot be set up with certfile = {cfg.certfile!r} and keyfile = {cfg.keyfile!r}: {error}"
        ) from error
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def describe_tls(cfg: Any, service: Service) -> None:
    """Have applications told about TLS.

    Args:
        cfg: of gunicorn, with TLS.
        service: of the server.
    """
    certificate = server_certificate(cfg.certfile) if cfg.certfile else None
    service.tls = functools.partial(tls_extension, server_cert=certificate)
