"""What the first GPU at hand should answer, within nine minutes: bash benchmarks/gpu_proof.sh OUT [--dry-run].

  driver     the library's own layer over libcuda: memory, pinned copies, streams, capture and replay of copies
  roofline   PCIe copies, copies in device memory, matrix products: what this card can do
  inference  the bundled model and the paper's ResNet50 as torch programs with CUDA graphs, from a frame in host memory
             to a map in host memory: p50, p95, p99, batches, parity with the CPU, share of the roofline
  product    the same through `sal360.Predictor`, with onnxruntime's CUDA provider and torch
  training   steps of pretraining, eager and compiled, fp32 and bf16, and the loader's share
  paper      `training.reproduce` with the time that is left: its page, and the encoders that it trained (--panoramas)

Each measurement is written to OUT/results.json at once, and is not repeated when the script runs again; what fails is
listed with its reason. Each part runs in its own process with a time limit, so that a GPU error ends that part alone. A
torch program needs no TensorRT, and TensorRT itself is not measured here: that is benchmarks/gpu.py.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sal360.arrays import Density, Pixels
from sal360.errors import clean_end, one_line_errors
from sal360.files import write_text
from sal360.runtimes.backend import cause

FRAME_HEIGHTS = (960, 1920)
BATCHES = (1, 2, 4, 8, 16, 32)
PARITY_FRAMES = 4


@dataclass(frozen=True)
class Effort:
    """How much is measured; the dry run measures little."""

    heights: tuple[int, ...] = FRAME_HEIGHTS
    """Rows of the frames, pixels."""
    batches: tuple[int, ...] = BATCHES
    runs: int = 300
    """Calls per latency, at most."""
    seconds: float = 1.5
    """Duration of one latency, about."""
    matrix: int = 8192
    """Rows of the matrices whose product shows the peak."""
    copy_bytes: int = 1 << 28
    training_steps: int = 30
    training_batch: int = 20
    training_height: int = 160


DRY = Effort((960,), (1, 2), 3, 0.2, 256, 1 << 20, 1, 4, 64)


class Proof:
    """The results, written to OUT/results.json after every measurement.

    Args:
        output: folder; measurements that its results.json has are not repeated.
        effort: how much to measure.
        deadline: when to stop, `time.monotonic()`.
        device: "cuda", or "cpu" for the dry run.
        panoramas: folder of panoramas to train on; empty: none.
    """

    def __init__(self, output: Path, effort: Effort, deadline: float, device: str, panoramas: str = "") -> None:
        self.path, self.effort, self.deadline, self.device = output / "results.json", effort, deadline, device
        self.panoramas = panoramas
        self.results: dict[str, Any] = {"rows": {}, "skipped": {}}
        if self.path.is_file():
            self.results = json.loads(self.path.read_text(encoding="utf-8"))

    def measure(self, part: str, key: str, measurement: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """One measurement: from an earlier run, or made now; None if it fails or the time is over."""
        rows = self.results["rows"].setdefault(part, {})
        if key in rows:
            return dict(rows[key])
        name = f"{part}: {key}"
        if time.monotonic() > self.deadline:
            self.results["skipped"][name] = "the time was over"
        else:
            try:
                rows[key] = measurement()
                self.results["skipped"].pop(name, None)
            except Exception as error:
                traceback.print_exc()
                self.results["skipped"][name] = cause(error)
        self.save()
        return rows.get(key)

    def skip(self, part: str, reason: str) -> None:
        """List a part that cannot be measured here."""
        self.results["skipped"][part] = reason
        self.save()

    def save(self) -> None:
        """Write the results."""
        write_text(self.path, json.dumps(self.results, indent=1))


def describe_machine(device: str) -> dict[str, Any]:
    """Date, processor, GPU and versions."""
    import torch

    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpus": len(os.sched_getaffinity(0)),
        "gpu": "none: dry run on the CPU",
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        found["compute_capability"] = f"{properties.major}.{properties.minor}"
    return found


def driver_part(proof: Proof) -> None:
    """The layer over libcuda that the TensorRT backend uses, every result compared byte by byte."""
    from sal360.runtimes.tensorrt.driver import CudaDevice, cuda_device_count

    if cuda_device_count() == 0:
        proof.skip("driver", "there is no CUDA device")
        return
    device = CudaDevice(0)
    device.make_current()
    size = proof.effort.copy_bytes
    try:
        proof.measure("driver", "allocation", lambda: _allocations(device, size))
        proof.measure("driver", "copies", lambda: _copies(device, size))
        proof.measure("driver", "two streams", lambda: _two_streams(device, size))
        proof.measure("driver", "captured copies", lambda: _captured_copies(device, min(size, 1 << 20)))
    finally:
        device.release()


def _allocations(device: Any, size: int) -> dict[str, Any]:
    from sal360.errors import ModelError

    addresses = []
    begin = time.perf_counter()
    for _ in range(8):
        addresses.append(device.allocate(size))
    milliseconds = (time.perf_counter() - begin) * 1e3 / 8
    for address in addresses:
        device.free(address)
    row: dict[str, Any] = {"allocate_ms": milliseconds, "name": device.name, "capability": device.compute_capability}
    try:
        device.free(device.allocate(1 << 50))
        row["refusal"] = "none"
    except ModelError as error:
        row["refusal"] = str(error)
    return row


def _copies(device: Any, size: int) -> dict[str, float]:
    stream, here, there = device.create_stream(), device.allocate(size), device.allocate(size)
    pinned, back = (device.allocate_pinned((size,), np.uint8) for _ in range(2))
    ordinary = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    pinned[:] = ordinary
    try:
        row = {
            "pinned_to_device_gb_s": _rate(device, stream, size, lambda: device.copy_to_device(here, pinned, stream)),
            "ordinary_to_device_gb_s": _rate(
                device, stream, size, lambda: device.copy_to_device(here, ordinary, stream)
            ),
            "on_device_gb_s": _rate(device, stream, 2 * size, lambda: device.copy_on_device(there, here, size, stream)),
            "device_to_pinned_gb_s": _rate(device, stream, size, lambda: device.copy_to_host(back, there, stream)),
        }
        _require_equal(back, ordinary)
    finally:
        device.synchronize(stream)
        for address in (here, there):
            device.free(address)
        for array in (pinned, back):
            device.free_pinned(array)
        device.destroy_stream(stream)
    return row


def _rate(device: Any, stream: int, size: int, copy: Callable[[], None], times: int = 5) -> float:
    """GB/s of the fastest of some copies."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        copy()
        device.synchronize(stream)
        seconds.append(time.perf_counter() - begin)
    return size / min(seconds) / 1e9


