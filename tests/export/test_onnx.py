"""Exported ONNX files in ONNX Runtime: the integers of the reference, integer kernels, and the bytes of the policy."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixbit.errors import ExportError, MissingExtra
from mixbit.export._packing import PACKED_BITS
from mixbit.export.onnx import (
    PROMISES,
    OnnxLayer,
    Packing,
    build_onnx,
    load_session,
    render_onnx,
    write_onnx,
    written_graph,
)
from mixbit.integer import executor, trace
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array, Grid, dequantize
from tests.export.following import hold
from tests.export.graphs import (
    NAMES,
    Builder,
    called_twice,
    every_printer,
    grid,
    random_graph,
    renamed,
    resnet18,
    resnet_cifar,
)
from tests.needs import need

PACKINGS: tuple[Packing, ...] = ("fields", "none")


def images(graph: g.IntegerGraph, samples: int = 3, seed: int = 1) -> Array:
    random = np.random.default_rng(seed)
    return random.standard_normal((samples, *graph.tensors[graph.input].shape)).astype(np.float32)


def in_runtime(graph: g.IntegerGraph, x: Array, pack: Packing = "fields") -> Array:
    content = build_onnx(graph, pack=pack).SerializeToString()
    found: Array = load_session(content).run(None, {"input": x})[0]
    return found


def up_to(graph: g.IntegerGraph, operations: int) -> g.IntegerGraph:
    """The first operations; the output is their last result."""
    ops = graph.ops[:operations]
    return dataclasses.replace(graph, ops=ops, output=ops[-1].output)


def run(graph: g.IntegerGraph, x: Array) -> Array:
    """The executor's output of what a file for any processor holds."""
    return trace(written_graph(graph), x)[graph.output]


def reference(graph: g.IntegerGraph, x: Array) -> Array:
    """The same as real numbers."""
    found, of = run(graph, x), graph.tensors[graph.output].grid
    return found if of is None else dequantize(found, of)


def kernels(graph: g.IntegerGraph, folder: Path, pack: Packing = "fields") -> Counter[str]:
    """What ONNX Runtime makes of the file at its default optimization level."""
    path = folder / "optimized.onnx"
    load_session(build_onnx(graph, pack=pack).SerializeToString(), attributes={"optimized_model_filepath": str(path)})
    return Counter(node.op_type for node in onnx.load(path).graph.node)


# ------------------------------------------------------------------------------------------------- exactness


@settings(deadline=None, max_examples=40)
@example(326, 2, "fields")  # a wide pad before a max pool, where the runtime moves channels to the end
@given(st.integers(0, 10**6), st.sampled_from([1, 2]), st.sampled_from(PACKINGS))
def test_random_graphs_equal_the_reference_bit_for_bit(seed: int, spatial: int, pack: Packing) -> None:
    graph = random_graph(seed, spatial=spatial)
    x = images(graph)
    found, wanted = in_runtime(graph, x, pack), run(graph, x)
    if isinstance(graph.ops[-1], g.Softmax):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    else:
        np.testing.assert_array_equal(found, wanted)


def test_adds_equal_the_reference_for_all_pairs() -> None:
    """All 65,536 pairs of two 8-bit tensors, on grids whose ties and zero points are awkward."""
    random = np.random.default_rng(0)
    for trial in range(8):
        scales = random.uniform(0.01, 0.1, 3) if trial % 2 else 2.0 ** random.integers(-4, 0, 3) * [1, 1.5, 1.25]
        grids = [
            grid(8, signed=bool(signed), scale=scale, zero_point=int(zero) - 128 * int(signed))
            for scale, zero, signed in zip(scales, random.integers(0, 256, 3), random.integers(0, 2, 3), strict=True)
        ]
        graph, x = _add_graph(grids)
        np.testing.assert_array_equal(in_runtime(graph, x), reference(graph, x))


