"""From what a user types to an application: ``load`` imports it, ``kind_of`` tells what it speaks, by looking alone."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import itertools
import os
import pkgutil
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, Literal, TypeAlias, cast

from asgiref.compatibility import double_to_single_callable
from asgiref.sync import iscoroutinefunction

from .errors import ConfigError
from .kinds import name_of
from .typing import ASGIApplication

Kind: TypeAlias = Literal["wsgi", "asgi", "asgi2"]
Interface: TypeAlias = Literal["auto", "wsgi", "asgi", "asgi2"]

_KINDS: Final[tuple[Kind, ...]] = ("wsgi", "asgi", "asgi2")
_DEFAULT_ATTRIBUTES: Final = ("app", "application")
_MOST_SUGGESTIONS: Final = 5

# What each kind is called with, and how many arguments that are.
_ARGUMENTS: Final[dict[Kind, int]] = {"wsgi": 2, "asgi": 3, "asgi2": 1}
_TITLES: Final[dict[Kind, str]] = {
    "wsgi": "a WSGI application",
    "asgi": "an ASGI application",
    "asgi2": "an ASGI 2 application",
}

# Parameters as frameworks and the specifications' own examples name them.
_ENVIRON_NAMES: Final = frozenset({"environ", "env"})
_START_NAMES: Final = frozenset({"start_response", "start_resp"})
_ASGI_NAMES: Final = frozenset({"scope", "receive", "send"})
_CHANNEL_NAMES: Final = frozenset({"receive", "send"})
_REQUEST_NAMES: Final = frozenset({"request", "req"})

# Wrappers around wrappers end somewhere, unless one wraps itself.
_MOST_LAYERS: Final = 32


def load(path: str, *, factory: bool = False, directory: str | None = None) -> object:
    """Import the application that a path names.

    The directory is put first on ``sys.path`` and stays there: applications import when they run, too.
    Called before there is a loop, in the thread that starts the server.

    Args:
        path: ``module:attribute``, both of which may have dots; without a colon the attribute is ``app``, or else
            ``application``.
        factory: call what the path names, without arguments, to get the application.
        directory: where modules are looked for first; None for the working directory.

    Returns:
        Something that can be called; ``kind_of`` tells how.

    Raises:
        ConfigError: the path does not lead to an application; the sentence says what to type instead.
        BaseException: what the application's own code raised while it was imported or made.
    """
    module_name, attribute = _parse(path)
    where = _put_first(directory)
    module = _import(module_name, attribute, where)
    attribute = attribute or _default_attribute(module, factory)
    found = _walk(module, attribute, factory)
    typed = f"{module_name}:{attribute}"
    if not callable(found):
        raise ConfigError(_not_callable(typed, found, module, factory))
    return _made_by(found, typed) if factory else found


def kind_of(app: object, interface: Interface = "auto") -> Kind:
    """Tell what an application speaks, without calling it.

    Args:
        app: the application.
        interface: what the user says that it speaks; believed unless it cannot be called so.

    Raises:
        ConfigError: it cannot be told, or the user is wrong; the sentence says what to type.
    """
    if not callable(app):
        raise ConfigError(
            f"{_title(app)} cannot be called, so it is no application: name one that can"
        )
    if interface == "auto":
        kind = _seen_kind(app)
        if kind is None:
            raise ConfigError(_cannot_tell(app))
        return kind
    if not _fits(_look(_called(app)), interface):
        raise ConfigError(_wrong_choice(app, interface))
    return interface


def as_asgi3(app: object, kind: Literal["asgi", "asgi2"]) -> ASGIApplication:
    """Give an ASGI application in the form of ASGI 3, adapting one of ASGI 2.

    Args:
        app: the application.
        kind: as ``kind_of`` told it.
    """
    if kind == "asgi2":
        # guarantee_single_callable would look once more, with less to see by.
        app = double_to_single_callable(app)  # type: ignore[no-untyped-call]  # asgiref has no types there
    return cast(ASGIApplication, app)


def _parse(path: str) -> tuple[str, str | None]:
    """Split a path into a module and an attribute, which is None where there is no colon."""
    module, colon, attribute = path.partition(":")
    if module.endswith(".py") or "/" in module or os.sep in module:
        raise ConfigError(_for_file(module, attribute))
    if not module:
        raise ConfigError(
            f"{path!r:.80} names no module: type one, as in main:{attribute or 'app'}"
        )
    if colon and not attribute:
        raise ConfigError(
            f"{path!r:.80} names nothing after the colon: type the application's name there, as in {module}:app"
        )
    called, bracket, arguments = attribute.partition("(")
    if bracket and _are_names(called):
        more = "" if arguments == ")" else ", a function that needs no arguments"
        raise ConfigError(
            f"{path!r:.80} is a call, which is not understood: type {module}:{called} --factory{more}"
        )
    if not all(module.split(".")) or (colon and not _are_names(attribute)):
        raise ConfigError(
            f"{path!r:.80} is not of the form module:attribute: type something like main:app"
        )
    return module, attribute or None


def _are_names(dotted: str) -> bool:
    return all(part.isidentifier() for part in dotted.split("."))


def _for_file(file: str, attribute: str) -> str:
    """Say how the module in a file is typed."""
    path = PurePath(file)
    attribute = attribute if _are_names(attribute) else "app"
    *folders, name = path.with_suffix("").parts if path.name else ("main",)
    what = f"{file!r:.80} is the path of a file, not the name of a module"
    if path.is_absolute() or any("." in folder for folder in folders):
        return f"{what}: go to {path.parent} and type {name}:{attribute}"
    return f"{what}: type {'.'.join([*folders, name])}:{attribute}"


def _put_first(directory: str | None) -> str:
    where = os.path.abspath(directory or os.getcwd())
    if not os.path.isdir(where):
        raise ConfigError(f"there is no directory {where}: type one that exists")
    if sys.path[:1] != [where]:
        sys.path.insert(0, where)
    return where


def _import(name: str, attribute: str | None, where: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != name and not name.startswith(f"{missing}."):
            raise  # something that the application imports
        raise ConfigError(_no_module(name, missing, attribute, where)) from None


def _no_module(name: str, missing: str, attribute: str | None, where: str) -> str:
    parent, _, child = missing.rpartition(".")
    owner = sys.modules.get(parent)
    if owner is None:
        return (
            f"there is no module {missing} in {where}: {_other_module([where], child, attribute)}"
        )
    lacks = f"there is no module {missing}"
    if hasattr(owner, child):
        rest = ".".join(part for part in (name[len(parent) + 1 :], attribute) if part)
        return f"{lacks}, but {child} in {parent}: type {parent}:{rest}"
    close = difflib.get_close_matches(child, _modules_in(getattr(owner, "__path__", [])), 1)
    if close:
        return f"{lacks}: type {parent}.{close[0]}:{attribute or 'app'}"
    return f"{lacks}: {_advice(owner, False)}"


def _other_module(folders: Iterable[str], wanted: str, attribute: str | None) -> str:
    modules = _modules_in(folders)
    close = difflib.get_close_matches(wanted, modules, 1)
    if close:
        return f"type {close[0]}:{attribute or 'app'}"
    if modules:
        return f"type one that is there, as {_or(modules)}"
    return "go to the application's directory, or type another name"


def _modules_in(folders: Iterable[str]) -> list[str]:
    names = (found.name for found in pkgutil.iter_modules(folders))
    return sorted(name for name in names if not name.startswith("_"))


def _default_attribute(module: types.ModuleType, factory: bool) -> str:
    present = [name for name in _DEFAULT_ATTRIBUTES if hasattr(module, name)]
    for name in present:
        if callable(getattr(module, name)):
            return name
    if not present:
        lacks = f"module {module.__name__} has neither app nor application"
        raise ConfigError(f"{lacks}: {_advice(module, factory)}")
    return present[0]


def _walk(module: types.ModuleType, attribute: str, factory: bool) -> object:
    owner: object = module
    for part in attribute.split("."):
        try:
            owner = getattr(owner, part)
        except AttributeError as error:
            if error.name != part or error.obj is not owner:
                raise  # something that a property or __getattr__ of the application looks for
            raise ConfigError(
                f"{module.__name__}:{attribute} does not exist, for {_title(owner)} has no attribute {part}:"
                f" {_advice(module, factory)}"
            ) from None
    return owner


def _not_callable(typed: str, found: object, module: types.ModuleType, factory: bool) -> str:
    if inspect.ismodule(found):
        return f"{typed} is a module: {_advice(found, factory)}"
    return f"{typed} is {_title(found)}, which cannot be called: {_advice(module, factory)}"


def _title(thing: object) -> str:
    if thing is None:
        return "None"
    if inspect.ismodule(thing):
        return f"module {thing.__name__}"
    return f"an object of type {name_of(type(thing))}"


def _advice(module: types.ModuleType, factory: bool) -> str:
    """Say what to type to get at an application that is in a module or below it."""
    name = module.__name__
    apps = [] if factory else _names_in(module, _is_candidate)
    if apps:
        return f"type {_or(f'{name}:{each}' for each in apps)}"
    makers = _names_in(module, _is_maker)
    if makers:
        return f"type {_or(f'{name}:{each} --factory' for each in makers)}"
    below = _modules_in(getattr(module, "__path__", []))
    if below:
        return f"type the module below it that has one, as {_or(f'{name}.{each}:app' for each in below)}"
    return "type the name of a module and of an application in it, as in main:app"


def _or(words: Iterable[str]) -> str:
    """Join at most five words by commas, and the last one by an or."""
    *most, last = itertools.islice(words, _MOST_SUGGESTIONS)
    return f"{', '.join(most)} or {last}" if most else last


def _names_in(module: types.ModuleType, fits: Callable[[str, Any, str], bool]) -> list[str]:
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and callable(thing) and fits(name, thing, module.__name__)
    ]


def _is_candidate(name: str, thing: Any, module: str) -> bool:
    """Whether a user may have meant this: an application surely, and not a class or function of a framework."""
    try:
        if _is_code(thing):
            return thing.__module__ == module and _is_named_application(thing)
        return _seen_kind(thing) is not None
    except Exception:  # some objects cannot be looked at here, such as Flask's request
        return False


def _is_named_application(thing: Any) -> bool:
    """Whether something is an application by the names of its parameters, not by their number alone."""
    names = _START_NAMES | _ASGI_NAMES
    return bool(_look(_called(thing)).names & names) and _seen_kind(thing) is not None


def _is_maker(name: str, thing: Any, module: str) -> bool:
    """Whether this is a function that seems to make an application, as ``create_app`` does."""
    return inspect.isfunction(thing) and "app" in name.lower() and _look(thing).least == 0


def _made_by(make: Any, typed: str) -> object:
    look = _look(_called(make))
    if not look.accepts(0):
        if _is_named_application(make):
            raise ConfigError(f"{typed} is an application, not a factory: leave out --factory")
        raise ConfigError(
            f"the factory {typed} cannot be called without arguments: type the name of one that can"
        )
    if look.is_async:
        raise ConfigError(
            f"the factory {typed} is asynchronous: type the name of a plain function that returns the application"
        )
    made: object = make()
    if not callable(made):
        raise ConfigError(
            f"the factory {typed} returned {_title(made)}, which cannot be called: it must return the application"
        )
    return made


@dataclass(frozen=True)
class _Look:
    """What is seen of one callable.

    Attributes:
        is_async: calling it gives something to await.
        is_class: calling it gives an instance.
        names: of the parameters that can be given by position.
        counts: of the arguments by position, zero to three, that it can be called with; None where that is unknown.
    """

    is_async: bool
    is_class: bool
    names: frozenset[str] = frozenset()
    counts: frozenset[int] | None = None

    def accepts(self, count: int) -> bool:
        return self.counts is None or count in self.counts

    @property
    def least(self) -> int | None:
        """Fewest arguments that it takes, or None where that is unknown or more than three."""
        return min(self.counts, default=None) if self.counts else None

    @property
    def takes_anything(self) -> bool:
        """Whether nothing is seen in its parameters, as in a wrapper's ``*args``."""
        return not self.names and self.accepts(3)


