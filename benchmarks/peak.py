"""This machine's arithmetic limit in each precision, measured through the same runtimes as the models.

The probe is a chain of four 3 x 3 convolutions with 256 channels at 40 x 80, each with a ReLU: the kind of work for
which these runtimes come nearest to the processor's limit (their plain matrix products are slower). The peak of a
precision is the fastest run of any runtime.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np

CHANNELS, HEIGHT, WIDTH, LAYERS = 256, 40, 80, 4
FLOP = 2 * LAYERS * HEIGHT * WIDTH * CHANNELS**2 * 3**2

_ACTIVATION_SCALE = np.float32(8 / 255)


def peak_probes(threads: int) -> dict[str, Callable[[], object]]:
    """Functions that run the probe once, named "precision runtime", for the runtimes that are installed."""
    graphs = {"fp32": probe_graph(quantised=False), "int8": probe_graph(quantised=True)}
    image = np.random.default_rng(0).random((1, CHANNELS, HEIGHT, WIDTH), dtype=np.float32)
    probes: dict[str, Callable[[], object]] = {}
    if importlib.util.find_spec("openvino") is not None:
        import openvino

        core = openvino.Core()
        hints = {"fp32": ("fp32", "f32"), "int8": ("int8", "f32")}
        if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            hints |= {"bf16": ("fp32", "bf16"), "int8": ("int8", "bf16")}
        for precision, (graph, hint) in hints.items():
            properties = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": hint,
                "INFERENCE_NUM_THREADS": threads,
            }
            compiled = core.compile_model(core.read_model(graphs[graph]), "CPU", properties)
            request = compiled.create_infer_request()
            request.set_input_tensor(openvino.Tensor(image))
            probes[f"{precision} openvino"] = request.infer
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        for precision, graph in graphs.items():
            session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            probes[f"{precision} onnxruntime"] = lambda session=session: session.run(None, {"x0": image})
    return probes


def peak_gflop_per_s(seconds: dict[str, list[float]]) -> dict[str, float]:
    """The peak of each precision from the timings of the probes."""
    peaks: dict[str, float] = {}
    for name, times in seconds.items():
        precision = name.split()[0]
        peaks[precision] = max(peaks.get(precision, 0.0), FLOP / min(times) / 1e9)
    return peaks


def probe_graph(*, quantised: bool) -> bytes:
    """The probe as an ONNX file: input x0, output x4; quantised, its products are uint8 by int8."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes, constants = [], {}
    if quantised:
        constants = {"scale": _ACTIVATION_SCALE, "zero": np.uint8(0), "weight_zero": np.int8(0)}
    for layer in range(LAYERS):
        weight = random.normal(0, 1 / np.sqrt(9 * CHANNELS), (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
        source, used_weight = f"x{layer}", f"w{layer}"
        if quantised:
            weight_scale = np.abs(weight).max() / 127
            constants |= {f"q{layer}": np.round(weight / weight_scale).astype(np.int8), f"s{layer}": weight_scale}
            nodes += [
                helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"u{layer}"]),
                helper.make_node("DequantizeLinear", [f"u{layer}", "scale", "zero"], [f"d{layer}"]),
                helper.make_node("DequantizeLinear", [f"q{layer}", f"s{layer}", "weight_zero"], [used_weight]),
            ]
            source = f"d{layer}"
        else:
            constants[used_weight] = weight
        nodes += [
            helper.make_node("Conv", [source, used_weight], [f"c{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{layer}"], [f"x{layer + 1}"]),
        ]
    shape = [1, CHANNELS, HEIGHT, WIDTH]
    graph = helper.make_graph(
        nodes,
        "peak",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"x{LAYERS}", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()
