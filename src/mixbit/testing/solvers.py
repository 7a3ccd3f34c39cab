"""What every allocation solver must do.

Inherit `SolverCases` in a test module, say how your solver is called, and pytest runs the cases on it:

    class TestMine(SolverCases):
        def solve(self, scores, costs, limits):
            return my_solver(scores, costs, limits)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mixbit.allocation import Allocation
from mixbit.errors import InfeasibleBudget

__all__ = ["SolverCases", "brute_force", "instance"]

Rows = Sequence[npt.NDArray[Any]]
Instance = tuple[list[npt.NDArray[np.float64]], dict[str, list[npt.NDArray[np.int64]]], dict[str, int]]

TOLERANCE = 1e-9
"""Relative; sums of the same scores in another order differ by less."""


def instance(seed: int, *, limits: int = 1, groups: int = 5, tightness: float | None = None) -> Instance:
    """A random problem that brute force can check: up to 6 options a group, now and then a forbidden one.

    Args:
        seed: of NumPy's default generator.
        limits: number of limits, named "limit 0" on.
        groups: number of groups.
        tightness: 0 puts every limit at the cheapest options' sum, 1 at the most expensive ones'; random where None.
    """
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 7, groups)
    scores = [np.sort(random.exponential(size=size))[::-1].copy() for size in sizes]
    for row in scores:
        row[1:][random.random(len(row) - 1) < 0.1] = np.inf
    costs, bounds = {}, {}
    for number in range(limits):
        rows = [random.integers(0, 100, size) for size in sizes]
        least, most = sum(int(row.min()) for row in rows), sum(int(row.max()) for row in rows)
        part = random.uniform(0.1, 0.6) if tightness is None else tightness
        costs[f"limit {number}"] = rows
        bounds[f"limit {number}"] = math.floor(least + part * (most - least))
    return scores, costs, bounds


def brute_force(scores: Rows, costs: Mapping[str, Rows], limits: Mapping[str, int]) -> float | None:
    """The smallest feasible sum of scores by trying every choice, or None where no choice is feasible.

    >>> brute_force([np.array([3.0, 1.0]), np.array([2.0, 0.0])], {"bits": [np.array([1, 2])] * 2}, {"bits": 3})
    3.0
    """
    best = math.inf
    for choice in itertools.product(*(range(len(row)) for row in scores)):
        total = math.fsum(float(row[option]) for row, option in zip(scores, choice, strict=True))
        if total < best and all(_use(costs[name], choice) <= limit for name, limit in limits.items()):
            best = total
    return best if math.isfinite(best) else None


def _use(rows: Rows, choice: Sequence[int]) -> int:
    return sum(int(row[option]) for row, option in zip(rows, choice, strict=True))


class SolverCases:
    """Cases that hold for every solver; set `exact` to False for one that gives a bound instead of a proof."""

    exact = True
    """Whether the solver proves every small problem."""

    def solve(
        self, scores: Rows, costs: Mapping[str, Rows], limits: Mapping[str, int]
    ) -> Allocation:  # pragma: no cover - the inheritor's
        """Call the solver under test."""
        raise NotImplementedError("Override `solve` with a call of your solver.")

    def check(self, problem: Instance) -> Allocation | None:
        """Solve a small problem and hold the answer against brute force; None where nothing is feasible."""
        scores, costs, limits = problem
        best = brute_force(scores, costs, limits)
        try:
            answer = self.solve(scores, costs, limits)
        except InfeasibleBudget:
            assert best is None, f"called infeasible, but {best} is reachable: {problem}"
            return None
        assert best is not None, f"nothing is feasible here: {problem}"
        self.check_figures(problem, answer)
        allowed = TOLERANCE * max(1.0, abs(best))
        assert answer.objective >= best - allowed, "the objective is below the optimum"
        assert answer.bound <= best + allowed, f"the bound {answer.bound} is above the optimum {best}: {problem}"
        if self.exact or answer.proven:
            assert answer.proven
            assert answer.objective <= best + allowed, f"proven {answer.objective}, but {best} is reachable: {problem}"
        return answer

    def check_figures(self, problem: Instance, answer: Allocation) -> None:
        """The answer is one option a group, and its sums are what it says, in exact integers."""
        scores, costs, limits = problem
        assert len(answer.choice) == len(scores)
        assert math.isclose(
            answer.objective, math.fsum(float(row[at]) for row, at in zip(scores, answer.choice, strict=True))
        )
        assert set(answer.used) == set(answer.slack) == set(limits)
        for name, limit in limits.items():
            assert answer.used[name] == _use(costs[name], answer.choice)
            assert answer.slack[name] == limit - answer.used[name] >= 0
        assert answer.bound <= answer.objective
        distance = answer.objective - answer.bound
        assert math.isclose(answer.gap * abs(answer.objective), distance, rel_tol=1e-9, abs_tol=1e-300)
        assert not answer.proven or answer.gap == 0

    def test_agrees_with_brute_force(self) -> None:
        """One to three limits, from tight to loose."""
        answers = [self.check(instance(seed, limits=1 + seed % 3)) for seed in range(60)]
        assert sum(answer is not None for answer in answers) > 30

    def test_a_larger_budget_never_raises_the_objective(self) -> None:
        """More room, at most as much harm (for an inexact solver: up to its own gap)."""
        scores, costs, limits = instance(3, groups=8)
        before = math.inf
        for step in range(0, 200, 10):
            room = {name: limit + step for name, limit in limits.items()}
            answer = self.solve(scores, costs, room)
            assert (answer.objective if self.exact else answer.bound) <= before * (1 + TOLERANCE)
            before = answer.objective

    def test_scale_of_the_scores_does_not_matter(self) -> None:
        """Scores of order 1e-7 and 1e6 are the same problem (peers' solvers fail here)."""
        for seed in range(10):
            scores, costs, limits = instance(seed, groups=8)
            choices = {self.solve([row * scale for row in scores], costs, limits).choice for scale in (1.0, 1e-6, 1e6)}
            assert len(choices) == 1

    def test_the_largest_budget_gives_the_best_options(self) -> None:
        """With room for everything each group takes its least harmful option."""
        scores, costs, limits = instance(5, tightness=1.0)
        answer = self.solve(scores, costs, limits)
        assert [row[option] for row, option in zip(scores, answer.choice, strict=True)] == [row.min() for row in scores]
        assert answer.proven

    def test_no_limit_at_all(self) -> None:
        """An empty budget is legal."""
        scores, costs, _ = instance(6)
        answer = self.solve(scores, costs, {})
        assert answer.slack == {}
        assert answer.proven

    def test_the_smallest_budget_is_feasible(self) -> None:
        """At the sum of the cheapest options there is a choice; one unit below there is none, and the error says so."""
        scores, costs, limits = instance(7, tightness=0.0)
        scores = [np.where(np.isfinite(row), row, 1.0) for row in scores]
        answer = self.solve(scores, costs, limits)
        assert list(answer.slack.values()) == [0]
        try:
            self.solve(scores, costs, {name: limit - 1 for name, limit in limits.items()})
        except InfeasibleBudget as error:
            assert error.nearest == limits
            assert error.blocking
        else:
            raise AssertionError("a budget below the cheapest options was not refused")

    def test_forbidden_options_are_never_chosen(self) -> None:
        """inf is a closed option, also when it is the cheapest."""
        scores = [np.array([np.inf, 2.0, 1.0]), np.array([3.0, np.inf])]
        costs = {"bits": [np.array([0, 5, 9]), np.array([4, 0])]}
        assert self.solve(scores, costs, {"bits": 9}).choice == (1, 0)

    def test_large_costs_are_exact(self) -> None:
        """Costs of 1e13 that differ by one unit: no float sum could tell them apart from the limit."""
        unit = 10**13
        scores = [np.array([1.0, 0.0])] * 100
        costs = {"bitops": [np.array([unit, unit + 1])] * 100}
        answer = self.solve(scores, costs, {"bitops": 100 * unit + 37})
        assert answer.used["bitops"] == 100 * unit + 37
        assert math.isclose(answer.objective, 63.0)

    def test_the_same_problem_gives_the_same_choice(self) -> None:
        """Ties between equal groups are broken the same way every time."""
        scores = [np.array([3.0, 1.0, 0.0])] * 12
        costs = {"bits": [np.array([1, 2, 4])] * 12}
        assert len({self.solve(scores, costs, {"bits": 30}).choice for _ in range(5)}) == 1
