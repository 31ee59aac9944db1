"""A small Falcon application."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import falcon
import falcon.asgi
from adapter import adapt
from journal import note, released

Request, Response = falcon.asgi.Request, falcon.asgi.Response


class Lifespan:
    pool = ""

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        Lifespan.pool = "opened"

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        note("lifespan", "shutdown")


class Pages:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.text = "home"

    async def on_get_hello(self, req: Request, resp: Response, name: str) -> None:
        resp.media = {"name": name, "self": req.path}

    async def on_get_go(self, req: Request, resp: Response) -> None:
        raise falcon.HTTPFound("/hello/there")

    async def on_post_form(self, req: Request, resp: Response) -> None:
        resp.media = {"text": (await req.get_media())["text"]}

    async def on_post_upload(self, req: Request, resp: Response) -> None:
        async for part in await req.get_media():
            data = await part.stream.read()
            sha = hashlib.sha256(data).hexdigest()
            resp.media = {"name": part.secure_filename, "size": len(data), "sha256": sha}

    async def on_post_json(self, req: Request, resp: Response) -> None:
        resp.media = await req.get_media()

    async def on_get_rows(self, req: Request, resp: Response) -> None:
        async def lines() -> AsyncIterator[bytes]:
            for number in range(2000):
                yield b"%d\n" % number

        resp.stream = lines()

    async def on_get_count(self, req: Request, resp: Response) -> None:
        number = int(req.cookies.get("count", "0")) + 1
        resp.set_cookie("count", str(number), secure=False)
        resp.media = {"count": number}

    async def on_get_state(self, req: Request, resp: Response) -> None:
        resp.media = Lifespan.pool

    async def on_get_events(self, req: Request, resp: Response) -> None:
        async def stream() -> AsyncIterator[falcon.asgi.SSEvent]:
            yield falcon.asgi.SSEvent(text="one")
            await released(req.params["key"])
            yield falcon.asgi.SSEvent(text="two")

        resp.sse = stream()

    async def on_get_background(self, req: Request, resp: Response) -> None:
        async def work() -> None:
            await released(req.params["key"])
            note(req.params["key"], "done")

        resp.schedule(work)
        resp.text = "accepted"

    async def on_get_refuse(self, req: Request, resp: Response) -> None:
        raise falcon.HTTPForbidden

    async def on_get_crash(self, req: Request, resp: Response) -> None:
        raise RuntimeError("meant: an error in an endpoint")


async def log_and_answer(req: Request, resp: Response, error: Exception, params: Any) -> None:
    # Falcon has its own page for errors, and no word in the log; this one lets the server speak.
    raise error


falcon_app = falcon.asgi.App(middleware=[Lifespan()])
falcon_app.add_error_handler(RuntimeError, log_and_answer)
pages = Pages()
falcon_app.add_route("/", pages)
falcon_app.add_route("/hello/{name}", pages, suffix="hello")
for page in ("go", "form", "upload", "json", "rows", "count", "state"):
    falcon_app.add_route(f"/{page}", pages, suffix=page)
for page in ("events", "background", "refuse", "crash"):
    falcon_app.add_route(f"/{page}", pages, suffix=page)
app = adapt(falcon_app)
