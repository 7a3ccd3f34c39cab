from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap, norm

from mixbit import attacks
from mixbit.attacks import Found, ImageResults, Interval, Pgd, Spread, interval_of_mean, measure
from mixbit.errors import MixbitError
from mixbit.testing.attacks import LinearPredictor


def results(right: list[bool], success: list[bool], **more: Any) -> ImageResults:
    """Of images whose perturbation has norms 1, 2, 3 and so on."""
    lengths = tuple(float(at + 1) for at in range(len(right)))
    known: dict[str, Any] = {
        "queries": tuple(range(len(right))),
        "gradients": (0,) * len(right),
        "norms": dict.fromkeys(attacks.NORMS, lengths),
    }
    return ImageResults(right=tuple(right), success=tuple(success), **(known | more))


def test_measures_are_counts_of_images() -> None:
    """Ten images, eight right, two of these fooled: the third (length 3, 2 queries) and the fourth."""
    right = [True] * 8 + [False] * 2
    success = [at in (2, 3) for at in range(10)]
    snapped = dict.fromkeys(attacks.NORMS, tuple(10.0 * at for at in range(10)))
    found = measure(results(right, success, snapped=snapped), nearest="L2")
    assert (found.images, found.right, found.fooled) == (10, 8, 2)
    assert (found.clean_accuracy.value, found.robust_accuracy.value) == (0.8, pytest.approx(0.6))
    assert found.success is not None and found.success.value == 0.25
    assert found.distances == dict.fromkeys(attacks.NORMS, Spread(mean=3.5, median=3.5, largest=4.0))
    assert found.snapped == dict.fromkeys(attacks.NORMS, Spread(mean=25.0, median=25.0, largest=30.0))
    assert found.boundary is not None and found.boundary.value == 3.5
    assert found.queries == Spread(mean=3.5, median=3.5, largest=7.0)  # of the eight that were attacked
    ball = measure(results(right, success))
    assert ball.boundary is None and ball.snapped == {} and ball.success == found.success


def test_a_network_that_is_wrong_on_all_images_has_no_success_to_speak_of() -> None:
    found = measure(results([False] * 4, [False] * 4), nearest="L2")
    assert (found.clean_accuracy, found.robust_accuracy) == (Interval(value=0, low=0, high=0),) * 2
    assert (found.success, found.boundary, found.queries, found.distances) == (None, None, None, {})
    with pytest.raises(MixbitError, match="no image counts"):
        interval_of_mean([1.0, 2.0], [False, False])


def test_nobody_is_fooled() -> None:
    found = measure(results([True] * 4, [False] * 4), nearest="L2")
    assert found.success == Interval(value=0, low=0, high=0) and found.boundary is None and found.distances == {}


def test_intervals_are_those_of_scipy() -> None:
    """Within what 2000 draws of each leave open: a tenth of the width."""
    random = np.random.default_rng(0)
    values = random.exponential(size=60)
    among = random.random(60) < 0.6

    def theirs(*sample: np.ndarray, ratio: bool) -> Any:
        def mean(x: Any, w: Any, axis: int) -> Any:
            return (x * w).sum(axis) / w.sum(axis)

        weights = sample[1].astype(float) if ratio else np.ones(60)
        return bootstrap(
            (sample[0], weights), mean, paired=True, n_resamples=2000, method="percentile", rng=1
        ).confidence_interval

    for weights in (None, among):
        found = interval_of_mean(values, weights)
        wanted = theirs(values, among, ratio=weights is not None)
        assert found.value == pytest.approx(values.mean() if weights is None else values[among].mean())
        slack = 0.1 * (wanted.high - wanted.low)
        assert found.low == pytest.approx(wanted.low, abs=slack) and found.high == pytest.approx(wanted.high, abs=slack)


def test_an_interval_of_many_images_is_that_of_the_normal_law() -> None:
    """400 of 1000: 1.96 standard errors to either side."""
    hits = np.arange(1000) < 400
    found = interval_of_mean(hits)
    half = norm.ppf(0.975) * np.sqrt(0.4 * 0.6 / 1000)
    assert (found.low, found.high) == pytest.approx((0.4 - half, 0.4 + half), abs=0.003)
    assert found == interval_of_mean(hits) != interval_of_mean(hits, seed=1)


def test_results_are_those_of_the_attack_and_parts_join() -> None:
    predictor = LinearPredictor()
    x = (0.5 + 0.1 * torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    y = predictor.logits(x).argmax(1)
    y[0] = (y[0] + 1) % 3
    attack = Pgd(eps=0.25, steps=5, restarts=1)
    whole = ImageResults.of(attack.run(predictor, x, y), x, torch.round)
    assert whole.right == (False,) + (True,) * 5 and whole.norms["Linf"][0] == 0
    assert 0 < max(whole.norms["Linf"]) <= 0.25 + 1e-6
    found = attack.run(predictor, x, y)
    flat = (found.points - x).flatten(1).numpy()
    assert whole.norms["L1"] == pytest.approx(np.abs(flat).sum(1), rel=1e-5)
    on_grid = (np.round(found.points.numpy()) - np.round(x.numpy())).reshape(6, -1)
    assert whole.snapped is not None and whole.snapped["L0"] == tuple((on_grid != 0).sum(1))
    parts = [ImageResults.of(_rows(found, part), x[part], torch.round) for part in (slice(0, 2), slice(2, None))]
    assert ImageResults.join(parts) == whole
    with pytest.raises(ValueError, match="one or more"):
        ImageResults.join([whole, ImageResults.of(found, x)])


def _rows(found: Found, part: slice) -> Found:
    return Found(**{name: getattr(found, name)[part] for name in Found.__dataclass_fields__})
