"""A headless Chromium, driven through chromedriver's own protocol: W3C WebDriver, which is JSON over HTTP."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Left": "\ue012", "Up": "\ue013", "Right": "\ue014", "Down": "\ue015"}
PATIENCE = 120
"""Seconds for an answer of a machine that does other things too."""


def missing() -> str | None:
    """Why no browser can be driven here."""
    for name in ("chromedriver", "chromium"):
        if shutil.which(name) is None:
            return f"no {name} here (Debian's packages chromium and chromium-driver)"
    return None


class Browser:
    """One window, until it is closed."""

    def __init__(self, width: int = 1280, height: int = 900) -> None:
        self._driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self._driver.stdout is not None
        self._at = ""
        for line in self._driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                self._at = f"http://127.0.0.1:{found[1]}/session"
                break
        else:
            raise RuntimeError("chromedriver did not start")
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"]}
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        try:
            self._at += "/" + self._send("", {"capabilities": wanted})["sessionId"]
        except BaseException:
            self._driver.kill()
            raise

    def close(self) -> None:
        request = urllib.request.Request(self._at, method="DELETE")
        with urllib.request.urlopen(request, timeout=PATIENCE):
            pass
        self._driver.terminate()
        self._driver.wait()
        self._driver.stdout.close()

    def open(self, page: Path) -> None:
        self._send("/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *given: Any) -> Any:
        """What a script returns."""
        return self._send("/execute/sync", {"script": script, "args": list(given)})

    def find(self, selector: str) -> dict[str, str]:
        """An element that scripts and pointers take."""
        return {ELEMENT: self._send("/element", {"using": "css selector", "value": selector})[ELEMENT]}

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def point(self, selector: str, *, click: bool = False) -> None:
        """Moves the pointer to the middle of an element, and clicks."""
        actions: list[dict[str, Any]] = [{"type": "pointerMove", "origin": self.find(selector), "x": 0, "y": 0}]
        if click:
            actions += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self._act({"type": "pointer", "id": "mouse", "actions": actions})

    def press(self, *keys: str) -> None:
        """Keys by their names in `KEYS`, or letters."""
        codes = [KEYS.get(key, key) for key in keys]
        actions = [{"type": kind, "value": code} for code in codes for kind in ("keyDown", "keyUp")]
        self._act({"type": "key", "id": "keyboard", "actions": actions})

    def prefer(self, scheme: str) -> None:
        """The user's choice of "dark" or "light"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._send("/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}})

    def _act(self, source: dict[str, Any]) -> None:
        self._send("/actions", {"actions": [source]})

    def _send(self, to: str, what: dict[str, Any]) -> Any:
        request = urllib.request.Request(self._at + to, json.dumps(what).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)["value"]
