"""Pictures and figures of the bundled model's failures: python -m docs.failure_pictures writes images/failures.jpg.

A sign is placed in a bundled panorama at several distances, with and without words, across the seam, on ceiling and
floor, and at night. Its attraction is measured as the mean of the map over the sign, relative to uniform, without the
prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from docs.make_pictures import HEIGHT, WIDTH, label, write_picture
from sal360.arrays import Pixels
from sal360.density import resize_map, sphere_mean
from sal360.images import read_picture
from sal360.outputs.overlay import draw_overlay
from sal360.predictor import Predictor
from sal360.projection import Viewport, place_on_sphere
from sal360.samples import bundled_panoramas
from sal360.sphere import rotation_yaw_pitch_roll

_FRAME_HEIGHT = 960
"""Height of the frames: large enough that only the model's own input size limits the sharpness of the signs."""


@dataclass(frozen=True)
class Sign:
    """A sign in the panorama; angles in degrees, azimuth positive to the left of the middle."""

    azimuth_deg: float
    elevation_deg: float = -4.0
    width_deg: float = 12.0
    words: bool = True

    def viewport(self) -> Viewport:
        """The viewport that the sign fills."""
        rotation = rotation_yaw_pitch_roll(math.radians(self.azimuth_deg), -math.radians(self.elevation_deg))
        return Viewport(rotation, math.radians(self.width_deg), 120, 200)

    def picture(self) -> Pixels:
        """A white sign with dark blue words, (120, 200, 3) BGR."""
        plate = np.full((120, 200, 3), 235, np.uint8)
        if self.words:
            for line, text in enumerate(("GATE 12", "TICKETS")):
                cv2.putText(plate, text, (14, 50 + 50 * line), cv2.FONT_HERSHEY_DUPLEX, 1.2, (110, 40, 10), 3)
        return plate


CASES: dict[str, tuple[Sign, ...]] = {
    "distance": tuple(Sign(azimuth, width_deg=width) for azimuth, width in ((120, 24), (65, 12), (20, 6), (-25, 3))),
    "words": (
        Sign(130, width_deg=16),
        Sign(50, width_deg=16, words=False),
        Sign(0, width_deg=8),
        Sign(-45, width_deg=8, words=False),
    ),
    "seam": (Sign(180), Sign(50), Sign(0)),
    "ceiling and floor": (Sign(150, 70), Sign(50, 40), Sign(-50, -40), Sign(-150, -70)),
    "day": (Sign(120), Sign(10)),
    "night": (Sign(120), Sign(10)),
}


def main() -> None:
    background = read_picture(bundled_panoramas() / "sunset.jpg")
    background = cv2.resize(background, (2 * _FRAME_HEIGHT, _FRAME_HEIGHT), interpolation=cv2.INTER_LINEAR)
    pictures = []
    with Predictor(precision="fp32", prior_strength=0.0) as predictor:
        for name, signs in CASES.items():
            pictures.append(_case(predictor, background, name, signs))
    write_picture("failures.jpg", np.vstack([np.hstack(pictures[i : i + 2]) for i in range(0, len(pictures), 2)]))


def _case(predictor: Predictor, background: Pixels, name: str, signs: tuple[Sign, ...]) -> Pixels:
    frame = background.copy()
    masks = []
    for sign in signs:
        placed, mask = place_on_sphere(sign.picture(), sign.viewport(), *frame.shape[:2])
        frame[mask] = placed[mask]
        masks.append(mask)
    if name == "night":
        frame = _at_night(frame)
    density = predictor.predict(frame, "bgr")
    fine = resize_map(density, *frame.shape[:2])
    small = cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    overlay = draw_overlay(small, density, full_scale=6.0)
    for sign, mask in zip(signs, masks, strict=True):
        drawn = sphere_mean(fine, mask)
        print(f"{name}: {sign} draws {drawn:.1f}")
        column = (0.5 - sign.azimuth_deg / 360) * WIDTH
        row = (0.5 - sign.elevation_deg / 180) * HEIGHT
        label(overlay, f"{sign.width_deg:g} deg: {drawn:.1f}", column, row + 28)
    label(overlay, name, WIDTH / 2, 12, scale=0.5)
    return overlay


def _at_night(frame: Pixels) -> Pixels:
    """A frame (H, W, 3) at a tenth of its brightness, with sensor noise."""
    noise = np.random.default_rng(0).normal(0, 4, frame.shape)
    return np.clip(0.1 * frame + 6 + noise, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
