"""Go on after the response. Needs starlette and httpx.

What it shows: a response is complete at its last byte; its background task goes on, on the event
loop, while the server's thread is free again. The process's end waits for it, within a limit.

Command: python examples/asgi_background_task.py

Expected output:

    client: 202 accepted
    client: the task has not ended
    task: the letter is sent
"""

import asyncio
import threading

import httpx
from local_wsgi_server import serving_wsgi
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bridges import ASGIToWSGI

may_end = threading.Event()
ended = threading.Event()


async def send_letter():
    while not may_end.is_set():  # noqa: ASYNC110  # the client is in another thread
        await asyncio.sleep(0.01)
    print("task: the letter is sent")
    ended.set()


async def accept(request):
    return PlainTextResponse("accepted", 202, background=BackgroundTask(send_letter))


application = ASGIToWSGI(Starlette(routes=[Route("/", accept, methods=["POST"])]))


if __name__ == "__main__":
    with serving_wsgi(application) as url:
        response = httpx.post(url)
        print("client:", response.status_code, response.text)
        print("client: the task has", "ended" if ended.is_set() else "not ended")
        may_end.set()
    application.close()  # waits for the task: half of shutdown_seconds at most
