"""`solve`: which solver does what, and the check of its answer in exact integers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from mixbit.allocation._dp import Answer, beam, exact_by_rows, nearby
from mixbit.allocation._infeasible import check_each_limit, joint_error, unproven_error
from mixbit.allocation._milp import milp_answer
from mixbit.allocation._presolve import drop_dominated, drop_idle_rows, drop_implied_rows, tighten
from mixbit.allocation._problem import Instance, Ints, Problem, build
from mixbit.allocation._relax import improve
from mixbit.allocation._search import Effort
from mixbit.errors import BudgetError, MixbitError, did_you_mean

__all__ = ["Allocation", "SolverName", "solve"]

SolverName = Literal["auto", "dp", "milp", "relax"]

# HiGHS proves most tables of this size within seconds, and few that are much larger.
_MILP_GROUPS = 400
# Entries of the exact list after which HiGHS is the better bet for so few groups, some seconds.
_WORK_BEFORE_MILP = 5_000_000
# The useful options span less than this part of the grid: they are worth a finer one.
_COARSE = 1 / 16
_MOST_GRIDS = 60


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """One option for every group, and what is known about it."""

    choice: tuple[int, ...]
    """Option number of each group."""
    objective: float
    """Sum of the chosen scores, in the caller's unit."""
    bound: float
    """No feasible choice has a smaller sum, to within 2^-40 of the widest useful score difference per group."""
    gap: float
    """`(objective - bound) / |objective|`; 0 where proven."""
    slack: dict[str, int]
    """Limit name -> limit minus use, exact; never negative."""
    used: dict[str, int]
    """Limit name -> use, exact."""
    solver: str
    """Who found it: "argmin" (no limit binds), "dp", "milp" or "relax"; with joint harms "local" or "branch-and-bound";
    "box" for bits rounded down."""
    proven: bool
    """Whether no feasible choice is better."""
    seconds: float
    """Wall time of the whole call."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    answer: Answer
    solver: str
    rows: tuple[int, ...] = ()
    """Where nothing is feasible: limits that already clash."""


def solve(
    scores: Sequence[npt.ArrayLike],
    costs: Mapping[str, Sequence[npt.ArrayLike]],
    limits: Mapping[str, int],
    *,
    names: Sequence[str] | None = None,
    solver: SolverName = "auto",
    time_limit_s: float = 60.0,
) -> Allocation:
    """Pick one option for every group: least total score, every limit met exactly (multiple-choice knapsack).

    `minimise sum_g scores[g][x_g]` subject to `sum_g costs[k][g][x_g] <= limits[k]` for every limit k.

    Args:
        scores: one row a group, any number of options: the harm of each, lower is better, any scale; inf forbids.
        costs: limit name -> rows of the same shapes, exact non-negative integers.
        limits: limit name -> largest allowed sum. Costs without a limit are ignored.
        names: one name a group, for error messages.
        solver: "dp" is exact for any number of limits and meant for few that bind; "milp" is HiGHS; "relax" is fast,
            with a proven gap. "auto" tries dp, and where its lists grow too long, milp (up to 400 groups) or relax.
        time_limit_s: after this many seconds the best choice so far is returned, with its gap.

    Returns:
        The choice, its objective and bound, use and slack of each limit. Only limits that bind cost time.

    Raises:
        BudgetError: malformed tables; the message names the group.
        InfeasibleBudget: nothing meets the limits; `nearest` has the smallest reachable value of each limit (alone, or
            under the other limits where only their combination fails), `blocking` the groups that use most of it.

    Two layers with 2, 4 and 8 bits, and 1000 bits of memory:

    >>> answer = solve(
    ...     scores=[[9.0, 3.0, 0.0], [4.0, 1.0, 0.0]],
    ...     costs={"weight-bits": [[200, 400, 800], [100, 200, 400]]},
    ...     limits={"weight-bits": 1000},
    ... )
    >>> answer.choice, answer.objective, answer.slack, answer.proven
    ((2, 1), 1.0, {'weight-bits': 0}, True)
    """
    started = time.perf_counter()
    if solver not in get_args(SolverName):
        raise BudgetError(
            f"solver: got {solver!r}. Legal are {get_args(SolverName)}.{did_you_mean(solver, get_args(SolverName))}"
        )
    if not time_limit_s > 0:
        raise BudgetError(f"time_limit_s: got {time_limit_s!r}. Give a positive number of seconds.")
    problem = build(scores, costs, limits, names)
    check_each_limit(problem)
    outcome, unit = _on_finest_grid(problem, solver, started + time_limit_s)
    if outcome.answer.choice is None:
        raise _no_choice(problem, outcome, time_limit_s)
    return _allocation(problem, outcome, unit, started)


def _no_choice(problem: Problem, outcome: _Outcome, time_limit_s: float) -> MixbitError:
    if not outcome.answer.complete:
        return unproven_error(problem, time_limit_s)
    return joint_error(problem, outcome.rows, Effort(deadline=time.perf_counter() + time_limit_s))


def _on_finest_grid(problem: Problem, solver: SolverName, deadline: float) -> tuple[_Outcome, float]:
    """Solve; if only small scores turn out to be of use, solve again on a grid made for them."""
    usable = np.isfinite(problem.scores)
    for _ in range(_MOST_GRIDS):
        instance, unit = problem.instance(usable)
        outcome = _solved(instance, solver, deadline)
        if outcome.answer.choice is None:
            break
        # A better choice holds no single score above the whole sum (with room for the rounding of every group).
        kept = usable & (instance.scores <= outcome.answer.score + len(usable))
        widest = instance.scores.max(initial=0)
        if instance.scores[kept].max(initial=0) >= widest * _COARSE:
            break
        usable = kept
    return outcome, unit


def _solved(instance: Instance, solver: SolverName, deadline: float) -> _Outcome:
    best = instance.cheapest_scores()
    if instance.feasible(best):
        score = instance.score(best)
        return _Outcome(Answer(best, score, score, True), "argmin")
    tight = tighten(instance)
    if tight is None:
        return _Outcome(Answer(None, 0, 0, True), "dp", instance.rows)
    tight = drop_implied_rows(drop_idle_rows(tight))
    if solver == "relax" or solver == "milp":
        outcome = _from_relaxation(tight, solver, deadline)
        if outcome.answer.choice is not None:
            return outcome
        # Neither is exact about having no choice at all.
    return _by_dp(tight, solver, deadline)


def _from_relaxation(instance: Instance, solver: str, deadline: float) -> _Outcome:
    instance = drop_dominated(instance)
    frame, choice = nearby(instance, deadline)
    known = Answer(choice, 0 if choice is None else instance.score(choice), frame.bound_int, False)
    if solver == "milp":
        return _Outcome(milp_answer(instance, frame, known, deadline), "milp")
    if choice is not None:
        known = beam(instance, frame, known, deadline)
    return _Outcome(known, "relax")


def _by_dp(instance: Instance, solver: SolverName, deadline: float) -> _Outcome:
    small = len(instance.open) <= _MILP_GROUPS
    effort = Effort(deadline=deadline)
    if solver == "auto" and small:
        half = (time.perf_counter() + deadline) / 2
        effort = Effort(work=_WORK_BEFORE_MILP, deadline=half)
    answer, rows = exact_by_rows(instance, effort)
    clash = tuple(instance.rows[row] for row in rows)
    if answer.complete or solver == "dp":
        return _Outcome(answer, "dp", clash)
    outcome = _from_relaxation(instance, "milp" if small else "relax", deadline)
    return _better(_Outcome(answer, "dp", clash), outcome)


def _better(one: _Outcome, other: _Outcome) -> _Outcome:
    """The better choice of two, with the better bound."""
    bound = max(one.answer.bound, other.answer.bound)
    found = [outcome for outcome in (one, other) if outcome.answer.choice is not None]
    if not found:
        return one
    best = min(found, key=lambda outcome: outcome.answer.score)
    score = best.answer.score
    return _Outcome(Answer(best.answer.choice, score, min(bound, score), bound >= score), best.solver)


def _allocation(problem: Problem, outcome: _Outcome, unit: float, started: float) -> Allocation:
    answer = outcome.answer
    if answer.choice is None:
        raise MixbitError("Internal error: an allocation without a choice. Please report it.")
    found = problem.objective(answer.choice)
    # Differences below the grid, in the caller's own numbers.
    choice = improve(problem.scores, problem.costs, _limit_array(problem), np.isfinite(problem.scores), answer.choice)
    objective = problem.objective(choice)
    used = problem.used(choice)
    slack = {name: limit - used[name] for name, limit in zip(problem.limit_names, problem.limits, strict=True)}
    if (
        any(left < 0 for left in slack.values())
        or not np.isfinite(problem.scores[np.arange(len(choice)), choice]).all()
    ):
        raise MixbitError(f"Internal error: solver {outcome.solver!r} broke a limit (slack {slack}). Please report it.")
    bound = objective if answer.complete else _bound(found, answer, unit, len(choice), objective)
    return Allocation(
        choice=tuple(int(option) for option in choice),
        objective=objective,
        bound=bound,
        gap=_gap(objective, bound),
        slack=slack,
        used=used,
        solver=outcome.solver,
        proven=answer.complete,
        seconds=time.perf_counter() - started,
    )


def _limit_array(problem: Problem) -> Ints:
    largest = 2**62
    return np.array([max(-largest, min(limit, largest)) for limit in problem.limits], dtype=np.int64)


def _bound(found: float, answer: Answer, unit: float, groups: int, objective: float) -> float:
    """The bound in the caller's unit, less the rounding of the grid."""
    return min(objective, found - (answer.score - answer.bound + groups) * unit)


def _gap(objective: float, bound: float) -> float:
    if objective <= bound:
        return 0.0
    return (objective - bound) / abs(objective) if objective else float("inf")
