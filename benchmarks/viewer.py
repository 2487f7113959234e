"""What viewers cost the node, and how old a frame is when a page draws it.

    python benchmarks/viewer.py [--seconds 8] [--rounds 3] [--without-node] [--json]

A camera process publishes panoramas of 1920 x 960 at 30 Hz to the real node, and `saliency_viewer` serves them. All
ways of watching take turns in one run, so that their ratios mean something on a machine that others use as well:

    nobody          the node alone
    readers, …      two programs that ask for every frame and drop it, as browsers on other machines would
    page, …         one page in Chromium on this machine, which draws without a GPU

The node's latency is from the stamp to the map's arrival at a subscriber; that of the page from the stamp to the
animation frame that draws it. It contains neither the camera's own delay nor the display's. With --without-node, frames
with a finished map go straight to the server: what encoding, the line, decoding and drawing take.

It takes about five minutes with the default rounds, and two with --without-node. After each measurement, the figures so
far go to stderr, and Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sal360.errors import clean_end, one_line_errors
from tests.browser import Browser, Tab, find_browser, running_browser  # of this checkout

HEIGHT_PX, RATE_HZ = 960, 30.0
CODECS = {"JPEG": "", "H.264": "avc1.42E033", "VP9": "vp09.00.51.08"}
SETTLE_S = 2.0
"""Time after a change of viewers that is not measured."""
_ONLY = """
const all = VideoDecoder.isConfigSupported.bind(VideoDecoder);
VideoDecoder.isConfigSupported = async (config) => (config.codec === "%s" ? all(config) : { supported: false });
"""
_KEEP_LATENCIES = """
window.seen = new Map();
setInterval(() => {
  const latest = window.sal360 && sal360.latest;
  if (latest && latest.latencies.length) seen.set(latest.sequence, latest.latencies.at(-1));
}, 4);
"""


@dataclass
class Samples:
    """What one way of watching has shown so far, over all rounds."""

    node_ms: list[float] = field(default_factory=list)
    page_ms: list[float] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    seconds: float = 0.0
    frames: float = 0.0
    """That viewers got."""

    def figures(self) -> dict[str, float]:
        """Milliseconds, percent of one core, and frames per second of each viewer."""
        found = {}
        if self.node_ms:
            found = {f"node_p{share}_ms": float(np.percentile(self.node_ms, share)) for share in (50, 95)}
            found["maps_hz"] = len(self.node_ms) / self.seconds
        if self.frames:
            found["viewer_hz"] = self.frames / self.seconds
        if self.page_ms:
            found |= {f"camera_to_pixel_p{share}_ms": float(np.percentile(self.page_ms, share)) for share in (50, 95)}
        return found | {f"cpu_{name}_percent": 100 * spent / self.seconds for name, spent in self.cpu_s.items()}


class Readers:
    """Two programs in a thread that ask for frames as a page does, and drop them."""

    def __init__(self, url: str, codec: str) -> None:
        self.frames = 0
        self._url, self._codec = url, codec
        self._loop = asyncio.new_event_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Readers:
        self._thread.start()
        for _ in range(2):
            self._loop.call_soon_threadsafe(lambda: self._tasks.append(self._loop.create_task(self._read())))
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _read(self) -> None:
        import aiohttp

        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self._url}socket", max_msg_size=0) as connection,
        ):
            await connection.send_json({"hello": {"codecs": [self._codec] if self._codec else []}})
            await connection.send_json({"want": 2})
            async for message in connection:
                if message.type is aiohttp.WSMsgType.BINARY:
                    self.frames += 1
                    await connection.send_json({"want": 1})


class Graph:
    """Camera, node and viewers, and a subscriber of the maps."""

    def __init__(self, node: Any, watched: dict[str, psutil.Process]) -> None:
        from sensor_msgs.msg import Image

        from sal360_ros.qos import input_qos

        self._node = node
        self._watched = watched
        self._latencies_ms: list[float] = []
        node.create_subscription(Image, "saliency", self._on_map, input_qos(depth=10))

    def _on_map(self, message: Any) -> None:
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        self._latencies_ms.append((self._node.get_clock().now().nanoseconds - stamp_ns) / 1e6)

    def spin(self, seconds: float) -> None:
        """Receive maps for some seconds."""
        import rclpy

        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            rclpy.spin_once(self._node, timeout_sec=left_s)

    def measure(self, samples: Samples, seconds: float, frames: Callable[[], float] = lambda: 0) -> None:
        """Add some seconds to the samples; `frames` counts those that each viewer got."""
        self.spin(SETTLE_S)
        self._latencies_ms.clear()
        frames_before = frames()
        before = {name: _cpu_s(each) for name, each in self._watched.items()}
        begin_s = time.monotonic()
        self.spin(seconds)
        samples.seconds += time.monotonic() - begin_s
        samples.frames += frames() - frames_before
        samples.node_ms += self._latencies_ms
        for name, each in self._watched.items():
            samples.cpu_s[name] += _cpu_s(each) - before[name]


def _cpu_s(process: psutil.Process) -> float:
    """CPU time of a process and its children; those that end in between are missing."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


