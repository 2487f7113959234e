from __future__ import annotations

import dataclasses
import itertools
import time

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import PointStamped
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from sal360.outputs.targets import find_peaks
from sal360.sphere import body_to_frame, rotation_yaw_pitch_roll
from sal360_ros import topics
from sal360_ros.parameters import SaliencyParameters

pytestmark = [
    pytest.mark.ros,
    pytest.mark.filterwarnings("ignore:.*tostring.*:DeprecationWarning"),  # of cv_bridge, on numpy below 2.3
]


def test_the_overlay_shows_the_frame_at_the_size_asked_for(array_of, graph, camera, make_node, activate):
    activate(make_node(overlay_height_px=24, overlay_opacity=0.0))
    overlays = graph.received(Image, "saliency/overlay")
    camera.stream_until(lambda: overlays, "an overlay", height=48, width=96)
    assert (overlays[0].encoding, overlays[0].height, overlays[0].width) == ("bgr8", 24, 48)
    frame_bgr = array_of(camera.frame(48, 96))[..., ::-1]
    expected = cv2.resize(frame_bgr, (48, 24), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(array_of(overlays[0]).astype(int), expected, atol=1)


def test_targets_are_peaks_of_the_map_in_the_axes_asked_for(graph, camera, make_node, activate, density_of):
    activate(make_node(frame_convention="optical", yaw_offset_rad=0.5, targets__count=3, targets__min_score=1.0))
    clouds = graph.received(PointCloud2, "saliency/targets")
    points = graph.received(PointStamped, "saliency/target")
    markers = graph.received(MarkerArray, "saliency/markers")
    camera.stream_until(lambda: clouds and points and markers, "targets")
    peaks = find_peaks(density_of(camera.frame()))
    turned = peaks.directions @ rotation_yaw_pitch_roll(yaw_rad=0.5).T
    expected = body_to_frame(turned, "optical")[:3]
    assert [field.name for field in clouds[-1].fields] == ["x", "y", "z", "intensity"]
    cloud = np.frombuffer(clouds[-1].data, np.float32).reshape(-1, 4)
    np.testing.assert_allclose(cloud[:, :3], expected, atol=1e-5)
    np.testing.assert_allclose(cloud[:, 3], peaks.scores[:3], rtol=1e-5)
    point = points[-1].point
    np.testing.assert_allclose([point.x, point.y, point.z], expected[0], atol=1e-5)
    assert len(markers[-1].markers) == 1 + len(cloud)
    position = markers[-1].markers[1].pose.position
    np.testing.assert_allclose([position.x, position.y, position.z], expected[0], atol=1e-5)


@pytest.mark.parametrize(
    ("topic", "encoding", "parameters", "shape"),
    [
        ("saliency/shading_rate", "mono8", {"shading_rate__tile_px": 8}, (4, 8)),
        ("saliency/shading_rate", "mono8", {"shading_rate__height_px": 64, "shading_rate__tile_px": 32}, (2, 4)),
        ("saliency/qp_offset", "8SC1", {}, (2, 4)),
        ("saliency/qp_offset", "8SC1", {"qp_offset__height_px": 96}, (6, 12)),
    ],
)
def test_tiles_are_those_of_the_frame_or_of_the_picture_that_is_named(
    graph, camera, make_node, activate, topic, encoding, parameters, shape
):
    activate(make_node(**parameters))
    messages = graph.received(Image, topic)
    camera.stream_until(lambda: messages, topic)
    assert (messages[0].encoding, (messages[0].height, messages[0].width)) == (encoding, shape)


def test_tiles_of_a_reduced_jpeg_are_those_of_the_frame_as_it_was_sent(graph, compressed_camera, make_node, activate):
    activate(make_node(image_transport="compressed"))
    messages = graph.received(Image, "saliency/qp_offset")
    message = CompressedImage(format="jpeg")
    message.data.frombytes(cv2.imencode(".jpg", np.zeros((256, 512, 3), np.uint8))[1].data)  # 8 times the model's

    def answered():
        message.header = compressed_camera.header()
        compressed_camera.publish(message)
        return messages

    graph.wait_for(answered, "offsets")
    assert (messages[0].height, messages[0].width) == (16, 32)


@pytest.mark.parametrize(
    ("topic", "made_by"), [("saliency/shading_rate", "ShadingRate"), ("saliency/qp_offset", "QpOffset")]
)
@pytest.mark.usefixtures("active_node")
def test_frames_of_alternating_sizes_keep_their_tables(graph, camera, monkeypatch, topic, made_by):
    made = []
    make = getattr(topics, made_by)
    monkeypatch.setattr(topics, made_by, lambda *size: made.append(size[:2]) or make(*size))
    messages = graph.received(Image, topic)
    sizes = itertools.cycle([(32, 64), (64, 128), (96, 192)])

    def answered():
        camera.publish(camera.frame(*next(sizes)))
        time.sleep(0.02)
        return len({message.height for message in messages}) == 3 and len(messages) > 9

    graph.wait_for(answered, "all three sizes, again and again")
    assert sorted(made) == [(32, 64), (64, 128), (96, 192)]


@pytest.fixture
def publishers(graph):
    """The outputs of a node that is not active, by topic."""
    node = graph.add(graph.call(lambda: LifecycleNode("outputs", context=graph.context)))
    return {each.topic: each for each in graph.call(topics.make_outputs, node)}


@pytest.fixture
def prediction():
    density = np.random.default_rng(0).gamma(1, 1, (16, 32)).astype(np.float32)
    return topics.Prediction(Header(), np.zeros((32, 64, 3), np.uint8), "rgb", 32, 64, density, None, 0.0)


def test_the_table_names_every_topic_once_and_the_map_first(publishers):
    assert list(publishers) == [output.name for output in topics.OUTPUTS]
    assert next(iter(publishers)) == "saliency"
    assert [topics.OUTPUTS[0].type_name, topics.OUTPUTS[2].type_name] == [
        "sensor_msgs/Image",
        "geometry_msgs/PointStamped",
    ]


def test_published_dropped_and_failed_maps_of_an_output_are_counted(graph, publishers, prediction, monkeypatch):
    overlay = publishers["saliency/overlay"]
    graph.received(Image, "saliency/overlay")
    graph.wait_for(lambda: overlay.is_wanted, "the subscriber")
    assert overlay.counts == topics.OutputCounts(0, 0, 0, "", False)
    overlay.publish(prediction, SaliencyParameters())
    overlay.count_dropped()
    size = prediction.image.size
    assert overlay.counts == topics.OutputCounts(1, 0, 1, "", False, size)
    with monkeypatch.context() as patch:
        patch.setattr(topics, "draw_overlay", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            overlay.publish(prediction, SaliencyParameters())
    assert overlay.counts == topics.OutputCounts(1, 1, 1, "division by zero", True, size)
    overlay.publish(prediction, SaliencyParameters())
    assert overlay.counts == topics.OutputCounts(2, 1, 1, "division by zero", False, size)
    assert publishers["saliency/targets"].counts.published == 0


def test_an_output_without_a_message_counts_nothing(publishers, prediction):
    nothing = dataclasses.replace(prediction, density=np.ones((16, 32), np.float32))
    publishers["saliency/target"].publish(nothing, SaliencyParameters())
    assert publishers["saliency/target"].counts == topics.OutputCounts(0, 0, 0, "", False)


def test_topics_that_cannot_all_be_advertised_leave_none(graph, monkeypatch):
    def fail(*_):
        raise RuntimeError("no more topics")

    broken = dataclasses.replace(topics.OUTPUTS[-1], publisher=fail)
    monkeypatch.setattr(topics, "OUTPUTS", (*topics.OUTPUTS[:-1], broken))
    node = graph.add(graph.call(lambda: LifecycleNode("outputs", context=graph.context)))
    with pytest.raises(RuntimeError, match="no more topics"):
        topics.make_outputs(node)
    left = graph.call(node.get_publisher_names_and_types_by_node, "outputs", "/")
    assert not [name for name, _ in left if "saliency" in name]


@pytest.mark.usefixtures("active_node")
def test_nothing_but_the_map_is_computed_without_a_subscriber(graph, camera, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("computed for nobody")

    monkeypatch.setattr(topics, "draw_overlay", fail)
    for name in ("find_peaks", "ShadingRate", "QpOffset"):
        monkeypatch.setattr(topics, name, fail)
    maps = graph.received(Image, "saliency")
    for count in range(1, 4):
        camera.publish(camera.frame())
        graph.wait_for(lambda count=count: len(maps) == count)
    assert not [line for line in graph.log if "computed for nobody" in line]
    graph.received(PointCloud2, "saliency/targets")
    camera.stream_until(lambda: "computed for nobody" in str(graph.log), "the subscriber to make it compute")


@pytest.mark.usefixtures("active_node")
def test_an_output_that_fails_is_reported_and_stops_neither_the_map_nor_the_others(graph, camera, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no colours")

    monkeypatch.setattr(topics, "draw_overlay", fail)
    overlays = graph.received(Image, "saliency/overlay")
    clouds = graph.received(PointCloud2, "saliency/targets")
    camera.stream_until(lambda: clouds and "saliency/overlay failed: ValueError: no colours" in str(graph.log))
    assert not overlays