def _look(thing: Any) -> _Look:
    """Look at a function, method, class or partial itself, not at what it wraps."""
    code = _without_partials(thing)
    is_class = inspect.isclass(code)
    # asgiref's, for before Python 3.12 the standard library's does not know of functions that are marked as such.
    awaited = iscoroutinefunction(code)
    if inspect.isasyncgenfunction(code):
        return _Look(awaited, is_class, counts=frozenset())  # neither awaited nor iterated over
    try:
        signature = inspect.signature(thing, follow_wrapped=False)
    except (TypeError, ValueError):
        return _Look(awaited, is_class)
    names = (
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    )
    counts = (count for count in range(4) if _binds(signature, count))
    return _Look(awaited, is_class, frozenset(names), frozenset(counts))


def _without_partials(thing: Any) -> Any:
    """Give what runs in the end; a partial may be one of an object that is called."""
    while isinstance(thing, functools.partial):
        thing = _called(thing.func)
    return thing


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _is_code(thing: object) -> bool:
    """Whether something is called by itself, not by its class's ``__call__``: functions of every make, and classes."""
    if inspect.isclass(thing) or isinstance(thing, functools.partial):
        return True
    # Any object with a __get__ is a routine to inspect, WebOb's wsgify too.
    return inspect.isroutine(thing) and not inspect.isfunction(type(thing).__call__)


