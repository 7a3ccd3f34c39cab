"""A grid for every tensor: the trained quantizers' where they suffice, else 8 or 16 bits from calibration.

Tensors between which elements only move (max pool, reshape, slice, pad, concat) share one grid: a *family*, unless
`_concats` set an input of a concat apart. If all that
read a family is quantizers of one grid, it takes that grid and nothing is lost. If anything else reads it as well (an
add, a pool, a layer without a quantizer, or quantizers of two grids), it is kept at 8 bits on a calibrated grid, and
every quantizer becomes a requantization. In a network with an activation of more than 8 bits that is 16 bits instead.

Rounding twice is not rounding once: a value rounded to 8 bits and then to 4 can end on another integer than if it went
to 4 bits at once. It cannot if the coarse step is an odd multiple `k` of the fine one: the ties of the coarse grid,
`(n + 1/2) k`, are then ties of the fine grid as well. So a calibrated step is the trained step of its coarsest reader
divided by the largest odd number that still covers the range.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor, fx

from mixbit._bits import shared_bits
from mixbit.errors import ExportError
from mixbit.integer._steps import FakeQuantize, Flow, Move, Wire
from mixbit.integer.arithmetic import Grid
from mixbit.integer.graph import Note
from mixbit.network.program import Program, interpret


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The grids that `choose` found."""

    grids: dict[Wire, Grid]
    """Every quantized tensor; wires that a quantizer makes are among them."""
    calibrated: frozenset[Wire]
    notes: tuple[Note, ...]


def families(flow: Flow, *, concats: bool = True) -> dict[Wire, Wire]:
    """Wire -> the wire that stands for all between which elements only move; `concats=False` stops at concats."""
    root: dict[Wire, Wire] = {flow.input: flow.input}

    def find(wire: Wire) -> Wire:
        while root[wire] is not wire:
            wire = root[wire]
        return wire

    for step in flow.steps:
        root[step.output] = step.output
        if isinstance(step, Move) and (concats or step.kind != "Concat"):
            for wire in step.inputs:
                root[find(step.output)] = find(wire)
    return {wire: find(wire) for wire in root}


def choose(flow: Flow, program: Program, batches: Iterable[Tensor], floats: frozenset[Wire]) -> Chosen:
    """Grids of all wires but those that stay float32.

    Args:
        flow: the steps.
        program: what calibration runs.
        batches: inputs, used if anything has to be calibrated.
        floats: wires that stay float32.

    Raises:
        ExportError: something has to be calibrated and there is no batch.
    """
    root = families(flow)
    members: dict[Wire, list[Wire]] = {}
    for wire, head in root.items():
        members.setdefault(head, []).append(wire)
    grids: dict[Wire, Grid] = {}
    left: dict[Wire, str] = {}
    for head, family in members.items():
        if any(isinstance(wire.step, FakeQuantize) for wire in family if wire is not head):
            names = ", ".join(wire.name for wire in family)
            raise ExportError(f"{names}: quantized tensors meet in a concat. Quantize what reads it instead.")
        if isinstance(head.step, FakeQuantize):
            grids.update(dict.fromkeys(family, head.step.grid))
        elif not floats.intersection(family):
            _settle(flow, head, family, grids, left)
    ranges = observe(program, [wire for head in left for wire in members[head]], batches) if left else {}
    bits = shared_bits(step.grid.bits for step in flow.steps if isinstance(step, FakeQuantize))
    notes = []
    for head, reason in left.items():
        low, high = (0.0, 0.0) if _unread(members[head]) else _range(ranges, members[head])
        grids.update(dict.fromkeys(members[head], spread(low, high, bits, coarsest=_coarsest(members[head]))))
        notes.append(
            Note(name=head.name, kind="calibrated", reason=f"{reason}: {bits} bits from {low:.4g} to {high:.4g}")
        )
    calibrated = frozenset(wire for head in left for wire in members[head])
    return Chosen(grids=grids, calibrated=calibrated, notes=tuple(notes))


def _range(ranges: dict[Wire, tuple[float, float]], family: list[Wire]) -> tuple[float, float]:
    """Smallest and largest value of a family."""
    return min(ranges[wire][0] for wire in family), max(ranges[wire][1] for wire in family)


