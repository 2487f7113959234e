"""The contrastive objective: a memory bank, a global and a local noise-contrastive loss (Section 3 of the paper)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from sal360.errors import DataError
from training.config import require, require_at_least, require_between

if TYPE_CHECKING:
    from training.models.contrastive import ContrastiveOutput


@dataclass(frozen=True)
class ObjectiveConfig:
    """The contrastive loss and its memory bank."""

    loss: Literal["nce", "infonce"] = "nce"
    """nce: noise-contrastive estimation, as in the paper; infonce: softmax over the positive and the negatives."""
    negatives: int = 16000
    """Number of negatives of each sample; capped at one less than the number of panoramas."""
    temperature: float = 0.07
    """Temperature that divides the similarities."""
    memory_momentum: float = 0.5
    """Share of the old entry that is kept when the memory is updated, 0 to 1."""
    local_weight: float = 0.7
    """Weight of the local loss, 0 to 1; the global loss has the rest."""

    def __post_init__(self) -> None:
        require_at_least("negatives", self.negatives, 1)
        require("temperature", self.temperature, self.temperature > 0, "more than 0")
        require_between("memory_momentum", self.memory_momentum, 0, 1)
        require_between("local_weight", self.local_weight, 0, 1)


class LossParts(NamedTuple):
    """The loss of one batch; all except `total` are for the curves."""

    total: Tensor
    """Scalar to minimise: the mean over the samples of all processes, the same in each of them."""
    global_nce: Tensor
    """Global loss before weighting, scalar."""
    local_nce: Tensor
    """Local loss before weighting, scalar."""
    positive_similarity: Tensor
    """Mean cosine between v_x and its own entry in the memory."""
    negative_similarity: Tensor
    """Mean cosine between v_x and its negatives."""


class ContrastiveObjective(nn.Module):
    """Loss of a batch of embeddings against the memory bank, and the update of the bank.

    A sample i has one positive, its own entry m_i, and K = min(negatives, n − 1) negatives, drawn uniformly without
    replacement from the other entries. (The paper draws with replacement from all n; with K = 16000 and a few thousand
    panoramas that would push every sample away from itself several times per step.) The whole batch shares one draw, so
    the scores are a single matrix product of (B, 512) and (512, K + 1).

    The local logit is the mean over locations of ψ_ij · m / T, which by linearity is (mean ψ_ij) · m / T.

    With several processes, embeddings are gathered with their gradients, and each process computes the loss of the
    whole batch with the same memory and the same draw. The result does not depend on the number of processes.

    `state_dict` holds the memory, both constants Z and the generator of the draws.

    Args:
        n_data: number of panoramas n; each has one entry in the memory.
        config: loss, K, temperature, momentum and weights.
        channels: channels of the embeddings.
        seed: seed of the initial memory and of the draws; the same in all processes.
        fabric: needed with several processes; without it, the batch of this process is the whole batch.

    Raises:
        DataError: there are fewer than two panoramas.
    """

    memory: Tensor
    global_normaliser: Tensor
    local_normaliser: Tensor

    def __init__(
        self,
        n_data: int,
        config: ObjectiveConfig,
        *,
        channels: int = 512,
        seed: int = 0,
        fabric: Fabric | None = None,
    ) -> None:
        super().__init__()
        if n_data < 2:
            raise DataError(
                f"there are {n_data} panoramas", "add panoramas", expected="at least 2, so that each has a negative"
            )
        self.config = config
        self._fabric = fabric
        self.negatives = min(config.negatives, n_data - 1)
        self._generator = torch.Generator().manual_seed(seed)
        memory = functional.normalize(torch.randn(n_data, channels, generator=self._generator), dim=1)
        self.register_buffer("memory", memory)
        # log Z of the two losses: NaN until the first batch sets it
        self.register_buffer("global_normaliser", torch.tensor(math.nan))
        self.register_buffer("local_normaliser", torch.tensor(math.nan))

    def forward(self, output: ContrastiveOutput, indices: Tensor) -> LossParts:
        """Loss of one batch.

        Args:
            output: embeddings of this process's samples, (B, C) and (B, C, h, w).
            indices: (B,) int64, indices of their panoramas in [0, n).
        """
        device_type = output.global_embedding.device.type
        with torch.autocast(device_type, enabled=False):  # similarities over T need full precision
            local_mean = output.local_embedding.float().mean(dim=(2, 3))  # (B, C)
            embeddings = self._gather(torch.stack([output.global_embedding.float(), local_mean], dim=1))  # (B', 2, C)
            indices = self._gather(indices)  # (B',)
            candidates = self._draw_candidates(indices.device)  # (K + 1,)
            positives = self.memory[indices]  # (B', C)
            global_scores = self._scores(embeddings[:, 0], positives, indices, candidates)
            local_scores = self._scores(embeddings[:, 1], positives, indices, candidates)
            global_nce = self._loss(global_scores, self.global_normaliser)
            local_nce = self._loss(local_scores, self.local_normaliser)
        weight = self.config.local_weight
        total = (1 - weight) * global_nce + weight * local_nce
        with torch.no_grad():
            positive_similarity = global_scores[:, 0].mean() * self.config.temperature
            negative_similarity = global_scores[:, 1:].mean() * self.config.temperature
        return LossParts(total, global_nce.detach(), local_nce.detach(), positive_similarity, negative_similarity)

    @torch.no_grad()
    def update(self, embedding: Tensor, indices: Tensor) -> None:
        """Move the memory's entries of the panoramas `indices` (B,), all different, towards their embeddings (B, C)."""
        embedding, indices = self._gather(embedding.float()), self._gather(indices)
        momentum = self.config.memory_momentum
        mixed = momentum * self.memory[indices] + (1 - momentum) * embedding
        self.memory[indices] = functional.normalize(mixed, dim=1)

    def _gather(self, part: Tensor) -> Tensor:
        """Concatenate the parts (B, ...) of all processes in rank order, with gradients: (B', ...)."""
        if self._fabric is None or self._fabric.world_size == 1:
            return part
        parts = self._fabric.all_gather(part, sync_grads=part.requires_grad)  # (processes, B, ...)
        assert isinstance(parts, Tensor)
        return parts.flatten(0, 1)  # (B', ...)

    def _draw_candidates(self, device: torch.device) -> Tensor:
        """K + 1 different entries of the memory; the spare one replaces a sample's own entry among its negatives."""
        n_data = self.memory.shape[0]
        if self.negatives == n_data - 1:
            return torch.arange(n_data, device=device)
        return torch.randperm(n_data, generator=self._generator)[: self.negatives + 1].to(device)

    def _scores(self, embedding: Tensor, positives: Tensor, indices: Tensor, candidates: Tensor) -> Tensor:
        """Similarities divided by T, (B, 1 + K): the positive, then the negatives."""
        positive = (embedding * positives).sum(dim=1, keepdim=True)  # (B, 1)
        similarity = embedding @ self.memory[candidates].T  # (B, K + 1)
        is_own = candidates[None, :-1] == indices[:, None]  # (B, K)
        negative = torch.where(is_own, similarity[:, -1:], similarity[:, :-1])  # replaced by the spare entry
        return torch.cat([positive, negative], dim=1) / self.config.temperature

    def _loss(self, scores: Tensor, normaliser: Tensor) -> Tensor:
        """The configured loss of scores (B, 1 + K), mean over the samples."""
        if self.config.loss == "infonce":
            return -functional.log_softmax(scores, dim=1)[:, 0].mean()
        # a condition on the device: reading it here would make every step wait for the GPU
        first = _log_mean_exp(scores.detach()) + math.log(self.memory.shape[0])
        normaliser.copy_(torch.where(torch.isnan(normaliser), first, normaliser))
        return noise_contrastive_loss(scores - normaliser, n_data=self.memory.shape[0])

    def get_extra_state(self) -> dict[str, Any]:
        """State of the generator of the draws, for `state_dict`."""
        return {"generator": self._generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the generator, so that draws continue where the saved run stopped."""
        self._generator.set_state(state["generator"].cpu())


def noise_contrastive_loss(log_probability: Tensor, *, n_data: int) -> Tensor:
    """Noise-contrastive estimation with uniform noise P_n = 1 / n, mean over the samples (Wu et al., 2018, eq. 4–8).

    With K negatives, the posterior that a sample with probability p is data is p / (p + K / n), so the loss is a
    logistic regression with the logit log p − log(K / n).

    Args:
        log_probability: (B, 1 + K), log of exp(s / T) / Z; the positive first.
        n_data: number of panoramas n.
    """
    noise = math.log((log_probability.shape[1] - 1) / n_data)
    logit = log_probability - noise
    is_data = functional.logsigmoid(logit[:, 0])  # (B,)
    is_noise = functional.logsigmoid(-logit[:, 1:]).sum(dim=1)  # (B,)
    return -(is_data + is_noise).mean()


def _log_mean_exp(scores: Tensor) -> Tensor:
    return torch.logsumexp(scores.flatten(), dim=0) - math.log(scores.numel())
