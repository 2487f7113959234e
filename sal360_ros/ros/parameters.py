"""Every parameter of the nodes, with its default: the only place where defaults stand."""

from __future__ import annotations

from dataclasses import dataclass

from sal360_ros.backends import BACKEND_NAMES
from sal360_ros.backends.backend import PRECISIONS
from sal360_ros.backends.choice import MAX_THREADS
from sal360_ros.outputs.overlay import FULL_SCALE
from sal360_ros.predictor import MAX_PRIOR_STRENGTH
from sal360_ros.ros.parameter_table import parameter

TRANSPORTS = ("raw", "compressed")


@dataclass(frozen=True)
class SaliencyParameters:
    """Parameters of `saliency_node`."""

    model: str = parameter("", "model file (ONNX or engine); empty: the bundled one", changes="unconfigured")
    backend: str = parameter("auto", "runtime that executes the model", choices=BACKEND_NAMES, changes="unconfigured")
    device: str = parameter("auto", "auto, cpu, cuda or cuda:N", changes="unconfigured")
    precision: str = parameter("auto", "arithmetic of the model", choices=("auto", *PRECISIONS), changes="unconfigured")
    threads: int = parameter(
        0,
        "processor threads of the model; 0: the runtime's choice",
        minimum=0,
        maximum=MAX_THREADS,
        changes="unconfigured",
    )
    image_transport: str = parameter(
        "raw",
        "raw: Image on `image`; compressed: CompressedImage on `image/compressed`",
        choices=TRANSPORTS,
        changes="unconfigured",
    )
    prior_strength: float = parameter(
        1.0,
        "strength of the model's equator prior: 1 as trained, 0 without",
        minimum=0.0,
        maximum=MAX_PRIOR_STRENGTH,
    )
    encoding: str = parameter(
        "mono8",
        "encoding of `saliency`: mono8 (density over full_scale) or 32FC1 (density relative to uniform)",
        choices=("mono8", "32FC1"),
    )
    full_scale: float = parameter(
        FULL_SCALE, "density relative to uniform that is 255 in mono8", minimum=1.0, maximum=1000.0
    )
    overlay_height_px: int = parameter(
        640, "rows of `saliency/overlay`; 0: those of the frame", minimum=0, maximum=8192
    )
    overlay_opacity: float = parameter(0.5, "share of the heat map in `saliency/overlay`", minimum=0.0, maximum=1.0)


@dataclass(frozen=True)
class CameraParameters:
    """Parameters of `panorama_camera`; all of them are read at the start."""

    source: str = parameter(
        "", "picture, folder of pictures, video or bag; empty: the bundled panoramas", changes="start"
    )
    source_topic: str = parameter("", "image topic of a bag; empty: the only one", changes="start")
    loop: bool = parameter(True, "begin again at the end", changes="start")
    rate_hz: float = parameter(30.0, "frames a second", minimum=0.1, maximum=1000.0, changes="start")
    height_px: int = parameter(
        0, "rows of the frames; 0: those of the source", minimum=0, maximum=8192, changes="start"
    )
    hold_s: float = parameter(5.0, "seconds that each picture is shown", minimum=0.0, maximum=3600.0, changes="start")
    yaw_rate_deg_s: float = parameter(
        20.0, "how fast pictures are panned; positive turns to the left", minimum=-720.0, maximum=720.0, changes="start"
    )
    image_transport: str = parameter(
        "raw",
        "raw: Image on `image`; compressed: CompressedImage on `image/compressed`",
        choices=TRANSPORTS,
        changes="start",
    )
    jpeg_quality: int = parameter(90, "of compressed frames", minimum=1, maximum=100, changes="start")
    frame_id: str = parameter("panorama_camera", "frame_id of the headers", changes="start")
