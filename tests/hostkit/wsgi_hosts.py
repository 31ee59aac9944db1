"""WSGI servers, the ASGI applications that run on them through ``ASGIToWSGI``, and what they cannot do."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .hosts import Host, Limit, Matrix

APPS_DIRECTORY = Path(__file__).parent.parent / "wsgi_hosts" / "apps"
REMEDY = "python -m pip install --group native-hosts"


def gunicorn(name: str, *options: str, threads: int) -> Host:
    return Host(
        f"gunicorn-{name}",
        "gunicorn",
        ("gunicorn", "-b", "127.0.0.1:{port}", "--graceful-timeout", "2", "--no-control-socket")
        + (*options, "{target}"),
        threads=threads,
    )


@dataclass(frozen=True)
class UWSGI(Host):
    """uWSGI, compiled by pip against this Python."""

    def launcher(self) -> list[str]:
        return [str(Path(sys.executable).parent / "uwsgi")]

    def missing(self) -> str:
        if Path(*self.launcher()).exists():
            return ""
        return f"uwsgi is not installed: {REMEDY} (needs gcc and Python's headers)"


HTTPD_CONF = """\
ServerRoot {state}
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile {state}/httpd.pid
DefaultRuntimeDir {state}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule wsgi_module {module}
ErrorLog /proc/self/fd/2
LogLevel warn
StartServers 1
AllowEncodedSlashes On
# A stop waits for neither streams nor their clients.
GracefulShutdownTimeout 2
WSGIPythonHome {prefix}
WSGISocketPrefix {state}/wsgi
WSGIRestrictEmbedded On
WSGIDaemonProcess app processes=1 threads=4 home={state} shutdown-timeout=3
WSGIScriptAlias / {state}/app.wsgi process-group=app application-group=%{{GLOBAL}}
WSGIChunkedRequest On
"""


@dataclass(frozen=True)
class ModWSGI(Host):
    """Apache with mod_wsgi, compiled by pip against this Python and Debian's Apache."""

    def argv(
        self, target: str, port: int, certificate: tuple[str, str] | None, state: Path
    ) -> list[str]:
        module, _, attribute = target.partition(":")
        (state / "app.wsgi").write_text(f"from {module} import {attribute} as application\n")
        values = {"state": state, "port": port, "prefix": sys.prefix, "modules": _apache_modules()}
        conf = HTTPD_CONF.format(module=_mod_wsgi(), **values)
        (state / "httpd.conf").write_text(conf)
        command = [_apache(), "-d", str(state), "-f", str(state / "httpd.conf"), "-DFOREGROUND"]
        return [*_as_somebody(), *command]

    def missing(self) -> str:
        if not _apache():
            return "Apache is not installed: apt-get install apache2-dev"
        if not _mod_wsgi():
            return f"mod_wsgi is not installed: {REMEDY} (needs gcc and apache2-dev)"
        if _as_somebody() and subprocess.run([*_as_somebody(), "true"], check=False).returncode:
            # mod_wsgi refuses to run as root, and another user may not read this Python.
            return "mod_wsgi needs another user than root, or a kernel with user namespaces"
        return ""


@functools.cache
def _mod_wsgi() -> str:
    """Give the path of the compiled module, "" without."""
    spec = importlib.util.find_spec("mod_wsgi")
    places = list(spec.submodule_search_locations or ()) if spec else []
    found = [path for place in places for path in Path(place, "server").glob("mod_wsgi-*.so")]
    return str(found[0]) if found else ""


