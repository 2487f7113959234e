"""The change of each layer during training: normalised Frobenius distance of checkpoints (supplementary, Figure 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sal360.errors import CheckpointError
from training.analysis.results import ENCODER_COLOURS, new_figure, write_results
from training.checkpoint import read_header, read_tensors
from training.config import config_from_dict, require, require_path, require_together
from training.models.contrastive import ContrastiveConfig
from training.models.encoders import build_encoder
from training.models.saliency_model import SaliencyModelConfig
from training.trained_models import checkpoint_name


@dataclass(frozen=True)
class ChangeConfig:
    """Distance between two checkpoints, layer by layer (supplementary, Figure 4)."""

    before: tuple[str, ...]
    """Earlier checkpoints, one for each encoder: run or checkpoint folders, or .safetensors files."""
    after: tuple[str, ...]
    """Later checkpoints of the same encoders, in the same order."""
    output: str
    """Folder for change.csv and change.png."""

    def __post_init__(self) -> None:
        require_path("output", self.output, "a folder")
        require("before", self.before, len(self.before) > 0, "at least one checkpoint")
        equal = len(self.before) == len(self.after)
        require_together(self, ("before", "after"), equal, "the same number of checkpoints")


def layer_changes(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, float]:
    """‖after − before‖ / ‖before‖ (Frobenius norm) of every weight tensor with two or more dimensions, by its name.

    Two unrelated tensors of equal norm give 1.41. NaN where the earlier tensor is zero.

    Raises:
        CheckpointError: the checkpoints contain different networks.
    """
    changes = {}
    for name, old in before.items():
        if old.ndim < 2:
            continue
        new = after.get(name)
        if new is None or new.shape != old.shape:
            raise CheckpointError(
                f"{name} is {'missing' if new is None else tuple(new.shape)} in the later checkpoint and "
                f"{tuple(old.shape)} in the earlier one",
                "pass checkpoints of the same encoder to --before and --after",
            )
        norm = float(old.double().norm())
        changes[name] = float((new.double() - old.double()).norm()) / norm if norm > 0 else math.nan
    return changes


def encoder_tensors(path: str) -> dict[str, Tensor]:
    """The encoder's tensors of a contrastive or saliency checkpoint, in the order of the layers."""
    tensors = read_tensors(path, part="encoder")  # sorted by name
    header = read_header(path)
    kind: type[ContrastiveConfig | SaliencyModelConfig] = (
        ContrastiveConfig if header.kind == "contrastive" else SaliencyModelConfig
    )
    order = build_encoder(config_from_dict(kind, header.config).encoder).state_dict()
    return {name: tensors[name] for name in order if name in tensors}


def analyse_change(config: ChangeConfig) -> None:
    """Compare the encoders of each pair of checkpoints; write change.csv and change.png.

    Raises:
        CheckpointError, OSError: a checkpoint cannot be read, two do not match, or the results cannot be written.
    """
    rows: list[dict[str, Any]] = []
    figure = new_figure(9, 4.5)
    axes = figure.subplots()
    for i, (before, after) in enumerate(zip(config.before, config.after, strict=True)):
        tensors = encoder_tensors(before)
        changes = layer_changes(tensors, encoder_tensors(after))
        name = f"{checkpoint_name(before)} → {checkpoint_name(after)}"
        for number, (layer, change) in enumerate(changes.items(), start=1):
            shape = "x".join(map(str, tensors[layer].shape))
            rows.append({"encoder": name, "number": number, "layer": layer, "shape": shape, "change": change})
        mean = float(np.nanmean(list(changes.values())))
        colour = ENCODER_COLOURS[i % len(ENCODER_COLOURS)]
        axes.plot(range(1, len(changes) + 1), list(changes.values()), ".-", color=colour, label=f"{name}: {mean:.2f}")
        print(f"{name}: mean {mean:.3f} over {len(changes)} layers")
    axes.axhline(math.sqrt(2), color="grey", linestyle=":", label="unrelated weights of equal norm")
    axes.set(
        xlabel="layer, from the input", ylabel="‖ΔW‖ / ‖W‖", title="Change of the encoders' weights", ylim=(0, None)
    )
    axes.legend()
    write_results(config.output, "change", rows, figure)
