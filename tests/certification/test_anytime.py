import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import betaln

from mixbit.certification import ConfidenceSequence, lower_bound, upper_bound


@pytest.mark.parametrize(("hits", "samples"), [(1, 3), (0, 40), (40, 40), (990, 1000)])
def test_ends_are_where_the_mixture_is_one_over_alpha(hits: int, samples: int) -> None:
    bounds = ConfidenceSequence(0.01)
    bounds.add(hits, samples)

    def surprise(p: float) -> float:
        likelihood = hits * math.log(p) + (samples - hits) * math.log1p(-p)
        return float(betaln(hits + 1, samples - hits + 1)) - likelihood + math.log(0.01)

    share = min(max(hits / samples, 1e-9), 1 - 1e-9)
    ends = [brentq(surprise, end, share) if surprise(end) > 0 else None for end in (1e-300, 1 - 1e-16)]
    assert bounds.low == pytest.approx(0.0 if hits == 0 else ends[0], abs=1e-9)
    assert bounds.high == pytest.approx(1.0 if hits == samples else ends[1], abs=1e-9)


def test_bounds_only_come_closer_and_are_wider_than_those_of_a_fixed_number() -> None:
    bounds, hits = ConfidenceSequence(0.002), 0
    before = (0.0, 1.0)
    for at, more in enumerate(np.random.default_rng(0).binomial(50, 0.9, size=40), 1):
        hits += int(more)
        bounds.add(int(more), 50)
        assert before[0] <= bounds.low < bounds.high <= before[1]
        before = (bounds.low, bounds.high)
        assert (bounds.hits, bounds.samples) == (hits, 50 * at)
    assert bounds.low < float(lower_bound(hits, 2000, 0.001)) and bounds.high > float(upper_bound(hits, 2000, 0.001))
    assert bounds.high - bounds.low < 0.08


@pytest.mark.parametrize("chance", [0.5, 0.95])
def test_who_stops_when_he_likes_is_wrong_no_more_often(chance: float) -> None:
    """The worst stopping rule: as soon as the true chance is outside, of 200 runs."""
    runs = np.random.default_rng(1).binomial(20, chance, size=(200, 25))
    wrong = 0
    for run in runs:
        bounds, left = ConfidenceSequence(0.1), False
        for more in run:
            bounds.add(int(more), 20)
            left |= not bounds.low <= chance <= bounds.high
        wrong += left
    assert wrong / 200 <= 0.1
    fixed = lower_bound(runs.cumsum(1), 20 * np.arange(1, 26), 0.1) > chance
    assert fixed.any(1).mean() > 0.15, "bounds of a fixed number would be wrong more often"
