"""The executable `saliency_node`: a 360° camera stream in, `saliency` out.

Separate from the class `sal360_ros.node.SaliencyNode`, whose module imports rclpy: `run` first blocks the stop signals,
then imports that module. A SIGINT during the imports would otherwise end in a traceback.
"""

from __future__ import annotations

import sys

from sal360_ros.executable import run


def main() -> int:
    """Run the node until SIGINT or SIGTERM and return the exit status."""
    return run("sal360_ros.node", "SaliencyNode")


if __name__ == "__main__":
    sys.exit(main())
