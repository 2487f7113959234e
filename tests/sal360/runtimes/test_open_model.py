"""open_model: its choices, and the one-line error for everything that cannot be opened."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import subprocess
import sys
from types import SimpleNamespace

import cv2
import onnx
import pytest

from sal360.errors import ModelError, ParameterError, Sal360Error
from sal360.metrics import cc, kld
from sal360.predictor import resize_frame
from sal360.runtimes import (
    BACKEND_NAMES,
    onnxruntime_backend,
    open_model,
    openvino_backend,
    selection,
)
from sal360.runtimes.onnxruntime_backend import OnnxRuntimeBackend
from sal360.runtimes.openvino_backend import OpenVinoBackend
from sal360.runtimes.tensorrt.engine import sha256
from sal360.samples import bundled_panoramas
from sal360.weights import WEIGHTS, bundled_model

CPU_BACKENDS = ("openvino", "onnxruntime")
ALL_INSTALLED = all(importlib.util.find_spec(name) for name in CPU_BACKENDS)

pytestmark = pytest.mark.skipif(not ALL_INSTALLED, reason="onnxruntime and OpenVINO are not both installed")


@pytest.fixture
def without(monkeypatch):
    """Hides a package from the search for installed ones."""
    find_spec = importlib.util.find_spec

    def hide(*names):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name in names else find_spec(name, *rest)
        )

    return hide


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(selection, "cuda_device_count", lambda: 0)


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(selection, "cuda_device_count", lambda: 1)


def opening(path, **options) -> str:
    """The message of the refusal, after checking that it is one line."""
    with pytest.raises(Sal360Error) as raised:
        open_model(path, **options)
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.usefixtures("no_gpu")
def test_openvino_is_the_first_choice_on_a_cpu_and_the_choice_is_logged(tiny_model, caplog):
    with caplog.at_level(logging.INFO, "sal360"), open_model(tiny_model) as backend:
        assert backend.name == "openvino"
    (record,) = caplog.records
    assert f"tiny 0.0.1: openvino on cpu in {backend.precision}" in record.getMessage()


@pytest.mark.usefixtures("no_gpu")
def test_onnxruntime_serves_where_openvino_is_not_installed(tiny_model, without):
    without("openvino")
    with open_model(tiny_model) as backend:
        assert (backend.name, backend.precision) == ("onnxruntime", "fp32")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("best", "form"), [("int8", "int8"), ("bf16", "fp32"), ("fp32", "fp32")])
def test_the_bundled_model_comes_in_the_form_that_suits_the_cpu(monkeypatch, best, form):
    monkeypatch.setattr(selection, "processor_has_bf16", lambda: best == "bf16")
    monkeypatch.setattr("platform.machine", lambda: "aarch64" if best == "fp32" else "x86_64")
    with open_model("") as backend:
        assert (backend.name, backend.spec.precision) == ("openvino", form)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("form", ["fp32", "int8"])
def test_bundled_weights_are_opened_by_their_name(form):
    with open_model("permissive", precision=form) as named, open_model("", precision=form) as default:
        assert (named.spec.name, named.spec.precision) == ("sal360-compact-permissive", form)
        assert named.spec.weights_license == "Apache-2.0"
        assert default.spec.name == "sal360-compact"


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("asked", "form"),
    [({"precision": "fp32"}, "fp32"), ({"precision": "int8"}, "int8"), ({"backend": "onnxruntime"}, "fp32")],
)
def test_the_request_decides_the_form_of_the_bundled_model(monkeypatch, asked, form):
    monkeypatch.setattr(selection, "processor_has_bf16", lambda: form == "int8")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with open_model("", **asked) as backend:
        assert backend.spec.precision == form


@pytest.mark.usefixtures("one_gpu")
def test_the_bundled_int8_form_is_refused_on_a_gpu(monkeypatch):
    monkeypatch.setattr(selection.TensorRtBackend, "is_installed", classmethod(lambda *_: True))
    with pytest.raises(ModelError, match="int8 was requested on cuda:0, but the bundled int8 model is for CPUs"):
        open_model("", precision="int8")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("capabilities", "machine", "form"),
    [
        (["FP32", "INT8", "BF16"], "x86_64", "fp32"),  # which OpenVINO runs in bf16
        (["FP32", "INT8"], "x86_64", "int8"),
        (["FP32", "INT8"], "AMD64", "int8"),
        (["FP32", "FP16", "INT8"], "aarch64", "fp32"),
    ],
)
def test_the_cpu_decides_which_form_is_the_fastest(monkeypatch, capabilities, machine, form):
    core = SimpleNamespace(get_property=lambda *_: capabilities)
    monkeypatch.setattr(openvino_backend, "_core", lambda: core)
    monkeypatch.setattr("platform.machine", lambda: machine)
    (openvino,) = (row for row in selection.BACKENDS if row.name == "openvino")
    assert selection.bundled_form(openvino, "cpu", "auto") == form


@pytest.mark.usefixtures("no_gpu")
def test_a_broken_openvino_gives_a_one_line_error_for_the_bundled_model_too(monkeypatch):
    monkeypatch.setattr(openvino_backend, "_core", openvino_backend._core.__wrapped__)  # as in a new process
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it raises
    monkeypatch.setattr(OpenVinoBackend, "is_installed", classmethod(lambda *_: True))
    with pytest.raises(ModelError, match="openvino is installed but cannot be imported"):
        open_model("")


@pytest.mark.parametrize("weights", WEIGHTS)
def test_both_forms_of_a_bundled_model_say_nearly_the_same(weights):
    frames = [
        resize_frame(cv2.imread(str(path))[..., ::-1], 384, 768) for path in sorted(bundled_panoramas().glob("*.jpg"))
    ]
    exact, quantised = (
        open_model(bundled_model(form, weights), backend="openvino", device="cpu", precision=form)
        for form in ("fp32", "int8")
    )
    with exact, quantised:
        assert quantised.spec == dataclasses.replace(exact.spec, precision="int8", parity=quantised.spec.parity)
        for frame in frames:
            one, other = exact.infer(frame[None])[0], quantised.infer(frame[None])[0]
            assert cc(one, other) > 0.99
            assert kld(one, other) < 0.01


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_the_choice_can_be_overridden(tiny_model, name):
    with open_model(tiny_model, backend=name, device="cpu", precision="fp32") as backend:
        assert (backend.name, backend.precision) == (name, "fp32")


@pytest.mark.usefixtures("one_gpu")
def test_a_gpu_is_left_alone_when_no_runtime_for_it_is_installed(tiny_model, monkeypatch):
    for row in selection.BACKENDS:
        if "cuda" in row.install:
            monkeypatch.setattr(row.backend, "is_installed", classmethod(lambda _, device: device == "cpu"))
    with open_model(tiny_model) as backend:
        assert backend.device == "cpu"


@pytest.mark.usefixtures("one_gpu")
def test_a_gpu_is_used_when_a_runtime_for_it_is_installed(tiny_model, monkeypatch):
    class GpuRuntime(OnnxRuntimeBackend):
        name = "gpu-runtime"
        is_installed = classmethod(lambda *_: True)

        def _open(self, path, device, precision, threads):
            super()._open(path, "cpu", precision, threads)
            self.device = device

    row = selection.BackendRow(GpuRuntime, (".onnx",), {"cuda": "gpu-runtime"}, ("fp32",))
    monkeypatch.setattr(selection, "BACKENDS", (row, *selection.BACKENDS[1:]))
    with open_model(tiny_model) as backend:
        assert (backend.name, backend.device) == ("gpu-runtime", "cuda:0")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"backend": "caffe"}, "backend is 'caffe'"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"device": "cuda:one"}, "device is 'cuda:one'"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"threads": -1}, "threads is -1"),
        ({"threads": 100_000}, "threads is 100000"),
    ],
)
def test_an_unknown_option_is_named(tiny_model, options, named):
    assert opening(tiny_model, **options).startswith(named)


def test_the_known_backends_are_listed(tiny_model):
    message = opening(tiny_model, backend="caffe")
    assert all(name in message for name in BACKEND_NAMES)


def test_a_missing_file_is_named(tmp_path):
    assert f"no model file {tmp_path / 'none.onnx'}" in opening(tmp_path / "none.onnx")
    assert f"no model file {tmp_path}" in opening(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; export or download it again"),
        (b"hello", "is not an ONNX model"),
        (bytes(range(256)) * 64, "is not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer; run `git lfs pull`"),
    ],
    ids=["empty", "text", "noise", "pointer"],
)
def test_a_file_that_is_not_a_model_is_refused(tmp_path, content, said):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert opening(path).startswith(f"{path} {said}")


def test_a_file_of_another_kind_is_refused_by_its_name(tmp_path, tiny_model):
    copy = tmp_path / "model.txt"
    copy.write_bytes(tiny_model.read_bytes())
    assert opening(copy) == (
        f"{copy} is not a model file, by its name; expected a name that ends in .onnx or .engine or .pt2; "
        "choose another file, or rename it"
    )


def test_every_truncation_of_a_model_is_refused(tmp_path, tiny_model):
    whole = tiny_model.read_bytes()
    path = tmp_path / "model.onnx"
    for size in range(1, len(whole), len(whole) // 16):
        path.write_bytes(whole[:size])
        assert str(path) in opening(path)


def test_a_model_without_a_spec_is_refused(tmp_path, tiny_model):
    model = onnx.load(tiny_model)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    assert "without a sal360 spec" in opening(tmp_path / "model.onnx")


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_a_graph_that_is_not_what_its_spec_says_is_refused(make_model, name):
    path = make_model(output_height=8, output_width=16, prior_log_rows=())
    assert "only saliency float32 (N, 8, 16)" in opening(path, backend=name, device="cpu")


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_an_operator_that_the_runtime_does_not_know_is_named(tmp_path, tiny_model, name):
    model = onnx.load(tiny_model)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Quux"
    onnx.save(model, tmp_path / "model.onnx")
    assert "Quux" in opening(tmp_path / "model.onnx", backend=name, device="cpu")


@pytest.mark.usefixtures("no_gpu")
def test_a_device_that_is_absent_is_refused(tiny_model):
    assert "this machine has 0 CUDA devices" in opening(tiny_model, device="cuda", backend="onnxruntime")


@pytest.mark.usefixtures("one_gpu")
def test_a_device_number_beyond_the_last_is_refused(tiny_model):
    assert "device cuda:1" in opening(tiny_model, device="cuda:1")


def test_a_backend_that_does_not_run_on_the_device_is_refused(tiny_model):
    assert "backend openvino cannot run tiny.onnx on cuda" in opening(tiny_model, backend="openvino", device="cuda")


@pytest.mark.usefixtures("no_gpu")
def test_the_remedy_for_an_engine_without_a_card_is_not_an_option_that_is_already_set(tmp_path):
    engine = tmp_path / "model.engine"
    engine.touch()
    assert opening(engine, device="auto") == (
        "backend auto cannot run model.engine on cpu; expected tensorrt on cuda; choose one of these, or a model in "
        "another format"
    )


def rows(*names):
    """The rows of these runtimes alone, in their order: a test then does not depend on which others there are."""
    return tuple(row for row in selection.BACKENDS if row.name in names)


@pytest.mark.usefixtures("no_gpu")
def test_a_runtime_that_is_not_installed_is_named(tiny_model, without, monkeypatch):
    monkeypatch.setattr(selection, "BACKENDS", rows(*CPU_BACKENDS))
    without("openvino")
    message = opening(tiny_model, backend="openvino")
    assert "openvino is not installed" in message
    assert "; pip install openvino (" in message
    without("openvino", "onnxruntime")
    assert "openvino and onnxruntime are not installed" in opening(tiny_model, device="cpu")


@pytest.mark.usefixtures("no_gpu")
def test_a_runtime_without_a_pip_package_gets_no_empty_pip_command(tiny_model, without, monkeypatch):
    class Vendor(OnnxRuntimeBackend):
        name = "vendor"
        is_installed = classmethod(lambda *_: False)

    row = selection.BackendRow(Vendor, (".onnx",), {"cpu": ""}, ("fp32",))
    monkeypatch.setattr(selection, "BACKENDS", (row, *rows(*CPU_BACKENDS)))
    monkeypatch.setattr(selection, "BACKEND_NAMES", ("auto", "vendor"))
    assert opening(tiny_model, backend="vendor", device="cpu") == (
        "vendor is not installed; install it (there is no pip package), or choose another backend"
    )
    without("openvino", "onnxruntime")
    assert "are not installed; pip install openvino (" in opening(tiny_model, device="cpu")


def test_a_broken_installation_is_named(tiny_model, tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libbroken.so: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    assert "onnxruntime is installed but cannot be imported" in opening(tiny_model, backend="onnxruntime", device="cpu")


def test_onnxruntime_refuses_another_precision_than_the_file_s(tiny_model):
    message = opening(tiny_model, backend="onnxruntime", precision="bf16", device="cpu")
    assert "bf16 was requested" in message
    assert "--precision bf16" in message


def test_a_quantised_file_is_not_run_as_a_floating_point_one(make_model):
    path = make_model(precision="int8")
    assert "the model was exported in int8" in opening(path, backend="openvino", precision="bf16")


def test_bf16_is_refused_on_a_cpu_without_it(tiny_model, monkeypatch):
    import openvino

    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    assert "no bf16" in opening(tiny_model, backend="openvino", precision="bf16")
    with open_model(tiny_model, backend="openvino") as backend:
        assert backend.precision == "fp32"


@pytest.mark.parametrize("found", [False, True])
def test_tensorrt_inside_onnxruntime_is_chosen_only_where_its_libraries_are(found, monkeypatch):
    """onnxruntime-gpu lists the provider in either case."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["TensorrtExecutionProvider"])
    monkeypatch.setattr(onnxruntime_backend, "_loads", lambda library: found and library.startswith("libnvinfer"))
    assert onnxruntime_backend.OnnxRuntimeTensorRtBackend.is_installed("cuda:0") is found


