"""Test a WSGI application through the bridge, with no server. Needs flask and httpx.

What it shows: httpx's `ASGITransport` calls the adapter in this process, so a test sees what a
client of the ASGI server would see: status, headers, cookies, body.

Command: python examples/test_an_app.py    (or: pytest examples/test_an_app.py)

Expected output:

    test_greets passed
    test_counts_the_body_it_is_sent passed
    test_unknown_page passed
"""

import asyncio

import httpx
from flask import Flask, request

from bridges import WSGIToASGI

flask_app = Flask(__name__)


@flask_app.get("/hello/<name>")
def hello(name):
    return {"hello": name}


@flask_app.post("/count")
def count():
    return {"bytes": len(request.get_data())}


def ask(method, path, **more):
    async def call():
        transport = httpx.ASGITransport(WSGIToASGI(flask_app))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **more)

    return asyncio.run(call())


def test_greets():
    assert ask("GET", "/hello/Ada").json() == {"hello": "Ada"}


def test_counts_the_body_it_is_sent():
    assert ask("POST", "/count", content=b"x" * 100_000).json() == {"bytes": 100_000}


def test_unknown_page():
    assert ask("GET", "/nothing").status_code == 404


if __name__ == "__main__":
    for test in (test_greets, test_counts_the_body_it_is_sent, test_unknown_page):
        test()
        print(test.__name__, "passed")