def _two_streams(device: Any, size: int) -> dict[str, float]:
    """A copy to the device beside one from it: PCIe carries both at once, if the streams really run side by side."""
    streams = [device.create_stream() for _ in range(2)]
    here, there = device.allocate(size), device.allocate(size)
    up, down = (device.allocate_pinned((size,), np.uint8) for _ in range(2))
    up[:] = np.arange(size, dtype=np.uint64).astype(np.uint8)
    try:
        device.copy_to_device(there, up, streams[1])
        device.synchronize(streams[1])

        def both(first: int, second: int) -> float:
            begin = time.perf_counter()
            device.copy_to_device(here, up, first)
            device.copy_to_host(down, there, second)
            device.synchronize(first)
            device.synchronize(second)
            return time.perf_counter() - begin

        in_turn = min(both(streams[0], streams[0]) for _ in range(5))
        at_once = min(both(*streams) for _ in range(5))
        _require_equal(down, up)
    finally:
        for address in (here, there):
            device.free(address)
        for array in (up, down):
            device.free_pinned(array)
        for stream in streams:
            device.destroy_stream(stream)
    return {"one_stream_ms": in_turn * 1e3, "two_streams_ms": at_once * 1e3}


def _captured_copies(device: Any, size: int, replays: int = 200) -> dict[str, Any]:
    """Host to device, on the device and back as one graph, with new contents before each of some replays."""
    stream, here, there = device.create_stream(), device.allocate(size), device.allocate(size)
    up, down = (device.allocate_pinned((size,), np.uint8) for _ in range(2))

    def enqueue() -> None:
        device.copy_to_device(here, up, stream)
        device.copy_on_device(there, here, size, stream)
        device.copy_to_host(down, there, stream)

    graph = device.capture(enqueue, stream)
    try:
        for number in range(8):
            up[:] = number + 1
            device.launch(graph, stream)
            device.synchronize(stream)
            _require_equal(down, up)
        begin = time.perf_counter()
        for _ in range(replays):
            device.launch(graph, stream)
            device.synchronize(stream)
        microseconds = (time.perf_counter() - begin) / replays * 1e6
    finally:
        device.destroy_graph(graph)
        for address in (here, there):
            device.free(address)
        for array in (up, down):
            device.free_pinned(array)
        device.destroy_stream(stream)
    return {"bytes": size, "replay_us": microseconds}


