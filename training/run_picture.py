"""One picture of all curves of a run, from its TensorBoard files."""

from __future__ import annotations

import math
from pathlib import Path

from sal360_ros.files import written_beside

Curve = tuple[list[int], list[float]]


def read_curves(run: str | Path) -> dict[str, Curve]:
    """Steps and values of every curve of a run, over all its restarts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # starts slowly

    events = EventAccumulator(str(run), size_guidance={"scalars": 2000})  # of more points, an even sample
    events.Reload()
    curves = {}
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        curves[tag] = [point.step for point in points], [point.value for point in points]
    return curves


def write_summary(run: str | Path, *, title: str) -> Path:
    """Draw all curves of a run into RUN/summary.png, one panel a group ("loss", "loss/…": the part before the slash).

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # starts slowly

    panels: dict[str, dict[str, Curve]] = {}
    for tag, curve in sorted(read_curves(run).items()):
        group, _, name = tag.partition("/")
        if group == "speed":  # a rate and a share have no common axis
            group = tag
        panels.setdefault(group, {})[name or group] = curve
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5 * columns, 3.2 * rows), layout="constrained")
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
    with written_beside(path) as temporary:
        figure.savefig(temporary, dpi=90)
    return path
