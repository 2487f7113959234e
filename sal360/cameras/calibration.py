"""Self-calibration of a camera with two fisheye lenses, back to back, from its own pictures.

Both lenses see a ring around the camera. The ring is resampled from each lens onto a common band, in which features are
matched; local contrast is evened out before, so that neither exposure nor vignetting matters. RANSAC finds the rotation
and the field of view on which the largest number of matches agree. A robust least-squares fit then adjusts everything
together: the centres and radii of both lenses, which start from the circles that are visible against black, the field
of view and the rotation. It runs twice, the second time with matches on bands of the first result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from sal360.arrays import Floats, Integers, Mask, Pixels, Reals
from sal360.cameras.fisheye import MAX_FOV_DEG, FisheyeCamera, Lens
from sal360.cameras.lens_circles import Circle, find_circle
from sal360.errors import DataError
from sal360.sphere import angular_distance, rotation_yaw_pitch_roll

CALIBRATED_PROJECTIONS = ("equidistant", "equisolid", "stereographic")
MIN_OVERLAPPING_FOV_DEG = 184.0
"""Lenses that see less have too little in common."""
_START_FOV_DEG = 200.0
_TRIED_FOV_DEG = tuple(np.arange(MIN_OVERLAPPING_FOV_DEG, MAX_FOV_DEG, 4.0).tolist())
"""Where the field of view is not known."""
_MARGIN = math.radians(12)
"""How far the bands go beyond the overlap at the start, when the lenses are only roughly known."""
_HYPOTHESES = 300
_MAX_TILT = math.radians(20)
"""How far the second lens may look away from the exact back."""
_TOLERANCE = math.radians(1.5)
"""Matches that disagree by more are wrong."""
_MIN_MATCHES = 15
_MAX_UNCERTAINTY = math.radians(0.5)
_CIRCLE_DEVIATION = 0.003
"""Standard deviation, relative to the radius, of an optical centre from that of the circle, and of the radius."""
_LOOSE, _TIGHT = 0.2, 1e-5
"""Standard deviations of the field of view in radians: unknown, and given."""
_PARAMETERS = 10
_MAX_DISTANCE = 330.0
"""Of two SIFT descriptors of the same point; their length is 512."""


class Area(NamedTuple):
    """The rows and columns of a picture that belong to one lens."""

    name: str
    rows: slice
    columns: slice

    def around(self, points: Floats) -> Mask:
        """Whether pixel coordinates (..., 2) lie in it (...)."""
        x, y = np.moveaxis(points, -1, 0)
        in_columns: Mask = (x >= self.columns.start) & (x <= self.columns.stop - 1)
        in_rows: Mask = (y >= self.rows.start) & (y <= self.rows.stop - 1)
        return in_columns & in_rows


class Rig(NamedTuple):
    """Two fisheye lenses that look in opposite directions; their rotations are to the axes of the first."""

    first: Lens
    second: Lens

    def directions(self, lens: int, points: Floats) -> Floats:
        """Unit vectors (..., 3) of pixel coordinates (..., 2) of a lens."""
        return self[lens].unproject(points[..., 0], points[..., 1])[0]

    def points(self, lens: int, directions: Floats) -> tuple[Floats, Floats]:
        """Pixel coordinates (..., 2) of directions (..., 3) in a lens, and the angles (...) from its axis, radians."""
        x, y, angle = self[lens].project(directions)
        return np.stack([x, y], axis=-1), angle

    @property
    def fov_deg(self) -> float:
        """Field of view of both lenses."""
        return self.first.fov_deg

    def adjusted(self, step: Floats) -> Rig:
        """The rig with its ten parameters changed: centres (4) and radii (2) in radii, angles (4) in radians."""
        turn, _ = cv2.Rodrigues(step[7:10])
        fov_deg = self.fov_deg + math.degrees(step[6])
        fov_deg = min(max(fov_deg, 180.0), MAX_FOV_DEG)
        first = _moved(self.first, step[0:2], step[4], fov_deg, np.eye(3))
        return Rig(first, _moved(self.second, step[2:4], step[5], fov_deg, turn.astype(np.float64)))

    def turned_like(self, expected: FisheyeCamera) -> FisheyeCamera:
        """The camera with these lenses whose front lens looks and is turned exactly as that of `expected`.

        The overlap says how the lenses are turned to each other, but not which one is in front, nor where up is.
        """
        front, rear = expected.lenses
        is_swapped = front.centre_x + front.centre_y > rear.centre_x + rear.centre_y  # right of it, or below
        lenses = (self.second, self.first) if is_swapped else (self.first, self.second)
        turn = front.rotation @ lenses[0].rotation.T
        turned = [replace(each, rotation=turn @ each.rotation) for each in lenses]
        return FisheyeCamera(expected.height, expected.width, turned)


def _moved(lens: Lens, shift: Floats, growth: float, fov_deg: float, turn: Floats) -> Lens:
    radius = lens.radius_px
    return Lens.with_radius(
        lens.centre_x + float(shift[0]) * radius,
        lens.centre_y + float(shift[1]) * radius,
        radius * (1 + float(growth)),
        fov_deg,
        lens.projection,
        rotation=lens.rotation @ turn,
    )


@dataclass(frozen=True)
class Matches:
    """Pixel coordinates (N, 2) of the same points of a scene in both lenses, and which picture (N,) shows them."""

    first: Floats
    second: Floats
    picture: Integers

    def __len__(self) -> int:
        return len(self.first)

    def among(self, chosen: Mask) -> Matches:
        """The chosen ones (N,)."""
        return Matches(self.first[chosen], self.second[chosen], self.picture[chosen])

    def angles(self, rig: Rig) -> Floats:
        """Angle in radians (N,) between the directions that a rig gives to the two pixels of each match."""
        return angular_distance(rig.directions(0, self.first), rig.directions(1, self.second))


@dataclass(frozen=True)
class Calibration:
    """What was found."""

    rig: Rig
    matches: Matches
    """Those that agree with the rig."""
    residual_rad: float
    """Median angle between the two directions of a match."""
    uncertainty_rad: float
    """Standard deviation of the step between the lenses, where on the ring it is largest."""


def areas(height: int, width: int) -> tuple[Area, Area]:
    """The areas of the two lenses in a picture of this size.

    Raises:
        DataError: it is neither about twice as wide as high nor the reverse, or cannot be halved.
    """
    if max(height, width) % 2:
        raise DataError(
            f"the picture is {width} x {height} pixels",
            "use it as it came from the camera",
            expected="an even size, to halve it for two lenses",
        )
    if 1.7 * height <= width <= 2.3 * height:
        rows = slice(0, height)
        left, right = slice(0, width // 2), slice(width // 2, width)
        return Area("the left half", rows, left), Area("the right half", rows, right)
    if 1.7 * width <= height <= 2.3 * width:
        columns = slice(0, width)
        upper, lower = slice(0, height // 2), slice(height // 2, height)
        return Area("the upper half", upper, columns), Area("the lower half", lower, columns)
    raise DataError(
        f"the picture is {width} x {height} pixels",
        "use the camera's unstitched picture, which shows both lenses",
        expected="two circles side by side (2:1) or one above the other (1:2)",
    )


def calibrate(pictures: Sequence[Pixels], *, projection: str = "equidistant", fov_deg: float = 0.0) -> Calibration:
    """Find the lenses of a camera from one or several of its pictures.

    Args:
        pictures: (H, W, 3) uint8 BGR, all of the same size, unstitched.
        projection: of the lenses, one of `CALIBRATED_PROJECTIONS`.
        fov_deg: field of view of each lens at the border of its circle; 0: find it, too.

    Raises:
        DataError: the pictures have another shape, the circles are not visible, or the overlap has too little texture
            to determine the lenses.
    """
    both = areas(*pictures[0].shape[:2])
    circles = [find_circle(_brightest(pictures, each), each.name) for each in both]
    circles = [each.shifted(area.columns.start, area.rows.start) for each, area in zip(circles, both, strict=True)]
    start = _rig(circles, projection, fov_deg or _START_FOV_DEG)
    prior = _Prior(start, knows_fov=fov_deg > 0)
    anywhere = _joined(_match_anywhere(each, both, start, index) for index, each in enumerate(pictures))
    rig, agreeing = _consensus(anywhere, start, (fov_deg,) if fov_deg else _TRIED_FOV_DEG)
    rig, _ = _fit(agreeing, rig, prior)
    nearby = _joined(_match_nearby(each, both, rig, index) for index, each in enumerate(pictures))
    nearby = _enough(nearby.among(nearby.angles(rig) < _TOLERANCE))
    rig, scale = _fit(nearby, rig, prior)
    nearby = _enough(nearby.among(nearby.angles(rig) < 4 * scale))
    uncertainty = _uncertainty(nearby, rig, prior, scale)
    if uncertainty > _MAX_UNCERTAINTY:
        raise _too_little(f"{len(nearby)} matches determine the lenses only to {math.degrees(uncertainty):.1f}°")
    return Calibration(rig, nearby, float(np.median(nearby.angles(rig))), uncertainty)


def _brightest(pictures: Sequence[Pixels], area: Area) -> Pixels:
    """The maximum of all pictures and colours: the border of a circle is visible where any picture is bright."""
    brightest: Pixels = np.max([each[area.rows, area.columns].max(axis=2) for each in pictures], axis=0)
    return brightest


def _rig(circles: Sequence[Circle], projection: str, fov_deg: float) -> Rig:
    """Lenses exactly back to back."""
    turns = (np.eye(3), rotation_yaw_pitch_roll(math.pi))
    first, second = (
        Lens.with_radius(each.x, each.y, each.radius, fov_deg, projection, rotation=turn)
        for each, turn in zip(circles, turns, strict=True)
    )
    return Rig(first, second)


def _too_little(found: str) -> DataError:
    return DataError(
        f"the overlap of the lenses has too little texture, or is too narrow: {found}",
        "add pictures with more detail all around the camera, in good light, a few metres away",
    )


def _enough(matches: Matches) -> Matches:
    """The matches.

    Raises:
        DataError: there are too few of them.
    """
    if len(matches) < _MIN_MATCHES:
        raise _too_little(f"{len(matches)} matches agree, {_MIN_MATCHES} are needed")
    return matches


# --- features on a common band ---


class _Features(NamedTuple):
    """Features of one lens: directions (N, 3) that a rig gives them, pixels (N, 2) and SIFT descriptors (N, 128)."""

    directions: Floats
    points: Floats
    descriptors: Reals


def _features(picture: Pixels, area: Area, rig: Rig, lens: int, margin_rad: float) -> _Features:
    """The features in the ring that both lenses see, and `margin_rad` beyond it, found on a band along the ring."""
    edge = rig[lens].half_fov_rad
    nearest, farthest = math.pi - edge - margin_rad, edge + margin_rad  # angles from the axis of the first lens
    per_rad = min((rig.first.radius_px + rig.second.radius_px) / (2 * edge), 600.0)  # pixels: about those of the lenses
    columns, again = round(2 * math.pi * per_rad), round(0.15 * per_rad)  # `again`: the ring has no end
    angle = nearest + (np.arange(round((farthest - nearest) * per_rad), dtype=np.float64) + 0.5) / per_rad
    turn = (np.arange(columns + again, dtype=np.float64) + 0.5) * (2 * math.pi / columns)
    points, from_axis = rig.points(lens, ring(angle[:, None], turn))
    usable = (from_axis < edge - math.radians(1.5)) & area.around(points)  # descriptors at the border would see it
    band = looked_up(picture, points)
    keypoints, descriptors = _sift().detectAndCompute(_evened(band, usable), usable.astype(np.uint8) * 255)
    if not keypoints:
        return _Features(np.empty((0, 3)), np.empty((0, 2)), np.empty((0, 128), np.float32))
    place = np.array([each.pt for each in keypoints], dtype=np.float64) + 0.5
    directions = ring(nearest + place[:, 1] / per_rad, place[:, 0] * (2 * math.pi / columns))
    return _Features(directions, rig.points(lens, directions)[0], descriptors.astype(np.float32, copy=False))


def ring(angle: Floats, turn: Floats) -> Floats:
    """Unit vectors (..., 3) by their angle from the first lens's axis and their angle around it, radians."""
    across = np.sin(angle)
    return np.stack(np.broadcast_arrays(np.cos(angle), across * np.cos(turn), across * np.sin(turn)), axis=-1)


