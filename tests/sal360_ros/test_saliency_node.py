from __future__ import annotations

import math
import re
import time

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PointStamped, Quaternion
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, Imu

from sal360.outputs.overlay import saliency_to_mono8
from sal360.predictor import Predictor

pytestmark = pytest.mark.ros


def test_answers_with_the_models_density_under_the_frames_own_header(
    array_of, graph, camera, make_node, activate, density_of
):
    activate(make_node(encoding="32FC1"))
    maps = graph.received(Image, "saliency")
    frame = camera.frame(96, 192)
    frame.header.frame_id = "theta"
    camera.publish(frame)
    graph.wait_for(lambda: maps, "a map")
    assert maps[0].header == frame.header
    assert (maps[0].height, maps[0].width, maps[0].encoding, maps[0].step) == (16, 32, "32FC1", 128)
    np.testing.assert_array_equal(array_of(maps[0], np.float32), density_of(frame))


def test_mono8_is_the_density_over_full_scale(array_of, graph, camera, make_node, activate, density_of):
    activate(make_node(full_scale=3.0))
    maps = graph.received(Image, "saliency")
    frame = camera.publish(camera.frame())
    graph.wait_for(lambda: maps, "a map")
    assert maps[0].encoding == "mono8"
    np.testing.assert_array_equal(array_of(maps[0]), saliency_to_mono8(density_of(frame), 3.0))


def test_maps_are_smoothed_by_the_time_between_stamps(array_of, graph, camera, make_node, activate, density_of):
    activate(make_node(encoding="32FC1", smoothing__time_constant_s=2.0, smoothing__cut_distance=1.0))
    maps = graph.received(Image, "saliency")
    first = camera.publish(camera.frame(32, 64))
    graph.wait_for(lambda: len(maps) == 1)
    second = camera.publish(camera.frame(64, 128))  # one second later, other noise
    graph.wait_for(lambda: len(maps) == 2)
    kept = math.exp(-1 / 2)
    expected = kept * density_of(first) + (1 - kept) * density_of(second)
    np.testing.assert_allclose(array_of(maps[1], np.float32), expected, rtol=1e-4)


def test_the_smoothed_map_turns_with_the_camera(array_of, graph, camera, make_node, activate, density_of):
    """After a quarter turn to the left, reported by the IMU, the content in front is on the right: 8 of 32 columns."""
    smoothing = {"smoothing__time_constant_s": 60.0, "smoothing__cut_distance": 1.0, "smoothing__reset_gap_s": 9.0}
    activate(make_node(encoding="32FC1", orientation="imu", **smoothing))
    maps = graph.received(Image, "saliency")
    imu = graph.call(graph.node.create_publisher, Imu, "imu", 10)
    graph.wait_for(imu.get_subscription_count, "the node to listen to the IMU")
    turned_rad = 0.0
    frames = [camera.frame(32, 64), camera.frame(64, 128)]
    for index, frame in enumerate(frames):
        half = Quaternion(z=math.sin(turned_rad / 2), w=math.cos(turned_rad / 2))
        imu.publish(Imu(header=frame.header, orientation=half))
        camera.publish(frame)
        graph.wait_for(lambda index=index: len(maps) == index + 1, "a map")
        turned_rad += math.pi / 2
    before, after = density_of(frames[0]), array_of(maps[1], np.float32)
    as_turned = np.abs(after - np.roll(before, 8, axis=1)).mean()
    as_it_was = np.abs(after - before).mean()
    assert as_turned < 0.2 * as_it_was


def test_takes_compressed_frames_under_the_name_that_image_transport_gives(
    graph, compressed_camera, make_node, activate
):
    activate(make_node(image_transport="compressed"))
    maps = graph.received(Image, "saliency")
    picture = np.full((64, 128, 3), 90, np.uint8)
    message = CompressedImage(header=compressed_camera.header(), format="jpeg")
    message.data.frombytes(cv2.imencode(".jpg", picture)[1].data)
    compressed_camera.publish(message)
    graph.wait_for(lambda: maps, "a map")
    assert maps[0].header == message.header


