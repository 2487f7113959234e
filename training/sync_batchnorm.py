"""Batch normalisation over all processes, on any device: torch's own version works on GPUs only."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation by the mean and variance over all processes, each with the same number of samples."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (B, C, ...), got {tuple(input.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, ...) per channel over the batch of all processes."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        processes = dist.get_world_size()
        over = [axis for axis in range(x.ndim) if axis != 1]
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean = _sum_over_processes(x.float().mean(over)) / processes  # (C,)
        centred = x.float() - mean.view(shape)  # (B, C, ...)
        variance = _sum_over_processes(centred.square().mean(over)) / processes  # (C,)
        self._update_running_statistics(mean.detach(), variance.detach(), samples=processes * x.numel() // x.shape[1])
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        return (normalised * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _update_running_statistics(self, mean: Tensor, variance: Tensor, samples: int) -> None:
        """As torch does, with the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * samples / (samples - 1), self.momentum)


def synchronise(model: nn.Module, device: torch.device) -> nn.Module:
    """Make every batch normalisation of the model work over all processes; parameters and their names are kept."""
    if device.type == "cuda":
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = SyncBatchNorm  # keeps parameters, buffers and options; only `forward` changes
    return model


class _Sum(torch.autograd.Function):
    """Sum over the processes. Its gradient is summed too, because every process's loss depends on every summand."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:  # noqa: ARG004
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _sum_over_processes(part: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(part))
