"""Grids of tensors: trained where they suffice, calibrated over all batches where not."""

from __future__ import annotations

import pytest

from tests.export.following import hold

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


@pytest.mark.parametrize("seed", range(50, 80))
def test_random_networks_lower_to_the_nearest_integers(seed: int) -> None:
    hold(seed)
