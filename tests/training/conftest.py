"""Small data sets in the exact formats of the large ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from tensorboard.summary.writer import event_file_writer


@pytest.fixture(autouse=True)
def _files_of_curves_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two TensorBoard files of one process and second, a count at the end of the name says which is read first.

    It sorts as text, 10 before 9, and a test can write both: here it keeps its number of digits.
    """
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(10**6))


@pytest.fixture
def write_osie(tmp_path: Path) -> Callable[..., Path]:
    """Writes photographs with fixations: red pictures 1000.jpg, 1001.jpg, …, 800 x 600 by default, as in OSIE."""

    def write(
        count: int,
        *,
        image: Sequence[int] = (),
        x: Sequence[float] = (),
        y: Sequence[float] = (),
        subject: Sequence[int] = (),
        size: tuple[int, int] = (600, 800),
        sizes: bool = False,
        folder: str = "osie",
    ) -> Path:
        root = tmp_path / folder
        (root / "stimuli").mkdir(parents=True, exist_ok=True)
        names = [f"{1000 + i}.jpg" for i in range(count)]
        for name in names:
            cv2.imwrite(str(root / "stimuli" / name), np.full((*size, 3), (30, 60, 200), np.uint8))
        np.savez(
            root / "fixations.npz",
            image=np.array(image, np.int16),
            subject=np.array(subject, np.int8),
            x=np.array(x, np.float32),
            y=np.array(y, np.float32),
            duration_ms=np.full(len(x), 200, np.float32),
            names=np.array(names),
            **({"size_hw": np.tile(np.array(size, np.int16), (count, 1))} if sizes else {}),
        )
        return root

    return write
