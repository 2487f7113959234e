"""The model that runs when no other is named (see the model card beside it)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_FILES = {"fp32": "sal360_compact.onnx", "int8": "sal360_compact_int8.onnx"}


def bundled_model(form: Literal["fp32", "int8"] = "fp32") -> Path:
    """The bundled ONNX model; beside this file in a source tree, a pip installation and a colcon workspace alike.

    Args:
        form: "fp32", which runtimes may lower to bf16 themselves, or "int8", for processors; both hold the same
            weights, and `sal360.runtimes.open_bundled_model` chooses.
    """
    return Path(__file__).parent / _FILES[form]
