"""Settings of a site on SQLite that keeps its connections, one for each thread of the server."""

import os
from pathlib import Path

STATE = Path(os.environ["HOSTS_STATE"])
SECRET_KEY = "tests only"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "x"]
ROOT_URLCONF = "djangosite.urls"
INSTALLED_APPS = ["djangosite"]
MIDDLEWARE = [
    "django.middleware.common.CommonMiddleware",
    "djangosite.middleware.async_stamp",
    "djangosite.middleware.SyncStamp",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": STATE / "db.sqlite3",
        "CONN_MAX_AGE": None,
        "OPTIONS": {"timeout": 15},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = True
