"""Contrastive pretraining of an encoder on unlabelled panoramas.

    python -m training.pretrain --config training/recipes/pretrain.yaml --data.root PANORAMAS
    torchrun --nproc-per-node 8 -m training.pretrain --config training/recipes/pretrain.yaml --data.root PANORAMAS

The run's folder gets the settings, views.png (the pairs of views), TensorBoard curves, checkpoints, and at the end
summary.png.

From a panorama to a training step: `data/panoramas.py` reads it, `data/views.py` draws two views of it, `loop.py` takes
the steps, and `PretrainTask.losses` below passes the views to `models/contrastive.py` and `contrastive_loss.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sal360.arrays import Pixels
from sal360.errors import CheckpointError, one_line_errors, printable
from training.checkpoint import (
    IMAGENET,
    PANORAMAS,
    Origin,
    joined,
    load_weights,
    origin_of_file,
    plain_settings,
    read_header,
)
from training.config import SettingError, option_names, read_config, require_at_least, require_together, write_config
from training.contrastive_loss import ContrastiveObjective, ObjectiveConfig
from training.curves import write_summary
from training.data.gaze.records import summary_of
from training.data.loader import StepSampler, load, steps_per_epoch
from training.data.panoramas import PanoramaConfig, PanoramaViews, open_panoramas
from training.data.shards import ShardedViews, open_shards
from training.data.taught_maps import names_below
from training.data.views import ViewConfig, ViewPair
from training.loop import LoopConfig, Task, make_fabric, starting_point, train
from training.models.contrastive import ContrastiveConfig, ContrastiveModel, SelfAttention
from training.models.encoders import encoder_kind
from training.optimiser import OptimiserConfig
from training.pictures import write_views
from training.processes import errors_once, first_process_does
from training.retrieval import Retrieval


@dataclass(frozen=True)
class PretrainConfig:
    """A pretraining run."""

    data: PanoramaConfig
    """The panoramas."""
    loop: LoopConfig
    """The run."""
    recipe: str = "custom"
    """Name of these settings, displayed in pictures."""
    model: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    """Encoder, attention and heads."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """The two views of a panorama."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """The loss."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser and learning-rate schedule."""
    weights: str = ""
    """Checkpoint of a contrastive run from whose weights a new run starts."""
    encoder_weights: str = ""
    """Checkpoint of a contrastive run from whose encoder a new run starts; attention and views may differ."""
    retrieval_panoramas: int = 512
    """Maximum number of panoramas in the retrieval evaluation."""

    def __post_init__(self) -> None:
        one = not (self.weights and self.encoder_weights)
        require_together(self, ("weights", "encoder_weights"), one, "at most one of the two")
        require_at_least("retrieval_panoramas", self.retrieval_panoramas, 2)
        same = self.views.height == self.model.height
        require_together(self, ("views.height", "model.height"), same, "one height for both")
        large = self.data.height >= self.views.height
        require_together(self, ("data.height", "views.height"), large, "data at least as high as the views")


@dataclass(frozen=True)
class Source:
    """The panoramas of a run, from a folder or from shards."""

    count: int
    """Number of panoramas; each has an entry in the memory bank."""
    steps_per_epoch: int
    """Number of steps per pass over the data."""
    batches: Callable[[int, int], Iterator[Any]]
    """Batches (views, turned views, indices) of this process for the steps start … stop − 1."""
    for_evaluation: Sequence[Pixels]
    """This process's share of the panoramas of the retrieval evaluation, (H, W, 3) RGB each."""
    readers: int = 0
    """Number of loader processes among which shards are divided; 0: the batches do not depend on it."""
    contents: str = ""
    """The panoramas in words that change when they do, wherever their folder is."""


def open_views(config: PretrainConfig, fabric: Fabric) -> Source:
    """Open the panoramas below `data.root`; the first process checks them for all.

    Raises:
        DataError: they are missing or unusable.
        ParameterError: a batch is larger than the data.
    """
    loop, views = config.loop, ViewPair(config.loop.seed, config.views)
    place = {"rank": fabric.global_rank, "world": fabric.world_size}
    if shards := open_shards(config.data.root):

        def sharded(start: int, stop: int) -> ShardedViews:
            return ShardedViews(shards, views, config.data.height, loop, start=start, stop=stop, **place)

        def sharded_batches(start: int, stop: int) -> Iterator[Any]:
            with option_names("loop"):
                return sharded(start, stop).batches()

        some = shards.first(config.retrieval_panoramas, config.data.height)[fabric.global_rank :: fabric.world_size]
        readers = sharded(0, 0).lanes * fabric.world_size
        contents = summary_of([f"{name} {count}" for name, count in zip(shards.names, shards.counts, strict=True)])
        return Source(len(shards), sharded(0, 0).steps_per_epoch, sharded_batches, some, readers, contents)

    panoramas = first_process_does(fabric, lambda: open_panoramas(config.data))
    count = len(panoramas)

    def batches(start: int, stop: int) -> Iterator[Any]:
        with option_names("loop"):
            sampler = StepSampler(
                count,
                batch_size=loop.batch_size,
                seed=loop.seed,
                start=start,
                stop=stop,
                parts=loop.accumulate,
                **place,
            )
            return load(PanoramaViews(panoramas, views), sampler, loop.workers)

    chosen = torch.linspace(0, count - 1, min(count, config.retrieval_panoramas)).round().int().tolist()
    some = [panoramas[i] for i in chosen[fabric.global_rank :: fabric.world_size]]
    contents = summary_of(names_below(config.data.root, panoramas.paths))
    with option_names("loop"):
        return Source(count, steps_per_epoch(count, loop.batch_size), batches, some, contents=contents)


