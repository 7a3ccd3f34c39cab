"""Roundings against exact rationals and against integer arithmetic written out as C would do it."""

from __future__ import annotations

from fractions import Fraction
from math import floor, frexp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixbit.errors import MixbitError
from mixbit.integer.arithmetic import (
    ROUNDINGS,
    Grid,
    Rounding,
    add,
    change_scale,
    dequantize,
    factor,
    fixed_point,
    mean,
    mean_factor,
    quantize,
    saturate,
)
from tests.export.following import hold

int32 = st.integers(-(2**31) + 1, 2**31 - 1)
factors = st.floats(2.0**-30, 0.999, allow_subnormal=False)


def gemmlowp(a: int, multiplier: int, exponent: int) -> int:
    """`MultiplyByQuantizedMultiplier` of the reference kernels in Python integers, with C's division towards zero."""
    left, right = max(exponent, 0), max(-exponent, 0)
    product = (a << left) * multiplier
    nudged = product + ((1 << 30) if product >= 0 else 1 - (1 << 30))
    high = abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)
    mask = (1 << right) - 1
    remainder, threshold = high & mask, (mask >> 1) + (1 if high < 0 else 0)
    return (high >> right) + (1 if remainder > threshold else 0)


@given(int32, factors)
def test_single_rounds_the_exact_product_once(a: int, real: float) -> None:
    fixed = fixed_point(np.array(real))
    exact = Fraction(a) * int(fixed.multiplier) * Fraction(2) ** int(fixed.exponent - 31)
    assert int(change_scale(np.array(a), np.array(real), "single")) == floor(exact + Fraction(1, 2))


@given(int32, factors)
def test_away_rounds_the_exact_product_once(a: int, real: float) -> None:
    fixed = fixed_point(np.array(real))
    exact = Fraction(a) * int(fixed.multiplier) * Fraction(2) ** int(fixed.exponent - 31)
    wanted = floor(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)
    assert int(change_scale(np.array(a), np.array(real), "away")) == wanted


@given(st.integers(-(2**20), 2**20))
def test_away_and_single_part_at_negative_ties_alone(a: int) -> None:
    single, away = (int(change_scale(np.array(a), np.array(0.25), rounding)) for rounding in ("single", "away"))
    assert single - away == int(a < 0 and a % 4 == 2)


@given(int32, factors)
def test_double_is_gemmlowps(a: int, real: float) -> None:
    fixed = fixed_point(np.array(real))
    wanted = gemmlowp(a, int(fixed.multiplier), int(fixed.exponent))
    assert int(change_scale(np.array(a), np.array(real), "double")) == wanted


@given(
    st.integers(-(2**47) + 1, 2**47 - 1), st.floats(2.0**-31, 0.99), st.sampled_from(["single", "away"]), st.booleans()
)
def test_sums_beyond_int32_are_scaled_exactly(a: int, part: float, rounding: Rounding, negative: bool) -> None:
    """Products of up to 78 bits, in Python's own integers."""
    real = (-part if negative else part) * min(1.0, 2.0**31 / max(abs(a), 1))
    fixed = fixed_point(np.array(real))
    product = Fraction(a * int(fixed.multiplier)) * Fraction(2) ** int(fixed.exponent - 31)
    wanted = (
        floor(product + Fraction(1, 2)) if rounding == "single" or product > 0 else -floor(Fraction(1, 2) - product)
    )
    assert int(change_scale(np.array([a, 3]), np.array([real, 0.5]), rounding)[0]) == wanted


@given(st.integers(-(2**16), 2**16), st.floats(1.0, 1000.0))
def test_double_shifts_left_for_factors_above_one(a: int, real: float) -> None:
    fixed = fixed_point(np.array(real))
    wanted = gemmlowp(a, int(fixed.multiplier), int(fixed.exponent))
    assert int(change_scale(np.array(a), np.array(real), "double")) == wanted


@given(st.integers(-(2**20), 2**20), factors)
def test_roundings_differ_by_at_most_one(a: int, real: float) -> None:
    found = {int(change_scale(np.array(a), np.array(real), rounding)) for rounding in ROUNDINGS}
    assert max(found) - min(found) <= 1


@given(st.floats(2.0**-31, 2.0**29))
def test_fixed_point_is_within_half_a_unit(real: float) -> None:
    fixed = fixed_point(np.array(real))
    error = Fraction(int(fixed.multiplier)) * Fraction(2) ** int(fixed.exponent - 31) - Fraction(real)
    assert abs(error) <= Fraction(2) ** int(fixed.exponent - 32)
    assert 2**30 <= int(fixed.multiplier) < 2**31


def test_the_largest_mantissa_carries_over() -> None:
    fixed = fixed_point(np.array(1.0 - 2.0**-40))
    assert (int(fixed.multiplier), int(fixed.exponent)) == (2**30, 1)


