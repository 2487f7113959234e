"""Shared memory under load: torn reads, the time of a lookup and of a write: python benchmarks/shared_memory.py.

A process writes maps as fast as it can while a C program copies the newest, again and again: the content of each map
says whether the copy is of one writing. Exits with 1 if one is torn, if maps go back, or if a lookup takes longer than
1 µs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sal360.errors import ParameterError, clean_end, one_line_errors
from sal360.outputs.shared_memory import MapInfo, SharedMapWriter, include_path

READER = Path(__file__).with_name("shared_memory_reader.c")
MAX_LOOKUP_NS = 1000.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=10_000_000, help="maps that are read")
    parser.add_argument("--rays", type=int, default=10_000_000, help="rays that are looked up")
    parser.add_argument("--height", type=int, default=16, help="rows of the maps that are read, half their columns")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        program = compiled(Path(folder))
        found: dict[str, float] = torn_reads(program, options.reads, options.height)
        found |= {"lookup_ns": lookup_ns(program, options.rays), "write_us": write_us()}
    if options.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:10s} {value:.6g}" for name, value in found.items()))
    return 1 if found["torn"] or found["back"] or found["lookup_ns"] > MAX_LOOKUP_NS else 0


def compiled(folder: Path, *options: str, compiler: str = "cc") -> Path:
    """The C program, compiled into a folder.

    Raises:
        ParameterError: there is no compiler.
    """
    if shutil.which(compiler) is None:
        raise ParameterError(f"there is no {compiler}", "install a C compiler (apt install gcc)")
    program = folder / "reader"
    command = [
        compiler,
        *(options or ("-std=c99", "-O2")),
        f"-I{include_path()}",
        str(READER),
        "-o",
        str(program),
        "-lm",
    ]
    subprocess.run(command, check=True)
    return program


def torn_reads(program: Path, reads: int, height: int) -> dict[str, float]:
    """Counts of a C reader beside a writer at full speed."""
    name = f"benchmark_{os.getpid()}"
    stop, written = multiprocessing.Event(), multiprocessing.Value("L", 0)
    with SharedMapWriter(name, height, 2 * height) as writer:
        process = multiprocessing.get_context("fork").Process(target=_write, args=(writer, height, stop, written))
        process.start()
        try:
            done = subprocess.run([program, "torn", name, str(reads)], capture_output=True, text=True, check=True)
        finally:
            stop.set()
            process.join()
    counts = re.findall(r"(\w+) ([\d.]+)", done.stdout)
    return {key: float(value) for key, value in counts} | {"written": written.value}


def _write(writer: SharedMapWriter, height: int, stop: object, written: object) -> None:
    density = np.empty((height, 2 * height), np.float32)
    number = 0
    while not stop.is_set():  # type: ignore[attr-defined]
        for _ in range(1000):
            number += 1
            density.fill(number % 2**20)
            writer.write(density, MapInfo(stamp_ns=number, frame_id=str(number)))
    written.value = number  # type: ignore[attr-defined]


def lookup_ns(program: Path, rays: int) -> float:
    """Nanoseconds of a lookup in a map of the bundled model's size, for rays in random directions."""
    name = f"benchmark_{os.getpid()}"
    with SharedMapWriter(name, 96, 192) as writer:
        writer.write(np.random.default_rng(0).gamma(1, 1, (96, 192)).astype(np.float32), MapInfo())
        done = subprocess.run([program, "lookup", name, str(rays)], capture_output=True, text=True, check=True)
    found = re.search(r"lookup_ns ([\d.]+)", done.stdout)
    assert found is not None
    return float(found[1])


def write_us(rounds: int = 2000) -> float:
    """Microseconds of writing a map of the bundled model's size."""
    density = np.ones((96, 192), np.float32)
    with SharedMapWriter(f"benchmark_{os.getpid()}", 96, 192) as writer:
        begin_s = time.perf_counter()
        for number in range(rounds):
            writer.write(density, MapInfo(stamp_ns=number, frame_id="camera"))
        return (time.perf_counter() - begin_s) / rounds * 1e6


if __name__ == "__main__":
    with clean_end():  # it removes its shared memory even if it is stopped
        sys.exit(one_line_errors(main))
