"""The predictor: any frame in, a density on the sphere out."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sal360.errors import FrameError, ParameterError
from sal360.images import write_picture
from sal360.outputs.overlay import draw_overlay
from sal360.predictor import Predictor, add_front_prior, check_frame, resize_frame, scale_prior
from sal360.projection import Viewport, rotate_erp
from sal360.runtimes.onnxruntime_backend import OnnxRuntimeBackend
from sal360.sphere import pixel_to_vector, solid_angles


@pytest.fixture(scope="module")
def predictor(tiny_model):
    pytest.importorskip("onnxruntime")
    with Predictor(tiny_model, backend="onnxruntime", device="cpu", threads=1) as opened:
        yield opened


def picture(height, width):
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)


def mean_on_sphere(density):
    return float((density * solid_angles(*density.shape)).sum() / (4 * math.pi))


@pytest.mark.parametrize("size", [(32, 64), (96, 192), (8, 16), (161, 320), (100, 203)])
def test_frames_of_any_size_give_a_density(predictor, size):
    density = predictor.predict(picture(*size))
    assert density.shape == (16, 32)
    assert density.dtype == np.float32
    assert mean_on_sphere(density) == pytest.approx(1, abs=1e-4)


def test_bgr_is_rgb_in_the_other_order(predictor):
    frame = picture(64, 128)
    np.testing.assert_array_equal(predictor.predict(frame, "bgr"), predictor.predict(frame[..., ::-1].copy(), "rgb"))
    assert not np.array_equal(predictor.predict(frame, "bgr"), predictor.predict(frame, "rgb"))


def test_a_large_frame_is_averaged_down(predictor):
    small = picture(32, 64)
    large = small.repeat(5, axis=0).repeat(5, axis=1)
    np.testing.assert_allclose(predictor.predict(large), predictor.predict(small), rtol=1e-4)
    checkerboard = (np.indices((320, 640)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    gray = np.full((32, 64, 3), 128, np.uint8)
    np.testing.assert_allclose(predictor.predict(checkerboard), predictor.predict(gray), rtol=1e-4)


@pytest.mark.parametrize("size", [(8, 16), (13, 26), (16, 32), (20, 40), (23, 47), (40, 80)])
def test_every_pixel_of_a_larger_frame_counts_about_as_much(size):
    """A white pixel anywhere shows at the model's size, nowhere more than about twice as much as elsewhere."""
    shown = []
    for row, column in np.ndindex(*size):
        frame = np.zeros((*size, 3), np.uint8)
        frame[row, column] = 255
        shown.append(float(resize_frame(frame, 8, 16).sum()))
    assert min(shown) > 0.5 * np.mean(shown)
    assert max(shown) < 2.1 * np.mean(shown)


@pytest.mark.parametrize("size", [(20, 40), (23, 47), (40, 80)])
def test_grey_shown_as_colour_is_resized_like_colour(size):
    grey = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    view = np.broadcast_to(grey[..., None], (*size, 3))
    np.testing.assert_array_equal(resize_frame(view, 8, 16), resize_frame(view.copy(), 8, 16))


def test_strided_and_read_only_frames_are_taken(predictor):
    frame = picture(64, 256)
    view = frame[:, ::2]
    view.flags.writeable = False
    np.testing.assert_array_equal(predictor.predict(view), predictor.predict(view.copy()))
    padded = np.zeros((64, 140, 3), np.uint8)  # rows longer than the picture, as cameras send them
    padded[:, :128] = view
    np.testing.assert_array_equal(predictor.predict(padded[:, :128]), predictor.predict(view.copy()))


def test_the_frame_is_not_changed(predictor):
    for size in ((32, 64), (64, 128)):
        frame = picture(*size)
        kept = frame.copy()
        predictor.predict(frame, "bgr")
        np.testing.assert_array_equal(frame, kept)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (np.zeros((64, 128), np.uint8), "not_colour"),
        (np.zeros((64, 128, 4), np.uint8), "not_colour"),
        (np.zeros((64, 128, 3), np.uint16), "not_colour"),
        (np.zeros((480, 640, 3), np.uint8), "not_2_to_1"),
        (np.zeros((0, 0, 3), np.uint8), "not_2_to_1"),
        (np.zeros((64, 0, 3), np.uint8), "not_2_to_1"),
    ],
)
def test_wrong_frames_are_refused_by_reason(predictor, wrong, reason):
    with pytest.raises(FrameError) as raised:
        predictor.predict(wrong)
    assert raised.value.reason == reason


UNREAD = "is None; check the path: cv2.imread returns None for a file that it cannot read"


