"""Quantizers of tensors that were zero in calibration: nothing passes them, at a step that every target can compute.

The rules of calibration give such a tensor a step of 1e-8 or less, since 0 is none. With it a quantizer lets through at
most some millionths, whatever comes: the network was trained and measured with zeros there. A runtime would have to
scale by 1e8 and more to say so, which int32 does not hold. So the integers are zeros at a step of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from mixbit.integer._grids import observe
from mixbit.integer._steps import FakeQuantize, Flow
from mixbit.integer.graph import Note
from mixbit.network.program import Program

__all__ = ["mark_dead"]

_SMALLEST_STEP = 1e-8
"""Of the rules of calibration; those that try parts of a step go below."""
_STEP = 1.0


def mark_dead(flow: Flow, program: Program, samples: Sequence[Tensor]) -> tuple[Note, ...]:
    """Mark the quantizers with such steps that give zeros on all samples, and say which.

    Args:
        flow: the steps; those of dead quantizers get another grid.
        program: what makes the values.
        samples: real inputs.
    """
    tiny = [step for step in flow.steps if isinstance(step, FakeQuantize) and step.grid.scale <= 1.001 * _SMALLEST_STEP]
    ranges = observe(program, [step.output for step in tiny], samples) if tiny else {}
    notes = []
    for step in tiny:
        if ranges[step.output] == (0.0, 0.0):
            readers = ", ".join(dict.fromkeys(reader.name for reader in step.output.readers)) or step.name
            reason = f"zero on all calibration inputs, with a step of {step.grid.scale:.2g}: it stays zero"
            notes.append(Note(name=readers, kind="dead input", reason=reason))
            step.dead, step.grid = True, replace(step.grid, scale=_STEP)
    return tuple(notes)
