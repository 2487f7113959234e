"""The launch file: its arguments everywhere, and the launched node where the launch system is installed."""

from __future__ import annotations

import ast
import re
import runpy
import shutil
import signal
import subprocess
import sys
from types import ModuleType

import pytest
from lifecycle_msgs.srv import GetState

from sal360.settings import flatten
from sal360_ros import saliency_node
from sal360_ros.executable import PARENT_VARIABLE
from sal360_ros.parameters import CameraParameters, SaliencyParameters
from tests.child_signals import sigint_of_children

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def constants(repository):
    """The tables at the top of the launch file, which cannot be imported without the launch system."""
    tree = ast.parse((repository / "launch" / "saliency.launch.py").read_text())
    found = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            found[statement.targets[0].id] = statement.value
    arguments = {
        key.value: value.elts[0].value if isinstance(value.elts[0], ast.Constant) else ast.unparse(value.elts[0])
        for key, value in zip(found["ARGUMENTS"].keys, found["ARGUMENTS"].values, strict=True)
    }
    return arguments, ast.literal_eval(found["PASSED_ON"])


def test_arguments_that_are_parameters_have_no_separate_default(constants):
    arguments, passed_on = constants
    of_nodes = {name for values in (SaliencyParameters(), CameraParameters()) for name, _, _ in flatten(values)}
    assert set(passed_on) <= of_nodes
    assert all(arguments[name] == "" for name in passed_on)
    assert arguments["camera_source"] == ""
    assert not (set(arguments) - set(passed_on)) & of_nodes


def test_the_node_knows_what_the_launch_file_passes_to_it(repository, capsys, monkeypatch):
    """The launch file cannot import it: `ros2 launch` may run in another interpreter."""
    text = (repository / "launch" / "saliency.launch.py").read_text()
    assert f'PARENT_VARIABLE = "{PARENT_VARIABLE}"' in text
    monkeypatch.setattr(sys, "argv", ["saliency_node", "--help", "--ros-args", "-p", "threads:=1"])
    with pytest.raises(SystemExit):
        saliency_node.main()
    assert set(re.findall(r'"(--[a-z-]+)"', text)) <= set(capsys.readouterr().out.split())


@pytest.fixture
def started(repository, monkeypatch):
    """Runs the launch file with these arguments; returns what each node was started with, by its name."""
    nodes = {}

    class Text:
        def __init__(self, name):
            self.name = name

        def perform(self, context):
            return context.get(self.name, "") or module["ARGUMENTS"][self.name][0]

    def node(**values):
        nodes[values["name"]] = values

    stubs = {
        "ament_index_python.packages": {"get_package_share_directory": lambda _: str(repository)},
        "launch": {"LaunchContext": None, "LaunchDescription": None, "LaunchDescriptionEntity": None},
        "launch.actions": dict.fromkeys(
            ["DeclareLaunchArgument", "OpaqueFunction", "RegisterEventHandler", "Shutdown"]
        ),
        "launch.event_handlers": {"OnProcessExit": None},
        "launch.events.process": {"ProcessExited": None},
        "launch.substitutions": {"LaunchConfiguration": Text},
        "launch_ros.actions": {"LifecycleNode": node, "Node": node},
        "launch_ros.parameter_descriptions": {"ParameterValue": lambda value, value_type: value_type(value)},
    }
    for name, content in stubs.items():
        stub = ModuleType(name)
        vars(stub).update(content)
        monkeypatch.setitem(sys.modules, name, stub)
    module = runpy.run_path(str(repository / "launch" / "saliency.launch.py"))

    def start(**arguments):
        module["start"](arguments)
        return nodes

    return start


def test_every_node_reads_the_parameters_file_and_arguments_have_priority(started, repository, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.touch()
    shipped = str(repository / "config" / "saliency.yaml")
    for given, expected in (({}, shipped), ({"params_file": str(mine)}, str(mine))):
        nodes = started(camera_source="ride.mp4", viewer="true", image_transport="compressed", **given)
        assert set(nodes) == {"saliency_node", "panorama_camera", "saliency_viewer"}
        for each in nodes.values():
            path, texts = each["parameters"]
            assert (path, texts["image_transport"]) == (expected, "compressed")
        assert nodes["panorama_camera"]["parameters"][1]["source"] == "ride.mp4"


@pytest.mark.slow
def test_launch_brings_the_node_to_active_and_ends_cleanly(graph, tmp_path):
    if shutil.which("ros2") is None:
        pytest.skip("the launch system is not installed here")
    log = tmp_path / "launch.log"
    with log.open("wb") as output, sigint_of_children():
        launch = subprocess.Popen(
            ["ros2", "launch", "sal360_ros", "saliency.launch.py", "namespace:=launched", "camera:=true"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        client = graph.call(graph.node.create_client, GetState, "/launched/saliency_node/get_state")
        graph.wait_for(client.service_is_ready, "the node's services")

        def state():
            future = client.call_async(GetState.Request())
            graph.wait_for(future.done, "an answer")
            return future.result().current_state.label

        graph.wait_for(lambda: state() == "active", "the state active")
    finally:
        launch.send_signal(signal.SIGINT)
        status = launch.wait(60)
    assert status == 0, log.read_text()
    assert log.read_text().count("process has finished cleanly") == 2