def looked_up(picture: Pixels, points: Floats) -> Pixels:
    """Pixels (h, w, 3) of a picture at coordinates (h, w, 2); black outside it."""
    x, y = np.moveaxis(points.astype(np.float32), -1, 0)
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def _sift() -> cv2.SIFT:
    return cv2.SIFT.create(nfeatures=4000, contrastThreshold=0.02)


def _evened(band: Pixels, usable: Mask) -> Pixels:
    """The band in grey with the same local mean and contrast everywhere, whatever the exposure of the lens."""
    weight = usable.astype(np.float32)
    grey = cv2.cvtColor(band, cv2.COLOR_BGR2GRAY).astype(np.float32) * weight
    share = np.maximum(_local(weight), 1e-3)
    detail = (grey - _local(grey) / share) * weight
    contrast = np.sqrt(_local(detail**2) / share)
    evened: Reals = 128 + 45 * detail / (contrast + 4)  # 4: what is only noise stays faint
    return np.clip(evened, 0, 255).astype(np.uint8)


def _local(values: Reals) -> Reals:
    return cv2.GaussianBlur(values, (0, 0), 12).astype(np.float32, copy=False)


def _match_anywhere(picture: Pixels, both: Sequence[Area], rig: Rig, index: int) -> Matches:
    """Features that are each other's best match, wherever on the ring: the roll between the lenses is not known."""
    first, second = (_features(picture, area, rig, lens, _MARGIN) for lens, area in enumerate(both))
    return _mutual(first, second, _distances(first, second), 0.85, index)