@pytest.mark.usefixtures("one_gpu")
def test_tensorrt_inside_onnxruntime_has_a_cache_on_a_fresh_account(tiny_model, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none" / "yet"))
    monkeypatch.setattr(onnxruntime_backend.OnnxRuntimeTensorRtBackend, "is_installed", classmethod(lambda *_: True))
    with pytest.warns(UserWarning, match="ExecutionProvider"):  # onnxruntime's own, one for each that it lacks
        message = opening(tiny_model, backend="onnxruntime-tensorrt", device="cuda:0")
    assert "could not start its TensorrtExecutionProvider; install the CUDA, cuDNN and TensorRT libraries" in message
    folder = tmp_path / "none" / "yet" / "sal360_ros" / "onnxruntime"
    (of_model,) = folder.iterdir()  # and no lock is left
    assert of_model.name == sha256(tiny_model.read_bytes())[:16]
    [(_, options), *_] = onnxruntime_backend.OnnxRuntimeTensorRtBackend.providers_with_cache("cuda:1", of_model)
    assert options["device_id"] == "1"
    assert {options["trt_engine_cache_path"], options["trt_timing_cache_path"]} == {str(of_model)}
    assert "trt_cuda_graph_enable" not in options  # it would give every frame the first one's map


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize("other_cause", [False, True])
def test_half_an_engine_in_onnxruntime_s_cache_is_built_again(tiny_model, monkeypatch, tmp_path, other_cause):
    """And whole ones stay where something else is the cause."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend = onnxruntime_backend.OnnxRuntimeTensorRtBackend
    monkeypatch.setattr(backend, "is_installed", classmethod(lambda *_: True))
    monkeypatch.setattr(backend, "providers_with_cache", classmethod(lambda _, device, folder: (device, folder)))

    def start(self, onnx, providers, *_):
        self.spec, self.device, self.precision = onnx.spec, "cuda:0", "fp32"
        if other_cause or (providers[1] / "half.engine").exists():
            raise ModelError("TensorRT EP could not deserialize engine from cache", "export the model again")

    monkeypatch.setattr(backend, "_start", start)
    monkeypatch.setattr(backend, "_run", lambda *_: None)
    engines = tmp_path / "sal360_ros" / "onnxruntime"
    folder = engines / sha256(tiny_model.read_bytes())[:16]
    folder.mkdir(parents=True)
    (folder / "half.engine").write_bytes(b"half")
    if other_cause:
        opening(tiny_model, backend="onnxruntime-tensorrt", device="cuda:0")
        assert (folder / "half.engine").exists()
    else:
        open_model(tiny_model, backend="onnxruntime-tensorrt", device="cuda:0").close()
        assert list(folder.iterdir()) == []
    assert list(engines.iterdir()) == [folder]


@pytest.mark.usefixtures("one_gpu")
def test_onnxruntime_does_not_continue_without_its_gpu_provider(tiny_model, monkeypatch):
    monkeypatch.setattr(OnnxRuntimeBackend, "is_installed", classmethod(lambda *_: True))
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):  # onnxruntime's own
        message = opening(tiny_model, backend="onnxruntime", device="cuda")
    assert "could not start its CUDAExecutionProvider" in message


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_a_cpu_needs_no_torch(tiny_model, name):
    program = (
        "import sys; from sal360.predictor import Predictor; "
        f"Predictor({str(tiny_model)!r}, backend={name!r}, device='cpu').close(); "
        "print(*sorted(each for each in sys.modules if each.split('.')[0] in ('torch', 'training', 'rclpy')))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == []


@pytest.mark.parametrize("content", [b"", b"hello"], ids=["empty", "text"])
def test_a_file_that_is_not_a_torch_program_is_refused(tmp_path, content):
    pytest.importorskip("torch")
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    assert f"torch cannot load {path}" in opening(path, device="cpu", allow_pickled_programs=True)


def test_a_torch_program_is_opened_only_with_consent(tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "model.PT2"
    path.write_bytes(b"whatever")
    message = opening(path, device="cpu")
    assert "can execute arbitrary code when opened" in message
    assert "--allow-pickled-programs" in message


def test_errors_of_the_two_kinds_are_distinguished(tiny_model, tmp_path):
    with pytest.raises(ParameterError):
        open_model(tiny_model, backend="caffe")
    with pytest.raises(ModelError):
        open_model(tmp_path / "none.onnx")


@pytest.mark.parametrize("entry", ["session.intra_op.allow_spinning", "session.inter_op.allow_spinning"])
def test_onnxruntime_s_threads_do_not_spin_while_they_wait(tiny_model, entry):
    with open_model(tiny_model, backend="onnxruntime", device="cpu") as backend:
        assert backend._session.get_session_options().get_session_config_entry(entry) == "0"


def test_a_precision_that_a_runtime_does_not_have_is_refused_with_those_that_it_has(tiny_model):
    message = opening(tiny_model, backend="openvino", precision="fp16", device="cpu")
    assert message.startswith("openvino does not compute in fp16; choose precision auto or one of fp32, bf16, int8")


@pytest.mark.usefixtures("no_gpu")
def test_the_automatic_choice_takes_a_runtime_that_has_the_precision(make_model):
    with open_model(make_model(precision="fp16"), precision="fp16") as backend:
        assert (backend.name, backend.precision) == ("onnxruntime", "fp16")


@pytest.mark.usefixtures("one_gpu")
def test_the_remedy_for_a_missing_gpu_runtime_is_the_gpu_package(tiny_model, monkeypatch):
    monkeypatch.setattr(OnnxRuntimeBackend, "is_installed", classmethod(lambda *_: False))
    message = opening(tiny_model, backend="onnxruntime", device="cuda")
    assert message.startswith("onnxruntime is not installed for CUDA; pip install onnxruntime-gpu[cuda,cudnn] ")
