"""Embeddings of panoramas and their rotated views in two dimensions, by t-SNE (supplementary, Figure 5)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sal360.arrays import Density
from sal360.errors import ParameterError
from training.analysis.panoramas import AnalysedConfig, AnalysedPanoramas, Split, open_analysed, require_has_split
from training.analysis.results import ENCODER_COLOURS, new_figure, write_results
from training.config import require, require_at_least, require_path, require_seed
from training.data.panoramas import Panoramas
from training.data.views import ViewConfig, ViewPair, resize, to_planes
from training.trained_models import TrainedEncoder, read_encoder, require_distinct


@dataclass(frozen=True)
class EmbeddingConfig:
    """The embeddings of several encoders in two dimensions, by t-SNE (supplementary, Figure 5)."""

    checkpoints: tuple[str, ...]
    """Contrastive checkpoints, one for each encoder: run or checkpoint folders, or .safetensors files."""
    data: AnalysedConfig
    """Panoramas to embed, read at the encoders' height or higher."""
    output: str
    """Folder for embedding.csv and embedding.png."""
    split: Split = "validation"
    """Part of the data set `data.dataset` that is analysed; the paper's is the validation part. A folder has none."""
    limit: int = 0
    """Number of panoramas that are analysed, evenly spread; 0: all."""
    turned_views: int = 4
    """Number of rotated views of each panorama, embedded in addition to the plain view."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """How the rotated views are drawn; the height is that of each encoder."""
    perplexity: float = 0.0
    """Perplexity of t-SNE, roughly the number of neighbours that count; 0: a third of the points, at most 30."""
    seed: int = 0
    """Seed of the views and of t-SNE."""

    def __post_init__(self) -> None:
        require_path("output", self.output, "a folder")
        require_at_least("limit", self.limit, 0)
        require("checkpoints", self.checkpoints, len(self.checkpoints) > 0, "at least one checkpoint")
        require_has_split(self)
        require_at_least("turned_views", self.turned_views, 0)
        require_at_least("perplexity", self.perplexity, 0)
        require_seed("seed", self.seed)


@torch.inference_mode()
def embed_views(encoder: TrainedEncoder, panoramas: AnalysedPanoramas | Panoramas, config: EmbeddingConfig) -> Density:
    """Embeddings v of the plain view and the rotated views of each panorama: (panoramas, 1 + turned_views, 512)."""
    draw = ViewPair(config.seed, replace(config.views, height=encoder.height))
    embeddings = []
    for index in tqdm(range(len(panoramas)), desc=encoder.name, unit="panorama", disable=None):
        panorama = panoramas[index]
        views = [to_planes(resize(panorama, encoder.height))]
        views += [draw(panorama, number, index)[1] for number in range(config.turned_views)]
        batch = np.stack(views)  # (1 + turned_views, 3, H, W)
        embeddings.append(encoder.model.embed(torch.from_numpy(batch).to(encoder.device)).cpu().numpy())
    return np.stack(embeddings)


def to_plane(embeddings: Density, perplexity: float, seed: int) -> Density:
    """t-SNE of embeddings (n, C): points (n, 2).

    Args:
        embeddings: at least 4.
        perplexity: roughly the number of neighbours that count; 0: a third of the points, at most 30.
        seed: seed of t-SNE.

    Raises:
        ParameterError: there are fewer than 4 points, or not more than the perplexity.
    """
    from sklearn.manifold import TSNE

    count = len(embeddings)
    perplexity = perplexity or min(30.0, count / 3)
    if count < 4 or perplexity >= count:
        raise ParameterError(
            f"there are {count} embeddings for a perplexity of {perplexity:g}",
            "add panoramas, raise --turned_views or lower --perplexity",
            expected="at least 4 embeddings, and more than the perplexity",
        )
    return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(embeddings), np.float32)


def analyse_embedding(config: EmbeddingConfig) -> None:
    """Embed the panoramas with each encoder; write embedding.csv and embedding.png.

    The first panel shows all encoders together, as in the paper. The others show one encoder each, with one colour for
    each panorama: an encoder that recognises a panorama in any orientation places its views next to each other.

    Raises:
        CheckpointError, DataError: a checkpoint or the panoramas cannot be read.
        ParameterError: there are too few panoramas for t-SNE.
        OSError: the results cannot be written.
    """
    encoders = [read_encoder(path) for path in config.checkpoints]
    require_distinct([encoder.name for encoder in encoders], "checkpoints")
    panoramas = open_analysed(config.data, config.split, [encoder.height for encoder in encoders], config.limit)
    embeddings = [embed_views(encoder, panoramas, config) for encoder in encoders]
    shape = embeddings[0].shape[:2]  # (panoramas, views)
    together = to_plane(np.concatenate([each.reshape(-1, each.shape[2]) for each in embeddings]), *_tsne(config))
    together = together.reshape(len(encoders), *shape, 2)

    figure = new_figure(5 * (1 + len(encoders)), 5)
    axes = figure.subplots(1, 1 + len(encoders), squeeze=False)[0]
    rows: list[dict[str, Any]] = []
    panorama_colours = np.arange(shape[0]).repeat(shape[1])
    for i, (encoder, embedding) in enumerate(zip(encoders, embeddings, strict=True)):
        own = to_plane(embedding.reshape(-1, embedding.shape[2]), *_tsne(config)).reshape(*shape, 2)
        colour = ENCODER_COLOURS[i % len(ENCODER_COLOURS)]
        axes[0].scatter(*together[i].reshape(-1, 2).T, s=12, color=colour, label=encoder.name)
        axes[1 + i].scatter(*own.reshape(-1, 2).T, s=12, c=panorama_colours, cmap="gist_rainbow")
        axes[1 + i].set_title(encoder.name)
        for index, number in np.ndindex(*shape):
            row: dict[str, Any] = {"encoder": encoder.name, "panorama": panoramas.names[index]}
            row["view"] = f"turned {number}" if number else "plain"
            for name, points in (("together", together[i]), ("own", own)):
                row |= {f"{name}_x": float(points[index, number, 0]), f"{name}_y": float(points[index, number, 1])}
            rows.append(row)
    axes[0].set_title("all encoders")
    axes[0].legend()
    for each in axes:
        each.set(xticks=[], yticks=[])
    write_results(config.output, "embedding", rows, figure)


def _tsne(config: EmbeddingConfig) -> tuple[float, int]:
    return config.perplexity, config.seed
