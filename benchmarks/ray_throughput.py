"""Throughput with Ray against as many plain processes: python benchmarks/ray_throughput.py [--workers N].

Copies of a bundled panorama at the given size are predicted by `sal360 predict --ray` with N workers, and by N
processes `sal360 predict`, each with its share, in turns. The rate is that of the middle 80 % of the maps, so that
neither the start of Ray nor that of Python counts, which take seconds in runs of hours; --whole counts everything.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import ray

from sal360.errors import clean_end, one_line_errors
from sal360.samples import bundled_panoramas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="workers, and plain processes; one core each")
    parser.add_argument("--pictures", type=int, default=200, help="number of pictures")
    parser.add_argument("--width", type=int, default=2048, help="of the pictures, pixels")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--whole", action="store_true", help="measure from the commands' start to their end")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.workers])  # of Ray's processes, too
    ray.init(num_cpus=arguments.workers, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder, arguments.pictures, arguments.width, arguments.workers)
        plain = [[str(folder / f"in/{part}")] for part in range(arguments.workers)]
        with_ray = [str(folder / "in"), "--recursive", "--ray", ray.get_runtime_context().gcs_address]
        rates: dict[str, list[float]] = {"plain": [], "ray": []}
        for _ in range(arguments.rounds):
            rates["plain"].append(rate(plain, folder, whole=arguments.whole))
            rates["ray"].append(rate([with_ray], folder, whole=arguments.whole))
    ratio = statistics.median(rates["ray"]) / statistics.median(rates["plain"])
    print(json.dumps({"maps_per_s": rates, "ratio_of_medians": round(ratio, 3)}))


def make_pictures(folder: Path, number: int, width: int, parts: int) -> None:
    """The same panorama under many names, in a folder for each plain process."""
    panorama = cv2.imread(str(bundled_panoramas() / "courtyard.jpg"))
    encoded = cv2.imencode(".jpg", cv2.resize(panorama, (width, width // 2)))[1].tobytes()
    for index in range(number):
        path = folder / "in" / str(index % parts) / f"{index:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)


def rate(commands: Sequence[Sequence[str]], folder: Path, *, whole: bool) -> float:
    """Maps per second of commands that run side by side."""
    output = folder / "out"
    started = time.time()
    options = ["--device=cpu", "--threads=1", f"--output={output}", "--no-overlays"]
    running = [subprocess.Popen([sys.executable, "-m", "sal360", "predict", *each, *options]) for each in commands]
    try:
        statuses = [each.wait() for each in running]
    finally:
        for each in running:
            each.terminate()  # does nothing to those that have ended
    if any(statuses):
        raise SystemExit("a command failed")
    times = sorted(each.stat().st_mtime for each in output.rglob("*.npy"))
    shutil.rmtree(output)
    if whole:
        return len(times) / (time.time() - started)
    # without the beginning and the end, when some workers still start or wait
    first, last = len(times) // 10, len(times) - 1 - len(times) // 10
    return (last - first) / (times[last] - times[first])


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
