"""The figures of a run, and thresholds on them as a robot's CI states them: "p95_latency_ms<50"."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sal360.errors import ParameterError
from sal360.metrics import METRICS, PAPER_METRICS
from sal360.replay.frame_table import FrameResult, column
from sal360.replay.recording import PlaybackClock

MEANINGS = {
    "frames": "frames in the recording",
    "answered": "frames with a map",
    "answered_share": "frames with a map, share of all frames, 0 to 1",
    "dropped": "usable frames without a map: replaced by a newer frame, or lost in transport",
    "rejected": "frames that cannot be used: undecodable, malformed, or not of the camera's shape (by default 2:1)",
    "duration_s": "from the first frame's stamp to the last one's",
    "latency_ms": "from a frame's publication to its map's arrival at a subscriber",
    "age_at_publish_ms": "from a frame's publication to its map's publication",
    "jitter_ms": "mean change of latency from one map to the next (RFC 3550, 6.4.1, not smoothed)",
    "cost_ms": "wall time of decoding, predicting and smoothing one frame, without transport or queue",
    "cpu_ms_per_frame": "CPU time per frame, summed over threads",
    "cpu_percent": "mean CPU load of the node; 100 is one core",
    "peak_rss_mb": "peak resident memory of the process that predicts",
    "max_publish_delay_ms": "maximum delay of the replay behind the recorded times",
    "threads": "maximum number of threads at once",
    "map_hz": "maps received per second",
    "flicker": "mean share of the density that moves from map to map, compensated for the camera's yaw, 0 to 1",
    "yaw_rate_deg_s": "mean absolute yaw rate of the camera, estimated from the frames",
    "targets_per_minute": "gaze targets per minute, as saliency/target chooses them by default",
    "frames_with_truth": "answered frames with ground truth",
    "frames_with_view": "answered frames with the direction of a view or head",
    "view_density": "mean density in the middle of the views, relative to uniform",
    "view_target_deg": "median angle between the views and the gaze target, degrees",
}
"""Meaning of each figure; those of `_PERCENTILES_OF` get a prefix of `_PREFIXES`."""
_ONLY_LIVE = {"jitter_ms", "cpu_percent", "threads", "map_hz", "max_publish_delay_ms"}
_ONLY_OFFLINE = {"cpu_ms_per_frame"}
_WITH_TRUTH = {"frames_with_truth", "frames_with_view", "view_density", "view_target_deg"}
_PERCENTILES_OF = ("latency_ms", "age_at_publish_ms", "cost_ms")
_PREFIXES = {"p50": "median", "p95": "95th percentile", "p99": "99th percentile", "max": "maximum"}


def figures_of(results: Sequence[FrameResult], measured: Mapping[str, float]) -> dict[str, float]:
    """All figures of a run.

    Args:
        results: one for each frame.
        measured: figures that can only be measured during the run (memory, CPU load).
    """
    status = [each.status for each in results]
    stamps_s = np.array([each.stamp_ns for each in results], np.int64) / 1e9
    figures: dict[str, float] = {
        "frames": len(results),
        "answered": status.count("answered"),
        "answered_share": status.count("answered") / len(results) if results else 0.0,
        "dropped": status.count("dropped"),
        "rejected": status.count("rejected"),
        "duration_s": float(np.ptp(stamps_s)) if results else 0.0,
    }
    for name in _PERCENTILES_OF:
        values = column(results, name)
        if len(values):
            p50, p95, p99 = np.percentile(values, (50, 95, 99))
            figures |= {f"p50_{name}": p50, f"p95_{name}": p95, f"p99_{name}": p99, f"max_{name}": values.max()}
    latencies = column(results, "latency_ms")
    if len(latencies) > 1:
        figures["jitter_ms"] = np.abs(np.diff(latencies)).mean()
    for name, source in (("flicker", "flicker"), ("cpu_ms_per_frame", "cpu_ms")):
        values = column(results, source)
        if len(values):
            figures[name] = values.mean()
    turned_deg = np.abs(column(results, "yaw_deg")).sum()
    if figures["duration_s"] > 0:
        figures["yaw_rate_deg_s"] = turned_deg / figures["duration_s"]
        targets = len(set(column(results, "target_since_s")))
        figures["targets_per_minute"] = 60 * targets / figures["duration_s"]
    figures |= _of_views(results)
    with_truth = [each for each in results if each.scores]
    if with_truth:
        figures["frames_with_truth"] = len(with_truth)
    for name in sorted({name for each in with_truth for name in each.scores}):
        figures[name] = column(with_truth, name).mean()
    return {name: float(value) for name, value in {**figures, **measured}.items()}


def _of_views(results: Sequence[FrameResult]) -> dict[str, float]:
    """Figures of where views or heads were directed; none without them."""
    figures: dict[str, float] = {}
    densities, from_target_deg = column(results, "view_density"), column(results, "view_target_deg")
    if len(densities):
        figures |= {"frames_with_view": len(densities), "view_density": densities.mean()}
    if len(from_target_deg):
        figures["view_target_deg"] = float(np.median(from_target_deg))
    return figures


def stamp_jumps(results: Sequence[FrameResult]) -> list[str]:
    """Where the clock seems to have been changed during recording, one sentence each; only the first few."""
    stamps_ns = np.array([each.stamp_ns for each in results], np.int64)
    steps_s = np.diff(stamps_ns) / 1e9
    jumps = np.flatnonzero((steps_s < -1) | (steps_s > PlaybackClock.MAX_PAUSE_S))
    said = [
        f"the stamps jump by {steps_s[index]:+.6g} s before frame {index + 1} (the clock was changed, or a pause): "
        "the video omits the jump; duration_s and all figures per unit of time include it"
        for index in jumps[:3]
    ]
    return said + ([f"the stamps jump {len(jumps) - 3} more times"] if len(jumps) > 3 else [])


def figure_names(*, live: bool, protocols: Sequence[str]) -> set[str]:
    """Names of the figures that a run can have.

    Args:
        protocols: for which the run has ground truth.
    """
    spread = ("latency_ms", "age_at_publish_ms") if live else ("cost_ms",)
    names = {f"{prefix}_{name}" for name in spread for prefix in _PREFIXES}
    names |= set(MEANINGS) - set(_PERCENTILES_OF) - (_ONLY_OFFLINE if live else _ONLY_LIVE)
    measured = {"standard": METRICS, "paper": PAPER_METRICS}
    names |= {f"{protocol}_{metric}" for protocol in protocols for metric in measured[protocol]}
    return names if protocols else names - _WITH_TRUTH


def meaning(name: str) -> str:
    """A figure's meaning, in words."""
    if name in MEANINGS:
        return MEANINGS[name]
    prefix, _, rest = name.partition("_")
    if prefix in _PREFIXES:
        return f"{_PREFIXES[prefix]}, {MEANINGS[rest]}"
    return f"mean {rest} over the frames with ground truth, {prefix} protocol"


