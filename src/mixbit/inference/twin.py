"""A Predictor without gradients that takes those of another: the backward pass of a smooth twin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixbit.errors import MixbitError
from mixbit.inference.predictor import Predictor, need_gradients

__all__ = ["TwinPredictor"]


class TwinPredictor:
    """Logits of one Predictor, gradients of another (Athalye, Carlini, Wagner, ICML 2018: BPDA).

    An attack then follows the gradients of the smooth twin, and is judged, step by step, by what the network itself
    says. Twins are the float network, or the fake-quantized one, of the integers that ship.

    Args:
        forward: whose logits count; it needs no gradients.
        backward: whose gradients are followed; of the same input space.

    Raises:
        MixbitError: `backward` has no gradients, or another input space.

    >>> from torch import nn
    >>> from mixbit.inference.predictor import TorchPredictor
    >>> coarse, smooth = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
    >>> _ = nn.init.constant_(coarse.weight, 2.0), nn.init.constant_(smooth.weight, 3.0)
    >>> twin = TwinPredictor(TorchPredictor(coarse, name="coarse"), TorchPredictor(smooth, name="smooth"))
    >>> x = torch.ones(1, 1, requires_grad=True)
    >>> logits = twin.logits(x)
    >>> logits.tolist(), torch.autograd.grad(logits[0, 0], x)[0].tolist(), twin.name
    ([[2.0, 2.0]], [[3.0]], 'coarse with gradients of smooth')
    """

    differentiable = True

    def __init__(self, forward: Predictor, backward: Predictor) -> None:
        need_gradients(backward, "a twin")
        if forward.space != backward.space:
            raise MixbitError(
                f"{forward.name} reads inputs of {forward.space}, and {backward.name} of {backward.space}. Legal: "
                "twins of one input space."
            )
        self.forward, self.backward, self.space = forward, backward, forward.space
        self.name = f"{forward.name} with gradients of {backward.name}"

    def logits(self, x: Tensor) -> Tensor:
        """Logits of `forward`, with the gradients of `backward` where they are asked for."""
        with torch.no_grad():
            values = self.forward.logits(x.detach())
        if not (x.requires_grad and torch.is_grad_enabled()):
            return values
        found: Tensor = _Replaced.apply(self.backward.logits(x), values)  # type: ignore[no-untyped-call]
        return found


class _Replaced(torch.autograd.Function):
    """Values of the second argument, gradients to the first, untouched by differences of rounding."""

    @staticmethod
    def forward(ctx: Any, smooth: Tensor, values: Tensor) -> Tensor:
        """The network's own logits."""
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """To the twin alone."""
        return gradient, None
