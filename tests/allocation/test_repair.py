"""Repair of indicator columns against LIMPQ's rule, written out, and against least squares by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixbit.allocation import repair_monotone
from mixbit.errors import BudgetError

COLUMNS = st.lists(st.floats(0, 10), min_size=1, max_size=7)


def limpq(scores: list[float]) -> list[float]:
    """The released loop, for descending bits: compare with the original values, overwrite (there: with 1e8)."""
    fixed = list(scores)
    for index in range(len(scores) - 1):
        if scores[index + 1] < scores[index]:
            fixed[index + 1] = math.inf
    return fixed


@given(COLUMNS)
def test_forbid_is_the_released_rule(column: list[float]) -> None:
    bits = list(range(len(column) + 1, 1, -1))
    assert repair_monotone(bits, column).tolist() == limpq(column)


@given(COLUMNS, st.randoms())
def test_the_order_of_bits_does_not_matter(column: list[float], random) -> None:  # type: ignore[no-untyped-def]
    bits = [2**power for power in range(len(column))]
    order = list(range(len(column)))
    random.shuffle(order)
    for how in ("forbid", "isotonic", "none"):
        straight = repair_monotone(bits, column, how)  # type: ignore[arg-type]
        shuffled = repair_monotone([bits[i] for i in order], [column[i] for i in order], how)  # type: ignore[arg-type]
        assert shuffled.tolist() == [straight[i] for i in order]


def test_the_two_published_outliers() -> None:
    """layer4.2.conv3 and layer4.0.downsample.0: only W5 goes, W4 is compared with the original W5."""
    fixed = repair_monotone([6, 5, 4, 3, 2], [0.01145, 0.004305, 0.00744, 0.01302, 0.02288])
    assert np.isinf(fixed).tolist() == [False, True, False, False, False]
    fixed = repair_monotone([6, 5, 4, 3, 2], [0.004623, 0.004173, 0.006186, 0.01021, 0.01693])
    assert np.isinf(fixed).tolist() == [False, True, False, False, False]


@given(COLUMNS)
def test_isotonic_is_monotone_keeps_the_sum_and_what_was_right(column: list[float]) -> None:
    bits = list(range(2, len(column) + 2))
    fixed = repair_monotone(bits, column, "isotonic")
    assert (np.diff(fixed) <= 1e-12).all()
    assert math.isclose(fixed.sum(), sum(column), rel_tol=1e-12, abs_tol=1e-12)
    assert np.allclose(repair_monotone(bits, fixed, "isotonic"), fixed, rtol=1e-12)
    right = sorted(column, reverse=True)
    assert repair_monotone(bits, right, "isotonic").tolist() == right


def test_isotonic_is_nearest_in_least_squares() -> None:
    """Against every non-increasing sequence on a grid of tenths."""
    column = [0.2, 0.9, 0.4, 0.6]
    fixed = repair_monotone([2, 3, 4, 8], column, "isotonic")
    grid = np.arange(0, 1.01, 0.05)
    a, b, c, d = np.meshgrid(grid, grid, grid, grid, indexing="ij")
    monotone = (a >= b) & (b >= c) & (c >= d)
    distance = (a - column[0]) ** 2 + (b - column[1]) ** 2 + (c - column[2]) ** 2 + (d - column[3]) ** 2
    assert ((fixed - column) ** 2).sum() <= distance[monotone].min() + 1e-12
    assert fixed.tolist() == pytest.approx([0.55, 0.55, 0.5, 0.5])


def test_forbidden_scores_count_as_absent() -> None:
    """2 bits are compared with 8, the next width that is allowed."""
    assert repair_monotone([8, 4, 2], [0.3, math.inf, 0.5]).tolist() == [0.3, math.inf, 0.5]
    assert repair_monotone([8, 4, 2], [0.3, math.inf, 0.2]).tolist() == [0.3, math.inf, math.inf]
    assert repair_monotone([8, 4, 2], [0.3, math.inf, 0.1], "isotonic").tolist() == [0.2, math.inf, 0.2]


def test_the_input_stays_as_it_was() -> None:
    scores = np.array([0.3, 0.1])
    repair_monotone([4, 2], scores)
    assert scores.tolist() == [0.3, 0.1]


@pytest.mark.parametrize(
    ("bits", "scores", "how", "message"),
    [
        ([4, 2], [1.0], "forbid", r"shape \(1,\) for 2 bit-widths"),
        ([4, 4], [1.0, 2.0], "forbid", r"bits: got \[4, 4\]"),
        ([4, 2], [1.0, math.nan], "isotonic", "scores: got"),
        ([4, 2], [1.0, 2.0], "forbit", "how: got 'forbit'.*Did you mean 'forbid'"),
    ],
)
def test_bad_input(bits, scores, how, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BudgetError, match=message):
        repair_monotone(bits, scores, how)
