"""The interface of every runtime: frames in, density maps out, from any thread."""

from __future__ import annotations

import abc
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar

import numpy as np

from sal360.arrays import Density, Pixels
from sal360.errors import FrameError, ModelError
from sal360.images import require_picture
from sal360.spec import INPUT_NAME, OUTPUT_NAME, ModelSpec

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
"""Every arithmetic precision that a model file or a runtime may use."""
ANY_BATCH = (1, 2**31 - 1)
"""The batch limits of a graph that accepts any number of frames."""

_log = logging.getLogger(__name__)


class Backend(abc.ABC):
    """A loaded model, ready to run.

    Args of every subclass:
        path: the model file.
        device: "cpu" or "cuda:N".
        precision: one of `PRECISIONS`, or "auto" for the best that the file and the device allow.
        threads: CPU threads; 0 lets the runtime choose.

    Raises:
        ModelError: the file or the installation is not usable.
    """

    name: ClassVar[str]
    """The runtime's name, as `open_model` expects it."""

    spec: ModelSpec
    device: str
    """Where it runs: "cpu" or "cuda:N"."""
    precision: str
    """Arithmetic of the convolutions: one of `PRECISIONS`."""
    batch_limits: tuple[int, int] = ANY_BATCH
    """Minimum and maximum number of frames in one call."""

    def __init__(self, path: Path, *, device: str, precision: str, threads: int) -> None:
        self._lock = threading.Lock()
        self._is_open = False
        try:
            self._open(path, device, precision, threads)
        except ImportError as error:
            raise ModelError(
                f"{self.name} is installed but cannot be imported ({cause(error)})",
                "reinstall it, or choose another backend",
            ) from None
        self._is_open = True

    @classmethod
    @abc.abstractmethod
    def is_installed(cls, device: str) -> bool:
        """Whether the runtime is installed with all that this kind of device ("cpu" or "cuda") needs."""

    @abc.abstractmethod
    def _open(self, path: Path, device: str, precision: str, threads: int) -> None:
        """Load the file; set spec, device, precision and, if the batch is limited, batch_limits."""

    @abc.abstractmethod
    def _run(self, frames: Pixels) -> Density:
        """Maps (N, h, w) float32 of N frames within `batch_limits`; later calls do not change the returned array."""

    @abc.abstractmethod
    def _release(self) -> None:
        """Free the runtime's resources."""

    def infer(self, frames: Pixels) -> Density:
        """Density maps of a batch of frames; thread-safe, one call runs at a time.

        Args:
            frames: (N, H, W, 3) uint8 RGB, N at least 1; H and W are the spec's input size.

        Returns:
            (N, h, w) float32 at the spec's output size, relative to uniform.

        Raises:
            FrameError: the frames have another shape or type.
            ModelError: the model is closed, or the runtime failed.
        """
        require_picture(frames, "the batch of frames")
        expected = (self.spec.input_height, self.spec.input_width, 3)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[0] < 1 or frames.shape[1:] != expected:
            raise FrameError(
                f"the model got frames {frames.shape} {frames.dtype}",
                "resize them first, or use sal360.Predictor",
                expected=f"(N, {', '.join(map(str, expected))}) uint8 with N at least 1",
                reason="wrong_size",
            )
        frames = np.require(frames, requirements=("C", "W"))  # frames of a bag are read-only; OpenVINO refuses those
        with self._lock:
            if not self._is_open:
                raise ModelError(f"the {self.name} model is closed", "open the model file again")
            fewest, most = self.batch_limits
            if fewest <= len(frames) <= most:
                return self._run(frames)
            maps = [self._run_padded(frames[start : start + most]) for start in range(0, len(frames), most)]
        return np.concatenate(maps)

    def _run_padded(self, frames: Pixels) -> Density:
        """Run part of a batch; repeat its last frame if the runtime needs more frames."""
        missing = max(0, self.batch_limits[0] - len(frames))
        padded = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)]) if missing else frames
        return self._run(padded)[: len(frames)]

    def close(self) -> None:
        """Free the model after the running inference; a second call does nothing.

        If the runtime fails to free something, for instance after a GPU error, this is logged and the memory stays
        allocated until the process ends: the model counts as closed, and another one can be opened.
        """
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            try:
                self._release()
            except Exception as error:  # runtimes share no exception type
                _log.warning(
                    "the %s model was not freed (%s); its memory is freed when the process ends", self.name, error
                )

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class TensorInfo:
    """An input or output as a runtime reports it; a dimension of −1 is dynamic."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        sizes = ", ".join("N" if size < 0 else str(size) for size in self.shape)
        return f"{self.name} {self.dtype} ({sizes})"


def batch_limits(spec: ModelSpec, inputs: list[TensorInfo], outputs: list[TensorInfo], source: str) -> tuple[int, int]:
    """Minimum and maximum batch size of a loaded graph, after checking its input and output against its spec.

    Raises:
        ModelError: a name, type or size differs from the spec.
    """
    frame = TensorInfo(INPUT_NAME, "uint8", (-1, spec.input_height, spec.input_width, 3))
    saliency = TensorInfo(OUTPUT_NAME, "float32", (-1, spec.output_height, spec.output_width))
    check_tensors(inputs, frame, source)
    check_tensors(outputs, saliency, source)
    batch = inputs[0].shape[0]
    return ANY_BATCH if batch < 0 else (batch, batch)


def check_tensors(found: list[TensorInfo], promised: TensorInfo, source: str) -> None:
    """Refuse the inputs or outputs of a graph unless they are the single tensor that its spec describes.

    Raises:
        ModelError: naming both.
    """
    if not (len(found) == 1 and _fits(found[0], promised)):
        raise ModelError(
            f"{source} has {', '.join(map(str, found)) or 'nothing'}",
            "export the model again with python -m training.export",
            expected=f"only {promised}, as its spec says",
        )


def _fits(found: TensorInfo, promised: TensorInfo) -> bool:
    sizes_fit = len(found.shape) == len(promised.shape) and all(
        size in (-1, expected) for size, expected in zip(found.shape[1:], promised.shape[1:], strict=True)
    )
    return found.name == promised.name and found.dtype == promised.dtype and sizes_fit


def precision_of_graph(asked: str, spec: ModelSpec, runtime: str) -> str:
    """The precision of a runtime that computes in the types of the graph.

    Raises:
        ModelError: another precision was requested.
    """
    if asked not in ("auto", spec.precision):
        raise ModelError(
            f"{asked} was requested from {runtime}, but the model was exported in {spec.precision}",
            f"choose precision auto, or export the model again with --precision {asked}",
        )
    return spec.precision


def cause(error: BaseException) -> str:
    """The cause in a runtime's message: its summary or last line, without preceding source locations."""
    message, has_summary, summary = str(error).rpartition("Summary:")
    lines = [line.strip(" -") for line in summary.splitlines() if line.strip()]
    if not lines:
        return message.strip() or type(error).__name__
    return "; ".join(lines) if has_summary else lines[-1]


def refused(runtime: str, path: Path, error: BaseException) -> ModelError:
    """The error for a file that a runtime cannot load."""
    return ModelError(
        f"{runtime} cannot load {path} ({cause(error)})",
        "export the model again with python -m training.export, or choose another backend",
    )


def failed(runtime: str, error: BaseException) -> ModelError:
    """The error for a loaded model that fails during inference."""
    return ModelError(
        f"{runtime} failed during inference ({cause(error)})", "open the model again, or choose another backend"
    )
