"""An application of each kind, made with a framework."""

from __future__ import annotations

from fastapi import FastAPI
from flask import Flask

flask = Flask(__name__)


@flask.get("/")
def flask_home() -> str:
    return "flask"


fastapi = FastAPI()


@fastapi.get("/")
async def fastapi_home() -> str:
    return "fastapi"