def _require_equal(found: np.ndarray, expected: np.ndarray) -> None:
    if not np.array_equal(found, expected):
        raise RuntimeError(f"{int((found != expected).sum())} of {expected.size} bytes differ after the copies")


def roofline_part(proof: Proof) -> None:
    """The rates that bound every figure of `inference`."""
    proof.measure("roofline", "rates", lambda: _rates(proof.effort, proof.device))


def _rates(effort: Effort, device: str) -> dict[str, float]:
    import torch

    count = effort.copy_bytes
    host = torch.randint(0, 256, (count,), dtype=torch.uint8)
    host = host.pin_memory() if device == "cuda" else host
    here, there = torch.empty_like(host, device=device), torch.empty_like(host, device=device)
    size = effort.matrix
    rates = {
        "host_to_device": count / _fastest(lambda: here.copy_(host, non_blocking=True), device),
        "device_to_host": count / _fastest(lambda: host.copy_(here, non_blocking=True), device),
        "memory": 2 * count / _fastest(lambda: there.copy_(here), device),
    }
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        rates[name] = 2 * size**3 / _fastest(lambda: torch.mm(one, other), device)  # noqa: B023  called at once
    return rates


def _fastest(work: Callable[[], object], device: str, times: int = 7) -> float:
    """Seconds of the fastest of some runs, the first not counted."""
    seconds = []
    for _ in range(times + 1):
        begin = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


class Pipeline:
    """Frames in host memory to maps in host memory: copy, reduction by areas, network and copy back, as one graph.

    Args:
        model: (B, h, w, 3) uint8 RGB → (B, map rows, map columns) float32, on the device.
        shape: (B, H, W, 3) of the frames.
        height: rows of the network's input, pixels.
        device: "cuda" or "cpu".
        graph: capture everything as one CUDA graph; without effect on the CPU.
    """

    def __init__(self, model: Any, shape: tuple[int, ...], height: int, device: str, *, graph: bool) -> None:
        import torch

        self.batch = shape[0]
        self._torch, self._model, self._device = torch, model, device
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, as in the rates of the roofline
        on_gpu = device == "cuda"
        dtype = torch.float16 if on_gpu else torch.float32
        self._rows = torch.from_numpy(area_weights(shape[1], height)).to(device, dtype)  # (h, H)
        self._columns = torch.from_numpy(area_weights(shape[2], 2 * height)).to(device, dtype)  # (w, W)
        self._host = torch.empty(shape, dtype=torch.uint8, pin_memory=on_gpu)
        self._frames = torch.empty(shape, dtype=torch.uint8, device=device)
        with torch.inference_mode():
            maps = self._predict()
            self._maps = torch.empty(maps.shape, dtype=torch.float32, pin_memory=on_gpu)
            self._graph = self._capture() if graph and on_gpu else None

    def _capture(self) -> Any:
        torch = self._torch
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._work()
        return graph

    def _work(self) -> None:
        self._frames.copy_(self._host, non_blocking=True)
        self._maps.copy_(self._predict(), non_blocking=True)

    def _predict(self) -> Any:
        return self._model(self._reduced())

    def _reduced(self) -> Any:
        """The frames as the network takes them, (B, h, w, 3) uint8: means over areas, rounded."""
        count, height, width, _ = self._frames.shape
        rows = self._rows @ self._frames.view(count, height, width * 3).to(self._rows.dtype)  # (B, h, 3 W)
        planes = rows.view(count, -1, width, 3).transpose(2, 3)  # (B, h, 3, W)
        small = planes @ self._columns.T  # (B, h, 3, w)
        return small.transpose(2, 3).round().clamp(0, 255).to(self._torch.uint8)

    def __call__(self, frames: Pixels) -> tuple[Density, float]:
        """Maps (B, h, w), valid until the next call, and the seconds without the copy into pinned memory."""
        np.copyto(self._host.numpy(), frames)
        begin = time.perf_counter()
        if self._graph is not None:
            self._graph.replay()
        else:
            with self._torch.inference_mode():
                self._work()
        _wait(self._device)
        return self._maps.numpy(), time.perf_counter() - begin


