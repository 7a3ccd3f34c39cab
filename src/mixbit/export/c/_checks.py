"""What a device must be able to hold: sums, scaled results, sizes of maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixbit.errors import ExportError
from mixbit.integer import executor
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array
from mixbit.integer.graph import IntegerGraph

INT32 = 2**31
_MARGINS = {False: 2**9, True: 2**17}
"""A zero point is added to a scaled accumulator before it is clamped: that of a result of 8 bits, or of 16."""


def check_scaled(name: str, bounds: Array | int, factors: Array, rounding: str, bits: int = 8) -> None:
    """Scaled integers of up to `bounds` fit int32, and with double rounding also the shifted ones.

    `bits` are those in which the result is stored.
    """
    factors = np.abs(np.asarray(factors, np.float64))
    reached = float(np.max(bounds * factors, initial=0))
    left = np.maximum(np.frexp(factors)[1], 0)
    shifted = float(np.max(bounds * 2.0**left, initial=0)) if rounding == "double" else 0.0
    if reached >= INT32 - _MARGINS[bits > 8] or shifted >= INT32:
        raise ExportError(
            f"{name}: its result can reach {max(reached, shifted):.3g} before it is clamped, legal is below 2^31. "
            "Calibrate on real inputs: the step size of its result is far too small."
        )


def check_accumulator(op: g.Weighted, bounds: Array) -> None:
    """Sums of 8-bit inputs fit int32, the folded zero point among them."""
    bound = int(bounds.max(initial=0))
    if bound >= INT32:
        raise ExportError(
            f"{op.name}: its accumulator can reach {bound}, legal is below 2^31. Give it fewer weight or "
            "activation bits."
        )


def check_wide(graph: IntegerGraph, op: g.Weighted) -> None:
    """Sums of 16-bit inputs have 47 bits, and 31 where they are the outputs of the network."""
    bound, last = executor.accumulator_bound(graph, op), graph.tensors[op.output].grid is None
    if bound >= (INT32 if last else 2**47):
        raise ExportError(
            f"{op.name}: its accumulator can reach {bound}, legal is below 2^{31 if last else 47}"
            f"{' for outputs, which are int32' if last else ''}. Give it fewer weight or activation bits."
        )


def check_16_bits(op: g.Op, settings: dict[str, Any]) -> None:
    """Sizes of maps fit the 16 bits that structures have for them."""
    sizes = ("_height", "_width", "channels", "groups", "pad_top", "pad_left")
    wide = [name for name, value in settings.items() if name.endswith(sizes) and value >= 2**16]
    if wide and op.kind in ("Conv", "MaxPool", "AveragePool"):
        raise ExportError(f"{op.name}: {wide[0]} is {settings[wide[0]]}, legal is below 65536.")
