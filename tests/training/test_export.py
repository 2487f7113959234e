"""The export command: real files of the three encoders, read back by the runtimes that will run them."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import math
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from sal360.errors import ModelError, ParameterError, one_line_errors
from sal360.runtimes import open_model
from sal360.runtimes.tensorrt.builder import build_engine, load_tensorrt
from sal360.runtimes.tensorrt.engine import read_engine, sha256
from sal360.spec import read_onnx_spec
from sal360.weights import bundled_model
from training import export as command
from training.checkpoint import IMAGENET, Origin, plain_settings, save_checkpoint
from training.export import ExportConfig
from training.exporting import parity, quantise
from training.exporting.quantise import panorama_frames
from training.models.saliency_model import SaliencyModel, SaliencyModelConfig
from training.trained_models import name_of_run, read_saliency_model

# the optimiser of onnxscript and NNCF's own parts
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

SIZE = "64x128"
SMOOTH = "compact-smooth"
CAPABILITIES = ("8.6", "8.9", "12.0")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of each encoder: the compact one as from ImageNet, the paper's two and all decoders untrained.

    And, as the bundled model is, a compact one that smooths before its strides, which makes its untrained map steeper.
    """
    found = {}
    for name in ("compact", "resnet50", "vgg16", SMOOTH):
        torch.manual_seed(0)
        encoder = name.removesuffix("-smooth")
        decoder = "separable" if encoder == "compact" else "paper"
        smooth = "strides" if name == SMOOTH else "none"
        config = SaliencyModelConfig(encoder=encoder, decoder=decoder, input_height=64, smooth_columns=smooth)
        model = SaliencyModel(config, pretrained=encoder == "compact")
        if encoder == "compact":  # so that the map is not uniform, and no peak so steep that fp16 blurs it
            torch.nn.init.normal_(model.decoder.head.weight, std=0.002)
        run = tmp_path_factory.mktemp(name)
        found[name] = save_checkpoint(run, 1, model, "saliency", plain_settings(config), {})
    return found


