"""A small model file with every feature of the real ones, so that tests of runtimes need no trained weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sal360.spec import ModelSpec, write_onnx_spec
from sal360.sphere import solid_angles

INPUT_HEIGHT, OUTPUT_HEIGHT = 32, 16


def tiny_spec(**changes) -> ModelSpec:
    rows = np.linspace(-1, 1, OUTPUT_HEIGHT)
    fields = {
        "name": "tiny",
        "version": "0.0.1",
        "input_height": INPUT_HEIGHT,
        "input_width": 2 * INPUT_HEIGHT,
        "output_height": OUTPUT_HEIGHT,
        "output_width": 2 * OUTPUT_HEIGHT,
        "trained_on": "nothing",
        "weights_license": "Apache-2.0",
        "prior_log_rows": tuple(float(value) for value in -(rows**2)),
    }
    return ModelSpec(**{**fields, **changes})


def tiny_graph(spec: ModelSpec, batch: int | str = "N"):
    """uint8 frames, two convolutions with fixed random weights, a prior, a normalised density."""
    from onnx import TensorProto, checker, helper, numpy_helper

    random = np.random.default_rng(360)
    constants = {
        "scale": np.float32(1 / 255),
        "w1": random.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "w2": random.normal(0, 1.5, (1, 8, 1, 1)).astype(np.float32),
        "prior": np.array(tiny_spec().prior_log_rows, np.float32).reshape(1, 1, -1, 1),
        "weights": (solid_angles(OUTPUT_HEIGHT, 2 * OUTPUT_HEIGHT) / (4 * np.pi)).astype(np.float32)[None, None],
        "axes": np.array([2, 3]),
        "channel": np.array([1]),
    }
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["nchw", "scale"], ["unit"]),
        helper.make_node("Conv", ["unit", "w1"], ["c1"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"]),
        helper.make_node("Add", ["c2", "prior"], ["log_density"]),
        helper.make_node("ReduceMax", ["log_density"], ["peak"], axes=[2, 3]),
        helper.make_node("Sub", ["log_density", "peak"], ["shifted"]),
        helper.make_node("Exp", ["shifted"], ["mass"]),
        helper.make_node("Mul", ["mass", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axes"], ["mean"]),
        helper.make_node("Div", ["mass", "mean"], ["density"]),
        helper.make_node("Squeeze", ["density", "channel"], ["saliency"]),
    ]
    size = [spec.input_height, spec.input_width, 3]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [batch, *size])],
        [helper.make_tensor_value_info("saliency", TensorProto.FLOAT, [batch, OUTPUT_HEIGHT, 2 * OUTPUT_HEIGHT])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    write_onnx_spec(model, spec)
    return model


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a tiny model: make_model(batch="N" or a number, **changes of its spec)."""

    def make(batch: int | str = "N", **changes) -> Path:
        path = tmp_path_factory.mktemp("model") / "tiny.onnx"
        path.write_bytes(tiny_graph(tiny_spec(**changes), batch).SerializeToString())
        return path

    return make


@pytest.fixture(scope="session")
def tiny_model(make_model) -> Path:
    """The tiny model with a free batch size."""
    return make_model()


@pytest.fixture
def frames() -> np.ndarray:
    """Three random frames (3, 32, 64, 3) at the tiny model's input size."""
    return np.random.default_rng(1).integers(0, 256, (3, INPUT_HEIGHT, 2 * INPUT_HEIGHT, 3), dtype=np.uint8)
