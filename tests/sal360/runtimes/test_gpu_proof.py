"""benchmarks/gpu_proof.py without a GPU: its driver part on a fake GPU, its arithmetic, and how it resumes."""

from __future__ import annotations

import importlib
import io
import json
import os
import tarfile
import time

import cv2
import numpy as np
import pytest


@pytest.fixture
def proof_module(repository, monkeypatch):
    monkeypatch.syspath_prepend(repository / "benchmarks")
    return importlib.import_module("gpu_proof")


@pytest.fixture
def new_proof(proof_module, tmp_path):
    return lambda: proof_module.Proof(tmp_path, proof_module.DRY, time.monotonic() + 60, "cpu")


def test_the_driver_part_measures_copies_streams_and_captured_copies(proof_module, new_proof, make_gpu):
    gpu = make_gpu()
    proof = new_proof()
    proof_module.driver_part(proof)
    assert proof.results["skipped"] == {}
    assert set(proof.results["rows"]["driver"]) == {"allocation", "copies", "two streams", "captured copies"}
    assert "out of memory" in proof.results["rows"]["driver"]["allocation"]["refusal"]
    assert gpu.cuda.leaks == []


def test_the_driver_part_notices_a_copy_that_loses_a_byte(proof_module, new_proof, make_gpu, monkeypatch):
    gpu = make_gpu()
    write = gpu.cuda.write
    monkeypatch.setattr(gpu.cuda, "write", lambda address, data: write(address, data[:-1]))
    proof = new_proof()
    proof_module.driver_part(proof)
    assert "1 of 1048576 bytes differ" in proof.results["skipped"]["driver: captured copies"]
    assert "allocation" in proof.results["rows"]["driver"]
    assert gpu.cuda.leaks == []


def test_measurements_are_kept_and_failures_are_listed_and_tried_again(new_proof):
    first = new_proof()
    assert first.measure("part", "good", lambda: {"value": 1}) == {"value": 1}
    assert first.measure("part", "bad", lambda: 1 / 0) is None
    second = new_proof()
    assert second.results["skipped"] == {"part: bad": "division by zero"}
    assert second.measure("part", "good", lambda: {"value": 2}) == {"value": 1}
    assert second.measure("part", "bad", lambda: {"value": 3}) == {"value": 3}
    assert new_proof().results["skipped"] == {}


def test_a_part_that_dies_or_hangs_does_not_end_the_others(proof_module, tmp_path, monkeypatch):
    def hang(proof):
        proof.measure("hangs", "before", lambda: {"value": 1})
        time.sleep(600)

    parts = {
        "dies": proof_module.Part(lambda _: os._exit(7), 30),
        "hangs": proof_module.Part(hang, 3),
        "works": proof_module.Part(lambda proof: proof.measure("works", "key", lambda: {"value": 2}), 30),
    }
    monkeypatch.setattr(proof_module, "PARTS", parts)
    results = proof_module.run_parts(tmp_path, proof_module.DRY, 60, "cpu", list(parts))
    assert "status 7" in results["skipped"]["dies"]
    assert "did not end" in results["skipped"]["hangs"]
    assert results["rows"] == {"hangs": {"before": {"value": 1}}, "works": {"key": {"value": 2}}}
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results
    assert "not measured: dies" in (tmp_path / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("size", "reduced"), [(960, 384), (1920, 384), (1920, 160)])
def test_the_means_over_areas_are_those_of_opencv(proof_module, size, reduced):
    picture = np.random.default_rng(0).integers(0, 256, (size, 40, 3), dtype=np.uint8)
    expected = cv2.resize(picture, (40, reduced), interpolation=cv2.INTER_AREA)
    found = np.einsum("hH,Hwc->hwc", proof_module.area_weights(size, reduced), picture.astype(np.float32))
    assert np.abs(found - expected).max() < 0.51


def test_the_bundled_file_gives_the_same_map_in_torch(proof_module):
    torch = pytest.importorskip("torch")
    onnx_in_torch = importlib.import_module("onnx_in_torch")
    from sal360.runtimes import open_model
    from sal360.weights import bundled_model
    from training.exporting.parity import differences

    frame = cv2.resize(proof_module.frames_of(384, 1)[0], (768, 384))[None]
    with open_model(bundled_model(), backend="onnxruntime", device="cpu") as backend:
        expected = backend.infer(frame)
    with torch.inference_mode():
        found = onnx_in_torch.OnnxModule(bundled_model()).eval()(torch.from_numpy(frame)).numpy()
    assert differences(found, expected)["max_relative_difference"] < 1e-4


def test_encoders_come_back_in_parts_as_checkpoints(proof_module, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from training.checkpoint import load_weights, save_checkpoint

    def model():
        return torch.nn.ModuleDict({"encoder": torch.nn.Linear(64, 64), "head": torch.nn.Linear(64, 64)})

    trained, output = model(), tmp_path / "out"
    output.mkdir()
    save_checkpoint(tmp_path / "runs" / "resnet50_self_seed0", 7, trained, "contrastive", {"encoder": "resnet50"}, {})
    monkeypatch.setattr(proof_module, "PART_BYTES", 10_000)
    proof_module.pack_encoders(tmp_path / "runs", output)
    parts = sorted(output.glob("checkpoints.tar.part*"))
    assert len(parts) > 1
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as tar:
        tar.extractall(output, filter="data")
    again = model()
    header = load_weights(
        output / "resnet50_self_seed0.safetensors", again["encoder"], kind="contrastive", part="encoder"
    )
    assert header.step == 7
    assert torch.equal(again["encoder"].weight, trained["encoder"].weight.half().float())
