"""How a runtime with 8-bit tensors holds the integers of the graph.

An activation `q` is stored as the uint8 `q - base`. Its base is `qmin`, so that a signed 4-bit tensor is stored as 0 to
15 with zero point 8. Where it saves a clamp it is `qmax - 255`: then the upper bound is that of uint8 itself.

What takes more than a byte, up to two, is the whole number `q - qmin` in float32: that type goes through every operator
of a runtime. Layers multiply its high and its low byte apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixbit.errors import ExportError
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array, Grid, add, dequantize, quantize
from mixbit.integer.executor import apply
from mixbit.integer.graph import IntegerGraph

__all__ = ["Container", "Rescaling", "container", "rescaling"]

_LARGEST = 255
_LARGEST_WIDE = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A tensor as uint8, or as float32 where it is wide: `stored = q - base`.

    >>> Container(grid=Grid(scale=0.5, zero_point=0, qmin=-8, qmax=7), base=-8).zero_point
    8
    """

    grid: Grid
    base: int

    @property
    def zero_point(self) -> int:
        """The zero point as it is stored."""
        return self.grid.zero_point - self.base

    @property
    def largest(self) -> int:
        """The largest number that can be stored, padding included."""
        return max(self.grid.qmax, self.grid.zero_point) - self.base

    @property
    def wide(self) -> bool:
        """Whether it takes two bytes.

        >>> [Container(grid=Grid(scale=1.0, zero_point=0, qmin=0, qmax=end), base=0).wide for end in (255, 256)]
        [False, True]
        """
        return self.largest > _LARGEST

    @property
    def largest_byte(self) -> int:
        """The largest number that a weight is multiplied with: of a wide tensor one of its bytes."""
        return min(self.largest, _LARGEST)

    @property
    def zero_bytes(self) -> tuple[int, int]:
        """The high and the low byte of the stored zero."""
        return divmod(self.zero_point, 256)

    @property
    def stored(self) -> Grid:
        """Scale and zero point of the stored integers, with all that uint8 holds as range."""
        return Grid(scale=self.grid.scale, zero_point=self.zero_point, qmin=0, qmax=_LARGEST)

    def bounds(self, clamp: g.Bounds | None) -> g.Bounds:
        """The range (or the tighter clamp of an operation) in stored integers."""
        low, high = clamp or (self.grid.qmin, self.grid.qmax)
        return low - self.base, high - self.base


def container(name: str, grid: Grid) -> Container:
    """The container of a tensor.

    Raises:
        ExportError: its integers do not fit into 16 bits.

    >>> container("x", Grid(scale=0.5, zero_point=-3, qmin=-128, qmax=127)).zero_point
    125
    """
    found = Container(grid=grid, base=grid.base)
    if found.largest > _LARGEST_WIDE:
        raise ExportError(
            f"{name}: integers from {grid.qmin} to {grid.qmax} with zero point {grid.zero_point} do not fit into "
            "two bytes. Legal: activations of 16 bits or fewer, with a zero point among their integers. Export QONNX, "
            "or give the layers that read it 16 bits or fewer."
        )
    return found


# ------------------------------------------------------------------------------------------- change of scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescaling:
    """The cheapest form of a `Requantize` that gives the integers of the reference for every input."""

    function: str
    """`Rescale` (an addition of zero) or `Requantize`, of `mixbit.export._onnx_functions`."""
    result: Container
    clip: bool
    """Whether a clamp must follow."""


def rescaling(graph: IntegerGraph, op: g.Requantize, source: Container, *, top: bool) -> Rescaling:
    """Try the forms from the fastest to the slowest, on all integers that the input can hold.

    Args:
        graph: the graph of `op`.
        op: the operation.
        source: container of its input.
        top: whether the result may be stored with its largest integer as 255.

    Returns:
        The first exact one; the addition with a clamp where none is, which is off by one step at ties at most.
    """
    grid = source.grid
    q = np.arange(grid.qmin, grid.qmax + 1)
    wanted, stored = apply(graph, op, q), q - source.base
    plain = container(op.output, graph.grid(op.output))
    upper = Container(grid=plain.grid, base=plain.grid.qmax - _LARGEST)
    free = [upper, plain] if top and upper.base < plain.base else [plain]
    for clip, results in ((False, free), (True, [plain])):
        for function, compute in (("Rescale", _rescale), ("Requantize", _requantize)):
            for result in results:
                found = compute(stored, source, result)
                bounds = result.bounds(op.clamp) if clip else (0, _LARGEST)
                if np.array_equal(np.clip(found, *bounds) + result.base, wanted):
                    return Rescaling(function=function, result=result, clip=clip)
    return Rescaling(function="Rescale", result=plain, clip=True)


def _rescale(stored: Array, source: Container, result: Container) -> Array:
    zero = Grid(scale=1.0, zero_point=0, qmin=0, qmax=_LARGEST)
    grids = (source.stored, zero, result.stored)
    found: Array = add(stored, np.zeros_like(stored), grids, "float32") + result.zero_point
    return found


def _requantize(stored: Array, source: Container, result: Container) -> Array:
    return quantize(dequantize(stored, source.stored), result.stored)
