"""Endurance test: a camera at 30 Hz and random faults against the real node; exits 1 if anything grows or stays down.

    python benchmarks/soak.py --minutes 30 [--cameras] [--plot soak.png] [--log node.log] [--json]

Every fault of `faults.py` happens once as a warm-up, then in random order. Once per second, the map rate and the node's
memory, threads, file handles and shared-memory files are sampled. The minimum of the last third is compared with that
of the second third: large frames and crowds of subscribers cause peaks, the heap needs minutes to settle, but a leak
raises the minimum. After each fault, a map of a new frame must arrive within a second, plus the time that it takes
without a fault, which is measured first: a machine that is busy with other work needs longer. Where inference fails for
long or hangs, the fault ends when the node has opened its model again. A node that refuses a transition is reported
with its last errors, and taken back to the state active. Its inputs include a simulated clock and an IMU.

With --cameras, the node has three cameras: the one with the faults, a dual fisheye, and a cube map that comes and goes.
After each fault, all three must have a map within that time, and while one is away, the others must have theirs.
"""

from __future__ import annotations

import argparse
import json
import math
import mmap
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from faults import CAMERAS, HANG_S, MAX_FAILURES, NODE, SIZES, Faults, World, camera_parameters
from faulty_node import NONE, VARIABLE, mapped
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from tqdm import tqdm

from sal360.errors import ParameterError, clean_end, one_line_errors
from sal360.files import written_beside
from sal360_ros.processes import NodeProcess, ProcessError, bring_up
from sal360_ros.qos import input_qos
from sal360_ros.shared_memory import keep_freed_memory, use_shared_memory_profile

RATE_HZ = 30.0
RECOVERY_LIMIT_S = 1.0
GIVE_UP_S = 30.0
CALM_S = 10.0
ALLOWED_GROWTH = {"memory_mb": 16.0, "threads": 0, "handles": 0, "shared_memory_files": 0}


class FrameCounts:
    """Totals of the node's frames, from its diagnostics, which begin at 0 whenever it is activated."""

    KEYS = ("received", "answered", "dropped_stale", "rejected", "lost_in_transport")

    def __init__(self) -> None:
        self._ended: Counter[str] = Counter()
        self._current: dict[str, Counter[str]] = {}

    def add(self, status: DiagnosticStatus) -> None:
        """Take the newest status of a camera into account."""
        values = Counter({pair.key: int(pair.value) for pair in status.values if pair.key in self.KEYS})
        before = self._current.get(status.name, Counter())
        if values["received"] < before["received"]:
            self._ended += before
        self._current[status.name] = values

    def totals(self) -> dict[str, int]:
        """The number of frames of all cameras, by what became of them; an activation's last second may be missing."""
        totals = sum(self._current.values(), start=self._ended)
        return {key: totals[key] for key in self.KEYS}


