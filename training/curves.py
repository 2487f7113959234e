"""Curves of a run: written to TensorBoard files while it trains, read back, and drawn as one picture."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from sal360.errors import require_modules
from training.analysis.results import new_figure, save_figure
from training.loggers import Tracker


class Curves:
    """Averages the values of the steps and writes them as TensorBoard curves.

    Args:
        run: folder of the TensorBoard files.
        start: step from which the run continues; later points, from a run that was killed, are dropped.
        enabled: False in all processes except the first.
        tracker: also gets the points; None: nobody else does.
    """

    def __init__(self, run: str | Path, start: int, *, enabled: bool, tracker: Tracker | None = None) -> None:
        self._tracker = tracker
        self.last: dict[str, float] = {}
        """The newest value of each curve."""
        self._writer = None
        self._hook = threading.excepthook
        if enabled:
            from torch.utils.tensorboard import SummaryWriter  # starts slowly

            require_modules("matplotlib")  # which draws the summary when the run ends
            threading.excepthook = _without_writer(self._hook)
            self._writer = SummaryWriter(str(run), purge_step=start + 1 if start else 0)
        self._sums: dict[str, Tensor] = {}
        self._steps = self._images = 0
        self._step_s = self._waiting_s = 0.0

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        threading.excepthook = self._hook
        if self._writer is not None:
            self._writer.close()
        if self._tracker is not None:
            self._tracker.close(failed=kind is not None)

    @contextmanager
    def step(self, images: int) -> Iterator[None]:
        """Measure the duration of an optimiser step on `images` images."""
        begin = time.perf_counter()
        yield
        self._step_s += time.perf_counter() - begin
        self._steps += 1
        self._images += images

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure a wait for data, inside `step`."""
        begin = time.perf_counter()
        yield
        self._waiting_s += time.perf_counter() - begin

    def add(self, values: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Add scalars to the mean of the next point; `weight` is their share of the step."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach() * weight

    def write_means(self, done: int, learning_rate: float, fabric: Fabric) -> None:
        """Write the means since the last point over all processes, and the speed, as a point at `done` steps.

        All processes call it.
        """
        sums = torch.stack([torch.as_tensor(total, dtype=torch.float64).cpu() for total in self._sums.values()])
        if fabric.world_size > 1:  # each process knows the losses of its share
            sums = cast(Tensor, fabric.all_reduce(sums.to(fabric.device))).cpu()
        values = {name: total / self._steps for name, total in zip(self._sums, sums.tolist(), strict=True)}
        values["optimiser/learning_rate"] = learning_rate
        values["speed/images_per_s"] = self._images / self._step_s
        values["speed/waiting_for_data"] = self._waiting_s / self._step_s
        self.write(done, values)
        self._sums, self._steps, self._images, self._step_s, self._waiting_s = {}, 0, 0, 0.0, 0.0

    def write(self, done: int, values: Mapping[str, float]) -> None:
        """Write values as points at `done` steps."""
        self.last.update(values)
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, done)
            self._writer.flush()
        if self._tracker is not None:
            self._tracker.log(values, done)


def _without_writer(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """A hook for exceptions of threads that leaves out TensorBoard's writer, whose next call raises them again."""

    def report(arguments: Any) -> None:
        if type(arguments.thread).__name__ != "_AsyncWriterThread":
            hook(arguments)

    return report


Curve = tuple[list[int], list[float]]
"""Steps and values."""


def read_curves(run: str | Path) -> dict[str, Curve]:
    """All curves of a run by name, across its restarts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # starts slowly

    events = EventAccumulator(str(run), size_guidance={"scalars": 2000})  # longer curves are sampled evenly
    events.Reload()
    curves = {}
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        curves[tag] = [point.step for point in points], [point.value for point in points]
    return curves


def write_summary(run: str | Path, *, title: str) -> Path:
    """Draw all curves of a run into RUN/summary.png, with one panel for each group (the name up to the slash).

    Raises:
        OSError: the file cannot be written.
    """
    panels: dict[str, dict[str, Curve]] = {}
    for tag, curve in sorted(read_curves(run).items()):
        group, _, name = tag.partition("/")
        if group == "speed":  # a rate and a share need different axes
            group = tag
        panels.setdefault(group, {})[name or group] = curve
    columns = min(3, max(1, len(panels)))  # none if the files of the curves were removed
    rows = max(1, math.ceil(len(panels) / columns))
    figure = new_figure(5 * columns, 3.2 * rows)
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (group, curves) in zip(grid, panels.items(), strict=False):
        for name, (steps, values) in curves.items():
            axes.plot(steps, values, label=f"{name}: {values[-1]:.3g}", marker="." if len(steps) < 3 else "")
        axes.set(title=group, xlabel="step")
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    for axes in list(figure.axes)[len(panels) :]:
        axes.set_axis_off()
    path = Path(run) / "summary.png"
    save_figure(figure, path, dpi=90)
    return path