@pytest.fixture(scope="module")
def exported(checkpoints, tmp_path_factory):
    """Exports once each, for all processes of the run: exported("compact", "fp16") is the folder of the files."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def export(encoder, precision):
        pytest.importorskip("tensorrt_rtx")
        folder = shared / f"exported-{encoder}-{precision}"
        with folder.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process exports while others wait
            if os.fstat(lock.fileno()).st_size == 0:
                config = ExportConfig(
                    checkpoint=str(checkpoints[encoder]),
                    output=str(folder),
                    name=encoder,
                    precision=precision,
                    calibration_frames=4,
                    tensorrt_rtx=True,
                    compute_capability="86,89,120",
                    force=precision == "int8",  # int8 limits do not apply to an untrained network
                )
                command.export(config)
                lock.write("exported")
        return folder

    return export


# exporting takes long: each encoder and each precision once, the bundled encoder in both
FORMS = pytest.mark.parametrize(
    ("encoder", "precision"), [("compact", "fp32"), ("compact", "fp16"), ("resnet50", "fp32"), ("vgg16", "fp16")]
)
PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "fp16"])


@FORMS
def test_the_file_does_what_the_checkpoint_does(exported, encoder, precision):
    spec = read_onnx_spec(exported(encoder, precision) / f"{encoder}-{precision}.onnx")
    assert (spec.name, spec.precision, spec.input_height, spec.input_width) == (encoder, precision, 64, 128)
    assert spec.parity["max_relative_difference"] <= {"fp32": 1e-4, "fp16": 1e-2}[precision]
    assert spec.parity["cc"] > 0.999
    assert spec.parity["panoramas"] == 4


@PRECISIONS
def test_the_weights_of_smoothed_convolutions_are_constants(exported, precision):
    """What computes them instead cannot be quantised, and not every runtime folds it."""
    path = exported(SMOOTH, precision) / f"{SMOOTH}-{precision}.onnx"
    graph = onnx.load(path).graph
    constants = {each.name: each for each in graph.initializer}
    weights = [constants[node.input[1]] for node in graph.node if node.op_type == "Conv"]
    assert [list(each.dims[2:]) for each in weights].count([5, 7]) == 2  # strides 8 and 32
    assert read_onnx_spec(path).parity["cc"] > 0.999


@FORMS
def test_an_engine_is_built_for_three_kinds_of_card_and_twice_the_same(exported, encoder, precision):
    folder = exported(encoder, precision)
    onnx_path = folder / f"{encoder}-{precision}.onnx"
    engine, info = read_engine(folder / f"{encoder}-{precision}-tensorrt_rtx.engine")
    assert engine[:4] == b"vtrt"
    assert info.compute_capabilities == CAPABILITIES
    assert info.onnx_sha256 == sha256(onnx_path.read_bytes())
    assert info.spec == read_onnx_spec(onnx_path)
    library = load_tensorrt("tensorrt_rtx")
    again, _ = build_engine(onnx_path, library, compute_capabilities=CAPABILITIES)
    assert again == engine


def test_half_precision_halves_the_weights(exported):
    full, half = (
        (exported("compact", precision) / f"compact-{precision}.onnx").stat().st_size for precision in ("fp32", "fp16")
    )
    assert half < 0.6 * full


def test_the_file_takes_any_number_of_frames(exported):
    path = exported("compact", "fp32") / "compact-fp32.onnx"
    frames = panorama_frames("", 3, 64, turned=True)
    with open_model(path, backend="onnxruntime", device="cpu", threads=1) as backend:
        maps = backend.infer(frames)
        np.testing.assert_allclose(maps[2], backend.infer(frames[2:])[0], rtol=1e-3)


def test_int8_has_one_file_for_cpus_and_one_for_tensorrt(exported):
    folder = exported("compact", "int8")
    types = {}
    for name in ("compact-int8", "compact-int8-tensorrt"):
        graph = onnx.load(folder / f"{name}.onnx").graph
        zeros = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
        quantisers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
        assert len(quantisers) > 10
        types[name] = {zeros[node.input[2]].dtype.name for node in quantisers}
        assert all(not zeros[node.input[2]].any() for node in quantisers)  # symmetric
    assert "uint8" in types["compact-int8"]
    assert types["compact-int8-tensorrt"] == {"int8"}
    assert (folder / "compact-int8-tensorrt_rtx.engine").is_file()


def test_both_int8_files_give_nearly_the_same_map(exported):
    """Of a map as steep as a trained one's: the steepest ones, of untrained networks, are left to chance by int8."""
    folder = exported(SMOOTH, "int8")
    frames = panorama_frames("", 2, 64, turned=False)
    maps = []
    for name in (f"{SMOOTH}-int8", f"{SMOOTH}-int8-tensorrt"):
        with open_model(folder / f"{name}.onnx", backend="onnxruntime", device="cpu", threads=1) as backend:
            maps.append(backend.infer(frames))
    assert parity.differences(*maps)["cc"] > 0.95  # half as many steps


def test_the_bundled_int8_model_in_the_form_of_tensorrt_says_what_fp32_says(tmp_path):
    quantise.write_signed(bundled_model("int8"), tmp_path / "signed.onnx")
    frames = panorama_frames("", 4, read_onnx_spec(bundled_model()).input_height, turned=False)
    maps = []
    for path in (tmp_path / "signed.onnx", bundled_model("int8"), bundled_model()):
        with open_model(path, backend="onnxruntime", device="cpu", threads=1) as backend:
            maps.append(np.concatenate([backend.infer(frame[None]) for frame in frames]))
    signed, unsigned, exact = maps
    assert parity.differences(signed, unsigned)["cc"] > 0.99
    assert parity.differences(signed, exact)["cc"] > 0.99


def test_the_first_and_last_convolutions_are_not_quantised(exported):
    graph = onnx.load(exported("compact", "int8") / "compact-int8.onnx").graph
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    is_quantised = [node.input[1] in dequantised for node in convolutions]
    assert not is_quantised[0]
    assert not is_quantised[-1]
    assert all(is_quantised[1:-1])


