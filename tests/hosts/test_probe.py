"""PEP 3333 as a client sees it, on every host, with a validator between bridge and app."""

from __future__ import annotations

import hashlib
import itertools
import signal
import socket
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from hostkit.process import Server
from hostkit.raw import Exchange, Exchange1, Gone, exchange

APPS = ("wsgiref.validate", "werkzeug lint")
BLOCK = bytes(range(256)) * 256
MIB = 1 << 20


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
    return uuid.uuid4().hex


def only_over(server: Server, http2: bool) -> None:
    if server.host.http2 is not http2:
        pytest.skip("a matter of the other version of HTTP")


def settles(get: Any) -> bool:
    """Ask until the asking request is the only one that the pool is busy with."""
    return any(get("/snapshot").json()["busy"] == 1 for _ in range(200))


def environ_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return dict(response.json())


@pytest.mark.spec("PEP 3333", "environ Variables")
def test_environ_says_what_was_asked(get: Any, server: Server) -> None:
    """environ carries the request line, the addresses and the fields."""
    sent = {"X-Probe": "yes", "Content-Type": "text/x"}
    seen = environ_of(get("/environ/a/b?x=1&y=", "PUT", headers=sent))
    expected = {
        "REQUEST_METHOD": "PUT",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/environ/a/b",
        "QUERY_STRING": "x=1&y=",
        "CONTENT_TYPE": "text/x",
        "HTTP_X_PROBE": "yes",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(server.port),
        "SERVER_PROTOCOL": "HTTP/2" if server.host.http2 else "HTTP/1.1",
        "HTTP_HOST": f"127.0.0.1:{server.port}",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": server.scheme,
        "wsgi.version": [1, 0],
        "wsgi.multithread": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    assert {name: seen.get(name) for name in expected} == expected


PATHS = [
    ("utf8", "/caf%C3%A9", "/caf\xc3\xa9"),
    ("nfd", "/cafe%CC%81", "/cafe\xcc\x81"),
    ("latin1", "/caf%E9", "/caf\xe9"),
    ("overlong", "/%C0%AF", "/\xc0\xaf"),
    ("slash", "/a%2Fb", "/a/b"),
    ("space", "/a%20b+c", "/a b+c"),
    ("percent", "/100%25", "/100%"),
    ("double", "//a//b", "//a//b"),
    ("dots", "/a/../b/.", "/a/../b/."),
]


@pytest.mark.spec("FR 46")
@pytest.mark.parametrize(
    ("sent", "path"), [row[1:] for row in PATHS], ids=[row[0] for row in PATHS]
)
def test_path_arrives_as_bytes_in_latin1(get: Any, sent: str, path: str) -> None:
    """PATH_INFO is the percent-decoded path, each byte one character."""
    assert environ_of(get(f"/environ{sent}"))["PATH_INFO"] == f"/environ{path}"


@pytest.mark.spec("FR 47")
def test_raw_target_is_kept(get: Any) -> None:
    """REQUEST_URI and RAW_URI are the target as it was sent."""
    seen = environ_of(get("/environ/a%2Fb%20c?q=%2F"))
    assert (seen["REQUEST_URI"], seen["RAW_URI"]) == ("/environ/a%2Fb%20c?q=%2F",) * 2


@pytest.mark.spec("FR 45")
@pytest.mark.parametrize("query", ["q=%E5&%00", "q=%C3%A5+%2B", ";;a&&=", "%zz"])
def test_query_is_not_touched(get: Any, query: str) -> None:
    """QUERY_STRING is the query as it was sent."""
    assert environ_of(get(f"/environ?{query}"))["QUERY_STRING"] == query


@pytest.mark.spec("FR 45")
def test_query_in_raw_bytes(server: Server) -> None:
    """A query of raw non-ASCII bytes reaches the app untouched, or is refused as bad; it is no 500."""
    only_over(server, http2=False)
    request = b"GET /environ?q=\xc3\xa5 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = answers_to(server, request, b"}")
    refused = b"HTTP/1.1 400"
    assert answer.startswith(refused) or rb'"QUERY_STRING": "q=\u00c3\u00a5"' in answer


