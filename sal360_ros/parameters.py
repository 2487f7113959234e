"""Every parameter of the nodes, with its default, range, unit and description.

Settings of the outputs are declared by the outputs themselves; each becomes a group of parameters here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache

from sal360.cameras import CameraSettings
from sal360.errors import ParameterError
from sal360.images import LARGEST_MAX_PIXELS, MAX_PIXELS
from sal360.outputs.overlay import FULL_SCALE, MAX_FULL_SCALE, MIN_FULL_SCALE
from sal360.outputs.qp_offset import QpOffsetSettings
from sal360.outputs.shading_rate import ShadingRateSettings
from sal360.outputs.shared_memory import PERMISSIONS
from sal360.outputs.smoothing import SmoothingSettings
from sal360.outputs.targets import PeakSettings, SelectionSettings
from sal360.predictor import MAX_FRONT_STRENGTH, MAX_PRIOR_STRENGTH
from sal360.runtimes import BACKEND_NAMES
from sal360.runtimes.backend import PRECISIONS
from sal360.runtimes.selection import MAX_THREADS
from sal360.settings import Settings, setting
from sal360.sources.live_stream import StreamSettings
from sal360.sphere import FRAME_CONVENTIONS
from sal360_ros.mount import parse_mount
from sal360_ros.parameter_table import DECLARED_BY_RCLPY

TRANSPORTS = ("raw", "compressed")
ORIENTATIONS = ("none", "imu", "odometry")
_TRANSPORT = "raw: Image on `image`; compressed: CompressedImage on `image/compressed`"
_MAX_HEIGHT_PX = 16384
_CAMERA_NAME = re.compile(r"[A-Za-z](_?[A-Za-z0-9])*_?")  # a token of a ROS topic's name
_MAX_CAMERAS = 16


@dataclass(frozen=True)
class RenderedShadingRate(ShadingRateSettings):
    """Settings of the shading rate, and the size of the picture that is rendered."""

    height_px: int = setting(
        0,
        "rows of the rendered picture, or side of a cube face; 0: the frame's rows",
        minimum=0,
        maximum=_MAX_HEIGHT_PX,
        unit="px",
    )


@dataclass(frozen=True)
class EncodedQpOffset(QpOffsetSettings):
    """Settings of the quantiser offsets, and the size of the picture that is encoded."""

    height_px: int = setting(
        0, "rows of the encoded picture; 0: the frame's rows", minimum=0, maximum=_MAX_HEIGHT_PX, unit="px"
    )


@dataclass(frozen=True)
class LayoutSettings(Settings):
    """How the outputs for renderers and encoders are laid out."""

    layout: str = setting(
        "equirectangular",
        "layout of the map, shading rates and QP offsets; source: that of the frames as the camera sends them",
        choices=("equirectangular", "source"),
    )


@dataclass(frozen=True)
class CameraModel(CameraSettings):
    """What the camera sends, and the topic that describes its lens."""

    info: str = setting(
        "",
        "topic of the sensor_msgs/CameraInfo of a fisheye lens, instead of a model, preset or file; empty: none",
        changes="unconfigured",
    )

    @cached_property
    def settings(self) -> CameraSettings:
        """The settings of the library."""
        return CameraSettings(**{each.name: getattr(self, each.name) for each in fields(CameraSettings)})

    @cached_property
    def is_plain(self) -> bool:
        """Whether the frames are equirectangular and whole."""
        usual = (CameraSettings(), CameraSettings(model="equirectangular"))
        return not self.info and self.settings in usual


@dataclass(frozen=True)
class HealthSettings(Settings):
    """When `/diagnostics` warns, and how the node reacts to inference that fails or hangs."""

    min_answered_share: float = setting(
        0.5, "minimum share of the usable frames that get a map; below it, a warning", minimum=0, maximum=1
    )
    max_lost_share: float = setting(
        0.05, "maximum share of the frames that are lost in transport; above it, a warning", minimum=0, maximum=1
    )
    max_dropped_share: float = setting(
        0.5,
        "maximum share of the maps that an output skips because it is too slow; above it, a warning",
        minimum=0,
        maximum=1,
    )
    max_unoriented_share: float = setting(
        0.1, "maximum share of the frames without a known orientation; above it, a warning", minimum=0, maximum=1
    )
    max_failures: int = setting(
        10, "consecutive failures of inference after which the model is opened again", minimum=1, maximum=10000
    )
    hang_s: float = setting(
        10.0, "duration of one inference after which it counts as hung", minimum=0.1, maximum=3600, unit="s"
    )
    on_failure: str = setting(
        "deactivate",
        "action of the node if inference still fails or hangs after the model was opened again",
        choices=("deactivate", "exit"),
    )


@dataclass(frozen=True)
class SaliencyParameters(Settings):
    """Parameters of `saliency_node`; each camera of several has a copy of those that are not in `NODE_WIDE`."""

    cameras: tuple[str, ...] = setting(
        ("",),
        'names of the cameras, the prefixes of their topics and parameters; [""]: one camera without a prefix',
        changes="start",
    )
    fuse: bool = setting(
        False,
        "fuse the maps of several cameras of one rig into one on `saliency`; each camera needs its mount",
        changes="unconfigured",
    )
    fuse_frame_id: str = setting("base_link", "frame_id of the fused map, whose axes the mounts refer to")
    batch_wait_s: float = setting(
        0.0, "maximum time that a frame waits for the frames of the other cameras", minimum=0, maximum=1, unit="s"
    )
    model: str = setting(
        "", 'model file (ONNX or engine); empty or "permissive": a bundled model', changes="unconfigured"
    )
    backend: str = setting("auto", "runtime that executes the model", choices=BACKEND_NAMES, changes="unconfigured")
    device: str = setting("auto", "device that runs the model: auto, cpu, cuda or cuda:N", changes="unconfigured")
    precision: str = setting(
        "auto", "arithmetic precision of the model", choices=("auto", *PRECISIONS), changes="unconfigured"
    )
    threads: int = setting(
        0,
        "CPU threads of the runtime and of OpenCV; 0: let each choose",
        minimum=0,
        maximum=MAX_THREADS,
        changes="unconfigured",
    )
    allow_pickled_programs: bool = setting(
        False, "open torch programs (.pt2), which can execute arbitrary code when opened", changes="unconfigured"
    )
    image_transport: str = setting("raw", _TRANSPORT, choices=TRANSPORTS, changes="unconfigured")
    max_pixels: int = setting(
        MAX_PIXELS,
        "maximum size of a frame; larger ones are rejected before they are decoded",
        minimum=1,
        maximum=LARGEST_MAX_PIXELS,
        unit="px",
    )
    orientation: str = setting(
        "none",
        "source of the camera's orientation; imu: sensor_msgs/Imu on `imu`; odometry: nav_msgs/Odometry on `odom`",
        choices=ORIENTATIONS,
        changes="unconfigured",
    )
    orientation_hold_s: float = setting(
        0.5,
        "how long the last orientation is used when none is known; after that, targets are tracked in body axes",
        minimum=0,
        maximum=60,
        unit="s",
    )
    mount: str = setting(
        "",
        "how the camera is mounted; quaternion x y z w from its axes to those of the robot or the IMU; a tf2 frame; "
        "estimate: its tilt is estimated slowly from its pictures; empty: unknown",
        changes="unconfigured",
    )
    level: bool = setting(True, "level the camera for the network where orientation or mount give its tilt")
    prior_strength: float = setting(
        1.0, "strength of the model's equator prior; 1: as trained; 0: no prior", minimum=0, maximum=MAX_PRIOR_STRENGTH
    )
    front_strength: float = setting(
        0.0,
        "strength of a prior towards the forward axis of frame_id, for viewers of a fixed camera; 1: as recorded in "
        "headsets; 0: no prior",
        minimum=0,
        maximum=MAX_FRONT_STRENGTH,
    )
    encoding: str = setting(
        "mono8",
        "encoding of `saliency`; mono8: density scaled by full_scale; 32FC1: density relative to uniform",
        choices=("mono8", "32FC1"),
    )
    full_scale: float = setting(
        FULL_SCALE,
        "density, relative to uniform, that maps to 255 in mono8 and to the brightest colour in pictures",
        minimum=MIN_FULL_SCALE,
        maximum=MAX_FULL_SCALE,
    )
    frame_convention: str = setting(
        "body",
        "axes of frame_id for targets; body: REP-103; optical: x right, y down; openxr: x right, y up",
        choices=FRAME_CONVENTIONS,
    )
    yaw_offset_rad: float = setting(
        0.0,
        "azimuth of the frame's centre, counter-clockwise from the forward axis of frame_id",
        minimum=-2 * math.pi,
        maximum=2 * math.pi,
        unit="rad",
    )
    shm: bool = setting(
        False,
        "also write every map to shared memory, where programs in C, C++ or Python look rays up (sal360.h)",
        changes="unconfigured",
    )
    shm_readers: str = setting(
        "user",
        "who may read the shared memory; user: the node's user; group: also the user's group; all: everybody",
        choices=tuple(PERMISSIONS),
        changes="unconfigured",
    )
    overlay_height_px: int = setting(
        640, "maximum rows of `saliency/overlay`; 0: the frame's rows", minimum=0, maximum=_MAX_HEIGHT_PX, unit="px"
    )
    overlay_opacity: float = setting(0.5, "heat-map opacity in `saliency/overlay`", minimum=0, maximum=1)
    camera: CameraModel = field(default_factory=CameraModel)
    saliency: LayoutSettings = field(default_factory=LayoutSettings)
    smoothing: SmoothingSettings = field(default_factory=SmoothingSettings)
    targets: PeakSettings = field(default_factory=PeakSettings)
    target: SelectionSettings = field(default_factory=SelectionSettings)
    shading_rate: RenderedShadingRate = field(default_factory=RenderedShadingRate)
    qp_offset: EncodedQpOffset = field(default_factory=EncodedQpOffset)
    health: HealthSettings = field(default_factory=HealthSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_camera_names(self.cameras)
        parse_mount(self.mount)


NODE_WIDE = (
    "model",
    "backend",
    "device",
    "precision",
    "threads",
    "allow_pickled_programs",
    "cameras",
    "fuse",
    "fuse_frame_id",
    "batch_wait_s",
    "health",
)
"""Parameters, or groups of them, that a camera cannot have for itself."""


@lru_cache(maxsize=1)
def of_fused_map(common: SaliencyParameters) -> SaliencyParameters:
    """The common values for the fused map, whose axes are those of `fuse_frame_id`: no camera's offset turns them."""
    return replace(common, yaw_offset_rad=0.0, frame_convention="body")