def _called(app: Any) -> Any:
    """Give what runs when an application is called: itself, or its class's ``__call__``, bound.

    Python looks there alone; Sentry's middleware puts a slot there, which gives another method for each kind.
    """
    if _is_code(app):
        return app
    call = type(app).__call__
    return call.__get__(app, type(app)) if hasattr(call, "__get__") else call


def _layers(app: Any) -> Iterator[Any]:
    """Give what runs when an application is called, then what that wraps, and so on: no end if one wraps itself."""
    call = _called(app)
    yield call
    inner = _wrapped(call)
    if inner is not None:
        yield from _layers(inner)
    if not _is_code(app) and (inner := getattr(app, "__wrapped__", None)) is not None:
        yield from _layers(inner)


def _wrapped(layer: Any) -> Any:
    """Give what a function or method wraps, with the same arguments filled in, or None."""
    if isinstance(layer, functools.partial):
        inner = _wrapped(layer.func)
        return None if inner is None else functools.partial(inner, *layer.args, **layer.keywords)
    if type(layer) is types.MethodType:
        inner = getattr(layer.__func__, "__wrapped__", None)
        return None if inner is None else types.MethodType(inner, layer.__self__)
    return getattr(layer, "__wrapped__", None)


def _seen_kind(app: Any) -> Kind | None:
    """Tell what an application speaks, or None; the outermost layer that shows anything is believed."""
    # asgiref's own hints come first, as in its is_double_callable.
    if getattr(app, "_asgi_single_callable", None) is True:
        return "asgi"
    if getattr(app, "_asgi_double_callable", None) is True:
        return "asgi2"
    outer = look = _look(_called(app))
    for layer in itertools.islice(_layers(app), _MOST_LAYERS):
        look = _look(layer)
        kind = (
            _kind_of_class(_without_partials(layer), look) if look.is_class else _kind_by_look(look)
        )
        if kind is not None:
            return kind
        if not look.takes_anything:
            break
    return "wsgi" if _takes_requests(app, outer, look) else None


