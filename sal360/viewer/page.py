"""The page that shows spheres: empty, for a server, or as one file that holds pictures, maps and a view."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import cv2
import numpy as np

from sal360.errors import ParameterError
from sal360.files import write_text
from sal360.viewer.scene import GRIDS, Scene

COLOURS = {
    "inferno": cv2.COLORMAP_INFERNO,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "turbo": cv2.COLORMAP_TURBO,
    "grey": None,
}
"""Name in the page → OpenCV's colour map; the first is the one of overlays."""
VIEW_RANGES = {
    "azimuth": (-360.0, 360.0),
    "elevation": (-90.0, 90.0),
    "fov": (10.0, 150.0),
    "opacity": (0.0, 1.0),
    "threshold": (0.0, 10.0),
    "full": (1.0, 32.0),
    "targets": (0.0, 1.0),
    "panel": (0.0, 1.0),
    "frame": (0.0, 1e6),
}
"""Numbers of a view, as in the page's link; angles in degrees, `fov` along the window's longer side."""
VIEW_CHOICES = {"colour": tuple(COLOURS), "grid": ("none", *GRIDS)}
STILL_QUALITY = 92
MAX_STATIC = 24
"""Pictures in one file: each takes half a megabyte to three."""
_EMPTY = '<script type="application/json" id="content">{}</script>'


def live_page() -> str:
    """The page for a server: it receives its pictures from `socket` beside its own address."""
    return _filled({})


def static_page(scenes: Sequence[Scene], title: str, view: Mapping[str, str] | None = None) -> str:
    """A page that holds its pictures and needs neither a server nor the network.

    Args:
        scenes: at least one; the page offers a choice between several.
        title: heading.
        view: where it looks at first; see `read_view`.

    Returns:
        HTML. A picture of 4096 x 2048 takes about 3 MB.
    """
    frames = [_embedded(scene) for scene in scenes]
    return _filled({"frames": frames, "title": title, "view": urlencode(dict(view or {}))})


def write_static_page(path: Path, scenes: Sequence[Scene], title: str, view: Mapping[str, str] | None = None) -> None:
    """Write `static_page`, completely or not at all.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    write_text(path, static_page(scenes, title, view))


def read_view(text: str) -> dict[str, str]:
    """A view as on the command line, "azimuth=90,elevation=-10,fov=75", or as in a link of the page, "azimuth=90&…".

    Raises:
        ParameterError: a name is unknown, or a value is out of its range.
    """
    view: dict[str, str] = {}
    for item in filter(None, text.rpartition("#")[2].replace("&", ",").split(",")):
        name, _, value = item.partition("=")
        view[name] = _checked(name, value)
    return view


def _checked(name: str, value: str) -> str:
    if name in VIEW_CHOICES:
        if value not in VIEW_CHOICES[name]:
            raise ParameterError(f"the view has {name} = {value!r}", f"set it to {', '.join(VIEW_CHOICES[name])}")
        return value
    if name not in VIEW_RANGES:
        known = ", ".join([*VIEW_RANGES, *VIEW_CHOICES])
        raise ParameterError(f"the view has {name!r}", f"write NAME=VALUE, with the names {known}")
    low, high = VIEW_RANGES[name]
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise ParameterError(f"the view has {name} = {value!r}", f"set it to a number from {low:g} to {high:g}")
    return value


def _embedded(scene: Scene) -> dict[str, Any]:
    size, values = scene.map_bytes()
    frame = {**scene.about(), "map": {**size, "data": _text(values)}, "picture": _text(scene.jpeg(STILL_QUALITY))}
    for name in GRIDS:
        grid, cells = scene.grid_bytes(name)
        frame[name] = {**grid, "data": _text(cells)}
    return frame


def _filled(content: dict[str, Any]) -> str:
    page = files("sal360.viewer").joinpath("page.html").read_text(encoding="utf-8")
    # "</script>" in a file name must not end the element
    text = json.dumps({**content, "colours": _colours()}).replace("<", "\\u003c")
    assert _EMPTY in page
    return page.replace(_EMPTY, _EMPTY.replace("{}", text))


@lru_cache(maxsize=1)
def _colours() -> dict[str, str]:
    """The colour maps as base64 of 256 RGB triples."""
    grey = np.arange(256, dtype=np.uint8)[:, None]
    tables = {}
    for name, number in COLOURS.items():
        bgr = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR) if number is None else cv2.applyColorMap(grey, number)
        tables[name] = _text(np.ascontiguousarray(bgr[..., ::-1]).tobytes())
    return tables


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
