r"""Convert the encoder of SalGAN into a file from which VGG16 starts, as the paper's does (supplementary, A.1).

    python -m training.convert_salgan --weights gen_modelWeights0090.npz --output salgan_vgg16.safetensors
    python -m training.pretrain --model.encoder vgg16 --model.pretrained true \
        --model.weights_file salgan_vgg16.safetensors …
    python -m training.train_decoder --model.encoder vgg16 --weights_file salgan_vgg16.safetensors …

SalGAN (Pan et al., 2017) is published as the parameters of a Lasagne network in their order, arr_0, arr_1, … of a NumPy
file: weights (out, in, 3, 3), not flipped, and biases (out,) of the 13 convolutions of VGG16, then those of a decoder,
which are left out. It takes BGR from 0 to 255 without their mean; the encoders here take RGB normalised by ImageNet's
mean and deviation. The first convolution makes up for the difference, exactly except at the picture's padded border.

The file has the names of torchvision's VGG16, `features.0.weight`, `features.0.bias`, `features.2.weight` and so on, in
float32, and says in its metadata that they are SalGAN's. Weights of any other network of this shape can be used in such
a file, .safetensors or a torch state dict.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torchvision.models.vgg import cfgs

from sal360.arrays import Floats
from sal360.errors import CheckpointError, one_line_errors, printable
from sal360.files import written_beside
from training.checkpoint import ORIGIN_KEY, Origin
from training.config import read_config, require_path
from training.models.layers import IMAGENET_MEAN, IMAGENET_STD

_MEAN_BGR = (103.939, 116.779, 123.68)
"""What SalGAN subtracts from its input."""
_ORIGIN = Origin("SalGAN (Pan et al., 2017), gaze on photographs", "terms of its authors")


@dataclass(frozen=True)
class ConvertSalganConfig:
    """The published file, and the one to write."""

    weights: str
    """SalGAN's generator, .npz."""
    output: str
    """File to write, .safetensors."""

    def __post_init__(self) -> None:
        require_path("weights", self.weights, "an .npz file")
        require_path("output", self.output, "a .safetensors file")


def convert(parameters: list[Floats], source: str) -> dict[str, Tensor]:
    """A state dict of torchvision's VGG16, without its classifier, from SalGAN's parameters in their order.

    Args:
        parameters: at least 26 arrays.
        source: the file, for errors.

    Raises:
        CheckpointError: they are not those of VGG16's 13 convolutions.
    """
    tensors: dict[str, Tensor] = {}
    inputs, layer, number = 3, 0, 0
    for outputs in cfgs["D"]:
        if outputs == "M":
            layer += 1
            continue
        for kind, shape in (("weight", (int(outputs), inputs, 3, 3)), ("bias", (int(outputs),))):
            found = parameters[number].shape if number < len(parameters) else "missing"
            if found != shape:
                raise CheckpointError(
                    f"array {number} of {source} is {found}", "give the generator of SalGAN", expected=str(shape)
                )
            tensors[f"features.{layer}.{kind}"] = torch.from_numpy(np.ascontiguousarray(parameters[number], np.float32))
            number += 1
        inputs, layer = int(outputs), layer + 2  # a ReLU follows
    return tensors | _for_normalised_rgb(tensors["features.0.weight"], tensors["features.0.bias"])


def _for_normalised_rgb(weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """The first convolution, for BGR from 0 to 255 without their mean, as one for normalised RGB."""
    rgb = weight.double().flip(1)  # (out, 3, 3, 3)
    scale = 255 * torch.tensor(IMAGENET_STD, dtype=torch.float64)
    offset = 255 * torch.tensor(IMAGENET_MEAN, dtype=torch.float64) - torch.tensor(_MEAN_BGR[::-1], dtype=torch.float64)
    return {
        "features.0.weight": (rgb * scale[:, None, None]).float(),
        "features.0.bias": (bias.double() + (rgb.sum(dim=(2, 3)) * offset).sum(dim=1)).float(),
    }


def convert_file(config: ConvertSalganConfig) -> None:
    """Read the published file and write the converted one.

    Raises:
        CheckpointError: the file is missing, or does not hold the parameters of SalGAN.
        OSError: the result cannot be written.
    """
    if not Path(config.weights).is_file():
        raise CheckpointError(f"there is no file {config.weights}", "correct --weights")
    try:
        with open(config.weights, "rb") as file, np.load(file) as archive:
            parameters = [archive[f"arr_{number}"] for number in range(len(archive.files))]
    except Exception as error:  # numpy passes on exceptions of zip, zlib, its header parser and its own
        raise CheckpointError(f"{config.weights} cannot be read ({error})", "copy it again") from None
    tensors = convert(parameters, config.weights)
    with written_beside(config.output) as temporary:
        temporary.write_bytes(save(tensors, {ORIGIN_KEY: json.dumps(_ORIGIN)}))
    print(printable(f"wrote {config.output}: {len(tensors)} tensors"))


def main() -> None:
    """The command `python -m training.convert_salgan`."""
    convert_file(read_config(ConvertSalganConfig, "Convert the encoder of SalGAN for VGG16."))


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
