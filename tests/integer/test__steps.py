"""Clamps and batch norms that are folded into a step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mixbit.integer._steps import Multiply, Sum
from tests.export.following import hold

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

INF = float("inf")
BOUNDS = ((0.0, INF), (0.0, 6.0), (-INF, 0.2), (0.4, INF), (-0.5, 0.3), (0.3, 0.3))


@pytest.mark.parametrize(("first", "second", "third"), list(itertools.product(BOUNDS, repeat=3)))
def test_clamps_after_each_other_are_one_clamp(
    first: tuple[float, float], second: tuple[float, float], third: tuple[float, float]
) -> None:
    """Also where they have no number in common: what the last one leaves."""
    x = np.linspace(-8, 8, 1601)
    step = Sum(name="add", inputs=[])
    wanted = x
    for bounds in (first, second, third):
        step.clamp(*bounds)
        wanted = np.clip(wanted, *bounds)
    assert step.bounds is not None
    assert np.array_equal(np.clip(x, *step.bounds), wanted)


def test_two_affine_maps_after_each_other() -> None:
    """4 (3 (2 q + 5) + 1) - 2 = 24 q + 62; a channel that turns its sign and one that is left as it is."""
    ones = np.ones((2, 1), np.int8)
    settings = {"integers": ones, "bits": 8, "scale": np.array([2.0, 0.5]), "bias": np.array([5.0, 1.0])}
    step = Multiply(name="fc", inputs=[], window=None, **settings)
    step.affine(np.array([3.0, -1.0]), np.array([1.0, 0.0]))
    step.affine(np.array([4.0, 1.0]), np.array([-2.0, 0.0]))
    assert step.scale.tolist() == [24.0, -0.5] and step.bias.tolist() == [62.0, -1.0]


@pytest.mark.parametrize("seed", range(80, 100))
def test_random_networks_lower_to_the_nearest_integers(seed: int) -> None:
    hold(seed)
