"""The base class of every encoder f_θ, with the usual defaults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias

from torch import Tensor, nn

from sal360.errors import CheckpointError

SmoothColumns: TypeAlias = Literal["none", "input", "strides"]
"""Where columns are averaged with their neighbours: nowhere, before the first stride, before every stride."""


class Encoder(nn.Module, ABC):
    """A network from normalised panoramas to a latent, and to features at several strides."""

    stride: ClassVar[int] = 16
    """Rows of the panorama per row of the latent."""
    latent_channels: ClassVar[int] = 512
    """Channels of the latent."""
    pyramid_channels: ClassVar[dict[int, int]]
    """Channels of the features by stride."""
    skip_strides: ClassVar[tuple[int, ...]] = ()
    """Strides that the separable decoder may take from `pyramid`; none: only the paper's decoder fits."""
    smooths_columns: ClassVar[bool] = False
    """Whether the class takes `smooth_columns`."""

    @abstractmethod
    def pyramid(self, x: Tensor) -> dict[int, Tensor]:
        """Features by stride s, each (B, pyramid_channels[s], H/s, W/s).

        Args:
            x: (B, 3, H, W) RGB, normalised by the ImageNet mean and deviation.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The latent (B, latent_channels, H/stride, W/stride) of normalised pictures (B, 3, H, W)."""

    @abstractmethod
    def global_reduction(self, latent_height: int) -> tuple[nn.Module, int]:
        """The reduction of Σ for latents of a height, (B, latent_channels, h, 2h) → (B, features), and features."""

    def early_parts(self) -> list[nn.Module]:
        """The parts up to stride 4, which `frozen: early` keeps from learning; by default the whole encoder."""
        return [self]

    def leave_out_beyond(self, stride: int) -> None:
        """Freeze what features up to `stride` do not need; only encoders with `skip_strides` have this method.

        With several processes, every parameter that is trained needs a gradient.
        """
        raise NotImplementedError(f"{type(self).__name__} leaves nothing out beyond stride {stride}")


def load_part(module: nn.Module, weights: Mapping[str, Tensor], *, prefix: str = "") -> None:
    """Load the part of a whole network's weights that `module` needs.

    Raises:
        CheckpointError: a weight is missing or has another shape.
    """
    wanted = module.state_dict()
    for key, tensor in wanted.items():
        given = weights.get(prefix + key)
        if given is None and key.endswith("num_batches_tracked"):  # old checkpoints do not have it
            continue
        if given is None or given.shape != tensor.shape:
            found = "is missing" if given is None else f"has the shape {tuple(given.shape)}"
            raise CheckpointError(
                f"{prefix + key} {found} in the weights",
                "set --model.weights_file to the weights of this encoder",
                expected=f"a tensor of shape {tuple(tensor.shape)}",
            )
    module.load_state_dict({key: weights.get(prefix + key, tensor) for key, tensor in wanted.items()})
