from __future__ import annotations

import threading

import cv2
import psutil
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

pytestmark = pytest.mark.ros


def refused(graph, transition, reason):
    assert graph.call(transition).name == "FAILURE"
    return graph.wait_for_line(reason)


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"model": "/no/such.onnx"}, "cannot configure: there is no model file /no/such.onnx; check the path"),
        ({"device": "tpu"}, "cannot configure: device is 'tpu'; set it to auto, cpu, cuda or cuda:N"),
        ({"prior_strength": 11.0}, "prior_strength is 11.0; set it to a number (1.0, not 1) from 0 to 10"),
        ({"prior_strength": 1}, "prior_strength is 1; set it to a number (1.0, not 1) from 0 to 10"),
        ({"encoding": "png"}, "encoding is 'png'; set it to mono8 or 32FC1"),
        ({"threads": -1}, "threads is -1; set it to a whole number from 0 to 256"),
        ({"shading_rate__tile_px": 12}, "shading_rate.tile_px is 12; set it to 8, 16 or 32"),
        ({"qp_offset__strength": float("nan")}, "qp_offset.strength is nan; set it to a number"),
    ],
)
def test_a_wrong_start_value_refuses_configure_with_one_line_until_it_is_corrected(
    graph, make_node, tiny_model, parameters, line
):
    node = make_node(**parameters)
    said = refused(graph, node.trigger_configure, line)
    assert "\n" not in said
    assert "; " in said
    (name,) = parameters
    mended = {
        "model": str(tiny_model),
        "device": "cpu",
        "prior_strength": 1.0,
        "encoding": "mono8",
        "threads": 1,
        "shading_rate__tile_px": 8,
        "qp_offset__strength": 0.5,
    }[name]
    result = graph.call(node.set_parameters, [Parameter(name.replace("__", "."), value=mended)])[0]
    assert result.successful, result.reason
    assert graph.call(node.trigger_configure).name == "SUCCESS"


def test_a_file_that_is_not_a_model_and_a_spec_of_a_newer_version_are_refused(graph, make_node, make_model, tmp_path):
    text = tmp_path / "model.onnx"
    text.write_text("no model")
    refused(graph, make_node("a", model=str(text)).trigger_configure, "is not an ONNX model")
    newer = make_model(spec_version=99)
    refused(graph, make_node("b", model=str(newer)).trigger_configure, "has a spec of version 99; expected version")


def test_a_prior_strength_is_refused_for_a_model_without_prior(graph, make_node, make_model, activate):
    without = str(make_model(prior_log_rows=()))
    refused(graph, make_node("a", model=without, prior_strength=0.5).trigger_configure, "has no equator prior")
    node = activate(make_node("b", model=without))
    result = graph.call(node.set_parameters, [Parameter("prior_strength", value=0.5)])[0]
    assert not result.successful
    assert "has no equator prior; leave prior_strength at 1" in result.reason


def test_changes_that_need_another_model_are_refused_while_configured(graph, active_node):
    result = graph.call(active_node.set_parameters, [Parameter("backend", value="openvino")])[0]
    assert not result.successful
    assert "backend was set on a configured node; deactivate and clean up the node first" in result.reason
    for transition in (active_node.trigger_deactivate, active_node.trigger_cleanup):
        assert graph.call(transition).name == "SUCCESS"
    assert graph.call(active_node.set_parameters, [Parameter("backend", value="auto")])[0].successful


def test_opencv_chooses_its_threads_again_when_no_number_is_given(graph, make_node):
    cv2.setNumThreads(-1)
    own_choice = cv2.getNumThreads()
    node = make_node(threads=own_choice + 1)
    assert graph.call(node.trigger_configure).name == "SUCCESS"
    assert cv2.getNumThreads() == own_choice + 1
    assert graph.call(node.trigger_cleanup).name == "SUCCESS"
    assert graph.call(node.set_parameters, [Parameter("threads", value=0)])[0].successful
    assert graph.call(node.trigger_configure).name == "SUCCESS"
    assert cv2.getNumThreads() == own_choice


def test_an_invalid_override_refuses_activate_and_leaves_the_node_inactive(graph, make_node):
    node = make_node(**{"qos_overrides./image.subscription.reliability": "perhaps"})
    assert graph.call(node.trigger_configure).name == "SUCCESS"
    refused(graph, node.trigger_activate, "cannot activate: ")
    graph.wait_for(lambda: graph.values().get("state") == "inactive", "the state in /diagnostics")
    assert graph.call(node.trigger_cleanup).name == "SUCCESS"


def test_an_unknown_parameter_name_is_reported(graph, make_node):
    make_node(prior_strenght=0.5)
    graph.wait_for_line("there is no parameter prior_strenght")


@pytest.mark.parametrize("transition", [Transition(id=4), Transition(id=77), Transition(label="fly")])
def test_a_transition_that_does_not_lead_from_here_is_refused_and_the_node_lives(graph, make_node, transition):
    make_node()
    client = graph.call(graph.node.create_client, ChangeState, "/saliency_node/change_state")
    graph.wait_for(client.service_is_ready, "the service")

    def ask(request):
        future = client.call_async(ChangeState.Request(transition=request))
        graph.wait_for(future.done, "an answer")
        return future.result().success

    assert not ask(transition)
    assert ask(Transition(id=Transition.TRANSITION_CONFIGURE))


def test_no_map_after_deactivate_and_maps_again_after_activate(graph, camera, active_node):
    maps = graph.received(Image, "saliency")
    camera.stream_until(lambda: maps, "a map")
    assert graph.call(active_node.trigger_deactivate).name == "SUCCESS"
    seen = len(maps)
    graph.wait_for(lambda: camera._publisher.get_subscription_count() == 0, "the node to leave the topic")
    assert graph.call(active_node.trigger_activate).name == "SUCCESS"
    camera.stream_until(lambda: len(maps) > seen, "a map after the second activation")


def test_shutdown_frees_everything_from_the_active_state(graph, active_node):
    assert graph.call(active_node.trigger_shutdown).name == "SUCCESS"
    assert active_node._model.predictor is None
    graph.wait_for(lambda: "/saliency" not in dict(graph.node.get_topic_names_and_types()), "the topic to go")


@pytest.mark.parametrize("cycles", [12])
def test_cycles_leave_no_threads_handles_or_memory_behind(graph, camera, make_node, cycles):
    node = make_node()
    maps = graph.received(Image, "saliency")
    process = psutil.Process()
    usage = []
    for cycle in range(cycles):
        for transition in (node.trigger_configure, node.trigger_activate):
            assert graph.call(transition).name == "SUCCESS"
        seen = len(maps)
        camera.stream_until(lambda seen=seen: len(maps) > seen, f"a map in cycle {cycle}")
        for transition in (node.trigger_deactivate, node.trigger_cleanup):
            assert graph.call(transition).name == "SUCCESS"
        usage.append((threading.active_count(), process.num_fds(), process.memory_info().rss / 2**20))
    half = len(usage) // 2
    threads, handles, memory_mb = zip(*usage, strict=True)
    assert threads[-1] <= threads[half]
    assert handles[-1] <= handles[half]
    assert memory_mb[-1] < memory_mb[half] + 15
