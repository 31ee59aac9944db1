"""``bridges.loading``: which application a path names, and what an application speaks."""

from __future__ import annotations

import functools
import itertools
import operator
import re
import sys
import types
import wsgiref.simple_server
import wsgiref.validate
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asgiref.compatibility
import asgiref.sync
import asgiref.wsgi
import flask
import pytest
import starlette.applications
import starlette.endpoints
import starlette.middleware.cors
import starlette.responses
import starlette.routing
import werkzeug.middleware.dispatcher
import werkzeug.middleware.proxy_fix
import werkzeug.wrappers

from bridges import ASGIToWSGI, WSGIToASGI
from bridges.errors import ConfigError
from bridges.kinds import name_of
from bridges.loading import as_asgi3, kind_of, load

FR_110 = pytest.mark.spec("FR 110")


def fail(*arguments: Any) -> Any:
    """Stand in for the body of what must be looked at and not be called."""
    raise AssertionError("the application was called")


# --- applications, each written as somebody writes them


def wsgi(environ, start_response):
    fail()


def wsgi_short_names(env, start_resp):
    fail()


def wsgi_own_names(e, s):
    fail()


def wsgi_generator(environ, start_response):
    yield fail()


def wsgi_with_option(environ, start_response, debug=False):
    fail()


def wsgi_lenient(environ, start_response=None):
    fail()


async def asgi(scope, receive, send):
    fail()


async def asgi_own_names(a, b, c):
    fail()


async def asgi_positional_only(scope, receive, send, /):
    fail()


def asgi_returning_awaitable(scope, receive, send):
    fail()


def asgi_returning_awaitable_own_names(a, b, c):
    fail()


def asgi_of_both_versions(scope, receive=None, send=None):
    fail()


def asgi2(scope):
    fail()


class WSGIObject:
    def __call__(self, environ, start_response):
        fail()

    def method(self, environ, start_response):
        fail()


class ASGIObject:
    async def __call__(self, scope, receive, send):
        fail()

    async def method(self, scope, receive, send):
        fail()

    @classmethod
    async def of_class(cls, scope, receive, send):
        fail()

    @staticmethod
    async def of_nobody(scope, receive, send):
        fail()


class ASGIObjectOfAnything:
    async def __call__(self, *arguments):
        fail()


class ASGI2Object:
    def __call__(self, scope):
        fail()


class ASGI2Class:
    def __init__(self, scope):
        fail()

    async def __call__(self, receive, send):
        fail()


class ASGI2ClassReturningAwaitable:
    def __init__(self, scope):
        fail()

    def __call__(self, receive, send):
        fail()


class ASGI2ClassWithOptions(ASGI2Class):
    def __init__(self, scope, *, database=None):
        fail()


class ASGI2ClassConfigured(ASGI2Class):
    def __init__(self, config, scope):
        fail()


class ASGI3Class:
    def __init__(self, scope, receive, send):
        fail()

    def __await__(self):
        fail()


class WSGIClass:
    """PEP 3333 "The Application/Framework Side": AppClass."""

    def __init__(self, environ, start):
        fail()

    def __iter__(self):
        fail()


class WSGIClassMakingLists:
    def __new__(cls, environ, start_response):
        fail()


def configured(config, environ, start_response):
    fail()


async def async_configured(config, scope, receive, send):
    fail()


def generic(app: Any) -> Any:
    """Decorate with a plain function that shows nothing of what it wraps."""

    @functools.wraps(app)
    def wrapper(*arguments, **options):
        fail()

    return wrapper


def generic_async(app: Any) -> Any:
    @functools.wraps(app)
    async def wrapper(*arguments, **options):
        fail()

    return wrapper


@functools.wraps(asgi)
def wsgi_around_asgi(environ, start_response):
    fail()


@functools.wraps(wsgi)
async def asgi_around_wsgi(scope, receive, send):
    fail()


class Proxy:
    """As wrapt's: everything but the call is the wrapped object's."""

    def __init__(self, wrapped: Any) -> None:
        self.__dict__["__wrapped__"] = wrapped

    @property
    def __class__(self) -> Any:
        return type(self.__wrapped__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["__wrapped__"], name)

    def __call__(self, *arguments, **options):
        fail()


class PlainProxy:
    def __init__(self, wrapped: Any) -> None:
        self.__wrapped__ = wrapped

    def __call__(self, *arguments, **options):
        fail()


class SlotMiddleware:
    """As Sentry's: the instance chooses what is called, in a slot of this name."""

    __slots__ = ("__call__", "app")

    def __init__(self, app: Any, version: int) -> None:
        self.app = app
        self.__call__: Any = self.run2 if version == 2 else self.run3

    def run2(self, scope):
        fail()

    async def run3(self, scope, receive, send):
        fail()


class Misleading:
    """The call of an instance is looked up in its class alone."""

    def __init__(self) -> None:
        self.__call__: Any = asgi

    def __call__(self, environ, start_response):
        fail()


def patched(cls: type, function: Callable[..., Any]) -> Any:
    """Give an instance of a class whose ``__call__`` was replaced in place, as tracers do."""
    changed = type(cls.__name__, (cls,), {"__call__": functools.wraps(cls.__call__)(function)})
    return changed()


