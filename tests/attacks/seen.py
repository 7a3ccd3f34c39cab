"""What rows of options of attacks ask."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def expects(first: float, second: float) -> Callable[[float, float], bool]:
    """Whether the two are these numbers, up to float32's rounding."""
    return lambda one, other: (one, other) == pytest.approx((first, second), rel=1e-4)
