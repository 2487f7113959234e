"""Predicts the saliency map of a frame of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from sal360.arrays import Density, Floats, Pixels
from sal360.cameras.camera import Camera
from sal360.cameras.equirectangular import EquirectangularCamera
from sal360.cameras.equirectangular import check_frame as check_frame
from sal360.cameras.lookup import lookup_for
from sal360.cameras.lookup import resize_frame as resize_frame
from sal360.density import normalised
from sal360.errors import FrameError, ParameterError
from sal360.images import require_picture
from sal360.runtimes import open_model
from sal360.spec import ModelSpec
from sal360.sphere import angles_to_vector, erp_directions

MAX_PRIOR_STRENGTH = 10.0
MAX_FRONT_STRENGTH = 4.0
_FRONT_HEIGHT, _FRONT_CONCENTRATION = 6.4, 7.1
"""The front prior, fitted to 30 scenes of videos in headsets; `python -m training.analyse bias` fits it again."""


class Predictor:
    """Predicts where people look in single 360° frames; a `with` block closes it.

    Args:
        model: path of the model file, or the name of a bundled model: "permissive", or empty for the default.
        backend, device, precision, allow_pickled_programs: see `sal360.runtimes.open_model`.
        threads: CPU threads of the runtime and, if not 0, of OpenCV in the whole process; 0 lets each choose.
        prior_strength: strength of the model's equator prior, 0 (none) to 10; 1 is as trained. See `scale_prior`.
        front_strength: strength of a prior towards the middle of the frame, 0 (none) to 4; 1 is as recorded from
            viewers of videos in headsets. See `add_front_prior`.

    Raises:
        ModelError: the model cannot be opened or run here.
        ParameterError: an argument is out of its range, or the model has no prior to scale.
        FrameError: the model's map of a black frame is not finite.
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
        front_strength: float = 0.0,
        allow_pickled_programs: bool = False,
    ) -> None:
        check_front_strength(front_strength)
        self._backend = open_model(
            model,
            backend=backend,
            device=device,
            precision=precision,
            threads=threads,
            allow_pickled_programs=allow_pickled_programs,
        )
        self._prior_strength = prior_strength
        self._front_strength = front_strength
        if threads:  # also for resizing, decoding and drawing; OpenCV has one number for the whole process
            cv2.setNumThreads(threads)
        try:
            check_prior_strength(self.spec, prior_strength)
            # a runtime's first run is slow (memory, kernels, captured graphs), so it is done before the first frame
            self.predict(np.zeros((self.spec.input_height, self.spec.input_width, 3), np.uint8))
        except BaseException:
            self.close()
            raise

    @property
    def spec(self) -> ModelSpec:
        """Name, version, sizes and origin of the model."""
        return self._backend.spec

    @property
    def description(self) -> str:
        """Model, runtime, device and precision in one line, for logs."""
        backend = self._backend
        return f"{self.spec.name} {self.spec.version}, {backend.name} on {backend.device} in {backend.precision}"

    def predict(
        self,
        frame: Pixels,
        channels: str = "rgb",
        *,
        camera: Camera | None = None,
        rotation: Floats | None = None,
    ) -> Density:
        """The saliency map of a frame.

        Args:
            frame: (H, W, 3) uint8, with any strides. Without a camera it is equirectangular, of any size whose width is
                twice its height.
            channels: order of the last axis, "rgb" or "bgr".
            camera: the model of the camera, for frames of another kind; see `sal360.cameras.open_camera`.
            rotation: (3, 3), from the camera's body axes to upright axes, if the camera is tilted. The network sees the
                upright picture.

        Returns:
            (h, w) float32 at the spec's output size: density relative to uniform, mean 1 on the sphere. It is
            equirectangular in the camera's body axes, and 0 where the frame has no picture.

        Raises:
            FrameError: the frame is None or has another type, shape or size, or its map is not finite.
            ParameterError: channels is neither "rgb" nor "bgr".
        """
        if camera is None and rotation is None:
            density: Density = self.predict_batch([frame], [channels])[0]
            return density
        check_colour(frame)
        if camera is None:
            check_frame(*frame.shape[:2])
            camera = _panorama_camera(*frame.shape[:2])
        lookup = lookup_for(camera, self.spec.input_height, self.spec.input_width, rotation)
        return lookup.to_camera(self.predict_batch([lookup(frame)], [channels])[0])

    def predict_batch(self, frames: Sequence[Pixels], channels: Sequence[str]) -> Density:
        """The saliency maps of several frames, which the runtime computes together.

        Args:
            frames: at least one; each as in `predict`, in sizes that may differ.
            channels: order of each frame's last axis, "rgb" or "bgr".

        Returns:
            (N, h, w) float32 at the spec's output size: densities relative to uniform, mean 1 on the sphere.

        Raises:
            FrameError: a frame is None or has another type or shape, or a map is not finite.
            ParameterError: a channel order is neither "rgb" nor "bgr".
        """
        inputs = [self._input(*each) for each in zip(frames, channels, strict=True)]
        densities = self._backend.infer(inputs[0][None] if len(inputs) == 1 else np.stack(inputs))
        if self._prior_strength != 1 or self._front_strength:
            densities = np.stack([self._with_priors(density) for density in densities])
        if not math.isfinite(float(densities.sum())):
            raise FrameError(
                "the model's map has values that are not finite",
                "set precision to fp32, or choose another model",
                reason="map_not_finite",
            )
        return densities

    def _with_priors(self, density: Density) -> Density:
        return add_front_prior(scale_prior(density, self.spec, self._prior_strength), self._front_strength)

    def _input(self, frame: Pixels, channels: str) -> Pixels:
        """A frame as the network takes it, (input height, input width, 3) in RGB."""
        if channels not in ("rgb", "bgr"):
            raise ParameterError(f"channels is {channels!r}", 'pass "rgb" or "bgr"')
        check_colour(frame)
        check_frame(*frame.shape[:2])
        small = resize_frame(frame, self.spec.input_height, self.spec.input_width)
        return cv2.cvtColor(small, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False) if channels == "bgr" else small

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        self._backend.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def check_colour(frame: object) -> None:
    """Refuse what is no picture of 8-bit colour, (H, W, 3) uint8.

    Raises:
        FrameError: it is None, no array, or has another type or shape.
    """
    require_picture(frame, "the frame")
    assert isinstance(frame, np.ndarray)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise FrameError(
            f"the frame is {frame.shape} {frame.dtype}",
            "convert it to 8-bit colour, (H, W, 3) uint8",
            reason="not_colour",
        )


