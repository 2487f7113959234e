"""Settings of the command `training.train_decoder`."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.config.gaze import GazeConfig
from training.config.loop import LoopConfig, OptimiserConfig
from training.config.ranges import require
from training.config.saliency import Frozen, SaliencyModelConfig
from training.config.saliency_loss import SaliencyLossConfig


@dataclass(frozen=True)
class TrainDecoderConfig:
    """A decoder on gaze."""

    loop: LoopConfig
    """The run."""
    data: GazeConfig
    """The gaze."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser and schedule."""
    model: SaliencyModelConfig = field(default_factory=SaliencyModelConfig)
    """The model."""
    loss: SaliencyLossConfig = field(default_factory=SaliencyLossConfig)
    """The loss."""
    start: str = ""
    """Checkpoint of a decoder run whose whole model this one starts from, with a schedule of its own."""
    encoder_weights: str = ""
    """Checkpoint of a contrastive run whose encoder the model starts from; empty: from `imagenet` or random weights."""
    imagenet: bool = True
    """Start the compact encoder from its ImageNet weights, if `encoder_weights` names nothing else."""
    frozen: Frozen = "encoder"
    """What stays as it is: the whole encoder; the compact encoder's stages up to stride 4; nothing."""

    def __post_init__(self) -> None:
        one = not (self.start and self.encoder_weights)
        require("start", f"{self.start!r} and encoder_weights {self.encoder_weights!r}", one, "at most one of both")
