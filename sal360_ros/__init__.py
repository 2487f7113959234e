"""The ROS 2 side of sal360: the saliency node, a camera to try it with, and live replay of recordings."""

import warnings

# With PYTHONWARNINGS=error, warnings of other packages would end a process or fail an output: those of lark, which
# rosidl imports with the first message type, and of the cv_bridge on PyPI.
warnings.filterwarnings("ignore", "module 'sre_", DeprecationWarning)
warnings.filterwarnings("ignore", r"tostring\(\) is deprecated", DeprecationWarning)
