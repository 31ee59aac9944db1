"""Start the demo on free ports, drive both of its servers with a real client, stop them.

    python -m examples.demo.check

Prints each request with its outcome, one a line; exits with 1 when one is not as it should be.
"""

import contextlib
import functools
import hashlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection as Connection
from websockets.sync.client import connect

LIMIT_SECONDS = 30.0


class Mismatch(Exception):
    """The demo answered, but not as it should."""


def expect(condition: bool, wanted: str) -> None:
    """Raise `Mismatch` unless the condition holds."""
    if not condition:
        raise Mismatch(f"expected {wanted}")


def text_in(page: str, element_id: str) -> str:
    """Return the text of the element with that id."""
    found = re.search(rf'id="{element_id}"[^>]*>([^<]*)<', page)
    if found is None:
        raise Mismatch(f'expected an element with id="{element_id}"')
    return found[1]


def place(response: httpx.Response) -> str:
    return f"in {response.headers['x-ran-in']}"


def new_pages(client: httpx.Client) -> str:
    page = client.get("/").raise_for_status()
    expect("What runs where" in page.text, "the page that says what runs where")
    for path in re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text):
        client.get(path).raise_for_status()
    return f"{page.status_code}, page with style and script, {place(page)}"


def new_endpoint(client: httpx.Client) -> str:
    response = client.get("/api/hello", params={"name": "check"}).raise_for_status()
    expect(response.json()["hello"] == "check", "the name to come back")
    return f"{response.status_code} {response.text}"


def legacy_pages(client: httpx.Client) -> str:
    response = client.get("/legacy/").raise_for_status()
    for path in sorted(set(re.findall(r'href="(/legacy[^"]*)"', response.text))):
        if "export" not in path:
            client.get(path, follow_redirects=True).raise_for_status()
    ran_in = response.headers["x-ran-in"]
    expect(ran_in.startswith("bridges-worker"), f"a pool thread, not {ran_in}")
    return f"{response.status_code}, page and all it links to, {place(response)}"


def session_counts(client: httpx.Client) -> str:
    first = int(text_in(client.get("/legacy/").text, "visits"))
    second = int(text_in(client.get("/legacy/").text, "visits"))
    expect(second == first + 1, f"visit {first + 1} after {first}, not {second}")
    return f"200, session cookie counts {first}, then {second}"


def redirect_stays(client: httpx.Client) -> str:
    response = client.get("/legacy/home")
    location = response.headers.get("location")
    expect(response.status_code == 302, f"302, not {response.status_code}")
    expect(location == "/legacy/", f"a redirect to /legacy/, not {location}")
    return f"302 to {location}"


def not_found(client: httpx.Client) -> str:
    response = client.get("/legacy/nothing-here")
    expect(response.status_code == 404, f"404, not {response.status_code}")
    expect("/nothing-here" in response.text, "Flask's own page")
    return f"404, Flask's own page, {place(response)}"


def upload(client: httpx.Client) -> str:
    data = bytes(range(251)) * 20_000
    files = {"file": ("five-megabytes.bin", data)}
    page = client.post("/legacy/upload", files=files).raise_for_status()
    wanted = ("five-megabytes.bin", str(len(data)), hashlib.sha256(data).hexdigest())
    shown = tuple(text_in(page.text, name) for name in ("name", "size", "sha256"))
    expect(shown == wanted, f"{wanted}, not {shown}")
    return f"{page.status_code}, {len(data):,} bytes, SHA-256 {wanted[2][:12]}... as sent"


def csv_streams(client: httpx.Client) -> str:
    rows = 400_000
    with client.stream("GET", "/legacy/export.csv", params={"rows": rows}) as response:
        blocks = response.iter_bytes()
        first = next(blocks)
        # The rest does not fit into the buffers on the way, so the application must be waiting.
        running = [entry["path"] for entry in status(client)["requests"] if not entry["seconds"]]
        expect("/legacy/export.csv" in running, "an export that still runs at the first chunk")
        total, lines = len(first), first.count(b"\n")
        for block in blocks:
            total, lines = total + len(block), lines + block.count(b"\n")
    expect(lines == rows + 1, f"{rows + 1} lines, not {lines}")
    return f"200, first {len(first):,} bytes while it was still being made, {total:,} in all"


