"""The saliency model: frozen parts, the prior, the normalisation of the output, and no seam."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sal360.errors import ParameterError
from sal360.sphere import solid_angles
from training.checkpoint import plain_settings, save_checkpoint
from training.models.base_encoder import SmoothColumns
from training.models.compact import CircularConv2d, CompactEncoder, InvertedBottleneck
from training.models.decoders import upsample_circular
from training.models.prior import PriorConfig, equator_log_rows, row_elevations_deg, row_weights
from training.models.saliency_model import (
    CalibrationConfig,
    DensityModel,
    Frozen,
    SaliencyModel,
    SaliencyModelConfig,
    blur_matrices,
)
from training.trained_models import saliency_settings

HEIGHT = 96


def _model(seed: int = 0, **settings: object) -> SaliencyModel:
    torch.manual_seed(seed)
    model = SaliencyModel(SaliencyModelConfig(input_height=HEIGHT, channels=8, **settings))  # type: ignore[arg-type]
    with torch.no_grad():
        model.decoder.head.weight.normal_()  # type: ignore[union-attr,operator]  # an untrained head says "uniform"
    return model


def _frames(count: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, HEIGHT, 2 * HEIGHT, 3), generator=generator).to(torch.uint8)


@pytest.mark.parametrize(
    ("frozen", "moving"),
    [("encoder", ("decoder.",)), ("early", ("decoder.", "encoder.stages.2")), ("none", ("encoder.stem", "decoder."))],
)
def test_frozen_parts_do_not_change_and_the_rest_does(frozen: Frozen, moving: tuple[str, ...]) -> None:
    model = _model()
    model.freeze(frozen)
    model.train()
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.01)
    for _ in range(2):
        optimiser.zero_grad()
        model(_frames().permute(0, 3, 1, 2)).square().mean().backward()
        optimiser.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    for prefix in moving:
        assert any(name.startswith(prefix) for name in changed), prefix
    held: dict[str, str | tuple[str, ...]] = {
        "encoder": "encoder.",
        "early": ("encoder.stem", "encoder.stages.0", "encoder.stages.1"),
        "none": "nothing",
    }
    assert not any(name.startswith(held[frozen]) for name in changed)


def test_a_frozen_encoder_keeps_its_batch_statistics() -> None:
    config = SaliencyModelConfig(encoder="resnet50", decoder="paper", input_height=64)
    model = SaliencyModel(config)
    model.freeze("encoder")
    before = copy.deepcopy(model.encoder.state_dict())
    model.train()
    assert model.training
    model(torch.rand(2, 3, 64, 128))
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("upsample", [0, 1])
def test_density_has_solid_angle_weighted_mean_one(upsample: int) -> None:
    density = DensityModel(_model(), upsample=upsample)(_frames(2)).detach().double().numpy()
    height, width = HEIGHT // 4 << upsample, HEIGHT // 2 << upsample
    assert density.shape == (2, height, width)
    mean = (density * solid_angles(height, width)).sum(axis=(1, 2)) / (4 * np.pi)
    np.testing.assert_allclose(mean, 1, rtol=1e-5)
    assert density.min() > 0


def test_gaze_by_the_prior_is_the_published_laplace_per_degree_of_latitude() -> None:
    rows = equator_log_rows(1800, PriorConfig(floor=0))[:, 0].double().numpy()
    elevation = 89.95 - np.arange(1800) / 10
    gaze = np.exp(rows) * np.cos(np.radians(elevation))  # in each tenth of a degree of latitude
    published = np.exp(-np.abs(elevation + 1.39) / 17.91)
    near = np.abs(elevation) < 72
    np.testing.assert_allclose(gaze[near] / published[near], gaze[900] / published[900], rtol=1e-5)
    p, q = published / published.sum(), gaze / gaze.sum()
    assert (p * np.log(p / q)).sum() < 2e-3  # the poles have 1 % of the fit
    assert (q * np.abs(elevation + 1.39)).sum() == pytest.approx((p * np.abs(elevation + 1.39)).sum(), abs=0.2)


def test_the_prior_never_rises_towards_a_pole_and_ends_at_uniform() -> None:
    for mean_deg, scale_deg in ((-1.39, 17.91), (-1.39, 60.0), (30.0, 40.0), (-45.0, 10.0)):
        rows = equator_log_rows(360, PriorConfig(mean_deg, scale_deg, floor=0))[:, 0].numpy()
        top = int(rows.argmax())
        assert abs(89.75 - top / 2 - mean_deg) <= 0.5
        assert (np.diff(rows[: top + 1]) >= -1e-6).all()
        assert (np.diff(rows[top:]) <= 1e-6).all()
    assert np.ptp(equator_log_rows(90, PriorConfig(scale_deg=1000.0)).numpy()) < 0.01


def test_a_checkpoint_from_before_the_measure_was_a_setting_keeps_its_prior(tmp_path: Path) -> None:
    model = _model()
    settings = plain_settings(model.config)
    assert settings["prior"].pop("per") == "latitude"
    save_checkpoint(tmp_path, 1, model, "saliency", settings, {})
    prior = saliency_settings(tmp_path).prior
    elevation = row_elevations_deg(180)
    rows = equator_log_rows(180, dataclasses.replace(prior, floor=0))[:, 0].double().numpy()
    np.testing.assert_allclose(
        rows[10] - rows[80], (abs(elevation[80] + 1.39) - abs(elevation[10] + 1.39)) / 17.91, rtol=1e-5
    )


def test_the_prior_has_a_mean_and_a_floor() -> None:
    rows = equator_log_rows(180, PriorConfig(floor=0))[:, 0].double().numpy()
    weight = row_weights(180)[:, 0].double().numpy()
    np.testing.assert_allclose(weight, solid_angles(180, 1)[:, 0] * 180 / (4 * np.pi), rtol=1e-6)
    assert (weight * np.exp(rows)).mean() == pytest.approx(1)
    floored = np.exp(equator_log_rows(180, PriorConfig(floor=0.1))[:, 0].double().numpy())
    assert floored.min() > 0.1
    assert (weight * floored).mean() == pytest.approx(1)


def test_the_prior_of_a_model_without_content_is_all_there_is() -> None:
    model = _model()
    with torch.no_grad():
        model.decoder.head.weight.zero_()  # type: ignore[union-attr,operator]
    density_model = DensityModel(model)
    density = density_model(_frames())[0]
    prior = torch.exp(density_model.prior_log_rows).expand_as(density)
    prior = prior / (prior * density_model.row_weights).mean()
    torch.testing.assert_close(density, prior, rtol=1e-4, atol=1e-5)


def test_taking_the_prior_out_again_is_exact() -> None:
    """What `predictor.scale_prior` relies on."""
    model = _model()
    with_prior = DensityModel(model)
    density = with_prior(_frames())
    without = density * torch.exp(-with_prior.prior_log_rows)
    without = without / (without * with_prior.row_weights).mean(dim=(1, 2), keepdim=True)
    model.config = dataclasses.replace(model.config, prior=PriorConfig(strength=0.0))
    torch.testing.assert_close(without, DensityModel(model)(_frames()), rtol=1e-4, atol=1e-5)


def test_temperature_divides_and_floor_mixes() -> None:
    model = _model(prior=PriorConfig(strength=0.0))
    plain = DensityModel(model)(_frames())
    model.config = dataclasses.replace(model.config, calibration=CalibrationConfig(temperature=2.0))
    flat = DensityModel(model)(_frames())
    root = torch.sqrt(plain)
    weights = row_weights(plain.shape[1])
    torch.testing.assert_close(flat, root / (root * weights).mean(dim=(1, 2), keepdim=True), rtol=1e-4, atol=1e-5)
    model.config = dataclasses.replace(model.config, calibration=CalibrationConfig(floor=0.25))
    torch.testing.assert_close(DensityModel(model)(_frames()), 0.75 * plain + 0.25, rtol=1e-4, atol=1e-5)


def test_the_blur_keeps_mass_at_the_equator_and_wraps() -> None:
    rows, columns = blur_matrices(60, 120, 6.0)
    point = torch.zeros(60, 120)
    point[30, 0] = 1.0
    blurred = (rows @ point @ columns).double()
    assert float(blurred.sum()) == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(blurred[:, 1:4], blurred[:, -3:].flip(1))
    offset = (torch.arange(60) - 30.0).double() * 3
    spread = (blurred.sum(dim=1) * offset**2).sum().sqrt()
    assert float(spread) == pytest.approx(6.0, rel=1e-3)
    torch.testing.assert_close(rows @ torch.ones(60, 120) @ columns, torch.ones(60, 120))


def test_a_turn_by_the_coarsest_stride_turns_the_map_exactly() -> None:
    """Whole turns of the coarsest grid leave nothing but rounding: the seam is nowhere."""
    model = DensityModel(_model(), upsample=1).eval()
    frames = _frames()
    with torch.no_grad():
        density, turned = model(frames), model(torch.roll(frames, 64, dims=2))
    torch.testing.assert_close(torch.roll(turned, -32, dims=2), density, rtol=2e-3, atol=1e-5)


def test_smoothing_the_input_averages_its_columns_with_their_neighbours_around_the_seam() -> None:
    plain, smooth = _model(), _model(smooth_columns="input")
    frames = torch.rand(1, 3, HEIGHT, 2 * HEIGHT)
    averaged = 0.5 * frames + 0.25 * (torch.roll(frames, 1, dims=3) + torch.roll(frames, -1, dims=3))
    torch.testing.assert_close(smooth(frames), plain(averaged), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("circular", [True, False])
def test_smoothing_is_the_convolution_of_the_averaged_input(circular: bool) -> None:
    plain, smooth = (
        CircularConv2d(4, 4, 5, stride=2, groups=4, circular=circular, smooth=each) for each in (False, True)
    )
    smooth.load_state_dict(plain.state_dict())
    x = torch.randn(1, 4, 8, 16)
    if not circular:
        x[..., :3] = x[..., -3:] = 0  # beyond the edge both see zeros
    averaged = 0.5 * x + 0.25 * (torch.roll(x, 1, dims=3) + torch.roll(x, -1, dims=3))
    torch.testing.assert_close(smooth(x), plain(averaged))
    for _ in range(2):
        smooth.fix_average()
        torch.testing.assert_close(smooth(x), plain(averaged))


def test_smoothing_before_every_stride_makes_maps_of_turned_panoramas_more_alike() -> None:
    frames = torch.rand(1, 3, HEIGHT, 2 * HEIGHT)
    distances = []
    for where in ("none", "input", "strides"):
        model = _model(smooth_columns=where)
        stride = model.config.strides[0]
        with torch.no_grad():
            content, of_turned = model(frames), model(torch.roll(frames, 3 * stride, dims=3))  # no multiple of 32
        distances.append(float((torch.roll(of_turned, -3, dims=2) - content).std() / content.std()))
    assert distances[2] < distances[1] < distances[0]


@pytest.mark.parametrize("smooth_columns", ["none", "input", "strides"])
@pytest.mark.parametrize("circular", [True, False])
def test_the_encoder_gives_what_wrapping_before_each_convolution_gives(
    circular: bool, smooth_columns: SmoothColumns
) -> None:
    """Where the columns are added, and how often, saves work and changes nothing."""
    torch.manual_seed(0)
    encoder = CompactEncoder(pretrained=False, circular=circular, smooth_columns=smooth_columns)
    x = torch.randn(2, 3, 64, 128)

    def block_by_block(block: InvertedBottleneck, x: Tensor) -> Tensor:
        wide = x if block.expand is None else block.expand(x).clamp(0, 6)
        y = block.project(block.depthwise(wide).clamp(0, 6))
        return x + y if block.shortcut else y

    with torch.no_grad():
        found = encoder.pyramid(x)
        expected = encoder.stem(x * encoder.scale + encoder.shift).clamp(0, 6)
        for stage in encoder.stages:
            for block in stage:
                expected = block_by_block(block, expected)
            stride = 64 // expected.shape[2]
            if stride in found and found[stride].shape == expected.shape:
                torch.testing.assert_close(found.pop(stride), expected)
    assert not found  # all four were compared


def test_upsampling_wraps() -> None:
    x = torch.randn(1, 2, 3, 4)
    upsampled = upsample_circular(x)
    assert upsampled.shape == (1, 2, 6, 8)
    torch.testing.assert_close(upsample_circular(torch.roll(x, 1, dims=-1)), torch.roll(upsampled, 2, dims=-1))
    torch.testing.assert_close(upsampled[0, 0, 0, 0], 0.75 * x[0, 0, 0, 0] + 0.25 * x[0, 0, 0, 3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strides": (4, 16)}, "^strides is"),
        ({"strides": ()}, "^strides is"),
        ({"input_height": 100}, "^input_height is"),
        ({"encoder": "vgg16"}, "^decoder is"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        SaliencyModelConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config",
    [
        SaliencyModelConfig(input_height=64, channels=8, strides=(4, 8)),
        SaliencyModelConfig(input_height=64, channels=8, strides=(8, 16, 32)),
        SaliencyModelConfig(input_height=64, channels=8, strides=(8, 16), scales=2),
        SaliencyModelConfig(input_height=64, encoder="compact", decoder="paper"),
    ],
)
def test_every_trained_parameter_gets_a_gradient(config: SaliencyModelConfig) -> None:
    """In distributed training, every trained parameter needs a gradient."""
    model = SaliencyModel(config)
    model.freeze("none")
    model(torch.rand(1, 3, 64, 128)).square().sum().backward()
    without = [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]
    assert not without
