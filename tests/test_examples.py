"""The examples print what their docstrings promise."""

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
HELPERS = {"local_server.py", "local_wsgi_server.py"}
# With what the fast part installs and the standard library's server; the others start a server or need a framework of
# the host tests.
WITHOUT_SERVER = {
    "asgi_background_task.py",
    "hello_asgi_in_wsgi.py",
    "lifespan_state.py",
    "shared_pool.py",
    "test_an_app.py",
}
LONGEST = 60

names = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in HELPERS)


def docstring(name):
    return ast.get_docstring(ast.parse((EXAMPLES / name).read_text("utf-8"))) or ""


def expected_output(name):
    """Give the indented block below the line 'Expected output:' of the docstring."""
    _, _, block = docstring(name).partition("Expected output:\n")
    return textwrap.dedent(block).strip()


runs = [
    pytest.param(name, marks=() if name in WITHOUT_SERVER else pytest.mark.hosts) for name in names
]


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", runs)
def test_prints_what_it_promises(name):
    """An example ends by itself, without a warning, and prints exactly the output it documents."""
    done = subprocess.run(
        [sys.executable, "-W", "error", name],
        cwd=EXAMPLES,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=50,
        check=False,
    )

    assert done.stdout.strip() == expected_output(name), done.stderr
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", names)
def test_header_is_complete_and_file_short(name):
    """Each example says what it shows, how to run it and what comes out, in at most 60 lines."""
    text = docstring(name)

    assert "What it shows:" in text
    assert re.search(rf"^Command.*: +python examples/{re.escape(name)}\b", text, re.MULTILINE)
    assert expected_output(name)
    assert len((EXAMPLES / name).read_text("utf-8").splitlines()) <= LONGEST


@pytest.mark.hosts
@pytest.mark.timeout(120)
def test_demo_check_passes():
    """The demo answers every request of its own check, and the check stops the server it started."""
    # From the repository's root, as `make demo-check` does: there it is the work tree that runs.
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo.check"],
        cwd=EXAMPLES.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("FAILED")] == []
    assert len([line for line in lines if line.startswith("ok ")]) == 24
