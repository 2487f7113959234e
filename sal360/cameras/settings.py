"""How a camera is described: parameters, a preset, a calibration file, or the values of sensor_msgs/CameraInfo."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from sal360.cameras.camera import Camera
from sal360.cameras.cubemap import FACES, LAYOUTS, CubeCamera, Faces
from sal360.cameras.equirectangular import EquirectangularCamera, GPano, check_frame
from sal360.cameras.fisheye import (
    LENS_PROJECTIONS,
    MAX_FOV_DEG,
    MIN_FOV_DEG,
    WHOLE_OVERLAP_DEG,
    FisheyeCamera,
    Lens,
)
from sal360.cameras.presets import PRESETS
from sal360.cameras.stereo import EYES, STEREO, StereoCamera
from sal360.errors import FrameError, ParameterError, describe_os_error
from sal360.files import write_text
from sal360.settings import Settings, setting
from sal360.sphere import rotation_yaw_pitch_roll

MODELS = ("auto", "equirectangular", "fisheye", "dual_fisheye", "cubemap", "eac")
_DUAL_LAYOUTS = ("side_by_side", "stacked")


@dataclass(frozen=True)
class CameraSettings(Settings):
    """What the camera sends: the group `camera` of parameters."""

    model: str = setting("auto", "what the frames are; auto takes equirectangular frames of 2:1", choices=MODELS)
    preset: str = setting(
        "", "a camera whose dual-fisheye frames are known roughly, instead of a model", choices=("", *PRESETS)
    )
    file: str = setting("", "calibration file (YAML), as sal360 calibrate-lenses writes it; instead of a model")
    stereo: str = setting("none", "how the pictures of two eyes are packed into a frame", choices=STEREO)
    eye: str = setting("left", "which eye's picture of stereo frames is used", choices=EYES)
    layout: str = setting(
        "auto",
        "where the lenses of dual_fisheye, or the faces of a cube, lie in the frame; auto: by its shape",
        choices=("auto", *_DUAL_LAYOUTS, *LAYOUTS),
    )
    faces: str = setting(
        "auto",
        "order of a cube's faces: "
        + ", ".join(FACES)
        + ", or six letters of f, b, l, r, u, d row by row and, after a colon, the quarter turns clockwise of each",
    )
    lens_projection: str = setting(
        "equidistant", "how a fisheye lens maps angles to distances", choices=LENS_PROJECTIONS[:3]
    )
    fov_deg: float = setting(
        190.0, "field of view of each fisheye lens", minimum=MIN_FOV_DEG, maximum=MAX_FOV_DEG, unit="°"
    )
    radius_px: float = setting(
        0.0, "radius of each fisheye's circle; 0: it touches its half of the frame", minimum=0, maximum=1e5, unit="px"
    )
    blend_deg: float = setting(
        WHOLE_OVERLAP_DEG,
        "maximum angle over which two lenses are blended; 180: their whole overlap",
        minimum=0.1,
        maximum=WHOLE_OVERLAP_DEG,
        unit="°",
    )
    front_lens: str = setting(
        "first",
        "the circle of dual_fisheye that shows the front; first: the left or upper one; second: the other",
        choices=("first", "second"),
    )
    left_deg: float = setting(
        180.0, "azimuth of an equirectangular frame's left edge", minimum=-180, maximum=360, unit="°"
    )
    right_deg: float = setting(
        -180.0, "azimuth of an equirectangular frame's right edge", minimum=-540, maximum=360, unit="°"
    )
    top_deg: float = setting(
        90.0, "elevation of an equirectangular frame's top edge", minimum=-90, maximum=90, unit="°"
    )
    bottom_deg: float = setting(
        -90.0, "elevation of an equirectangular frame's bottom edge", minimum=-90, maximum=90, unit="°"
    )


AUTO = CameraSettings()
"""Equirectangular frames of 2:1."""

_ANGLES = frozenset({"left_deg", "right_deg", "top_deg", "bottom_deg"})
_LENS = frozenset({"lens_projection", "fov_deg", "radius_px"})
_STEREO = frozenset({"stereo", "eye"})
_OF_MODEL: Mapping[str, frozenset[str]] = {
    "auto": _STEREO | _ANGLES,
    "equirectangular": _STEREO | _ANGLES,
    "fisheye": _STEREO | _LENS,
    "dual_fisheye": _STEREO | _LENS | {"layout", "blend_deg", "front_lens"},
    "cubemap": _STEREO | {"layout", "faces"},
    "eac": _STEREO | {"layout", "faces"},
}
"""Model → the settings that it uses."""


def parse_camera(text: str) -> CameraSettings:
    """Settings as one text: a model, a preset or the path of a calibration file, and settings after a colon.

    "dual_fisheye:fov_deg=200,layout=stacked", "insta360_x3", "lenses.yaml", "cubemap:faces=unity,stereo=top_bottom".

    Raises:
        ParameterError: it is none of these, or a setting is unknown or has a value that is not allowed.
    """
    head, _, tail = (text, "", "") if os.path.exists(text) else text.partition(":")
    if head in MODELS:
        values: dict[str, Any] = {"model": head}
    elif head in PRESETS and head:
        values = {"preset": head}
    elif os.path.exists(head) or head.endswith((".yaml", ".yml")):
        values = {"file": head}
    else:
        raise ParameterError(
            f"the camera is {head!r}, which is neither a file nor known",
            f"choose a model ({', '.join(MODELS)}), a preset ({', '.join(PRESETS)}) or a calibration file",
        )
    for item in filter(None, tail.split(",")):
        name, _, value = item.partition("=")
        if name in values:
            raise ParameterError(f"the camera {text!r} has {name} twice"[:300], "set it once")
        if name not in _NAMES:
            raise ParameterError(
                f"the camera {text!r} has the setting {name!r}"[:300], "set others, NAME=VALUE: " + ", ".join(_NAMES)
            )
        values[name] = _parsed(name, value)
    settings = CameraSettings(**values)
    if not settings.file:
        _refuse_unused(settings, values)  # those with their usual value, too: they were written
    return settings


_NAMES = tuple(each.name for each in dataclasses.fields(CameraSettings) if each.name not in ("model", "preset", "file"))


def _parsed(name: str, value: str) -> str | float:
    if not isinstance(getattr(CameraSettings, name), float):
        return value
    try:
        return float(value)
    except ValueError:
        raise ParameterError(f"{name} is {value!r}", "set a number") from None


def open_camera(settings: CameraSettings, height: int, width: int, gpano: GPano | None = None) -> Camera:
    """The camera of frames of this size.

    Args:
        gpano: the crop that the frame's own metadata give; used when `settings` say nothing else.

    Raises:
        ParameterError: settings contradict each other, or a file cannot be read.
        FrameError: frames of this size do not fit them ("camera_mismatch"), or are not 2:1 ("not_2_to_1").
    """
    calibration: Calibration | None = None
    if settings.file:
        if settings.preset:
            raise ParameterError(
                f"file is {settings.file!r} and preset is {settings.preset!r}", "set one of them, not both"
            )
        calibration = read_calibration(settings.file)
        settings = _merged(settings, calibration)
    _check_use(settings, calibration)
    if calibration is not None:
        calibration.check_size(height, width)

    def one_eye(rows: int, columns: int) -> Camera:
        if calibration is not None and calibration.lenses:
            return _calibrated_camera(calibration, settings, rows, columns)
        if settings.preset:
            return _preset_camera(settings, rows, columns)
        return _MODELS[settings.model](settings, rows, columns, gpano)

    if settings.stereo == "none":
        return one_eye(height, width)
    return StereoCamera(height, width, settings.stereo, settings.eye, one_eye)


def check_camera(settings: CameraSettings) -> None:
    """Refuse settings that no frame can fit, before there is one.

    Raises:
        ParameterError: they contradict each other, or a file cannot be read or describes an impossible camera.
    """
    size = read_calibration(settings.file).size if settings.file else None
    with contextlib.suppress(FrameError):  # the frames may have another size
        open_camera(settings, *(size or (1000, 2000)))


@lru_cache(maxsize=8)
def kept_camera(settings: CameraSettings, height: int, width: int, gpano: GPano | None = None) -> Camera:
    """`open_camera`, but the same object for the same frames of a stream, which keeps its tables."""
    return open_camera(settings, height, width, gpano)


def changed_settings(settings: CameraSettings) -> dict[str, Any]:
    """The settings that differ from their defaults."""
    usual = CameraSettings()
    names = [each.name for each in dataclasses.fields(settings)]
    return {name: getattr(settings, name) for name in names if getattr(settings, name) != getattr(usual, name)}


def _merged(settings: CameraSettings, calibration: Calibration) -> CameraSettings:
    """The settings of a calibration file with those that were set beside it."""
    beside = changed_settings(settings)
    del beside["file"]
    for name, value in beside.items():
        known = getattr(calibration.settings, name)
        if name in calibration.given and known != value:
            raise ParameterError(
                f"{name} is {value!r}, and {settings.file} says {known!r}", f"remove {name}, or correct the file"
            )
        if calibration.lenses and name in _LENS | {"layout", "front_lens"}:
            raise ParameterError(
                f"{name} is {value!r}, and {settings.file} describes the lenses", f"remove {name}, or correct the file"
            )
    return dataclasses.replace(calibration.settings, **beside)


def _check_use(settings: CameraSettings, calibration: Calibration | None) -> None:
    """Refuse settings that the model does not use: they show that something else is meant."""
    if settings.eye != CameraSettings.eye and settings.stereo == "none":
        raise ParameterError(f"eye is {settings.eye!r}, and stereo is none", "set stereo, or remove eye")
    if settings.preset and settings.model not in ("auto", "dual_fisheye"):
        raise ParameterError(
            f"preset is {settings.preset!r}, and model is {settings.model!r}", "set one of them, not both"
        )
    _refuse_unused(settings, changed_settings(settings))
    if settings.layout in _DUAL_LAYOUTS and settings.model in ("cubemap", "eac"):
        raise ParameterError(
            f"layout is {settings.layout!r}, and model is {settings.model!r}", "choose one of " + ", ".join(LAYOUTS)
        )
    if settings.layout in LAYOUTS and settings.model == "dual_fisheye" and not (calibration and calibration.lenses):
        raise ParameterError(
            f"layout is {settings.layout!r}, and model is 'dual_fisheye'", "choose side_by_side or stacked"
        )


def _refuse_unused(settings: CameraSettings, given: Mapping[str, Any]) -> None:
    """Refuse the given settings that neither the preset nor the model uses."""
    if settings.preset:
        used = _STEREO | {"model", "preset", "blend_deg"}
        name = f"the preset {settings.preset}"
    else:
        used = _OF_MODEL[settings.model] | {"model"}
        name = "frames without a model (auto)" if settings.model == "auto" else f"the model {settings.model}"
    for each, value in given.items():
        if each not in used:
            owners = [model for model, uses in _OF_MODEL.items() if each in uses and model != "auto"]
            raise ParameterError(
                f"{each} is {value!r}, which is not used for {name}",
                f"remove {each}, or set model to {' or '.join(owners)}",
            )


# --- models ---


def _equirectangular(settings: CameraSettings, height: int, width: int, gpano: GPano | None) -> Camera:
    angles = {name: getattr(settings, name) for name in _ANGLES}
    is_crop = any(getattr(CameraSettings, name) != value for name, value in angles.items())
    if not is_crop and gpano is not None and gpano.is_crop:
        return gpano.camera(height, width)
    if not is_crop:
        _check_shape(settings, height, width)
    return EquirectangularCamera(height, width, **angles)


_SQUEEZED = {"top_bottom": (4.0, 32 / 9), "side_by_side": (1.0, 8 / 9)}
"""Packing → width over height of one eye's picture in frames of 2:1 and 16:9, where eyes are often squeezed."""


