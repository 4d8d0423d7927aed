"""A real browser: Chromium without a window, driven by its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: As root in a container, without a profile of anybody, and without its own requests to the internet.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip


class Page:
    """A tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and keep the events that arrive meanwhile."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=30))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") == "Page.javascriptDialogOpening":  # "leave this page?" holds up everything
                accept = {"method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
                self.socket.send(json.dumps({"id": next(self.numbers), **accept}))
            self.events.append(message)

    def open(self, url: str, *, width: int = 1600, height: int = 1000, dark: bool = False, settle: float = 0.5) -> None:
        """Open a page in a window of a size, and wait until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=url)
        end = time.monotonic() + 30
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < end, f"{url} does not load"
            self.value("1")
            time.sleep(0.05)
        time.sleep(settle)
        self.value("1")  # takes what arrived

    def value(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def complaints(self) -> list[str]:
        """What the browser logged: violations of the Content-Security-Policy, failed requests, exceptions."""
        logged = [event["params"]["entry"]["text"] for event in self.events if event.get("method") == "Log.entryAdded"]
        return logged + [str(event) for event in self.events if event.get("method") == "Runtime.exceptionThrown"]

    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def screenshot(self, path: Path) -> None:
        """Take a picture of the window."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def page() -> Iterator[Page]:
    """A tab of a browser that ends with it."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"], stderr=subprocess.PIPE, text=True
        )
        try:
            line = next(line for line in process.stderr if "DevTools listening on" in line)
            address = line.split()[-1]
            with connect(address, max_size=None, ping_interval=None) as browser:
                browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
                while "result" not in (answer := json.loads(browser.recv(timeout=30))):
                    pass
                target = next(each for each in answer["result"]["targetInfos"] if each["type"] == "page")
            root = address.partition("/devtools/")[0]
            with connect(f"{root}/devtools/page/{target['targetId']}", max_size=None, ping_interval=None) as tab:
                yield Page(tab)
        finally:
            process.terminate()
            process.wait(timeout=20)
            time.sleep(0.2)
