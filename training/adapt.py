"""Adapt a model file to the gaze of your own people on your own panoramas, in a minute on a CPU.

    python -m training.adapt --data.root GAZE --output mine.onnx
    python -m training.adapt --data.bags '[run1.mcap, run2.mcap]' --data.gaze '[/gaze]' --output mine.onnx

GAZE is a folder of 5 to 50 panoramas or more with recorded gaze. The network stays as it is; what is fitted is the
ending of the file, some twenty numbers: temperature, blur, floor, the weights of fine and coarse structure, the shape
and strength of the prior and, if asked for, a longitude bias. No checkpoint is needed.

Every scene is predicted by a model that was fitted to other scenes. Where such models are not surely better than the
file as it is, the command refuses: exit status 1, and nothing is written. Otherwise it writes the file, whose
description says what was fitted to what, and a page beside it (mine.html). `adapting/` has the parts.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sal360.arrays import Density, Pixels
from sal360.errors import ParameterError, one_line_errors, require_modules
from sal360.files import check_folder_is_writable, write_text
from sal360.ground_truth import GazeRecord, count_fixations
from sal360.spec import ModelSpec
from sal360.sphere import solid_angles
from sal360.weights import DEFAULT, bundled_model
from training.adapting.ending_family import EndingFamily, EndingNumbers, FixedEnding
from training.adapting.fit import Examples, Fitted, fit
from training.adapting.model_file import OpenedModel, check_own_ending, open_adaptable, predict_contents, write_adapted
from training.adapting.pictures import AdaptData, Pictures, print_left_out, read_pictures
from training.adapting.report import Predicted, render_page, score_table
from training.config import read_config, require, require_path
from training.data.gaze.datasets import DATASETS
from training.data.gaze.panoramas_with_gaze import gaze_density
from training.trained_models import BUNDLED, MODEL_NAMES, named_weights

_PARITY_PICTURES = 4
_MIN_GAIN = 0.002
"""Gain that counts as none, nats per fixation: nobody would notice it."""


@dataclass(frozen=True)
class AdaptConfig:
    """The model, the gaze, and the file to write."""

    data: AdaptData
    """Panoramas with gaze."""
    output: str
    """Path of the new .onnx file; the report lies beside it."""
    model: str = BUNDLED
    """ONNX file of `training.export`, in any precision; `bundled` and `permissive` are the bundled fp32 models."""
    longitude: bool = False
    """Also fit a bias by longitude: for viewers who begin at the front and stay near it, and cameras that do not turn.
    The map then changes when the camera turns."""
    int8: bool = False
    """Also put what was fitted into the bundled int8 model, as NAME-int8.onnx; only with a bundled model."""
    name: str = ""
    """Name of the new model; empty: that of the model, and -adapted."""
    version: str = ""
    """Version of the new model; empty: that of the model."""

    def __post_init__(self) -> None:
        require_path("model", self.model, f"{', '.join(MODEL_NAMES)}, or an ONNX file")
        require("output", self.output, Path(self.output).suffix == ".onnx", "a path that ends in .onnx")
        require(
            "int8",
            self.int8,
            not self.int8 or bool(named_weights(self.model)),
            f"false, or --model {' or '.join(MODEL_NAMES)}",
        )


def adapt(config: AdaptConfig) -> bool:
    """Fit, and write the file and the report unless the fit does not surely help.

    Returns:
        Whether the file was written.

    Raises:
        ModelError: the model is not an ONNX file of `training.export`, or it was adapted already.
        DataError: the gaze is missing, damaged, or of one scene.
        OSError: the results cannot be written; the folder is tried before anything is fitted.
    """
    output = Path(config.output)
    check_folder_is_writable(output.parent)
    require_modules("matplotlib", "jinja2")  # which make the report at the end
    weights = named_weights(config.model)
    model = open_adaptable(bundled_model(weights=weights) if weights else Path(config.model))
    if output.exists() and output.samefile(model.path):
        raise ParameterError(f"--output {output} is the model itself", "choose another --output")
    pictures = read_pictures(config.data, model.spec.input_height)
    print_left_out(pictures)
    contents = predict_contents(model, [record.panorama() for record in pictures.records])
    before = _densities(FixedEnding(model.map_size, model.own), contents)
    check_own_ending(model, _some_frames(pictures), before[:_PARITY_PICTURES])
    family = EndingFamily(model.map_size, model.own, longitude=config.longitude)
    fitted = fit(family, _examples(pictures, contents, before))
    low, high = fitted.interval()
    if low <= _MIN_GAIN:
        print(_refusal(config, pictures, fitted), file=sys.stderr)
        return False
    numbers = family.read(fitted.numbers)
    spec = _new_spec(config, model.spec, pictures, fitted, numbers)
    predicted = Predicted(pictures, before, _predicted_left_out(family, fitted, pictures, contents))
    page = render_page(spec, predicted, model.own, numbers)
    written = _write_models(config, model, spec, numbers, pictures, contents)
    write_text(output.with_suffix(".html"), page)
    print(score_table(predicted))
    print(f"\ngain on {_left_out(config)} left out: {fitted.gain:.3f} nats per fixation [{low:.3f}, {high:.3f}]")
    print(f"wrote {', '.join(map(str, written))} and {output.with_suffix('.html')}")
    return True


def _write_models(
    config: AdaptConfig,
    model: OpenedModel,
    spec: ModelSpec,
    numbers: EndingNumbers,
    pictures: Pictures,
    contents: torch.Tensor,
) -> list[Path]:
    """Write the new model, and its int8 form if it is asked for; return their paths."""
    output, ending = Path(config.output), FixedEnding(model.map_size, numbers)
    frames = _some_frames(pictures)
    expected = _densities(ending, contents[:_PARITY_PICTURES])
    written = [write_adapted(model, ending, spec, frames, expected, output)]
    if config.int8:
        form = open_adaptable(bundled_model("int8", named_weights(config.model) or DEFAULT))
        form_spec = dataclasses.replace(spec, precision=form.spec.precision)
        path = output.with_stem(f"{output.stem}-int8")
        written.append(write_adapted(form, ending, form_spec, frames, expected, path))
    return written


def _some_frames(pictures: Pictures) -> Pixels:
    return np.stack([record.panorama() for record in pictures.records[:_PARITY_PICTURES]])


@torch.no_grad()
def _densities(ending: FixedEnding, contents: torch.Tensor) -> Density:
    return np.asarray(ending(contents).numpy(), np.float32)


def _examples(pictures: Pictures, contents: torch.Tensor, before: Density) -> Examples:
    height, width = contents.shape[1:]
    mass = np.stack([_gaze_mass(record, height, width) for record in pictures.records])
    return Examples(contents, torch.from_numpy(mass), torch.from_numpy(before), pictures.scene)


def _gaze_mass(record: GazeRecord, height: int, width: int) -> Density:
    """The share of a picture's gaze on each pixel (h, w): of its fixations or, without any, of its map."""
    if len(record.fixations):
        mass = count_fixations(record.fixations, height, width).astype(np.float64)
    else:
        mass = gaze_density(record, height, width) * solid_angles(height, width)
    return np.asarray(mass / mass.sum(), np.float32)


