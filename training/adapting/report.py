"""The page about an adapted model: scores before and after, the curves of its prior, and maps side by side."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sal360.arrays import Density, Reals
from sal360.density import resize_map
from sal360.metrics import standard_protocol
from sal360.outputs.overlay import draw_overlay
from sal360.spec import ModelSpec
from sal360.sphere import solid_angles, vector_to_pixel
from training.adapting.ending_family import EndingNumbers
from training.adapting.pictures import Pictures
from training.analysis.results import new_figure
from training.data.gaze.panoramas_with_gaze import gaze_density
from training.data.gaze.records import spread
from training.data.views import resize
from training.evaluation.report import CaptionedPicture, render_report
from training.evaluation.scoring import INFORMATION_GAIN, Score, information_gain
from training.evaluation.summary import Summary, summarise, text_table
from training.models.prior import row_elevations_deg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BEFORE, _AFTER = "before", "adapted, scene left out"
_PICTURES = 6
_DRAWS = 10_000
_ROWS = 240
_FULL_SCALE_QUANTILE = 0.98


@dataclass(frozen=True)
class Predicted:
    """Pictures with gaze and their densities."""

    pictures: Pictures
    before: Density
    """(n, h, w), of the model as it was."""
    after: Density
    """(n, h, w), of models that were fitted to other scenes."""

    def scores(self) -> list[Score]:
        """By the standard protocol; information gain is over the model as it was."""
        scores = []
        for i, record in enumerate(self.pictures.records):
            for model, density in ((_BEFORE, self.before[i]), (_AFTER, self.after[i])):
                values = standard_protocol(density, record)
                if len(record.fixations):
                    values[INFORMATION_GAIN] = information_gain(density, self.before[i], record)
                scores.append(Score(model, f"{i}: {record.name}", "standard", values))
        return scores

    def summaries(self) -> list[Summary]:
        """Means and intervals of the scores."""
        records, scenes = self.pictures.records, self.pictures.scene
        scene_of = {
            f"{i}: {record.name}": str(scene) for i, (record, scene) in enumerate(zip(records, scenes, strict=True))
        }
        return summarise(self.scores(), _DRAWS, 0, scene_of)


def score_table(predicted: Predicted) -> str:
    """The scores before and after, as a Markdown table."""
    return text_table(predicted.summaries(), "standard")


def render_page(spec: ModelSpec, predicted: Predicted, own: EndingNumbers, numbers: EndingNumbers) -> str:
    """The page as HTML.

    Args:
        spec: the adapted model's.
        predicted: the pictures.
        own, numbers: the ending before and after.
    """
    cases = {
        "Prior": [
            CaptionedPicture(
                "Density of gaze by elevation and longitude, relative to uniform", _curves(predicted, own, numbers)
            )
        ],
        "Maps side by side": [_maps(predicted, index) for index in spread(len(predicted.pictures.records), _PICTURES)],
    }
    return render_report(
        spec.name,
        about(spec, own, numbers),
        scores=predicted.scores(),
        summaries=predicted.summaries(),
        turned=(),
        cases=cases,
    )


def about(spec: ModelSpec, own: EndingNumbers, numbers: EndingNumbers) -> str:
    """What was fitted to what, and its gain, in words."""
    adapted = spec.adapted
    low, high = adapted["gain_95"]
    fine, _, coarse = numbers.scale_weights
    whole = adapted["left_out"] == "scenes"
    within = "" if whole else " Parts of scenes were left out, so the gain holds for these scenes."
    bias = "yes, so the map changes when the camera turns" if numbers.longitude_log_columns else "none"
    return (
        f"Adapted to gaze on {adapted['pictures']} pictures of {adapted['scenes']} scenes ({adapted['gaze']}). "
        "Predicted by models that were fitted to the others, they gain "
        f"{adapted['gain_nats_per_fixation']:.3f} nats per fixation [{low:.3f}, {high:.3f}].{within} "
        f"Temperature {own.temperature:.2f} → {numbers.temperature:.2f}; "
        f"blur {own.blur_deg:.1f}° → {numbers.blur_deg:.1f}°; floor {own.floor:.2f} → {numbers.floor:.2f}; "
        f"weights of fine and coarse structure 1 → {fine:.2f} and {coarse:.2f}; longitude bias: {bias}."
    )


def _curves(predicted: Predicted, own: EndingNumbers, numbers: EndingNumbers) -> bytes:
    """PNG: the prior by elevation and the bias by longitude before and after, beside the recorded gaze."""
    height, width = predicted.before.shape[1:]
    truth = np.mean([gaze_density(record, height, width) for record in predicted.pictures.records], axis=0)
    area = solid_angles(height, 1)
    figure = new_figure(11, 4)
    rows, columns = figure.subplots(1, 2)
    elevation = row_elevations_deg(height)
    rows.plot(elevation, truth.mean(axis=1), color="grey", label="recorded gaze")
    for label, style, each in (("prior before", "--", own), ("prior adapted", "-", numbers)):
        prior = np.exp(np.array(each.prior_log_rows or [0.0] * height))
        rows.plot(elevation, prior * area.sum() / (prior * area[:, 0]).sum(), style, label=label)
    rows.set(xlabel="elevation, degrees", ylabel="density, relative to uniform", xlim=(-90, 90), ylim=(0, None))
    rows.legend()
    longitude = 360 * (np.arange(width) + 0.5) / width - 180
    share = (truth * area).sum(axis=0) / (truth * area).sum() * width
    columns.plot(longitude, share, color="grey", label="recorded gaze")
    bias = np.exp(np.array(numbers.longitude_log_columns or [0.0] * width))
    columns.plot(longitude, bias / bias.mean(), label="bias adapted" if numbers.longitude_log_columns else "no bias")
    columns.set(xlabel="longitude, degrees to the right", xlim=(-180, 180), ylim=(0, None))
    columns.legend()
    return _png(figure)


def _maps(predicted: Predicted, index: int) -> CaptionedPicture:
    """A picture with its gaze, the true density, and the densities before and after, in one colour scale."""
    record = predicted.pictures.records[index]
    frame = np.ascontiguousarray(resize(record.panorama(), _ROWS)[..., ::-1])  # BGR, as overlays are
    truth = gaze_density(record, *predicted.before.shape[1:])
    full_scale = float(np.quantile(truth, _FULL_SCALE_QUANTILE))
    tiles: list[tuple[str, Reals]] = [
        ("recorded gaze", truth),
        (_BEFORE, predicted.before[index]),
        (_AFTER, predicted.after[index]),
    ]
    figure = new_figure(15, 2.8)
    for axis, (title, density) in zip(figure.subplots(1, 3), tiles, strict=True):
        shown = resize_map(density, *frame.shape[:2]).astype(np.float32)
        axis.imshow(draw_overlay(frame, shown, full_scale=full_scale)[..., ::-1])
        axis.set_title(title)
        axis.set_axis_off()
        if density is truth and len(record.fixations):
            axis.plot(*vector_to_pixel(record.fixations, *frame.shape[:2]), ",", color="white")
    return CaptionedPicture(record.name, _png(figure))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80)
    return buffer.getvalue()
