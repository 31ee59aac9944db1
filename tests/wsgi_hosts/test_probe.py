"""The ASGI specification as an application and its client see it, on every WSGI server."""

from __future__ import annotations

import hashlib
import signal
import socket
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from hostkit.journal import entries, noted, release
from hostkit.process import Server
from hostkit.raw import CLIENT_SECONDS, Exchange, Exchange1, Gone, exchange

APPS = ("ASGI", "wsgiref.validate", "werkzeug lint")
BLOCK = bytes(range(256)) * 256
MIB = 1 << 20
# What a server and the kernel may hold, however generous: waitress takes 16 MiB before it lets the app wait.
HELD_BLOCKS = 24 * MIB // len(BLOCK)


@pytest.fixture
def get(server: Server) -> Any:
    """Give a function that requests a target, byte for byte as given."""
    assert server.client
    client = server.client

    def request(target: str | bytes, method: str = "GET", **options: Any) -> httpx.Response:
        raw = target if isinstance(target, bytes) else target.encode()
        return client.request(method, "/", extensions={"target": raw}, **options)

    return request


@pytest.fixture
def key() -> str:
    """Give a name for this test's entries in the app's journal."""
    return uuid.uuid4().hex[:8]


def unvalidated(server: Server) -> None:
    """Leave out what a validator has no part in, and takes its time."""
    if server.app != "ASGI":
        pytest.skip("the same without a validator")


def at_once(server: Server, count: int) -> None:
    """Leave out what needs more threads than the host has."""
    if server.host.threads < count:
        pytest.skip("one request at a time")


def scope_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return dict(response.json())


@pytest.mark.spec("ASGI", "HTTP Connection Scope")
def test_scope_says_what_was_asked(get: Any, server: Server) -> None:
    """The scope carries the request line, the addresses and the fields."""
    headers = {"X-Probe": "yes", "Cookie": "a=1; b=2", "Content-Type": "text/x"}
    seen = scope_of(get("/scope/a/b?x=1&y=", "PUT", headers=headers))
    expected = {
        "type": "http",
        "http_version": "1.1",
        "method": "PUT",
        "scheme": "http",
        "path": "/scope/a/b",
        "root_path": "",
        "query_string": "x=1&y=",
    }
    assert {name: seen[name] for name in expected} == expected
    assert seen["asgi"]["version"] == "3.0"
    assert (seen["client"][0], seen["server"][1]) == ("127.0.0.1", server.port)
    fields = [("x-probe", "yes"), ("cookie", "a=1; b=2"), ("content-type", "text/x")]
    fields += [("host", f"127.0.0.1:{server.port}")]
    assert {tuple(field) for field in seen["headers"]} >= set(fields)


@pytest.mark.spec("FR 62")
def test_no_empty_fields(get: Any) -> None:
    """A request without body and type has no fields for them."""
    names = [name for name, _ in scope_of(get("/scope"))["headers"]]
    assert {"content-length", "content-type"} & set(names) == set()


PATHS = [
    ("utf8", "/caf%C3%A9", "/café"),
    ("slash", "/a%2Fb", "/a/b"),
    ("space", "/a%20b+c", "/a b+c"),
    ("percent", "/100%25", "/100%"),
]


@pytest.mark.spec("FR 54")
@pytest.mark.parametrize(
    ("sent", "path"), [row[1:] for row in PATHS], ids=[row[0] for row in PATHS]
)
def test_path_is_decoded(get: Any, sent: str, path: str) -> None:
    """The path is the percent-decoded UTF-8."""
    assert scope_of(get(f"/scope{sent}"))["path"] == f"/scope{path}"


@pytest.mark.spec("FR 55")
@pytest.mark.parametrize("sent", ["/a%2Fb", "/caf%C3%A9", "/a%20b"])
def test_raw_path_is_as_sent(get: Any, sent: str) -> None:
    """raw_path holds the bytes of the path as they were sent, without the query."""
    assert scope_of(get(f"/scope{sent}?q=%2F"))["raw_path"] == f"/scope{sent}"


@pytest.mark.spec("FR 56")
def test_path_that_is_not_utf8(get: Any) -> None:
    """A path of other bytes is answered or refused; it is no error of the server."""
    assert get("/scope/caf%E9").status_code in (200, 400)


@pytest.mark.spec("FR 56")
@pytest.mark.parametrize("query", ["q=%E5&%00", "q=%C3%A5+%2B", ";;a&&=", "%zz"])
def test_query_is_not_touched(get: Any, query: str) -> None:
    """query_string is the query as it was sent."""
    assert scope_of(get(f"/scope?{query}"))["query_string"] == query


