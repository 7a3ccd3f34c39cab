import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm

from mixbit.certification import chance_of, least_samples, lower_bound, radius_of, upper_bound
from mixbit.errors import MixbitError


@pytest.mark.parametrize(
    ("hits", "samples", "alpha", "chance", "radius"),
    [
        (990, 1000, 0.001, 0.97603619, 1.978010),
        (1000, 1000, 0.001, 0.99311605, 2.463263),
        (950, 1000, 0.001, 0.92504678, 1.439862),
        (600, 1000, 0.001, 0.55107547, 0.128379),
        (550, 1000, 0.001, 0.50067596, 0.001694),
        (540, 1000, 0.001, 0.49065586, 0.0),
        (9900, 10000, 0.001, 0.98653116, 2.212420),
        (10000, 10000, 0.001, 0.99930946, 3.198578),
        (99000, 100000, 0.001, 0.98898934, 2.290000),
        (100000, 100000, 0.001, 0.99993092, 3.811457),
        (95, 100, 0.001, 0.84463269, 1.013682),
        (990, 1000, 0.002, 0.97716795, 1.998485),
        (99, 100, 0.05, 0.95344019, 1.679166),
    ],
)
def test_bounds_and_radii_are_those_of_the_literature(
    hits: int, samples: int, alpha: float, chance: float, radius: float
) -> None:
    found = lower_bound(hits, samples, alpha)
    assert float(found) == pytest.approx(chance, abs=5e-9)
    for sigma in (0.25, 1.0):
        assert float(radius_of(found, sigma)) == pytest.approx(sigma * radius, abs=1e-6)


@pytest.mark.parametrize(
    ("hits", "samples", "chance"),
    [
        (0, 100, 0.06674570), (0, 1000, 0.00688395), (1, 1000, 0.00919550), (5, 1000, 0.01636075),
        (10, 1000, 0.02396381), (50, 1000, 0.07495322), (10, 5000, 0.00481998), (50, 10000, 0.00758434),
    ],
)  # fmt: skip
def test_upper_bounds(hits: int, samples: int, chance: float) -> None:
    assert float(upper_bound(hits, samples, 0.001)) == pytest.approx(chance, abs=5e-9)


@pytest.mark.parametrize("samples", [1, 7, 400])
@pytest.mark.parametrize("alpha", [0.001, 0.3])
def test_bounds_of_all_counts_are_scipys(samples: int, alpha: float) -> None:
    counts = np.unique(np.linspace(0, samples, 9).astype(int))
    both = {"greater": lower_bound(counts, samples, alpha), "less": upper_bound(counts, samples, alpha)}
    for side, found in both.items():
        tests = [binomtest(int(k), samples, alternative=side).proportion_ci(1 - alpha, "exact") for k in counts]
        wanted = [one.low if side == "greater" else one.high for one in tests]
        np.testing.assert_allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("chance", [0.02, 0.5, 0.97])
def test_bounds_fail_as_rarely_as_they_say(chance: float) -> None:
    counts = np.arange(201)
    weights = binom.pmf(counts, 200, chance)
    assert weights[lower_bound(counts, 200, 0.05) > chance].sum() <= 0.05
    assert weights[upper_bound(counts, 200, 0.05) < chance].sum() <= 0.05


def test_the_fewest_samples_that_certify_anything() -> None:
    for alpha in (0.5, 0.25, 0.1, 0.001, 1e-6):
        least = least_samples(alpha)
        assert float(lower_bound(least, least, alpha)) > 0.5
        assert least == 1 or float(lower_bound(least - 1, least - 1, alpha)) <= 0.5 + 1e-12


def test_a_radius_needs_its_chance() -> None:
    radii = np.array([0.1, 0.7, 2.0])
    np.testing.assert_allclose(chance_of(radii, 0.5), norm.cdf(radii / 0.5))
    np.testing.assert_allclose(radius_of(chance_of(radii, 0.5), 0.5), radii)
    assert radius_of([0.2, 0.5], 1.0).tolist() == [0, 0]


@pytest.mark.parametrize(("hits", "samples"), [(-1, 5), (6, 5), (0, 0)])
def test_counts_that_cannot_be(hits: int, samples: int) -> None:
    with pytest.raises(MixbitError, match=f"hits={hits}, samples={samples}. Legal: 0 hits or more, at most as many"):
        lower_bound(hits, samples, 0.001)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_alphas_that_cannot_be(alpha: float) -> None:
    with pytest.raises(MixbitError, match=r"Legal: above 0 and below 1, such as 0.001"):
        upper_bound(1, 5, alpha)
