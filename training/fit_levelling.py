"""Fit the weights with which `sal360.cameras.levelling` finds out which way is up in a picture.

    python -m training.fit_levelling --root PANORAMAS --output levelling.json

PANORAMAS is a folder of upright equirectangular pictures. Each is turned at random several times, and its brightness,
colours and noise are varied, so that nothing about the way it was stored tells its top. The weights are those of a
multinomial logistic regression: the probability of the true up among directions all over the sphere, and more densely
around it, is maximised, with a penalty on the weights' squares. `--leave_out` names pictures that are not used, so that
benchmarks/levelling.py can measure the error on them.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from tqdm import tqdm

from sal360.arrays import Floats, Pixels
from sal360.cameras.levelling import UP, levelling_rotation
from sal360.cameras.tilt_evidence import FEATURES, TiltEvidence, fibonacci_sphere
from sal360.errors import DataError, one_line_errors
from sal360.files import write_text
from sal360.images import read_picture
from sal360.projection import rotate_erp
from sal360.sources.pictures import pictures_in
from sal360.sphere import angular_distance, random_rotation
from training.config import read_config, require_at_least, require_path

_EVERYWHERE, _NEAR = 600, 180
_NEAREST_RAD, _FARTHEST_RAD = math.radians(0.5), math.radians(25)
_TOLERANCE_RAD = math.radians(1.5)
"""How exactly up is known: panoramas are levelled by hand or by a spirit level."""


@dataclass(frozen=True)
class FitLevellingConfig:
    """The panoramas, and how the weights are fitted to them."""

    root: str
    """Folder of upright equirectangular pictures."""
    output: str
    """The file for the weights (JSON)."""
    leave_out: list[str] = field(default_factory=list)
    """Names of pictures that are not used."""
    turns: int = 4
    """Number of turned and varied copies of each picture."""
    penalty: float = 0.3
    """Weight of the squares of the standardised weights."""
    seed: int = 0

    def __post_init__(self) -> None:
        require_path("root", self.root, "a folder of panoramas")
        require_path("output", self.output, "a file")
        require_at_least("turns", self.turns, 1)
        require_at_least("penalty", self.penalty, 1e-6)


class Examples(NamedTuple):
    """Directions in turned pictures."""

    features: NDArray[np.float32]
    """(pictures, directions, FEATURES)."""
    log_areas: NDArray[np.float32]
    """(pictures, directions): log of the solid angle that each direction stands for."""
    targets: NDArray[np.float32]
    """(pictures, directions): the probability that it is up; the sum over directions is 1."""


def fit_levelling(config: FitLevellingConfig) -> None:
    """Fit the weights and write them.

    Raises:
        DataError: no pictures are left, or a name to leave out is not in the folder.
    """
    found = pictures_in(Path(config.root))
    unknown = set(config.leave_out) - {each.name for each in found}
    if unknown:
        raise DataError(f"{config.root} has no {sorted(unknown)[0]}", "leave out names of pictures in this folder")
    paths = [each for each in found if each.name not in config.leave_out]
    if not paths:
        raise DataError(f"all pictures of {config.root} are left out", "leave out fewer")
    weights = fit_weights(examples_of(paths, config.turns, np.random.default_rng(config.seed)), config.penalty)
    content = {"pictures": [each.name for each in paths], "weights": [float(f"{each:.5g}") for each in weights]}
    write_text(config.output, json.dumps(content) + "\n")
    print(f"{FEATURES} weights from {len(paths)} pictures in {config.output}")


def examples_of(paths: list[Path], turns: int, generator: np.random.Generator) -> Examples:
    """Turned and varied copies of pictures, with the features of directions in them."""
    examples = []
    for path in tqdm(paths, unit="picture", disable=None):
        picture = cv2.resize(read_picture(path), (1024, 512), interpolation=cv2.INTER_AREA).astype(np.uint8)
        for turn in range(turns):
            rotation = random_rotation(generator)
            turned = rotate_erp(picture, rotation)
            examples.append(_example(varied(turned, generator) if turn % 2 else turned, rotation @ UP, generator))
    return Examples(*(np.stack(parts) for parts in zip(*examples, strict=True)))


def varied(picture: Pixels, generator: np.random.Generator) -> Pixels:
    """The picture (H, W, 3) with other brightness and colours, sometimes grey, and with noise."""
    values = (picture / 255) ** math.exp(generator.normal(0, 0.25)) * np.exp(generator.normal(0, 0.1, 3))
    if generator.random() < 0.2:
        values = np.repeat(values.mean(axis=-1, keepdims=True), 3, axis=-1)
    values = values + generator.normal(0, generator.choice([0, 0.01, 0.03]), values.shape)
    pixels: Pixels = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return pixels


def _example(
    picture: Pixels, up: Floats, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    directions = np.concatenate([fibonacci_sphere(_EVERYWHERE) @ random_rotation(generator), _near(up, generator)])
    distances = angular_distance(directions, up)
    spread = math.log(_FARTHEST_RAD / _NEAREST_RAD)
    is_near = (distances > _NEAREST_RAD) & (distances < _FARTHEST_RAD)
    safe = np.maximum(distances, _NEAREST_RAD)
    per_sr = _EVERYWHERE / (4 * math.pi) + np.where(
        is_near, _NEAR / (safe * spread * 2 * math.pi * np.sin(safe).clip(1e-9)), 0
    )
    log_areas = -np.log(per_sr)
    log_target = log_areas - (distances / _TOLERANCE_RAD) ** 2 / 2
    target = np.exp(log_target - log_target.max())
    features = TiltEvidence(picture).features(directions)
    return features.astype(np.float32), log_areas.astype(np.float32), (target / target.sum()).astype(np.float32)


def _near(up: Floats, generator: np.random.Generator) -> Floats:
    """Directions around `up`, with the logarithms of their distances spread evenly."""
    distances = np.exp(generator.uniform(math.log(_NEAREST_RAD), math.log(_FARTHEST_RAD), _NEAR))
    turns = generator.uniform(0, 2 * math.pi, _NEAR)
    around_z = np.stack(
        [np.sin(distances) * np.cos(turns), np.sin(distances) * np.sin(turns), np.cos(distances)], axis=-1
    )
    near: Floats = around_z @ levelling_rotation(up)
    return near


def fit_weights(examples: Examples, penalty: float) -> Floats:
    """The weights (FEATURES,) that make the targets most probable, with a penalty on their squares."""
    spread = examples.features.std(axis=(0, 1)) + np.float32(1e-6)
    features = examples.features / spread
    wanted = np.einsum("ij,ijk->k", examples.targets, features, optimize=True)

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores = features @ weights.astype(np.float32) + examples.log_areas
        highest = scores.max(axis=1, keepdims=True)
        raised = np.exp(scores - highest)
        total = raised.sum(axis=1, keepdims=True)
        expected = np.einsum("ij,ijk->k", raised / total, features, optimize=True)
        value = float((np.log(total) + highest).sum()) - float(wanted @ weights)
        slope = (expected - wanted) / len(features)
        return value / len(features) + penalty * float(weights @ weights) / 2, slope + penalty * weights

    found = minimize(loss, np.zeros(FEATURES), jac=True, method="L-BFGS-B", options={"maxiter": 120})
    weights: Floats = found.x / spread
    return weights


def main() -> None:
    """The command `python -m training.fit_levelling`."""
    fit_levelling(read_config(FitLevellingConfig, "Fit the weights with which a picture's up is found."))


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
