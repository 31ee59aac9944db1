"""Mount a Flask application in a FastAPI application. Needs flask, fastapi, uvicorn and httpx.

What it shows: new paths are FastAPI's, with its validation and its schema; every path that it
does not know goes to the Flask application, which believes it is alone.

Command (asks itself and ends):   python examples/mount_in_fastapi.py
Command (serves until Ctrl-C):    uvicorn --app-dir examples mount_in_fastapi:app

Expected output:

    GET /items/7     200  {"item":7,"by":"FastAPI"}
    GET /items/x     422  FastAPI validates
    GET /basket      200  {"by":"Flask","items":3}
    GET /none        404  Flask's answer
    schema           /items/{item}
"""

import httpx
from fastapi import FastAPI
from flask import Flask
from local_server import serving

from bridges import WSGIToASGI

old = Flask(__name__)
app = FastAPI()


@old.get("/basket")
def basket():
    return {"by": "Flask", "items": 3}


@old.errorhandler(404)
def missing(error):
    return "Flask's answer", 404


@app.get("/items/{item}")
async def read_item(item: int):
    return {"item": item, "by": "FastAPI"}


app.mount("/", WSGIToASGI(old))  # last: FastAPI asks its routes in the order they were added


if __name__ == "__main__":
    with serving(app) as url:
        for path in ("/items/7", "/items/x", "/basket", "/none"):
            response = httpx.get(url + path)
            text = "FastAPI validates" if response.status_code == 422 else response.text.strip()
            print(f"GET {path:<12} {response.status_code}  {text}")
        print("schema          ", *httpx.get(f"{url}/openapi.json").json()["paths"])