def _match_nearby(picture: Pixels, both: Sequence[Area], rig: Rig, index: int) -> Matches:
    """Features that are each other's best match among those that the rig puts near each other."""
    first, second = (_features(picture, area, rig, lens, 0.0) for lens, area in enumerate(both))
    are_apart = first.directions @ second.directions.T < math.cos(_TOLERANCE)
    return _mutual(first, second, np.where(are_apart, np.inf, _distances(first, second)), 0.9, index)


def _distances(first: _Features, second: _Features) -> Reals:
    """Distances (N, M) between the descriptors of two sets of features."""
    a, b = first.descriptors, second.descriptors
    squares: Reals = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    distances: Reals = np.sqrt(np.maximum(squares, 0))
    return distances


def _mutual(first: _Features, second: _Features, distances: Reals, ratio: float, index: int) -> Matches:
    """The pairs that are best for both, and clearly better than any other that is not at the same place."""
    if min(distances.shape) == 0:
        return Matches(np.empty((0, 2)), np.empty((0, 2)), np.empty(0, np.int64))
    best = distances.argmin(axis=1)
    rows = np.arange(len(best))
    least = distances[rows, best]
    is_elsewhere = second.directions[best] @ second.directions.T < math.cos(math.radians(0.5))
    runner_up = np.where(is_elsewhere, distances, np.inf).min(axis=1)
    chosen = (distances.argmin(axis=0)[best] == rows) & (least < _MAX_DISTANCE) & (least < ratio * runner_up)
    return Matches(first.points[chosen], second.points[best[chosen]], np.full(int(chosen.sum()), index))