def _check_shape(settings: CameraSettings, height: int, width: int) -> None:
    for squeezed in _SQUEEZED.get(settings.stereo, ()):
        if height > 0 and abs(width / height - squeezed) <= 0.02 * squeezed:
            return
    check_frame(height, width)


def _fisheye(settings: CameraSettings, height: int, width: int, _: GPano | None) -> Camera:
    radius = settings.radius_px or min(height, width) / 2
    return FisheyeCamera(height, width, [_lens(settings, (width - 1) / 2, (height - 1) / 2, radius, 0)])


def _dual_fisheye(settings: CameraSettings, height: int, width: int, _: GPano | None) -> Camera:
    is_stacked = settings.layout == "stacked" or (settings.layout == "auto" and height > width)
    across, down = (width, height / 2) if is_stacked else (width / 2, height)
    halved, side = (height, "height") if is_stacked else (width, "width")
    if halved % 2:
        raise FrameError(
            f"the frame is {width} x {height}, so its {side} cannot be halved for two lenses",
            "correct the layout, or give the lenses in a calibration file",
            reason="camera_mismatch",
        )
    radius = settings.radius_px or min(across, down) / 2
    x, y = (across - 1) / 2, (down - 1) / 2
    second_x, second_y = (x, y + down) if is_stacked else (x + across, y)
    first_yaw, second_yaw = (0, 180) if settings.front_lens == "first" else (180, 0)
    lenses = [_lens(settings, x, y, radius, first_yaw), _lens(settings, second_x, second_y, radius, second_yaw)]
    return FisheyeCamera(height, width, lenses, settings.blend_deg)


