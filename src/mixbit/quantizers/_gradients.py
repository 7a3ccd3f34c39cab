"""Gradients of step sizes that are not those of the fake-quantize operator as it is."""

from __future__ import annotations

from torch import Tensor


def scale_gradient(x: Tensor, factor: Tensor | float) -> Tensor:
    """`x` itself, bit for bit, with its gradient multiplied by `factor`."""
    held = x.detach()
    return held + factor * (x - held)


def per_slice(parameter: Tensor, x: Tensor) -> Tensor:
    """Reshape `(C,)` so that it broadcasts along the first dimension of `x`; `(1,)` stays as it is."""
    return parameter.view(-1, *[1] * (x.dim() - 1)) if parameter.numel() > 1 else parameter
