"""A headless Chromium, driven by its own protocol: windows that people would have open, and their hands.

Chromium speaks the DevTools protocol over a websocket; the few commands used here are of its stable version 1.3. A wait
is a promise in the page that looks again whenever the page has changed, so that nothing here asks again and again.

Source: the Chrome DevTools Protocol, version 1.3.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
START_SECONDS = 30.0
STOP_SECONDS = 10.0
CALL_SECONDS = 30.0
WAIT_SECONDS = 15.0

OPTIONS = (
    "--headless",
    # The pages are the project's own, and a container or root has no sandbox.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--disable-lcd-text",
    # It is to speak with this machine alone.
    "--no-proxy-server",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Windows lie behind each other, and none of them is to doze.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--remote-debugging-port=0",
)

_UNTIL = """
new Promise((resolve, reject) => {
  const holds = () => (%s);
  const look = () => { if (holds()) { observer.disconnect(); clearTimeout(timer); resolve(true); } };
  const observer = new MutationObserver(look);
  observer.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
  const timer = setTimeout(() => { observer.disconnect(); reject(new Error("not in time")); }, %d);
  look();
})
"""


def find_chromium() -> str:
    """Give the path of the browser; "" where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), "")


class PageError(AssertionError):
    """The page threw, refused, or never came to what was waited for."""


class Browser:
    """One Chromium process with a new profile; use it in ``with``.

    Args:
        folder: an empty one, for the profile.
    """

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log.txt"
        command = [
            find_chromium(),
            *OPTIONS,
            f"--user-data-dir={folder / 'profile'}",
            "about:blank",
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self.stack = contextlib.ExitStack()
        self.stack.callback(self._end)
        try:
            dialled = connect(self._address(), max_size=None, proxy=None, compression=None)
            self.connection = self.stack.enter_context(dialled)
        except BaseException:
            self.stack.close()
            raise
        self.calls = 0
        self.faults: dict[str, list[str]] = {}

    def _address(self) -> str:
        for _ in range(int(START_SECONDS / 0.02)):
            text = self.log.read_text(errors="replace")
            if found := re.search(r"DevTools listening on (ws://\S+)", text):
                return found[1]
            # Waiting for the exit that must not come is the pause between two looks.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.02)
                break
        raise AssertionError(f"Chromium did not start:\n{self.log.read_text(errors='replace')}")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # It may be gone, or go before it has answered.
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            self.call("Browser.close")
        self.stack.close()

    def _end(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        # What is left of the group that it leads.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result; what the pages say meanwhile is noted in ``faults``."""
        self.calls += 1
        command = {"id": self.calls, "method": method, "params": parameters}
        self.connection.send(json.dumps({**command, "sessionId": session} if session else command))
        while True:
            told = json.loads(self.connection.recv(CALL_SECONDS))
            if told.get("id") == self.calls:
                break
            self._note(told)
        if "error" in told:
            raise PageError(f"{method}: {told['error']['message']}")
        result: dict[str, Any] = told["result"]
        return result

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            fault = details.get("exception", {}).get("description") or details["text"]
        elif (
            event.get("method") == "Log.entryAdded" and parameters["entry"]["source"] == "security"
        ):
            fault = parameters["entry"]["text"]
        else:
            return
        self.faults.setdefault(event.get("sessionId", ""), []).append(fault)

    def window(self, url: str, width: int = 900, height: int = 640, **look: Any) -> Window:
        """Open a window of somebody new: no cookies, no storage; for ``look`` see `Window.look`."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        window = Window(self, attached["sessionId"], context)
        for domain in ("Page", "Runtime", "Log"):
            window.call(f"{domain}.enable")
        # Each has the focus of somebody who sits before it.
        window.call("Emulation.setFocusEmulationEnabled", enabled=True)
        window.look(width, height, **look)
        window.go(url)
        return window


class Window:
    """One window; elements are named by CSS selectors, and must be there."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self.browser = browser
        self.session = session
        self.context = context

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **parameters)

    @property
    def faults(self) -> list[str]:
        """What went wrong in the page: exceptions that nobody caught, content that its policy refused."""
        self.evaluate("0")  # what it said before has come by then
        return self.browser.faults.get(self.session, [])

    def look(self, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """Set the size in CSS pixels, the colour scheme, and whether it is a phone."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, still])

    def go(self, url: str) -> None:
        """Load a page."""
        if error := self.call("Page.navigate", url=url).get("errorText"):
            raise PageError(f"{url}: {error}")
        self.evaluate(
            "document.readyState === 'complete' || new Promise((done) => addEventListener('load', () => done(true)))"
        )

    def evaluate(self, expression: str) -> Any:
        """Give the value of an expression in the page; of a promise, what it comes to."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if details := answer.get("exceptionDetails"):
            said = details.get("exception", {}).get("description") or details["text"]
            raise PageError(f"{expression.strip()}: {said}\nthe page shows: {self.text('body')!r}")
        return answer["result"].get("value")

    def until(self, condition: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until a condition in JavaScript holds."""
        self.evaluate(_UNTIL % (condition, seconds * 1000))

    def text(self, selector: str) -> str:
        """Give what an element shows."""
        found = self.call(
            "Runtime.evaluate",
            expression=f"document.querySelector({json.dumps(selector)}).innerText",
            returnByValue=True,
        )
        return str(found["result"].get("value"))

    def shows(self, text: str, selector: str = "body") -> None:
        """Wait until an element shows a text."""
        self.until(
            f"document.querySelector({json.dumps(selector)}).innerText.includes({json.dumps(text)})"
        )

    def click(self, selector: str) -> None:
        """Click where the element is; what lies over it would get the click."""
        middle = self.evaluate(
            f"(() => {{ const at = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [at.x + at.width / 2, at.y + at.height / 2, at.width * at.height]; })()"
        )
        if not middle[2]:
            raise PageError(f"{selector} is not to be seen")
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=middle[0],
                y=middle[1],
                button="left",
                clickCount=1,
            )

    def type(self, selector: str, text: str, enter: bool = False) -> None:
        """Click into a field, replace what is in it, and press Enter when told to."""
        self.click(selector)
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)
        if enter:
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
            self.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
            self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def screenshot(self) -> bytes:
        """Give what is to be seen, as PNG."""
        # Fonts and the last frame are there.
        self.evaluate(
            "document.fonts.ready.then(() => new Promise((done) =>"
            " requestAnimationFrame(() => requestAnimationFrame(() => done(true)))))"
        )
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """Close it, with all that it kept."""
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)
