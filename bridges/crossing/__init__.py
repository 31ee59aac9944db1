"""The only place where threads and event loops meet.

``gates`` wakes a loop from threads, ``pipes`` carries bytes and messages one way each, ``pool`` owns the threads.
Nothing here knows WSGI or ASGI.
"""
