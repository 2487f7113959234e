"""Start the saliency node and activate it: `ros2 launch sal360_ros saliency.launch.py`.

The node configures and activates itself (`--autostart`), which also works when it is restarted. It ends when the launch
process ends, for whatever reason: on SIGTERM, `ros2 launch` would leave its nodes running.

If an argument is empty, the parameters file sets the value, and a parameter that is not in that file keeps the node's
default. So no default is repeated here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

PARENT_VARIABLE = "SAL360_PARENT_PID"  # as in sal360_ros, which the Python of `ros2` may not find
SHIPPED_PARAMETERS = Path(get_package_share_directory("sal360_ros")) / "config" / "saliency.yaml"

ARGUMENTS = {
    "image_topic": ("image", "topic of the 360° camera; with image_transport compressed, without its /compressed"),
    "image_transport": ("", "raw or compressed"),
    "model": ("", 'model file; empty, and not in the parameters file, or "permissive": a bundled model'),
    "device": ("", "auto, cpu, cuda or cuda:N"),
    "remap": ("", "more remappings, separated by spaces: front/image:=/front/camera rear/image:=/rear/camera"),
    "params_file": (str(SHIPPED_PARAMETERS), "YAML file with the parameters of the nodes"),
    "namespace": ("", "namespace of the node and its topics"),
    "camera": ("false", "true: also start a camera that plays camera_source"),
    "camera_source": (
        "",
        "picture, folder, video, bag or live stream; also starts the camera. Empty: the bundled panoramas",
    ),
    "viewer": ("false", "true: also serve the sphere with its map to browsers: http://127.0.0.1:8360"),
    "autostart": ("true", "true: configure and activate the node; false: leave that to a lifecycle manager"),
    "respawn": ("false", "true: start the node again when it cannot be configured or its process has ended"),
    "exit_on_failure": ("false", "true: end when the node cannot be configured or its process ends"),
}
BOOLEANS = [name for name, (default, _) in ARGUMENTS.items() if default in ("true", "false")]
RESPAWN_DELAY_S = 2.0
PASSED_ON = ("image_transport", "model", "device")


def generate_launch_description() -> LaunchDescription:
    """The node, and the camera if requested."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=_choices(name))
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The actions for the given arguments."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if not Path(given["params_file"]).is_file():  # launch_ros would continue without it
        raise RuntimeError(f"params_file {given['params_file']} does not exist; check the path")
    is_true = {name: given[name].lower() == "true" for name in BOOLEANS}
    remappings = [("image", given["image_topic"]), *_remappings(given["remap"])]
    common = {"package": "sal360_ros", "namespace": given["namespace"], "remappings": remappings, "output": "screen"}
    common["additional_env"] = {PARENT_VARIABLE: str(os.getpid())}
    flags = {"--autostart": is_true["autostart"], "--exit-on-failure": is_true["respawn"] or is_true["exit_on_failure"]}
    node = LifecycleNode(
        executable="saliency_node",
        name="saliency_node",
        arguments=[flag for flag, is_set in flags.items() if is_set],
        parameters=[given["params_file"], _texts(given, PASSED_ON)],
        respawn=is_true["respawn"],
        respawn_delay=RESPAWN_DELAY_S,
        **common,
    )
    started = [node]
    if is_true["exit_on_failure"] and not is_true["respawn"]:
        started.append(RegisterEventHandler(OnProcessExit(target_action=node, on_exit=_end)))
    if is_true["camera"] or given["camera_source"]:
        camera_texts = {"source": given["camera_source"], "image_transport": given["image_transport"]}
        parameters = [given["params_file"], _texts(camera_texts, camera_texts)]
        started.append(Node(executable="panorama_camera", name="panorama_camera", parameters=parameters, **common))
    if is_true["viewer"]:  # reads the parameters that it shares with the node: image_transport, camera, saliency.layout
        parameters = [given["params_file"], _texts(given, ["image_transport"])]
        started.append(Node(executable="saliency_viewer", name="saliency_viewer", parameters=parameters, **common))
    return started


def _choices(name: str) -> list[str] | None:
    """Any other value of a switch would silently be false."""
    return ["true", "false", "True", "False"] if name in BOOLEANS else None


def _remappings(text: str) -> list[tuple[str, str]]:
    """Pairs of the old and the new name."""
    pairs = [tuple(item.split(":=")) for item in text.split()]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise RuntimeError(f"remap is {text!r}; write old:=new, and spaces between several")
    return pairs


def _texts(values: dict[str, str], names: Iterable[str]) -> dict[str, ParameterValue]:
    """The non-empty values as string parameters, even if they look like numbers."""
    return {name: ParameterValue(values[name], value_type=str) for name in names if values[name]}


def _end(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """End the launch with the node; an exception gives status 1, a shutdown would give 0."""
    if event.returncode and not context.is_shutdown:
        raise RuntimeError(f"saliency_node ended with status {event.returncode}; see its messages above")
    return [Shutdown(reason="saliency_node has ended")]
