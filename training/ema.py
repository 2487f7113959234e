"""An exponential moving average of a model's weights: often better than the weights of the last step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """The moving average of the weights and statistics of a model.

    Args:
        model: is trained by others; call `update` after each step.
        decay: weight of the past, 0 to 1; in the first steps less, so that the initial weights are soon forgotten.
            0: the average is the model itself, and nothing is kept.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self._average = self._copy() if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step`, counted from 0."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self._average[name].lerp_(value, 1 - decay)
            else:
                self._average[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own again afterwards."""
        if not self.decay:
            yield
            return
        own = self._copy()
        self.model.load_state_dict(self._average)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def restart(self) -> None:
        """Begin with the model's weights as they are now."""
        self._average = self._copy() if self.decay else {}

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}
