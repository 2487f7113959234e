"""The model that runs when no other is named (see the model card beside it)."""

from __future__ import annotations

from pathlib import Path


def bundled_model() -> Path:
    """The bundled ONNX model; beside this file in a source tree, a pip installation and a colcon workspace alike."""
    return Path(__file__).parent / "sal360_compact.onnx"
