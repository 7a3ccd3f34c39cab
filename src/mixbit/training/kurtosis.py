"""Kurtosis of weights, the loss that pulls it to a target, and its gradient in closed form (KURE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Combine", "combined", "kurtosis", "kurtosis_gradient", "kurtosis_loss"]

_EPSILON = 1e-12

Combine = Literal["avg", "sum", "max"]


def kurtosis(weight: Tensor, *, unbiased: bool = True) -> Tensor:
    """`mean(((w - mu) / s)^4)` over all elements; differentiable.

    Args:
        weight: any shape, at least two elements.
        unbiased: divisor N - 1 in `s`, as the authors' code has it; False gives the population value.

    Returns:
        A scalar: 1.8 for a uniform distribution, 3 for a normal one, 6 for a Laplacian.

    >>> w = torch.arange(1.0, 9.0, dtype=torch.float64)
    >>> round(float(kurtosis(w)), 10), round(float(kurtosis(w, unbiased=False)), 10)
    (1.3489583333, 1.7619047619)
    """
    centred = weight - weight.mean()
    variance = weight.var(correction=int(unbiased)) + _EPSILON
    return (centred**4).mean() / variance**2


def kurtosis_loss(weights: Sequence[Tensor], *, target: float = 1.8, combine: Combine = "avg") -> Tensor:
    """`(1/L) * sum_i (Kurt(W_i) - target)^2`, over as many layers as there are; differentiable.

    >>> w = torch.arange(1.0, 9.0, dtype=torch.float64)
    >>> round(float(kurtosis_loss([w])), 10)
    0.2034385851
    """
    terms = torch.stack([(kurtosis(weight) - target) ** 2 for weight in weights])
    return combined(terms, combine)


def combined(terms: Tensor, combine: Combine) -> Tensor:
    """One number of the terms of all layers."""
    if combine == "max":
        return terms.max()
    return terms.mean() if combine == "avg" else terms.sum()


def kurtosis_gradient(rows: Tensor, *, unbiased: bool = True) -> tuple[Tensor, Tensor]:
    """Kurtosis of every row and its gradient, in closed form.

    With the biased `s`, `z = (w - mu) / s` and `K = mean(z^4)`:
    `dKurt/dw_i = ((N-1)/N)^2 * 4 / (N s) * (z_i^3 - mean(z^3) - K z_i)`; without `unbiased` the first factor is 1.

    Args:
        rows: `(G, N)`.
        unbiased: as in `kurtosis`.

    Returns:
        Kurtosis `(G,)`, and its gradient `(G, N)`, which sums to 0 and is orthogonal to the row. A row whose spread is
        lost in the rounding of its mean has no gradient.

    >>> value, slope = kurtosis_gradient(torch.tensor([[0.0, 1.0, 2.0, 5.0]]))
    >>> value, bool(slope.sum().abs() < 1e-6)
    (tensor([1.1250]), True)
    """
    count = rows.shape[1]
    mean = rows.mean(dim=1, keepdim=True)
    z = rows - mean
    variance = z.square().mean(dim=1, keepdim=True)
    scale = (variance + _EPSILON).sqrt_()
    z /= scale
    square = z * z
    fourth = square.square().mean(dim=1, keepdim=True)
    slope = square.mul_(z)
    slope -= slope.mean(dim=1, keepdim=True)
    slope.addcmul_(z, fourth, value=-1)
    factor = ((count - 1) / count) ** 2 if unbiased else 1.0
    slope *= torch.where(variance > (1e-6 * mean).square(), 4 * factor / count / scale, 0.0)
    return factor * fourth.squeeze(1), slope
