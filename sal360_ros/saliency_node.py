"""The executable `saliency_node`: a 360° camera stream in, `saliency` out."""

from __future__ import annotations

import sys

from sal360_ros.executable import run


def main() -> int:
    """Run the node until SIGINT or SIGTERM; see `sal360_ros.node.SaliencyNode`."""
    return run("sal360_ros.node", "SaliencyNode")


if __name__ == "__main__":
    sys.exit(main())