def _add_graph(grids: list[Grid]) -> tuple[g.IntegerGraph, Array]:
    """One input with two channels, each quantized on its own grid, and their sum."""
    tensors = {"x": g.Tensor(name="x", shape=(2, 65536), grid=None, source="float")}
    ops: list[g.Op] = []
    for channel in (0, 1):
        of, whole, part = grids[channel], f"q{channel}", f"s{channel}"
        tensors[whole] = g.Tensor(name=whole, shape=(2, 65536), grid=of, source="calibrated")
        tensors[part] = g.Tensor(name=part, shape=(1, 65536), grid=of, source="calibrated")
        cut: dict[str, Any] = {"start": (channel, 0), "stop": (channel + 1, 65536), "step": (1, 1)}
        ops.append(g.QuantizeInput(name=whole, inputs=("x",), output=whole))
        ops.append(g.Slice(name=part, inputs=(whole,), output=part, **cut))
    tensors["y"] = g.Tensor(name="y", shape=(1, 65536), grid=grids[2], source="calibrated")
    ops.append(g.Add(name="add", inputs=("s0", "s1"), output="y", clamp=None, rounding="float32"))
    pairs = np.stack([np.repeat(np.arange(256), 256), np.tile(np.arange(256), 256)])
    reals = [dequantize(row + of.qmin, of) for row, of in zip(pairs, grids, strict=False)]
    graph = g.IntegerGraph(input="x", output="y", tensors=tensors, ops=tuple(ops), fingerprint="")
    return graph, np.stack(reals)[None]


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_changes_of_scale_equal_the_reference_for_all_integers(data: st.DataObject) -> None:
    draw = data.draw
    b = Builder((256,), bits=8, signed=draw(st.booleans()))
    source = b.tensors[b.first].grid
    assert source is not None
    bits, signed = draw(st.integers(2, 8)), draw(st.booleans())
    empty = grid(bits, signed=signed)
    zero = draw(st.integers(empty.qmin, empty.qmax))
    ratio = draw(st.sampled_from([0.5, 1.0, 2.0, 3.0, 17.0]) | st.floats(0.1, 40))
    y = b.requantize(b.first, bits=bits, signed=signed, zero_point=zero, scale=source.scale * ratio)
    x = dequantize(np.arange(source.qmin, source.qmax + 1), source)[None]
    graph = b.finish(y)
    np.testing.assert_array_equal(in_runtime(graph, x), reference(graph, x))


@pytest.mark.parametrize("ratio", [2.0, 4.0, 17.0])
@pytest.mark.parametrize("clamp", [(2, 9), (0, 11), (3, 15)])
def test_clamped_changes_of_scale_equal_the_reference_at_ties_too(ratio: float, clamp: g.Bounds) -> None:
    b = Builder((256,), bits=8)
    source = b.tensors[b.first].grid
    assert source is not None
    graph = b.finish(b.requantize(b.first, bits=4, scale=source.scale * ratio, zero_point=0, clamp=clamp))
    x = dequantize(np.arange(source.qmin, source.qmax + 1), source)[None]
    np.testing.assert_array_equal(in_runtime(graph, x), reference(graph, x))


def test_two_changes_of_scale_in_a_row_stay_two() -> None:
    # The runtime merges quantize, dequantize, quantize, dequantize into one pair with a scale of its own.
    b = Builder((1, 16, 16), bits=8)
    y = b.requantize(b.first, bits=8, signed=True, zero_point=3)
    y = b.conv(b.requantize(y, bits=8, signed=True, scale=0.31), 4, bits=8)
    graph = b.finish(y)
    x = images(graph)
    np.testing.assert_array_equal(in_runtime(graph, x), reference(graph, x))


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_bit_width_of_weights_and_inputs(bits: int, tmp_path: Path) -> None:
    b = Builder((5, 7, 7), bits=bits, signed=False)
    y = b.conv(b.first, 9, weight_bits=bits, bits=max(bits, 2), signed=True)  # 405 weights: no whole bytes below 8
    y = b.linear(b.flatten(y), 3, weight_bits=bits, bits=None)
    graph = b.finish(y)
    x = images(graph)
    for pack in PACKINGS:
        np.testing.assert_array_equal(in_runtime(graph, x, pack), run(graph, x))
        found = kernels(graph, tmp_path, pack)
        assert found["QLinearConv"] == 1 and found["QGemm"] == 1 and not found["Conv"] and not found["BitShift"]


CONVS: dict[str, dict[str, Any]] = {
    "one by one": {"channels": 5, "kernel": 1},
    "one by one, stride 2": {"channels": 16, "kernel": 1, "stride": 2, "padding": 0},
    "stride 2": {"channels": 16, "stride": 2, "padding": 1},
    "dilated": {"channels": 6, "dilation": 2},
    "grouped": {"channels": 8, "groups": 4},
    "depthwise": {"channels": 8, "groups": 8},
    "depthwise, two outputs each": {"channels": 16, "groups": 8},
    "uneven padding": {"channels": 4, "padding": ((0, 1), (2, 0))},
    "oblong": {"channels": 4, "kernel": (1, 5)},
    "one output": {"channels": 1, "kernel": 8, "padding": 0},
    "ReLU inside the range": {"channels": 6, "signed": True, "clamp": (0, 127)},
    "shifted": {"channels": 6, "shift": 3},
}


@pytest.mark.parametrize("kind", CONVS)
def test_every_convolution_becomes_an_integer_kernel(kind: str, tmp_path: Path) -> None:
    b = Builder((8, 8, 8), bits=8, signed=True, zero_point=-100)
    graph = b.finish(b.conv(b.first, **CONVS[kind]))
    x = images(graph)
    np.testing.assert_array_equal(in_runtime(graph, x), reference(graph, x))
    found = kernels(graph, tmp_path)
    assert found["QLinearConv"] == 1
    assert set(found) <= {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "Transpose", "Clip"}