def test_int8_clips_nothing_that_it_was_calibrated_on(tmp_path):
    """One bright frame among dark ones: a range up to the mean of their maxima would cut it."""
    helper, path = onnx.helper, tmp_path / "three.onnx"
    identity = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32)[..., None, None], "identity")
    names = ["planes", "first", "second", "saliency"]
    nodes = [helper.make_node("Cast", ["frame"], ["real"], to=onnx.TensorProto.FLOAT)]
    nodes.append(helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]))
    for before, after in itertools.pairwise(names):
        nodes.append(helper.make_node("Conv", [before, "identity"], [after], name=f"to_{after}"))
    graph = helper.make_graph(
        nodes,
        "three",
        [helper.make_tensor_value_info("frame", onnx.TensorProto.UINT8, [1, 4, 8, 3])],
        [helper.make_tensor_value_info("saliency", onnx.TensorProto.FLOAT, [1, 3, 4, 8])],
        [identity],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    frames = np.full((8, 4, 8, 3), 10, np.uint8)
    frames[5] = 250
    quantise.quantise(path, frames)
    graph = onnx.load(path).graph
    (activation,) = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    scale, zero = (constants[name] for name in activation.input[1:])
    assert scale * np.iinfo(zero.dtype).max == pytest.approx(250)


def test_int8_convolutions_take_what_was_quantised_before_the_columns_were_wrapped(exported):
    """Then the convolution before the wrapping writes int8, and no pass over its output is needed."""
    graph = onnx.load(exported(SMOOTH, "int8") / f"{SMOOTH}-int8.onnx").graph
    maker = {output: node.op_type for node in graph.node for output in node.output}
    wrapped = [node.input[0] for node in graph.node if node.op_type == "Conv" and maker[node.input[0]] == "Concat"]
    (unquantised, *quantised) = [
        {maker[name] for node in graph.node if node.output[0] == each for name in node.input} for each in wrapped
    ]
    assert "DequantizeLinear" not in unquantised  # the first convolution
    assert len(quantised) > 10
    assert all(kinds <= {"DequantizeLinear", "Slice"} for kinds in quantised)


def test_wrapping_the_columns_copies_less_than_a_sixth_of_what_the_convolutions_write(exported):
    """On CPUs with matrix units, a fifth of the time once went into copies for two more columns."""
    model = onnx.shape_inference.infer_shapes(onnx.load(exported(SMOOTH, "fp32") / f"{SMOOTH}-fp32.onnx"))
    sizes = {
        each.name: math.prod(side.dim_value or 1 for side in each.type.tensor_type.shape.dim)
        for each in model.graph.value_info
    }
    written = {
        kind: sum(sizes[node.output[0]] for node in model.graph.node if node.op_type == kind)
        for kind in ("Concat", "Conv")
    }
    assert 0 < written["Concat"] < written["Conv"] / 6


def test_dense_int8_weights_leave_room_for_the_sum_of_two_products(exported):
    graph = onnx.load(exported(SMOOTH, "int8") / f"{SMOOTH}-int8.onnx").graph
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    weights = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    dense = [
        constants[weights[node.input[1]]]
        for node in graph.node
        if node.op_type == "Conv" and weights.get(node.input[1]) in constants and not _is_depthwise(node)
    ]
    assert len(dense) > 20
    assert {int(np.abs(each).max()) for each in dense} == {64}


def _is_depthwise(node) -> bool:
    return any(each.name == "group" and each.i > 1 for each in node.attribute)


@pytest.fixture(scope="module")
def camera_file(checkpoints, tmp_path_factory):
    """A graph for one frame of 200 x 400 that shrinks it to 64 x 128 itself, and the same as a torch program."""
    path = tmp_path_factory.mktemp("camera") / "camera.onnx"
    config = ExportConfig(
        str(checkpoints["compact"]), str(path), frame_size="200x400", batch=1, torch_program=True, upsample=0
    )
    assert command.export(config) == [path, path.with_suffix(".pt2")]
    return path


def test_name_training_data_and_licence_come_from_the_run(checkpoints, tmp_path, monkeypatch):
    specs = []
    monkeypatch.setattr(command, "write_onnx", lambda _, spec, *__, **___: specs.append(spec))
    monkeypatch.setattr(command, "_with_parity", lambda _, spec, *__, **___: spec)
    model = read_saliency_model(checkpoints["compact"])
    origin = [Origin("Salient360!, gaze on panoramas", "terms of its distributor"), IMAGENET]
    with monkeypatch.context() as patch:
        patch.setattr("training.checkpoint.git_revision", lambda: "of the training")
        save_checkpoint(tmp_path / "tuned", 9, model, "saliency", plain_settings(model.config), {}, origin=origin)
    for run in (tmp_path / "tuned", tmp_path / "tuned/last", tmp_path / "tuned/step-00000009/model.safetensors"):
        path, *_ = command.export(ExportConfig(str(run), str(tmp_path / "models")))
        assert path.name == "compact-tuned-fp32.onnx"
        spec = specs[-1]
        assert (spec.name, spec.version, spec.git_revision) == ("compact-tuned", "step-9", "of the training")
        learnt = "Salient360!, gaze on panoramas (terms of its distributor); ImageNet, by the weights"
        assert spec.trained_on.startswith(learnt)
        assert spec.weights_license.startswith(f"none stated; learnt from {learnt}")
    given = ExportConfig("", "out", name="mine", version="2.1.0", trained_on="gaze of mine", weights_license="MIT")
    named = command.named_after_run(dataclasses.replace(given, checkpoint=str(checkpoints["vgg16"])))
    assert (named.name, named.trained_on, named.weights_license) == ("mine", "gaze of mine", "MIT")
    assert named.version == "2.1.0"
    save_checkpoint(tmp_path / "backbone", 1, model, "saliency", {"encoder": "timm:tokens"}, {})
    assert name_of_run(tmp_path / "backbone") == "timm-tokens-backbone"
    older = command.named_after_run(ExportConfig(str(checkpoints["resnet50"]), str(tmp_path)))
    assert older.name.startswith("resnet50")
    assert "not recorded" in older.trained_on
    assert "Apache" not in older.weights_license


def test_a_torch_program_keeps_the_dots_of_its_name(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "write_onnx", lambda *_, **__: None)
    monkeypatch.setattr(command, "_with_parity", lambda _, spec, *__, **___: spec)
    monkeypatch.setattr(command, "write_program", lambda *_, **__: None)
    config = ExportConfig(str(checkpoints["compact"]), str(tmp_path), name="camera-1.0", torch_program=True)
    names = ["camera-1.0-fp32.onnx", "camera-1.0-fp32.pt2"]
    assert [each.name for each in command.export(config)] == names
    assert sorted(each.name for each in tmp_path.iterdir()) == names


def test_frames_of_a_camera_s_size_are_shrunk_in_the_graph(camera_file, checkpoints):
    spec = read_onnx_spec(camera_file)
    assert (spec.input_height, spec.input_width, spec.output_height) == (200, 400, 16)
    frames = panorama_frames("", 1, 200, turned=False)
    small = np.stack([cv2.resize(frame, (128, 64), interpolation=cv2.INTER_AREA) for frame in frames])
    model = command.load_model(ExportConfig(str(checkpoints["compact"]), "unused", upsample=0))
    with torch.no_grad():
        expected = model(torch.from_numpy(small)).numpy()
    with open_model(camera_file, backend="onnxruntime", device="cpu", threads=1) as backend:
        assert backend.batch_limits == (1, 1)
        assert parity.differences(backend.infer(frames), expected)["cc"] > 0.98


def test_the_torch_program_gives_the_same_map(camera_file):
    frames = panorama_frames("", 1, 200, turned=False)
    with open_model(camera_file.with_suffix(".pt2"), device="cpu", allow_pickled_programs=True) as program:
        maps = program.infer(frames)
        assert program.spec == read_onnx_spec(camera_file)
    with open_model(camera_file, backend="onnxruntime", device="cpu", threads=1) as backend:
        assert parity.differences(maps, backend.infer(frames))["max_relative_difference"] < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_a_file_that_is_too_far_from_the_checkpoint_is_refused(precision):
    random = np.random.default_rng(0)
    expected = random.random((2, 16, 32)) + 0.5
    far = parity.differences(expected + random.normal(0, 0.5, expected.shape).clip(-0.4, 0.4), expected)
    with pytest.raises(ModelError, match="--force"):
        parity.check(far, precision)
    parity.check(parity.differences(expected, expected), precision)
    with pytest.raises(ModelError):
        parity.check({**far, "cc": float("nan")}, precision)


def test_a_refused_file_leaves_the_old_one_whole(checkpoints, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the old file")
    monkeypatch.setattr(command, "write_onnx", lambda *_, **__: None)
    monkeypatch.setattr(command, "_with_parity", lambda *_, **__: parity.check({**BAD}, "int8"))
    with pytest.raises(ModelError, match=r"the int8 file .*; expected CC 0.98, KLD 0.05; "):
        command.export(ExportConfig(str(checkpoints["compact"]), str(path)))
    assert path.read_bytes() == b"the old file"
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_a_full_disk_gives_a_one_line_error_and_leaves_the_old_file_whole(checkpoints, tmp_path, monkeypatch, capsys):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the old file")

    def full(*_, **__):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(command, "write_onnx", full)
    status, lines = run(monkeypatch, capsys, checkpoints["compact"], "--output", path)
    assert status == 2
    assert [line.startswith("error: the disk is full") for line in lines] == [True]
    assert path.read_bytes() == b"the old file"
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


BAD = {"max_relative_difference": 1.0, "mean_relative_difference": 0.5, "cc": 0.1, "kld": 2.0}


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    status = one_line_errors(command.main)
    return status, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--precision", "fp8"], "precision"),
        (["--input-size", "64x100"], "input_size is '64x100'"),
        (["--input-size", "60x120"], "input_size is 60"),
        (["--frame-size", "32x64"], "frame_size is 32x64"),
        (["--batch", "-1"], "batch is -1"),
        (["--compute-capability", "86"], "compute_capability is '86'"),
        (["--tensorrt-rtx", "--compute-capability", "ampere"], "compute_capability is 'ampere'"),
        (["--panoramas", "nowhere"], "nowhere"),
        (["--tensorrt"], "tensorrt is not installed"),
    ],
)
def test_a_wrong_option_gives_a_one_line_error_and_status_2(checkpoints, tmp_path, monkeypatch, capsys, options, named):
    monkeypatch.setattr(command, "write_onnx", lambda *_, **__: None)
    monkeypatch.setattr(command, "_with_parity", lambda *arguments, **__: arguments[1])
    monkeypatch.setattr(command, "_exact_maps", lambda *_: None)
    status, lines = run(monkeypatch, capsys, checkpoints["compact"], "--output", tmp_path / "out", *options)
    assert status == 2
    assert [line.startswith("error: ") for line in lines] == [True], lines
    assert named in lines[0]


