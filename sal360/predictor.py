"""A frame of any size in, its saliency map out: the model file with what surrounds it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from sal360.density import normalised
from sal360.errors import FrameError, ParameterError
from sal360.runtimes import open_bundled_model, open_model
from sal360.spec import ModelSpec
from sal360.sphere import Array

ASPECT_TOLERANCE = 0.04  # cameras deliver 640 x 322
MAX_PRIOR_STRENGTH = 10.0


class Predictor:
    """Predicts where people look in single equirectangular frames.

    Args:
        model: path of the model file; empty takes the bundled one.
        backend, device, precision, allow_pickled_programs: see `sal360.runtimes.open_model`.
        threads: CPU threads of the runtime and, if not 0, of OpenCV in the whole process; 0 lets both choose.
        prior_strength: 1 leaves the model's equator prior as it was trained, 0 takes it out; see `scale_prior`.

    Raises:
        ModelError: the model cannot be opened or run here.
        ParameterError: an argument is out of its range, or the model has no prior to scale.
        FrameError: the model gives no finite map even of a black frame.
    """

    def __init__(
        self,
        model: str | Path = "",
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        prior_strength: float = 1.0,
        allow_pickled_programs: bool = False,
    ) -> None:
        opening = open_bundled_model
        if str(model):
            opening = partial(open_model, model, allow_pickled_programs=allow_pickled_programs)
        self._backend = opening(backend=backend, device=device, precision=precision, threads=threads)
        self._prior_strength = prior_strength
        if threads:  # resizing, decoding and drawing keep to them too; OpenCV has one number for the whole process
            cv2.setNumThreads(threads)
        try:
            check_prior_strength(self.spec, prior_strength)
            # the first run of a runtime is slow (memory, kernels, captured graphs): no frame shall wait for it
            self.predict(np.zeros((self.spec.input_height, self.spec.input_width, 3), np.uint8))
        except BaseException:
            self.close()
            raise

    @property
    def spec(self) -> ModelSpec:
        """What the model is, takes and gives."""
        return self._backend.spec

    @property
    def description(self) -> str:
        """Model, runtime, device and precision in one line, for logs."""
        backend = self._backend
        return f"{self.spec.name} {self.spec.version}, {backend.name} on {backend.device} in {backend.precision}"

    def predict(self, frame: Array, channels: str = "rgb") -> Array:
        """The saliency map of a frame.

        Args:
            frame: (H, W, 3) uint8, equirectangular, any size of about 2:1, any strides.
            channels: order of the last axis, "rgb" or "bgr".

        Returns:
            (h, w) float32 at the spec's output size: density relative to uniform on the sphere.

        Raises:
            FrameError: the frame has another type or shape, or its map is not finite.
            ParameterError: channels is neither.
        """
        if channels not in ("rgb", "bgr"):
            raise ParameterError(
                f"channels is {channels!r}", "name the order of the frame's channels", expected="rgb or bgr"
            )
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise FrameError(
                f"the frame is {frame.shape} {frame.dtype}",
                "convert it to 8-bit colour first",
                expected="(H, W, 3) uint8",
                reason="not_colour",
            )
        check_frame(*frame.shape[:2])
        small = resize_frame(frame, self.spec.input_height, self.spec.input_width)
        if channels == "bgr":
            small = cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
        density = scale_prior(self._backend.infer(small[None])[0], self.spec, self._prior_strength)
        if not math.isfinite(float(density.sum())):
            raise FrameError(
                "the model's map has values that are not finite",
                "choose precision fp32, or another model",
                expected="a density",
                reason="map_not_finite",
            )
        return density

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        self._backend.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def check_frame(height: int, width: int) -> None:
    """Refuse a size that cannot be a whole equirectangular frame.

    Raises:
        FrameError: the size is not 2:1 to within 4 % (cameras pad: 640 x 322 is accepted), or is empty.
    """
    if height < 1 or abs(width - 2 * height) > ASPECT_TOLERANCE * 2 * height:
        raise FrameError(
            f"the frame is {width} x {height}",
            "set the camera or its driver to its stitched equirectangular output",
            expected="equirectangular, twice as wide as high",
            reason="not_2_to_1",
        )


def check_prior_strength(spec: ModelSpec, strength: float) -> None:
    """Refuse a strength that `scale_prior` cannot give to the maps of this model.

    Raises:
        ParameterError: it is out of its range, or it is not 1 and the model has no prior.
    """
    if not 0 <= strength <= MAX_PRIOR_STRENGTH:
        raise ParameterError(
            f"prior_strength is {strength:g}", "1 is the trained strength", expected=f"0 to {MAX_PRIOR_STRENGTH:g}"
        )
    if strength != 1 and not spec.prior_log_rows:
        raise ParameterError(
            f"prior_strength is {strength:g} and {spec.name} has no equator prior",
            "leave prior_strength at 1, or choose another model",
            expected="1 for such a model",
        )


def scale_prior(density: Array, spec: ModelSpec, strength: float) -> Array:
    """A map (h, w) with the model's equator prior at another strength: density · exp((strength − 1) · prior).

    Exact, because the prior is a term of the log-density: strength 0 gives the map of the model without it. The
    result is float32, normalised on the sphere again; strength 1 returns the map unchanged.
    """
    if strength == 1:
        return density
    gain = np.exp((strength - 1) * np.asarray(spec.prior_log_rows))[:, None]  # (h, 1)
    return normalised(density * gain)


def resize_frame(frame: Array, height: int, width: int) -> Array:
    """A frame (H, W, 3) at the model's size: every source pixel counts when it shrinks, so that nothing aliases."""
    if frame.shape[:2] == (height, width):
        return frame
    if frame.strides[2] == 0:  # one grey channel shown three times: cv2 would first copy it out at full size
        return cv2.cvtColor(_resize(frame[..., 0], height, width), cv2.COLOR_GRAY2RGB)
    return _resize(frame, height, width)


def _resize(frame: Array, height: int, width: int) -> Array:
    if frame.shape[0] < height:
        return cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
    block = max(2, frame.shape[0] // height) if frame.shape[0] >= 1.5 * height else 1
    if block > 1 and frame.shape[:2] != (block * height, block * width):
        # whole blocks are averaged more quickly than broken ones; on the way to them, by a factor below 1.5, bilinear
        # misses no pixel
        frame = cv2.resize(frame, (block * width, block * height), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
