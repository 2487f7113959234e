"""Train a saliency decoder on human gaze, on a frozen or a fine-tuned encoder.

    python -m training.train_decoder --config training/recipes/compact.yaml --data.root OSIE --data.panoramas PANORAMAS

The run's folder gets checkpoints, TensorBoard curves and, at each evaluation, a picture of predictions beside the
ground truth. `python -m training.export` turns it into a model file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_fabric import Fabric
from torch import Tensor, nn

from sal360.errors import one_line_errors
from training.checkpoint import PANORAMAS, Origin
from training.config import option_names, read_config, require_at_least
from training.data.gaze.datasets import DATASETS, Gaze, GazeConfig, load_gaze
from training.loop import make_fabric, starting_point, train
from training.models.saliency_model import SaliencyModel
from training.pictures import write_predictions
from training.processes import errors_once
from training.saliency_loss import parts_with_gaze, saliency_losses
from training.saliency_task import SaliencyTask, SaliencyTrainingConfig, print_figures


@dataclass(frozen=True, kw_only=True)
class TrainDecoderConfig(SaliencyTrainingConfig):
    """A decoder training run."""

    data: GazeConfig
    """The recorded gaze."""
    measured: int = 0
    """Number of records or photographs, evenly spread, that are measured while the run trains; its end measures all.
    0: all of them every time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("measured", self.measured, 0)


_ROWS_OF_PICTURE = 6


class DecoderTask(SaliencyTask):
    """Decoder training as a task for the loop.

    Args:
        config: the settings.
        gaze: the data to train on and to measure.
        fabric: the process's rank and device.
        resumes: as for `SaliencyTask`.

    Raises:
        CheckpointError: the initial weights are missing or belong to another model.
    """

    def __init__(self, config: TrainDecoderConfig, gaze: Gaze, fabric: Fabric, *, resumes: bool = False) -> None:
        super().__init__(config, gaze.training, fabric, gaze.contents, resumes=resumes)
        self.settings, self.gaze = config, gaze

    def learnt_from(self) -> Sequence[Origin]:
        """The data set, and the panoramas on which photographs are placed."""
        dataset = DATASETS[self._config.data.dataset]
        if dataset.photographs is None:
            return [Origin(f"{dataset.title}, gaze on panoramas", dataset.licence)]
        return [Origin(f"{dataset.title}, gaze on photographs", dataset.licence), PANORAMAS]

    def sizes(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The number of parts with gaze, (1,): panoramas hold different numbers of photographs."""
        return parts_with_gaze(*batch[1:])[None]

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Losses of the content against the gaze; prior and calibration are not trained."""
        frames, densities, masks = batch
        count = None if self.mean_sizes is None else self.mean_sizes[0]
        return saliency_losses(model(frames.permute(0, 3, 1, 2)), densities, masks, self.settings.loss, count=count)

    def evaluate(self, done: int) -> Mapping[str, float]:
        """Figures of the content on the measured part, and a picture of predictions."""
        loop = self.settings.loop
        is_last = done == (loop.steps or loop.epochs * self.steps_per_epoch)
        some = self.settings.measured
        if is_last and some and loop.best_by:
            self.comparable = _named(self.gaze.measure(self.predict, some))
        figures = self.gaze.measure(self.predict, 0 if is_last else some)
        if self.fabric.global_rank == 0:
            self._write_predictions(done)
        return _named(figures)

    def _write_predictions(self, done: int) -> None:
        rows = []
        for index in range(min(_ROWS_OF_PICTURE, len(self.gaze.measuring))):
            frame, densities, _ = self.gaze.measuring[0, index]
            rows.append((frame, densities.sum(axis=0), self.predict(frame[None])[0]))
        write_predictions(Path(self.settings.loop.run) / "predictions" / f"step-{done:08d}.png", rows)


def _named(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures by the names of their curves."""
    return {f"measured/{name}": value for name, value in figures.items()}


def train_decoder(config: TrainDecoderConfig) -> dict[str, float]:
    """Train and return the newest point of each curve.

    Raises:
        Sal360Error: a setting, the data or a checkpoint is unusable, or the loss is not finite.
    """
    checkpoint = starting_point(config.loop)
    fabric = make_fabric(config.loop)
    height = config.model.input_height
    with option_names("data"):
        gaze = load_gaze(config.data, height, SaliencyModel.map_size_of(config.model), config.loop.seed)
    task = DecoderTask(config, gaze, fabric, resumes=checkpoint is not None)
    return train(task, config.loop, config.optimiser, fabric, checkpoint)


def main() -> None:
    """The command `python -m training.train_decoder`."""
    print_figures(train_decoder(read_config(TrainDecoderConfig, "Train a saliency decoder on human gaze.")))


if __name__ == "__main__":
    sys.exit(one_line_errors(errors_once(main)))
