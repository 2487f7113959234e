from __future__ import annotations

import math
import threading
import time
import types

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PointStamped, Quaternion
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Imu

from sal360_ros import orientation
from sal360_ros.orientation import (
    KEPT_S,
    MAX_DISTANCE_S,
    LastOrientation,
    OrientationInput,
    RotationHistory,
    YawHistory,
)

SECOND_NS = 1_000_000_000


def history(*pairs):
    made = YawHistory()
    for stamp_s, yaw_rad in pairs:
        made.add(round(stamp_s * SECOND_NS), yaw_rad)
    return made


def test_yaw_is_interpolated_between_two_stamps():
    assert history((1.0, 0.2), (1.1, 0.6)).at(round(1.025 * SECOND_NS)) == pytest.approx(0.3)


def test_yaw_is_interpolated_the_short_way_round():
    yaw_rad = history((1.0, math.pi - 0.1), (1.1, -math.pi + 0.1)).at(round(1.05 * SECOND_NS))
    assert math.remainder(yaw_rad - math.pi, 2 * math.pi) == pytest.approx(0, abs=1e-9)


def test_the_nearest_yaw_holds_for_a_moment_and_not_longer():
    made = history((1.0, 0.2))
    assert made.at(round((1 + 0.9 * MAX_DISTANCE_S) * SECOND_NS)) == 0.2
    assert made.at(round((1 - 0.9 * MAX_DISTANCE_S) * SECOND_NS)) == 0.2
    assert made.at(round((1 + 1.1 * MAX_DISTANCE_S) * SECOND_NS)) is None
    assert YawHistory().at(0) is None


def test_old_yaws_are_forgotten_and_a_clock_that_goes_back_starts_over():
    made = history(*[(stamp / 100, 0.0) for stamp in range(1000)])
    assert len(made._stamps_ns) == KEPT_S * 100 + 1
    made.add(5 * SECOND_NS, 1.0)
    assert made.at(5 * SECOND_NS) == 1.0
    assert made.at(9 * SECOND_NS) is None


@pytest.mark.ros
@pytest.mark.parametrize("source", ["imu", "odometry"])
def test_listens_to_the_named_source_and_ignores_messages_without_orientation(graph, source):
    made = OrientationInput(graph.node, source)
    kind, topic = (Imu, "imu") if source == "imu" else (Odometry, "odom")
    publisher = graph.call(graph.node.create_publisher, kind, topic, 10)
    graph.wait_for(publisher.get_subscription_count)

    def send(stamp_s, quaternion):
        message = kind()
        message.header.stamp.sec = stamp_s
        if source == "imu":
            message.orientation = quaternion
        else:
            message.pose.pose.orientation = quaternion
        publisher.publish(message)

    send(1, Quaternion(w=0.0))
    graph.wait_for_line("the quaternion is (0.0, 0.0, 0.0, 0.0)")
    send(2, Quaternion(z=math.sin(0.25), w=math.cos(0.25)))
    graph.wait_for(lambda: made.at(2 * SECOND_NS) is not None, "the orientation")
    assert made.at(2 * SECOND_NS)[1, 0] == pytest.approx(math.sin(0.5))
    assert made.at(1 * SECOND_NS) is None


@pytest.mark.ros
def test_an_imu_without_orientation_is_named(graph):
    OrientationInput(graph.node, "imu")
    publisher = graph.call(graph.node.create_publisher, Imu, "imu", 10)
    graph.wait_for(publisher.get_subscription_count)
    message = Imu()
    message.orientation_covariance[0] = -1
    publisher.publish(message)
    graph.wait_for_line("the IMU publishes no orientation")


@pytest.fixture
def looking_back(graph):
    """Publishes IMU samples of a camera that looks backwards in the fixed frame, at the stamp of a header."""
    publisher = graph.call(graph.node.create_publisher, Imu, "imu", 10)

    def publish(header):
        graph.wait_for(publisher.get_subscription_count, "the node to listen to the IMU")
        publisher.publish(Imu(header=header, orientation=Quaternion(z=1.0, w=0.0)))

    return publish


