"""Serve a Django project from an ASGI server, through its WSGI side. Needs django, uvicorn, httpx.

What it shows: `get_wsgi_application()` unchanged: a view, a form with its CSRF check, a stream.
Each request stays in one thread from view to `close()`, so Django's connections are kept in order.

Command (asks itself and ends):   python examples/django_single_file.py
Command (serves until Ctrl-C):    uvicorn --app-dir examples django_single_file:app

Expected output:

    GET  /         200  Django, scheme http
    POST /         403  CSRF check
    GET  /stream   200  0,1,2,3,4,
    GET  /none     404
"""

import httpx
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from local_server import serving

from bridges import WSGIToASGI

settings.configure(
    SECRET_KEY="only for this example",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
    LOGGING_CONFIG=None,
)


def index(request):
    return HttpResponse(f"Django, scheme {request.scheme}")


def stream(request):
    return StreamingHttpResponse(f"{number}," for number in range(5))


urlpatterns = [path("", index), path("stream", stream)]
app = WSGIToASGI(get_wsgi_application())


if __name__ == "__main__":
    with serving(app) as url:
        print("GET  /         200 ", httpx.get(f"{url}/").raise_for_status().text)
        print(f"POST /         {httpx.post(f'{url}/', data={'a': 1}).status_code}  CSRF check")
        print("GET  /stream   200 ", httpx.get(f"{url}/stream").raise_for_status().text)
        print(f"GET  /none     {httpx.get(f'{url}/none').status_code}")
