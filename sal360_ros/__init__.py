"""The ROS 2 side of sal360: the saliency node, a camera to try it with, and live replay of recordings."""

import warnings

# With PYTHONWARNINGS=error, warnings of others would end a process or fail an output:
# of lark, which rosidl imports with the first message type, and of the cv_bridge that PyPI has.
warnings.filterwarnings("ignore", "module 'sre_", DeprecationWarning)
warnings.filterwarnings("ignore", r"tostring\(\) is deprecated", DeprecationWarning)
