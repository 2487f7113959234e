"""Decoders: features of a panorama in, log-density out.

`SeparableDecoder` is the bundled model's: a feature pyramid (Lin et al., CVPR 2017) of depthwise-separable
convolutions. `PaperDecoder` is the paper's (section 3.3; 6.45 M parameters).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from training.models.compact import CircularConv2d
from training.models.longitude import wrap_columns


class SeparableConv(nn.Module):
    """Depthwise 3x3 around the sphere, pointwise 1x1, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.depthwise = CircularConv2d(in_channels, in_channels, kernel, groups=in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) → (B, out_channels, h, w)."""
        return F.relu(self.pointwise(self.depthwise(x)))


def upsample_circular(x: Tensor) -> Tensor:
    """Twice the size, bilinear, with columns that wrap: (B, C, h, w) → (B, C, 2h, 2w)."""
    x = wrap_columns(x, 1, 1)  # (B, C, h, w + 2)
    x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
    return x[..., 2:-2]  # without the two columns that each neighbour became


class SeparableDecoder(nn.Module):
    """From the coarsest stride down, each level adds its lateral to the upsampled sum of those above.

    Args:
        pyramid_channels: channels of the encoder's features by stride.
        strides: the levels that are used, a gapless chain of factors of two; the smallest is the map's stride.
        channels: of every level.
    """

    def __init__(self, pyramid_channels: Mapping[int, int], strides: Sequence[int], channels: int) -> None:
        super().__init__()
        self.feature_channels = channels
        self.strides = sorted(strides, reverse=True)
        self.laterals = nn.ModuleList(nn.Conv2d(pyramid_channels[stride], channels, 1) for stride in self.strides)
        self.smooths = nn.ModuleList(SeparableConv(channels, channels, 5) for _ in self.strides)
        self.head = nn.Conv2d(channels, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # every convolution here has a bias
        nn.init.normal_(self.head.weight, std=0.01)  # an untrained model says "uniform"

    def forward(self, pyramid: Mapping[int, Tensor]) -> Tensor:
        """Features by stride → log-density up to a constant, (B, h, w) at the smallest stride."""
        return self.read_out(self.features(pyramid))

    def features(self, pyramid: Mapping[int, Tensor]) -> Tensor:
        """Features by stride → the last features before the map, (B, channels, h, w) at the smallest stride."""
        x: Tensor | None = None
        for stride, lateral, smooth in zip(self.strides, self.laterals, self.smooths, strict=True):
            level = lateral(pyramid[stride])  # (B, channels, H / stride, W / stride)
            x = smooth(level if x is None else level + upsample_circular(x))
        assert x is not None  # there is at least one stride
        return x

    def read_out(self, features: Tensor) -> Tensor:
        """Last features (B, channels, h, w) → log-density up to a constant, (B, h, w)."""
        logits: Tensor = self.head(features).squeeze(1)  # (B, h, w)
        return logits


class PaperDecoder(nn.Module):
    """The paper's decoder (supplementary; Xavier weights, bias .01): 512 x 10 x 20 latent → 160 x 320 map.

    The last sigmoid is left out: under the softmax over the sphere that turns the map into a density, log-sigmoid of
    the same value gives the paper's map up to its normalisation.

    Args:
        in_channels: of the latent.
        circular: wrap the columns; the paper pads zeros.
    """

    def __init__(self, in_channels: int = 512, *, circular: bool = True) -> None:
        super().__init__()
        up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        layers: list[nn.Module] = []
        channels = in_channels
        for out_channels, grow in ((512, 1), (512, 1), (256, 1), (128, 0), (128, 1), (64, 0), (64, 0)):
            layers += [CircularConv2d(channels, out_channels, 3, circular=circular), nn.ReLU()] + [up] * grow
            channels = out_channels
        layers.append(nn.Conv2d(channels, 1, 1))
        self.feature_channels = channels
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.constant_(module.bias, 0.01)  # type: ignore[arg-type]  # every convolution here has a bias

    def forward(self, latent: Tensor) -> Tensor:
        """(B, in_channels, h, w) → log-density up to a constant, (B, 16 h, 16 w)."""
        return self.read_out(self.features(latent))

    def features(self, latent: Tensor) -> Tensor:
        """(B, in_channels, h, w) → the last features before the map, (B, 64, 16 h, 16 w)."""
        features: Tensor = self.layers[:-1](latent)
        return features

    def read_out(self, features: Tensor) -> Tensor:
        """Last features (B, 64, h, w) → log-density up to a constant, (B, h, w)."""
        return F.logsigmoid(self.layers[-1](features).squeeze(1))  # (B, h, w)
