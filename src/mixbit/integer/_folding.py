"""Batch norms and clamps into the steps before them, where nothing else reads what stands between."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from mixbit.errors import ExportError
from mixbit.integer._steps import Affine, Clamped, Limit, Multiply, Step, Wire
from mixbit.network.program import Names


def fold(steps: list[Step], last: Wire, error: Callable[[fx.Node, str], ExportError], names: Names) -> list[Step]:
    """The steps without what could be folded; a clamp that could not gets a name.

    A reader of a wire is whatever reads its values, by whatever alias; the caller reads the output.

    Args:
        steps: in order, without those that the output does not depend on.
        last: the output.
        error: makes an error of an operator and a reason.
        names: of steps.

    Raises:
        ExportError: a batch norm that cannot be folded.
    """
    found: list[Step] = []
    for step in steps:
        if isinstance(step, Affine):
            _fold_affine(step, last, error)
        elif not _fold_limit(step, last):
            if isinstance(step, Limit):
                step.name = step.output.name = names.of(step.output.node)
            found.append(step)
    return found


def _alone(step: Step, last: Wire) -> bool:
    """Whether a step is the only reader of what it reads."""
    wire = step.inputs[0]
    return len(wire.readers) == 1 and wire is not last


def _fold_affine(step: Affine, last: Wire, error: Callable[[fx.Node, str], ExportError]) -> None:
    before, node = step.inputs[0].step, step.output.node
    if not isinstance(before, Multiply) or before.bounds is not None:
        raise error(node, "it does not follow a convolution or linear layer directly, so it cannot be folded")
    if not _alone(step, last):
        raise error(node, "something else reads the layer before it as well, so it cannot be folded")
    before.affine(step.scale, step.shift)
    _replace(before, step)


def _fold_limit(step: Step, last: Wire) -> bool:
    if not isinstance(step, Limit) or not isinstance(before := step.inputs[0].step, Clamped) or not _alone(step, last):
        return False
    assert step.bounds is not None
    before.clamp(*step.bounds)
    _replace(before, step)
    return True


def _replace(before: Step, step: Step) -> None:
    """The result of a step that was folded becomes the result of the one before it."""
    step.output.name, step.output.step, before.output = before.output.name, before, step.output