def area_weights(size: int, reduced: int) -> np.ndarray:
    """Matrix (reduced, size) of the mean over areas: row i weighs the pixels by their overlap with cell i."""
    edges = np.arange(reduced + 1) * (size / reduced)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.clip(overlap, 0, None) * (reduced / size), np.float32)


def inference_part(proof: Proof) -> None:
    """Latency, rate, parity and share of the roofline of torch programs."""
    for name, make in models().items():
        _infer(proof, name, make)


def models() -> dict[str, Callable[[str], tuple[Any, int]]]:
    """Name → from a precision (fp32 or bf16) to a module on the CPU, and the rows of its input."""

    def bundled(precision: str) -> tuple[Any, int]:
        import torch
        from onnx_in_torch import OnnxModule

        from sal360.spec import read_onnx_spec
        from sal360.weights import bundled_model

        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return OnnxModule(bundled_model(), dtype).eval(), read_onnx_spec(bundled_model()).input_height

    def resnet50(precision: str) -> tuple[Any, int]:
        return paper_resnet50(precision), 160

    return {"bundled": bundled, "resnet50": resnet50}


def paper_resnet50(precision: str) -> Any:
    """The paper's ResNet50 with its decoder, 160 x 320, with the same random weights every time."""
    import torch

    from training.exporting.graphs import ExportedModel
    from training.models.prior import PriorConfig
    from training.models.saliency_model import DensityModel, SaliencyModel, SaliencyModelConfig

    torch.manual_seed(0)
    settings = SaliencyModelConfig(
        encoder="resnet50", decoder="paper", input_height=160, circular=False, prior=PriorConfig(strength=0.0)
    )
    model = DensityModel(SaliencyModel(settings), upsample=0)
    return ExportedModel(model, precision, (160, 320)).eval().to(memory_format=torch.channels_last)


def _infer(proof: Proof, name: str, make: Callable[[str], tuple[Any, int]]) -> None:

    exact, height = make("fp32")
    bounds = operator_costs(exact, height)
    for frame_height in proof.effort.heights:
        frames = frames_of(frame_height, PARITY_FRAMES)
        expected = Pipeline(exact, frames.shape, height, "cpu", graph=False)(frames)[0].copy()
        for precision, graph, batches in _variants(proof.effort, proof.device):
            model = make(precision)[0].to(proof.device)
            for batch in batches:
                kind = f"{precision} {'graph' if graph else 'eager'}"
                key = f"{name} {kind} {2 * frame_height}x{frame_height} x{batch}"
                shape = (batch, *frames.shape[1:])
                pipeline = partial(Pipeline, model, shape, height, proof.device, graph=graph)
                least = partial(_least_seconds, proof, bounds, shape, expected[0].nbytes, precision)
                proof.measure("inference", key, partial(_latency, pipeline, frames, expected, proof.effort, least))


def _variants(effort: Effort, device: str) -> Iterator[tuple[str, bool, tuple[int, ...]]]:
    """Precision, whether captured, and batches."""
    if device == "cpu":
        yield "fp32", False, effort.batches
    else:
        yield "bf16", True, effort.batches
        yield "fp32", True, effort.batches[:1]
    yield "bf16", False, effort.batches[:1]


def frames_of(height: int, count: int) -> Pixels:
    """The bundled panoramas, enlarged: (count, height, 2 height, 3)."""
    import cv2

    from sal360.images import read_picture
    from sal360.samples import bundled_panoramas
    from sal360.sources.pictures import pictures_in

    paths = pictures_in(bundled_panoramas())
    pictures = [read_picture(paths[number % len(paths)])[:, :, ::-1] for number in range(count)]
    return np.stack([cv2.resize(each, (2 * height, height), interpolation=cv2.INTER_CUBIC) for each in pictures])


def _latency(
    make: Callable[[], Pipeline],
    frames: Pixels,
    expected: Density,
    effort: Effort,
    least_seconds: Callable[[], float | None],
) -> dict[str, Any]:
    """Percentiles of the whole and of the device's part, milliseconds; and parity with the CPU in fp32."""
    from training.exporting.parity import differences

    pipeline = make()
    batch = pipeline.batch
    places = [(np.arange(batch) + number) % len(frames) for number in range(len(frames))]
    batches = [frames[place] for place in places]
    parity = differences(pipeline(batches[0])[0].copy(), expected[places[0]])
    whole, device = [], []
    begin = time.perf_counter()
    for number in range(effort.runs):
        started = time.perf_counter()
        seconds = pipeline(batches[number % len(batches)])[1]
        whole.append(time.perf_counter() - started)
        device.append(seconds)
        if time.perf_counter() - begin > effort.seconds and number >= 2:
            break
    row: dict[str, Any] = {"batch": batch, "runs": len(whole), "parity": parity}
    row |= {"whole_ms": _percentiles(whole), "device_ms": _percentiles(device)}
    if least := least_seconds():
        row["share_of_roofline"] = least / float(np.median(device))
    return row | {"frames_per_s": batch / float(np.mean(whole))}


