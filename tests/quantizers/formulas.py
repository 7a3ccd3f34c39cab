"""LSQ's published forward and backward, element by element in plain Python: no code in common with the package."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def lsq(
    x: Tensor, up: Tensor, step: Tensor, low: int, high: int, zero: Tensor | None = None, count: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`y`, and the gradients of `x`, of the step and of the zero point by `sum(up * y)` (LSQ, eq. 1 to 3).

    Args:
        x: any shape.
        up: like `x`.
        step: `(1,)`, or one a slice of the first dimension.
        low: lowest integer.
        high: highest integer.
        zero: like `step`, whole numbers; None for 0.
        count: elements that share a step, for LSQ's gradient scale; 0 for none.

    Returns:
        All in float64.
    """
    slices = len(step)
    zeros = [0.0] * slices if zero is None else zero.tolist()
    scale = 1 / math.sqrt(count * high) if count else 1.0
    outputs, passed, by_step, by_zero = [], [], [0.0] * slices, [0.0] * slices
    for c, (values, ups) in enumerate(
        zip(x.reshape(slices, -1).tolist(), up.reshape(slices, -1).tolist(), strict=True)
    ):
        s, z = float(step[c]), zeros[c]
        for value, g in zip(values, ups, strict=True):
            v = value / s
            q = min(max(round(v) + z, low), high)  # Python rounds half to even
            inside = low < v + z < high
            outputs.append(s * (q - z))
            passed.append(g if inside else 0.0)
            by_step[c] += g * (round(v) - v if inside else q - z)
            by_zero[c] += 0.0 if inside else -s * g
    return (
        torch.tensor(outputs, dtype=torch.float64).view(x.shape),
        torch.tensor(passed, dtype=torch.float64).view(x.shape),
        torch.tensor(by_step, dtype=torch.float64) * scale,
        torch.tensor(by_zero, dtype=torch.float64) * scale,
    )


def eighths(shape: tuple[int, ...], reach: int, seed: int = 0) -> Tensor:
    """Random multiples of 1/8 from `-reach` to `reach`: with such numbers all sums are exact in any order."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(-8 * reach, 8 * reach + 1, shape, generator=random) / 8
