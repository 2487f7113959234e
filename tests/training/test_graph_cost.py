"""Work and traffic counted from a graph, against counting by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sal360.errors import ModelError
from training.exporting.graph_cost import graph_cost


@pytest.fixture
def write_graph(tmp_path):
    def write(nodes, weights, shape, out_shape=None):
        constants = [numpy_helper.from_array(np.zeros(size, np.float32), name) for name, size in weights.items()]
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, out_shape)],
            constants,
        )
        path = tmp_path / "g.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
        return path

    return write


def test_a_convolution_costs_two_operations_a_multiply_accumulate(write_graph):
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]), relu("c", "y")]
    cost = graph_cost(write_graph(nodes, {"w": (16, 8, 3, 3)}, ["N", 8, 20, 40]))
    outputs = 16 * 10 * 20
    assert cost.flop == 2 * outputs * 8 * 9
    assert cost.bytes_moved("fp32") == 4 * (8 * 20 * 40 + 16 * 8 * 9 + outputs)  # the ReLU is fused
    assert cost.bytes_moved("fp16") * 2 == cost.bytes_moved("fp32")


def test_a_depthwise_convolution_costs_its_own_channel_only(write_graph):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], group=8, pads=[1, 1, 1, 1])]
    assert graph_cost(write_graph(nodes, {"w": (8, 1, 3, 3)}, [1, 8, 20, 40])).flop == 2 * 8 * 20 * 40 * 9


def test_matrix_products_and_transposed_convolutions_are_counted(write_graph):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    assert graph_cost(write_graph(nodes, {"w": (30, 50)}, [7, 30])).flop == 2 * 7 * 30 * 50
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)]
    assert graph_cost(write_graph(nodes, {"w": (30, 50)}, [30, 7])).flop == 2 * 7 * 30 * 50
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])]
    assert graph_cost(write_graph(nodes, {"w": (4, 6, 2, 2)}, [1, 4, 5, 5])).flop == 2 * (4 * 5 * 5) * 6 * 4


def test_a_batch_multiplies_the_work_and_not_the_weights(write_graph):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    path = write_graph(nodes, {"w": (16, 8, 1, 1)}, ["N", 8, 20, 40])
    one, four = graph_cost(path), graph_cost(path, batch=4)
    assert four.flop == 4 * one.flop
    assert four.bytes_moved("fp32") == 4 * one.bytes_moved("fp32") - 3 * 4 * 16 * 8


def test_the_roofline_takes_the_longer_of_arithmetic_and_traffic(write_graph):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    cost = graph_cost(write_graph(nodes, {"w": (16, 8, 1, 1)}, [1, 8, 20, 40]))
    assert cost.min_seconds("fp32", cost.flop, 1e30) == pytest.approx(1)
    assert cost.min_seconds("fp32", 1e30, cost.bytes_moved("fp32") / 3) == pytest.approx(3)


def test_a_size_that_the_graph_does_not_determine_is_an_error(write_graph):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    with pytest.raises(ModelError, match="does not determine the size of y"):
        graph_cost(write_graph(nodes, {"w": (16, 8, 1, 1)}, [1, 8, "H", "W"]))


def relu(source, name):
    return helper.make_node("Relu", [source], [name])
