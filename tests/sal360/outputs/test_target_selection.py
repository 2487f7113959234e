"""The one target: dwell, switching, vanishing and inhibition of return, in seconds at any frame rate."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sal360 import sphere
from sal360.arrays import Floats
from sal360.errors import ParameterError
from sal360.outputs.targets import Peaks, SelectionSettings, Target, TargetSelector

FRONT, LEFT, TOP, BACK = np.array([(1.0, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0)])


def seen(*places: tuple[Floats, float]) -> Peaks:
    """Peaks by direction and score, best first."""
    ordered = sorted(places, key=lambda each: -each[1])
    return Peaks(np.array([place for place, _ in ordered]).reshape(-1, 3), np.array([score for _, score in ordered]))


def looks(selector: TargetSelector, peaks: Peaks, stamp_s: float) -> Floats:
    target = selector.update(peaks, stamp_s)
    assert target is not None
    return target.direction


def test_the_strongest_peak_is_taken_first() -> None:
    target = TargetSelector().update(seen((FRONT, 3), (LEFT, 4)), 7.0)
    assert isinstance(target, Target)
    assert np.array_equal(target.direction, LEFT)
    assert (target.score, target.since_s) == (4, 7.0)


def test_nothing_to_see_means_no_target() -> None:
    assert TargetSelector().update(seen(), 0.0) is None


@pytest.mark.parametrize("rate_hz", [5, 10, 60])
def test_a_better_target_is_taken_after_the_dwell_at_any_frame_rate(rate_hz: int) -> None:
    selector = TargetSelector(SelectionSettings(min_dwell_s=1.0))
    switched_s = None
    for frame in range(3 * rate_hz):
        stamp = frame / rate_hz
        peaks = seen((FRONT, 3), (LEFT, 6)) if frame else seen((FRONT, 3))
        if np.array_equal(looks(selector, peaks, stamp), LEFT) and switched_s is None:
            switched_s = stamp
    assert switched_s == pytest.approx(1.0, abs=1 / rate_hz)


def test_a_target_that_is_hardly_better_does_not_win() -> None:
    selector = TargetSelector(SelectionSettings(min_dwell_s=0, switch_ratio=1.5))
    looks(selector, seen((FRONT, 3)), 0.0)
    assert np.array_equal(looks(selector, seen((FRONT, 3), (LEFT, 4.4)), 0.1), FRONT)
    assert np.array_equal(looks(selector, seen((FRONT, 3), (LEFT, 4.6)), 0.2), LEFT)


def test_a_target_just_left_is_not_chosen_again_before_its_time() -> None:
    selector = TargetSelector(SelectionSettings(min_dwell_s=0, inhibition_s=2.0))
    looks(selector, seen((FRONT, 3)), 0.0)
    assert np.array_equal(looks(selector, seen((FRONT, 3), (LEFT, 6)), 0.1), LEFT)
    back_s = None
    for frame in range(2, 40):
        if np.array_equal(looks(selector, seen((FRONT, 9), (LEFT, 6)), frame / 10), FRONT) and back_s is None:
            back_s = frame / 10
    assert back_s == pytest.approx(2.1, abs=0.11)


def test_without_inhibition_the_best_is_taken_back_at_once() -> None:
    selector = TargetSelector(SelectionSettings(min_dwell_s=0, inhibition_s=0))
    looks(selector, seen((FRONT, 3)), 0.0)
    looks(selector, seen((FRONT, 3), (LEFT, 6)), 0.1)
    assert np.array_equal(looks(selector, seen((FRONT, 9), (LEFT, 6)), 0.2), FRONT)


def test_with_a_longest_dwell_the_targets_are_visited_in_turn() -> None:
    selector = TargetSelector(SelectionSettings(min_dwell_s=0.2, max_dwell_s=1.0, inhibition_s=2.5))
    peaks = seen((FRONT, 5), (LEFT, 4), (TOP, 3))
    visits = []
    for frame in range(61):
        direction = looks(selector, peaks, frame / 10)
        if not visits or not np.array_equal(visits[-1][1], direction):
            visits.append((frame / 10, direction))
    assert [stamp for stamp, _ in visits] == pytest.approx(
        [0, 1, 2, 3.5, 4.5, 6], abs=0.11
    )  # each 2.5 s after it was left
    order = [int(np.argmax(direction)) for _, direction in visits]
    assert order == [0, 1, 2, 0, 1, 2]


def test_a_target_that_vanishes_is_kept_for_the_dwell_and_may_come_back_at_once() -> None:
    selector = TargetSelector(SelectionSettings(min_dwell_s=0.5, inhibition_s=60))
    looks(selector, seen((FRONT, 3)), 0.0)
    assert np.array_equal(looks(selector, seen(), 0.4), FRONT)
    assert selector.update(seen(), 0.6) is None
    assert np.array_equal(looks(selector, seen((FRONT, 3)), 0.7), FRONT)


def test_a_moving_target_is_followed_across_the_seam_and_over_the_pole() -> None:
    for path in (lambda a: sphere.angles_to_vector(a, 0), lambda a: sphere.angles_to_vector(0, a)):
        selector = TargetSelector()
        for frame in range(90):
            place = path(2 * math.pi * frame / 90)
            rival = sphere.angles_to_vector(1.5, 0.9) if frame % 2 else sphere.angles_to_vector(-1.5, -0.9)
            target = selector.update(seen((place, 3), (rival, 3.3)) if frame else seen((place, 3)), frame / 30)
            assert target is not None
            assert np.allclose(target.direction, place)
            assert target.since_s == 0


def test_inhibited_places_stay_in_the_scene_when_the_camera_turns() -> None:
    selector = TargetSelector(SelectionSettings(min_dwell_s=0, inhibition_s=10))
    turned = sphere.rotation_yaw_pitch_roll(yaw_rad=math.pi)
    selector.update(seen((FRONT, 3)), 0.0, np.eye(3))
    selector.update(seen((FRONT, 3), (LEFT, 6)), 0.1, np.eye(3))  # leaves what is in front in the fixed frame
    # the camera turned about: the inhibited place is now behind it, the present target to its right
    target = selector.update(seen((BACK, 20), (-LEFT, 6), (TOP, 7)), 0.2, turned)
    assert target is not None
    assert np.allclose(target.direction, -LEFT)


@pytest.mark.parametrize("known", ["110011", "101010", "001111", "111000"])
def test_a_target_stays_where_the_camera_sees_it_when_orientation_comes_and_goes(known: str) -> None:
    """A robot's head follows the target: it must not jump by the camera's yaw, which is -87 degrees here."""
    orientation = sphere.rotation_yaw_pitch_roll(yaw_rad=math.radians(-87))
    selector = TargetSelector()
    for frame, is_known in enumerate(known):
        target = selector.update(seen((FRONT, 3), (LEFT, 3.1)), frame / 30, orientation if is_known == "1" else None)
        assert target is not None
        assert np.allclose(target.direction, LEFT)
        assert target.since_s == 0


@pytest.mark.parametrize("known", ["111", "110", "001"])
def test_a_target_just_left_stays_inhibited_when_orientation_comes_and_goes(known: str) -> None:
    orientation = sphere.rotation_yaw_pitch_roll(yaw_rad=2.0)
    selector = TargetSelector(SelectionSettings(min_dwell_s=0, inhibition_s=10))
    peaks = [seen((FRONT, 3)), seen((FRONT, 3), (LEFT, 6)), seen((FRONT, 20), (LEFT, 6))]
    for frame, (is_known, found) in enumerate(zip(known, peaks, strict=True)):
        target = selector.update(found, frame / 10, orientation if is_known == "1" else None)
    assert target is not None
    assert np.allclose(target.direction, LEFT)


@pytest.mark.parametrize("stamp_s", [-5.0, 3.0, math.nan])
def test_gaps_and_stamps_that_go_back_forget_the_past(stamp_s: float) -> None:
    selector = TargetSelector(SelectionSettings(min_dwell_s=100, reset_gap_s=1))
    looks(selector, seen((FRONT, 3)), 0.0)
    assert np.array_equal(looks(selector, seen((FRONT, 3), (LEFT, 3.1)), stamp_s), LEFT)


@pytest.mark.parametrize(
    "values", [{"min_dwell_s": -1.0}, {"switch_ratio": 0.5}, {"radius_rad": 4.0}, {"inhibition_s": math.inf}]
)
def test_settings_out_of_range_are_refused_by_name(values: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=next(iter(values))):
        SelectionSettings(**values)


@pytest.mark.parametrize("known", ["yyyynyyyy", "nnnyyyy", "yyyynnnnn", "ynynynyny"])
def test_an_orientation_that_comes_and_goes_does_not_move_the_target(known: str) -> None:
    """A camera that looks backwards in the fixed frame: body axes and fixed axes are half a turn apart."""
    selector = TargetSelector(SelectionSettings(min_dwell_s=60.0))
    backwards = sphere.rotation_yaw_pitch_roll(yaw_rad=math.pi)
    for frame, letter in enumerate(known):
        target = selector.update(seen((LEFT, 3), (FRONT, 2.9)), frame / 10, backwards if letter == "y" else None)
        assert target is not None
        np.testing.assert_allclose(target.direction, LEFT, atol=1e-9)
        assert target.since_s == 0.0


@pytest.mark.parametrize("known", ["yyn", "nny", "yynnny"])
def test_a_target_just_left_stays_inhibited_when_the_orientation_comes_or_goes(known: str) -> None:
    selector = TargetSelector(SelectionSettings(min_dwell_s=0, inhibition_s=60.0))
    turned = sphere.rotation_yaw_pitch_roll(yaw_rad=math.pi / 2)
    scores = [(3.0, 1.0)] + [(1.0, 6.0)] + [(9.0, 6.0)] * 4  # FRONT, then LEFT, then FRONT, which was just left
    for frame, letter in enumerate(known):
        front, left = scores[frame]
        peaks = seen((FRONT, front), (LEFT, left))
        target = selector.update(peaks, frame / 10, turned if letter == "y" else None)
    assert target is not None
    np.testing.assert_allclose(target.direction, LEFT, atol=1e-9)