def _lens(settings: CameraSettings, x: float, y: float, radius_px: float, yaw_deg: float) -> Lens:
    turned = rotation_yaw_pitch_roll(math.radians(yaw_deg))
    return Lens.with_radius(x, y, radius_px, settings.fov_deg, settings.lens_projection, (), turned)


_CUBE_SHAPES = {name: columns / rows for name, (rows, columns) in LAYOUTS.items()}


def _cube(settings: CameraSettings, height: int, width: int, _: GPano | None) -> Camera:
    is_eac = settings.model == "eac"
    layout = settings.layout
    if layout == "auto":
        fitting = [name for name, shape in _CUBE_SHAPES.items() if height > 0 and abs(width / height - shape) < 0.01]
        layout = fitting[0] if fitting else "3x2"
    usual = "youtube" if is_eac else "ffmpeg"
    faces = parse_faces(usual if settings.faces == "auto" else settings.faces)
    is_wide = height > 0 and abs(width / height - 16 / 9) < 0.01  # YouTube stretches the faces to fill 16:9
    return CubeCamera(height, width, layout, faces, equiangular=is_eac, may_stretch=is_eac and is_wide)


_MODELS = {
    "auto": _equirectangular,
    "equirectangular": _equirectangular,
    "fisheye": _fisheye,
    "dual_fisheye": _dual_fisheye,
    "cubemap": _cube,
    "eac": _cube,
}