def events_of(response: httpx.Response) -> Iterator[tuple[str, object]]:
    lines = response.iter_lines()
    for line in lines:
        if line.startswith("event: "):
            yield line[7:], json.loads(next(lines)[6:])


def announce(client: httpx.Client, text: str) -> int:
    response = client.post("/legacy/announce", data={"text": text}).raise_for_status()
    return int(response.json()["listeners"])


def next_announcement(events: Iterator[tuple[str, object]]) -> object:
    return next(data for name, data in events if name == "announcement")


def events_come_singly(client: httpx.Client) -> str:
    took = []
    with client.stream("GET", "/legacy/events") as response:
        events = events_of(response)
        name, thread = next(events)
        expect(name == "thread", f"an event 'thread' first, not {name!r}")
        # The next is announced only when the last has arrived: none can have waited for another.
        for text in ("one", "two", "three"):
            begun = time.perf_counter()
            announce(client, text)
            came = next_announcement(events)
            took.append(f"{(time.perf_counter() - begun) * 1000:.0f} ms")
            expect(came == text, f"{text!r}, not {came!r}")
    return f"200, from {thread}, each of 3 events before the next was made: {', '.join(took)}"


def streams_leave_room(client: httpx.Client) -> str:
    with contextlib.ExitStack() as stack:
        streams = [
            events_of(stack.enter_context(client.stream("GET", "/legacy/events"))) for _ in range(2)
        ]
        threads = [next(events)[1] for events in streams]
        short = client.get("/legacy/").raise_for_status()
        client.get("/api/hello").raise_for_status()
        expect(short.headers["x-ran-in"] not in threads, "a third thread for the short request")
        listeners = announce(client, "both")
        expect(listeners >= 2, f"2 listeners, not {listeners}")
        for events in streams:
            expect(next_announcement(events) == "both", "the announcement in both streams")
    return f"{' and '.join(map(str, threads))} stream, a short request ran {place(short)}"


@contextlib.contextmanager
def in_the_chat(client: httpx.Client, path: str, name: str) -> Iterator[tuple[Connection, str]]:
    """Give the websocket of somebody in the chat, and the thread that its server names."""
    address = str(client.base_url.join(f"{path}talk")).replace("http", "ws", 1)
    limits = {"open_timeout": LIMIT_SECONDS, "close_timeout": LIMIT_SECONDS}
    with connect(f"{address}?name={name}&room=check", proxy=None, **limits) as websocket:
        yield websocket, next_told(websocket, "welcome")["thread"]


def next_told(websocket: Connection, kind: str) -> dict:
    while (told := json.loads(websocket.recv(LIMIT_SECONDS)))["type"] != kind:
        pass
    return told


def chat(path: str, backend: str, client: httpx.Client) -> str:
    """See that each of two people hears what the other one says."""
    page = client.get(path, follow_redirects=True).raise_for_status()
    for name in re.findall(r'(?:href|src)="(static/[^"]+)"', page.text):
        client.get(f"{path}{name}").raise_for_status()
    with (
        in_the_chat(client, path, "Ada") as (ada, thread),
        in_the_chat(client, path, "Ben") as (ben, _),
    ):
        for speaker, listener, text in ((ada, ben, "hello Ben"), (ben, ada, "<b>hello</b> Ada")):
            begun = time.perf_counter()
            speaker.send(json.dumps({"text": text}))
            heard = next_told(listener, "message")
            took = time.perf_counter() - begun
            expect(heard["text"] == text, f"{text!r}, not {heard['text']!r}")
            next_told(speaker, "message")
    return (
        f"101, {backend} in {thread}, from one to the other and back, the last {took * 1000:.0f} ms"
    )


def threads_come_back(client: httpx.Client) -> str:
    deadline = time.monotonic() + LIMIT_SECONDS
    while (pool := status(client)["pool"])["busy"]:
        if time.monotonic() > deadline:
            raise Mismatch(f"expected idle threads after the clients left, not {pool}")
        time.sleep(0.05)
    return "after all clients left: " + ", ".join(f"{name} {value}" for name, value in pool.items())


