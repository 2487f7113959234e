"""The contrastive objective: one memory bank, a global and a local noise-contrastive loss (Section 3 of the paper)."""

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


@dataclass(frozen=True)
class ObjectiveConfig:
    """How the embeddings of the two views are compared with the memory bank."""

    loss: Literal["nce", "infonce"] = "nce"
    """nce: noise-contrastive estimation as in the paper; infonce: softmax over the positive and the negatives."""
    negatives: int = 16000
    """Negatives of each sample; at most one fewer than there are panoramas."""
    temperature: float = 0.07
    """Divides the similarities."""
    memory_momentum: float = 0.5
    """What the memory keeps of its old entry when it is updated."""
    local_weight: float = 0.7
    """Weight of the local part of the loss; the global part has the rest."""

    def __post_init__(self) -> None:
        require_at_least("negatives", self.negatives, 1)
        require("temperature", self.temperature, self.temperature > 0, "more than 0")
        require_between("memory_momentum", self.memory_momentum, 0, 1)
        require_between("local_weight", self.local_weight, 0, 1)


if TYPE_CHECKING:
    from training.models.contrastive import ContrastiveOutput


class LossParts(NamedTuple):
    """What one batch gives; all but `total` are for the curves."""

    total: Tensor
    """Scalar to minimise, the same on all processes: the mean over the samples of all of them."""
    global_nce: Tensor
    """Global part, scalar, before weighting."""
    local_nce: Tensor
    """Local part, scalar, before weighting."""
    positive_similarity: Tensor
    """Mean cosine of v_x with its own entry of the memory."""
    negative_similarity: Tensor
    """Mean cosine of v_x with its negatives."""


class ContrastiveObjective(nn.Module):
    """Loss of a batch of embeddings against the memory bank, and the bank's update.

    A sample i has one positive, its own entry m_i, and K = min(negatives, n − 1) negatives drawn uniformly without
    repetition from the other entries: the positive is never among them. (The paper draws with repetition from all n;
    with K = 16000 of a few thousand panoramas that pushes every sample away from itself several times a step.)
    One draw serves the whole batch, because then the scores are one matrix product of (B, 512) with (512, K + 1).

    The local logit is the mean over locations of ψ_ij · m / T. Being linear, it is (mean ψ_ij) · m / T.

    With several processes, embeddings are gathered with their gradients, and each process computes the loss of the
    whole batch with the same memory and the same draw. So the result does not depend on how many there are.

    State: the memory, both constants Z and the generator of the draws. `state_dict` holds all of it.

    Args:
        n_data: panoramas in the data, n; each has one entry in the memory.
        config: loss, K, temperature, momentum and weights.
        channels: of the embeddings.
        seed: of the memory's first entries and of the draws; the same on all processes.
        fabric: of a run with several processes; without it, the batch of this process is the whole batch.

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
                f"there are {n_data} panoramas", "add panoramas", expected="at least 2, so that one has a negative"
            )
        self.config = config
        self._fabric = fabric
        self.negatives = min(config.negatives, n_data - 1)
        self._generator = torch.Generator().manual_seed(seed)
        memory = functional.normalize(torch.randn(n_data, channels, generator=self._generator), dim=1)
        self.register_buffer("memory", memory)
        # log Z of the two losses, fixed by the first batch; NaN until then
        self.register_buffer("global_normaliser", torch.tensor(math.nan))
        self.register_buffer("local_normaliser", torch.tensor(math.nan))

    def forward(self, output: ContrastiveOutput, indices: Tensor) -> LossParts:
        """Loss of one batch.

        Args:
            output: embeddings of this process's samples, (B, C) and (B, C, h, w).
            indices: (B,) int64, which panoramas they are, in [0, n).
        """
        device_type = output.global_embedding.device.type
        with torch.autocast(device_type, enabled=False):  # exponentials of 1 / T need all their digits
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
        """Move the memory's entries towards the global embeddings (B, C) of the panoramas `indices` (B,), distinct."""
        embedding, indices = self._gather(embedding.float()), self._gather(indices)
        momentum = self.config.memory_momentum
        mixed = momentum * self.memory[indices] + (1 - momentum) * embedding
        self.memory[indices] = functional.normalize(mixed, dim=1)

    def _gather(self, part: Tensor) -> Tensor:
        """The parts (B, ...) of all processes in the order of their ranks, with gradients: (B', ...)."""
        if self._fabric is None or self._fabric.world_size == 1:
            return part
        parts = self._fabric.all_gather(part, sync_grads=part.requires_grad)  # (processes, B, ...)
        assert isinstance(parts, Tensor)
        return parts.flatten(0, 1)  # (B', ...)

    def _draw_candidates(self, device: torch.device) -> Tensor:
        """K + 1 distinct entries of the memory: one more than needed, for a sample that finds itself among them."""
        n_data = self.memory.shape[0]
        if self.negatives == n_data - 1:
            return torch.arange(n_data, device=device)
        return torch.randperm(n_data, generator=self._generator)[: self.negatives + 1].to(device)

    def _scores(self, embedding: Tensor, positives: Tensor, indices: Tensor, candidates: Tensor) -> Tensor:
        """Similarities over T, (B, 1 + K): the positive first, then the negatives."""
        positive = (embedding * positives).sum(dim=1, keepdim=True)  # (B, 1)
        similarity = embedding @ self.memory[candidates].T  # (B, K + 1)
        is_own = candidates[None, :-1] == indices[:, None]  # (B, K)
        negative = torch.where(is_own, similarity[:, -1:], similarity[:, :-1])  # the spare one takes its place
        return torch.cat([positive, negative], dim=1) / self.config.temperature

    def _loss(self, scores: Tensor, normaliser: Tensor) -> Tensor:
        """Mean over the samples (B, 1 + K) of the loss that the configuration names."""
        if self.config.loss == "infonce":
            return -functional.log_softmax(scores, dim=1)[:, 0].mean()
        if torch.isnan(normaliser):
            normaliser.copy_(_log_mean_exp(scores.detach()) + math.log(self.memory.shape[0]))
        return noise_contrastive_loss(scores - normaliser, n_data=self.memory.shape[0])

    def get_extra_state(self) -> dict[str, Any]:
        """The generator of the draws, for `state_dict`."""
        return {"generator": self._generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on drawing where the saved run stopped."""
        self._generator.set_state(state["generator"].cpu())


def noise_contrastive_loss(log_probability: Tensor, *, n_data: int) -> Tensor:
    """Noise-contrastive estimation with uniform noise P_n = 1 / n, mean over the samples (Wu et al., 2018, eq. 4–8).

    With K negatives, a score of log-probability p is data with the posterior p / (p + K / n), so each is a logistic
    regression with the logit log p − log(K / n).

    Args:
        log_probability: (B, 1 + K), log of exp(s / T) / Z; the positive first.
        n_data: panoramas in the data, n.
    """
    noise = math.log((log_probability.shape[1] - 1) / n_data)
    logit = log_probability - noise
    is_data = functional.logsigmoid(logit[:, 0])  # (B,)
    is_noise = functional.logsigmoid(-logit[:, 1:]).sum(dim=1)  # (B,)
    return -(is_data + is_noise).mean()


def _log_mean_exp(scores: Tensor) -> Tensor:
    return torch.logsumexp(scores.flatten(), dim=0) - math.log(scores.numel())
