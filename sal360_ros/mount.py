"""The parameter `mount`: how a camera is fixed to the robot."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from sal360.arrays import Floats
from sal360.errors import ParameterError
from sal360.sphere import rotation_from_quaternion

ESTIMATE = "estimate"
"""The value for which up is estimated from the camera's pictures."""
_FRAME = re.compile(r"/?[A-Za-z_][\w/.-]*")


@dataclass(frozen=True, eq=False)
class Mount:
    """How a camera is mounted."""

    rotation: Floats = field(default_factory=lambda: np.eye(3))
    """(3, 3), from the camera's body axes to those of the robot, or of the IMU."""
    frame: str = ""
    """tf2 frame whose rotation to the frame_id of the images is looked up; empty: `rotation` holds."""
    is_none: bool = False
    """Whether nothing is known: the camera is taken as upright."""
    is_estimated: bool = False
    """Whether up is estimated from the camera's pictures."""


def parse_mount(text: str) -> Mount:
    """The meaning of the parameter.

    Raises:
        ParameterError: the text is none of its forms.
    """
    words = text.replace(",", " ").split()
    if not words:
        return Mount(is_none=True)
    if words == [ESTIMATE]:
        return Mount(is_estimated=True)
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        if len(words) == 1 and _FRAME.fullmatch(words[0]):
            return Mount(frame=words[0])
        numbers = []
    if len(numbers) != 4:
        raise ParameterError(
            f"mount is {text!r}",
            f"set a quaternion as four numbers x y z w, the name of a tf2 frame, {ESTIMATE}, or nothing",
        )
    x, y, z, w = numbers
    try:
        return Mount(rotation_from_quaternion(w, x, y, z))
    except ParameterError as error:
        raise ParameterError(f"mount is {text!r}: {error.found}", error.remedy) from None
