"""Integer arithmetic of the lowered network: grids, fixed-point multipliers, and how a result is rounded.

Everything that an integer network computes is a sum of products in int32 (in int64 where inputs of more than 8 bits
make it larger), a change of scale, and a clamp. The change of scale (requantization) is where runtimes differ, so how
it rounds is an attribute of every operation:

* `single`: the real factor is a 31-bit multiplier and a right shift, `floor(a * m / 2^n + 1/2)`: one rounding, ties up.
* `double`: the same factor as LiteRT's reference kernels apply it: the high half of `2 a m` rounded with ties up, then
  a right shift rounded with ties away from zero.
* `away`: as `single`, but ties go away from zero. LiteRT rounds its linear layers so.
* `float32`: as ONNX Runtime does it: `a` and the factor as float32, their float32 product to the nearest, ties to even.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mixbit.errors import MixbitError

__all__ = [
    "ROUNDINGS",
    "Array",
    "FixedPoint",
    "Grid",
    "Rounding",
    "add",
    "change_scale",
    "dequantize",
    "factor",
    "fixed_point",
    "mean",
    "mean_factor",
    "quantize",
    "saturate",
    "sum_terms",
]

Array: TypeAlias = npt.NDArray[Any]
Rounding: TypeAlias = Literal["single", "double", "away", "float32"]
ROUNDINGS: tuple[Rounding, ...] = ("single", "double", "away", "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """How the integers of a tensor stand for real numbers: `real = scale * (q - zero_point)`, `qmin <= q <= qmax`.

    >>> Grid(scale=0.5, zero_point=0, qmin=-8, qmax=7).bits
    4
    """

    scale: float
    """Positive; a float32 number."""
    zero_point: int
    qmin: int
    qmax: int

    @property
    def bits(self) -> int:
        """Bits that hold all integers of the range."""
        return int(self.qmax - self.qmin).bit_length()

    @property
    def centre(self) -> int:
        """The integer that an int8 container (int16 from 9 bits on) holds as 0: its half where the range ends beyond.

        >>> [Grid(scale=1.0, zero_point=0, qmin=0, qmax=end).centre for end in (127, 255, 32767, 65535)]
        [0, 128, 0, 32768]
        """
        half = 128 if self.bits <= 8 else 32768
        return half if self.qmax >= half else 0

    @property
    def base(self) -> int:
        """The integer that an unsigned container stores as 0: `qmin`, so that signed 4 bits are stored as 0 to 15."""
        return min(self.qmin, self.zero_point)


def quantize(x: Array, grid: Grid) -> Array:
    """Real numbers to integers: `clamp(round(x / scale) + zero_point)`, ties to even, in float32. NaN is the lowest.

    That is what ONNX Runtime gives for NaN, and the C does the same: a broken pixel has one answer everywhere.

    >>> quantize(np.array([0.25, 0.75, 9.0, np.nan], np.float32), Grid(scale=0.5, zero_point=0, qmin=0, qmax=15))
    array([ 0,  2, 15,  0], dtype=int32)
    """
    q = np.rint(x.astype(np.float32) / np.float32(grid.scale)) + np.float32(grid.zero_point)
    # fmax takes the number where the other is NaN.
    found: Array = np.minimum(np.fmax(q, np.float32(grid.qmin)), np.float32(grid.qmax)).astype(np.int32)
    return found


def dequantize(q: Array, grid: Grid) -> Array:
    """Integers to real numbers, float32.

    >>> dequantize(np.array([3]), Grid(scale=0.5, zero_point=1, qmin=0, qmax=15)).tolist()
    [1.0]
    """
    found: Array = (q - grid.zero_point).astype(np.float32) * np.float32(grid.scale)
    return found


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Real factors as `multiplier * 2^(exponent - 31)`, with `2^30 <= |multiplier| < 2^31` or zero.

    Attributes:
        multiplier: int64 array.
        exponent: int64 array of the same shape, at least -31.
    """

    multiplier: Array
    exponent: Array


