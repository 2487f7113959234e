"""Headless Chromium by the DevTools protocol, for tests of pages."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless",
    "--no-sandbox",  # the pages are ours, and its sandbox does not work in containers
    "--use-angle=swiftshader",  # WebGL without a GPU
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--force-device-scale-factor=1",
    "--force-color-profile=srgb",
    "--remote-debugging-port=0",
)
_WAIT_S = 60.0


class Tab:
    """One page of the browser; every method returns when the browser has answered."""

    def __init__(self, loop: asyncio.AbstractEventLoop, session: Any, address: str) -> None:
        self._loop = loop
        self._socket = loop.run_until_complete(session.ws_connect(address, max_msg_size=1 << 28))
        self._number = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1

        async def ask() -> dict[str, Any]:
            await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
            while True:
                answer = await self._socket.receive_json(timeout=_WAIT_S)
                if answer.get("id") == self._number:
                    return answer

        answer = self._loop.run_until_complete(ask())
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def size(self, width: int, height: int, *, touch: bool = False) -> None:
        """Set the size of the window's content, CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)

    def open(self, url: str) -> None:
        """Go to an address, and wait until the document is there."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, or of the promise that it is."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script: str, wait_s: float = _WAIT_S) -> Any:
        """Wait until an expression is true, and return it."""
        end_s = time.monotonic() + wait_s
        while not (value := self.run(script)):
            assert time.monotonic() < end_s, f"never true: {script}"
            time.sleep(0.02)
        return value

    def screenshot(self) -> np.ndarray:
        """What is on the screen, (H, W, 3) uint8 BGR."""
        # two frames: the first draws what was asked for, the second shows that it was presented
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A mouse event: pressed, moved, released or wheel."""
        name = {"wheel": "mouseWheel"}.get(kind, f"mouse{kind.capitalize()}")
        self.call("Input.dispatchMouseEvent", type=name, x=x, y=y, **{"button": "left", "clickCount": 1, **more})

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """A touch event: touchStart, touchMove or touchEnd."""
        self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y} for x, y in points])

    def key(self, key: str, text: str = "") -> None:
        """Press and release a key."""
        more = {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)


class Browser:
    """A running browser."""

    def __init__(self, port: int, loop: asyncio.AbstractEventLoop, session: Any) -> None:
        self._port, self._loop, self._session = port, loop, session

    def tab(self, before: str = "") -> Tab:
        """A new tab; `before` is JavaScript that runs before every page's own."""

        async def new() -> dict[str, Any]:
            address = f"http://127.0.0.1:{self._port}/json/new?about:blank"
            async with self._session.put(address) as answer:
                return await answer.json()

        made = self._loop.run_until_complete(new())
        tab = Tab(self._loop, self._session, made["webSocketDebuggerUrl"])
        tab.call("Page.enable")
        if before:
            tab.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        tab.size(640, 480)
        return tab


def find_browser() -> str | None:
    """The path of a browser; None without one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextlib.contextmanager
def running_browser(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in `folder`; skips the test without one."""
    aiohttp = pytest.importorskip("aiohttp")
    program = find_browser()
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed (apt-get install chromium)")
    process = subprocess.Popen(
        [program, *_OPTIONS, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "HOME": os.fspath(folder)},
    )
    loop = asyncio.new_event_loop()
    try:
        port = _port_of(folder / "DevToolsActivePort", process)

        async def opened() -> Any:
            return aiohttp.ClientSession()

        session = loop.run_until_complete(opened())
        try:
            yield Browser(port, loop, session)
        finally:
            loop.run_until_complete(_closed(session))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        loop.close()


async def _closed(session: Any) -> None:
    """Close it, and end what a signal has interrupted."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for each in others:
        each.cancel()
    await asyncio.gather(*others, session.close(), return_exceptions=True)


def _port_of(path: Path, process: subprocess.Popen[bytes]) -> int:
    end_s = time.monotonic() + _WAIT_S
    while not (path.exists() and path.read_text().strip()):
        assert process.poll() is None, "the browser ended"
        assert time.monotonic() < end_s, "the browser did not start"
        time.sleep(0.05)
    return int(path.read_text().split()[0])
