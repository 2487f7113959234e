"""The ROS 2 side of sal360: the saliency node, a camera to try it with, and live replay of recordings."""

import warnings

# lark, which rosidl imports with the first message type: with PYTHONWARNINGS=error no process would start
warnings.filterwarnings("ignore", "module 'sre_", DeprecationWarning)
