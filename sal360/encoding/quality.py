"""How good encoded video is, for the sphere and for those who look at it, and what regions of interest are worth.

All measures are of luma. PSNR and SSIM are weighted: by solid angle alone (WS-PSNR, Sun et al., IEEE SPL 2017), or by
solid angle times gaze. BD-rate (Bjøntegaard, VCEG-M33) is the mean difference in rate at equal quality.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density, Pixels, Reals
from sal360.encoding.codecs import EncoderSettings
from sal360.encoding.probe import decoded, encoded, luma
from sal360.encoding.regions import RegionFrames
from sal360.outputs.layout import EQUIRECTANGULAR, Layout
from sal360.sphere import solid_angles

if TYPE_CHECKING:
    import av

GAZE, SPHERE = "gaze", "sphere"
"""The two weights: solid angle times gaze, and solid angle."""
_WEIGHT_PX = 8
"""Block in which weights of other layouts than a panorama are constant."""
_STEPS = (-6.0, 0.0, 6.0, 12.0)
"""Four qualities around a codec's default: from high to low rates, each about half of the one before."""


@dataclass(frozen=True, eq=False)
class Shot:
    """A picture before it is encoded, and what it is judged by."""

    frame: av.VideoFrame
    luma: Reals
    """(H, W)."""
    weights: Mapping[str, Reals]
    """(H, W), for `GAZE` and `SPHERE`, each with the sum 1."""


@dataclass
class Curve:
    """Quality over rate of one way to encode."""

    qualities: list[float] = field(default_factory=list)
    """Constant quality that the encoder was asked for."""
    kbit_s: list[float] = field(default_factory=list)
    psnr_db: dict[str, list[float]] = field(default_factory=lambda: {GAZE: [], SPHERE: []})
    ssim: dict[str, list[float]] = field(default_factory=lambda: {GAZE: [], SPHERE: []})
    vmaf: list[float] = field(default_factory=list)
    """Empty where the tool is not installed."""


def shot_of(
    image: Pixels,
    channels: str,
    gaze: Density,
    number: int,
    rate_hz: float,
    pixel_format: str = "yuv420p",
    layout: Layout = EQUIRECTANGULAR,
) -> Shot:
    """A picture ready for encoding.

    Args:
        image: (H, W, 3) uint8.
        channels: "rgb" or "bgr".
        gaze: density (h, w) by which it is judged, equirectangular.
        number: of the picture in its clip.
        rate_hz: of the clip.
        pixel_format: that of the encoder.
        layout: of the picture.
    """
    from av import VideoFrame

    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format=f"{channels}24").reformat(format=pixel_format)
    frame.pts, frame.time_base = number, 1 / Fraction(rate_hz).limit_denominator(1001)
    sphere, on_picture = _weights(gaze, layout, *image.shape[:2])
    looked_at = sphere * on_picture
    looked_at /= looked_at.sum()
    return Shot(frame, luma(frame), {SPHERE: sphere, GAZE: looked_at.astype(np.float32)})


def _weights(gaze: Density, layout: Layout, height: int, width: int) -> tuple[Reals, Reals]:
    """Share of the solid angle, and gaze, of each pixel, (H, W)."""
    if layout is EQUIRECTANGULAR:
        rows = solid_angles(height, width)  # (H, 1)
        sphere = np.broadcast_to(rows / (width * rows.sum()), (height, width))  # one column in memory
        return sphere, np.asarray(cv2.resize(gaze, (width, height), interpolation=cv2.INTER_LINEAR))
    grid = layout.tiles(height, width, _WEIGHT_PX)
    per_pixel = grid.solid_angle_sr / grid.pixels

    def spread(values: Reals) -> Reals:
        return np.repeat(np.repeat(values, _WEIGHT_PX, axis=0), _WEIGHT_PX, axis=1)[:height, :width]

    sphere = spread(per_pixel)
    return sphere / sphere.sum(), spread(grid.average(gaze))


def psnr_db(before: Sequence[Reals], after: Sequence[Reals], weights: Sequence[Reals]) -> float:
    """PSNR of a clip of 8-bit luma: the mean over frames of the squared error, weighted within each frame.

    Args:
        before, after: (H, W) each.
        weights: (H, W) each, with the sum 1.
    """
    errors = [float((weight * (b - a) ** 2).sum()) for b, a, weight in zip(before, after, weights, strict=True)]
    return 10 * math.log10(255**2 / max(float(np.mean(errors)), 1e-10))


def similarity(before: Reals, after: Reals) -> Reals:
    """Structural similarity of each pixel, (H, W) (Wang et al., IEEE TIP 2004; Gaussian window of 1.5 pixels)."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def blurred(values: Reals) -> Reals:
        return np.asarray(cv2.GaussianBlur(values.astype(np.float64), (11, 11), 1.5))

    mean_b, mean_a = blurred(before), blurred(after)
    var_b, var_a = blurred(before * before) - mean_b**2, blurred(after * after) - mean_a**2
    both = blurred(before * after) - mean_b * mean_a
    return ((2 * mean_b * mean_a + c1) * (2 * both + c2)) / ((mean_b**2 + mean_a**2 + c1) * (var_b + var_a + c2))


def _mean_ssim(shot: Shot, after: Reals) -> dict[str, float]:
    """SSIM with each of the shot's weights."""
    per_pixel = similarity(shot.luma, after)
    return {name: float((weights * per_pixel).sum()) for name, weights in shot.weights.items()}


