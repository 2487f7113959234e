"""The executable `panorama_camera`: pictures, a video or a bag as a 360° camera.

Separate from the class `sal360_ros.camera.PanoramaCamera`, whose module imports rclpy: `run` first blocks the stop
signals, then imports that module. A SIGINT during the imports would otherwise end in a traceback.
"""

from __future__ import annotations

import sys

from sal360_ros.executable import run


def main() -> int:
    """Run the camera until SIGINT or SIGTERM and return the exit status."""
    return run("sal360_ros.camera", "PanoramaCamera")


if __name__ == "__main__":
    sys.exit(main())
