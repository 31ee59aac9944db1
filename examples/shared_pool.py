"""Let two applications share one bounded pool of threads. Needs httpx.

What it shows: a request that finds every thread busy waits; with the queue full it gets a 503.

Command: python examples/shared_pool.py

Expected output:

    first runs, second waits
    third: 503, retry-after: 1
    200 first done
    200 second done
"""

import asyncio
import threading

import httpx

from bridges import ThreadPool, WSGIToASGI

may_finish = threading.Event()
pool = ThreadPool(max_threads=1, max_queue=1)


def slow_application(name):
    def application(environ, start_response):
        may_finish.wait(10)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{name} done".encode()]

    return WSGIToASGI(application, pool=pool)


async def until(reached):
    while not reached(pool.snapshot()):  # noqa: ASYNC110  # a pool has figures, but no events
        await asyncio.sleep(0.01)


async def ask(application):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application)) as client:
        return await client.get("http://test/")


async def main():
    one, two = slow_application("first"), slow_application("second")
    first = asyncio.create_task(ask(one))
    await until(lambda figures: figures.busy == 1)
    second = asyncio.create_task(ask(two))
    await until(lambda figures: figures.queued == 1)
    print("first runs, second waits")
    third = await ask(one)
    print(f"third: {third.status_code}, retry-after: {third.headers['retry-after']}")
    may_finish.set()
    for answer in await asyncio.gather(first, second):
        print(answer.status_code, answer.text)


if __name__ == "__main__":
    asyncio.run(main())
