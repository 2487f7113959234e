"""A turning scene with known gaze in a bag, and the command line under test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sal360.cli import evaluate, main
from sal360.projection import rotate_erp
from sal360.samples import bundled_panoramas
from sal360.sphere import erp_directions, rotation_yaw_pitch_roll
from tests.bag_writer import BagWriter, any_bag, mcap_bag, ros1_bag, sqlite_bag

__all__ = ["any_bag", "mcap_bag", "ros1_bag", "sqlite_bag"]

START_NS = 1_700_000_000 * 10**9
PERIOD_NS = 100_000_000
YAW_RATE_DEG = 6.0  # a frame


@dataclass(frozen=True)
class TurningScene:
    """Frames of a camera that turns to the left, and where people looked in each."""

    frames: list[np.ndarray]
    """(64, 128, 3) uint8 BGR."""
    stamps_ns: list[int]
    fixations: list[np.ndarray]
    """(5, 3) float32 unit vectors in the camera's body axes, of observers 0, 1, 0, 1, 2."""
    maps: list[np.ndarray]
    """(20, 40) float32, not normalised."""

    OBSERVERS = np.array([0, 1, 0, 1, 2])

    def image_messages(self, writer: BagWriter) -> list[tuple[int, Any]]:
        """The frames, recorded 3 ms after their stamps."""
        stamped = zip(self.stamps_ns, self.frames, strict=True)
        return [(stamp + 3_000_000, writer.image(stamp, frame, "bgr8")) for stamp, frame in stamped]

    def map_messages(self, writer: BagWriter, encoding: str = "32FC1") -> list[tuple[int, Any]]:
        """The maps of people's gaze."""
        messages = []
        for stamp, values in zip(self.stamps_ns, self.maps, strict=True):
            pixels = values if encoding == "32FC1" else np.round(255 * values / values.max()).astype(np.uint8)
            messages.append((stamp, writer.image(stamp, pixels, encoding)))
        return messages

    def cloud_messages(self, writer: BagWriter) -> list[tuple[int, Any]]:
        """The fixations as point clouds with whose they are."""
        layout = np.dtype(
            {"names": ["x", "y", "z", "observer"], "formats": ["<f4", "<f4", "<f4", "<u2"], "itemsize": 16}
        )
        kinds = {"x": (0, 7), "y": (4, 7), "z": (8, 7), "observer": (12, 4)}
        messages = []
        for stamp, vectors in zip(self.stamps_ns, self.fixations, strict=True):
            points = np.zeros(len(vectors), layout)
            points["x"], points["y"], points["z"] = vectors.T
            points["observer"] = self.OBSERVERS
            cloud = writer.new(
                "sensor_msgs/msg/PointCloud2",
                header=writer.header(stamp),
                height=1,
                width=len(points),
                fields=[
                    writer.new("sensor_msgs/msg/PointField", name=name, offset=offset, datatype=kind, count=1)
                    for name, (offset, kind) in kinds.items()
                ],
                is_bigendian=False,
                point_step=16,
                row_step=16 * len(points),
                data=points.view(np.uint8).reshape(-1),
                is_dense=True,
            )
            messages.append((stamp, cloud))
        return messages


@pytest.fixture(scope="session")
def turning_scene() -> TurningScene:
    """Six frames of a town square."""
    square = cv2.imread(str(bundled_panoramas() / "city.jpg"))
    square = cv2.resize(square, (128, 64), interpolation=cv2.INTER_AREA)
    looked_at = np.random.default_rng(4).normal(size=(5, 3)) * (1, 1, 0.3)
    looked_at /= np.linalg.norm(looked_at, axis=-1, keepdims=True)
    frames, fixations, maps = [], [], []
    for index in range(6):
        scene = rotation_yaw_pitch_roll(yaw_rad=-np.deg2rad(YAW_RATE_DEG * index))  # turns against the camera
        seen_at = looked_at @ scene.T
        frames.append(rotate_erp(square, scene))
        fixations.append(seen_at.astype(np.float32))
        maps.append(np.exp(30 * (erp_directions(20, 40) @ seen_at.T - 1)).sum(axis=-1).astype(np.float32))
    stamps_ns = [START_NS + index * PERIOD_NS for index in range(6)]
    return TurningScene(frames, stamps_ns, fixations, maps)


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def run_evaluate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_model: Path
) -> Callable[..., Outcome]:
    """Runs the command with the tiny model: run_evaluate("run.mcap", "--live"); without plots, which take seconds."""

    def run(*arguments: Any, model: str | Path = tiny_model, plots: bool = False) -> Outcome:
        if not plots:
            monkeypatch.setattr(evaluate, "plots_of", lambda *_: {})
        capsys.readouterr()
        status = main(["evaluate", *map(str, arguments), "--model", str(model), "--backend", "onnxruntime"])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run
