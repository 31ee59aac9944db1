"""A legacy Flask application and a new Starlette application in one process.

What it shows: the Flask application of `legacy.py`, written as for any WSGI server, is mounted
under ``/legacy`` in the Starlette application of `site.py`; uvicorn serves both.

    python -m examples.demo          serve it on http://127.0.0.1:8000/
    python -m examples.demo.check    start it on a free port, drive it, stop it
"""