def hinted(hint: str) -> Any:
    def app(*arguments):
        fail()

    setattr(app, hint, True)
    return app


def without_signature(function: Any) -> Any:
    """Make a function as hard to see through as compiled ones are."""
    function.__signature__ = 1
    return function


@without_signature
def compiled(*arguments):
    fail()


async def plain_asgi(*arguments):
    fail()


compiled_async = without_signature(plain_asgi)


@asgiref.sync.markcoroutinefunction
def marked(*arguments):
    fail()


@werkzeug.wrappers.Request.application
def werkzeug_request(request):
    fail()


class Request2App:
    """As WebOb's wsgify: a descriptor that takes an environ or a request."""

    def __get__(self, owner, cls=None):
        return self

    def __call__(self, req, *arguments, **options):
        fail()


FLASK = flask.Flask("shop")
STARLETTE = starlette.applications.Starlette()
SPECIMENS: dict[str, tuple[Any, str]] = {
    "function of environ and start_response": (wsgi, "wsgi"),
    "function of env and start_resp": (wsgi_short_names, "wsgi"),
    "function of any two": (wsgi_own_names, "wsgi"),
    "generator function": (wsgi_generator, "wsgi"),
    "WSGI with an option": (wsgi_with_option, "wsgi"),
    "WSGI with a default": (wsgi_lenient, "wsgi"),
    "lambda of two": (lambda environ, start_response: fail(), "wsgi"),
    "WSGI object": (WSGIObject(), "wsgi"),
    "WSGI bound method": (WSGIObject().method, "wsgi"),
    "WSGI bound __call__": (WSGIObject().__call__, "wsgi"),
    "WSGI partial": (functools.partial(configured, {}), "wsgi"),
    "WSGI partial by name": (functools.partial(wsgi_with_option, debug=True), "wsgi"),
    "WSGI class": (WSGIClass, "wsgi"),
    "WSGI class with __new__": (WSGIClassMakingLists, "wsgi"),
    "coroutine function": (asgi, "asgi"),
    "coroutine function of any three": (asgi_own_names, "asgi"),
    "coroutine function by position": (asgi_positional_only, "asgi"),
    "coroutine function of *arguments": (generic_async(asgi2), "asgi"),
    "function returning an awaitable": (asgi_returning_awaitable, "asgi"),
    "function of any three": (asgi_returning_awaitable_own_names, "asgi"),
    "function of both versions": (asgi_of_both_versions, "asgi"),
    "lambda of three": (lambda scope, receive, send: fail(), "asgi"),
    "ASGI object": (ASGIObject(), "asgi"),
    "ASGI bound method": (ASGIObject().method, "asgi"),
    "ASGI bound __call__": (ASGIObject().__call__, "asgi"),
    "ASGI class method": (ASGIObject.of_class, "asgi"),
    "ASGI static method": (ASGIObject.of_nobody, "asgi"),
    "ASGI partial": (functools.partial(async_configured, {}), "asgi"),
    "ASGI partial of a partial": (functools.partial(functools.partial(ASGIObject())), "asgi"),
    "ASGI partial of an object": (functools.partial(ASGIObjectOfAnything()), "asgi"),
    "ASGI class to await": (ASGI3Class, "asgi"),
    "ASGI 2 function": (asgi2, "asgi2"),
    "ASGI 2 object": (ASGI2Object(), "asgi2"),
    "ASGI 2 class": (ASGI2Class, "asgi2"),
    "ASGI 2 class returning an awaitable": (ASGI2ClassReturningAwaitable, "asgi2"),
    "ASGI 2 class with options": (ASGI2ClassWithOptions, "asgi2"),
    "ASGI 2 partial of a class": (functools.partial(ASGI2ClassConfigured, {}), "asgi2"),
    "ASGI 2 hint": (hinted("_asgi_double_callable"), "asgi2"),
    "ASGI 3 hint": (hinted("_asgi_single_callable"), "asgi"),
    "decorated WSGI": (generic(wsgi), "wsgi"),
    "decorated ASGI": (generic(asgi), "asgi"),
    "decorated ASGI 2 class": (generic(ASGI2Class), "asgi2"),
    "decorated twice": (generic(generic(asgi2)), "asgi2"),
    "decorated object": (generic(PlainProxy(WSGIObject())), "wsgi"),
    "decorated partial": (functools.partial(generic(configured), {}), "wsgi"),
    "decorated method": (types.MethodType(generic(WSGIObject.method), WSGIObject()), "wsgi"),
    "WSGI adapter that wraps ASGI": (wsgi_around_asgi, "wsgi"),
    "ASGI adapter that wraps WSGI": (asgi_around_wsgi, "asgi"),
    "proxy of a WSGI function": (Proxy(wsgi), "wsgi"),
    "proxy of a WSGI object": (Proxy(WSGIObject()), "wsgi"),
    "proxy of an ASGI function": (Proxy(asgi), "asgi"),
    "proxy of an ASGI method": (Proxy(ASGIObject().method), "asgi"),
    "proxy of an ASGI 2 class": (PlainProxy(ASGI2Class), "asgi2"),
    "proxy of a proxy": (PlainProxy(Proxy(ASGIObject())), "asgi"),
    "slot for ASGI 3": (SlotMiddleware(asgi, 3), "asgi"),
    "slot for ASGI 2": (SlotMiddleware(asgi2, 2), "asgi2"),
    "attribute that is not called": (Misleading(), "wsgi"),
    "WSGI class patched in place": (patched(WSGIObject, lambda *arguments: fail()), "wsgi"),
    "ASGI class patched in place": (patched(ASGIObject, lambda *arguments: fail()), "asgi"),
    "patched with a longer signature": (
        patched(ASGIObject, lambda self, scope, receive, send: fail()),
        "asgi",
    ),
    "compiled coroutine function": (compiled_async, "asgi"),
    "function marked as a coroutine function": (marked, "asgi"),
    "bridges' WSGIToASGI": (WSGIToASGI(wsgi), "asgi"),
    "bridges' ASGIToWSGI": (ASGIToWSGI(asgi, lifespan="off"), "wsgi"),
    "asgiref WsgiToAsgi": (asgiref.wsgi.WsgiToAsgi(wsgi), "asgi"),
    "asgiref single callable": (
        asgiref.compatibility.guarantee_single_callable(ASGI2Class),
        "asgi",
    ),
    "wsgiref demo_app": (wsgiref.simple_server.demo_app, "wsgi"),
    "Flask": (FLASK, "wsgi"),
    "Flask.wsgi_app": (FLASK.wsgi_app, "wsgi"),
    "werkzeug ProxyFix": (werkzeug.middleware.proxy_fix.ProxyFix(FLASK), "wsgi"),
    "werkzeug DispatcherMiddleware": (
        werkzeug.middleware.dispatcher.DispatcherMiddleware(FLASK),
        "wsgi",
    ),
    "werkzeug Request.application": (werkzeug_request, "wsgi"),
    "object that takes requests": (Request2App(), "wsgi"),
    "Starlette": (STARLETTE, "asgi"),
    "Starlette router": (starlette.routing.Router(), "asgi"),
    "Starlette route": (starlette.routing.Route("/", lambda request: fail()), "asgi"),
    "Starlette response": (starlette.responses.PlainTextResponse("x"), "asgi"),
    "Starlette middleware": (starlette.middleware.cors.CORSMiddleware(STARLETTE), "asgi"),
    "Starlette endpoint": (starlette.endpoints.HTTPEndpoint, "asgi"),
}


