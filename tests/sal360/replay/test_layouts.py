from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sal360.outputs.overlay import FULL_SCALE
from sal360.replay.recorders import MAP_TOPIC, OVERLAY_TOPIC, TARGET_TOPIC

# What the node publishes, and the bag with the maps.
TOPICS = {
    "/saliency": "Image",
    "/saliency/overlay": "Image",
    "/saliency/target": "PointStamped",
    "/saliency/targets": "PointCloud2",
    "/saliency/markers": "MarkerArray",
}


def test_each_rviz_display_takes_a_topic_of_its_own_type(repository: Path) -> None:
    layout = yaml.safe_load((repository / "config" / "saliency.rviz").read_text())
    displays = layout["Visualization Manager"]["Displays"]
    shown = {
        display["Topic"]["Value"]: display["Class"].removeprefix("rviz_default_plugins/")
        for display in displays
        if "Topic" in display
    }
    assert shown == TOPICS
    (density,) = (display for display in displays if display.get("Topic", {}).get("Value") == "/saliency")
    assert (density["Normalize Range"], density["Max Value"]) == (False, FULL_SCALE)  # it must not pump


@pytest.fixture
def foxglove(repository: Path) -> dict[str, Any]:
    """The Foxglove layout."""
    return json.loads((repository / "config" / "saliency.foxglove.json").read_text())


def panels_in(layout: Any) -> Iterator[str]:
    if isinstance(layout, str):
        yield layout
    else:
        assert layout["direction"] in ("row", "column")
        assert 0 < layout["splitPercentage"] < 100
        yield from panels_in(layout["first"])
        yield from panels_in(layout["second"])


def test_foxglove_shows_every_panel_that_is_configured(foxglove: dict[str, Any]) -> None:
    (tabs,) = panels_in(foxglove["layout"])
    shown = [panel for tab in foxglove["configById"][tabs]["tabs"] for panel in panels_in(tab["layout"])]
    assert sorted([*shown, tabs]) == sorted(foxglove["configById"])


def test_foxglove_takes_the_topics_of_node_and_bag_at_their_scales(foxglove: dict[str, Any]) -> None:
    panels = foxglove["configById"]
    images = {name: panel["imageMode"] for name, panel in panels.items() if "imageMode" in panel}
    assert {each["imageTopic"] for each in images.values()} == {"/saliency", "/saliency/overlay", OVERLAY_TOPIC}
    assert set(panels["3D!targets"]["topics"]) == {"/saliency/markers", "/saliency/targets"}
    assert images["Image!map"]["maxValue"] == 255  # mono8, the node's default
    assert (images["Image!bag-map"]["imageTopic"], images["Image!bag-map"]["maxValue"]) == (MAP_TOPIC, FULL_SCALE)
    assert {path["value"].split(".")[0] for path in panels["Plot!bag-target"]["paths"]} == {TARGET_TOPIC}