@pytest.mark.parametrize("zero_point", [0, 255, 7])
def test_pools_pads_and_moves(zero_point: int) -> None:
    b = Builder((4, 9, 9), bits=8, signed=False, zero_point=zero_point)
    y = b.conv(b.first, 4, bits=8, zero_point=zero_point)
    for part in (
        b.max_pool(y),
        b.average_pool(y, 3, stride=2, padding=1),
        b.average_pool(y),
        b.pad(y, ((1, 0), (0, 2), (1, 1))),
        b.cut(y, (0, 0, 0), (4, 9, 9), (1, 2, 2)),
        b.cut(y, (1, 0, 3), (4, 9, 8), (2, 1, 1)),
        b.concat(y, b.first, axis=1) if b.tensors[y].grid == b.tensors[b.first].grid else b.concat(y, y, axis=1),
        b.transpose(y, (2, 0, 1)),
        b.reshape(y, (2, 162)),
        b.lookup(y, bits=5, signed=True),
    ):
        graph = b.finish(part)
        x = images(graph)
        np.testing.assert_array_equal(in_runtime(graph, x), reference(graph, x))


@pytest.mark.parametrize("zero_point", [0, 7])
@pytest.mark.parametrize(
    ("pad", "kernel", "padding"),
    [
        (((0, 0), (0, 2), (1, 0)), (1, 3), 0),  # as wide as the window of one
        (((0, 0), (0, 0), (0, 2)), 3, 1),  # with the pool's own
        (((0, 0), (1, 0), (0, 1)), 3, 1),  # narrower: the runtime makes it part of the pool
        (((1, 0), (0, 0), (0, 0)), (2, 2), 0),  # of channels
    ],
)
def test_a_pad_before_a_max_pool_runs_however_wide(zero_point: int, pad: Any, kernel: Any, padding: Any) -> None:
    b = Builder((4, 9, 9), bits=8, signed=False, zero_point=zero_point)
    y = b.conv(b.first, 4, bits=8, zero_point=zero_point)
    graph = b.finish(b.max_pool(b.pad(y, pad), kernel, stride=1, padding=padding))
    x = images(graph)
    np.testing.assert_array_equal(in_runtime(graph, x), reference(graph, x))


@pytest.mark.parametrize(
    ("first", "second", "node"),
    [
        (((0, 0, 0), (3, 9, 8), (1, 2, 1)), ((0, 0, 0), (3, 5, 8), (1, 1, 2)), "MaxPool"),  # x[:, ::2, ::2]
        (((0, 1, 2), (3, 8, 8), (1, 2, 1)), ((1, 1, 0), (3, 4, 5), (1, 2, 3)), "Slice"),
    ],
)
def test_slices_of_slices_are_one_node(first: Any, second: Any, node: str) -> None:
    b = Builder((3, 9, 8), bits=8)
    graph = b.finish(b.cut(b.cut(b.first, *first), *second))
    assert [node.op_type for node in build_onnx(graph).graph.node] == ["QuantizeLinear", node, "DequantizeLinear"]
    x = images(graph)
    np.testing.assert_array_equal(in_runtime(graph, x), reference(graph, x))


def test_a_slice_that_others_read_stays() -> None:
    b = Builder((4, 6, 6), bits=8)
    y = b.cut(b.first, (0, 0, 0), (4, 6, 3), (1, 1, 1))
    graph = b.finish(b.add(b.cut(y, (0, 0, 0), (2, 6, 3), (1, 1, 1)), b.cut(y, (2, 0, 0), (4, 6, 3), (1, 1, 1))))
    x = images(graph)
    np.testing.assert_array_equal(in_runtime(graph, x), reference(graph, x))


def test_linear_layers_along_the_last_dimension_and_with_quantized_results(tmp_path: Path) -> None:
    b = Builder((5, 12), bits=8, signed=True)
    y = b.linear(b.first, 7, weight_bits=3, bits=6, signed=True, clamp=(0, 20))
    graph = b.finish(b.linear(y, 4, weight_bits=5, bits=None))
    x = images(graph)
    np.testing.assert_array_equal(in_runtime(graph, x), run(graph, x))
    assert kernels(graph, tmp_path)["QGemm"] == 2


def test_a_convolution_at_the_end_is_exact_in_float() -> None:
    b = Builder((6, 8, 8), bits=8, signed=True, zero_point=5)
    graph = b.finish(b.conv(b.first, 5, weight_bits=6, bits=None))
    x = images(graph)
    np.testing.assert_array_equal(in_runtime(graph, x), run(graph, x))


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]], ids=["from the first", "from the last"])
@pytest.mark.parametrize("pack", ["fields", "none"])
def test_no_name_of_a_module_matters(names: tuple[str, ...], pack: Packing) -> None:
    graph = renamed(every_printer(), names)
    x = images(graph)
    assert np.array_equal(in_runtime(graph, x, pack), reference(every_printer(), x))


