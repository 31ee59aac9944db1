"""Read by type checkers only: Django's WSGI handler is an app like any other [FR 125]."""

from django.core.wsgi import get_wsgi_application

from bridges import ThreadPool, WSGIToASGI

pool = ThreadPool(16, max_queue=64, queue_seconds=2.5)
application = WSGIToASGI(get_wsgi_application(), pool=pool)
