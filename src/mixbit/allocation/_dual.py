"""Lagrangian relaxation: prices for the limits, a lower bound, and what each option costs above the cheapest.

With a price p_k >= 0 for a unit of limit k, every feasible choice has
`score >= sum over groups of min over options of (score + p . cost) - p . room`. The best prices are the dual solution
of the linear relaxation; for one limit they are found by intersecting tangents of the concave bound, exactly and
without a linear programme.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from mixbit.allocation._problem import Floats, Instance, Ints

__all__ = ["Frame", "frame_at", "relaxation", "weighted"]

_MOST_TANGENTS = 200


@dataclass(frozen=True, slots=True)
class Frame:
    """An instance seen from the optimum of its relaxation."""

    price: Floats
    """(k,) score units for one unit of cost."""
    base: Ints
    """(n,) the option of each group that is cheapest at those prices."""
    reduced: Floats
    """(n, m) what an option costs above the base at those prices; inf where closed."""
    bound: float
    """No feasible choice has a smaller score; float, so right to within `noise`."""
    noise: float
    """Rounding of float sums over this instance, generously."""

    @property
    def bound_int(self) -> int:
        """The bound as an integer that is certainly valid."""
        return max(0, int(np.ceil(self.bound - self.noise)))


def relaxation(instance: Instance, deadline: float) -> Frame:
    """The frame at the best prices that can be found before the deadline (`time.perf_counter`)."""
    if len(instance.room) == 1:
        return frame_at(instance, np.array([_single_price(instance)]))
    return frame_at(instance, _prices_by_lp(instance, deadline))


def frame_at(instance: Instance, price: Floats) -> Frame:
    """The frame at given prices (k,)."""
    value = _priced(instance, price)
    base = value.argmin(axis=1)
    least = value[np.arange(len(base)), base]
    bound = float(least.sum() - price @ instance.room)
    size = float(np.abs(least).sum() + price @ np.abs(instance.room.astype(np.float64)))
    return Frame(price, base, value - least[:, None], bound, 1.0 + size * 2.0**-50)


def _priced(instance: Instance, price: Floats) -> Floats:
    return np.where(instance.open, instance.scores + weighted(price, instance.costs), np.inf)


def weighted(price: Floats, costs: Ints) -> Floats:
    """Sum over rows of price (k,) times costs (k, n, m); without BLAS, whose threads cost more than so few rows."""
    total = np.zeros(costs.shape[1:])
    for each, row in zip(price, costs, strict=True):
        total += each * row
    return total


def _single_price(instance: Instance) -> float:
    """The price of one limit at which its bound is largest, by intersecting the two tangents around it."""
    room = int(instance.room[0])
    over = _point(instance, instance.cheapest_scores())
    if over[1] <= room:
        return 0.0
    within = _point(instance, np.where(instance.open, instance.costs[0], np.iinfo(np.int64).max).argmin(axis=1))
    price = 0.0
    for _ in range(_MOST_TANGENTS):
        price = (within[0] - over[0]) / (over[1] - within[1])
        point = _point(instance, _priced(instance, np.array([price])).argmin(axis=1))
        if point in (over, within) or point[0] + price * point[1] >= over[0] + price * over[1]:
            break
        over, within = (point, within) if point[1] > room else (over, point)
    return max(price, 0.0)


def _point(instance: Instance, choice: Ints) -> tuple[int, int]:
    return instance.score(choice), int(instance.used(choice)[0])


def _prices_by_lp(instance: Instance, deadline: float) -> Floats:
    """Dual prices of the linear relaxation; zeros (a valid, weak choice) where the linear solver gives none."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    group, option = np.nonzero(instance.open)
    count, groups = len(group), len(instance.open)
    score_unit = max(1.0, float(instance.scores.max(initial=1)))
    row_unit = np.maximum(1.0, instance.room.astype(np.float64))
    one_each = csr_array((np.ones(count), (group, np.arange(count))), shape=(groups, count))
    result = linprog(
        instance.scores[group, option] / score_unit,
        A_ub=instance.costs[:, group, option] / row_unit[:, None],
        b_ub=instance.room / row_unit,
        A_eq=cast(Any, one_each),  # sparse matrices are legal here, and unknown to the stubs
        b_eq=np.ones(groups),
        method="highs",
        options={"time_limit": max(0.1, deadline - time.perf_counter())},
    )
    if result.status != 0:
        return np.zeros(len(instance.room))
    prices: Floats = np.maximum(0.0, -result.ineqlin.marginals) * score_unit / row_unit
    return prices
