"""Makes images/replay_report.jpg: a bag of the bundled panoramas, its report, and a browser that takes a screenshot."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2

from sal360.arrays import Pixels
from sal360.errors import ParameterError
from sal360.images import read_picture
from sal360.samples import bundled_panoramas
from sal360.sources import open_source
from sal360.sources.bag import message_types

RATE_HZ, SECONDS_EACH = 10.0, 3.0
TOPIC, TYPE = "/camera/image/compressed", "sensor_msgs/msg/CompressedImage"
WINDOW_PX = (860, 1064)


def replay_report(folder: Path) -> Pixels:
    """The top of the report, (H, W, 3) uint8 BGR; the bag and the report are written to `folder`.

    Raises:
        ParameterError: Chromium and Chrome are missing.
    """
    bag = _turning_camera(folder / "turning_camera")
    evaluate = ["-m", "sal360", "evaluate", bag.name, "--output", "report", "--no-video"]
    requirements = ["--require", "answered_share>=1", "--require", "flicker<0.1"]
    subprocess.run(
        [sys.executable, *evaluate, *requirements],
        cwd=folder,  # the report names the bag as it was given
        env={**os.environ, "PYTHONPATH": os.fspath(Path(__file__).resolve().parents[1])},
        check=True,
    )
    return screenshot(folder / "report" / "report.html", WINDOW_PX, folder / "report.png")


def screenshot(page: Path, window_px: tuple[int, int], picture: Path) -> Pixels:
    """A page in a window of this width and height, (H, W, 3) uint8 BGR; also written to `picture`, a PNG file.

    Raises:
        ParameterError: Chromium and Chrome are missing.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise ParameterError("neither chromium nor google-chrome is installed", "install one of them")
    # no sandbox: the page is our own, and Chromium's sandbox does not work in containers; SwiftShader: no GPU either
    options = ["--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    options += ["--hide-scrollbars", f"--window-size={window_px[0]},{window_px[1]}", "--virtual-time-budget=5000"]
    subprocess.run(
        [browser, *options, f"--screenshot={picture}", page.resolve().as_uri()], check=True, stderr=subprocess.DEVNULL
    )
    return read_picture(picture)


def _turning_camera(path: Path) -> Path:
    """A bag of a camera that turns inside each of the bundled panoramas."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = message_types()
    types = store.types
    yaw_rate_rad_s = math.radians(20)
    frames = open_source(
        bundled_panoramas(), rate_hz=RATE_HZ, hold_s=SECONDS_EACH, yaw_rate_rad_s=yaw_rate_rad_s, height_px=480
    )
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        connection = bag.add_connection(TOPIC, TYPE, typestore=store)
        for number, frame in enumerate(frames):
            nanoseconds = round(number * 1e9 / RATE_HZ)
            stamp = types["builtin_interfaces/msg/Time"](sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
            header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
            jpeg = cv2.imencode(".jpg", frame.image)[1].reshape(-1)
            message = types[TYPE](header=header, format="jpeg", data=jpeg)
            bag.write(connection, nanoseconds, store.serialize_cdr(message, TYPE))
    return path
