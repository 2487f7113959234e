"""Backbones of timm as encoders: with stand-ins for its two kinds of networks, and with timm itself if it is there."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sal360.errors import CheckpointError, ParameterError, one_line_errors
from training.checkpoint import load_weights, save_checkpoint
from training.models.contrastive import ContrastiveConfig, ContrastiveModel
from training.models.encoders import build_encoder
from training.models.layers import normalise
from training.models.saliency_model import SaliencyModel, SaliencyModelConfig
from training.models.timm_encoder import TimmEncoder


class Hierarchy(nn.Module):
    """A convolutional network with features at strides 2 to 32, and a norm of its classifier."""

    pretrained_cfg: Mapping[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        channels = [3, 4, 6, 8, 10, 12]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, padding=1), nn.ReLU()) for a, b in itertools.pairwise(channels)
        )
        self.feature_info = [{"num_chs": each, "reduction": 2 << i} for i, each in enumerate(channels[1:])]
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, num_classes) if num_classes else nn.Identity()
        self.seen: list[Tensor] = []

    def forward_intermediates(self, x: Tensor, indices: list[int], stop_early: bool, **_: Any) -> list[Tensor]:
        assert stop_early
        self.seen.append(x)
        found = []
        for index, stage in enumerate(self.stages[: max(indices) + 1]):
            x = stage(x)
            if index in indices:
                found.append(x)
        return found


class Tokens(nn.Module):
    """A transformer of 14 x 14 patches, all of whose blocks have features of one stride."""

    def __init__(self, num_classes: int = 10, *, dynamic_img_size: bool = False) -> None:
        super().__init__()
        assert dynamic_img_size
        assert num_classes == 0
        self.patch_embed = nn.Conv2d(3, 5, 14, 14)
        self.pos_embed = nn.Parameter(torch.randn(1, 5, 1, 1))
        self.blocks = nn.ModuleList(nn.Conv2d(5, 5, 1) for _ in range(3))
        self.norm = nn.GroupNorm(1, 5)
        self.feature_info = [{"num_chs": 5, "reduction": 14} for _ in self.blocks]
        self.sizes: list[tuple[int, ...]] = []

    def forward_intermediates(self, x: Tensor, indices: list[int], *, norm: bool, **_: Any) -> list[Tensor]:
        assert indices == [2]
        assert norm
        assert x.shape[2] % 14 == x.shape[3] % 14 == 0
        self.sizes.append(tuple(x.shape[2:]))
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return [self.norm(x)]


class Blind(nn.Module):
    """A network that gives no features."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.classes = num_classes


class Fixed(Hierarchy):
    """A network that takes pictures of one size only."""

    def forward_intermediates(self, x: Tensor, *_: Any, **__: Any) -> list[Tensor]:
        raise AssertionError(f"Input height ({x.shape[2]}) doesn't match model (224).")


class Same(Hierarchy):
    """A network whose convolutions have their padding by name."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        for stage in self.stages:
            stage.append(nn.Conv2d(stage[0].out_channels, stage[0].out_channels, 3, padding="same"))


NETWORKS = {"hierarchy": Hierarchy, "tokens": Tokens, "blind": Blind, "fixed": Fixed, "same": Same}


def create_network(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    assert not pretrained  # nothing is downloaded
    return NETWORKS[name](**options)


@pytest.fixture
def _timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that has the part of timm's interface that is used."""
    fake = ModuleType("timm")
    fake.__version__ = "1.0"
    fake.is_model = NETWORKS.__contains__
    fake.create_model = create_network
    monkeypatch.setitem(sys.modules, "timm", fake)


pytestmark = pytest.mark.usefixtures("_timm")
FAKES = ("timm:hierarchy", "timm:tokens")


