"""Throughput of one node with several cameras, compared with a node for each camera.

    python benchmarks/several_cameras.py [--cameras 2] [--seconds 10] [--rounds 3] [--width 768] [--model FILE] [--json]

The cameras send frames faster than the network can answer, so the rate of the maps is the machine's limit. One node and
several nodes are measured in turn, several times, and the ratio is that of the medians. Exits 1 if the ratio is below
--at-least.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any

import cv2

from sal360.errors import clean_end, one_line_errors
from sal360.images import read_picture
from sal360.samples import bundled_panoramas

WARM_UP_S = 2.0
RATE_HZ = 30.0


def cameras(topics: Sequence[str], width: int, stop: Any) -> None:
    """Publish one picture on every topic again and again, until told to stop; runs in a child process."""
    from sal360_ros.shared_memory import keep_freed_memory, use_shared_memory_profile

    keep_freed_memory()
    use_shared_memory_profile(len(topics) * 3 * width * width // 2)
    import rclpy
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from sal360_ros.messages import image_message
    from sal360_ros.qos import input_qos

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("benchmark_cameras")
    picture = read_picture(min(bundled_panoramas().glob("*.jpg")))
    picture = cv2.resize(picture, (width, width // 2), interpolation=cv2.INTER_AREA)
    message = image_message(picture, "bgr8", Header(frame_id="camera"))
    publishers = [node.create_publisher(Image, topic, input_qos()) for topic in topics]
    start_s, index = time.monotonic(), 0
    while not stop.wait(max(0.0, start_s + index / RATE_HZ - time.monotonic())):
        index = max(index + 1, int((time.monotonic() - start_s) * RATE_HZ))
        for publisher in publishers:
            message.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(message)
    rclpy.shutdown()


def maps_per_second(names: Sequence[str], arguments: argparse.Namespace, *, is_one_node: bool) -> float:
    """Maps per second of all cameras, from one node or from one node for each."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import Image

    from sal360_ros.processes import NodeProcess, bring_up

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C is ours
    node = rclpy.create_node("benchmark_subscriber")
    count = 0

    def received(_: Image) -> None:
        nonlocal count
        count += 1

    for name in names:
        node.create_subscription(Image, f"{name}/saliency", received, 10)
    spawn = get_context("spawn")
    stop = spawn.Event()
    topics = [f"{name}/image" for name in names]
    source = spawn.Process(target=cameras, args=(topics, arguments.width, stop), daemon=True)
    parameters: dict[str, Any] = {"model": arguments.model, "threads": arguments.threads}
    try:
        with ExitStack() as stack:
            for name, values, remappings in (
                [("", {"cameras": list(names)}, {})]
                if is_one_node
                else [(f"/{name}", {}, {"__ns": f"/{name}"}) for name in names]
            ):
                process = NodeProcess("sal360_ros.saliency_node", {**parameters, **values}, remappings)
                bring_up(node, f"{name}/saliency_node", stack.enter_context(process))
            source.start()
            while not count:
                rclpy.spin_once(node, timeout_sec=0.1)
            spin(node, WARM_UP_S)
            count, begin_s = 0, time.monotonic()
            spin(node, arguments.seconds)
            rate = count / (time.monotonic() - begin_s)
            stop.set()
            source.join()
    finally:
        node.destroy_node()
        rclpy.shutdown()
    return rate


def spin(node: Any, seconds: float) -> None:
    """Run callbacks for some seconds."""
    import rclpy

    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        rclpy.spin_once(node, timeout_sec=left_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=2, help="number of cameras (default: %(default)d)")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="duration of each measurement (default: %(default)g)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind (default: %(default)d)")
    parser.add_argument("--width", type=int, default=768, help="columns of the frames (default: %(default)d)")
    parser.add_argument("--model", default="", help="model file (default: the bundled model)")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads of a node; 0: the runtime's default (default: %(default)d)"
    )
    parser.add_argument("--at-least", type=float, default=0.0, help="smallest acceptable ratio (default: %(default)g)")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    arguments = parser.parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randrange(1, 100)))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    names = [f"camera_{number}" for number in range(1, arguments.cameras + 1)]
    rates: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(arguments.rounds):
        for is_one_node, found in rates.items():
            found.append(maps_per_second(names, arguments, is_one_node=is_one_node))
            print(f"{'one node' if is_one_node else 'a node each'}: {found[-1]:.1f} maps/s", file=sys.stderr)
    one, several = statistics.median(rates[True]), statistics.median(rates[False])
    result = {"cameras": len(names), "one_node_hz": one, "node_each_hz": several, "ratio": one / several}
    print(
        json.dumps(result) if arguments.json else "\n".join(f"{name:14s} {value:.2f}" for name, value in result.items())
    )
    return 1 if result["ratio"] < arguments.at_least else 0


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