def test_a_missing_checkpoint_gives_a_one_line_error_and_status_2(tmp_path, monkeypatch, capsys):
    status, lines = run(monkeypatch, capsys, tmp_path / "none", "--output", tmp_path)
    assert status == 2
    assert len(lines) == 1


def test_an_output_that_cannot_be_written_gives_a_one_line_error_and_status_2(
    checkpoints, tmp_path, monkeypatch, capsys
):
    (tmp_path / "out").write_text("a file where the folder should be")
    status, lines = run(
        monkeypatch, capsys, checkpoints["compact"], "--output", tmp_path / "out", "--input-size", "32x64"
    )
    assert status == 2
    assert len(lines) == 1


def test_the_command_is_written_as_people_write_it():
    words = ["runs/a", "--output=x", "--tensorrt-rtx", "--compute-capability", "86,89", "--force"]
    assert command.command_line(words) == [
        *("--checkpoint", "runs/a", "--output=x", "--tensorrt_rtx", "true"),
        *("--compute_capability", "86,89", "--force", "true"),
    ]
    assert command.command_line(["--checkpoint", "a-b", "--force", "false"])[:2] == ["--checkpoint", "a-b"]


@pytest.mark.parametrize(("text", "expected"), [("86,89,120", CAPABILITIES), ("8.7", ("8.7",)), ("", ())])
def test_compute_capabilities_are_read_with_and_without_their_point(text, expected):
    config = ExportConfig("a", "b", tensorrt_rtx=True, compute_capability=text)
    assert config.compute_capabilities() == expected


