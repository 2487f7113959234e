"""Run a 360° camera and the saliency node on a live ROS 2 graph and measure what a subscriber receives.

Camera and node are child processes. This process subscribes to `saliency`, reports rate and latency, records the
overlay, and fails if any of this is missing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sal360.arrays import Pixels
from sal360.cli.options import CommandParser, Useless, as_declared, in_range, refuse_useless
from sal360.errors import Sal360Error, clean_end, require_modules
from sal360.files import written_beside
from sal360.images import decode_image, write_picture
from sal360.sources.bag_files import is_bag
from sal360.sources.stream_address import stream_address
from sal360_ros.environment import check_environment, ros_start_errors
from sal360_ros.parameters import CameraParameters
from sal360_ros.shared_memory import keep_freed_memory, remember_segments, use_shared_memory_profile

_FIRST_MAP_TIMEOUT_S = 30.0


class DemoError(Sal360Error):
    """A part of the demo did not work."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns 0 when every part of it worked."""
    options = _parse(arguments)
    is_live = stream_address(options.source) is not None
    is_recorded = bool(options.source) and not is_live and is_bag(Path(options.source))
    refuse_useless(
        options,
        [
            Useless("without a bag", not is_recorded, "--topic"),
            Useless("for a live stream, which has its own rate", is_live, "--rate"),
        ],
    )
    require_modules("av")  # which writes the overlay at the end
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")  # keep the demo off the network
    keep_freed_memory()
    use_shared_memory_profile(0)  # this process only receives
    check_environment()
    with clean_end(), _running_graph(options, output) as (node, check):
        latency_s, seconds, status = _measure(node, check, options.seconds, output)
        _report(latency_s, seconds, status, options)
        picture, video, frames = _record_overlay(node, check, options.seconds / 2, output)
    print(f"  overlay         {frames} frames in {video}\n                  the last one in {picture}")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser("demo [SOURCE]", __doc__)
    add = parser.add_argument
    add(
        "source",
        nargs="?",
        default="",
        metavar="SOURCE",
        help="picture, folder, video, bag or live stream (default: the bundled panoramas)",
    )
    add("--output", type=Path, default=Path("out/demo"), metavar="DIR", help="output folder")
    add("--topic", default="", help="image topic of a bag (default: the only one)")
    add(
        "--seconds",
        type=in_range(float, 0.1, 86400),
        default=8.0,
        metavar="S",
        help="duration of the measurement, seconds",
    )
    camera = CameraParameters()
    add(
        "--rate",
        type=as_declared(camera, "rate_hz"),
        default=30.0,
        metavar="HZ",
        help="camera frames per second; videos and bags are played at this rate as well",
    )
    add(
        "--height",
        type=as_declared(camera, "height_px"),
        default=960,
        metavar="H",
        help="height of the camera frames, pixels; 0: the source's",
    )
    add(
        "--model",
        default="",
        metavar="FILE",
        help='model file, or "permissive" (default: the bundled model of all data sets)',
    )
    return parser.parse_args(arguments)


@contextmanager
def _running_graph(options: argparse.Namespace, output: Path) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Start an active saliency node and a camera; yield a node of this process and a check that both still run."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from sal360_ros.processes import NodeProcess, bring_up, unique_name

    namespace = unique_name("/sal360_demo")  # demos at the same time do not hear each other
    names = {"__ns": namespace}
    camera_parameters = {
        "source": options.source,
        "source_topic": options.topic,
        "rate_hz": options.rate,
        "height_px": options.height,
    }
    logs = output / "saliency_node.log", output / "panorama_camera.log"
    with ros_start_errors():
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C stays Python's own
        node = rclpy.create_node("subscriber", namespace=namespace)
    remember_segments()
    try:
        with NodeProcess(
            "sal360_ros.saliency_node", {"model": options.model, "encoding": "32FC1"}, names, log=logs[0]
        ) as saliency:
            bring_up(node, f"{namespace}/saliency_node", saliency)
            with NodeProcess("sal360_ros.panorama_camera", camera_parameters, names, log=logs[1]) as camera:

                def check() -> None:
                    saliency.check_alive()
                    camera.check_alive()

                try:
                    yield node, check
                except DemoError as error:
                    raise DemoError(
                        f"{error.found}; the node's last message: {saliency.last_error()}", error.remedy
                    ) from error
    finally:
        node.destroy_node()
        rclpy.shutdown()