def check_layout(values: SaliencyParameters) -> None:
    """Refuse shading rates for a cube map while outputs have the layout of the camera's frames.

    Raises:
        ParameterError: both are set.
    """
    if values.saliency.layout == "source" and values.shading_rate.projection == "cubemap":
        raise ParameterError(
            "saliency.layout is 'source', and shading_rate.projection is 'cubemap'",
            "set saliency.layout to equirectangular, or shading_rate.projection to erp",
        )


def check_camera_names(names: Sequence[str]) -> None:
    """Refuse names that cannot be those of several cameras.

    Raises:
        ParameterError: a name is no ROS name, occurs twice, or is that of a parameter; or there are too many.
    """
    if tuple(names) in ((), ("",)):
        return
    reserved = {each.name for each in fields(SaliencyParameters)} | set(DECLARED_BY_RCLPY)
    for name in names:
        if not _CAMERA_NAME.fullmatch(name):
            raise ParameterError(
                f"cameras has {name!r}, which cannot be part of a topic's name",
                "use letters, digits and single underscores, beginning with a letter",
            )
        if names.count(name) > 1:
            raise ParameterError(f"cameras has {name!r} {names.count(name)} times", "give each camera another name")
        if name in reserved:
            raise ParameterError(f"cameras has {name!r}, which is the name of a parameter", "choose another name")
    if len(names) > _MAX_CAMERAS:
        raise ParameterError(f"cameras has {len(names)} names", f"use at most {_MAX_CAMERAS} in one node")