@pytest.mark.spec("FR 42")
def test_underscore_does_not_pose_as_hyphen(get: Any) -> None:
    """A field name with an underscore does not reach environ."""
    sent = [("X_Forwarded_For", "evil"), ("X-Real", "1"), ("Proxy", "evil")]
    seen = environ_of(get("/environ", headers=sent))
    assert "evil" not in [seen.get("HTTP_X_FORWARDED_FOR"), seen.get("HTTP_PROXY")]
    assert seen["HTTP_X_REAL"] == "1"


@pytest.mark.spec("FR 41")
def test_cookies_join_with_semicolons(get: Any) -> None:
    """Several Cookie fields become one HTTP_COOKIE."""
    seen = environ_of(get("/environ", headers=[("Cookie", "a=1"), ("Cookie", "b=2")]))
    assert seen["HTTP_COOKIE"] == "a=1; b=2"


def test_repeated_fields_join_with_commas(get: Any) -> None:
    """A field that comes twice is one list in environ."""
    seen = environ_of(get("/environ", headers=[("X-List", "a"), ("X-List", "b")]))
    assert seen["HTTP_X_LIST"].replace(", ", ",") == "a,b"


def test_latin1_request_field(get: Any) -> None:
    """The bytes of a field's value arrive as latin-1 characters."""
    assert environ_of(get("/environ", headers={b"X-Name": b"caf\xe9"}))["HTTP_X_NAME"] == "caf\xe9"


@pytest.mark.spec("FR 108")
def test_tls_is_told(get: Any, server: Server) -> None:
    """The scheme and HTTPS say https over TLS, and only there."""
    seen = environ_of(get("/environ"))
    assert seen["wsgi.url_scheme"] == server.scheme
    assert (seen.get("HTTPS", "off") == "on") is (server.scheme == "https")


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 300_000])
def test_body_comes_back(get: Any, size: int) -> None:
    """A body with Content-Length reaches the app whole."""
    body = (BLOCK * 5)[:size]
    assert get("/echo", "POST", content=body).content == body


@pytest.mark.spec("FR 6")
def test_body_without_length(get: Any, server: Server) -> None:
    """A body of unknown length (chunked, or HTTP/2 data) reaches the app whole."""
    pieces = [b"a" * 10, b"b" * 70_000, b"c"]
    response = get("/echo", "POST", content=iter(pieces))
    assert response.content == b"".join(pieces)
    sent = environ_of(get("/environ", "POST", content=iter([b"x"])))
    assert ("CONTENT_LENGTH" not in sent, "HTTP_TRANSFER_ENCODING" in sent) == (True, False)


@pytest.mark.spec("FR 4")
def test_body_by_lines(get: Any) -> None:
    """Iteration gives lines, readline(size) cuts at the size too, across messages."""
    pieces = [b"x" * 49, b"\n" + b"y" * 60 + b"\n", b"z"]
    assert get("/lines", "POST", content=iter(pieces)).json() == [50, 61, 1]
    assert get("/pieces-of-lines", "POST", content=iter(pieces)).json() == [50, 50, 11, 1]


@pytest.mark.spec("FR 1")
def test_big_upload(get: Any) -> None:
    """An upload of 16 MiB arrives byte for byte."""
    sha = hashlib.sha256(BLOCK * 256).hexdigest()
    seen = get("/digest", "POST", content=itertools.repeat(BLOCK, 256)).json()
    assert seen == {"length": 16 * MIB, "sha256": sha}


@pytest.mark.spec("FR 31")
def test_big_download(get: Any, key: str) -> None:
    """A download of 8 MiB arrives byte for byte, and its iterable is closed once."""
    response = get(f"/big?key={key}")
    assert response.headers["content-length"] == str(8 * MIB)
    assert hashlib.sha256(response.content).digest() == hashlib.sha256(BLOCK * 128).digest()
    assert len(get(f"/wait?key={key}").json()) == 1


