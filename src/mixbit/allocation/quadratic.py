"""Choices whose harms are not a sum: CLADO's quadratic programme.

No relaxation of it is both cheap and tight, and CLADO's authors report that Gurobi and SCIP may not end where weights
and activations are both free. So: a local search over single and double changes from several starts, with a valid
bound; and on request a proof for small problems. Neither asks for a convex (positive semi-definite) form.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mixbit.allocation._dual import relaxation
from mixbit.allocation._pairs_exact import proven_optimum
from mixbit.allocation._pairs_search import Quadratic, search
from mixbit.allocation._problem import Floats, Ints, Problem, build
from mixbit.allocation.solver import Allocation, solve
from mixbit.errors import BudgetError, MixbitError

__all__ = ["solve_pairs"]

# Options of all groups; beyond, the table of double changes takes gigabytes.
_MOST_OPTIONS = 6000
# Largest difference of two mirrored entries, relative to the largest entry.
_ROUNDING = 1e-9


def solve_pairs(
    scores: Sequence[npt.ArrayLike],
    pairs: npt.ArrayLike,
    costs: Mapping[str, Sequence[npt.ArrayLike]],
    limits: Mapping[str, int],
    *,
    names: Sequence[str] | None = None,
    exact: bool = False,
    time_limit_s: float = 60.0,
    seed: int = 0,
) -> Allocation:
    """Pick one option for every group: least harm of the options and of all pairs of them, every limit met exactly.

    `minimise sum_g scores[g][x_g] + sum_{g < h} pairs[(g, x_g), (h, x_h)]` subject to
    `sum_g costs[k][g][x_g] <= limits[k]` for every limit k (CLADO, arXiv 2307.05657; its G has our scores doubled on
    the diagonal and counts each pair twice, so its objective is twice ours). The search is our completion: from the
    optimum without pairs, from random feasible choices and from kicks of the best choice, the best change of one group
    or of two within the limits is made until none helps. Where `pairs` is zero the answer is that of `solve`.

    Args:
        scores: one row a group: the harm of each option by itself; inf forbids.
        pairs: (N, N) symmetric, over all options of all groups in their order. Entries between options of one group,
            the diagonal among them, are ignored: never two of them are chosen.
        costs: limit name -> rows of the same shapes, exact non-negative integers.
        limits: limit name -> largest allowed sum.
        names: one name a group, for error messages.
        exact: prove the optimum by branch and bound, meant for few groups; the time limit ends it.
        time_limit_s: after this many seconds the best choice so far is returned, with its gap.
        seed: of the random starts; the same seed gives the same choice, unless the time ran out.

    Returns:
        The choice; `solver` is "local" or "branch-and-bound". The bound without a proof is weak: half of each pair's
        harm is counted for each of its options at its least, and the rest is a sum.

    Raises:
        BudgetError: malformed tables or a matrix of another shape, not finite or not symmetric.
        InfeasibleBudget: nothing meets the limits, as in `solve`.

    Two layers in which 2 bits do 1.0 of harm, 4 bits 2.0 and 2.5; both at 2 bits do 3.0 more:

    >>> joint = np.zeros((4, 4))
    >>> joint[0, 2] = joint[2, 0] = 3.0
    >>> answer = solve_pairs([[1.0, 2.0], [1.0, 2.5]], joint, {"bits": [[2, 4], [2, 4]]}, {"bits": 8}, exact=True)
    >>> answer.choice, answer.objective, answer.proven
    ((1, 0), 3.0, True)
    """
    started = time.perf_counter()
    problem = build(scores, costs, limits, names)
    sizes = [len(np.asarray(row)) for row in scores]
    form, option = _quadratic(problem, _checked(pairs, sum(sizes)), sizes)
    first = solve(scores, costs, limits, names=names, time_limit_s=time_limit_s)
    if not form.joint.any():
        return replace(first, seconds=time.perf_counter() - started)
    deadline = started + time_limit_s
    start = np.array([_column(form, option, group, chosen) for group, chosen in enumerate(first.choice)])
    best = search(form, start, seed, deadline)
    bound, solver, proven = _cheap_bound(form, problem, time_limit_s), "local", False
    if exact:
        best, low, proven = proven_optimum(form, best, _prices(form, problem, best, deadline), deadline)
        bound, solver = max(bound, low), "branch-and-bound"
    return _allocation(problem, form, option, best, (bound, solver, proven), started)


def _checked(pairs: npt.ArrayLike, count: int) -> Floats:
    """The matrix for `count` options, exactly symmetric."""
    if count > _MOST_OPTIONS:
        raise BudgetError(
            f"pairs: got {count} options in all, more than {_MOST_OPTIONS}. Offer fewer bits, or couple weights and "
            "activations."
        )
    try:
        matrix = np.array(pairs, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BudgetError(f"pairs: {error}. Give a square matrix of numbers.") from error
    if matrix.shape != (count, count):
        raise BudgetError(f"pairs: got shape {matrix.shape} for {count} options. Give shape ({count}, {count}).")
    if not np.isfinite(matrix).all():
        raise BudgetError(
            "pairs: some entries are not finite. Legal are finite numbers; forbid options by their score."
        )
    if np.abs(matrix - matrix.T).max(initial=0.0) > _ROUNDING * np.abs(matrix).max(initial=0.0):
        raise BudgetError("pairs: the matrix is not symmetric. Use the mean of it and its transpose.")
    symmetric: Floats = (matrix + matrix.T) / 2
    return symmetric


def _quadratic(problem: Problem, matrix: Floats, sizes: Sequence[int]) -> tuple[Quadratic, Ints]:
    """The columns of all options that are not forbidden, and which option of its group each is."""
    group, option = np.nonzero(np.isfinite(problem.scores))
    flat = np.cumsum([0, *sizes])[group] + option
    joint = matrix[np.ix_(flat, flat)]
    joint[group[:, None] == group[None, :]] = 0.0
    limits = np.array([min(limit, 2**62) for limit in problem.limits], dtype=np.int64)
    start = np.searchsorted(group, np.arange(len(sizes) + 1))
    return Quadratic(
        group, problem.scores[group, option], joint, problem.costs[:, group, option], limits, start
    ), option


def _column(form: Quadratic, option: Ints, group: int, chosen: int) -> int:
    begin, end = form.start[group : group + 2]
    return int(begin + np.searchsorted(option[begin:end], chosen))


def _with_scores(form: Quadratic, problem: Problem, harms: Floats) -> Problem:
    """The same groups under the same limits, with another harm of each column and no pairs."""
    scores = problem.scores.copy()
    scores[np.isfinite(scores)] = harms
    return replace(problem, scores=scores)


def _cheap_bound(form: Quadratic, problem: Problem, time_limit_s: float) -> float:
    """Half of the least joint harm with every other group is certain for each option; the rest is a sum."""
    table = _with_scores(form, problem, form.own + form.halves())
    limits = dict(zip(problem.limit_names, problem.limits, strict=True))
    costs: dict[str, Any] = dict(zip(problem.limit_names, problem.costs, strict=True))
    return solve(list(table.scores), costs, limits, solver="relax", time_limit_s=time_limit_s).bound


def _prices(form: Quadratic, problem: Problem, best: Ints, deadline: float) -> Floats:
    """Prices of the limits where the joint harms are those with the best known choice."""
    instance, unit = _with_scores(form, problem, form.own + form.joint[:, best].sum(axis=1)).instance()
    prices: Floats = relaxation(instance, deadline).price * unit
    return prices


def _allocation(
    problem: Problem, form: Quadratic, option: Ints, best: Ints, known: tuple[float, str, bool], started: float
) -> Allocation:
    bound, solver, proven = known
    choice = option[best]
    joint = form.joint[np.ix_(best, best)]
    objective = math.fsum([problem.objective(choice), *joint[np.triu_indices(len(best), 1)].tolist()])
    used = problem.used(choice)
    slack = {name: limit - used[name] for name, limit in zip(problem.limit_names, problem.limits, strict=True)}
    if any(left < 0 for left in slack.values()):
        raise MixbitError(f"Internal error: solver {solver!r} broke a limit (slack {slack}). Please report it.")
    bound = objective if proven else min(bound, objective)
    gap = 0.0 if objective <= bound else (objective - bound) / abs(objective) if objective else math.inf
    return Allocation(
        choice=tuple(choice.tolist()),
        objective=objective,
        bound=bound,
        gap=gap,
        slack=slack,
        used=used,
        solver=solver,
        proven=proven or objective <= bound,
        seconds=time.perf_counter() - started,
    )
