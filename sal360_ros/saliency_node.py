"""The executable `saliency_node`: a 360° camera stream in, `saliency` out.

Separate from the class `sal360_ros.node.SaliencyNode`, whose module imports rclpy: `run` first blocks the stop signals,
then imports that module. A SIGINT during the imports would otherwise end in a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from sal360.errors import ParameterError
from sal360.settings import with_values
from sal360_ros.executable import Stop, parse_arguments, run
from sal360_ros.shared_memory import OVERLAY_BYTES

NAME = "saliency_node"


def main() -> int:
    """Run the node until SIGINT or SIGTERM and return the exit status."""
    options = parse_arguments(
        NAME,
        "Publish where people would look in the frames of a 360° camera.",
        {
            "--autostart": "configure and activate the node when it starts, without a lifecycle manager",
            "--exit-on-failure": "end with status 2 if --autostart fails",
        },
    )

    def started(node: Any, stop: Stop) -> None:
        from sal360_ros.autostart import autostart

        if options.autostart:
            autostart(node, on_failure=lambda: stop.request(2) if options.exit_on_failure else None)

    return run("sal360_ros.node", "SaliencyNode", NAME, max_message_bytes=max_message_bytes, started=started)


def max_message_bytes(parameters: Mapping[str, Any]) -> int:
    """Size of the largest message of a node with these start parameters: that of the overlay."""
    from sal360_ros.parameters import SaliencyParameters

    try:
        given = {name: value for name, value in parameters.items() if name == "overlay_height_px"}
        rows = with_values(SaliencyParameters(), given).overlay_height_px
    except (ParameterError, TypeError, ValueError):  # the node itself refuses it
        return OVERLAY_BYTES
    return 6 * (rows or 1920) ** 2  # 0: the frame's rows; assume a 4K frame


if __name__ == "__main__":
    sys.exit(main())
