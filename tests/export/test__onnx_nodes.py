"""Tensors of more than 8 bits in an ONNX file: the bytes of each are multiplied apart, and bit for bit right."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbit.export.onnx import OnnxFile, Packing, build_onnx, load_session, render_onnx, written_graph
from mixbit.integer import graph as g
from mixbit.integer import trace
from mixbit.integer.arithmetic import Array, Grid, dequantize
from mixbit.integer.executor import accumulator_bound
from tests.export.graphs import Builder, random_graph
from tests.needs import why

pytest.importorskip("onnxruntime", reason=why("onnx"))

PACKINGS: tuple[Packing, ...] = ("fields", "none")


def images(graph: g.IntegerGraph, samples: int = 3) -> Array:
    """Beyond both ends of the input's grid as well."""
    random = np.random.default_rng(1)
    return 2 * random.standard_normal((samples, *graph.tensors[graph.input].shape)).astype(np.float32)


def in_runtime(graph: g.IntegerGraph, x: Array, **options: Any) -> Array:
    content = build_onnx(graph, **options).SerializeToString()
    found: Array = load_session(content).run(None, {"input": x})[0]
    return found


def reference(graph: g.IntegerGraph, x: Array, **options: Any) -> Array:
    """The executor's output as real numbers."""
    graph = written_graph(graph, **options)
    found, of = trace(graph, x)[graph.output], graph.tensors[graph.output].grid
    return found if of is None else dequantize(found, of)


def hold(graph: g.IntegerGraph, **options: Any) -> None:
    x = images(graph)
    held = {name: value for name, value in options.items() if name != "pack"}
    np.testing.assert_array_equal(in_runtime(graph, x, **options), reference(graph, x, **held))


def rendered(graph: g.IntegerGraph, **options: Any) -> OnnxFile:
    return render_onnx(graph, Path("net.onnx"), **options)[1]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([1, 2]), st.sampled_from(PACKINGS))
def test_random_graphs_with_wide_tensors_equal_the_reference_bit_for_bit(
    seed: int, spatial: int, pack: Packing
) -> None:
    graph = random_graph(seed, spatial=spatial, wide=True)
    if isinstance(graph.ops[-1], g.Softmax):
        x = images(graph)
        np.testing.assert_allclose(in_runtime(graph, x, pack=pack), reference(graph, x), atol=1e-6)
    else:
        hold(graph, pack=pack)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(9, 17))
def test_every_width_of_inputs_and_results_with_zero_points_in_both_bytes(bits: int, signed: bool) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    b = Builder((4, 6, 6), bits=bits, signed=signed, zero_point=low + 2 ** (bits - 2) + 77)
    y = b.conv(b.first, 5, bits=bits, signed=signed, zero_point=low + 300, weight_bits=bits - 8)
    y = b.linear(y, 6, bits=25 - bits, weight_bits=8)  # along the last dimension
    hold(b.finish(b.linear(b.flatten(y), 3, weight_bits=8, bits=None)))


CONVS: dict[str, dict[str, Any]] = {
    "stride 2": {"channels": 16, "stride": 2, "padding": 1},
    "dilated": {"channels": 6, "dilation": 2},
    "grouped": {"channels": 8, "groups": 4},
    "depthwise": {"channels": 8, "groups": 8},
    "uneven padding": {"channels": 4, "padding": ((0, 1), (2, 0))},
    "ReLU inside the range": {"channels": 6, "signed": True, "clamp": (0, 300)},
    "shifted": {"channels": 6, "shift": 3},
}


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize(("before", "after"), [(16, 16), (16, 8), (8, 12), (12, None)])
def test_convolutions_from_and_to_wide_tensors(kind: str, before: int, after: int | None) -> None:
    of = {"signed": True, **CONVS[kind]}
    if after == 8 and "clamp" in of:
        of["clamp"] = (0, 100)
    b = Builder((8, 7, 7), bits=before, signed=False, zero_point=200)
    hold(b.finish(b.conv(b.first, bits=after, **of)))


