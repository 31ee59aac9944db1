"""The views and their paths."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, transaction
from django.db.backends.signals import connection_created
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path, reverse
from journal import released

from .asgi import wsgi_thread
from .models import Note

opened: Counter[int] = Counter()
counting = threading.Lock()


def count_connection(**kwargs: Any) -> None:
    with counting:
        opened[threading.get_ident()] += 1


connection_created.connect(count_connection)


async def home(request: HttpRequest) -> HttpResponse:
    return HttpResponse("home")


async def hello(request: HttpRequest, name: str) -> JsonResponse:
    return JsonResponse({"name": name, "self": reverse("hello", args=[name])})


async def add(request: HttpRequest) -> JsonResponse:
    note = await Note.objects.acreate(text=request.POST["text"])
    return JsonResponse({"id": note.pk})


async def notes(request: HttpRequest) -> JsonResponse:
    return JsonResponse([note.text async for note in Note.objects.order_by("id")], safe=False)


def sync_notes(request: HttpRequest) -> JsonResponse:
    return JsonResponse([note.text for note in Note.objects.order_by("id")], safe=False)


def undone(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Note.objects.create(text="never kept")
        raise RuntimeError("meant: the transaction is rolled back")


def _query() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()
    return threading.get_ident()


async def query(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"thread": await sync_to_async(_query)(), "wsgi": wsgi_thread.get()})


def sync_query(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"thread": _query(), "wsgi": wsgi_thread.get()})


async def connections(request: HttpRequest) -> JsonResponse:
    with counting:
        return JsonResponse({"threads": len(opened), "opened": sum(opened.values())})


def back(request: HttpRequest) -> JsonResponse:
    async def ask() -> int:
        return await Note.objects.acount()

    return JsonResponse({"counted": async_to_sync(ask)() >= 0})


async def upload(request: HttpRequest) -> JsonResponse:
    file = request.FILES["file"]
    sha = hashlib.sha256()
    for chunk in file.chunks():
        sha.update(chunk)
    kind = type(file).__name__
    return JsonResponse(
        {"name": file.name, "size": file.size, "sha256": sha.hexdigest(), "kind": kind}
    )


async def rows(request: HttpRequest) -> StreamingHttpResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(200):
            yield f"{number},{await Note.objects.acount() >= 0}\n"

    return StreamingHttpResponse(lines(), content_type="text/csv")


async def events(request: HttpRequest) -> StreamingHttpResponse:
    async def stream() -> AsyncIterator[str]:
        yield "data: one\n\n"
        await released(request.GET["key"])
        yield "data: two\n\n"

    return StreamingHttpResponse(stream(), content_type="text/event-stream")


async def crash(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("meant: Django makes its own error page")


urlpatterns = [
    path("", home),
    path("hello/<str:name>/", hello, name="hello"),
    path("add/", add),
    path("notes/", notes),
    path("sync-notes/", sync_notes),
    path("undone/", undone),
    path("query/", query),
    path("sync-query/", sync_query),
    path("connections/", connections),
    path("back/", back),
    path("upload/", upload),
    path("rows/", rows),
    path("events/", events),
    path("crash/", crash),
]