@pytest.mark.spec("FR 56")
def test_query_in_raw_bytes(server: Server) -> None:
    """A query of raw non-ASCII bytes reaches the app untouched, or is refused as bad; it is no 500."""
    request = b"GET /scope?q=\xc3\xa5 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = answers_to(server, request)
    assert b" 400 " in answer[:20] or rb'"query_string": "q=\u00c3\u00a5"' in answer


@pytest.mark.spec("FR 22")
def test_latin1_request_field(server: Server) -> None:
    """A latin-1 field value arrives as these bytes, or is refused as bad."""
    request = b"GET /scope HTTP/1.1\r\nHost: x\r\nX-Name: caf\xe9\r\nConnection: close\r\n\r\n"
    answer = answers_to(server, request)
    assert b" 400 " in answer[:20] or rb'["x-name", "caf\u00e9"]' in answer


@pytest.mark.spec("FR 60")
@pytest.mark.parametrize("size", [0, 1, 65_536, 300_000])
def test_body_with_length(get: Any, size: int) -> None:
    """A body of announced length comes back byte for byte."""
    body = (BLOCK * 5)[:size]
    assert get("/echo", "POST", content=body).content == body


@pytest.mark.spec("FR 61")
def test_body_without_length(get: Any) -> None:
    """A chunked body reaches the app whole."""
    pieces = [b"a" * 10, b"b" * 70_000, b"c"]
    response = get("/echo", "POST", content=iter(pieces))
    assert (response.status_code, response.content) == (200, b"".join(pieces))


@pytest.mark.spec("FR 64")
def test_big_upload(get: Any) -> None:
    """An upload of 8 MiB arrives byte for byte, in pieces."""
    sha = hashlib.sha256(BLOCK * 128).hexdigest()
    seen = get("/digest", "POST", content=BLOCK * 128).json()
    assert (seen["length"], seen["sha256"]) == (8 * MIB, sha)
    assert seen["largest"] <= MIB


@pytest.mark.spec("FR 109")
def test_upload_and_download_at_once(server: Server, patience: float) -> None:
    """Each piece of a body is answered before the next is sent."""
    unvalidated(server)
    with exchange(server, seconds=patience) as raw:
        raw.start(b"POST", b"/duplex", [(b"content-length", b"300")])
        raw.send(b"a" * 100)
        assert raw.head()[0] == 200
        raw.read_until(b"a" * 100)
        raw.send(b"b" * 100)
        raw.read_until(b"b" * 100)
        raw.send(b"c" * 100, end=True)
        assert b"".join(iter(raw.read, b"")) == b"c" * 100


def test_answer_without_reading_the_body(get: Any, server: Server, patience: float) -> None:
    """A client hears a refusal while its upload is still to come; the next request is served."""
    with exchange(server, seconds=patience) as raw:
        raw.start(b"POST", b"/unread", [(b"content-length", b"50000000")])
        assert raw.head()[0] == 413
    assert get("/page").text == "hello"


def test_big_download(get: Any) -> None:
    """A download of 8 MiB arrives byte for byte."""
    response = get("/big")
    assert response.headers["content-length"] == str(8 * MIB)
    assert hashlib.sha256(response.content).digest() == hashlib.sha256(BLOCK * 128).digest()


def test_stream(get: Any) -> None:
    """A streamed answer of unknown length arrives whole."""
    assert get("/stream").text == "piece 0\npiece 1\npiece 2\n"


@pytest.mark.spec("FR 64")
def test_app_waits_for_a_slow_client(server: Server, key: str, patience: float) -> None:
    """While a client does not read, its app is made to wait; it gets every byte in the end."""
    unvalidated(server)
    with exchange(server, receive_buffer=4096) as raw:
        raw.start(b"GET", f"/ahead?key={key}".encode(), [], end=True)
        assert raw.head()[0] == 200
        seen = noted(server, key, seconds=patience)
        assert seen, "the loop stands still"
        assert seen[0] < HELD_BLOCKS
        length = sum(len(piece) for piece in iter(raw.read, b""))
    assert length == 48 * MIB


@pytest.mark.spec("FR 64")
def test_event_leaves_before_the_next_is_made(server: Server, key: str) -> None:
    """A lone event reaches the client while the app waits to make the next."""
    with exchange(server) as raw:
        raw.start(b"GET", f"/events?key={key}".encode(), [], end=True)
        assert raw.head()[1][b"content-type"].startswith(b"text/event-stream")
        assert b"two" not in raw.read_until(b"one\n\n")
        release(server, key)
        raw.read_until(b"two\n\n")
        assert raw.read() == b""


