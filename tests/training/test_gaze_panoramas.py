"""Panoramas with gaze as training samples: picture, gaze and mask are varied together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sal360.arrays import Floats
from sal360.ground_truth import GazeRecord
from sal360.sphere import angles_to_vector, erp_directions
from training.config import read_config
from training.data.gaze.panoramas_with_gaze import AugmentConfig, GazePanoramas, stretch_band
from training.data.loader import steps_per_epoch
from training.train_decoder import TrainDecoderConfig

MAP, HEIGHT = (32, 64), 64
EVERYTHING = AugmentConfig(flip=True, yaw="free", stretch=0.5, copies=4)


def record(azimuth: float = 1.0, elevation: float = 0.4) -> GazeRecord:
    """A black panorama with a white disc where everybody looks; valid where the disc's half of the sphere is."""
    centre = angles_to_vector(azimuth, elevation)
    near = directions(HEIGHT) @ centre
    panorama = np.where(near[..., None] > 0.9, 255, 0).astype(np.uint8).repeat(3, axis=2)
    density = np.exp(40 * (directions(MAP[0]) @ centre - 1))
    valid = directions(MAP[0]) @ centre > 0
    fixations, observer = centre[None], np.zeros(1, np.int64)
    return GazeRecord("a", lambda: panorama, fixations, observer, np.zeros(1), density.astype(np.float32), valid)


def directions(height: int) -> Floats:
    return erp_directions(height, 2 * height)


@pytest.mark.parametrize("augment", [None, AugmentConfig(stretch=1.0), AugmentConfig(yaw="quarters"), EVERYTHING])
def test_gaze_stays_on_what_was_looked_at(augment: AugmentConfig | None) -> None:
    samples = GazePanoramas([record()], HEIGHT, MAP, augment, seed=3)
    for key in ((epoch, index) for epoch in range(6) for index in range(len(samples))):
        frame, density, mask = samples[key]
        assert (frame.shape, density.shape, mask.shape) == ((HEIGHT, 2 * HEIGHT, 3), (1, *MAP), (1, *MAP))
        row, column = np.unravel_index(density[0].argmax(), MAP)
        assert frame[2 * row + 1, 2 * column + 1].min() > 200
        white = frame[::2, ::2, 0] > 128
        assert density[0][white].sum() > 0.9 * density.sum()
        assert mask[0][white].all()


def test_copies_of_a_panorama_differ_and_every_sample_is_a_function_of_its_key() -> None:
    records = [record(), record(-2.0, -0.3)]
    samples = GazePanoramas(records, HEIGHT, MAP, EVERYTHING, seed=3)
    assert len(samples) == 8
    densities = [samples[0, index][1] for index in range(8)]
    assert not any(np.array_equal(a, b) for i, a in enumerate(densities) for b in densities[:i])
    again = GazePanoramas(records, HEIGHT, MAP, EVERYTHING, seed=3)
    assert np.array_equal(again[0, 5][1], densities[5])
    assert not np.array_equal(again[1, 5][1], densities[5])


def test_quarter_turns_are_the_papers_and_nothing_is_varied_where_nothing_is_asked() -> None:
    plain = GazePanoramas([record()], HEIGHT, MAP, None, seed=0)[0, 0][1]
    quarters = GazePanoramas([record()], HEIGHT, MAP, AugmentConfig(flip=False, yaw="quarters"), seed=0)
    turned = [quarters[epoch, 0][1] for epoch in range(24)]
    turns = {next(q for q in range(4) if np.array_equal(each, np.roll(plain, 16 * q, axis=2))) for each in turned}
    assert turns == {0, 1, 2, 3}


@pytest.mark.parametrize("up", [True, False])
def test_a_band_is_stretched_about_the_equator_and_the_other_half_stays(up: bool) -> None:
    rows = np.repeat(np.arange(64, dtype=np.float32)[:, None], 2, axis=1)
    stretched = stretch_band(rows, 1.5, up=up)[:, 0]
    for row in range(64):
        from_equator = row + 0.5 - 32
        half = (from_equator < 0) == up
        assert stretched[row] == pytest.approx((from_equator / 1.5 if half else from_equator) + 31.5, abs=0.05)


def test_the_papers_batch_fits_into_an_epoch_of_its_61_training_panoramas(repository: Path) -> None:
    config = read_config(TrainDecoderConfig, "", ["--config", str(repository / "training/recipes/train_paper.yaml")])
    samples = GazePanoramas([record()] * 61, HEIGHT, MAP, config.data.augment, seed=0)
    assert steps_per_epoch(len(samples), config.loop.batch_size) == 7