def test_tiny_factors_become_zero_and_negative_ones_stay_negative() -> None:
    assert change_scale(np.array([2**31 - 1]), np.array(2.0**-40), "single").tolist() == [0]
    assert change_scale(np.array([100]), np.array(-0.25), "single").tolist() == [-25]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 2.0**31, 2.0**30, -(2.0**30)])
def test_impossible_factors_are_refused(bad: float) -> None:
    with pytest.raises(MixbitError, match="cannot change a scale"):
        fixed_point(np.array(bad))


@pytest.mark.parametrize("rounding", ["single", "away", "double"])
@pytest.mark.parametrize(("power", "result"), [(-31, 1), (-32, 0), (-33, 0)])
def test_factors_count_down_to_a_half_of_the_largest_sum(power: int, result: int, rounding: Rounding) -> None:
    """`0.99 2^-31` still takes `2^31 - 1` to 1; what stands below `2^-32` takes it to 0."""
    assert int(change_scale(np.array(2**31 - 1), np.array(0.99 * 2.0**power), rounding)) == result


@pytest.mark.parametrize("power", range(30, 47))
@pytest.mark.parametrize("rounding", ["single", "away"])
def test_sums_around_every_power_of_two_are_scaled_exactly(power: int, rounding: Rounding) -> None:
    """In Python's own integers, where products leave 64 bits and where they do not yet."""
    for a in (sign * (2**power + more) for sign in (1, -1) for more in (-1, 0, 1, 2 ** (power - 1))):
        real = 0.6180339887 * min(1.0, 2.0**31 / abs(a))
        product = Fraction(a * int(fixed_point(np.array(real)).multiplier)) * Fraction(2) ** int(
            fixed_point(np.array(real)).exponent - 31
        )
        half = Fraction(1, 2)
        wanted = floor(product + half) if rounding == "single" or a > 0 else -floor(half - product)
        assert int(change_scale(np.array([a]), np.array([real]), rounding)[0]) == wanted, a


@pytest.mark.parametrize("taps", [2, 49, 2**14])
def test_the_factor_of_a_small_mean_is_shifted_no_further_than_31(taps: int) -> None:
    """A right shift has room for 31, whatever the ratio; the value is cut off by less than a unit."""
    for power in range(-31, 0, 3):
        found = mean_factor(0.75 * 2.0**power, taps)
        exact = Fraction(3, 4) * Fraction(2) ** power / taps * Fraction(2) ** int(31 - found.exponent)
        assert found.exponent >= -31 and int(found.multiplier) == floor(exact)


@pytest.mark.parametrize(("zero", "ends", "base"), [(3, (0, 15), 0), (-8, (-8, 7), -8), (-3, (0, 15), -3)])
def test_an_unsigned_container_holds_the_range_and_the_zero_point(zero: int, ends: tuple[int, int], base: int) -> None:
    assert Grid(scale=1.0, zero_point=zero, qmin=ends[0], qmax=ends[1]).base == base


def test_float32_rounds_ties_to_even_in_float32() -> None:
    assert change_scale(np.array([1, 3, 5]), np.array(0.5), "float32").tolist() == [0, 2, 2]
    # 2^24 + 1 is no float32 number: the runtime sees 2^24.
    assert change_scale(np.array([2**24 + 1]), np.array(1.0), "float32").tolist() == [2**24]


def test_factors_are_taken_in_the_roundings_precision() -> None:
    assert factor(np.float32(0.1), 0.3, "float32").dtype == np.float32
    assert factor(0.1, 0.3, "single").dtype == np.float64


grids = st.builds(
    lambda scale, zero: Grid(scale=float(np.float32(scale)), zero_point=zero, qmin=-128, qmax=127),
    st.floats(0.01, 1.0),
    st.integers(-128, 127),
)


@given(st.integers(-128, 127), st.integers(-128, 127), grids, grids, grids)
def test_sums_are_within_a_step_of_the_real_sum(a: int, b: int, first: Grid, second: Grid, result: Grid) -> None:
    exact = (first.scale * (a - first.zero_point) + second.scale * (b - second.zero_point)) / result.scale
    for rounding in ROUNDINGS:
        found = int(add(np.array([a]), np.array([b]), (first, second, result), rounding)[0])
        assert abs(found - exact) <= 0.5 + 2e-4 * (1 + abs(exact)), rounding