def bd_rate_percent(
    plain_kbit_s: Sequence[float], plain: Sequence[float], kbit_s: Sequence[float], quality: Sequence[float]
) -> float:
    """Change in rate at equal quality, in percent: −20 means that a fifth of the rate is saved.

    Each curve is a cubic through log rate over quality, and the mean is over the qualities that both have.

    Args:
        plain_kbit_s, plain: rates and qualities to compare with, at least four.
        kbit_s, quality: those that are compared.

    Returns:
        NaN if the curves share no quality.
    """
    low, high = max(min(plain), min(quality)), min(max(plain), max(quality))
    if not low < high:
        return math.nan
    integrals = []
    for rates, values in ((plain_kbit_s, plain), (kbit_s, quality)):
        # centred, so that the fit is well conditioned
        polynomial = np.polyfit(np.asarray(values) - low, np.log(rates), 3)
        integrals.append(float(np.polyval(np.polyint(polynomial), high - low)))
    return 100 * math.expm1((integrals[1] - integrals[0]) / (high - low))


def bd_psnr_db(
    plain_kbit_s: Sequence[float], plain: Sequence[float], kbit_s: Sequence[float], quality: Sequence[float]
) -> float:
    """Change in quality at equal rate; the counterpart of `bd_rate_percent`."""
    rates = [np.log(plain_kbit_s), np.log(kbit_s)]
    low, high = max(each.min() for each in rates), min(each.max() for each in rates)
    if not low < high:
        return math.nan
    integrals = [
        float(np.polyval(np.polyint(np.polyfit(rate - low, values, 3)), high - low))
        for rate, values in zip(rates, (plain, quality), strict=True)
    ]
    return float(integrals[1] - integrals[0]) / float(high - low)


def qualities_of(settings: EncoderSettings) -> list[float]:
    """Four constant qualities for a codec's curve."""
    best, default, worst = settings.codec.quality
    return [min(max(default + each, best), worst) for each in _STEPS]


def measure(
    shots: Sequence[Shot],
    settings: EncoderSettings,
    offsets: Sequence[NDArray[np.int8]] | None,
    qualities: Iterable[float],
    rate_hz: float,
    block_px: int = 16,
    *,
    with_ssim: bool = True,
) -> Curve:
    """Encode a clip at several qualities and judge it.

    Args:
        offsets: (rows, columns) for each picture; None: without regions of interest.
        with_ssim: also the slower measures, SSIM and VMAF.
    """
    height, width = shots[0].luma.shape
    frames: list[Any] = [each.frame for each in shots]
    if offsets is not None:
        regions = RegionFrames(height, width, settings.codec, block_px)
        frames = [regions.marked(frame, each) for frame, each in zip(frames, offsets, strict=True)]
    curve = Curve()
    for quality in qualities:
        size, after = coded(frames, replace(settings, bitrate=0, quality=quality), height, width, rate_hz)
        curve.qualities.append(quality)
        curve.kbit_s.append(8e-3 * size * rate_hz / len(shots))
        lumas = [luma(each) for each in after]
        before = [each.luma for each in shots]
        for name in (GAZE, SPHERE):
            curve.psnr_db[name].append(psnr_db(before, lumas, [each.weights[name] for each in shots]))
        if with_ssim:
            means = [_mean_ssim(shot, after_luma) for shot, after_luma in zip(shots, lumas, strict=True)]
            for name in (GAZE, SPHERE):
                curve.ssim[name].append(float(np.mean([each[name] for each in means])))
        if with_ssim and (score := vmaf(frames, after)) is not None:
            curve.vmaf.append(score)
    return curve


def coded(
    frames: Sequence[Any], settings: EncoderSettings, height: int, width: int, rate_hz: float
) -> tuple[int, list[Any]]:
    """Bytes of the encoded frames, and the frames after decoding."""
    packets = encoded(settings, frames, height, width, rate_hz)
    return sum(each.size for each in packets), list(decoded(packets, settings.codec.decoder))


def vmaf(before: Sequence[Any], after: Sequence[Any]) -> float | None:
    """Mean VMAF of a clip by the tool `vmaf` (github.com/Netflix/vmaf), for flat screens; None if it is not there."""
    tool = shutil.which("vmaf")
    if tool is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("before.y4m", "after.y4m", "vmaf.json")]
        for path, frames in zip(paths, (before, after), strict=False):
            path.write_bytes(_y4m(frames))
        command = [tool, "-r", str(paths[0]), "-d", str(paths[1]), "--json", "-o", str(paths[2])]
        if subprocess.run(command, capture_output=True).returncode:
            return None
        return float(json.loads(paths[2].read_text())["pooled_metrics"]["vmaf"]["mean"])


def _y4m(frames: Sequence[Any]) -> bytes:
    """Frames as YUV4MPEG2, 4:2:0."""
    parts = [f"YUV4MPEG2 W{frames[0].width} H{frames[0].height} F30:1 Ip A1:1 C420\n".encode()]
    for frame in frames:
        parts += [b"FRAME\n", frame.reformat(format="yuv420p").to_ndarray().tobytes()]
    return b"".join(parts)


def gains(plain: Curve, other: Curve) -> dict[str, float]:
    """BD-rate in percent and the change of PSNR at equal rate in dB, for each weight."""
    found: dict[str, float] = {}
    for name in (GAZE, SPHERE):
        pair = (plain.kbit_s, plain.psnr_db[name], other.kbit_s, other.psnr_db[name])
        found[f"{name}_bd_rate_percent"] = bd_rate_percent(*pair)
        found[f"{name}_bd_psnr_db"] = bd_psnr_db(*pair)
    return found
