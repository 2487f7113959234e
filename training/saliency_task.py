"""What every training of a saliency model shares: its start, its batches, its settings and its predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from sal360.arrays import Density, Pixels
from training.checkpoint import load_weights, plain_settings
from training.config import option_names, require_together, write_config
from training.data.loader import Samples, StepSampler, load, steps_per_epoch
from training.loop import LoopConfig, Task
from training.models.encoders import ENCODERS
from training.models.saliency_model import Frozen, SaliencyModel, SaliencyModelConfig
from training.saliency_loss import SaliencyLossConfig


class SaliencyTraining(Protocol):
    """The settings that every training of a saliency model has; each command documents its own."""

    @property
    def loop(self) -> LoopConfig:
        """The run."""

    @property
    def data(self) -> Any:
        """The data: a dataclass with `taught`, the file of taught maps, or ""."""

    @property
    def model(self) -> SaliencyModelConfig:
        """The model."""

    @property
    def loss(self) -> SaliencyLossConfig:
        """The loss."""

    @property
    def start(self) -> str:
        """Checkpoint of a saliency model to start from, or ""."""

    @property
    def encoder_weights(self) -> str:
        """Checkpoint of a contrastive run whose encoder to start from, or ""."""

    @property
    def imagenet(self) -> bool:
        """Whether to start the encoder from its ImageNet weights unless another start is given."""

    @property
    def frozen(self) -> Frozen:
        """Part of the model that is not trained."""


def check_start(config: SaliencyTraining) -> None:
    """Refuse settings that give two starts, or none where none is packaged.

    Raises:
        ParameterError: naming the settings.
    """
    one = not (config.start and config.encoder_weights)
    require_together(config, ("start", "encoder_weights"), one, "at most one of the two")
    packaged = ENCODERS[config.model.encoder].packaged or config.start != "" or config.encoder_weights != ""
    require_together(
        config,
        ("encoder_weights", "imagenet", "model.encoder"),
        packaged or not config.imagenet,
        "encoder_weights from contrastive pretraining, or imagenet false for random weights",
    )


class SaliencyTask(Task):
    """Training of a saliency model as a task for the loop; subclasses add losses and evaluation.

    Args:
        config: the settings.
        training: the samples to train on.
        fabric: the process's rank and device.

    Raises:
        CheckpointError: the initial weights are missing or belong to another model.
    """

    kind: ClassVar[str] = "saliency"
    folders: ClassVar[tuple[str, ...]] = ("root", "panoramas")
    """Settings of the data that may change when a run is resumed."""

    def __init__(self, config: SaliencyTraining, training: Samples, fabric: Fabric) -> None:
        self._config, self._training, self.fabric = config, training, fabric
        from_imagenet = config.imagenet and not config.encoder_weights and ENCODERS[config.model.encoder].packaged
        model = SaliencyModel(config.model, pretrained=from_imagenet)
        if config.start:
            load_weights(config.start, model, kind=self.kind)
        elif config.encoder_weights:
            load_weights(config.encoder_weights, model.encoder, kind="contrastive", part="encoder")
        model.freeze(config.frozen)
        self.model: nn.Module = model
        self.config = config.model
        with option_names("loop"):
            self.steps_per_epoch = steps_per_epoch(len(training), config.loop.batch_size)

    def settings_to_match(self) -> Mapping[str, Any]:
        """What is trained on, its augmentation, and the loss. Folders may have moved."""
        data = {name: value for name, value in plain_settings(self._config.data).items() if name not in self.folders}
        data["taught"] = "given" if self._config.data.taught else "none"
        settings = {"data": data, "loss": plain_settings(self._config.loss)}
        return {f"{part}.{name}": value for part, values in settings.items() for name, value in values.items()}

    def begin(self) -> None:
        """Write the settings into the run's folder."""
        write_config(self._config, Path(self._config.loop.run) / "config.yaml")

    def batches(self, start: int, stop: int) -> Iterable[Any]:
        """Samples of the training data, each part with a first axis B."""
        loop = self._config.loop
        with option_names("loop"):
            sampler = StepSampler(
                len(self._training),
                batch_size=loop.batch_size,
                seed=loop.seed,
                start=start,
                stop=stop,
                rank=self.fabric.global_rank,
                world=self.fabric.world_size,
                parts=loop.accumulate,
            )
            return load(self._training, sampler, loop.workers)

    def predict(self, frames: Pixels) -> Density:
        """Densities (B, h, w) of panoramas (B, H, W, 3) RGB, without prior and calibration."""
        with torch.no_grad():
            content = self.model(torch.from_numpy(frames).to(self.fabric.device).permute(0, 3, 1, 2)).float()
            density = torch.exp(content - content.amax(dim=(1, 2), keepdim=True)).cpu().numpy()
        return np.asarray(density / density.mean(axis=(1, 2), keepdims=True))
