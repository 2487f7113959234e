from __future__ import annotations

import math

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from sal360_ros.diagnostics import Finding, OutputWatch, ThrottledWarnings, frame_findings, saliency_status
from sal360_ros.parameters import HealthSettings
from sal360_ros.statistics import SILENCE_S, WINDOW_S, FrameStatistics, OutputCounts

LIMITS = HealthSettings()


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def stream(statistics, clock, seconds, rate_hz=10):
    for _ in range(round(seconds * rate_hz)):
        clock.now_s += 1 / rate_hz
        statistics.count_received()
        statistics.count_answered(processing_s=0.02, age_s=0.03)


def test_rates_are_those_of_the_window_and_totals_those_since_the_start(clock):
    statistics = FrameStatistics(clock)
    stream(statistics, clock, 2)
    assert statistics.snapshot().answered_hz == pytest.approx(10)
    stream(statistics, clock, 20)
    assert statistics.snapshot().received_hz == pytest.approx(10, rel=0.05)
    assert statistics.snapshot().answered == 220
    clock.now_s += WINDOW_S + 1
    assert statistics.snapshot().answered_hz == 0
    assert statistics.snapshot().answered == 220


def test_percentiles_are_those_of_the_window(clock):
    statistics = FrameStatistics(clock)
    for value_ms in range(1, 101):
        statistics.count_answered(processing_s=value_ms / 1e3, age_s=2 * value_ms / 1e3)
    snapshot = statistics.snapshot()
    assert snapshot.processing.p50_s == pytest.approx(0.0505)
    assert snapshot.age.p95_s == pytest.approx(0.1901)
    clock.now_s += WINDOW_S + 1
    assert math.isnan(statistics.snapshot().processing.p50_s)


def test_ages_by_a_foreign_clock_are_unknown_and_not_misleading(clock):
    statistics = FrameStatistics(clock)
    statistics.count_answered(processing_s=0.01, age_s=1.7e9)
    assert math.isnan(statistics.snapshot().age.p50_s)
    assert statistics.snapshot().processing.p50_s == pytest.approx(0.01)


def test_silence_is_distinguished_from_a_pause(clock):
    statistics = FrameStatistics(clock)
    assert not statistics.snapshot().is_silent
    clock.now_s += SILENCE_S + 0.1
    assert statistics.snapshot().is_silent
    statistics.count_received()
    assert not statistics.snapshot().is_silent


@pytest.mark.parametrize(
    ("answers", "rejections", "others", "level", "message"),
    [
        (10, 0, [], DiagnosticStatus.OK, "all is well"),
        (10, 1, [], DiagnosticStatus.WARN, "rejecting frames, most often for bad_step"),
        (0, 3, [], DiagnosticStatus.ERROR, "rejecting frames, most often for bad_step"),
        (10, 0, ["two of them"], DiagnosticStatus.WARN, "two of them"),
        (0, 3, ["two of them"], DiagnosticStatus.ERROR, "rejecting frames, most often for bad_step | two of them"),
    ],
)
def test_the_level_is_that_of_the_worst_and_warnings_hide_no_error(clock, answers, rejections, others, level, message):
    statistics = FrameStatistics(clock)
    stream(statistics, clock, answers / 10)
    for _ in range(rejections):
        statistics.count_rejected("bad_step")
    clock.now_s = max(clock.now_s, 100.1)
    snapshot = statistics.snapshot()
    findings = [*[Finding(DiagnosticStatus.WARN, "", each) for each in others], *frame_findings(snapshot, LIMITS)]
    status = saliency_status("/node: saliency", "robot", snapshot, {}, {"model": "m"}, "all is well", findings)
    assert (status.level, status.message, status.name) == (level, message, "/node: saliency")
    values = {pair.key: pair.value for pair in status.values}
    assert values["rejected"] == str(rejections)
    assert values.get("rejected.bad_step", "0") == str(rejections)
    assert values["model"] == "m"
    assert status.hardware_id == "robot"


def judged(statistics, **limits):
    snapshot = statistics.snapshot()
    findings = frame_findings(snapshot, HealthSettings(**limits))
    status = saliency_status("/node: saliency", "", snapshot, {}, {}, "all is well", findings)
    return status.level, status.message


def test_the_current_reason_is_reported(clock):
    statistics = FrameStatistics(clock)
    for _ in range(100):
        statistics.count_rejected("short_data")
    clock.now_s += WINDOW_S + 1
    stream(statistics, clock, 1)
    statistics.count_rejected("not_2_to_1")
    assert judged(statistics) == (DiagnosticStatus.WARN, "rejecting frames, most often for not_2_to_1")
    assert statistics.snapshot().rejected == {"short_data": 100, "not_2_to_1": 1}


