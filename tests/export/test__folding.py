"""What is folded, and what is not since something else reads it."""

from __future__ import annotations

import pytest

from tests.export.following import hold

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


@pytest.mark.parametrize("seed", range(100, 115))
def test_random_networks_lower_to_the_nearest_integers(seed: int) -> None:
    hold(seed)
