"""Engines by the real TensorRT-RTX builder, for cards that are not in this machine."""

from __future__ import annotations

import onnx
import pytest

from sal360.errors import ModelError
from sal360.runtimes.tensorrt.builder import build_engine, load_tensorrt

CAPABILITIES = ("8.6", "8.9", "12.0")


@pytest.fixture(scope="module")
def library():
    pytest.importorskip("tensorrt_rtx")
    return load_tensorrt("tensorrt_rtx")


def refusal(path, library, **options) -> str:
    with pytest.raises(ModelError) as raised:
        build_engine(path, library, **{"compute_capabilities": CAPABILITIES, **options})
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def engine(library, tiny_model):
    return build_engine(tiny_model, library, compute_capabilities=CAPABILITIES)


def test_an_engine_is_built_without_a_card_and_says_what_it_is(engine, library):
    content, info = engine
    assert content[:4] == b"vtrt"
    assert info.compute_capabilities == CAPABILITIES
    assert (info.library, info.library_version, info.gpu_name) == ("tensorrt_rtx", library.version, "")
    assert (info.spec.name, info.max_batch) == ("tiny", 1)


def test_two_builds_are_byte_identical(engine, library, tiny_model):
    again, info = build_engine(tiny_model, library, compute_capabilities=CAPABILITIES)
    assert again == engine[0]
    assert info == engine[1]


def test_other_cards_and_batches_make_other_engines(engine, library, tiny_model):
    one_card, _ = build_engine(tiny_model, library, compute_capabilities=["8.6"])
    larger, info = build_engine(tiny_model, library, compute_capabilities=CAPABILITIES, max_batch=8)
    assert len({engine[0], one_card, larger}) == 3
    assert info.max_batch == 8


def test_a_batch_that_the_graph_fixes_wins(library, make_model):
    _, info = build_engine(make_model(batch=4), library, compute_capabilities=["8.9"], max_batch=2)
    assert info.max_batch == 4


def test_a_card_that_tensorrt_rtx_does_not_know_is_refused(library, tiny_model):
    message = refusal(tiny_model, library, compute_capabilities=["8.7"])
    assert "cannot build for compute capability 8.7" in message
    assert "86, 89" in message


def test_a_network_that_is_not_what_its_spec_says_is_refused(library, make_model):
    message = refusal(make_model(output_height=8, output_width=16, prior_log_rows=()), library)
    assert "saliency float32 (N, 16, 32)" in message


def test_an_operator_that_it_does_not_know_is_named(library, tiny_model, tmp_path):
    model = onnx.load(tiny_model)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Quux"
    onnx.save(model, tmp_path / "model.onnx")
    assert "Quux" in refusal(tmp_path / "model.onnx", library)


def test_a_cut_model_is_refused(library, tiny_model, tmp_path):
    (tmp_path / "model.onnx").write_bytes(tiny_model.read_bytes()[:-40])
    assert str(tmp_path / "model.onnx") in refusal(tmp_path / "model.onnx", library)
