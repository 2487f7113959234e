"""The optimiser and its learning rate: both plain functions of the settings."""

from __future__ import annotations

import math

import torch
from torch import nn

from training.config import OptimiserConfig


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """The optimiser of all parameters that are trained; frozen ones are left out.

    Each group's `rate_factor` is its learning rate relative to `learning_rate`.
    """
    groups = []
    for in_encoder in (True, False):
        for is_vector in (False, True):
            chosen = [
                parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
                and name.startswith("encoder.") == in_encoder
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
    """The learning rate of `step`, counted from 0, in a run of `steps`; it needs no memory of the steps before."""
    rate = config.learning_rate
    if step < config.warmup_steps:
        return rate * (step + 1) / config.warmup_steps
    if config.schedule == "cosine":
        progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        rate *= (1 + math.cos(math.pi * progress)) / 2
    elif config.schedule == "step":
        rate *= config.step_factor ** sum(step >= epoch * steps_per_epoch for epoch in config.step_epochs)
    return rate
