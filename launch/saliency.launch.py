"""Start the saliency node and bring it to the state active: `ros2 launch sal360_ros saliency.launch.py`.

An argument that is left empty leaves the value to the parameters file, and what that does not name to the node itself:
no default stands here a second time.
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
    "model": ("", "model file; the bundled one if neither this nor the parameters file names any"),
    "device": ("", "auto, cpu, cuda or cuda:N"),
    "params_file": (str(SHIPPED_PARAMETERS), "parameters of the node"),
    "namespace": ("", "of the node and of its topics"),
    "camera": ("false", "true also starts a camera that shows camera_source"),
    "camera_source": ("", "picture, folder, video or bag; starts the camera too. Empty: the bundled panoramas"),
}
CHOICES = {"camera": ["true", "false", "True", "False"]}  # anything else would start no camera and say nothing
PASSED_ON = ("image_transport", "model", "device")


def generate_launch_description() -> LaunchDescription:
    """The node, the events that activate it, and the camera if it is asked for."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=CHOICES.get(name))
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """What to start with the arguments that were given."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if not Path(given["params_file"]).is_file():  # launch_ros would go on without it
        raise RuntimeError(f"there is no params_file {given['params_file']}; expected a YAML file; check the path")
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
    """The values that were given, as text parameters also where they look like numbers."""
    return {name: ParameterValue(values[name], value_type=str) for name in names if values[name]}


def _activated(node: LifecycleNode) -> list[LaunchDescriptionEntity]:
    """Configure the node, and activate it once that has succeeded.

    Only from `configuring`: a later deactivation by hand, which also ends in `inactive`, is not undone.
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
