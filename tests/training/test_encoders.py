"""Encoders: sizes, shapes, weights, wrapping."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import ClassVar, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.resnet import resnet50
from torchvision.models.vgg import cfgs, make_layers

from sal360.errors import CheckpointError, ParameterError
from training.models.base_encoder import Encoder
from training.models.contrastive import ContrastiveConfig, ContrastiveModel
from training.models.encoders import ENCODERS, EncoderKind, EncoderName, build_encoder
from training.models.layers import normalise
from training.models.saliency_model import SaliencyModel, SaliencyModelConfig


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(request.param, circular=True).eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("name", "millions"), [("vgg16", 14.71), ("resnet50", 9.33)])
def test_parameters_are_those_of_the_paper(name: str, millions: float) -> None:
    assert round(count(build_encoder(name)) / 1e6, 2) == millions


def test_resnet50_body_and_gamma_have_the_papers_parameters() -> None:
    conv5_x = resnet50(weights=None).layer4
    assert round((count(build_encoder("resnet50")) + count(conv5_x)) / 1e6, 2) == 24.30


def test_a_panorama_of_the_papers_size_becomes_its_latent(encoder: Encoder) -> None:
    x = torch.randn(1, 3, 160, 320)
    with torch.no_grad():
        latent, pyramid = encoder(x), encoder.pyramid(x)
    assert latent.shape == (1, 512, 10, 20)
    assert (encoder.stride, encoder.latent_channels) == (16, 512)
    assert {stride: level.shape for stride, level in pyramid.items()} == {
        stride: (1, channels, 160 // stride, 320 // stride) for stride, channels in encoder.pyramid_channels.items()
    }
    assert 0.01 < latent.std() < 1000  # random weights neither vanish nor explode on the way


def test_turning_a_panorama_turns_the_latent(encoder: Encoder) -> None:
    x = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        turned, latent = encoder(x.roll(32, dims=-1)), encoder(x)
    torch.testing.assert_close(turned, latent.roll(2, dims=-1), rtol=1e-4, atol=1e-4 * float(latent.abs().max()))


@pytest.mark.parametrize("name", ENCODERS)
def test_weights_fit_with_and_without_wrapping(name: str) -> None:
    wrapped, plain = build_encoder(name, circular=True).eval(), build_encoder(name, circular=False).eval()
    plain.load_state_dict(wrapped.state_dict())
    x = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        assert not torch.allclose(wrapped(x), plain(x))  # the seam differs


def test_every_parameter_of_an_encoder_is_trained_through_its_latent(encoder: Encoder) -> None:
    encoder(torch.randn(1, 3, 64, 128)).square().sum().backward()
    without = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    encoder.zero_grad(set_to_none=True)
    assert without == []


def test_normalise_takes_bytes_and_floats() -> None:
    rgb = torch.randint(0, 256, (2, 3, 4, 8), dtype=torch.uint8)
    expected = torch.empty(2, 3, 4, 8)
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        expected[:, channel] = (rgb[:, channel] / 255 - mean) / std
    torch.testing.assert_close(normalise(rgb), expected)
    torch.testing.assert_close(normalise(rgb / 255), expected)
    assert normalise((rgb / 255).to(torch.bfloat16)).dtype == torch.bfloat16


def test_pretrained_compact_is_the_same_every_time() -> None:
    first, second = (build_encoder("compact", pretrained=True).state_dict() for _ in range(2))
    body = [name for name in first if name.startswith(("stem", "stages"))]
    assert len(body) > 50
    assert all(torch.equal(first[name], second[name]) for name in body)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_vgg16_starts_from_a_local_file(tmp_path: Path, suffix: str) -> None:
    whole = {f"features.{name}": tensor for name, tensor in make_layers(cfgs["D"]).state_dict().items()}
    whole["classifier.6.bias"] = torch.zeros(1000)  # tensors that an encoder does not need are ignored
    path = tmp_path / f"vgg16{suffix}"
    torch.save(whole, path) if suffix == ".pth" else save_file(whole, path)
    encoder = build_encoder("vgg16", pretrained=True, weights_file=str(path))
    assert torch.equal(encoder.state_dict()["blocks.0.0.weight"], whole["features.0.weight"])
    assert torch.equal(encoder.state_dict()["blocks.4.28.bias"], whole["features.28.bias"])


def test_resnet50_starts_from_a_local_file(tmp_path: Path) -> None:
    body = resnet50(weights=None)
    body.layer4 = body.fc = nn.Identity()
    nn.init.normal_(body.layer3[5].bn3.weight)
    path = tmp_path / "resnet50.pth"
    torch.save(body.state_dict(), path)
    encoder = build_encoder("resnet50", pretrained=True, weights_file=str(path))
    assert torch.equal(encoder.state_dict()["blocks.3.5.bn3.weight"], body.layer3[5].bn3.weight)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"conv1\.weight is missing"):
        build_encoder("resnet50", pretrained=True, weights_file=str(path))
    with pytest.raises(CheckpointError, match=r"features\.0\.bias is missing"):
        build_encoder("vgg16", pretrained=True, weights_file=str(path))


@pytest.mark.parametrize("content", [b"", b"not a file of weights", pickle.dumps({"a": Path})])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_not_weights_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="broken"):
        build_encoder("vgg16", pretrained=True, weights_file=str(path))


def test_a_missing_file_of_weights_never_starts_from_random_ones(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pth"):
        build_encoder("vgg16", pretrained=True, weights_file=str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize(
    ("name", "pretrained", "weights_file"),
    [
        ("mobilenet", False, ""),
        ("resnet50", True, ""),
        ("vgg16", True, ""),
        ("resnet50", False, "weights.pth"),
        ("compact", True, "weights.pth"),
    ],
)
def test_options_that_do_not_go_together_are_refused(name: str, pretrained: bool, weights_file: str) -> None:
    with pytest.raises(ParameterError):
        build_encoder(name, pretrained=pretrained, weights_file=weights_file)


def test_the_table_of_encoders_has_what_settings_can_name():
    assert tuple(ENCODERS) == get_args(get_args(EncoderName)[0])


class Plain(Encoder):
    """The least that an encoder needs: one convolution of every fourth pixel."""

    pyramid_channels: ClassVar[dict[int, int]] = {4: 512, 16: 512}

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 512, 4, stride=4), nn.Conv2d(512, 512, 4, stride=4)

    def pyramid(self, x: Tensor) -> dict[int, Tensor]:
        fine = self.first(x)
        return {4: fine, 16: self.second(fine)}

    def forward(self, x: Tensor) -> Tensor:
        return self.pyramid(x)[16]

    def global_reduction(self, latent_height: int) -> tuple[nn.Module, int]:  # noqa: ARG002
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 512


class Skipping(Plain):
    """One whose features serve the separable decoder."""

    skip_strides: ClassVar[tuple[int, ...]] = (4,)

    def leave_out_beyond(self, stride: int) -> None:
        assert stride == 4
        self.second.requires_grad_(False)


@pytest.fixture
def more_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table with two more rows, as a contributor would add them."""
    monkeypatch.setitem(ENCODERS, "plain", EncoderKind(Plain, "none", "one convolution"))
    monkeypatch.setitem(ENCODERS, "skipping", EncoderKind(Skipping, "none", "one convolution"))


