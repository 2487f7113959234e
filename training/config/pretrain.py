"""Settings of `python -m training.pretrain`."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.config.contrastive import ContrastiveConfig, ObjectiveConfig
from training.config.loop import LoopConfig, OptimiserConfig
from training.config.panoramas import PanoramaConfig
from training.config.ranges import require, require_at_least
from training.config.views import ViewConfig


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run, whole."""

    data: PanoramaConfig
    """The panoramas."""
    loop: LoopConfig
    """How long, how fast and where."""
    recipe: str = "custom"
    """Name of these settings, for the pictures and for people."""
    model: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    """Encoder, attention and heads."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """The two views of a panorama."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """The loss."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser and learning rate."""
    weights: str = ""
    """Checkpoint of a contrastive run whose weights a new run begins with."""
    encoder_weights: str = ""
    """The same of the encoder alone, where attention or size of the views are others."""
    retrieval_panoramas: int = 512
    """Panoramas, at most, among which the evaluation looks for the turned views' own."""

    def __post_init__(self) -> None:
        one = not (self.weights and self.encoder_weights)
        require("weights", f"{self.weights} and encoder_weights {self.encoder_weights}", one, "at most one of both")
        require_at_least("retrieval_panoramas", self.retrieval_panoramas, 2)
        same = self.views.height == self.model.height
        require("views.height", self.views.height, same, f"model.height, {self.model.height}")
        large = self.data.height >= self.views.height
        require("data.height", self.data.height, large, f"at least views.height, {self.views.height}")
