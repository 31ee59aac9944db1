"""Make the database with its tables; run as a module, once per test run."""

import os

import django
from django.core.management import call_command

os.environ["DJANGO_SETTINGS_MODULE"] = "djangosite.settings"
django.setup()
call_command("migrate", run_syncdb=True, verbosity=0)
