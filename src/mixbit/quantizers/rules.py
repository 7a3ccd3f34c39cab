"""How a quantizer's first step size is chosen from the data: one function a published rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mixbit._bits import is_binary
from mixbit.errors import MixbitError, did_you_mean
from mixbit.quantizers.operator import fake_quantize

__all__ = ["RULES", "Rule", "RuleName", "find_rule"]

Rule = Callable[[Tensor, int, int], tuple[Tensor, Tensor]]
"""`(rows, qmin, qmax) -> (step, zero_point)`: `rows` is `(C, elements)`, the answers are `(C,)` float32."""

_CACHED = 1 << 16
"""Numbers of float32 that fit into a core's own cache beside their copies."""

RuleName = Literal["lsq", "lsq+", "minmax", "minmax-affine", "mse", "constant"]


def lsq(rows: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """`s = 2 * mean(|x|) / sqrt(qmax)` (LSQ, section 2.1).

    One signed bit counts as `qmax = 1`: its levels are then at `mean(|x|)`, which is the best place (our completion).

    >>> lsq(torch.tensor([[-1.3, -1, -.62, -.3, -.06, 0, .12, .26, .55, .74, 1.4]]), 0, 7)[0]
    tensor([0.4364])
    """
    step = 2 * rows.abs().mean(dim=1) / max(qmax, 1) ** 0.5
    return _positive(step), torch.zeros_like(step)


def lsq_plus(rows: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """`s = max(|mu - 3 sigma|, |mu + 3 sigma|) / 2^(b-1)` with the unbiased sigma (LSQ+, for weights).

    >>> lsq_plus(torch.tensor([[-1.3, -1, -.62, -.3, -.06, 0, .12, .26, .55, .74, 1.4]]), -4, 3)[0]
    tensor([0.5884])
    """
    mean, sigma = rows.mean(dim=1), rows.std(dim=1) if rows.shape[1] > 1 else rows.abs().squeeze(1)
    half = (qmax - qmin + 1) / 2
    step = torch.maximum((mean - 3 * sigma).abs(), (mean + 3 * sigma).abs()) / half
    return _positive(step), torch.zeros_like(step)


def minmax(rows: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """The smallest step that clips nothing, zero point 0; of one signed bit, levels at the largest magnitude.

    >>> minmax(torch.tensor([[-1.0, 0.5]]), -4, 3)[0], minmax(torch.tensor([[-0.2, 3.5]]), 0, 7)[0]
    (tensor([0.2500]), tensor([0.5000]))
    """
    if is_binary(qmin, qmax):
        step = 2 * rows.abs().amax(dim=1)
        return _positive(step), torch.zeros_like(step)
    step = rows.amax(dim=1) / qmax
    if qmin < 0:
        step = torch.maximum(step, rows.amin(dim=1) / qmin)
    return _positive(step), torch.zeros_like(step)


def minmax_affine(rows: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """Step and zero point that spread `[min, max]`, widened to hold zero, over the whole integer range.

    One signed bit is `minmax`.

    >>> minmax_affine(torch.tensor([[-1.0, 2.0]]), 0, 3)
    (tensor([1.]), tensor([1.]))
    """
    if is_binary(qmin, qmax):  # two levels around zero have no zero point
        return minmax(rows, qmin, qmax)
    low, high = rows.amin(dim=1).clamp(max=0), rows.amax(dim=1).clamp(min=0)
    step = _positive((high - low) / (qmax - qmin))
    return step, torch.clamp(qmin - torch.round(low / step), qmin, qmax)


def mse(rows: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """The step of least squared error among 80 fractions of the min-max step (0.0125 to 1), zero point 0.

    Of one signed bit it is known: levels at `mean(|x|)`.

    >>> x = torch.cat([torch.linspace(-1, 1, 1001), torch.tensor([10.0])]).view(1, -1)
    >>> mse(x, -4, 3)[0] / minmax(x, -4, 3)[0]  # the outlier is clipped
    tensor([0.0875])
    """
    if is_binary(qmin, qmax):
        return lsq(rows, qmin, qmax)
    widest, _ = minmax(rows, qmin, qmax)
    steps = (widest * torch.linspace(0.0125, 1.0, 80, device=rows.device).unsqueeze(1)).to(widest.dtype)
    low, high = (torch.full((1,), bound, dtype=torch.float32, device=rows.device) for bound in (qmin, qmax))
    errors = torch.cat([_errors(rows, some, low, high) for some in torch.split(steps, _together(rows))])
    least = errors.amin(dim=0)
    # The first of equals; the min-max step where no error is a number.
    places = torch.arange(len(errors), device=rows.device).unsqueeze(1)
    found = places.where((errors == least) & errors.isfinite(), len(errors) - 1).amin(dim=0)
    step = steps.gather(0, found.unsqueeze(0)).squeeze(0)
    return _positive(step), torch.zeros_like(step)


def _together(rows: Tensor) -> int:
    """How many steps are tried at once: on a small tensor a call costs more than its work, a large one fills the cache.

    >>> [_together(torch.zeros(rows, 2304)) for rows in (1, 16, 64)]
    [28, 1, 1]
    """
    return max(1, _CACHED // max(1, rows.numel()))


def _errors(rows: Tensor, steps: Tensor, qmin: Tensor, qmax: Tensor) -> Tensor:
    """Squared error of each row at each of its steps; both of shape (steps, rows)."""
    copies = rows.repeat(len(steps), 1) if len(steps) > 1 else rows
    flat = steps.flatten()
    grid = fake_quantize(copies, flat, torch.zeros_like(flat), qmin, qmax)
    return grid.sub_(copies).square_().sum(dim=1).view(steps.shape)


def constant(rows: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """`s = 0.1 / b` whatever the tensor holds: the "same value" start that LIMPQ's paper compares with.

    >>> constant(torch.zeros(1, 3), -4, 3)[0]
    tensor([0.0333])
    """
    bits = (qmax - qmin).bit_length()
    step = torch.full((rows.shape[0],), 0.1 / bits, dtype=torch.float32, device=rows.device)
    return step, torch.zeros_like(step)


def _positive(step: Tensor) -> Tensor:
    """A tensor of zeros would give step 0, by which nothing can be divided; one NaN or infinity no step at all."""
    if not torch.isfinite(step).all():
        bad = float(step[~step.isfinite()][0])
        raise MixbitError(
            f"the rule gives a step of {bad}: the numbers hold NaN or infinity, or are too large. "
            "Check the weights and the data."
        )
    return torch.where(step > 1e-8, step, torch.full_like(step, 1e-8))


RULES: dict[str, Rule] = {
    "lsq": lsq,
    "lsq+": lsq_plus,
    "minmax": minmax,
    "minmax-affine": minmax_affine,
    "mse": mse,
    "constant": constant,
}


def find_rule(name: str) -> Rule:
    """The rule of that name, or an error that lists the names."""
    if name not in RULES:
        raise MixbitError(
            f"calibration rule {name!r} is unknown.{did_you_mean(name, RULES)} Legal: {', '.join(RULES)}."
        )
    return RULES[name]
