"""ONNX files from strangers: external data stay in their folder, memory is known before anything is allocated."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sal360.errors import ModelError
from sal360.runtimes import onnx_file, open_model
from sal360.runtimes.onnx_file import read_onnx
from sal360.spec import ModelSpec, write_onnx_spec
from sal360.weights import bundled_model
from tests.tiny_model import tiny_graph, tiny_spec

HEIGHT, WIDTH = 32, 64
CPU_BACKENDS = ("openvino", "onnxruntime")


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as raised:
        read_onnx(path)
    message = str(raised.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def write_model(path: Path, nodes, constants, batch="N", **spec) -> Path:
    """A model whose map is made by `nodes` from `frame` and constants (arrays or tensors)."""
    tensors = [
        each if isinstance(each, TensorProto) else numpy_helper.from_array(np.asarray(each), name)
        for name, each in constants.items()
    ]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [batch, HEIGHT, WIDTH, 3])],
        [helper.make_tensor_value_info("saliency", TensorProto.FLOAT, [batch, HEIGHT, WIDTH])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    sizes = {"input_height": HEIGHT, "input_width": WIDTH, "output_height": HEIGHT, "output_width": WIDTH}
    write_onnx_spec(model, ModelSpec("made", "1", **{**sizes, **spec}, trained_on="", weights_license=""))
    path.write_bytes(model.SerializeToString())
    return path


def external(location: str, offset: int = 0, length: int = 4 * HEIGHT * WIDTH) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, HEIGHT, WIDTH])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def with_weights(path: Path, weights: TensorProto) -> Path:
    """A model that returns its external weights as the map, which reveals the contents of a file."""
    nodes = [
        helper.make_node("Cast", ["frame"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f", "axes"], ["m"], keepdims=0),
        helper.make_node("Mul", ["m", "zero"], ["z"]),
        helper.make_node("Add", ["w", "z"], ["saliency"]),
    ]
    return write_model(path, nodes, {"w": weights, "axes": np.array([3]), "zero": np.float32(0)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with weights in it, beside a secret file."""
    (tmp_path / "secret.bin").write_bytes(np.full(HEIGHT * WIDTH, 1.25, np.float32).tobytes())
    folder = tmp_path / "models"
    (folder / "parts").mkdir(parents=True)
    for name in ("inside.bin", "parts/inside.bin"):
        (folder / name).write_bytes(np.full(HEIGHT * WIDTH, 0.75, np.float32).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "loop.bin").symlink_to("loop.bin")
    return folder


@pytest.mark.parametrize("location", ["inside.bin", "parts/inside.bin", "./parts/../inside.bin"])
def test_weights_in_the_model_s_folder_are_read(folder, location):
    path = with_weights(folder / "model.onnx", external(location))
    assert read_onnx(path).external_data == (folder.resolve() / os.path.normpath(location),)
    with open_model(path, backend="onnxruntime", device="cpu") as backend:
        assert backend.infer(np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)).max() == pytest.approx(0.75)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("location", ["../secret.bin", "ABSOLUTE", "link.bin", "parts/../../secret.bin"])
def test_weights_outside_the_model_s_folder_are_refused(folder, location, backend):
    location = str(folder.parent / "secret.bin") if location == "ABSOLUTE" else location
    path = with_weights(folder / "model.onnx", external(location))
    assert "outside its own folder" in refusal(path)
    with pytest.raises(ModelError, match="outside its own folder"):
        open_model(path, backend=backend, device="cpu")


@pytest.mark.parametrize(
    "location", ["", "none.bin", "parts", ".", "loop.bin", "a\0b", "*/_ORT_MEM_ADDR_/*", "/dev/zero", "x" * 5000]
)
def test_weights_that_are_not_a_file_are_refused(folder, location):
    refusal(with_weights(folder / "model.onnx", external(location)))


@pytest.mark.parametrize(("offset", "length"), [(1, 4 * HEIGHT * WIDTH), (-4, 16), (0, -1), (1 << 60, 4)])
def test_weights_beyond_the_end_of_their_file_are_refused(folder, offset, length):
    assert "beyond the end" in refusal(with_weights(folder / "model.onnx", external("inside.bin", offset, length)))


def test_a_second_location_is_refused(folder):
    """A runtime may take the one that was not checked."""
    for first, second in (("../secret.bin", "inside.bin"), ("inside.bin", "../secret.bin")):
        tensor = external(first)
        tensor.external_data.add(key="location", value=second)
        refusal(with_weights(folder / "model.onnx", tensor))


def test_external_data_are_found_wherever_a_tensor_may_stand(folder):
    constant = helper.make_node("Constant", [], ["w"], value=external("../secret.bin"))
    path = write_model(folder / "model.onnx", [constant, helper.make_node("Identity", ["w"], ["saliency"])], {})
    assert "outside its own folder" in refusal(path)


def test_the_hash_is_that_of_the_file_and_of_its_external_data(folder, tiny_model):
    import hashlib

    assert read_onnx(tiny_model).sha256() == hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    path = with_weights(folder / "model.onnx", external("inside.bin"))
    before = read_onnx(path).sha256()
    assert read_onnx(path).sha256() == before
    (folder / "inside.bin").write_bytes(np.full(HEIGHT * WIDTH, 5, np.float32).tobytes())
    assert read_onnx(path).sha256() != before


