"""The documentation against the code: its examples run, its transcripts are true, its lists are complete.

The Python blocks of a page run from top to bottom in one namespace. A block whose first line is ``# name.py``, or
that follows a sentence with "as `name.py`", is a module that later blocks import. ``$ curl`` in a console block asks
the object ``app`` of that moment, or ``application`` on a page about ``ASGIToWSGI``, without a server, and what it
prints is compared with the lines below it.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import logging
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from wsgiref.simple_server import demo_app
from wsgiref.util import FileWrapper, setup_testing_defaults

import anyio
import anyio.to_thread
import httpx
import pytest
from apps.plain import hello
from driver import EVENT_SECONDS, http_scope, request
from websocket_driver import FakeWebSocket

import bridges
from bridges import ASGIToWSGI, ThreadPool, WSGIToASGI
from bridges.asgi.websocket import _websocket_scope
from bridges.asgi_to_wsgi import living_adapters
from bridges.crossing.pool import _pools
from bridges.translate.scope import scope_from_environ
from bridges.websocket.handshake import Handshake

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]
HOW_TOS = [page for page in PAGES if page.parent.name == "how-to"]

# Frameworks of the host tests, which the fast part does not install.
OPTIONAL = {"django", "fastapi", "flask_sock"}
# An example that goes on for longer than this is left by its client.
VISIT_SECONDS = 1.0
ADDRESS = "http://127.0.0.1:8000"
# Where a page that serves both directions has the other one.
SECOND_ADDRESS = "http://127.0.0.1:8001"

_FENCE = re.compile(r"^( *)```(\w+) *\n(.*?)^\1``` *$", re.MULTILINE | re.DOTALL)
_OWN_NAME = re.compile(r"# (\w+)\.py\s*\n")
_GIVEN_NAME = re.compile(r"\bas `(\w+)\.py`[^\n]*\n(?:[^\n`]+\n)*\n*\Z")
_CODE_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def label(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@dataclass
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    module: str | None


def blocks_of(page: Path) -> list[Block]:
    source = page.read_text("utf-8")
    found = []
    for fence in _FENCE.finditer(source):
        text = inspect.cleandoc("\n" + fence[3]) + "\n"
        named = _OWN_NAME.match(text) or _GIVEN_NAME.search(source, 0, fence.start())
        line = source.count("\n", 0, fence.start(3)) + 1
        found.append(Block(fence[2], text, line, named[1] if named else None))
    return found


def python_blocks() -> list[Any]:
    return [
        pytest.param(page, block, id=f"{label(page)}:{block.line}")
        for page in PAGES
        for block in blocks_of(page)
        if block.language == "python"
    ]


def has_examples(page: Path) -> bool:
    return any(block.language == "python" for block in blocks_of(page))


class Session:
    """A reader who types a page from top to bottom."""

    def __init__(self, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.page = page
        self.monkeypatch = monkeypatch
        self.names: dict[str, Any] = {"__name__": "page", **GIVEN.get(label(page), {})}
        self.visited: dict[int, Any] = {}
        self.compared = 0

    def run(self) -> None:
        for block in blocks_of(self.page):
            if block.language == "python":
                self.run_python(block)
            elif block.language == "console":
                self.run_console(block)

    def run_python(self, block: Block) -> None:
        code = compile("\n" * (block.line - 1) + block.text, label(self.page), "exec")
        try:
            if block.module is None:
                exec(code, self.names)
            else:
                module = ModuleType(block.module)
                module.__file__ = str(self.page.with_name(f"{block.module}.py"))
                self.monkeypatch.setitem(sys.modules, block.module, module)
                exec(code, module.__dict__)
                self.names.update(
                    {key: value for key, value in vars(module).items() if key[:2] != "__"}
                )
        except ModuleNotFoundError as error:
            if error.name in OPTIONAL:
                pytest.skip(f"{error.name} is not installed here")
            raise
        self.visit_new_apps(block)

    def visit_new_apps(self, block: Block) -> None:
        for name, app in list(self.names.items()):
            wrapped = isinstance(app, WSGIToASGI | ASGIToWSGI)
            if (name == "app" or wrapped) and id(app) not in self.visited:
                self.visited[id(app)] = app  # kept, so that the id is not given twice
                for method in ("GET", "POST"):
                    if isinstance(app, ASGIToWSGI):
                        status: int | None = visit_wsgi(app, method)
                    else:
                        status = anyio.run(visit, app, method)
                    assert status is None or status < 500, (
                        f"line {block.line}: {name} answered {method} / with {status}"
                    )

    def run_console(self, block: Block) -> None:
        for command, expected in transcript(block.text):
            words = shlex.split(command, comments=True)
            if words[0] == "curl" and not {"|", "&", ">"} & set(words):
                # A block loses its last empty lines on the way to the page.
                printed = self.curl(words[1:])
                assert printed.rstrip("\n") == expected.rstrip("\n"), command
                self.compared += 1

    def curl(self, words: list[str]) -> str:
        """Ask what the page serves at this point."""
        app = self.names.get("app")
        if isinstance(app, ASGIToWSGI):
            return anyio.run(curl, InThread(app), words)
        if app is None or any(isinstance(value, ASGIToWSGI) for value in self.names.values()):
            return anyio.run(curl, InThread(self.names["application"]), words)
        return anyio.run(curl, httpx.ASGITransport(app), words)


class InThread(httpx.AsyncBaseTransport):
    """Call a WSGI application in a thread of its own for each request, as a server does."""

    def __init__(self, app: Any) -> None:
        self.inner = httpx.WSGITransport(app)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        inner = httpx.Request(request.method, request.url, headers=request.headers, content=body)

        def ask() -> tuple[httpx.Response, bytes]:
            response = self.inner.handle_request(inner)
            return response, response.read()

        response, content = await anyio.to_thread.run_sync(ask)
        return httpx.Response(response.status_code, headers=response.headers, content=content)


# What a page takes for granted.
GIVEN: dict[str, dict[str, Any]] = {"README.md": {"shop": demo_app, "wiki": hello}}


def transcript(text: str) -> Iterator[tuple[str, str]]:
    """Give the commands of a console block, each with what is printed below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        while command.endswith("\\"):
            more, _, printed = printed.partition("\n")
            command = command[:-1] + more.lstrip()
        yield command, printed