def targets_over(graph, camera, looking_back, known):
    """The targets of frames with (y) and without (n) an IMU sample at their stamp, in body axes."""
    targets = graph.received(PointStamped, "saliency/target")
    for count, letter in enumerate(known, start=1):
        frame = camera.frame()
        if letter == "y":
            looking_back(frame.header)
            time.sleep(0.05)
        camera.publish(frame)
        graph.wait_for(lambda count=count: len(targets) == count, f"target {count}")
    return np.array([[each.point.x, each.point.y, each.point.z] for each in targets])


@pytest.mark.ros
@pytest.mark.parametrize("hold_s", [0.0, 1.5, 60.0])
@pytest.mark.parametrize("known", ["nnyy", "yynyy", "yynnnnyy"])
def test_the_target_stays_where_it_is_when_the_imu_comes_and_goes(
    graph, camera, looking_back, make_node, activate, known, hold_s
):
    """Before the first sample, at a missing one, and while the IMU is silent for longer than it is bridged."""
    steady = {
        "target__min_dwell_s": 60.0,
        "target__reset_gap_s": 9.0,
        "smoothing__time_constant_s": 0.0,
        "targets__min_score": 0.0,
    }
    activate(make_node(orientation="imu", orientation_hold_s=hold_s, **steady))
    found = targets_over(graph, camera, looking_back, known)
    np.testing.assert_allclose(found, np.broadcast_to(found[0], found.shape), atol=1e-6)


@pytest.mark.ros
def test_frames_without_orientation_are_counted_and_reported_with_the_cause(graph, camera, make_node, activate):
    activate(make_node(orientation="imu"))

    def said(cause):
        def until():
            status = graph.diagnostics.get("/saliency_node: saliency", DiagnosticStatus())
            return cause in status.message and status.level == DiagnosticStatus.WARN

        camera.stream_until(until, cause)

    said("frames without orientation: no publisher on /imu")
    assert float(graph.values()["without_orientation_share"]) == 1.0
    assert int(graph.values()["without_orientation"]) > 0
    imu = graph.call(graph.node.create_publisher, Imu, "imu", 10)
    said("no message arrives on /imu")
    stopped = threading.Event()

    def drive():
        message = Imu(orientation=Quaternion(w=1.0))
        while not stopped.wait(0.05):
            message.header.stamp.sec += 100_000  # of another clock than the camera's
            imu.publish(message)

    driver = threading.Thread(target=drive)
    driver.start()
    try:
        said("s from the frame's timestamp")
    finally:
        stopped.set()
        driver.join()


@pytest.mark.ros
def test_an_imu_without_stamps_is_taken_by_arrival(graph):
    made = OrientationInput(graph.node, "imu")
    publisher = graph.call(graph.node.create_publisher, Imu, "imu", 10)
    graph.wait_for(publisher.get_subscription_count)
    publisher.publish(Imu(orientation=Quaternion(w=1.0)))
    graph.wait_for_line("messages on /imu have no timestamp")
    graph.wait_for(lambda: made.at(graph.node.get_clock().now().nanoseconds) is not None, "an orientation by arrival")


def test_a_sample_that_repeats_a_stamp_or_comes_late_does_not_cost_the_history():
    made = history((1.0, 0.1), (1.1, 0.2), (1.1, 0.3), (1.05, 9.0))
    assert made.at(round(1.1 * SECOND_NS)) == pytest.approx(0.3)
    assert made.at(round(1.0 * SECOND_NS)) == pytest.approx(0.1)


def test_the_rotations_for_levelling_outlive_a_late_sample_and_not_a_clock_that_is_set_back():
    made = RotationHistory()
    for stamp_s, height in ((1.0, 1), (1.09, 2), (1.1, 3), (1.1, 4), (1.05, 9)):
        made.add(round(stamp_s * SECOND_NS), height * np.eye(3))
    assert made.at(SECOND_NS)[0, 0] == 1
    assert made.at(round(1.05 * SECOND_NS))[0, 0] == 2  # the late one was dropped
    assert made.at(round(1.1 * SECOND_NS))[0, 0] == 4
    made.add(round(0.9 * SECOND_NS), 5 * np.eye(3))
    assert made.at(SECOND_NS)[0, 0] == 5
    assert made.at(round(1.1 * SECOND_NS)) is None