@FR_110
@pytest.mark.parametrize(("app", "kind"), SPECIMENS.values(), ids=SPECIMENS)
def test_kind_of(app: Any, kind: Any) -> None:
    """What an application speaks is seen without calling it, and agrees with saying so."""
    assert kind_of(app) == kind
    assert kind_of(app, kind) == kind


def _bottle() -> Any:
    import bottle

    return bottle.Bottle(), bottle.Bottle().wsgi


def _django_asgi() -> Any:
    from django.core.handlers.asgi import ASGIHandler

    # Its constructor would need settings, which are one for the process.
    return (ASGIHandler.__new__(ASGIHandler),)


def _django_wsgi() -> Any:
    from django.core.handlers.wsgi import WSGIHandler

    return (WSGIHandler.__new__(WSGIHandler),)


def _falcon_asgi() -> Any:
    import falcon.asgi

    return (falcon.asgi.App(),)


def _falcon_wsgi() -> Any:
    import falcon

    return (falcon.App(),)


def _fastapi() -> Any:
    import fastapi

    return fastapi.FastAPI(), fastapi.APIRouter()


def _litestar() -> Any:
    import litestar

    return (litestar.Litestar([]),)


def _pyramid() -> Any:
    import pyramid.config

    return (pyramid.config.Configurator().make_wsgi_app(),)


def _quart() -> Any:
    import quart

    app = quart.Quart("shop")
    return app, app.asgi_app


def _webob() -> Any:
    import webob.dec

    return (webob.dec.wsgify(fail),)


def _uvicorn() -> Any:
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    return (ProxyHeadersMiddleware(STARLETTE),)


HOSTED = {
    _bottle: "wsgi",
    _django_asgi: "asgi",
    _django_wsgi: "wsgi",
    _falcon_asgi: "asgi",
    _falcon_wsgi: "wsgi",
    _fastapi: "asgi",
    _litestar: "asgi",
    _pyramid: "wsgi",
    _quart: "asgi",
    _uvicorn: "asgi",
    _webob: "wsgi",
}


@FR_110
@pytest.mark.hosts
@pytest.mark.filterwarnings("ignore")  # pyramid still uses pkg_resources
@pytest.mark.parametrize(
    ("make", "kind"), HOSTED.items(), ids=[make.__name__[1:] for make in HOSTED]
)
def test_kind_of_frameworks(make: Callable[[], Any], kind: Any) -> None:
    """Real frameworks' applications are told, plain, decorated and proxied."""
    for app in make():
        assert kind_of(app) == kind
        assert kind_of(Proxy(app)) == kind
        assert kind_of(generic(app)) == kind


# --- what is no application, or cannot be told


def view(request, number):
    fail()


def class_view(request, *arguments):
    fail()


async def async_wsgi(environ, start_response):
    fail()


async def async_view(request):
    fail()


async def async_class_view(request, *arguments):
    fail()


async def async_generator(scope, receive, send):
    yield fail()


async def async_asgi2(scope):
    fail()