def litert_factor(real: float) -> tuple[int, int]:
    """`QuantizeMultiplier`: 31 bits and a power of two."""
    mantissa, exponent = frexp(real)
    multiplier = floor(mantissa * 2**31 + 0.5)
    return (multiplier // 2, exponent + 1) if multiplier == 2**31 else (multiplier, exponent)


def litert_sum(a: int, b: int, first: Grid, second: Grid, result: Grid) -> int:
    """The reference kernel of `Add` for int8, in Python integers."""
    twice = 2.0 * max(first.scale, second.scale)
    shifted = ((a - first.zero_point) << 20, first.scale), ((b - second.zero_point) << 20, second.scale)
    total = sum(gemmlowp(x, *litert_factor(scale / twice)) for x, scale in shifted)
    return gemmlowp(total, *litert_factor(twice / (2**20 * result.scale)))


def fixed_sum(a: int, b: int, first: Grid, second: Grid, result: Grid) -> int:
    """Both ratios in one fixed point, of 30 binary places and fewer only where a ratio is 1 or more; rounded once."""
    ratios = [first.scale / result.scale, second.scale / result.scale]
    places = 30 - max(frexp(max(ratios))[1], 0)
    centred = (a - first.zero_point, b - second.zero_point)
    total = sum(x * round(Fraction(ratio) * 2**places) for x, ratio in zip(centred, ratios, strict=True))
    return floor(Fraction(total, 2**places) + Fraction(1, 2))


def test_sums_are_those_of_the_kernels_written_out_in_whole_numbers() -> None:
    random = np.random.default_rng(0)
    for wide, rounding, written in ((128, "double", litert_sum), (2**15, "single", fixed_sum)):
        for _ in range(400):
            scales = np.float32(10.0 ** random.uniform(-3, 3, size=3))
            points = random.integers(-wide, wide, size=3)
            first, second, result = (
                Grid(scale=float(scale), zero_point=int(zero), qmin=-wide, qmax=wide - 1)
                for scale, zero in zip(scales, points, strict=True)
            )
            if max(first.scale, second.scale) > 100 * result.scale:  # beyond what a result can hold
                continue
            a, b = (int(one) for one in random.integers(-wide, wide, size=2))
            found = int(add(np.array([a]), np.array([b]), (first, second, result), rounding)[0])
            assert found == written(a, b, first, second, result), (a, b, first, second, result)


@given(st.integers(-(2**13), 2**13), st.integers(1, 64), grids, grids)
def test_means_are_within_a_step_of_the_real_mean(total: int, taps: int, grid: Grid, result: Grid) -> None:
    for of in (grid, result):
        exact = total * grid.scale / of.scale / taps
        for rounding in ROUNDINGS:
            found = int(mean(np.array([total]), taps, (grid, of), rounding)[0])
            twice = 0.25 if rounding == "double" else 0  # half a unit before a shift by 1, or less
            assert abs(found - exact) <= 0.5 + twice + 2e-4 * (1 + abs(exact)), rounding


@given(st.integers(-(2**13), 2**13), st.integers(1, 64))
def test_a_mean_between_two_zero_points_is_scaled_although_the_scales_are_one(total: int, taps: int) -> None:
    """LiteRT divides where scale and zero point are those of the result, and multiplies by a factor elsewhere."""
    low, high = (Grid(scale=0.5, zero_point=zero, qmin=-128, qmax=127) for zero in (-128, 3))
    left = taps.bit_length() - 1
    wanted = gemmlowp(total, (2**30 << left) // taps, 1 - left)
    assert int(mean(np.array([total]), taps, (low, high), "double")[0]) == wanted


@given(st.integers(1, 2**14), st.floats(2.0**-16, 2.0**10))
def test_the_factor_of_a_mean_is_cut_off(taps: int, ratio: float) -> None:
    found, whole = mean_factor(ratio, taps), fixed_point(np.array(ratio))
    exact = Fraction(int(whole.multiplier)) * Fraction(2) ** int(whole.exponent - found.exponent) / taps
    assert int(found.multiplier) == floor(exact)
    assert 2**29 <= int(found.multiplier) < 2**31


@given(st.floats(-10, 10, width=32), grids)
def test_dequantized_values_quantize_to_themselves(x: float, grid: Grid) -> None:
    q = quantize(np.array([x], np.float32), grid)
    assert np.array_equal(quantize(dequantize(q, grid), grid), q)


def test_saturation_adds_the_zero_point_first() -> None:
    assert saturate(np.array([-3, 0, 300]), 2, (0, 255)).tolist() == [0, 2, 255]


def test_bits_of_a_grid() -> None:
    assert [Grid(scale=1.0, zero_point=0, qmin=0, qmax=2**b - 1).bits for b in range(2, 9)] == list(range(2, 9))


@pytest.mark.parametrize("rounding", ["single", "away"])
@pytest.mark.parametrize("seed", range(4))
def test_a_sum_is_the_nearest_to_the_real_one_for_all_pairs(seed: int, rounding: Rounding) -> None:
    """By the real numbers of both grids; all 65,536 pairs, zero points anywhere."""
    random = np.random.default_rng(seed)
    grids = [
        Grid(scale=float(np.float32(scale)), zero_point=int(zero), qmin=-128, qmax=127)
        for scale, zero in zip(random.uniform(0.01, 0.3, 3), random.integers(-128, 128, 3), strict=True)
    ]
    a, b = (axis.ravel() for axis in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    wanted = sum((q - of.zero_point) * of.scale for q, of in zip((a, b), grids, strict=False)) / grids[2].scale
    assert np.abs(add(a, b, (grids[0], grids[1], grids[2]), rounding) - wanted).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("seed", range(170, 180))
def test_random_networks_lower_to_the_nearest_integers(seed: int) -> None:
    hold(seed)
