"""The relaxation's bound is the optimum of the linear programme, as a solver of ours has no part in finds it."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.optimize import linprog

from mixbit.allocation._dual import Frame, frame_at, relaxation, weighted
from mixbit.allocation._problem import Floats, Instance, build
from mixbit.testing.solvers import instance


def prepared(seed: int, limits: int, *, tightness: float = 0.3) -> Instance:
    scores, costs, bounds = instance(seed, limits=limits, groups=9, tightness=tightness)
    return build(scores, costs, bounds, None).instance()[0]


def relaxed(problem: Instance) -> tuple[float, Floats]:
    """Optimum and prices of the primal: parts of options, one column each, all of them dense."""
    group, option = np.nonzero(problem.open)
    unit = float(problem.scores.max())
    found = linprog(
        problem.scores[group, option] / unit,
        A_ub=problem.costs[:, group, option],
        b_ub=problem.room,
        A_eq=(np.arange(len(problem.open))[:, None] == group).astype(float),
        b_eq=np.ones(len(problem.open)),
        bounds=(0, 1),
        method="highs-ds",
    )
    assert found.status == 0
    return float(found.fun) * unit, -np.asarray(found.ineqlin.marginals) * unit


@pytest.mark.parametrize("limits", [1, 2, 3])
def test_the_bound_is_the_linear_optimum(limits: int) -> None:
    for seed in range(8):
        problem = prepared(seed, limits)
        best, prices = relaxed(problem)
        frame = relaxation(problem, time.perf_counter() + 60)
        size = problem.scores.max() * len(problem.scores)
        # HiGHS stops at reduced costs of 1e-7 of what it sees.
        assert abs(frame.bound - best) <= 1e-6 * size
        assert (frame.price >= 0).all()
        if limits == 1:
            assert frame.price[0] <= prices[0] * (1 + 1e-6) + 1e-6 or frame.bound >= best - 1e-9 * size


def test_at_any_price_by_the_formula() -> None:
    """Sum over groups of min (score + p . cost) - p . room; an option's reduced cost is its distance from that min."""
    problem = prepared(3, 2)
    price = np.array([2.5e9, 0.7e9])
    frame = frame_at(problem, price)
    value = problem.scores + price[0] * problem.costs[0] + price[1] * problem.costs[1]
    least = [
        min(v for v, open_ in zip(row, some, strict=True) if open_)
        for row, some in zip(value, problem.open, strict=True)
    ]
    assert frame.bound == pytest.approx(sum(least) - price @ problem.room, rel=1e-12)
    for group, base in enumerate(frame.base):
        assert value[group, base] == least[group] and problem.open[group, base]
    assert np.isposinf(frame.reduced[~problem.open]).all()
    wanted = (value - np.array(least)[:, None])[problem.open]
    assert np.allclose(frame.reduced[problem.open], wanted, rtol=0, atol=1e-12 * value.max())


def test_the_integer_bound_is_safe_and_close() -> None:
    for bound, noise, whole in ((41.2, 1.0, 41), (41.0, 1.0, 40), (40.9, 0.5, 41), (-7.0, 1.0, 0)):
        frame = Frame(np.zeros(1), np.zeros(1, dtype=np.int64), np.zeros((1, 1)), bound, noise)
        assert frame.bound_int == whole


def test_the_noise_is_that_of_float64() -> None:
    """Beyond any rounding of the sum, and far below a grid step of the scores."""
    problem = prepared(3, 2)
    price = relaxation(problem, time.perf_counter() + 60).price
    assert price.max() > 0
    frame = frame_at(problem, price)
    terms = np.abs(frame.reduced[problem.open]).max() * len(problem.open) + float(price @ problem.room)
    assert 2.0**-52 * abs(frame.bound) < frame.noise <= 1.0 + 16 * terms * 2.0**-50


def test_a_limit_that_does_not_bind_has_no_price() -> None:
    problem = prepared(1, 1, tightness=1.0)
    assert relaxation(problem, time.perf_counter() + 60).price.tolist() == [0.0]


def test_the_price_of_one_limit_in_a_case_by_hand() -> None:
    """Two equal groups, 0 -> 1 -> 2 units for 9, 3, 0: half a room of 3 is won at 3 a unit."""
    problem = build([[9.0, 3.0, 0.0]] * 2, {"a": [[0, 1, 2]] * 2}, {"a": 3}, None).instance()[0]
    grid = problem.scores[0, 0] / 9
    frame = relaxation(problem, time.perf_counter() + 60)
    assert frame.price[0] == pytest.approx(3 * grid)
    assert frame.bound == pytest.approx(3 * grid)  # 2 * min(9, 3 + 3, 0 + 6) - 3 * 3


def test_weights_of_rows() -> None:
    random = np.random.default_rng(0)
    costs = random.integers(0, 10, (3, 4, 5))
    assert np.allclose(weighted(np.array([1.0, -2.0, 0.5]), costs), np.tensordot([1.0, -2.0, 0.5], costs, 1))