def _fits(look: _Look, kind: Kind) -> bool:
    """Whether something can be called as applications of a kind are."""
    return look.accepts(_ARGUMENTS[kind]) and (kind == "asgi" or not look.is_async)


def _kind_by_look(look: _Look) -> Kind | None:
    if look.is_async:
        return _kind_of_async(look)
    if look.names & _START_NAMES:
        return "wsgi" if look.accepts(2) and not look.names & _ASGI_NAMES else None
    if look.names & _CHANNEL_NAMES:
        return "asgi" if look.accepts(3) else None  # returns something to await
    if look.least == 3:
        return None if look.names & _ENVIRON_NAMES else "asgi"
    if "scope" in look.names:
        return "asgi2" if look.accepts(1) and not look.accepts(3) else None
    return "wsgi" if look.least == 2 and not look.names & _REQUEST_NAMES else None


def _kind_of_async(look: _Look) -> Kind | None:
    """Tell whether a coroutine function is an ASGI 3 application: it can be no other."""
    if not look.accepts(3) or look.names & (_ENVIRON_NAMES | _START_NAMES):
        return None
    tells = look.takes_anything or len(look.names) >= 3 or look.names & _ASGI_NAMES
    return "asgi" if tells else None


def _kind_of_class(cls: type, look: _Look) -> Kind | None:
    """Tell whether a class is itself an application, each of its instances serving one request."""
    if look.accepts(1) and _serves_asgi2(cls):
        return "asgi2"
    if look.accepts(3) and hasattr(cls, "__await__"):
        return "asgi"  # as Starlette's HTTPEndpoint
    if look.accepts(2) and look.names & _START_NAMES:
        return "wsgi"
    # PEP 3333 "The Application/Framework Side": AppClass, whose instances are iterated over
    return "wsgi" if look.least == 2 and hasattr(cls, "__iter__") else None


def _serves_asgi2(cls: type) -> bool:
    """Whether instances of a class are called with receive and send, to be awaited."""
    look = _look(types.MethodType(cls.__call__, cls))
    awaited = look.is_async or look.names & _CHANNEL_NAMES
    return bool(awaited) and look.accepts(2) and not look.accepts(3)


def _takes_requests(app: object, outer: _Look, inner: _Look) -> bool:
    """Whether it makes a request object of an environ, as werkzeug's Request.application and WebOb's wsgify do."""
    makes = outer.takes_anything or not _is_code(app)
    return makes and bool(inner.names & _REQUEST_NAMES) and _fits(outer, "wsgi")


def _cannot_tell(app: object) -> str:
    name = name_of(app)
    look = _look(_called(app))
    choices = [f"--interface {kind}" for kind in _KINDS if _fits(look, kind)]
    otherwise = f", or else {_or(choices)}" if choices else ""
    if _is_code(app) and look.counts and look.accepts(0):
        return f"{name} needs no arguments: if calling it makes the application, type --factory{otherwise}"
    if look.is_class:
        return f"{name} is a class: type the name of an application made of it{otherwise}"
    if not choices:
        return (
            f"{name} is no application, for WSGI calls one with (environ, start_response) and ASGI awaits one of"
            " (scope, receive, send): type another name or --interface"
        )
    return f"looking at {name} does not tell what it speaks: type {_or(choices)}"


def _wrong_choice(app: object, interface: Kind) -> str:
    kind = _seen_kind(app)
    if kind is None:
        return _cannot_tell(app)
    name = name_of(app)
    return f"{name} is {_TITLES[kind]}, not {_TITLES[interface]}: type --interface {kind}"
