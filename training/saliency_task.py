"""What every training of a saliency model shares: its start, its batches, its settings and its predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from sal360.arrays import Density, Pixels
from training.checkpoint import IMAGENET, Origin, flat_settings, joined, load_weights, origin_of_file
from training.config import is_first_process, option_names, require_together, write_config
from training.data.loader import Samples, StepSampler, load, steps_per_epoch
from training.data.taught_maps import taught_origin
from training.loop import LoopConfig, Task
from training.models.encoders import ENCODERS, encoder_kind
from training.models.saliency_model import Frozen, SaliencyModel, SaliencyModelConfig
from training.optimiser import OptimiserConfig
from training.saliency_loss import SaliencyLossConfig


@dataclass(frozen=True, kw_only=True)
class SaliencyTrainingConfig:
    """The settings that every training of a saliency model has; each command adds its own."""

    loop: LoopConfig
    """The run."""
    data: Any
    """A dataclass with `taught`, the file of taught maps, or ""; each command documents its own."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser and learning-rate schedule."""
    model: SaliencyModelConfig = field(default_factory=SaliencyModelConfig)
    """The model."""
    loss: SaliencyLossConfig = field(default_factory=SaliencyLossConfig)
    """The loss."""
    start: str = ""
    """Checkpoint of a saliency model from whose weights, encoder and decoder, this run starts; the schedule is new."""
    encoder_weights: str = ""
    """Checkpoint of a contrastive run from whose encoder this run starts."""
    imagenet: bool = True
    """Start the encoder from the ImageNet weights of its package unless another start is given; false: random
    weights."""
    weights_file: str = ""
    """Weights of the encoder's whole network, .pth or .safetensors, from which a new run starts instead of those of a
    package: torchvision's ImageNet weights of resnet50 or vgg16, a converted SalGAN (training.convert_salgan), or
    timm's weights of a backbone."""
    frozen: Frozen = "encoder"
    """Part of the model that is not trained. early: the encoder's parts up to stride 4, or all of an encoder that does
    not tell them apart."""

    def __post_init__(self) -> None:
        given = [bool(each) for each in (self.start, self.encoder_weights, self.weights_file)]
        require_together(
            self, ("start", "encoder_weights", "weights_file"), sum(given) <= 1, "at most one of the three"
        )
        of_file = encoder_kind(self.model.encoder).imagenet == "file" or not self.weights_file
        known = ", ".join(name for name, kind in ENCODERS.items() if kind.imagenet == "file") + ", timm:NAME"
        require_together(self, ("weights_file", "model.encoder"), of_file, f"a weights_file only for {known}")
        require_together(
            self,
            ("encoder_weights", "weights_file", "imagenet", "model.encoder"),
            encoder_kind(self.model.encoder).packaged or any(given) or not self.imagenet,
            "encoder_weights from contrastive pretraining, a weights_file, or imagenet false for random weights",
        )


class SaliencyTask(Task):
    """Training of a saliency model as a task for the loop; subclasses add losses and evaluation.

    Args:
        config: the settings.
        training: the samples to train on.
        fabric: the process's rank and device.
        contents: what the samples are made of, in words that change when the data do, wherever their folders are.
        resumes: whether a checkpoint of the run brings the weights and their origin; the start is then not read.

    Raises:
        CheckpointError: the initial weights are missing or belong to another model.
    """

    kind: ClassVar[str] = "saliency"
    folders: ClassVar[tuple[str, ...]] = ("root", "panoramas", "scenes", "strict", "cache")
    """Settings of the data that may change when a run is resumed."""

    def __init__(
        self,
        config: SaliencyTrainingConfig,
        training: Samples,
        fabric: Fabric,
        contents: Mapping[str, str] = MappingProxyType({}),
        *,
        resumes: bool = False,
    ) -> None:
        self._config, self._training, self.fabric, self._contents = config, training, fabric, contents
        model, learnt = (SaliencyModel(config.model), ()) if resumes else _started(config)
        taught = taught_origin(config.data.taught) if config.data.taught else ()
        self.origin = joined(learnt, taught, self.learnt_from())
        model.freeze(config.frozen)
        self.model: nn.Module = model
        self.config = config.model
        with option_names("loop"):
            self.steps_per_epoch = steps_per_epoch(len(training), config.loop.batch_size)

    def learnt_from(self) -> Sequence[Origin]:
        """The data of this run."""
        return ()

    def settings_to_match(self) -> Mapping[str, Any]:
        """What is trained on, its augmentation, and the loss. Folders may have moved."""
        data = {name: value for name, value in flat_settings(self._config.data).items() if name not in self.folders}
        data["taught"] = "given" if self._config.data.taught else "none"
        settings = {"data": data | dict(self._contents), "loss": flat_settings(self._config.loss)}
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


def _started(config: SaliencyTrainingConfig) -> tuple[SaliencyModel, tuple[Origin, ...]]:
    """The model with the weights from which a new run starts, and from what they were learnt.

    Raises:
        CheckpointError: the weights are missing or belong to another model.
    """
    from_imagenet = config.imagenet and not config.encoder_weights and encoder_kind(config.model.encoder).packaged
    model = SaliencyModel(config.model, pretrained=from_imagenet, weights_file=config.weights_file)
    if config.start:
        return model, load_weights(config.start, model, kind="saliency").learnt_from
    if config.encoder_weights:
        header = load_weights(config.encoder_weights, model.encoder, kind="contrastive", part="encoder")
        return model, header.learnt_from
    of_file = (origin_of_file(config.weights_file),) * bool(config.weights_file)
    return model, (IMAGENET,) * from_imagenet + of_file


def print_figures(figures: Mapping[str, float]) -> None:
    """Print the newest loss and figures of a run, once for all its processes."""
    if is_first_process():
        shown = sorted((name, value) for name, value in figures.items() if "/" in name or name == "loss")
        print("  ".join(f"{name} {value:.4g}" for name, value in shown))
