"""The ROS 2 side of sal360: the saliency node, a camera to try it with, and live replay of recordings."""