Way = Callable[[Graph, Samples, float], None]


def _nobody(graph: Graph, samples: Samples, seconds: float) -> None:
    graph.measure(samples, seconds)


def _readers(url: str, codec: str) -> Way:
    def way(graph: Graph, samples: Samples, seconds: float) -> None:
        with Readers(url, codec) as readers:
            graph.measure(samples, seconds, lambda: readers.frames / 2)

    return way


def _page(browser: Browser, url: str, codec: str) -> Way:
    def way(graph: Graph, samples: Samples, seconds: float) -> None:
        tab = _watching(browser, url, codec)
        tab.until("seen.size > 5")
        tab.run(f"setTimeout(() => seen.clear(), {1e3 * SETTLE_S}); 1")
        graph.measure(samples, seconds)
        latencies_ms = tab.run("[...seen.values()]")
        samples.page_ms += latencies_ms
        samples.frames += len(latencies_ms)
        shown = tab.run("document.getElementById('codec').textContent")
        assert shown == (codec or "JPEG"), shown
        tab.call("Page.close")

    return way


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[Graph, dict[str, Way]]]:
    """The processes, and the ways of watching."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from sal360_ros.processes import NodeProcess, bring_up

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C is ours
    driver = rclpy.create_node("benchmark_viewer")
    with contextlib.ExitStack() as stack:
        stack.callback(rclpy.shutdown)
        stack.callback(driver.destroy_node)
        node = stack.enter_context(NodeProcess("sal360_ros.saliency_node"))
        bring_up(driver, "/saliency_node", node)
        camera = {"height_px": HEIGHT_PX, "rate_hz": RATE_HZ}
        stack.enter_context(NodeProcess("sal360_ros.panorama_camera", camera))
        viewers, urls = {}, {}
        for pictures in ("jpeg", "video"):
            log = folder / f"{pictures}.log"
            parameters = {"port": 0, "pictures": pictures}
            names = {"__node": f"viewer_{pictures}"}
            viewer = NodeProcess("sal360_ros.saliency_viewer", parameters, names, log=log)
            viewers[pictures] = stack.enter_context(viewer)
            urls[pictures] = _address(log)
        browser = stack.enter_context(running_browser(folder / "browser"))
        watched = {
            "node": psutil.Process(node.pid),
            **{f"viewer_{name}": psutil.Process(each.pid) for name, each in viewers.items()},
            "browser": _browser(),
        }
        ways: dict[str, Way] = {"nobody": _nobody}
        for name, codec in CODECS.items():
            url = urls["video" if codec else "jpeg"]
            ways[f"readers, {name}"] = _readers(url, codec)
            ways[f"page, {name}"] = _page(browser, url, codec)
        yield Graph(driver, watched), ways


def without_node(seconds: float, rounds: int, folder: Path) -> dict[str, Samples]:
    """Publish finished maps to a server in this process, and watch it with one page."""
    from sal360.images import read_picture
    from sal360.predictor import Predictor
    from sal360.samples import bundled_panoramas
    from sal360.viewer.scene import Scene
    from sal360.viewer.server import Address, ViewerServer

    picture = read_picture(bundled_panoramas() / "courtyard.jpg")
    picture = cv2.resize(picture, (2 * HEIGHT_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
    with Predictor(threads=1) as predictor:
        density = predictor.predict(picture, "bgr")
    samples = {f"page, {name}": Samples() for name in CODECS}
    with running_browser(folder) as browser:
        for name, codec in tqdm([*CODECS.items()] * rounds, disable=None):
            with ViewerServer("x", Address(port=0), pictures="video" if codec else "jpeg") as server:
                tab = _watching(browser, server.url, codec)
                watched = {"server": time.process_time, "browser": lambda: _cpu_s(_browser())}
                begin_s, before = time.monotonic(), {}
                for number in range(1, round((SETTLE_S + seconds) * RATE_HZ) + 1):
                    time.sleep(max(0.0, begin_s + number / RATE_HZ - time.monotonic()))
                    if not before and number > SETTLE_S * RATE_HZ:
                        before = {each: cpu_s() for each, cpu_s in watched.items()}
                    frame = np.roll(picture, 4 * number, axis=1)
                    server.publish(Scene(f"{number}", number / RATE_HZ, frame, density, sequence=number))
                its = samples[f"page, {name}"]
                its.seconds += seconds
                for each, cpu_s in watched.items():
                    its.cpu_s[each] += cpu_s() - before[each]
                newest = tab.run(
                    f"[...seen].filter(([number]) => number > {SETTLE_S * RATE_HZ}).map((pair) => pair[1])"
                )
                its.page_ms += newest
                its.frames += len(newest)
                tab.call("Page.close")
            _say_so_far(f"page, {name}", its)
    return samples


def _watching(browser: Browser, url: str, codec: str) -> Tab:
    """A page that keeps the latency of each frame."""
    tab = browser.tab((_ONLY % codec if codec else "") + _KEEP_LATENCIES)
    tab.size(960, 540)
    tab.open(f"{url}#panel=0")
    tab.call("Page.bringToFront")
    return tab


def _browser() -> psutil.Process:
    return next(each for each in psutil.Process().children() if "chrom" in each.name())


def _address(log: Path) -> str:
    """The address that a viewer prints."""
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        if log.exists() and (found := re.search(r"open (\S+) in a browser", log.read_text())):
            return found[1]
        time.sleep(0.05)
    raise SystemExit(f"the viewer did not start; see {log.read_text() if log.exists() else log}")


def with_node(seconds: float, rounds: int, folder: Path) -> dict[str, Samples]:
    """All ways of watching, in turn."""
    with running(folder) as (graph, ways):
        samples = {name: Samples() for name in ways}
        for name in tqdm([*ways] * rounds, disable=None):
            ways[name](graph, samples[name], seconds)
            _say_so_far(name, samples[name])
    return samples


def _say_so_far(name: str, samples: Samples) -> None:
    """A line on stderr, so that a run that is stopped was not in vain."""
    figures = ", ".join(f"{figure} {value:.1f}" for figure, value in samples.figures().items())
    tqdm.write(f"{name}, {samples.seconds:.0f} s: {figures}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each way in each round (default: %(default)g)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)d)")
    parser.add_argument("--without-node", action="store_true", help="measure the viewer alone, with one page")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a table")
    arguments = parser.parse_args()
    if find_browser() is None:
        raise SystemExit("no Chromium was found: install it (apt-get install chromium)")
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randrange(1, 100)))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.without_node:
            samples = without_node(arguments.seconds, arguments.rounds, Path(folder))
        else:
            samples = with_node(arguments.seconds, arguments.rounds, Path(folder))
    figures = {name: each.figures() for name, each in samples.items()}
    alone = figures.get("nobody", {})
    for each in figures.values():
        each |= {f"{name}_ratio": each[name] / alone[name] for name in ("node_p50_ms", "node_p95_ms") if name in alone}
    if arguments.json:
        print(json.dumps({"cores": os.cpu_count(), "load_before": load_before, "ways": figures}))
        return
    print(f"{os.cpu_count()} cores, load before the run {load_before:.1f}")
    for name, each in figures.items():
        print(name)
        for figure, value in each.items():
            print(f"  {figure:28s}{value:10.2f}")


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