@dataclass(frozen=True)
class CameraParameters(Settings):
    """Parameters of `panorama_camera`; all of them are read when it starts."""

    source: str = setting(
        "",
        "picture, folder of pictures, video, bag or live stream; empty: the bundled panoramas",
        changes="start",
    )
    source_topic: str = setting("", "image topic of the bag; empty: its only one", changes="start")
    loop: bool = setting(True, "start over at the end of the source", changes="start")
    rate_hz: float = setting(
        30.0,
        "frame rate; videos and bags are played at this rate as well, and live streams have their own",
        minimum=0.1,
        maximum=1000,
        unit="Hz",
        changes="start",
    )
    height_px: int = setting(
        0, "rows of the published frames; 0: the source's rows", minimum=0, maximum=8192, unit="px", changes="start"
    )
    max_pixels: int = setting(
        MAX_PIXELS,
        "maximum size of a picture; larger ones are skipped before they are decoded",
        minimum=1,
        maximum=LARGEST_MAX_PIXELS,
        unit="px",
        changes="start",
    )
    hold_s: float = setting(5.0, "display time of each picture", minimum=0, maximum=3600, unit="s", changes="start")
    yaw_rate_deg_s: float = setting(
        20.0,
        "panning speed of pictures; positive: to the left",
        minimum=-720,
        maximum=720,
        unit="°/s",
        changes="start",
    )
    image_transport: str = setting("raw", _TRANSPORT, choices=TRANSPORTS, changes="start")
    jpeg_quality: int = setting(90, "JPEG quality of compressed frames", minimum=1, maximum=100, changes="start")
    frame_id: str = setting("panorama_camera", "frame_id in the headers", changes="start")
    stream: StreamSettings = field(default_factory=StreamSettings)