def _apache() -> str:
    """Give the path of Debian's Apache, "" without; only root has /usr/sbin on its path."""
    return shutil.which("apache2", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") or ""


def _apache_modules() -> str:
    return "/usr/lib/apache2/modules"


def _as_somebody() -> list[str]:
    """Give what makes root nobody in a user namespace, which still reads what root may read."""
    if os.geteuid():
        return []
    return ["unshare", "--user", "--map-user=65534", "--map-group=65534"]


def _library(name: str, distribution: str, threads: int, keeps_connections: bool = True) -> Host:
    command = ("serve", name, "{target}", "{port}")
    return Host(name, distribution, command, threads=threads, keeps_connections=keeps_connections)


# --need-app: without, uWSGI answers 500 for ever when the application cannot be imported.
_UWSGI = ("--http-socket", "127.0.0.1:{port}", "--virtualenv", sys.prefix, "--module", "{target}")
_UWSGI += ("--need-app", "--die-on-term", "--disable-logging", "--buffer-size", "32768")

HOSTS: tuple[Host, ...] = (
    gunicorn("sync", threads=1),
    gunicorn("gthread", "-k", "gthread", "--threads", "4", threads=4),
    gunicorn("gevent", "-k", "gevent", threads=100),
    # Of eight connections one worker may take more than it has threads, so only four are sure to run at once.
    gunicorn(
        "gthread-preload", "-k", "gthread", "--threads", "4", "--preload", "-w", "2", threads=4
    ),
    UWSGI(
        "uwsgi-threads",
        "uwsgi",
        (*_UWSGI, "--enable-threads", "--threads", "4"),
        threads=4,
        keeps_connections=False,
    ),
    UWSGI("uwsgi", "uwsgi", _UWSGI, threads=1, keeps_connections=False),
    # As under uWSGI before 2.0.31 without enable-threads, and on hosts where no thread may be started.
    UWSGI(
        "uwsgi-inline",
        "uwsgi",
        (*_UWSGI, "--env", "ADAPTER_BACKEND=inline"),
        threads=1,
        keeps_connections=False,
    ),
    ModWSGI("mod_wsgi", "mod_wsgi", (), threads=4),
    _library("waitress", "waitress", threads=4),
    # After an answer 500 it closes without a word.
    _library("cheroot", "cheroot", threads=4, keeps_connections=False),
    _library("werkzeug", "werkzeug", threads=100),
    _library("wsgiref", "python", threads=1),
    Host(
        "granian",
        "granian",
        ("granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", "{port}")
        + ("--workers", "1", "--blocking-threads", "4", "--workers-kill-timeout", "3", "{target}"),
        threads=4,
    ),
)

# Column of the table -> the object that the host imports.
APPS = {
    "ASGI": "probe:app",
    "wsgiref.validate": "probe:validated",
    "werkzeug lint": "probe:linted",
    "FastAPI": "fastapi_app:app",
    "in Flask": "flask_app:app",
    "Starlette": "starlette_app:app",
    "Quart": "quart_app:app",
    "Litestar": "litestar_app:app",
    "Falcon": "falcon_app:app",
    "Django": "djangosite.asgi:app",
    "websocket": "websocket_apps:application",
}

PLAIN = "ASGI|wsgiref.validate|werkzeug lint"
VALIDATORS = "wsgiref.validate|werkzeug lint"


INLINE = (
    "The inline back end: the event loop runs in the thread of the request, and only while that waits. What is to go"
    " on after an answer (background work, cleanup after a client that left) goes on with the next request."
)
NO_CHUNKED = "{} does not decode a chunked body: the bridge answers 411 Length Required."
NO_END = (
    "{} ends an answer of unknown length in the same way whether the application finished it or failed: only with"
    " Content-Length does a client see that it was cut."
)
WHOLE_UPLOAD = "{} collects the whole upload before {}"
READS_ALL = (
    "wsgi.input.read(n) waits for n bytes or the end: a piece of the upload that is smaller than a block is seen late,"
    " so that an application cannot answer it before the next one comes."
)
UNWATCHED = "{} does not show that a client left while nothing is sent to it: the application is told at its next send."

LIMITS: tuple[Limit, ...] = (
    # What the environ lacks.
    Limit(
        "uwsgi.*|mod_wsgi|waitress|cheroot|werkzeug|wsgiref|granian",
        "test_early_hints",
        "no early hints",
        "Only gunicorn gives wsgi.early_hints; elsewhere the scope has no http.response.early_hint.",
    ),
    Limit(
        "cheroot|werkzeug|granian",
        "test_pathsend",
        "no pathsend",
        "No wsgi.file_wrapper, so that the scope has no http.response.pathsend: an application reads the file itself.",
        "ASGI|wsgiref.validate",
    ),
    Limit(
        "wsgiref|granian",
        "test_raw_path_is_as_sent.*2F.*",
        "a%2Fb",
        "Neither REQUEST_URI nor RAW_URI: raw_path is made anew from the decoded path, in which %2F is a slash.",
    ),
    Limit(
        "cheroot",
        "test_path_is_decoded.slash.|test_raw_path_is_as_sent.*2F.*",
        "%2",
        "cheroot leaves %2F undecoded in PATH_INFO.",
    ),
    Limit(
        "werkzeug",
        "test_query_in_raw_bytes",
        "xc3|u00c3",
        "werkzeug's server encodes raw bytes beyond ASCII in a query a second time.",
    ),
    Limit(
        "wsgiref",
        "test_no_empty_fields",
        "content-type",
        "wsgiref gives CONTENT_TYPE=text/plain to every request without a type.",
    ),
    Limit(
        "granian",
        "test_latin1_request_field",
        "x-name",
        "granian gives the empty string for a field of the request that is not UTF-8.",
    ),
    Limit(
        "granian",
        "test_latin1_response_field",
        "caf",
        "granian sends fields of the answer in UTF-8, not latin-1.",
    ),
    # Uploads.
    Limit(
        "uwsgi.*",
        "test_body_without_length",
        "411|b'this",
        NO_CHUNKED.format("uWSGI's --http-socket"),
    ),
    Limit("wsgiref", "test_body_without_length", "411|b'this", NO_CHUNKED.format("wsgiref")),
    Limit(
        "gunicorn.*|uwsgi.*|cheroot|granian",
        "test_upload_and_download_at_once",
        "timed out",
        READS_ALL,
    ),
    Limit(
        "werkzeug|wsgiref",
        "test_upload_and_download_at_once",
        "timed out",
        READS_ALL,
        VALIDATORS,
    ),
    Limit(
        "waitress",
        "test_upload_and_download_at_once|test_answer_without_reading_the_body|test_upload_that_breaks_off.*",
        "timed out|not called before",
        WHOLE_UPLOAD.format("waitress", "it calls the application."),
    ),
    Limit(
        "mod_wsgi",
        "test_upload_and_download_at_once|test_answer_without_reading_the_body",
        "timed out",
        WHOLE_UPLOAD.format("Apache", "it reads the answer of mod_wsgi's process."),
    ),
    Limit(
        "uwsgi.*|wsgiref",
        "test_expect_100_continue",
        "timed out",
        "The server does not know Expect: 100-continue: the client sends its body when it is tired of waiting.",
    ),
    Limit(
        "cheroot",
        "test_body_without_length",
        "500",
        "cheroot's wsgi.input of a chunked body cannot be iterated, which the validator refuses.",
        "wsgiref.validate",
    ),
    # Answers.
    Limit(
        "gunicorn-sync|uwsgi.*|werkzeug|wsgiref",
        "test_connection_is_kept",
        "connection closed",
        "The server closes the connection after each answer.",
    ),
    Limit(
        "uwsgi.*",
        "test_error_before_data_is_a_500.*|test_app_that_sends_nothing_is_a_500|test_crash",
        "without sending a response",
        "uWSGI closes the connection, without a word, when the application fails before its head: the web server in"
        " front of it answers 502.",
        f"{PLAIN}|Falcon",
    ),
    Limit(
        "uwsgi.*",
        r"test_error_after_data_cuts_the_answer.*late.*",
        "complete",
        NO_END.format("uWSGI"),
    ),
    Limit(
        "wsgiref",
        r"test_error_after_data_cuts_the_answer.*late.*",
        "complete",
        NO_END.format("wsgiref"),
    ),
    Limit(
        "granian",
        r"test_error_after_data_cuts_the_answer.*late.*",
        "complete",
        NO_END.format("granian"),
    ),
    Limit(
        "mod_wsgi",
        r"test_error_after_data_cuts_the_answer.*late.*",
        "complete",
        NO_END.format("mod_wsgi"),
    ),
    Limit(
        "mod_wsgi",
        r"test_error_after_data_cuts_the_answer.*short.*",
        "timed out",
        "Apache keeps the connection open for a while when an answer of a known length was cut by mod_wsgi.",
    ),
    # Clients that leave, and the end.
    Limit("uwsgi.*", "test_client_leaves_an_idle_stream.*", "not told", UNWATCHED.format("uWSGI")),
    Limit(
        "mod_wsgi", "test_client_leaves_an_idle_stream.*", "not told", UNWATCHED.format("mod_wsgi")
    ),
    Limit(
        "cheroot", "test_client_leaves_an_idle_stream.*", "not told", UNWATCHED.format("cheroot")
    ),
    Limit(
        "wsgiref", "test_client_leaves_an_idle_stream.*", "not told", UNWATCHED.format("wsgiref")
    ),
    Limit(
        "granian", "test_client_leaves_an_idle_stream.*", "not told", UNWATCHED.format("granian")
    ),
    Limit(
        "uwsgi-inline",
        "test_app_waits_for_a_slow_client|test_background.*|test_download_that_breaks_off.*|test_client_leaves"
        "|test_dependency_with_yield",
        r"stands still|\[\] ==|does not wait",
        INLINE,
    ),
    Limit(
        "uwsgi-inline",
        "test_thread_sensitive_code_runs_in_the_wsgi_thread|test_queries_run_in_the_wsgi_thread.*",
        r"assert \d+ == \d+",
        "The inline back end: the event loop has the thread of the request, so that sync code, thread-sensitive or"
        " not, runs in another.",
    ),
    Limit(
        "cheroot",
        "test_process_stops_in_mid_stream",
        "killed",
        "cheroot waits without limit for an answer under way that it can still send.",
    ),
    Limit(
        "wsgiref",
        "test_process_stops_in_mid_stream",
        "killed",
        "wsgiref ends when its one thread comes back: an answer without end holds it.",
    ),
    # Websockets.
    Limit(
        "mod_wsgi|waitress|granian",
        "test_.*",
        "501, .*this server does not give its socket away",
        "The server does not give its socket away: a request for a websocket gets 501 and a sentence that says so.",
        apps="websocket",
    ),
    Limit(
        "wsgiref",
        "test_a_refusal",
        "valid HTTP response",
        "wsgiref answers in HTTP/1.0, in which the client of these checks reads no refusal of a websocket.",
    ),
)


MATRIX = Matrix(
    name="wsgi_hosts",
    title="ASGI applications on WSGI servers",
    introduction="""\
Each cell is one process of that server serving that application through `ASGIToWSGI`,
driven by a real client over the loopback interface.
""",
    columns="""\
- **ASGI**: a plain ASGI application that checks each rule, straight on the server.
- **wsgiref.validate**, **werkzeug lint**: the same with a validator of PEP 3333 between the server and the bridge.
- **FastAPI**, **Starlette**, **Quart**, **Litestar**, **Falcon**, **Django**: real applications, served at the root.
- **in Flask**: the FastAPI application under `/api` of a Flask application, by werkzeug's DispatcherMiddleware.
- gunicorn-gthread-preload has two workers, forked after the import of the application. uwsgi-threads has four
  threads for requests, uwsgi one, and so has uwsgi-inline, whose thread also drives the event loop.
- **websocket**: a plain ASGI application's [websockets](how-to/websockets-on-a-wsgi-server.md).
""",
    hosts=HOSTS,
    apps=APPS,
    limits=LIMITS,
    apps_directory=APPS_DIRECTORY,
    distributions=("fastapi", "starlette", "quart", "litestar", "falcon", "django")
    + ("flask", "asgiref"),
)