def _joined(matches: Iterator[Matches]) -> Matches:
    each = list(matches)
    return Matches(
        np.concatenate([one.first for one in each]),
        np.concatenate([one.second for one in each]),
        np.concatenate([one.picture for one in each]),
    )


# --- robust fit ---


def _consensus(matches: Matches, start: Rig, tried_fov_deg: Sequence[float]) -> tuple[Rig, Matches]:
    """The rotation and field of view on which the largest number of matches agree (RANSAC), and those matches."""
    _enough(matches)
    generator = np.random.default_rng(0)  # the same calibration from the same picture
    best, least = start, math.inf
    for fov_deg in tried_fov_deg:
        rig = start.adjusted(_change_of_fov(fov_deg - start.fov_deg))
        in_first = rig.directions(0, matches.first)
        in_second = rig.directions(1, matches.second) @ rig.second.rotation  # the axes of the second lens
        rotation, cost = _best_rotation(in_first, in_second, generator)
        if cost < least:
            best, least = rig._replace(second=replace(rig.second, rotation=rotation)), cost
    return best, _enough(matches.among(matches.angles(best) < _TOLERANCE))


def _change_of_fov(degrees: float) -> Floats:
    step = np.zeros(_PARAMETERS)
    step[6] = math.radians(degrees)
    return step


def _best_rotation(first: Floats, second: Floats, generator: np.random.Generator) -> tuple[Floats, float]:
    """The rotation, from random pairs of matches (N, 3), with the least cost; infinite without a plausible one."""
    pairs = generator.integers(0, len(first), (20 * _HYPOTHESES, 2))
    a, b = first[pairs], second[pairs]  # (pair, 2, 3)
    between = angular_distance(a[:, 0], a[:, 1])
    is_rigid = np.abs(between - angular_distance(b[:, 0], b[:, 1])) < _TOLERANCE
    is_wide = (between > math.radians(10)) & (between < math.radians(170))
    a, b = (each[is_rigid & is_wide][:_HYPOTHESES] for each in (a, b))
    rotations = _triads(a) @ np.swapaxes(_triads(b), 1, 2)
    rotations = rotations[-rotations[:, 0, 0] > math.cos(_MAX_TILT)]
    if len(rotations) == 0:
        return np.eye(3), math.inf
    squares = ((first - np.einsum("hij,nj->hni", rotations, second)) ** 2).sum(axis=2)
    costs = np.minimum(squares, _TOLERANCE**2).sum(axis=1)
    best = int(costs.argmin())
    return rotations[best], float(costs[best])


