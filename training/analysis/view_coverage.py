"""The views of pretraining, and the share of each that lay near the poles (supplementary, C and Figure 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sal360.arrays import Floats
from sal360.errors import printable
from sal360.projection import rotate_erp
from sal360.sphere import erp_directions
from training.analysis.results import new_figure, write_results
from training.config import require_at_least, require_path, require_seed
from training.data.panoramas import PanoramaConfig, open_panoramas
from training.data.views import BOTTOM_TO_FRONT, TOP_TO_FRONT, ViewConfig, ViewPair, resize


@dataclass(frozen=True)
class ViewCoverageConfig:
    """The views of pretraining, and the share of each that lay near the poles (supplementary, Figure 7)."""

    data: PanoramaConfig
    """The panoramas; the first `panoramas` of them are drawn."""
    output: str
    """Folder for views.csv and views.png."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """How the rotated views are drawn."""
    panoramas: int = 4
    """Number of panoramas in the figure, one per row."""
    seed: int = 0
    """Seed of the views."""

    def __post_init__(self) -> None:
        require_path("output", self.output, "a folder")
        require_at_least("panoramas", self.panoramas, 1)
        require_seed("seed", self.seed)


POLAR_ELEVATION_RAD = math.pi / 4
"""Where the polar caps begin; both together are 29 % of the sphere and half of a panorama's pixels."""

TURNS: dict[str, Floats] = {"panorama": np.eye(3), "top to front": TOP_TO_FRONT, "bottom to front": BOTTOM_TO_FRONT}
"""Name → rotation."""


def coverage(rotation: Floats, height: int) -> dict[str, float]:
    """Where the zones of a panorama lie after `rotation`, measured on a grid of (height, 2 * height) pixels.

    Returns:
        For the zones top, equator and bottom: `ZONE_share`, share of the turned panorama's pixels, and `ZONE_stretch`,
        mean width to height at which the zone is drawn there (1 on the equator, growing towards the poles).
    """
    directions = erp_directions(height, 2 * height)
    elevation = np.arcsin(np.clip((directions @ rotation)[..., 2], -1, 1))  # before the rotation: Rᵀ d
    stretch = 1 / np.sqrt(1 - directions[..., 2] ** 2)
    zones = {
        "top": elevation > POLAR_ELEVATION_RAD,
        "equator": np.abs(elevation) <= POLAR_ELEVATION_RAD,
        "bottom": elevation < -POLAR_ELEVATION_RAD,
    }
    measures: dict[str, float] = {}
    for name, inside in zones.items():
        measures |= {f"{name}_share": float(inside.mean()), f"{name}_stretch": float(stretch[inside].mean())}
    return measures


def analyse_views(config: ViewCoverageConfig) -> None:
    """Draw the rotations and two random pairs of views of the first panoramas; write views.csv and views.png.

    Raises:
        DataError, OSError: the panoramas cannot be read, or the results not written.
    """
    panoramas = open_panoramas(config.data)
    height, count = config.views.height, min(config.panoramas, len(panoramas))
    rows: list[dict[str, Any]] = [{"view": name} | coverage(turn, height) for name, turn in TURNS.items()]

    draw = ViewPair(config.seed, config.views)
    columns = [*TURNS, "x", "x_t", "x, next epoch", "x_t, next epoch"]
    figure = new_figure(2.6 * len(columns), 0.4 + 1.35 * count)
    grid = figure.subplots(count, len(columns), squeeze=False)
    for index, line in enumerate(grid):
        panorama = resize(panoramas[index], height)
        pictures = [rotate_erp(panorama, turn) for turn in TURNS.values()]
        pictures += [view.transpose(1, 2, 0) for epoch in (0, 1) for view in draw(panorama, epoch, index)[:2]]
        for axes, picture, column in zip(line, pictures, columns, strict=True):
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[], title=column if index == 0 else "")
        line[0].set_ylabel(printable(Path(panoramas.paths[index]).stem[:18]), fontsize=7)
    write_results(config.output, "views", rows, figure)
    for row in rows:
        stretches = ", ".join(f"{zone} {row[f'{zone}_stretch']:.2f}" for zone in ("top", "equator", "bottom"))
        print(f"{row['view']}: mean width to height, {stretches}")