class Soak:
    """The driver: cameras, subscriber and observer of one node process."""

    def __init__(
        self, process: NodeProcess, parameters: Mapping[str, Any], command: mmap.mmap, folder: Path, seed: int
    ) -> None:
        self._process = process
        self._watched = psutil.Process(process.pid)
        self._node = rclpy.create_node("soak")
        has_several = "cameras" in parameters
        self._newest_stamp_s = dict.fromkeys(CAMERAS if has_several else [""], 0.0)
        """Camera → stamp of its newest map."""
        self._maps = 0
        self._begin_s = time.monotonic()
        self._next_sample_s = self._begin_s
        self.frames = FrameCounts()
        self.samples: list[dict[str, float]] = []
        self.recoveries: list[tuple[str, float]] = []
        for name in self._newest_stamp_s:
            topic = f"{name}/saliency" if name else "saliency"
            self._node.create_subscription(Image, topic, partial(self._on_map, name), input_qos(depth=10))
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        bring_up(self._node, NODE, process)
        self._world = World(self._node, RATE_HZ, has_several=has_several)
        self._faults = Faults(
            self._node, process, self._world, parameters, command, folder, self.spin, self.silent_since, seed
        )
        self.troubles = self._faults.troubles
        self.crowds = self._faults.crowds
        self._random = random.Random(seed)

    def _on_map(self, camera: str, message: Image) -> None:
        self._maps += 1
        self._newest_stamp_s[camera] = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(f"{NODE}: "):  # and not that of a second node
                self.frames.add(status)

    def silent_since(self, time_s: float, besides: str = "") -> list[str]:
        """The cameras, besides one, without a map of a frame after `time_s`, or with one from the far future."""
        return [
            name
            for name, stamp_s in self._newest_stamp_s.items()
            if not (time_s <= stamp_s < time_s + GIVE_UP_S or (besides and name == besides))
        ]

    def spin(self, seconds: float) -> None:
        """Run callbacks and take samples for some seconds."""
        end_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < end_s:
            rclpy.spin_once(self._node, timeout_sec=min(0.05, end_s - now_s))
            if time.monotonic() >= self._next_sample_s:
                self._sample()

    def _sample(self) -> None:
        self._process.check_alive()
        now_s = time.monotonic()
        self.samples.append(
            {
                "time_s": now_s - self._begin_s,
                "maps_hz": self._maps / (now_s - (self._next_sample_s - 1)),
                "memory_mb": self._watched.memory_info().rss / 2**20,
                "threads": self._watched.num_threads(),
                "handles": self._watched.num_fds(),
                "shared_memory_files": len(self.shared_memory_files()),
            }
        )
        self._maps = 0
        self._next_sample_s = now_s + 1

    def shared_memory_files(self) -> list[str]:
        """The middleware's files in /dev/shm that the node has mapped."""
        return [each.path for each in self._watched.memory_maps() if each.path.startswith("/dev/shm/fast")]

    @property
    def calm_s(self) -> float:
        """How long the next map of every camera takes at most without a fault."""
        return self._faults.calm_s

    def _measure_calm(self) -> None:
        self._until_all_have_maps()
        end_s = time.monotonic() + CALM_S
        while time.monotonic() < end_s:
            self._faults.calm_s = max(self._faults.calm_s, self._until_all_have_maps())

    def _until_all_have_maps(self) -> float:
        """Wait at most `GIVE_UP_S` until every camera has a map of a new frame; returns the seconds that it took."""
        over_s, over = time.time(), time.monotonic()
        while self.silent_since(over_s) and time.monotonic() < over + GIVE_UP_S:
            self.spin(0.005)
        return time.monotonic() - over

    def run_fault(self, name: str) -> None:
        """Run one fault and measure the time from its end to the next map of every camera.

        Raises:
            ProcessError: the node has ended.
        """
        try:
            self._faults.all[name]()
        except ProcessError as error:
            self._repair(f"{name}: {error}")
        seconds = self._until_all_have_maps()
        self.recoveries.append((name, seconds))
        if seconds >= GIVE_UP_S:
            self._repair(f"no maps within {GIVE_UP_S:g} s after {name}")

    def _repair(self, trouble: str) -> None:
        """Note a trouble with what the node says about it, and take the node back to its work."""
        self._process.check_alive()
        self.troubles.append(f"{trouble} (the node's last errors: {'; '.join(self._errors()[-3:]) or 'none'})")
        self._faults.restore()

    def _errors(self) -> list[str]:
        assert self._process.log is not None
        return [line for line in self._process.log.read_text().splitlines() if line.startswith("[ERROR]")]

    def run(self, minutes: float) -> None:
        """Every fault once, then random ones, 0.5 to 2 s apart."""
        self._measure_calm()
        for name in self._faults.all:
            self.run_fault(name)
            self.spin(1.0)
        self.samples.clear()
        begin_s = time.monotonic()
        with tqdm(total=round(60 * minutes), unit="s", disable=not sys.stderr.isatty()) as progress:
            while (passed_s := time.monotonic() - begin_s) < 60 * minutes:
                self.run_fault(self._random.choice(list(self._faults.all)))
                self.spin(self._random.uniform(0.5, 2.0))
                progress.update(round(passed_s) - progress.n)

    def close(self) -> None:
        """Stop the node's inputs and leave the graph."""
        self._world.stop()
        self._node.destroy_node()


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start the node, run the faults, stop it, and judge.

    Args:
        folder: for logs and engines.
    """
    log, fault = arguments.log or folder / "node.log", folder / "fault"
    fault.write_bytes(bytes([NONE]))
    os.environ["XDG_CACHE_HOME"] = os.fspath(folder / "cache")
    path = os.pathsep.join(filter(None, (os.fspath(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    parameters = {
        "model": arguments.model,
        "use_sim_time": True,
        **(camera_parameters() if arguments.cameras else {"orientation": "imu"}),
        "health.max_failures": MAX_FAILURES,
        "health.hang_s": HANG_S,
    }
    environment = {"PYTHONPATH": path, VARIABLE: os.fspath(fault)}
    others = {os.fspath(each) for each in Path("/dev/shm").glob("fast*")}  # of other processes, alive or dead
    with NodeProcess("faulty_node", parameters, environment=environment, log=log) as process:
        soak = Soak(process, parameters, mapped(fault), folder, arguments.seed)
        try:
            soak.run(arguments.minutes)
        finally:
            soak.close()
        mapped_files = soak.shared_memory_files()
        status = process.stop()
    rclpy.shutdown()
    result = judge(soak)
    if status != 0 or "Traceback" in log.read_text():
        result["troubles"].append(f"the node ended with status {status}: {log.read_text()[-2000:]}")
    left = [each for each in mapped_files if Path(each).exists() and each not in others]
    if left:
        result["troubles"].append(f"left in shared memory: {', '.join(left)}")
    return result


def floor(samples: list[dict[str, float]], name: str) -> float:
    return min(sample[name] for sample in samples)


def judge(soak: Soak) -> dict[str, Any]:
    """The figures of a run, and its troubles."""
    third = len(soak.samples) // 3
    troubles = []
    growth = {}
    for name, allowed in ALLOWED_GROWTH.items():
        growth[name] = floor(soak.samples[-third:], name) - floor(soak.samples[third : 2 * third], name)
        if growth[name] > allowed:
            troubles.append(f"{name} grew by {growth[name]:g}, more than the allowed {allowed:g}")
    taken: dict[str, list[float]] = {}
    for name, seconds in soak.recoveries:
        taken.setdefault(name, []).append(seconds)
    limit_s = RECOVERY_LIMIT_S + soak.calm_s
    slow = {name: max(seconds) for name, seconds in taken.items() if max(seconds) > limit_s}
    troubles += [f"recovery from {name} took {seconds:.2f} s" for name, seconds in slow.items()]
    troubles += soak.troubles
    if soak.crowds["failed"]:
        troubles.append(f"{soak.crowds['failed']} crowds of subscribers ended with an error")
    rates = sorted(sample["maps_hz"] for sample in soak.samples)
    return {
        "faults": len(soak.recoveries),
        "maps_hz_median": rates[len(rates) // 2],
        "memory_mb_max": max(sample["memory_mb"] for sample in soak.samples),
        "growth": growth,
        "recovery_median_and_slowest_s": {name: (median(each), max(each)) for name, each in sorted(taken.items())},
        "without_fault_s": soak.calm_s,
        "frames": soak.frames.totals(),
        "subscriber_crowds": dict(soak.crowds),
        "troubles": troubles,
        "samples": soak.samples,
    }


def plot(samples: list[dict[str, float]], path: Path) -> None:
    """Plot each value over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = ["maps_hz", *ALLOWED_GROWTH]
    figure, axes = pyplot.subplots(len(names), sharex=True, figsize=(9, 9), layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        axis.plot([sample["time_s"] / 60 for sample in samples], [sample[name] for sample in samples])
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("minutes")
    with written_beside(path) as temporary:
        figure.savefig(temporary)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes",
        type=float,
        default=30.0,
        help="duration; below 20 minutes the heap has not settled, and memory may seem to grow (default: %(default)g)",
    )
    parser.add_argument("--cameras", action="store_true", help="three cameras of different formats")
    parser.add_argument("--model", default="", help="model file (default: the bundled model)")
    parser.add_argument("--seed", type=int, default=360, help="seed of the random faults (default: %(default)d)")
    parser.add_argument("--plot", type=Path, help="write a plot of the samples over time to this file")
    parser.add_argument("--log", type=Path, help="keep the node's log in this file")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a summary")
    arguments = parser.parse_args()
    if not arguments.minutes >= 0.2:
        raise ParameterError(
            f"--minutes is {arguments.minutes:g}",
            "use 30 minutes to distinguish a leak from a heap that settles",
            expected="at least 0.2",
        )
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randrange(1, 100)))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    keep_freed_memory()
    use_shared_memory_profile(3 * math.prod(SIZES[-1]))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C is ours
    with TemporaryDirectory(prefix="sal360-soak-") as name:
        result = run(arguments, Path(name))
        if arguments.plot:  # while the folder exists: matplotlib's cache is in it, like the node's
            plot(result["samples"], arguments.plot)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            if name != "samples":
                print(f"{name:20s} {value}")
    return 1 if result["troubles"] else 0


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
