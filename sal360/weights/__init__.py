"""The bundled model; MODEL_CARD.md describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_FILES = {"fp32": "sal360_compact.onnx", "int8": "sal360_compact_int8.onnx"}


def bundled_model(form: Literal["fp32", "int8"] = "fp32") -> Path:
    """Path of the bundled ONNX model.

    Args:
        form: "fp32", which runtimes may run in bf16, or "int8", for CPUs. Both have the same weights;
            `sal360.runtimes.open_bundled_model` chooses one.
    """
    return Path(__file__).parent / _FILES[form]


def bundled_tilt_weights() -> Path:
    """Path of the weights with which `sal360.cameras.levelling` finds out which way is up (JSON)."""
    return Path(__file__).parent / "levelling.json"
