"""Which inputs of a concat are copied to its grid, instead of sharing it.

What a concat joins has one grid, that of the widest input. An input that something else reads as well would give all
its readers that coarse grid: `log2(joint width / own width)` bits less than it could have. From one bit on, the concat
gets a requantized copy. It costs an operation and its bytes, and the concat alone a second rounding, of at most a
quarter of its step, since the first grid is at least twice as fine. An input that only the concat reads is never
copied: its maker writes the concat's grid at once, which is exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from mixbit.integer._grids import families, observe
from mixbit.integer._steps import Flow, Limit, Move, Step, Wire
from mixbit.integer.graph import Note
from mixbit.network.program import Program

__all__ = ["separate"]

_WIDER = 2.0
"""Times the own width of an input from which on it is copied: one of its 8 bits would be lost."""

Ends = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Edge:
    """An input of a concat that something else reads as well."""

    concat: Step
    wire: Wire


def separate(flow: Flow, program: Program, batches: Iterable[Tensor], *, always: bool) -> tuple[Note, ...]:
    """Put a change of grid in front of concats where their inputs' own readers would lose a bit or more.

    Args:
        flow: the steps; changed.
        program: what calibration runs.
        batches: inputs.
        always: whatever the ranges: what has to be laid out before training, which moves them.

    Returns:
        A note a copy.
    """
    edges = list(_shared(flow))
    if always:
        notes = [_copy(flow, edge, "ranges may part in training") for edge in edges]
        return tuple(notes)
    if not edges:
        return ()
    joint, own = families(flow), families(flow, concats=False)
    heads = {joint[edge.wire] for edge in edges}
    ranges = observe(program, [wire for wire in joint if joint[wire] in heads], batches)
    whole, parts = _ends(ranges, joint), _ends(ranges, own)
    notes = []
    for edge in edges:
        wide, narrow = whole[joint[edge.wire]], parts[own[edge.wire]]
        if _width(wide) >= _WIDER * _width(narrow):
            reason = f"{narrow[0]:.4g} to {narrow[1]:.4g}, where {edge.concat.name} has {wide[0]:.4g} to {wide[1]:.4g}"
            notes.append(_copy(flow, edge, reason))
    return tuple(notes)


def _shared(flow: Flow) -> Iterable[_Edge]:
    own = families(flow, concats=False)
    members: dict[Wire, list[Wire]] = {}
    for wire, head in own.items():
        members.setdefault(head, []).append(wire)
    for step in flow.steps:
        if isinstance(step, Move) and step.kind == "Concat":
            for wire in dict.fromkeys(step.inputs):
                family = members[own[wire]]
                inside = {one.step for one in family}
                if any(reader not in inside and reader is not step for one in family for reader in one.readers):
                    yield _Edge(step, wire)


def _ends(ranges: dict[Wire, Ends], of: dict[Wire, Wire]) -> dict[Wire, Ends]:
    """Smallest and largest value of every family that was observed, zero included."""
    found: dict[Wire, Ends] = {}
    for wire, (low, high) in ranges.items():
        old = found.get(of[wire], (0.0, 0.0))
        found[of[wire]] = min(low, old[0]), max(high, old[1])
    return found


def _width(ends: Ends) -> float:
    return ends[1] - ends[0]


def _copy(flow: Flow, edge: _Edge, reason: str) -> Note:
    concat, wire = edge.concat, edge.wire
    step = Limit(name=flow.unique(f"{concat.name}.requantize"), inputs=[wire])
    step.output = Wire(name=step.name, shape=wire.shape, node=wire.node, step=step, readers=[concat])
    concat.inputs = [step.output if one is wire else one for one in concat.inputs]
    wire.readers = [*(reader for reader in wire.readers if reader is not concat), step]
    flow.steps.insert(flow.steps.index(concat), step)
    return Note(name=step.name, kind="requantized", reason=f"{wire.name} is copied to the grid of a concat: {reason}")
