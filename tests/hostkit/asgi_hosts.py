"""ASGI servers, the WSGI applications that run on them through ``WSGIToASGI``, and what they cannot do."""

from __future__ import annotations

from pathlib import Path

from .hosts import Host, Limit, Matrix

APPS_DIRECTORY = Path(__file__).parent.parent / "hosts" / "apps"


def _uvicorn(loop: str, http: str) -> Host:
    return Host(
        f"uvicorn-{loop}-{http}",
        "uvicorn",
        ("uvicorn", "{target}", "--host", "127.0.0.1", "--port", "{port}", "--loop", loop)
        + ("--http", http, "--no-access-log", "--timeout-graceful-shutdown", "1"),
    )


def _hypercorn(loop: str, http2: bool) -> Host:
    # HTTP/2 goes over TLS with ALPN, as browsers do it; HTTP/1.1 in clear text.
    # Alone in its process (-w 0) hypercorn on trio does not hear SIGTERM; with a worker it does.
    workers = "1" if loop == "trio" else "0"
    secure = ("--certfile", "{certfile}", "--keyfile", "{keyfile}") if http2 else ()
    return Host(
        f"hypercorn-{loop}-{'h2' if http2 else 'h1'}",
        "hypercorn",
        (
            "hypercorn",
            "-k",
            loop,
            "-w",
            workers,
            "-b",
            "127.0.0.1:{port}",
            "--graceful-timeout",
            "1",
        )
        + (*secure, "{target}"),
        http2=http2,
    )


HOSTS = (
    *(_uvicorn(loop, http) for loop in ("asyncio", "uvloop") for http in ("h11", "httptools")),
    *(_hypercorn(loop, http2) for loop in ("asyncio", "uvloop", "trio") for http2 in (False, True)),
    Host(
        "daphne",
        "daphne",
        ("daphne", "-b", "127.0.0.1", "-p", "{port}", "{target}"),
    ),
    Host(
        "granian",
        "granian",
        ("granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}")
        + ("--workers", "1", "--workers-kill-timeout", "2", "{target}"),
    ),
    Host(
        "gunicorn-asgi",
        "gunicorn",
        ("gunicorn", "-k", "asgi", "-w", "1", "-b", "127.0.0.1:{port}", "--graceful-timeout", "1")
        + ("--no-control-socket", "{target}"),
    ),
)

# Column of the table -> the object that the host imports.
APPS = {
    "wsgiref.validate": "probe:validated",
    "werkzeug lint": "probe:linted",
    "Flask": "flask_app:app",
    "Django": "djangosite.asgi:app",
    "Pyramid": "pyramid_app:app",
    "Bottle": "bottle_app:app",
    "Falcon": "falcon_app:app",
    "in Starlette": "starlette_app:app",
    "in FastAPI": "fastapi_app:app",
    "in Litestar": "litestar_app:app",
    "in Quart": "quart_app:app",
    "websocket": "flask_sock_app:app",
}


WHOLE_UPLOAD = (
    "daphne collects the whole upload before it calls the application, which therefore is never called for an"
    " upload that breaks off, and cannot answer before its end."
)

LIMITS: tuple[Limit, ...] = (
    Limit("daphne", r"test_upload_that_breaks_off.*", "not called before", WHOLE_UPLOAD),
    Limit("daphne", "test_answer_without_reading_the_body", "timed out", WHOLE_UPLOAD),
    Limit("daphne", "test_expect_100_continue_refused", "timed out", WHOLE_UPLOAD),
    Limit(
        "daphne",
        "test_error_after_data_cuts_the_answer",
        "timed out",
        "daphne neither ends nor cuts a response whose application fails after the head: the client waits.",
    ),
    Limit(
        "hypercorn-.*-h1",
        "test_expect_100_continue_refused",
        r"\[100\] == \[\]",
        "hypercorn sends 100 Continue by itself, before the application has asked for the body.",
    ),
    Limit(
        "hypercorn-.*-h2",
        "test_error_after_data_cuts_the_answer",
        "timed out",
        "hypercorn does not reset an HTTP/2 response whose application fails after the head: it stays open, unended,"
        " until the idle time of the connection (5 s) is over.",
    ),
    Limit(
        "hypercorn-.*-h2",
        "test_late_data_keeps_the_connection",
        "Gone",
        "hypercorn loses the whole HTTP/2 connection (KeyError in its log) when a piece of the upload arrives after the"
        " application has answered.",
    ),
    Limit(
        "hypercorn-trio-h2",
        "test_late_data_costs_nobody_else",
        "Connection re(fused|set)|EOF",
        "hypercorn on trio stops serving altogether when a piece of an HTTP/2 upload arrives after the application has"
        " answered: its KeyError ends the server.",
    ),
    Limit(
        "hypercorn-trio-.*",
        "test_new_app_beside_it",
        "'new'",
        "Quart itself runs on asyncio only; the WSGI application mounted beside it is served on trio as well.",
        apps="in Quart",
    ),
    # Websockets.
    Limit(
        "hypercorn-.*",
        "test_the_client_closes",
        r"\[1005\] == \[4000\]",
        "hypercorn does not pass on the code with which a client closes its websocket: the application is told that"
        " it vanished.",
    ),
    Limit(
        "daphne",
        "test_an_empty_message.*",
        "timed out",
        "daphne does not send a websocket message that is empty.",
    ),
    Limit(
        "daphne",
        "test_the_application_closes",
        "'' == 'bye'|'bye' != ''|'' != 'bye'",
        "daphne does not send the reason with which an application closes its websocket.",
    ),
)

MATRIX = Matrix(
    name="hosts",
    title="WSGI applications on ASGI servers",
    introduction="""\
Each cell is one process of that server serving that application through `WSGIToASGI`,
driven by a real client over the loopback interface.
""",
    columns="""\
- **wsgiref.validate**, **werkzeug lint**: a plain WSGI application between the bridge and a validator of PEP 3333.
- **Flask**, **Django**, **Pyramid**, **Bottle**, **Falcon**: real applications, served at the root.
- **in Starlette**, **in FastAPI**, **in Litestar**, **in Quart**: the Flask application mounted at `/outer/legacy`.
- **websocket**: an application with Flask-Sock, by [`websocket=True`](how-to/websockets-of-a-wsgi-app.md).
- h2 is HTTP/2 over TLS, websockets of which begin in HTTP/1.1; all others are HTTP/1.1 in clear text.
""",
    hosts=HOSTS,
    apps=APPS,
    limits=LIMITS,
    apps_directory=APPS_DIRECTORY,
    distributions=(
        "flask",
        "flask-sock",
        "simple-websocket",
        "django",
        "pyramid",
        "bottle",
        "falcon",
    )
    + ("starlette", "fastapi", "litestar", "quart", "werkzeug"),
)
