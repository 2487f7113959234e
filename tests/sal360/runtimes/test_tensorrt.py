"""The TensorRT backend: its work per frame, its cache between starts, and every refusal in one line."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from sal360.cli import build_engine, main
from sal360.errors import ModelError
from sal360.files import written_beside
from sal360.runtimes import open_model, selection
from sal360.runtimes.tensorrt.builder import load_tensorrt
from sal360.runtimes.tensorrt.cache import runtime_cache_path
from sal360.runtimes.tensorrt.engine import read_engine, read_engine_info

pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")

LIBRARIES = pytest.mark.parametrize("library", ["tensorrt", "tensorrt_rtx"])


def opening(path) -> str:
    with pytest.raises(ModelError) as raised:
        open_model(path, device="cuda")
    message = str(raised.value)
    assert "\n" not in message
    return message


def engines(gpu):
    return sorted((gpu.cache / "sal360_ros" / "engines").glob("[!.]*.engine"))


def built_engine(gpu, path):
    """The engine that opening the model leaves in the cache."""
    open_model(path, device="cuda").close()
    (engine,) = engines(gpu)
    return engine


def test_it_is_the_first_choice_where_there_is_a_card(make_gpu, tiny_model):
    make_gpu()
    with open_model(tiny_model) as backend:
        assert (backend.name, backend.device, backend.precision) == ("tensorrt", "cuda:0", "fp32")


def test_classic_tensorrt_replays_one_graph_and_waits_once_a_frame(make_gpu, tiny_model, frames):
    gpu = make_gpu("tensorrt")
    with open_model(tiny_model, device="cuda") as backend:
        backend.infer(frames[:1])
        del gpu.cuda.calls[:]
        backend.infer(frames[1:2])
    assert gpu.cuda.calls[:3] == ["cuCtxSetCurrent", "cuGraphLaunch", "cuStreamSynchronize"]


def test_tensorrt_rtx_captures_by_itself_and_waits_once_a_frame(make_gpu, tiny_model, frames):
    gpu = make_gpu("tensorrt_rtx")
    with open_model(tiny_model, device="cuda") as backend:
        backend.infer(frames[:1])
        assert backend._engine.runtime_config.cuda_graph_strategy == gpu.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        del gpu.cuda.calls[:]
        backend.infer(frames[1:2])
        assert gpu.cuda.calls == [
            "cuCtxSetCurrent",
            "cuMemcpyHtoDAsync_v2",
            "cuMemcpyDtoHAsync_v2",
            "cuStreamSynchronize",
        ]


@LIBRARIES
def test_nothing_is_allocated_after_the_first_frame(make_gpu, tiny_model, frames, library):
    gpu = make_gpu(library)
    with open_model(tiny_model, device="cuda") as backend:
        backend.infer(frames[:1])
        held = sorted(gpu.cuda.leaks)
        for _ in range(3):
            backend.infer(frames)
        assert sorted(gpu.cuda.leaks) == held


@LIBRARIES
def test_closing_gives_everything_back(make_gpu, tiny_model, frames, library):
    gpu = make_gpu(library)
    for _ in range(3):
        with open_model(tiny_model, device="cuda") as backend:
            backend.infer(frames)
        assert gpu.cuda.leaks == []


@LIBRARIES
@pytest.mark.parametrize("call", ["cuStreamCreate", "cuMemHostAlloc", "cuMemAlloc_v2", "cuCtxSetCurrent"])
def test_an_opening_that_fails_gives_everything_back(make_gpu, tiny_model, library, call):
    gpu = make_gpu(library)
    gpu.cuda.fails[call] = 2
    assert opening(tiny_model).startswith(f"CUDA's {call} failed (out of memory)")
    gpu.cuda.fails.clear()
    assert gpu.cuda.leaks == []


def test_batches_of_several_sizes_run_on_one_engine(make_gpu, tiny_model, exact, frames):
    gpu = make_gpu("tensorrt")
    library = load_tensorrt("tensorrt")
    from sal360.runtimes.tensorrt.cache import engine_for
    from sal360.runtimes.tensorrt.driver import CudaDevice

    device = CudaDevice(0)
    path = engine_for(tiny_model, library, device, max_batch=2)
    device.release()
    with open_model(path) as backend:
        assert backend.batch_limits == (1, 2)
        for number in (2, 1, 3, 2):
            np.testing.assert_allclose(backend.infer(frames[:number]), exact(frames[:number]), rtol=1e-5)
    assert gpu.cuda.leaks == []


def test_an_engine_that_cannot_be_captured_runs_without_a_graph_and_says_so(
    make_gpu, tiny_model, exact, frames, caplog
):
    gpu = make_gpu("tensorrt")
    gpu.cuda.fails["cuStreamBeginCapture_v2"] = 900
    with caplog.at_level(logging.WARNING), open_model(tiny_model, device="cuda") as backend:
        for _ in range(2):
            np.testing.assert_allclose(backend.infer(frames[:1]), exact(frames[:1]), rtol=1e-5)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["running without a CUDA graph"]


def test_a_failure_during_inference_gives_a_one_line_error_and_the_next_frame_may_work(make_gpu, tiny_model, frames):
    gpu = make_gpu()
    with open_model(tiny_model, device="cuda") as backend:
        gpu.refuses_to_run = True
        with pytest.raises(ModelError, match="kernel launch failed"):
            backend.infer(frames[:1])
        gpu.refuses_to_run = False
        assert backend.infer(frames[:1]).shape == (1, 16, 32)


def test_the_engine_is_built_once_and_found_again(make_gpu, tiny_model):
    gpu = make_gpu()
    for _ in range(3):
        open_model(tiny_model, device="cuda").close()
    assert len(gpu.builds) == len(engines(gpu)) == 1


def test_another_model_card_or_version_has_another_engine(make_gpu, make_model):
    gpu = make_gpu()
    model = make_model()
    open_model(model, device="cuda").close()
    open_model(make_model(version="2"), device="cuda").close()
    gpu.cuda.name = "Fake RTX 3060"
    open_model(model, device="cuda").close()
    gpu.cuda.capability = (8, 6)
    open_model(model, device="cuda").close()
    gpu.module.__version__ = "1.8.0"
    open_model(model, device="cuda").close()
    assert len(gpu.builds) == len(engines(gpu)) == 5


def test_what_cannot_be_evicted_is_no_error(make_gpu, make_model):
    gpu = make_gpu()
    old = built_engine(gpu, make_model())
    os.utime(old, (1e9, 1e9))
    beside = old.with_name(f"{old.name}.runtime_cache")
    beside.mkdir()
    (beside / "of another user").touch()
    assert main(["build-engine", str(make_model(version="2")), "--keep", "1"]) == 0
    assert not old.exists()


def test_a_build_that_was_interrupted_is_done_again(make_gpu, tiny_model):
    gpu = make_gpu()
    engine = built_engine(gpu, tiny_model)
    whole = engine.read_bytes()
    for cut in (whole[: len(whole) // 2], whole[:-20], b""):
        engine.write_bytes(cut)
        assert built_engine(gpu, tiny_model).read_bytes() == whole
    assert len(gpu.builds) == 4


def test_two_nodes_that_start_together_build_one_engine(make_gpu, tiny_model, frames, exact):
    gpu = make_gpu()

    def start(_):
        with open_model(tiny_model, device="cuda") as backend:
            return backend.infer(frames)

    with ThreadPoolExecutor(3) as pool:
        for maps in pool.map(start, range(3)):
            np.testing.assert_allclose(maps, exact(frames), rtol=1e-5)
    assert len(gpu.builds) == 1
    assert sorted((gpu.cache / "sal360_ros" / "engines").glob("*.lock")) == []


@pytest.mark.parametrize("name", ["tiny", "a name with more than forty letters in all"])
def test_leftovers_of_a_killed_build_are_removed(make_gpu, make_model, name):
    gpu = make_gpu()
    tiny_model = make_model(name=name)
    engine = built_engine(gpu, tiny_model)
    engine.unlink()
    with pytest.raises(KeyboardInterrupt), written_beside(engine) as unfinished:
        raise KeyboardInterrupt
    unfinished.write_bytes(b"half")  # under the name that the writing has before it is complete
    others = engine.with_name(".other-0123456789abcdef-x7d9q2ab.engine")
    others.write_bytes(b"half")  # of a build that may be running
    assert built_engine(gpu, tiny_model) == engine
    assert not unfinished.exists()
    assert others.exists()


def test_an_engine_and_its_description_appear_together(make_gpu, tiny_model, monkeypatch):
    """A crash at the moment of the rename leaves nothing under the final name."""
    gpu = make_gpu()

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sal360.files.os.replace", crash)
    with pytest.raises(KeyboardInterrupt):
        open_model(tiny_model, device="cuda")
    assert engines(gpu) == []
    monkeypatch.undo()


def test_external_weights_are_part_of_the_key(make_gpu, make_model):
    gpu = make_gpu()
    model = make_model()
    onnx.save(onnx.load(model), model, save_as_external_data=True, location="tiny.weights", size_threshold=0)
    weights = model.with_name("tiny.weights")
    open_model(model, device="cuda").close()
    open_model(model, device="cuda").close()
    assert len(gpu.builds) == 1
    changed = bytearray(weights.read_bytes())
    changed[100] ^= 1
    weights.write_bytes(changed)
    open_model(model, device="cuda").close()
    assert len(gpu.builds) == 2


def test_a_copy_under_another_name_has_the_same_engine(make_gpu, tiny_model, tmp_path):
    gpu = make_gpu()
    open_model(tiny_model, device="cuda").close()
    open_model(shutil.copy(tiny_model, tmp_path / "renamed.onnx"), device="cuda").close()
    assert len(gpu.builds) == 1


def test_a_model_s_name_cannot_lead_out_of_the_cache(make_gpu, make_model):
    gpu = make_gpu()
    open_model(make_model(name="../../evil\0name"), device="cuda").close()
    (engine,) = engines(gpu)
    assert engine.name.startswith("______evil_name-")


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
@pytest.mark.parametrize("max_batch", ["1", "4"])
def test_the_node_finds_what_the_command_built(make_gpu, tiny_model, frames, exact, device, max_batch):
    gpu = make_gpu()
    options = ["--device", device, "--precision", "fp32", "--max-batch", max_batch]
    assert main(["build-engine", str(tiny_model), *options]) == 0
    with open_model(tiny_model) as backend:
        assert backend.batch_limits == (1, int(max_batch))
        np.testing.assert_allclose(backend.infer(frames), exact(frames), rtol=1e-5)
    assert len(gpu.builds) == 1


def test_a_larger_batch_replaces_the_engine_and_serves_smaller_ones(make_gpu, tiny_model, make_model):
    gpu = make_gpu()
    for max_batch in ("1", "4", "2", "1"):
        assert main(["build-engine", str(tiny_model), "--max-batch", max_batch]) == 0
    assert (len(gpu.builds), len(engines(gpu))) == (2, 1)
    fixed = str(make_model(batch=2))
    for _ in range(2):
        assert main(["build-engine", fixed, "--max-batch", "8"]) == 0  # the graph's own batch wins
    assert len(gpu.builds) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--device", "cpu"], "--device is cpu; set it to auto, cuda or cuda:N"),
        (["--device", "cuda:7"], "this machine has 1 CUDA devices"),
        (["--precision", "fp16"], "fp16 was requested from tensorrt, but the model was exported in fp32"),
        (["--max-batch", "0"], "--max-batch is 0"),
        (["--keep", "-1"], "--keep is -1"),
        (["none.onnx"], "there is no model file none.onnx"),
    ],
)
def test_an_impossible_build_gives_a_one_line_error(make_gpu, tiny_model, capsys, options, said):
    gpu = make_gpu()
    model = [] if options[0].endswith(".onnx") else [str(tiny_model)]
    assert main(["build-engine", *model, *options]) == 2
    assert said in capsys.readouterr().err
    assert gpu.builds == []


def test_the_command_on_a_machine_without_a_card_says_where_to_build(tiny_model, monkeypatch, capsys):
    monkeypatch.setattr(build_engine, "cuda_device_count", lambda: 0)
    assert main(["build-engine", str(tiny_model)]) == 2
    assert "build the engine on the machine that will run it" in capsys.readouterr().err


def test_an_engine_is_not_built_of_an_engine(make_gpu, tiny_model, capsys):
    gpu = make_gpu()
    assert main(["build-engine", str(built_engine(gpu, tiny_model))]) == 2
    assert "is already an engine" in capsys.readouterr().err


def test_old_engines_of_a_model_go_and_those_of_others_stay(make_gpu, make_model):
    gpu = make_gpu()
    assert main(["build-engine", str(make_model(name="other"))]) == 0
    models = [str(make_model(version=str(version))) for version in range(4)]
    for model in models[:3]:
        assert main(["build-engine", model, "--keep", "0"]) == 0
    folder = engines(gpu)[0].parent
    for engine in engines(gpu):
        os.utime(engine, (1e9, 1e9))
        runtime_cache_path(engine).touch()
    (folder / "of an old version.engine").write_bytes(b"an engine with its description beside it")
    (folder / "of an old version.engine.json").write_text("{}")
    assert main(["build-engine", models[0], "--keep", "2"]) == 0  # is found, and is then the newest
    assert main(["build-engine", models[3], "--keep", "2"]) == 0
    kept = [read_engine_info(engine).spec for engine in engines(gpu)]
    assert sorted((spec.name, spec.version) for spec in kept) == [("other", "0.0.1"), ("tiny", "0"), ("tiny", "3")]
    assert {path.suffix for path in folder.iterdir()} == {".engine", ".runtime_cache"}
    assert len(list(folder.glob("*.runtime_cache"))) == 2


def test_an_engine_of_the_cache_that_the_runtime_refuses_is_built_again(make_gpu, tiny_model, frames, exact):
    gpu = make_gpu()
    built_engine(gpu, tiny_model)
    gpu.engines.clear()  # as after an update of the driver
    with open_model(tiny_model, device="cuda") as backend:
        np.testing.assert_allclose(backend.infer(frames), exact(frames), rtol=1e-5)
    assert len(gpu.builds) == 2
    assert gpu.cuda.leaks == []


def test_after_a_gpu_error_closing_frees_what_it_can_and_reports_the_rest(make_gpu, tiny_model, frames, caplog):
    gpu = make_gpu("tensorrt")
    backend = open_model(tiny_model, device="cuda")
    backend.infer(frames[:1])
    gpu.cuda.fails.update(cuStreamSynchronize=700, cuStreamDestroy_v2=700, cuCtxSetCurrent=700)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"CUDA's \w+ failed .*; restart this process"):
            backend.infer(frames[:1])
    backend.close()
    backend.close()
    assert "the tensorrt model was not freed" in caplog.text
    assert gpu.cuda.contexts == 0
    assert len(gpu.cuda.leaks) == 1  # the stream
    gpu.cuda.fails.clear()
    open_model(tiny_model, device="cuda").close()


def test_kernels_that_rtx_compiled_for_the_card_are_kept(make_gpu, tiny_model, frames):
    gpu = make_gpu("tensorrt_rtx")
    for _ in range(2):
        with open_model(tiny_model, device="cuda") as backend:
            backend.infer(frames)
    assert gpu.seen_caches == [b"compiled kernels"]


def test_a_cache_that_cannot_be_written_gives_a_one_line_error(make_gpu, tiny_model):
    gpu = make_gpu()
    gpu.cache.write_text("a file where the folder should be")
    message = opening(tiny_model)
    assert f"the cache folder {gpu.cache / 'sal360_ros' / 'engines'} cannot be written" in message
    assert "XDG_CACHE_HOME" in message
    assert gpu.builds == []  # noticed before the build


def test_a_full_disk_gives_a_one_line_error_and_leaves_the_old_engine_whole(make_gpu, tiny_model, monkeypatch):
    gpu = make_gpu()
    engine = built_engine(gpu, tiny_model)
    before = engine.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sal360.files.os.fsync", full)
    with pytest.raises(ModelError, match="No space left on device"):
        build_engine.main([str(tiny_model), "--force-engine-update"])
    assert engine.read_bytes() == before
    assert [path.name for path in engine.parent.iterdir()] == [engine.name]
    assert gpu.cuda.leaks == []


def test_the_command_builds_only_when_needed_or_forced(make_gpu, tiny_model, capsys):
    gpu = make_gpu()
    for forced in ([], [], ["--force-engine-update"]):
        assert main(["build-engine", str(tiny_model), *forced]) == 0
    assert len(gpu.builds) == 2
    assert capsys.readouterr().out.splitlines() == [str(engines(gpu)[0])] * 3


def test_an_engine_is_opened_by_its_own_file(make_gpu, tiny_model, exact, frames):
    gpu = make_gpu()
    with open_model(built_engine(gpu, tiny_model)) as backend:
        assert backend.spec.name == "tiny"
        np.testing.assert_allclose(backend.infer(frames), exact(frames), rtol=1e-5)


def test_an_engine_of_another_version_is_refused_with_the_remedy(make_gpu, tiny_model):
    gpu = make_gpu()
    engine = built_engine(gpu, tiny_model)
    gpu.module.__version__ = "1.99.0"
    message = opening(engine)
    assert f"was built by tensorrt_rtx {read_engine_info(engine).library_version}" in message
    assert "this machine has tensorrt_rtx 1.99.0" in message
    assert "open the ONNX file instead" in message


def test_an_engine_for_another_kind_of_card_is_refused_with_the_remedy(make_gpu, tiny_model):
    gpu = make_gpu()
    engine = built_engine(gpu, tiny_model)
    gpu.cuda.capability = (12, 0)
    message = opening(engine)
    assert "was built for compute capability 8.9" in message
    assert "the Fake RTX 4090 here has 12.0" in message


def test_an_engine_that_classic_tensorrt_tuned_on_another_card_is_refused(make_gpu, tiny_model):
    gpu = make_gpu("tensorrt")
    engine = built_engine(gpu, tiny_model)
    gpu.cuda.name = "Fake L4"  # the same compute capability
    assert "was tuned on Fake RTX 4090; this machine has Fake L4" in opening(engine)


@pytest.mark.parametrize(
    "damage",
    [
        {"engine_sha256": "0" * 64},
        {"info_version": 2},
        {"onnx_sha256": None, "onnx_sha257": ""},
        {"max_batch": 0},
        {"max_batch": True},
        {"max_batch": "many"},
        {"library": "antigravity"},
        {"compute_capabilities": 89},
        {"compute_capabilities": [89]},
        {"gpu_name": 5},
        {"spec": {}},
    ],
    ids=str,
)
def test_an_engine_whose_description_is_damaged_is_refused(make_gpu, tiny_model, damage):
    gpu = make_gpu()
    engine = built_engine(gpu, tiny_model)
    content, info = read_engine(engine)
    fields = {**dataclasses.asdict(info), **damage}
    text = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
    engine.write_bytes(content + b"\n" + text + b"\nsal360 engine description: %08d bytes\n" % len(text))
    assert engine.name in opening(engine)
    assert gpu.cuda.leaks == []


def test_an_engine_whose_description_is_nested_too_deeply_is_refused(make_gpu, tiny_model):
    gpu = make_gpu()
    engine = built_engine(gpu, tiny_model)
    text = b"[" * 100_000
    engine.write_bytes(read_engine(engine)[0] + b"\n" + text + b"\nsal360 engine description: %08d bytes\n" % len(text))
    assert "has a description that cannot be read" in opening(engine)


def test_a_cut_engine_is_refused(make_gpu, tiny_model):
    gpu = make_gpu()
    engine = built_engine(gpu, tiny_model)
    whole = engine.read_bytes()
    for content in (whole[:-1], whole[1:], whole[:100], b""):
        engine.write_bytes(content)
        assert engine.name in opening(engine)
    engine.unlink()
    assert f"there is no model file {engine}" in opening(engine)
    assert gpu.cuda.leaks == []


def test_an_engine_that_the_runtime_refuses_gives_a_one_line_error(make_gpu, tiny_model):
    gpu = make_gpu()
    engine = built_engine(gpu, tiny_model)
    gpu.engines.clear()
    assert f"refuses {engine} (Serialization assertion failed)" in opening(engine)
    assert gpu.cuda.leaks == []


def test_the_refusal_of_the_real_runtime_without_a_card_gives_a_one_line_error(make_gpu, tiny_model, monkeypatch):
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has an NVIDIA driver, and the runtime would use it")
    gpu = make_gpu()
    engine = built_engine(gpu, tiny_model)
    monkeypatch.setattr(type(gpu.module), "Runtime", property(lambda self: self._real.Runtime))
    message = opening(engine)
    assert f"refuses {engine}" in message
    assert "CUDA" in message
    assert gpu.cuda.leaks == []


def test_without_a_driver_there_is_a_one_line_error(tiny_model, make_gpu, monkeypatch):
    gpu = make_gpu()
    engine = built_engine(gpu, tiny_model)
    monkeypatch.setattr(selection, "cuda_device_count", lambda: 0)
    assert "this machine has 0 CUDA devices" in opening(engine)
    with pytest.raises(ModelError, match="cannot run"):
        open_model(engine, device="cpu")


def test_another_precision_than_the_file_s_is_refused_before_anything_is_built(make_gpu, tiny_model):
    gpu = make_gpu()
    with pytest.raises(ModelError, match="--precision fp16"):
        open_model(tiny_model, device="cuda", precision="fp16")
    assert gpu.builds == []


def test_an_old_tensorrt_is_refused(make_gpu, tiny_model):
    gpu = make_gpu("tensorrt")
    gpu.module.__version__ = "8.6.1"
    assert "tensorrt 8.6.1 is installed; 10.0 is the oldest that works" in opening(tiny_model)