@pytest.mark.parametrize("cpu", ["any", "vnni"])
def test_sums_beyond_int32_are_exact_and_their_weights_are_those_of_the_network(cpu: Any) -> None:
    """The largest numbers and weights, where 8-bit products saturate first and no float32 holds the sum."""
    b = Builder((1200,), bits=16, signed=False)
    weight = np.stack([np.full(1200, 127), np.full(1200, -128), b.random.integers(-128, 128, 1200)])
    graph = b.finish(b.linear(b.first, 3, weight_bits=8, weight=weight, bits=None))
    x = np.full((1, 1200), 1e6, np.float32)
    x[0, 0] = 0.0
    assert accumulator_bound(graph, graph.weighted()[0]) > 2**33
    wanted = trace(graph, x)[graph.output]
    if cpu == "any":
        np.testing.assert_array_equal(in_runtime(graph, x), wanted)
    np.testing.assert_array_equal(reference(graph, x, cpu=cpu), wanted)
    (layer,) = rendered(graph, cpu=cpu).layers
    assert layer.narrowed is None and (layer.container, layer.needs_vnni is None) == (
        ("uint8", True) if cpu == "any" else ("int8", False)
    )
    assert layer.unsigned is None or layer.unsigned.endswith("inputs of more than 8 bits are not rounded again")


@pytest.mark.parametrize("bits", [(16, 16, 16), (16, 8, 16), (8, 8, 12), (9, 16, 8)])
def test_a_residual_sum_of_wide_and_narrow_tensors(bits: tuple[int, int, int]) -> None:
    b = Builder((4, 8, 8), bits=16)
    first = b.requantize(b.first, bits=bits[0], signed=True, zero_point=9)
    second = b.conv(b.first, 4, bits=bits[1], signed=True)
    y = b.add(first, second, bits=bits[2], zero_point=100, signed=False)
    hold(b.finish(y))
    hold(b.finish(b.add(y, y, bits=bits[2], clamp=(3, 200))))


def test_what_moves_elements_keeps_wide_ones() -> None:
    b = Builder((3, 7, 7), bits=12, zero_point=-5)
    x = b.pad(b.max_pool(b.concat(b.first, b.first)), ((0, 1), (1, 0), (0, 2)))
    x = b.transpose(b.cut(x, (1, 0, 0), (7, 5, 6), (2, 1, 1)), (0, 2, 1))
    hold(b.finish(x))


def test_tables_of_and_for_wide_tensors() -> None:
    for bits in (16, 8, 10):
        b = Builder((3, 5, 5), bits=12)
        x = b.lookup(b.first, bits=bits)
        graph = b.finish(b.lookup(b.requantize(x, bits=8), bits=16))
        hold(graph)
        assert rendered(graph).items["tables"] == 4096 * (1 if bits == 8 else 2) + 2 * 256


@pytest.mark.parametrize(("before", "after"), [(16, 16), (16, 8), (8, 16)])
def test_pools_of_more_than_float32_holds(before: int, after: int) -> None:
    b = Builder((2, 24, 24), bits=before, signed=False)  # 576 * 65535 > 2^24
    hold(b.finish(b.average_pool(b.first, bits=after)))
    hold(b.finish(b.average_pool(b.first, 3, stride=2, padding=1, bits=after, zero_point=7)))


@pytest.mark.parametrize(("before", "after"), [(16, 12), (16, 8), (8, 16), (9, 16)])
def test_changes_of_scale_equal_the_reference_for_all_integers(before: int, after: int) -> None:
    b = Builder((2**before,), bits=before)
    source = b.tensors[b.first].grid
    assert source is not None
    x = dequantize(np.arange(source.qmin, source.qmax + 1), source)[None]
    for ratio in (0.5, 1.0, 17.0, 300.7):
        low = -(2 ** (after - 1))
        clamp = (low + 3, low + 2 ** (after - 1)) if ratio == 17.0 else None
        y = b.requantize(b.first, bits=after, signed=True, zero_point=3, scale=source.scale * ratio, clamp=clamp)
        graph = b.finish(y)
        np.testing.assert_array_equal(in_runtime(graph, x), reference(graph, x))


