"""The bundled models; MODEL_CARD.md describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

Form = Literal["fp32", "int8"]
Weights = Literal["all", "permissive"]
"""The bundled weights, by the recipe of `training.make_weights` that makes them."""
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
DEFAULT: Weights = "all"
"""The weights that are used where no model is named."""

_FILES: dict[Weights, str] = {"all": "sal360_compact", "permissive": "sal360_compact_permissive"}


def bundled_model(form: Form = "fp32", weights: Weights = DEFAULT) -> Path:
    """Path of a bundled ONNX model.

    Args:
        form: "fp32", which runtimes may run in bf16, or "int8", for CPUs. Both have the same weights;
            `sal360.runtimes.open_model` chooses one.
        weights: the data sets of gaze on which the model was trained, "all" or those under "permissive" licences.
    """
    return Path(__file__).parent / f"{_FILES[weights]}{'_int8' if form == 'int8' else ''}.onnx"


def bundled_weights(model: str | Path) -> Weights | None:
    """The bundled weights that a setting `model` names: "" or a name in `WEIGHTS`; None for the path of a file."""
    return DEFAULT if model == "" else next((each for each in WEIGHTS if each == model), None)


def bundled_tilt_weights() -> Path:
    """Path of the weights with which `sal360.cameras.levelling` finds out which way is up (JSON)."""
    return Path(__file__).parent / "levelling.json"
