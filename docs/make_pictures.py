"""Makes the pictures of the documentation: python -m docs.make_pictures (the report needs chromium)."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from cv2.typing import MatLike

from docs.replay_report import replay_report, screenshot
from sal360.arrays import Density
from sal360.cameras import Camera, CameraSettings, FisheyeCamera, open_camera
from sal360.cameras.calibration import calibrate
from sal360.cameras.calibration_picture import draw_calibration
from sal360.cameras.fisheye import Lens
from sal360.cameras.lookup import equirectangular_view
from sal360.files import written_beside
from sal360.images import read_picture
from sal360.outputs.overlay import draw_overlay
from sal360.outputs.qp_offset import QpOffset, QpOffsetSettings
from sal360.outputs.shading_rate import ShadingRate, ShadingRateSettings, decode_rates
from sal360.outputs.targets import find_peaks
from sal360.outputs.viewport import ViewportMap
from sal360.predictor import Predictor
from sal360.projection import Viewport, sample_erp
from sal360.samples import bundled_panoramas
from sal360.sphere import angles_to_pixel, angles_to_vector, body_to_frame, nearest_pixel, rotation_yaw_pitch_roll
from sal360.viewer.page import write_static_page
from sal360.viewer.scene import Scene

HEIGHT, WIDTH = 320, 640
IMAGES = Path(__file__).parent / "images"


def main() -> None:
    frame: MatLike = read_picture(bundled_panoramas() / "courtyard.jpg")
    frame = cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    with Predictor(precision="fp32") as predictor:
        density = predictor.predict(frame, "bgr")
        write_picture("overlays.jpg", _overlays(predictor))
        for model, width in (("dual_fisheye", 640), ("cubemap", 480), ("eac", 480)):
            write_picture(f"{model}.jpg", _camera(predictor, open_camera(CameraSettings(model=model), HEIGHT, width)))
    write_picture("coordinates.jpg", _coordinates(frame))
    write_picture("targets.jpg", _targets(draw_overlay(frame, density), density))
    write_picture("shading_rate.jpg", _shading_rate(frame, density))
    write_picture("qp_offset.jpg", _qp_offset(frame, density))
    write_picture("viewport.jpg", _viewport(frame, density))
    write_picture("calibrate_lenses.jpg", _calibration())
    with TemporaryDirectory(prefix="sal360-pictures-") as folder:
        write_picture("viewer.jpg", _viewer(Path(folder), density))
        write_picture("replay_report.jpg", replay_report(Path(folder)))


def write_picture(name: str, picture: MatLike) -> None:
    """Write a BGR picture to docs/images."""
    with written_beside(IMAGES / name) as temporary:
        cv2.imwrite(str(temporary), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])


def _viewer(folder: Path, density: Density) -> MatLike:
    """The page of the viewer with a bundled panorama."""
    picture = read_picture(bundled_panoramas() / "courtyard.jpg")
    page = folder / "viewer.html"
    view = {"azimuth": "-72", "elevation": "1", "fov": "100", "opacity": "0.4"}
    write_static_page(page, [Scene("courtyard", 0.0, picture, density)], "courtyard.jpg", view)
    return screenshot(page, (1200, 760), folder / "viewer.png")


def label(picture: MatLike, text: str, x: float, y: float, scale: float = 0.4) -> None:
    """Write white text on black, centred near (x, y) but entirely inside the picture."""
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    left = int(min(max(x - width / 2, 2), picture.shape[1] - width - 2))
    base = int(min(max(y + height / 2, height + 2), picture.shape[0] - 4))
    cv2.rectangle(picture, (left - 1, base - height - 2), (left + width + 1, base + 3), (0, 0, 0), -1)
    cv2.putText(picture, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)


def _overlays(predictor: Predictor) -> MatLike:
    """The bundled panoramas with their maps, two per row."""
    overlays = []
    for path in sorted(bundled_panoramas().glob("*.jpg")):
        frame = cv2.resize(read_picture(path), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        overlays.append(draw_overlay(frame, predictor.predict(frame, "bgr"), full_scale=6.0))
    return np.vstack([np.hstack(overlays[start : start + 2]) for start in range(0, len(overlays), 2)])


def _coordinates(frame: MatLike) -> MatLike:
    """The panorama with a grid of azimuth and elevation, and unit vectors in three conventions."""
    picture = cv2.resize(frame, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_LINEAR)
    picture = (0.6 * picture).astype(np.uint8)
    for azimuth in range(-150, 181, 30):
        u, _ = angles_to_pixel(math.radians(azimuth), 0, *picture.shape[:2])
        cv2.line(picture, (round(float(u)), 0), (round(float(u)), picture.shape[0]), (200, 200, 200), 1)
        label(picture, f"{azimuth:+d} deg", float(u), picture.shape[0] - 10)
    for elevation in range(-60, 61, 30):
        _, v = angles_to_pixel(0, math.radians(elevation), *picture.shape[:2])
        cv2.line(picture, (0, round(float(v))), (picture.shape[1], round(float(v))), (200, 200, 200), 1)
        label(picture, f"{elevation:+d} deg", 30, float(v) - 8)
    for azimuth, elevation in ((0, 0), (90, 0), (-90, 0), (180, 0), (0, 75), (0, -55), (-60, 30)):
        vector = angles_to_vector(math.radians(azimuth), math.radians(elevation))
        u, v = angles_to_pixel(math.radians(azimuth), math.radians(elevation), *picture.shape[:2])
        cv2.circle(picture, (round(float(u)), round(float(v))), 4, (0, 220, 255), -1)
        for line, convention in enumerate(("body", "optical", "openxr")):
            parts = ", ".join(f"{part + 0.0:.2f}" for part in np.round(body_to_frame(vector, convention), 2))
            label(picture, f"{convention} ({parts})", float(u), float(v) + 18 + 16 * line)
    return picture


def _targets(overlay: MatLike, density: Density) -> MatLike:
    peaks = find_peaks(density)
    for number, (direction, score) in enumerate(zip(peaks.directions, peaks.scores, strict=True), start=1):
        column, row = nearest_pixel(direction, HEIGHT, WIDTH)
        cv2.circle(overlay, (int(column), int(row)), 7, (0, 255, 0) if number == 1 else (255, 255, 255), 2)
        label(overlay, f"{number}: {score:.1f}", float(column), float(row) - 16)
    return overlay


def _shading_rate(frame: MatLike, density: Density) -> MatLike:
    """Each tile at the resolution that its byte encodes, as a renderer would show it."""
    rates = ShadingRate(HEIGHT, WIDTH, ShadingRateSettings(limit="4x4")).update(density)
    widths, _ = decode_rates(rates)
    side = np.repeat(np.repeat(widths, 16, axis=0), 16, axis=1)[:HEIGHT, :WIDTH]
    picture = frame.copy()
    for fragment_px, colour in ((2, (0, 200, 255)), (4, (0, 0, 255))):
        coarse = cv2.resize(frame, (WIDTH // fragment_px, HEIGHT // fragment_px), interpolation=cv2.INTER_AREA)
        coarse = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
        picture = np.where((side == fragment_px)[..., None], 0.85 * coarse + 0.15 * np.array(colour), picture)
    return picture.astype(np.uint8)


def _qp_offset(frame: MatLike, density: Density) -> MatLike:
    offsets = QpOffset(HEIGHT, WIDTH, QpOffsetSettings()).update(density)
    shade = np.clip(128 + 14 * offsets.astype(int), 0, 255).astype(np.uint8)
    heat = cv2.applyColorMap(cv2.resize(shade, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST), cv2.COLORMAP_JET)
    picture = cv2.addWeighted(frame, 0.55, heat, 0.45, 0)
    for row in range(1, offsets.shape[0], 3):
        for column in range(1, offsets.shape[1], 3):
            label(picture, f"{offsets[row, column]:+d}", 16 * column + 8, 16 * row + 8, scale=0.3)
    return picture


def _viewport(frame: MatLike, density: Density) -> MatLike:
    """The window around the strongest target: the picture, and the map over it."""
    forward = find_peaks(density).directions[0]
    left = np.cross([0.0, 0.0, 1.0], forward)
    left /= np.linalg.norm(left)
    rotation = np.stack([forward, left, np.cross(forward, left)], axis=1)
    viewport = Viewport(rotation, math.radians(90), 300, 400)
    view = viewport.cut_from(frame)
    return np.hstack([view, draw_overlay(view, ViewportMap(viewport).sample(density))])


def _seen_by(camera: Camera, panorama: MatLike) -> MatLike:
    """A frame of the camera that shows a panorama, antialiased; black where it has no picture."""
    rows, columns = np.mgrid[: 2 * camera.height, : 2 * camera.width] / 2 - 0.25
    directions, has_picture = camera.unproject(columns, rows)
    seen = sample_erp(panorama.astype(np.uint8), directions)
    seen[~has_picture] = 0
    return cv2.resize(seen, (camera.width, camera.height), interpolation=cv2.INTER_AREA)


def _camera(predictor: Predictor, camera: Camera) -> MatLike:
    """A frame of the camera, and the map made of it."""
    frame = _seen_by(camera, read_picture(bundled_panoramas() / "city.jpg")).astype(np.uint8)
    view = equirectangular_view(camera, frame)
    view = cv2.resize(view, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.uint8)
    overlay = draw_overlay(view, predictor.predict(frame, "bgr", camera=camera), full_scale=6.0)
    return np.hstack([frame, np.zeros((HEIGHT, 8, 3), np.uint8), overlay])


def _calibration() -> MatLike:
    """What `sal360 calibrate-lenses` draws for a camera whose lenses are not where they should be."""
    size = 480
    centres, turns = ((238.5, 245.2), (725.8, 236.4)), ((0.0, 0.0, 0.0), (182.4, -1.8, 2.1))
    lenses = [
        Lens.with_radius(*centre, 0.46 * size, 202.0, rotation=rotation_yaw_pitch_roll(*map(math.radians, turn)))
        for centre, turn in zip(centres, turns, strict=True)
    ]
    panorama = read_picture(bundled_panoramas() / "courtyard.jpg")
    frame = _seen_by(FisheyeCamera(size, 2 * size, lenses), panorama).astype(np.uint8)
    before = open_camera(CameraSettings(model="dual_fisheye"), size, 2 * size)
    assert isinstance(before, FisheyeCamera)
    found = calibrate([frame])
    picture = draw_calibration([frame], found, before, found.rig.turned_like(before))
    return cv2.resize(picture, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    main()