def test_a_runtime_that_hangs_is_an_error(clock):
    statistics = FrameStatistics(clock)
    stream(statistics, clock, 1)
    clock.now_s += 3600  # a pause of the camera is not a hang
    for _ in range(2 + round(WINDOW_S)):
        statistics.count_received()
        assert judged(statistics) == (DiagnosticStatus.OK, "all is well")
        clock.now_s += 0.5
    clock.now_s += WINDOW_S
    assert judged(statistics) == (DiagnosticStatus.ERROR, "frames arrive, but no map was published for 5 s")
    statistics.count_answered(processing_s=0.02, age_s=0.03)
    assert judged(statistics)[0] == DiagnosticStatus.OK


def test_a_kind_of_warning_is_logged_at_once_and_then_with_the_number_of_suppressed_ones(clock):
    said = []
    warnings = ThrottledWarnings(said.append, period_s=5, clock=clock)
    for _ in range(4):
        warnings.warn("step", "wrong step")
    warnings.warn("size", "wrong size")
    clock.now_s += 6
    warnings.warn("step", "wrong step")
    assert said == ["wrong step", "wrong size", "wrong step (3 similar warnings suppressed)"]


def test_answering_far_below_what_is_received_is_a_warning_whose_limit_can_be_set(clock):
    statistics = FrameStatistics(clock)
    for index in range(300):
        clock.now_s += 0.1
        statistics.count_received()
        if index % 4 == 0:
            statistics.count_answered(processing_s=0.4, age_s=0.4)
        else:
            statistics.count_superseded()
    level, message = judged(statistics)
    assert level == DiagnosticStatus.WARN
    assert message.startswith("2.4 maps per second for 10.2 frames per second")
    assert judged(statistics, min_answered_share=0.2) == (DiagnosticStatus.OK, "all is well")


def test_frames_that_are_rejected_or_just_began_to_come_are_not_held_against_the_machine(clock):
    statistics = FrameStatistics(clock)
    statistics.count_received()
    statistics.count_received()
    statistics.count_answered(processing_s=0.4, age_s=0.4)
    assert judged(statistics) == (DiagnosticStatus.OK, "all is well")
    clock.now_s += 3600  # and after a pause
    for _ in range(10):
        statistics.count_received()
    statistics.count_answered(processing_s=0.4, age_s=0.4)
    assert judged(statistics) == (DiagnosticStatus.OK, "all is well")
    clock.now_s += 10
    for index in range(100):
        clock.now_s += 0.1
        statistics.count_received()
        if index % 10:
            statistics.count_rejected("bad_step")
        else:
            statistics.count_answered(processing_s=0.04, age_s=0.04)
    assert judged(statistics) == (DiagnosticStatus.WARN, "rejecting frames, most often for bad_step")


def test_loss_in_transport_is_a_warning_while_it_lasts(clock):
    statistics = FrameStatistics(clock)
    stream(statistics, clock, 5)
    statistics.set_lost(12)
    stream(statistics, clock, 1)
    statistics.set_lost(12)
    assert judged(statistics) == (
        DiagnosticStatus.WARN,
        "19% of the frames are lost in transport; see docs/diagnostics.md",
    )
    assert judged(statistics, max_lost_share=0.5)[0] == DiagnosticStatus.OK
    assert statistics.snapshot().lost == 12
    stream(statistics, clock, WINDOW_S + 1)
    assert judged(statistics)[0] == DiagnosticStatus.OK


def test_timestamps_that_go_back_again_and_again_are_a_warning_and_one_of_a_loop_is_none(clock):
    statistics = FrameStatistics(clock)
    stream(statistics, clock, 1)
    statistics.count_went_back()
    assert judged(statistics) == (DiagnosticStatus.OK, "all is well")
    statistics.count_went_back()
    level, message = judged(statistics)
    assert level == DiagnosticStatus.WARN
    assert message.startswith("2 frames in 5 s with a timestamp before the previous one")
    stream(statistics, clock, WINDOW_S + 1)
    assert judged(statistics) == (DiagnosticStatus.OK, "all is well")


def test_an_output_is_judged_by_its_recent_results():
    watch = OutputWatch()

    def found(now_s, is_failing=False, **counts):
        totals = {"published": 0, "failed": 0, "dropped": 0, **counts}
        outputs = {"overlay": OutputCounts(**totals, last_error="no colours", is_failing=is_failing)}
        return [(each.level, each.text) for each in watch.findings(outputs, LIMITS, now_s)]

    assert found(0, failed=7) == []  # long ago, as far as is known
    assert found(1, failed=9) == [(DiagnosticStatus.ERROR, "overlay fails: no colours")]
    assert found(1, failed=9, is_failing=True) == [(DiagnosticStatus.ERROR, "overlay fails: no colours")]
    assert found(2, failed=9, published=1) == [(DiagnosticStatus.WARN, "overlay fails: no colours")]
    assert found(8, failed=9, published=20, dropped=10) == []
    text = "overlay skips 80% of the maps, because the outputs are slower than the stream"
    assert found(14, failed=9, published=22, dropped=18) == [(DiagnosticStatus.WARN, text)]
