"""Measures of encoded video: weighted PSNR and SSIM, and Bjøntegaard's deltas."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from sal360.encoding.codecs import CODECS, EncoderSettings
from sal360.encoding.foveation import Picture
from sal360.encoding.quality import GAZE, SPHERE, bd_psnr_db, bd_rate_percent, psnr_db, shot_of, similarity, vmaf
from sal360.encoding.report import compare, write_html
from sal360.outputs.layout import EQUIRECTANGULAR
from sal360.sphere import solid_angles

av = pytest.importorskip("av")

RATES = [100.0, 200.0, 400.0, 800.0]
PSNR = [30.0, 33.2, 36.0, 38.1]


def test_a_curve_that_needs_a_fifth_less_everywhere_saves_20_percent() -> None:
    assert bd_rate_percent(RATES, PSNR, [0.8 * each for each in RATES], PSNR) == pytest.approx(-20)
    assert bd_rate_percent(RATES, PSNR, RATES, PSNR) == pytest.approx(0)


def test_a_curve_that_lies_two_decibels_higher_gains_two() -> None:
    assert bd_psnr_db(RATES, PSNR, RATES, [each + 2 for each in PSNR]) == pytest.approx(2)


def test_a_straight_curve_gives_what_is_computed_by_hand() -> None:
    straight = [30 + 10 * math.log10(each / 100) for each in RATES]
    better = [each + 10 * math.log10(1.25) for each in straight]
    assert bd_rate_percent(RATES, straight, RATES, better) == pytest.approx(-20, abs=1e-6)


def test_curves_that_share_no_quality_have_no_delta() -> None:
    assert math.isnan(bd_rate_percent(RATES, PSNR, RATES, [each + 40 for each in PSNR]))


def test_ws_psnr_weights_rows_by_their_solid_angle() -> None:
    before = np.full((4, 8), 100.0, np.float32)
    weights = np.broadcast_to(solid_angles(4, 8), (4, 8))
    at_pole, at_equator = before.copy(), before.copy()
    at_pole[0] += 8
    at_equator[1] += 8
    shares = [1 - math.sin(math.pi / 4), math.sin(math.pi / 4)]  # of half a sphere: above and below 45 degrees
    for picture, share in ((at_pole, shares[0] / 2), (at_equator, shares[1] / 2)):
        expected = 10 * math.log10(255**2 / (64 * share))
        assert psnr_db([before], [picture], [weights / weights.sum()]) == pytest.approx(expected)


def test_ssim_is_one_for_equal_pictures_and_is_that_of_each_pixel() -> None:
    generator = np.random.default_rng(0)
    before = generator.integers(0, 256, (64, 128)).astype(np.float32)
    after = before.copy()
    after[:, 64:] = before.mean()
    assert similarity(before, before) == pytest.approx(np.ones((64, 128)))
    assert similarity(before, after)[:, :40] == pytest.approx(np.ones((64, 40)))
    assert similarity(before, after)[:, -40:].mean() < 0.1


def test_a_constant_shift_changes_only_the_first_factor_of_ssim() -> None:
    before = np.full((32, 64), 100.0, np.float32)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    assert similarity(before, before + 20) == pytest.approx(np.full((32, 64), expected))


def test_weights_of_a_shot_are_solid_angle_and_gaze() -> None:
    gaze = np.ones((16, 32), np.float32)
    gaze[:, :16] = 3
    shot = shot_of(np.zeros((64, 128, 3), np.uint8), "rgb", gaze, 0, 30)
    assert all(each.sum() == pytest.approx(1) for each in shot.weights.values())
    assert np.allclose(shot.weights[SPHERE][:, 0] * 128, (solid_angles(64, 128) / (4 * math.pi) * 128)[:, 0])
    assert shot.weights[GAZE][32, 8] == pytest.approx(3 * shot.weights[GAZE][32, 120])


def test_vmaf_is_asked_for_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = av.VideoFrame(32, 16, "yuv420p")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert vmaf([frame], [frame]) is None
    tool = tmp_path / "vmaf"
    tool.write_text(
        "#!/bin/sh\n[ \"$1 $3 $5 $6\" = '-r -d --json -o' ] || exit 1\n"
        'read line < "$2"\n[ "$line" = "YUV4MPEG2 W32 H16 F30:1 Ip A1:1 C420" ] || exit 1\n'
        'echo \'{"pooled_metrics": {"vmaf": {"mean": 93.5}}}\' > "$7"\n'
    )
    tool.chmod(0o755)
    assert os.access(tool, os.X_OK)
    assert vmaf([frame], [frame]) == 93.5


def test_the_report_has_curves_crops_and_the_gain(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    noise = np.kron(generator.integers(0, 256, (32, 64, 3)), np.ones((2, 2, 1))).astype(np.uint8)
    density = np.full((16, 32), 0.2, np.float32)
    density[4:12, :8] = 6
    offsets = np.full((4, 8), 4, np.int8)
    offsets[1:3, :2] = -8
    pictures = [
        Picture(np.roll(noise, 2 * number, 1), "bgr", number / 30, density, offsets, number) for number in range(3)
    ]
    settings = EncoderSettings(CODECS["libx264"], "ultrafast")
    comparison = compare(pictures, settings, 16, 30, EQUIRECTANGULAR)
    assert comparison.gains["gaze_bd_rate_percent"] < -15
    assert comparison.gains["sphere_bd_rate_percent"] > 0
    assert comparison.plain.kbit_s == sorted(comparison.plain.kbit_s, reverse=True)
    assert abs(math.log(comparison.kbit_s[0] / comparison.kbit_s[1])) < 0.15  # crops at about the same rate
    write_html(comparison, {"video": "<b>.mp4"}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f"{comparison.gains['gaze_bd_rate_percent']:+.1f} %" in page
    assert page.count("data:image/png;base64,") == 3
    assert "&lt;b&gt;.mp4" in page
