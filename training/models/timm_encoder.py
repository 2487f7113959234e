"""Backbones of the package timm as encoders: convolutional networks and vision transformers, by their names there.

    --model.encoder timm:convnext_tiny
    --model.encoder timm:vit_small_patch14_dinov2

The network is that of timm, without its classifier. Of strides 4, 8, 16 and 32, those that it lacks are interpolated
or averaged from the nearest one. A vision transformer with patches of p pixels sees the panorama at p/16 of its size,
so that its tokens lie at stride 16. The latent, 512 channels at stride 16, is a projection of the features at strides
16 and 32.

Convolutions and poolings wrap around the seam like those of the other encoders. Position embeddings, windows of
attention and layers that compute their padding while they run do not: `not_circular` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sal360.errors import ParameterError
from training.models.base_encoder import Encoder, load_part
from training.models.decoders import upsample_circular
from training.models.layers import IMAGENET_MEAN, IMAGENET_STD, WrappedConv2d, WrappedMaxPool2d, wrap_columns

PREFIX = "timm:"
_STRIDES = (4, 8, 16, 32)
_PROBE = (64, 128)
"""Rows and columns of the picture on which a new encoder is tried: the smallest that pretraining takes."""


class TimmEncoder(Encoder):
    """A backbone of timm.

    Parameters that neither latent nor pyramid depend on, such as those of a classifier's norm, are frozen.

    Args:
        name: "timm:" and the name of a model in timm.
        weights: its state dict, with the names that timm gives; None starts from random weights.

    Raises:
        ImportError: timm is not installed.
        ParameterError: timm has no such model, or its features cannot be used.
        CheckpointError: the weights belong to another network.
    """

    pyramid_channels: dict[int, int]  # type: ignore[misc]  # of the network, not of the class
    skip_strides: ClassVar[tuple[int, ...]] = _STRIDES

    scale: Tensor
    shift: Tensor

    def __init__(self, name: str, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.backbone = _create(name)
        if weights is not None:
            load_part(self.backbone, weights)
        self._patch = 0
        self._found = self._strides_of_features(name)
        self._deepest = max(_STRIDES)
        self.pyramid_channels = {stride: self._found[_nearest(self._found, stride)][1] for stride in _STRIDES}
        coarse = self.pyramid_channels[32] if 32 in self._found else 0
        self.latent = nn.Sequential(nn.Conv2d(self.pyramid_channels[16] + coarse, self.latent_channels, 1), nn.ReLU())
        nn.init.kaiming_normal_(cast(nn.Conv2d, self.latent[0]).weight)
        for buffer, value in zip(("scale", "shift"), _renormalisation(self.backbone), strict=True):
            self.register_buffer(buffer, value, persistent=False)
        self._require_features(name)
        self._freeze_unused(self)

    def _strides_of_features(self, name: str) -> dict[int, tuple[int, int]]:
        """Index and channels of the last features at each stride, which see most."""
        infos = cast(Sequence[Mapping[str, Any]], self.backbone.feature_info)
        found = {int(each["reduction"]): (index, int(each["num_chs"])) for index, each in enumerate(infos)}
        if len(found) == 1:  # a vision transformer
            ((self._patch, features),) = found.items()
            return {16: features}
        usable = {stride: found[stride] for stride in _STRIDES if stride in found}
        if not usable:
            raise _unusable(name, f"its features are at the strides {', '.join(map(str, found))}")
        return usable

    def pyramid(self, x: Tensor) -> dict[int, Tensor]:
        """Features by stride s of 4, 8, 16 and 32, each (B, pyramid_channels[s], H/s, W/s).

        After `leave_out_beyond`, without the strides that were left out.

        Args:
            x: (B, 3, H, W) RGB, normalised by the ImageNet mean and deviation.
        """
        features = self._features(x, self._deepest)
        return {stride: _level(features, stride) for stride in _STRIDES if stride <= self._deepest}

    def forward(self, x: Tensor) -> Tensor:
        """The latent (B, 512, H/16, W/16) of normalised pictures (B, 3, H, W)."""
        features = self._features(x, 32)
        parts = [_level(features, 16)]
        if 32 in features:
            parts.append(F.interpolate(features[32], scale_factor=2.0, mode="nearest"))
        return cast(Tensor, self.latent(torch.cat(parts, dim=1)))

    def _features(self, x: Tensor, deepest: int) -> dict[int, Tensor]:
        """The network's own features up to a stride, by stride; at least those of its smallest stride."""
        strides = [each for each in self._found if each <= max(deepest, min(self._found))]
        x = x * self.scale + self.shift
        if self._patch not in (0, 16):
            x = _zoomed(x, self._patch)
        options = {"norm": True} if self._patch else {}
        outputs = cast(Any, self.backbone).forward_intermediates(
            x,
            indices=[self._found[each][0] for each in strides],
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
            **options,
        )
        return dict(zip(strides, outputs, strict=True))

    def global_reduction(self, latent_height: int) -> tuple[nn.Module, int]:  # noqa: ARG002
        """The mean over locations, (B, 512, h, 2h) → (B, 512), and the number of its features."""
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), self.latent_channels

    def leave_out_beyond(self, stride: int) -> None:
        """Freeze what features up to `stride` do not need, and compute no features beyond it."""
        self._deepest = stride
        self._freeze_unused(lambda x: torch.cat([each.flatten() for each in self.pyramid(x).values()]))

    def not_circular(self) -> list[str]:
        """The kinds of parts that tell the left edge of a panorama from the right one even if convolutions wrap."""
        kinds = {
            type(layer).__name__
            for layer in self.backbone.modules()
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
            and type(layer) not in (nn.Conv2d, nn.MaxPool2d, WrappedConv2d, WrappedMaxPool2d)
            and (_columns(layer.padding) or type(layer).__name__.endswith("Same"))
        }
        parameters = [name for name, _ in self.backbone.named_parameters()]
        if any("pos_embed" in name or "relative_position" in name for name in parameters):
            kinds.add("position embeddings")
        return sorted(kinds)

    def _require_features(self, name: str) -> None:
        """Refuse a network whose features are not what timm says, or that takes pictures of one size only."""
        self.eval()
        try:
            with torch.no_grad():
                features = self._features(torch.zeros(1, 3, *_PROBE), 32)
            found = {stride: tuple(each.shape[1:]) for stride, each in features.items()}
        except Exception as error:  # of any network's code
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise _unusable(name, f"it does not take a picture of {_PROBE[1]} x {_PROBE[0]} ({reason})") from error
        self.train()
        expected = {
            stride: (channels, *(side // stride for side in _PROBE)) for stride, (_, channels) in self._found.items()
        }
        if found != expected:
            raise _unusable(name, f"its features have the shapes {found} instead of {expected}")

    def _freeze_unused(self, compute: Callable[[Tensor], Tensor]) -> None:
        """Freeze the parameters that a result does not depend on: several processes wait for the gradients of all."""
        trained = [each for each in self.parameters() if each.requires_grad]
        mode = self.training
        self.eval()  # statistics of batches stay as they are
        with torch.enable_grad():
            result = compute(torch.zeros(1, 3, *_PROBE)).sum()
            gradients = torch.autograd.grad(result, trained, allow_unused=True)
        self.train(mode)
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)


def _create(name: str) -> nn.Module:
    import timm  # optional

    model = name.removeprefix(PREFIX)
    if not timm.is_model(model):
        raise ParameterError(f"timm {timm.__version__} has no model {model!r}", "choose one of timm.list_models()")
    # transformers take pictures of other sizes only on request; other networks do not know the options
    for options in ({"dynamic_img_size": True}, {"strict_img_size": False}, {}):
        try:
            created = cast(nn.Module, timm.create_model(model, pretrained=False, num_classes=0, **options))
        except TypeError:
            continue
        break
    else:
        raise _unusable(name, "it needs more options than its name")
    if not hasattr(created, "forward_intermediates") or not hasattr(created, "feature_info"):
        raise _unusable(name, "it does not give the features inside it")
    for layer in created.modules():
        if isinstance(layer, nn.Conv2d) and isinstance(layer.padding, str):
            layer.padding = _in_pixels(layer)
    return created


def _in_pixels(layer: nn.Conv2d) -> tuple[int, ...]:
    """The padding of a convolution that has it by name: "valid", or "same" with odd kernels."""
    if layer.padding == "valid":
        return 0, 0
    return tuple(dilation * (size - 1) // 2 for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True))


def _unusable(name: str, found: str) -> ParameterError:
    return ParameterError(f"{name} cannot be an encoder: {found}", "choose another model, such as timm:convnext_tiny")


def _renormalisation(backbone: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift (1, 3, 1, 1) from ImageNet's normalisation, which all encoders expect, to the network's."""
    config = getattr(backbone, "pretrained_cfg", None) or {}
    own_mean, own_std = config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
    mean, std, own_mean, own_std = (
        torch.tensor(each, dtype=torch.float64).view(1, 3, 1, 1)
        for each in (IMAGENET_MEAN, IMAGENET_STD, own_mean, own_std)
    )
    return (std / own_std).float(), ((mean - own_mean) / own_std).float()


def _zoomed(x: Tensor, patch: int) -> Tensor:
    """Panoramas (B, 3, H, W) at patch/16 of their size, across the seam."""
    wrapped = wrap_columns(x, 16, 16)
    size = [side * patch // 16 for side in wrapped.shape[2:]]
    zoomed = F.interpolate(wrapped, size=size, mode="bilinear", align_corners=False, antialias=patch < 16)
    return zoomed[..., patch:-patch]


def _nearest(strides: Iterable[int], stride: int) -> int:
    """The stride from which features at `stride` are made; of two that are as near, the smaller one."""
    return min(sorted(strides), key=lambda each: abs(each.bit_length() - stride.bit_length()))


def _level(features: Mapping[int, Tensor], stride: int) -> Tensor:
    """Features at a stride, made from those of the nearest one."""
    at = _nearest(features, stride)
    level = features[at]
    while at > stride:
        level, at = upsample_circular(level), at // 2
    return F.avg_pool2d(level, stride // at) if stride > at else level


def _columns(padding: int | str | tuple[int, ...]) -> int:
    return padding[-1] if isinstance(padding, tuple) else int(padding)
