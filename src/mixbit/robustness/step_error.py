"""The exact squared error of uniform quantizers on known densities, at the best step and at wrong ones.

What the paper of KURE argues with (its section 3): a tensor with the shape of a uniform density is quantized with less
error than one with the shape of a normal density. All sums are in closed form, in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Literal, get_args

from mixbit._bits import check_bits
from mixbit.errors import MixbitError, did_you_mean

__all__ = ["Density", "LevelGrid", "expected_mse", "optimal_step", "relative_mse"]

Density = Literal["uniform", "normal", "laplace"]
"""Densities of zero mean and unit variance; their kurtosis is 1.8, 3 and 6."""

LevelGrid = Literal["mid-rise", "mid-tread", "signed"]
"""Where the levels of `M` bits lie, in steps: `2^M` odd halves; the `2^M + 1` integers from `-2^(M-1)` to `2^(M-1)`;
or the `2^M` integers from `-2^(M-1)` to `2^(M-1) - 1`, which are those of mixbit's weights."""

_EDGE = math.sqrt(3.0)  # of the uniform density of unit variance
_SCALE = math.sqrt(0.5)  # of the Laplace density of unit variance
_GOLDEN = (math.sqrt(5.0) - 1) / 2
# The best step times 2^M lies between: 3.46 for the uniform density, 11.1 for Laplace at 8 bits.
_NARROWEST, _WIDEST, _SCANNED = 2.0, 20.0, 200

Moments = tuple[float, float, float]


def expected_mse(density: Density, bits: int, step: float, grid: LevelGrid = "mid-rise") -> float:
    """`E[(X - Q(X))^2]`: the mean squared error of rounding `X` to the nearest level.

    Args:
        density: that of `X`, with zero mean and unit variance.
        bits: `M`, 1 to 8.
        step: distance of two levels, in standard deviations; positive.
        grid: see `LevelGrid`.

    Returns:
        The error in units of the variance.

    Raises:
        MixbitError: an unknown density or grid, or a number outside its range.

    >>> round(expected_mse("uniform", 4, 2 * 3**0.5 / 16), 12)  # step^2 / 12, as nothing is clipped
    0.00390625
    >>> round(expected_mse("normal", 4, 0.33522), 6)  # Max, 1960
    0.011543
    """
    moments = _moments(density)
    _check(bits, step)
    error = 0.0
    for low, high, level in _cells(_levels(bits, step, grid)):
        zeroth, first, second = moments(low, high)
        error += second - 2 * level * first + level**2 * zeroth
    return error


@cache
def optimal_step(density: Density, bits: int, grid: LevelGrid = "mid-rise") -> float:
    """The step of least `expected_mse`, in standard deviations.

    Args:
        density: of zero mean and unit variance.
        bits: `M`, 1 to 8.
        grid: see `LevelGrid`.

    Raises:
        MixbitError: an unknown density or grid, or bits outside 1 to 8.

    >>> [round(optimal_step("normal", bits), 4) for bits in (2, 3, 4)]  # Max, 1960
    [0.9957, 0.586, 0.3352]
    >>> round(optimal_step("uniform", 4, "mid-tread") * 17 / 2, 6)  # 2a / (2^M + 1), with a = sqrt(3)
    1.732051
    """
    _check(bits, 1.0)
    # The error has more than one valley, so the deepest is found on a grid before it is narrowed down.
    ratio = (_WIDEST / _NARROWEST) ** (1 / _SCANNED)
    steps = [_NARROWEST * ratio**i / 2**bits for i in range(_SCANNED + 1)]
    best = min(range(1, _SCANNED), key=lambda i: expected_mse(density, bits, steps[i], grid))
    return _golden(lambda step: expected_mse(density, bits, step, grid), steps[best - 1], steps[best + 1])


