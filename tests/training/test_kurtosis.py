"""The kurtosis of weights, its loss and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mixbit.training.kurtosis import kurtosis, kurtosis_gradient, kurtosis_loss

# Population values of known distributions, by quantiles of 200,000 points.
DISTRIBUTIONS = [
    (stats.uniform, 1.8), (stats.norm, 3.0), (stats.laplace, 6.0), (stats.logistic, 4.2), (stats.triang(0.5), 2.4),
    (stats.arcsine, 1.5),
]  # fmt: skip


@pytest.mark.parametrize(("distribution", "expected"), DISTRIBUTIONS)
def test_known_distributions(distribution: object, expected: float) -> None:
    points = distribution.ppf((np.arange(2_000_000) + 0.5) / 2_000_000)  # type: ignore[attr-defined]
    assert float(kurtosis(torch.from_numpy(points), unbiased=False)) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(
    ("levels", "expected"), [(2, 1.0), (3, 1.5), (4, 1.64), (8, 1.761905), (16, 1.790588), (256, 1.799963)]
)
def test_equispaced_levels(levels: int, expected: float) -> None:
    w = torch.arange(levels, dtype=torch.float64)
    assert float(kurtosis(w, unbiased=False)) == pytest.approx(expected, abs=5e-7)
    assert 3 - 6 * (levels**2 + 1) / (5 * (levels**2 - 1)) == pytest.approx(expected, abs=5e-7)


@given(st.integers(0, 10_000), st.integers(8, 400))
@settings(max_examples=30, deadline=None)
def test_scipy_agrees(seed: int, count: int) -> None:
    w = np.random.default_rng(seed).laplace(size=count)
    found = float(kurtosis(torch.from_numpy(w), unbiased=False))
    assert found == pytest.approx(float(stats.kurtosis(w, fisher=False, bias=True)), rel=1e-6)
    unbiased = float(kurtosis(torch.from_numpy(w)))
    assert unbiased == pytest.approx(found * ((count - 1) / count) ** 2, rel=1e-6)


@pytest.mark.parametrize("unbiased", [True, False])
def test_closed_form_is_autograd(unbiased: bool) -> None:
    rows = torch.randn(5, 700, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.05
    values, slopes = kurtosis_gradient(rows.clone(), unbiased=unbiased)
    for row, value, slope in zip(rows, values, slopes, strict=True):
        leaf = row.clone().requires_grad_()
        expected = kurtosis(leaf, unbiased=unbiased)
        (autograd,) = torch.autograd.grad(expected, leaf)
        assert value.item() == pytest.approx(expected.item(), rel=1e-8)
        assert torch.allclose(slope, autograd, rtol=1e-7, atol=1e-12)
        assert abs(slope.sum().item()) < 1e-10 and abs((slope * row).sum().item()) < 1e-7  # shift, scale


def test_the_loss_of_several_weights_has_the_target_and_the_combination_that_is_asked_for() -> None:
    """Terms by scipy, whose kurtosis has the divisor N."""
    drawn = [np.random.default_rng(seed).laplace(size=40 + seed) for seed in range(3)]
    terms = [(((len(w) - 1) / len(w)) ** 2 * stats.kurtosis(w, fisher=False) - 2.5) ** 2 for w in drawn]
    weights = [torch.from_numpy(w) for w in drawn]
    for combine, wanted in (("avg", np.mean), ("sum", np.sum), ("max", np.max)):
        found = float(kurtosis_loss(weights, target=2.5, combine=combine))  # type: ignore[arg-type]
        assert found == pytest.approx(wanted(terms), rel=1e-3)


def test_a_spread_that_the_mean_nearly_hides_still_has_a_gradient() -> None:
    """A thousandth of the mean is no rounding of it."""
    rows = 1.0 + 1e-3 * torch.randn(1, 500, generator=torch.Generator().manual_seed(0)).double()
    leaf = rows.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(kurtosis(leaf), leaf)
    torch.testing.assert_close(kurtosis_gradient(rows)[1], wanted, rtol=1e-4, atol=1e-6)
