"""Operations as calls: what is cleared, what is refused, and the fixed point of a sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mixbit.errors import ExportError
from mixbit.export.c import COptions
from mixbit.export.c._calls import _reach
from mixbit.export.c._checks import check_scaled
from mixbit.export.c._program import CProgram, build_program
from mixbit.integer import IntegerGraph
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Grid
from tests.export.graphs import Builder, rounded


def program(graph: IntegerGraph, *, packed: bool = False) -> CProgram:
    return build_program(rounded(graph, "single"), COptions(pack_activations=packed))


def ending(b: Builder, x: str) -> IntegerGraph:
    return b.finish(b.linear(b.flatten(x), 2, bits=None))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("channels", range(1, 5))
def test_bits_behind_the_last_field_are_cleared_where_there_are_any(channels: int, bits: int) -> None:
    b = Builder((2, 1, 3))
    first = program(ending(b, b.conv(b.first, channels, 1, bits=bits)), packed=True).steps[0].printed.calls
    container = {2: 2, 3: 4, 4: 4}.get(bits, 8)
    trimmed = [call.function for call in first] == ["mixbit_conv", "mixbit_trim"]
    assert trimmed == (3 * channels * container % 8 != 0)
    assert not trimmed or first[1].arguments[1:] == (f"{3 * channels}u", str(container))


def wide(graph: IntegerGraph, name: str, zero_point: int) -> IntegerGraph:
    """The graph with another zero point."""
    grid = graph.grid(name)
    changed = replace(graph.tensors[name], grid=replace(grid, zero_point=zero_point))
    return replace(graph, tensors=dict(graph.tensors) | {name: changed})


def test_a_padded_zero_that_is_no_byte_is_refused() -> None:
    b = Builder((2, 3, 3))
    graph = ending(b, b.pad(b.first, ((0, 0), (1, 0), (0, 0))))
    for zero_point, legal in ((127, True), (128, False), (-128, True), (-129, False)):
        changed = wide(wide(graph, "xq", zero_point), "op1_out", zero_point)
        if legal:
            fill = program(changed).steps[0].printed.calls[0]
            assert fill.arguments[1:] == ("24u", str(zero_point), "8")
        else:
            with pytest.raises(ExportError, match=rf"op1: the padded zero \({zero_point}\) does not fit 8 bits"):
                program(changed)


def test_accumulators_are_bounded_by_inputs_and_bias() -> None:
    """2,100 products of 127 and -128, shifted by 5 bits, are 1.1e9; by 6 they leave int32, and so with such a bias."""
    b = Builder((2100,))
    graph = b.finish(b.linear(b.first, 1, weight_bits=8, weight=np.full((1, 2100), 127), bits=None))
    linear = graph.ops[-1]
    assert isinstance(linear, g.Linear)

    def changed(**settings: object) -> IntegerGraph:
        return replace(graph, ops=(*graph.ops[:-1], replace(linear, **settings)))  # type: ignore[arg-type]

    none = np.zeros(1, np.int32)
    program(changed(bias=none, shift=5))
    for settings in ({"bias": none, "shift": 6}, {"bias": none + (2**31 - 2**30), "shift": 5}):
        with pytest.raises(ExportError, match=r"op1: its accumulator can reach \d+, legal is below 2\^31"):
            program(changed(**settings))


def test_scaled_results_stay_below_int32_with_room_for_a_zero_point() -> None:
    check_scaled("a", 2**31 - 513, np.array([0.5, 1.0]), "single")
    check_scaled("a", 2**30, np.array([-1.9]), "single")
    for bound, factor, rounding in ((2**31 - 512, 1.0, "single"), (2**30, -1.9, "double"), (2**30, 2.0, "away")):
        with pytest.raises(ExportError, match=r"a: its result can reach 2\.\d+e\+09"):
            check_scaled("a", bound, np.array([factor]), rounding)
    check_scaled("a", 2**30 - 1, np.array([1.9]), "double")  # shifted by one bit


def test_the_farther_end_is_the_reach() -> None:
    ends = [(0, 255), (255, 255), (3, 252), (252, 252)]
    assert [_reach(Grid(scale=0.1, zero_point=zero, qmin=0, qmax=255)) for zero, _ in ends] == [
        reach for _, reach in ends
    ]


def test_windows_whose_sums_leave_int32_are_refused() -> None:
    b = Builder((1, 4, 4))
    graph = ending(b, b.average_pool(b.first))
    pool = graph.ops[1]
    assert isinstance(pool, g.AveragePool)
    with pytest.raises(ExportError, match="op1: the sum of 16777216 taps can leave int32. Pool smaller windows"):
        program(replace(graph, ops=(graph.ops[0], replace(pool, kernel=(2**12, 2**12)), *graph.ops[2:])))


@pytest.mark.parametrize("kind", ["conv", "max_pool", "requantize"])
def test_sizes_of_17_bits_have_no_place_in_a_window(kind: str) -> None:
    def graph(size: int) -> IntegerGraph:
        b = Builder((1, size))
        made = {
            "conv": lambda: b.conv(b.first, 1, 1),
            "max_pool": lambda: b.max_pool(b.first, 1, stride=1, padding=0),
            "requantize": lambda: b.requantize(b.first),
        }
        return ending(b, made[kind]())

    program(graph(2**16 - 1))
    if kind == "requantize":
        program(graph(2**16))
    else:
        with pytest.raises(ExportError, match="op1: x_width is 65536, legal is below 65536"):
            program(graph(2**16))


def test_moves_have_up_to_four_dimensions() -> None:
    b = Builder((2, 3, 2, 2))
    program(ending(b, b.transpose(b.first, (0, 2, 1, 3))))
    b = Builder((2, 3, 2, 2, 1))
    with pytest.raises(ExportError, match="op1: Transpose of 5 dimensions has no kernel in C. Legal: up to 4"):
        program(ending(b, b.transpose(b.first, (0, 2, 1, 3, 4))))


@pytest.mark.parametrize("scales", [(0.1, 0.1), (1.6, 0.001), (0.001, 1.6), (0.3, 0.7)])
def test_a_sum_s_fixed_point_has_thirty_digits_for_the_larger_ratio_or_for_one(scales: tuple[float, float]) -> None:
    b = Builder((3, 2))
    x, y = (b.requantize(b.first, scale=scale) for scale in scales)
    graph = ending(b, b.add(x, y, scale=0.25))
    add = next(step for step in program(graph).steps if step.op.kind == "Add").printed.calls[0].fields
    ratios = [float(np.float32(scale)) / 0.25 for scale in scales]
    found = [value / 2 ** add["shift"] for value in add["multiplier"][:2]]
    assert found == pytest.approx(ratios, abs=max(*ratios, 1) * 2.0**-30)
    assert max(map(abs, add["multiplier"])) <= 2**30