class PretrainTask(Task):
    """The paper's contrastive training (Section 3)."""

    kind: ClassVar[str] = "contrastive"
    of_start: ClassVar[tuple[str, ...]] = ("weights_file",)

    def __init__(self, config: PretrainConfig, source: Source, fabric: Fabric, *, resumes: bool = False) -> None:
        share = config.loop.batch_size // (fabric.world_size * config.loop.accumulate)
        if share < 2:
            raise SettingError(
                {"loop.batch_size": config.loop.batch_size, "loop.accumulate": config.loop.accumulate},
                f"at least 2 samples in each part of the {fabric.world_size} processes, for the batch statistics",
                options=True,
            )
        self.settings, self.source, self.fabric = config, source, fabric
        self.config, self.steps_per_epoch = config.model, source.steps_per_epoch
        # a checkpoint of the run brings the weights and their origin
        model = replace(config.model, pretrained=False, weights_file="") if resumes else config.model
        self.model: ContrastiveModel = ContrastiveModel(model)
        self.objective = ContrastiveObjective(source.count, config.objective, seed=config.loop.seed, fabric=fabric).to(
            fabric.device
        )
        self.origin = joined(() if resumes else _origin_of_start(config), [PANORAMAS])
        place = {"rank": fabric.global_rank, "world": fabric.world_size}
        self.retrieval = Retrieval(source.for_evaluation, config.views, config.loop.seed, **place)
        self._embedded: list[tuple[Tensor, Tensor]] = []  # updates the memory bank after the step

    def settings_to_match(self) -> Mapping[str, Any]:
        """The views, the loss, and what the batches depend on. Folders may have moved."""
        parts = {"views": self.settings.views, "objective": self.settings.objective}
        settings = {f"{part}.{name}": value for part, of in parts.items() for name, value in plain_settings(of).items()}
        return settings | {"data.height": self.settings.data.height, "readers of shards": self.source.readers}

    def begin(self) -> None:
        """Write the settings, and a picture of the views."""
        run = Path(self.settings.loop.run)
        write_config(self.settings, run / "config.yaml")
        views = ViewPair(self.settings.loop.seed, self.settings.views)
        write_views(
            run / "views.png", [views(panorama, 0, i) for i, panorama in enumerate(self.source.for_evaluation[:6])]
        )

    def batches(self, start: int, stop: int) -> Iterator[Any]:
        """View pairs with the indices of their panoramas."""
        return self.source.batches(start, stop)

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Mapping[str, Tensor]:
        """The losses, similarities and γ of a batch."""
        view, turned, indices = batch
        output = model(view, turned)
        parts = self.objective(output, indices)
        self._embedded.append((output.global_embedding.detach(), indices))
        curves = {
            "loss": parts.total,
            "loss/global_nce": parts.global_nce,
            "loss/local_nce": parts.local_nce,
            "similarity/positive": parts.positive_similarity,
            "similarity/negative": parts.negative_similarity,
        }
        if isinstance(self.model.attention, SelfAttention):
            curves["attention/gamma"] = self.model.attention.gamma
        return curves

    def after_step(self) -> None:
        """Update the memory bank."""
        for embedding, indices in self._embedded:
            self.objective.update(embedding, indices)
        self._embedded.clear()

    def evaluate(self, done: int) -> Mapping[str, float]:  # noqa: ARG002
        """Retrieval scores and inter-map correlation."""
        return self.retrieval(self.model, self.fabric.device)

    def state_dict(self) -> dict[str, Any]:
        """The memory bank, Z and the generator of the negatives."""
        return {**self.objective.state_dict(), "panoramas": self.source.contents}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them.

        Raises:
            CheckpointError: the run had other panoramas, so the entries of its memory do not match.
        """
        if (count := len(state["memory"])) != self.source.count:
            raise CheckpointError(
                f"the checkpoint belongs to a run on {count} panoramas",
                "resume with the data of that run, or start a new run with --weights and another --loop.run",
                expected=f"{self.source.count}, as --data.root has now",
            )
        bank = dict(state)
        if (contents := bank.pop("panoramas", "")) and contents != self.source.contents:  # an older run has no names
            raise CheckpointError(
                "the checkpoint belongs to a run on as many panoramas with other names",
                "resume with the data of that run, or start a new run with --weights and another --loop.run",
            )
        self.objective.load_state_dict(bank)


def _origin_of_start(config: PretrainConfig) -> tuple[Origin, ...]:
    """From what the weights were learnt with which a new run starts."""
    if before := config.weights or config.encoder_weights:
        return read_header(before).learnt_from
    if not config.model.pretrained:
        return ()
    return (IMAGENET if encoder_kind(config.model.encoder).packaged else origin_of_file(config.model.weights_file),)


def main() -> None:
    """The command `python -m training.pretrain`."""
    config = read_config(PretrainConfig, "Contrastive pretraining of an encoder on unlabelled panoramas.")
    checkpoint = starting_point(config.loop)
    fabric = make_fabric(config.loop)
    source = open_views(config, fabric)
    task = PretrainTask(config, source, fabric, resumes=checkpoint is not None)
    if config.weights and not checkpoint:
        load_weights(config.weights, task.model, kind=task.kind)
    if config.encoder_weights and not checkpoint:
        load_weights(config.encoder_weights, task.model.encoder, kind=task.kind, part="encoder")
    scores = train(task, config.loop, config.optimiser, fabric, checkpoint)
    if fabric.global_rank == 0:
        title = f"{config.model.encoder}, recipe {printable(config.recipe)}, {source.count} panoramas"
        write_summary(config.loop.run, title=title)
        print(", ".join(f"{name} {value:.4g}" for name, value in scores.items()))


if __name__ == "__main__":
    sys.exit(one_line_errors(errors_once(main)))