@pytest.mark.spec("FR 7")
def test_answer_without_reading_the_body(get: Any, server: Server, patience: float) -> None:
    """A client hears a refusal while its upload is still to come; the next request is served."""
    with exchange(server, seconds=patience) as raw:
        raw.start(b"POST", b"/unread", [(b"content-length", b"50000000")])
        assert raw.head()[0] == 413
    assert get("/page").text == "hello"
    assert settles(get)


@pytest.mark.spec("FR 92")
def test_stream_runs_in_one_thread(get: Any, key: str) -> None:
    """Call, iteration and close of a streamed answer happen in one thread; close comes once."""
    assert get(f"/stream?key={key}").text == "piece 0\npiece 1\npiece 2\n"
    assert get(f"/wait?key={key}").json() == [1]


@pytest.mark.spec("FR 18")
def test_write_callable(get: Any) -> None:
    """What write() is given comes before what is returned."""
    assert get("/write").text == "one,two,three"


@pytest.mark.spec("FR 17")
def test_lazy_start_response(get: Any) -> None:
    """A generator may call start_response at its first step, and yield b"" first."""
    response = get("/lazy")
    assert (response.status_code, response.text) == (201, "made")


@pytest.mark.spec("FR 28")
def test_head_has_no_body(get: Any, key: str) -> None:
    """HEAD gives the fields of GET, no body, and closes the iterable."""
    response = get(f"/bare-page?{key}", "HEAD")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == "5"
    assert get(f"/wait?key={key}").json() == [1]


@pytest.mark.spec("FR 19")
@pytest.mark.parametrize(("target", "status"), [("/no-content", 204), ("/not-modified", 304)])
def test_bodiless_statuses(get: Any, target: str, status: int) -> None:
    """204 and 304 have no body, and the connection stays usable."""
    response = get(target)
    assert (response.status_code, response.content) == (status, b"")
    assert get("/page").text == "hello"


@pytest.mark.spec("FR 20")
def test_one_item_list_has_a_length(get: Any) -> None:
    """A list of one chunk without Content-Length gets it."""
    assert get("/one-item").headers["content-length"] == "8"


@pytest.mark.spec("FR 22")
def test_latin1_response_field(get: Any) -> None:
    """A latin-1 field value leaves as these bytes."""
    raw = dict(get("/fields").headers.raw)
    assert {name.lower(): value for name, value in raw.items()}[b"x-name"] == b"caf\xe9"


@pytest.mark.spec("FR 23")
def test_cookies_stay_apart(get: Any) -> None:
    """Two Set-Cookie fields stay two."""
    assert get("/fields").headers.get_list("set-cookie") == ["a=1", "b=2"]


@pytest.mark.spec("FR 12")
@pytest.mark.parametrize("target", ["/fail-before", "/fail-started"])
def test_error_before_data_is_a_500(get: Any, server: Server, target: str) -> None:
    """An error before the first data gives 500 and no word of the traceback."""
    response = get(target)
    assert response.status_code == 500
    assert "meant" not in response.text
    assert server.logs("meant: ")


@pytest.mark.spec("FR 13")
def test_error_page_replaces_the_head(get: Any) -> None:
    """start_response with exc_info before data replaces status and fields."""
    response = get("/fail-replaced")
    assert (response.status_code, response.text) == (503, "sorry")
    assert "x-old" not in response.headers


@pytest.mark.spec("FR 29")
def test_error_after_data_cuts_the_answer(
    get: Any, server: Server, key: str, patience: float
) -> None:
    """An error after the first chunk never looks like a complete answer; close runs."""
    with exchange(server, seconds=patience) as raw:
        raw.start(b"GET", f"/fail-late?key={key}".encode(), [], end=True)
        with pytest.raises(Gone):
            raw.head()
            raw.read_until(b"never sent")
            raise AssertionError("ended as if complete")
    assert get(f"/wait?key={key}").json() == [1]


WAYS = ["fin", "rst", "cancel"]