def test_the_none_of_a_file_that_opencv_cannot_read_is_refused_by_all_functions_that_take_pictures(predictor, tmp_path):
    nothing = cv2.imread(str(tmp_path / "no_such.jpg"))
    density = np.ones((4, 8), np.float32)
    calls = {
        "the frame": (lambda: predictor.predict(nothing, "bgr"), lambda: draw_overlay(nothing, density)),
        "the batch of frames": (lambda: predictor._backend.infer(nothing),),
        "the panorama": (
            lambda: rotate_erp(nothing, np.eye(3)),
            lambda: Viewport(np.eye(3), 1.0, 4, 8).cut_from(nothing),
        ),
        "the picture": (lambda: write_picture(tmp_path / "written.png", nothing),),
    }
    for name, each in calls.items():
        for call in each:
            with pytest.raises(FrameError, match=f"^{name} {UNREAD}$"):
                call()


def test_a_value_that_is_not_an_array_is_refused_by_its_type(predictor):
    with pytest.raises(FrameError, match=r"^the frame is of the type str; pass the pixels as a numpy array$"):
        predictor.predict("panorama.jpg")


def test_an_unknown_order_of_channels_is_refused(predictor):
    with pytest.raises(ParameterError, match="'gbr'"):
        predictor.predict(picture(32, 64), "gbr")


@pytest.mark.parametrize(("height", "width"), [(320, 640), (322, 640), (960, 1920), (1, 2), (100, 208), (100, 192)])
def test_sizes_of_about_two_to_one_are_accepted(height, width):
    check_frame(height, width)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (100, 209), (100, 191), (640, 320), (0, 0)])
def test_other_sizes_are_refused(height, width):
    with pytest.raises(FrameError, match=f"{width} x {height}"):
        check_frame(height, width)


@given(strength=st.floats(0, 3), seed=st.integers(0, 1000))
def test_scaling_the_prior_is_exact(strength, seed):
    """Against the definition: the same log-density with the prior's rows times `strength`."""
    random = np.random.default_rng(seed)
    rows = random.normal(0, 1, 16)
    evidence = random.normal(0, 1, (16, 32))
    model = spec_with(rows)

    def density(scale):
        mass = np.exp(evidence + scale * rows[:, None])
        return mass / mean_on_sphere(mass)

    scaled = scale_prior(density(1).astype(np.float32), model, strength)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, density(strength), rtol=1e-4)


def spec_with(rows):
    from sal360.spec import ModelSpec

    return ModelSpec("m", "1", 32, 64, 16, 32, "nothing", "MIT", prior_log_rows=tuple(rows))


def test_strength_one_leaves_the_map_as_it_is():
    density = np.random.default_rng(0).random((16, 32), dtype=np.float32)
    assert scale_prior(density, spec_with(np.ones(16)), 1.0) is density


def test_without_its_prior_the_model_is_the_model_without_a_prior(tiny_model, predictor):
    frame = picture(32, 64)
    with Predictor(tiny_model, backend="onnxruntime", device="cpu", prior_strength=0) as without:
        density = without.predict(frame)
    evidence = predictor.predict(frame) / np.exp(predictor.spec.prior_log_rows)[:, None]
    np.testing.assert_allclose(density, evidence / mean_on_sphere(evidence), rtol=1e-4)


@pytest.mark.parametrize("strength", [-0.1, 11, math.nan, math.inf])
def test_a_strength_out_of_range_is_refused(tiny_model, strength):
    with pytest.raises(ParameterError, match="prior_strength"):
        Predictor(tiny_model, prior_strength=strength)


def test_scaling_a_prior_that_the_model_does_not_have_is_refused(make_model):
    with pytest.raises(ParameterError, match="no equator prior"):
        Predictor(make_model(prior_log_rows=()), backend="onnxruntime", device="cpu", prior_strength=0.5)


@pytest.mark.parametrize(("strength", "front_deg"), [(0.3, 0), (1, 0), (1, 90), (2.5, -200)])
def test_the_front_prior_is_a_density_of_the_longitude_at_each_latitude(strength, front_deg):
    """Against the definition, pixel by pixel."""
    density = np.random.default_rng(0).random((9, 18), dtype=np.float32) + 0.1
    front = np.array([math.cos(math.radians(front_deg)), math.sin(math.radians(front_deg)), 0])
    expected = np.zeros((9, 18))
    for row in range(9):
        angles = [math.acos(np.clip(front @ pixel_to_vector(column, row, 9, 18), -1, 1)) for column in range(18)]
        prior = [(1 + 6.4 * math.exp(7.1 * (math.cos(angle) - 1))) ** strength for angle in angles]
        for column in range(18):
            expected[row, column] = density[row, column] * prior[column] / (sum(prior) / 18)
    expected /= mean_on_sphere(expected)
    added = add_front_prior(density, strength, math.radians(front_deg))
    assert added.dtype == np.float32
    np.testing.assert_allclose(added, expected, rtol=1e-4)
    assert mean_on_sphere(added) == pytest.approx(1, abs=1e-6)


