"""A legacy Flask application and a new Starlette application in one process, and FastAPI under gunicorn.

What it shows: the Flask application of `legacy.py`, written as for any WSGI server, is mounted
under ``/legacy`` in the Starlette application of `site.py`; the server of bridges serves both.
The other way, in a process of its own, the FastAPI application of `modern.py`, written as for any
ASGI server, is served by gunicorn's threads.

    python -m examples.demo          serve it on http://127.0.0.1:8000/ and http://127.0.0.1:8001/
    python -m examples.demo.check    start it on free ports, drive it, stop it
"""
