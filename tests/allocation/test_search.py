"""The list search on its own: targets, giving up, beams, and prices from anywhere."""

from __future__ import annotations

import time

import numpy as np
import pytest

from mixbit.allocation._dp import exact
from mixbit.allocation._dual import frame_at, relaxation
from mixbit.allocation._problem import Instance, build
from mixbit.allocation._search import Effort, search
from mixbit.testing.solvers import instance


def prepared(seed: int, limits: int, groups: int = 12, tightness: float = 0.4) -> Instance:
    scores, costs, bounds = instance(seed, limits=limits, groups=groups, tightness=tightness)
    return build(scores, costs, bounds, None).instance()[0]


CASES = [(seed, limits) for seed in range(4) for limits in (1, 2, 3, 4)]


@pytest.mark.parametrize(("seed", "limits"), CASES)
def test_a_target_at_the_optimum_finds_it_and_one_below_proves_it(seed: int, limits: int) -> None:
    problem = prepared(seed, limits)
    best = exact(problem, Effort())
    assert best.complete
    frame = relaxation(problem, time.perf_counter() + 60)
    assert best.choice is not None
    at = search(problem, frame, best.score, Effort())
    assert (at.score, at.complete) == (best.score, True)
    below = search(problem, frame, best.score - 1, Effort())
    assert below.choice is None
    assert below.complete
    generous = search(problem, frame, 4 * best.score, Effort())
    assert (generous.score, generous.complete) == (best.score, True)


@pytest.mark.parametrize("limits", [1, 2, 3])
def test_any_prices_give_the_same_optimum(limits: int) -> None:
    """The prices steer the search and must not decide its answer, not even all zeros."""
    problem = prepared(1, limits, groups=7)
    best = exact(problem, Effort())
    good = relaxation(problem, time.perf_counter() + 60).price
    for price in (good, np.zeros(limits), good * 3, good * np.linspace(0.1, 2, limits)):
        found = search(problem, frame_at(problem, price), 2 * best.score, Effort())
        assert (found.score, found.complete) == (best.score, True)


def test_the_bound_of_the_relaxation_is_below_the_optimum_at_any_price() -> None:
    for seed in range(6):
        problem = prepared(seed, 1)
        best = exact(problem, Effort())
        prices = relaxation(problem, 0.0).price
        bounds = [frame_at(problem, prices * factor).bound_int for factor in (0.0, 0.5, 1.0, 2.0)]
        assert max(bounds) == bounds[2] <= best.score


def test_giving_up_is_said() -> None:
    problem = prepared(0, 2, groups=25, tightness=0.25)
    best = exact(problem, Effort())
    frame = relaxation(problem, time.perf_counter() + 60)
    for effort in (Effort(entries=3), Effort(work=10), Effort(deadline=0.0), Effort(entries=3, beam=True)):
        found = search(problem, frame, 3 * best.score, effort)
        assert not found.complete
        assert found.choice is None or best.score <= found.score == problem.score(found.choice)


def test_a_beam_finds_feasible_choices() -> None:
    problem = prepared(2, 2, groups=60)
    frame = relaxation(problem, time.perf_counter() + 60)
    found = search(problem, frame, 2 * frame.bound_int, Effort(entries=100, beam=True))
    assert found.choice is not None
    assert problem.feasible(found.choice)
    best = exact(problem, Effort())
    assert best.complete
    assert best.score <= found.score <= 1.05 * best.score


def test_the_first_choice_is_within_the_target_and_not_called_optimal() -> None:
    problem = prepared(0, 2)
    frame = relaxation(problem, time.perf_counter() + 60)
    target = 3 * exact(problem, Effort()).score
    found = search(problem, frame, target, Effort(), first=True)
    assert found.choice is not None
    assert found.score <= target
    assert not found.complete