def _measure(
    node: Any, check: Callable[[], None], duration_s: float, output: Path
) -> tuple[list[float], float, dict[str, str]]:
    """Latency of each map from stamp to arrival, the duration of the measurement, and the node's diagnostics."""
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import Image

    from sal360_ros.qos import input_qos

    latency_s: list[float] = []
    status: dict[str, str] = {}

    def on_map(message: Image) -> None:
        now_s = node.get_clock().now().nanoseconds / 1e9
        density = np.frombuffer(message.data, np.float32)
        if not np.isfinite(density).all() or density.max() <= 0:
            raise DemoError("a map is empty or not finite", "choose another --model")
        latency_s.append(now_s - (message.header.stamp.sec + message.header.stamp.nanosec / 1e9))

    def on_diagnostics(message: DiagnosticArray) -> None:
        for each in message.status:
            if each.name.startswith(f"{node.get_namespace()}/"):
                status.update((pair.key, pair.value) for pair in each.values)

    subscription = node.create_subscription(Image, "saliency", on_map, input_qos(depth=10))
    diagnostics = node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
    _spin(node, check, _FIRST_MAP_TIMEOUT_S, "waiting for the first map", until=lambda: bool(latency_s))
    if not latency_s:
        raise DemoError(f"no map arrived within {_FIRST_MAP_TIMEOUT_S:g} s", f"see the logs in {output}")
    latency_s.clear()
    seconds = _spin(node, check, duration_s, "measuring")
    if not latency_s or not status:
        missing = "maps" if not latency_s else "diagnostics"
        raise DemoError(f"no {missing} arrived within {seconds:.0f} s", f"see the logs in {output}")
    node.destroy_subscription(subscription)
    node.destroy_subscription(diagnostics)
    return latency_s, seconds, status


def _report(latency_s: list[float], seconds: float, status: dict[str, str], options: argparse.Namespace) -> None:
    p50_ms, p95_ms = 1e3 * np.percentile(latency_s, (50, 95))
    print(f"  model           {status.get('model', '?')}")
    rows = f"frames of {options.height} rows" if options.height else "frames of the source's size"
    print(f"  camera          {rows}, {float(status.get('received_hz', 'nan')):.1f} per second arrived")
    print(f"  maps            {len(latency_s) / seconds:.1f} per second")
    print(f"  latency         p50 {p50_ms:.1f} ms, p95 {p95_ms:.1f} ms from the frame's stamp to the subscriber")
    counted = {name: status.get(name, "?") for name in ("received", "answered", "dropped_stale", "lost_in_transport")}
    print(
        "  frames          {received} received, {answered} answered, {dropped_stale} replaced by a newer one, "
        "{lost_in_transport} lost in transport".format(**counted)
    )


def _record_overlay(node: Any, check: Callable[[], None], duration_s: float, output: Path) -> tuple[Path, Path, int]:
    """Record `saliency/overlay`; returns the paths of the last picture and of the video, and the number of frames."""
    from sensor_msgs.msg import Image

    from sal360.replay.recorders import OverlayVideo
    from sal360_ros.qos import input_qos

    picture_path, video_path = output / "overlay.png", output / "overlay.mp4"
    last: list[Pixels] = []
    count = 0
    with written_beside(video_path) as temporary, OverlayVideo(temporary) as video:

        def on_overlay(message: Image) -> None:
            nonlocal count
            picture, _ = decode_image(message.encoding, message.height, message.width, message.step, message.data)
            video.write(picture, message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)
            last[:] = [picture]
            count += 1

        subscription = node.create_subscription(Image, "saliency/overlay", on_overlay, input_qos(depth=10))
        _spin(node, check, duration_s, "recording the overlay")
        if not last:  # on a busy machine, or if encoding takes long
            _spin(node, check, _FIRST_MAP_TIMEOUT_S, "waiting for the overlay", until=lambda: bool(last))
        node.destroy_subscription(subscription)
        if not last:
            raise DemoError("no overlay arrived", f"see the logs in {output}")
    write_picture(picture_path, last[0])
    return picture_path, video_path, count


def _spin(
    node: Any, check: Callable[[], None], duration_s: float, what: str, until: Callable[[], bool] = lambda: False
) -> float:
    """Handle messages for `duration_s` or until `until` is true; returns the elapsed seconds."""
    import rclpy
    from tqdm import tqdm

    start_s = time.monotonic()
    elapsed_s = 0.0
    is_terminal = sys.stderr.isatty()
    if not is_terminal:
        print(f"{what}, {duration_s:g} s", file=sys.stderr, flush=True)
    with tqdm(
        total=round(duration_s, 1),
        desc=what,
        unit="s",
        leave=False,
        bar_format="{desc} {bar} {n:.0f} s",
        disable=not is_terminal,
    ) as bar:
        while elapsed_s < duration_s and not until():
            check()
            rclpy.spin_once(node, timeout_sec=0.1)
            elapsed_s = time.monotonic() - start_s
            bar.update(min(elapsed_s, duration_s) - bar.n)
    return elapsed_s