def _percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{each}": float(np.percentile(seconds, each)) * 1e3 for each in (50, 95, 99)}


Cost = tuple[float, int, int]
"""Floating-point operations, elements that grow with the batch, and elements of weights, of one operator."""


def operator_costs(model: Any, height: int) -> list[Cost]:
    """The convolutions and matrix products of one frame; a multiply-accumulate counts 2."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    costs: list[Cost] = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            out = function(*arguments, **(options or {}))
            packet = function.overloadpacket
            if packet in flop_registry:
                flop = flop_registry[packet](*arguments, **(options or {}), out_val=out)
                tensors = [each for each in arguments if isinstance(each, torch.Tensor)]
                costs.append((float(flop), tensors[0].numel() + out.numel(), sum(t.numel() for t in tensors[1:])))
            return out

    frame = torch.zeros(1, height, 2 * height, 3, dtype=torch.uint8)
    with torch.no_grad(), Counting():
        model(frame)
    return costs


def _least_seconds(
    proof: Proof, costs: list[Cost], shape: tuple[int, ...], map_bytes: int, precision: str
) -> float | None:
    rates = proof.results["rows"].get("roofline", {}).get("rates")
    return least_seconds(costs, shape, map_bytes, rates, precision) if rates else None


def least_seconds(
    costs: list[Cost], shape: tuple[int, ...], map_bytes: int, rates: dict[str, float], precision: str
) -> float:
    """The bound: PCIe copies, one reading of the frames, and for each operator the longer of arithmetic and traffic."""
    batch, item = shape[0], 2 if precision == "bf16" else 4
    frames = float(np.prod(shape))
    seconds = frames / rates["host_to_device"] + batch * map_bytes / rates["device_to_host"] + frames / rates["memory"]
    for flop, grows, weights in costs:
        seconds += max(batch * flop / rates[precision], (batch * grows + weights) * item / rates["memory"])
    return seconds


def product_part(proof: Proof) -> None:
    """The library's own path, `Predictor.predict_batch`, with the runtimes that need no TensorRT."""
    from sal360.runtimes.selection import BACKENDS
    from sal360.weights import bundled_model

    installed = {row.name: row for row in BACKENDS}
    with tempfile.TemporaryDirectory() as name:
        files = {"bundled fp32": ("onnxruntime", bundled_model())}
        try:
            files |= _write_resnet50(Path(name))
        except Exception as error:
            traceback.print_exc()
            proof.skip("product: export of resnet50", cause(error))
        for key, (runtime, path) in files.items():
            if proof.device == "cuda" and not installed[runtime].backend.is_installed("cuda"):
                proof.skip(f"product: {key}", f"{runtime} has no CUDA here: give a folder with its wheel for CUDA")
                continue
            for height, batch in itertools.product(proof.effort.heights, (1, *proof.effort.batches[-1:])):
                proof.measure(
                    "product",
                    f"{key} {runtime} {2 * height}x{height} x{batch}",
                    lambda: _predicted(proof, path, runtime, height, batch),  # noqa: B023  called at once
                )


def _write_resnet50(folder: Path) -> dict[str, tuple[str, Path]]:
    """Name → its runtime and file, in fp32 for onnxruntime and in bf16 for torch."""
    from sal360.spec import ModelSpec
    from training.exporting.graphs import write_onnx, write_program

    files = {}
    for precision, runtime, suffix in (("fp32", "onnxruntime", ".onnx"), ("bf16", "torch", ".pt2")):
        spec = ModelSpec("resnet50", "1", 160, 320, 160, 320, "nothing: random weights", "Apache-2.0", precision)
        path = folder / f"resnet50-{precision}{suffix}"
        (write_onnx if suffix == ".onnx" else write_program)(paper_resnet50(precision), spec, path)
        files[f"resnet50 {precision}"] = (runtime, path)
    return files


