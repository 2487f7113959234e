"""The executable `saliency_viewer`."""

from __future__ import annotations

import sys

from sal360_ros.executable import parse_arguments, run

NAME = "saliency_viewer"


def main() -> int:
    """Run the viewer until SIGINT or SIGTERM and return the exit status."""
    parse_arguments(NAME, "Serve the live sphere with its saliency map to browsers and headsets.")
    return run("sal360_ros.viewer", "SaliencyViewer", NAME, max_message_bytes=lambda _: 0)


if __name__ == "__main__":
    sys.exit(main())
