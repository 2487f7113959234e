"""The parameter `shm`: every map also goes to shared memory, where renderers look rays up without ROS."""

from __future__ import annotations

from rclpy.lifecycle import LifecycleNode

from sal360.outputs.shared_memory import MapInfo, SharedMapWriter
from sal360.spec import ModelSpec
from sal360.sphere import rotation_yaw_pitch_roll
from sal360_ros.diagnostics import describe
from sal360_ros.messages import stamp_nanoseconds
from sal360_ros.parameters import SaliencyParameters
from sal360_ros.statistics import OutputCounts
from sal360_ros.topics import Prediction


class SharedMaps:
    """Writes the maps of a topic to shared memory.

    Args:
        node: has the topic.
        topic: of the map, relative to the node's namespace; remapping changes the name of the memory, too.
        spec: the model's, for the size of its maps.
        readers: who may read; see `SharedMapWriter`.

    Raises:
        Sal360Error: the memory cannot be made, or another process has the name.
    """

    def __init__(self, node: LifecycleNode, topic: str, spec: ModelSpec, readers: str) -> None:
        name = node.resolve_topic_name(topic)
        self._writer = SharedMapWriter(name, spec.output_height, spec.output_width, readers=readers)
        self._written = self._failed = 0
        self._last_error = ""
        self._last_failed = False
        node.get_logger().info(f"maps of {name} are in {self._writer.path}")

    @property
    def counts(self) -> OutputCounts:
        """Number of maps written and failed so far."""
        return OutputCounts(self._written, self._failed, 0, self._last_error, self._last_failed)

    def publish(self, prediction: Prediction, parameters: SaliencyParameters) -> None:
        """Write a map.

        Raises:
            Exception: it could not be written; the failure is counted first.
        """
        try:
            self._writer.write(prediction.density, map_info(prediction, parameters))
        except Exception as error:
            self._failed += 1
            self._last_failed, self._last_error = True, describe(error)
            raise
        self._written += 1
        self._last_failed = False

    def destroy(self) -> None:
        """Remove the memory; readers see that there are no more maps."""
        self._writer.close()


def map_info(prediction: Prediction, parameters: SaliencyParameters) -> MapInfo:
    """What the memory says about a map; up and orientation in the body axes of frame_id instead of the image's."""
    turned = rotation_yaw_pitch_roll(yaw_rad=parameters.yaw_offset_rad)
    return MapInfo(
        stamp_ns=stamp_nanoseconds(prediction.header),
        frame_id=prediction.header.frame_id,
        frame_axes=parameters.frame_convention,
        full_scale=parameters.full_scale,
        yaw_offset_rad=parameters.yaw_offset_rad,
        up=None if prediction.up is None else turned @ prediction.up,
        orientation=None if prediction.orientation is None else prediction.orientation @ turned.T,
    )
