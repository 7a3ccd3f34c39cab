"""Ways in which a quantizer can differ from the one that a network was trained or calibrated with."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, get_args

import torch
from torch import Tensor

from mixbit.errors import MixbitError, did_you_mean
from mixbit.quantizers import MidRise, Quantizer, find_rule
from mixbit.robustness._grids import Grid, Rounding

__all__ = ["BitShift", "Clipping", "PowerOfTwoStep", "RoundBy", "ScaledStep", "Shift", "WeightBits"]

Rows: TypeAlias = Tensor
"""The tensor behind a grid as `(C, elements)`, one row a step."""

MIN_BITS, MAX_BITS = 2, 8
"""The range of a study of bits: one signed bit has no zero on most grids, which is no coarser grid but another."""


class Shift(Protocol):
    """A change of every quantizer at once."""

    @property
    def label(self) -> str:
        """Its name among the points of a sweep."""
        ...

    @property
    def value(self) -> float | None:
        """Its place on the axis of a sweep; None where there is none."""
        ...

    def __call__(self, grid: Grid, rows: Rows | None) -> Grid:
        """The changed grid; `rows` is None for an activation, whose values are not known yet."""
        ...


@dataclass(frozen=True, slots=True)
class ScaledStep:
    """Every step times `x = step / trained step`: above 1 the grid is coarser and wider, below 1 finer and narrower.

    Attributes:
        x: positive and finite.

    >>> ScaledStep(1.25).label
    '1.25'
    """

    x: float

    def __post_init__(self) -> None:
        if not (self.x > 0 and math.isfinite(self.x)):
            raise MixbitError(f"the step cannot be scaled by {self.x!r}. Legal: positive finite numbers.")

    @property
    def label(self) -> str:
        """The factor, with as many digits as it needs."""
        return f"{self.x:g}"

    @property
    def value(self) -> float | None:
        """The factor that steps are multiplied by."""
        return self.x

    def __call__(self, grid: Grid, rows: Rows | None) -> Grid:
        """The grid with another step, of as many levels."""
        return replace(grid, step=grid.step * self.x)


@dataclass(frozen=True, slots=True)
class PowerOfTwoStep:
    """Every step to the power of two that is nearest in `log2`, as hardware that shifts instead of multiplies needs."""

    label: str = "2^n"
    value: float | None = None

    def __call__(self, grid: Grid, rows: Rows | None) -> Grid:
        """The grid with another step."""
        # Made by ldexp: a float32 exp2 need not give the power exactly.
        exponent = torch.log2(grid.spacing.double()).round().to(torch.int32)
        return grid.with_spacing(torch.ldexp(torch.ones_like(grid.step), exponent))


@dataclass(frozen=True, slots=True)
class WeightBits:
    """Every grid to `bits`, over the range that it has: `step_M = step * 2^M0 / 2^M`.

    On a mid-rise grid the clip is what stays: `step_M = step * (2^M0 - 1) / (2^M - 1)`.

    Attributes:
        bits: 2 to 8; or None for the values behind the grid: the latent weights, which no clip bounds, or for DoReFa
            `tanh(w) / max |tanh w|`.

    >>> WeightBits(None).label, WeightBits(3).label
    ('float', '3')
    """

    bits: int | None

    def __post_init__(self) -> None:
        if self.bits is not None and self.bits not in range(MIN_BITS, MAX_BITS + 1):
            raise MixbitError(
                f"weight_bits {str(self.bits)[:40]!r} is not legal here. Legal: whole numbers {MIN_BITS} to "
                f"{MAX_BITS}, or None for float."
            )

    @property
    def label(self) -> str:
        """The bits, or `float`."""
        return "float" if self.bits is None else str(self.bits)

    @property
    def value(self) -> float | None:
        """The bits; None for float."""
        return None if self.bits is None else float(self.bits)

    def __call__(self, grid: Grid, rows: Rows | None) -> Grid:
        """The grid of as many levels as `bits` have."""
        return replace(grid, exact=True) if self.bits is None else grid.with_bits(self.bits)


@dataclass(frozen=True, slots=True)
class BitShift:
    """Every grid to so many bits more (or fewer) than it has, within 2 to 8, over the range that it has.

    Attributes:
        more: bits to add, a whole number from -6 to 6.

    >>> BitShift(-1).label, BitShift(2).label
    ('-1', '+2')
    """

    more: int

    def __post_init__(self) -> None:
        if abs(self.more) > MAX_BITS - MIN_BITS:
            raise MixbitError(f"bits cannot be shifted by {self.more!r}. Legal: whole numbers -6 to 6.")

    @property
    def label(self) -> str:
        """The bits that are added, with their sign."""
        return f"{self.more:+d}"

    @property
    def value(self) -> float | None:
        """The bits that are added."""
        return float(self.more)

    def __call__(self, grid: Grid, rows: Rows | None) -> Grid:
        """The grid of other bits; one at an end of the range, or beyond it, goes no further."""
        least, most = min(MIN_BITS, grid.bits), max(MAX_BITS, grid.bits)
        return grid.with_bits(min(max(grid.bits + self.more, least), most))


@dataclass(frozen=True, slots=True)
class RoundBy:
    """Another way to round to whole numbers.

    Attributes:
        rounding: see `Rounding`.
        seed: of stochastic rounding.

    >>> RoundBy("floor").label, RoundBy("stochastic", 3).label
    ('floor', 'stochastic 3')
    """

    rounding: Rounding
    seed: int = 0

    def __post_init__(self) -> None:
        legal = get_args(Rounding)
        if self.rounding not in legal:
            raise MixbitError(
                f"rounding {self.rounding!r} is unknown.{did_you_mean(self.rounding, legal)} Legal: {', '.join(legal)}."
            )

    @property
    def label(self) -> str:
        """Its name, with the seed where chance plays a part."""
        return f"stochastic {self.seed}" if self.rounding == "stochastic" else self.rounding

    @property
    def value(self) -> float | None:
        """None: there is no axis."""
        return None

    def __call__(self, grid: Grid, rows: Rows | None) -> Grid:
        """Numbers on the same grid, rounded to in another way."""
        return replace(grid, rounding=self.rounding, seed=self.seed)


@dataclass(frozen=True, slots=True)
class Clipping:
    """A step made anew from the tensor itself, in the place of the trained one, at the same bits.

    Attributes:
        rule: a name of `mixbit.quantizers.RULES` (`minmax`, `mse`, ...); `percentile 99.9`: the highest integer stands
            for the magnitude that so many percent of the tensor do not exceed; or `sigma 3`: `2^(b-1)` steps reach
            `|mean| + 3 sigma`, which for 3 is the rule `lsq+`.

    >>> from mixbit.robustness._grids import grid_of
    >>> rows = torch.tensor([[0.0, -1.0, 2.0, -30.0]])
    >>> Clipping("percentile 50")(grid_of(Quantizer([3], signed=True)), rows).step  # 1, which is 3 steps
    tensor([0.3333])
    """

    rule: str

    def __post_init__(self) -> None:
        if _own_rule(self.rule) is None:
            find_rule(self.rule)

    @property
    def label(self) -> str:
        """Name of the rule."""
        return self.rule

    @property
    def value(self) -> float | None:
        """None: there is no axis."""
        return None

    def __call__(self, grid: Grid, rows: Rows | None) -> Grid:
        """The grid that the rule gives for these rows; DoReFa's, which clips nothing, stays as it is.

        Raises:
            MixbitError: there are no rows, since this is an activation.
        """
        if rows is None:
            raise MixbitError("clipping needs the tensor, and activations are not known. Use sides='weights'.")
        if grid.kind == "dorefa":
            return grid
        own = _own_rule(self.rule)
        if own is not None:
            # A row of zeros has no step of its own, and nothing can be divided by 0.
            return replace(grid, step=own(rows.float(), grid).clamp(min=1e-8), zero_point=torch.zeros_like(grid.step))
        kind = MidRise if grid.kind == "midrise" else Quantizer
        maker = kind([grid.bits], signed=grid.qmin < 0, channels=len(rows)).to(rows.device)
        maker.initialise(rows, find_rule(self.rule))
        return replace(grid, step=maker.steps[0].detach(), zero_point=maker.zero_points[0])


def _own_rule(name: str) -> Callable[[Rows, Grid], Tensor] | None:
    """The rules of this module: `(rows, grid) -> step`; None for another name."""
    found = re.fullmatch(r"(percentile|sigma) (\d+(?:\.\d+)?)", name)
    if found is None:
        return None
    number = float(found[2])
    if not (0 < number <= 100 or (number and found[1] == "sigma")):
        raise MixbitError(f"rule {name!r} is not legal. Legal: 'percentile P' with 0 < P <= 100, 'sigma K' with K > 0.")
    if found[1] == "percentile":
        return lambda rows, grid: _percentile(rows, number / 100) / (grid.qmax + (grid.kind == "midrise") / 2)
    return lambda rows, grid: (rows.mean(dim=1).abs() + number * _sigma(rows)) / 2 ** (grid.bits - 1)


def _percentile(rows: Tensor, part: float) -> Tensor:
    """The least magnitude of each row that `part` of its magnitudes do not exceed."""
    count = rows.shape[1]
    return rows.abs().kthvalue(min(count, max(1, math.ceil(part * count))), dim=1).values


def _sigma(rows: Tensor) -> Tensor:
    return rows.std(dim=1) if rows.shape[1] > 1 else torch.zeros_like(rows[:, 0])