def parse_faces(text: str) -> Faces:
    """The order of faces that a name or six letters give, with their turns after a colon: "rludfb:000313".

    Raises:
        ParameterError: it is neither.
    """
    if text in FACES:
        return FACES[text]
    order, _, turns = text.partition(":")
    turns = turns or "000000"
    if sorted(order) != sorted("fblrud") or re.fullmatch("[0-3]{6}", turns) is None:
        raise ParameterError(
            f"faces is {text!r}",
            f"choose one of {', '.join(FACES)}, or set six letters and six turns from 0 to 3, as in rludfb:000313",
        )
    return Faces(order, turns)


def _preset_camera(settings: CameraSettings, height: int, width: int) -> Camera:
    preset = PRESETS[settings.preset]
    across, down = preset.aspect
    if height < 1 or abs(width * down - height * across) > 0.02 * height * across:
        raise FrameError(
            f"the frame is {width} x {height}, and the preset {settings.preset} is for frames of {across}:{down}",
            "set the camera to that format, or describe it by a model or a calibration file",
            reason="camera_mismatch",
        )
    lenses = [
        Lens.with_radius(
            each.x * width - 0.5,
            each.y * height - 0.5,
            each.radius * width,
            preset.fov_deg,
            rotation=rotation_yaw_pitch_roll(math.radians(each.yaw_deg), 0, math.radians(each.roll_deg)),
        )
        for each in preset.lenses
    ]
    return FisheyeCamera(height, width, lenses, settings.blend_deg)


def _calibrated_camera(calibration: Calibration, settings: CameraSettings, height: int, width: int) -> Camera:
    try:
        return FisheyeCamera(height, width, calibration.lenses, settings.blend_deg)
    except ParameterError as error:
        raise ParameterError(f"{calibration.path}: {error.found}", error.remedy) from None


# --- calibration files ---


@dataclass(frozen=True)
class Calibration:
    """What a calibration file says."""

    path: str
    settings: CameraSettings
    given: frozenset[str]
    """Names of the settings in the file."""
    size: tuple[int, int] | None = None
    """Rows and columns of the frames that it belongs to; None: any."""
    lenses: tuple[Lens, ...] = field(default=())

    def check_size(self, height: int, width: int) -> None:
        """Refuse frames of another size.

        Raises:
            FrameError: it is not that of the calibration.
        """
        if self.size not in (None, (height, width)):
            assert self.size is not None
            raise FrameError(
                f"the frame is {width} x {height}, and the calibration {self.path} is for {self.size[1]} x "
                f"{self.size[0]}",
                "set the camera to that resolution, or calibrate at this one",
                reason="camera_mismatch",
            )


