"""The legacy application: plain synchronous Flask that knows nothing of event loops.

Two lines know of the bridge, both optional: `note_thread` tells the new application's request
log which thread runs the request, and `events` asks whether its client is still there.
"""

import hashlib
import itertools
import json
import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from datetime import date, timedelta

from flask import (
    Flask,
    Response,
    redirect,
    render_template,
    request,
    session,
    stream_with_context,
    url_for,
)
from werkzeug.wrappers import Response as WerkzeugResponse

app = Flask(__name__)
app.secret_key = secrets.token_bytes(32)

TICK_SECONDS = 1.0
CUSTOMERS = ("Aalto & Co", "Brückner GmbH", "Čapek s.r.o.", "Dupont Frères", "Eriksen ApS")

listeners: set["queue.SimpleQueue[str]"] = set()
listeners_lock = threading.Lock()
# Set when the server is asked to stop: streams without an end of their own end then.
stopping = threading.Event()


@app.before_request
def note_thread() -> None:
    entry = request.environ["asgi.scope"]["demo.entry"]
    entry.thread = threading.current_thread().name


@app.context_processor
def thread_name() -> dict[str, str]:
    return {"thread": threading.current_thread().name}


@app.get("/")
def index() -> str:
    session["visits"] = session.get("visits", 0) + 1
    return render_template("index.html", visits=session["visits"])


@app.get("/home")
def home() -> WerkzeugResponse:
    return redirect(url_for("index"))


@app.route("/upload", methods=["GET", "POST"])
def upload() -> str:
    file = request.files.get("file")
    if file is None:
        return render_template("upload.html", result=None)
    digest, size = hashlib.sha256(), 0
    while block := file.stream.read(65_536):
        digest.update(block)
        size += len(block)
    result = {"name": file.filename, "size": size, "sha256": digest.hexdigest()}
    return render_template("upload.html", result=result)


@app.get("/export.csv")
def export() -> Response:
    rows = min(request.args.get("rows", default=200_000, type=int), 1_000_000)
    headers = {"Content-Disposition": 'attachment; filename="orders.csv"'}
    return Response(stream_with_context(order_lines(rows)), mimetype="text/csv", headers=headers)


def order_lines(rows: int) -> Iterator[str]:
    yield "order,date,customer,amount\n"
    first = date(2012, 1, 1)
    for order, customer in zip(range(1, rows + 1), itertools.cycle(CUSTOMERS), strict=False):
        day = first + timedelta(days=order // 40)
        yield f"{order},{day},{customer},{order * 7919 % 100_000 / 100:.2f}\n"


@app.get("/live")
def live() -> str:
    return render_template("live.html")


@app.get("/events")
def events() -> Response:
    gone = request.environ["bridges.client_disconnected"]
    return Response(event_stream(gone), mimetype="text/event-stream")


def event_stream(gone: Callable[[], bool]) -> Iterator[str]:
    """Tell the thread's name, then each announcement, and a tick while there is none."""
    inbox: queue.SimpleQueue[str] = queue.SimpleQueue()
    with listeners_lock:
        listeners.add(inbox)
    try:
        yield event("thread", threading.current_thread().name)
        ticks = itertools.count(1)
        while not (gone() or stopping.is_set()):
            try:
                yield event("announcement", inbox.get(timeout=TICK_SECONDS))
            except queue.Empty:
                yield event("tick", next(ticks))
    finally:
        with listeners_lock:
            listeners.discard(inbox)


def event(name: str, data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


@app.post("/announce")
def announce() -> dict[str, int]:
    text = request.form["text"][:200]
    with listeners_lock:
        inboxes = list(listeners)
    for inbox in inboxes:
        inbox.put(text)
    return {"listeners": len(inboxes)}


@app.errorhandler(404)
def missing(error: Exception) -> tuple[str, int]:
    return render_template("missing.html"), 404
