"""A QONNX file held against the reference one operation at a time, each with the inputs that the file itself computed.

QONNX computes in real numbers: a float32 sum can fall on the other side of a tie than the integers do, in some of
100,000 elements. One such step is nothing, but it is an input of the next layer, and behind twenty layers whole outputs
differ without any operation being wrong. So each operation is looked at by itself: its result is the reference's, or
its neighbour where the number before rounding is a tie but for what float32 loses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mixbit.integer import executor
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array, Grid
from mixbit.integer.graph import IntegerGraph

__all__ = ["has_every_tensor", "parting"]

_FINE = 2**10
"""Parts of a step in which a number before rounding is known."""
_TIE = 4 / _FINE
_LOST = 2.0**-21
"""Of the largest sum that an operation can have: what float32 loses of it."""
_OFF_GRID = 1e-2


def has_every_tensor(graph: IntegerGraph, values: Mapping[str, Array]) -> bool:
    """Whether a file computes all tensors of the graph under their names."""
    return all(name in values for name in graph.tensors)


def parting(graph: IntegerGraph, values: Mapping[str, Array]) -> str | None:
    """The first operation whose result is not that of the reference, and how far it is off; None where all are right.

    Args:
        graph: what the file was printed from.
        values: real numbers of every tensor, `(N, *shape)`.
    """
    integers: dict[str, Array] = {graph.input: values[graph.input]}
    for op in graph.ops:
        grid, found = graph.tensors[op.output].grid, values[op.output]
        inputs = [integers[name] for name in op.inputs]
        if grid is None:
            off = _float_off(graph, op, found, inputs)
            integers[op.output] = found
        else:
            steps = found.astype(np.float64) / grid.scale
            integers[op.output] = np.rint(steps).astype(np.int32) + grid.zero_point
            off = _off(graph, op, steps + grid.zero_point, inputs)
        if off > 0:
            return f"{op.name} ({op.kind}), by {off:.3g} steps"
    return None


def _float_off(graph: IntegerGraph, op: g.Op, found: Array, inputs: list[Array]) -> float:
    """Steps by which a float32 result is off; 0 if it is less than one."""
    difference = np.abs(found.astype(np.float64) - executor.apply(graph, op, *inputs))
    if not isinstance(op, g.Weighted):
        return float(difference.max(initial=0)) if difference.max(initial=0) > 1e-5 else 0.0
    step = np.abs(graph.unit(op)) * 2**op.shift
    step = step.reshape(-1, *[1] * (found.ndim - 2)) if isinstance(op, g.Conv) else step
    lost = _LOST * executor.accumulator_bound(graph, op) * np.abs(graph.unit(op)).max()
    steps = float((np.maximum(difference - lost, 0) / np.where(step > 0, step, np.inf)).max(initial=0))
    return steps if steps > 1 else 0.0


def _off(graph: IntegerGraph, op: g.Op, found: Array, inputs: list[Array]) -> float:
    """Steps by which integers (as real numbers, with their zero point) are off; 0 if they are right."""
    wanted = executor.apply(graph, op, *inputs)
    wrong = np.abs(found - wanted) > _OFF_GRID
    if not wrong.any():
        return 0.0
    off = float(np.abs(found - wanted)[wrong].max())
    if not hasattr(op, "rounding") and not isinstance(op, g.QuantizeInput):
        return off
    near = np.abs(np.rint(found) - _before_rounding(graph, op, inputs)) <= 0.5 + _tie(graph, op)
    whole = np.abs(found - np.rint(found)) <= _OFF_GRID
    return 0.0 if (near & whole)[wrong].all() else off


def _before_rounding(graph: IntegerGraph, op: Any, inputs: list[Array]) -> Array:
    """The result on a grid of parts of a step, as a number of steps."""
    tensor, grid = graph.tensors[op.output], graph.grid(op.output)
    fine = Grid(
        scale=grid.scale / _FINE, zero_point=grid.zero_point * _FINE, qmin=grid.qmin * _FINE, qmax=grid.qmax * _FINE
    )
    changes: dict[str, Any] = {"rounding": "single"} if hasattr(op, "rounding") else {}
    if getattr(op, "clamp", None) is not None:
        changes["clamp"] = tuple(bound * _FINE for bound in op.clamp)
    finer = replace(graph, tensors={**graph.tensors, op.output: replace(tensor, grid=fine)})
    found: Array = executor.apply(finer, replace(op, **changes), *inputs) / _FINE
    return found


def _tie(graph: IntegerGraph, op: g.Op) -> float:
    if not isinstance(op, g.Weighted):
        return _TIE
    largest = executor.accumulator_bound(graph, op) * float(np.abs(graph.unit(op)).max())
    return _TIE + _LOST * largest / graph.grid(op.output).scale
