"""The executable `panorama_camera`: pictures, a video or a bag as a 360° camera."""

from __future__ import annotations

import sys

from sal360_ros.executable import run


def main() -> int:
    """Run the camera until SIGINT or SIGTERM; see `sal360_ros.camera.PanoramaCamera`."""
    return run("sal360_ros.camera", "PanoramaCamera")


if __name__ == "__main__":
    sys.exit(main())
