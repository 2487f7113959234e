"""Maps as densities on the sphere: scaled to mean 1, made from fixations, blurred, resampled to another grid.

A density is relative to uniform: every direction would have the value 1 if gaze were uniform. The mean, each pixel
weighted by its solid angle, is 1.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from sal360.arrays import Density, Floats, Integers, Mask, Reals
from sal360.errors import DataError, ParameterError
from sal360.sphere import solid_angles, vector_to_angles

HEADSET_SIGMA_DEG = 3.34
"""Standard deviation of the kernel for gaze in a headset, degrees: the fovea and the tracker's error (Salient360!)."""
_TAIL = 1e-9


# --- mean 1 ---


def sphere_mean(values: Reals, valid: Mask | None = None) -> float:
    """Mean of a map (h, w), each pixel weighted by its solid angle.

    Args:
        valid: (h, w), the pixels to count; None counts all.
    """
    solid = solid_angles(*values.shape)
    if valid is None:
        return float(values.sum(axis=1, dtype=np.float64) @ solid[:, 0]) / (4 * math.pi)
    return float((values * (solid * valid)).sum() / (solid * valid).sum())


def normalised(values: Reals, valid: Mask | None = None) -> Density:
    """A map (h, w) with a mean above 0, scaled to a density: `sphere_mean` 1, on the valid part if one is given."""
    mean = sphere_mean(values, valid)
    if values.dtype == np.float32:
        return values / np.float32(mean)
    density = np.empty(values.shape, np.float32)
    return np.divide(values, mean, out=density, casting="same_kind")  # without a copy in float64