async def visit(app: Any, method: str) -> int | None:
    """Send a request to / and leave after a while if the answer goes on; give the status, if it came."""
    status: list[int] = []
    body = [b"some ", b"bytes"] if method == "POST" else [b""]
    headers = [(b"host", b"127.0.0.1:8000")]
    if method == "POST":
        headers.append((b"transfer-encoding", b"chunked"))

    async def receive() -> dict[str, Any]:
        if not body:
            await anyio.sleep_forever()
        return {"type": "http.request", "body": body.pop(0), "more_body": bool(body)}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])

    with anyio.move_on_after(VISIT_SECONDS):
        await app(http_scope(method, headers=headers), receive, send)
    return status[0] if status else None


def visit_wsgi(app: Any, method: str) -> int:
    """Send a request to / as a WSGI server would; give the status."""
    with httpx.Client(transport=httpx.WSGITransport(app), base_url=ADDRESS) as client:
        return client.request(
            method, "/", content=b"some bytes" if method == "POST" else None
        ).status_code


async def curl(transport: httpx.AsyncBaseTransport, words: list[str]) -> str:
    """Do what curl would, as far as the pages use it."""
    headers: dict[str, str] = {}
    method, data, shown, form, url = None, None, "%{body}", True, ""
    rest = iter(words)
    for word in rest:
        if word in {"-s", "-N", "-sN"}:
            continue
        if word == "-X":
            method = next(rest)
        elif word in {"-d", "--data-binary"}:
            data, form = next(rest), word == "-d"
        elif word == "-H":
            name, _, value = next(rest).partition(":")
            headers[name.lower()] = value.strip()
        elif word == "-o":
            assert next(rest) == "/dev/null"
            shown = shown.replace("%{body}", "")
        elif word == "-w":
            shown += next(rest).replace("\\n", "\n")
        else:
            assert word.startswith((ADDRESS, SECOND_ADDRESS)), f"the tests know no curl {word}"
            url = word
    content: Any = data.encode() if data is not None else None
    if data is not None and form:
        headers.setdefault("content-type", "application/x-www-form-urlencoded")
    if headers.pop("transfer-encoding", None):
        content = in_pieces(content)
    async with httpx.AsyncClient(transport=transport) as client:
        response = await client.request(
            method or ("GET" if data is None else "POST"), url, content=content, headers=headers
        )
    target = response.headers.get("location", "")
    facts = {
        "body": response.text,
        "http_code": str(response.status_code),
        "redirect_url": str(response.url.join(target)) if target else "",
    }
    return re.sub(r"%\{(\w+)\}", lambda match: facts[match[1]], shown)