def _triads(pairs: Floats) -> Floats:
    """Right-handed orthonormal axes, as columns (N, 3, 3), that two directions (N, 2, 3) span (TRIAD)."""
    middle = pairs[:, 0] + pairs[:, 1]
    across = np.cross(pairs[:, 0], pairs[:, 1])
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    return np.stack([middle, across, np.cross(middle, across)], axis=2)


class _Prior:
    """What is known before the matches: the circles, and the field of view if it was given."""

    def __init__(self, start: Rig, knows_fov: bool) -> None:
        self._start = start
        deviations = [_CIRCLE_DEVIATION] * 6 + [_TIGHT if knows_fov else _LOOSE] + [math.inf] * 3
        self.precision = 1 / np.array(deviations) ** 2
        """(10,) inverse variances of the parameters of `Rig.adjusted`."""

    def step_to(self, rig: Rig) -> Floats:
        """The distance (10,) of a rig from what is known, as parameters of `Rig.adjusted`."""
        shifts, growths = [], []
        for lens, start in zip(rig, self._start, strict=True):
            radius = start.radius_px
            shifts += [(lens.centre_x - start.centre_x) / radius, (lens.centre_y - start.centre_y) / radius]
            growths.append(lens.radius_px / radius - 1)
        return np.array([*shifts, *growths, math.radians(rig.fov_deg - self._start.fov_deg), 0.0, 0.0, 0.0])


def _fit(matches: Matches, rig: Rig, prior: _Prior) -> tuple[Rig, float]:
    """The rig that fits matches and prior, and the scale of the residuals in radians: reweighted least squares.

    The weights are those of Cauchy's loss, so that a wrong match hardly counts.
    """
    scale = _TOLERANCE / 3
    for _ in range(25):
        residuals, slopes = _linearised(matches, rig)
        angles = np.linalg.norm(residuals, axis=1)
        scale = max(min(scale, float(np.median(angles))), math.radians(0.02))
        weights = 1 / (scale**2 * (1 + (angles / (2 * scale)) ** 2))
        normal = _normal_matrix(slopes, weights, prior)
        gradient = np.einsum("n,nip,ni->p", weights, slopes, residuals) + prior.precision * prior.step_to(rig)
        step = -np.linalg.solve(normal, gradient)
        rig = rig.adjusted(step)
        if np.abs(step).max() < 1e-6:
            break
    return rig, scale


def _normal_matrix(slopes: Floats, weights: Floats, prior: _Prior) -> Floats:
    information: Floats = np.einsum("n,nip,niq->pq", weights, slopes, slopes)
    return information + np.diag(prior.precision)


def _linearised(matches: Matches, rig: Rig) -> tuple[Floats, Floats]:
    """Differences (N, 3) between the two directions of each match, and their slopes (N, 3, 10) by the parameters."""

    def differences(step: Floats) -> Floats:
        moved = rig.adjusted(step)
        return moved.directions(0, matches.first) - moved.directions(1, matches.second)

    small = 1e-5
    steps = small * np.eye(_PARAMETERS)
    slopes = [(differences(each) - differences(-each)) / (2 * small) for each in steps]
    return differences(np.zeros(_PARAMETERS)), np.stack(slopes, axis=2)


def _uncertainty(matches: Matches, rig: Rig, prior: _Prior, scale: float) -> float:
    """Standard deviation in radians of the step between the lenses, where on the ring of 90° it is largest."""
    slopes = _linearised(matches, rig)[1]
    covariance = np.linalg.inv(_normal_matrix(slopes, np.full(len(matches), 1 / scale**2), prior))
    middle = ring(np.array(math.pi / 2), np.arange(36, dtype=np.float64) * (math.pi / 18))
    perfect = Matches(rig.points(0, middle)[0], rig.points(1, middle)[0], np.zeros(36, np.int64))
    along = _linearised(perfect, rig)[1]
    variances = np.einsum("nip,pq,niq->n", along, covariance, along)
    return float(np.sqrt(variances.max()))