@pytest.mark.parametrize("ratio", [900.0, 1024.0, 1e7])
def test_global_pools_beyond_the_runtimes_factors_are_windows(ratio: float) -> None:
    """From 256 times the step of the result a map of four pixels, ONNX Runtime's kernel fails at the first image."""
    b = Builder((4, 2, 2), signed=False)
    b.tensors[b.first] = dataclasses.replace(b.tensors[b.first], grid=grid(8, scale=1.0))
    graph = b.finish(b.average_pool(b.first, 2, stride=2, padding=0, scale=1 / ratio))
    x = images(graph, 5) / 2
    assert np.array_equal(in_runtime(graph, x), reference(graph, x))


@pytest.mark.parametrize(("kernel", "scale", "result"), [(3, 1.95, 3.7), (6, 1.5, 1.95)])
def test_a_window_is_multiplied_by_the_factor_of_the_reference(kernel: int, scale: float, result: float) -> None:
    """Means half way between two integers: with the float nearest to one over the taps they go to the other side."""
    b = Builder((1, kernel, 2 * kernel), signed=False)
    b.tensors[b.first] = dataclasses.replace(b.tensors[b.first], grid=grid(8, scale=scale))
    graph = b.finish(b.average_pool(b.first, kernel, scale=result))
    sums = np.arange(2 * 50 * kernel**2).reshape(-1, 1, 1, 2) % 2000  # of both windows, spread over their pixels
    taps = np.arange(kernel**2).reshape(1, 1, kernel, kernel)
    windows = [one // kernel**2 + (taps < one % kernel**2) for one in (sums[..., :1], sums[..., 1:])]
    x = np.float32(np.concatenate(windows, 3) * np.float32(scale))
    assert np.array_equal(in_runtime(graph, x), reference(graph, x))


@pytest.mark.parametrize("signed", [False, True])
def test_pixels_that_are_no_numbers_are_the_lowest_integer(signed: bool) -> None:
    """In the runtime as in the reference, whatever the vector width of the processor."""
    b = Builder((77,), signed=signed, bits=5)
    graph = b.finish(b.linear(b.first, 3, bits=None))
    x = images(graph, 4)
    x[0, ::3], x[1, 1], x[2] = np.nan, np.nan, np.nan
    x[3, :2] = np.inf, -np.inf
    assert (trace(graph, x)["xq"][2] == graph.grid("xq").qmin).all()
    assert np.array_equal(in_runtime(graph, x), reference(graph, x))


def test_the_batch_is_free() -> None:
    graph = resnet_cifar(blocks=1, size=16)
    session = load_session(build_onnx(graph).SerializeToString())
    assert session.get_inputs()[0].shape == ["N", 3, 16, 16]
    x = images(graph, samples=5)
    (whole,) = session.run(["output"], {"input": x})
    for at in range(5):
        np.testing.assert_array_equal(session.run(None, {"input": x[at : at + 1]})[0][0], whole[at])


@pytest.mark.parametrize("rounding", ["single", "double"])
def test_other_roundings_differ_by_one_step_at_most(rounding: Any) -> None:
    b = Builder((4, 8, 8), bits=8, signed=True)
    b.rounding = rounding
    y = b.conv(b.first, 6, bits=8, signed=True)
    for part in (y, b.add(y, y, bits=5), b.requantize(y, bits=4), b.average_pool(y, 2)):
        graph = b.finish(part)
        x, of = images(graph, samples=20), graph.grid(part)
        steps = np.abs(in_runtime(graph, x) - reference(graph, x)) / of.scale
        assert steps.max() < 1.01 if part == y else steps.max() < 2.01  # a part's input may differ by one as well


# ----------------------------------------------------------------------------------- saturating multipliers


def heavy(weight: int, *, groups: int = 1, per_group: int = 2, bits: int = 8) -> g.IntegerGraph:
    """Inputs of up to 255, and a convolution whose weights are all the same."""
    b = Builder((16, 6, 6), bits=8, signed=False)
    weights = np.full((groups * per_group, 16 // groups, 3, 3), weight)
    y = b.conv(b.first, groups * per_group, weight_bits=bits, groups=groups, weight=weights, signed=True)
    return b.finish(y)


@pytest.mark.parametrize(
    ("graph", "container"),
    [
        (heavy(64), "int8"),  # 255 * 128 = 32640
        (heavy(65), "uint8"),  # 255 * 130 = 33150 > 32767
        (heavy(-64), "int8"),
        (heavy(-65), "uint8"),
        (heavy(127), "uint8"),
        (heavy(-128), "uint8"),
        (heavy(127, groups=4), "uint8"),
        (heavy(127, groups=16), "uint8"),  # two outputs a channel is no depthwise kernel
        (heavy(127, groups=16, per_group=1), "int8"),  # depthwise
        (heavy(63, bits=7), "packed 7 bit"),
    ],
)
def test_products_that_saturate_in_pairs_are_kept_exact(graph: g.IntegerGraph, container: str) -> None:
    """By strict as uint8, by vnni as int8 with a warning, else on wider steps; exact here each time."""
    x = np.abs(images(graph)) * 10
    (strict,), (fast,), (safe,) = (
        render_onnx(graph, Path("x.onnx"), **options)[1].layers
        for options in ({"strict": True}, {"cpu": "vnni"}, {"cpu": "any"})
    )
    assert strict.container == container and strict.narrowed is None and strict.needs_vnni is None
    assert (strict.unsigned is not None) == (container == "uint8")
    assert fast.container == safe.container == ("int8" if container == "uint8" else container)
    assert fast.narrowed is fast.unsigned is safe.unsigned is safe.needs_vnni is None
    assert (fast.needs_vnni is not None) == (safe.narrowed is not None) == (container == "uint8")
    np.testing.assert_array_equal(in_runtime(graph, x), reference(graph, x))
    content = build_onnx(graph, strict=True).SerializeToString()
    wanted = dequantize(executor.run(graph, x), graph.grid(graph.output))
    np.testing.assert_array_equal(load_session(content).run(None, {"input": x})[0], wanted)


def test_the_reasons_give_the_numbers() -> None:
    graph = heavy(127)
    why = (
        "two products of one channel can reach 254 * 255, and as int8 their sum saturates at 16 bits on x86 "
        "processors without VNNI"
    )
    assert render_onnx(graph, Path("x.onnx"), strict=True)[1].layers[0].unsigned == why + "; strict widens no steps"
    assert render_onnx(graph, Path("x.onnx"), cpu="vnni")[1].layers[0].needs_vnni == why
    assert render_onnx(graph, Path("x.onnx"))[1].layers[0].narrowed == (
        "2 of 2 channels on steps up to 2.02 times as wide, so that no sum of products saturates on any x86 "
        "processor; the weights change by 0.0% (limit 3%)"
    )


def test_packed_weights_that_a_shift_makes_heavy_are_kept_exact() -> None:
    b = Builder((16, 6, 6), bits=8, signed=False)
    graph = b.finish(b.conv(b.first, 2, weight_bits=3, shift=5, weight=np.full((2, 16, 3, 3), 3)))
    (layer,) = render_onnx(graph, Path("x.onnx"))[1].layers
    assert layer.container == "packed 3 bit" and layer.narrowed is None
    assert layer.unsigned is not None and layer.unsigned.endswith("weights of 3 bits are not rounded again")
    x = np.abs(images(graph)) * 10
    np.testing.assert_array_equal(in_runtime(graph, x), reference(graph, x))


def test_files_for_vnni_hold_the_weights_of_the_network_as_int8() -> None:
    graph = resnet_cifar(blocks=1, size=8, weight_bits=8)
    _, found = render_onnx(graph, Path("x.onnx"), cpu="vnni")
    assert {one.container for one in found.layers} == {"int8"} and found.cpu == "vnni"
    assert written_graph(graph, cpu="vnni") is graph


def test_strict_files_hold_the_weights_of_the_network() -> None:
    graph = heavy(127)
    assert written_graph(graph, strict=True) is graph
    narrowed = written_graph(graph).weighted()[0]
    assert not np.array_equal(narrowed.weight, graph.weighted()[0].weight)


def test_an_unknown_processor_is_refused() -> None:
    with pytest.raises(ExportError, match=r"cpu='vnn' is unknown. Did you mean 'vnni'\? Legal: any, vnni"):
        build_onnx(heavy(1), cpu="vnn")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ changes of scale


def rescaled(graph: g.IntegerGraph) -> tuple[int, int]:
    """Stored zero point of the first change of scale, and how many clamps the file has."""
    model = build_onnx(graph)
    call = next(node for node in model.graph.node if node.op_type in ("Rescale", "Requantize"))
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return int(stored[call.input[4]]), sum(node.op_type == "Clip" for node in model.graph.node)


def block_input(weight_bits: int, shift: int, *, ratio: float = 9, relu: bool = True) -> g.IntegerGraph:
    """A change to 4 bits and a convolution, as at the start of a residual block; `ratio` is that of the step sizes."""
    b = Builder((8, 8, 8), bits=8)
    x = b.conv(b.first, 8, bits=8, signed=not relu)
    source = b.tensors[x].grid
    assert source is not None
    x = b.requantize(x, bits=4, signed=not relu, scale=source.scale * ratio)
    return b.finish(b.conv(x, 8, weight_bits=weight_bits, shift=shift, bits=8))


@pytest.mark.parametrize(
    ("graph", "zero_point", "clamps"),
    [
        (block_input(4, 0), 240, 0),  # 0 to 15 is stored as 240 to 255: uint8 itself is the upper bound
        (block_input(4, 4), 0, 1),  # such inputs would saturate the products of the shifted weights
        (block_input(8, 0), 0, 1),
        (block_input(4, 4, ratio=17), 0, 0),  # 255 / 17 = 15: nothing is out of range
        (block_input(4, 0, relu=False), 8, 1),  # both bounds are needed
    ],
)
def test_block_inputs_are_clamped_only_where_they_must_be(graph: g.IntegerGraph, zero_point: int, clamps: int) -> None:
    assert rescaled(graph) == (zero_point, clamps)
    x = images(graph)
    np.testing.assert_array_equal(in_runtime(graph, x), reference(graph, x))


# ------------------------------------------------------------------------------------------------- kernels and bytes

RESNET_KERNELS = {
    "QuantizeLinear": 1,
    "Transpose": 2,
    "QLinearConv": 19,
    "QLinearAdd": 18,
    "Clip": 9,
    "NhwcMaxPool": 2,
    "Pad": 2,
    "QLinearGlobalAveragePool": 1,
    "Reshape": 1,
    "QGemm": 1,
}


@pytest.mark.parametrize("pack", PACKINGS)
def test_a_residual_network_runs_in_integer_kernels_alone(pack: Packing, tmp_path: Path) -> None:
    graph = resnet_cifar(weight_bits=3, bits=4, size=16)
    assert kernels(graph, tmp_path, pack) == RESNET_KERNELS
    x = images(graph)
    np.testing.assert_array_equal(in_runtime(graph, x, pack), run(graph, x))


def test_a_resnet20_of_4_bits_is_within_25_percent_of_its_policy(tmp_path: Path) -> None:
    found = write_onnx(resnet_cifar(), tmp_path / "net.onnx")
    assert found.size_bytes == (tmp_path / "net.onnx").stat().st_size
    assert found.policy_bytes == 134704
    assert found.weight_bytes == found.policy_bytes
    assert found.overhead < 1.12


@pytest.mark.parametrize("bits", [2, 7])
def test_a_resnet18_is_within_4_percent_of_its_policy(bits: int) -> None:
    _, found = render_onnx(resnet18(weight_bits=bits, size=32), Path("net.onnx"))
    assert found.policy_bytes <= found.weight_bytes <= 1.0001 * found.policy_bytes
    assert found.overhead < 1.02


@pytest.mark.parametrize("bits", [3, 8])
def test_a_layer_that_is_called_again_is_in_the_file_once(bits: int) -> None:
    graph = called_twice(weight_bits=bits)
    content, found = render_onnx(graph, Path("net.onnx"))
    assert [layer.again for layer in found.layers] == [None, None, found.layers[1].name, None, None]
    numbers = [3 * 6 * 9 * 4, 6 * 6 * 9 * bits, 6 * 6 * 9 * bits, 6 * 36 * 4 * 4]
    assert graph.weight_bits == sum(numbers)
    assert found.policy_bytes == -(-sum(numbers) // 8)
    # One array a layer (3 bits: two fields), and as many bytes as the policy has, each array rounded up.
    assert found.weight_bytes == found.items["weights"] == sum(-(-number // 8) for number in numbers)
    x = images(graph)
    found_outputs = load_session(content).run(None, {"input": x})[0]
    np.testing.assert_array_equal(found_outputs, run(graph, x))


@pytest.mark.parametrize("pack", PACKINGS)
def test_every_byte_is_accounted_for(pack: Packing, tmp_path: Path) -> None:
    graph = random_graph(11)
    found = write_onnx(graph, tmp_path / "net.onnx", pack=pack)
    assert sum(found.items.values()) == (tmp_path / "net.onnx").stat().st_size
    assert found.items["weights"] == found.weight_bytes
    assert found.items["scales"] == sum(layer.scale_bytes for layer in found.layers)
    assert found.items["biases"] == sum(layer.bias_bytes for layer in found.layers)
    assert min(found.items.values()) >= 0 and found.items["graph"] > 0
    assert (found.items["functions"] > 0) == (pack == "fields")
    assert (found.opset, found.ir_version) == (21, 10)


@pytest.mark.parametrize("bits", PACKED_BITS)
def test_layers_say_how_they_are_held(bits: int) -> None:
    b = Builder((3, 6, 6), bits=8)
    graph = b.finish(b.conv(b.first, 5, weight_bits=bits, bits=8))
    packed, plain = (render_onnx(graph, Path("x.onnx"), pack=pack)[1].layers[0] for pack in PACKINGS)
    assert packed == OnnxLayer(
        name="op1",
        weights=135,
        weight_bits=bits,
        container=f"packed {bits} bit",
        weight_bytes=packed.weight_bytes,
        scale_bytes=20,
        bias_bytes=20,
        widened=None,
        unsigned=None,
    )
    assert plain.container == "int8" and plain.weight_bytes == 135
    assert plain.widened == f"{bits}-bit weights take a byte each with pack='none'"


def test_files_are_valid_and_name_their_layers() -> None:
    graph = random_graph(5)
    for pack in PACKINGS:
        model = build_onnx(graph, pack=pack)
        onnx.checker.check_model(model, full_check=True)
        (entry,) = model.metadata_props
        assert entry.key == "mixbit"
        assert json.loads(entry.value) == {
            "version": 1,
            "fingerprint": graph.fingerprint,
            "layers": [[op.name, op.weight_bits] for op in graph.weighted()],
            "cpu": "any",
            "promise": PROMISES["any"],
            "narrowed": [],
            "needs_vnni": [],
        }


def test_a_file_without_packing_has_standard_operators_alone() -> None:
    model = build_onnx(resnet_cifar(blocks=1, size=16), pack="none")
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    assert not {node.op_type for node in model.graph.node} & {"BitShift", "BitwiseAnd"}


def test_the_same_graph_gives_the_same_bytes() -> None:
    graph = random_graph(3)
    assert render_onnx(graph, Path("a"))[0] == render_onnx(graph, Path("a"))[0]


# --------------------------------------------------------------------------------------------------------- bad input


class Unheard(g.Softmax):
    """An operation that no printer knows."""


def small() -> g.IntegerGraph:
    b = Builder((3, 6, 6), bits=8)
    return b.finish(b.linear(b.flatten(b.conv(b.first, 4, weight_bits=3)), 3, weight_bits=8, bits=None))


def test_an_unknown_operation_is_named_and_nothing_written(tmp_path: Path) -> None:
    graph = small()
    tensors = {**graph.tensors, "end": dataclasses.replace(graph.tensors[graph.output], name="end")}
    odd = Unheard(name="head.odd", inputs=(graph.output,), output="end")
    graph = dataclasses.replace(graph, ops=(*graph.ops, odd), tensors=tensors, output="end")
    with pytest.raises(ExportError, match=r"head.odd: Unheard has no ONNX form. Legal: QuantizeInput, Conv"):
        write_onnx(graph, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_activations_of_more_than_two_bytes_are_refused_before_a_file_is_written(tmp_path: Path) -> None:
    b = Builder((3, 6, 6), bits=16, signed=False)
    b.tensors[b.first] = dataclasses.replace(
        b.tensors[b.first], grid=dataclasses.replace(grid(16, scale=0.02), zero_point=70_000)
    )
    graph = b.finish(b.conv(b.first, 4))
    with pytest.raises(ExportError, match=r"xq: integers from 0 to 65535 with zero point 70000 .* two bytes. .* QONNX"):
        write_onnx(graph, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_sums_with_a_byte_that_leave_int32_are_refused_with_the_layer(tmp_path: Path) -> None:
    b = Builder((66_400,), bits=9)
    weight = np.full((1, 66_400), 127)  # 255 * 127 * 66,400 is 2^31 and a little
    graph = b.finish(b.linear(b.first, 1, weight_bits=8, weight=weight, bits=None))
    with pytest.raises(ExportError, match=r"op1: sums .* can reach 2150364000. Legal: below 2\^31. Export C"):
        write_onnx(graph, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_zero_point_above_all_integers_counts_among_the_inputs_of_a_layer() -> None:
    """Taps beyond the edge read it: it has to fit the container, and two products with it may saturate."""
    b = Builder((4, 5, 5), bits=7, signed=False)
    graphs = []
    for zero_point in (0, 200, 300):
        b.tensors[b.first] = dataclasses.replace(
            b.tensors[b.first], grid=dataclasses.replace(grid(7, scale=0.02), zero_point=zero_point)
        )
        graphs.append(b.finish(b.conv(b.first, 2, padding=1, weight_bits=8, weight=np.full((2, 4, 3, 3), 127))))
    narrowed = [render_onnx(graph, Path("net.onnx"))[1].layers[0].narrowed for graph in graphs[:2]]
    assert narrowed[0] is None, "2 * 127 * 127 fits int16"
    assert narrowed[1] is not None, "2 * 127 * 200 does not"
    assert np.array_equal(in_runtime(graphs[1], images(graphs[1])), reference(graphs[1], images(graphs[1])))
    beyond = render_onnx(graphs[2], Path("net.onnx"))[1].layers[0]
    assert beyond.narrowed is None and beyond.apart is not None, "300 takes two bytes"
    assert np.array_equal(in_runtime(graphs[2], images(graphs[2])), reference(graphs[2], images(graphs[2])))


@pytest.mark.parametrize("shift", [0, 3, 6])
@pytest.mark.parametrize("pack", PACKINGS)
def test_weights_of_one_bit_are_a_bit_each_and_exact_at_every_shift(pack: Packing, shift: int) -> None:
    """Signed, unsigned where products could saturate, and depthwise; 135, 45 and 75 weights are no whole bytes."""
    b = Builder((3, 5, 5), bits=8, signed=False, seed=shift)
    y = b.conv(b.first, 5, weight_bits=1, bits=8, shift=shift)
    y = b.conv(y, 5, weight_bits=1, bits=8, groups=5, shift=shift)
    graph = b.finish(b.linear(b.flatten(y), 3, weight_bits=1, bits=None, shift=shift))
    np.testing.assert_array_equal(in_runtime(graph, images(graph), pack), run(graph, images(graph)))
    layers = render_onnx(graph, Path("x.onnx"), pack=pack)[1].layers
    wanted = [-(-one.weights // 8) if pack == "fields" else one.weights for one in layers]
    assert [one.weight_bytes for one in layers] == wanted


@pytest.mark.parametrize("bits", [0, 9])
def test_other_weight_bits_are_an_error(bits: int) -> None:
    graph = small()
    ops = tuple(dataclasses.replace(op, weight_bits=bits) if isinstance(op, g.Conv) else op for op in graph.ops)
    with pytest.raises(ExportError, match=rf"op1: {bits}-bit weights have no ONNX form. Legal: 1 to 8 bits"):
        build_onnx(dataclasses.replace(graph, ops=ops))


def test_strict_refuses_widened_layers(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(ExportError, match=r"pack='none' widens to 8 bits: op1 \(3 bits\). Use pack='fields'"):
        write_onnx(small(), path, pack="none", strict=True)
    assert not path.exists()
    assert [layer.widened for layer in write_onnx(small(), path, strict=True).layers] == [None, None]


def test_an_unknown_packing_is_an_error() -> None:
    with pytest.raises(ExportError, match=r"pack='field', legal: fields, none. Did you mean 'fields'"):
        build_onnx(small(), pack="field")  # type: ignore[arg-type]


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, content = small(), build_onnx(small()).SerializeToString()
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mixbit\[export\]'"):
        build_onnx(graph)
    with pytest.raises(MissingExtra, match=r"pip install 'mixbit\[export\]'"):
        load_session(content)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"No file at '.*gone.onnx'"):
        load_session(tmp_path / "gone.onnx")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b'{"format": "mixbit-policy"}'])
def test_a_foreign_file_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"net.onnx' is no ONNX model. Legal: a file of `mixbit export`"):
        load_session(path)


def test_a_file_cut_anywhere_is_an_error() -> None:
    model = build_onnx(small())
    content = model.SerializeToString()
    functions = sum(function.ByteSize() for function in model.functions)
    cuts = [*range(1, len(content) - functions - 60, 101), *range(len(content) - functions - 60, len(content))]
    for cut in cuts:
        with pytest.raises(ExportError, match=rf"the model is truncated or damaged \({cut} bytes\)"):
            load_session(content[:cut])


@pytest.mark.parametrize("field", ["ir", "opset"])
def test_a_file_for_a_newer_runtime_is_an_error(field: str) -> None:
    model = build_onnx(small())
    if field == "ir":
        model.ir_version = 99
    else:
        model.opset_import[0].version = 99
    with pytest.raises(ExportError, match=r"needs a newer runtime than ONNX Runtime .*: pip install -U onnxruntime"):
        load_session(model.SerializeToString())


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    """As PyTorch writes them."""
    weight = onnx.numpy_helper.from_array(np.ones((64, 64), dtype=np.float32), "w")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 64]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "apart.onnx", save_as_external_data=True, size_threshold=0, location="apart.data")
    with pytest.raises(ExportError, match=r"apart\.onnx' keeps weights in another file.*onnx\.save\(onnx\.load"):
        load_session(tmp_path / "apart.onnx")
    onnx.save(onnx.load(tmp_path / "apart.onnx"), tmp_path / "whole.onnx")
    (tmp_path / "apart.data").unlink()
    assert load_session(tmp_path / "whole.onnx").run(None, {"x": np.ones((1, 64), dtype=np.float32)})[0][0, 0] == 64


def test_a_model_that_the_runtime_does_not_know_is_an_error() -> None:
    model = build_onnx(small())
    model.graph.node[0].op_type = "Nope"
    with pytest.raises(ExportError, match=r"cannot load the model. .* It says: This is an invalid model. .*Nope"):
        load_session(model.SerializeToString())


def test_threads_are_checked() -> None:
    with pytest.raises(ExportError, match=r"threads=0, legal is 1 or more"):
        load_session(b"", threads=0)


@pytest.mark.parametrize(("weight_bits", "bits"), [(4, 8), (3, 5)])
def test_openvino_reads_the_plain_file(weight_bits: int, bits: int, tmp_path: Path) -> None:
    """Another runtime with another arithmetic: a few steps apart at most, and the same classes."""
    need("openvino")
    import openvino

    graph = resnet_cifar(weight_bits=weight_bits, bits=bits)
    file = write_onnx(graph, tmp_path / "plain.onnx", pack="none")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(file.path), "CPU", settings)
    x = np.random.default_rng(0).normal(size=(16, *graph.tensors[graph.input].shape)).astype(np.float32)
    found, wanted = compiled(x)[0], run(graph, x)
    assert np.array_equal(found.argmax(axis=1), wanted.argmax(axis=1))
    assert np.abs(found - wanted).max() < 0.1 * wanted.std()


@pytest.mark.parametrize("seed", range(155, 170))
def test_random_networks_lower_to_the_nearest_integers(seed: int) -> None:
    hold(seed)
