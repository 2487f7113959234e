"""SalGAN's published parameters become a file from which VGG16 starts."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torchvision.models.vgg import cfgs

from sal360.errors import CheckpointError, ParameterError, one_line_errors
from training import convert_salgan
from training.checkpoint import origin_of_file
from training.data.gaze.datasets import GazeConfig
from training.loop import LoopConfig
from training.models.encoders import build_encoder
from training.models.layers import normalise
from training.models.saliency_model import SaliencyModel, SaliencyModelConfig
from training.train_decoder import TrainDecoderConfig


def parameters() -> list[np.ndarray]:
    """Those of the encoder, random, and the first of a decoder."""
    generator, found, inputs = np.random.default_rng(0), [], 3
    for outputs in cfgs["D"]:
        if outputs != "M":
            found += [generator.normal(0, 0.05, (outputs, inputs, 3, 3)), generator.normal(0, 0.1, outputs)]
            inputs = outputs
    return [each.astype(np.float32) for each in (*found, np.zeros((512, 512, 3, 3)))]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("salgan")
    np.savez(folder / "gen.npz", *parameters())
    with pytest.MonkeyPatch.context() as patch:
        options = ["--weights", str(folder / "gen.npz"), "--output", str(folder / "vgg16.safetensors")]
        patch.setattr(sys, "argv", ["convert_salgan", *options])
        assert one_line_errors(convert_salgan.main) == 0
    return folder / "vgg16.safetensors"


def test_the_first_layer_sees_of_normalised_rgb_what_salgan_sees_of_bgr(converted: Path) -> None:
    tensors = load_file(converted)
    weight, bias = (torch.from_numpy(each) for each in parameters()[:2])
    picture = torch.randint(0, 256, (1, 3, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    bgr = picture.flip(1).float() - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    expected = functional.conv2d(bgr, weight, bias)  # without padding
    found = functional.conv2d(normalise(picture), tensors["features.0.weight"], tensors["features.0.bias"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_vgg16_starts_from_the_file_in_pretraining_and_under_the_papers_decoder(converted: Path) -> None:
    tensors = load_file(converted)
    encoder = build_encoder("vgg16", pretrained=True, weights_file=str(converted))
    config = SaliencyModelConfig(encoder="vgg16", decoder="paper", input_height=64, circular=False)
    saliency = SaliencyModel(config, weights_file=str(converted))
    for model in (encoder, saliency.encoder):
        found = [each for each in model.state_dict().values() if each.ndim == 4]
        expected = [each for name, each in sorted(tensors.items(), key=lambda item: int(item[0].split(".")[1]))]
        for one, other in zip(found, [each for each in expected if each.ndim == 4], strict=True):
            assert torch.equal(one, other)


def test_parameters_of_another_network_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^array 2 of x is \(128, 64, 3, 3\); .*expected \(64, 64, 3, 3\)"):
        convert_salgan.convert([*parameters()[:2], *parameters()[4:]], "x")
    with pytest.raises(CheckpointError, match="array 4 of x is missing"):
        convert_salgan.convert(parameters()[:4], "x")


def test_a_start_from_a_file_is_an_option_of_decoder_training() -> None:
    config = TrainDecoderConfig(
        loop=LoopConfig("run", steps=1),
        data=GazeConfig("root", dataset="salient360"),
        model=SaliencyModelConfig(encoder="resnet50", decoder="paper"),
        weights_file="resnet50.pth",
    )
    assert config.weights_file
    with pytest.raises(ParameterError, match="at most one of the three"):
        dataclasses.replace(config, encoder_weights="runs/a")
    with pytest.raises(ParameterError, match="a weights_file only for vgg16, resnet50"):
        dataclasses.replace(config, model=SaliencyModelConfig())
    with pytest.raises(ParameterError, match="a weights_file, or imagenet false"):
        dataclasses.replace(config, weights_file="")


def test_the_file_says_whose_weights_it_holds(converted: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "weights.safetensors"
    renamed.write_bytes(converted.read_bytes())
    assert origin_of_file(renamed).data.startswith("SalGAN")
    save_file({"features.0.bias": torch.zeros(64)}, renamed)
    assert origin_of_file(renamed) == ("weights of weights.safetensors", "none stated")
    assert origin_of_file("runs/vgg16.pth") == ("weights of vgg16.pth", "none stated")