def node_that_makes(operator: str, inputs: list[str], **attributes):
    """A map that is the mean of something large."""
    return [
        helper.make_node(operator, inputs, ["large"], **attributes),
        helper.make_node("ReduceMean", ["large"], ["mean"], keepdims=0),
        helper.make_node("Expand", ["mean", "size"], ["saliency"]),
    ]


SIZE = np.array([1, HEIGHT, WIDTH])
HUGE = np.array([200_000, 200_000])
BOMBS = {
    "ConstantOfShape": (node_that_makes("ConstantOfShape", ["huge"]), {"huge": HUGE}),
    "Expand": (node_that_makes("Expand", ["one", "huge"]), {"one": np.float32(1), "huge": HUGE}),
    "Tile": (node_that_makes("Tile", ["row", "huge"]), {"row": np.ones((2, 2), np.float32), "huge": HUGE}),
    "Range": (
        [
            helper.make_node("Range", ["zero", "end", "step"], ["steps"]),
            helper.make_node("Cast", ["steps"], ["floats"], to=TensorProto.FLOAT),
            *node_that_makes("Identity", ["floats"]),
        ],
        {"zero": np.array(0), "end": np.array(10**11), "step": np.array(1)},
    ),
    "Resize": (
        node_that_makes("Resize", ["row", "", "scales"]),
        {"row": np.ones((2, 2), np.float32), "scales": np.array([1e5, 1e5], np.float32)},
    ),
    "Pad": (
        node_that_makes("Pad", ["row", "pads"]),
        {"row": np.ones((2, 2), np.float32), "pads": np.array([200_000, 0, 0, 200_000])},
    ),
    "a shape that is computed": (
        [
            helper.make_node("Mul", ["huge", "huge"], ["product"]),
            *node_that_makes("ConstantOfShape", ["product"]),
        ],
        {"huge": np.array([400, 400])},
    ),
    "a shape that depends on the frame": (
        [
            helper.make_node("Cast", ["frame"], ["longs"], to=TensorProto.INT64),
            helper.make_node("ReduceMax", ["longs"], ["largest"], keepdims=0),
            helper.make_node("Reshape", ["largest", "one_axis"], ["shape"]),
            *node_that_makes("ConstantOfShape", ["shape"]),
        ],
        {"one_axis": np.array([1])},
    ),
    "many large constants": (
        [
            *(helper.make_node("ConstantOfShape", ["half"], [f"c{index}"]) for index in range(8)),
            helper.make_node("Sum", [f"c{index}" for index in range(8)], ["sum"]),
            *node_that_makes("Identity", ["sum"]),
        ],
        {"half": np.array([20_000, 20_000])},
    ),
    "weights that are only claimed": (
        node_that_makes("Identity", ["claimed"]),
        {"claimed": TensorProto(name="claimed", data_type=TensorProto.FLOAT, dims=[200_000, 200_000])},
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_model_that_would_fill_the_memory_is_refused_before_it_is_loaded(tmp_path, bomb):
    nodes, constants = BOMBS[bomb]
    message = refusal(write_model(tmp_path / "bomb.onnx", nodes, {**constants, "size": SIZE}))
    assert "GB of memory" in message or "memory is not known in advance" in message


def test_shapes_that_a_file_claims_are_not_believed(tmp_path):
    nodes, constants = BOMBS["ConstantOfShape"]
    path = write_model(tmp_path / "bomb.onnx", nodes, {**constants, "size": SIZE})
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("large", TensorProto.FLOAT, [1, 1]))
    onnx.save(model, path)
    assert "GB of memory" in refusal(path)


def test_loops_are_refused(tmp_path):
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("index", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, []),
        ],
    )
    nodes = node_that_makes("Loop", ["times", "yes", "one"], body=body)
    constants = {"times": np.array(10**12), "yes": np.array(True), "one": np.float32(1), "size": SIZE}
    assert "operator Loop" in refusal(write_model(tmp_path / "loop.onnx", nodes, constants))


def test_operators_of_other_domains_are_refused(tmp_path):
    nodes = node_that_makes("Range", ["zero", "end", "step"], domain="com.microsoft")
    constants = {"zero": np.float32(0), "end": np.float32(1e9), "step": np.float32(1), "size": SIZE}
    assert "which is not in the ONNX standard" in refusal(write_model(tmp_path / "m.onnx", nodes, constants))


@pytest.mark.parametrize("size", [("input_height", "input_width"), ("output_height", "output_width")])
def test_a_spec_with_sizes_beyond_all_cameras_is_refused(tmp_path, size):
    spec = tiny_spec(prior_log_rows=(), **dict(zip(size, (10**6, 2 * 10**6), strict=True)))
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_graph(dataclasses.replace(tiny_spec(), prior_log_rows=()), "N").SerializeToString())
    model = onnx.load(path)
    write_onnx_spec(model, spec)
    onnx.save(model, path)
    assert "2000000 x 1000000 pixels" in refusal(path)


def test_a_fixed_batch_counts(make_model, monkeypatch):
    one, four = read_onnx(make_model(batch=1)), make_model(batch=4)
    assert one.spec.name == "tiny"
    monkeypatch.setattr(onnx_file, "_physical_memory", lambda: 150e3)
    read_onnx(one.path)
    assert "a smaller batch" in refusal(four)


def test_the_bundled_models_need_less_than_a_tenth_of_a_gigabyte(monkeypatch):
    monkeypatch.setattr(onnx_file, "MAX_BYTES_PER_FRAME", 10**8)
    for form in ("fp32", "int8"):
        read_onnx(bundled_model(form))
