"""A small Litestar application."""

# The annotations of handlers are read at run time, so they are not left as strings here.

import hashlib
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from adapter import adapt
from journal import note, released
from litestar import Litestar, MediaType, Request, get, post
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import State, UploadFile
from litestar.enums import RequestEncodingType
from litestar.exceptions import PermissionDeniedException
from litestar.params import Body
from litestar.response import Redirect, Response, ServerSentEvent, Stream


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    app.state.pool = "opened"
    yield
    note("lifespan", "shutdown")


async def tell(error: Exception, scope: Any) -> None:
    # Litestar answers errors itself, and logs them in debug mode only.
    traceback.print_exception(error)


@get("/", media_type=MediaType.TEXT)
async def home() -> str:
    return "home"


@get("/hello/{name:str}")
async def hello(name: str, request: Request[Any, Any, Any]) -> dict[str, str]:
    return {"name": name, "self": request.url.path}


@get("/go")
async def go() -> Redirect:
    return Redirect("/hello/there")


@post("/form", status_code=200)
async def form(
    data: Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)],
) -> dict[str, str]:
    return data


@post("/upload", status_code=200)
async def upload(
    data: Annotated[dict[str, UploadFile], Body(media_type=RequestEncodingType.MULTI_PART)],
) -> dict[str, Any]:
    content = await data["file"].read()
    sha = hashlib.sha256(content).hexdigest()
    return {"name": data["file"].filename, "size": len(content), "sha256": sha}


@post("/json", status_code=200)
async def json(data: dict[str, Any]) -> dict[str, Any]:
    return data


@get("/rows")
async def rows() -> Stream:
    async def lines() -> AsyncIterator[str]:
        for number in range(2000):
            yield f"{number}\n"

    return Stream(lines())


@get("/count")
async def count(request: Request[Any, Any, Any]) -> Response[dict[str, int]]:
    number = int(request.cookies.get("count", "0")) + 1
    response = Response({"count": number})
    response.set_cookie("count", str(number))
    return response


@get("/state")
async def state_(state: State) -> Response[str]:
    return Response(f'"{state.pool}"', media_type=MediaType.JSON)


@get("/events")
async def events(key: str) -> ServerSentEvent:
    async def stream() -> AsyncIterator[str]:
        yield "one"
        await released(key)
        yield "two"

    return ServerSentEvent(stream())


@get("/background")
async def background(key: str) -> Response[str]:
    async def work() -> None:
        await released(key)
        note(key, "done")

    return Response("accepted", media_type=MediaType.TEXT, background=BackgroundTask(work))


@get("/refuse")
async def refuse() -> None:
    raise PermissionDeniedException


@get("/crash")
async def crash() -> None:
    raise RuntimeError("meant: an error in an endpoint")


HANDLERS = [home, hello, go, form, upload, json, rows, count, state_, events, background]
HANDLERS += [refuse, crash]
litestar = Litestar(HANDLERS, lifespan=[lifespan], after_exception=[tell], logging_config=None)
app = adapt(litestar)