@torch.no_grad()
def _predicted_left_out(family: EndingFamily, fitted: Fitted, pictures: Pictures, contents: torch.Tensor) -> Density:
    """The densities (n, h, w) of endings that were fitted to other scenes."""
    scales = family.scales(contents)
    maps = [family.density(scales[:, [i]], fitted.left_out[scene])[0] for i, scene in enumerate(pictures.scene)]
    return np.asarray(torch.stack(maps).numpy(), np.float32)


def _left_out(config: AdaptConfig) -> str:
    """What each fit is measured on."""
    return "parts of scenes" if config.data.within_scenes else "scenes"


def _refusal(config: AdaptConfig, pictures: Pictures, fitted: Fitted) -> str:
    (low, high), parts = fitted.interval(), _left_out(config)
    remedy = ", or leave out --longitude" if config.longitude else ""
    return (
        f"not adapted: on {parts} left out, adapting gains {fitted.gain:.3f} nats per fixation, 95 % interval "
        f"[{low:.3f}, {high:.3f}], which may be nothing ({len(pictures.records)} pictures, {len(fitted.gains)} {parts})"
        f"; record more scenes{remedy}"
    )


def _new_spec(
    config: AdaptConfig, spec: ModelSpec, pictures: Pictures, fitted: Fitted, numbers: EndingNumbers
) -> ModelSpec:
    label, low_high = config.data.label, fitted.interval()
    licence = DATASETS[config.data.dataset].licence if config.data.root and config.data.dataset != "own" else ""
    fixations = sum(len(record.fixations) for record in pictures.records)
    adapted = {
        "gaze": label,
        "licence_of_gaze": licence or "not stated",
        "pictures": len(pictures.records),
        "scenes": pictures.scenes,
        "fixations": fixations,
        "left_out": _left_out(config),
        "gain_nats_per_fixation": round(fitted.gain, 4),
        "gain_95": [round(each, 4) for each in low_high],
        "fitted": [name for name in fitted.candidate.names if name != "longitude" or config.longitude],
        **_plain(numbers),
    }
    on = f"{len(pictures.records)} panoramas of {pictures.scenes} scene{'s' * (pictures.scenes > 1)} ({label})"
    return dataclasses.replace(
        spec,
        name=config.name or f"{spec.name}-adapted",
        version=config.version or spec.version,
        trained_on=f"{spec.trained_on}; calibration and prior fitted to gaze on {on}",
        weights_license=f"{spec.weights_license}; fitted to gaze under {licence}" if licence else spec.weights_license,
        prior_log_rows=numbers.prior_log_rows,
        parity={},
        adapted=adapted,
    )


def _plain(numbers: EndingNumbers) -> dict[str, Any]:
    """The numbers that the spec does not have elsewhere, rounded to what they mean."""
    return {
        "temperature": round(numbers.temperature, 4),
        "blur_deg": round(numbers.blur_deg, 3),
        "floor": round(numbers.floor, 4),
        "scale_weights": [round(each, 3) for each in numbers.scale_weights],
        "longitude_log_columns": [round(each, 4) for each in numbers.longitude_log_columns],
    }


def main() -> int:
    """The command `python -m training.adapt`: 1 if adapting does not surely help."""
    return 0 if adapt(read_config(AdaptConfig, "Adapt a model file to recorded gaze.")) else 1


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
