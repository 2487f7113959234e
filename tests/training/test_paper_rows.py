"""The rows of the paper's results: which encoder, pretrained how, frozen or fine-tuned, under the paper's decoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from training.checkpoint import load_weights, save_checkpoint
from training.config import read_config
from training.models.contrastive import ContrastiveConfig, ContrastiveModel
from training.models.decoders import PaperDecoder
from training.models.saliency_model import SaliencyModel
from training.train_decoder import TrainDecoderConfig


def row(repository: Path, *options: str) -> TrainDecoderConfig:
    """The shipped settings with the options that its heading names."""
    return read_config(
        TrainDecoderConfig, "", ["--config", str(repository / "training/recipes/train_paper.yaml"), *options]
    )


def test_decoder_has_the_papers_parameters() -> None:
    decoder = PaperDecoder()
    assert round(sum(each.numel() for each in decoder.parameters()) / 1e6, 2) == 6.45
    convolutions = [layer for layer in decoder.modules() if isinstance(layer, nn.Conv2d)]
    assert all(bool((layer.bias == 0.01).all()) for layer in convolutions)


def test_decoder_gives_the_papers_sigmoid_map_as_a_density() -> None:
    decoder = PaperDecoder(16, circular=False).eval()
    latent = torch.randn(1, 16, 4, 8)
    with torch.no_grad():
        content = decoder(latent)[0]
        x = latent
        for layer in decoder.layers[:-1]:  # ordinary layers: with zero padding nothing but 3x3, ReLU and bilinear x2
            if isinstance(layer, nn.Conv2d):
                x = nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
            else:
                x = layer(x)
        sigmoid = torch.sigmoid(decoder.layers[-1](x))[0, 0]
    assert content.shape == (64, 128)
    torch.testing.assert_close(content.exp() / content.exp().sum(), sigmoid / sigmoid.sum())


def test_a_circular_decoder_of_the_paper_turns_the_map_with_the_latent() -> None:
    decoder = PaperDecoder(16).eval()
    latent = torch.randn(1, 16, 4, 8)
    with torch.no_grad():
        content, of_turned = decoder(latent), decoder(latent.roll(3, dims=-1))
    torch.testing.assert_close(of_turned, content.roll(48, dims=-1))


@pytest.mark.parametrize(
    ("encoder", "attention", "frozen"),
    [
        ("resnet50", "self", "encoder"),
        ("resnet50", "average", "encoder"),
        ("resnet50", "none", "none"),
        ("vgg16", "self", "none"),
        ("vgg16", "none", "encoder"),
        ("compact", "self", "encoder"),
    ],
)
def test_a_row_trains_only_the_parts_that_it_should(
    repository: Path, tmp_path: Path, encoder: str, attention: str, frozen: str
) -> None:
    torch.manual_seed(0)
    contrastive = ContrastiveConfig(encoder=encoder, attention=attention, height=64)  # type: ignore[arg-type]
    pretrained = ContrastiveModel(contrastive)
    save_checkpoint(tmp_path, 1, pretrained, "contrastive", contrastive, {})
    options = [f"--model.encoder={encoder}", f"--encoder_weights={tmp_path}", f"--frozen={frozen}"]
    config = row(repository, *options, "--model.input_height=64")
    model = SaliencyModel(config.model)
    load_weights(config.encoder_weights, model.encoder, kind="contrastive", part="encoder")
    model.freeze(config.frozen)
    model.train()

    trained = [each for each in model.parameters() if each.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=config.optimiser.learning_rate, weight_decay=config.optimiser.weight_decay)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    content = model(torch.rand(2, 3, 64, 128))
    (content * torch.rand_like(content)).mean().backward()
    optimiser.step()

    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    from_pretraining = {f"encoder.{name}" for name in pretrained.encoder.state_dict()}
    assert all(torch.equal(before[name], pretrained.state_dict()[name]) for name in from_pretraining)
    assert any(name.startswith("decoder.") for name in moved)
    if frozen == "encoder":
        assert moved.isdisjoint(from_pretraining)  # weights, biases, batch statistics
    else:
        assert any(name.startswith("encoder.blocks.0") for name in moved)


def test_settings_are_the_papers(repository: Path) -> None:
    config = row(repository)
    assert (config.optimiser.name, config.optimiser.learning_rate, config.optimiser.weight_decay) == (
        "adam",
        1e-4,
        1e-4,
    )
    assert (config.loop.batch_size, config.loop.epochs, config.model.input_height) == (64, 200, 160)
    assert (config.loss.kld, config.loss.cc, config.loss.nss, config.loss.solid_angle) == (1, 0, 0, False)
    assert (config.data.augment.yaw, config.frozen, config.model.prior.strength) == ("quarters", "encoder", 0)
