"""Joint harms: brute force on small problems, the proven optimum at 19 x 3, bounds, and bad input."""

from __future__ import annotations

import time
from itertools import combinations, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbit.allocation import solve
from mixbit.allocation._pairs_search import Quadratic, _Descent
from mixbit.allocation.quadratic import solve_pairs
from mixbit.errors import BudgetError, InfeasibleBudget
from mixbit.testing.solvers import instance

Matrix = npt.NDArray[np.float64]
Problem = tuple[list[Any], Matrix, dict[str, list[Any]], dict[str, int]]


def sensitivities(layers: int, seed: int, bits: tuple[int, ...] = (8, 4, 2)) -> Problem:
    """A random positive semi-definite form whose diagonal grows with fewer bits; weight bytes at 40 % of the way."""
    random = np.random.default_rng(seed)
    size = np.tile(np.geomspace(0.1, 1.5, len(bits)), layers) * np.repeat(random.lognormal(0, 0.7, layers), len(bits))
    directions = random.normal(size=(len(size), len(size))) * size[:, None]
    form = directions @ directions.T / len(size)
    weights = random.integers(1_000, 50_000, layers)
    costs = [weight * np.array(bits) for weight in weights]
    limit = int(weights.sum() * (min(bits) + 0.4 * (max(bits) - min(bits))))
    return np.split(form.diagonal(), layers), 2 * form, {"weight bits": costs}, {"weight bits": limit}


def with_pairs(seed: int, groups: int, limits: int) -> Problem:
    """The solvers' random problems, forbidden options among them, with a matrix that is not convex."""
    scores, costs, bounds = instance(seed, limits=limits, groups=groups)
    count = sum(map(len, scores))
    matrix = np.random.default_rng(seed).normal(size=(count, count))
    return scores, matrix + matrix.T, costs, bounds


def value(problem: Problem, choice: tuple[int, ...]) -> float:
    scores, matrix, _, _ = problem
    columns = np.cumsum([0, *map(len, scores)])[:-1] + np.array(choice)
    alone = sum(float(row[option]) for row, option in zip(scores, choice, strict=True))
    return alone + sum(float(matrix[i, j]) for i, j in combinations(columns.tolist(), 2))


def brute_force(problem: Problem) -> float:
    scores, _, costs, limits = problem
    return min(
        (
            value(problem, choice)
            for choice in product(*(range(len(row)) for row in scores))
            if all(
                sum(int(row[o]) for row, o in zip(costs[name], choice, strict=True)) <= limit
                for name, limit in limits.items()
            )
        ),
        default=np.inf,
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), groups=st.integers(1, 5), limits=st.integers(1, 3))
def test_equals_brute_force(seed: int, groups: int, limits: int) -> None:
    problem = with_pairs(seed, groups, limits)
    expected = brute_force(problem)
    if not np.isfinite(expected):
        with pytest.raises(InfeasibleBudget):
            solve_pairs(*problem)
        return
    proven, local = solve_pairs(*problem, exact=True), solve_pairs(*problem)
    assert proven.proven
    assert proven.objective == pytest.approx(expected, abs=1e-9)
    for found in (proven, local):
        assert found.objective >= expected - 1e-9
        assert found.objective == pytest.approx(value(problem, found.choice), abs=1e-9)
        assert found.bound <= found.objective
        assert min(found.slack.values()) >= 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), exact=st.booleans())
def test_without_joint_harm_it_is_the_additive_answer(seed: int, exact: bool) -> None:
    scores, costs, limits = instance(seed, limits=2, groups=6)
    count = sum(map(len, scores))
    matrix = np.zeros((count, count))
    for start, row in zip(np.cumsum([0, *map(len, scores)]), scores, strict=False):
        matrix[start : start + len(row), start : start + len(row)] = 7.0  # between options of one group: never counts
    try:
        expected = solve(scores, costs, limits)
    except InfeasibleBudget as error:
        with pytest.raises(InfeasibleBudget) as caught:
            solve_pairs(scores, matrix, costs, limits, exact=exact)
        assert caught.value.nearest == error.nearest
        return
    found = solve_pairs(scores, matrix, costs, limits, exact=exact)
    for key in ("choice", "objective", "bound", "gap", "slack", "used", "solver", "proven"):
        assert getattr(found, key) == getattr(expected, key)


