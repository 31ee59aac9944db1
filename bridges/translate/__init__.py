"""Translation between WSGI and ASGI as pure code.

The law of this folder: functions and small value types only. No I/O, no threads, no event loop, no clock, no
logging; what goes in comes out translated or as an error that names the guilty side.
"""
