"""Start the saliency node and activate it: `ros2 launch sal360_ros saliency.launch.py`.

An empty argument leaves the value to the parameters file, and a parameter that is not in that file keeps the node's own
default. So no default is repeated here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

SHIPPED_PARAMETERS = Path(get_package_share_directory("sal360_ros")) / "config" / "saliency.yaml"

ARGUMENTS = {
    "image_topic": ("image", "topic of the 360° camera; with image_transport compressed, without its /compressed"),
    "image_transport": ("", "raw or compressed"),
    "model": ("", "model file; empty, and not in the parameters file: the bundled model"),
    "device": ("", "auto, cpu, cuda or cuda:N"),
    "params_file": (str(SHIPPED_PARAMETERS), "YAML file with the parameters of the node"),
    "namespace": ("", "namespace of the node and its topics"),
    "camera": ("false", "true: also start a camera that plays camera_source"),
    "camera_source": ("", "picture, folder, video or bag; also starts the camera. Empty: the bundled panoramas"),
}
CHOICES = {"camera": ["true", "false", "True", "False"]}  # any other value would silently start no camera
PASSED_ON = ("image_transport", "model", "device")


def generate_launch_description() -> LaunchDescription:
    """The node, the events that activate it, and the camera if requested."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=CHOICES.get(name))
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The actions for the given arguments."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if not Path(given["params_file"]).is_file():  # launch_ros would go on without it
        raise RuntimeError(f"params_file {given['params_file']} does not exist; check the path")
    remappings = [("image", given["image_topic"])]
    node = LifecycleNode(
        package="sal360_ros",
        executable="saliency_node",
        name="saliency_node",
        namespace=given["namespace"],
        parameters=[given["params_file"], _texts(given, PASSED_ON)],
        remappings=remappings,
        output="screen",
    )
    started = [node, *_activated(node)]
    if given["camera"].lower() == "true" or given["camera_source"]:
        camera_texts = {"source": given["camera_source"], "image_transport": given["image_transport"]}
        started.append(
            Node(
                package="sal360_ros",
                executable="panorama_camera",
                name="panorama_camera",
                namespace=given["namespace"],
                parameters=[_texts(camera_texts, camera_texts)],
                remappings=remappings,
                output="screen",
            )
        )
    return started


def _texts(values: dict[str, str], names: Iterable[str]) -> dict[str, ParameterValue]:
    """The non-empty values as string parameters, also where they look like numbers."""
    return {name: ParameterValue(values[name], value_type=str) for name in names if values[name]}


def _activated(node: LifecycleNode) -> list[LaunchDescriptionEntity]:
    """The events that configure the node, and activate it when that has succeeded.

    Only from `configuring`: a manual deactivation later, which also leads to `inactive`, must not be undone.
    """

    def change(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

    return [
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=node,
                start_state="configuring",
                goal_state="inactive",
                entities=[change(Transition.TRANSITION_ACTIVATE)],
            )
        ),
        change(Transition.TRANSITION_CONFIGURE),
    ]