@pytest.mark.spec("FR 3")
@pytest.mark.parametrize("way", WAYS)
def test_upload_that_breaks_off(get: Any, server: Server, key: str, way: str) -> None:
    """A client that leaves in mid upload gives the app an OSError, never an end of file."""
    if way == "cancel":
        only_over(server, http2=True)
    with exchange(server) as raw:
        raw.start(b"POST", f"/upload?key={key}".encode(), [(b"content-length", b"1000000")])
        raw.send(b"x" * 60_000)
        called = get(f"/wait?key={key}-called").json()
        raw.leave(way)
        assert called == [True], "not called before the body is complete"
        assert get(f"/wait?key={key}").json() == [{"complete": False, "oserror": True}]
    assert get("/page").text == "hello"
    assert settles(get)


@pytest.mark.spec("FR 33")
@pytest.mark.parametrize("way", WAYS)
def test_download_that_breaks_off(get: Any, server: Server, key: str, way: str) -> None:
    """A client that leaves in mid download closes the iterable, once, and frees the thread."""
    if way == "cancel":
        only_over(server, http2=True)
    with exchange(server) as raw:
        raw.start(b"GET", f"/endless?key={key}".encode(), [], end=True)
        assert raw.head()[0] == 200
        raw.read_until(BLOCK[-256:])
        raw.leave(way)
        assert get(f"/wait?key={key}").json() == [1]
    assert settles(get)


@pytest.mark.spec("FR 33")
def test_many_clients_leave(get: Any, server: Server) -> None:
    """Thrice as many clients as threads leave in mid download; every thread comes back."""
    for _ in range(48):
        with exchange(server) as raw:
            raw.start(b"GET", b"/endless", [], end=True)
            raw.head()
            raw.read()
            raw.leave("rst")
    assert settles(get)
    assert get("/snapshot").json()["threads"] <= 16


@pytest.mark.spec("FR 31")
def test_slow_reader_holds_up_nobody(get: Any, server: Server, key: str) -> None:
    """While a client does not read its download others are served; it gets every byte."""
    with exchange(server, receive_buffer=4096) as raw:
        raw.start(b"GET", f"/big?key={key}".encode(), [], end=True)
        assert raw.head()[0] == 200
        assert [get("/page").text for _ in range(20)] == ["hello"] * 20
        sha = hashlib.sha256()
        for piece in iter(raw.read, b""):
            sha.update(piece)
    assert sha.digest() == hashlib.sha256(BLOCK * 128).digest()


@pytest.mark.spec("FR 32")
def test_event_leaves_before_the_next_is_made(get: Any, server: Server, key: str) -> None:
    """A lone event reaches the client while the app waits to make the next."""
    with exchange(server) as raw:
        raw.start(b"GET", f"/events?key={key}".encode(), [], end=True)
        assert raw.head()[1][b"content-type"].startswith(b"text/event-stream")
        assert b"two" not in raw.read_until(b"one\n\n")
        get(f"/release?key={key}")
        raw.read_until(b"two\n\n")
        assert raw.read() == b""
    assert get(f"/wait?key={key}-released").json() == [True]


@pytest.mark.spec("FR 89")
def test_requests_run_at_once(get: Any, server: Server, key: str) -> None:
    """Eight requests that wait for a ninth are served by eight threads."""
    assert server.client
    keys = [f"{key}-{number}" for number in range(8)]
    with server.new_client() as other, ThreadPoolExecutor(8) as threads:
        begun = threading.Barrier(9)

        def waiting(name: str) -> str:
            with other.stream("GET", f"/events?key={name}") as response:
                pieces = response.iter_bytes()
                first = next(pieces)
                begun.wait(15)
                return (first + b"".join(pieces)).decode()

        answers = [threads.submit(waiting, name) for name in keys]
        begun.wait(15)
        assert get("/snapshot").json()["busy"] == 9
        for name in keys:
            get(f"/release?key={name}")
        assert {answer.result(15) for answer in answers} == {"data: one\n\ndata: two\n\n"}


