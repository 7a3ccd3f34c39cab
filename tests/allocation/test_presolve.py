"""What is left out of an instance never changes its optimum."""

from __future__ import annotations

import numpy as np
import pytest

from mixbit.allocation._dp import exact, exact_by_rows
from mixbit.allocation._presolve import drop_dominated, drop_idle_rows, drop_implied_rows, tighten
from mixbit.allocation._problem import Instance, build
from mixbit.allocation._search import Effort
from mixbit.testing.solvers import instance


def from_tables(scores: list[list[float]], costs: dict[str, list[list[int]]], limits: dict[str, int]) -> Instance:
    return build(scores, costs, limits, None).instance()[0]


def test_tighten_closes_options_in_turn() -> None:
    """In a, option 1 of the first group does not fit; that leaves b only its dear option, which fills b."""
    problem = from_tables([[2.0, 1.0], [2.0, 1.0]], {"a": [[0, 9], [0, 1]], "b": [[5, 0], [0, 3]]}, {"a": 8, "b": 6})
    tight = tighten(problem)
    assert tight is not None
    assert tight.open.tolist() == [[True, False], [True, False]]
    assert tight.room.tolist() == [8, 1]


def test_tighten_finds_groups_without_an_option() -> None:
    problem = from_tables([[2.0, 1.0]], {"a": [[0, 9]], "b": [[9, 0]]}, {"a": 5, "b": 5})
    assert tighten(problem) is None


def test_tighten_knows_a_limit_that_nothing_at_all_exceeds() -> None:
    problem = from_tables([], {"a": []}, {"a": -1})
    assert tighten(problem) is None


def test_rows_that_cannot_bind_or_follow_from_others_go() -> None:
    rows = [[1, 2, 4], [1, 2, 4]]
    half = [[1, 2, 3], [1, 2, 3]]
    problem = from_tables(
        [[3.0, 2.0, 0.0]] * 2,
        {"idle": rows, "tight": rows, "half": half, "same": rows},
        {"idle": 8, "tight": 5, "half": 5, "same": 5},
    )
    assert drop_idle_rows(problem).rows == (1, 2, 3)  # what the most expensive options just fill is idle
    kept = drop_implied_rows(drop_idle_rows(problem))
    # Of equal rows one stays.
    assert kept.rows == (3,)


def test_dominated_options_go_and_one_of_equal_ones_stays() -> None:
    problem = from_tables(
        [[3.0, 2.0, 2.0, 1.0, 1.0]], {"a": [[1, 2, 2, 3, 3]], "b": [[5, 5, 5, 9, 4]]}, {"a": 2, "b": 100}
    )
    assert drop_dominated(problem).open.tolist() == [[True, True, False, False, True]]


@pytest.mark.parametrize("seed", range(8))
def test_the_optimum_stays(seed: int) -> None:
    scores, costs, limits = instance(seed, limits=1 + seed % 3, groups=9, tightness=0.3)
    problem = build(scores, costs, limits, None).instance()[0]
    best = exact(problem, Effort())
    by_rows, rows = exact_by_rows(problem, Effort())
    assert (best.choice is None) == (by_rows.choice is None)
    assert set(rows) <= set(range(len(limits)))
    if best.choice is not None:
        assert problem.score(best.choice) == best.score == by_rows.score
        small = drop_dominated(drop_implied_rows(drop_idle_rows(problem)))
        assert exact(small, Effort()).score == best.score
        assert np.take_along_axis(problem.open, best.choice[:, None], axis=1).all()