@lru_cache(maxsize=8)
def _panorama_camera(height: int, width: int) -> EquirectangularCamera:
    return EquirectangularCamera(height, width)  # the same object for the same size, which keeps its tables


def check_prior_strength(spec: ModelSpec, strength: float) -> None:
    """Refuse a prior strength that this model cannot have.

    Raises:
        ParameterError: it is out of its range, or not 1 although the model has no prior.
    """
    if not 0 <= strength <= MAX_PRIOR_STRENGTH:
        raise ParameterError(
            f"prior_strength is {strength:g}", f"set it from 0 to {MAX_PRIOR_STRENGTH:g}; 1 is as trained"
        )
    if strength != 1 and not spec.prior_log_rows:
        raise ParameterError(
            f"prior_strength is {strength:g}, and {spec.name} has no equator prior",
            "leave prior_strength at 1, or choose another model",
        )


def scale_prior(density: Density, spec: ModelSpec, strength: float) -> Density:
    """A map (h, w) with the model's equator prior at another strength: density · exp((strength − 1) · prior).

    This is exact, because the prior is a term of the log-density: strength 0 gives the map of the model without it. The
    result is normalised to mean 1 on the sphere; strength 1 returns the map unchanged.
    """
    if strength == 1:
        return density
    gain = np.exp((strength - 1) * np.asarray(spec.prior_log_rows))[:, None]  # (h, 1)
    return normalised(density * gain)


def check_front_strength(strength: float) -> None:
    """Refuse a strength of the front prior that is out of its range.

    Raises:
        ParameterError: naming the range.
    """
    if not 0 <= strength <= MAX_FRONT_STRENGTH:
        raise ParameterError(
            f"front_strength is {strength:g}", f"set it from 0 to {MAX_FRONT_STRENGTH:g}; 0 is without this prior"
        )


def add_front_prior(density: Density, strength: float, front_rad: float = 0.0) -> Density:
    """A map (h, w) times a prior of the longitude: viewers of a video begin at the front and stay near it.

    The prior is (1 + 6.4 exp(7.1 (cos θ − 1)))^strength, θ the angle to the front on the horizon, divided by its mean
    over each row: a density of the longitude at each latitude, which fades towards the poles.

    Args:
        strength: 0 returns the map unchanged; 1 is as recorded.
        front_rad: azimuth of the front in the frame, counter-clockwise from the frame's middle.

    Returns:
        (h, w) float32, mean 1 on the sphere.
    """
    if strength == 0:
        return density
    return normalised(density * _front_prior(*density.shape, strength, front_rad))


@lru_cache(maxsize=8)
def _front_prior(height: int, width: int, strength: float, front_rad: float) -> Density:
    """(height, width), mean 1 over each row; read-only and cached."""
    forward = erp_directions(height, width) @ angles_to_vector(front_rad, 0.0)
    prior = (1 + _FRONT_HEIGHT * np.exp(_FRONT_CONCENTRATION * (forward - 1))) ** strength
    table: Density = (prior / prior.mean(axis=1, keepdims=True)).astype(np.float32)
    table.flags.writeable = False
    return table
