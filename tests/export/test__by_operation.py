"""QONNX files one operation at a time: ties may fall to either side, and nothing else may differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.needs import why

pytest.importorskip("qonnx", reason=why("qonnx"))

from mixbit.export._by_operation import has_every_tensor, parting
from mixbit.export.qonnx import trace_qonnx, write_qonnx
from mixbit.export.verify import verify
from mixbit.integer import IntegerGraph, Rounding, executor
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import ROUNDINGS, Array, dequantize
from tests.export.graphs import Builder, every_printer, grid, random_graph, rounded


def x(graph: IntegerGraph, count: int = 3) -> Array:
    shape = (count, *graph.tensors[graph.input].shape)
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def changed(graph: IntegerGraph, kind: type[g.Op], change: Callable[[Any], dict[str, Any]]) -> IntegerGraph:
    at = next(at for at, op in enumerate(graph.ops) if isinstance(op, kind))
    op = graph.ops[at]
    return dataclasses.replace(
        graph, ops=(*graph.ops[:at], dataclasses.replace(op, **change(op)), *graph.ops[at + 1 :])
    )


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_files_of_ours_are_right_in_every_operation(rounding: Rounding, tmp_path: Path) -> None:
    for graph in (every_printer(), random_graph(1), random_graph(2, spatial=1)):
        graph = rounded(graph, rounding)
        write_qonnx(graph, tmp_path / "net.onnx")
        values = trace_qonnx(tmp_path / "net.onnx", x(graph))
        assert has_every_tensor(graph, values)
        assert parting(graph, values) is None


def one_step_of_the_result(graph: IntegerGraph) -> Callable[[g.Conv], dict[str, Any]]:
    def change(op: g.Conv) -> dict[str, Any]:
        bias = op.bias.copy()
        bias[1] += round(graph.grid(op.output).scale / float(np.abs(graph.unit(op)[1])))
        return {"bias": bias}

    return change


def one_weight(op: g.Linear) -> dict[str, Any]:
    weight = op.weight.copy()
    weight[0, :] = np.where(weight[0, :] > 0, weight[0, :] - 1, weight[0, :] + 1)
    return {"weight": weight}


def one_entry(op: g.Lookup) -> dict[str, Any]:
    table = op.table.copy()
    table[: len(table) // 2] += 1
    return {"table": table}


@pytest.mark.parametrize(
    ("kind", "change"),
    [(g.Conv, None), (g.Linear, one_weight), (g.Lookup, one_entry)],
    ids=["a step of a bias", "weights", "a table"],
)
def test_one_wrong_step_is_found_with_its_operation(kind: Any, change: Any, tmp_path: Path) -> None:
    graph = every_printer()
    wrong = changed(graph, kind, change or one_step_of_the_result(graph))
    write_qonnx(wrong, tmp_path / "net.onnx")
    found = verify(tmp_path / "net.onnx", graph, [(x(graph), None)])
    assert not found.right and found.parting is not None
    named = next(op for op in graph.ops if isinstance(op, kind))
    assert found.parting.startswith(f"{named.name} ({named.kind}), by ")


def halves() -> IntegerGraph:
    """A change of grid by one half, whose ties are every second integer, in front of a layer with large weights."""
    b = Builder((6,), bits=8)
    b.rounding = "single"
    b.tensors[b.first] = dataclasses.replace(b.tensors[b.first], grid=grid(8, signed=True, scale=0.125))
    y = b.requantize(b.first, scale=0.25)
    b.tensors[y] = dataclasses.replace(b.tensors[y], grid=grid(8, signed=True, scale=0.25))
    return b.finish(b.linear(y, 3, weight_bits=8, bits=None))


def test_ties_that_fall_to_the_other_side_are_right_though_outputs_part() -> None:
    graph = halves()
    first, second, last = graph.ops
    inputs = np.full((1, 6), 3 * 0.125, np.float32)  # 1.5 steps of the second grid
    wanted = executor.trace(graph, inputs)
    values: dict[str, Array] = {"x": inputs, first.output: dequantize(wanted[first.output], graph.grid(first.output))}
    down = wanted[second.output] - 1
    values[second.output] = dequantize(down, graph.grid(second.output))
    values[last.output] = executor.apply(graph, last, down)
    assert np.abs(values[last.output] - wanted[last.output]).max() > 10 * np.abs(graph.unit(graph.weighted()[0])).max()
    assert parting(graph, values) is None
    values[second.output] = dequantize(down - 1, graph.grid(second.output))
    assert parting(graph, values) == f"{second.name} (Requantize), by 2 steps"


@pytest.mark.parametrize("shift", [0, 2])
def test_a_float_result_is_off_where_it_is_so_by_more_than_a_step_of_its_product(shift: int) -> None:
    """A step is that of a weight times that of an input, before the shift divides it."""
    b = Builder((6,), bits=8)
    b.rounding = "single"
    graph = b.finish(b.linear(b.first, 3, weight_bits=4, shift=shift, bits=None))
    linear = graph.weighted()[0]
    step = graph.grid(linear.x).scale * np.abs(linear.weight_scale)
    values: dict[str, Array] = {}
    for name, value in executor.trace(graph, x(graph)).items():
        values[name] = value if graph.tensors[name].grid is None else dequantize(value, graph.grid(name))
    right = values[linear.output]
    for channel, steps, named in ((0, 0.9, False), (1, 1.5, True), (2, -1.5, True)):
        wrong = right.copy()
        wrong[1, channel] += steps * step[channel]
        found = parting(graph, values | {linear.output: wrong})
        assert found == (f"{linear.name} (Linear), by 1.5 steps" if named else None)


def test_a_number_between_two_integers_is_wrong() -> None:
    graph = halves()
    values: dict[str, Array] = {}
    for name, value in executor.trace(graph, x(graph)).items():
        values[name] = value if graph.tensors[name].grid is None else dequantize(value, graph.grid(name))
    assert parting(graph, values) is None
    values[graph.ops[1].output] = values[graph.ops[1].output] + 0.3 * 0.25
    assert parting(graph, values) == f"{graph.ops[1].name} (Requantize), by 0.3 steps"
