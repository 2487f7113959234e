"""The node's reports in /diagnostics and in its log if it, its inputs or its outputs have problems."""

from __future__ import annotations

import logging
import threading
import time

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import LivelinessPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from sal360_ros import node as node_module
from sal360_ros import shared_memory, topics

pytestmark = pytest.mark.ros


@pytest.fixture
def status(graph):
    """Waits until the message of the newest diagnostics has a part, and returns the status."""

    def wait_for(part):
        def newest():
            return graph.diagnostics.get("/saliency_node: saliency", DiagnosticStatus())

        graph.wait_for(lambda: part in newest().message, f"{part!r} in /diagnostics")
        return newest()

    return wait_for


@pytest.fixture
def other_process():
    """A node in a separate DDS participant, which may have topics of other types than the node under test."""
    context = Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = Node("camera", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_a_refused_transition_is_an_error_with_its_cause_until_one_succeeds(graph, make_node, tiny_model, status):
    node = make_node(model="/no/such.onnx")
    assert graph.call(node.trigger_configure).name == "FAILURE"
    found = status("cannot configure: there is no model file /no/such.onnx")
    assert found.level == DiagnosticStatus.ERROR
    assert found.hardware_id
    assert graph.values()["state"] == "unconfigured"
    assert graph.call(node.set_parameters, [Parameter("model", value=str(tiny_model))])[0].successful
    assert graph.call(node.trigger_configure).name == "SUCCESS"
    graph.wait_for(lambda: status("").message == "inactive", "the error to be gone")
    assert status("").level == DiagnosticStatus.OK


def test_a_warning_does_not_hide_an_error(graph, make_node, status):
    node = make_node(model="/no/such.onnx")
    make_node()
    graph.call(node.trigger_configure)
    graph.wait_for_line("2 nodes are named /saliency_node")
    graph.wait_for(lambda: status("cannot configure").level == DiagnosticStatus.ERROR)


def test_a_finalized_node_is_an_error(graph, make_node, status):
    node = make_node()
    assert graph.call(node.trigger_shutdown).name == "SUCCESS"
    assert status("finalized").level == DiagnosticStatus.ERROR


def test_an_output_that_fails_is_an_error_and_each_output_is_counted(graph, camera, active_node, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no colours")

    monkeypatch.setattr(topics, "draw_overlay", fail)
    graph.received(Image, "saliency/overlay")
    overlay = next(each for each in active_node._channels[0].outputs if each.topic == "saliency/overlay")
    camera.stream_until(lambda: overlay.counts.failed > 2, "failures")

    def said():
        camera.publish(camera.frame())
        time.sleep(0.02)
        found = graph.diagnostics.get("/saliency_node: saliency", DiagnosticStatus())
        is_said = "saliency/overlay fails: no colours" in found.message and found.level == DiagnosticStatus.ERROR
        return is_said and int(graph.values()["saliency/overlay.failed"]) > 2

    graph.wait_for(said, "the failure in /diagnostics")
    values = graph.values()
    assert values["saliency/overlay.published"] == "0"
    assert int(values["saliency.published"]) > 2
    assert "saliency/targets.dropped" in values


def test_a_blocked_executor_is_reported_by_the_watchdog(graph, make_node, monkeypatch, status):
    monkeypatch.setattr(node_module, "_EXECUTOR_LIMIT_S", 2.0)
    make_node()
    status("unconfigured")
    blocking = graph.node.create_timer(0.01, lambda: (blocking.cancel(), time.sleep(4)))
    graph.wait_for_line("the executor is blocked")
    graph.wait_for(lambda: status("").message == "unconfigured", "the error to be gone")


@pytest.mark.parametrize("clock", ["missing", "silent", "paused", "rewinding"])
def test_diagnostics_do_not_depend_on_the_ros_clock(graph, make_node, clock, status):
    if clock != "missing":
        publisher = graph.call(graph.node.create_publisher, Clock, "/clock", 10)
    make_node(use_sim_time=True)
    received = []
    graph.call(graph.node.create_subscription, topics.DiagnosticArray, "/diagnostics", received.append, 10)
    times_s = iter(range(1000, 0, -1)) if clock == "rewinding" else iter([1000] * 1000)

    def go_on():
        if clock in ("paused", "rewinding"):
            message = Clock()
            message.clock.sec = next(times_s)
            publisher.publish(message)
            time.sleep(0.1)
        return len(received) >= 3

    graph.wait_for(go_on, "diagnostics")
    if clock == "missing":
        assert status("/clock has no publisher").level == DiagnosticStatus.WARN
    elif clock == "silent":
        assert status("nothing arrives on /clock").level == DiagnosticStatus.WARN
    else:
        graph.wait_for(lambda: status("").message == "unconfigured", "no warning")
    assert all(array.header.stamp.sec for array in received)


def test_outputs_that_hang_are_an_error_and_the_maps_continue(graph, camera, make_node, activate, monkeypatch, status):
    go_on = threading.Event()
    monkeypatch.setattr(topics, "draw_overlay", lambda *_, **__: go_on.wait(60))
    try:
        activate(make_node(health__hang_s=0.5))
        graph.received(Image, "saliency/overlay")
        maps = graph.received(Image, "saliency")
        camera.stream_until(lambda: "the outputs have not returned" in str(graph.log), "the hang")
        assert status("the outputs have not returned").level == DiagnosticStatus.ERROR
        seen = len(maps)
        camera.stream_until(lambda: len(maps) > seen, "maps")
    finally:
        go_on.set()


def test_a_check_that_fails_leaves_the_rest_of_the_status(graph, make_node, monkeypatch, status):
    def fail(_):
        raise RuntimeError("the graph is not available")

    monkeypatch.setattr(node_module, "same_name_trouble", fail)
    make_node()
    found = status("the diagnostics are incomplete: RuntimeError: the graph is not available")
    assert found.level == DiagnosticStatus.ERROR
    assert graph.values()["state"] == "unconfigured"


def test_log_messages_of_the_library_reach_the_log_of_the_node(graph, make_node):
    make_node()
    logging.getLogger("sal360.runtimes.tensorrt.cache").info("building the engine %s", "x.engine")
    graph.wait_for_line("building the engine x.engine")


def test_the_library_is_left_alone_when_the_node_is_gone(graph, make_node):
    library = logging.getLogger("sal360")
    before = list(library.handlers)
    node = make_node()
    assert library.handlers != before
    graph._executor.remove_node(node)
    graph._nodes.remove(node)
    node.destroy_node()
    assert library.handlers == before


@pytest.mark.parametrize(
    ("transport", "image", "kind", "topic", "remedy"),
    [
        ("raw", "/cam", CompressedImage, "/cam/compressed", "set image_transport to compressed"),
        ("compressed", "/cam", Image, "/cam", "set image_transport to raw"),
        ("compressed", "/cam/compressed", CompressedImage, "/cam/compressed", "remap image to /cam"),
        (
            "raw",
            "/cam/compressed",
            CompressedImage,
            "/cam/compressed",
            "set image_transport to compressed while the node is unconfigured and remap image to /cam",
        ),
        (
            "raw",
            "/cam",
            CompressedImage,
            "/cam",
            "set image_transport to compressed while the node is unconfigured and remap image/compressed to /cam",
        ),
        ("raw", "/cam", Image, "/cam", "although it has a publisher"),
        (
            "raw",
            "/cam",
            Image,
            "/other",
            "or remap image to its topic (Image is published on /other)",
        ),
        ("raw", "/cam", String, "/cam", "no publisher of Image on /cam"),
    ],
)
def test_the_remedy_for_silence_leads_to_frames(
    other_process, make_node, activate, status, transport, image, kind, topic, remedy
):
    other_process.create_publisher(kind, topic, 10)
    activate(make_node(image_transport=transport, remap={"image": image}))
    found = status(remedy)
    assert found.level == DiagnosticStatus.WARN
    assert "/compressed/compressed to" not in found.message


def test_subscribers_can_ask_for_a_heartbeat(graph, camera, active_node):
    """Alive while active, even without frames; late maps and a node that stopped cause events."""
    alive, late = [], []
    qos = QoSProfile(
        depth=1,
        deadline=Duration(seconds=1),
        liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
        liveliness_lease_duration=Duration(seconds=2),
    )
    maps = []
    events = SubscriptionEventCallbacks(
        liveliness=lambda event: alive.append(event.alive_count), deadline=lambda event: late.append(event.total_count)
    )
    graph.call(lambda: graph.node.create_subscription(Image, "saliency", maps.append, qos, event_callbacks=events))
    camera.stream_until(lambda: maps and alive, "maps and liveliness")
    assert alive[-1] == 1
    graph.wait_for(lambda: len(late) >= 3, "late maps to be told")
    assert alive[-1] == 1  # three seconds without frames
    assert graph.call(active_node.trigger_deactivate).name == "SUCCESS"
    graph.wait_for(lambda: alive[-1] == 0, "the lost liveliness")


def test_the_heartbeat_can_be_overridden(graph, make_node, activate):
    activate(make_node(**{"qos_overrides./saliency.publisher.deadline": 5_000_000_000}))
    (offered,) = graph.node.get_publishers_info_by_topic("/saliency")
    assert offered.qos_profile.deadline == Duration(seconds=5)
    assert offered.qos_profile.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC


def test_a_watchdog_whose_check_fails_reports_it_and_the_diagnostics_continue(graph, active_node, monkeypatch, status):
    def fail():
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(active_node._pipeline, "revive", fail)
    found = status("the watchdog fails: RuntimeError: can't start new thread")
    assert found.level == DiagnosticStatus.ERROR
    monkeypatch.undo()
    graph.wait_for(lambda: "watchdog" not in status("").message, "the error to be gone")


@pytest.mark.usefixtures("active_node")
@pytest.mark.filterwarnings("ignore:.*tostring.*:DeprecationWarning")  # of cv_bridge
def test_messages_that_do_not_fit_into_the_shared_memory_are_a_warning(graph, camera, monkeypatch):
    """As after `overlay_height_px` was raised while the node runs."""
    monkeypatch.setattr(shared_memory, "_segment_bytes", 3 * 32 * 64 - 1)
    graph.received(Image, "saliency/overlay")

    def status():
        return graph.diagnostics.get("/saliency_node: saliency", DiagnosticStatus())

    camera.stream_until(lambda: "saliency/overlay has messages of" in status().message, "the warning")
    assert status().level == DiagnosticStatus.WARN
    assert "saliency has messages" not in status().message  # the map is smaller
    monkeypatch.setattr(shared_memory, "_segment_bytes", 3 * 32 * 64)
    camera.stream_until(lambda: "has messages of" not in status().message, "the warning to be gone")
