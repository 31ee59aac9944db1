"""A FastAPI sub-application in another, the inner one holding the Flask application."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from flask_app import bridge

app = FastAPI()
outer = FastAPI()
outer.mount("/legacy", bridge)
app.mount("/outer", outer)


@app.get("/", response_class=PlainTextResponse)
async def home() -> str:
    return "new"
