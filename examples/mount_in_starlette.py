"""Mount a Flask application in a Starlette application. Needs flask, starlette, uvicorn and httpx.

What it shows: both answer in one process; what Flask's `url_for` makes has the mount's prefix.

Command (asks itself and ends):   python examples/mount_in_starlette.py
Command (serves until Ctrl-C):    uvicorn --app-dir examples mount_in_starlette:app

Expected output:

    GET /            200  new
    GET /old/        200  old, mounted at /old
    GET /old/start   302  to /old/
    GET /old/none    404
"""

import httpx
from flask import Flask, redirect, request, url_for
from local_server import serving
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from bridges import WSGIToASGI

old = Flask(__name__)


@old.get("/")
def index():
    return f"old, mounted at {request.script_root}"


@old.get("/start")
def start():
    return redirect(url_for("index"))


async def new(request):
    return PlainTextResponse("new")


app = Starlette(routes=[Route("/", new), Mount("/old", WSGIToASGI(old))])


if __name__ == "__main__":
    with serving(app) as url:
        print("GET /            200 ", httpx.get(f"{url}/").raise_for_status().text)
        print("GET /old/        200 ", httpx.get(f"{url}/old/").raise_for_status().text)
        moved = httpx.get(f"{url}/old/start")
        print(f"GET /old/start   {moved.status_code}  to {moved.headers['location']}")
        print(f"GET /old/none    {httpx.get(f'{url}/old/none').status_code}")
