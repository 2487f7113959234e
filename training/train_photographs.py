r"""Train a saliency model on photographs of several data sets of gaze at once.

    python -m training.train_photographs --config training/recipes/photographs.yaml \
        --data.root GAZE --data.panoramas PANORAMAS

GAZE has a folder for each data set, named like it (docs/gaze_data.md). The content network is shared; a dozen numbers
for each set (`models/set_heads.py`) are learnt beside it and left out of its checkpoints, which are those of
`training.train_decoder`: calibrate, average, export and evaluate them in the same way.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sal360.errors import CheckpointError, one_line_errors
from training.checkpoint import PANORAMAS, Origin
from training.config import option_names, read_config, require_at_least, require_path
from training.data.gaze.datasets import DATASETS
from training.data.gaze.mixed_photographs import PhotographSets, PhotographSetsConfig, Sample
from training.data.gaze.records import evenly
from training.evaluation.photograph_sets import centre_prior_of, lay_out, mean_figures, measure_set
from training.evaluation.photographs import LONG_SIDE
from training.loop import make_fabric, starting_point, train
from training.models.saliency_model import Frozen, SaliencyModel
from training.models.set_heads import SetHeads, in_planes
from training.pictures import write_predictions
from training.processes import errors_once
from training.saliency_loss import parts_with_gaze, saliency_losses
from training.saliency_task import SaliencyTask, SaliencyTrainingConfig, print_figures

_MEASURED_PX = 384


@dataclass(frozen=True, kw_only=True)
class TrainPhotographsConfig(SaliencyTrainingConfig):
    """A training run on photographs of several data sets."""

    data: PhotographSetsConfig
    """The data sets. The loss is in the photographs' planes; its `solid_angle` concerns taught maps alone."""
    taught_weight: float = 0.5
    """Weight of the loss against taught maps, relative to that of the photographs."""
    set_heads: bool = True
    """Learn centre bias, scales and noise of each data set together with the content; false: only the content."""
    frozen: Frozen = "none"
    """As for `training.train_decoder`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_path("data.panoramas", self.data.panoramas, "a folder of panoramas to lay the photographs on")
        require_at_least("taught_weight", self.taught_weight, 0)


class ContentWithHeads(nn.Module):
    """The content network with the heads of the data sets."""

    def __init__(self, model: nn.Module, heads: SetHeads | None) -> None:
        super().__init__()
        self.model, self.heads = model, heads

    def forward(self, batch: Sample) -> tuple[Tensor, Tensor]:
        """A batch of samples → content (B, h, w), and log-density of the N photographs in it, (N, CELLS, CELLS)."""
        frames, grids, log_areas, _, masks, windows, sets, *_ = (torch.as_tensor(part) for part in batch)
        content = self.model(frames.permute(0, 3, 1, 2)).float()
        used = sets >= 0  # (B, K)
        per_area = (in_planes(content, grids) + log_areas)[used]
        if self.heads is None:
            return content, per_area
        return content, self.heads(per_area, masks[used], windows[used], sets[used])


class PhotographsTask(SaliencyTask):
    """Training on photographs of several data sets, as a task for the loop.

    Args:
        config: the settings.
        data: what to train on and to measure.
        fabric: the process's rank and device.
        resumes: as for `SaliencyTask`.

    Raises:
        CheckpointError: the initial weights are missing or belong to another model.
    """

    folders: ClassVar[tuple[str, ...]] = ("root", "panoramas", "measured", "cache")

    def __init__(
        self, config: TrainPhotographsConfig, data: PhotographSets, fabric: Fabric, *, resumes: bool = False
    ) -> None:
        super().__init__(config, data.training, fabric, data.contents, resumes=resumes)
        self.settings, self.data = config, data
        self._around = ContentWithHeads(self.model, SetHeads(len(data.names)) if config.set_heads else None)

    @property
    def trained(self) -> nn.Module:
        """The content network and the heads of the data sets."""
        self._around.model = self.model
        return self._around

    def settings_to_match(self) -> Mapping[str, Any]:
        """The training photographs, their mixture, and the loss. Folders may have moved."""
        alone = {"taught_weight": self.settings.taught_weight, "set_heads": self.settings.set_heads}
        return alone | dict(super().settings_to_match())

    def learnt_from(self) -> Sequence[Origin]:
        """The data sets that are trained on, and the panoramas."""
        config = self._config.data
        used = [DATASETS[name] for name in config.sets if name != config.leave_out]
        return [*(Origin(f"{each.title}, gaze on photographs", each.licence) for each in used), PANORAMAS]

    def sizes(self, batch: Sample) -> Tensor:
        """The numbers of photographs and of taught maps, (2,)."""
        photographs, taught = _photographs_of(batch), _taught_of(batch)
        return torch.stack([parts_with_gaze(*photographs), parts_with_gaze(*taught)])

    def losses(self, model: nn.Module, batch: Sample) -> Mapping[str, Tensor]:
        """Losses of the photographs in their planes, and of the content against taught maps beside them."""
        content, log_densities = model(batch)
        of_photographs, of_maps = (None, None) if self.mean_sizes is None else self.mean_sizes
        planar = replace(self.settings.loss, solid_angle=False)
        losses = saliency_losses(log_densities, *_photographs_of(batch), planar, count=of_photographs)
        if not self.settings.data.taught:
            return losses
        of_taught = saliency_losses(content, *_taught_of(batch), self.settings.loss, count=of_maps)
        total = losses["loss"] + self.settings.taught_weight * of_taught["loss"]
        return losses | {"taught_kld": of_taught["kld"], "loss": total}

    def evaluate(self, done: int) -> Mapping[str, float]:
        """Figures of the content on each data set's measured photographs, shown plainly, and a picture of some."""
        figures: dict[str, float] = {}
        rows = []
        height = self.config.input_height
        for name, part in self.data.parts.items():
            chosen = evenly(part.measured, self.settings.data.measured)
            if not chosen:
                continue
            prior = centre_prior_of(part)
            shown_px = min(_MEASURED_PX, height)
            scores = measure_set(self.predict, chosen, prior, height, shown_px, measured_px=LONG_SIDE)
            figures |= {f"{name}/{figure}": value for figure, value in mean_figures(scores).items()}
            frame, truth = lay_out(chosen[:1], height, shown_px)[:2]
            rows.append((frame, truth, self.predict(frame[None])[0]))
        if rows and self.fabric.global_rank == 0:
            write_predictions(Path(self.settings.loop.run) / "predictions" / f"step-{done:08d}.png", rows)
        return figures

    def state_dict(self) -> dict[str, Any]:
        """The order of the data sets, and their heads, which checkpoints of the model leave out."""
        heads = self._around.heads
        return {"sets": list(self.data.names)} | ({} if heads is None else {"heads": heads.state_dict()})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            CheckpointError: the run had the data sets in another order, by which they are drawn and have their heads.
        """
        before = state.get("sets", list(self.data.names))
        if before != list(self.data.names):
            raise CheckpointError(
                f"the checkpoint belongs to a run on {', '.join(before)} in this order",
                "give --data.sets in the order of that run, or start a new run with another --loop.run",
                expected=f"{', '.join(self.data.names)}, as set now",
            )
        if self._around.heads is not None:
            self._around.heads.load_state_dict(state["heads"])


def _photographs_of(batch: Sample) -> tuple[Tensor, Tensor]:
    """Gaze and mask of the N photographs in a batch, (N, 1, CELLS, CELLS) each."""
    used = torch.as_tensor(batch.sets) >= 0
    return torch.as_tensor(batch.truths)[used][:, None], torch.as_tensor(batch.masks)[used][:, None]


def _taught_of(batch: Sample) -> tuple[Tensor, Tensor]:
    """Taught maps of a batch, and where they are learnt, (B, 1, h, w) each."""
    return torch.as_tensor(batch.taught)[:, None], torch.as_tensor(batch.rest)[:, None]


def train_photographs(config: TrainPhotographsConfig) -> dict[str, float]:
    """Train and return the newest point of each curve.

    Raises:
        Sal360Error: a setting, the data or a checkpoint is unusable, or the loss is not finite.
    """
    checkpoint = starting_point(config.loop)
    fabric = make_fabric(config.loop)
    height = config.model.input_height
    with option_names("data"):
        data = PhotographSets(config.data, height, SaliencyModel.map_size_of(config.model), config.loop.seed)
    task = PhotographsTask(config, data, fabric, resumes=checkpoint is not None)
    return train(task, config.loop, config.optimiser, fabric, checkpoint)


def main() -> None:
    """The command `python -m training.train_photographs`."""
    description = "Train a saliency model on photographs of several data sets of gaze."
    print_figures(train_photographs(read_config(TrainPhotographsConfig, description)))


if __name__ == "__main__":
    sys.exit(one_line_errors(errors_once(main)))