@pytest.mark.parametrize("kind", ["conv", "add", "pool"])
def test_tens_of_thousands_of_results_of_16_bits_are_right_to_the_last(kind: str) -> None:
    """A factor whose last digit is another, or a sum that is rounded once less, moves some in a thousand of them."""
    of: dict[str, Any] = {"bits": 16, "signed": True, "zero_point": 0}
    b = Builder((3, 80, 80), **of)
    b.least_scale = 1e-9  # for results that fill their range
    x = b.conv(b.first, 3, (1, 5), weight_bits=8, **of)
    if kind == "conv":
        y = b.conv(x, 3, 1, weight_bits=8, **of)
    elif kind == "add":
        y = b.add(x, b.conv(x, 3, weight_bits=8, **of), **of)
    else:
        grid = b.tensors[x].grid
        assert grid is not None
        y = b.average_pool(x, (3, 7), stride=1, scale=0.7 * grid.scale, **of)
    graph = b.finish(y)
    assert len(np.unique(trace(graph, images(graph))[y])) > 20_000
    hold(graph)


def test_infinities_and_nan_have_the_integers_of_the_reference() -> None:
    b = Builder((40,), bits=12, zero_point=5)
    x = np.resize(np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.1], np.float32), (2, 40))
    graph = b.finish(b.first)
    np.testing.assert_array_equal(in_runtime(graph, x), reference(graph, x))


@pytest.mark.parametrize("weight_bits", [1, 3, 8])
def test_weights_stay_packed_and_run_in_integer_kernels(weight_bits: int, tmp_path: Path) -> None:
    b = Builder((8, 6, 6), bits=16)
    y = b.conv(b.first, 8, weight_bits=weight_bits, bits=16)
    graph = b.finish(b.linear(b.flatten(y), 4, weight_bits=weight_bits, bits=None))
    found = rendered(graph)
    assert [one.weight_bytes for one in found.layers] == [-(-one.weights * weight_bits // 8) for one in found.layers]
    assert [one.apart for one in found.layers] == [
        "its input reaches 65535, so its high and its low byte are multiplied apart, and all sums are exact"
    ] * 2
    assert weight_bits == 8 or all(one.container == f"packed {weight_bits} bit" for one in found.layers)
    assert weight_bits == 8 or all(one.unsigned is None for one in found.layers), "no product with a byte saturates"
    path = str(tmp_path / "optimized.onnx")
    load_session(build_onnx(graph).SerializeToString(), attributes={"optimized_model_filepath": path})
    import onnx

    kernels = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert kernels["ConvInteger"] == kernels["MatMulInteger"] == 2
    assert not kernels["BitShift"] and not kernels["Transpose"], "unpacked once, when the session is created"


def test_layers_of_8_bits_keep_their_fast_kernels_beside_wide_ones(tmp_path: Path) -> None:
    b = Builder((3, 6, 6), bits=16)
    y = b.conv(b.conv(b.first, 8, bits=8), 8, bits=8)
    graph = b.finish(b.linear(b.flatten(b.add(y, y)), 4, bits=None))
    path = str(tmp_path / "optimized.onnx")
    load_session(build_onnx(graph).SerializeToString(), attributes={"optimized_model_filepath": path})
    import onnx

    kernels = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert [kernels[name] for name in ("ConvInteger", "QLinearConv", "QLinearAdd", "QGemm")] == [2, 1, 1, 1]
    assert [one.apart is None for one in rendered(graph).layers] == [False, True, True]


def test_a_weight_that_a_wide_and_a_narrow_call_share_is_not_rounded_again() -> None:
    b = Builder((6, 6, 6), bits=16, signed=False)
    weight = b.random.integers(-128, 128, (6, 6, 3, 3))
    y = b.conv(b.first, 6, weight_bits=8, weight=weight, bits=8)
    y = b.conv(y, 6, weight_bits=8, weight=weight, bits=8)
    graph = b.finish(y)
    assert graph.called_again()
    assert [one.narrowed for one in rendered(graph).layers] == [None, None]
    hold(graph)


def test_a_zero_point_beyond_its_integers_takes_two_bytes() -> None:
    assert Grid(scale=0.1, zero_point=300, qmin=0, qmax=127).bits == 7
    b = Builder((2, 5, 5), bits=7, signed=False)
    for zero_point, apart in ((200, False), (300, True)):
        of = Grid(scale=0.02, zero_point=zero_point, qmin=0, qmax=127)
        b.tensors[b.first] = g.Tensor(name=b.first, shape=(2, 5, 5), grid=of, source="calibrated")
        graph = b.finish(b.conv(b.first, 3, padding=1, bits=8))
        assert (rendered(graph).layers[0].apart is not None) == apart
        hold(graph)
