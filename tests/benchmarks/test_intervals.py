"""Intervals against scipy's, and by drawing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import stats

from tests.support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import intervals


@pytest.mark.parametrize(("right", "images"), [(8000, 10_000), (0, 50), (50, 50), (3, 7), (456, 460)])
def test_wilson_is_scipys(right: int, images: int) -> None:
    wanted = stats.binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert intervals.wilson(right / images, images) == pytest.approx((100 * wanted.low, 100 * wanted.high), abs=1e-9)


def test_standard_errors_are_those_of_draws() -> None:
    draws = np.random.default_rng(0).binomial(400, [[0.8], [0.6]], size=(2, 20_000)) / 4
    one, other = draws
    assert intervals.standard_error(0.8, 400) == pytest.approx(one.std(), rel=0.03)
    assert intervals.of_difference(0.8, 0.6, 400) == pytest.approx((one - other).std(), rel=0.03)


def test_what_differs_is_apart_by_two_standard_errors() -> None:
    assert intervals.differ(0.80, 0.82, 10_000) and not intervals.differ(0.80, 0.81, 10_000)


@pytest.mark.parametrize("count", [6, 8, 12, 25, 50])
def test_the_interval_of_a_median_holds_it(count: int) -> None:
    draws = np.random.default_rng(1).normal(size=(4000, count))
    ends = np.array([intervals.of_median(list(row)) for row in draws])
    held = ((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).mean()
    assert held > 0.94
    narrower = np.sort(draws, axis=1)
    cut = int((narrower[0] < ends[0, 0]).sum())
    inside = (narrower[:, cut + 1] <= 0) & (narrower[:, -2 - cut] >= 0)
    assert inside.mean() < 0.955, "a narrower one would do"