# The modern application, under gunicorn.


def modern_page(client: httpx.Client) -> str:
    page = client.get("/").raise_for_status()
    expect("What runs where" in page.text, "the page that says what runs where")
    for path in re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text):
        client.get(path).raise_for_status()
    return f"{page.status_code}, page with style and script"


def modern_threads(client: httpx.Client) -> str:
    first = client.get("/where").raise_for_status().json()
    second = client.get("/where").raise_for_status().json()
    loop = first["async code"]
    expect(loop == second["async code"] == first["lifespan begun in"], "one loop for everything")
    sensitive = first["thread-sensitive code"]
    expect(sensitive not in (loop, first["plain endpoints"]), "gunicorn's thread for sync code")
    return f"200, async code in {loop}, thread-sensitive code in {sensitive}"


def modern_upload(client: httpx.Client) -> str:
    data = bytes(range(251)) * 20_000
    half = len(data) // 2

    def parts() -> Iterator[bytes]:  # without a Content-Length: chunked
        yield data[:half]
        yield data[half:]

    answer = client.post("/upload", content=parts()).raise_for_status().json()
    wanted = hashlib.sha256(data).hexdigest()
    expect(answer["size"] == len(data), f"{len(data)} bytes, not {answer['size']}")
    expect(answer["sha256"] == wanted, "the same SHA-256")
    return f"200, {answer['size']:,} bytes in {answer['pieces']} pieces, SHA-256 {wanted[:12]}... as sent"


def modern_stream(client: httpx.Client) -> str:
    rows = 400_000
    with client.stream("GET", "/numbers.csv", params={"rows": rows}) as response:
        blocks = response.iter_bytes()
        first = next(blocks)
        total, lines = len(first), first.count(b"\n")
        for block in blocks:
            total, lines = total + len(block), lines + block.count(b"\n")
    expect(lines == rows + 1, f"{rows + 1} lines, not {lines}")
    return f"200, first {len(first):,} bytes, {total:,} in all"


def modern_events(client: httpx.Client) -> str:
    with client.stream("GET", "/events") as response:
        events = events_of(response)
        thread = next(events)
        ticks = [next(events) for _ in range(3)]
        short = client.get("/where").raise_for_status().json()
    expect([data for _, data in ticks] == [1, 2, 3], f"ticks 1 to 3, not {ticks}")
    expect(thread == ("thread", short["async code"]), f"the loop's thread, not {thread}")
    return f"200, from {thread[1]}, 3 ticks as they came, a short request beside them"


def background_task(client: httpx.Client) -> str:
    text = f"letter {time.time_ns()}"
    begun = time.perf_counter()
    client.post("/letters", params={"text": text}).raise_for_status()
    answered = time.perf_counter() - begun
    expect(text not in client.get("/letters").json(), "an answer before the task's end")
    deadline = time.monotonic() + LIMIT_SECONDS
    while text not in client.get("/letters").json():
        if time.monotonic() > deadline:
            raise Mismatch("expected the task to end")
        time.sleep(0.02)
    posted = time.perf_counter() - begun
    return f"202 after {answered * 1000:.0f} ms, the task ended after {posted * 1000:.0f} ms"


def status(client: httpx.Client) -> dict:
    return client.get("/api/status").raise_for_status().json()


CHECKS: list[tuple[str, Callable[[httpx.Client], str]]] = [
    ("GET  /", new_pages),
    ("GET  /api/hello?name=check", new_endpoint),
    ("GET  /legacy/", legacy_pages),
    ("GET  /legacy/ twice", session_counts),
    ("GET  /legacy/home", redirect_stays),
    ("GET  /legacy/nothing-here", not_found),
    ("POST /legacy/upload", upload),
    ("GET  /legacy/export.csv", csv_streams),
    ("GET  /legacy/events", events_come_singly),
    ("GET  /legacy/events, two at once", streams_leave_room),
    ("WS   /chat/starlette/talk", functools.partial(chat, "/chat/starlette/", "Starlette")),
    ("WS   /chat/flask/talk", functools.partial(chat, "/chat/flask/", "Flask-Sock")),
    ("GET  /api/status", threads_come_back),
]

