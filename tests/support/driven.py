"""A Chromium that a test drives: it opens pages, runs scripts in them, clicks and types as a user does.

It speaks Chromium's DevTools protocol over two pipes (`--remote-debugging-pipe`: messages of JSON that end with NUL).
"""

import base64
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.browser import CHROMIUM
from tests.support.commandline import PATIENCE

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    "about:blank",
)


class PageError(AssertionError):
    """A script in the page raised, or something did not become true in time."""


class Browser:
    """One tab."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer, self._count = b"", 0
        self._pressed = (0.0, 0.0)
        self.logged: list[str] = []  # what the pages' consoles said, errors that no script caught, and refused requests
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Open a page and wait until it has loaded; where it leads on to another, wait for what that has."""
        self._send("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, awaited; PageError where it raises."""
        answer = self._send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise PageError(answer["exceptionDetails"].get("exception", {}).get("description", script))
        return answer["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Until an expression is true in the page, whichever it is by then."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if self.evaluate(script):
                    return
            except PageError:
                pass  # between two pages
            time.sleep(0.05)
        raise PageError(f"{script} did not become true; {self.evaluate('location.href')}: {self.text()[:2000]}")

    def text(self) -> str:
        """What the page says."""
        text: str = self.evaluate("document.body.innerText")
        return text

    def type(self, selector: str, text: str) -> None:
        """Put text into a field, in place of what is there."""
        self.evaluate(f"{_element(selector)}.focus()")
        self.evaluate(f"{_element(selector)}.select()")
        self._send("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click on what a selector finds, with the mouse."""
        self.press(selector)
        self.release()

    def press(self, selector: str) -> None:
        """Press the mouse's button on what a selector finds, when that lies still."""
        place = before = None
        while place is None or place != before:
            before = place
            place = self.evaluate(
                f"(() => {{ const e = {_element(selector)}; e.scrollIntoView({{block: 'center'}});"
                " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
            )
            time.sleep(0.05)
        self._pressed = place
        self._mouse("mousePressed")

    def release(self) -> None:
        """Let the button go where it was pressed."""
        self._mouse("mouseReleased")

    def _mouse(self, kind: str) -> None:
        x, y = self._pressed
        self._send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def cookies(self) -> list[dict[str, Any]]:
        """The cookies of the page's site, as the browser keeps them."""
        kept: list[dict[str, Any]] = self._send("Network.getCookies")["cookies"]
        return kept

    def resize(self, width: int, height: int) -> None:
        """Give the page a window of that size, a phone's where it is so narrow."""
        self._send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def screenshot(self, path: Path, *, width: int, height: int, dark: bool = False) -> None:
        """A picture of the page in a window of that size."""
        self.resize(width, height)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._send("Emulation.setEmulatedMedia", features=features)
        path.write_bytes(base64.b64decode(self._send("Page.captureScreenshot", format="png")["data"]))

    def _send(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise PageError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], PATIENCE)
            chunk = os.read(self._from, 1 << 16) if ready else b""
            if not chunk:
                raise PageError("the browser does not answer")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.logged.append(json.dumps(params["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded":
            self.logged.append(params["entry"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.logged.append(json.dumps(params["args"]))


def _element(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)})"


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium with a profile of its own, which ends with the block."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="hpo-driven-", ignore_cleanup_errors=True) as profile:
        to_child, to_browser = os.pipe()
        from_browser, from_child = os.pipe()
        # The protocol's ends are the descriptors 3 and 4: a shell moves ours there.
        command = f'exec "$@" 3<&{to_child} 4>&{from_child}'
        process = subprocess.Popen(
            ["bash", "-c", command, "bash", CHROMIUM, f"--user-data-dir={profile}", *FLAGS],
            pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        try:
            yield Browser(to_browser, from_browser)
        finally:
            process.kill()
            process.wait()
            os.close(to_browser)
            os.close(from_browser)
