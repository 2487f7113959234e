"""Scales of the saliency model against the formula of Tao et al., pixel by pixel."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sal360.errors import ParameterError
from sal360.sphere import solid_angles
from training.checkpoint import load_weights, save_checkpoint
from training.models.decoders import ScaleAttention, upsample_circular
from training.models.layers import normalise
from training.models.saliency_model import DensityModel, SaliencyModel, SaliencyModelConfig


def make_model(scales: int, height: int = 128, **settings: object) -> SaliencyModel:
    torch.manual_seed(0)
    config = SaliencyModelConfig(input_height=height, channels=8, scales=scales, **settings)  # type: ignore[arg-type]
    model = SaliencyModel(config).eval()
    with torch.no_grad():
        model.decoder.head.weight.normal_()  # an untrained head gives a uniform map
        if model.scale_attention is not None:
            model.scale_attention.weight[-1].weight.normal_()
    return model


def relative(content: Tensor) -> Tensor:
    """Log of the density relative to uniform, with numpy's solid angles."""
    density = np.exp(content.double().numpy())
    area = solid_angles(*density.shape) * np.ones_like(density) / (4 * math.pi)
    return torch.from_numpy(np.log(density / (density * area).sum())).float()


@pytest.mark.parametrize("scales", [2, 3])
def test_content_is_the_chain_of_scales_pixel_by_pixel(scales: int) -> None:
    model = make_model(scales)
    attention = model.scale_attention
    frames = torch.rand(2, 3, 128, 256)
    with torch.no_grad():
        found = model(frames)
        for b in range(2):
            content = weight = None
            for scale in reversed(range(scales)):
                size = 128 >> scale
                small = frames[b].view(3, size, 1 << scale, 2 * size, 1 << scale).mean(dim=(2, 4))  # blocks of pixels
                features = model.decoder.features(model.encoder.pyramid(normalise(small[None])))
                here = relative(model.decoder.read_out(features)[0])
                if content is not None:
                    up_product, up_weight = (
                        upsample_circular(each[None, None])[0, 0] for each in (weight * content, weight)
                    )
                    here = torch.tensor(
                        [
                            [float(up_product[i, j] + (1 - up_weight[i, j]) * here[i, j]) for j in range(here.shape[1])]
                            for i in range(here.shape[0])
                        ]
                    )
                content = here
                weight = torch.sigmoid(attention.weight(features))[0, 0]
            torch.testing.assert_close(found[b], content, rtol=1e-4, atol=1e-4)


def test_a_weight_of_zero_leaves_the_finest_scale_and_one_the_coarse() -> None:
    single, double = make_model(1), make_model(2)
    double.load_state_dict(single.state_dict(), strict=False)
    frames = torch.rand(1, 3, 128, 256)
    with torch.no_grad():
        last = double.scale_attention.weight[-1]
        last.weight.zero_()
        last.bias.fill_(-30)
        torch.testing.assert_close(double(frames)[0], relative(single(frames)[0]), rtol=1e-4, atol=1e-4)
        last.bias.fill_(30)
        halved = torch.nn.functional.avg_pool2d(frames, 2)
        coarse = relative(single(halved)[0])
        torch.testing.assert_close(double(frames)[0], upsample_circular(coarse[None, None])[0, 0], rtol=1e-4, atol=1e-4)


def test_a_constant_added_to_one_scale_changes_nothing() -> None:
    attention = ScaleAttention(4, [8, 4])
    features = torch.rand(1, 4, 8, 16)

    def read(shift: float) -> Tensor:
        def read_out(found: Tensor) -> Tensor:
            return found[:, 0] + (shift if found.shape[2] == 8 else 0)

        return attention(features, lambda x: x, read_out)

    torch.testing.assert_close(read(0.0), read(5.0))


def test_all_parameters_are_trained() -> None:
    model = make_model(2).train()
    content = model(torch.rand(1, 3, 128, 256))
    (content * torch.rand_like(content)).sum().backward()
    idle = {name.split(".")[1] for name, each in model.named_parameters() if each.grad is None}
    assert idle == {"latent"}  # the contrastive objective's projection, which decoders with skips do not use
    assert all(each.grad.abs().sum() > 0 for each in model.scale_attention.parameters())


def test_the_papers_decoder_has_scales_too() -> None:
    config = SaliencyModelConfig(encoder="resnet50", decoder="paper", input_height=64, scales=2)
    with torch.no_grad():
        assert SaliencyModel(config).eval()(torch.rand(1, 3, 64, 128)).shape == (1, 64, 128)


def test_density_is_calibrated_with_scales() -> None:
    model = DensityModel(make_model(2), upsample=1).eval()
    with torch.no_grad():
        density = model(torch.randint(0, 256, (1, 128, 256, 3), dtype=torch.uint8))[0].double().numpy()
    area = solid_angles(*density.shape) / (4 * math.pi)
    assert float((density * area).sum()) == pytest.approx(1, rel=1e-5)


def test_a_checkpoint_remembers_its_scales(tmp_path: Path) -> None:
    model = make_model(2)
    save_checkpoint(tmp_path, 1, model, "saliency", model.config, {})
    restored = make_model(2)
    header = load_weights(tmp_path, restored, kind="saliency")
    assert header.config["scales"] == 2
    frames = torch.rand(1, 3, 128, 256)
    with torch.no_grad():
        assert torch.equal(model(frames), restored(frames))


@pytest.mark.parametrize(("height", "scales"), [(320, 3), (128, 0), (1024, 5), (32, 2)])
def test_scales_that_do_not_fit_are_refused(height: int, scales: int) -> None:
    with pytest.raises(ParameterError, match=r"^scales is"):
        SaliencyModelConfig(input_height=height, scales=scales)
