"""A small Falcon application."""

from __future__ import annotations

import hashlib
from typing import Any

import falcon

from bridges import WSGIToASGI


class Home:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.text = "home"


class Hello:
    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        resp.media = {"name": name, "self": req.relative_uri}


class Go:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        raise falcon.HTTPSeeOther("/hello/there")


class Form:
    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.media = {"text": req.get_media()["text"]}


class Upload:
    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        for part in req.get_media():
            content = part.stream.read()
            sha = hashlib.sha256(content).hexdigest()
            resp.media = {"name": part.filename, "size": len(content), "sha256": sha}


class Json:
    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.media = req.get_media()


class Rows:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.content_type = "text/plain"
        resp.stream = (b"%d\n" % number for number in range(2000))


class Count:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        seen = int(req.cookies.get("count", 0)) + 1
        resp.set_cookie("count", str(seen), secure=False)
        resp.media = {"count": seen}


class Crash:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        raise RuntimeError("meant: Falcon makes its own error answer")


class Refuse:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        raise falcon.HTTPForbidden()


ROUTES: dict[str, Any] = {
    "/": Home(),
    "/hello/{name}": Hello(),
    "/go": Go(),
    "/form": Form(),
    "/upload": Upload(),
    "/json": Json(),
    "/rows": Rows(),
    "/count": Count(),
    "/crash": Crash(),
    "/refuse": Refuse(),
}

legacy = falcon.App()
for path, resource in ROUTES.items():
    legacy.add_route(path, resource)

app = WSGIToASGI(legacy)
