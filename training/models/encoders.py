"""The encoders f_θ: a normalised panorama in, a latent with 512 channels at stride 16 out.

VGG16 and ResNet50 are the paper's (supplementary, A.1 and A.2); `compact` is EfficientNet-Lite0, small enough for a
robot's CPU. All of them also return their features at every stride, for decoders with skip connections. Names that
begin with `timm:` are backbones of the package timm (`timm_encoder`).

To add an encoder: write a class that inherits `Encoder`, and add its row to `ENCODERS`.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import resnet50
from torchvision.models.vgg import cfgs, make_layers

from sal360.errors import CheckpointError, ParameterError
from training.config import is_first_process
from training.models.base_encoder import Encoder, SmoothColumns, load_part
from training.models.compact import CompactEncoder
from training.models.layers import wrap_longitude
from training.models.timm_encoder import PREFIX, TimmEncoder


class Vgg16Encoder(Encoder):
    """VGG16 up to the last ReLU of its fifth block, without that block's max pooling (supplementary, A.1).

    Args:
        weights: a torchvision state dict of VGG16; None starts from random weights.

    Raises:
        CheckpointError: the weights belong to another network.
    """

    pyramid_channels: ClassVar[dict[int, int]] = {1: 64, 2: 128, 4: 256, 8: 512, 16: 512}

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        features = make_layers(cfgs["D"])[:-1]
        initialise_he(features)
        if weights is not None:
            load_part(features, weights, prefix="features.")
        pools = [i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
        self.blocks = nn.ModuleList(features[a:b] for a, b in itertools.pairwise([0, *pools, len(features)]))

    def pyramid(self, x: Tensor) -> dict[int, Tensor]:
        """Features by stride s, each (B, pyramid_channels[s], H/s, W/s), of normalised pictures (B, 3, H, W)."""
        return _features_by_stride(x, self.blocks, self.pyramid_channels)

    def forward(self, x: Tensor) -> Tensor:
        """The latent (B, 512, H/16, W/16) of normalised pictures (B, 3, H, W)."""
        return self.pyramid(x)[16]

    def global_reduction(self, latent_height: int) -> tuple[nn.Module, int]:
        """The reduction of Σ for latents of a height, (B, 512, h, 2h) → (B, features), and its number of features."""
        reduction = nn.Sequential(
            nn.Conv2d(512, 512, 3, stride=2, padding=1, bias=False),  # (B, 512, 5, 10)
            nn.BatchNorm2d(512),
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1),  # (B, 512, 4, 9)
            nn.Flatten(),  # (B, 512 * 4 * 9)
        )
        initialise_he(reduction)
        half = (latent_height + 1) // 2
        return reduction, 512 * (half - 1) * (latent_height - 1)


class ResNet50Encoder(Encoder):
    """ResNet50 up to conv4_x, and Γ, which maps its 1024 channels to 512 (supplementary, A.2).

    Args:
        weights: a torchvision state dict of ResNet50, which does not contain Γ; None starts from random weights.

    Raises:
        CheckpointError: the weights belong to another network.
    """

    pyramid_channels: ClassVar[dict[int, int]] = {2: 64, 4: 256, 8: 512, 16: 1024}

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        body = resnet50(weights=None)
        body.layer4 = body.fc = nn.Identity()  # conv5_x belongs to the global module
        if weights is not None:
            load_part(body, weights)
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(body.conv1, body.bn1, body.relu),
                nn.Sequential(body.maxpool, body.layer1),  # conv2_x
                body.layer2,  # conv3_x
                body.layer3,  # conv4_x
            ]
        )
        self.gamma = channel_mapping(1024, self.latent_channels)

    def pyramid(self, x: Tensor) -> dict[int, Tensor]:
        """Features by stride s, each (B, pyramid_channels[s], H/s, W/s), of normalised pictures (B, 3, H, W)."""
        return _features_by_stride(x, self.blocks, self.pyramid_channels)

    def forward(self, x: Tensor) -> Tensor:
        """The latent (B, 512, H/16, W/16) of normalised pictures (B, 3, H, W)."""
        return cast(Tensor, self.gamma(self.pyramid(x)[16]))

    def global_reduction(self, latent_height: int) -> tuple[nn.Module, int]:  # noqa: ARG002
        """H, conv5_x and the mean over locations, (B, 512, h, 2h) → (B, 2048), and the number of features."""
        conv5_x = resnet50(weights=None).layer4
        return nn.Sequential(channel_mapping(512, 1024), conv5_x, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 2048


class EncoderKind(NamedTuple):
    """A row of `ENCODERS`."""

    build: type[Encoder]
    """The class of the encoder."""
    imagenet: Literal["package", "file", "none"]
    """Where its ImageNet weights come from, which decides what the class takes: those of a Python package, with
    `pretrained` and `circular`; those of a file, with a state dict or None; or there are none, without arguments."""
    summary: str
    """One-line description for help and docs."""

    @property
    def packaged(self) -> bool:
        """Whether its ImageNet weights come with a Python package."""
        return self.imagenet == "package"


ENCODERS = {
    "vgg16": EncoderKind(Vgg16Encoder, "file", "VGG16 up to its fifth block, as in the paper"),
    "resnet50": EncoderKind(ResNet50Encoder, "file", "ResNet50 up to conv4_x, as in the paper"),
    "compact": EncoderKind(CompactEncoder, "package", "EfficientNet-Lite0, small enough for a robot's CPU"),
}
"""Encoders by name."""

if not TYPE_CHECKING:  # noqa: SIM108  # mypy takes no conditional expression here
    EncoderName = Literal[tuple(ENCODERS)] | str  # jsonargparse shows it
else:
    EncoderName = str  # mypy knows no Literal of computed values

ENCODER_NAMES = f"one of {', '.join(ENCODERS)}, or {PREFIX}NAME with the name of a model in timm"
"""What settings that name an encoder expect."""


def is_encoder(name: str) -> bool:
    """Whether a name is one of an encoder; whether timm has it is found out when it is built."""
    return name in ENCODERS or (name.startswith(PREFIX) and name != PREFIX)


def encoder_kind(name: str) -> EncoderKind:
    """The row of an encoder for which `is_encoder`."""
    return ENCODERS.get(name) or EncoderKind(TimmEncoder, "file", f"{name.removeprefix(PREFIX)} of timm")


def build_encoder(
    name: EncoderName,
    *,
    pretrained: bool = False,
    circular: bool = False,
    weights_file: str = "",
    smooth_columns: SmoothColumns = "none",
) -> Encoder:
    """An encoder by its name.

    Args:
        name: a key of `ENCODERS`, or `timm:` and the name of a model in timm.
        pretrained: start from ImageNet weights instead of random ones: those of its package, or of `weights_file`,
            because nothing is downloaded.
        circular: pad all convolutions with columns from the other side of the seam instead of zeros.
        weights_file: a state dict of the whole network, .pth or .safetensors, with the names of torchvision or timm.
        smooth_columns: for encoders with `smooths_columns`.

    Raises:
        ParameterError: the name is unknown, or `name`, `pretrained`, `weights_file` and `smooth_columns` do not fit
            each other.
        CheckpointError: the weights are missing, unreadable or belong to another network.
        ImportError: the encoder is one of timm, which is not installed.
    """
    if not is_encoder(name):
        raise ParameterError(f"there is no encoder {name!r}", f"choose {ENCODER_NAMES}")
    kind = encoder_kind(name)
    if remedy := _weights_trouble(name, kind, pretrained, weights_file):
        found = f"the encoder is {name} with pretrained {str(pretrained).lower()} and weights_file {weights_file!r}"
        raise ParameterError(found, remedy)
    if smooth_columns != "none" and not kind.build.smooths_columns:
        raise ParameterError(f"smooth_columns is {smooth_columns!r}, which {name} cannot do", "set it to none")
    smoothing = {"smooth_columns": smooth_columns} if kind.build.smooths_columns else {}
    build: Callable[..., Encoder] = partial(TimmEncoder, name) if kind.build is TimmEncoder else kind.build
    if kind.imagenet == "package":
        encoder = build(pretrained=pretrained, circular=circular, **smoothing)
        if not pretrained:
            initialise_he(encoder)
        return encoder
    weights = [read_state_dict(Path(weights_file)) if weights_file else None] if kind.imagenet == "file" else []
    encoder = build(*weights, **smoothing)
    if circular:
        wrap_longitude(encoder)
        if isinstance(encoder, TimmEncoder) and (parts := encoder.not_circular()) and is_first_process():
            print(
                f"{name}: these parts are not circular in spite of --model.circular: {', '.join(parts)}",
                file=sys.stderr,
            )
    return encoder


def _weights_trouble(name: str, kind: EncoderKind, pretrained: bool, weights_file: str) -> str:
    """The remedy if `pretrained` and `weights_file` are not valid for this encoder; "" if they are."""
    if kind.imagenet == "file" and pretrained and not weights_file:
        of = "timm's" if kind.build is TimmEncoder else "torchvision's ImageNet"
        return f"set --model.weights_file to {of} weights of this encoder"
    if kind.imagenet == "file" and weights_file and not pretrained:
        return "set --model.pretrained true, or leave --model.weights_file empty"
    if kind.imagenet == "none" and (pretrained or weights_file):
        return f"set --model.pretrained false and leave --model.weights_file empty: {name} has no ImageNet weights"
    if kind.imagenet == "package" and weights_file:
        return f"leave --model.weights_file empty: the ImageNet weights of {name} come with a package"
    return ""


def channel_mapping(inputs: int, outputs: int) -> nn.Sequential:
    """Γ and H (supplementary, A.2): 1x1 convolution, BN, 1x1 convolution, BN, ReLU."""
    mapping = nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.Conv2d(outputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
    initialise_he(mapping)
    return mapping


def initialise_he(module: nn.Module) -> None:
    """He initialisation (normal, fan-out) of every Conv2d, biases zero, as in torchvision's ResNet and VGG."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a .safetensors file or a torch file that holds only a state dict.

    Raises:
        CheckpointError: the file is missing or does not hold a state dict.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}", "correct --model.weights_file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and safetensors raise different kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path} cannot be read ({reason})", "download or save it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} does not hold a state dict", "save model.state_dict() of the network there")
    return dict(state)


def _features_by_stride(x: Tensor, blocks: nn.ModuleList, strides: Mapping[int, int]) -> dict[int, Tensor]:
    features = {}
    for stride, block in zip(strides, blocks, strict=True):
        x = block(x)
        features[stride] = x
    return features
