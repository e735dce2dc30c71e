"""Chromium without a window, driven through its DevTools protocol: just what tests of the page need."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

# The shell is the smaller one; Macs and others have their own names for the whole browser.
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_SECONDS = 30.0
_KEYS = {"Enter": (13, "\r"), "Escape": (27, "")}


def find_chromium() -> str | None:
    """Its path, if it is installed."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page. `mistakes` are what its scripts threw and what its console called an error."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.mistakes: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """One command of the protocol, and its result."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(timeout=_SECONDS))
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        if event["method"] == "Runtime.exceptionThrown":
            self.mistakes.append(json.dumps(event["params"]["exceptionDetails"])[:500])
        elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.mistakes.append(event["params"]["entry"]["text"])

    def js(self, expression: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = _SECONDS) -> Any:
        """Waits until an expression is true; its value."""
        end = time.monotonic() + seconds
        while not (value := self.js(expression)):
            if time.monotonic() > end:
                shown = self.js("document.body?.innerText")
                raise AssertionError(f"{expression} did not become true; the page shows:\n{shown}")
            time.sleep(0.02)
        return value

    def open(self, url: str) -> None:
        """Loads a page."""
        self.call("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """A key, down and up."""
        code, text = _KEYS[key]
        key_ = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **key_, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **key_)

    def click(self, selector: str) -> None:
        """The middle of an element, as a mouse does it."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        at = dict(zip("xy", self.js(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})"), strict=True))
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def window(self, width: int, height: int, *, phone: bool = False) -> None:
        """The size in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def scheme(self, name: str) -> None:
        """What the system prefers, dark or light."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def picture(self, path: Path) -> None:
        """A screenshot as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browsing(directory: Path) -> Iterator[Browser]:
    """A browser with a new profile in that folder."""
    program = find_chromium()
    assert program is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    arguments = [*flags, "--remote-debugging-port=0", f"--user-data-dir={directory}", "about:blank"]
    # A group of its own: Debian's command is a script, and ending that would leave the browser behind.
    process = subprocess.Popen(
        [program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        with connect(_page_address(process, directory), max_size=None) as connection:
            yield Browser(connection)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(_SECONDS)


def _page_address(process: subprocess.Popen[bytes], directory: Path) -> str:
    """The WebSocket of the first page; Chromium writes the port it took into its profile."""
    end = time.monotonic() + 2 * _SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            port = int((directory / "DevToolsActivePort").read_text().split()[0])
            targets = httpx.get(f"http://127.0.0.1:{port}/json/list").json()
            return next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
        except (OSError, ValueError, IndexError, httpx.HTTPError, StopIteration):
            time.sleep(0.05)
    raise AssertionError(f"Chromium did not start (exit code {process.poll()}).")