LENS_KEYS = {
    "x": "column of the optical axis, pixels; integers are pixel centres",
    "y": "row of the optical axis, pixels",
    "radius": "radius of the circle at the edge of the field of view, pixels",
    "fx": "focal length along the columns, pixels, instead of radius",
    "fy": "focal length along the rows, pixels",
    "fov_deg": "field of view, degrees",
    "projection": "one of " + ", ".join(LENS_PROJECTIONS),
    "k": "k1 to k4 of kannala_brandt",
    "yaw_deg": "turn of the lens to the left, degrees",
    "pitch_deg": "tilt of the lens downwards, degrees",
    "roll_deg": "turn about its optical axis that lifts its left side, degrees",
}
"""Key of a lens in a calibration file → its meaning."""
_MAX_BYTES = 1 << 20
_CORRECT = "correct the file; docs/cameras.md has an example"


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read a calibration file: the names of `CameraSettings`, width, height, and a list of lenses.

    Raises:
        ParameterError: it cannot be read, or is no calibration.
    """
    content = _load(path)
    known = {each.name for each in dataclasses.fields(CameraSettings)} - {"file"}
    for key in content:
        if key not in known | {"width", "height", "lenses"}:
            raise ParameterError(f"{path} has the key {key!r}", "remove it; the keys are in docs/cameras.md")
    values = {key: _typed(path, key, content[key]) for key in content if key in known}
    given = frozenset(values)
    lenses: tuple[Lens, ...] = ()
    size = _size(path, content)
    if "lenses" in content:
        lenses = _lenses(path, content["lenses"])
        if size is None:
            raise ParameterError(f"{path} has lenses without the frame's size", f"add width and height; {_CORRECT}")
        model = "fisheye" if len(lenses) == 1 else "dual_fisheye"
        if values.setdefault("model", model) not in (model, "dual_fisheye"):
            raise ParameterError(f"{path} has {len(lenses)} lenses and the model {values['model']!r}", _CORRECT)
        if unused := (given & (_LENS | {"layout", "front_lens", "preset"})):
            raise ParameterError(f"{path} has both lenses and {sorted(unused)[0]}", "remove one of them")
    try:
        settings = CameraSettings(**values)
    except ParameterError as error:
        raise ParameterError(f"{path}: {error.found}", error.remedy) from None
    return Calibration(os.fspath(path), settings, given, size, lenses)


def _load(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_BYTES + 1)
        content = yaml.safe_load(text) if len(text) <= _MAX_BYTES else None
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise ParameterError(f"the calibration cannot be read: {describe_os_error(error)}", "") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise ParameterError(f"the calibration {path} is not YAML{where}", _CORRECT) from None
    if not isinstance(content, dict) or not content:
        raise ParameterError(f"the calibration {path} has no keys", _CORRECT)
    return content


def _typed(path: str | os.PathLike[str], key: str, value: Any) -> Any:
    wanted = type(getattr(CameraSettings, key))
    if wanted is float:
        return _number(path, key, value)
    if not isinstance(value, wanted):
        raise ParameterError(f"{path} has {key} = {value!r}", f"set a text; {_CORRECT}")
    return value


def _number(path: str | os.PathLike[str], key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ParameterError(f"{path} has {key} = {value!r}", f"set a finite number; {_CORRECT}")
    return float(value)


def _size(path: str | os.PathLike[str], content: Mapping[str, Any]) -> tuple[int, int] | None:
    if "width" not in content and "height" not in content:
        return None
    for key in ("height", "width"):
        value = content.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ParameterError(f"{path} has {key} = {value!r}", f"set the frame's pixels; {_CORRECT}")
    return content["height"], content["width"]


def _lenses(path: str | os.PathLike[str], entries: Any) -> tuple[Lens, ...]:
    if not isinstance(entries, list) or not entries:
        raise ParameterError(f"{path} has lenses = {entries!r}"[:200], f"list at least one lens; {_CORRECT}")
    return tuple(_read_lens(path, number, entry) for number, entry in enumerate(entries, 1))


def _read_lens(path: str | os.PathLike[str], number: int, entry: Any) -> Lens:
    name = f"lens {number}"
    if not isinstance(entry, dict):
        raise ParameterError(f"{path} has {name} = {entry!r}"[:200], f"set its keys; {_CORRECT}")
    for key in entry:
        if key not in LENS_KEYS:
            raise ParameterError(f"{path} has the key {key!r} in {name}", "choose one of " + ", ".join(LENS_KEYS))
    has_focal, has_radius = "fx" in entry or "fy" in entry, "radius" in entry
    missing = [key for key in ("x", "y", "fov_deg") if key not in entry]
    if missing or has_focal == has_radius or ("fx" in entry) != ("fy" in entry):
        raise ParameterError(
            f"{path} has {name} with the keys {', '.join(map(str, entry))}",
            "set x, y, fov_deg, and either radius or both fx and fy",
        )
    numbers = {
        key: _number(path, f"{key} of {name}", value) for key, value in entry.items() if key not in ("projection", "k")
    }
    k = entry.get("k", [])
    if not isinstance(k, list):
        raise ParameterError(f"{path} has k of {name} = {k!r}"[:200], "list k1, k2, k3 and k4")
    coefficients = tuple(_number(path, f"k of {name}", each) for each in k)
    turned = rotation_yaw_pitch_roll(
        *(math.radians(numbers.get(key, 0.0)) for key in ("yaw_deg", "pitch_deg", "roll_deg"))
    )
    projection = entry.get("projection", "equidistant")
    try:
        if has_radius:
            return Lens.with_radius(
                numbers["x"], numbers["y"], numbers["radius"], numbers["fov_deg"], projection, coefficients, turned
            )
        x, y, fx, fy, fov_deg = (numbers[key] for key in ("x", "y", "fx", "fy", "fov_deg"))
        return Lens(x, y, fx, fy, fov_deg, projection, coefficients, turned)
    except ParameterError as error:
        raise ParameterError(f"{path}, {name}: {error.found}", error.remedy) from None


def write_calibration(path: str | os.PathLike[str], camera: FisheyeCamera, comment: str = "") -> None:
    """Write a camera with fisheye lenses as a calibration file.

    Args:
        comment: lines for its top, without the #.

    Raises:
        OSError: it cannot be written.
    """
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    model = "fisheye" if len(camera.lenses) == 1 else "dual_fisheye"
    lines += [f"model: {model}", f"width: {camera.width}", f"height: {camera.height}"]
    if camera.blend_deg != WHOLE_OVERLAP_DEG:
        lines.append(f"blend_deg: {camera.blend_deg:g}")
    lines.append("lenses:")
    for lens in camera.lenses:
        lines += [f"{'- ' if not index else '  '}{line}" for index, line in enumerate(_lens_lines(lens))]
    write_text(Path(path), "\n".join(lines) + "\n")


def _lens_lines(lens: Lens) -> list[str]:
    yaw, pitch, roll = (math.degrees(each) for each in yaw_pitch_roll(lens.rotation))
    values: dict[str, float] = {"x": lens.centre_x, "y": lens.centre_y}
    if lens.focal_x_px == lens.focal_y_px:
        values["radius"] = lens.radius_px
    else:
        values |= {"fx": lens.focal_x_px, "fy": lens.focal_y_px}
    values["fov_deg"] = lens.fov_deg
    lines = [f"{name}: {value:.9g}" for name, value in values.items()]
    lines.append(f"projection: {lens.projection}")
    if lens.coefficients:
        lines.append(f"k: [{', '.join(f'{each:.9g}' for each in lens.coefficients)}]")
    angles = {"yaw_deg": yaw, "pitch_deg": pitch, "roll_deg": roll}
    return lines + [f"{name}: {value:.9g}" for name, value in angles.items()]


def yaw_pitch_roll(rotation: Any) -> tuple[float, float, float]:
    """The angles, radians, with which `sphere.rotation_yaw_pitch_roll` makes this rotation (3, 3)."""
    r = np.asarray(rotation, np.float64)
    pitch = math.asin(max(-1.0, min(1.0, -r[2, 0])))
    if abs(r[2, 0]) > 1 - 1e-12:  # straight up or down: yaw and roll turn about the same axis
        return math.atan2(-r[0, 1], r[1, 1]), pitch, 0.0
    return math.atan2(r[1, 0], r[0, 0]), pitch, math.atan2(r[2, 1], r[2, 2])


# --- sensor_msgs/CameraInfo ---


class InfoWindow(NamedTuple):
    """The part of a calibrated picture that a driver sends: roi and binning of a sensor_msgs/CameraInfo."""

    x: int = 0
    """First column, in pixels before binning."""
    y: int = 0
    """First row, in pixels before binning."""
    width: int = 0
    """Columns before binning; all four of the region are 0: the whole picture."""
    height: int = 0
    """Rows before binning."""
    binning_x: int = 0
    """Columns that become one; 0 is the same as 1."""
    binning_y: int = 0
    """Rows that become one."""


WHOLE_WINDOW = InfoWindow()


def camera_from_info(
    distortion_model: str,
    k: Sequence[float],
    d: Sequence[float],
    height: int,
    width: int,
    fov_deg: float = 190.0,
    window: InfoWindow = WHOLE_WINDOW,
) -> FisheyeCamera:
    """The camera of a sensor_msgs/CameraInfo of a fisheye lens.

    The region of interest is cut out of the calibrated picture first, then its pixels are binned, as the message's
    definition says; what binning leaves over at the right and lower edges is dropped.

    Args:
        distortion_model: must be "equidistant", which is ROS's name for the Kannala-Brandt polynomial.
        k: the nine numbers of K, row by row.
        d: k1 to k4.
        height, width: of the CameraInfo, pixels.
        fov_deg: field of view of the lens, degrees: CameraInfo does not contain it.
        window: its roi and binning.

    Raises:
        ParameterError: it does not describe a fisheye lens, is not calibrated, or contradicts itself.
    """
    if distortion_model not in ("equidistant", "fisheye"):
        raise ParameterError(
            f"the CameraInfo has the distortion model {distortion_model!r}",
            "calibrate the lens as a fisheye, or describe the camera by a model or a calibration file",
            expected="equidistant",
        )
    if len(k) != 9 or len(d) != 4:
        raise ParameterError(
            f"the CameraInfo has {len(k)} numbers in K and {len(d)} in D",
            "calibrate the camera again",
            expected="9 and 4",
        )
    if not all(map(math.isfinite, (*k, *d))) or not (k[0] > 0 and k[4] > 0):
        raise ParameterError(
            f"the CameraInfo has the focal lengths {k[0]:g} and {k[4]:g}",
            "calibrate the camera, or describe it by a model or a calibration file",
            expected="finite numbers above 0",
        )
    if k[1] != 0 or k[3] != 0:
        raise ParameterError(
            f"the CameraInfo has a skew of {k[1]:g} in K", "calibrate the camera without skew", expected="0"
        )
    lens = Lens(k[2], k[5], k[0], k[4], fov_deg, "kannala_brandt", tuple(float(each) for each in d))
    return _sent_part(FisheyeCamera(height, width, [lens]), window)


def _sent_part(camera: FisheyeCamera, window: InfoWindow) -> FisheyeCamera:
    """The camera of a window of its frames."""
    x, y, width, height = window[:4] if any(window[:4]) else (0, 0, camera.width, camera.height)
    if not (0 <= x < x + width <= camera.width and 0 <= y < y + height <= camera.height):
        raise ParameterError(
            f"the CameraInfo has a region of interest of {width} x {height} at ({x}, {y}) in a picture of "
            f"{camera.width} x {camera.height}",
            "correct roi, whose pixels are those of the calibration, or set all of it to 0",
            expected="a region inside the picture",
        )
    across, down = max(window.binning_x, 1), max(window.binning_y, 1)
    if across > width or down > height:
        raise ParameterError(
            f"the CameraInfo bins {across} x {down} pixels of a region of {width} x {height}",
            "correct binning_x and binning_y; 0 and 1 mean no binning",
        )
    (lens,) = camera.lenses
    sent = dataclasses.replace(
        lens,
        centre_x=(lens.centre_x - x + 0.5) / across - 0.5,  # integers are pixel centres, so edges are halves
        centre_y=(lens.centre_y - y + 0.5) / down - 0.5,
        focal_x_px=lens.focal_x_px / across,
        focal_y_px=lens.focal_y_px / down,
    )
    return FisheyeCamera(height // down, width // across, [sent], may_be_cut=True)


def check_info_size(camera: Camera, height: int, width: int) -> None:
    """Refuse frames whose size is not that of their CameraInfo.

    Raises:
        FrameError: they differ.
    """
    if (camera.height, camera.width) != (height, width):
        raise FrameError(
            f"the frame is {width} x {height}, and its CameraInfo is for {camera.width} x {camera.height}",
            "calibrate at the resolution that the camera sends, or correct binning and roi in the CameraInfo",
            reason="camera_mismatch",
        )
