"""What a training command brings to the loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn


class Task(ABC):
    """What a training command brings to the loop."""

    kind: ClassVar[str]
    """Kind of its checkpoints: contrastive or saliency."""
    model: nn.Module
    """The network; the checkpoints hold its weights. Parts that stay frozen must stay so when its train() is called."""
    config: Any
    """Settings of the model, a dataclass whose fields have defaults, for the checkpoints' header."""
    steps_per_epoch: int
    """Optimiser steps of one pass over the data."""

    @abstractmethod
    def batches(self, start: int, stop: int) -> Iterable[Any]:
        """This process' batches for the steps start … stop − 1, `accumulate` for each step."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Scalars of a batch: "loss" is minimised, the others are drawn as curves.

        Args:
            model: `self.model` as the devices run it: call this one.
            batch: one of `batches`, on the device.
        """

    def must_stay(self) -> Mapping[str, Any]:
        """Plain settings by name, beside the model's, in which a resumed run must agree: what is learnt."""
        return {}

    def begin(self) -> None:
        """Called before the first step of a run or of its going on, when all was checked, by the first process only.

        What a run leaves beside curves and checkpoints is written here: a command that is refused writes nothing.
        """
        return

    def after_step(self) -> None:
        """Called after each optimiser step, in every process."""
        return

    def evaluate(self, done: int) -> Mapping[str, float]:  # noqa: ARG002  # for those who override it
        """Measure the model (in evaluation mode, without gradients, first process only) after `done` steps."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the model: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Take back what `state_dict` gave."""
        return
