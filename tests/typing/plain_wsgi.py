"""Read by type checkers only: apps written with the standard library's types, and misuse that is refused [FR 125]."""

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from starlette.types import ASGIApp

from bridges import WSGIToASGI


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as PEP 3333 has it."""
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"written, ")
    return [b"returned"]


class ClassApplication:
    """An app that is an object."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Answer nothing."""
        start_response("204 No Content", [])
        return []


async def asynchronous(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Look like an app, but return an awaitable."""
    return [b""]


as_function = WSGIToASGI(application)
as_object = WSGIToASGI(ClassApplication())

for_starlette: ASGIApp = as_function
wrapped: WSGIApplication = as_function.app

WSGIToASGI(asynchronous)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
WSGIToASGI(application, max_threads="40")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
WSGIToASGI(application, header_policy="perhaps")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
