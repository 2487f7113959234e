from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from rclpy.node import Node
from rclpy.parameter import Parameter

from sal360.errors import ParameterError
from sal360.settings import Settings, flatten, setting, with_values
from sal360_ros.parameter_table import ParameterTable
from sal360_ros.parameters import CameraParameters, SaliencyParameters

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "config").glob("saliency*.yaml"))


def plain(value):
    """A value as YAML and ROS have it, which know only lists."""
    return list(value) if isinstance(value, tuple) else value


def flat(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_file_lists_every_parameter_with_its_default(path):
    with path.open() as file:
        shipped = dict(flat(yaml.safe_load(file)["/**"]["ros__parameters"]))
    defaults = {name: plain(value) for name, value, _ in flatten(SaliencyParameters())}
    assert shipped == defaults
    assert {name: type(value) for name, value in shipped.items()} == {
        name: type(value) for name, value in defaults.items()
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_file_names_every_choice(path):
    lines = path.read_text().splitlines()
    for name, default, rule in flatten(SaliencyParameters()):
        if rule.choices:
            (at,) = (at for at, line in enumerate(lines) if f"{name.split('.')[-1]}: {json.dumps(default)}" in line)
            said = lines[at - 1] + lines[at]  # the comment stands beside the value or above it
            assert all(str(choice) in said for choice in rule.choices), name


@pytest.mark.parametrize("values", [SaliencyParameters(), CameraParameters()], ids=lambda values: type(values).__name__)
def test_every_parameter_is_described_and_every_number_has_a_range(values):
    for name, default, rule in flatten(values):
        assert rule.description, name
        if isinstance(default, (int, float)) and not isinstance(default, bool):
            assert rule.minimum <= default <= rule.maximum, name
        if rule.choices:
            assert default in rule.choices, name


def test_ranges_of_settings_are_those_that_their_classes_hold():
    """The ends of a described range are accepted, and values beyond it are refused by the settings themselves."""
    defaults = SaliencyParameters()
    for name, default, rule in flatten(defaults):
        if "." not in name or rule.minimum is None or name.endswith("height_px"):
            continue
        for end, beyond in ((rule.minimum, rule.minimum - 1), (rule.maximum, rule.maximum + 1)):
            kind = type(default)
            with_values(defaults, {name: kind(end)})
            with pytest.raises(ParameterError, match=name.split(".")[1]):
                with_values(defaults, {name: kind(beyond)})


def test_every_setting_of_the_outputs_is_a_parameter():
    defaults = SaliencyParameters()
    names = {name for name, _, _ in flatten(defaults)}
    for each in dataclasses.fields(defaults):
        settings = getattr(defaults, each.name)
        if dataclasses.is_dataclass(settings):
            assert {f"{each.name}.{one.name}" for one in dataclasses.fields(settings)} <= names


@dataclasses.dataclass(frozen=True)
class Inner(Settings):
    depth: int = setting(2, "depth of the ford", minimum=0, maximum=9)
    width: int = setting(4, "width of the ford", choices=(2, 4, 8), unit="m")


@dataclasses.dataclass(frozen=True)
class Outer(Settings):
    speed: float = setting(1.0, "speed of the car", minimum=0, maximum=2, unit="m/s")
    colour: str = setting("red", "colour of the car", choices=("red", "blue"), changes="unconfigured")
    wheels: int = setting(4, "number of wheels", minimum=1, maximum=8, changes="start")
    inner: Inner = dataclasses.field(default_factory=Inner)


@pytest.fixture
def node_with(graph):
    def make(name="car", **overrides):
        return graph.call(
            lambda: Node(
                name,
                context=graph.context,
                automatically_declare_parameters_from_overrides=True,
                parameter_overrides=[
                    Parameter(key.replace("__", "."), value=value) for key, value in overrides.items()
                ],
            )
        )

    made = []

    def keep(*arguments, **overrides):
        made.append(make(*arguments, **overrides))
        return made[-1]

    yield keep
    for node in made:
        node.destroy_node()


@pytest.mark.ros
class TestTable:
    def test_start_values_replace_defaults_including_those_inside_groups(self, node_with):
        table = ParameterTable(node_with(speed=0.5, inner__depth=7), Outer())
        assert table.read() == Outer(speed=0.5, inner=Inner(7))
        assert table.unknown == []

    def test_descriptors_carry_ranges_choices_and_read_only(self, node_with):
        node = node_with()
        ParameterTable(node, Outer())
        speed, colour, wheels, depth, width = (
            node.describe_parameter(name) for name in ("speed", "colour", "wheels", "inner.depth", "inner.width")
        )
        assert speed.description == "speed of the car [m/s]"
        assert depth.description == "depth of the ford"
        assert (speed.floating_point_range[0].from_value, speed.floating_point_range[0].to_value) == (0.0, 2.0)
        assert (depth.integer_range[0].from_value, depth.integer_range[0].to_value) == (0, 9)
        assert colour.additional_constraints == "one of red, blue; can be changed only while the node is unconfigured"
        assert (width.integer_range[0].from_value, width.integer_range[0].to_value) == (2, 8)
        assert width.additional_constraints == "one of 2, 4, 8"
        assert wheels.read_only
        assert not speed.read_only

    def test_a_refused_start_value_is_reported_until_it_is_replaced(self, node_with):
        node = node_with(speed=9.0)
        table = ParameterTable(node, Outer())
        with pytest.raises(ParameterError, match=r"speed is 9\.0; set it to a number \(1\.0, not 1\) from 0 to 2 m/s"):
            table.read()
        assert node.set_parameters([Parameter("speed", value=1.5)])[0].successful
        assert table.read().speed == 1.5

    def test_a_parameter_that_is_read_once_is_not_to_be_set_later(self, node_with):
        table = ParameterTable(node_with(wheels=99), Outer())
        with pytest.raises(ParameterError, match=r"^wheels is 99; set it to a whole number from 1 to 8$"):
            table.read()

    def test_changes_act_at_once_and_refused_ones_change_nothing(self, node_with):
        def check(values):
            if values.speed * values.inner.depth > 10:
                raise ParameterError("too much", "slow down", expected="less")

        node = node_with()
        is_configured = []
        table = ParameterTable(node, Outer(), is_fixed=lambda: bool(is_configured), check=check)
        is_configured.append(True)
        refused = [
            Parameter("speed", value=2.5),
            Parameter("speed", value=1),
            Parameter("colour", value="blue"),
            Parameter("wheels", value=3),
        ]
        assert not any(result.successful for result in node.set_parameters(refused))
        assert table.current == Outer()
        together = node.set_parameters_atomically([Parameter("speed", value=2.0), Parameter("inner.depth", value=9)])
        assert together.reason == "too much; expected less; slow down"
        assert table.current == Outer()
        assert node.set_parameters([Parameter("inner.depth", value=9)])[0].successful
        assert table.current == Outer(inner=Inner(9))

    def test_a_refusal_names_the_parameter_in_full_and_says_what_is_allowed(self, node_with):
        node = node_with()
        table = ParameterTable(node, Outer())
        result = node.set_parameters([Parameter("inner.width", value=6)])[0]
        assert result.reason == "inner.width is 6; set it to 2, 4 or 8"
        assert table.current == Outer()

    def test_unknown_parameter_names_are_kept_for_a_warning(self, node_with):
        overrides = {"sped": 1.0, "use_sim_time": False, "qos_overrides./image.publisher.depth": 3}
        node = node_with(**overrides)
        table = ParameterTable(node, Outer())
        assert table.unknown == ["sped"]
        assert not node.has_parameter("sped")
