"""What lowering reads of a program: every operator's arguments against PyTorch, and what it refuses."""

from __future__ import annotations

import pytest

from tests.export.following import hold

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


@pytest.mark.parametrize("seed", range(50))
def test_random_networks_lower_to_the_nearest_integers(seed: int) -> None:
    hold(seed)


@pytest.mark.bench
def test_thousands_of_random_networks() -> None:
    for seed in range(1000, 3000):
        hold(seed, steps=6)