def _predicted(proof: Proof, path: Path, runtime: str, height: int, batch: int) -> dict[str, Any]:
    from sal360.predictor import Predictor
    from training.exporting.parity import differences

    frames = frames_of(height, PARITY_FRAMES)
    options = {"backend": runtime, "allow_pickled_programs": True}  # this run wrote the program itself
    with Predictor(path, device="cpu", **options) as predictor:
        expected = np.stack([predictor.predict(frame) for frame in frames])
    many = [frames[number % len(frames)] for number in range(batch)]
    whole: list[float] = []
    with Predictor(path, device=proof.device, **options) as predictor:
        found = np.stack([predictor.predict(frame) for frame in frames])
        begin = time.perf_counter()
        while len(whole) < 3 or (time.perf_counter() - begin < proof.effort.seconds and len(whole) < proof.effort.runs):
            started = time.perf_counter()
            predictor.predict_batch(many, ["rgb"] * batch)
            whole.append(time.perf_counter() - started)
            many = many[1:] + many[:1]
    row = {"batch": batch, "runs": len(whole), "parity": differences(found, expected)}
    return row | {"whole_ms": _percentiles(whole), "frames_per_s": batch / float(np.mean(whole))}


def training_part(proof: Proof) -> None:
    """Steps of the paper's pretraining, both encoders."""
    _find_fabric()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        from pretrain_step import draw_panoramas

        draw_panoramas(folder / "panoramas")
        for compile_, encoder, precision in (
            *((False, encoder, precision) for encoder in ("resnet50", "vgg16") for precision in ("fp32", "bf16")),
            *((True, encoder, "bf16") for encoder in ("resnet50", "vgg16")),
        ):
            key = f"{encoder} {precision} {'compiled' if compile_ else 'eager'}"
            proof.measure(
                "training",
                key,
                lambda: _steps(proof, folder, key, encoder, precision, compile_),  # noqa: B023  called at once
            )
        proof.measure("training", "loader alone", lambda: _loader(proof, folder))


def _find_fabric() -> None:
    """Some machines have lightning.fabric, the same code inside another package."""
    if find_spec("lightning_fabric") is None and find_spec("lightning") is not None:
        import lightning.fabric
        import lightning.fabric.wrappers

        sys.modules["lightning_fabric"] = lightning.fabric
        sys.modules["lightning_fabric.wrappers"] = lightning.fabric.wrappers


def _paper_run(proof: Proof, folder: Path, run: str, encoder: str, **loop: Any) -> Any:
    import yaml

    from training.config import config_from_dict
    from training.pretrain import PretrainConfig

    recipe = Path(__file__).resolve().parent.parent / "training" / "recipes" / "pretrain_paper.yaml"
    config = config_from_dict(PretrainConfig, yaml.safe_load(recipe.read_text(encoding="utf-8")))
    height, steps = proof.effort.training_height, proof.effort.training_steps
    settings = {
        "run": str(folder / run),
        "epochs": 0,
        "steps": 2 * steps,
        "batch_size": proof.effort.training_batch,
        "log_every_steps": steps,
        "evaluate_every_epochs": 10_000,
        "checkpoint_every_steps": 10_000,
        "accelerator": proof.device,
        "workers": max(1, min(12, len(os.sched_getaffinity(0)) - 2)),
    }
    return replace(
        config,
        data=replace(config.data, root=str(folder / "panoramas"), height=height, cache=str(folder / "cache")),
        loop=replace(config.loop, **{**settings, **loop}),
        model=replace(config.model, encoder=encoder, height=height),
        views=replace(config.views, height=height),
        retrieval_panoramas=2,
    )


def _steps(proof: Proof, folder: Path, key: str, encoder: str, precision: str, compile_: bool) -> dict[str, float]:
    """The second half of the steps; the first starts the loader and compiles."""
    from training.loop import make_fabric, train
    from training.pretrain import PretrainTask, open_views

    config = _paper_run(proof, folder, key.replace(" ", "-"), encoder, precision=precision, compile=compile_)
    fabric = make_fabric(config.loop)
    begin = time.perf_counter()
    source = open_views(config, fabric)
    curves = train(PretrainTask(config, source, fabric), config.loop, config.optimiser, fabric)
    speed = curves["speed/images_per_s"]
    return {
        "panoramas_per_s": speed,
        "step_ms": 1e3 * config.loop.batch_size / speed,
        "waiting_for_data": curves["speed/waiting_for_data"],
        "loss": curves["loss"],
        "whole_s": time.perf_counter() - begin,
    }