def test_the_front_prior_leaves_the_distribution_of_the_latitude():
    rows = np.random.default_rng(0).random((16, 1), dtype=np.float32)
    density = np.repeat(rows, 32, axis=1)
    density /= np.float32(mean_on_sphere(density))
    added = add_front_prior(density, 1.0)
    np.testing.assert_allclose(added.mean(axis=1), density[:, 0], rtol=1e-5)
    assert added[8, 15:17].mean() > 4 * added[8, [0, -1]].mean()  # the front against the back, on the horizon


def test_without_strength_the_front_prior_leaves_every_map_as_it_is(tiny_model, predictor):
    density = np.random.default_rng(0).random((16, 32), dtype=np.float32)
    assert add_front_prior(density, 0.0, 1.0) is density
    frame = picture(32, 64)
    plain = predictor._backend.infer(frame[None])[0]
    np.testing.assert_array_equal(predictor.predict(frame), plain)
    with Predictor(tiny_model, backend="onnxruntime", device="cpu", threads=1, front_strength=0.5) as to_front:
        np.testing.assert_array_equal(to_front.predict(frame), add_front_prior(plain, 0.5))


@pytest.mark.parametrize("strength", [-0.1, 4.1, math.nan, math.inf])
def test_a_front_strength_out_of_range_is_refused_before_the_model_is_opened(strength):
    with pytest.raises(ParameterError, match=f"^front_strength is {strength:g}; set it from 0 to 4; 0 is without"):
        Predictor("no/such.onnx", front_strength=strength)


def test_a_map_that_is_not_finite_is_refused(predictor, monkeypatch):
    broken = np.ones((1, 16, 32), np.float32)
    broken[0, 3, 4] = np.nan
    monkeypatch.setattr(predictor._backend, "infer", lambda _: broken)
    with pytest.raises(FrameError) as raised:
        predictor.predict(picture(32, 64))
    assert raised.value.reason == "map_not_finite"


def test_the_description_names_model_runtime_device_and_precision(predictor):
    assert predictor.description == "tiny 0.0.1, onnxruntime on cpu in fp32"


def test_the_first_frame_finds_a_warm_model(tiny_model, monkeypatch):
    from sal360.runtimes.onnxruntime_backend import OnnxRuntimeBackend

    runs = []
    run = OnnxRuntimeBackend._run
    monkeypatch.setattr(
        OnnxRuntimeBackend, "_run", lambda self, frames: (runs.append(len(frames)), run(self, frames))[1]
    )
    Predictor(tiny_model, backend="onnxruntime", device="cpu").close()
    assert runs == [1]


def test_a_model_that_fails_on_its_first_frame_is_closed_again(tiny_model, monkeypatch):
    closed = []
    monkeypatch.setattr(OnnxRuntimeBackend, "_run", lambda *_: np.full((1, 16, 32), np.nan, np.float32))
    monkeypatch.setattr(OnnxRuntimeBackend, "_release", lambda _: closed.append(True))
    with pytest.raises(FrameError, match="not finite"):
        Predictor(tiny_model, backend="onnxruntime", device="cpu")
    assert closed == [True]


def test_shrinking_agrees_with_the_mean_of_each_block(predictor, monkeypatch):
    seen = []
    infer = predictor._backend.infer
    monkeypatch.setattr(predictor._backend, "infer", lambda frames: (seen.append(frames.copy()), infer(frames))[1])
    frame = cv2.GaussianBlur(picture(96, 192), (0, 0), 2)
    predictor.predict(frame)
    blocks = frame.reshape(32, 3, 64, 3, 3).mean(axis=(1, 3))  # (32, 64, 3)
    assert np.abs(seen[0][0] - blocks).max() <= 0.5001


def test_a_grey_frame_whose_channel_is_shown_three_times_is_answered_like_its_copy(predictor):
    grey = np.broadcast_to(picture(100, 200)[..., :1], (100, 200, 3))  # stride 0: mono8 without a copy
    np.testing.assert_array_equal(predictor.predict(grey), predictor.predict(grey.copy()))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_bind_opencv_too(tiny_model, threads):
    before = cv2.getNumThreads()
    try:
        with Predictor(tiny_model, backend="onnxruntime", device="cpu", threads=threads):
            assert cv2.getNumThreads() == threads
        with Predictor(tiny_model, backend="onnxruntime", device="cpu"):
            assert cv2.getNumThreads() == threads  # 0 changes nothing
    finally:
        cv2.setNumThreads(before)
