"""Settings of the training loop and the optimiser, shared by pretraining and decoder training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.config.ranges import require, require_at_least, require_between


@dataclass(frozen=True)
class LoopConfig:
    """How long, how fast and where a training run goes."""

    run: str
    """Folder of the run: checkpoints, TensorBoard curves, pictures, the settings as they were."""
    steps: int = 0
    """Optimiser steps of the whole run; 0: given by `epochs`."""
    epochs: int = 0
    """Passes over the data of the whole run; 0: given by `steps`."""
    batch_size: int = 20
    """Samples of one optimiser step, over all processes; divisible by processes x accumulate."""
    accumulate: int = 1
    """Parts into which each process splits its share of a batch, where memory is short."""
    workers: int = 1
    """Loader processes beside each training process; 0 loads in the training process itself."""
    seed: int = 0
    """Of everything random: initial weights, order of the data, views, negatives."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto takes GPUs where there are any."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the network; weights, loss and optimiser stay float32."""
    channels_last: bool = True
    """Keep pictures and weights in the memory order that convolutions prefer."""
    compile: bool = False
    """Compile the network with torch.compile: slow first step, faster ones after it."""
    sync_batchnorm: bool = True
    """Batch statistics over all processes; without effect in a run of one process."""
    log_every_steps: int = 10
    """Steps between two points of the curves."""
    checkpoint_every_steps: int = 500
    """Steps between two checkpoints; there is always one at the end."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay on the disk."""
    evaluate_every_epochs: int = 1
    """Epochs between two evaluations; there is always one at the end."""
    resume: bool | Literal["auto"] = False
    """true goes on from the newest checkpoint of `run` and stops without one; false stops when there is one; auto
    goes on where there is one and begins otherwise, for jobs that a scheduler starts again."""

    def __post_init__(self) -> None:
        require("loop.run", repr(self.run), bool(self.run.strip()), "the name of a folder")
        for name in ("steps", "epochs", "workers", "seed"):
            require_at_least(f"loop.{name}", getattr(self, name), 0)
        for name in (
            "batch_size",
            "accumulate",
            "log_every_steps",
            "checkpoint_every_steps",
            "keep_checkpoints",
            "evaluate_every_epochs",
        ):
            require_at_least(f"loop.{name}", getattr(self, name), 1)
        both = (self.steps > 0) + (self.epochs > 0)
        require("loop.steps", f"{self.steps} and loop.epochs {self.epochs}", both == 1, "exactly one of both above 0")


@dataclass(frozen=True)
class OptimiserConfig:
    """Which optimiser moves the weights, and how far."""

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    """sgd; adam (weight decay as L2 in the gradient); adamw (decoupled weight decay)."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    encoder_factor: float = 1.0
    """Learning rate of the model's part `encoder` relative to that of the others."""
    weight_decay: float = 1e-4
    """Weight decay."""
    decay_vectors: bool = True
    """Whether biases, normalisation and other parameters of fewer than two dimensions decay as well."""
    momentum: float = 0.0
    """Of sgd; the adams have their own (0.9, 0.999)."""
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    """constant; cosine down to zero at the end; step: times `step_factor` after each of `step_epochs`."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from zero."""
    step_epochs: tuple[int, ...] = ()
    """Epochs after which the step schedule goes down."""
    step_factor: float = 0.1
    """Factor of each such step."""

    def __post_init__(self) -> None:
        require("optimiser.learning_rate", self.learning_rate, self.learning_rate > 0, "more than 0")
        require_at_least("optimiser.weight_decay", self.weight_decay, 0)
        require_between("optimiser.encoder_factor", self.encoder_factor, 0, 1000)
        require_between("optimiser.momentum", self.momentum, 0, 0.9999)
        require_at_least("optimiser.warmup_steps", self.warmup_steps, 0)
        require_between("optimiser.step_factor", self.step_factor, 0, 1)
        together = (self.schedule == "step") == bool(self.step_epochs)
        require("optimiser.step_epochs", self.step_epochs, together, "epochs with schedule step, none otherwise")
