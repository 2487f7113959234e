"""Inter-map correlation of a latent: how redundant its channels are (supplementary, Table 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from training.analysis.panoramas import AnalysedConfig, AnalysedPanoramas, Split, open_analysed, require_has_split
from training.analysis.results import new_figure, write_results
from training.config import require, require_at_least, require_path
from training.data.views import resize, to_planes
from training.latent_correlation import inter_map_correlation
from training.models.layers import normalise
from training.trained_models import TrainedEncoder, read_encoder, require_distinct


@dataclass(frozen=True)
class CorrelationConfig:
    """Inter-map correlation of the latents (supplementary, Table 2)."""

    checkpoints: tuple[str, ...]
    """Contrastive checkpoints, one for each encoder: run or checkpoint folders, or .safetensors files."""
    data: AnalysedConfig
    """Panoramas whose latents are measured, read at the encoders' height or higher."""
    output: str
    """Folder for correlation.csv and correlation.png."""
    split: Split = "validation"
    """Part of the data set `data.dataset` that is analysed; the paper's is the validation part. A folder has none."""
    limit: int = 0
    """Number of panoramas that are analysed, evenly spread; 0: all."""

    def __post_init__(self) -> None:
        require_path("output", self.output, "a folder")
        require_at_least("limit", self.limit, 0)
        require("checkpoints", self.checkpoints, len(self.checkpoints) > 0, "at least one checkpoint")
        require_has_split(self)


_TOGETHER = 16
"""Number of panoramas that are encoded together."""
PAPER_CORRELATION = {"VGG16": 0.295, "ResNet50": 0.107}
"""The values of Table 2, on 24 panoramas of Salient360!."""


@torch.inference_mode()
def latents(encoder: TrainedEncoder, panoramas: AnalysedPanoramas) -> Iterator[tuple[str, Tensor]]:
    """Name and latent Λ_x (512, h, w) of each panorama."""
    with tqdm(total=len(panoramas), desc=encoder.name, unit="panorama", disable=None) as bar:
        for first in range(0, len(panoramas), _TOGETHER):
            names = panoramas.names[first : first + _TOGETHER]
            views = [to_planes(resize(panoramas[first + i], encoder.height)) for i in range(len(names))]
            batch = torch.from_numpy(np.stack(views)).to(encoder.device)  # (B, 3, H, W)
            yield from zip(names, encoder.model.encoder(normalise(batch)).cpu(), strict=True)
            bar.update(len(names))


def analyse_correlation(config: CorrelationConfig) -> None:
    """Measure the latents of each encoder on each panorama; write correlation.csv and correlation.png.

    Raises:
        CheckpointError, DataError, OSError: a checkpoint or the panoramas cannot be read, or the results not written.
    """
    encoders = [read_encoder(path) for path in config.checkpoints]
    require_distinct([encoder.name for encoder in encoders], "checkpoints")
    panoramas = open_analysed(config.data, config.split, [encoder.height for encoder in encoders], config.limit)
    rows: list[dict[str, Any]] = []
    measured: dict[str, list[float]] = {}
    for encoder in encoders:
        values = measured.setdefault(encoder.name, [])
        for panorama, latent in latents(encoder, panoramas):
            values.append(float(inter_map_correlation(latent[None])))
            rows.append({"encoder": encoder.name, "panorama": panorama, "correlation": values[-1]})

    figure = new_figure(1.5 + 2 * len(measured), 4)
    axes = figure.subplots()
    axes.boxplot(list(measured.values()), showmeans=True)
    axes.set_xticks(range(1, 1 + len(measured)), [name.replace(" ", "\n") for name in measured])
    for (name, paper), style in zip(PAPER_CORRELATION.items(), ("--", ":"), strict=True):
        axes.axhline(paper, color="grey", linestyle=style, label=f"paper, {name}: {paper}")
    axes.set(ylabel="mean correlation between channels", title=f"Latents of {panoramas.description}")
    axes.legend()
    write_results(config.output, "correlation", rows, figure)
    for name, values in measured.items():
        print(f"{name}: {sum(values) / len(values):.3f}")