@pytest.mark.usefixtures("active_node")
def test_sizes_and_encodings_may_change_from_frame_to_frame(graph, camera):
    maps = graph.received(Image, "saliency")
    for index, size in enumerate([(32, 64), (50, 100), (322, 640), (32, 64)]):
        frame = camera.frame(*size)
        if index % 2:
            frame.encoding = "bgr8"
        camera.publish(frame)
        graph.wait_for(lambda index=index: len(maps) == index + 1, f"a map of {size}")
    assert "rejected" not in str(graph.log)


@pytest.mark.usefixtures("active_node")
def test_stamps_that_go_back_are_answered_logged_and_counted(graph, camera):
    maps = graph.received(Image, "saliency")
    older, newer = camera.frame(), camera.frame()
    camera.publish(newer)
    graph.wait_for(lambda: len(maps) == 1)
    camera.publish(older)
    graph.wait_for(lambda: len(maps) == 2, "a map of the older frame")
    graph.wait_for_line("timestamp went backwards by 1.000 s; frame processed anyway")
    graph.wait_for(lambda: graph.values().get("stamps_backwards") == "1", "the count in /diagnostics")


@pytest.mark.parametrize("stamp_s", [0, 1000])
def test_stamps_that_stand_still_are_counted_and_time_advances_by_arrival(
    array_of, graph, camera, make_node, activate, density_of, stamp_s
):
    """A driver that leaves the stamp empty, or never changes it: smoothing and the dwell on a target go on."""
    smoothed = {"smoothing__time_constant_s": 60.0, "smoothing__cut_distance": 1.0, "smoothing__reset_gap_s": 60.0}
    restless = {"target__min_dwell_s": 0.05, "target__max_dwell_s": 0.1, "targets__min_score": 0.0}
    activate(make_node(encoding="32FC1", **smoothed, **restless))
    maps, targets = graph.received(Image, "saliency"), graph.received(PointStamped, "saliency/target")

    def publish(*size):
        frame = camera.frame(*size)
        frame.header.stamp.sec, frame.header.stamp.nanosec = stamp_s, 0
        return camera.publish(frame)

    first = publish(32, 64)
    graph.wait_for(lambda: len(maps) == 1)
    publish(64, 128)  # other noise
    graph.wait_for(lambda: len(maps) == 2)
    kept = np.abs(array_of(maps[1], np.float32) - density_of(first)).mean()
    assert kept < 0.2 * np.abs(density_of(camera.frame(64, 128)) - density_of(first)).mean()

    def moved():
        publish(32, 64)
        time.sleep(0.02)
        return len({(round(each.point.x, 3), round(each.point.y, 3)) for each in targets}) > 1

    graph.wait_for(moved, "another target")
    graph.wait_for_line("with a timestamp of zero or that stands still; using arrival times")
    graph.wait_for(lambda: int(graph.values().get("stamps_standing_still", 0)) > 0, "the count")
    assert graph.diagnostics["/saliency_node: saliency"].level == DiagnosticStatus.WARN


def test_live_parameters_act_on_the_next_frame(graph, camera, active_node):
    maps = graph.received(Image, "saliency")
    camera.publish(camera.frame())
    graph.wait_for(lambda: len(maps) == 1)
    results = graph.call(active_node.set_parameters, [Parameter("encoding", value="32FC1")])
    assert results[0].successful
    camera.publish(camera.frame())
    graph.wait_for(lambda: len(maps) == 2)
    assert [each.encoding for each in maps] == ["mono8", "32FC1"]


def test_the_prior_can_be_taken_out_while_running(array_of, graph, camera, make_node, activate, tiny_model):
    node = activate(make_node(encoding="32FC1", smoothing__time_constant_s=0.0))
    assert graph.call(node.set_parameters, [Parameter("prior_strength", value=0.0)])[0].successful
    maps = graph.received(Image, "saliency")
    frame = camera.publish(camera.frame())
    graph.wait_for(lambda: maps)
    with Predictor(tiny_model, backend="onnxruntime", device="cpu", threads=1, prior_strength=0.0) as without:
        np.testing.assert_allclose(array_of(maps[0], np.float32), without.predict(array_of(frame), "rgb"), rtol=1e-5)


