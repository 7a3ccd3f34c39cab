"""Repair reaches the limits at the least price, and improvement ends where no single change helps."""

from __future__ import annotations

import time

import numpy as np
import pytest

from mixbit.allocation._dual import frame_at, relaxation
from mixbit.allocation._problem import Instance, Ints, build
from mixbit.allocation._relax import improve, repair
from mixbit.testing.solvers import instance


def prepared(seed: int, limits: int) -> Instance:
    scores, costs, bounds = instance(seed, limits=limits, groups=10, tightness=0.3)
    return build(scores, costs, bounds, None).instance()[0]


def single_changes(problem: Instance, choice: Ints) -> list[int]:
    """Scores of all feasible choices that differ in one group."""
    found = []
    for group in range(len(choice)):
        for option in np.flatnonzero(problem.open[group]):
            other = choice.copy()
            other[group] = option
            if (problem.costs[:, np.arange(len(other)), other].sum(axis=1) <= problem.room).all():
                found.append(int(problem.scores[np.arange(len(other)), other].sum()))
    return found


@pytest.mark.parametrize("limits", [1, 2, 3])
def test_improvement_ends_where_no_single_change_helps(limits: int) -> None:
    begun = 0
    for seed in range(12):
        problem = prepared(seed, limits)
        start = repair(problem, relaxation(problem, time.perf_counter() + 60))
        if start is None:
            continue
        begun += 1
        found = improve(problem.scores, problem.costs, problem.room, problem.open, start)
        assert problem.feasible(found) and problem.open[np.arange(10), found].all()
        assert problem.score(found) <= problem.score(start)
        assert min(single_changes(problem, found)) == problem.score(found)
    assert begun >= 6


def test_the_best_gain_comes_first_and_only_what_fits() -> None:
    """Room for one change: 5 is won in the second group and not 4 in the first; 9 in the third does not fit."""
    scores = np.array([[4, 0], [5, 0], [9, 0]])
    costs = np.array([[[0, 2], [0, 2], [0, 4]]])
    open_ = np.ones((3, 2), dtype=np.bool_)
    start = np.zeros(3, dtype=np.int64)
    assert improve(scores, costs, np.array([3]), open_, start).tolist() == [0, 1, 0]
    assert improve(scores, costs, np.array([4]), open_, start).tolist() == [0, 0, 1]
    assert improve(scores, costs, np.array([8]), open_, start).tolist() == [1, 1, 1]
    open_[1, 1] = False
    assert improve(scores, costs, np.array([3]), open_, start).tolist() == [1, 0, 0]
    assert start.tolist() == [0, 0, 0]  # the caller's array is as it was


def test_equal_scores_are_no_gain() -> None:
    scores, costs = np.array([[1, 1]]), np.array([[[0, 0]]])
    assert improve(scores, costs, np.array([5]), np.ones((1, 2), dtype=np.bool_), np.array([1])).tolist() == [1]


def test_repair_takes_the_cheapest_relief_first() -> None:
    """At no price all groups take what scores best; 2 units must go. They are cheapest in the middle group."""
    problem = build([[6.0, 0.0], [4.0, 0.0], [5.0, 0.0]], {"a": [[0, 2], [0, 2], [0, 2]]}, {"a": 4}, None).instance()[0]
    found = repair(problem, frame_at(problem, np.zeros(1)))
    assert found is not None and found.tolist() == [1, 0, 1]


def test_repair_is_within_every_limit_or_gives_nothing() -> None:
    for limits in (1, 2, 3):
        for seed in range(12):
            problem = prepared(seed, limits)
            found = repair(problem, frame_at(problem, np.zeros(limits)))
            assert found is None or (problem.feasible(found) and problem.open[np.arange(10), found].all())
            assert found is not None or limits > 1  # one limit can always be met by going down


def test_repair_of_what_no_choice_keeps() -> None:
    problem = build([[1.0, 0.0]] * 2, {"a": [[1, 5]] * 2, "b": [[5, 1]] * 2}, {"a": 5, "b": 5}, None).instance()[0]
    assert repair(problem, frame_at(problem, np.zeros(2))) is None


def test_of_moves_that_relieve_as_much_the_cheapest_is_made() -> None:
    problem = build([[100.0, 1.0, 0.0]], {"a": [[0, 6, 10]]}, {"a": 6}, None).instance()[0]
    found = repair(problem, frame_at(problem, np.zeros(1)))
    assert found is not None and found.tolist() == [1]


def test_rows_count_in_parts_of_their_room() -> None:
    """Of a 50 too much is a twentieth of the room, of b 3 too much is half: what relieves b at the same price goes
    first, and a is relieved by the second group."""
    scores = [[0.0, 1.0, 1.0, 1e6], [0.0, 5.0, 9.0]]
    costs = {"a": [[1050, 1000, 1050, 100], [50, 0, 50]], "b": [[9, 9, 6, 3], [3, 3, 0]]}
    problem = build(scores, costs, {"a": 1050, "b": 9}, None).instance()[0]
    assert problem.room.tolist() == [950, 6]
    found = repair(problem, frame_at(problem, np.zeros(2)))
    assert found is not None and found.tolist() == [2, 1]