def relative_mse(density: Density, bits: int, ratio: float, grid: LevelGrid = "mid-rise") -> float:
    """`expected_mse` at `ratio` times the best step: what a wrong step costs.

    Args:
        density: of zero mean and unit variance.
        bits: `M`, 1 to 8.
        ratio: `step / optimal_step`, positive.
        grid: see `LevelGrid`.

    Raises:
        MixbitError: an unknown density or grid, or a number outside its range.

    >>> round(relative_mse("uniform", 4, 1.2), 5), round(relative_mse("normal", 4, 1.2), 5)
    (0.0055, 0.01383)
    >>> round(relative_mse("uniform", 4, 0.7), 4), round(relative_mse("normal", 4, 0.7), 4)  # the edges are clipped
    (0.0419, 0.0271)
    """
    return expected_mse(density, bits, ratio * optimal_step(density, bits, grid), grid)


def _check(bits: int, step: float) -> None:
    check_bits(bits, "weight", name="bits")
    if not (step > 0 and math.isfinite(step)):
        raise MixbitError(f"a step of {step!r} is not legal. Legal: positive finite numbers.")


def _levels(bits: int, step: float, grid: LevelGrid) -> list[float]:
    half = 2 ** (bits - 1)
    if grid == "mid-rise":
        return [(k + 0.5) * step for k in range(-half, half)]
    if grid == "mid-tread":
        return [k * step for k in range(-half, half + 1)]
    if grid == "signed":
        return [k * step for k in range(-half, half)]
    raise MixbitError(f"grid {grid!r} is unknown.{did_you_mean(grid, get_args(LevelGrid))} Legal: {_legal(LevelGrid)}.")


def _cells(levels: list[float]) -> Iterator[tuple[float, float, float]]:
    """(from, to, level) of all that is rounded to one level."""
    edges = [-math.inf, *((a + b) / 2 for a, b in pairwise(levels)), math.inf]
    yield from zip(edges[:-1], edges[1:], levels, strict=True)


def _moments(density: Density) -> Callable[[float, float], Moments]:
    """`(low, high) -> the integrals of f, x f and x^2 f` between them."""
    found = {"uniform": _uniform, "normal": _normal, "laplace": _laplace}
    if density not in found:
        raise MixbitError(f"density {density!r} is unknown.{did_you_mean(density, found)} Legal: {_legal(Density)}.")
    return found[density]


def _uniform(low: float, high: float) -> Moments:
    low, high = (min(max(x, -_EDGE), _EDGE) for x in (low, high))
    return tuple((high**k - low**k) / (2 * _EDGE * k) for k in (1, 2, 3))  # type: ignore[return-value]


def _normal(low: float, high: float) -> Moments:
    zeroth = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
    at_low, at_high = (math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) for x in (low, high))
    return zeroth, at_low - at_high, zeroth + _product(low, at_low) - _product(high, at_high)


def _product(x: float, density: float) -> float:
    """`x f(x)`, which is 0 at infinity."""
    return x * density if math.isfinite(x) else 0.0


def _laplace(low: float, high: float) -> Moments:
    if low < 0 < high:
        left, right = _laplace(low, 0.0), _laplace(0.0, high)
        return left[0] + right[0], left[1] + right[1], left[2] + right[2]
    if high <= 0 and low < 0:
        zeroth, first, second = _laplace(-high, -low)
        return zeroth, -first, second
    begin, end = _laplace_tail(low), _laplace_tail(high)
    return begin[0] - end[0], begin[1] - end[1], begin[2] - end[2]


def _laplace_tail(x: float) -> Moments:
    """The integrals from `x >= 0` to infinity."""
    if math.isinf(x):
        return 0.0, 0.0, 0.0
    tail, s = math.exp(-x / _SCALE) / 2, _SCALE
    return tail, tail * (x + s), tail * (x * x + 2 * s * x + 2 * s * s)


def _golden(f: Callable[[float], float], low: float, high: float) -> float:
    """The place of the least value between `low` and `high`, by golden-section search."""
    inner = high - _GOLDEN * (high - low)
    outer = low + _GOLDEN * (high - low)
    at_inner, at_outer = f(inner), f(outer)
    while high - low > 1e-9 * high:
        if at_inner < at_outer:
            high, outer, at_outer = outer, inner, at_inner
            inner = high - _GOLDEN * (high - low)
            at_inner = f(inner)
        else:
            low, inner, at_inner = inner, outer, at_outer
            outer = low + _GOLDEN * (high - low)
            at_outer = f(outer)
    return (low + high) / 2


def _legal(names: object) -> str:
    return ", ".join(repr(name) for name in get_args(names))
