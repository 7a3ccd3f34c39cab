"""The integer network against the fake-quantized one that it comes from, operation by operation, on a few real samples.

Every operation of the graph is given what the fake-quantized network computed before it, as integers of its input's
grid, and its result is held against what that network computed there. So no difference adds up from layer to layer,
and each has a bound that is no matter of taste:

    |integer result - clamp(real result to the grid)| <= step / 2 + what the inputs lost + rounded biases and weights

(3/4 of a step where an operation rounds twice). What the inputs lost is measured: nothing where a trained quantizer
made them, half a step where they were calibrated, times the sum of the weights' magnitudes where they are multiplied.
Where every operation keeps its bound on the network's own values, the integers are the network: a clamp that was folded
although another reads what it clamps, a view that reorders, a batch norm over the wrong dimension all break it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from mixbit.errors import ExportError
from mixbit.integer import graph as g
from mixbit.integer._steps import FakeQuantize, Flow, Multiply, Step, Wire
from mixbit.integer.arithmetic import Array, Grid, quantize
from mixbit.integer.executor import apply
from mixbit.integer.graph import IntegerGraph
from mixbit.network.program import Program, interpret, values

__all__ = ["compare"]

_TERMS = 25.0
"""Float sums of real layers are off by less than so many roundings of the largest sum that their terms allow."""
_TIES = 1e-3
"""Steps by which float32 can miss a tie, at 8 bits and some room."""
_FLOAT32 = 2.0**-21
"""The same by the integers of a grid: eight roundings of float32, for a result that is worked out in it."""


def compare(graph: IntegerGraph, flow: Flow, names: Mapping[Wire, str], program: Program, batch: torch.Tensor) -> None:
    """Check every operation on a batch.

    Args:
        graph: what was lowered.
        flow: the steps that it was printed from.
        names: wire -> tensor of the graph.
        program: the fake-quantized network.
        batch: real inputs `(N, ...)`; two say enough, since every element of every tensor is compared.

    Raises:
        ExportError: the two part. The message names the first layer where they do.
    """
    found = _Comparison(graph, names, program, _reals(flow, program, batch))
    found.check_input(graph.ops[0], flow.input)
    operations = {op.output: op for op in graph.ops}
    for step in flow.steps:
        if isinstance(step, FakeQuantize):
            found.check_quantizer(step)
        op = operations[names[step.output]]
        if op.name == step.name:  # else its tensor is there already, in the same integers
            found.check(op, step)


def _reals(flow: Flow, program: Program, batch: torch.Tensor) -> dict[Wire, Array]:
    """What the fake-quantized network computes, float64 `(N, *shape)`, for every wire."""
    wires: dict[object, list[Wire]] = {}
    for wire in [flow.input, *(step.output for step in flow.steps)]:
        wires.setdefault(wire.node, []).append(wire)
    found: dict[Wire, Array] = {}
    for node, value in interpret(program, batch):
        for wire in wires.get(node, ()):
            real = value.detach().cpu().double().numpy()  # a copy, where the network writes in place later
            found[wire] = real.copy().reshape(len(batch), *wire.shape)
            if not np.isfinite(real).all():
                raise ExportError(
                    f"{wire.name}: the fake-quantized network computes NaN or infinity from the calibration batch. "
                    "Look for a diverged training or a layer whose numbers leave the range of its type."
                )
    return found


class _Comparison:
    """Real values, the integers that stand for them, and how far results may be off."""

    def __init__(
        self, graph: IntegerGraph, names: Mapping[Wire, str], program: Program, reals: dict[Wire, Array]
    ) -> None:
        self._graph, self._names, self._reals = graph, names, reals
        self._precision = _precision(program)

    def check_input(self, op: g.Op, wire: Wire) -> None:
        """The network's input on its grid."""
        made = apply(self._graph, op, self._reals[wire].astype(np.float32))
        self._hold(op, made, self._reals[wire], np.zeros(1))

    def check(self, op: g.Op, step: Step) -> None:
        """One operation, given the integers of the network's own values."""
        made = apply(self._graph, op, *(self._integers(wire) for wire in step.inputs))
        # A quantizer's result is compared before it is rounded: two roundings of one number may differ by a step.
        wire = step.inputs[0] if isinstance(step, FakeQuantize) else step.output
        self._hold(op, made, self._reals[wire], self._may(op, step))

    def _hold(self, op: g.Op, made: Array, wanted: Array, may: Array) -> None:
        grid, may = self._graph.tensors[op.output].grid, may + 8 * self._precision * np.abs(wanted)
        if grid is None:
            self._compare(op.name, made, wanted, may, 0.0)
            return
        half = 0.75 if getattr(op, "rounding", "") == "double" else 0.5
        may = may + (half + _ties(grid)) * grid.scale
        self._compare(op.name, _real(made, grid), _within(wanted, grid), may, grid.scale)

    def _integers(self, wire: Wire) -> Array:
        grid = self._graph.tensors[self._names[wire]].grid
        return self._reals[wire].astype(np.float32) if grid is None else quantize(self._reals[wire], grid)

    def _lost(self, wire: Wire) -> Array:
        """What rounding and clamping to the integers lost of every element."""
        grid = self._graph.tensors[self._names[wire]].grid
        found: Array = np.zeros(1) if grid is None else np.abs(_real(self._integers(wire), grid) - self._reals[wire])
        return found

    def check_quantizer(self, step: FakeQuantize) -> None:
        """That what a quantizer of the network reads is what lowering believes that it reads."""
        source = _within(self._reals[step.inputs[0]], step.grid)
        may = (0.5 + _ties(step.grid)) * step.grid.scale + 8 * self._precision * np.abs(source)
        self._compare(step.name, source, self._reals[step.output], may, step.grid.scale)

    def _compare(self, name: str, found: Array, wanted: Array, may: Array, step: float) -> None:
        over = np.abs(found - wanted) - may
        at = int(np.argmax(over))
        if over.flat[at] <= 0:
            return
        off, legal = abs(found.flat[at] - wanted.flat[at]), np.broadcast_to(may, over.shape).flat[at]
        steps, many = f" ({off / step:.3g} steps)" if step else "", float((over > 0).mean())
        raise ExportError(
            f"{name}: the integer network parts from the fake-quantized one here first: {found.flat[at]:.6g} against "
            f"{wanted.flat[at]:.6g}, off by {off:.3g}{steps}, legal is {legal:.3g}; {many:.1%} of the "
            "elements are off by more than their grids explain. Lowering does not follow what the model does around "
            "this layer. Write that part with plain operators (out of place, no views that overlap), or report it."
        )

    # -- how far an operation may be off, its own last rounding aside

    def _may(self, op: g.Op, step: Step) -> Array:
        """By what its inputs lost, and by its own biases and weights; broadcasts against the result."""
        if isinstance(op, g.Weighted) and isinstance(step, Multiply):
            return self._weighted(op, step)
        if isinstance(op, g.Lookup):
            return self._lookup(op, step.inputs[0])
        if isinstance(op, g.Add | g.Requantize):
            return np.asarray(sum(map(self._lost, step.inputs)))
        if isinstance(op, g.AveragePool):
            return np.full(1, self._lost(step.inputs[0]).max())
        return np.full(1, 1e-5 if isinstance(op, g.Softmax) else 0.0)

    def _weighted(self, op: g.Weighted, step: Multiply) -> Array:
        rows = op.weight.reshape(len(op.weight), -1).astype(np.float64)
        weights = rows * op.weight_scale.astype(np.float64)[:, None]
        sums, largest = np.abs(weights).sum(axis=1), np.abs(self._reals[step.inputs[0]]).max()
        wanted = step.integers.reshape(rows.shape) * step.scale[:, None]
        # A channel that became a constant may not move at all, so what its weights lost is not forgiven.
        moved = np.where(rows.any(axis=1), np.abs(weights - wanted).sum(axis=1), 0)
        if step.rounded:
            moved += 0.5 * np.abs(step.scale) * rows.shape[1]
        units = np.abs(self._graph.unit(op))
        floats = _TERMS * self._precision * (sums * largest + np.abs(op.bias) * units)
        found: Array = self._lost(step.inputs[0]).max() * sums + moved * largest + 0.5 * units + floats
        return found.reshape(-1, *[1] * len(op.stride)) if isinstance(op, g.Conv) else found

    def _lookup(self, op: g.Lookup, wire: Wire) -> Array:
        """The largest change of the table as far as the input may be off, and the rounding of its neighbours."""
        grid, result = self._graph.grid(op.x), self._graph.grid(op.output)
        reach = min(math.ceil(float(self._lost(wire).max()) / grid.scale - _TIES), len(op.table) - 1)
        padded = np.pad(op.table, reach, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
        change = np.abs(windows - op.table[:, None]).max(axis=1)
        found: Array = (change[self._integers(wire) - grid.qmin] + 0.5) * result.scale
        return found


def _precision(program: Program) -> float:
    """Relative rounding of the coarsest float type that the network computes in."""
    types = {value.dtype for node in program.calls if node in program.live for value in values(node)}
    return max((torch.finfo(one).eps for one in types if one.is_floating_point), default=torch.finfo().eps)


def _ties(grid: Grid) -> float:
    """Steps by which a rounding in float32 may miss a tie: of 16 bits the last digits are as large as that.

    >>> of = {bits: Grid(scale=1.0, zero_point=0, qmin=0, qmax=2**bits - 1) for bits in (8, 16)}
    >>> _ties(of[8]), round(_ties(of[16]), 4)
    (0.001, 0.0312)
    """
    return max(_TIES, (grid.qmax - grid.qmin) * _FLOAT32)


def _real(integers: Array, grid: Grid) -> Array:
    found: Array = (integers.astype(np.float64) - grid.zero_point) * grid.scale
    return found


def _within(real: Array, grid: Grid) -> Array:
    found: Array = np.clip(real, *(_real(np.asarray(end), grid) for end in (grid.qmin, grid.qmax)))
    return found
