from __future__ import annotations

import math

import pytest
from geometry_msgs.msg import Quaternion
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Imu

from sal360_ros.orientation import KEPT_S, MAX_DISTANCE_S, OrientationInput, YawHistory

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


def test_old_yaws_are_forgotten_and_a_clock_that_goes_back_begins_anew():
    made = history(*[(stamp / 100, 0.0) for stamp in range(1000)])
    assert len(made._stamps_ns) == KEPT_S * 100 + 1
    made.add(5 * SECOND_NS, 1.0)
    assert made.at(5 * SECOND_NS) == 1.0
    assert made.at(9 * SECOND_NS) is None


@pytest.mark.ros
@pytest.mark.parametrize("source", ["imu", "odometry"])
def test_listens_to_what_was_named_and_ignores_what_is_no_orientation(graph, source):
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
