"""Several cameras in one node: each has its topics, parameters, statistics and troubles, and one network serves all."""

from __future__ import annotations

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from sal360.errors import FrameError, ModelError, ParameterError
from sal360.predictor import Predictor
from sal360_ros.parameters import SaliencyParameters

pytestmark = pytest.mark.ros

TOGETHER = {"cameras": ["front", "rear"], "batch_wait_s": 1.0}


@pytest.fixture
def front(make_camera):
    return make_camera("front/image")


@pytest.fixture
def rear(make_camera):
    return make_camera("rear/image")


@pytest.fixture
def batches(monkeypatch):
    """Sizes of the batches that the network was given; errors in `faults` are raised first."""

    class Batches(list):
        def __init__(self):
            self.faults = []

    sizes, predict_batch = Batches(), Predictor.predict_batch

    def counted(self, frames, channels):
        sizes.append(len(frames))
        if len(frames) > 1 and sizes.faults:
            raise sizes.faults.pop()
        return predict_batch(self, frames, channels)

    monkeypatch.setattr(Predictor, "predict_batch", counted)
    return sizes


def counts(node, camera):
    snapshot = node._channels[camera].statistics.snapshot()
    return snapshot.answered, dict(snapshot.rejected)


def test_each_camera_has_its_topics_its_parameters_and_its_status(
    graph, front, rear, make_node, activate, density_of, array_of
):
    activate(make_node(cameras=["front", "rear"], encoding="32FC1", rear__encoding="mono8", rear__full_scale=4.0))
    maps = {name: graph.received(Image, f"{name}/saliency") for name in ("front", "rear")}
    frames = {"front": front.publish(front.frame()), "rear": rear.publish(rear.frame(36, 72))}
    graph.wait_for(lambda: all(maps.values()), "a map of each camera")
    assert maps["front"][0].header == frames["front"].header
    np.testing.assert_allclose(array_of(maps["front"][0], np.float32), density_of(frames["front"]), rtol=1e-5)
    expected = np.clip(np.round(density_of(frames["rear"]) * 255 / 4), 0, 255)
    assert np.abs(array_of(maps["rear"][0]) - expected).max() <= 1
    graph.wait_for(lambda: "/saliency_node: rear" in graph.diagnostics, "a status of each camera")
    values = {pair.key: pair.value for pair in graph.diagnostics["/saliency_node: rear"].values}
    assert "saliency.published" in values
    assert "model" in graph.values()
    assert "received" not in graph.values()


def test_frames_that_are_there_are_predicted_together(graph, front, rear, make_node, activate, batches, density_of):
    activate(make_node(**TOGETHER, encoding="32FC1"))
    assert batches[-1] == 2  # when the node was configured, so that no frame waits for a runtime's first run
    maps = graph.received(Image, "front/saliency")
    front.stream_until(lambda: maps, "a map of the front")
    rear.stream_until(lambda: front.publish(front.frame()) and batches[-1] == 2, "a batch of both")
    frame = front.publish(front.frame(48, 96))
    graph.wait_for(lambda: maps[-1].header == frame.header, "its map")
    assert {(each.height, each.width) for each in maps} == {density_of(frame).shape}


def test_a_bad_frame_of_one_camera_does_not_disturb_the_other(graph, front, rear, make_node, activate):
    node = activate(make_node(**TOGETHER))
    rear.stream_until(lambda: front.publish(front.frame(32, 48)) and counts(node, 1)[0], "a map of the rear")
    graph.wait_for_line("front: frame rejected (not_2_to_1)")
    assert counts(node, 0)[0] == 0
    assert counts(node, 1)[1] == {}

    def told():
        rear.publish(rear.frame())
        front.publish(front.frame(32, 48))
        status = graph.diagnostics.get("/saliency_node: front", DiagnosticStatus())
        return "rejecting frames" in status.message

    graph.wait_for(told, "the status of the front")
    assert graph.diagnostics["/saliency_node: rear"].level == DiagnosticStatus.OK
    assert graph.diagnostics["/saliency_node: saliency"].level == DiagnosticStatus.OK


@pytest.mark.parametrize(
    ("fault", "rejected"),
    [
        (FrameError("a map is not finite", "set precision to fp32", reason="map_not_finite"), {}),
        (ModelError("the GPU is gone", "see nvidia-smi"), {"inference_failed": 1}),
    ],
)
def test_an_unusable_map_does_not_cost_the_others_theirs(front, rear, make_node, activate, batches, fault, rejected):
    node = activate(make_node(**TOGETHER))
    batches.faults.append(fault)
    rear.stream_until(lambda: front.publish(front.frame()) and not batches.faults, "a batch that fails")
    rear.stream_until(lambda: front.publish(front.frame()) and counts(node, 0)[0] and counts(node, 1)[0], "maps")
    assert [counts(node, camera)[1] for camera in (0, 1)] == [rejected] * 2


def test_a_camera_that_is_not_there_is_silent_and_the_other_is_fine(graph, front, make_node, activate):
    activate(make_node(cameras=["front", "rear"]))

    def silent():
        return graph.diagnostics.get("/saliency_node: rear", DiagnosticStatus()).message

    front.stream_until(lambda: "remap rear/image to its topic" in silent(), "the silence to be reported")
    assert graph.diagnostics["/saliency_node: front"].level == DiagnosticStatus.OK


def test_a_camera_follows_the_common_value_until_its_own_is_set(graph, make_node):
    node = make_node(cameras=["front", "rear"], rear__full_scale=4.0, full_scale=6.0)

    def values():
        named = [node.get_parameter(f"{name}.full_scale").value for name in ("front", "rear")]
        assert named == [node._table.of(name).full_scale for name in ("front", "rear")]
        return named

    def set_to(name, value):
        return [each.successful for each in graph.call(node.set_parameters, [Parameter(name, value=value)])]

    assert values() == [6.0, 4.0]
    assert set_to("full_scale", 7.0) == [True]
    assert values() == [7.0, 4.0]
    assert set_to("front.full_scale", 5.0) == [True]
    assert set_to("full_scale", 8.0) == [True]
    assert values() == [5.0, 4.0]
    assert set_to("front.full_scale", -1.0) == [False]
    assert not node.has_parameter("front.model")


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["front", "front"], "'front' 2 times"),
        (["front", "rear camera"], "'rear camera', which cannot be part of a topic's name"),
        (["front", "2nd"], "'2nd', which cannot"),
        (["front", "a__b"], "'a__b', which cannot"),
        (["front", ""], "'', which cannot"),
        (["front", "smoothing"], "'smoothing', which is the name of a parameter"),
        ([f"camera{number}" for number in range(17)], "17 names"),
    ],
)
def test_impossible_names_of_cameras_are_refused(names, part):
    with pytest.raises(ParameterError, match=part):
        SaliencyParameters(cameras=tuple(names))


def test_impossible_names_refuse_the_transition_in_one_line(graph, make_node):
    node = make_node(cameras=["front", "front"], front__image_transport="raw")
    assert graph.call(node.trigger_configure).name == "FAILURE"
    graph.wait_for_line("cannot configure: cameras has 'front' 2 times")
    assert not [line for line in graph.log if "there is no parameter" in line]