async def async_middleware(app, environ, start_response):
    fail()


def wsgi_middleware(app, environ, start_response):
    fail()


def environ_helper(app, environ, name):
    fail()


def inner_asgi2(receive, send):
    fail()


@functools.wraps(asgi)
def adapter(session, *arguments):
    fail()


def scope_and_anything(scope, *arguments):
    fail()


def scope_and_one(scope, number):
    fail()


def mixed(scope, start_response):
    fail()


def by_name_only(*, environ, start_response):
    fail()


def four(a, b, c, d):
    fail()


def create_app():
    fail()


def create_app_of(config=None):
    fail()


class Middleware:
    def __init__(self, app):
        fail()

    async def __call__(self, scope, receive, send):
        fail()


class PassingOn:
    def __init__(self, app):
        fail()

    async def __call__(self, *arguments):
        fail()


class Pair:
    def __init__(self, environ, other=None):
        fail()

    def __iter__(self):
        fail()


class Handler:
    def __init__(self, server):
        fail()

    async def __call__(self, request):
        fail()


class Point:
    def __init__(self, x, y):
        fail()


class Triplet:
    def __init__(self, scope, receive, send):
        fail()


class AIOHTTPLike:
    def __call__(self):
        fail()


def own_wrapper() -> Any:
    def app(*arguments):
        fail()

    app.__wrapped__ = app  # type: ignore[attr-defined]  # a mistake, and no reason to hang
    return app


WSGI, ASGI, ASGI2 = (f"type --interface {kind}" for kind in ("wsgi", "asgi", "asgi2"))
ALL = "--interface wsgi, --interface asgi or --interface asgi2"
SILENT = "looking at {} does not tell what it speaks: "
NONE = (
    "{} is no application, for WSGI calls one with (environ, start_response) and ASGI awaits one of"
    " (scope, receive, send): type another name or --interface"
)
MAKES = "{} needs no arguments: if calling it makes the application, type --factory"
CLASS = "{} is a class: type the name of an application made of it"
UNTOLD: dict[str, tuple[Any, str]] = {
    "function of one": (lambda request: fail(), SILENT + ASGI2),
    "view": (view, SILENT + WSGI),
    "class's view": (class_view, f"{SILENT}type {ALL}"),
    "function of anything": (fail, f"{MAKES}, or else {ALL}"),
    "compiled function": (compiled, f"{SILENT}type {ALL}"),
    "builtin function": (max, f"{SILENT}type {ALL}"),
    "builtin object": (operator.itemgetter(0), f"{SILENT}type {ALL}"),
    "wrapper of itself": (own_wrapper(), f"{MAKES}, or else {ALL}"),
    "wsgiref's validator": (wsgiref.validate.validator(wsgi), f"{MAKES}, or else {ALL}"),
    "proxy of a view": (PlainProxy(lambda other: fail()), f"{SILENT}type {ALL}"),
    "decorated async generator": (generic(async_generator), f"{MAKES}, or else {ALL}"),
    "WSGI middleware": (wsgi_middleware, SILENT + ASGI),
    "function of environ and two": (environ_helper, SILENT + ASGI),
    "async middleware": (async_middleware, SILENT + ASGI),
    "async class's view": (async_class_view, SILENT + ASGI),
    "ASGI 2 inside": (inner_asgi2, SILENT + WSGI),
    "what it wraps is not what it takes": (adapter, f"{SILENT}type {ALL}"),
    "scope and anything": (scope_and_anything, f"{SILENT}type {ALL}"),
    "scope and one": (scope_and_one, SILENT + WSGI),
    "mixed names": (mixed, SILENT + WSGI),
    "async WSGI": (async_wsgi, NONE),
    "async view": (async_view, NONE),
    "async ASGI 2": (async_asgi2, NONE),
    "async generator": (async_generator, NONE),
    "arguments by name": (by_name_only, NONE),
    "function of four": (four, NONE),
    "object without arguments": (AIOHTTPLike(), NONE),
    "factory": (create_app, MAKES),
    "factory with options": (create_app_of, f"{MAKES}, or else --interface asgi2"),
    "class Starlette": (starlette.applications.Starlette, f"{MAKES}, or else {ALL}"),
    "class Flask": (flask.Flask, f"{CLASS}, or else {ALL}"),
    "class of middleware": (Middleware, f"{CLASS}, or else --interface asgi2"),
    "class that passes on": (PassingOn, f"{CLASS}, or else --interface asgi2"),
    "class of handlers": (Handler, f"{CLASS}, or else --interface asgi2"),
    "class of points": (Point, f"{CLASS}, or else --interface wsgi"),
    "class of pairs": (Pair, f"{CLASS}, or else --interface wsgi or --interface asgi2"),
    "class not to await": (Triplet, f"{CLASS}, or else --interface asgi"),
    "class dict": (dict, f"{CLASS}, or else {ALL}"),
    "class Request": (werkzeug.wrappers.Request, f"{CLASS}, or else {ALL}"),
}


def one_sentence(caught: Any) -> str:
    """Give what an error says, which is one sentence that names something to type or to do."""
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert not sentence.endswith(".")
    assert not re.search(r"\w\. ", sentence)
    assert re.search(r": (type|go to|leave out|if calling it|name|it must) ", sentence), sentence
    return sentence


