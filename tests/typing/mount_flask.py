"""Read by type checkers only: a Flask app mounted in Starlette and in FastAPI needs no cast [FR 125]."""

from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.routing import Mount

from bridges import WSGIToASGI

flask_app = Flask(__name__)

starlette_app = Starlette(routes=[Mount("/routed", app=WSGIToASGI(flask_app))])
starlette_app.mount("/", WSGIToASGI(flask_app))

fastapi_app = FastAPI()
fastapi_app.mount("/old", WSGIToASGI(flask_app, max_threads=8, max_body_bytes=None))
