"""Headless Chromium over its DevTools protocol: pages as they are laid out at a width, and pictures of them."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import connect

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
START_SECONDS = 60.0
WIDTHS = (420, 768, 1200, 1600)
_INNER = "[...document.querySelectorAll('.scroll')].some(box => box.checkVisibility() && box.scrollWidth > box.clientWidth)"
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0")


class Page:
    """One tab."""

    def __init__(self, address: str) -> None:
        self._socket = connect(address, max_size=None, open_timeout=START_SECONDS)
        self._numbers = count(1)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to one command of the protocol; events in between are passed over."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self._socket.recv(timeout=START_SECONDS))).get("id") != number:
            pass
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def open(self, url: str, width: int, height: int = 900, scheme: str = "light") -> None:
        """Load a page at a width, and wait until it is laid out."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=url)
        until = time.monotonic() + START_SECONDS
        while self.value(f"document.readyState + (location.href.startsWith({json.dumps(url)}))") != "completetrue":
            assert time.monotonic() < until, f"{url}: still loading"
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript comes to; a page's own policy does not hold for it."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self, path: Path, whole: bool = False) -> None:
        """What is seen, or the page from top to bottom, as a PNG."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        area = {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}} if whole else {}
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **area)
        path.write_bytes(base64.b64decode(found["data"]))


def too_wide(page: Page, path: Path) -> list[int]:
    """The widths at which a page, or a table in it, scrolls sideways."""
    found = []
    for width in WIDTHS:
        page.open(path.as_uri(), width)
        assert page.value("innerWidth") == width
        if page.value("document.documentElement.scrollWidth") > width or page.value(_INNER):
            found.append(width)
    return found


@contextmanager
def browser() -> Iterator[Page]:
    """A tab of a Chromium of its own, which ends with the block."""
    assert CHROMIUM is not None, "no Chromium here"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen([CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL)
        try:
            yield Page(_address(Path(profile) / "DevToolsActivePort"))
        finally:
            process.terminate()
            process.wait()


def _address(file: Path) -> str:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if file.is_file() and (lines := file.read_text().split()):
            with urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise TimeoutError(f"{file}: Chromium does not come up")
