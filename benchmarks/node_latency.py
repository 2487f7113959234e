"""Loss and latency from a camera process through the real node to a subscriber.

    python benchmarks/node_latency.py [--seconds 10] [--model FILE] [--threads N] [--all-outputs] [--json]

The camera publishes best-effort frames with depth 1 through the shared-memory profile: the hardest case, since nothing
is sent twice. A frame counts as handled if its map arrived or a newer frame replaced it in the node; frames lost in
transport are counted separately. With --all-outputs, the subscriber takes every topic of the node at once, and the rate
of each is measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import psutil

from sal360.errors import clean_end, one_line_errors
from sal360.images import read_picture
from sal360.samples import bundled_panoramas

WARM_UP_S = 2.0


@dataclass(frozen=True)
class Case:
    """One camera."""

    width: int
    height: int
    rate_hz: float
    transport: str = "raw"

    def __str__(self) -> str:
        return f"{self.width} x {self.height} {self.transport} at {self.rate_hz:g} Hz"


CASES = (
    Case(640, 320, 30.0),
    Case(1920, 960, 30.0),
    Case(3840, 1920, 10.0),
    Case(3840, 1920, 10.0, "compressed"),
)


def camera(case: Case, seconds: float, published: Any) -> None:
    """Publish one picture again and again with new stamps, then report the stamps; runs in a child process."""
    from sal360_ros.shared_memory import keep_freed_memory, use_shared_memory_profile

    keep_freed_memory()
    use_shared_memory_profile(3 * case.width * case.height)
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import CompressedImage
    from std_msgs.msg import Header

    from sal360_ros.messages import image_message

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("benchmark_camera")
    picture = read_picture(min(bundled_panoramas().glob("*.jpg")))
    picture = cv2.resize(picture, (case.width, case.height), interpolation=cv2.INTER_CUBIC)
    if case.transport == "raw":
        message, topic = image_message(picture, "bgr8", Header(frame_id="camera")), "image"
    else:
        message, topic = CompressedImage(header=Header(frame_id="camera"), format="jpeg"), "image/compressed"
        message.data.frombytes(cv2.imencode(".jpg", picture)[1].data)
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = node.create_publisher(type(message), topic, qos)
    while publisher.get_subscription_count() == 0:
        time.sleep(0.02)
    time.sleep(0.5)
    stamps, start_s = [], time.monotonic()
    for index in range(round((WARM_UP_S + seconds) * case.rate_hz)):
        time.sleep(max(0.0, start_s + index / case.rate_hz - time.monotonic()))
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        stamps.append(stamp_ns(message))
    published.put(stamps)
    time.sleep(1.0)  # the last frame may still be in transport
    rclpy.shutdown()


def stamp_ns(message: Any) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def measure(case: Case, seconds: float, node_parameters: dict[str, Any], *, all_outputs: bool) -> dict[str, Any]:
    """Run one case with these node parameters and return its figures."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from faults import OUTPUTS
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import Image

    from sal360_ros.processes import NodeProcess, bring_up
    from sal360_ros.qos import input_qos

    parameters = {**node_parameters, "image_transport": case.transport}
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C is ours
    node = rclpy.create_node("benchmark_subscriber")
    arrivals: dict[int, int] = {}
    status: dict[str, str] = {}
    node.create_subscription(
        Image, "saliency", lambda message: arrivals.update({stamp_ns(message): time.time_ns()}), 10
    )
    node.create_subscription(
        DiagnosticArray,
        "/diagnostics",
        lambda array: status.update({pair.key: pair.value for pair in array.status[0].values}),
        10,
    )
    counts: Counter[str] = Counter()
    for topic, kind in OUTPUTS.items() if all_outputs else ():
        node.create_subscription(kind, topic, lambda _, topic=topic: counts.update([topic]), input_qos(depth=10))
    spawn = multiprocessing.get_context("spawn")
    published = spawn.Queue()
    try:
        with NodeProcess("sal360_ros.saliency_node", parameters) as process:
            bring_up(node, "/saliency_node", process)
            source = spawn.Process(target=camera, args=(case, seconds, published), daemon=True)
            source.start()
            watched = psutil.Process(process.pid)
            while not arrivals:
                process.check_alive()
                rclpy.spin_once(node, timeout_sec=0.1)
            begin_s, begin_answers, begin_cpu_s = time.monotonic(), len(arrivals), cpu_s(watched)
            counts.clear()
            while published.empty():
                rclpy.spin_once(node, timeout_sec=0.1)
            cpu_per_answer_s = (cpu_s(watched) - begin_cpu_s) / max(1, len(arrivals) - begin_answers)
            passed_s = time.monotonic() - begin_s
            rate_hz = (len(arrivals) - begin_answers) / passed_s
            rates_hz = {f"{topic} Hz": count / passed_s for topic, count in counts.items()}
            stamps = published.get()
            end_s = time.monotonic() + 2.5  # until diagnostics contain all frames
            while time.monotonic() < end_s:
                rclpy.spin_once(node, timeout_sec=0.1)
            memory_mb = watched.memory_info().rss / 2**20
            source.join()
    finally:
        node.destroy_node()
        rclpy.shutdown()
    settled = stamps[round(WARM_UP_S * case.rate_hz) :]
    delays_ms = [(arrivals[stamp] - stamp) * 1e-6 for stamp in settled if stamp in arrivals]
    lost, rejected = int(status["lost_in_transport"]), int(status["rejected"])
    return {
        "case": asdict(case),
        "published": len(stamps),
        "lost_in_transport": lost,
        "received_share": int(status["received"]) / len(stamps),
        "handled_share": 1 - (lost + rejected) / len(stamps),
        "answered_share": len(arrivals) / len(stamps),
        "map_rate_hz": rate_hz,
        **rates_hz,
        "stamp_to_arrival_p50_ms": float(np.percentile(delays_ms, 50)),
        "stamp_to_arrival_p95_ms": float(np.percentile(delays_ms, 95)),
        "stamp_to_publish_p95_ms": float(status["stamp_to_publish_p95_ms"]),
        "processing_p50_ms": float(status["processing_p50_ms"]),
        "cpu_per_answer_ms": 1e3 * cpu_per_answer_s,
        "memory_mb": memory_mb,
        "backend": status["backend"],
    }


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="duration of each case, after a warm-up (default: %(default)g)"
    )
    parser.add_argument("--model", default="", help="model file (default: the bundled model)")
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        help="CPU threads of the model; 0: the runtime's default (default: %(default)d)",
    )
    parser.add_argument("--all-outputs", action="store_true", help="subscribe to all topics of the node")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a table")
    arguments = parser.parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randrange(1, 100)))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    results = []
    for case in CASES:
        print(f"{case} …", file=sys.stderr)
        node_parameters = {"model": arguments.model, "threads": arguments.threads}
        results.append(measure(case, arguments.seconds, node_parameters, all_outputs=arguments.all_outputs))
    if arguments.json:
        print(json.dumps({"cases": results}))
        return
    for case, result in zip(CASES, results, strict=True):
        print(f"{case} ({result['backend']})")
        for name, value in result.items():
            if isinstance(value, float):
                print(f"  {name:26s}{value:10.2f}")


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
