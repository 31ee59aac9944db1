"""Take the pictures of the docs: ``.venv/bin/python tests/tools/screenshots.py``, or ``make screenshots``.

Starts the demo on free ports, opens its pages in headless Chromium, and writes the PNG files below. Needs Debian's
chromium, and fonts-dejavu-core, so that text looks alike everywhere.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from hostkit.chromium import Browser, Window  # noqa: E402  # the tests' folder is no package

DEMO = ROOT / "examples" / "demo" / "screenshot.png"
CHAT = ROOT / "docs" / "tutorial"
TALK = (
    ("Ada", "Is the order desk still the old Flask application?"),
    ("Ben", "It is. It moved under /legacy last week, unchanged, and nobody noticed."),
    ("Cleo", "I did: the address is another one."),
    ("Ada", "<b>Good</b>. Next: this chat."),
)


def write(path: Path, picture: bytes) -> None:
    path.write_bytes(picture)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


def picture_demo(browser: Browser, site: str) -> None:
    window = browser.window(site, 1120, 960)
    window.until("!document.getElementById('again').disabled", 30)
    # As far as the second row of cards.
    end = "document.querySelector('.columns').getBoundingClientRect().bottom"
    window.look(1120, int(window.evaluate(end)) + 12)
    write(DEMO, window.screenshot())
    window.close()


def picture_chat(browser: Browser, url: str) -> None:
    """Have three people talk; take one window as it is by day, one by night, and one of a phone."""
    windows: dict[str, Window] = {
        "Ada": browser.window(url, 800, 520),
        "Ben": browser.window(url, 800, 520, dark=True),
        "Cleo": browser.window(url, 390, 640, phone=True),
    }
    for name, window in windows.items():
        window.type("[name=name]", name, enter=True)
        window.shows("Connected", "#state")
    for name, text in TALK:
        windows[name].type("#text", text, enter=True)
        for window in windows.values():
            window.shows(text, "#messages")
    for name, file in (("Ada", "light"), ("Ben", "dark"), ("Cleo", "phone")):
        # Numbers that are others each time would make another picture of the same thing.
        windows[name].evaluate(
            "document.querySelectorAll('.message small').forEach((line) => line.lastChild.data = ' 12:00');"
            "const where = document.querySelector('#backend');"
            "where.textContent = where.textContent.replace(/process \\d+/, 'process 4711')"
        )
        write(CHAT / f"chat-{file}.png", windows[name].screenshot())


def main() -> None:
    """Serve, look, write."""
    command = [sys.executable, "-m", "examples.demo", "--port", "0", "--gunicorn-port", "0"]
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as demo,
        tempfile.TemporaryDirectory() as folder,
    ):
        try:
            found = (re.search(r"^demo on (\S+)", line) for line in demo.stdout or ())
            site = next(filter(None, found))[1]
            with Browser(Path(folder)) as browser:
                picture_demo(browser, site)
                picture_chat(browser, f"{site}chat/flask/")
        finally:
            demo.terminate()
            demo.communicate()


if __name__ == "__main__":
    main()