def as_density(values: Reals, name: str) -> Density:
    """A map (h, w) from an external source as a density.

    Args:
        name: name of the map in errors.

    Raises:
        DataError: it has values that are negative or not finite, or it is 0 everywhere.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # of sums with infinity or NaN
        mean = sphere_mean(values)
        is_valid = math.isfinite(mean) and values.min() >= 0
    if not is_valid:
        raise DataError(f"the map {name} has values that are negative or not finite", _WRITE_AGAIN)
    if mean == 0:
        raise DataError(f"the map {name} is zero everywhere", _WRITE_AGAIN)
    return normalised(values)


_WRITE_AGAIN = "recreate the map, or leave it out"


# --- fixations ---


def spherical_density(fixations: Floats, height: int, width: int, sigma_deg: float) -> Density:
    """The density of fixations: the sum of a normal distribution of directions (von Mises-Fisher) around each.

    The kernel is exp(κ (cos θ − 1)) with κ = 1/σ². It is cut off where it is below 1e-9 of its peak.

    Args:
        fixations: unit vectors (n, 3), n > 0.
        height, width: size of the map, pixels.
        sigma_deg: standard deviation of the kernel, degrees: at least half a pixel, or fixations would fall between
            pixels.

    Returns:
        (height, width) float32, mean 1 on the sphere.

    Raises:
        ParameterError: no fixations, or sigma_deg is too small for the map or larger than 60.
    """
    check_sigma(sigma_deg, height, width)
    if len(fixations) == 0:
        raise ParameterError("there are no fixations", "leave this picture out")
    sigma = math.radians(sigma_deg)
    radius = _radius(sigma)
    row_elevation = math.pi / 2 - math.pi * (np.arange(height) + 0.5) / height
    column_azimuth = math.pi - 2 * math.pi * (np.arange(width) + 0.5) / width
    density = np.zeros((height, width))
    row_cosine = np.cos(row_elevation)
    for azimuth, elevation in zip(*vector_to_angles(fixations), strict=True):
        rows = _rows_around(elevation, radius, height)
        columns = _columns_around(azimuth, elevation, radius, width)
        # haversine of the angle θ between the fixation and each pixel centre, (1 − cos θ) / 2: exact for small θ
        of_rows = np.sin((row_elevation[rows] - elevation) / 2) ** 2
        of_columns = np.sin((column_azimuth[columns] - azimuth) / 2) ** 2
        of_columns *= -2 / sigma**2 * math.cos(elevation)
        # each kernel in float32, whose errors of 1e-6 are those of the result; their sum in float64
        exponent = np.outer(row_cosine[rows].astype(np.float32), of_columns.astype(np.float32))
        exponent += (of_rows * (-2 / sigma**2)).astype(np.float32)[:, None]
        _add_around(density[rows], columns, np.exp(exponent, out=exponent))
    return normalised(density)


def check_sigma(sigma_deg: float, height: int, width: int) -> None:
    """Check the standard deviation of a kernel, degrees, against the size of its map.

    Raises:
        ParameterError: it is too small for the map or larger than 60.
    """
    half_pixel_deg = max(90 / height, 180 / width)
    if not half_pixel_deg <= sigma_deg <= 60:
        raise ParameterError(
            f"sigma_deg is {sigma_deg:g} for a map of {width} x {height}",
            "set a wider kernel or make a larger map",
            expected=f"{half_pixel_deg:g} (half a pixel) to 60",
        )


def _radius(sigma: float) -> float:
    """The angle beyond which the kernel is below `_TAIL`, radians."""
    haversine = -math.log(_TAIL) * sigma**2 / 2
    return math.pi if haversine >= 1 else 2 * math.asin(math.sqrt(haversine))


def _rows_around(elevation: float, radius: float, height: int) -> slice:
    first = math.ceil((math.pi / 2 - elevation - radius) * height / math.pi - 0.5)
    last = math.floor((math.pi / 2 - elevation + radius) * height / math.pi - 0.5)
    return slice(max(0, first), min(height, last + 1))


def _columns_around(azimuth: float, elevation: float, radius: float, width: int) -> Integers:
    """Indices of the columns that the cap touches, wrapped at the seam."""
    if abs(elevation) + radius >= math.pi / 2:  # it contains a pole, so it touches every meridian
        return np.arange(width)
    half = math.asin(math.sin(radius) / math.cos(elevation))
    middle, half_px = (math.pi - azimuth) * width / (2 * math.pi) - 0.5, half * width / (2 * math.pi)
    return np.arange(math.ceil(middle - half_px), math.floor(middle + half_px) + 1) % width


def _add_around(rows: Floats, columns: Integers, bump: Reals) -> None:
    """rows[:, columns] += bump in place, by slices: the columns are consecutive except for one wrap at the seam."""
    wrap = int(np.argmin(columns)) if len(columns) else 0
    for part in (slice(0, wrap), slice(wrap, None)):
        if len(columns[part]):
            first = columns[part][0]
            rows[:, first : first + len(columns[part])] += bump[:, part]


# --- blur ---


def blur_sphere(values: Reals, sigma_deg: float) -> Floats:
    """A map (h, w) convolved with a von Mises-Fisher kernel of deviation `sigma_deg`; its mean on the sphere is kept.

    The kernel between two rows depends only on the difference of the columns, so it is a product after a Fourier
    transform along the rows. Memory is h · h · w / 2 numbers: for small maps (128 x 256: 17 MB).
    """
    height, width = values.shape
    weights = solid_angles(height, width)
    spectrum = np.fft.rfft(values * weights, axis=1)  # (h, w / 2 + 1)
    blurred = np.einsum("ijm,jm->im", _kernel(height, width, sigma_deg), spectrum, optimize=True)
    result: Floats = np.fft.irfft(blurred, width, axis=1)
    mass = float((result * weights).sum())
    return result * (float((values * weights).sum()) / mass) if mass != 0 else result


@lru_cache(maxsize=4)
def _kernel(height: int, width: int, sigma_deg: float) -> Floats:
    """Spectrum along the columns of the kernel between each two rows: (h, h, w / 2 + 1), real as it is symmetric."""
    concentration = 1 / math.radians(sigma_deg) ** 2
    elevation = math.pi / 2 - math.pi * (np.arange(height) + 0.5) / height
    difference = 2 * math.pi * np.arange(width) / width
    of_rows = np.sin((elevation[:, None] - elevation) / 2) ** 2  # (h, h)
    along = np.cos(elevation)[:, None] * np.cos(elevation)  # (h, h)
    haversine = of_rows[..., None] + along[..., None] * np.sin(difference / 2) ** 2  # (h, h, w)
    return np.fft.rfft(np.exp(-2 * concentration * haversine), axis=-1).real


# --- another grid ---


def resize_map(values: Reals, height: int, width: int, *, spherical: bool = True) -> Reals:
    """Resample a map (h, w) bilinearly at the pixel centres of a (height, width) grid that covers the same area.

    Args:
        values: any real map; it is not changed.
        spherical: an ERP map, whose columns wrap and whose rows continue beyond the poles, half a turn away. Otherwise
            the map is a picture and its border pixels are repeated.

    Returns:
        (height, width) float64, or `values` itself when it already has this size.
    """
    if values.shape == (height, width):
        return values
    values = values.astype(np.float64)
    if spherical:
        above, below = _half_turn(values[0]), _half_turn(values[-1])
    else:
        above, below = values[0], values[-1]
    padded = np.concatenate([above[None], values, below[None]])  # (h + 2, w)
    column, column_part = _places(values.shape[1], width)
    last = values.shape[1] - 1
    if spherical:
        left, right = column % (last + 1), (column + 1) % (last + 1)
    else:
        left, right = np.clip(column, 0, last), np.clip(column + 1, 0, last)
    row, row_part = _places(values.shape[0], height)
    used, places = np.unique(np.concatenate([row + 1, row + 2]), return_inverse=True)  # + 1: the row above
    columns = padded[used]
    between = columns.take(right, axis=1)
    columns = columns.take(left, axis=1)
    between -= columns
    between *= column_part
    columns += between  # (rows that are used, width)
    resized: Reals = columns[places[:height]]
    below_it = columns[places[height:]]
    below_it -= resized
    below_it *= row_part[:, None]
    resized += below_it  # (height, width)
    return resized


def nearest_index(size: int, new_size: int) -> Integers:
    """For each of `new_size` pixels along one axis, the index of the one of `size` pixels that contains its centre."""
    return (2 * np.arange(new_size) + 1) * size // (2 * new_size)


def _places(size: int, new_size: int) -> tuple[Integers, Floats]:
    """The pixel before each new pixel centre (−1 … size − 1) and the fraction [0, 1) of the way to the next one."""
    place = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    before = np.floor(place)
    return before.astype(np.int64), place - before


def _half_turn(row: Reals) -> Reals:
    """A row (w,) seen from beyond the pole; an odd width puts half a turn between two pixels."""
    half = row.shape[0] // 2
    if row.shape[0] % 2:
        return (np.roll(row, half) + np.roll(row, half + 1)) / 2
    return np.roll(row, half)
