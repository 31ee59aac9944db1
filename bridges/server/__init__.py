"""The reference server: either kind of application, over HTTP/1.1 and websockets, on asyncio or uvloop."""