async def in_pieces(content: bytes) -> Any:
    for start in range(0, len(content), 2):
        yield content[start : start + 2]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give a function that types a page; its modules and threads end with the test."""
    pools = set(_pools)
    adapters = set(living_adapters())
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "project.settings")
    for name, facts in DJANGO_PROJECT.items():
        module = ModuleType(name)
        vars(module).update(facts)
        monkeypatch.setitem(sys.modules, name, module)

    def run(page: Path) -> Session:
        session = Session(page, monkeypatch)
        session.run()
        return session

    yield run
    for pool in set(_pools) - pools:
        pool.shutdown(EVENT_SECONDS)
    for adapter in set(living_adapters()) - adapters:
        adapter.close()
    # What the examples' logging set up.
    logging.getLogger("bridges.adapters").setLevel(logging.NOTSET)


# The project that Django's pages speak of.
DJANGO_PROJECT: dict[str, dict[str, Any]] = {
    "project": {"__path__": []},
    "project.urls": {"urlpatterns": []},
    "project.settings": {
        "SECRET_KEY": "only for this test",
        "ALLOWED_HOSTS": ["*"],
        "ROOT_URLCONF": "project.urls",
        "LOGGING_CONFIG": None,
        "USE_TZ": True,
    },
}


@pytest.mark.parametrize(("page", "block"), python_blocks())
def test_block_compiles(page: Path, block: Block) -> None:
    """Every Python block is Python."""
    ast.parse(block.text, label(page))


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.spec("style.md", "14. Docs")
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=label(page)) for page in PAGES if has_examples(page)]
)
def test_page_runs(page: Path, typed: Any) -> None:
    """Typed from top to bottom, a page's code runs, its apps answer, and its transcripts are true."""
    typed(page)


@pytest.mark.parametrize("page", [pytest.param(page, id=label(page)) for page in HOW_TOS])
def test_how_to_has_an_example(page: Path) -> None:
    """A how-to without code that was run is an opinion."""
    assert has_examples(page)


@pytest.mark.spec("FR 102", "gevent-websocket")
def test_the_room_for_gevent_websocket_echoes(typed: Any) -> None:
    """What the page shows as an application for gevent-websocket sends a message back to its client."""
    app = typed(DOCS / "how-to" / "websockets-of-a-wsgi-app.md").names["app"]

    async def talk() -> list[str | bytes]:
        ws = FakeWebSocket()
        ws.says("hello")
        with anyio.fail_after(EVENT_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ws.serve, app)
                await ws.sees(1)
                ws.leaves(1000)
        return ws.messages

    assert anyio.run(talk) == ["hello"]


