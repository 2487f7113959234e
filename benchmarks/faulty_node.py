"""The saliency node with inference that fails or hangs on command; only for `soak.py`, which starts it.

The command is one byte of a file that both processes map: NONE, FAIL or HANG, or HANG + n, after which inference fails
n times. Opening a model repairs inference: the node itself then sets the command to NONE, so that nothing depends on
how soon the other process notices.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any

VARIABLE = "SAL360_SOAK_FAULT"
NONE, FAIL, HANG = 0, 1, 2


def mapped(path: str | Path) -> mmap.mmap:
    """The byte of the command, shared by all processes that map this file."""
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 1)


def main() -> int:
    """Run the node until SIGINT or SIGTERM."""
    from sal360.predictor import Predictor
    from sal360_ros import saliency_node

    command = mapped(os.environ[VARIABLE])
    opened, predict = Predictor.__init__, Predictor.predict_batch  # the latter for one frame, too

    def repaired(self: Predictor, *arguments: Any, **options: Any) -> None:
        command[0] = NONE
        opened(self, *arguments, **options)

    def faulty(self: Predictor, *arguments: Any) -> Any:
        if command[0] > HANG:
            command[0] = command[0] - 1 if command[0] > HANG + 1 else NONE
            raise RuntimeError("injected by the benchmark")
        if command[0] == FAIL:
            raise RuntimeError("injected by the benchmark")
        while command[0] == HANG:
            time.sleep(0.02)
        return predict(self, *arguments)

    Predictor.__init__ = repaired  # type: ignore[method-assign]
    Predictor.predict_batch = faulty  # type: ignore[method-assign]
    return saliency_node.main()


if __name__ == "__main__":
    sys.exit(main())