MODERN_CHECKS: list[tuple[str, Callable[[httpx.Client], str]]] = [
    ("GET  /", modern_page),
    ("GET  /where twice", modern_threads),
    ("POST /upload, chunked", modern_upload),
    ("GET  /numbers.csv", modern_stream),
    ("GET  /events", modern_events),
    ("POST /letters", background_task),
    ("WS   /chat/talk", functools.partial(chat, "/chat/", "Starlette")),
]


def report(passed: bool, what: str, outcome: str) -> bool:
    print(f"{'ok    ' if passed else 'FAILED'} {what:<34} {outcome}", flush=True)
    return passed


def run_check(client: httpx.Client, what: str, check: Callable[[httpx.Client], str]) -> bool:
    try:
        return report(True, what, check(client))
    except (
        Mismatch,
        httpx.HTTPError,
        WebSocketException,
        OSError,
        LookupError,
        ValueError,
    ) as error:
        return report(False, what, f"{type(error).__name__}: {error}")


def stop_while_streaming(client: httpx.Client, server: subprocess.Popen[str]) -> bool:
    """Stop the server while a client listens; the stream must end as a complete response does."""
    with client.stream("GET", "/legacy/events") as response:
        events = events_of(response)
        next(events)
        stopped = stop(server)
        try:
            last = f"the open stream ended cleanly after {len(list(events))} more events"
            return report(True, "GET  /legacy/events", last) and stopped
        except httpx.HTTPError as error:
            return report(False, "GET  /legacy/events", repr(error))


def stop(server: subprocess.Popen[str]) -> bool:
    """Ask the server to stop as a supervisor would, and see that it does."""
    server.send_signal(signal.SIGTERM)
    try:
        code = server.wait(LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
        return report(False, "SIGTERM", f"still running after {LIMIT_SECONDS:.0f} s")
    return report(code == 0, "SIGTERM", f"stopped with exit code {code}")


def address(server: subprocess.Popen[str]) -> str | None:
    """Read the next address that the demo prints."""
    found = re.search(r"http://\S+/", server.stdout.readline()) if server.stdout else None
    return found[0] if found else None


def drive(server: subprocess.Popen[str]) -> list[bool]:
    """Run every check against the addresses that the demo prints; none where it prints none."""
    modern, site = address(server), address(server)
    if modern is None or site is None:
        return [report(False, "start", "the servers gave no address")]
    print(f"Flask in Starlette, by the server of bridges, on {site}")
    with (
        httpx.Client(base_url=site, timeout=LIMIT_SECONDS) as client,
        httpx.Client(base_url=modern, timeout=LIMIT_SECONDS) as modern_client,
    ):
        passed = [run_check(client, *check) for check in CHECKS]
        print(f"FastAPI, by gunicorn -k gthread, on {modern}")
        passed += [run_check(modern_client, *check) for check in MODERN_CHECKS]
        with modern_client.stream("GET", "/events") as response:
            events = events_of(response)
            next(events)
            passed.append(stop_while_streaming(client, server))
            passed.append(run_check(modern_client, "GET  /events", lambda _: ended(events)))
        return [*passed, modern_end(server)]


def ended(events: Iterator[tuple[str, object]]) -> str:
    return f"gunicorn's open stream ended cleanly after {len(list(events))} more events"


def modern_end(server: subprocess.Popen[str]) -> bool:
    """See that gunicorn has stopped, and that the lifespan has ended."""
    said = server.stdout.read().strip() if server.stdout else ""
    wanted = "gunicorn stopped with exit code 0: lifespan ended"
    return report(said == wanted, "gunicorn's end", said)


def main() -> int:
    """Run every check; tell whether all of them passed."""
    command = [sys.executable, "-m", "examples.demo", "--port", "0", "--gunicorn-port", "0"]
    with tempfile.TemporaryFile("w+") as log:
        passed: list[bool] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as server:
            try:
                passed += drive(server)
            finally:
                if server.poll() is None:
                    passed.append(stop(server))
        log.seek(0)
        complaints = log.read()
    if complaints:
        passed.append(report(False, "server's log", f"should be empty:\n{complaints}"))
    print(f"{passed.count(True)} of {len(passed)} as they should be")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
