"""The step of least Lp error: `min over s of mean |x - Q_s(x)|^p`.

`|x - Q_s(x)|` is the distance of `x` to the nearest level, whatever the grid. The search evaluates it exactly, on the
values or on a histogram of them (`Sketch`), at 48 steps, 14 % apart, and then in three rounds about the best, each four
times as fine.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from mixbit.errors import MixbitError, did_you_mean
from mixbit.quantizers import fake_quantize, integer_range

__all__ = ["Levels", "Sketch", "lp_error", "lp_step", "widest_step"]

Levels = Literal["signed", "unsigned", "midrise"]
"""`k s` with `k` from `-2^(M-1)` to `2^(M-1) - 1`; from 0 to `2^M - 1`; `(k + 1/2) s` with the signed `k`."""

_SPAN, _COARSE, _FINE = (3e-3, 1.2), 48, 9
_SPACING = math.log(_SPAN[1] / _SPAN[0]) / (_COARSE - 1)
_ROUNDS = 3
_SMALLEST = 1e-8
_CACHED = 1 << 16
"""Numbers whose errors are found at once: a call costs more than its work on a few, and more fill the cache."""


def widest_step(rows: Tensor, bits: int, levels: Levels = "signed") -> Tensor:
    """The smallest step of which nothing is clipped, `(C,)`, for `rows` `(C, n)`.

    >>> widest_step(torch.tensor([[-1.0, 0.5]]), 2, "midrise")       # levels -1, -1/3, 1/3, 1
    tensor([0.6667])
    """
    low, high = _range(bits, levels)
    if _is_midrise(bits, levels):
        step = rows.abs().amax(dim=1) / (high + 0.5)
    else:
        step = rows.amax(dim=1) / high
        step = torch.maximum(step, rows.amin(dim=1) / low) if low else step
    return step.clamp_min(_SMALLEST)


def lp_error(
    rows: Tensor,
    step: Tensor,
    bits: int,
    levels: Levels = "signed",
    *,
    p: float = 2.0,
    weights: Tensor | None = None,
) -> Tensor:
    """`mean |x - Q_s(x)|^p` of each row, `(C,)` float64.

    Args:
        rows: values `(C, n)`, float32.
        step: `(C,)`, positive.
        bits: 1 and more.
        levels: see `Levels`.
        p: exponent, at least 1.
        weights: `(C, n)` or `(n,)`, how much each value counts; None counts all alike.

    >>> lp_error(torch.tensor([[0.1, 0.9, 5.0]]), torch.tensor([1.0]), 3).tolist()      # clipped at 3
    [1.34...]
    """
    low, high = _range(bits, levels)
    if _is_midrise(bits, levels):
        rows = rows - step[:, None] / 2
    bounds = (torch.full((1,), float(bound), device=rows.device) for bound in (low, high))
    distance = fake_quantize(rows, step, torch.zeros_like(step), *bounds).sub_(rows).abs_()
    powers = _power(distance, p)
    if weights is None:
        return powers.mean(dim=1, dtype=torch.float64)
    total = weights.sum(dim=-1, dtype=torch.float64)
    return (powers * weights).sum(dim=1, dtype=torch.float64) / total


def lp_step(
    rows: Tensor, bits: int, levels: Levels = "signed", *, p: float = 2.0, weights: Tensor | None = None
) -> Tensor:
    """The step of least `lp_error` for each row, to about 0.2 %.

    Steps from 0.003 to 1.2 times that which clips nothing are tried. Rows that are all zero get a tiny positive step.

    Args:
        rows: values `(C, n)`.
        bits: 1 and more.
        levels: see `Levels`.
        p: exponent, 1 to 8.
        weights: as in `lp_error`.

    Returns:
        `(C,)`, float32.

    Raises:
        MixbitError: unknown levels, `p` outside its range, or values that are not finite.

    >>> x = torch.linspace(-1, 1, 10001).view(1, -1)       # uniform: 2 / 2^M on the grid without zero
    >>> [round(lp_step(x, bits, "midrise").item(), 3) for bits in (2, 3, 4)]
    [0.5, 0.25, 0.125]
    """
    if not 1 <= p <= 8:
        raise MixbitError(f"p={p} is no exponent to search with. Legal: 1 to 8.")
    rows = rows.detach().float()
    if not torch.isfinite(rows).all():
        raise MixbitError("the values hold NaN or infinity, so no step fits them. Check the model and its inputs.")
    centre = widest_step(rows, bits, levels)
    tried = torch.logspace(math.log10(_SPAN[0]), math.log10(_SPAN[1]), _COARSE, dtype=torch.float64).tolist()
    best, reach = _best(rows, centre, tried, bits, levels, p, weights), _SPACING
    for _ in range(_ROUNDS):
        tried = torch.linspace(-reach, reach, _FINE, dtype=torch.float64).exp().tolist()
        best, reach = _best(rows, best, tried, bits, levels, p, weights), 2 * reach / (_FINE - 1)
    return best.clamp_min(_SMALLEST)


class Sketch:
    """A histogram of a tensor that is seen batch by batch, of which Lp errors are computed.

    The bins are of equal width from `-top` to `top`, with their centres as values; `top` doubles when a batch goes
    beyond it, and neighbours merge. No value moves by more than half a bin.
    The distance to the nearest level changes by no more than `x` does, so by Minkowski's inequality the Lp norm
    `(mean |x - Q(x)|^p)^(1/p)` of the sketch is within half a bin of the exact one, for every grid and every `p`.

    Args:
        bins: number of bins on either side of zero, even.

    Attributes:
        low: the smallest value seen, exact.
        high: the largest.

    >>> sketch = Sketch(bins=4)
    >>> sketch.add(torch.tensor([0.1, 0.4, 0.9, 1.0]))
    >>> sketch.add(torch.tensor([-2.0]))
    >>> sketch.counts.tolist(), sketch.width
    ([1.0, 0.0, 0.0, 0.0, 2.0, 2.0, 0.0, 0.0], 0.5)
    """

    def __init__(self, bins: int = 4096) -> None:
        if bins < 2 or bins % 2:
            raise MixbitError(f"bins={bins} is not legal. Legal: an even number from 2.")
        self.bins, self.top = bins, 0.0
        self.low, self.high = math.inf, -math.inf
        self.counts = torch.zeros(2 * bins, dtype=torch.float64)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return self.top / self.bins

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Count the values of a tensor.

        Raises:
            MixbitError: a value is not finite.
        """
        x = x.detach().float().flatten()
        low, high = (float(end) for end in x.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise MixbitError("a tensor to be quantized holds NaN or infinity. Check the model and its inputs.")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        if self.top:
            self.counts += torch.histc(x.cpu(), 2 * self.bins, -self.top, self.top).double()

    def rows(self) -> tuple[Tensor, Tensor]:
        """Values `(1, n)`, the centres of the bins that hold something, and how much each counts `(n,)`."""
        held = self.counts.nonzero().flatten()
        if not len(held):  # nothing but zeros
            return torch.zeros(1, 1), torch.ones(1)
        centres = ((held + 0.5) * self.width - self.top).clamp(self.low, self.high).float()
        return centres.view(1, -1), self.counts[held].float()

    def _widen(self, top: float) -> None:
        if not self.top:
            self.top = top
        while self.top < top:
            merged = self.counts.view(-1, 2).sum(dim=1)
            self.counts = torch.zeros_like(self.counts)
            self.counts[self.bins // 2 : self.bins + self.bins // 2] = merged
            self.top *= 2


def _best(
    rows: Tensor, centre: Tensor, parts: list[float], bits: int, levels: Levels, p: float, weights: Tensor | None
) -> Tensor:
    """The best of `centre * parts`, row by row."""
    steps = centre * torch.tensor(parts, dtype=centre.dtype, device=rows.device).unsqueeze(1)
    together = max(1, _CACHED // max(1, rows.numel()))
    errors = torch.cat([_errors(rows, some, bits, levels, p, weights) for some in torch.split(steps, together)])
    least = errors.nan_to_num(math.inf, math.inf).amin(dim=0)
    # The first of equals; the centre where no error is a number.
    places = torch.arange(len(errors), device=rows.device).unsqueeze(1)
    found = places.where((errors == least) & errors.isfinite(), len(errors)).amin(dim=0)
    return torch.cat([steps, centre.unsqueeze(0)]).gather(0, found.unsqueeze(0)).squeeze(0)


def _errors(rows: Tensor, steps: Tensor, bits: int, levels: Levels, p: float, weights: Tensor | None) -> Tensor:
    """`lp_error` of each row at each of its steps; both of shape (steps, rows)."""
    if len(steps) > 1:
        rows = rows.repeat(len(steps), 1)
        weights = weights if weights is None or weights.dim() == 1 else weights.repeat(len(steps), 1)
    return lp_error(rows, steps.flatten(), bits, levels, p=p, weights=weights).view(steps.shape)


def _power(x: Tensor, p: float) -> Tensor:
    """`x^p` of numbers that are not negative; whole and half exponents without `pow`, which is slow."""
    if p == 2:
        return x.square()
    if (2 * p) % 1:
        return x.pow(p)
    found = x.sqrt() if p % 1 else torch.ones_like(x)
    for _ in range(int(p)):
        found *= x
    return found


def _is_midrise(bits: int, levels: Levels) -> bool:
    """Whether the grid has no level at zero: one signed bit has none, as `mixbit.quantizers.Quantizer` has it."""
    return levels == "midrise" or (bits == 1 and levels == "signed")


def _range(bits: int, levels: Levels) -> tuple[int, int]:
    legal = get_args(Levels)
    if levels not in legal:
        raise MixbitError(f"levels={levels!r} is unknown.{did_you_mean(levels, legal)} Legal: {', '.join(legal)}.")
    return integer_range(bits, signed=levels != "unsigned")