def test_a_setting_out_of_range_is_refused():
    with pytest.raises(ParameterError, match="max_batch"):
        ExportConfig("a", "b", max_batch=0)


def test_an_engine_ends_with_its_spec_in_readable_form(exported):
    folder = exported("compact", "fp32")
    text = (folder / "compact-fp32-tensorrt_rtx.engine").read_bytes().rpartition(b"\n{\n")[2].rpartition(b"\n}\n")[0]
    written = json.loads(b"{" + text + b"}")
    assert written["spec"]["parity"]["cc"] > 0.999
    assert written["library"] == "tensorrt_rtx"


def test_without_nncf_there_is_a_one_line_error(monkeypatch, exported):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ModelError, match="NNCF, which int8 needs, cannot be imported"):
        quantise.quantise(exported("compact", "fp32") / "compact-fp32.onnx", panorama_frames("", 1, 64, turned=True))


@pytest.mark.parametrize(("count", "expected"), [(2, [0, 40]), (3, [0, 20, 40]), (7, [0, 10, 20, 30, 40, 0, 10])])
def test_frames_for_calibration_are_spread_over_the_panoramas(tmp_path, count, expected):
    for i in range(5):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((64, 128, 3), 10 * i, np.uint8))
    frames = panorama_frames(str(tmp_path), count, 64, turned=False)
    assert frames[:, 0, 0, 0].tolist() == expected