def test_expect_100_continue(server: Server) -> None:
    """A client that waits for 100 gets it, sends its body, and gets its answer."""
    only_over(server, http2=False)
    with exchange(server) as raw:
        assert isinstance(raw, Exchange1)
        fields = [(b"content-length", b"200000"), (b"expect", b"100-continue")]
        raw.start(b"POST", b"/digest", fields)
        first = raw.next_event()
        assert getattr(first, "status_code", None) == 100
        raw.send(b"x" * 200_000, end=True)
        assert raw.head()[0] == 200
        assert b'"length": 200000' in raw.read_until(b"}")


def test_expect_100_continue_refused(server: Server) -> None:
    """An app that answers without reading sends its answer instead of 100."""
    only_over(server, http2=False)
    with exchange(server) as raw:
        assert isinstance(raw, Exchange1)
        fields = [(b"content-length", b"200000"), (b"expect", b"100-continue")]
        raw.start(b"POST", b"/unread", fields)
        assert raw.head()[0] == 413
        assert raw.informational == []


def answers_to(server: Server, data: bytes, mark: bytes) -> bytes:
    """Send ``data`` at once; give what comes until ``mark`` has come or the server closes."""
    # hypercorn on trio does not always close after "Connection: close", so the end must show itself.
    with socket.create_connection(("127.0.0.1", server.port), timeout=15) as raw:
        raw.sendall(data)
        received = b""
        try:
            while mark not in received and (piece := raw.recv(65536)):
                received += piece
        except ConnectionError:
            return received
        return received


def test_pipelined_requests(server: Server) -> None:
    """Requests sent in one go are answered in their order."""
    only_over(server, http2=False)
    one = "GET /page HTTP/1.1\r\nHost: x\r\n{}\r\n"
    two = "GET /write HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    seen = answers_to(server, (one.format("") * 2 + two).encode(), b"three")
    assert [seen.count(b"hello"), seen.count(b"HTTP/1.1 200")] == [2, 3]
    assert seen.index(b"hello") < seen.index(b"one,")


GARBAGE = {
    "binary": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + bytes(range(256)),
    "half-head": b"GET /page HTTP/1.1\r\nHost",
    "bad-length": b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\nxxxxxxxxxx",
    "bad-chunk": b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n",
    "two-lengths": b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\nab",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_costs_nobody_else(get: Any, server: Server, name: str) -> None:
    """A connection that sends garbage is not answered as good; the next request is served."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=15) as raw:
        received = b""
        try:
            raw.sendall(GARBAGE[name])
            raw.shutdown(socket.SHUT_WR)
            while piece := raw.recv(65536):
                received += piece
        except OSError as error:
            # Refused by a reset: nothing was answered, which is as good as 400.
            assert not isinstance(error, TimeoutError)
    assert b" 200 " not in received
    assert get("/page").text == "hello"
    assert settles(get)


def test_log_is_clean_at_the_end(get: Any, server: Server) -> None:
    """Nothing in the log says that a validator, a task or a coroutine was left in the lurch."""
    assert get("/page").text == "hello"
    assert not [sign for sign in SIGNS if sign in server.log]


SIGNS = (
    "Iterator garbage collected without being closed",
    "was never retrieved",
    "was never awaited",
    "was destroyed but it is pending",
    "AssertionError",
    "WSGIWarning",
    "ExceptionGroup",
)


@pytest.mark.spec("FR 96")
def test_process_stops_when_asked(server: Server) -> None:
    """SIGTERM ends the process by itself, an endless answer under way or not."""
    with exchange(server) as raw:
        raw.start(b"GET", b"/endless", [], end=True)
        raw.head()
        reader = threading.Thread(target=read_to_the_end, args=(raw,))
        reader.start()
        # Any end of its own will do: hypercorn's exit code is 1 when it had to cancel a request.
        assert server.stop() != -signal.SIGKILL
        reader.join()


def read_to_the_end(raw: Exchange) -> None:
    """Read on, and hang up when the server does: asyncio waits for that before it closes TLS."""
    try:
        while raw.read():
            continue
    except (Gone, OSError):
        raw.socket.close()