def test_the_last_orientation_is_kept_for_its_time_and_not_longer():
    last, north = LastOrientation(), np.eye(3)
    assert last.update(None, 0.0, 1.0) is None
    assert last.update(north, 1.0, 1.0) is north
    assert last.update(None, 2.0, 1.0) is north
    assert last.update(None, 2.1, 1.0) is None
    assert last.update(None, 1.5, 1.0) is None  # and does not come back


def test_samples_of_the_first_pass_are_forgotten_when_the_clock_is_set_back_a_little():
    made = history(*[(10 + step / 100, 0.0) for step in range(100)])
    made.add(round(10.5 * SECOND_NS), 1.0)  # half a second back
    assert made.at(round(10.5 * SECOND_NS)) == 1.0
    assert made.at(round(10.55 * SECOND_NS)) == 1.0


def about_z(yaw_rad):
    return Quaternion(z=math.sin(yaw_rad / 2), w=math.cos(yaw_rad / 2))


def odometry(stamp_ms, yaw_rad, frame="odom", child="base_link"):
    message = Odometry(child_frame_id=child)
    message.header.frame_id = frame
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ms * 1_000_000, SECOND_NS)
    message.pose.pose.orientation = about_z(yaw_rad)
    return message


def yaw_at(made, stamp_ms):
    rotation = made.at(stamp_ms * 1_000_000)
    return math.atan2(rotation[1, 0], rotation[0, 0])


@pytest.mark.ros
def test_another_fixed_frame_does_not_turn_the_camera(graph):
    made = graph.call(OrientationInput, graph.node, "odometry")
    made._on_odometry(odometry(1000, 0.5))
    made._on_odometry(odometry(1050, 2.0, frame="map"))
    assert yaw_at(made, 1050) == pytest.approx(0.5)
    graph.wait_for_line("the fixed frame of /odom has changed")
    made._on_odometry(odometry(1100, 2.1, frame="map"))
    assert yaw_at(made, 1100) == pytest.approx(0.6)
    made._on_odometry(odometry(1150, 0.7))  # back again: both frames are known now
    assert yaw_at(made, 1150) == pytest.approx(0.7)
    made._on_odometry(odometry(1200, 1.0, child="head"))
    assert yaw_at(made, 1200) == pytest.approx(0.7)
    for number in range(100):
        made._on_odometry(odometry(1300 + number, 1.0, frame=str(number)))
    assert len(made._offsets_rad) < 10


@pytest.mark.ros
def test_a_heading_that_is_set_to_zero_does_not_turn_the_camera(graph):
    made = graph.call(OrientationInput, graph.node, "odometry")
    for step in range(10):
        made._on_odometry(odometry(1000 + 10 * step, 1.5 + 0.01 * step))
    made._on_odometry(odometry(1100, 0.0))
    made._on_odometry(odometry(1110, 0.01))
    assert yaw_at(made, 1110) == pytest.approx(1.6)
    made._on_odometry(odometry(1410, 2.5))  # a fast turn while no sample arrived
    assert yaw_at(made, 1410) == pytest.approx(1.59 + 2.5 - 2 * math.pi)


@pytest.mark.ros
def test_an_orientation_whose_x_axis_is_vertical_gives_no_yaw(graph):
    made = graph.call(OrientationInput, graph.node, "odometry")
    message = odometry(1000, 0.0)
    message.pose.pose.orientation = Quaternion(y=-math.sin(math.pi / 4 - 0.02), w=math.cos(math.pi / 4 - 0.02))
    made._on_odometry(message)
    graph.wait_for_line("the x axis of /odom points up or down")
    assert made.at(SECOND_NS) is None


@pytest.mark.ros
def test_an_imu_whose_stamps_stand_still_is_taken_by_arrival(graph, monkeypatch):
    made = graph.call(OrientationInput, graph.node, "odometry")
    now_s = [100.0]
    monkeypatch.setattr(orientation, "time", types.SimpleNamespace(monotonic=lambda: now_s[0]))
    made._on_odometry(odometry(1000, 0.5))
    made._on_odometry(odometry(1000, 0.5))  # one that is sent twice is not enough
    assert made._history.newest()[0] == SECOND_NS
    now_s[0] += 1.0
    made._on_odometry(odometry(1000, 0.6))
    graph.wait_for_line("messages on /odom have a timestamp that stands still")
    assert made.at(graph.node.get_clock().now().nanoseconds) is not None