def _loader(proof: Proof, folder: Path) -> dict[str, float]:
    from pretrain_step import loader_images_per_s

    from training.loop import make_fabric
    from training.pretrain import open_views

    config = _paper_run(proof, folder, "loader", "resnet50")
    source = open_views(config, make_fabric(config.loop))
    count = 4 * proof.effort.training_steps
    return {"panoramas_per_s": loader_images_per_s(source, config, count), "workers": config.loop.workers}


RUNS = Path(__file__).resolve().parent.parent / "runs" / "gpu_proof"
"""Where the runs of the part `paper` are, to be continued by the next call on the same machine."""
MOST_PARTS, PART_BYTES = 4, 14 << 20
"""How many files of which size may bring checkpoints back."""


def paper_part(proof: Proof) -> None:
    """The paper's pretraining, as far as the time goes; a second call continues it."""
    import tarfile

    if not proof.panoramas:
        proof.skip("paper", "no --panoramas were given")
        return
    if missing := [name for name in ("jsonargparse", "av", "sklearn") if find_spec(name) is None]:
        proof.skip("paper", f"the Python modules {', '.join(missing)} are missing; give a folder with their wheels")
        return
    left = proof.deadline - time.monotonic() - 15  # for the page
    options = ["--data.root", proof.panoramas, "--output", str(RUNS), "--budget", f"{left:.0f}"]
    options += ["--compare_steps", "20", "--workers", str(max(1, min(8, len(os.sched_getaffinity(0)) - 2)))]
    if proof.device == "cpu":
        options += ["--epochs", "2", "--early_epochs", "1", "--batch_size", "2", "--compare_steps", "1"]
    subprocess.run([sys.executable, "-m", "training.reproduce", *options], check=True, timeout=left + 15)
    proof.results["rows"]["paper"] = {"runs": json.loads((RUNS / "reproduction.json").read_text(encoding="utf-8"))}
    proof.save()
    with tarfile.open(proof.path.with_name("reproduction.tar"), "w") as tar:
        for path in sorted(RUNS.glob("*.*")):
            if path.is_file():
                tar.add(path, path.name)
    pack_encoders(RUNS / "runs", proof.path.parent)


def pack_encoders(runs: Path, output: Path) -> None:
    """The encoders of the runs with attention, in fp16, in parts: cat checkpoints.tar.part* | tar x.

    Each becomes a checkpoint NAME.safetensors, for --encoder_weights. What does not fit into the parts is left out.
    """
    import io
    import tarfile

    import torch
    from safetensors import safe_open
    from safetensors.torch import save

    from training.checkpoint import newest_checkpoint, read_tensors

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for run in sorted(runs.glob("*_self_*")):
            newest = newest_checkpoint(run)
            if newest is None:
                continue
            tensors = read_tensors(newest, part="encoder")
            halves = {f"encoder.{name}": t.half() if t.dtype == torch.float32 else t for name, t in tensors.items()}
            with safe_open(str(newest / "model.safetensors"), framework="pt") as opened:
                content = save(halves, opened.metadata())
            if packed.tell() + len(content) + 2048 > MOST_PARTS * PART_BYTES:
                break
            entry = tarfile.TarInfo(f"{run.name}.safetensors")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    data = packed.getvalue()
    for number, first in enumerate(range(0, len(data), PART_BYTES)):
        (output / f"checkpoints.tar.part{number}").write_bytes(data[first : first + PART_BYTES])


@dataclass(frozen=True)
class Part:
    """A part of the proof."""

    run: Callable[[Proof], None]
    seconds: float
    """Longest duration; a part that hangs is ended."""


PARTS = {
    "driver": Part(driver_part, 40),
    "roofline": Part(roofline_part, 40),
    "inference": Part(inference_part, 150),
    "product": Part(product_part, 120),
    "training": Part(training_part, 200),
    "paper": Part(paper_part, 600),
}


