"""Inference on an NVIDIA GPU: python benchmarks/gpu.py [CHECKPOINT] [--json].

Exports the checkpoint in every precision (without one: measures the bundled fp32 model) and runs each file with each
runtime that is installed. Reports, from a frame in host memory to a map in host memory: the latency of one frame (p50,
p95, p99), frames per second in batches of 1, 4 and 8, the share of the roofline that one frame reaches, and how far the
maps are from those of onnxruntime in fp32 on the CPU. Measurements that fail are listed at the end.

The roofline sums, over the operators, the longer of two times: arithmetic at the measured peak (see peak.py), and
minimum memory traffic at the measured bandwidth. Operators whose data stay in the GPU's cache can beat it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from peak import write_probe

from sal360.errors import ModelError, clean_end, one_line_errors
from sal360.runtimes import Backend, open_model
from sal360.runtimes.backend import cause
from sal360.runtimes.selection import BACKENDS
from sal360.runtimes.tensorrt.builder import installed_names, load_tensorrt
from sal360.runtimes.tensorrt.cache import engine_for
from sal360.runtimes.tensorrt.driver import CudaDevice, cuda_device_count
from sal360.spec import read_onnx_spec
from sal360.weights import bundled_model
from training.exporting.graph_cost import graph_cost
from training.exporting.parity import differences
from training.exporting.quantise import panorama_frames

BATCHES = (1, 4, 8)
LATENCY_RUNS, WARM_UP_RUNS, THROUGHPUT_S = 300, 20, 2.0
PARITY_FRAMES = 4
PROBE_HEIGHT, PROBE_LAYERS = 160, 8
COPY_BYTES, COPIES = 1 << 28, 20


@dataclass
class Row:
    """One file on one runtime."""

    runtime: str
    precision: str
    open_s: float
    parity: dict[str, float]
    latency_ms: dict[str, float]
    frames_per_s: dict[int, float] = field(default_factory=dict)
    share_of_roofline: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="", help="saliency checkpoint (default: the bundled model)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()
    if cuda_device_count() == 0:
        raise ModelError(
            "this machine has no CUDA device", "measure the CPU with benchmarks/inference.py, or check nvidia-smi"
        )
    device = CudaDevice(0)
    device.make_current()
    skipped: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bandwidth = _bandwidth(device)
        peaks = _peaks(folder, skipped)
        files = _export(arguments.checkpoint, folder, skipped)
        rows = _measure_all(files, device, peaks, bandwidth, skipped)
    report = {
        "device": {"name": device.name, "compute_capability": device.compute_capability},
        "tensorrt": [f"{each} {load_tensorrt(each).version}" for each in installed_names()],
        "peak_gflop_per_s": peaks,
        "bandwidth_gb_per_s": bandwidth / 1e9,
        "rows": [asdict(row) for row in rows],
        "skipped": skipped,
    }
    device.release()
    if arguments.json:
        print(json.dumps(report))
    else:
        _print_table(report)


@contextmanager
def _or_skip(what: str, skipped: list[str]) -> Iterator[None]:
    """List a step that fails with any error, and continue."""
    try:
        yield
    except Exception as error:
        skipped.append(f"{what}: {cause(error)}")
        print(f"skipped {skipped[-1]}", file=sys.stderr)


def _export(checkpoint: str, folder: Path, skipped: list[str]) -> dict[str, list[Path]]:
    """Precision → its files, fp32 first; the first file of a precision is ONNX."""
    if not checkpoint:
        skipped.append("fp16, bf16, int8 and torch: these are exported from a checkpoint, but none was given")
        return {"fp32": [bundled_model()]}
    from training.export import ExportConfig, export

    files: dict[str, list[Path]] = {}
    for precision in ("fp32", "fp16", "bf16", "int8"):
        with _or_skip(f"export in {precision}", skipped):
            files[precision] = export(
                ExportConfig(checkpoint, str(folder), precision=precision, torch_program=precision != "int8")
            )
    if "fp32" not in files:
        raise ModelError(skipped[0], "run python -m training.export on the checkpoint to see the whole error")
    if "int8" in files:
        with _or_skip("int8 for TensorRT", skipped):
            from training.exporting.quantise import write_signed

            signed = folder / "int8-tensorrt.onnx"
            write_signed(files["int8"][0], signed)
            files["int8"] = [signed]
    return files


def _measure_all(
    files: dict[str, list[Path]], device: CudaDevice, peaks: dict[str, float], bandwidth: float, skipped: list[str]
) -> list[Row]:
    reference = files["fp32"][0]
    spec = read_onnx_spec(reference)
    frames = panorama_frames("", PARITY_FRAMES, spec.input_height, turned=False)
    with open_model(reference, backend="onnxruntime", device="cpu") as exact:
        expected = exact.infer(frames)
    cost = graph_cost(reference)
    rows: list[Row] = []
    for precision, paths in files.items():
        for path in paths:
            for runtime in _runtimes(path):
                with _or_skip(f"{precision} on {runtime}", skipped):
                    started = time.perf_counter()
                    with _open(path, runtime) as backend:
                        open_s = time.perf_counter() - started
                        found = np.concatenate([backend.infer(frame[None]) for frame in frames])
                        row = Row(
                            runtime, precision, open_s, differences(found, expected), _latency_ms(backend, frames)
                        )
                        row.frames_per_s[1] = 1e3 / row.latency_ms["mean"]
                    rows.append(row)
                    if precision in peaks:
                        least_s = cost.min_seconds(precision, peaks[precision] * 1e9, bandwidth)
                        row.share_of_roofline = 1e3 * least_s / row.latency_ms["p50"]
                    for batch in BATCHES[1:]:
                        with _or_skip(f"{precision} on {runtime} in batches of {batch}", skipped):
                            row.frames_per_s[batch] = _throughput(path, runtime, batch, frames, device)
    return rows


def _runtimes(path: Path) -> list[str]:
    """The runtimes that run such a file on a GPU."""
    return [row.name for row in BACKENDS if "cuda" in row.install and path.suffix in row.suffixes]


def _open(path: Path, runtime: str) -> Backend:
    return open_model(path, backend=runtime, device="cuda", allow_pickled_programs=True)  # this run wrote them itself


def _latency_ms(backend: Backend, frames: np.ndarray) -> dict[str, float]:
    """Latency of one frame, milliseconds: percentiles and mean; each frame differs from the one before."""
    for run in range(WARM_UP_RUNS):
        backend.infer(frames[run % len(frames)][None])
    milliseconds = []
    for run in range(LATENCY_RUNS):
        frame = frames[run % len(frames)][None]
        milliseconds.append(_seconds(lambda: backend.infer(frame)) * 1e3)  # noqa: B023  called at once
    percentiles = {f"p{each}": float(np.percentile(milliseconds, each)) for each in (50, 95, 99)}
    return {**percentiles, "mean": float(np.mean(milliseconds))}


def _throughput(path: Path, runtime: str, batch: int, frames: np.ndarray, device: CudaDevice) -> float:
    """Frames per second in batches of one size."""
    if runtime == "tensorrt":
        device.make_current()
        path = engine_for(path, load_tensorrt(), device, max_batch=max(BATCHES))
    many = np.concatenate([frames] * -(-batch // len(frames)))[:batch]
    with _open(path, runtime) as backend:
        for _ in range(3):
            backend.infer(many)
        done, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < THROUGHPUT_S or done == 0:
            backend.infer(many)
            done += batch
    return done / elapsed


def _peaks(folder: Path, skipped: list[str]) -> dict[str, float]:
    """GFLOP/s of the probe in each precision, with the fastest runtime."""
    peaks: dict[str, float] = {}
    for precision in ("fp32", "fp16", "bf16", "int8"):
        path = folder / f"probe-{precision}.onnx"
        write_probe(path, precision, height=PROBE_HEIGHT, layers=PROBE_LAYERS, signed=True)
        gflop = graph_cost(path).flop / 1e9
        for runtime in _runtimes(path):
            with _or_skip(f"peak in {precision} by {runtime}", skipped), _open(path, runtime) as backend:
                size = (1, backend.spec.input_height, backend.spec.input_width, 3)
                frame = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
                latency = _latency_ms(backend, frame)
                peaks[precision] = max(peaks.get(precision, 0.0), gflop / latency["p50"] * 1e3)
    return peaks


def _bandwidth(device: CudaDevice) -> float:
    """Bytes per second that a copy within device memory reads and writes."""
    source, target, stream = device.allocate(COPY_BYTES), device.allocate(COPY_BYTES), device.create_stream()

    def copy() -> None:
        for _ in range(COPIES):
            device.copy_on_device(target, source, COPY_BYTES, stream)
        device.synchronize(stream)

    copy()
    seconds = min(_seconds(copy) for _ in range(5))
    device.destroy_stream(stream)
    device.free(source)
    device.free(target)
    return 2 * COPY_BYTES * COPIES / seconds


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _print_table(report: dict[str, Any]) -> None:
    print(f"{report['device']['name']} (compute capability {report['device']['compute_capability']})")
    print("TensorRT:", ", ".join(report["tensorrt"]) or "not installed")
    print("peak TFLOP/s:", ", ".join(f"{name} {peak / 1e3:.1f}" for name, peak in report["peak_gflop_per_s"].items()))
    print(f"device memory: {report['bandwidth_gb_per_s']:.0f} GB/s")
    print("| runtime | precision | p50 ms | p95 | p99 | frames/s x1 | x4 | x8 | roofline | CC | largest difference |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for row in report["rows"]:
        latency = " | ".join(f"{row['latency_ms'][name]:.2f}" for name in ("p50", "p95", "p99"))
        rates = " | ".join(f"{row['frames_per_s'].get(batch, float('nan')):.0f}" for batch in BATCHES)
        share = "" if row["share_of_roofline"] is None else f"{row['share_of_roofline']:.0%}"
        parity = f"{row['parity']['cc']:.4f} | {row['parity']['max_relative_difference']:.2%}"
        print(f"| {row['runtime']} | {row['precision']} | {latency} | {rates} | {share} | {parity} |")


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
