"""What the graph says of itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mixbit.errors import ExportError, MixbitError
from mixbit.export.c.writer import render_c
from mixbit.export.onnx import build_onnx
from mixbit.integer import IntegerGraph, lower
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize
from tests.export.graphs import Builder, called_twice


@pytest.fixture(scope="module")
def graph() -> IntegerGraph:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    x = torch.randn(4, 1, 8, 8)
    network = capture(model, x)
    quantize(model, Policy.uniform(network, 3, 4), network)
    calibrate(model, [x])
    return lower(model, network, [x])


def test_layers_and_their_bits(graph: IntegerGraph) -> None:
    assert [(op.name, op.weight_bits) for op in graph.weighted()] == [("0", 8), ("2", 3), ("5", 8)]
    assert graph.weight_bits == 36 * 8 + 72 * 3 + 192 * 8


def test_weights_of_a_layer_that_is_called_again_are_counted_once() -> None:
    found = called_twice(weight_bits=3)
    assert [op.weight.size for op in found.weighted()] == [162, 324, 324, 324, 864]
    assert found.weight_bits == 162 * 4 + 2 * 324 * 3 + 864 * found.weighted()[-1].weight_bits


@pytest.mark.parametrize(("bits", "shape", "again"), [(4, (3, 2), True), (3, (3, 2), False), (4, (2, 3), False)])
def test_the_same_weights_are_those_of_one_shape_at_one_width(bits: int, shape: tuple[int, int], again: bool) -> None:
    b = Builder((5, 2))
    weight = np.array([[-3, -2], [-1, 1], [0, 0]])  # one channel is dead
    x = b.linear(b.first, 3, weight_bits=4, weight=weight)
    x = b.linear(b.cut(x, (0, 0), (5, shape[1]), (1, 1)), shape[0], weight_bits=bits, weight=weight.reshape(shape))
    graph = b.finish(x)
    assert list(graph.called_again().values()) == ([graph.weighted()[0].name] if again else [])


def test_whoever_has_the_same_weights_is_told_the_first_that_has_them() -> None:
    b, weight = Builder((4,)), np.arange(16).reshape(4, 4) - 8
    x = b.first
    for _ in range(3):
        x = b.linear(x, 4, weight_bits=5, weight=weight)
    layers = b.finish(x).weighted()
    assert b.finish(x).called_again() == {op.output: layers[0].name for op in layers[1:]}


def test_one_input_channel_of_one_is_no_depthwise_convolution(graph: IntegerGraph) -> None:
    first, second = graph.weighted()[:2]
    assert first.weight.shape[1] == 1 and not first.is_depthwise and not second.is_depthwise
    assert replace(second, weight=second.weight[:, :1], groups=4).is_depthwise


def test_readers(graph: IntegerGraph) -> None:
    first = graph.weighted()[0]
    assert [op.name for op in graph.readers(first.output)] == ["2"]
    assert graph.readers(graph.output) == ()


def test_the_unit_of_an_accumulator(graph: IntegerGraph) -> None:
    op = graph.weighted()[1]
    assert op.shift == 4  # 3-bit weights: up to 7 bits
    wanted = graph.grid(op.x).scale * op.weight_scale.astype(np.float64) / 16
    assert np.array_equal(graph.unit(op), wanted)


@pytest.mark.parametrize(("name", "what"), [("nothing", "unknown"), ("input", "float32")])
def test_a_tensor_without_a_grid(graph: IntegerGraph, name: str, what: str) -> None:
    with pytest.raises(MixbitError, match=f"'{name}' is {what}"):
        graph.grid(name)


def test_every_tensor_has_one_name_and_one_maker(graph: IntegerGraph) -> None:
    twice = tuple(replace(op, output=graph.ops[1].output) if op is graph.ops[2] else op for op in graph.ops)
    with pytest.raises(ExportError, match=r"2: Conv makes '0' twice"):
        replace(graph, ops=twice)
    with pytest.raises(ExportError, match=r"2: Conv reads '0' before it is made"):
        replace(graph, ops=(graph.ops[0], *graph.ops[2:]))


def test_a_mean_over_the_map_is_a_pool_and_a_reshape_of_two_names() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.conv(x).relu().mean((2, 3)))

    model, x = Net().eval(), torch.randn(4, 1, 6, 6)
    network = capture(model, x)
    quantize(model, Policy.uniform(network, 8, 8), network)
    calibrate(model, [x])
    found = lower(model, network, [x])
    assert [(op.kind, op.output) for op in found.ops[2:4]] == [("AveragePool", "mean"), ("Reshape", "mean.reshape")]
    assert "model.c" in render_c(found)
    assert build_onnx(found).graph.node


def test_two_operations_of_one_name(graph: IntegerGraph) -> None:
    second = replace(graph.ops[2], name=graph.ops[1].name)
    with pytest.raises(ExportError, match=r"^0: several operations have that name"):
        replace(graph, ops=(*graph.ops[:2], second, *graph.ops[3:]))
