"""The contract catches solvers that are wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mixbit.allocation import Allocation, solve
from mixbit.errors import InfeasibleBudget
from mixbit.testing.solvers import SolverCases, brute_force, instance


class Greedy(SolverCases):
    """Feasible, and often not optimal, but calls itself proven."""

    def solve(self, scores, costs, limits) -> Allocation:  # type: ignore[no-untyped-def]
        cheapest = [
            np.where(np.isfinite(row), np.sum([costs[name][group] for name in limits], axis=0), 10**9)
            for group, row in enumerate(scores)
        ]
        if not limits:
            return solve(scores, costs, limits)
        good = solve(cheapest, costs, limits)
        objective = float(sum(row[option] for row, option in zip(scores, good.choice, strict=True)))
        return replace(good, objective=objective, bound=objective, gap=0.0)


class Careless(SolverCases):
    """Breaks limits by one unit, as a solver with a tolerance may."""

    def solve(self, scores, costs, limits) -> Allocation:  # type: ignore[no-untyped-def]
        loose = solve(scores, costs, {name: limit + 1 for name, limit in limits.items()})
        return replace(loose, slack={name: left - 1 for name, left in loose.slack.items()})


class Timid(SolverCases):
    """Calls hard problems infeasible."""

    def solve(self, scores, costs, limits) -> Allocation:  # type: ignore[no-untyped-def]
        if len(limits) > 1:
            raise InfeasibleBudget("too hard", nearest={}, blocking=[])
        return solve(scores, costs, limits)


@pytest.mark.parametrize("wrong", [Greedy, Careless, Timid])
def test_a_wrong_solver_fails(wrong: type[SolverCases]) -> None:
    with pytest.raises(AssertionError):
        wrong().test_agrees_with_brute_force()


def test_a_careless_solver_fails_at_the_smallest_budget() -> None:
    with pytest.raises(AssertionError, match="not refused|assert"):
        Careless().test_the_smallest_budget_is_feasible()


def test_brute_force_knows_infeasible_from_forbidden() -> None:
    scores, costs, limits = instance(1)
    assert brute_force(scores, costs, limits) is not None
    assert brute_force(scores, costs, dict.fromkeys(limits, -1)) is None
    assert brute_force([np.array([np.inf])], {}, {}) is None


def test_instances_are_reproducible() -> None:
    one, two = instance(4, limits=2), instance(4, limits=2)
    assert one[2] == two[2]
    assert all((a == b).all() for a, b in zip(one[0], two[0], strict=True))