@pytest.mark.slow
def test_a_wrong_transcript_is_noticed(tmp_path: Path, typed: Any) -> None:
    """The comparison of transcripts can fail."""
    page = tmp_path / "page.md"
    source = (
        "```python\nfrom bridges import WSGIToASGI\n\n\ndef answer(environ, start_response):\n"
        '    start_response("200 OK", [])\n    return [b"yes\\n"]\n\n\napp = WSGIToASGI(answer)\n```\n'
        f"\n```console\n$ curl -s {ADDRESS}/\nPRINTED\n```\n"
    )

    page.write_text(source.replace("PRINTED", "yes"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "ROOT", tmp_path)
        assert typed(page).compared == 1
        page.write_text(source.replace("PRINTED", "no"))
        with pytest.raises(AssertionError, match="yes"):
            typed(page)


def handwritten() -> str:
    return "\n".join(page.read_text("utf-8") for page in PAGES if page.is_relative_to(DOCS))


@pytest.mark.parametrize(
    "option",
    [
        f"{thing.__name__}.{name}"
        for thing in (WSGIToASGI, ASGIToWSGI, ThreadPool)
        for name in list(inspect.signature(thing.__init__).parameters)[1:]
    ],
)
def test_every_option_is_in_the_prose(option: str) -> None:
    """A page tells of each option, beside the reference that is made from docstrings."""
    name = option.partition(".")[2]
    assert re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`|\b{name}=", handwritten())


# What is logged.

_LEVELS = {
    "critical": "Errors",
    "error": "Errors",
    "exception": "Errors",
    "warning": "Warnings",
    "info": "Info",
    "debug": "Debug",
}


def logged() -> set[tuple[str, str]]:
    """Give every record that the package can log: the section it belongs to, and its template."""
    found = set()
    for path in Path(bridges.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "_log"
            ):
                template = node.args[0]
                assert isinstance(template, ast.Constant), f"{path}:{node.lineno} is no plain text"
                found.add((_LEVELS[node.func.attr], str(template.value)))
    return found


def listed() -> set[tuple[str, str]]:
    """Give what logging.md lists: the first word of the section, and the message."""
    page = (DOCS / "reference" / "logging.md").read_text("utf-8")
    return {
        (re.split(r"\W", section)[0], message)
        for section in page.split("\n## ")[1:]
        for message in re.findall(r"^\| `([^`\n]+)` ", section, re.MULTILINE)
    }


def shows(message: str, template: str) -> bool:
    """Say whether a listed message is the template with its placeholders filled in."""
    literal = re.split(r"%[a-z]", template)
    return bool(re.fullmatch(".+".join(map(re.escape, literal)), message))


def test_every_record_is_listed() -> None:
    """logging.md lists each record under its level, and none that the package cannot log."""
    templates, messages = logged(), listed()
    missing = [
        (level, template)
        for level, template in templates
        if not any(level == section and shows(text, template) for section, text in messages)
    ]
    stale = [
        (section, text)
        for section, text in messages
        if not any(level == section and shows(text, template) for level, template in templates)
    ]

    assert templates
    assert missing == []
    assert stale == []


def test_every_logger_is_named() -> None:
    """The page names every logger of the package."""
    names = {
        match
        for path in Path(bridges.__file__).parent.rglob("*.py")
        for match in re.findall(r'getLogger\("([^"]+)"\)', path.read_text("utf-8"))
    }
    page = (DOCS / "reference" / "logging.md").read_text("utf-8")
    assert names >= {"bridges.adapters", "bridges.server", "bridges.access"}
    assert [name for name in names if f"`{name}`" not in page] == []


# What is in the environ.

FULL_SCOPE: dict[str, Any] = {
    "scheme": "https",
    "root_path": "/shop",
    "path": "/shop/basket",
    "raw_path": b"/shop/basket",
    "extensions": {
        "http.response.early_hint": {},
        "http.response.trailers": {},
        "tls": {
            "server_cert": "PEM",
            "client_cert_chain": ["PEM", "PEM", "PEM"],
            "client_cert_name": "CN=Ada",
            "client_cert_error": None,
            "tls_version": 0x0304,
            "cipher_suite": 0x1301,
        },
    },
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"0")],
}


