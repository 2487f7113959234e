"""Endurance test of the viewer: python benchmarks/viewer_soak.py [--minutes 30] [--json]; exits 1 if memory grows.

A child process serves moving panoramas with their maps as video, and restarts its server on the same port every
minute. One page in Chromium watches all the time: it finds the server again after each restart, and is reloaded every
three minutes. A second viewer joins and leaves every five seconds. Every ten seconds, the memory of the server's
process and of the page (JavaScript heap after a collection, and its process) is sampled. The minimum of the last third
is compared with that of the second: caches fill first, but a leak raises the minimum. The highest is also reported: the
server's memory swings by 65 MB for each VP9 encoder that is open (5 MB for H.264), and each viewer of video has one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sal360.errors import clean_end, one_line_errors
from tests.browser import Browser, Tab, find_browser, running_browser  # of this checkout

RATE_HZ, HEIGHT_PX = 10.0, 512
SAMPLE_S, JOIN_S, RESTART_S, RELOAD_S = 10.0, 5.0, 60.0, 180.0
ALLOWED_GROWTH_MB = {"server_mb": 8.0, "page_heap_mb": 1.0, "page_mb": 16.0}
_LONGEST_OUTAGE_S = 30.0


def serve(ports: Any) -> None:
    """Publish scenes for ever, and restart the server every minute; runs in a child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this
    from sal360.density import spherical_density
    from sal360.images import read_picture
    from sal360.samples import bundled_panoramas
    from sal360.sphere import angles_to_vector
    from sal360.viewer.scene import Scene
    from sal360.viewer.server import Address, ViewerServer

    panorama = cv2.resize(read_picture(min(bundled_panoramas().glob("*.jpg"))), (2 * HEIGHT_PX, HEIGHT_PX))
    port = number = 0
    while True:
        with ViewerServer("endurance", Address(port=port), pictures="video") as server:
            port = int(server.url.rsplit(":", 1)[1].strip("/"))
            ports.put(port)
            end_s = time.monotonic() + RESTART_S
            while time.monotonic() < end_s:
                number += 1
                looked_at = angles_to_vector(0.01 * number, 0.2)
                density = spherical_density(np.asarray(looked_at)[None], 96, 192, 15.0)
                picture = np.ascontiguousarray(np.roll(panorama, 4 * number, axis=1))
                server.publish(Scene(f"{number}", number / RATE_HZ, picture, density, sequence=number))
                time.sleep(1 / RATE_HZ)


class Soak:
    """The page, the other viewer, and the samples."""

    def __init__(self, browser: Browser, server: psutil.Process, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._server = server
        self._url = f"http://127.0.0.1:{port}/"
        self._tab: Tab = browser.tab()
        self._tab.open(self._url)
        self._tab.until("sal360.latest")
        self._tab.call("Page.bringToFront")
        self.samples: list[dict[str, float]] = []
        self.longest_outage_s = 0.0
        self.joined = self.reloads = 0
        self._last, self._last_s = -1, time.monotonic()

    def run(self, seconds: float) -> None:
        """Watch for some seconds."""
        begin_s = time.monotonic()
        due_s = dict.fromkeys(("sample", "join", "reload"), begin_s)
        steps = {"sample": (SAMPLE_S, self._sample), "join": (JOIN_S, self._join), "reload": (RELOAD_S, self._reload)}
        while (now_s := time.monotonic()) < begin_s + seconds:
            for name, (period_s, step) in steps.items():
                if now_s >= due_s[name]:
                    due_s[name] += period_s
                    step()
            self._look()
            time.sleep(0.25)

    def _look(self) -> None:
        """How long the page has shown the same frame."""
        newest, now_s = self._tab.run("window.sal360 && sal360.latest ? sal360.latest.sequence : -1"), time.monotonic()
        self.longest_outage_s = max(self.longest_outage_s, now_s - self._last_s)
        if newest != self._last:
            self._last, self._last_s = newest, now_s

    def _sample(self) -> None:
        self._tab.call("HeapProfiler.collectGarbage")
        pages = [each for each in psutil.Process().children(recursive=True) if "--type=renderer" in each.cmdline()]
        self.samples.append(
            {
                "server_mb": self._server.memory_info().rss / 2**20,
                "server_threads": self._server.num_threads(),
                "server_handles": self._server.num_fds(),
                "page_heap_mb": self._tab.run("performance.memory.usedJSHeapSize") / 2**20,
                "page_mb": max(each.memory_info().rss for each in pages) / 2**20,
            }
        )

    def _join(self) -> None:
        """Another viewer gets ten frames and leaves without a word."""
        import aiohttp

        async def watch() -> None:
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"{self._url}socket", max_msg_size=0) as it,
            ):
                await it.send_json({"hello": {"codecs": ["vp09.00.51.08"]}, "want": 4})
                count = 0
                while count < 10:
                    message = await it.receive(timeout=5)
                    if message.type is aiohttp.WSMsgType.BINARY:
                        count += 1
                        await it.send_json({"want": 1})
                    elif message.type is not aiohttp.WSMsgType.TEXT:
                        return

        with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):  # the server restarts
            self._loop.run_until_complete(watch())
            self.joined += 1

    def _reload(self) -> None:
        self._tab.call("Page.reload")
        self._tab.until("document.readyState === 'complete'")
        if not self._tab.run("Boolean(window.sal360)"):  # the server was restarting
            self._tab.open(self._url)
        self.reloads += 1

    def highest(self) -> dict[str, float]:
        """Maximum of all samples, by quantity."""
        return {name: max(each[name] for each in self.samples) for name in self.samples[0]}

    def growth(self) -> dict[str, float]:
        """Minimum of the last third less that of the second, by quantity."""
        third = len(self.samples) // 3
        grown = {}
        for name in self.samples[0]:
            values = [each[name] for each in self.samples]
            grown[name] = min(values[2 * third :]) - min(values[third : 2 * third])
        return grown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="(default: %(default)g)")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of text")
    arguments = parser.parse_args()
    if not arguments.minutes >= 0.5:
        raise SystemExit(f"--minutes is {arguments.minutes:g}: set it to 0.5 or more, for one sample in each third")
    if find_browser() is None:
        raise SystemExit("no Chromium was found: install it (apt-get install chromium)")
    spawn = multiprocessing.get_context("spawn")
    ports = spawn.Queue()
    child = spawn.Process(target=serve, args=(ports,), daemon=True)
    child.start()
    assert child.pid is not None
    with tempfile.TemporaryDirectory() as folder, running_browser(Path(folder)) as browser:
        soak = Soak(browser, psutil.Process(child.pid), ports.get(timeout=60))
        soak.run(60 * arguments.minutes)
    child.terminate()
    growth = soak.growth()
    grown = [name for name, allowed in ALLOWED_GROWTH_MB.items() if growth[name] > allowed]
    result = {
        "minutes": arguments.minutes,
        "joined": soak.joined,
        "reloads": soak.reloads,
        "longest_outage_s": soak.longest_outage_s,
        "growth": growth,
        "highest": soak.highest(),
        "after_a_third": soak.samples[len(soak.samples) // 3],
        "last": soak.samples[-1],
    }
    print(json.dumps(result) if arguments.json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    if grown:
        print(f"memory grows: {', '.join(grown)}", file=sys.stderr)
    return 1 if grown or soak.longest_outage_s > _LONGEST_OUTAGE_S else 0


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
