"""int8: NNCF quantises an ONNX file, calibrated on panoramas; one form is for CPUs, one for TensorRT.

Only convolutions are quantised, except the first and the last, which are the most sensitive and a few per cent of the
work. Weights are int8 per channel; those of dense convolutions use half of the range. Activations are symmetric per
tensor: uint8 where they are never negative, which x86 multiplies by int8 in one instruction. TensorRT has only int8, so
its form has the same ranges as int8.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from sal360.arrays import Pixels
from sal360.errors import ModelError
from sal360.images import read_picture
from sal360.predictor import resize_frame
from sal360.projection import rotate_erp
from sal360.samples import bundled_panoramas
from sal360.sources.pictures import pictures_in
from sal360.spec import INPUT_NAME
from sal360.sphere import random_rotation
from training.data.gaze.records import evenly


def panorama_frames(folder: str, count: int, height: int, *, turned: bool, seed: int = 0) -> Pixels:
    """Frames (count, height, 2 · height, 3) RGB from the pictures of a folder: each in turn, or evenly spread ones.

    Args:
        folder: folder of panoramas; empty: the bundled ones.
        count: number of frames.
        height: height of the frames, pixels.
        turned: rotate each at random, so that all of its parts occur at the equator and at the poles.
        seed: seed of the rotations.

    Raises:
        DataError: the folder has no pictures.
        FrameError: a picture cannot be decoded.
    """
    paths = pictures_in(Path(folder) if folder else bundled_panoramas())
    chosen = evenly(paths, count)  # neighbours are often frames of one video
    generator = np.random.default_rng(seed)
    frames = np.empty((count, height, 2 * height, 3), np.uint8)
    for index in range(count):
        small = resize_frame(read_picture(chosen[index % len(chosen)]), height, 2 * height)
        frame = np.ascontiguousarray(small[..., ::-1])  # BGR → RGB
        frames[index] = rotate_erp(frame, random_rotation(generator)) if turned else frame
    return frames


def quantise(path: Path, frames: Pixels) -> None:
    """Replace an fp32 ONNX file with its int8 form for CPUs, calibrated on frames (N, H, W, 3).

    Raises:
        ModelError: NNCF is not installed or cannot quantise the graph.
    """
    import onnx

    try:
        import nncf
    except ImportError as error:
        raise ModelError(f"NNCF, which int8 needs, cannot be imported ({error})", "pip install nncf") from None
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
        QuantizationParameters,
    )
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    parameters = AdvancedQuantizationParameters(
        # one range for all channels: onnxruntime and TensorRT have no per-channel activations
        activations_quantization_params=QuantizationParameters(per_channel=False),
        # range up to the maximum over all frames, not the mean of their maxima, which would clip the peaks of the map
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        # dense weights in half of int8's range: without VNNI, x86 adds two products in 16 bits, where the full range
        # overflows; TensorRT's file does not need this, but shares the weights
        overflow_fix=OverflowFix.ENABLE,
    )
    model = onnx.load(str(path))
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    # slices and concatenations, which wrap the columns, pass values unchanged: quantised before them, the convolution's
    # output stays int8
    others = sorted({node.op_type for node in model.graph.node} - {"Conv", "Slice", "Concat"})
    batch = _fixed_batch(model)
    groups = [frames[start : start + batch] for start in range(0, len(frames) - batch + 1, batch)]
    try:
        quantised = nncf.quantize(
            model,
            nncf.Dataset([{INPUT_NAME: group} for group in groups]),
            subset_size=len(groups),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            target_device=nncf.TargetDevice.CPU,
            advanced_parameters=parameters,
            ignored_scope=nncf.IgnoredScope(types=others, names=[convolutions[0], convolutions[-1]]),
        )
    except Exception as error:  # NNCF's errors have no common base class
        raise ModelError(f"NNCF cannot quantise the graph ({error})", "choose --precision fp16 or fp32") from None
    path.write_bytes(quantised.SerializeToString())


def write_signed(source: Path, path: Path) -> None:
    """Write TensorRT's form of a file from `quantise`: uint8 ranges [0, r] become int8 ranges [−r, r]."""
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(str(source))
    constants = {constant.name: constant for constant in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero = node.input[1], node.input[2]
        if constants[zero].data_type != TensorProto.UINT8:  # a weight, or changed with the other node of the pair
            continue
        assert not numpy_helper.to_array(constants[zero]).any(), "a symmetric range has no zero point"
        value = numpy_helper.to_array(constants[scale]) * np.float32(255 / 127)
        constants[scale].CopyFrom(numpy_helper.from_array(value.astype(np.float32), scale))
        zeros = np.zeros_like(numpy_helper.to_array(constants[zero]), dtype=np.int8)
        constants[zero].CopyFrom(numpy_helper.from_array(zeros, zero))
    kept = [tensor for tensor in model.graph.value_info if tensor.type.tensor_type.elem_type != TensorProto.UINT8]
    del model.graph.value_info[:]  # removes the old types of intermediate tensors
    model.graph.value_info.extend(kept)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)


def _fixed_batch(model: Any) -> int:
    return model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
