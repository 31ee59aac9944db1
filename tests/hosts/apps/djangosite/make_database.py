"""Make the database with its tables and one administrator; run as a module, once per test run."""

import os

import django
from django.core.management import call_command

os.environ["DJANGO_SETTINGS_MODULE"] = "djangosite.settings"
django.setup()
call_command("migrate", run_syncdb=True, verbosity=0)

from django.contrib.auth.models import User  # noqa: E402  # needs the tables

User.objects.create_superuser("root", "root@example.org", "secret")
