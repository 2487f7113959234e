"""The optimiser and its learning-rate schedule, as plain functions of the settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from training.config import require, require_at_least, require_between, require_together


@dataclass(frozen=True)
class OptimiserConfig:
    """Optimiser and learning-rate schedule."""

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    """sgd; adam, with weight decay as an L2 term in the gradient; adamw, with decoupled weight decay."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    encoder_factor: float = 1.0
    """Learning rate of the encoder relative to the rest of the model."""
    weight_decay: float = 1e-4
    """Weight-decay coefficient."""
    decay_vectors: bool = True
    """Apply weight decay to biases, normalisation and other parameters with fewer than two dimensions too."""
    momentum: float = 0.0
    """Momentum of sgd; adam and adamw use (0.9, 0.999)."""
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    """constant; cosine: decays to zero at the end; step: multiplied by `step_factor` after each of `step_epochs`."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from zero to its peak."""
    step_epochs: tuple[int, ...] = ()
    """Epochs after which the step schedule lowers the rate."""
    step_factor: float = 0.1
    """Factor by which the step schedule multiplies the rate."""

    def __post_init__(self) -> None:
        require("learning_rate", self.learning_rate, self.learning_rate > 0, "more than 0")
        require_at_least("weight_decay", self.weight_decay, 0)
        require_between("encoder_factor", self.encoder_factor, 0, 1000)
        require_between("momentum", self.momentum, 0, 0.9999)
        require_at_least("warmup_steps", self.warmup_steps, 0)
        require_between("step_factor", self.step_factor, 0, 1)
        fits = (self.schedule == "step") == bool(self.step_epochs)
        require_together(self, ("step_epochs", "schedule"), fits, "epochs with the schedule step, none otherwise")


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """The optimiser over all trainable parameters of the model.

    Each group's `rate_factor` is its learning rate relative to `learning_rate`.
    """
    groups = []
    for in_encoder in (True, False):
        for is_vector in (False, True):
            chosen = [
                parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
                # parts around a model call it "model"
                and name.removeprefix("model.").startswith("encoder.") == in_encoder
                and (parameter.ndim <= 1) == is_vector
            ]
            decay = config.weight_decay if config.decay_vectors or not is_vector else 0.0
            factor = config.encoder_factor if in_encoder else 1.0
            groups.append({"params": chosen, "weight_decay": decay, "rate_factor": factor})
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.learning_rate)


def learning_rate(config: OptimiserConfig, step: int, steps: int, steps_per_epoch: int) -> float:
    """The learning rate of `step`, counted from 0, in a run of `steps`; stateless, so a resumed run continues it."""
    rate = config.learning_rate
    if step < config.warmup_steps:
        return rate * (step + 1) / config.warmup_steps
    if config.schedule == "cosine":
        progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        rate *= (1 + math.cos(math.pi * progress)) / 2
    elif config.schedule == "step":
        rate *= config.step_factor ** sum(step >= epoch * steps_per_epoch for epoch in config.step_epochs)
    return rate
