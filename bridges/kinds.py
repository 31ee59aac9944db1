"""What an application seems to be, and what to call it."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Final

_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


def name_of(app: object) -> str:
    """Give the name by which errors and the log call an application; of 80 characters at most."""
    named: Any = app if hasattr(app, "__qualname__") else type(app)
    name = f"{named.__module__}.{named.__qualname__}"
    return name if len(name) <= 80 else "..." + name[-77:]


def is_async(function: object) -> bool:
    """Whether calling something gives a coroutine: a function, a partial of one, or an object that is called."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  # a callable object whose __call__ is async
    )


def arity_of(app: Any) -> int | None:
    """Count the arguments that a callable must be given by position; None where that cannot be known."""
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return sum(
        parameter.kind in _POSITIONAL and parameter.default is inspect.Parameter.empty
        for parameter in parameters
    )
