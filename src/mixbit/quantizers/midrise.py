"""Quantizers without a level at zero: `2^M` levels from `-alpha` to `alpha`, and the LSQ of KURE's authors on them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mixbit._bits import is_binary
from mixbit.quantizers import rules
from mixbit.quantizers._gradients import per_slice, scale_gradient
from mixbit.quantizers.operator import fake_quantize
from mixbit.quantizers.quantizer import Quantizer
from mixbit.quantizers.rules import Rule

__all__ = ["LsqClip", "MidRise"]


class MidRise(Quantizer):
    """Weights on `2^M` levels `(k + 1/2) s`, `-2^(M-1) <= k < 2^(M-1)`: symmetric, and none of them is zero.

    The grid of LAPQ and of KURE's authors: from `-alpha` to `alpha` in steps of `s = 2 alpha / (2^M - 1)`. It is the
    operator's signed grid, moved by half a step. A weight of zero is a tie; it goes to `s / 2`.

    The step is learned as LSQ learns it. Its gradient is divided by `sqrt(count * alpha / s)`: where LSQ has the
    highest integer we put the clip in steps (our completion).

    Nothing of this has an integer form of `M` bits, so lowering refuses it.

    >>> quantizer = MidRise([2], signed=True)
    >>> with torch.no_grad():
    ...     _ = quantizer.steps.fill_(1.0)
    >>> quantizer(torch.tensor([-9.0, -0.2, 0.0, 0.4, 1.1])).detach()
    tensor([-1.5000, -0.5000,  0.5000,  0.5000,  1.5000])
    """

    no_integers: ClassVar[str | None] = "a mid-rise grid has no level at zero"

    def _fake_quantize(self, x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor) -> Tensor:
        step = scale_gradient(step, self._factor(x, qmax))
        half = per_slice(step, x) / 2
        return (fake_quantize(x - half, step, zero_point, qmin, qmax) + half).to(x.dtype)

    def _factor(self, x: Tensor, qmax: Tensor) -> Tensor | float:
        """What the gradient of a step is multiplied by."""
        count = self._count(x)
        return torch.rsqrt(count * (qmax + 0.5)) if count else 1.0

    def _by_rule(self, x: Tensor, rule: Rule, row: int) -> tuple[Tensor, Tensor]:
        return super()._by_rule(x, _MIDRISE.get(rule, rule), row)


class LsqClip(MidRise):
    """The learned quantizer of KURE's authors: a clip `alpha` that starts at `max |w|` and is learned as it is.

    `s = 2 alpha / (2^M - 1)` on the grid of `MidRise`; `alpha` gets the straight-through gradient without the
    gradient scale of LSQ, and no calibration rule (`weight_rule` and `gradient_scale` have no say). A weight on the
    clip, as the largest one is at the start, is inside: the authors' clamp passes its gradient on to the weight. They
    train the clip without momentum; here it has that of the other step sizes.

    The parameter of this class is `s`, as in all others. Its gradient is multiplied by `(2 / (2^M - 1))^2`, which makes
    every step of SGD on `s`, with momentum and decay, the step of SGD on `alpha`. It is not so for Adam.

    >>> quantizer = LsqClip([2], signed=True)
    >>> quantizer.initialise(torch.tensor([0.3, -1.2]), rules.lsq)
    >>> 1.5 * quantizer.steps.item()
    1.2...
    """

    def _fake_quantize(self, x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor) -> Tensor:
        # The operator counts an element on its bound as clipped; so the clamp comes first, and the bounds lie outside.
        step = scale_gradient(step, self._factor(x, qmax))
        alpha = per_slice(step * (qmax + 0.5), x)
        clamped = torch.clamp(x.float(), -alpha, alpha)  # inclusive: an element on alpha keeps its gradient
        half = per_slice(step, x) / 2
        return (fake_quantize(clamped - half, step, zero_point, qmin - 1, qmax + 1) + half).to(x.dtype)

    def _factor(self, x: Tensor, qmax: Tensor) -> Tensor | float:
        return (qmax + 0.5) ** -2.0

    def _by_rule(self, x: Tensor, rule: Rule, row: int) -> tuple[Tensor, Tensor]:
        return super()._by_rule(x, rules.minmax, row)


def _minmax(rows: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """`alpha = max |x|`: the smallest step of which nothing is clipped."""
    step = rows.abs().amax(dim=1) / (qmax + 0.5)
    return rules._positive(step), torch.zeros_like(step)


def _mse(rows: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """The step of least squared error among 80 fractions of the min-max step."""
    if is_binary(qmin, qmax):
        return rules.mse(rows, qmin, qmax)
    widest, zero = _minmax(rows, qmin, qmax)
    low, high = (torch.full((1,), bound, dtype=torch.float32, device=rows.device) for bound in (qmin, qmax))
    best, least = widest.clone(), torch.full_like(widest, float("inf"))
    for part in torch.linspace(0.0125, 1.0, 80).tolist():
        moved = rows - per_slice(widest * part, rows) / 2
        error = fake_quantize(moved, widest * part, zero, low, high).sub_(moved).square_().sum(dim=1)
        best, least = torch.where(error < least, widest * part, best), torch.minimum(error, least)
    return rules._positive(best), torch.zeros_like(best)


_MIDRISE: dict[Rule, Rule] = {rules.minmax: _minmax, rules.mse: _mse}
"""Rules that have another form on this grid; the formulas of the others know nothing of where the levels are."""
