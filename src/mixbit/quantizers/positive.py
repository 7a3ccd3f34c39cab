"""Learned steps stay positive: an update that would take one through zero, or near it, is cut short."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixbit.quantizers.quantizer import Quantizer

__all__ = ["PositiveSteps"]

_SMALLEST = 1e-8
"""Where the rules put the step of a tensor of zeros."""


class PositiveSteps:
    """Keeps the learned steps of a model positive while an optimizer moves them.

    A step of 0 is a division by zero, and one below zero turns the grid round: an unsigned activation is then zero
    everywhere. An optimizer knows nothing of that. So, by a projection after each of its updates, no step falls below
    half of what it was (nor below 1e-8): a grid may become finer by one bit an update. Updates that do not reach so
    far, which are all in a training at a rate that suits the steps, are left as they are, bit for bit (our completion).

    Banks with a `step_range` are left alone: their steps are clamped before use, and the raw value is what LIMPQ reads,
    as its released code has it. So are steps that are not learned.

    Args:
        model: with quantizers on, or without.
        optimizer: the projection is made in its `step`; None where `look` and `hold` are called by hand.

    >>> quantizer = Quantizer([4], signed=True)
    >>> optimizer = torch.optim.SGD(quantizer.parameters(), lr=10.0)
    >>> guard = PositiveSteps(quantizer, optimizer)
    >>> quantizer(torch.tensor([0.4])).backward()
    >>> quantizer.steps.grad = torch.ones_like(quantizer.steps)
    >>> optimizer.step()
    >>> quantizer.steps.item(), guard.cut_short()
    (0.5, {'steps': 1})
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        self._steps = {
            name: module.steps
            for path, module in model.named_modules()
            if isinstance(module, Quantizer) and module.learned and module.step_range is None
            for name in [f"{path}.steps".removeprefix(".")]
        }
        self._before: list[Tensor] = []
        self._counts = [torch.zeros_like(step, requires_grad=False) for step in self._steps.values()]
        if optimizer is not None and self._steps:
            optimizer.register_step_pre_hook(lambda *_: self.look())
            optimizer.register_step_post_hook(lambda *_: self.hold())

    @torch.no_grad()
    def look(self) -> None:
        """Before an update: remember the steps."""
        self._before = [step.detach().clone() for step in self._steps.values()]

    @torch.no_grad()
    def hold(self) -> None:
        """After an update: project. A NaN stays a NaN, which training reports."""
        if not self._before:
            return
        steps = [step.detach() for step in self._steps.values()]
        floors = list(torch._foreach_clamp_min(torch._foreach_mul(self._before, 0.5), _SMALLEST))
        short = list(torch._foreach_clamp_min(torch._foreach_sub(floors, steps), 0.0))
        torch._foreach_add_(self._counts, list(torch._foreach_sign(short)))
        torch._foreach_copy_(steps, torch._foreach_maximum(steps, floors))

    def cut_short(self) -> dict[str, int]:
        """Name of the steps -> updates of one of them that were cut short, of those where there was one."""
        counts = {name: int(count.nan_to_num().max()) for name, count in zip(self._steps, self._counts, strict=True)}
        return {name: count for name, count in counts.items() if count > 0}

    def told(self, updates: int = 0) -> str | None:
        """What to tell of a training of so many updates, or None where less than one in a hundred was cut short."""
        often = {name: count for name, count in self.cut_short().items() if 100 * count >= updates}
        found = sorted(often.items(), key=lambda one: -one[1])
        if not found:
            return None
        shown = ", ".join(f"{name} ({count} times)" for name, count in found[:3])
        return (
            f"updates of {len(found)} of {len(self._steps)} step sizes were cut short at half of the step, since they "
            f"would have taken it near zero or through it: {shown}{', ...' if len(found) > 3 else ''}. The rate is too "
            "high for them: lower step_lr (None takes lr)."
        )
