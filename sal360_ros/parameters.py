"""Every parameter of the nodes, with its default and range: the only place where they stand.

Defaults of the settings that `sal360.outputs` defines are those of their classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sal360.outputs.overlay import FULL_SCALE
from sal360.outputs.qp_offset import QpOffsetSettings
from sal360.outputs.shading_rate import LIMITS, PROJECTIONS, ShadingRateSettings
from sal360.outputs.smoothing import SmoothingSettings
from sal360.outputs.targets import PeakSettings, SelectionSettings
from sal360.predictor import MAX_PRIOR_STRENGTH
from sal360.runtimes import BACKEND_NAMES
from sal360.runtimes.backend import PRECISIONS
from sal360.runtimes.selection import MAX_THREADS
from sal360.sphere import FRAME_CONVENTIONS
from sal360_ros.parameter_table import Rule, parameter, rules

TRANSPORTS = ("raw", "compressed")
ORIENTATIONS = ("none", "imu", "odometry")
_MAX_HEIGHT_PX = 16384


@dataclass(frozen=True)
class RenderedShadingRate(ShadingRateSettings):
    """Settings of the shading rate, and the size of the picture that is rendered."""

    height_px: int = 0


@dataclass(frozen=True)
class EncodedQpOffset(QpOffsetSettings):
    """Settings of the quantiser offsets, and the size of the picture that is encoded."""

    height_px: int = 0


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
    orientation: str = parameter(
        "none",
        "what tells how the camera turns: imu: sensor_msgs/Imu on `imu`; odometry: nav_msgs/Odometry on `odom`",
        choices=ORIENTATIONS,
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
        FULL_SCALE,
        "density relative to uniform that is 255 in mono8 and brightest for people",
        minimum=1.0,
        maximum=1e3,
    )
    frame_convention: str = parameter(
        "body",
        "axes of frame_id, for targets: body (REP-103), optical (x right, y down) or openxr (x right, y up)",
        choices=FRAME_CONVENTIONS,
    )
    yaw_offset_rad: float = parameter(
        0.0,
        "azimuth, from frame_id's forward axis to the left, at which the middle of the frame lies",
        minimum=-2 * math.pi,
        maximum=2 * math.pi,
    )
    overlay_height_px: int = parameter(
        640, "most rows of `saliency/overlay`; 0: those of the frame", minimum=0, maximum=_MAX_HEIGHT_PX
    )
    overlay_opacity: float = parameter(0.5, "share of the heat map in `saliency/overlay`", minimum=0.0, maximum=1.0)
    smoothing: SmoothingSettings = field(
        default_factory=SmoothingSettings,
        metadata=rules(
            time_constant_s=Rule("time after which 63 % of a change has arrived in the maps; 0: no smoothing", 0, 60),
            reset_gap_s=Rule("a longer pause in the stream starts again from the newest map", 0, 3600),
            cut_distance=Rule("total-variation distance above which a map is a cut and starts again; 1: never", 0, 1),
        ),
    )
    targets: PeakSettings = field(
        default_factory=PeakSettings,
        metadata=rules(
            count=Rule("most targets of one map", 1, 100),
            min_separation_rad=Rule("least angle between two targets", 0.01, math.pi),
            min_score=Rule("least density of a target, relative to uniform", 0, 1e6),
        ),
    )
    target: SelectionSettings = field(
        default_factory=SelectionSettings,
        metadata=rules(
            min_dwell_s=Rule("the target is not left before this time", 0, 3600),
            max_dwell_s=Rule("after this time another target is looked at; 0: never, while it is the best", 0, 3600),
            switch_ratio=Rule("another target wins when its score is this many times the present one's", 1, 100),
            inhibition_s=Rule("a place that was left is not returned to for this time", 0, 3600),
            radius_rad=Rule("peaks within this angle are the same target", 0.01, math.pi),
            reset_gap_s=Rule("a longer pause in the stream forgets the past", 0, 3600),
        ),
    )
    shading_rate: RenderedShadingRate = field(
        default_factory=RenderedShadingRate,
        metadata=rules(
            height_px=Rule(
                "rows of the rendered panorama, or side of a cube's face; 0: those of the frame", 0, _MAX_HEIGHT_PX
            ),
            tile_px=Rule("side of a tile, 8, 16 or 32", 8, 32),
            limit=Rule("the coarsest rate", choices=LIMITS),
            projection=Rule("the picture that is rendered", choices=PROJECTIONS),
            full_rate_density=Rule("tiles of at least this density, relative to uniform, are shaded at 1x1", 0, 1e6),
            half_rate_density=Rule("tiles of at least this density are shaded no coarser than 2x2", 0, 1e6),
            full_rate_share=Rule("share of the pixels at 1x1 in place of full_rate_density; 0: no such budget", 0, 1),
            hysteresis=Rule("a tile keeps its finer rate until this share below what it needs", 0, 0.9),
        ),
    )
    qp_offset: EncodedQpOffset = field(
        default_factory=EncodedQpOffset,
        metadata=rules(
            height_px=Rule("rows of the encoded panorama; 0: those of the frame", 0, _MAX_HEIGHT_PX),
            block_px=Rule("side of a block, 16, 32 or 64", 16, 64),
            strength=Rule("share of the offset that is optimal in theory; 0: only the projection's own", 0, 2),
            max_offset=Rule("bound of the offset either way, in QP", 1, 25),
            weigh_projection=Rule("also spend fewer bits towards the poles"),
        ),
    )


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