def _unread(family: list[Wire]) -> bool:
    """Whether quantizers that let nothing through are all that reads a family."""
    readers = [step for wire in family for step in wire.readers if not isinstance(step, Move)]
    return bool(readers) and all(isinstance(step, FakeQuantize) and step.dead for step in readers)


def _settle(flow: Flow, head: Wire, family: list[Wire], grids: dict[Wire, Grid], left: dict[Wire, str]) -> None:
    """Give a family its quantizers' grid, or put it down for calibration with the reason."""
    readers = [step for wire in family for step in wire.readers if not isinstance(step, Move)]
    trained = {step.grid for step in readers if isinstance(step, FakeQuantize) and not step.dead}
    others = [step for step in readers if not isinstance(step, FakeQuantize)]
    if len(trained) == 1 and not others and flow.output not in family:
        grids.update(dict.fromkeys(family, trained.pop()))
    elif others:
        left[head] = f"read by {', '.join(dict.fromkeys(step.name for step in others))} without a quantizer"
    elif flow.output in family:
        left[head] = "the output, which no layer makes"
    elif _unread(family):
        left[head] = "zero in calibration"
    else:
        left[head] = f"read by {len(trained)} quantizers with different step sizes"


def _coarsest(family: list[Wire]) -> float | None:
    """Largest step size of the quantizers that read a family."""
    readers = (step for wire in family for step in wire.readers)
    return max((step.grid.scale for step in readers if isinstance(step, FakeQuantize) and not step.dead), default=None)


def spread(low: float, high: float, bits: int = 8, coarsest: float | None = None) -> Grid:
    """The grid over `[low, high]`, widened to hold zero: unsigned with zero point 0 where nothing is negative.

    Args:
        low: smallest value.
        high: largest value.
        bits: 8 or 16.
        coarsest: a step size of which this grid's should be an odd part; see the module's text.

    >>> spread(0.0, 2.55)
    Grid(scale=0.009999999776482582, zero_point=0, qmin=0, qmax=255)
    >>> spread(-1.0, 1.55).zero_point
    -28
    >>> round(spread(0.0, 2.55, coarsest=0.08).scale, 6)            # a seventh of 0.08, not the eighth
    0.011429
    """
    low, high = min(low, 0.0), max(high, 0.0)
    levels = 2**bits - 1
    scale = (high - low) / levels or 1.0
    if coarsest is not None and coarsest >= scale:
        parts = int(coarsest / scale * (1 + 1e-6))
        scale = coarsest / (parts - 1 + parts % 2)
    scale = float(np.float32(scale))
    if low == 0.0:
        return Grid(scale=scale, zero_point=0, qmin=0, qmax=levels)
    lowest = -(2 ** (bits - 1))
    zero = int(np.clip(round(lowest - low / scale), lowest, lowest + levels))
    return Grid(scale=scale, zero_point=zero, qmin=lowest, qmax=lowest + levels)


def observe(program: Program, wires: list[Wire], batches: Iterable[Tensor]) -> dict[Wire, tuple[float, float]]:
    """Smallest and largest value of each wire over all batches, as the fake-quantized model computes them."""
    wanted: dict[fx.Node, list[Wire]] = {}
    for wire in wires:
        wanted.setdefault(wire.node, []).append(wire)
    found: dict[Wire, tuple[float, float]] = {}
    for batch in batches:
        for node, value in interpret(program, batch):
            if node in wanted:
                low, high = (float(v) for v in value.aminmax())
                for wire in wanted[node]:
                    old = found.get(wire, (low, high))
                    # NumPy's hand NaN on, whichever batch it came in.
                    found[wire] = (float(np.minimum(old[0], low)), float(np.maximum(old[1], high)))
    if wires and not found:
        names = ", ".join(dict.fromkeys(wire.name for wire in wires[:5]))
        raise ExportError(
            f"{len(wires)} tensors have no quantizer ({names}, ...) and there is no calibration batch. "
            "Give at least one batch of real inputs."
        )
    broken = [wire.name for wire, ends in found.items() if not np.isfinite(ends).all()]
    if broken:
        raise ExportError(f"calibration met NaN or infinity in {', '.join(broken[:5])}. Look for a diverged training.")
    return found
