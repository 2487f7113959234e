"""Plots (PNG) and pictures (JPEG) for the report of an evaluation."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sal360.arrays import Density, Pixels, Reals
from sal360.density import sphere_mean
from sal360.ground_truth import GazeRecord
from sal360.metrics import METRICS
from sal360.outputs.overlay import FULL_SCALE, draw_overlay
from sal360.sphere import vector_to_pixel
from training.analysis.results import new_figure, save_figure
from training.data.views import resize
from training.evaluation.predictions import Predictor
from training.evaluation.scoring import Score
from training.evaluation.summary import NAMES
from training.evaluation.turning import TURNS_DEG, Turned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CASE_HEIGHT, _PART_HEIGHT = 180, 240  # pixels: whole panoramas, and valid parts
_COLUMNS = 4
_FULL_SCALE_QUANTILE = 0.98  # quantile of the true density that gets the brightest colour


def draw_distributions(scores: Sequence[Score], protocol: str) -> bytes:
    """PNG: one box plot for each metric with one box for each model, over all records."""
    models = list(dict.fromkeys(each.model for each in scores if each.protocol == protocol))
    figure = new_figure(2.9 * len(METRICS), 0.5 + 0.42 * len(models) + 1)
    axes = figure.subplots(1, len(METRICS), sharey=True)
    for axis, metric in zip(axes, METRICS, strict=True):
        values = [
            [
                each.values[metric]
                for each in scores
                if (each.model, each.protocol) == (model, protocol) and metric in each.values
            ]
            for model in models
        ]
        axis.boxplot(values[::-1], orientation="horizontal", showmeans=True, widths=0.6, flierprops={"markersize": 2})
        axis.set_yticks(range(1, 1 + len(models)), models[::-1])
        axis.set_title(NAMES[metric])
        axis.grid(axis="x", alpha=0.3)
    return _png(figure)


def draw_turning(results: Sequence[Turned]) -> bytes:
    """PNG: mean CC and KLD between upright and turned input, by rotation and model."""
    models = list(dict.fromkeys(each.model for each in results))
    figure = new_figure(11, 3.4)
    axes = figure.subplots(1, 2)
    labels = [f"{axis}\n{angle:g}°" for axis, angle in TURNS_DEG]
    width = 0.8 / len(models)
    for axis, metric in zip(axes, ("cc", "kld"), strict=True):
        for i, model in enumerate(models):
            means = [
                np.mean(
                    [
                        getattr(each, metric)
                        for each in results
                        if (each.model, each.axis, each.angle_deg) == (model, *turn)
                    ]
                )
                for turn in TURNS_DEG
            ]
            axis.bar(np.arange(len(TURNS_DEG)) + (i - (len(models) - 1) / 2) * width, means, width, label=model)
        axis.set_xticks(range(len(TURNS_DEG)), labels)
        axis.set_title("CC, 1 is steady" if metric == "cc" else "KLD in nats, 0 is steady")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(models))
    return _png(figure)


def draw_case(record: GazeRecord, predictors: Mapping[str, Predictor], titles: Mapping[str, str]) -> bytes:
    """JPEG: the panorama with its fixations, with the true density, and with each prediction (Figures 2, 3 and 6).

    All maps share one colour scale. If only part of a record is valid, only that part is shown. `titles` stand above
    the predictions, by their names.
    """
    panorama = record.panorama()
    frame = np.ascontiguousarray(resize(panorama, _frame_height(record))[..., ::-1])  # BGR, as OpenCV draws
    cut = _valid_box(record, *frame.shape[:2])
    seen = frame.copy()
    for u, v in zip(*vector_to_pixel(record.fixations, *frame.shape[:2]), strict=True):
        cv2.circle(seen, (round(u), round(v)), 2, (0, 255, 255), -1, cv2.LINE_AA)
    tiles = {f"{record.name}, {len(record.fixations)} fixations": seen[cut]}
    full_scale = FULL_SCALE
    if record.density is not None:
        full_scale = float(np.quantile(record.density[record.density > 0], _FULL_SCALE_QUANTILE))
        tiles["ground truth"] = draw_overlay(frame, record.density, full_scale=full_scale)[cut]
    for name, predict in predictors.items():
        if name == "uniform":
            continue  # nothing to see
        density = _inside_density(predict(record, lambda: panorama).on_panorama, record)
        tiles[titles.get(name, name)] = draw_overlay(frame, density, full_scale=full_scale)[cut]
    _, encoded = cv2.imencode(".jpg", _grid(tiles), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return encoded.tobytes()


def _frame_height(record: GazeRecord) -> int:
    """Height of the whole panorama at which the displayed part is `_PART_HEIGHT` high."""
    if record.valid is None:
        return _CASE_HEIGHT
    return round(_PART_HEIGHT * record.valid.shape[0] / int(record.valid.any(axis=1).sum()))


def _valid_box(record: GazeRecord, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the valid part."""
    if record.valid is None:
        return slice(0, height), slice(0, width)
    row_scale, column_scale = height / record.valid.shape[0], width / record.valid.shape[1]
    rows, columns = (np.flatnonzero(record.valid.any(axis=axis)) for axis in (1, 0))
    return (
        slice(int(rows[0] * row_scale), int((rows[-1] + 1) * row_scale)),
        slice(int(columns[0] * column_scale), int((columns[-1] + 1) * column_scale)),
    )


def _grid(tiles: Mapping[str, Pixels]) -> Pixels:
    """Pictures of equal size, each under its name, in rows of up to `_COLUMNS`."""
    named = [_named(picture, name) for name, picture in tiles.items()]
    blank = np.full_like(named[0], 255)
    columns = min(_COLUMNS, len(named))
    rows = [named[first : first + columns] for first in range(0, len(named), columns)]
    return np.vstack([np.hstack(row + [blank] * (columns - len(row))) for row in rows])


def _inside_density(values: Reals, record: GazeRecord) -> Density:
    """A map of any scale, normalised to mean 1 on the record's valid part."""
    density, valid = values.astype(np.float32), None
    if record.valid is not None:
        resized = cv2.resize(record.valid.astype(np.uint8), density.shape[::-1], interpolation=cv2.INTER_NEAREST)
        valid = resized > 0 if resized.any() else None
    return density / np.float32(max(sphere_mean(density, valid), 1e-30))


def _named(picture: Pixels, name: str) -> Pixels:
    """The picture with its name above it and a white margin."""
    head = np.full((26, picture.shape[1], 3), 255, np.uint8)
    ascii_name = name.replace("×", "x")  # OpenCV's font is ASCII
    cv2.putText(head, ascii_name, (2, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.pad(np.vstack([head, picture]), ((0, 4), (0, 8), (0, 0)), constant_values=255)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    save_figure(figure, buffer, dpi=100)
    return buffer.getvalue()