@FR_110
@pytest.mark.parametrize(("app", "sentence"), UNTOLD.values(), ids=UNTOLD)
def test_what_cannot_be_told(app: Any, sentence: str) -> None:
    """Guessing would serve errors: what is not sure is refused, with the choices that are possible."""
    with pytest.raises(ConfigError) as caught:
        kind_of(app)
    assert one_sentence(caught) == sentence.format(name_of(app))


@FR_110
@pytest.mark.parametrize("thing", [None, "main:app", 1, object(), types.ModuleType("main")])
def test_what_cannot_be_called(thing: object) -> None:
    """What is not even called is no application, whatever is said about it."""
    for interface in ("auto", "wsgi", "asgi", "asgi2"):
        with pytest.raises(
            ConfigError, match="cannot be called, so it is no application"
        ) as caught:
            kind_of(thing, interface)  # type: ignore[arg-type]
        one_sentence(caught)


@FR_110
@pytest.mark.parametrize(
    ("app", "interface"),
    [
        (generic(fail), "wsgi"),
        (generic(fail), "asgi"),
        (compiled, "wsgi"),
        (compiled, "asgi"),
        (compiled, "asgi2"),
        (max, "wsgi"),
        (wsgiref.validate.validator(wsgi), "wsgi"),
        (lambda session: fail(), "asgi2"),
        (wsgi_middleware, "asgi"),
        (generic(asgi), "wsgi"),
        (PlainProxy(FLASK), "asgi"),
    ],
    ids=lambda value: value if isinstance(value, str) else name_of(value),
)
def test_the_user_settles_it(app: Any, interface: Any) -> None:
    """The option is believed wherever the application can be called so."""
    assert kind_of(app, interface) == interface


TITLES = {
    "wsgi": "a WSGI application",
    "asgi": "an ASGI application",
    "asgi2": "an ASGI 2 application",
}


@FR_110
@pytest.mark.parametrize(
    ("app", "right", "wrong"),
    [
        (app, right, wrong)
        for (app, right), wrong in itertools.product(
            [
                (STARLETTE, "asgi"),
                (asgi, "asgi"),
                (ASGIObject().method, "asgi"),
                (ASGI3Class, "asgi"),
                (FLASK, "wsgi"),
                (wsgi, "wsgi"),
                (WSGIToASGI(wsgi), "asgi"),
                (ASGIToWSGI(asgi, lifespan="off"), "wsgi"),
                (ASGI2Class, "asgi2"),
                (asgi2, "asgi2"),
            ],
            TITLES,
        )
        if right != wrong
    ],
    ids=lambda value: value if isinstance(value, str) else name_of(value),
)
def test_an_impossible_choice(app: Any, right: str, wrong: Any) -> None:
    """A choice by which every request would fail is refused, with the right one (uvicorn issue 1969)."""
    with pytest.raises(ConfigError) as caught:
        kind_of(app, wrong)
    assert one_sentence(caught) == (
        f"{name_of(app)} is {TITLES[right]}, not {TITLES[wrong]}: type --interface {right}"
    )


@FR_110
def test_an_impossible_choice_of_something_unknown() -> None:
    """Where the right choice is not seen, the possible ones are named."""
    with pytest.raises(ConfigError) as caught:
        kind_of(view, "asgi")
    assert one_sentence(caught).endswith(": type --interface wsgi")


# --- as_asgi3


async def _called_with(app: Any) -> list[Any]:
    """Call an ASGI 3 application, and give what it got."""
    got: list[Any] = []

    async def receive() -> Any:
        return "received"

    async def send(message: Any) -> None:
        got.append(message)

    await app({"type": "http"}, receive, send)
    return got


class Double:
    def __init__(self, scope: Any) -> None:
        self.scope = scope

    async def __call__(self, receive: Any, send: Any) -> None:
        await send(self.scope)
        await send(await receive())


def double(scope: Any) -> Any:
    return Double(scope)


async def single(scope: Any, receive: Any, send: Any) -> None:
    await Double(scope)(receive, send)


class Triple:
    """One that asgiref's own guess would leave as it is."""

    _asgi_single_callable = True

    def __call__(self, scope: Any) -> Any:
        return Double(scope)


@FR_110
@pytest.mark.parametrize(
    "app",
    [Double, double, functools.partial(double), Triple()],
    ids=["class", "function", "partial", "hinted"],
)
async def test_asgi2_becomes_asgi3(app: Any) -> None:
    """An application of ASGI 2 is called twice, by what is called once; what was told of it counts."""
    assert await _called_with(as_asgi3(app, "asgi2")) == [{"type": "http"}, "received"]


@FR_110
async def test_asgi3_stays() -> None:
    """An application of ASGI 3 gets nothing around it."""
    assert as_asgi3(single, "asgi") is single
    assert await _called_with(single) == [{"type": "http"}, "received"]


# --- load


