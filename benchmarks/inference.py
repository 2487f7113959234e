"""Inference on the CPU: python benchmarks/inference.py [MODEL…] [--threads N] [--rounds N] [--json].

Runs each model file (default: both forms of the bundled model) with each runtime that is installed, in each of its
precisions; all take turns. Reports median and minimum, the ratio of minima to the first row, and the share of the peak
that this machine reaches in that precision (see peak.py). The operations of a model are counted from its graph.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from interleaved import interleaved_seconds, summary_ms
from peak import write_probe

from sal360.errors import ModelError, clean_end, one_line_errors
from sal360.runtimes import Backend, open_model
from sal360.runtimes.selection import BACKENDS
from sal360.spec import read_onnx_spec
from sal360.weights import bundled_model
from training.exporting.graph_cost import graph_cost

PROBE_HEIGHT, PROBE_LAYERS = 40, 4
"""15 GFLOP, whose data fit into a CPU's cache."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    both = [bundled_model(), bundled_model("int8")]
    parser.add_argument("models", type=Path, nargs="*", default=both, help="ONNX files (default: both bundled ones)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: let each runtime choose")
    parser.add_argument("--rounds", type=int, default=30, help="timed calls of each candidate (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()

    opened, skipped = _open_all(arguments.models, arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        probe_files = [
            write_probe(Path(folder) / f"probe-{precision}.onnx", precision, height=PROBE_HEIGHT, layers=PROBE_LAYERS)
            for precision in ("fp32", "int8")
        ]
        probes, _ = _open_all(probe_files, arguments.threads)
        gflop = {path.name: graph_cost(path).flop / 1e9 for path in (*arguments.models, *probe_files)}
        runners = {name: _runner(backend) for name, (_, backend) in {**opened, **probes}.items()}
        seconds = interleaved_seconds(runners, arguments.rounds)
    peaks: dict[str, float] = {}
    for name, (model, backend) in probes.items():
        rate = gflop[model] / min(seconds[name])
        peaks[backend.precision] = max(peaks.get(backend.precision, 0), rate)
    rows = []
    for name, (model, backend) in opened.items():
        timing = summary_ms(seconds[name])
        rows.append(
            {
                "model": model,
                "backend": backend.name,
                "precision": backend.precision,
                **timing,
                "ratio": timing["min_ms"] / (rows[0]["min_ms"] if rows else timing["min_ms"]),
                "share_of_peak": gflop[model] / timing["min_ms"] * 1e3 / peaks.get(backend.precision, float("nan")),
            }
        )
    if arguments.json:
        print(
            json.dumps(
                {
                    "threads": arguments.threads,
                    "gflop": {path.name: gflop[path.name] for path in arguments.models},
                    "peak_gflop_per_s": peaks,
                    "rows": rows,
                    "skipped": skipped,
                }
            )
        )
    else:
        _print_table(rows, gflop, peaks, skipped)


def _open_all(models: list[Path], threads: int) -> tuple[dict[str, tuple[str, Backend]], list[str]]:
    """Name → (file name, opened model) of each file in each runtime and precision; and why others cannot be opened."""
    opened: dict[str, tuple[str, Backend]] = {}
    skipped = []
    for path in models:
        of_file = read_onnx_spec(path).precision
        runtimes = sorted(row.name for row in BACKENDS if "cpu" in row.install and path.suffix in row.suffixes)
        candidates = [(runtime, of_file) for runtime in runtimes]
        if of_file == "fp32":
            candidates.append(("openvino", "bf16"))  # it computes fp32 files in bf16
        for runtime, precision in candidates:
            name = f"{path.name} {runtime} {precision}"
            try:
                backend = open_model(path, backend=runtime, device="cpu", precision=precision, threads=threads)
            except ModelError as error:
                skipped.append(f"{name}: {error}")
            else:
                opened[name] = path.name, backend
    if not opened:
        raise ModelError(f"no runtime opens a model ({'; '.join(skipped)})", "pip install onnxruntime openvino")
    return opened, skipped


def _runner(backend: Backend) -> Callable[[], object]:
    size = (1, backend.spec.input_height, backend.spec.input_width, 3)
    return partial(backend.infer, np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))


def _print_table(rows: list[dict], gflop: dict[str, float], peaks: dict[str, float], skipped: list[str]) -> None:
    print("peak GFLOP/s:", ", ".join(f"{precision} {peak:.0f}" for precision, peak in peaks.items()))
    print("GFLOP per inference:", ", ".join(f"{model} {value:.2f}" for model, value in gflop.items()))
    for row in rows:
        print(
            f"{row['model']:32} {row['backend']:12} {row['precision']:5} {row['median_ms']:7.1f} ms "
            f"({row['min_ms']:.1f}) {row['ratio']:5.2f} x {row['share_of_peak']:6.1%} of peak"
        )
    for reason in skipped:
        print("skipped", reason, file=sys.stderr)


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
