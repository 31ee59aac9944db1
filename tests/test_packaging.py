"""What is shipped: metadata, the wheel's contents, and what an import costs."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import bridges

ROOT = Path(__file__).resolve().parent.parent

# Set by tests/tools/run.py: the wheel it built and installed.
WHEEL = os.environ.get("BRIDGES_WHEEL")
needs_wheel = pytest.mark.skipif(WHEEL is None, reason="no wheel was built: make test builds one")


def modules_loaded_by(statement: str) -> set[str]:
    """Names of the modules a fresh interpreter has loaded after a statement, beyond those it starts with."""
    program = (
        "import sys, json; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "tests",
    )
    return set(json.loads(asked.stdout))


@needs_wheel
def test_the_tests_run_against_the_installed_wheel():
    """The package under test is the one in site-packages, not the source tree beside the tests."""
    installed = Path(sysconfig.get_path("purelib"), "bridges")

    assert Path(bridges.__file__).parent == installed


@needs_wheel
def test_a_child_process_of_a_test_imports_the_wheel_too():
    """A server started by a test from tests/ does not find the source tree."""
    asked = subprocess.run(
        [sys.executable, "-c", "import bridges; print(bridges.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "tests",
    )

    assert Path(asked.stdout.strip()) == Path(bridges.__file__)


@needs_wheel
@pytest.mark.spec("PEP 561", "Packaging Type Information")
def test_the_wheel_says_that_it_is_typed():
    """A type checker reads the annotations only when py.typed is in the wheel."""
    assert "bridges/py.typed" in zipfile.ZipFile(WHEEL).namelist()


@needs_wheel
def test_the_wheel_holds_the_package_and_nothing_else():
    """Every file of the source package is in the wheel, and no test, example or benchmark."""
    version = re.escape(bridges.__version__)
    inside = {
        name
        for name in zipfile.ZipFile(WHEEL).namelist()
        if not re.match(rf"wsgi_asgi_bridges-{version}\.dist-info/", name)
    }
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "bridges").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert inside == sources


def test_setup_cfg_holds_only_what_cannot_stand_in_pyproject():
    """flake8 and its local plugin, and no metadata or settings of tools that read TOML."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")

    assert set(parser.sections()) == {"flake8", "flake8:local-plugins"}


def test_the_changelog_starts_with_the_version_shipped():
    """The newest dated entry is about this version; only an Unreleased entry may stand above it."""
    headings = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]

    assert released[0] == bridges.__version__


def test_the_metadata_names_the_version_of_the_package():
    """The distribution's version comes from the package."""
    assert importlib.metadata.version("wsgi-asgi-bridges") == bridges.__version__


@pytest.mark.spec("FR 125")
def test_nothing_but_anyio_and_asgiref_is_required():
    """Without an extra, two packages are installed beside bridges."""
    required = importlib.metadata.requires("wsgi-asgi-bridges") or []
    always = {re.split(r"[^\w-]", line)[0] for line in required if "extra ==" not in line}

    assert always == {"anyio", "asgiref"}


def test_the_metadata_says_licence_extras_and_pythons():
    """The three facts an installer and a lawyer look up."""
    metadata = importlib.metadata.metadata("wsgi-asgi-bridges")

    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert set(metadata.get_all("Provides-Extra", [])) == {
        "server",
        "websocket",
        "gunicorn",
        "reload",
    }
    assert metadata["Requires-Python"] == ">=3.10"


# Packages that an import may load: ours, the two dependencies, and what those two require in turn.
IMPORT_MAY_LOAD = {
    "bridges",
    "anyio",
    "asgiref",
    "exceptiongroup",
    "idna",
    "sniffio",
    "typing_extensions",
}
# Modules of the standard library that mean a server, a log configuration or child processes.
IMPORT_MUST_NOT_LOAD = {
    "http.server",
    "logging.config",
    "logging.handlers",
    "multiprocessing",
    "socketserver",
    "sqlite3",
    "wsgiref.simple_server",
    "xmlrpc",
}


@pytest.mark.slow
@pytest.mark.spec("performance.md", "P12")
def test_importing_the_package_loads_no_server_and_no_back_end():
    """`import bridges` is cheap because of what it leaves out."""
    loaded = modules_loaded_by("import bridges")
    third_party = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    # Left by an editable install and by the interpreter's own start.
    third_party = {name for name in third_party if not name.startswith("__editable__")}

    assert third_party <= IMPORT_MAY_LOAD
    assert "asyncio" not in loaded
    assert loaded & IMPORT_MUST_NOT_LOAD == set()
    assert {name for name in loaded if name.startswith("anyio._backends.")} == set()
    assert {name for name in loaded if re.match(r"bridges\.(server|gunicorn|cli)\b", name)} == set()


@pytest.mark.slow
@pytest.mark.spec("style.md", "section 11")
def test_importing_the_package_configures_no_logging():
    """A library adds no handler, sets no level and starts no thread on import."""
    program = (
        "import logging, threading, bridges\n"
        "names = [name for name in logging.root.manager.loggerDict if name.startswith('bridges')]\n"
        "loggers = [logging.root, *map(logging.getLogger, names)]\n"
        "assert [h for logger in loggers for h in logger.handlers] == [], 'handler'\n"
        "assert {logger.level for logger in loggers[1:]} <= {logging.NOTSET}, 'level'\n"
        "assert logging.root.level == logging.WARNING, 'root level'\n"
        "assert threading.active_count() == 1, 'thread'\n"
    )
    asked = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT / "tests",
    )

    assert (asked.returncode, asked.stderr) == (0, "")
