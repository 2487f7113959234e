"""Settings of the command `training.evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.config.gaze import GazeConfig
from training.config.ranges import require, require_at_least, require_between

Baseline = Literal["uniform", "equator", "mean", "spectral_residual", "bms360", "people", "ground_truth"]


@dataclass(frozen=True)
class EvaluateConfig:
    """Models and baselines measured against human gaze."""

    data: GazeConfig
    """The data set and which part of it is measured; settings of training samples are not used."""
    output: str
    """Folder for scores.csv, summary.csv, turned.csv and report.html."""
    models: tuple[str, ...] = ("bundled",)
    """Model files (.onnx and engines) or saliency checkpoints; the name `bundled` is the bundled model."""
    prior_strengths: tuple[float, ...] = (1.0,)
    """Powers of the models' own equator prior at which each is measured; 0 takes it out."""
    baselines: tuple[Baseline, ...] = ("uniform", "equator", "mean", "spectral_residual", "bms360", "people")
    """people: every other observer predicts the rest. ground_truth: the density itself, the paper's infinite humans."""
    protocols: tuple[Literal["standard", "paper"], ...] = ("standard", "paper")
    """standard: against the prediction only, weighted by solid angle. paper: as the paper's evaluation did it."""
    every_fold: bool = False
    """Measure on all folds in turn, each with priors fitted to the others; for data sets without a published split.
    The models stay the same: one that was trained on OSIE has seen all folds but one."""
    limit: int = 0
    """Most records measured, evenly out of all; 0: all."""
    prior_limit: int = 500
    """Most training records to which equator prior and mean map are fitted."""
    panorama_height: int = 512
    """Rows at which panoramas are read, pixels."""
    fov_deg: float = 100.0
    """Horizontal field of view at which OSIE's photographs are placed on panoramas, degrees."""
    turned: int = 12
    """Records on which models see the panorama rolled and pitched; 0 leaves that out."""
    cases: int = 3
    """Worst and best records that the report shows of the first model."""
    draws: int = 10_000
    """Of the bootstrap for the 95 % intervals."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        require("output", repr(self.output), bool(self.output.strip()), "a folder")
        require("models", "empty", len(self.models) + len(self.baselines) > 0, "at least one model or baseline")
        require("prior_strengths", "empty", len(self.prior_strengths) > 0, "at least one strength")
        require("protocols", "empty", len(self.protocols) > 0, "standard, paper or both")
        cuts = self.data.dataset in ("osie", "sitzmann")
        require("every_fold", True, cuts or not self.every_fold, "false for a data set with a published split")
        require_between("fov_deg", self.fov_deg, 20, 120)
        require_at_least("panorama_height", self.panorama_height, 64)
        for name in ("limit", "turned", "cases", "seed"):
            require_at_least(name, getattr(self, name), 0)
        for name in ("prior_limit", "draws"):
            require_at_least(name, getattr(self, name), 1)
