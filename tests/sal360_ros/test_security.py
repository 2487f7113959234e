"""The SROS2 policy allows exactly the topics and services that the nodes use on a live graph."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from rclpy.parameter import Parameter

from sal360_ros.autostart import autostart
from sal360_ros.camera import PanoramaCamera
from sal360_ros.viewer import SaliencyViewer

pytestmark = pytest.mark.ros


@pytest.fixture
def allowed(repository):
    """Full names that the policy allows a node to publish, subscribe to, serve and request."""
    policy = ElementTree.parse(repository / "config" / "sros2_policy.xml").getroot()

    def names(node):
        (enclave,) = (each for each in policy.iter("enclave") if each.get("path") == f"/{node}")
        (profile,) = enclave.iter("profile")
        assert (profile.get("ns"), profile.get("node")) == ("/", node)
        found = []
        rules = ("topics", "publish"), ("topics", "subscribe"), ("services", "reply"), ("services", "request")
        for element, rule in rules:
            groups = [each for each in profile.iter(element) if each.get(rule) == "ALLOW"]
            found.append({_full_name(each.text, node) for group in groups for each in group})
        return found

    return names


def _full_name(name, node):
    if name.startswith("~/"):
        return f"/{node}{name[1:]}"
    return name if name.startswith("/") else f"/{name}"


def _used(graph, node):
    """What a node publishes, subscribes to, serves and requests now."""
    return [
        {name for name, _ in graph.call(ask, node.get_name(), "/")}
        for ask in (
            node.get_publisher_names_and_types_by_node,
            node.get_subscriber_names_and_types_by_node,
            node.get_service_names_and_types_by_node,
            node.get_client_names_and_types_by_node,
        )
    ]


FORMS = [
    ({"image_transport": "raw", "orientation": "imu"}, {"/image", "/imu", "/clock"}),
    ({"image_transport": "compressed", "orientation": "odometry"}, {"/image/compressed", "/odom", "/clock"}),
]


@pytest.mark.parametrize(("parameters", "inputs"), FORMS, ids=["raw and imu", "compressed and odometry"])
def test_the_saliency_nodes_policy_matches_what_it_uses(graph, make_node, activate, allowed, parameters, inputs):
    publishes, subscribes, serves, requests = allowed("saliency_node")
    node = activate(make_node(use_sim_time=True, **parameters))
    graph.call(autostart, node, lambda: None)  # it needs a client, whatever the state
    published, subscribed, served, requested = _used(graph, node)
    assert published == publishes
    assert subscribed == inputs
    assert subscribes == set().union(*(inputs for _, inputs in FORMS))
    assert served == serves
    assert requested == requests


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_the_cameras_policy_covers_what_it_uses(graph, allowed, transport):
    publishes, subscribes, serves, requests = allowed("panorama_camera")
    overrides = [Parameter("image_transport", value=transport), Parameter("use_sim_time", value=True)]
    node = graph.add(graph.call(lambda: PanoramaCamera(context=graph.context, parameter_overrides=overrides)))
    published, subscribed, served, requested = _used(graph, node)
    frames = {"/image", "/image/compressed"}
    assert published - frames == publishes - frames
    assert published & frames == ({"/image"} if transport == "raw" else {"/image/compressed"})
    assert subscribed == subscribes
    assert served == serves
    assert requested == requests == set()


def test_the_viewers_policy_covers_what_it_uses(graph, allowed, make_node, activate, monkeypatch):
    publishes, subscribes, serves, requests = allowed("saliency_viewer")
    activate(make_node())  # it asks the node how the grids are computed
    overrides = [Parameter("port", value=0), Parameter("use_sim_time", value=True)]
    node = graph.add(graph.call(lambda: SaliencyViewer(context=graph.context, parameter_overrides=overrides)))
    monkeypatch.setattr(node._server, "wants_pictures", lambda: True)  # as while a page is open
    graph.wait_for(lambda: "/image" in _used(graph, node)[1], "the subscription")
    graph.wait_for(lambda: _used(graph, node)[3], "the questions")
    published, subscribed, served, requested = _used(graph, node)
    assert published == publishes
    assert subscribed == subscribes - {"/image/compressed"}
    assert served == serves
    assert requested == requests