@pytest.mark.spec("FR 75")
def test_requests_run_at_once(server: Server, key: str) -> None:
    """As many requests as the host has threads wait on the loop together."""
    at_once(server, 2)
    count = min(server.host.threads, 8)
    keys = [f"{key}{number}" for number in range(count)]
    assert together(server, "/wait", keys) == ["released"] * count


@pytest.mark.spec("FR 97")
def test_thread_sensitive_code_runs_at_once(server: Server, key: str) -> None:
    """Thread-sensitive code of two requests runs at the same time."""
    at_once(server, 2)
    assert together(server, "/sensitive-wait", [key, f"{key}x"]) == ["released"] * 2


def together(server: Server, path: str, keys: list[str]) -> list[str]:
    """Start one request for each key, and release them when all wait."""

    def ask(name: str) -> str:
        with server.new_client() as client:
            return client.get(f"{path}?key={name}").text

    with ThreadPoolExecutor(len(keys)) as threads:
        answers = [threads.submit(ask, name) for name in keys]
        waiting = [bool(noted(server, f"{name}-waits")) for name in keys]
        for name, waits in zip(keys, waiting, strict=True):
            if waits:
                release(server, name)
        assert all(waiting), f"only {sum(waiting)} of {len(keys)} at once"
        return [answer.result(CLIENT_SECONDS) for answer in answers]


@pytest.mark.spec("FR 97")
def test_thread_sensitive_code_runs_in_the_wsgi_thread(get: Any) -> None:
    """sync_to_async comes back to the thread that the host called."""
    seen = get("/sensitive").json()
    assert seen["ident"] == seen["wsgi"]


@pytest.mark.spec("FR 98")
def test_context_of_wsgi_middleware(get: Any) -> None:
    """A context variable that WSGI middleware sets is the app's, request by request."""
    assert [get(f"/context?{number}").json() for number in (1, 2)] == ["1", "2"]


@pytest.mark.spec("FR 83")
@pytest.mark.spec("FR 84")
def test_lifespan_state(get: Any) -> None:
    """Each process starts the app once, on the loop of its requests; a request's changes stay its own."""
    seen = [get("/lifespan").json() for _ in range(6)]
    assert all(one["started"] == one["loop"] and not one["leaked"] for one in seen)
    assert len({(one["process"], one["loop"]) for one in seen}) == len(
        {one["process"] for one in seen}
    )


@pytest.mark.spec("FR 83")
def test_lifespan_starts_once(get: Any, server: Server) -> None:
    """Every process that serves has started the app, and none has twice."""
    started = [process for what, process in entries(server, "lifespan") if what == "startup"]
    assert started
    assert len(started) == len(set(started))


@pytest.mark.spec("FR 69")
def test_background_work_does_not_delay_the_answer(
    get: Any, server: Server, key: str, patience: float
) -> None:
    """The answer is complete while the app works on; that work ends, and others are served meanwhile."""
    assert get(f"/background?key={key}").text == "answered"
    assert get("/page").text == "hello"
    assert entries(server, key) == []
    release(server, key, patience)
    assert noted(server, key, seconds=patience) == ["done"]


def test_head_has_no_body(get: Any) -> None:
    """HEAD gives the fields of GET and no body."""
    response = get("/page", "HEAD")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == "5"


@pytest.mark.parametrize(("target", "status"), [("/no-content", 204), ("/not-modified", 304)])
def test_bodiless_statuses(get: Any, target: str, status: int) -> None:
    """204 and 304 have no body, and the connection stays usable."""
    response = get(target)
    assert (response.status_code, response.content) == (status, b"")
    assert get("/page").text == "hello"


def test_redirect(get: Any) -> None:
    """A redirect leaves with the location that the app gave."""
    response = get("/redirect")
    assert (response.status_code, response.headers["location"]) == (303, "/page")


def test_latin1_response_field(get: Any) -> None:
    """A latin-1 field value leaves as these bytes."""
    raw = dict(get("/fields").headers.raw)
    assert {name.lower(): value for name, value in raw.items()}[b"x-name"] == b"caf\xe9"


def test_cookies_stay_apart(get: Any) -> None:
    """Two Set-Cookie fields stay two."""
    assert get("/fields").headers.get_list("set-cookie") == ["a=1", "b=2"]


