"""What was typed on the command line, with what variables add to it: from text to a ``Command``.

Options come from ``config`` and from ``OWN_OPTIONS`` below; what is typed wins over ``BRIDGES_*`` variables.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, NoReturn

from ..errors import ConfigError
from .config import Config, Option, options, options_from_environment

PROGRAM: Final = "bridges"


def say(sentence: str) -> None:
    """Tell the user something, on standard error."""
    sys.stderr.write(f"{PROGRAM}: {sentence}\n")


# The variable that platforms set, and that gunicorn and uvicorn read, too.
_WORKERS_VARIABLE: Final = "WEB_CONCURRENCY"


def _own(name: str, group: str, text: str, default: Any, *, optional: bool = False) -> Option:
    kind = str if default is None else type(default)
    return Option(name, group, text, "", default, kind, (), optional)


_WORKERS: Final = _own(
    "workers",
    "Processes",
    f"processes that serve, kept by gunicorn if there are more than one; also from {_WORKERS_VARIABLE}",
    1,
)

# What only the command line knows.
OWN_OPTIONS: Final = (
    _own("app_dir", "Application", "directory that modules are looked for in first", "."),
    _WORKERS,
    _own("preload", "Processes", "load the application before gunicorn forks its workers", False),
    _own("reload", "Development", "start anew when a source file changes", False),
    _own(
        "reload_dir",
        "Development",
        "directories that --reload watches, with commas between; none stands for that of --app-dir",
        None,
        optional=True,
    ),
    _own(
        "reload_include",
        "Development",
        "patterns of file names that --reload looks at, with commas between",
        "*.py",
    ),
)


@dataclass(frozen=True)
class Command:
    """What was typed, with what variables add to it.

    Attributes:
        app: the path of the application.
        config: every option of the server.
        given: the options of the server that were typed or set, by name.
        app_dir: where modules are looked for first.
        workers: how many processes serve.
        preload: whether gunicorn loads the application before it forks.
        reload: whether changes of files start the server anew.
        reload_dirs: the directories that are watched for that.
        reload_patterns: of names of files.
    """

    app: str
    config: Config
    given: dict[str, Any]
    app_dir: str
    workers: int
    preload: bool
    reload: bool
    reload_dirs: tuple[str, ...]
    reload_patterns: tuple[str, ...]

    @property
    def needs_gunicorn(self) -> bool:
        """Whether processes have to be kept."""
        return self.workers > 1 or self.preload


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: {message} (see {PROGRAM} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line, with every option in its group."""
    parser = _Parser(
        prog=PROGRAM,
        usage="%(prog)s [options] module:attribute",
        description="Serve a WSGI or an ASGI application over HTTP/1.1 and websockets; which kind it is, is seen.",
        epilog=(
            "Each option can be set by the variable that stands behind it, too; what is typed wins. "
            "Sizes are in bytes, times in seconds. Exit status: 0 when told to stop, by SIGINT (Ctrl-C) or SIGTERM; "
            "1 when it could not serve, or was forced by a second signal; 2 when an option is wrong."
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "app",
        metavar="module:attribute",
        help="the application; without a colon, app or application in that module",
    )
    version = f"%(prog)s {import_module(PROGRAM).__version__}"
    parser.add_argument("--version", action="version", version=version)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in all_options():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        _add(groups[option.group], option)
    return parser


def all_options() -> list[Option]:
    """Give the options of the server and of the command line, those of a group together."""
    every = [*options(), *OWN_OPTIONS]
    order = list(dict.fromkeys(option.group for option in every))
    return sorted(every, key=lambda option: order.index(option.group))


def default_text(option: Option) -> str:
    """Say the default of an option, with its unit."""
    if option.default is None:
        return "none"
    if option.kind is bool:
        return "on" if option.default else "off"
    if option.unit == "octal":
        return f"{option.default:o}, octal"
    text = f"{option.default:.15g}" if option.kind is float else str(option.default) or "empty"
    return f"{text} {option.unit}".rstrip()


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    about = f"{option.text} (default: {default_text(option)}; {option.variable})".replace("%", "%%")
    keywords: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS, "help": about}
    if option.kind is bool:
        group.add_argument(option.flag, action=argparse.BooleanOptionalAction, **keywords)
        return
    words = {int: "NUMBER", float: "NUMBER", str: "TEXT"}
    metavar = option.unit.upper() or words[option.kind]
    if option.choices:
        metavar = f"{{{','.join(option.choices)}}}"

    group.add_argument(option.flag, metavar=metavar, **keywords)


def read_command(
    arguments: Sequence[str] | None, environment: Mapping[str, str] = os.environ
) -> Command:
    """Put together what was typed and what variables say.

    Args:
        arguments: without the program's name; None for those of the process.
        environment: where the variables are.

    Raises:
        ConfigError: an option is wrong, or contradicts another one.
        SystemExit: as argparse does.
    """
    typed = vars(make_parser().parse_args(arguments))
    app = typed.pop("app")
    typed = {name: _value(name, text) for name, text in typed.items()}
    own = _own_from_environment(environment)
    own |= {each.name: typed.pop(each.name) for each in OWN_OPTIONS if each.name in typed}
    given = options_from_environment(environment) | typed
    if own.get("reload"):
        if own.get("preload") or own.get("workers", 1) > 1:
            raise ConfigError("reload serves by one process: leave out workers and preload")
    elif "workers" not in own and _WORKERS_VARIABLE in environment:
        own["workers"] = _parse(_WORKERS, environment[_WORKERS_VARIABLE], _WORKERS_VARIABLE)
    own = {each.name: each.default for each in OWN_OPTIONS} | own
    if own["workers"] < 1:
        raise ConfigError(f"workers must be at least 1, got {own['workers']}")
    return Command(
        app=app,
        config=Config(**given),
        given=given,
        app_dir=own["app_dir"],
        workers=own["workers"],
        preload=own["preload"],
        reload=own["reload"],
        reload_dirs=parts(own["reload_dir"] or own["app_dir"]),
        reload_patterns=parts(own["reload_include"]),
    )


def _value(name: str, typed: str | bool) -> Any:
    if isinstance(typed, bool):
        return typed
    return next(option for option in all_options() if option.name == name).parse(typed)


def _own_from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    return {
        option.name: _parse(option, environment[option.variable], option.variable)
        for option in OWN_OPTIONS
        if option.variable in environment
    }


def _parse(option: Option, text: str, variable: str) -> Any:
    try:
        return option.parse(text)
    except ConfigError as error:
        raise ConfigError(f"{error} (from {variable})") from None


def parts(text: str) -> tuple[str, ...]:
    """Take apart what has commas between."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
