"""Attention, heads and the contrastive model they make."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sal360.errors import ParameterError
from training.config import config_from_dict, read_config
from training.models.contrastive import (
    AveragePooling,
    ContrastiveConfig,
    ContrastiveModel,
    GlobalHead,
    LocalHead,
    SelfAttention,
    build_attention,
)
from training.models.encoders import build_encoder
from training.pretrain import PretrainConfig


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def listing_1(module: SelfAttention, latent: Tensor, turned: Tensor) -> Tensor:
    """Listing 1 of the supplementary for one sample (C, h, w), one location and one patch after the other."""
    channels, height, width = latent.shape

    def project(conv: nn.Conv2d, vector: Tensor) -> Tensor:
        return conv.weight[:, :, 0, 0] @ vector + conv.bias

    def pooled(conv: nn.Conv2d, row: int, column: int) -> Tensor:
        corners = [project(conv, turned[:, 2 * row + i, 2 * column + j]) for i in (0, 1) for j in (0, 1)]
        return torch.stack(corners).amax(dim=0)

    patches = list(itertools.product(range(height // 2), range(width // 2)))
    result = torch.empty_like(latent)
    for i, j in itertools.product(range(height), range(width)):
        query = project(module.query, latent[:, i, j])
        scores = [float((query * pooled(module.key, *patch)).sum()) for patch in patches]
        total = sum(math.exp(score) for score in scores)
        value = torch.zeros(channels // 2)
        for score, patch in zip(scores, patches, strict=True):
            value += math.exp(score) / total * pooled(module.value, *patch)
        result[:, i, j] = float(module.gamma) * project(module.output, value) + turned[:, i, j]
    return result


def test_attention_is_listing_1_location_by_location() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(16).requires_grad_(False)
    attention.gamma.fill_(0.7)
    latent, turned = torch.randn(2, 16, 4, 6), torch.randn(2, 16, 4, 6)
    expected = torch.stack([listing_1(attention, latent[b], turned[b]) for b in range(2)])
    torch.testing.assert_close(attention(latent, turned), expected)


def test_attention_starts_as_the_turned_latent_and_learns_gamma() -> None:
    attention = SelfAttention(16)
    latent, turned = torch.randn(1, 16, 4, 6), torch.randn(1, 16, 4, 6)
    selected = attention(latent, turned)
    torch.testing.assert_close(selected, turned)
    selected.square().sum().backward()
    assert float(attention.gamma.grad) != 0


def test_average_pooling_is_equal_attention() -> None:
    turned = torch.randn(2, 16, 4, 6)
    pooled = AveragePooling()(torch.randn(2, 16, 4, 6), turned)
    assert pooled.shape == (2, 16, 1, 1)
    for b, c in itertools.product(range(2), range(16)):
        assert float(pooled[b, c, 0, 0]) == pytest.approx(sum(turned[b, c].flatten().tolist()) / 24, abs=1e-6)


def test_modules_have_the_papers_parameters() -> None:
    assert round(count(SelfAttention()) / 1e6, 2) == 0.33
    assert round(count(LocalHead()) / 1e6, 2) == 0.53
    linear = 512 * 512 + 512
    assert count(GlobalHead(build_encoder("compact"), 10)) == 2 * linear + 2 * 512
    vgg16 = 512 * 512 * 9 + 2 * 512 + (512 * 4 * 9 * 512 + 512) + 2 * 512 + linear
    assert count(GlobalHead(build_encoder("vgg16"), 10)) == vgg16
    conv5_x, mapping = 14_964_736, 512 * 1024 + 1024 * 1024 + 4 * 1024
    assert count(GlobalHead(build_encoder("resnet50"), 10)) == conv5_x + mapping + (2048 * 512 + 512) + 2 * 512 + linear


@pytest.mark.parametrize("latent_height", [4, 6, 10])
@pytest.mark.parametrize("encoder", ["vgg16", "resnet50", "compact"])
def test_global_embeddings_are_unit_vectors(encoder: str, latent_height: int) -> None:
    head = GlobalHead(build_encoder(encoder), latent_height)
    embedding = head(torch.randn(2, 512, latent_height, 2 * latent_height))
    assert embedding.shape == (2, 512)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_local_embeddings_are_unit_vectors_at_each_location() -> None:
    embedding = LocalHead(16, "relu_last")(torch.randn(2, 16, 3, 5))
    assert embedding.shape == (2, 16, 3, 5)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2, 3, 5))


def test_the_local_module_has_the_order_of_the_supplementary_or_of_the_authors_code() -> None:
    """2 x [Conv2D → ReLU], then BatchNorm2D (A.1): components of both signs; with the ReLU last, none is negative."""
    latent = torch.randn(2, 16, 3, 5)
    head = LocalHead(16, "norm_last")
    first, second, norm = (each for each in head.project if not isinstance(each, nn.ReLU))
    expected = norm(torch.relu(second(torch.relu(first(latent)))))
    torch.testing.assert_close(head(latent), nn.functional.normalize(expected, dim=1))
    assert head(latent).min() < -0.1
    assert LocalHead(16, "relu_last")(latent).min() == 0


def test_the_papers_recipe_has_the_supplementarys_local_module(repository: Path) -> None:
    config = read_config(PretrainConfig, "", ["--config", str(repository / "training/recipes/pretrain_paper.yaml")])
    *_, last = ContrastiveModel(config.model).local_head.project
    assert isinstance(last, nn.BatchNorm2d)
    older = config_from_dict(ContrastiveConfig, {"encoder": "vgg16"})  # checkpoints from before there was a choice
    assert older.local == "relu_last"


@pytest.mark.parametrize("attention", ["self", "average", "none"])
@pytest.mark.parametrize("encoder", ["vgg16", "resnet50", "compact"])
def test_every_model_of_the_paper_trains_all_its_parameters(encoder: str, attention: str) -> None:
    torch.manual_seed(0)
    model = ContrastiveModel(ContrastiveConfig(encoder=encoder, attention=attention, height=64, circular=True))  # type: ignore[arg-type]
    views = torch.randint(0, 256, (2, 2, 3, 64, 128), dtype=torch.uint8)
    output = model(views[0], views[1])
    assert output.global_embedding.shape == (2, 512)
    assert output.local_embedding.shape == ((2, 512, 1, 1) if attention == "average" else (2, 512, 4, 8))
    (output.global_embedding.sum() + output.local_embedding.sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_embed_is_the_global_embedding_of_the_plain_view() -> None:
    model = ContrastiveModel(ContrastiveConfig(encoder="compact", height=64)).eval()
    views = torch.rand(2, 2, 3, 64, 128)
    with torch.no_grad():
        torch.testing.assert_close(model.embed(views[0]), model(views[0], views[1]).global_embedding)


def test_embeddings_are_float32_under_bf16() -> None:
    model = ContrastiveModel(ContrastiveConfig(encoder="compact", height=64))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.rand(2, 3, 64, 128), torch.rand(2, 3, 64, 128))
    assert {each.dtype for each in output} == {torch.float32}


def test_attention_by_name() -> None:
    assert isinstance(build_attention("self", 16), SelfAttention)
    assert count(build_attention("average")) == count(build_attention("none")) == 0


@pytest.mark.parametrize("height", [32, 150])
def test_a_height_that_does_not_fit_is_refused(height: int) -> None:
    with pytest.raises(ParameterError, match=r"^height is"):
        ContrastiveConfig(height=height)