@pytest.mark.spec("FR 57")
def test_messages_without_optional_keys(get: Any, server: Server) -> None:
    """A start without fields and a body without content are an empty answer."""
    if server.app == "wsgiref.validate":
        pytest.skip("the validator wants a Content-Type")
    response = get("/bare")
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.spec("FR 66")
@pytest.mark.spec("FR 67")
@pytest.mark.parametrize("target", ["/fail-before", "/fail-started"])
def test_error_before_data_is_a_500(get: Any, server: Server, target: str) -> None:
    """An error before the first data gives 500 without a word of it, and a traceback in the log."""
    response = get(target)
    assert response.status_code == 500
    assert "meant" not in response.text
    assert server.logs("RuntimeError: meant: ")
    assert get("/page").text == "hello"


@pytest.mark.spec("FR 58")
def test_app_that_sends_nothing_is_a_500(get: Any) -> None:
    """An app that returns without an answer gives 500."""
    assert get("/nothing").status_code == 500


@pytest.mark.spec("FR 66")
def test_app_that_exits(get: Any) -> None:
    """SystemExit in the app is a 500, or the end of its connection, and ends nobody else."""
    try:
        assert get("/exits").status_code == 500
    except httpx.RemoteProtocolError:
        pass
    assert get("/page").text == "hello"


@pytest.mark.spec("FR 67")
@pytest.mark.parametrize("target", [b"/fail-late", b"/fail-short"])
def test_error_after_data_cuts_the_answer(
    get: Any, server: Server, target: bytes, patience: float
) -> None:
    """An error after the first chunk never looks like a complete answer."""
    with exchange(server, seconds=patience) as raw:
        raw.start(b"GET", target, [], end=True)
        with pytest.raises(Gone):
            raw.head()
            while raw.read():
                continue
            raise AssertionError("ended as if complete")
    assert server.logs("RuntimeError: meant: after the first chunk")
    assert get("/page").text == "hello"


WAYS = ["fin", "rst"]


@pytest.mark.spec("FR 65")
@pytest.mark.parametrize("way", WAYS)
def test_upload_that_breaks_off(
    get: Any, server: Server, key: str, way: str, patience: float
) -> None:
    """A client that leaves in mid upload is a disconnect to the app, never an end of the body."""
    with exchange(server) as raw:
        raw.start(b"POST", f"/upload?key={key}".encode(), [(b"content-length", b"1000000")])
        raw.send(b"x" * 60_000)
        called = noted(server, f"{key}-called", seconds=patience)
        raw.leave(way)
        assert called == [True], "not called before the body is complete"
    assert noted(server, key) == ["disconnect"]
    assert get("/page").text == "hello"


@pytest.mark.spec("FR 65")
@pytest.mark.parametrize("way", WAYS)
def test_download_that_breaks_off(
    get: Any, server: Server, key: str, way: str, patience: float
) -> None:
    """A client that leaves in mid download ends the app's send; its cleanup runs on the loop."""
    with exchange(server) as raw:
        raw.start(b"GET", f"/endless?key={key}".encode(), [], end=True)
        assert raw.head()[0] == 200
        raw.read_until(BLOCK[-256:])
        raw.leave(way)
    assert noted(server, key, seconds=patience) == [True]
    assert entries(server, f"{key}-end") == ["OSError"]
    assert get("/page").text == "hello"


@pytest.mark.spec("FR 65")
@pytest.mark.parametrize("target", ["/idle", "/silent"])
def test_client_leaves_an_idle_stream(
    get: Any, server: Server, key: str, target: str, patience: float
) -> None:
    """A client that leaves while nothing is sent is a disconnect to an app that listens, and a cancellation else."""
    unvalidated(server)
    with exchange(server) as raw:
        raw.start(b"GET", f"{target}?key={key}".encode(), [], end=True)
        assert raw.head()[0] == 200
        raw.read_until(b"one\n\n")
        assert noted(server, f"{key}-waits")
        raw.leave("fin")
        seen = noted(server, key, seconds=patience)
        if not seen:
            release(server, key)  # its thread must not stay busy
    assert seen == [{"/idle": "http.disconnect", "/silent": "cancelled"}[target]], "not told"
    assert get("/page").text == "hello"


@pytest.mark.spec("FR 65")
def test_many_clients_leave(get: Any, server: Server) -> None:
    """More clients than threads leave in mid download; every thread comes back."""
    for _ in range(16):
        with exchange(server) as raw:
            raw.start(b"GET", b"/endless", [], end=True)
            raw.head()
            raw.read()
            raw.leave("rst")
    assert [get("/page").text for _ in range(16)] == ["hello"] * 16