@pytest.mark.parametrize("seed", range(3))
def test_local_search_meets_the_proven_optimum_of_19_layers_with_3_options(seed: int) -> None:
    problem = sensitivities(19, seed)
    proven = solve_pairs(*problem, exact=True)
    assert proven.solver == "branch-and-bound"
    assert proven.proven
    assert proven.gap == 0
    local = solve_pairs(*problem)
    assert (local.solver, local.choice) == ("local", proven.choice)
    assert local.bound <= proven.objective <= local.objective
    additive = solve(problem[0], *problem[2:])
    assert proven.objective < value(problem, additive.choice)


def test_the_search_is_deterministic_and_any_order_of_options_is_the_same_problem() -> None:
    problem = sensitivities(36, 0)
    one, two = solve_pairs(*problem), solve_pairs(*problem)
    assert one.choice == two.choice
    turned = np.arange(108).reshape(36, 3)[:, ::-1].ravel()
    scores, matrix, costs, limits = problem
    flipped = solve_pairs(
        [row[::-1] for row in scores],
        matrix[np.ix_(turned, turned)],
        {name: [row[::-1] for row in table] for name, table in costs.items()},
        limits,
    )
    assert flipped.objective == pytest.approx(one.objective, rel=0.01)


def test_time_that_runs_out_leaves_a_choice_and_an_honest_gap() -> None:
    problem = sensitivities(60, 1)
    started = time.perf_counter()
    found = solve_pairs(*problem, exact=True, time_limit_s=1.0)
    assert time.perf_counter() - started < 20
    assert not found.proven
    assert found.gap > 0
    assert found.bound < found.objective
    assert min(found.slack.values()) >= 0


def test_what_counts_as_a_gain_is_a_part_of_the_size_of_all_harms_whatever_their_signs() -> None:
    """A sum in which signs cancel would take rounding for a gain, and the descent might never end."""
    own, joint = np.array([-4.0, 1.0, 2.0]), np.array([[0.0, 0.0, -3.0], [0.0, 0.0, 5.0], [-3.0, 5.0, 0.0]])
    costs, limits = np.zeros((1, 3), dtype=np.int64), np.array([1])
    group, start = np.array([0, 0, 1]), np.array([0, 2, 3])
    problem = Quadratic(group=group, own=own, joint=joint, costs=costs, limits=limits, start=start)
    assert _Descent(problem, 0.0).least_gain == pytest.approx(1e-12 * (7 + 16), rel=1e-12)


def test_harmful_pairs_are_kept_apart() -> None:
    """Each of two layers would take 2 bits by itself; together that is worst."""
    matrix = np.zeros((4, 4))
    matrix[1, 3] = matrix[3, 1] = 10.0
    found = solve_pairs([[1.0, 0.5], [1.0, 0.6]], matrix, {"bits": [[4, 2], [4, 2]]}, {"bits": 6}, exact=True)
    assert found.choice == (1, 0)
    assert found.objective == 1.5


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((3, 3)), r"got shape \(3, 3\) for 4 options"),
        (np.triu(np.ones((4, 4))), "not symmetric"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.full((4, 4), np.inf), "not finite"),
        ([["a"] * 4] * 4, "Give a square matrix"),
    ],
)
def test_matrices_that_are_none(matrix: Any, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        solve_pairs([[1.0, 0.5], [1.0, 0.6]], matrix, {"bits": [[4, 2], [4, 2]]}, {"bits": 6})


def test_too_many_options() -> None:
    count = 3001
    with pytest.raises(BudgetError, match="more than 6000"):
        solve_pairs([[0.0, 1.0]] * count, [], {"bits": [[2, 4]] * count}, {"bits": 2 * count})


def test_nothing_to_choose() -> None:
    found = solve_pairs([], np.zeros((0, 0)), {}, {}, exact=True)
    assert (found.choice, found.objective, found.proven) == ((), 0.0, True)