def test_the_front_prior_lies_on_the_forward_axis_of_frame_id(array_of, graph, camera, make_node, activate, tiny_model):
    node = activate(make_node(encoding="32FC1", smoothing__time_constant_s=0.0, yaw_offset_rad=math.pi / 2))
    maps = graph.received(Image, "saliency")
    frame = camera.publish(camera.frame())
    graph.wait_for(lambda: len(maps) == 1)
    assert graph.call(node.set_parameters, [Parameter("front_strength", value=1.0)])[0].successful
    camera.publish(camera.frame())
    graph.wait_for(lambda: len(maps) == 2)
    plain, to_front = (array_of(each, np.float32) for each in maps)
    with Predictor(tiny_model, backend="onnxruntime", device="cpu", threads=1) as without:
        np.testing.assert_array_equal(plain, without.predict(array_of(frame), "rgb"))
    gain = (to_front / plain)[plain.shape[0] // 2]
    # the frame's middle is 90° to the left of the forward axis, which is therefore at 3/4 of the width
    assert abs(int(gain.argmax()) + 0.5 - 0.75 * len(gain)) < 1


@pytest.mark.usefixtures("active_node")
def test_names_the_incompatible_policy_and_the_remedy(graph):
    lasting = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    graph.received(Image, "saliency", lasting)
    line = graph.wait_for_line("incompatible with this node in durability")
    assert "parameter qos_overrides./saliency.publisher.durability" in line


@pytest.mark.parametrize(
    ("kind", "topic", "policy", "parameters"),
    [
        (Image, "saliency", "deadline", ["deadline"]),
        (Image, "saliency", "liveliness", ["liveliness", "liveliness_lease_duration"]),
        (PointStamped, "saliency/target", "deadline", []),
    ],
)
def test_the_remedy_for_an_incompatible_policy_names_only_parameters_that_exist(
    graph, active_node, kind, topic, policy, parameters
):
    lease = {"liveliness": LivelinessPolicy.MANUAL_BY_TOPIC, "liveliness_lease_duration": Duration(seconds=0.5)}
    wanted = {"deadline": Duration(seconds=0.5)} if policy == "deadline" else lease
    graph.received(kind, topic, QoSProfile(depth=1, **wanted))
    line = graph.wait_for_line(f"incompatible with this node in {policy}")
    named = re.findall(r"qos_overrides\.[\w/.]+", line)
    assert named == [f"qos_overrides./{topic}.publisher.{each}" for each in parameters]
    assert all(active_node.has_parameter(each) for each in named)


def test_quality_of_service_can_be_overridden_from_outside(graph, make_node, activate):
    """Requesting reliable frames from a best-effort camera: incompatible, and reported as such."""
    override = {"qos_overrides./image.subscription.reliability": "reliable"}
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    graph.call(graph.node.create_publisher, Image, "image", best_effort)
    activate(make_node(**override))
    line = graph.wait_for_line("incompatible with this node in reliability")
    assert "parameter qos_overrides./image.subscription.reliability" in line


@pytest.mark.usefixtures("active_node")
def test_diagnostics_account_for_every_frame(graph, camera):
    maps = graph.received(Image, "saliency")
    camera.stream_until(lambda: len(maps) >= 10)

    def is_consistent():
        values = {key: int(graph.values().get(key, -1)) for key in ("received", "answered", "dropped_stale")}
        return values["received"] >= 10 and values["received"] == values["answered"] + values["dropped_stale"]

    graph.wait_for(is_consistent, "received = answered + dropped_stale")
    values = graph.values()
    assert values["state"] == "active"
    assert values["model"] == "tiny 0.0.1"
    assert "onnxruntime on cpu" in values["backend"]
    assert float(values["processing_p50_ms"]) > 0
    assert values["stamp_to_publish_p50_ms"] == "unknown"  # these stamps are seconds after 1970
    assert values["rejected"] == "0"


def test_diagnostics_say_when_and_why_no_frames_come(graph, make_node, activate):
    graph.call(graph.node.create_publisher, CompressedImage, "image/compressed", 10)
    activate(make_node())
    line = graph.wait_for_line("no publisher of Image on /image, but one of CompressedImage on /image/compressed")
    assert "set image_transport to compressed" in line
    graph.wait_for(lambda: graph.diagnostics["/saliency_node: saliency"].level == DiagnosticStatus.WARN, "a warning")


def test_a_second_node_of_the_same_name_is_named_and_both_live(graph, make_node):
    make_node()
    make_node()
    line = graph.wait_for_line("2 nodes are named /saliency_node")
    assert "-r __node:=another_name" in line
