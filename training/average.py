"""Average the weights of runs that started from the same checkpoint ("model soups", Wortsman et al., ICML 2022).

python -m training.average --checkpoints '[runs/panoramas_1, runs/panoramas_2]' --output runs/panoramas
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from sal360.errors import one_line_errors
from training.checkpoint import joined, load_weights, read_header, require_no_checkpoint, save_checkpoint
from training.config import read_config, require, require_path
from training.models.saliency_model import SaliencyModel
from training.trained_models import read_saliency_model


@dataclass(frozen=True)
class AverageConfig:
    """The checkpoints to average."""

    checkpoints: tuple[str, ...]
    """Checkpoints or run folders of saliency models of the same shape; the last one's settings are kept."""
    output: str
    """Run folder for the averaged checkpoint."""

    def __post_init__(self) -> None:
        require_path("output", self.output, "a run folder")
        require("checkpoints", self.checkpoints, len(self.checkpoints) >= 2, "at least two")


def average(config: AverageConfig) -> SaliencyModel:
    """Write a checkpoint with the mean of the weights and return the model.

    Raises:
        CheckpointError: a checkpoint is missing, damaged or of another shape, or the output already has one.
    """
    require_no_checkpoint(config.output)
    header = read_header(config.checkpoints[-1], kind="saliency")
    model = read_saliency_model(config.checkpoints[-1])
    states = []
    for checkpoint in config.checkpoints:
        load_weights(checkpoint, model, kind="saliency")
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    model.load_state_dict({name: sum(state[name] for state in states) / len(states) for name in states[0]})
    origin = joined(*(read_header(each).learnt_from for each in config.checkpoints))
    save_checkpoint(config.output, header.step, model, "saliency", model.config, {}, origin=origin)
    return model


def main() -> None:
    """The command `python -m training.average`."""
    average(read_config(AverageConfig, "Average the weights of checkpoints."))


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