async def test_every_key_of_the_environ_is_listed() -> None:
    """environ.md lists each key that a request can have, and none that the fullest request lacks."""
    keys: set[str] = set()

    def app(environ: Any, start_response: Any) -> Any:
        keys.update(environ)
        return hello(environ, start_response)

    adapter = WSGIToASGI(app)
    extra = {key: value for key, value in FULL_SCOPE.items() if key not in {"path", "headers"}}
    await request(adapter, path=FULL_SCOPE["path"], headers=FULL_SCOPE["headers"], **extra)
    page = (DOCS / "reference" / "environ.md").read_text("utf-8")
    cells = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    names = {name for cell in cells for name in _CODE_SPAN.findall(cell)} - {"HTTP_*", "_1"}

    assert names == keys - {"SSL_CLIENT_CERT_CHAIN_1"}
    assert adapter.pool is not None
    adapter.pool.shutdown(EVENT_SECONDS)


FULL_ENVIRON: dict[str, Any] = {
    "wsgi.url_scheme": "https",
    "wsgi.file_wrapper": FileWrapper,
    "wsgi.early_hints": lambda headers: None,
    "bridges.trailers": lambda callback: None,
    "SSL_PROTOCOL": "TLSv1.3",
    "REMOTE_ADDR": "127.0.0.1",
}


def test_every_key_of_the_scope_is_listed() -> None:
    """scope.md lists each key and extension of the fullest request and of its websocket, and no other."""
    environ = dict(FULL_ENVIRON)
    setup_testing_defaults(environ)
    scope, _ = scope_from_environ(environ)
    websocket = _websocket_scope(scope, Handshake([], [], b""))
    page = (DOCS / "reference" / "scope.md").read_text("utf-8")
    cells = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    names = {name for cell in cells for name in _CODE_SPAN.findall(cell)}

    assert names == {*scope, *websocket, "state", *scope["extensions"], *websocket["extensions"]}


def test_every_error_is_explained() -> None:
    """errors.md names each exception class of the package."""
    page = (DOCS / "reference" / "errors.md").read_text("utf-8")
    classes = {name for name, value in vars(bridges.errors).items() if isinstance(value, type)}
    assert classes <= set(re.findall(r"\w+", page))


def test_pages_need_no_framework_beyond_those_of_the_tests() -> None:
    """What a page imports is installed wherever the whole suite runs, or is a module of the page."""
    own = {block.module for page in PAGES for block in blocks_of(page)}
    known = {*sys.stdlib_module_names, *OPTIONAL, *own, "bridges"}
    wanted = {
        name.partition(".")[0]
        for page in PAGES
        for block in blocks_of(page)
        if block.language == "python"
        for node in ast.walk(ast.parse(block.text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert [name for name in sorted(wanted - known) if not importlib.util.find_spec(name)] == []


def local_links(page: Path) -> set[str]:
    """Give the targets of a page's links that lead into the repository."""
    prose = _CODE_SPAN.sub("", _FENCE.sub("", page.read_text("utf-8")))
    return {
        target.partition("#")[0]
        for target in _LINK.findall(prose)
        if "://" not in target and target[0] != "#"
    }


@pytest.mark.parametrize("page", [pytest.param(page, id=label(page)) for page in PAGES])
def test_links_lead_to_files(page: Path) -> None:
    """A link of the README or of a page names a file or a folder of the repository."""
    assert [link for link in local_links(page) if not (page.parent / link).exists()] == []


def test_readme_leads_to_the_docs() -> None:
    """Whoever reads the README alone finds the documentation, the examples and the licence from there."""
    assert {"docs/index.md", "examples/", "CHANGELOG.md", "LICENSE"} <= local_links(PAGES[0])