@dataclass(frozen=True)
class ViewerParameters(Settings):
    """Parameters of `saliency_viewer`; all of them are read when it starts."""

    host: str = setting(
        "127.0.0.1", "address to listen on; 127.0.0.1: this machine only; 0.0.0.0: all networks", changes="start"
    )
    port: int = setting(8360, "port of the web server; 0: any free one", minimum=0, maximum=65535, changes="start")
    token: str = setting(
        "",
        "token that the page's address must contain; empty: a random one, if other machines can look",
        changes="start",
    )
    tls_certificate: str = setting("", "PEM file of the certificate for https; empty: http", changes="start")
    tls_key: str = setting("", "PEM file of the certificate's key", changes="start")
    pictures: str = setting(
        "auto",
        "how pictures are sent; video: H.264 or VP9; auto: video unless only this machine can look",
        choices=("auto", "video", "jpeg"),
        changes="start",
    )
    image_transport: str = setting("raw", _TRANSPORT, choices=TRANSPORTS, changes="start")
    max_pixels: int = setting(
        MAX_PIXELS,
        "maximum size of a frame; larger ones are not shown",
        minimum=1,
        maximum=LARGEST_MAX_PIXELS,
        unit="px",
        changes="start",
    )
    camera: CameraModel = field(default_factory=CameraModel)
    saliency: LayoutSettings = field(default_factory=LayoutSettings)


VIEWER_WIDE = ("host", "port", "token", "tls_certificate", "tls_key", "pictures")
"""Parameters of `saliency_viewer` that have nothing to do with a camera."""
