"""What one optimizer step is: a function that makes the gradients of one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

__all__ = ["Step", "StepContext", "supervised_step"]


@dataclass(slots=True, kw_only=True)
class StepContext:
    """What one training step may use; `loss` is the user's loss with smoothing and distillation already in it."""

    model: nn.Module
    loss: Callable[[Any, Any, Any], Tensor]
    """`(inputs, outputs, targets) -> scalar`."""
    forward: Callable[[Any], Any]
    """The model under the run's precision, compiled if asked for."""
    number: int = 0
    """Steps taken before this one, over all epochs."""
    seed: int = 0


class Step(Protocol):
    """Computes gradients for one batch (they may be the sum of several passes) and returns the loss to report."""

    def __call__(self, context: StepContext, x: Any, y: Any) -> Tensor: ...


def supervised_step(context: StepContext, x: Any, y: Any) -> Tensor:
    """One forward and one backward pass."""
    loss = context.loss(x, context.forward(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()
