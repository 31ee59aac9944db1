"""Put a FastAPI application inside a Flask application. Needs fastapi, flask and httpx.

What it shows: werkzeug's `DispatcherMiddleware` gives the paths under /api to FastAPI; the server
stays a WSGI server, and what FastAPI says of its address has the prefix.

Command (asks itself and ends):   python examples/fastapi_in_flask.py
Command (serves until Ctrl-C):    gunicorn --chdir examples fastapi_in_flask:application

Expected output:

    GET /               200  Flask
    GET /api/items/7    200  {"item":7,"by":"FastAPI"}
    GET /api/items/x    422  FastAPI validates
    GET /none           404  Flask's answer
    schema's server     /api
"""

import httpx
from fastapi import FastAPI
from flask import Flask
from local_wsgi_server import serving_wsgi
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from bridges import ASGIToWSGI

flask_app = Flask(__name__)
api = FastAPI()


@flask_app.get("/")
def index():
    return "Flask"


@flask_app.errorhandler(404)
def missing(error):
    return "Flask's answer", 404


@api.get("/items/{item}")
async def read_item(item: int):
    return {"item": item, "by": "FastAPI"}


application = DispatcherMiddleware(flask_app, {"/api": ASGIToWSGI(api)})


if __name__ == "__main__":
    with serving_wsgi(application) as url:
        for path in ("/", "/api/items/7", "/api/items/x", "/none"):
            response = httpx.get(url + path)
            text = "FastAPI validates" if response.status_code == 422 else response.text
            print(f"GET {path:<15} {response.status_code}  {text}")
        schema = httpx.get(f"{url}/api/openapi.json").json()
        print(f"schema's server     {schema['servers'][0]['url']}")