_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
_PATTERN = re.compile(r"\s*([A-Za-z]\w*)\s*(<=|>=|==|<|>)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(%?)\s*")


@dataclass(frozen=True)
class Requirement:
    """One threshold: the name of a figure, an operator and a number."""

    figure: str
    relation: str
    limit: float

    def holds(self, figures: Mapping[str, float]) -> bool:
        """Whether the run meets it; a figure that is missing (no map) or NaN does not meet any requirement."""
        return _OPERATORS[self.relation](figures.get(self.figure, math.nan), self.limit)

    def __str__(self) -> str:
        return f"{self.figure} {self.relation} {self.limit:g}"


def parse_requirement(text: str) -> Requirement:
    """Parse a requirement such as "p95_latency_ms<50" or "answered_share >= 99 %".

    Raises:
        ParameterError: the text is not a name, one of < <= > >= ==, and a number.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ParameterError(
            f"the requirement is {text!r}",
            'write it as in "p95_latency_ms<50"',
            expected="a figure, one of < <= > >= ==, and a number",
        )
    figure, relation, number, percent = match.groups()
    return Requirement(figure, relation, float(number) / (100 if percent else 1))


def check_names(requirements: Sequence[Requirement], known: Collection[str]) -> None:
    """Refuse requirements on figures that a run cannot have.

    Raises:
        ParameterError: with the known names.
    """
    unknown = sorted({each.figure for each in requirements} - set(known))
    if unknown:
        raise ParameterError(
            f"this run has no figure {', '.join(unknown)}",
            "correct --require, or add --live or --ground-truth if the figure needs it",
            expected="one of " + ", ".join(sorted(known)),
        )
