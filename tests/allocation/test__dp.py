"""The exact solver in its parts: what is enough, what is known when it gives up, rows taken in one by one."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from mixbit.allocation._dp import Answer, beam, exact, exact_by_rows, nearby
from mixbit.allocation._presolve import drop_dominated
from mixbit.allocation._problem import Instance, build
from mixbit.allocation._search import Effort
from mixbit.testing.solvers import instance


def prepared(seed: int, limits: int, groups: int = 6, tightness: float = 0.3) -> Instance:
    scores, costs, bounds = instance(seed, limits=limits, groups=groups, tightness=tightness)
    return build(scores, costs, bounds, None).instance()[0]


def best_of_all(problem: Instance) -> int | None:
    """By trying every choice."""
    every = itertools.product(*(np.flatnonzero(row).tolist() for row in problem.open))
    scores = [problem.score(np.array(c)) for c in every if problem.feasible(np.array(c))]
    return min(scores, default=None)


@pytest.mark.parametrize("limits", [1, 2, 3])
def test_the_optimum_is_that_of_all_choices(limits: int) -> None:
    for seed in range(6):
        problem = prepared(seed, limits)
        best, answer = best_of_all(problem), exact(problem, Effort())
        assert answer.complete and (answer.choice is None) == (best is None)
        if best is not None:
            assert answer.score == answer.bound == best == problem.score(answer.choice)  # type: ignore[arg-type]


def test_enough_is_any_choice_within_it_or_the_proof_that_there_is_none() -> None:
    for seed in range(6):
        problem = prepared(seed, 2)
        best = best_of_all(problem)
        if best is None:
            continue
        found = exact(problem, Effort(), enough=2 * best)
        assert found.choice is not None and problem.feasible(found.choice)
        assert problem.score(found.choice) == found.score <= 2 * best
        below = exact(problem, Effort(), enough=best - 1)
        assert below.bound == best and (below.choice is None or below.score >= best)


def test_what_is_enough_is_not_called_best() -> None:
    above = 0
    for seed in range(8):
        problem = prepared(seed, 2, groups=12, tightness=0.2)
        best, found = exact(problem, Effort()), exact(problem, Effort(), enough=2**60)
        if found.choice is not None and found.score > best.score:
            assert not found.complete and found.bound <= best.score
            above += 1
    assert above, "no problem whose first choice is not the best"


def test_what_is_known_when_the_effort_ends() -> None:
    """A choice, and a bound below the optimum; never called proven."""
    problem = prepared(0, 2, groups=25, tightness=0.25)
    best = exact(problem, Effort())
    assert best.complete
    for effort in (Effort(entries=3), Effort(work=10), Effort(deadline=time.perf_counter() + 0.05, entries=3)):
        found = exact(problem, effort)
        assert not found.complete and found.bound < found.score
        assert found.choice is not None and problem.feasible(found.choice)
        assert 0 < found.bound <= best.score <= found.score == problem.score(found.choice)


def test_rows_are_taken_in_only_where_they_bind() -> None:
    """The second row never binds, the third is broken by the optimum of the first."""
    scores = [[9.0, 3.0, 0.0]] * 3
    rows = {"a": [[0, 1, 2]] * 3, "b": [[0, 0, 1]] * 3, "c": [[0, 3, 3], [0, 0, 0], [0, 0, 0]]}
    problem = build(scores, rows, {"a": 3, "b": 3, "c": 2}, None).instance()[0]
    answer, taken = exact_by_rows(problem, Effort())
    assert sorted(taken) == [0, 2] and answer.score == best_of_all(problem)
    assert exact_by_rows(build(scores, rows, {"a": 6}, None).instance()[0], Effort())[1] == []


def test_the_row_that_is_broken_by_the_largest_part_comes_first() -> None:
    """10 of 1000 too much, and 3 of 4: the second row alone is then enough."""
    problem = build([[1.0, 0.0]], {"a": [[0, 1010]], "b": [[0, 7]]}, {"a": 1000, "b": 4}, None).instance()[0]
    answer, taken = exact_by_rows(problem, Effort())
    assert taken == [1] and answer.choice is not None and answer.choice.tolist() == [0]


def test_rows_that_clash_come_with_the_answer() -> None:
    rows = {"idle": [[0, 1]] * 2, "a": [[1, 5]] * 2, "b": [[5, 1]] * 2}
    problem = build([[1.0, 0.0]] * 2, rows, {"idle": 9, "a": 5, "b": 5}, None).instance()[0]
    answer, taken = exact_by_rows(problem, Effort())
    assert answer.complete and answer.choice is None and set(taken) == {1, 2}


def test_the_relaxed_choice_is_feasible_and_between_bound_and_twice_it() -> None:
    for seed in range(6):
        problem = drop_dominated(prepared(seed, 1, groups=40))
        frame, choice = nearby(problem, time.perf_counter() + 60)
        assert choice is not None and problem.feasible(choice)
        # One group at most is not whole in the relaxation of one limit; its widest difference bounds the gap.
        assert frame.bound_int <= problem.score(choice) <= frame.bound + problem.scores.max() + 1


def test_a_beam_betters_a_poor_choice_and_keeps_a_better_one() -> None:
    problem = drop_dominated(prepared(2, 2, groups=30))
    frame, choice = nearby(problem, time.perf_counter() + 60)
    best = exact(problem, Effort())
    assert choice is not None and best.choice is not None
    poor = np.where(problem.open, problem.costs.sum(axis=0), np.iinfo(np.int64).max).argmin(axis=1)
    assert problem.feasible(poor)
    known = Answer(poor, problem.score(poor), frame.bound_int, False)
    found = beam(problem, frame, known, time.perf_counter() + 60)
    assert found.choice is not None and problem.feasible(found.choice)
    assert best.score <= found.score == problem.score(found.choice) < known.score
    assert found.score <= best.score + (known.score - best.score) // 10
    optimum = Answer(best.choice, best.score, frame.bound_int, False)
    kept = beam(problem, frame, optimum, time.perf_counter() + 60)
    assert kept.score == best.score and kept.choice is not None and kept.choice.tolist() == best.choice.tolist()