@pytest.mark.parametrize("name", FAKES)
def test_features_have_the_strides_and_channels_that_decoders_expect(name: str) -> None:
    encoder = build_encoder(name, circular=True).eval()
    x = torch.randn(2, 3, 64, 128)
    with torch.no_grad():
        latent, pyramid = encoder(x), encoder.pyramid(x)
    assert latent.shape == (2, 512, 4, 8)
    assert {stride: tuple(level.shape) for stride, level in pyramid.items()} == {
        stride: (2, encoder.pyramid_channels[stride], 64 // stride, 128 // stride) for stride in (4, 8, 16, 32)
    }
    expected = {4: 6, 8: 8, 16: 10, 32: 12} if "hierarchy" in name else dict.fromkeys((4, 8, 16, 32), 5)
    assert encoder.pyramid_channels == expected


def test_patches_of_14_pixels_see_the_panorama_so_that_tokens_lie_at_stride_16() -> None:
    encoder = build_encoder("timm:tokens")
    encoder(torch.randn(1, 3, 320, 640))
    assert encoder.backbone.sizes[-1] == (280, 560)


def test_a_network_gets_pictures_in_its_own_normalisation() -> None:
    encoder = build_encoder("timm:hierarchy")
    rgb = torch.rand(1, 3, 64, 128)
    encoder(normalise(rgb))
    torch.testing.assert_close(encoder.backbone.seen[-1], (rgb - 0.5) / 0.5)


@pytest.mark.parametrize("name", [*FAKES, "timm:same"])
def test_turning_a_panorama_turns_the_features(name: str) -> None:
    encoder = build_encoder(name, circular=True).eval()
    x = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        turned, latent = encoder(x.roll(32, dims=-1)), encoder(x)
        levels, turned_levels = encoder.pyramid(x), encoder.pyramid(x.roll(32, dims=-1))
    torch.testing.assert_close(turned, latent.roll(2, dims=-1), rtol=1e-4, atol=1e-5)
    for stride, level in levels.items():
        torch.testing.assert_close(turned_levels[stride], level.roll(32 // stride, dims=-1), rtol=1e-4, atol=1e-5)
    plain = build_encoder(name, circular=False).eval()
    plain.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        assert torch.allclose(plain(x), latent) == (name == "timm:tokens")  # patches have no padding to wrap


def test_what_is_not_circular_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    build_encoder("timm:hierarchy", circular=True)
    build_encoder("timm:tokens", circular=False)
    assert capsys.readouterr().err == ""
    build_encoder("timm:tokens", circular=True)
    line = "timm:tokens: these parts are not circular in spite of --model.circular: position embeddings\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("name", FAKES)
def test_every_parameter_that_is_trained_gets_a_gradient_and_the_rest_is_frozen(name: str) -> None:
    encoder = build_encoder(name, circular=True)
    encoder(torch.randn(1, 3, 64, 128)).sum().backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, parameter_name
        assert parameter.requires_grad == (parameter_name not in ("backbone.norm.weight", "backbone.norm.bias")) or (
            name == "timm:tokens"
        )
    model = SaliencyModel(SaliencyModelConfig(encoder=name, strides=(4, 8), input_height=64))
    model(torch.rand(1, 3, 64, 128)).sum().backward()
    without = [
        each for each, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert without == []
    assert set(model.encoder.pyramid(torch.rand(1, 3, 64, 128))) == {4, 8}


@pytest.mark.parametrize("name", FAKES)
def test_pretraining_and_both_decoders_take_them_and_their_checkpoints_fit(name: str, tmp_path: Path) -> None:
    config = ContrastiveConfig(encoder=name, height=64, circular=True)
    model = ContrastiveModel(config)
    frames = torch.rand(2, 3, 64, 128)
    assert model(frames, frames).global_embedding.shape == (2, 512)
    save_checkpoint(tmp_path, 1, model, "contrastive", config, {})
    for decoder, size in (("paper", (2, 64, 128)), ("separable", (2, 16, 32))):
        saliency = SaliencyModel(SaliencyModelConfig(encoder=name, decoder=decoder, input_height=64))
        load_weights(tmp_path, saliency.encoder, kind="contrastive", part="encoder")
        assert saliency(frames).shape == size
        assert torch.equal(
            saliency.encoder.state_dict()["backbone.norm.weight"], model.encoder.state_dict()["backbone.norm.weight"]
        )


def test_weights_come_from_a_file_with_the_names_of_timm(tmp_path: Path) -> None:
    network = Hierarchy()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    encoder = build_encoder("timm:hierarchy", pretrained=True, weights_file=str(tmp_path / "weights.pth"))
    assert torch.equal(encoder.state_dict()["backbone.stages.2.0.weight"], network.stages[2][0].weight)
    torch.save({"other.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"stages\.0\.0\.weight is missing in the weights"):
        build_encoder("timm:hierarchy", pretrained=True, weights_file=str(tmp_path / "other.pth"))
    with pytest.raises(ParameterError, match=r"set --model\.weights_file to timm's weights of this encoder"):
        build_encoder("timm:hierarchy", pretrained=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet51", r"timm 1.0 has no model 'resnet51'; choose one of timm.list_models\(\)"),
        ("timm:blind", "timm:blind cannot be an encoder: it does not give the features inside it; choose another"),
        (
            "timm:fixed",
            r"does not take a picture of 128 x 64 \(Input height \(64\) doesn't match model \(224\)\.\); choose",
        ),
        ("timm:", "there is no encoder 'timm:'; choose one of vgg16, .*, or timm:NAME"),
    ],
)
def test_networks_that_cannot_be_encoders_are_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        build_encoder(name)
    assert "\n" not in str(caught.value)


def test_the_missing_package_is_one_line_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert one_line_errors(lambda: build_encoder("timm:convnext_tiny")) != 0
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert 'the Python module timm is missing; pip install ".[timm]" in the checkout of sal360' in message


@pytest.fixture
def _real_timm(_timm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "timm")
    pytest.importorskip("timm", reason='timm is optional: pip install ".[timm]"')


@pytest.mark.usefixtures("_real_timm")
@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("convnext_atto", {4: 40, 8: 80, 16: 160, 32: 320}),
        ("vit_tiny_patch16_224", dict.fromkeys((4, 8, 16, 32), 192)),
        ("resnet18", {4: 64, 8: 128, 16: 256, 32: 512}),
        ("swin_tiny_patch4_window7_224", {4: 96, 8: 192, 16: 384, 32: 768}),
    ],
)
def test_networks_of_timm_are_encoders(name: str, channels: dict[int, int]) -> None:
    encoder = build_encoder(f"timm:{name}", circular=True).eval()
    assert isinstance(encoder, TimmEncoder)
    assert encoder.pyramid_channels == channels
    x = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        latent, turned = encoder(x), encoder(x.roll(32, dims=-1))
    assert latent.shape == (1, 512, 4, 8)
    is_circular = torch.allclose(turned, latent.roll(2, dims=-1), rtol=1e-3, atol=1e-4)
    assert is_circular == (encoder.not_circular() == []) == name.startswith(("convnext", "resnet"))


@pytest.mark.usefixtures("_real_timm")
def test_dinov2_sees_panoramas_of_any_size() -> None:
    encoder = build_encoder("timm:vit_small_patch14_dinov2").eval()
    with torch.no_grad():
        assert encoder(torch.randn(1, 3, 96, 192)).shape == (1, 512, 6, 12)