@pytest.mark.usefixtures("more_encoders")
def test_a_class_and_a_row_are_a_whole_encoder() -> None:
    frames = torch.rand(2, 3, 64, 128)
    contrastive = ContrastiveModel(ContrastiveConfig(encoder="plain", height=64))
    assert contrastive(frames, frames).global_embedding.shape == (2, 512)
    paper = SaliencyModel(SaliencyModelConfig(encoder="plain", decoder="paper", input_height=64))
    assert paper(frames).shape == (2, 64, 128)
    paper.freeze("early")
    assert not any(each.requires_grad for each in paper.encoder.parameters())
    separable = SaliencyModel(SaliencyModelConfig(encoder="skipping", strides=(4,), input_height=64))
    assert separable(frames).shape == (2, 16, 32)


@pytest.mark.usefixtures("more_encoders")
def test_options_that_an_encoder_lacks_are_refused_by_name() -> None:
    for encoder in ("vgg16", "resnet50", "plain"):
        with pytest.raises(ParameterError, match=f"expected the decoder paper for the encoder {encoder};"):
            SaliencyModelConfig(encoder=encoder)
        with pytest.raises(ParameterError, match=f"expected smooth_columns none for the encoder {encoder};"):
            SaliencyModelConfig(encoder=encoder, decoder="paper", smooth_columns="input")
    with pytest.raises(ParameterError, match=r"strides is \(4, 8\); expected a gapless chain out of 4;"):
        SaliencyModelConfig(encoder="skipping", strides=(4, 8))
    with pytest.raises(ParameterError, match="smooth_columns is 'input', which plain cannot do; set it to none"):
        build_encoder("plain", smooth_columns="input")


@pytest.mark.usefixtures("more_encoders")
@pytest.mark.parametrize(
    ("name", "pretrained", "weights_file", "remedy"),
    [
        ("vgg16", True, "", "set --model.weights_file to torchvision's ImageNet weights of this encoder"),
        ("vgg16", False, "a.pth", "set --model.pretrained true, or leave --model.weights_file empty"),
        ("compact", True, "a.pth", "leave --model.weights_file empty: the ImageNet weights of compact come with a"),
        ("plain", True, "", "set --model.pretrained false and leave --model.weights_file empty: plain has no ImageNet"),
        ("plain", False, "a.pth", "set --model.pretrained false and leave --model.weights_file empty: plain has no"),
    ],
)
def test_the_remedy_for_imagenet_weights_is_one_that_this_encoder_has(
    name: str, pretrained: bool, weights_file: str, remedy: str
) -> None:
    with pytest.raises(ParameterError, match=f"; {remedy}"):
        build_encoder(name, pretrained=pretrained, weights_file=weights_file)


def test_an_encoder_that_is_in_no_table_is_refused():
    with pytest.raises(
        ParameterError, match=rf"there is no encoder 'vgg19'; choose one of {', '.join(ENCODERS)}, or timm:"
    ):
        build_encoder("vgg19")
    with pytest.raises(ParameterError, match="vgg19"):
        ContrastiveModel(ContrastiveConfig(encoder="vgg19"))