def fixed_point(factors: Array) -> FixedPoint:
    """The nearest fixed-point factors; those below `2^-32` become zero, since they take every int32 to zero.

    >>> found = fixed_point(np.array([0.75, 1e-12]))
    >>> found.multiplier.tolist(), found.exponent.tolist()          # 0.75 = 1610612736 / 2^31
    ([1610612736, 0], [0, 0])

    Raises:
        MixbitError: a factor is not finite, or too large for a left shift of 31.
    """
    values = np.asarray(factors, dtype=np.float64)
    if not np.isfinite(values).all() or (np.abs(values) >= 2.0**30).any():
        raise MixbitError(
            f"factors of up to {np.abs(values).max():.3g} cannot change a scale. Legal: finite and below 2^30. "
            "Look for a layer whose output scale is near zero."
        )
    mantissa, exponent = np.frexp(values)
    multiplier, exponent = np.rint(mantissa * 2.0**31).astype(np.int64), exponent.astype(np.int64)
    over = np.abs(multiplier) == 2**31
    multiplier, exponent = np.where(over, multiplier // 2, multiplier), exponent + over
    tiny = exponent < -31
    return FixedPoint(np.where(tiny, 0, multiplier), np.where(tiny, 0, exponent))


def factor(of: Array | float, to: float, rounding: Rounding) -> Array:
    """`of / to`, in the precision in which that rounding uses it.

    Args:
        of: scale of what is there, e.g. input scale times weight scales.
        to: scale of the result.
    """
    if rounding == "float32":
        return np.asarray(of, np.float32) / np.float32(to)
    return np.asarray(of, np.float64) / float(to)


def change_scale(a: Array, factors: Array, rounding: Rounding) -> Array:
    """`a * factors` as integers, rounded as the module's text says; no zero point and no clamp yet.

    Args:
        a: integers of the int32 range; with `single` and `away` below `2^47`, where the result fits int32.
        factors: real factors that broadcast against `a`; see `factor`.

    >>> a = np.array([5, -5, 7])
    >>> [change_scale(a, np.array(0.5), rounding).tolist() for rounding in ROUNDINGS]
    [[3, -2, 4], [3, -2, 4], [3, -3, 4], [2, -2, 4]]
    """
    if rounding == "float32":
        rounded: Array = np.rint(a.astype(np.float32) * factors.astype(np.float32)).astype(np.int64)
        return rounded
    fixed, wide = fixed_point(factors), a.astype(np.int64)
    if rounding == "double":
        return _double(wide, fixed)
    found = _shift_right(wide * fixed.multiplier, 31 - fixed.exponent, rounding)
    beyond = np.abs(wide) >= 2**31
    return np.where(beyond, _shift_right_wide(wide, fixed, rounding), found) if beyond.any() else found


def _shift_right(a: Array, shift: Any, rounding: Rounding) -> Array:
    """`a / 2^shift`, to the nearest; ties up, or away from zero."""
    half = np.int64(1) << (shift - 1)
    found: Array = (a + half - (a < 0 if rounding == "away" else 0)) >> shift
    return found


def _shift_right_wide(a: Array, fixed: FixedPoint, rounding: Rounding) -> Array:
    """`_shift_right` of products of up to 78 bits: the low 16 bits of `a` are multiplied apart.

    `a m + h = ((a >> 16) m + (((a & 65535) m + h) >> 16)) 2^16 + ...`, and what is cut off lies below the last digit. A
    factor of `2^15` or more, which has no such digits, would take these `a` out of int32.
    """
    shift = np.maximum(31 - fixed.exponent, 16)
    half = (np.int64(1) << (shift - 1)) - ((a < 0) != (fixed.multiplier < 0) if rounding == "away" else 0)
    found: Array = ((a >> 16) * fixed.multiplier + (((a & 0xFFFF) * fixed.multiplier + half) >> 16)) >> (shift - 16)
    return found


def _double(a: Array, fixed: FixedPoint) -> Array:
    """LiteRT: `a << left`, then the rounded high half of the doubled product, then a rounded right shift."""
    left, right = np.maximum(fixed.exponent, 0), np.maximum(-fixed.exponent, 0)
    product = (a << left) * fixed.multiplier
    # gemmlowp nudges by half a unit and divides towards zero: to the nearest, ties up.
    nudged = product + np.where(product >= 0, np.int64(1 << 30), np.int64(1 - (1 << 30)))
    high = np.where(nudged >= 0, nudged >> 31, -((-nudged) >> 31))
    mask = (np.int64(1) << right) - 1
    rest, threshold = high & mask, (mask >> 1) + (high < 0)
    found: Array = (high >> right) + (rest > threshold)
    return found


def saturate(q: Array, zero_point: int, bounds: tuple[int, int]) -> Array:
    """Add the zero point and clamp."""
    found: Array = np.clip(q + zero_point, *bounds).astype(np.int32)
    return found


def add(a: Array, b: Array, grids: tuple[Grid, Grid, Grid], rounding: Rounding) -> Array:
    """`a + b` of two quantized tensors, as integers without the zero point of the result.

    `single` and `away` scale both to one fixed point and round their sum once. `double` is LiteRT's: both shifted left
    by 20, scaled against twice the larger scale, added, and scaled to the result. `float32` is ONNX Runtime's: the
    float32 ratios of the scales, multiplied and added in one rounding each, with the zero points in a constant.

    Args:
        a: integers of the first tensor, zero point included.
        b: those of the second.
        grids: of a, b and the result.

    >>> grid = Grid(scale=0.5, zero_point=0, qmin=-128, qmax=127)
    >>> coarse = Grid(scale=1.0, zero_point=0, qmin=-128, qmax=127)
    >>> [int(add(np.array([4]), np.array([1]), (grid, grid, coarse), rounding)[0]) for rounding in ROUNDINGS]
    [3, 3, 3, 2]
    """
    first, second, result = grids
    if rounding == "float32":
        return _add_float32(a, b, grids)
    a, b = a.astype(np.int64) - first.zero_point, b.astype(np.int64) - second.zero_point
    if rounding == "double":
        twice = 2 * max(first.scale, second.scale)
        left, right = (
            change_scale(x << 20, np.asarray(grid.scale / twice), "double") for x, grid in ((a, first), (b, second))
        )
        return change_scale(left + right, np.asarray(twice / (2**20 * result.scale)), "double")
    ratios = np.array([first.scale / result.scale, second.scale / result.scale])
    shift = 30 - int(max(np.frexp(ratios)[1].max(), 0))
    scaled = np.rint(ratios * 2.0**shift).astype(np.int64)
    return _shift_right(a * scaled[0] + b * scaled[1], shift, rounding)


def _add_float32(a: Array, b: Array, grids: tuple[Grid, Grid, Grid]) -> Array:
    """As the x86-64 build of ONNX Runtime has it, on the integers of its unsigned containers.

    `a r_a + (b r_b + c)` with `c = y_zero - (r_a a_zero + r_b b_zero)`. All sums but that with `y_zero` are fused
    multiply-adds, which round once: here in float64, which holds the product of a 24-bit factor and a 16-bit integer.
    """
    ratio_a, ratio_b, constant = sum_terms(*grids)
    total = _fused(a - grids[0].base, ratio_a, _fused(b - grids[1].base, ratio_b, constant))
    found: Array = np.rint(total).astype(np.int64) - (grids[2].zero_point - grids[2].base)
    return found


def sum_terms(first: Grid, second: Grid, result: Grid) -> tuple[np.float32, np.float32, np.float32]:
    """`r_a`, `r_b` and `c` of the `float32` sum `a r_a + (b r_b + c)` of stored integers.

    >>> grid = Grid(scale=0.5, zero_point=0, qmin=-8, qmax=7)
    >>> [float(one) for one in sum_terms(grid, grid, Grid(scale=1.0, zero_point=0, qmin=0, qmax=15))]
    [0.5, 0.5, -8.0]
    """
    ratio_a, ratio_b = (np.float32(grid.scale) / np.float32(result.scale) for grid in (first, second))
    zero_a, zero_b, zero = (np.float32(grid.zero_point - grid.base) for grid in (first, second, result))
    return ratio_a, ratio_b, np.float32(zero - _fused(zero_a, ratio_a, zero_b * ratio_b))


def _fused(integers: Any, ratio: Any, rest: Any) -> Any:
    return np.float32(np.float64(integers) * np.float64(ratio) + np.float64(rest))


def mean(sums: Array, taps: int, grids: tuple[Grid, Grid], rounding: Rounding) -> Array:
    """The mean of `taps` quantized numbers, as integers without the zero point of the result.

    `double` is LiteRT's. Where both grids have one scale and zero point, its average pool divides the sum of the int8
    integers by the taps, ties away from the integer 0, which is not the zero point. Else its mean scales the sum with
    `mean_factor`.

    Args:
        sums: of integers without the zero point.
        taps: how many.
        grids: of the numbers and of the result.
        rounding: see `change_scale`.

    >>> relu = Grid(scale=0.5, zero_point=-128, qmin=-128, qmax=127)
    >>> [int(mean(np.array([6]), 4, (relu, relu), rounding)[0]) for rounding in ROUNDINGS]  # 1.5: int8 -126.5
    [2, 1, 2, 2]
    """
    grid, result = grids
    if rounding == "float32":
        factors = np.float32(grid.scale) / np.float32(np.float32(result.scale) * np.float32(taps))
        return change_scale(sums, np.asarray(factors), "float32")
    if rounding != "double":
        return change_scale(sums, np.asarray(grid.scale / (result.scale * taps)), rounding)
    if (grid.scale, grid.zero_point) != (result.scale, result.zero_point):
        return _double(sums.astype(np.int64), mean_factor(grid.scale / result.scale, taps))
    zero = grid.zero_point - grid.centre
    total = sums + taps * zero
    found: Array = np.sign(total) * ((np.abs(total) + taps // 2) // taps) - zero
    return found


def mean_factor(ratio: float, taps: int) -> FixedPoint:
    """`ratio / taps` as LiteRT's mean has it: the multiplier of `ratio`, shifted left and divided towards zero.

    The multiplier keeps 30 or 31 digits, so it may be below the `2^30` of `fixed_point`.

    >>> found = mean_factor(0.75, 3)
    >>> int(found.multiplier), int(found.exponent)                    # 0.75 / 3 = 1073741824 / 2^32
    (1073741824, -1)
    """
    fixed = fixed_point(np.asarray(ratio))
    multiplier, exponent = int(fixed.multiplier), int(fixed.exponent)
    left = min(taps.bit_length() - 1, 31 + exponent)
    return FixedPoint(np.asarray((multiplier << left) // taps), np.asarray(exponent - left))
