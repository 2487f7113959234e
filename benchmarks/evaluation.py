"""Time of the evaluation of many large maps: python benchmarks/evaluation.py [--maps 200] [--against REPOSITORY].

A folder of maps is measured against recorded gaze by the command `python -m training.evaluate`, on data that are made
for it: panoramas with the gaze of 20 people and densities of 1024 x 2048, and maps of that size. With `--against`, a
copy of this repository at another commit measures the same folders, and the figures of both are compared.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from sal360.density import spherical_density
from sal360.errors import clean_end, one_line_errors
from sal360.sphere import angles_to_vector

HEIGHT, WIDTH = 1024, 2048
PEOPLE, FIXATIONS = 20, 25
PROTOCOLS = ("standard", "paper")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=200, help="number of panoramas, each with one map")
    parser.add_argument("--against", default="", help="folder of another copy of this repository")
    parser.add_argument("--protocols", nargs="+", default=PROTOCOLS)
    parser.add_argument("--options", nargs="*", default=[], help="more options of training.evaluate, for this copy")
    arguments = parser.parse_args()
    here = str(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_data(root, arguments.maps)
        own = _measure(here, root, arguments.protocols, arguments.options)
        result: dict[str, object] = {"maps": arguments.maps, "cores": len(os.sched_getaffinity(0)), "s": round(own, 1)}
        if arguments.against:
            other = _measure(arguments.against, root, arguments.protocols, [])
            result |= {"s_of_other": round(other, 1), "ratio": round(other / own, 2)}
            result["largest_difference"] = largest_difference(
                *(root / _name(each) for each in (here, arguments.against))
            )
    print(json.dumps(result))


def make_data(root: Path, count: int) -> None:
    """A copy of Salient360! with `count` pictures to validate on, and two to fit priors to, and a folder of maps."""
    generator = np.random.default_rng(0)
    (root / "data").mkdir()
    (root / "maps").mkdir()
    for number in [1, 2, *range(75, 75 + count)]:
        cv2.imwrite(str(root / f"data/P{number}_512x256.jpg"), generator.integers(0, 255, (256, 512, 3), np.uint8))
        azimuth, elevation = generator.normal(0, (1.2, 0.4), (PEOPLE * FIXATIONS, 2)).T
        _write_scanpath(root / f"data/HEscanpath_{number}.txt", azimuth, elevation)
        truth, other = (
            np.asarray(
                cv2.resize(
                    spherical_density(angles_to_vector(azimuth + off, elevation), 128, 256, 3.34), (WIDTH, HEIGHT)
                ),
                np.float32,
            )
            for off in (0.0, 0.1)
        )
        truth.tofile(root / f"data/HEsalmap_{number}_{WIDTH}x{HEIGHT}_32b.bin")
        if number > 2:
            noise = generator.random((HEIGHT, WIDTH), np.float32)
            (other + 0.2 * noise).tofile(root / f"maps/P{number}_{WIDTH}x{HEIGHT}_32b.bin")


def _write_scanpath(path: Path, azimuth: np.ndarray, elevation: np.ndarray) -> None:
    lines = ["Idx, longitude, latitude, start timestamp"]
    for index, (one, other) in enumerate(zip(azimuth, elevation, strict=True)):
        x, y = (0.5 - one / (2 * np.pi)) % 1, np.clip(0.5 - other / np.pi, 0, 1)
        lines.append(f"{index % FIXATIONS}, {x:.6f}, {y:.6f}, {200 * (index % FIXATIONS)}")
    path.write_text("\n".join(lines) + "\n")


def _measure(repository: str, root: Path, protocols: list[str], options: list[str]) -> float:
    """Seconds of the command of one copy of this repository."""
    command = [sys.executable, "-m", "training.evaluate", "--data.dataset", "salient360", "--data.root", "data"]
    command += ["--models", "[maps]", "--baselines", "[]", "--protocols", f"[{','.join(protocols)}]"]
    command += ["--output", _name(repository), "--examples", "0", "--cases", "0", *options]
    environment = {**os.environ, "PYTHONPATH": repository}
    start = time.perf_counter()
    subprocess.run(command, cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _name(repository: str) -> str:
    """Folder of the figures of a copy."""
    return "out" + str(Path(repository).resolve()).replace("/", "_")


def largest_difference(one: Path, other: Path) -> float:
    """The largest difference between the figures of two evaluations of the same records."""
    tables = [list(csv.reader((each / "scores.csv").open())) for each in (one, other)]
    largest = 0.0
    for row, other_row in zip(*tables, strict=True):
        for value, other_value in zip(row, other_row, strict=True):
            try:
                largest = max(largest, abs(float(value) - float(other_value)))
            except ValueError:
                if value != other_value:
                    raise SystemExit(f"{value} is not {other_value}") from None
    return largest


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
