"""Retrieval, the evaluation of pretraining: held-out rotated views must retrieve their own panorama among all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sal360.arrays import Pixels
from training.data.views import ViewConfig, ViewPair, resize, to_planes
from training.latent_correlation import inter_map_correlation
from training.models.contrastive import ContrastiveModel
from training.models.layers import normalise
from training.processes import gathered

_HELD_OUT = 1_000_003
"""Added to the training seed, so that the held-out views differ from those of the training."""


class Retrieval:
    """Scores of a contrastive model on fixed held-out views, the same at every call.

    With several processes, each embeds its share, and the scores are those of all.

    Args:
        panoramas: this process's share, (H, W, 3) RGB each; the plain views of all are the gallery.
        config: how the rotated views are drawn, one for each panorama.
        seed: seed of the training run.
        batch_size: number of views per forward pass.
        rank, world: the share: every `world`-th panorama of all, from number `rank`.
    """

    def __init__(
        self,
        panoramas: Sequence[Pixels],
        config: ViewConfig,
        seed: int,
        batch_size: int = 16,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        views = ViewPair(seed + _HELD_OUT, config)
        self.plain = [to_planes(resize(panorama, config.height)) for panorama in panoramas]  # (3, h, w) each
        self.turned = [views(panorama, 0, rank + i * world)[1] for i, panorama in enumerate(panoramas)]
        self.batch_size = batch_size

    def __call__(self, model: ContrastiveModel, device: torch.device) -> dict[str, float]:
        """Scores of a model in evaluation mode, called without gradients.

        Rotated views are embedded in three ways: "local", through attention and local module with the rotated view
        itself as the query, so that nothing reveals which panorama is sought; "guided", the same with the plain view as
        the query, as in training; "global", through the global module.

        Returns:
            retrieval/WAY_top1 and retrieval/WAY_top5: share of the rotated views whose own panorama is the nearest, or
            among the five nearest, by cosine; latent/inter_map_correlation: as in the supplementary's Table 2.
        """
        gallery, correlations = [], []
        embedded: dict[str, list[Tensor]] = {"local": [], "guided": [], "global": []}
        for view, turned in zip(self._batches(self.plain, device), self._batches(self.turned, device), strict=True):
            latent = model.encoder(normalise(view))  # (B, 512, h, w)
            turned_latent = model.encoder(normalise(turned))  # (B, 512, h, w)
            gallery.append(model.global_head(latent).float())
            correlations.append(inter_map_correlation(latent))
            for name, query in (("local", turned_latent), ("guided", latent)):
                local = model.local_head(model.attention(query, turned_latent)).float()
                embedded[name].append(functional.normalize(local.mean(dim=(2, 3)), dim=1))
            embedded["global"].append(model.global_head(turned_latent).float())
        everything = _of_all(gallery)
        scores = {
            f"retrieval/{name}_{top}": value
            for name, queries in embedded.items()
            for top, value in top_scores(_of_all(queries), everything).items()
        }
        return scores | {"latent/inter_map_correlation": float(_of_all(correlations).nanmean())}

    def _batches(self, views: Sequence[Pixels], device: torch.device) -> Iterator[Tensor]:
        for start in range(0, len(views), self.batch_size):
            yield torch.from_numpy(np.stack(views[start : start + self.batch_size])).to(device)


def _of_all(parts: list[Tensor]) -> Tensor:
    """The parts of all processes, one after the other, on the CPU."""
    return torch.cat([part for own in gathered([each.cpu() for each in parts]) for part in own])


def top_scores(queries: Tensor, gallery: Tensor) -> dict[str, float]:
    """Share of queries (N, C) whose own entry in the gallery (N, C) ranks first, or among the first five, by product.

    A tie counts as a miss, so a model that maps everything to one vector scores 0, not 1.
    """
    similarity = queries @ gallery.T  # (N, N)
    own = similarity.diagonal()[:, None]  # (N, 1)
    better_or_equal = (similarity >= own).sum(dim=1)  # itself included
    return {f"top{k}": float((better_or_equal <= k).float().mean()) for k in (1, 5)}
