"""Small data sets of panoramas and of photographs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

HEADER = "Idx, longitude, latitude, start timestamp\n"


@pytest.fixture
def salient360_root(tmp_path):
    """Five pictures; people look at a white disc, another place in each."""
    root = tmp_path / "salient360"
    rng = np.random.default_rng(11)
    for folder in ("Stimuli", "HE/SalMaps", "HE/Scanpaths/R"):
        (root / folder).mkdir(parents=True)
    for number in (1, 2, 75, 76, 77):
        x, y = rng.uniform(0.1, 0.9), rng.uniform(0.35, 0.65)
        picture = np.full((128, 256, 3), 60, np.uint8)
        cv2.circle(picture, (round(256 * x), round(128 * y)), 10, (255, 255, 255), -1)
        cv2.imwrite(str(root / f"Stimuli/P{number}_256x128.jpg"), picture)
        rows, columns = np.mgrid[:64, :128]
        distance = np.hypot(rows + 0.5 - 64 * y, columns + 0.5 - 128 * x)
        np.exp(-((distance / 4) ** 2)).astype("<f4").tofile(root / f"HE/SalMaps/HEsalmap_{number}_128x64_32b.bin")
        lines = [
            f"{i},{x + rng.normal(0, 0.01)},{y + rng.normal(0, 0.02)},{300 * i}\n" for _ in range(4) for i in range(5)
        ]
        (root / f"HE/Scanpaths/R/HEscanpath_{number}.txt").write_text(HEADER + "".join(lines))
    return root


@pytest.fixture
def osie_root(tmp_path):
    """Six photographs and two panoramas."""
    root, panoramas = tmp_path / "osie", tmp_path / "panoramas"
    (root / "stimuli").mkdir(parents=True)
    panoramas.mkdir()
    rng = np.random.default_rng(12)
    names = np.array([f"{i}.jpg" for i in range(6)])
    for name in names:
        cv2.imwrite(str(root / "stimuli" / name), np.full((600, 800, 3), 250, np.uint8))
    image = np.repeat(np.arange(6, dtype=np.int16), 20)
    np.savez(
        root / "fixations.npz",
        image=image,
        subject=np.tile(np.arange(5, dtype=np.int8), 24),
        x=rng.uniform(100, 700, 120).astype(np.float32),
        y=rng.uniform(100, 500, 120).astype(np.float32),
        duration_ms=np.full(120, 200, np.float32),
        names=names,
    )
    for i in range(2):
        cv2.imwrite(str(panoramas / f"{i}.png"), np.full((64, 128, 3), 20 + 10 * i, np.uint8))
    return root, panoramas


@pytest.fixture
def ham_root(tmp_path):
    """Six photographs with maps and without fixations; the gaze of each lies in another place."""
    root = tmp_path / "ham"
    (root / "stimuli").mkdir(parents=True)
    rng = np.random.default_rng(14)
    names = [f"{i}.jpg" for i in range(6)]
    maps = []
    for name in names:
        row, column = rng.uniform(8, 20, 2)
        rows, columns = np.mgrid[:28, :28]
        maps.append(255 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 30))
        cv2.imwrite(str(root / "stimuli" / name), np.full((90, 120, 3), 200, np.uint8))
    np.savez(root / "maps.npz", names=np.array(names), maps=np.array(maps).astype(np.uint8))
    return root