Write = Callable[[dict[str, str]], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Work in an empty directory, and give what writes modules there: ``write({"main": "x = 1", "shop/web": ""})``."""

    def write(modules: dict[str, str]) -> None:
        for name, source in modules.items():
            path = tmp_path / f"{name}.py"
            if path.parent != tmp_path:
                path.parent.mkdir(exist_ok=True)
                path.with_name("__init__.py").touch()
            path.write_text(source)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = set(sys.modules)
    yield write
    for name in set(sys.modules) - before:
        # Only those of this test: the others were imported once for all.
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


APP = "def app(environ, start_response): ...\n"
APPLICATION = "async def application(scope, receive, send): ...\n"


@FR_110
@pytest.mark.parametrize(
    ("files", "path", "name"),
    [
        ({"main": APP}, "main:app", "app"),
        ({"main": APP}, "main", "app"),
        ({"main": APPLICATION}, "main", "application"),
        ({"main": APP + APPLICATION}, "main", "app"),
        ({"main": APPLICATION + "app = 'the shop'"}, "main", "application"),
        ({"main": APPLICATION}, "main:application", "application"),
        ({"main": APP.replace("app", "größe")}, "main:größe", "größe"),
        ({"main": "class site:\n @staticmethod\n " + APP}, "main:site.app", "site.app"),
        ({"shop/web": APP}, "shop.web:app", "app"),
        ({"shop/web": APP}, "shop.web", "app"),
        ({"my-shop": APP}, "my-shop:app", "app"),
    ],
)  # fmt: skip
def test_a_path_leads_to_its_application(write: Write, files: Any, path: str, name: str) -> None:
    """Both parts may have dots; without a colon it is app, or else application."""
    write(files)
    found: Any = load(path)
    assert found.__qualname__ == name


@FR_110
@pytest.mark.parametrize(
    "maker", ["create_app", "create_app_with_options", "create_app_wrapped", "App"]
)
def test_a_factory(write: Write, maker: str) -> None:
    """With factory the path names what makes the application; without, it is given as it is."""
    write(
        {
            "main": """
import functools
class App:
    def __call__(self, environ, start_response): ...
def create_app(): return App()
def create_app_with_options(debug=False, *more, **options): return App()
@functools.wraps(lambda config: None)
def create_app_wrapped(): return App()
"""
        }
    )
    made = load(f"main:{maker}", factory=True)
    assert type(made).__name__ == "App"
    assert kind_of(made) == "wsgi"
    assert load(f"main:{maker}") is getattr(sys.modules["main"], maker)


FORM = "is not of the form module:attribute: type something like main:app"
CALL = "is a call, which is not understood: type main:create_app --factory"
FILE = "is the path of a file, not the name of a module"
NEITHER = "has neither app nor application"
UNCALLED = "which cannot be called"
NAME = "type the name of a module and of an application in it, as in main:app"
MAIN = {"main": APP}
SHOP = {"shop/web": APP}
SITE = {"main": "class site: app = 1"}
SERVER = {"main": APP.replace("app", "server")}
MAKER = {"main": "def create_app(): ...\ndef helper(): ...\ndef app_of(config): ..."}

WRONG_FORMS = {
    "": "'' names no module: type one, as in main:app",
    ":server": "':server' names no module: type one, as in main:server",
    "main:": "'main:' names nothing after the colon: type the application's name there, as in main:app",
    "main:app:x": f"'main:app:x' {FORM}",
    "shop..web:app": f"'shop..web:app' {FORM}",
    ".main:app": f"'.main:app' {FORM}",
    "main:.app": f"'main:.app' {FORM}",
    "main:my-app": f"'main:my-app' {FORM}",
    "main:app[0]": f"'main:app[0]' {FORM}",
    "main:()": f"'main:()' {FORM}",
    "main:create_app()": f"'main:create_app()' {CALL}",
    "main:create_app(1)": f"'main:create_app(1)' {CALL}, a function that needs no arguments",
    "main.py": f"'main.py' {FILE}: type main:app",
    "main.py:server": f"'main.py' {FILE}: type main:server",
    "main.py:server()": f"'main.py' {FILE}: type main:app",
    "./main.py": f"'./main.py' {FILE}: type main:app",
    "shop/web.py:app": f"'shop/web.py' {FILE}: type shop.web:app",
    "shop/web": f"'shop/web' {FILE}: type shop.web:app",
    "./": f"'./' {FILE}: type main:app",
    "../main.py": f"'../main.py' {FILE}: go to .. and type main:app",
    "/srv/shop/main.py:app": f"'/srv/shop/main.py' {FILE}: go to /srv/shop and type main:app",
}


@pytest.mark.spec("behaviours.md", "Bad input")
@pytest.mark.parametrize(("path", "sentence"), WRONG_FORMS.items(), ids=WRONG_FORMS)
def test_a_path_of_a_wrong_form(write: Write, path: str, sentence: str) -> None:
    """It is refused before anything is executed or put on the path, with what to type instead."""
    write({"main": "raise RuntimeError", "shop/web": "raise RuntimeError"})
    before = sys.path.copy()
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert one_sentence(caught) == sentence
    assert sys.path == before


WRONG_PATHS: list[tuple[dict[str, str], str, str]] = [
    (
        {},
        "nowhere:app",
        "no module nowhere in {}: go to the application's directory, or type another name",
    ),
    (
        {"a": "", "b": "", "_c": ""},
        "nowhere:app",
        "no module nowhere in {}: type one that is there, as a or b",
    ),
    (MAIN | {"other": ""}, "mian:server", "no module mian in {}: type main:server"),
    (MAIN, "mian.web", "no module mian in {}: type main:app"),
    (SHOP, "shop.wbe:server", "no module shop.wbe: type shop.web:server"),
    (
        SHOP | {"shop/db": ""},
        "shop.xyz:app",
        "no module shop.xyz: type the module below it that has one, as shop.db:app or shop.web:app",
    ),
    (MAIN, "main.app", "no module main.app, but app in main: type main:app"),
    (SITE, "main.site.app", "no module main.site, but site in main: type main:site.app"),
    (SITE, "main.site:app", "no module main.site, but site in main: type main:site.app"),
    (MAIN, "main.web:app", "no module main.web: type main:app"),
    (
        MAIN,
        "main:web",
        "main:web does not exist, for module main has no attribute web: type main:app",
    ),
    (
        {"main": APP + APPLICATION},
        "main:web",
        "main:web does not exist, for module main has no attribute web: type main:app or main:application",
    ),
    (
        MAIN,
        "main:app.web",
        "main:app.web does not exist, for an object of type builtins.function has no attribute web: type main:app",
    ),
    (SERVER, "main", f"module main {NEITHER}: type main:server"),
    (MAKER, "main", f"module main {NEITHER}: type main:create_app --factory"),
    (
        {"shop/web": "", "shop/asgi": ""},
        "shop",
        f"module shop {NEITHER}: type the module below it that has one, as shop.asgi:app or shop.web:app",
    ),
    ({"main": "x = 1"}, "main", f"module main {NEITHER}: {NAME}"),
    (
        {"main": APP + "web = 'x'"},
        "main:web",
        f"main:web is an object of type builtins.str, {UNCALLED}: type main:app",
    ),
    (
        {"main": "app = None\n" + SERVER["main"]},
        "main",
        f"main:app is None, {UNCALLED}: type main:server",
    ),
    (
        SHOP | {"main": "import shop.web"},
        "main:shop.web",
        "main:shop.web is a module: type shop.web:app",
    ),
]


@pytest.mark.spec("behaviours.md", "Bad input")
@pytest.mark.parametrize(("files", "path", "sentence"), WRONG_PATHS)
def test_a_wrong_path(write: Write, tmp_path: Path, files: Any, path: str, sentence: str) -> None:
    """One sentence says what is wrong with it, and what to type instead."""
    write(files)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert one_sentence(caught).removeprefix("there is ") == sentence.format(tmp_path)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


NOT_A_FACTORY = "main:app is an application, not a factory: leave out --factory"
NEEDS = (
    "the factory main:create_app cannot be called without arguments: type the name of one that can"
)
RETURNED = "the factory main:create_app returned {}, which cannot be called: it must return the application"
WRONG_FACTORIES: list[tuple[str, str, str]] = [
    (APP, "main:app", NOT_A_FACTORY),
    ("import starlette.applications as a; app = a.Starlette()", "main", NOT_A_FACTORY),
    ("def create_app(config): ...", "main:create_app", NEEDS),
    ("def create_app(*, config): ...", "main:create_app", NEEDS),
    ("def create_app(config, debug): ...", "main:create_app", NEEDS),
    ("def create_app(a, b, c): ...", "main:create_app", NEEDS),
    (
        "async def create_app(): ...",
        "main:create_app",
        "the factory main:create_app is asynchronous: type the name of a plain function that returns the application",
    ),
    ("def create_app(): ...", "main:create_app", RETURNED.format("None")),
    (
        "def create_app(): return 'x'",
        "main:create_app",
        RETURNED.format("an object of type builtins.str"),
    ),
    (
        APP + "def make_app(): ...",
        "main:create_app",
        "main:create_app does not exist, for module main has no attribute create_app: type main:make_app --factory",
    ),
    (
        "def create_app(): ...\ndef make_app(): ...",
        "main",
        f"module main {NEITHER}: type main:create_app --factory or main:make_app --factory",
    ),
    (
        "create_app = 1",
        "main:create_app",
        f"main:create_app is an object of type builtins.int, {UNCALLED}: {NAME}",
    ),
]


@pytest.mark.spec("behaviours.md", "Bad input")
@pytest.mark.parametrize(("source", "path", "sentence"), WRONG_FACTORIES)
def test_a_wrong_factory(write: Write, source: str, path: str, sentence: str) -> None:
    """One sentence says what is wrong with it, and what to type instead."""
    write({"main": source})
    with pytest.raises(ConfigError) as caught:
        load(path, factory=True)
    assert one_sentence(caught) == sentence


def test_at_most_five_are_suggested(write: Write) -> None:
    """A module full of applications does not make a sentence of a hundred words."""
    write({"main": "".join(APP.replace("app", f"app{number}") for number in range(9))})
    with pytest.raises(ConfigError) as caught:
        load("main:server")
    assert one_sentence(caught).endswith(
        ": type main:app0, main:app1, main:app2, main:app3 or main:app4"
    )


def test_only_applications_are_suggested(write: Write) -> None:
    """What a module imports, helpers, classes and values are not; objects, functions and classes of its own are."""
    write(
        {
            "main": """
import functools, threading, flask
from flask import Flask, Response, current_app, g, redirect, render_template, request, session
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from wsgiref.simple_server import demo_app
from starlette.routing import Route
DEBUG = True
lock = threading.Lock()
def add(a, b): ...
def view(request): ...
def _private(environ, start_response): ...
class Model:
    def __init__(self, name): ...
class Endpoint(HTTPEndpoint): ...
class Old:
    def __init__(self, scope): ...
    async def __call__(self, receive, send): ...
legacy = Flask("legacy")
fresh = Starlette()
bound = fresh.__call__
"""
        }
    )
    with pytest.raises(ConfigError) as caught:
        load("main")
    sentence = one_sentence(caught)
    assert sentence.endswith(": type main:Endpoint, main:Old, main:legacy or main:fresh")


# --- the application's own mistakes


@pytest.mark.spec("behaviours.md", "Bad input")
@pytest.mark.parametrize(
    ("source", "expected", "text"),
    [
        ("import no_such_library", ModuleNotFoundError, "No module named 'no_such_library'"),
        ("import main.no_such_part", ModuleNotFoundError, "'main' is not a package"),
        ("from shop import web", ImportError, "cannot import name 'web'"),
        ("import shop.web", ModuleNotFoundError, "No module named 'shop.web'"),
        ("raise ModuleNotFoundError('no database driver')", ModuleNotFoundError, "driver"),
        ("raise RuntimeError('no database')", RuntimeError, "no database"),
        ("raise AttributeError('app')", AttributeError, "app"),
        ("raise SystemExit(3)", SystemExit, "3"),
        ("def app(:", SyntaxError, "invalid syntax"),
    ],
)
def test_what_the_module_raises_is_not_hidden(
    write: Write, source: str, expected: type[BaseException], text: str
) -> None:
    """A module that exists and fails is the application's own affair, and its traceback tells most."""
    write({"main": source, "shop/db": ""})
    with pytest.raises(expected, match=text) as caught:
        load("main:app")
    assert type(caught.value) is expected


@pytest.mark.spec("behaviours.md", "Bad input")
def test_what_a_package_raises_is_not_hidden(write: Write) -> None:
    """The same where the module that fails is on the way to the named one."""
    write({"shop/web": APP, "shop/__init__": "import no_such_library"})
    with pytest.raises(ModuleNotFoundError, match="no_such_library") as caught:
        load("shop.web:app")
    assert type(caught.value) is ModuleNotFoundError


@pytest.mark.spec("behaviours.md", "Bad input")
@pytest.mark.parametrize(
    "source",
    [
        "class Shop:\n @property\n def app(self): return self.databse\nshop = Shop()",
        "class Shop:\n @property\n def app(self): return object().app\nshop = Shop()",
    ],
)
def test_what_an_attribute_raises_is_not_hidden(write: Write, source: str) -> None:
    """A property with a mistake in it is there, and its mistake is not that it is missing."""
    write({"main": source})
    with pytest.raises(AttributeError, match=r"databse|'object' object has no attribute 'app'"):
        load("main:shop.app")


@pytest.mark.spec("behaviours.md", "Bad input")
def test_what_a_factory_raises_is_not_hidden(write: Write) -> None:
    """A TypeError inside the factory is not taken for one of calling it."""
    write({"main": "def create_app(): return len()"})
    with pytest.raises(TypeError, match="len"):
        load("main:create_app", factory=True)


def test_a_module_may_give_its_attributes_itself(write: Write) -> None:
    """A module's __getattr__ is asked, and may say that there is none."""
    write(
        {
            "main": """
def __getattr__(name):
    if name == "lazy":
        return lambda environ, start_response: []
    raise AttributeError("none of that name")
"""
        }
    )
    assert callable(load("main:lazy"))
    with pytest.raises(ConfigError, match="module main has no attribute eager: type "):
        load("main:eager")


# --- what loading leaves behind


def test_the_directory_stays_first(write: Write, tmp_path: Path) -> None:
    """Applications import when they run, too: what stands beside them is found then."""
    late = "def app(environ, start_response):\n from beside import value\n return value"
    write({"main": late, "beside": "value = [b'x']"})
    before = sys.path.copy()
    app: Any = load("main:app")
    load("main:app")
    assert sys.path == [str(tmp_path), *before]
    assert app({}, None) == [b"x"]


def test_another_directory(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory goes before the working directory, and before what is installed; relative ones count from there."""
    write({"deeper/main": APPLICATION, "main": APP, "deeper/wsgiref": APPLICATION})
    found: Any = load("main", directory="deeper")
    assert found.__name__ == "application"
    assert sys.path[0] == str(tmp_path / "deeper")
    # The standard library's, which this file imported, must be back for others.
    monkeypatch.delitem(sys.modules, "wsgiref")
    found = load("wsgiref", directory=str(tmp_path / "deeper"))
    assert found.__module__ == "wsgiref"
    assert found.__name__ == "application"


@pytest.mark.spec("behaviours.md", "Bad input")
def test_a_directory_that_is_not_there(write: Write, tmp_path: Path) -> None:
    """It is refused before anything is imported, and is not put on the path."""
    write({"main": "raise RuntimeError"})
    before = sys.path.copy()
    with pytest.raises(ConfigError) as caught:
        load("main:app", directory="no_such_directory")
    expected = f"there is no directory {tmp_path / 'no_such_directory'}: type one that exists"
    assert one_sentence(caught) == expected
    assert sys.path == before
