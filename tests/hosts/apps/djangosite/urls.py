"""The views and their paths."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from django.contrib import admin, messages
from django.db import connection, transaction
from django.db.backends.signals import connection_created
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path, reverse
from django.views.decorators.csrf import csrf_exempt

from .models import Note

opened: Counter[int] = Counter()
counting = threading.Lock()


def count_connection(**kwargs: Any) -> None:
    with counting:
        opened[threading.get_ident()] += 1


connection_created.connect(count_connection)


def home(request: HttpRequest) -> HttpResponse:
    return HttpResponse("home")


def hello(request: HttpRequest, name: str) -> JsonResponse:
    return JsonResponse({"name": name, "self": reverse("hello", args=[name])})


@csrf_exempt
def add(request: HttpRequest) -> HttpResponse:
    note = Note.objects.create(text=request.POST["text"])
    messages.success(request, f"added {note.text}")
    return HttpResponseRedirect(reverse("notes"))


def notes(request: HttpRequest) -> JsonResponse:
    told = [str(message) for message in messages.get_messages(request)]
    return JsonResponse(
        {"notes": [note.text for note in Note.objects.order_by("id")], "told": told}
    )


@csrf_exempt
def undone(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Note.objects.create(text="never kept")
        raise RuntimeError("meant: the transaction is rolled back")


def query(request: HttpRequest) -> JsonResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()
    return JsonResponse({"thread": threading.get_ident()})


def connections(request: HttpRequest) -> JsonResponse:
    with counting:
        return JsonResponse({"threads": len(opened), "opened": sum(opened.values())})


@csrf_exempt
def upload(request: HttpRequest) -> JsonResponse:
    file = request.FILES["file"]
    sha = hashlib.sha256()
    for chunk in file.chunks():
        sha.update(chunk)
    kind = type(file).__name__
    return JsonResponse(
        {"name": file.name, "size": file.size, "sha256": sha.hexdigest(), "kind": kind}
    )


def file(request: HttpRequest) -> FileResponse:
    # Closed by the response, at the end of the request.
    return FileResponse(open(__file__, "rb"), filename="urls.py")


def rows(request: HttpRequest) -> StreamingHttpResponse:
    def lines() -> Iterator[str]:
        # A query in mid stream: it uses the connection of the thread that iterates.
        for number in range(500):
            yield f"{number},{Note.objects.count() >= 0}\n"

    return StreamingHttpResponse(lines(), content_type="text/csv")


def crash(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("meant: Django makes its own error page")


urlpatterns = [
    path("", home),
    path("hello/<str:name>/", hello, name="hello"),
    path("add/", add),
    path("notes/", notes, name="notes"),
    path("undone/", undone),
    path("query/", query),
    path("connections/", connections),
    path("upload/", upload),
    path("file/", file),
    path("rows/", rows),
    path("crash/", crash),
    path("admin/", admin.site.urls),
]