@pytest.mark.spec("FR 106")
def test_pathsend(get: Any, server: Server) -> None:
    """A file sent by its path arrives byte for byte."""
    unvalidated(server)
    response = get("/pathsend")
    assert response.status_code == 200, response.text
    assert hashlib.sha256(response.content).digest() == hashlib.sha256(BLOCK * 128).digest()


@pytest.mark.spec("FR 107")
def test_early_hints(server: Server) -> None:
    """An early hint of the app is a 103 before the answer."""
    with exchange(server) as raw:
        assert isinstance(raw, Exchange1)
        raw.start(b"GET", b"/early-hint", [], end=True)
        assert raw.head()[0] == 200, "no early hints"
        assert raw.informational == [103]


@pytest.mark.spec("FR 103")
def test_websocket_handshake(get: Any, server: Server) -> None:
    """It is answered with 101 on hosts that give their socket away, with 501 on the others."""
    gives_socket = server.host.name.startswith(("gunicorn", "werkzeug")) or (
        # Beneath wsgi.input, which validators wrap.
        server.host.name.startswith(("cheroot", "wsgiref", "uwsgi")) and server.app == "ASGI"
    )
    status = b" 101 " if gives_socket else b" 501 "
    fields = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    fields += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    answer = answers_to(server, b"GET /page HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n", status)
    assert status in answer
    assert get("/page").text == "hello"


def test_expect_100_continue(server: Server, patience: float) -> None:
    """A client that waits for 100 gets it, sends its body, and gets its answer."""
    unvalidated(server)
    with exchange(server, seconds=patience) as raw:
        assert isinstance(raw, Exchange1)
        raw.start(
            b"POST", b"/digest", [(b"content-length", b"200000"), (b"expect", b"100-continue")]
        )
        first = raw.next_event()
        assert getattr(first, "status_code", None) == 100
        raw.send(b"x" * 200_000, end=True)
        assert raw.head()[0] == 200
        assert b'"length": 200000' in raw.read_until(b"}")


def answers_to(server: Server, data: bytes, mark: bytes = b"\x00") -> bytes:
    """Send ``data`` at once; give what comes until ``mark`` has come or the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=CLIENT_SECONDS) as raw:
        raw.sendall(data)
        received = b""
        try:
            while mark not in received and (piece := raw.recv(65536)):
                received += piece
        except ConnectionError:
            return received
        return received


def test_connection_is_kept(server: Server) -> None:
    """Two requests on one connection are answered in their order."""
    one = b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n"
    two = b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    seen = answers_to(server, one + two)
    assert seen.count(b" 200 OK") == 2, "connection closed"
    assert seen.index(b"hello") < seen.index(b"piece 2")


def test_log_is_clean_at_the_end(get: Any, server: Server) -> None:
    """Nothing in the log says that a validator, a task or a coroutine was left in the lurch."""
    assert get("/page").text == "hello"
    signs = signs_in(server.log)
    if server.host.name == "werkzeug":
        # It does not close an iterator whose client resets while it reads on to the end of the request.
        signs = [line for line in signs if UNCLOSED not in line]
    assert signs == []


UNCLOSED = "Iterator garbage collected without being closed"
SIGNS = (
    UNCLOSED,
    "was never retrieved",
    "was never awaited",
    "was destroyed but it is pending",
    "AssertionError:",
    "WSGIWarning:",
    "ExceptionGroup",
    "Event loop is closed",
)


# The tests want answers that are cut; cheroot's input of a chunked body is among its limits.
MEANT = (
    "Content-Length and the number of bytes sent to the client do not match",
    "ChunkedRFile",
)


def signs_in(log: str) -> list[str]:
    """Give the lines that must not be."""
    lines = [line for line in log.splitlines() if not any(words in line for words in MEANT)]
    return [line for line in lines if any(sign in line for sign in SIGNS)]


@pytest.mark.spec("FR 78")
def test_process_stops_in_mid_stream(server: Server, key: str, patience: float) -> None:
    """SIGTERM ends the process by itself while an endless answer is under way."""
    unvalidated(server)
    with exchange(server) as raw:
        raw.start(b"GET", f"/endless?key={key}".encode(), [], end=True)
        raw.head()
        reader = threading.Thread(target=read_to_the_end, args=(raw,))
        reader.start()
        assert server.stop(3 * patience) != -signal.SIGKILL, "killed"
        reader.join()
    assert signs_in(server.log) == []


def read_to_the_end(raw: Exchange) -> None:
    """Read on until the server hangs up."""
    try:
        while raw.read():
            continue
    except (Gone, OSError):
        raw.socket.close()