def run_parts(
    output: Path, effort: Effort, seconds: float, device: str, names: list[str], panoramas: str = ""
) -> dict[str, Any]:
    """Run the parts one after the other, each in a child of its own, and return all results."""
    import torch  # once, for all children  # noqa: F401

    end = time.monotonic() + seconds
    context = multiprocessing.get_context("fork")
    for name in names:
        limit = min(PARTS[name].seconds, end - time.monotonic())
        if limit < 1:
            Proof(output, effort, end, device).skip(name, "the time was over")
            continue
        child = context.Process(
            target=_run_part,
            args=(name, output, effort, time.monotonic() + limit - min(3, limit / 4), device, panoramas),
        )
        child.start()
        try:
            child.join(limit)
            is_late = child.is_alive()
        finally:  # also if this process is stopped
            child.kill()
            child.join()
        if is_late:
            Proof(output, effort, end, device).skip(
                name, f"it did not end within {limit:.0f} s; its rows until then count"
            )
        elif child.exitcode:
            Proof(output, effort, end, device).skip(name, f"its process ended with status {child.exitcode}")
    proof = Proof(output, effort, end, device)
    write_text(output / "table.md", table(proof.results))
    return proof.results


def _run_part(name: str, output: Path, effort: Effort, deadline: float, device: str, panoramas: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    proof = Proof(output, effort, deadline, device, panoramas)
    if name != "driver" and "machine" not in proof.results:  # torch would make the context that the driver part makes
        proof.results["machine"] = describe_machine(device)
    proof.results["skipped"].pop(name, None)  # of an earlier run
    with _reported(proof, name):
        PARTS[name].run(proof)


@contextmanager
def _reported(proof: Proof, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        proof.skip(name, cause(error))


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine = results.get("machine", {})
    lines = [f"{machine.get('gpu', 'no GPU')}, torch {machine.get('torch', '?')}, {machine.get('date', '')}", ""]
    rows = results["rows"]
    for part in ("driver", "roofline"):
        for key, values in rows.get(part, {}).items():
            lines.append(f"- {part}, {key}: {', '.join(f'{name} {_short(value)}' for name, value in values.items())}")
    head = "| model, frames, batch | p50 ms | p95 | p99 | without host copy | frames/s | roofline | CC | difference |"
    lines += ["", head, "|---|---|---|---|---|---|---|---|---|"]
    for key, row in {**rows.get("inference", {}), **rows.get("product", {})}.items():
        if "whole_ms" in row:
            lines.append(_inference_line(key, row))
    lines += ["", "| training | panoramas/s | step ms | waiting for data |", "|---|---|---|---|"]
    for key, row in rows.get("training", {}).items():
        values = [_short(row.get(name)) for name in ("panoramas_per_s", "step_ms", "waiting_for_data")]
        lines.append(f"| {key} | {' | '.join(values)} |")
    lines += ["", *(f"- not measured: {name}: {reason}" for name, reason in results["skipped"].items())]
    return "\n".join(lines) + "\n"


def _inference_line(key: str, row: dict[str, Any]) -> str:
    whole = " | ".join(f"{row['whole_ms'][name]:.2f}" for name in ("p50", "p95", "p99"))
    device = f"{row['device_ms']['p50']:.2f}" if "device_ms" in row else ""
    share = f"{row['share_of_roofline']:.0%}" if "share_of_roofline" in row else ""
    parity = f"{row['parity']['cc']:.5f} | {row['parity']['max_relative_difference']:.2%}"
    return f"| {key} | {whole} | {device} | {row['frames_per_s']:.0f} | {share} | {parity} |"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def main() -> int:
    """Run the proof; 2 if there is no GPU and it is no dry run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for results.json and table.md")
    parser.add_argument("--seconds", type=float, default=520, help="longest duration")
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts, in order")
    parser.add_argument("--panoramas", default="", help="folder of panoramas for the part paper")
    parser.add_argument("--dry-run", action="store_true", help="small sizes on the CPU, to find mistakes without a GPU")
    arguments = parser.parse_args()
    names = [name for name in arguments.parts.split(",") if name]
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts has {unknown[0]!r}; expected some of {', '.join(PARTS)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    device = "cpu" if arguments.dry_run else "cuda"
    if device == "cuda" and not _has_gpu():
        print("this machine has no CUDA device; check nvidia-smi, or try the script with --dry-run", file=sys.stderr)
        return 2
    results = run_parts(
        arguments.output, DRY if arguments.dry_run else Effort(), arguments.seconds, device, names, arguments.panoramas
    )
    print(table(results))
    return 0


def _has_gpu() -> bool:
    """Asked in a child: a process that has started CUDA cannot fork others that use it."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        from sal360.runtimes.tensorrt.driver import cuda_device_count

        return pool.apply(cuda_device_count) > 0


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
